//! What cannot be read.

use rusqlite::Connection;

use super::*;
use crate::store::counters::lines::Bases;
use crate::store::counters::lines::Burst;
use crate::store::counters::lines::Limits;
use crate::store::counters::lines::Lines;
use crate::store::counters::lines::Whose;

/// ASKS 27: what cannot be read is named and left as it is.
#[test]
fn unreadable_files_are_named_and_kept() {
    let make = |sql: &str| {
        let directory = tempfile::tempdir().unwrap();
        let (mut counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
        save(&mut counters, &rows_saved(), now(1, WALL));
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
            make("UPDATE meta SET format = 6"),
            "format 6 is from a later version",
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
    let cases = (cases.into_iter()).map(|(directory, says)| (directory, says, says.to_owned()));
    let journals = senseless_journals().into_iter().map(|lines| {
        let hex: String = lines.iter().map(|byte| format!("{byte:02x}")).collect();
        let add = format!("INSERT INTO journal VALUES (1, 97, 1, x'{hex}')");
        (make(&add), "the journal makes no sense", hex)
    });
    for (directory, says, what) in cases.chain(journals) {
        let path = directory.path().join(FILE);
        let before = std::fs::read(&path).unwrap();
        let error = Counters::open(directory.path(), now(1, WALL)).expect_err(&what);
        let text = error.to_string();
        assert!(text.contains(says), "{what}: {text}");
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(std::fs::read(&path).unwrap() == before, "{text}");
    }
}

/// Saves of the part of `a` that nobody has written.
fn senseless_journals() -> Vec<Vec<u8>> {
    let quota = |seconds| Limits {
        quota: Some(SavedQuota {
            opened_micros: 5_000_000,
            opened_wall: Wall(WALL),
            seconds,
            used: 1,
        }),
        burst: None,
    };
    let burst = |seconds, behind, log| Limits {
        quota: None,
        burst: Some(Burst {
            seconds,
            behind,
            log,
        }),
    };
    let packed = |lines: &[(Whose<'_>, Option<Limits<'_>>, &[HourRow])]| {
        let mut packed = Lines::default();
        for (whose, limits, usage) in lines {
            packed.add(Bases::default(), *whose, *limits, usage);
        }
        packed.packed().to_vec()
    };
    let line = |whose, limits| packed(&[(whose, Some(limits), &[])]);
    let own = Whose::Key([b'a'; 12]);
    let mut huge = did(key(b'a'), HOUR, 1, 1);
    huge.tally.success = 1 << 49;
    let mut good = line(own, quota(3_600));
    let cut = good[..good.len() - 1].to_vec();
    let with_more = {
        // A byte behind what the line says, within its length.
        let mut more = good.clone();
        more[2] += 1;
        more.push(0);
        more
    };
    let with_flags = |flags: u8| {
        let mut other = good.clone();
        other[3] = flags;
        other
    };
    // As often in one line as hours can be, and so much in it that no number holds the sum.
    let mut most = did(key(b'a'), HOUR, 1, 1);
    most.tally.success = 1 << 48;
    let again = vec![most; 1 << 13];
    let hours: Vec<HourRow> = (0..3_000).map(|hour| did(key(b'a'), hour, 1, 1)).collect();
    let late = Limits {
        quota: Some(SavedQuota {
            opened_wall: Wall(u64::MAX),
            ..quota(60).quota.unwrap()
        }),
        burst: None,
    };
    let mut journals = vec![
        vec![],
        vec![0, 0],
        line(own, late),
        packed(&[(own, None, &again)]),
        packed(&[(own, None, &hours)]),
        b"\x01\x99\xff".to_vec(),
        cut,
        with_more,
        // Flags that nobody knows, a burst of two kinds, windows of which nothing is said.
        with_flags(0x86),
        with_flags(0x1e),
        with_flags(0x04),
        // A window of no length.
        line(own, quota(0)),
        line(own, burst(0, None, &[(9, 1)])),
        // More than there can be, and what no clock shows.
        line(own, burst(60, None, &[(9, u32::MAX), (10, 1)])),
        line(
            own,
            burst(60, None, &[(i64::MIN, 1), (-1, 1), (i64::MAX - 1, 1)]),
        ),
        // What is new of a burst that nobody has.
        line(
            Whose::Key(*b"abbbbbbbbbbb"),
            burst(60, Some((1, 1)), &[(1, 1)]),
        ),
        // What is new of one that is there, and then again from an earlier time on.
        packed(&[
            (
                own,
                Some(burst(60, Some((5_000_007, 5_000_007)), &[(5_000_008, 1)])),
                &[],
            ),
            (
                own,
                Some(burst(60, Some((5_000_000, 5_000_007)), &[(5_000_008, 1)])),
                &[],
            ),
        ]),
        // What is new behind a time that is not there.
        line(
            own,
            burst(60, Some((5_000_000, 5_000_003)), &[(5_000_004, 1)]),
        ),
        // Whose it is: nobody's, a tenant's of no name, another part's.
        line(Whose::Key(*b"a-----------"), quota(3_600)),
        line(Whose::Tenant("a b"), quota(3_600)),
        line(Whose::Key([b'b'; 12]), quota(3_600)),
        // What no key can have done, and no tenant.
        packed(&[(own, None, &[huge])]),
        packed(&[(Whose::Tenant("acme"), None, &[did(key(b'a'), HOUR, 1, 1)])]),
    ];
    good.push(1);
    journals.push(good);
    journals
}

/// What is written so for a tenant is good: the cases beside it are no accident.
#[test]
fn what_makes_sense_of_a_journal_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let (counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
    let mut lines = Lines::default();
    for (row, usage) in rows_saved()
        .iter()
        .zip([&[did(key(b'a'), HOUR, 1, 1)][..], &[]])
    {
        lines.add(
            Bases::default(),
            Whose::of(&row.subject),
            Some(Limits::of(row)),
            usage,
        );
    }
    let add = "INSERT INTO journal VALUES (1, 97, 1, ?1)";
    counters.connection.execute(add, [lines.packed()]).unwrap();
    drop(counters);
    let (counters, found) = Counters::open(directory.path(), now(1, WALL)).unwrap();
    assert_eq!(found, rows_saved());
    assert_eq!(counters.usage(None).unwrap().len(), 1);
}

#[test]
fn directory_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("nowhere");
    let error = Counters::open(&missing, now(1, WALL)).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}
