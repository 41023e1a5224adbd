//! The longer things that a verb may carry: which keys are meant, what is to change, what is to be imported.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::store::NewKey;
use crate::store::outcome::KeyText;

/// Which keys are meant; what is left out does not narrow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyFilter {
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Whose text begins so, as far as lists show it: `pk_live_`.
    pub prefix: Option<String>,
    /// Of this end user.
    pub subject: Option<String>,
    /// These alone: ids, or `sha256:HEX` of key texts.
    pub keys: Option<Vec<String>>,
    /// `active`, `inactive`, `expired`, `revoked` or `deleted`.
    pub status: Option<String>,
    /// Made at least so many seconds ago (FA13).
    pub older_than_seconds: Option<u64>,
    /// Neither used nor made within so many seconds (FA32).
    pub unused_since_seconds: Option<u64>,
    /// Deleted ones too.
    pub all: bool,
}

impl KeyFilter {
    /// Whether it names somebody: bulk verbs refuse to mean everybody by silence.
    #[must_use]
    pub fn names_somebody(&self) -> bool {
        self.tenant.is_some()
            || self
                .prefix
                .as_ref()
                .is_some_and(|prefix| !prefix.is_empty())
            || self.subject.is_some()
            || self.keys.is_some()
    }
}

/// When a key is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expiry {
    /// Only by revocation.
    Never,
    /// So many seconds from now.
    InSeconds(u64),
    /// At this Unix second.
    AtUnixSeconds(u64),
}

/// What is to change of a key (FA33); what is left out stays. An empty text takes a value away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyUpdate {
    /// Whose.
    pub id: String,
    /// What people call it.
    pub name: Option<String>,
    /// Exactly these scopes.
    pub scopes: Option<Vec<String>>,
    /// These too.
    pub add_scopes: Vec<String>,
    /// Not these any more.
    pub remove_scopes: Vec<String>,
    /// Everything that its tenant may do.
    pub inherit: bool,
    /// Its own plan.
    pub plan: Option<String>,
    /// Its own quota.
    pub quota: Option<String>,
    /// Its own burst.
    pub burst: Option<String>,
    /// Its end.
    pub expires: Option<Expiry>,
    /// Its end user.
    pub subject: Option<String>,
    /// Exactly these origins; one empty text is none.
    pub origins: Option<Vec<String>>,
    /// Exactly these networks; one empty text is none.
    pub cidrs: Option<Vec<String>>,
    /// A remark.
    pub note: Option<String>,
}

/// What is to change of a tenant; what is left out stays. An empty text takes a value away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantUpdate {
    /// Whose.
    pub id: String,
    /// Display name.
    pub name: Option<String>,
    /// Its plan; what was used of a window stays used (FF18).
    pub plan: Option<String>,
    /// What its keys may do at most.
    pub scopes: Option<Vec<String>>,
    /// Everything that its plan grants.
    pub inherit: bool,
    /// Its own quota.
    pub quota: Option<String>,
    /// Its own burst.
    pub burst: Option<String>,
    /// Its own servers by name of the upstream; an empty text takes them away.
    pub upstreams: BTreeMap<String, String>,
}

/// Which tokens are meant, by exactly one of the first three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenNames {
    /// One token, by its own id.
    pub jti: Option<String>,
    /// All of a user.
    pub subject: Option<String>,
    /// All of a client.
    pub client: Option<String>,
    /// Of this issuer alone, as `iss` says it.
    pub issuer: Option<String>,
}

/// Tokens that are to be denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenDenial {
    /// Which.
    #[serde(flatten)]
    pub names: TokenNames,
    /// For how long; `None` for one token is as long as it may live, else until it is taken back.
    pub for_seconds: Option<u64>,
    /// Only those that were issued until now.
    pub issued_until_now: bool,
    /// A remark.
    pub note: Option<String>,
}

/// A key that was issued elsewhere: by value, or by digest alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedKey {
    /// Where it stands in the file, for messages.
    pub line: u64,
    /// The key itself; what is stored is its digest, the beginning and the last four characters.
    pub value: Option<KeyText>,
    /// `sha256:` and 64 hexadecimal digits of the whole key.
    pub sha256: Option<String>,
    /// The rest.
    pub key: NewKey,
}
