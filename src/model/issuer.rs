//! Who may issue access tokens and sessions, and what they must say to be believed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::credential::Kind;
use crate::model::credential::Kinds;
use crate::model::key::Environment;
use crate::model::tenant::TenantId;

/// `[issuers.NAME]`, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// The table's name.
    pub name: String,
    /// What `iss` says, byte for byte.
    pub issuer: String,
    /// Of which `aud` names one; at least one.
    pub audience: Vec<String>,
    /// What it is trusted for.
    pub credentials: Kinds,
    /// Where its keys are; `None` where it signs nothing.
    pub keys: Option<KeySource>,
    /// Certificate authorities of its addresses; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// Signatures that are taken; at least one. There is no symmetric one and no `none`.
    pub algorithms: Vec<Algorithm>,
    /// What the `typ` of the header may be, lower case, without `application/`; at least one.
    pub types: Vec<String>,
    /// Claims that must be there beside `iss`, `aud` and `exp`.
    pub required: Vec<ClaimPath>,
    /// Whose its tokens are.
    pub tenant: TenantOf,
    /// Where the end user stands (PB10).
    pub subject: ClaimPath,
    /// Where the client stands.
    pub client: ClaimPath,
    /// Where the scopes stand: one text, separated by spaces, or a list.
    pub scope: ClaimPath,
    /// How far its clock may be from ours. 0s to 5min.
    pub leeway: Duration,
    /// The longest that a token may have left; one that has more is refused. 1min to 8784h.
    pub lifetime_max: Duration,
    /// Where its tokens are valid.
    pub environment: Environment,
    /// How often its keys are fetched. 10s to 24h.
    pub refresh: Duration,
    /// How often at most they are fetched because of a key that is not known. 1s to 1h.
    pub unknown_key_interval: Duration,
    /// How long one call to it may take. 100ms to 1min.
    pub timeout: Duration,
    /// How it is asked about what only it can read; `None` is not at all.
    pub introspection: Option<Introspection>,
}

/// Where signing keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A JWKS file.
    File(PathBuf),
    /// A JWKS over HTTP.
    Url(Endpoint),
}

/// Where something is asked over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether over TLS; in clear only on this machine.
    pub tls: bool,
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub target: String,
    /// As the operator wrote it.
    pub text: String,
}

/// How a token is asked about (RFC 7662).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introspection {
    /// Where.
    pub endpoint: Endpoint,
    /// Who asks.
    pub client_id: String,
    /// How that is proved.
    pub secret: SecretSource,
    /// How long an answer is believed, at most. 0s to 10min.
    pub cached: Duration,
}

/// Where a secret stands. It is read when it is needed and kept by nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable.
    Env(String),
    /// A file; its last line end does not count.
    File(PathBuf),
}

/// Whose the tokens of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantOf {
    /// All of this tenant.
    Fixed(TenantId),
    /// Of the one that they name.
    Claim(ClaimPath),
}

/// How a token is signed (RFC 7518, 8037, 9864).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// With SHA-384.
    Rs384,
    /// With SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// With SHA-384.
    Ps384,
    /// With SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Every algorithm, in the order of the enum.
    pub const ALL: [Algorithm; 9] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    /// What `alg` says.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    /// Reads `alg`, byte for byte; `Ed25519` is the newer name of `EdDSA` on that curve.
    #[must_use]
    pub fn parse(text: &str) -> Option<Algorithm> {
        match text {
            "Ed25519" => Some(Algorithm::EdDsa),
            _ => Algorithm::ALL.into_iter().find(|one| one.as_str() == text),
        }
    }
}

/// Where in a token a claim stands: a name, or, where it begins with `/`, a JSON Pointer (RFC 6901) such as `/org/id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath {
    text: String,
    steps: Vec<String>,
}

impl ClaimPath {
    /// Reads a path.
    ///
    /// # Errors
    /// A sentence fragment saying what is wrong.
    pub fn parse(text: &str) -> Result<ClaimPath, &'static str> {
        if text.is_empty() || text.len() > 256 {
            return Err("a claim is a name of 1 to 256 characters, or a path such as /org/id");
        }
        let steps: Vec<String> = match text.strip_prefix('/') {
            None => vec![text.to_owned()],
            Some(path) => path.split('/').map(unescaped).collect(),
        };
        if steps.len() > STEPS_MAX {
            return Err("a path of a claim has at most 8 steps");
        }
        Ok(ClaimPath {
            text: text.to_owned(),
            steps,
        })
    }

    /// As the operator wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names from the outside in; at least one.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.steps
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl Issuer {
    /// Whether it is trusted for this kind.
    #[must_use]
    pub fn issues(&self, kind: Kind) -> bool {
        self.credentials.contain(kind)
    }
}

/// RFC 6901 section 4.
fn unescaped(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

const STEPS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_a_name_or_a_pointer() {
        let cases: [(&str, &[&str]); 5] = [
            ("sub", &["sub"]),
            (
                "https://example.org/tenant",
                &["https://example.org/tenant"],
            ),
            ("/org/id", &["org", "id"]),
            ("/a~1b/c~0d", &["a/b", "c~d"]),
            ("/", &[""]),
        ];
        for (text, steps) in cases {
            assert_eq!(ClaimPath::parse(text).unwrap().steps(), steps, "{text}");
        }
        assert!(ClaimPath::parse("").is_err());
        assert!(ClaimPath::parse("/1/2/3/4/5/6/7/8/9").is_err());
    }

    #[test]
    fn an_algorithm_is_its_name_byte_for_byte_and_never_none_or_symmetric() {
        for one in Algorithm::ALL {
            assert_eq!(Algorithm::parse(one.as_str()), Some(one));
        }
        for text in ["none", "None", "rs256", "HS256", "HS384", "ES256K", ""] {
            assert_eq!(Algorithm::parse(text), None, "{text}");
        }
        assert_eq!(Algorithm::parse("Ed25519"), Some(Algorithm::EdDsa));
    }
}
