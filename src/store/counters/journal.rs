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

use crate::aside::give_way;
use crate::aside::step_aside;
use crate::clock::Now;
use crate::model::key::KeyId;
use crate::store::history::HourRow;
use crate::store::history::hour_of;

use super::Batch;
use super::Row;
use super::Subject;
use super::error::senseless;
use super::format4;
use super::lines::Bases;
use super::lines::Limits;
use super::lines::Lines;
use super::lines::Whose;
use super::part::Part;
use super::part::bytes_of;
use super::part::in_order;
use super::part::part_of;
use super::sum::Sum;
use super::tables;

pub(super) const SCHEMA: &str = "
CREATE TABLE journal(
  id INTEGER PRIMARY KEY,
  part INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  lines BLOB NOT NULL
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
    /// A save's lines by parts: memory that the next one uses again.
    lines: Box<[Lines; 256]>,
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
            lines: Box::new(std::array::from_fn(|_| Lines::default())),
        }
    }
}

/// Whether everything stands in the tables.
pub(super) fn is_empty(transaction: &Transaction<'_>) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached("SELECT NOT EXISTS(SELECT 1 FROM journal)")?
        .query_row([], |row| row.get(0))
}

/// Adds a save.
pub(super) fn append(
    transaction: &Transaction<'_>,
    hand: &mut Hand,
    batch: &Batch<'_>,
    now: Now,
) -> rusqlite::Result<()> {
    let mut parts = Parts::at(now, &mut hand.lines);
    let mut usage = batch.usage.iter().peekable();
    for (index, row) in batch.rows.iter().enumerate() {
        give_way(index);
        let mut own: &[HourRow] = &[];
        if let Subject::Key(key) = row.subject {
            while let Some(did) = usage.next_if(|did| did.key < key) {
                parts.add(Whose::Key(did.key.0), None, std::slice::from_ref(did));
            }
            if let Some(did) = usage.next_if(|did| did.key == key) {
                own = std::slice::from_ref(did);
            }
        }
        parts.add(Whose::of(&row.subject), Some(Limits::of(row)), own);
    }
    for (index, subject) in batch.removed.iter().enumerate() {
        give_way(index);
        parts.add(Whose::of(subject), Some(Limits::default()), &[]);
    }
    for (index, did) in usage.enumerate() {
        give_way(index);
        parts.add(Whose::Key(did.key.0), None, std::slice::from_ref(did));
    }
    for (part, lines) in (0..=u8::MAX).zip(parts.lines.iter()) {
        if !lines.packed().is_empty() {
            add(transaction, part, lines.packed())?;
            step_aside();
        }
    }
    Ok(())
}

/// A save, by parts.
struct Parts<'a> {
    bases: Bases,
    lines: &'a mut [Lines; 256],
}

impl Parts<'_> {
    /// Nothing yet, whatever was in these lines.
    fn at(now: Now, lines: &mut [Lines; 256]) -> Parts<'_> {
        lines.iter_mut().for_each(Lines::clear);
        Parts {
            bases: Bases::at(now),
            lines,
        }
    }

    fn add(&mut self, whose: Whose<'_>, limits: Option<Limits<'_>>, usage: &[HourRow]) {
        self.lines[usize::from(part_of(whose))].add(self.bases, whose, limits, usage);
    }
}

pub(super) fn add(transaction: &Transaction<'_>, part: u8, lines: &[u8]) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO journal(part, bytes, lines) VALUES (?1, ?2, ?3)")?
        .execute(params![part, lines.len(), lines])?;
    Ok(())
}

/// Looks at one part, and at more while the journal is too large. After a large save it is merged where that is worth it, and folded once an hour;
/// else it is folded, so that a gateway that has grown quiet has an empty journal soon.
pub(super) fn tend(
    transaction: &Transaction<'_>,
    hand: &mut Hand,
    now: Now,
    large: bool,
) -> rusqlite::Result<()> {
    let mut waiting = bytes(transaction)?;
    let hour = if large { hour_of(now.wall) } else { NOW };
    let bases = Bases::at(now);
    while let Some(part) = at_or_behind(transaction, hand.next)? {
        hand.next = part.wrapping_add(1);
        let others = waiting.saturating_sub(bytes_of(transaction, part)?.1);
        waiting = others + tend_part(transaction, hand, (part, others), (hour, bases))?;
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
    (part, others): (u8, u64),
    (hour, bases): (u32, Bases),
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
    if !fold && let Some(lines) = merged(transaction, part, bases, 0)? {
        let bytes = lines.packed().len() as u64;
        if !crowded(bytes) || bytes <= before / 2 {
            let_go(transaction, part)?;
            add(transaction, part, lines.packed())?;
            known.merged = bytes;
            return Ok(bytes);
        }
    }
    put(transaction, part)?;
    *known = Known {
        folded: hour,
        merged: 0,
    };
    Ok(0)
}

/// One line for each subject of a part, its times moved by so much. `None` where they say more than lines can.
fn merged(
    transaction: &Transaction<'_>,
    part: u8,
    bases: Bases,
    by: i64,
) -> rusqlite::Result<Option<Lines>> {
    let read = Part::read(transaction, part)?;
    let mut lines = Lines::with_room(read.bytes());
    let mut fits = true;
    each_sum(transaction, read, |subject, sum| {
        fits &= sum.fits();
        let moved;
        let sum = match by {
            0 => sum,
            by => {
                moved = sum.moved(by).ok_or_else(senseless)?;
                &moved
            }
        };
        lines.add(bases, Whose::of(subject), sum.limits(), &sum.usage);
        Ok(())
    })?;
    Ok(fits.then_some(lines))
}

/// Puts a part into the tables.
fn put(transaction: &Transaction<'_>, part: u8) -> rusqlite::Result<()> {
    let (mut rows, mut removed, mut usage) = (Vec::new(), Vec::new(), Vec::new());
    each_sum(
        transaction,
        Part::read(transaction, part)?,
        |subject, sum| {
            match sum.row(subject) {
                Some(row) => rows.push(row),
                None if sum.told => removed.push(subject.clone()),
                None => {}
            }
            usage.extend_from_slice(&sum.usage);
            Ok(())
        },
    )?;
    in_order(&mut usage);
    let batch = Batch {
        rows: &rows,
        removed: &removed,
        usage: &usage,
    };
    tables::put(transaction, &batch)?;
    let_go(transaction, part)
}

fn each_sum(
    transaction: &Transaction<'_>,
    part: Part,
    each: impl FnMut(&Subject, &Sum) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let before = |subject: &Subject| tables::row_of(transaction, subject);
    part.each(before, each)
}

/// Moves the times of all lines, before those of the tables are moved. What is said of a burst after what the tables have is whole then.
pub(super) fn shift(transaction: &Transaction<'_>, by: i64, now: Now) -> rusqlite::Result<()> {
    if !exists(transaction)? {
        return Ok(());
    }
    for part in parts(transaction)? {
        match merged(transaction, part, Bases::at(now), by)? {
            Some(lines) => {
                let_go(transaction, part)?;
                add(transaction, part, lines.packed())?;
            }
            None => put(transaction, part)?,
        }
    }
    Ok(())
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
        let before = |subject: &Subject| Ok(place(rows, subject).map(|place| rows[place].clone()));
        let mut said = Vec::new();
        Part::read(transaction, part)?.each(before, |subject, sum| {
            if sum.told {
                said.push((subject.clone(), sum.row(subject)));
            }
            Ok(())
        })?;
        for (subject, row) in said {
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

/// What each key did in each hour.
fn usage_of(connection: &Connection, part: u8) -> rusqlite::Result<Vec<HourRow>> {
    let lines = match format4::is_there(connection)? {
        true => format4::part(connection, part)?,
        false => Part::read(connection, part)?,
    };
    lines.usage()
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

fn let_go(transaction: &Transaction<'_>, part: u8) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM journal WHERE part = ?1")?
        .execute([part])?;
    Ok(())
}

/// Bytes of lines that wait at most: of a million keys in use a merged line each, some hundred bytes, and as much again that is new and more.
const BYTES_MAX: u64 = 256 << 20;

/// A part is merged when this part of what it was is new: each line is then read and written a few times at most, however few are new each second.
const NEW_PART: u64 = 2;

/// No hour in which anything was folded.
const NOW: u32 = u32::MAX;

/// Or when it is so many saves.
const SAVES_MAX: u64 = 1_000;
