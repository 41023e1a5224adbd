//! What can go wrong with the store as a whole, and the exit code each fault ends with.

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Exit code of a refused act: the operator asked for something that cannot be.
pub const EXIT_REFUSED: u8 = 1;
/// Exit code of a wrong command line.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of something that is away or in use.
pub const EXIT_UNAVAILABLE: u8 = 69;
/// Exit code of a missing permission.
pub const EXIT_PERMISSION: u8 = 77;
/// Exit code of a configuration, or a store, that cannot be used as it is.
pub const EXIT_CONFIG: u8 = 78;

/// Why the store cannot be opened, read or written.
#[derive(Debug)]
pub enum StoreError {
    /// Another process holds the lock.
    InUse {
        /// The store's directory.
        directory: PathBuf,
        /// Who holds it, as far as the lock file says.
        pid: Option<u32>,
    },
    /// The file system refuses.
    Denied {
        /// What is refused.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system fails in another way.
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Written by a later Portcullis.
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The latest schema version that this build knows.
        known: i64,
    },
    /// Not a database, or not one of ours, or damaged. It is left as it is.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The shared store does not answer, or not with what can be used now.
    Away {
        /// Which.
        server: String,
        /// What was said.
        what: String,
    },
    /// The shared store, or this node's copy of it, cannot be used as it is.
    Unfit {
        /// Which.
        server: String,
        /// What is wrong, and the way out.
        what: String,
    },
    /// Another node changed the shared store first; the act is judged anew.
    Behind,
    /// The database fails in another way, for example because the disk is full.
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// Sorts an error of the file system.
    #[must_use]
    pub fn from_io(path: &Path, source: io::Error) -> StoreError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                StoreError::Denied { path, source }
            }
            _ => StoreError::Io { path, source },
        }
    }

    /// Sorts an error of SQLite.
    #[must_use]
    pub fn from_sqlite(path: &Path, source: rusqlite::Error) -> StoreError {
        let path = path.to_owned();
        match &source {
            rusqlite::Error::FromSqlConversionFailure(_, _, cause) => StoreError::Damaged {
                what: cause.to_string(),
                path,
            },
            _ => match source.sqlite_error_code() {
                Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Damaged {
                    what: source.to_string(),
                    path,
                },
                Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                    StoreError::Denied {
                        source: io::Error::other(source.to_string()),
                        path,
                    }
                }
                _ => StoreError::Database { path, source },
            },
        }
    }

    /// The shared store is away.
    #[must_use]
    pub fn away(server: String, what: &str) -> StoreError {
        StoreError::Away {
            server,
            what: what.to_owned(),
        }
    }

    /// Whether another process holds the store.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self, StoreError::InUse { .. })
    }

    /// The exit code of a command that ends with this.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            StoreError::InUse { .. }
            | StoreError::Io { .. }
            | StoreError::Away { .. }
            | StoreError::Behind
            | StoreError::Database { .. } => EXIT_UNAVAILABLE,
            StoreError::Denied { .. } => EXIT_PERMISSION,
            StoreError::Newer { .. } | StoreError::Damaged { .. } | StoreError::Unfit { .. } => {
                EXIT_CONFIG
            }
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::InUse { directory, pid } => {
                write!(out, "store \"{}\" is in use by ", directory.display())?;
                match pid {
                    Some(pid) => write!(out, "another portcullis, pid {pid}"),
                    None => write!(out, "another process"),
                }
            }
            StoreError::Denied { path, source } => write!(
                out,
                "\"{}\" cannot be read or written: {source}; give this user read and write access to the store's directory",
                path.display()
            ),
            StoreError::Io { path, source } => write!(out, "\"{}\": {source}", path.display()),
            StoreError::Newer { path, found, known } => write!(
                out,
                "\"{}\" has schema version {found}, and this portcullis knows versions up to {known}: it was written by a later portcullis; run that one, or restore a backup",
                path.display()
            ),
            StoreError::Damaged { path, what } => write!(
                out,
                "\"{}\" is damaged or no store of portcullis ({what}); it is left untouched: restore a backup, or move it away to begin with an empty store",
                path.display()
            ),
            StoreError::Away { server, what } => {
                write!(out, "the shared store ({server}) is away: {what}")
            }
            StoreError::Unfit { server, what } => {
                write!(out, "the shared store ({server}) cannot be used: {what}")
            }
            StoreError::Behind => {
                out.write_str("other nodes change the shared store all the while; try again")
            }
            StoreError::Database { path, source } => {
                write!(out, "\"{}\": {source}", path.display())
            }
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Denied { source, .. } | StoreError::Io { source, .. } => Some(source),
            StoreError::Database { source, .. } => Some(source),
            StoreError::InUse { .. }
            | StoreError::Newer { .. }
            | StoreError::Away { .. }
            | StoreError::Unfit { .. }
            | StoreError::Behind
            | StoreError::Damaged { .. } => None,
        }
    }
}
