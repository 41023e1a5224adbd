//! The journal of `counters.db`: large saves as they come, one packed line a subject instead of rows in three tables, folded into the tables later, part by part.
//!
//! A key that is used every second is so written to the tables once a minute, and what it took each second is written once: a line says of a burst only
//! what is new where the save before had the rest. A part is all subjects whose ids begin with the same byte: rows that lie beside each other in the
//! tables, and few enough to be folded within one save.

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
    burst: BurstLine,
}

/// What became of a burst window. The first two are what format 3 wrote as an `Option`.
#[derive(Serialize, Deserialize)]
enum BurstLine {
    /// Nothing is left of it.
    Empty,
    /// Its length, its first time, the log.
    Whole(u32, i64, Steps),
    /// Its first time, how long after that the last is that the save before had too, and what is new of the log.
    Behind(i64, u64, Steps),
}

/// Times after the one before, the first after what is said before them, and counts.
type Steps = Vec<(u64, u32)>;

/// The last that was said of each subject; `None` where it was removed.
type Latest = BTreeMap<Subject, Option<Row>>;

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
            burst: BurstLine::Empty,
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
    // As the table has them, but for what another hand may have put there.
    rows.sort_by(|one, other| one.subject.cmp(&other.subject));
    let latest = limits(transaction, None, |subject| {
        let place = rows.binary_search_by(|row| row.subject.cmp(subject));
        Ok(place.ok().map(|place| rows[place].clone()))
    })?;
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
    let latest = limits(transaction, Some(part), |subject| {
        tables::row_of(transaction, subject)
    })?;
    for (subject, row) in latest {
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

/// What the lines say of each subject in the end. `before` is asked for what the tables say of one whose first line has only what is new.
fn limits(
    connection: &Connection,
    part: Option<u8>,
    before: impl Fn(&Subject) -> rusqlite::Result<Option<Row>>,
) -> rusqlite::Result<Latest> {
    let mut latest = Latest::new();
    let mut lines = 0;
    each(connection, LIMITS, part, |mut packed| {
        while !packed.is_empty() {
            give_way(lines);
            lines += 1;
            let (line, rest) = parsed::<LimitLine<'_>>(LIMITS, packed)?;
            line.onto(&mut latest, &before)?;
            packed = rest;
        }
        Ok(())
    })?;
    for row in latest.values_mut().flatten() {
        let burst = row.burst.as_mut();
        burst
            .map_or(Some(()), settled)
            .ok_or_else(|| senseless(LIMITS))?;
    }
    Ok(latest)
}

/// What each key did in each hour.
fn usage_of(connection: &Connection, part: Option<u8>) -> rusqlite::Result<Vec<HourRow>> {
    let mut sums: BTreeMap<(u32, KeyId), Tally> = BTreeMap::new();
    let mut lines = 0;
    each(connection, USAGE, part, |mut packed| {
        while !packed.is_empty() {
            give_way(lines);
            lines += 1;
            let (line, rest) = parsed::<UsageLine>(USAGE, packed)?;
            let row = line.row().ok_or_else(|| senseless(USAGE))?;
            let sum = sums.entry((row.hour, row.key)).or_default();
            *sum = sum.and(&row.tally);
            packed = rest;
        }
        Ok(())
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
    mut read: impl FnMut(&[u8]) -> rusqlite::Result<()>,
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
        read(row.get_ref(0)?.as_blob()?)?;
    }
    Ok(())
}

/// The first line, and what comes behind it.
fn parsed<'a, T: Deserialize<'a>>(
    column: &str,
    packed: &'a [u8],
) -> rusqlite::Result<(T, &'a [u8])> {
    postcard::take_from_bytes(packed).map_err(|_| senseless(column))
}

fn senseless(column: &str) -> rusqlite::Error {
    nonsense(format!("the journal of {column} makes no sense"))
}

/// What no save can have written.
pub(super) fn nonsense(what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, what.into())
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
        LimitLine {
            whose: Whose::of(&row.subject),
            quota: row.quota.map(|quota| {
                let opened = (quota.opened_micros, quota.opened_wall.0);
                (opened.0, opened.1, quota.seconds, quota.used)
            }),
            burst: row.burst.as_ref().map_or(BurstLine::Empty, BurstLine::of),
        }
    }

    /// Puts this in place of what was said before. An error where no save can have written it.
    fn onto(
        self,
        latest: &mut Latest,
        before: impl Fn(&Subject) -> rusqlite::Result<Option<Row>>,
    ) -> rusqlite::Result<()> {
        let wrong = || senseless(LIMITS);
        let subject = self.whose.subject().ok_or_else(wrong)?;
        let quota = match self.quota {
            Some((opened_micros, opened_wall, seconds, used)) => Some(SavedQuota {
                opened_micros,
                opened_wall: Wall(opened_wall),
                seconds: tables::length(seconds).ok_or_else(wrong)?,
                used,
            }),
            None => None,
        };
        let burst = match self.burst {
            BurstLine::Empty => None,
            BurstLine::Whole(seconds, first, steps) => Some(SavedBurst {
                seconds: tables::length(seconds).ok_or_else(wrong)?,
                behind: None,
                log: times(first, &steps).ok_or_else(wrong)?,
            }),
            BurstLine::Behind(first, kept, steps) => {
                let said = match latest.get_mut(&subject) {
                    Some(said) => said.take(),
                    None => before(&subject)?,
                };
                let burst = said.and_then(|said| said.burst).ok_or_else(wrong)?;
                Some(gone_on(burst, first, kept, &steps).ok_or_else(wrong)?)
            }
        };
        let left = quota.is_some() || burst.is_some();
        let row = left.then(|| Row {
            subject: subject.clone(),
            quota,
            burst,
        });
        latest.insert(subject, row);
        Ok(())
    }
}

impl BurstLine {
    fn of(burst: &SavedBurst) -> BurstLine {
        let after = |before: i64, at: i64| at.saturating_sub(before).max(0).unsigned_abs();
        let steps = |from: i64| -> Steps {
            let mut before = from;
            let steps = burst.log.iter().map(|(at, count)| {
                let step = (after(before, *at), *count);
                before = *at;
                step
            });
            steps.collect()
        };
        match (burst.behind, burst.log.first()) {
            (Some((first, last)), _) => BurstLine::Behind(first, after(first, last), steps(last)),
            (None, Some((first, _))) => BurstLine::Whole(burst.seconds, *first, steps(*first)),
            (None, None) => BurstLine::Empty,
        }
    }
}

/// Times of their own again. `None` where they are more than there can be.
fn times(first: i64, log: &[(u64, u32)]) -> Option<Vec<(i64, u32)>> {
    let mut at = first;
    log.iter()
        .map(|(after, count)| {
            at = at.checked_add_unsigned(*after)?;
            Some((at, *count))
        })
        .collect()
}

/// A burst with what is new of it. What has passed is still there: `settled` lets go of that, since the next line may move the first time further.
/// `None` where the burst has not what the line comes behind.
fn gone_on(
    mut burst: SavedBurst,
    first: i64,
    kept: u64,
    steps: &[(u64, u32)],
) -> Option<SavedBurst> {
    let last = first.checked_add_unsigned(kept)?;
    let stays = burst.log.partition_point(|(at, _)| *at <= last);
    burst.log.truncate(stays);
    let found = burst.log.last().is_some_and(|(at, _)| *at == last);
    let forward = burst.behind.is_none_or(|(before, _)| before <= first);
    burst.log.extend(times(last, steps)?);
    burst.behind = Some((first, last));
    (found && forward).then_some(burst)
}

/// Lets go of what has passed. `None` where nothing is left, or not what was said, or more than there can be.
fn settled(burst: &mut SavedBurst) -> Option<()> {
    let (mut first, last) = (burst.log.first()?.0, burst.log.last()?.0);
    if let Some((begins, _)) = burst.behind.take() {
        let passed = burst.log.partition_point(|(at, _)| *at < begins);
        burst.log.drain(..passed);
        first = burst.log.first()?.0;
        (first == begins).then_some(())?;
    }
    // As far as the tables can tell times apart.
    last.checked_sub(first)?;
    let mut counts = burst.log.iter().map(|(_, count)| *count);
    counts.try_fold(0_u32, u32::checked_add).map(|_| ())
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

/// Columns of packed lines, by the names that damage is told with.
const LIMITS: &str = "limits";
const USAGE: &str = "usage";

/// Bytes of lines that wait at most.
const BYTES_MAX: u64 = 64 << 20;

/// So much of anything within one save is damage, and thousands of saves add up below what 64 bits hold.
const COUNT_MAX: u64 = 1 << 48;
