//! Why an act did not happen, and with which exit code.

use std::fmt;

use serde::Deserialize;
use serde::Serialize;

use crate::store::error::EXIT_REFUSED;
use crate::store::error::EXIT_UNAVAILABLE;
use crate::store::error::EXIT_USAGE;
use crate::store::error::StoreError;

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
