//! Files of earlier versions, brought forward.

use super::*;
use crate::store::history::History;

/// A file of the version before gets the table of hours, and keeps what it counted.
#[test]
fn a_file_of_format_1_is_brought_forward() {
    let directory = tempfile::tempdir().unwrap();
    let (mut counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
    save(&mut counters, &rows_saved(), now(1, WALL));
    let back =
        "DROP TABLE usage_hour; DROP TABLE alert; DROP TABLE journal; UPDATE meta SET format = 1";
    counters.connection.execute_batch(back).unwrap();
    drop(counters);
    for _ in 0..2 {
        let (counters, found) = Counters::open(directory.path(), now(1, WALL)).unwrap();
        assert_eq!(found, rows_saved());
        let hours = "SELECT count(*) FROM usage_hour";
        let count: i64 = counters
            .connection
            .query_row(hours, [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 0);
    }
}

/// Journals of the versions before are read, folded and gone on with: of format 3, which had every burst whole, and of 4, which said what is new.
#[test]
fn files_of_formats_3_and_4_are_brought_forward() {
    for format in [3, 4] {
        let directory = tempfile::tempdir().unwrap();
        let (counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
        counters.connection.execute_batch(AS_BEFORE).unwrap();
        let quota = (5_000_000_i64, WALL + 5_000_000, 3_600_u32, 73_u32);
        let whole = |quota: Option<(i64, u64, u32, u32)>, log: Vec<(u64, u32)>| {
            let burst = Some((60_u32, 5_000_000_i64, log));
            postcard::to_allocvec(&(0_u8, [b'a'; 12], quota, burst)).unwrap()
        };
        let mut lines = vec![whole(None, vec![(0, 4)])];
        if format == 3 {
            lines.push(whole(Some(quota), vec![(0, 1), (7, 70), (3_999_993, 2)]));
        } else {
            lines.push(whole(Some(quota), vec![(0, 1)]));
            let behind = (
                2_u8,
                5_000_000_i64,
                0_u64,
                vec![(7_u64, 70_u32), (3_999_993, 2)],
            );
            let line = (0_u8, [b'a'; 12], Some(quota), behind);
            lines.push(postcard::to_allocvec(&line).unwrap());
            let gone = (0_u8, [b'a'; 11], b'b', None::<()>, None::<()>);
            lines.push(postcard::to_allocvec(&gone).unwrap());
        }
        let did = did(key(b'a'), HOUR, 50, 3);
        let tally = did.tally;
        let counts = [tally.success, 0, 0, 1, tally.received_bytes, 0];
        let usage = (did.key.0, did.hour, 50_u64, counts, tally.latency);
        let usage = postcard::to_allocvec(&usage).unwrap();
        let add = "INSERT INTO journal(part, bytes, limits, usage) VALUES (97, 1, ?1, ?2)";
        for line in &lines {
            (counters.connection.execute(add, (line, &usage))).unwrap();
        }
        let back = "UPDATE meta SET format = ?1";
        counters.connection.execute(back, [format]).unwrap();
        drop(counters);
        let added = lines.iter().skip(1).fold(tally, |sum, _| sum.and(&tally));
        let reported = || {
            let history = History::open(directory.path()).unwrap().unwrap();
            assert_eq!(history.hours(None, HOUR, HOUR).unwrap(), [(HOUR, added)]);
        };
        // By a report before any gateway of this version has opened the file, and after.
        reported();
        let (mut counters, found) = Counters::open(directory.path(), now(1, WALL)).unwrap();
        let mut expected = rows_saved()[..1].to_vec();
        assert_eq!(found, expected);
        reported();
        // Older versions do not know what is written from now on.
        let format = "SELECT format FROM meta";
        let format: i64 = (counters.connection)
            .query_row(format, [], |row| row.get(0))
            .unwrap();
        assert_eq!(format, 5);
        let mut new = expected.clone();
        let burst = new[0].burst.as_mut().unwrap();
        burst.behind = Some((5_000_007, 5_000_007));
        burst.log = vec![(9_000_000, 5), (9_000_001, 1)].into();
        for _ in 0..2 {
            // In the journal, then in the tables.
            save(&mut counters, &new, now(1, WALL));
            drop(counters);
            let found;
            (counters, found) = Counters::open(directory.path(), now(1, WALL)).unwrap();
            expected[0].burst.as_mut().unwrap().log =
                vec![(5_000_007, 70), (9_000_000, 5), (9_000_001, 1)].into();
            assert_eq!(found, expected);
        }
    }
}

/// What makes no sense in a journal of the version before is not let go of on the way.
#[test]
fn a_damaged_journal_of_format_4_is_refused() {
    // Cut, and a time further from the one before than any is.
    let far: (u8, [u8; 12], Option<()>, _) = (
        0,
        [b'a'; 12],
        None,
        (
            1_u8,
            60_u32,
            i64::MIN,
            [(0_u64, 1_u32), (u64::MAX, 1)].to_vec(),
        ),
    );
    let far: String = (postcard::to_allocvec(&far).unwrap().iter())
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let far = format!("x'{far}', x''");
    for damage in ["x'0199ff', x''", "x'', x'0199ff'", &far] {
        let directory = tempfile::tempdir().unwrap();
        let (counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
        let add = format!("INSERT INTO journal VALUES (1, 97, 1, {damage})");
        let back = "UPDATE meta SET format = 4";
        for part in [AS_BEFORE, &add, back] {
            counters.connection.execute_batch(part).unwrap();
        }
        drop(counters);
        let path = directory.path().join(FILE);
        let before = std::fs::read(&path).unwrap();
        let error = Counters::open(directory.path(), now(1, WALL)).unwrap_err();
        assert!(error.to_string().contains("the journal makes no sense"));
        assert!(std::fs::read(&path).unwrap() == before, "{damage}");
    }
}

/// The journal as formats 3 and 4 had it.
const AS_BEFORE: &str = "
DROP TABLE journal;
CREATE TABLE journal(
  id INTEGER PRIMARY KEY, part INTEGER NOT NULL, bytes INTEGER NOT NULL, limits BLOB NOT NULL, usage BLOB NOT NULL
) STRICT;
CREATE INDEX journal_part ON journal(part, bytes);
";
