//! What outlives a restart: keys and tenants in `keys.db`, counters in `counters.db`, one process at a time.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::clock::Wall;
use crate::model::admin_token::AdminToken;
use crate::model::denial::Denial;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::tenant::Tenant;
use crate::store::request::ImportedKey;
use crate::store::request::KeyUpdate;
use crate::store::request::TenantUpdate;
use crate::store::request::TokenDenial;
use crate::store::request::TokenNames;

pub mod alerts;
pub mod audit;
pub mod counters;
pub mod error;
pub mod history;
mod lock;
pub mod merge;
pub mod outcome;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
pub mod request;
mod rows;
pub mod shared;
pub mod sqlite;
pub mod verbs;
mod whole;

pub use error::StoreError;
pub use outcome::Failure;
pub use outcome::Outcome;
pub use outcome::VerbError;
pub use request::KeyFilter;
pub use sqlite::Store;

/// Everything in `keys.db`.
#[derive(Debug, Default)]
pub struct Contents {
    /// Grows by one with each change.
    pub revision: u64,
    /// Keys, tombstones included.
    pub keys: Vec<ApiKey>,
    /// Tenants.
    pub tenants: Vec<Tenant>,
    /// Digests that regenerated keys had before.
    pub retired: Vec<Retired>,
    /// Access tokens that are denied, expired entries included.
    pub denials: Vec<Denial>,
}

/// A digest that a regenerated key had before: nobody can ever have it again (FA10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retired {
    /// The digest.
    pub digest: Digest,
    /// Whose it was.
    pub key: KeyId,
    /// Until then it is still taken for its key (C-19); `None` is not at all.
    pub until: Option<Wall>,
}

/// One administrative act, as the command line says it and the admin socket carries it. Each is one transaction and one revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Verb {
    /// Makes a key; the outcome carries its text, once.
    KeyCreate(NewKey),
    /// Keys, deleted ones only when asked for.
    KeyList(KeyFilter),
    /// Some of them.
    KeyPage {
        /// Of which.
        which: KeyFilter,
        /// Behind this one; its id.
        after: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// One key.
    KeyShow {
        /// Its id.
        id: String,
    },
    /// Switches off, reversible.
    KeyDeactivate {
        /// Its id.
        id: String,
    },
    /// Switches on again.
    KeyActivate {
        /// Its id.
        id: String,
    },
    /// Changes what a key is; the next request sees it.
    KeyUpdate(Box<KeyUpdate>),
    /// A new text for the same id, counters and expiry kept; the old text ends at once, or after the overlap.
    KeyRegenerate {
        /// Its id.
        id: String,
        /// How long the old text still works, in seconds (C-19).
        #[serde(default)]
        overlap_seconds: u64,
    },
    /// A second key like the first one, which ends after the overlap at the latest (FA12).
    KeyRotate {
        /// Its id.
        id: String,
        /// How long the first one still works, in seconds.
        overlap_seconds: u64,
    },
    /// Takes over keys that were issued elsewhere: all of them, or none.
    KeyImport {
        /// Its name, for messages.
        file: String,
        /// In the order of the file.
        keys: Vec<ImportedKey>,
    },
    /// Ends for good. Works on keys of the file too, by a tombstone.
    KeyRevoke {
        /// Its id.
        id: String,
    },
    /// Ends many for good, in one change (FF19).
    KeyRevokeMany(KeyFilter),
    /// Ends for good and leaves lists; a tombstone stays.
    KeyDelete {
        /// Its id.
        id: String,
    },
    /// Makes a tenant.
    TenantCreate {
        /// Its id.
        id: String,
        /// Display name.
        name: Option<String>,
        /// Its plan.
        plan: String,
        /// Servers of its own, by upstream.
        #[serde(default)]
        upstreams: BTreeMap<String, String>,
    },
    /// All tenants.
    TenantList,
    /// Changes what a tenant is; the next request sees it.
    TenantUpdate(Box<TenantUpdate>),
    /// Its keys get 403.
    TenantSuspend {
        /// Its id.
        id: String,
    },
    /// Its keys work again.
    TenantResume {
        /// Its id.
        id: String,
    },
    /// Makes a token of the admin plane; the outcome carries its text, once.
    AdminTokenCreate(NewAdminToken),
    /// All tokens of the admin plane.
    AdminTokenList,
    /// Ends a token of the admin plane.
    AdminTokenRevoke {
        /// Its id.
        id: String,
    },
    /// Ends access tokens before their time.
    TokenDeny(Box<TokenDenial>),
    /// Takes that back.
    TokenAllow(TokenNames),
    /// What is denied.
    TokenDenials,
}

/// What a new token of the admin plane is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAdminToken {
    /// What people call it.
    pub name: String,
    /// `full`, `read-only` or `tenant`.
    pub role: String,
    /// The one tenant of a token of the role `tenant`.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Seconds from creation, or `None` for never.
    #[serde(default)]
    pub expires_in_seconds: Option<u64>,
}

/// What a new key is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    /// Its tenant.
    pub tenant: String,
    /// What people call it.
    pub name: String,
    /// `secret` or `public`.
    pub kind: String,
    /// Its environment's name; `None` is the first.
    pub environment: Option<String>,
    /// A plan of its own.
    pub plan: Option<String>,
    /// Its own quota, `"7/hour"` or `"unlimited"`.
    pub quota: Option<String>,
    /// Its own burst.
    pub burst: Option<String>,
    /// What it may do; `None` is inherit.
    pub scopes: Option<Vec<String>>,
    /// `scopes` is not said: `[key_rules]` says what such a key may do.
    #[serde(default)]
    pub default_scopes: bool,
    /// Seconds from creation, or `None` for never.
    pub expires_in_seconds: Option<u64>,
    /// Unix seconds of the end; at most one of the two.
    pub expires_at_unix_seconds: Option<u64>,
    /// The end user that it acts for (FA18).
    #[serde(default)]
    pub subject: Option<String>,
    /// Browser origins it may be used from (FF2).
    #[serde(default)]
    pub origins: Vec<String>,
    /// Networks it may be used from.
    #[serde(default)]
    pub cidrs: Vec<String>,
    /// What the operator writes beside it.
    #[serde(default)]
    pub note: Option<String>,
}

impl Verb {
    /// Whether it only reads.
    #[must_use]
    pub fn is_read(&self) -> bool {
        match self {
            Verb::KeyList(_)
            | Verb::KeyPage { .. }
            | Verb::KeyShow { .. }
            | Verb::TenantList
            | Verb::AdminTokenList
            | Verb::TokenDenials => true,
            Verb::KeyCreate(_)
            | Verb::KeyDeactivate { .. }
            | Verb::KeyActivate { .. }
            | Verb::KeyUpdate(_)
            | Verb::KeyRegenerate { .. }
            | Verb::KeyRotate { .. }
            | Verb::KeyImport { .. }
            | Verb::KeyRevokeMany(_)
            | Verb::TenantUpdate(_)
            | Verb::KeyRevoke { .. }
            | Verb::KeyDelete { .. }
            | Verb::TenantCreate { .. }
            | Verb::TenantSuspend { .. }
            | Verb::TenantResume { .. }
            | Verb::AdminTokenCreate(_)
            | Verb::AdminTokenRevoke { .. }
            | Verb::TokenDeny(_)
            | Verb::TokenAllow(_) => false,
        }
    }

    /// Whether it may take rights away: then it is worth knowing where it is in force.
    #[must_use]
    pub fn takes_rights(&self) -> bool {
        match self {
            Verb::KeyDeactivate { .. }
            | Verb::KeyUpdate(_)
            | Verb::KeyRegenerate { .. }
            | Verb::KeyRotate { .. }
            | Verb::KeyRevoke { .. }
            | Verb::KeyRevokeMany(_)
            | Verb::KeyDelete { .. }
            | Verb::TenantUpdate(_)
            | Verb::TenantSuspend { .. }
            | Verb::AdminTokenRevoke { .. }
            | Verb::TokenDeny(_) => true,
            Verb::KeyCreate(_)
            | Verb::KeyPage { .. }
            | Verb::KeyList(_)
            | Verb::KeyShow { .. }
            | Verb::KeyActivate { .. }
            | Verb::KeyImport { .. }
            | Verb::TenantCreate { .. }
            | Verb::TenantList
            | Verb::TenantResume { .. }
            | Verb::AdminTokenCreate(_)
            | Verb::AdminTokenList
            | Verb::TokenAllow(_)
            | Verb::TokenDenials => false,
        }
    }

    /// Its name and whom it is about, for logs. What is no key id is not repeated: it may be a key.
    #[must_use]
    pub fn label(&self) -> (&'static str, &str) {
        match self {
            Verb::KeyCreate(new) => ("key-create", &new.tenant),
            Verb::KeyList(which) => ("key-list", which.tenant.as_deref().unwrap_or("")),
            Verb::KeyPage { which, .. } => ("key-page", which.tenant.as_deref().unwrap_or("")),
            Verb::KeyShow { id } => ("key-show", loggable(id)),
            Verb::KeyDeactivate { id } => ("key-deactivate", loggable(id)),
            Verb::KeyActivate { id } => ("key-activate", loggable(id)),
            Verb::KeyUpdate(update) => ("key-update", loggable(&update.id)),
            Verb::KeyRegenerate { id, .. } => ("key-regenerate", loggable(id)),
            Verb::KeyRotate { id, .. } => ("key-rotate", loggable(id)),
            Verb::KeyImport { .. } => ("key-import", ""),
            Verb::KeyRevokeMany(which) => {
                ("key-revoke-many", which.tenant.as_deref().unwrap_or(""))
            }
            Verb::KeyRevoke { id } => ("key-revoke", loggable(id)),
            Verb::KeyDelete { id } => ("key-delete", loggable(id)),
            Verb::TenantCreate { id, .. } => ("tenant-create", id),
            Verb::TenantList => ("tenant-list", ""),
            Verb::TenantUpdate(update) => ("tenant-update", &update.id),
            Verb::TenantSuspend { id } => ("tenant-suspend", id),
            Verb::TenantResume { id } => ("tenant-resume", id),
            Verb::AdminTokenCreate(_) => ("admin-token-create", ""),
            Verb::AdminTokenList => ("admin-token-list", ""),
            Verb::AdminTokenRevoke { id } => {
                ("admin-token-revoke", AdminToken::parse_id(id).unwrap_or(""))
            }
            Verb::TokenDeny(asked) => ("token-deny", asked.names.kind()),
            Verb::TokenAllow(names) => ("token-allow", names.kind()),
            Verb::TokenDenials => ("token-denials", ""),
        }
    }
}

impl TokenNames {
    /// By what tokens are meant. The name itself is not repeated in logs: somebody may have given a whole token.
    fn kind(&self) -> &'static str {
        match (&self.jti, &self.subject, &self.client) {
            (Some(_), _, _) => "jti",
            (_, Some(_), _) => "subject",
            (_, _, Some(_)) => "client",
            _ => "",
        }
    }
}

fn loggable(id: &str) -> &str {
    KeyId::parse(id).map_or("", |_| id)
}
