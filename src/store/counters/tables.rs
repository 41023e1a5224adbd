//! The tables of `counters.db`: laid out, read, written.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Rows;
use rusqlite::Transaction;
use rusqlite::hooks::Wal;
use rusqlite::params;
use smallvec::SmallVec;

use crate::aside::step_aside;
use crate::clock::Now;
use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::store::alerts;
use crate::store::history;
use crate::store::history::HourRow;
use crate::store::lock::own_like_directory;
use crate::store::whole;

use super::Batch;
use super::Row;
use super::SavedBurst;
use super::SavedQuota;
use super::Subject;
use super::UsageRow;
use super::error::Problem;
use super::error::nonsense;
use super::format4;
use super::journal;
use super::key_text;
use super::lines::length;
use super::parse_key;
use super::parse_subject;

/// Makes `counters.db`, for its owner alone, under another name and moves it there whole: an empty or half-made one is then always damage
/// and never taken for "nothing was used". SQLite gives the files beside it the same mode.
pub(super) fn make(directory: &Path, path: &Path, now: Now, boot_id: &str) -> Result<(), Problem> {
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
pub(in crate::store) fn lay_out(
    connection: &mut Connection,
    now: Now,
    boot_id: &str,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute_batch(history::SCHEMA)?;
    transaction.execute_batch(alerts::SCHEMA)?;
    transaction.execute_batch(journal::SCHEMA)?;
    write_meta(&transaction, now, boot_id)?;
    transaction.commit()
}

pub(in crate::store) fn load(
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
    bring_forward(&transaction, found)?;
    move_to_this_boot(&transaction, now, boot_id)?;
    let mut rows = read_rows(&transaction)?;
    journal::lay_over(&transaction, &mut rows)?;
    transaction.commit()?;
    // Only now: a file that is not ours must not be changed, and the journal mode is written to the file.
    whole::leave_alone(&connection, false)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.progress_handler(STEPS, Some(let_others))?;
    connection.wal_hook(Some(check_point))?;
    Ok((connection, rows))
}

fn bring_forward(transaction: &Transaction<'_>, found: i64) -> rusqlite::Result<()> {
    if found < 2 {
        transaction.execute_batch(history::SCHEMA)?;
        transaction.execute_batch(alerts::SCHEMA)?;
    }
    match found {
        ..3 => transaction.execute_batch(journal::SCHEMA)?,
        3 | 4 => format4::bring_forward(transaction)?,
        _ => {}
    }
    if found < FORMAT {
        transaction.execute("UPDATE meta SET format = ?1", [FORMAT])?;
    }
    Ok(())
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
    // First, since some of its lines go on from what the tables say.
    journal::shift(transaction, shift, now)?;
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
    let mut statement = transaction.prepare(ROWS)?;
    let mut found = statement.query([])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        rows.push(read_row(row)?);
    }
    Ok(rows)
}

/// What the tables say of one subject.
pub(super) fn row_of(connection: &Connection, subject: &Subject) -> rusqlite::Result<Option<Row>> {
    let mut statement = connection.prepare_cached(&format!("{ROWS} WHERE subject = ?1"))?;
    let mut found = statement.query([subject.to_string()])?;
    let Some(row) = found.next()? else {
        return Ok(None);
    };
    read_row(row).map(Some).map_err(|problem| match problem {
        Problem::Sqlite(error) => error,
        Problem::Damaged(what) => nonsense(what),
        other => nonsense(format!("{other:?}")),
    })
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
            behind: None,
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

/// What these keys, or all, did, in order.
pub(super) fn read_usage(
    connection: &Connection,
    keys: Option<&[KeyId]>,
) -> Result<Vec<UsageRow>, Problem> {
    let all = "SELECT key_id, last_used_unix, total FROM usage";
    let mut rows = Vec::new();
    // One view of both: a save between the two would count what it folds twice, or not at all.
    let transaction = connection.unchecked_transaction()?;
    match keys {
        None => read_usage_rows(&mut transaction.prepare(all)?.query([])?, &mut rows)?,
        Some(keys) => {
            let mut one = transaction.prepare_cached(&format!("{all} WHERE key_id = ?1"))?;
            for key in keys {
                read_usage_rows(&mut one.query([key_text(*key)])?, &mut rows)?;
            }
        }
    }
    let journalled = journal::usage(&transaction, keys)?;
    if journalled.is_empty() {
        return Ok(rows);
    }
    let mut sums: BTreeMap<KeyId, UsageRow> = rows.into_iter().map(|row| (row.key, row)).collect();
    for row in journalled.iter().filter(|row| was_used(row)) {
        let sum = sums.entry(row.key).or_insert(UsageRow {
            key: row.key,
            last_used_unix_seconds: 0,
            total: 0,
        });
        let last = row.tally.last_used_unix_seconds;
        sum.last_used_unix_seconds = sum.last_used_unix_seconds.max(last);
        sum.total += row.tally.requests();
    }
    Ok(sums.into_values().collect())
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

pub(in crate::store) fn write(
    connection: &mut Connection,
    hand: &mut journal::Hand,
    batch: &Batch<'_>,
    now: Now,
    boot_id: &str,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let mut known = hand.clone();
    write_meta(&transaction, now, boot_id)?;
    let changes = batch.rows.len() + batch.removed.len() + batch.usage.len();
    // What stands in the journal is older than what comes now, and must not be laid over it later.
    let large = changes >= JOURNAL_FROM;
    if !large && all_whole(batch) && journal::is_empty(&transaction)? {
        put(&transaction, batch)?;
    } else {
        journal::append(&transaction, hand, batch, now)?;
        journal::tend(&transaction, &mut known, now, large)?;
    }
    history::let_go(&transaction, now.wall)?;
    transaction.commit()?;
    *hand = known;
    Ok(())
}

fn all_whole(batch: &Batch<'_>) -> bool {
    let mut bursts = batch.rows.iter().filter_map(|row| row.burst.as_ref());
    bursts.all(|burst| burst.behind.is_none())
}

/// Writes changes into the tables, bursts all whole. Whoever makes a batch sorts: pages are then written once each, which is several times faster than random order.
pub(super) fn put(transaction: &Transaction<'_>, batch: &Batch<'_>) -> rusqlite::Result<()> {
    let mut remove = transaction.prepare_cached("DELETE FROM limit_state WHERE subject = ?1")?;
    for subject in batch.removed {
        remove.execute([subject.to_string()])?;
    }
    let mut put = transaction.prepare_cached(
        "INSERT OR REPLACE INTO limit_state VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
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
    for row in batch.usage.iter().filter(|row| was_used(row)) {
        add.execute(params![
            key_text(row.key),
            signed(row.tally.last_used_unix_seconds),
            signed(row.tally.requests()),
        ])?;
    }
    history::add(transaction, batch.usage)
}

/// After a commit that left so many pages in the log: brings them into the file, in small portions and beside those who wait. At a thousand, as SQLite has
/// it, that takes five milliseconds at once. What cannot be done now is done after the next.
#[expect(clippy::unnecessary_wraps, reason = "what SQLite calls")]
fn check_point(wal: &mut Wal, pages: i32) -> rusqlite::Result<()> {
    if pages >= CHECK_POINT_PAGES {
        step_aside();
        let _ = wal.checkpoint();
    }
    Ok(())
}

/// A statement that has got so far lets others run, and goes on.
fn let_others() -> bool {
    step_aside();
    false
}

/// A key that was only refused was not used.
fn was_used(row: &HourRow) -> bool {
    row.tally.last_used_unix_seconds > 0 || row.tally.requests() > 0
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

/// `None` where times do not go forward or the counts are more than there can be: then another hand wrote it.
fn unpack(base: i64, packed: &[u8]) -> Option<SmallVec<[(i64, u32); 1]>> {
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

const ROWS: &str = "SELECT subject, quota_opened, quota_opened_wall, quota_seconds, quota_used, burst_base, burst_seconds, burst_log FROM limit_state";

/// SQLite's integers are signed.
pub(in crate::store) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> Option<u64> {
    u64::try_from(number).ok()
}

/// 2 has usage by the hour beside the usage of a key's life, and alerts; 3 has the journal; in 4 a line of the journal may say only what is new of
/// a burst; in 5 there is one line a subject, packed closer.
pub(super) const FORMAT: i64 = 5;

/// From so many changes on, a save goes into the journal: fewer are written faster at once than twice.
pub const JOURNAL_FROM: usize = 1_000;

const BUSY: std::time::Duration = std::time::Duration::from_secs(2);

const PACKED_BYTES: usize = 12;

/// Steps of SQLite's machine, some ten microseconds.
const STEPS: i32 = 500;

/// A quarter of a MiB.
const CHECK_POINT_PAGES: i32 = 64;

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
