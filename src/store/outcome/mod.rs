//! What a verb answers: the views of keys and tenants, the key text shown once, and the refusals.

mod error;
mod text;
mod views;

use std::collections::HashMap;

use serde::Deserialize;
use serde::Serialize;

use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::store::error::StoreError;

pub use error::Failure;
pub use error::VerbError;
pub use text::KeyText;
pub use views::AdminTokenView;
pub use views::DenialView;
pub use views::KeyView;
pub use views::TenantView;
pub use views::rfc3339;
pub use views::status_word;

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

/// When keys were last used. Asked once for each verb that shows keys, or goes by their use.
pub type LastUsed = dyn Fn(Uses<'_>) -> Result<HashMap<KeyId, Wall>, StoreError> + Send + Sync;

/// Whose last uses are asked for, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uses<'a> {
    /// Of these keys, to be shown: as far as somebody knows.
    Of(&'a [KeyId]),
    /// Of all keys, to be shown.
    OfAll,
    /// Of all keys, to judge by: an error where a use may be known on another node alone.
    ToJudge,
}

/// Adds when keys were last used elsewhere, in unix seconds; of two times the later one counts.
pub fn add_later(times: &mut HashMap<KeyId, Wall>, told: HashMap<KeyId, u64>) {
    for (key, seconds) in told {
        let at = Wall::from_unix_seconds(seconds);
        let known = times.entry(key).or_insert(at);
        *known = at.max(*known);
    }
}
