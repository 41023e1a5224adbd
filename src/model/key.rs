//! An API key: its text, digest, identity, expiry, status and scopes.

use std::fmt;

use crate::clock::Wall;
use crate::model::limit::Rate;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::model::tenant::TenantId;

/// SHA-256 of the whole key text: the only trace of a key that is ever kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The public name of a key, `key_` and 12 base62 characters; survives regeneration, safe to log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 12]);

impl fmt::Debug for Digest {
    /// Prints no part of the digest: logs need none.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Digest(***)")
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("key_")?;
        self.0
            .iter()
            .try_for_each(|byte| fmt::Write::write_char(out, char::from(*byte)))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Which world a key, host, route or upstream belongs to, for example `live` or `test`: an index into `Config::environments`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Environment(pub u8);

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Server to server.
    Secret,
    /// May stand in a browser.
    Public,
}

/// What an operator has said of a key. Expiry is not a status that is stored: it follows from the clock of each request (FA6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    /// In use.
    Active,
    /// Switched off, reversible.
    Inactive,
    /// Ended for good (FA10); kept as a tombstone.
    Revoked,
    /// Ended for good and gone from lists; kept as a tombstone.
    Deleted,
}

/// One key as the store or gateway.toml declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Who it is.
    pub id: KeyId,
    /// Digest of its text.
    pub digest: Digest,
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub kind: KeyKind,
    /// The name of its environment, one of `Config::environments`.
    pub environment: String,
    /// The one tenant it belongs to (FM4).
    pub tenant: TenantId,
    /// A plan of its own; else the tenant's.
    pub plan: Option<String>,
    /// Its own quota instead of the plan's (FA22).
    pub quota: Override,
    /// Its own burst instead of the plan's.
    pub burst: Override,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made.
    pub created: Wall,
    /// When it ends; `None` is never.
    pub expires: Option<Wall>,
    /// What the operator said.
    pub status: KeyStatus,
    /// Shown in lists: the text up to and including the last `_`, for example `fp_live_`.
    pub prefix: String,
    /// Shown in lists: the last four characters.
    pub last_four: String,
    /// Where it is declared.
    pub origin: Origin,
}

/// A limit that a key may set for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Override {
    /// The plan's limit holds.
    Plan,
    /// No limit.
    Unlimited,
    /// This limit.
    Rate(Rate),
}
