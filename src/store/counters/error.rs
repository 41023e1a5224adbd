//! Why `counters.db` cannot be used.

use std::fmt;
use std::path::PathBuf;

use rusqlite::ErrorCode;
use rusqlite::types::Type;

use crate::store::error::EXIT_CONFIG;
use crate::store::error::EXIT_PERMISSION;
use crate::store::error::EXIT_UNAVAILABLE;

use super::tables::FORMAT;

/// Why the file cannot be used. The file is left as it is.
#[derive(Debug)]
pub enum CountersError {
    /// It was written by a later version.
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// It is damaged, or not ours.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It cannot be made.
    Unmade {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system or SQLite refused.
    Failed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

/// What went wrong, before it is known in which file.
#[derive(Debug)]
pub(in crate::store) enum Problem {
    Newer(i64),
    Damaged(String),
    Sqlite(rusqlite::Error),
    Io(std::io::Error),
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Problem {
        Problem::Sqlite(error)
    }
}

impl Problem {
    pub(in crate::store) fn at(self, path: PathBuf) -> CountersError {
        match self {
            Problem::Newer(found) => CountersError::Newer { path, found },
            Problem::Damaged(what) => CountersError::Damaged { path, what },
            Problem::Sqlite(source) if is_damage(&source) => CountersError::Damaged {
                path,
                what: source.to_string(),
            },
            Problem::Sqlite(source) => CountersError::Failed { path, source },
            Problem::Io(source) => CountersError::Unmade { path, source },
        }
    }
}

/// What no save can have written in the journal.
pub(super) fn senseless() -> rusqlite::Error {
    nonsense("the journal makes no sense".to_owned())
}

/// What no save can have written.
pub(super) fn nonsense(what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, what.into())
}

fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::Utf8Error(..)
        | rusqlite::Error::QueryReturnedNoRows => true,
        _ => matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        ),
    }
}

impl fmt::Display for CountersError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CountersError::Newer { path, found } => write!(
                out,
                "{}: format {found} is from a later version, this one knows format {FORMAT}: run the later version, or move the file away to count from zero",
                path.display()
            ),
            CountersError::Damaged { path, what } => write!(
                out,
                "{}: cannot be read: {what}: put back a copy, or move the file away to count from zero",
                path.display()
            ),
            CountersError::Failed { path, .. } => {
                write!(out, "{}: cannot be used", path.display())
            }
            CountersError::Unmade { path, .. } => {
                write!(out, "{}: cannot be made", path.display())
            }
        }
    }
}

impl std::error::Error for CountersError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CountersError::Failed { source, .. } => Some(source),
            CountersError::Unmade { source, .. } => Some(source),
            CountersError::Newer { .. } | CountersError::Damaged { .. } => None,
        }
    }
}

impl CountersError {
    /// What the process exits with: 78 when the file must be looked at, 77 when permission is missing, else 69.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            CountersError::Newer { .. } | CountersError::Damaged { .. } => EXIT_CONFIG,
            CountersError::Unmade { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                EXIT_PERMISSION
            }
            CountersError::Unmade { .. } | CountersError::Failed { .. } => EXIT_UNAVAILABLE,
        }
    }
}
