//! The journal of `counters.db`: large saves as they come, one packed line a subject instead of rows in three tables, folded into the tables later, part by part.
//!
//! A key that is used every second is so written to the tables once a minute. A part is all subjects whose ids begin with the same byte: rows that
//! lie beside each other in the tables, and few enough to be folded within one save.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use postcard::ser_flavors::Flavor;
use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::params;
use rusqlite::types::Type;
use serde::Deserialize;
use serde::Serialize;

use crate::aside::give_way;
use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::model::tenant::TenantId;
use crate::store::history::HourRow;
use crate::store::history::LATENCY_BUCKETS;
use crate::store::history::Tally;

use super::Batch;
use super::Row;
use super::SavedBurst;
use super::SavedQuota;
use super::Subject;
use super::tables;

pub(super) const SCHEMA: &str = "
CREATE TABLE journal(
  id INTEGER PRIMARY KEY,
  part INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  limits BLOB NOT NULL,
  usage BLOB NOT NULL
) STRICT;
CREATE INDEX journal_part ON journal(part, bytes);
";

/// What became of a subject's counters; neither window is left when it was removed.
#[derive(Serialize, Deserialize)]
struct LimitLine<'a> {
    #[serde(borrow)]
    whose: Whose<'a>,
    /// When it opened by both clocks, its length, what was taken.
    quota: Option<(i64, u64, u32, u32)>,
    /// Its length, its first time, the log.
    burst: Option<(u32, i64, Steps)>,
}

/// Times after the one before, and counts.
type Steps = Vec<(u64, u32)>;

#[derive(Serialize, Deserialize)]
enum Whose<'a> {
    Key([u8; 12]),
    Tenant(&'a str),
}

/// What a key did since the save before.
#[derive(Serialize, Deserialize)]
struct UsageLine {
    key: [u8; 12],
    hour: u32,
    last_used_unix_seconds: u64,
    /// Successes, client errors, server errors, refusals, bytes received, bytes sent.
    counts: [u64; 6],
    latency: [u64; LATENCY_BUCKETS],
}

/// Whether everything stands in the tables.
pub(super) fn is_empty(transaction: &Transaction<'_>) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached("SELECT NOT EXISTS(SELECT 1 FROM journal)")?
        .query_row([], |row| row.get(0))
}

/// Adds a save.
pub(super) fn append(transaction: &Transaction<'_>, batch: &Batch<'_>) -> rusqlite::Result<()> {
    let mut parts: BTreeMap<u8, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
    for (index, row) in batch.rows.iter().enumerate() {
        give_way(index);
        let (limits, _) = parts.entry(part_of(&row.subject)).or_default();
        pack(&LimitLine::of(row), limits)?;
    }
    for subject in batch.removed {
        let (limits, _) = parts.entry(part_of(subject)).or_default();
        let line = LimitLine {
            whose: Whose::of(subject),
            quota: None,
            burst: None,
        };
        pack(&line, limits)?;
    }
    for (index, row) in batch.usage.iter().enumerate() {
        give_way(index);
        let (_, usage) = parts.entry(row.key.0[0]).or_default();
        pack(&UsageLine::of(row), usage)?;
    }
    let mut add = transaction.prepare_cached(
        "INSERT INTO journal(part, bytes, limits, usage) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for (part, (limits, usage)) in &parts {
        add.execute(params![part, limits.len() + usage.len(), limits, usage])?;
    }
    Ok(())
}

/// Folds the part that has waited longest, and more while the journal is too large.
pub(super) fn fold_some(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    while let Some(part) = oldest(transaction)? {
        fold(transaction, part)?;
        if bytes(transaction)? <= BYTES_MAX {
            break;
        }
    }
    Ok(())
}

/// Folds everything.
pub(super) fn fold_all(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    if !exists(transaction)? {
        return Ok(());
    }
    while let Some(part) = oldest(transaction)? {
        fold(transaction, part)?;
    }
    Ok(())
}

/// Puts what the journal says of limits in place of what the tables say. Reads all of it: what could not be folded later is damage now.
pub(super) fn lay_over(transaction: &Transaction<'_>, rows: &mut Vec<Row>) -> rusqlite::Result<()> {
    usage_of(transaction, None)?;
    let latest = limits(transaction, None)?;
    if latest.is_empty() {
        return Ok(());
    }
    rows.retain(|row| !latest.contains_key(&row.subject));
    rows.extend(latest.into_values().flatten());
    Ok(())
}

/// What the journal says that these keys did, or all, by hour and key. A file of an earlier format has none.
pub(in crate::store) fn usage(
    connection: &Connection,
    keys: Option<&[KeyId]>,
) -> rusqlite::Result<Vec<HourRow>> {
    if !exists(connection)? {
        return Ok(Vec::new());
    }
    let Some(keys) = keys else {
        return usage_of(connection, None);
    };
    let keys: BTreeSet<KeyId> = keys.iter().copied().collect();
    let parts: BTreeSet<u8> = keys.iter().map(|key| key.0[0]).collect();
    let mut found = Vec::new();
    for part in parts {
        found.extend(usage_of(connection, Some(part))?);
    }
    found.retain(|row| keys.contains(&row.key));
    Ok(found)
}

/// The same of all keys whose ids begin with this byte.
pub(in crate::store) fn usage_of_part(
    connection: &Connection,
    part: u8,
) -> rusqlite::Result<Vec<HourRow>> {
    match exists(connection)? {
        true => usage_of(connection, Some(part)),
        false => Ok(Vec::new()),
    }
}

fn exists(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT count(*) = 1 FROM sqlite_schema WHERE type = 'table' AND name = 'journal'",
        [],
        |row| row.get(0),
    )
}

fn oldest(transaction: &Transaction<'_>) -> rusqlite::Result<Option<u8>> {
    transaction
        .prepare_cached("SELECT part FROM journal ORDER BY id LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()
}

fn bytes(transaction: &Transaction<'_>) -> rusqlite::Result<u64> {
    transaction
        .prepare_cached("SELECT coalesce(sum(bytes), 0) FROM journal")?
        .query_row([], |row| row.get(0))
}

fn fold(transaction: &Transaction<'_>, part: u8) -> rusqlite::Result<()> {
    let mut rows = Vec::new();
    let mut removed = Vec::new();
    for (subject, row) in limits(transaction, Some(part))? {
        match row {
            Some(row) => rows.push(row),
            None => removed.push(subject),
        }
    }
    let usage = usage_of(transaction, Some(part))?;
    let batch = Batch {
        rows: &rows,
        removed: &removed,
        usage: &usage,
    };
    tables::put(transaction, &batch)?;
    transaction
        .prepare_cached("DELETE FROM journal WHERE part = ?1")?
        .execute([part])?;
    Ok(())
}

/// The last line of each subject; `None` where it was removed.
fn limits(
    connection: &Connection,
    part: Option<u8>,
) -> rusqlite::Result<BTreeMap<Subject, Option<Row>>> {
    let mut latest = BTreeMap::new();
    each(connection, "limits", part, |mut packed| {
        while !packed.is_empty() {
            let (line, rest) = postcard::take_from_bytes::<LimitLine<'_>>(packed).ok()?;
            let (subject, row) = line.row()?;
            latest.insert(subject, row);
            packed = rest;
        }
        Some(())
    })?;
    Ok(latest)
}

/// What each key did in each hour.
fn usage_of(connection: &Connection, part: Option<u8>) -> rusqlite::Result<Vec<HourRow>> {
    let mut sums: BTreeMap<(u32, KeyId), Tally> = BTreeMap::new();
    each(connection, "usage", part, |mut packed| {
        while !packed.is_empty() {
            let (line, rest) = postcard::take_from_bytes::<UsageLine>(packed).ok()?;
            let row = line.row()?;
            let sum = sums.entry((row.hour, row.key)).or_default();
            *sum = sum.and(&row.tally);
            packed = rest;
        }
        Some(())
    })?;
    let rows = sums
        .into_iter()
        .map(|((hour, key), tally)| HourRow { key, hour, tally });
    Ok(rows.collect())
}

/// Reads what was packed, in the order in which it came.
fn each(
    connection: &Connection,
    column: &'static str,
    part: Option<u8>,
    mut read: impl FnMut(&[u8]) -> Option<()>,
) -> rusqlite::Result<()> {
    let of = if part.is_some() {
        "WHERE part = ?1"
    } else {
        "WHERE ?1 IS NULL"
    };
    let mut statement =
        connection.prepare_cached(&format!("SELECT {column} FROM journal {of} ORDER BY id"))?;
    let mut found = statement.query([part])?;
    while let Some(row) = found.next()? {
        let packed = row.get_ref(0)?.as_blob()?;
        read(packed).ok_or_else(|| {
            let what = format!("the journal of {column} makes no sense");
            rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, what.into())
        })?;
    }
    Ok(())
}

fn pack<T: Serialize>(line: &T, packed: &mut Vec<u8>) -> rusqlite::Result<()> {
    postcard::serialize_with_flavor(line, Appended(packed))
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// Writes behind what is there.
struct Appended<'a>(&'a mut Vec<u8>);

impl Flavor for Appended<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

fn part_of(subject: &Subject) -> u8 {
    match subject {
        Subject::Key(key) => key.0[0],
        Subject::Tenant(tenant) => tenant.as_str().as_bytes().first().copied().unwrap_or(0),
    }
}

impl<'a> Whose<'a> {
    fn of(subject: &'a Subject) -> Whose<'a> {
        match subject {
            Subject::Key(key) => Whose::Key(key.0),
            Subject::Tenant(tenant) => Whose::Tenant(tenant.as_str()),
        }
    }

    fn subject(&self) -> Option<Subject> {
        match self {
            Whose::Key(id) => key(*id).map(Subject::Key),
            Whose::Tenant(id) => TenantId::new(id).ok().map(Subject::Tenant),
        }
    }
}

impl<'a> LimitLine<'a> {
    fn of(row: &'a Row) -> LimitLine<'a> {
        let burst = row.burst.as_ref().and_then(|burst| {
            let (first, _) = burst.log.first()?;
            let mut before = *first;
            let log = burst.log.iter().map(|(at, count)| {
                let after = at.saturating_sub(before).max(0).unsigned_abs();
                before = *at;
                (after, *count)
            });
            Some((burst.seconds, *first, log.collect()))
        });
        LimitLine {
            whose: Whose::of(&row.subject),
            quota: row.quota.map(|quota| {
                let opened = (quota.opened_micros, quota.opened_wall.0);
                (opened.0, opened.1, quota.seconds, quota.used)
            }),
            burst,
        }
    }

    /// `None` where no save can have written it.
    fn row(self) -> Option<(Subject, Option<Row>)> {
        let subject = self.whose.subject()?;
        let quota = match self.quota {
            Some((opened_micros, opened_wall, seconds, used)) => Some(SavedQuota {
                opened_micros,
                opened_wall: Wall(opened_wall),
                seconds: tables::length(seconds)?,
                used,
            }),
            None => None,
        };
        let burst = match self.burst {
            Some((seconds, first, log)) => Some(SavedBurst {
                seconds: tables::length(seconds)?,
                log: times(first, &log)?,
            }),
            None => None,
        };
        let left = quota.is_some() || burst.is_some();
        let row = Row {
            subject: subject.clone(),
            quota,
            burst,
        };
        Some((subject, left.then_some(row)))
    }
}

/// Times of their own again. `None` where they are more than there can be.
fn times(first: i64, log: &[(u64, u32)]) -> Option<Vec<(i64, u32)>> {
    let (mut at, mut total) = (first, 0_u32);
    log.iter()
        .map(|(after, count)| {
            at = at.checked_add_unsigned(*after)?;
            total = total.checked_add(*count)?;
            Some((at, *count))
        })
        .collect()
}

impl UsageLine {
    fn of(row: &HourRow) -> UsageLine {
        let tally = &row.tally;
        UsageLine {
            key: row.key.0,
            hour: row.hour,
            last_used_unix_seconds: tally.last_used_unix_seconds,
            counts: [
                tally.success,
                tally.client_error,
                tally.server_error,
                tally.refused,
                tally.received_bytes,
                tally.sent_bytes,
            ],
            latency: tally.latency,
        }
    }

    fn row(self) -> Option<HourRow> {
        let [
            success,
            client_error,
            server_error,
            refused,
            received_bytes,
            sent_bytes,
        ] = self.counts;
        // A sum of what SQLite can hold is what it can hold.
        let all = self.counts.iter().chain(&self.latency);
        all.copied().all(|count| count <= COUNT_MAX).then_some(())?;
        Some(HourRow {
            key: key(self.key)?,
            hour: self.hour,
            tally: Tally {
                last_used_unix_seconds: self.last_used_unix_seconds,
                success,
                client_error,
                server_error,
                refused,
                received_bytes,
                sent_bytes,
                latency: self.latency,
            },
        })
    }
}

fn key(id: [u8; 12]) -> Option<KeyId> {
    id.iter()
        .all(u8::is_ascii_alphanumeric)
        .then_some(KeyId(id))
}

/// Bytes of lines that wait at most.
const BYTES_MAX: u64 = 64 << 20;

/// So much of anything within one save is damage, and thousands of saves add up below what 64 bits hold.
const COUNT_MAX: u64 = 1 << 48;
