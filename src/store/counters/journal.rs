//! The journal of `counters.db`: large saves as they come, one packed line a subject instead of rows in three tables, merged with each other part by
//! part, and folded into the tables once an hour.
//!
//! What a key took each second is so written once, and then once again each time that its part is merged; to the tables it is written once an hour
//! however often it is used. A line says of a burst only what is new where the save before had the rest. A part is all subjects whose ids begin with the
//! same byte: rows that lie beside each other in the tables, and few enough to be dealt with within one save.

use std::collections::BTreeSet;

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Deserialize;

use crate::aside::give_way;
use crate::aside::step_aside;
use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::store::history::HourRow;
use crate::store::history::Tally;
use crate::store::history::hour_of;

use super::Batch;
use super::Row;
use super::Subject;
use super::lines::LIMITS;
use super::lines::Latest;
use super::lines::LimitLine;
use super::lines::Merged;
use super::lines::USAGE;
use super::lines::UsageLine;
use super::lines::pack;
use super::lines::parsed;
use super::lines::senseless;
use super::lines::settled;
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

/// What the journal's only writer knows of it besides.
#[derive(Clone, Debug)]
pub(in crate::store) struct Hand {
    parts: Box<[Known; 256]>,
    /// The part that is looked at next.
    next: u8,
    /// Bytes of lines that wait at most.
    pub(super) bytes_max: u64,
}

/// What became of a part.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The hour in which it was folded last, or looked at first; 0 is not since the start.
    folded: u32,
    /// How many bytes were left of it when it was merged last.
    merged: u64,
}

impl Default for Hand {
    fn default() -> Hand {
        Hand {
            parts: Box::new([Known::default(); 256]),
            next: 0,
            bytes_max: BYTES_MAX,
        }
    }
}

/// What the lines of a part say in the end.
struct Whole {
    /// `None` is of those who have nothing any more.
    limits: Vec<(Subject, Option<Row>)>,
    usage: Vec<HourRow>,
}

/// What keys did, by hour.
type Sums = Merged<(u32, KeyId), Tally>;

/// Whether everything stands in the tables.
pub(super) fn is_empty(transaction: &Transaction<'_>) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached("SELECT NOT EXISTS(SELECT 1 FROM journal)")?
        .query_row([], |row| row.get(0))
}

/// Adds a save.
pub(super) fn append(transaction: &Transaction<'_>, batch: &Batch<'_>) -> rusqlite::Result<()> {
    let mut parts = vec![(Vec::new(), Vec::new()); 256];
    for (index, row) in batch.rows.iter().enumerate() {
        give_way(index);
        let (limits, _) = &mut parts[usize::from(part_of(&row.subject))];
        pack(&LimitLine::of(row), limits)?;
    }
    for subject in batch.removed {
        let (limits, _) = &mut parts[usize::from(part_of(subject))];
        pack(&LimitLine::nothing(subject), limits)?;
    }
    for (index, row) in batch.usage.iter().enumerate() {
        give_way(index);
        let (_, usage) = &mut parts[usize::from(row.key.0[0])];
        pack(&UsageLine::of(row), usage)?;
    }
    for (part, (limits, usage)) in (0..=u8::MAX).zip(&parts) {
        if !limits.is_empty() || !usage.is_empty() {
            add(transaction, part, limits, usage)?;
            step_aside();
        }
    }
    Ok(())
}

fn add(
    transaction: &Transaction<'_>,
    part: u8,
    limits: &[u8],
    usage: &[u8],
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO journal(part, bytes, limits, usage) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![part, limits.len() + usage.len(), limits, usage])?;
    Ok(())
}

/// Looks at one part, and at more while the journal is too large. After a large save it is merged where that is worth it, and folded once an hour;
/// else it is folded, so that a gateway that has grown quiet has an empty journal soon.
pub(super) fn tend(
    transaction: &Transaction<'_>,
    hand: &mut Hand,
    now: Wall,
    large: bool,
) -> rusqlite::Result<()> {
    let mut waiting = bytes(transaction)?;
    let hour = if large { hour_of(now) } else { NOW };
    while let Some(part) = at_or_behind(transaction, hand.next)? {
        hand.next = part.wrapping_add(1);
        let others = waiting.saturating_sub(bytes_of(transaction, part)?.1);
        waiting = others + tend_part(transaction, hand, part, others, hour)?;
        if waiting <= hand.bytes_max {
            break;
        }
    }
    Ok(())
}

/// Says how many bytes are left of the part, beside those of others.
fn tend_part(
    transaction: &Transaction<'_>,
    hand: &mut Hand,
    part: u8,
    others: u64,
    hour: u32,
) -> rusqlite::Result<u64> {
    let most = hand.bytes_max;
    let known = &mut hand.parts[usize::from(part)];
    let (saves, before) = bytes_of(transaction, part)?;
    if known.folded == 0 {
        known.folded = hour;
    }
    let fold = known.folded != hour || hour == NOW;
    let new = before.saturating_sub(known.merged);
    let crowded = |bytes: u64| others + bytes > most;
    if !fold && !crowded(before) && new < known.merged / NEW_PART && saves < SAVES_MAX {
        return Ok(before);
    }
    let whole = Whole::of(transaction, part, |subject| {
        tables::row_of(transaction, subject)
    })?;
    if !fold && whole.fits() {
        let (limits, usage) = whole.packed()?;
        let bytes = (limits.len() + usage.len()) as u64;
        if !crowded(bytes) || bytes <= before / 2 {
            let_go(transaction, part)?;
            add(transaction, part, &limits, &usage)?;
            known.merged = bytes;
            return Ok(bytes);
        }
    }
    whole.put(transaction)?;
    let_go(transaction, part)?;
    *known = Known {
        folded: hour,
        merged: 0,
    };
    Ok(0)
}

/// Moves the times of all lines, before those of the tables are moved. What is said of a burst after what the tables have is whole then.
pub(super) fn shift(transaction: &Transaction<'_>, by: i64) -> rusqlite::Result<()> {
    if !exists(transaction)? {
        return Ok(());
    }
    for part in parts(transaction)? {
        let mut whole = Whole::of(transaction, part, |subject| {
            tables::row_of(transaction, subject)
        })?;
        let_go(transaction, part)?;
        if !whole.fits() {
            whole.put(transaction)?;
            continue;
        }
        for row in whole.limits.iter_mut().filter_map(|(_, row)| row.as_mut()) {
            moved(row, by).ok_or_else(|| senseless(LIMITS))?;
        }
        let (limits, usage) = whole.packed()?;
        add(transaction, part, &limits, &usage)?;
    }
    Ok(())
}

fn moved(row: &mut Row, by: i64) -> Option<()> {
    if let Some(quota) = &mut row.quota {
        quota.opened_micros = quota.opened_micros.checked_add(by)?;
    }
    for (at, _) in row.burst.iter_mut().flat_map(|burst| &mut burst.log) {
        *at = at.checked_add(by)?;
    }
    Some(())
}

/// Puts what the journal says of limits in place of what the tables say. Reads all of it: what could not be folded later is damage now.
pub(super) fn lay_over(transaction: &Transaction<'_>, rows: &mut Vec<Row>) -> rusqlite::Result<()> {
    // As the table has them, but for what another hand may have put there.
    rows.sort_by(|one, other| one.subject.cmp(&other.subject));
    let place = |rows: &[Row], subject: &Subject| {
        rows.binary_search_by(|row| row.subject.cmp(subject)).ok()
    };
    let (mut more, mut gone) = (Vec::new(), BTreeSet::new());
    // Part by part, since the lines of all keys would be in memory twice.
    for part in parts(transaction)? {
        let whole = Whole::of(transaction, part, |subject| {
            Ok(place(rows, subject).map(|place| rows[place].clone()))
        })?;
        for (subject, row) in whole.limits {
            match (place(rows, &subject), row) {
                (Some(place), Some(row)) => rows[place] = row,
                (Some(place), None) => drop(gone.insert(place)),
                (None, row) => more.extend(row),
            }
        }
    }
    let mut places = 0..;
    rows.retain(|_| places.next().is_none_or(|place| !gone.contains(&place)));
    rows.append(&mut more);
    Ok(())
}

/// What the journal says that these keys did, or all, by hour and key. A file of an earlier format has none.
pub(in crate::store) fn usage(
    connection: &Connection,
    keys: Option<&[KeyId]>,
) -> rusqlite::Result<Vec<HourRow>> {
    let mut found = Vec::new();
    let Some(keys) = keys else {
        each_usage(connection, |rows| found.extend(rows))?;
        return Ok(found);
    };
    let keys: BTreeSet<KeyId> = keys.iter().copied().collect();
    let parts: BTreeSet<u8> = keys.iter().map(|key| key.0[0]).collect();
    for part in parts {
        let rows = usage_of_part(connection, part)?;
        found.extend(rows.into_iter().filter(|row| keys.contains(&row.key)));
    }
    Ok(found)
}

/// The same of all keys, part by part: what a million keys did takes a hundred MiB and more.
pub(in crate::store) fn each_usage(
    connection: &Connection,
    mut look: impl FnMut(Vec<HourRow>),
) -> rusqlite::Result<()> {
    if exists(connection)? {
        for part in parts(connection)? {
            look(usage_of(connection, part)?);
        }
    }
    Ok(())
}

/// The same of all keys whose ids begin with this byte.
pub(in crate::store) fn usage_of_part(
    connection: &Connection,
    part: u8,
) -> rusqlite::Result<Vec<HourRow>> {
    match exists(connection)? {
        true => usage_of(connection, part),
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

fn parts(connection: &Connection) -> rusqlite::Result<Vec<u8>> {
    let mut statement =
        connection.prepare_cached("SELECT DISTINCT part FROM journal ORDER BY part")?;
    let found = statement.query_map([], |row| row.get(0))?;
    found.collect()
}

/// The first part that has lines, from this one on and then from the beginning.
fn at_or_behind(transaction: &Transaction<'_>, part: u8) -> rusqlite::Result<Option<u8>> {
    let mut first = transaction
        .prepare_cached("SELECT part FROM journal WHERE part >= ?1 ORDER BY part LIMIT 1")?;
    let mut find = |part: u8| first.query_row([part], |row| row.get(0)).optional();
    match find(part)? {
        None => find(0),
        found => Ok(found),
    }
}

fn bytes(transaction: &Transaction<'_>) -> rusqlite::Result<u64> {
    transaction
        .prepare_cached("SELECT coalesce(sum(bytes), 0) FROM journal")?
        .query_row([], |row| row.get(0))
}

/// How many saves wait of a part, and their bytes.
fn bytes_of(transaction: &Transaction<'_>, part: u8) -> rusqlite::Result<(u64, u64)> {
    transaction
        .prepare_cached("SELECT count(*), coalesce(sum(bytes), 0) FROM journal WHERE part = ?1")?
        .query_row([part], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn let_go(transaction: &Transaction<'_>, part: u8) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM journal WHERE part = ?1")?
        .execute([part])?;
    Ok(())
}

impl Whole {
    /// Whether sums can be lines again.
    fn fits(&self) -> bool {
        (self.usage.iter()).all(|row| UsageLine::of(row).is_sound())
    }

    /// `before` is asked for what the tables say of a subject whose first line has only what is new.
    fn of(
        connection: &Connection,
        part: u8,
        before: impl Fn(&Subject) -> rusqlite::Result<Option<Row>>,
    ) -> rusqlite::Result<Whole> {
        let (mut latest, mut sums) = (Latest::default(), Sums::default());
        let mut save =
            connection.prepare_cached("SELECT limits, usage FROM journal WHERE id = ?1")?;
        for id in saves_of(connection, part)? {
            let mut found = save.query([id])?;
            while let Some(row) = found.next()? {
                each(LIMITS, row.get_ref(0)?.as_blob()?, |line: LimitLine<'_>| {
                    line.onto(&mut latest, &before)
                })?;
                each(USAGE, row.get_ref(1)?.as_blob()?, |line| {
                    add_up(&mut sums, line)
                })?;
            }
        }
        let mut limits = latest.sorted();
        for (subject, row) in &mut limits {
            let burst = row.as_mut().and_then(|row| row.burst.as_mut());
            let sound = burst.map_or(Some(()), settled).is_some() && part_of(subject) == part;
            sound.then_some(()).ok_or_else(|| senseless(LIMITS))?;
        }
        Ok(Whole {
            limits,
            usage: rows(sums),
        })
    }

    /// One line for each subject, and one for each key and hour.
    fn packed(&self) -> rusqlite::Result<(Vec<u8>, Vec<u8>)> {
        let (mut limits, mut usage) = (Vec::new(), Vec::new());
        for (index, (subject, row)) in self.limits.iter().enumerate() {
            give_way(index);
            let nothing = || LimitLine::nothing(subject);
            let line = row.as_ref().map_or_else(nothing, LimitLine::of);
            pack(&line, &mut limits)?;
        }
        for (index, row) in self.usage.iter().enumerate() {
            give_way(index);
            pack(&UsageLine::of(row), &mut usage)?;
        }
        Ok((limits, usage))
    }

    fn put(self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let (mut rows, mut removed) = (Vec::new(), Vec::new());
        for (subject, row) in self.limits {
            match row {
                Some(row) => rows.push(row),
                None => removed.push(subject),
            }
        }
        let batch = Batch {
            rows: &rows,
            removed: &removed,
            usage: &self.usage,
        };
        tables::put(transaction, &batch)
    }
}

/// What each key did in each hour.
fn usage_of(connection: &Connection, part: u8) -> rusqlite::Result<Vec<HourRow>> {
    let mut sums = Sums::default();
    let mut save = connection.prepare_cached("SELECT usage FROM journal WHERE id = ?1")?;
    for id in saves_of(connection, part)? {
        let mut found = save.query([id])?;
        while let Some(row) = found.next()? {
            each(USAGE, row.get_ref(0)?.as_blob()?, |line| {
                add_up(&mut sums, line)
            })?;
        }
    }
    Ok(rows(sums))
}

/// The saves that wait of a part, the oldest first. To be read one by one: SQLite would carry their lines along while it sorts, by way of a file.
fn saves_of(connection: &Connection, part: u8) -> rusqlite::Result<Vec<i64>> {
    let mut statement =
        connection.prepare_cached("SELECT id FROM journal WHERE part = ?1 ORDER BY id")?;
    let found = statement.query_map([part], |row| row.get(0))?;
    found.collect()
}

fn add_up(sums: &mut Sums, line: UsageLine) -> rusqlite::Result<()> {
    let row = line.row().ok_or_else(|| senseless(USAGE))?;
    let sum = sums.entry(&(row.hour, row.key));
    *sum = sum.and(&row.tally);
    Ok(())
}

fn rows(sums: Sums) -> Vec<HourRow> {
    let sums = sums.sorted().into_iter();
    sums.map(|((hour, key), tally)| HourRow { key, hour, tally })
        .collect()
}

/// Reads what was packed, line by line.
fn each<'a, T: Deserialize<'a>>(
    column: &str,
    mut packed: &'a [u8],
    mut read: impl FnMut(T) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut lines = 0;
    while !packed.is_empty() {
        give_way(lines);
        lines += 1;
        let (line, rest) = parsed(column, packed)?;
        read(line)?;
        packed = rest;
    }
    Ok(())
}

fn part_of(subject: &Subject) -> u8 {
    match subject {
        Subject::Key(key) => key.0[0],
        Subject::Tenant(tenant) => tenant.as_str().as_bytes().first().copied().unwrap_or(0),
    }
}

/// Bytes of lines that wait at most: of a million keys in use a merged line each, some hundred bytes, and as much again that is new and more.
const BYTES_MAX: u64 = 256 << 20;

/// A part is merged when this part of what it was is new: each line is then read and written a few times at most, however few are new each second.
const NEW_PART: u64 = 2;

/// No hour in which anything was folded.
const NOW: u32 = u32::MAX;

/// Or when it is so many saves.
const SAVES_MAX: u64 = 1_000;
