//! The keys of an issuer (RFC 7517), each made ready for the algorithms that it is good for and no others.

use aws_lc_rs::signature;
use aws_lc_rs::signature::ParsedPublicKey;
use aws_lc_rs::signature::RsaParameters;
use aws_lc_rs::signature::RsaPublicKeyComponents;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::model::issuer::Algorithm;
use crate::model::key::Digest;
use crate::model::key_text::digest_of;
use crate::token::json::Value;

/// The keys of one issuer, as they were fetched last.
#[derive(Debug, Default)]
pub struct KeySet {
    /// Counts sets of this issuer, from 1; 0 is that there never was one.
    version: u64,
    /// Of the text that it was read from.
    digest: Option<Digest>,
    keys: Vec<Key>,
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    /// A key is of one kind, so that a token cannot choose what it is taken for (RFC 8725 section 2.1).
    ready: Vec<(Algorithm, ParsedPublicKey)>,
}

/// Bytes of a set that are read.
pub const BYTES_MAX: usize = 256 * 1024;

/// Keys of a set that are looked at.
const KEYS_MAX: usize = 100;

impl KeySet {
    /// Reads a JWKS and makes its keys ready for these algorithms. Keys that are for something else, or of a kind that is not known, are left
    /// out, as RFC 7517 section 5 asks.
    ///
    /// # Errors
    /// It is no JWKS, or no key of it is good for anything; for people.
    pub fn read(text: &[u8], algorithms: &[Algorithm], version: u64) -> Result<KeySet, String> {
        let value = Value::read(text).ok_or("it is no JSON in which each name stands once")?;
        let Some(Value::List(listed)) = value.get("keys") else {
            return Err("it is no JWKS: there is no list \"keys\"".to_owned());
        };
        if listed.len() > KEYS_MAX {
            return Err(format!("it holds more than {KEYS_MAX} keys"));
        }
        let keys: Vec<Key> = listed
            .iter()
            .filter_map(|key| Key::read(key, algorithms))
            .collect();
        match keys.is_empty() {
            true => Err("it holds no key that is good for the algorithms of the issuer".to_owned()),
            false => Ok(KeySet {
                version,
                digest: Some(digest_of(text)),
                keys,
            }),
        }
    }

    /// Whether it was read from this very text.
    pub(super) fn is_of(&self, text: &[u8]) -> bool {
        self.digest == Some(digest_of(text))
    }

    /// Which set it is.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many keys are ready.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key with this id, or, for a token that names none, the only one that is good for the algorithm.
    ///
    /// # Errors
    /// `unknown_kid`: it may be one that is not here yet. `kid_missing`, `key_of_another_kind`: it is none of these.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<&Key, &'static str> {
        let fit = |key: &&Key| key.ready.iter().any(|(own, _)| *own == algorithm);
        let Some(id) = id else {
            let mut fitting = self.keys.iter().filter(fit);
            return match (fitting.next(), fitting.next()) {
                (Some(key), None) => Ok(key),
                (Some(_), Some(_)) => Err("kid_missing"),
                (None, _) => Err("unknown_kid"),
            };
        };
        let named = || self.keys.iter().filter(|key| key.id.as_deref() == Some(id));
        match (named().find(fit), named().next()) {
            (Some(key), _) => Ok(key),
            (None, Some(_)) => Err("key_of_another_kind"),
            (None, None) => Err("unknown_kid"),
        }
    }
}

impl Key {
    fn read(jwk: &Value, algorithms: &[Algorithm]) -> Option<Key> {
        let text = |name: &str| jwk.get(name).and_then(Value::text);
        if text("use").is_some_and(|use_| use_ != "sig") {
            return None;
        }
        if let Some(operations) = jwk.get("key_ops") {
            operations.texts()?.contains(&"verify").then_some(())?;
        }
        // What a key says of itself narrows what it is taken for.
        let own = match jwk.get("alg") {
            None => None,
            Some(own) => Some(Algorithm::parse(own.text()?)?),
        };
        let wanted = algorithms.iter().copied();
        let wanted = wanted.filter(|one| own.is_none_or(|own| own == *one));
        let ready: Vec<(Algorithm, ParsedPublicKey)> = wanted
            .filter_map(|one| Some((one, public_key(jwk, one)?)))
            .collect();
        (!ready.is_empty()).then(|| Key {
            id: text("kid").map(str::to_owned),
            ready,
        })
    }

    /// Whether this is the key's signature over these bytes.
    pub(super) fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let ready = self.ready.iter().find(|(own, _)| *own == algorithm);
        ready.is_some_and(|(_, key)| key.verify_sig(signed, signature).is_ok())
    }
}

/// The key, if it is of the algorithm's kind.
fn public_key(jwk: &Value, algorithm: Algorithm) -> Option<ParsedPublicKey> {
    let text = |name: &str| jwk.get(name).and_then(Value::text);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
    match (text("kty")?, family(algorithm)) {
        ("RSA", Family::Rsa(parameters)) => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            // Leading zeros are against RFC 7518, but some write them.
            let n = n.iter().position(|byte| *byte != 0).map(|at| &n[at..])?;
            if !(RSA_BYTES_MIN..=RSA_BYTES_MAX).contains(&n.len()) {
                return None;
            }
            RsaPublicKeyComponents { n, e: &e[..] }
                .to_parsed_public_key(parameters)
                .ok()
        }
        ("EC", Family::Ec(curve, length)) if text("crv")? == curve => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != length || y.len() != length {
                return None;
            }
            let point = [&[UNCOMPRESSED][..], &x, &y].concat();
            match algorithm {
                Algorithm::Es384 => {
                    ParsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).ok()
                }
                _ => ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).ok(),
            }
        }
        ("OKP", Family::Ed25519) if text("crv")? == "Ed25519" => {
            let x = bytes("x").filter(|x| x.len() == ED25519_BYTES)?;
            ParsedPublicKey::new(&signature::ED25519, x).ok()
        }
        _ => None,
    }
}

/// What kind of key an algorithm needs.
enum Family {
    Rsa(&'static RsaParameters),
    /// Curve, and bytes of a coordinate.
    Ec(&'static str, usize),
    Ed25519,
}

fn family(algorithm: Algorithm) -> Family {
    match algorithm {
        Algorithm::Rs256 => Family::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Family::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Family::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Family::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Family::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Family::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 => Family::Ec("P-256", 32),
        Algorithm::Es384 => Family::Ec("P-384", 48),
        Algorithm::EdDsa => Family::Ed25519,
    }
}

/// 2,048 to 8,192 bits: less is no key, more only costs.
const RSA_BYTES_MIN: usize = 256;
const RSA_BYTES_MAX: usize = 1024;
const UNCOMPRESSED: u8 = 4;
const ED25519_BYTES: usize = 32;
