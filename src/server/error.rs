//! Why the gateway did not start, with the exit code that says it to scripts.

use std::fmt;
use std::io;

use crate::config::Problems;
use crate::edge::listener::BindError;
use crate::pem::TlsProblem;
use crate::snapshot::build::BuildError;
use crate::snapshot::change::KeeperError;
use crate::store::StoreError;
use crate::store::counters::CountersError;

/// What stopped the start, and the way out.
#[derive(Debug)]
pub struct StartError {
    exit_code: u8,
    text: String,
}

impl StartError {
    /// A failure without a better code: 1.
    pub(crate) fn failed(text: String) -> StartError {
        StartError { exit_code: 1, text }
    }

    /// The configuration is wrong: 78.
    pub(crate) fn config(text: String) -> StartError {
        StartError {
            exit_code: 78,
            text,
        }
    }

    /// A path of the configuration that cannot be used: 77 where this user may not, 78 where the path is wrong, else 69.
    pub(crate) fn of_path(text: String, error: &io::Error) -> StartError {
        let exit_code = match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => 77,
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::AlreadyExists => 78,
            _ => 69,
        };
        StartError { exit_code, text }
    }

    /// 1 failure, 69 something needed is not available, 77 no permission, 78 configuration.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        StartError::failed(error.to_string())
    }
}

impl From<Problems> for StartError {
    fn from(problems: Problems) -> StartError {
        StartError {
            exit_code: if problems.is_denied() { 77 } else { 78 },
            text: problems.to_string(),
        }
    }
}

impl From<Vec<TlsProblem>> for StartError {
    fn from(problems: Vec<TlsProblem>) -> StartError {
        let is_denied = problems.iter().all(|problem| problem.is_denied);
        StartError {
            exit_code: if is_denied { 77 } else { 78 },
            text: tls_text(&problems),
        }
    }
}

impl From<BuildError> for StartError {
    fn from(error: BuildError) -> StartError {
        StartError {
            exit_code: 78,
            text: error.to_string(),
        }
    }
}

impl From<KeeperError> for StartError {
    fn from(error: KeeperError) -> StartError {
        StartError {
            exit_code: error.exit_code(),
            text: error.to_string(),
        }
    }
}

impl From<BindError> for StartError {
    fn from(error: BindError) -> StartError {
        StartError {
            exit_code: error.exit_code(),
            text: error.to_string(),
        }
    }
}

impl From<CountersError> for StartError {
    fn from(error: CountersError) -> StartError {
        StartError {
            exit_code: error.exit_code(),
            text: chain(&error),
        }
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> StartError {
        let way_out = if error.is_in_use() {
            "; stop it first, or set another store.path"
        } else {
            ""
        };
        StartError {
            exit_code: error.exit_code(),
            text: format!("{error}{way_out}"),
        }
    }
}

/// All problems of the certificates, a line each.
pub(crate) fn tls_text(problems: &[TlsProblem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
