//! The log as readers see it.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::OpenFlags;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;

use crate::clock::Wall;
use crate::store::audit::line::COLUMNS;
use crate::store::audit::line::Line;
use crate::store::audit::line::Raw;
use crate::store::error::StoreError;
use crate::store::rows::micros;

/// Which lines are asked for; what is left out does not narrow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Which {
    /// About this key, tenant or token.
    pub subject: Option<String>,
    /// By this one.
    pub who: Option<String>,
    /// Not older, in seconds.
    pub since_seconds: Option<u64>,
    /// Before this line: how a reader goes on where the last answer ended.
    pub before: Option<u64>,
    /// At most so many; 1 to 1000, 100 when left out.
    pub limit: Option<u32>,
}

/// The log as readers see it, beside the one writer and without holding it up.
#[derive(Debug)]
pub struct Log {
    connection: Connection,
    path: PathBuf,
}

impl Log {
    /// Opens it to read only. `None` where there is no store yet, or one that an older version wrote last.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(directory: &Path) -> Result<Option<Log>, StoreError> {
        let path = directory.join("keys.db");
        let exists = path.try_exists();
        if !exists.map_err(|error| StoreError::from_io(&path, error))? {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags).and_then(|connection| {
            connection.busy_timeout(BUSY)?;
            let sql = "SELECT count(*) = 1 FROM sqlite_schema WHERE name = 'audit'";
            let there: bool = connection.query_row(sql, [], |row| row.get(0))?;
            Ok(there.then_some(connection))
        });
        match opened {
            Ok(connection) => Ok(connection.map(|connection| Log { connection, path })),
            Err(error) => Err(StoreError::from_sqlite(&path, error)),
        }
    }

    /// Lines, the latest first.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn lines(&self, which: &Which, now: Wall) -> Result<Vec<Line>, StoreError> {
        let since = which.since_seconds.map_or(0, |seconds| {
            let since = now.0.saturating_sub(seconds.saturating_mul(1_000_000));
            micros(Wall(since))
        });
        let before = which
            .before
            .map(|seq| i64::try_from(seq).unwrap_or(i64::MAX));
        let limit = which.limit.unwrap_or(100).clamp(1, LINES_MAX);
        self.read(|connection| {
            let mut statement = connection.prepare(&format!(
                "SELECT {COLUMNS} FROM audit WHERE at >= ?1 AND (?2 IS NULL OR seq < ?2)
                 AND (?3 IS NULL OR subject = ?3 OR result = ?3) AND (?4 IS NULL OR who = ?4)
                 ORDER BY seq DESC LIMIT ?5"
            ))?;
            let found = statement.query_map(
                params![since, before, which.subject, which.who, limit],
                |row| Raw::read(row).map(|raw| raw.line()),
            )?;
            found.collect()
        })
    }

    pub(super) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        query(&self.connection).map_err(|error| StoreError::from_sqlite(&self.path, error))
    }
}

/// Most lines of one answer.
const LINES_MAX: u32 = 1_000;

/// The one writer is soon done.
const BUSY: Duration = Duration::from_secs(2);
