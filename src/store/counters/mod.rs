//! `counters.db`: limits used and usage, so that a restart or a `kill -9` forgets none, or at most what was admitted since the last save.

use std::fmt;
use std::path::Path;
use std::path::PathBuf;

use rusqlite::Connection;
use smallvec::SmallVec;

use crate::clock::Now;
use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::model::tenant::TenantId;
use crate::store::history::HourRow;

mod error;
mod format4;
pub(super) mod journal;
mod lines;
mod part;
mod sum;
pub(super) mod tables;
#[cfg(test)]
mod tests;

pub use error::CountersError;
pub(super) use error::Problem;
pub use tables::JOURNAL_FROM;

/// Whose counters they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A key, `k:` and its id without `key_`.
    Key(KeyId),
    /// A tenant, `t:` and its id.
    Tenant(TenantId),
}

/// The counters of one subject. Times are microseconds on this boot's monotonic clock; what happened before the boot is negative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whose.
    pub subject: Subject,
    /// The quota window, if one is open.
    pub quota: Option<SavedQuota>,
    /// The burst window, if it is not empty.
    pub burst: Option<SavedBurst>,
}

/// An open quota window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedQuota {
    /// When it opened.
    pub opened_micros: i64,
    /// The same on the wall clock; dates `Reset`.
    pub opened_wall: Wall,
    /// Its length; at least 1.
    pub seconds: u32,
    /// What was taken from it.
    pub used: u32,
}

/// A burst window that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedBurst {
    /// Its length; at least 1.
    pub seconds: u32,
    /// `None`: the log is all there is. Else it is what is new, and comes behind those of the save before whose times lie within these two, which are
    /// the first and the last of them. Only in a `Batch`; what is read is whole.
    pub behind: Option<(i64, i64)>,
    /// Times in order, each with what was taken then.
    pub log: SmallVec<[(i64, u32); 1]>,
}

/// What one key did in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// Which key.
    pub key: KeyId,
    /// Unix seconds of its last request.
    pub last_used_unix_seconds: u64,
    /// Admitted requests that have ended.
    pub total: u64,
}

/// What one save writes, in one transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// Counters that changed. A batch of fewer than `JOURNAL_FROM` changes need not, and should not, have bursts of which only the new part is said.
    pub rows: &'a [Row],
    /// Subjects that have none any more.
    pub removed: &'a [Subject],
    /// Usage to add, in order of hours and keys.
    pub usage: &'a [HourRow],
}

/// The open file. A value exists only after all that was saved has been read, so nothing is overwritten before a successful load (ASKS 27).
/// Every call blocks; none belongs on a data worker.
#[derive(Debug)]
pub struct Counters {
    connection: Connection,
    hand: journal::Hand,
    path: PathBuf,
    boot_id: String,
    /// Whether each save is on the disk when it returns.
    synced: bool,
}

impl Counters {
    /// Whether there is a file yet.
    #[must_use]
    pub fn exist(directory: &Path) -> bool {
        directory.join(FILE).exists()
    }

    /// Opens `counters.db` in the store directory, made if there is none, and reads all of it. After a reboot the saved times are moved onto the
    /// new monotonic clock by way of the wall clock; within one boot they are exact, whatever the wall clock did (S30).
    ///
    /// # Errors
    /// `CountersError`; a file of a later version or a damaged one is not touched.
    pub fn open(directory: &Path, now: Now) -> Result<(Counters, Vec<Row>), CountersError> {
        // Without a boot id every start counts as a reboot.
        let boot_id = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        Counters::open_in_boot(directory, now, boot_id.trim())
    }

    fn open_in_boot(
        directory: &Path,
        now: Now,
        boot_id: &str,
    ) -> Result<(Counters, Vec<Row>), CountersError> {
        let path = directory.join(FILE);
        let loaded = tables::make(directory, &path, now, boot_id)
            .and_then(|()| Connection::open(&path).map_err(Problem::Sqlite))
            .and_then(|connection| tables::load(connection, now, boot_id));
        match loaded {
            Ok((connection, rows)) => {
                let counters = Counters {
                    connection,
                    hand: journal::Hand::default(),
                    path,
                    boot_id: boot_id.to_owned(),
                    synced: false,
                };
                Ok((counters, rows))
            }
            Err(problem) => Err(problem.at(path)),
        }
    }

    /// Says whether every later save is synced, so that not even a loss of power forgets it.
    ///
    /// # Errors
    /// `CountersError`; it stays as it was.
    pub fn sync_saves(&mut self, synced: bool) -> Result<(), CountersError> {
        if self.synced != synced {
            let level = if synced { "FULL" } else { "NORMAL" };
            let set = self.connection.pragma_update(None, "synchronous", level);
            set.map_err(|error| Problem::Sqlite(error).at(self.path.clone()))?;
            self.synced = synced;
        }
        Ok(())
    }

    /// Writes a batch, all of it or none; a large one into the journal, of which each save merges a part or folds it into the tables. A `kill -9` afterwards forgets nothing of it; a loss of power may, unless saves are synced.
    ///
    /// # Errors
    /// `CountersError`; nothing was written, and the batch should be offered again.
    pub fn save(&mut self, batch: &Batch<'_>, now: Now) -> Result<(), CountersError> {
        tables::write(
            &mut self.connection,
            &mut self.hand,
            batch,
            now,
            &self.boot_id,
        )
        .map_err(|error| Problem::Sqlite(error).at(self.path.clone()))
    }

    /// Does this with the file.
    pub(super) fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CountersError> {
        work(&mut self.connection).map_err(|error| Problem::Sqlite(error).at(self.path.clone()))
    }

    /// What these keys, or all, did, up to the last save.
    ///
    /// # Errors
    /// `CountersError` when the file cannot be read.
    pub fn usage(&self, keys: Option<&[KeyId]>) -> Result<Vec<UsageRow>, CountersError> {
        tables::read_usage(&self.connection, keys).map_err(|problem| problem.at(self.path.clone()))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Key(id) => write!(out, "k:{}", key_text(*id)),
            Subject::Tenant(id) => write!(out, "t:{}", id.as_str()),
        }
    }
}

fn parse_subject(text: &str) -> Option<Subject> {
    if let Some(id) = text.strip_prefix("k:") {
        return parse_key(id).map(Subject::Key);
    }
    let id = text.strip_prefix("t:")?;
    TenantId::new(id).ok().map(Subject::Tenant)
}

pub(super) fn key_text(id: KeyId) -> String {
    id.0.iter().copied().map(char::from).collect()
}

pub(super) fn parse_key(text: &str) -> Option<KeyId> {
    let bytes = <[u8; 12]>::try_from(text.as_bytes()).ok()?;
    bytes
        .iter()
        .all(u8::is_ascii_alphanumeric)
        .then_some(KeyId(bytes))
}

pub(super) const FILE: &str = "counters.db";

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
