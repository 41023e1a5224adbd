//! The journal as formats 3 and 4 had it, brought into today's, or read as it is.

use rusqlite::Connection;
use rusqlite::Row;
use rusqlite::Transaction;
use serde::Deserialize;

use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::store::history::HourRow;
use crate::store::history::LATENCY_BUCKETS;
use crate::store::history::Tally;

use super::SavedQuota;
use super::error::senseless;
use super::journal;
use super::lines::Bases;
use super::lines::Burst;
use super::lines::Limits;
use super::lines::Lines;
use super::lines::Whose;
use super::part::Part;

/// What became of a subject's counters; neither window is left when it was removed.
#[derive(Deserialize)]
struct LimitLine<'a> {
    #[serde(borrow)]
    whose: Subject<'a>,
    /// When it opened by both clocks, its length, what was taken.
    quota: Option<(i64, u64, u32, u32)>,
    burst: BurstLine,
}

#[derive(Deserialize)]
enum Subject<'a> {
    Key([u8; 12]),
    Tenant(&'a str),
}

/// What became of a burst window. The first two are what format 3 wrote as an `Option`.
#[derive(Deserialize)]
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

/// What a key did since the save before.
#[derive(Deserialize)]
struct UsageLine {
    key: [u8; 12],
    hour: u32,
    last_used_unix_seconds: u64,
    /// Successes, client errors, server errors, refusals, bytes received, bytes sent.
    counts: [u64; 6],
    latency: [u64; LATENCY_BUCKETS],
}

/// Packs every save anew. What makes no sense in it is told of here, or by whoever reads it next.
pub(super) fn bring_forward(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "DROP INDEX IF EXISTS journal_part; ALTER TABLE journal RENAME TO journal_of_format_4;",
    )?;
    transaction.execute_batch(journal::SCHEMA)?;
    let mut saves =
        transaction.prepare("SELECT limits, usage, part FROM journal_of_format_4 ORDER BY id")?;
    let mut found = saves.query([])?;
    while let Some(row) = found.next()? {
        let lines = packed_anew(row)?;
        if !lines.packed().is_empty() {
            journal::add(transaction, row.get(2)?, lines.packed())?;
        }
    }
    drop(found);
    drop(saves);
    transaction.execute_batch("DROP TABLE journal_of_format_4")
}

/// Whether the journal still is of one of these formats: no gateway of this version has opened the file yet, and somebody reads it.
pub(super) fn is_there(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT count(*) = 1 FROM pragma_table_info('journal') WHERE name = 'limits'",
        )?
        .query_row([], |row| row.get(0))
}

/// Reads a part of it.
pub(super) fn part(connection: &Connection, part: u8) -> rusqlite::Result<Part> {
    let mut read = Part::default();
    let mut saves =
        connection.prepare("SELECT limits, usage FROM journal WHERE part = ?1 ORDER BY id")?;
    let mut found = saves.query([part])?;
    while let Some(row) = found.next()? {
        let lines = packed_anew(row)?;
        if !lines.packed().is_empty() {
            read.add(lines.packed(), part).ok_or_else(senseless)?;
        }
    }
    Ok(read)
}

/// A save, of which a row has limits and usage.
fn packed_anew(row: &Row<'_>) -> rusqlite::Result<Lines> {
    let mut lines = Lines::default();
    let limits = each(row.get_ref(0)?.as_blob()?, |line| {
        add_limits(&mut lines, line)
    });
    let usage = each(row.get_ref(1)?.as_blob()?, |line| {
        add_usage(&mut lines, &line);
        Some(())
    });
    limits.and(usage).ok_or_else(senseless)?;
    Ok(lines)
}

/// Reads what was packed, line by line.
fn each<'a, T: Deserialize<'a>>(
    mut packed: &'a [u8],
    mut read: impl FnMut(T) -> Option<()>,
) -> Option<()> {
    while !packed.is_empty() {
        let (line, rest) = postcard::take_from_bytes(packed).ok()?;
        read(line)?;
        packed = rest;
    }
    Some(())
}

fn add_limits(lines: &mut Lines, line: LimitLine<'_>) -> Option<()> {
    let whose = match line.whose {
        Subject::Key(id) => Whose::Key(id),
        Subject::Tenant(id) => Whose::Tenant(id),
    };
    let quota = line
        .quota
        .map(|(opened_micros, wall, seconds, used)| SavedQuota {
            opened_micros,
            opened_wall: Wall(wall),
            seconds,
            used,
        });
    let (seconds, behind, log) = match line.burst {
        BurstLine::Empty => (None, None, Vec::new()),
        BurstLine::Whole(seconds, first, steps) => {
            (!steps.is_empty()).then_some(())?;
            (Some(seconds), None, times(first, &steps)?)
        }
        BurstLine::Behind(first, kept, steps) => {
            let last = first.checked_add(i64::try_from(kept).ok()?)?;
            (Some(0), Some((first, last)), times(last, &steps)?)
        }
    };
    let burst = seconds.map(|seconds| Burst {
        seconds,
        behind,
        log: &log,
    });
    lines.add(Bases::default(), whose, Some(Limits { quota, burst }), &[]);
    Some(())
}

/// Times of their own again. `None` where they are more than there can be.
fn times(first: i64, log: &[(u64, u32)]) -> Option<Vec<(i64, u32)>> {
    let mut at = first;
    let times = log.iter().map(|(after, count)| {
        at = at.checked_add(i64::try_from(*after).ok()?)?;
        Some((at, *count))
    });
    times.collect()
}

fn add_usage(lines: &mut Lines, line: &UsageLine) {
    let row = HourRow {
        key: KeyId(line.key),
        hour: line.hour,
        tally: Tally::of(line.last_used_unix_seconds, line.counts, line.latency),
    };
    lines.add(Bases::default(), Whose::Key(line.key), None, &[row]);
}
