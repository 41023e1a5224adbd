//! `counters.db`: limits used and usage, so that a restart or a `kill -9` forgets none, or at most what was admitted since the last save.

use std::fmt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use rusqlite::Connection;
use rusqlite::ErrorCode;
use rusqlite::OptionalExtension;
use rusqlite::Rows;
use rusqlite::Transaction;
use rusqlite::params;

use crate::clock::Now;
use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::model::tenant::TenantId;
use crate::store::alerts;
use crate::store::error::EXIT_CONFIG;
use crate::store::error::EXIT_PERMISSION;
use crate::store::error::EXIT_UNAVAILABLE;
use crate::store::history;
use crate::store::history::HourRow;
use crate::store::lock::own_like_directory;
use crate::store::whole;

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
    /// Times in order, each with what was taken then.
    pub log: Vec<(i64, u32)>,
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
    /// Counters that changed.
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
    path: PathBuf,
    boot_id: String,
    /// Whether each save is on the disk when it returns.
    synced: bool,
}

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
        let loaded = make(directory, &path, now, boot_id)
            .and_then(|()| Connection::open(&path).map_err(Problem::Sqlite))
            .and_then(|connection| load(connection, now, boot_id));
        match loaded {
            Ok((connection, rows)) => {
                let counters = Counters {
                    connection,
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

    /// Writes a batch, all of it or none. A `kill -9` afterwards forgets nothing of it; a loss of power may, unless saves are synced.
    ///
    /// # Errors
    /// `CountersError`; nothing was written, and the batch should be offered again.
    pub fn save(&mut self, batch: &Batch<'_>, now: Now) -> Result<(), CountersError> {
        write(&mut self.connection, batch, now, &self.boot_id)
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
        read_usage(&self.connection, keys).map_err(|problem| problem.at(self.path.clone()))
    }
}

/// What went wrong, before it is known in which file.
#[derive(Debug)]
pub(super) enum Problem {
    Newer(i64),
    Damaged(String),
    Sqlite(rusqlite::Error),
    Io(std::io::Error),
}

/// Makes `counters.db`, for its owner alone, under another name and moves it there whole: an empty or half-made one is then always damage
/// and never taken for "nothing was used". SQLite gives the files beside it the same mode.
fn make(directory: &Path, path: &Path, now: Now, boot_id: &str) -> Result<(), Problem> {
    if path.try_exists().map_err(Problem::Io)? {
        return Ok(());
    }
    let fresh = directory.join("counters.db.new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Problem::Io(error));
        }
        _ => {}
    }
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|_| own_like_directory(directory, &fresh))
        .map_err(Problem::Io)?;
    let mut connection = Connection::open(&fresh)?;
    lay_out(&mut connection, now, boot_id)?;
    connection.close().map_err(|(_connection, error)| error)?;
    std::fs::rename(&fresh, path).map_err(Problem::Io)
}

/// Makes a new database a counter file without counters.
pub(super) fn lay_out(
    connection: &mut Connection,
    now: Now,
    boot_id: &str,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute_batch(history::SCHEMA)?;
    transaction.execute_batch(alerts::SCHEMA)?;
    write_meta(&transaction, now, boot_id)?;
    transaction.commit()
}

impl From<rusqlite::Error> for Problem {
    fn from(error: rusqlite::Error) -> Problem {
        Problem::Sqlite(error)
    }
}

impl Problem {
    pub(super) fn at(self, path: PathBuf) -> CountersError {
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

pub(super) fn load(
    mut connection: Connection,
    now: Now,
    boot_id: &str,
) -> Result<(Connection, Vec<Row>), Problem> {
    connection.busy_timeout(BUSY)?;
    whole::leave_alone(&connection, true)?;
    let transaction = connection.transaction()?;
    let found = check_format(&transaction)?;
    if let Some(what) = whole::damage(&transaction)? {
        return Err(Problem::Damaged(what));
    }
    if found < FORMAT {
        transaction.execute_batch(history::SCHEMA)?;
        transaction.execute_batch(alerts::SCHEMA)?;
        transaction.execute("UPDATE meta SET format = ?1", [FORMAT])?;
    }
    move_to_this_boot(&transaction, now, boot_id)?;
    let rows = read_rows(&transaction)?;
    transaction.commit()?;
    // Only now: a file that is not ours must not be changed, and the journal mode is written to the file.
    whole::leave_alone(&connection, false)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok((connection, rows))
}

/// The format that the file has: this one, or an earlier one.
fn check_format(transaction: &Transaction<'_>) -> Result<i64, Problem> {
    let ours: bool = transaction.query_row(
        "SELECT count(*) = 1 FROM sqlite_schema WHERE type = 'table' AND name = 'meta'",
        [],
        |row| row.get(0),
    )?;
    if !ours {
        return Err(Problem::Damaged("it is not a counter file".to_owned()));
    }
    let format: Option<i64> = transaction
        .query_row("SELECT format FROM meta", [], |row| row.get(0))
        .optional()?;
    match format {
        Some(found @ 1..=FORMAT) => Ok(found),
        Some(found) if found > FORMAT => Err(Problem::Newer(found)),
        Some(found) => Err(Problem::Damaged(format!("format {found} never existed"))),
        None => Err(Problem::Damaged("its meta table is empty".to_owned())),
    }
}

/// Moves every saved time from the clock of the boot that wrote it to this boot's.
fn move_to_this_boot(
    transaction: &Transaction<'_>,
    now: Now,
    boot_id: &str,
) -> rusqlite::Result<()> {
    let (saved_boot, saved_offset): (String, i64) =
        transaction.query_row("SELECT boot_id, clock_offset FROM meta", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    if saved_boot == boot_id && !boot_id.is_empty() {
        return Ok(());
    }
    let shift = saved_offset.saturating_sub(clock_offset(now));
    transaction.execute(
        "UPDATE limit_state SET quota_opened = quota_opened + ?1, burst_base = burst_base + ?1",
        [shift],
    )?;
    write_meta(transaction, now, boot_id)
}

fn write_meta(transaction: &Transaction<'_>, now: Now, boot_id: &str) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT OR REPLACE INTO meta(id, format, boot_id, clock_offset) VALUES (1, ?1, ?2, ?3)",
        params![FORMAT, boot_id, clock_offset(now)],
    )?;
    Ok(())
}

/// Microseconds from the monotonic clock to the wall clock.
fn clock_offset(now: Now) -> i64 {
    signed(now.wall.0).saturating_sub_unsigned(now.mono.0)
}

fn read_rows(transaction: &Transaction<'_>) -> Result<Vec<Row>, Problem> {
    let mut statement = transaction.prepare(
        "SELECT subject, quota_opened, quota_opened_wall, quota_seconds, quota_used, burst_base, burst_seconds, burst_log FROM limit_state",
    )?;
    let mut found = statement.query([])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        rows.push(read_row(row)?);
    }
    Ok(rows)
}

fn read_row(row: &rusqlite::Row<'_>) -> Result<Row, Problem> {
    let text: String = row.get(0)?;
    let damaged = || Problem::Damaged(format!("the row of {text:?} makes no sense"));
    let subject = parse_subject(&text).ok_or_else(damaged)?;
    let opened: Option<i64> = row.get(1)?;
    let quota = match opened {
        Some(opened_micros) => Some(SavedQuota {
            opened_micros,
            opened_wall: Wall(unsigned(row.get(2)?).ok_or_else(damaged)?),
            seconds: length(row.get(3)?).ok_or_else(damaged)?,
            used: row.get(4)?,
        }),
        None => None,
    };
    let base: Option<i64> = row.get(5)?;
    let burst = match base {
        Some(base) => Some(SavedBurst {
            seconds: length(row.get(6)?).ok_or_else(damaged)?,
            log: unpack(base, row.get_ref(7)?.as_blob().map_err(|_| damaged())?)
                .ok_or_else(damaged)?,
        }),
        None => None,
    };
    Ok(Row {
        subject,
        quota,
        burst,
    })
}

fn read_usage(connection: &Connection, keys: Option<&[KeyId]>) -> Result<Vec<UsageRow>, Problem> {
    let all = "SELECT key_id, last_used_unix, total FROM usage";
    let mut rows = Vec::new();
    match keys {
        None => read_usage_rows(&mut connection.prepare(all)?.query([])?, &mut rows)?,
        Some(keys) => {
            let mut one = connection.prepare_cached(&format!("{all} WHERE key_id = ?1"))?;
            for key in keys {
                read_usage_rows(&mut one.query([key_text(*key)])?, &mut rows)?;
            }
        }
    }
    Ok(rows)
}

fn read_usage_rows(found: &mut Rows<'_>, rows: &mut Vec<UsageRow>) -> Result<(), Problem> {
    while let Some(row) = found.next()? {
        let text: String = row.get(0)?;
        let damaged = || Problem::Damaged(format!("the usage of {text:?} makes no sense"));
        rows.push(UsageRow {
            key: parse_key(&text).ok_or_else(damaged)?,
            last_used_unix_seconds: unsigned(row.get(1)?).ok_or_else(damaged)?,
            total: unsigned(row.get(2)?).ok_or_else(damaged)?,
        });
    }
    Ok(())
}

pub(super) fn write(
    connection: &mut Connection,
    batch: &Batch<'_>,
    now: Now,
    boot_id: &str,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    write_meta(&transaction, now, boot_id)?;
    {
        let mut remove =
            transaction.prepare_cached("DELETE FROM limit_state WHERE subject = ?1")?;
        for subject in batch.removed {
            remove.execute([subject.to_string()])?;
        }
        let mut put = transaction.prepare_cached(
            "INSERT OR REPLACE INTO limit_state VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        // Whoever exports sorts: pages are then written once each, which is several times faster than random order.
        for row in batch.rows {
            let base = row.burst.as_ref().and_then(|burst| burst.log.first());
            put.execute(params![
                row.subject.to_string(),
                row.quota.map(|quota| quota.opened_micros),
                row.quota.map(|quota| signed(quota.opened_wall.0)),
                row.quota.map(|quota| quota.seconds),
                row.quota.map(|quota| quota.used),
                base.map(|(at, _)| at),
                row.burst.as_ref().map(|burst| burst.seconds),
                row.burst.as_ref().map(|burst| pack(&burst.log)),
            ])?;
        }
        let mut add = transaction.prepare_cached(
            "INSERT INTO usage VALUES (?1, ?2, ?3) ON CONFLICT(key_id) DO UPDATE
             SET last_used_unix = max(last_used_unix, excluded.last_used_unix), total = total + excluded.total",
        )?;
        for row in batch.usage {
            let tally = &row.tally;
            // A key that was only refused was not used.
            if tally.last_used_unix_seconds > 0 || tally.requests() > 0 {
                add.execute(params![
                    key_text(row.key),
                    signed(tally.last_used_unix_seconds),
                    signed(tally.requests()),
                ])?;
            }
        }
        history::add(&transaction, batch.usage, now.wall)?;
    }
    transaction.commit()
}

/// Twelve bytes for each time: microseconds after the first, and the count, both little-endian.
fn pack(log: &[(i64, u32)]) -> Vec<u8> {
    let base = log.first().map_or(0, |(at, _)| *at);
    let mut packed = Vec::with_capacity(log.len() * PACKED_BYTES);
    for (at, count) in log {
        packed.extend_from_slice(&at.saturating_sub(base).to_le_bytes());
        packed.extend_from_slice(&count.to_le_bytes());
    }
    packed
}

/// A window has a length.
fn length(seconds: u32) -> Option<u32> {
    (seconds > 0).then_some(seconds)
}

/// `None` where times do not go forward or the counts are more than there can be: then another hand wrote it.
fn unpack(base: i64, packed: &[u8]) -> Option<Vec<(i64, u32)>> {
    if !packed.len().is_multiple_of(PACKED_BYTES) {
        return None;
    }
    let mut total: u32 = 0;
    let mut latest = 0;
    packed
        .chunks_exact(PACKED_BYTES)
        .enumerate()
        .map(|(index, chunk)| {
            let after = i64::from_le_bytes(chunk[..8].try_into().ok()?);
            let count = u32::from_le_bytes(chunk[8..].try_into().ok()?);
            total = total.checked_add(count)?;
            // The first is the base itself.
            let forward = after >= latest && (index > 0 || after == 0);
            latest = after;
            forward.then_some((base.checked_add(after)?, count))
        })
        .collect()
}

/// SQLite's integers are signed.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> Option<u64> {
    u64::try_from(number).ok()
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

pub(super) const FILE: &str = "counters.db";

/// 2 has usage by the hour beside the usage of a key's life, and alerts.
const FORMAT: i64 = 2;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

const BUSY: std::time::Duration = std::time::Duration::from_secs(2);

const PACKED_BYTES: usize = 12;

/// Times are microseconds on the monotonic clock of the boot that `meta` names; `clock_offset` leads from there to the wall clock.
const SCHEMA: &str = "
CREATE TABLE meta(
  id INTEGER PRIMARY KEY CHECK(id = 1),
  format INTEGER NOT NULL,
  boot_id TEXT NOT NULL,
  clock_offset INTEGER NOT NULL
) STRICT;
CREATE TABLE limit_state(
  subject TEXT PRIMARY KEY NOT NULL,
  quota_opened INTEGER,
  quota_opened_wall INTEGER,
  quota_seconds INTEGER,
  quota_used INTEGER,
  burst_base INTEGER,
  burst_seconds INTEGER,
  burst_log BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE usage(
  key_id TEXT PRIMARY KEY NOT NULL,
  last_used_unix INTEGER NOT NULL,
  total INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;

    const WALL: u64 = 1_700_000_000_000_000;

    fn now(mono: u64, wall: u64) -> Now {
        Now {
            mono: Mono(mono),
            wall: Wall(wall),
        }
    }

    fn key(byte: u8) -> KeyId {
        KeyId([byte; 12])
    }

    fn rows() -> Vec<Row> {
        vec![
            Row {
                subject: Subject::Key(key(b'a')),
                quota: Some(SavedQuota {
                    opened_micros: 5_000_000,
                    opened_wall: Wall(WALL + 5_000_000),
                    seconds: 3_600,
                    used: 73,
                }),
                burst: Some(SavedBurst {
                    seconds: 60,
                    log: vec![(5_000_000, 1), (5_000_007, 70), (9_000_000, 2)],
                }),
            },
            Row {
                subject: Subject::Tenant(TenantId::new("acme.co_1").unwrap()),
                quota: None,
                burst: Some(SavedBurst {
                    seconds: 1,
                    log: vec![(-3, 1)],
                }),
            },
        ]
    }

    fn save(counters: &mut Counters, rows: &[Row], now: Now) {
        let batch = Batch {
            rows,
            ..Batch::default()
        };
        counters.save(&batch, now).unwrap();
    }

    #[test]
    fn saved_rows_come_back_exactly_in_the_same_boot() {
        let directory = tempfile::tempdir().unwrap();
        let start = now(10_000_000, WALL + 10_000_000);
        let (mut counters, found) = Counters::open_in_boot(directory.path(), start, "one").unwrap();
        assert_eq!(found, []);
        save(&mut counters, &rows(), start);
        drop(counters);
        // The wall clock fell back by a day in between: within one boot it does not count.
        let later = now(11_000_000, WALL - 86_400_000_000);
        let (mut counters, found) = Counters::open_in_boot(directory.path(), later, "one").unwrap();
        assert_eq!(found, rows());
        let removed = [Subject::Key(key(b'a'))];
        let batch = Batch {
            removed: &removed,
            ..Batch::default()
        };
        counters.save(&batch, later).unwrap();
        drop(counters);
        let (_, found) = Counters::open_in_boot(directory.path(), later, "one").unwrap();
        assert_eq!(found, rows()[1..]);
    }

    /// The machine was off for 100 s; its monotonic clock began again at zero.
    #[test]
    fn times_move_to_the_new_clock_after_a_reboot() {
        let directory = tempfile::tempdir().unwrap();
        let start = now(10_000_000, WALL + 10_000_000);
        let (mut counters, _) = Counters::open_in_boot(directory.path(), start, "one").unwrap();
        save(&mut counters, &rows(), start);
        drop(counters);
        let shift = 10_000_000 + 100_000_000 - 2_000_000;
        let mut expected = rows();
        expected[0].quota.as_mut().unwrap().opened_micros -= shift;
        for row in &mut expected {
            for (at, _) in &mut row.burst.as_mut().unwrap().log {
                *at -= shift;
            }
        }
        let rebooted = now(2_000_000, WALL + 110_000_000);
        // The second start finds them moved already, although nothing was saved in between.
        for boot in ["two", "two"] {
            let (_, found) = Counters::open_in_boot(directory.path(), rebooted, boot).unwrap();
            assert_eq!(found, expected);
        }
        // Without a boot id nothing is known of the clock, so the wall clock decides.
        let unknown = now(3_000_000, WALL + 111_000_000);
        let (_, found) = Counters::open_in_boot(directory.path(), unknown, "").unwrap();
        assert_eq!(found, expected);
    }

    /// ASKS 8: usage adds up over saves.
    #[test]
    fn usage_adds_up() {
        let directory = tempfile::tempdir().unwrap();
        let row = |byte, last_used_unix_seconds, total| UsageRow {
            key: key(byte),
            last_used_unix_seconds,
            total,
        };
        let did = |byte, last_used_unix_seconds, success| HourRow {
            key: key(byte),
            hour: 7,
            tally: history::Tally {
                last_used_unix_seconds,
                success,
                ..history::Tally::default()
            },
        };
        for usage in [
            vec![did(b'a', 50, 2), did(b'b', 7, 1), did(b'c', 0, 0)],
            vec![did(b'a', 40, 3)],
        ] {
            let (mut counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
            let batch = Batch {
                usage: &usage,
                ..Batch::default()
            };
            counters.save(&batch, now(1, WALL)).unwrap();
        }
        let (counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
        assert_eq!(
            counters.usage(None).unwrap(),
            [row(b'a', 50, 5), row(b'b', 7, 1)]
        );
    }

    /// A file of the version before gets the table of hours, and keeps what it counted.
    #[test]
    fn a_file_of_format_1_is_brought_forward() {
        let directory = tempfile::tempdir().unwrap();
        let (mut counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
        save(&mut counters, &rows(), now(1, WALL));
        let back = "DROP TABLE usage_hour; DROP TABLE alert; UPDATE meta SET format = 1";
        counters.connection.execute_batch(back).unwrap();
        drop(counters);
        for _ in 0..2 {
            let (counters, found) = Counters::open(directory.path(), now(1, WALL)).unwrap();
            assert_eq!(found, rows());
            let hours = "SELECT count(*) FROM usage_hour";
            let count: i64 = counters
                .connection
                .query_row(hours, [], |row| row.get(0))
                .unwrap();
            assert_eq!(count, 0);
        }
    }

    /// ASKS 27: what cannot be read is named and left as it is.
    #[test]
    fn unreadable_files_are_named_and_kept() {
        let make = |sql: &str| {
            let directory = tempfile::tempdir().unwrap();
            let (mut counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
            save(&mut counters, &rows(), now(1, WALL));
            counters.connection.execute_batch(sql).unwrap();
            drop(counters);
            directory
        };
        let scribble = |bytes: &[u8], at: usize| {
            let directory = make("");
            let path = directory.path().join(FILE);
            let mut content = std::fs::read(&path).unwrap();
            content[at..at + bytes.len()].copy_from_slice(bytes);
            std::fs::write(&path, content).unwrap();
            directory
        };
        let foreign = {
            let directory = tempfile::tempdir().unwrap();
            let other = Connection::open(directory.path().join(FILE)).unwrap();
            other.execute_batch("CREATE TABLE other(x)").unwrap();
            directory
        };
        let cases = [
            (
                make("UPDATE meta SET format = 3"),
                "format 3 is from a later version",
            ),
            (make("UPDATE meta SET format = 0"), "format 0 never existed"),
            (make("DELETE FROM meta"), "its meta table is empty"),
            (
                make("UPDATE limit_state SET burst_log = x'0102'"),
                "makes no sense",
            ),
            (
                make("UPDATE limit_state SET burst_log = NULL"),
                "makes no sense",
            ),
            // Found by the property: they were taken, the last two with times that no save could have written.
            (
                make("UPDATE limit_state SET quota_seconds = 0 WHERE quota_seconds > 0"),
                "makes no sense",
            ),
            (
                make("UPDATE limit_state SET burst_seconds = 0 WHERE burst_seconds > 0"),
                "makes no sense",
            ),
            (
                make(
                    "UPDATE limit_state SET burst_log = x'ffffffffffffff7f01000000000000000000000001000000'",
                ),
                "makes no sense",
            ),
            (
                make(
                    "UPDATE limit_state SET burst_base = 9223372036854775807, burst_log = x'010000000000000001000000'",
                ),
                "makes no sense",
            ),
            (
                make("UPDATE limit_state SET subject = 'x:y' WHERE subject LIKE 'k:%'"),
                "the row of \"x:y\" makes no sense",
            ),
            (
                make("UPDATE limit_state SET quota_used = -1 WHERE quota_used > 0"),
                "cannot be read",
            ),
            (scribble(b"SQLite format 9", 0), "cannot be read"),
            (scribble(&[0xff; 4_096], 4_096), "cannot be read"),
            (foreign, "it is not a counter file"),
        ];
        for (directory, says) in cases {
            let path = directory.path().join(FILE);
            let before = std::fs::read(&path).unwrap();
            let error = Counters::open(directory.path(), now(1, WALL)).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(says), "{text}");
            assert!(text.contains(&path.display().to_string()), "{text}");
            assert!(std::fs::read(&path).unwrap() == before, "{text}");
        }
    }

    #[test]
    fn directory_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("nowhere");
        let error = Counters::open(&missing, now(1, WALL)).unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
}
