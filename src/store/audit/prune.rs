//! How long the log is kept: its oldest lines are let go, and a line that is chained like any other says which.

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::params;
use serde_json::json;

use crate::clock::Wall;
use crate::store::outcome::rfc3339;
use crate::store::rows::micros;

use super::Act;
use super::Actor;
use super::ONCE_SECONDS;
use super::Written;
use super::append;
use super::chain::Anchor;
use super::chain::PRUNED;
use super::chain::walk;
use super::head;
use super::hex;

/// How much of the log is kept. Lines of the last day stay in any case: what was given a name is not done twice because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Older lines go; `None` is never.
    pub seconds: Option<u64>,
    /// More lines than this go.
    pub lines_max: u64,
}

/// How many lines go in one transaction.
const BATCH: i64 = 10_000;

/// What became of lines that were to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pruned {
    /// There were none.
    Nothing,
    /// They are gone, and this line says so.
    Gone(Box<Act>, Written),
    /// They are not as they were written: they stay, to be looked at.
    NotWhole(String),
}

/// Lets go of what is beyond `keep`, at most `BATCH` lines, in one transaction with the line that says so.
pub(in crate::store) fn prune(
    transaction: &Transaction<'_>,
    keep: Keep,
    now: Wall,
    revision: u64,
) -> rusqlite::Result<Pruned> {
    let Some((first, through)) = beyond(transaction, keep, now)? else {
        return Ok(Pruned::Nothing);
    };
    let anchor = Anchor::of(transaction, Some(first))?;
    let walked = walk(transaction, &anchor, through, |_| None)?;
    if let Some(fault) = walked.fault {
        return Ok(Pruned::NotWhole(fault));
    }
    let (through, hash) = walked.last;
    let sql = "SELECT at FROM audit WHERE seq = ?1";
    let at: i64 = transaction.query_row(sql, [through], |row| row.get(0))?;
    let act = Act {
        actor: Actor::gateway("[audit] in gateway.toml"),
        act: PRUNED.to_owned(),
        subject: "audit".to_owned(),
        before: None,
        after: Some(json!({
            "first": first,
            "through": through,
            "hash": hex(&hash),
            "last_written_at": rfc3339(Wall(u64::try_from(at).unwrap_or(0))),
            "keep_seconds": keep.seconds,
            "lines_max": keep.lines_max,
        })),
        result: None,
        at: now,
    };
    let written = append(transaction, &act, revision)?;
    transaction.execute("DELETE FROM audit WHERE seq <= ?1", [through])?;
    Ok(Pruned::Gone(Box::new(act), written))
}

/// The first and the last line that go now. The last line of the log never does, and for a line alone that says what went before nobody
/// writes another.
fn beyond(connection: &Connection, keep: Keep, now: Wall) -> rusqlite::Result<Option<(i64, i64)>> {
    let (last, _) = head(connection)?;
    let sql = "SELECT min(seq) FROM audit";
    let Some(first) = connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0))? else {
        return Ok(None);
    };
    let kept = i64::try_from(keep.lines_max).unwrap_or(i64::MAX);
    let too_many = last
        .saturating_sub(kept)
        .min(before(connection, ONCE_SECONDS, now, last)?);
    let too_old = match keep.seconds {
        Some(seconds) => before(connection, seconds.max(ONCE_SECONDS), now, last)?,
        None => 0,
    };
    let through = too_many.max(too_old).min(last - 1).min(first - 1 + BATCH);
    let sql = "SELECT 1 FROM audit WHERE seq <= ?1 AND act != ?2 LIMIT 1";
    let any = connection
        .query_row(sql, params![through, PRUNED], |_| Ok(()))
        .optional()?;
    Ok(any.map(|()| (first, through)))
}

/// The last line before the first that is no older than this. A clock that once ran behind makes no line old that others stand before.
fn before(connection: &Connection, seconds: u64, now: Wall, last: i64) -> rusqlite::Result<i64> {
    let since = Wall(now.0.saturating_sub(seconds.saturating_mul(1_000_000)));
    let sql = "SELECT seq FROM audit WHERE at >= ?1 ORDER BY seq LIMIT 1";
    let young = connection.query_row(sql, [micros(since)], |row| row.get::<_, i64>(0));
    Ok(young.optional()?.map_or(last, |young| young - 1))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Log;
    use super::super::Verdict;
    use super::*;
    use crate::store::Store;

    const DAY: u64 = 86_400;

    fn day(day: u64) -> Wall {
        Wall::from_unix_seconds(1_700_000_000 + day * DAY)
    }

    fn act(at: Wall) -> Act {
        Act {
            actor: Actor::user(Some(7), "socket"),
            act: "key-revoke".to_owned(),
            subject: "key_aaaaaaaaaaaa".to_owned(),
            before: None,
            after: None,
            result: None,
            at,
        }
    }

    /// A line each day, from 0 on.
    fn days(directory: &Path, count: u64) -> (Store, Vec<Written>) {
        let mut store = Store::open(directory).unwrap();
        let written = (0..count).map(|at| store.record(&act(day(at))).unwrap());
        let written = written.map(Option::unwrap).collect();
        (store, written)
    }

    fn verdict(directory: &Path, expected: Option<(u64, &str)>) -> Verdict {
        let log = Log::open(directory).unwrap().unwrap();
        log.verify(expected).unwrap()
    }

    fn keep(days: u64) -> Keep {
        Keep {
            seconds: Some(days * DAY),
            lines_max: 1_000,
        }
    }

    #[test]
    fn old_lines_go_and_a_line_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, written) = days(directory.path(), 10);
        assert_eq!(store.prune_audit(keep(9), day(9)).unwrap(), Pruned::Nothing);
        let Pruned::Gone(said, line) = store.prune_audit(keep(5), day(10)).unwrap() else {
            panic!("nothing went");
        };
        // Days 0 to 4 are lines 1 to 5; the one that says so is line 11.
        assert_eq!(
            (line.seq, said.after.as_ref().unwrap()["through"].as_i64()),
            (11, Some(5))
        );
        let found = verdict(directory.path(), None);
        assert_eq!(
            (found.whole, found.lines, found.first_line, found.last_line),
            (true, 6, 6, 11),
            "{found:?}"
        );
        assert_eq!(found.since, Some(rfc3339(day(5))));
        assert_eq!(found.pruned_at, Some(rfc3339(day(10))));
        assert_eq!(found.pruned_by, Some(11));
        // What was written down before still fits where it is there. Of what is not there only the log itself says that it went, and how it ended.
        for (seq, fits) in [(8, true), (6, true), (5, false), (4, false)] {
            let hash = &written[seq as usize - 1].hash;
            assert_eq!(
                verdict(directory.path(), Some((seq, hash))).whole,
                fits,
                "{seq}"
            );
        }
        assert!(!verdict(directory.path(), Some((5, &written[0].hash))).whole);
        // Again: the line that said so goes too, and another takes its place.
        assert_eq!(
            store.prune_audit(keep(5), day(10)).unwrap(),
            Pruned::Nothing
        );
        store.record(&act(day(11))).unwrap();
        assert!(matches!(
            store.prune_audit(keep(1), day(15)).unwrap(),
            Pruned::Gone(..)
        ));
        let found = verdict(directory.path(), None);
        assert_eq!(
            (found.whole, found.first_line, found.last_line),
            (true, 12, 13)
        );
        // Nobody writes a line about lines that only say this.
        store.prune_audit(keep(1), day(20)).unwrap();
        for later in [30, 40, 50] {
            assert_eq!(
                store.prune_audit(keep(1), day(later)).unwrap(),
                Pruned::Nothing
            );
        }
        let found = verdict(directory.path(), None);
        assert_eq!(
            (found.whole, found.first_line, found.last_line),
            (true, 13, 14)
        );
    }

    #[test]
    fn too_many_lines_go_but_not_those_of_the_last_day() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = days(directory.path(), 20);
        let few = Keep {
            seconds: None,
            lines_max: 5,
        };
        store.prune_audit(few, day(20)).unwrap();
        let found = verdict(directory.path(), None);
        assert_eq!((found.whole, found.first_line, found.lines), (true, 16, 6));
        for _ in 0..10 {
            store.record(&act(day(21))).unwrap();
        }
        store.prune_audit(few, day(21)).unwrap();
        let found = verdict(directory.path(), None);
        assert_eq!(
            (found.whole, found.first_line),
            (true, 21),
            "the last day stays"
        );
    }

    /// A beginning that another hand took away is not one that was let go, and what was touched is kept to be looked at.
    #[test]
    fn a_beginning_that_was_taken_away_is_no_pruned_one() {
        let cases = [
            (
                "DELETE FROM audit WHERE seq <= 8",
                "lines 6 to 8 are missing",
            ),
            (
                "DELETE FROM audit WHERE act = 'audit-prune'",
                "lines 1 to 5 are missing, and no line says that they were let go",
            ),
            (
                "UPDATE audit SET after = replace(after, '\"through\":5', '\"through\":6') WHERE seq = 11; DELETE FROM audit WHERE seq = 6",
                "line 7 was changed, or stands where another did",
            ),
            (
                "UPDATE audit SET seq = 5 WHERE seq = 11",
                "line 5 stands before line 6, the first that is kept",
            ),
            (
                "UPDATE audit SET after = '[]' WHERE seq = 11",
                "lines 1 to 5 are missing",
            ),
        ];
        for (sql, fault) in cases {
            let directory = tempfile::tempdir().unwrap();
            let (mut store, _) = days(directory.path(), 10);
            store.prune_audit(keep(5), day(10)).unwrap();
            assert!(verdict(directory.path(), None).whole);
            let file = Connection::open(directory.path().join("keys.db")).unwrap();
            file.execute_batch(sql).unwrap();
            let found = verdict(directory.path(), None);
            let said = found.fault.clone().unwrap_or_default();
            assert!(said.contains(fault), "{sql}: {found:?}");
        }
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = days(directory.path(), 10);
        let file = Connection::open(directory.path().join("keys.db")).unwrap();
        file.execute_batch("UPDATE audit SET who = 'x' WHERE seq = 3")
            .unwrap();
        let kept = store.prune_audit(keep(5), day(10)).unwrap();
        assert!(
            matches!(&kept, Pruned::NotWhole(fault) if fault.contains("line 3")),
            "{kept:?}"
        );
        assert_eq!(verdict(directory.path(), None).lines, 2);
    }

    /// A clock that ran a year behind for one line lets nothing go that is young.
    #[test]
    fn a_clock_that_ran_behind_makes_nothing_old() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = days(directory.path(), 3);
        store.record(&act(Wall::from_unix_seconds(7))).unwrap();
        store.record(&act(day(3))).unwrap();
        assert_eq!(store.prune_audit(keep(5), day(4)).unwrap(), Pruned::Nothing);
    }

    #[test]
    fn many_lines_go_by_and_by() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path()).unwrap();
        let lines = (0..2 * BATCH + 5).map(|_| act(day(0)));
        store.record_all(lines).unwrap();
        let mut rounds = 0;
        while store.prune_audit(keep(1), day(9)).unwrap() != Pruned::Nothing {
            rounds += 1;
        }
        assert_eq!(rounds, 3);
        let found = verdict(directory.path(), None);
        assert_eq!((found.whole, found.lines), (true, 3), "{found:?}");
    }
}
