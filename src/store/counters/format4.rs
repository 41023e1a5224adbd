//! Lines of the journal as formats 3 and 4 had them, brought into today's.

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
        transaction.prepare("SELECT part, limits, usage FROM journal_of_format_4 ORDER BY id")?;
    let mut found = saves.query([])?;
    while let Some(row) = found.next()? {
        let mut lines = Lines::default();
        let limits = each(row.get_ref(1)?.as_blob()?, |line| {
            add_limits(&mut lines, line)
        });
        let usage = each(row.get_ref(2)?.as_blob()?, |line| {
            add_usage(&mut lines, &line);
            Some(())
        });
        limits.and(usage).ok_or_else(senseless)?;
        if !lines.packed().is_empty() {
            journal::add(transaction, row.get(0)?, lines.packed())?;
        }
    }
    drop(found);
    drop(saves);
    transaction.execute_batch("DROP TABLE journal_of_format_4")
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
            let last = first.checked_add_unsigned(kept)?;
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
        at = at.checked_add_unsigned(*after)?;
        Some((at, *count))
    });
    times.collect()
}

fn add_usage(lines: &mut Lines, line: &UsageLine) {
    let [
        success,
        client_error,
        server_error,
        refused,
        received_bytes,
        sent_bytes,
    ] = line.counts;
    let row = HourRow {
        key: KeyId(line.key),
        hour: line.hour,
        tally: Tally {
            last_used_unix_seconds: line.last_used_unix_seconds,
            success,
            client_error,
            server_error,
            refused,
            received_bytes,
            sent_bytes,
            latency: line.latency,
        },
    };
    lines.add(Bases::default(), Whose::Key(line.key), None, &[row]);
}
