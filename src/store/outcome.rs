//! What a verb answers: the views of keys and tenants, the key text shown once, and the refusals.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;
use zeroize::Zeroize;

use crate::clock::Wall;
use crate::config::KeyLabels;
use crate::model::admin_token::AdminToken;
use crate::model::denial::Denial;
use crate::model::display;
use crate::model::key::ApiKey;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::scope::Scope;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::model::tenant::Tenant;
use crate::store::error::EXIT_REFUSED;
use crate::store::error::EXIT_UNAVAILABLE;
use crate::store::error::EXIT_USAGE;
use crate::store::error::StoreError;

/// The text of a key on its one way to whoever asked for it (FA4). Wiped when dropped; `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyText(String);

impl KeyText {
    /// Takes a text over.
    #[must_use]
    pub fn new(text: String) -> KeyText {
        KeyText(text)
    }

    /// The text: only for the one answer that shows it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("KeyText(***)")
    }
}

impl Drop for KeyText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What a verb did or found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// A key with a new text: just made, or regenerated.
    KeyIssued {
        /// The key.
        key: Box<KeyView>,
        /// Its text, shown this once.
        text: KeyText,
        /// What the operator should know beside.
        notes: Vec<String>,
    },
    /// A second key like the first one.
    KeyRotated {
        /// The new key.
        key: Box<KeyView>,
        /// Its text, shown this once.
        text: KeyText,
        /// The old key, with its end.
        old: Box<KeyView>,
        /// What the operator should know beside.
        notes: Vec<String>,
    },
    /// Many keys at once: imported or revoked.
    KeysChanged {
        /// Those that changed.
        ids: Vec<String>,
        /// One sentence for the operator.
        said: String,
        /// What the operator should know beside.
        notes: Vec<String>,
    },
    /// A key that was asked to change.
    KeyChanged {
        /// The key as it now is.
        key: Box<KeyView>,
        /// Whether anything changed; `false` when it was so already.
        changed: bool,
        /// One sentence for the operator.
        said: String,
        /// What the operator should know beside.
        #[serde(default)]
        notes: Vec<String>,
    },
    /// Keys.
    Keys {
        /// Oldest first.
        keys: Vec<KeyView>,
    },
    /// One key.
    Key {
        /// The key.
        key: Box<KeyView>,
    },
    /// A tenant that was made, or asked to change.
    TenantChanged {
        /// The tenant as it now is.
        tenant: TenantView,
        /// Whether anything changed.
        changed: bool,
        /// One sentence for the operator.
        said: String,
        /// What the operator should know beside.
        #[serde(default)]
        notes: Vec<String>,
    },
    /// Tokens that are denied from now on, or no more.
    DenialChanged {
        /// The entry.
        denial: DenialView,
        /// Always `true`.
        changed: bool,
        /// One sentence for the operator.
        said: String,
    },
    /// What is denied.
    Denials {
        /// Oldest first.
        denials: Vec<DenialView>,
    },
    /// Tenants.
    Tenants {
        /// By id.
        tenants: Vec<TenantView>,
    },
    /// A token of the admin plane that was just made.
    AdminTokenIssued {
        /// The token.
        token: AdminTokenView,
        /// Its text, shown this once.
        text: KeyText,
    },
    /// A token of the admin plane that was asked to end.
    AdminTokenChanged {
        /// The token as it now is.
        token: AdminTokenView,
        /// Whether anything changed.
        changed: bool,
        /// One sentence for the operator.
        said: String,
    },
    /// Tokens of the admin plane.
    AdminTokens {
        /// Oldest first.
        tokens: Vec<AdminTokenView>,
    },
    /// It was done before, under the same name: nothing was done now.
    Replayed {
        /// Whom it made or changed then.
        id: String,
    },
}

/// A token of the admin plane as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminTokenView {
    /// `tok_…`.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// `full`, `read-only` or `tenant`.
    pub role: String,
    /// The one tenant that it is tied to.
    pub tenant: Option<String>,
    /// The last four characters of its text.
    pub last_four: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339; `None` is never.
    pub expires_at: Option<String>,
    /// `active`, `expired` or `revoked`.
    pub status: String,
}

impl AdminTokenView {
    /// How a token looks at this point of the wall clock.
    #[must_use]
    pub fn of(token: &AdminToken, now: Wall) -> AdminTokenView {
        AdminTokenView {
            id: token.id.clone(),
            name: display::shown(&token.name).into_owned(),
            role: token.role.as_str().to_owned(),
            tenant: token.role.tenant().map(|tenant| tenant.as_str().to_owned()),
            last_four: token.last_four.clone(),
            created_at: rfc3339(token.created),
            expires_at: token.expires.map(rfc3339),
            status: match (token.revoked, token.stands(now)) {
                (Some(_), _) => "revoked",
                (None, false) => "expired",
                (None, true) => "active",
            }
            .to_owned(),
        }
    }
}

/// A key as lists show it: never its text, never its digest (FA7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// `key_…`.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// `secret` or `public`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `live`, `test`, …
    pub environment: String,
    /// Whose.
    pub tenant: String,
    /// First word and last four characters, for example `fp_live_…9xYz`; `None` for keys of the file.
    pub key: Option<String>,
    /// Its own plan; `None` is the tenant's.
    pub plan: Option<String>,
    /// Its own quota.
    pub quota: Option<String>,
    /// Its own burst.
    pub burst: Option<String>,
    /// What it may do; `None` inherits.
    pub scopes: Option<Vec<String>>,
    /// RFC 3339, UTC, to the second; `None` for keys of the file.
    pub created_at: Option<String>,
    /// RFC 3339, UTC, to the second; `None` is never.
    pub expires_at: Option<String>,
    /// RFC 3339, UTC, to the second; `None` is never, or not known.
    pub last_used_at: Option<String>,
    /// `active`, `inactive`, `expired`, `revoked` (FA11), or `deleted`.
    pub status: String,
    /// What `[key_labels]` calls that (C-17).
    #[serde(default)]
    pub status_label: String,
    /// The end user that it acts for.
    #[serde(default)]
    pub subject: Option<String>,
    /// Browser origins it may be used from.
    #[serde(default)]
    pub origins: Vec<String>,
    /// Networks it may be used from; none is any.
    #[serde(default)]
    pub cidrs: Vec<String>,
    /// What the operator wrote beside it.
    #[serde(default)]
    pub note: Option<String>,
    /// `store` or `file`.
    pub declared_in: String,
}

/// The status of a key as people see it; expiry follows from the clock (FA11).
#[must_use]
pub fn status_word(key: &ApiKey, now: Wall) -> &'static str {
    match key.status {
        KeyStatus::Active if key.expires.is_some_and(|expires| now >= expires) => "expired",
        status => status.as_str(),
    }
}

impl KeyView {
    /// How a key looks at this point of the wall clock.
    #[must_use]
    pub fn of(key: &ApiKey, now: Wall, last_used: Option<Wall>, labels: &KeyLabels) -> KeyView {
        let status = status_word(key, now);
        KeyView {
            id: key.id.to_string(),
            name: display::shown(&key.name).into_owned(),
            kind: key.kind.as_str().to_owned(),
            environment: key.environment.clone(),
            tenant: key.tenant.as_str().to_owned(),
            key: (!key.last_four.is_empty()).then(|| format!("{}…{}", key.prefix, key.last_four)),
            plan: key.plan.clone(),
            quota: key.quota.text(),
            burst: key.burst.text(),
            scopes: scope_texts(&key.scopes),
            created_at: (key.created != Wall::default()).then(|| rfc3339(key.created)),
            expires_at: key.expires.map(rfc3339),
            last_used_at: last_used.map(rfc3339),
            status: status.to_owned(),
            status_label: labels.of(status).to_owned(),
            subject: key.binding.subject.as_deref().map(str::to_owned),
            origins: (key.binding.origins.iter())
                .map(ToString::to_string)
                .collect(),
            cidrs: key.binding.cidrs.iter().map(ToString::to_string).collect(),
            note: (key.note.as_deref()).map(|note| display::shown(note).into_owned()),
            declared_in: origin_word(key.origin).to_owned(),
        }
    }
}

/// A tenant as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantView {
    /// Who it is.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Its plan.
    pub plan: String,
    /// What its keys may do at most; `None` is all that its plan grants.
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
    /// Its own quota.
    #[serde(default)]
    pub quota: Option<String>,
    /// Its own burst.
    #[serde(default)]
    pub burst: Option<String>,
    /// Its own servers by name of the upstream.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub upstreams: BTreeMap<String, String>,
    /// `active` or `suspended`.
    pub status: String,
    /// `store` or `file`.
    pub declared_in: String,
}

impl TenantView {
    /// How a tenant looks.
    #[must_use]
    pub fn of(tenant: &Tenant) -> TenantView {
        TenantView {
            id: tenant.id.as_str().to_owned(),
            name: display::shown(&tenant.name).into_owned(),
            plan: tenant.plan.clone(),
            scopes: scope_texts(&tenant.scopes),
            quota: tenant.quota.text(),
            burst: tenant.burst.text(),
            upstreams: tenant.upstreams.clone(),
            status: if tenant.suspended {
                "suspended"
            } else {
                "active"
            }
            .to_owned(),
            declared_in: origin_word(tenant.origin).to_owned(),
        }
    }
}

/// An entry of what is denied, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialView {
    /// `jti`, `subject` or `client`.
    pub denied_by: String,
    /// Which.
    pub value: String,
    /// Of this issuer alone; `None` is of any.
    pub issuer: Option<String>,
    /// RFC 3339, UTC, to the second.
    pub created_at: String,
    /// RFC 3339, UTC, to the second; `None` is until it is taken back.
    pub expires_at: Option<String>,
    /// RFC 3339, UTC, to the second: only tokens issued until then; `None` is all.
    pub issued_until: Option<String>,
    /// What the operator wrote beside it.
    pub note: Option<String>,
}

impl DenialView {
    /// How an entry looks.
    #[must_use]
    pub fn of(denial: &Denial) -> DenialView {
        DenialView {
            denied_by: denial.by.as_str().to_owned(),
            value: denial.value.as_ref().to_owned(),
            issuer: denial.issuer.as_deref().map(str::to_owned),
            created_at: rfc3339(denial.created),
            expires_at: denial.expires.map(rfc3339),
            issued_until: denial.issued_until.map(rfc3339),
            note: denial.note.clone(),
        }
    }
}

impl Outcome {
    /// Whether it carries the text of a key, which is shown once.
    #[must_use]
    pub fn has_text(&self) -> bool {
        matches!(self, Outcome::KeyIssued { .. } | Outcome::KeyRotated { .. })
    }

    /// The same with one more thing that the operator should know.
    #[must_use]
    pub fn beside(mut self, more: &str) -> Outcome {
        match &mut self {
            Outcome::KeysChanged { said, .. }
            | Outcome::KeyChanged { said, .. }
            | Outcome::TenantChanged { said, .. }
            | Outcome::AdminTokenChanged { said, .. }
            | Outcome::DenialChanged { said, .. } => {
                said.push_str("; ");
                said.push_str(more);
            }
            Outcome::KeyIssued { notes, .. } | Outcome::KeyRotated { notes, .. } => {
                notes.push(more.to_owned());
            }
            Outcome::Keys { .. }
            | Outcome::Key { .. }
            | Outcome::Denials { .. }
            | Outcome::Tenants { .. }
            | Outcome::AdminTokenIssued { .. }
            | Outcome::AdminTokens { .. }
            | Outcome::Replayed { .. } => {}
        }
        self
    }
}

/// Why a verb was not carried out, or not durably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerbError {
    /// What is wrong and the way out.
    #[serde(rename = "error")]
    pub text: String,
    /// The exit code of the command.
    pub exit: u8,
}

impl VerbError {
    /// The operator asked for something that cannot be; nothing was changed.
    #[must_use]
    pub fn refused(text: impl Into<String>) -> VerbError {
        VerbError {
            text: text.into(),
            exit: EXIT_REFUSED,
        }
    }

    /// A revocation that holds in this gateway but could not be written (DESIGN section 11).
    #[must_use]
    pub fn not_durable(cause: &StoreError) -> VerbError {
        VerbError {
            text: format!(
                "in force, not durable: this gateway refuses it from now on, but the store could not be written ({cause}); make room or repair the store and repeat the command, or a restart will admit it again"
            ),
            exit: EXIT_UNAVAILABLE,
        }
    }
}

/// Why a verb stopped: a rule, or the store itself. What takes rights away holds even when the store fails.
#[derive(Debug)]
pub enum Failure {
    /// A rule forbids it; nothing was changed.
    Refused(String),
    /// Something that must be said was not; nothing was changed.
    Usage(String),
    /// The store cannot be read or written; nothing was changed.
    Store(StoreError),
}

impl Failure {
    /// A rule forbids it.
    #[must_use]
    pub fn refused(text: impl Into<String>) -> Failure {
        Failure::Refused(text.into())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Store(error)
    }
}

impl From<Failure> for VerbError {
    fn from(failure: Failure) -> VerbError {
        match failure {
            Failure::Refused(text) => VerbError::refused(text),
            Failure::Usage(text) => VerbError {
                text,
                exit: EXIT_USAGE,
            },
            Failure::Store(error) => VerbError::from(error),
        }
    }
}

impl From<StoreError> for VerbError {
    fn from(error: StoreError) -> VerbError {
        VerbError {
            exit: error.exit_code(),
            text: error.to_string(),
        }
    }
}

impl fmt::Display for VerbError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for VerbError {}

/// When these keys (`None`: all) were last used, as far as somebody knows. Asked once for each verb that shows keys.
pub type LastUsed = dyn Fn(Option<&[KeyId]>) -> HashMap<KeyId, Wall> + Send + Sync;

/// A point of the wall clock as RFC 3339 in UTC, to the second.
#[must_use]
pub fn rfc3339(wall: Wall) -> String {
    let seconds = i64::try_from(wall.unix_seconds()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds)
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

fn scope_texts(scopes: &Scopes) -> Option<Vec<String>> {
    match scopes {
        Scopes::Inherit => None,
        Scopes::Listed(listed) => {
            let text = |scope: &Scope| scope.as_str().to_owned();
            Some(listed.iter().map(text).collect())
        }
    }
}

fn origin_word(origin: Origin) -> &'static str {
    match origin {
        Origin::File => "file",
        Origin::Store => "store",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc_to_the_second() {
        assert_eq!(rfc3339(Wall(1_770_000_000_900_000)), "2026-02-02T02:40:00Z");
        assert!(rfc3339(Wall(u64::MAX)).starts_with("9999-12-3"));
    }

    #[test]
    fn a_key_text_never_shows_in_debug() {
        let text = KeyText::new("fp_live_secret".to_owned());
        assert_eq!(format!("{text:?}"), "KeyText(***)");
    }
}
