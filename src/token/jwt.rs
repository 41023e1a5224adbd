//! A JWT in its compact form (RFC 7515), read strictly: what a header may say, and nothing that it could be talked into.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::model::issuer::Algorithm;
use crate::model::issuer::Issuer;
use crate::token::json::Value;

/// A JWT that was taken apart. Nothing of it is proved.
pub(super) struct Jwt<'a> {
    header: Value,
    claims: Value,
    /// The header, a dot and the claims, as they came.
    signed: &'a [u8],
    signature: Vec<u8>,
}

/// Members of a header that bring a key along, say where to get one, or change what the text means (RFC 8725 sections 3.1, 3.9, 3.10).
const FORBIDDEN: [(&str, &str); 8] = [
    ("jwk", "key_in_header"),
    ("jku", "key_in_header"),
    ("x5u", "key_in_header"),
    ("x5c", "key_in_header"),
    ("crit", "crit_in_header"),
    ("b64", "crit_in_header"),
    ("enc", "encrypted"),
    ("zip", "encrypted"),
];

/// Bytes of a `kid`; a longer one is no key of anybody's.
const KEY_ID_BYTES_MAX: usize = 256;

impl<'a> Jwt<'a> {
    /// Takes a text of the form of a JWT apart.
    ///
    /// # Errors
    /// A part is no base64url in its one spelling, or no JSON object in which each name stands once.
    pub(super) fn read(text: &'a [u8]) -> Result<Jwt<'a>, &'static str> {
        let last = text.iter().rposition(|byte| *byte == b'.');
        let (signed, signature) = text.split_at(last.ok_or("malformed_token")?);
        let first = signed.iter().position(|byte| *byte == b'.');
        let (header, claims) = signed.split_at(first.ok_or("malformed_token")?);
        let object = |part: &[u8]| {
            let value = Value::read(&decoded(part)?).ok_or("malformed_token")?;
            value.is_object().then_some(value).ok_or("malformed_token")
        };
        Ok(Jwt {
            header: object(header)?,
            claims: object(&claims[1..])?,
            signed,
            signature: decoded(&signature[1..])?,
        })
    }

    /// Who says that it is the issuer.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.text()
    }

    pub(super) fn claims(&self) -> &Value {
        &self.claims
    }

    pub(super) fn signed(&self) -> &'a [u8] {
        self.signed
    }

    pub(super) fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// Which key it names.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.header.get("kid")?.text()
    }

    /// Whether the header is one that this issuer writes, and how the token is signed.
    ///
    /// # Errors
    /// It is not, in one word.
    pub(super) fn check_header(&self, issuer: &Issuer) -> Result<Algorithm, &'static str> {
        for (name, reason) in FORBIDDEN {
            if self.header.get(name).is_some() {
                return Err(reason);
            }
        }
        let named = self.header.get("alg").and_then(Value::text);
        let algorithm = named.and_then(Algorithm::parse);
        let algorithm = algorithm.filter(|one| issuer.algorithms.contains(one));
        let algorithm = algorithm.ok_or("algorithm_not_allowed")?;
        // A token in a token says so here.
        if self.header.get("cty").is_some() {
            return Err("nested_token");
        }
        let kind = match self.header.get("typ") {
            None => String::new(),
            Some(kind) => media_type(kind.text().ok_or("wrong_type")?),
        };
        if !issuer.types.contains(&kind) {
            return Err("wrong_type");
        }
        match self.header.get("kid") {
            None => Ok(algorithm),
            Some(Value::Text(kid)) if kid.len() <= KEY_ID_BYTES_MAX => Ok(algorithm),
            Some(_) => Err("malformed_token"),
        }
    }
}

/// A `typ` as it is compared: RFC 7515 section 4.1.9 leaves out `application/`, and media types have no case.
fn media_type(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    match text.strip_prefix("application/") {
        Some(short) if !short.contains('/') => short.to_owned(),
        _ => text,
    }
}

/// Without padding, and with no bit that is not used: each text has one spelling.
fn decoded(part: &[u8]) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| "malformed_token")
}
