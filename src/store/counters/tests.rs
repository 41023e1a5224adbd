//! Counters saved and read again: over restarts, reboots, formats and damage.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::Connection;

use super::lines::Bases;
use super::lines::Burst;
use super::lines::Limits;
use super::lines::Lines;
use super::lines::Whose;
use super::*;
use crate::clock::Mono;
use crate::store::history::History;
use crate::store::history::Tally;

const WALL: u64 = 1_700_000_000_000_000;

/// The hour of it.
const HOUR: u32 = 472_222;

fn now(mono: u64, wall: u64) -> Now {
    Now {
        mono: Mono(mono),
        wall: Wall(wall),
    }
}

fn key(byte: u8) -> KeyId {
    KeyId([byte; 12])
}

fn rows_saved() -> Vec<Row> {
    vec![
        Row {
            subject: Subject::Key(key(b'a')),
            quota: Some(SavedQuota {
                opened_micros: 5_000_000,
                opened_wall: Wall(WALL + 5_000_000),
                seconds: 3_600,
                used: 73,
            }),
            burst: Some(SavedBurst {
                seconds: 60,
                behind: None,
                log: vec![(5_000_000, 1), (5_000_007, 70), (9_000_000, 2)],
            }),
        },
        Row {
            subject: Subject::Tenant(TenantId::new("acme.co_1").unwrap()),
            quota: None,
            burst: Some(SavedBurst {
                seconds: 1,
                behind: None,
                log: vec![(-3, 1)],
            }),
        },
    ]
}

fn save(counters: &mut Counters, rows: &[Row], now: Now) {
    let batch = Batch {
        rows,
        ..Batch::default()
    };
    counters.save(&batch, now).unwrap();
}

#[test]
fn saved_rows_come_back_exactly_in_the_same_boot() {
    let directory = tempfile::tempdir().unwrap();
    let start = now(10_000_000, WALL + 10_000_000);
    let (mut counters, found) = Counters::open_in_boot(directory.path(), start, "one").unwrap();
    assert_eq!(found, []);
    save(&mut counters, &rows_saved(), start);
    drop(counters);
    // The wall clock fell back by a day in between: within one boot it does not count.
    let later = now(11_000_000, WALL - 86_400_000_000);
    let (mut counters, found) = Counters::open_in_boot(directory.path(), later, "one").unwrap();
    assert_eq!(found, rows_saved());
    let removed = [Subject::Key(key(b'a'))];
    let batch = Batch {
        removed: &removed,
        ..Batch::default()
    };
    counters.save(&batch, later).unwrap();
    drop(counters);
    let (_, found) = Counters::open_in_boot(directory.path(), later, "one").unwrap();
    assert_eq!(found, rows_saved()[1..]);
}

/// What SQLite has written beside the file goes into it again and again, in small portions.
#[test]
fn the_log_beside_the_file_stays_small() {
    let directory = tempfile::tempdir().unwrap();
    let start = now(10_000_000, WALL + 10_000_000);
    let (mut counters, _) = Counters::open_in_boot(directory.path(), start, "one").unwrap();
    for second in 0..200 {
        save(&mut counters, &rows_saved(), now(second, WALL + second));
    }
    let log = directory.path().join("counters.db-wal");
    let bytes = std::fs::metadata(log).unwrap().len();
    // A page a save.
    assert!((4_096..80 * 4_120).contains(&bytes), "{bytes}");
}

/// The machine was off for 100 s; its monotonic clock began again at zero.
#[test]
fn times_move_to_the_new_clock_after_a_reboot() {
    let directory = tempfile::tempdir().unwrap();
    let start = now(10_000_000, WALL + 10_000_000);
    let (mut counters, _) = Counters::open_in_boot(directory.path(), start, "one").unwrap();
    save(&mut counters, &rows_saved(), start);
    drop(counters);
    let shift = 10_000_000 + 100_000_000 - 2_000_000;
    let mut expected = rows_saved();
    expected[0].quota.as_mut().unwrap().opened_micros -= shift;
    for row in &mut expected {
        for (at, _) in &mut row.burst.as_mut().unwrap().log {
            *at -= shift;
        }
    }
    let rebooted = now(2_000_000, WALL + 110_000_000);
    // The second start finds them moved already, although nothing was saved in between.
    for boot in ["two", "two"] {
        let (_, found) = Counters::open_in_boot(directory.path(), rebooted, boot).unwrap();
        assert_eq!(found, expected);
    }
    // Without a boot id nothing is known of the clock, so the wall clock decides.
    let unknown = now(3_000_000, WALL + 111_000_000);
    let (_, found) = Counters::open_in_boot(directory.path(), unknown, "").unwrap();
    assert_eq!(found, expected);
}

/// ASKS 8: usage adds up over saves.
#[test]
fn usage_adds_up() {
    let directory = tempfile::tempdir().unwrap();
    let row = |byte, last_used_unix_seconds, total| UsageRow {
        key: key(byte),
        last_used_unix_seconds,
        total,
    };
    let did = |byte, last_used_unix_seconds, success| HourRow {
        key: key(byte),
        hour: 7,
        tally: Tally {
            last_used_unix_seconds,
            success,
            ..Tally::default()
        },
    };
    for usage in [
        vec![did(b'a', 50, 2), did(b'b', 7, 1), did(b'c', 0, 0)],
        vec![did(b'a', 40, 3)],
    ] {
        let (mut counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
        let batch = Batch {
            usage: &usage,
            ..Batch::default()
        };
        counters.save(&batch, now(1, WALL)).unwrap();
    }
    let (counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
    assert_eq!(
        counters.usage(None).unwrap(),
        [row(b'a', 50, 5), row(b'b', 7, 1)]
    );
}

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
        burst.log = vec![(9_000_000, 5), (9_000_001, 1)];
        for _ in 0..2 {
            // In the journal, then in the tables.
            save(&mut counters, &new, now(1, WALL));
            drop(counters);
            let found;
            (counters, found) = Counters::open(directory.path(), now(1, WALL)).unwrap();
            expected[0].burst.as_mut().unwrap().log =
                vec![(5_000_007, 70), (9_000_000, 5), (9_000_001, 1)];
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

/// What one save brings of so many keys: each used once more than in the save before, and every seventh let go of.
fn busy(save: u64, keys: u64) -> (Vec<Row>, Vec<Subject>, Vec<HourRow>) {
    let (mut rows, mut removed, mut usage) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..keys {
        let key = numbered(number);
        if (number + save).is_multiple_of(7) {
            removed.push(Subject::Key(key));
            continue;
        }
        let at = |step: u64| (1_000_000 * save + number + step) as i64;
        rows.push(Row {
            subject: Subject::Key(key),
            quota: (number % 3 > 0).then(|| SavedQuota {
                opened_micros: at(0) - 9_000_000,
                opened_wall: Wall(WALL + number),
                seconds: 3_600,
                used: save as u32,
            }),
            burst: (number % 3 < 2).then(|| SavedBurst {
                seconds: 60,
                behind: None,
                log: (0..save)
                    .map(|step| (at(step), 1 + number as u32))
                    .collect(),
            }),
        });
        let hour = HOUR + (save / 3) as u32;
        usage.push(did(key, hour, 50 + save, 1 + number % 5));
    }
    let tenant = Subject::Tenant(TenantId::new("acme.co_1").unwrap());
    rows.extend(rows_saved().into_iter().filter(|row| row.subject == tenant));
    (rows, removed, usage)
}

/// Spread over all first bytes that a key can have.
fn numbered(number: u64) -> KeyId {
    let first = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut id = *b"x00000000000";
    id[0] = first[number as usize % first.len()];
    id[1..9].copy_from_slice(format!("{number:08}").as_bytes());
    KeyId(id)
}

fn did(key: KeyId, hour: u32, last_used_unix_seconds: u64, success: u64) -> HourRow {
    HourRow {
        key,
        hour,
        tally: Tally {
            last_used_unix_seconds,
            success,
            refused: 1,
            received_bytes: success * 1_000_000_007,
            latency: [0, 0, success, 0, 0, 0],
            ..Tally::default()
        },
    }
}

/// Rows, usage, and reports by hour.
type All = (Vec<Row>, Vec<UsageRow>, Vec<Vec<(u32, Tally)>>);

/// What a file of counters says, all of it.
fn all_of(directory: &Path, boot: &str) -> All {
    // The monotonic clock of another boot began elsewhere.
    let mono = if boot == "one" { 99_000_000 } else { 2_000_000 };
    let at = now(mono, WALL + 99_000_000);
    let (counters, mut rows) = Counters::open_in_boot(directory, at, boot).unwrap();
    rows.sort_by(|one, other| one.subject.cmp(&other.subject));
    let some = [numbered(64), numbered(3)];
    let mut usage = counters.usage(None).unwrap();
    usage.extend(counters.usage(Some(&some)).unwrap());
    let history = History::open(directory).unwrap().unwrap();
    let by_key = history.page(HOUR + 1, HOUR + 2, None, 1_000_000).unwrap();
    let hours = vec![
        history.hours(None, 0, HOUR + 9).unwrap(),
        history
            .hours(Some(&HashSet::from(some)), HOUR + 1, HOUR + 9)
            .unwrap(),
        history.hours_of(some[1], HOUR, HOUR + 1).unwrap(),
        by_key.into_iter().map(|(_, tally)| (0, tally)).collect(),
    ];
    (rows, usage, hours)
}

/// Large saves, which go through the journal, leave the same as the same changes in small ones: read within the same boot, after another, and by reports
/// while some of them still stand in the journal.
#[test]
fn the_journal_says_what_the_tables_would() {
    let (large, small) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let start = now(1_000_000, WALL + 1_000_000);
    let (mut one, _) = Counters::open_in_boot(large.path(), start, "one").unwrap();
    let (mut other, _) = Counters::open_in_boot(small.path(), start, "one").unwrap();
    for number in 1..=9 {
        // The last ones are small: what stands in the journal must not win over them.
        let (rows, removed, usage) = busy(number, if number < 8 { 900 } else { 90 });
        let at = now(1_000_000 * number, WALL + 1_000_000 * number);
        let batch = Batch {
            rows: &rows,
            removed: &removed,
            usage: &usage,
        };
        one.save(&batch, at).unwrap();
        for rows in rows.chunks(400) {
            save(&mut other, rows, at);
        }
        for (removed, usage) in [(removed.as_slice(), &[][..]), (&[], &usage[..])] {
            for usage in usage.chunks(400).chain([&[][..]]) {
                let batch = Batch {
                    rows: &[],
                    removed,
                    usage,
                };
                other.save(&batch, at).unwrap();
            }
        }
    }
    let waiting = |counters: &Counters| -> u64 {
        let all = "SELECT count(DISTINCT part) FROM journal";
        let of = &counters.connection;
        of.query_row(all, [], |row| row.get(0)).unwrap()
    };
    assert!((30..62).contains(&waiting(&one)), "{}", waiting(&one));
    assert_eq!(waiting(&other), 0);
    drop((one, other));
    for boot in ["one", "two", "two"] {
        let (found, expected) = (all_of(large.path(), boot), all_of(small.path(), boot));
        assert!(found.0 == expected.0, "{boot}");
        assert!(found.1 == expected.1, "{boot}");
        assert!(found.2 == expected.2, "{boot}");
    }
}

/// Each save folds a part: a gateway that has grown quiet has an empty journal soon.
#[test]
fn the_journal_empties() {
    let directory = tempfile::tempdir().unwrap();
    let (mut counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
    let (rows, removed, usage) = busy(1, 700);
    let batch = Batch {
        rows: &rows,
        removed: &removed,
        usage: &usage,
    };
    counters.save(&batch, now(1, WALL)).unwrap();
    for _ in 0..62 {
        save(&mut counters, &[], now(1, WALL));
    }
    let left = "SELECT count(*) FROM journal";
    let left: u64 = (counters.connection)
        .query_row(left, [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
    let total: u64 = (counters.usage(None).unwrap().iter())
        .map(|row| row.total)
        .sum();
    assert_eq!(
        total,
        usage.iter().map(|row| row.tally.requests()).sum::<u64>()
    );
}

/// What each of two hundred saves brings of a thousand keys: one request more of each, and of its burst what is new. The first is let go of on the way, the
/// second comes back whole, the third is not used any more.
fn going_on(save: u64) -> (Vec<Row>, Vec<Subject>, Vec<HourRow>) {
    let number_in = |range: std::ops::Range<u64>| range.map(numbered).map(Subject::Key).collect();
    let removed: Vec<Subject> = match save {
        140 => number_in(0..2),
        _ => Vec::new(),
    };
    let used = (0..1_000).filter(|number| used_in(*number, save));
    let rows = used.clone().map(|number| {
        let log = burst_after(number, save);
        let is_first = log.len() < 2;
        let behind = (!is_first).then(|| (log[0].0, log[log.len() - 2].0));
        Row {
            subject: Subject::Key(numbered(number)),
            quota: Some(quota_after(save)),
            burst: Some(SavedBurst {
                seconds: 60,
                behind,
                log: log[log.len() - 1..].to_vec(),
            }),
        }
    });
    let hour = hour_of_save(save);
    let usage = used.map(|number| did(numbered(number), hour, 50 + save, 1));
    (rows.collect(), removed, usage.collect())
}

fn used_in(number: u64, save: u64) -> bool {
    match number {
        0 => save < 140,
        1 => save != 140,
        2 => save < 40,
        _ => true,
    }
}

fn quota_after(save: u64) -> SavedQuota {
    SavedQuota {
        opened_micros: 1_000_000,
        opened_wall: Wall(WALL),
        seconds: 3_600,
        used: save as u32,
    }
}

/// The times of the last minute.
fn burst_after(number: u64, save: u64) -> Vec<(i64, u32)> {
    let first = if number == 1 && save > 140 { 141 } else { 1 };
    let saves = first.max(save.saturating_sub(59))..=save;
    saves
        .map(|save| ((1_000_000 * save + number) as i64, 1))
        .collect()
}

/// Two hours turn meanwhile.
fn hour_of_save(save: u64) -> u32 {
    HOUR + u32::from(save > 70) + u32::from(save > 200)
}

/// Of many keys that stay in use, parts are merged within an hour and folded after it; whatever stands where, all is there, and times of two boots agree.
#[test]
fn the_journal_is_merged_within_an_hour_and_folded_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut counters, _) =
        Counters::open_in_boot(directory.path(), now(1_000_000, WALL), "one").unwrap();
    let number = |counters: &Counters, query: &str| -> u64 {
        let of = &counters.connection;
        of.query_row(query, [], |row| row.get(0)).unwrap()
    };
    let in_tables = "SELECT coalesce(sum(success), 0) FROM usage_hour";
    let mut folded = 0;
    for save in 1..=270 {
        let (rows, removed, usage) = going_on(save);
        let batch = Batch {
            rows: &rows,
            removed: &removed,
            usage: &usage,
        };
        let hours = u64::from(hour_of_save(save) - HOUR);
        let at = now(1_000_000 * save, WALL + 3_600_000_000 * hours);
        counters.save(&batch, at).unwrap();
        match save {
            132 => folded = number(&counters, in_tables),
            1..=70 | 133..=200 => assert_eq!(number(&counters, in_tables), folded, "{save}"),
            _ => {}
        }
        if [50, 69, 100, 139, 140, 200, 270].contains(&save) {
            says_all(&counters, directory.path(), save);
        }
        if save == 200 {
            assert!(folded > 70_000, "{folded}");
            // Each part: the merged ones, and those that came since.
            let most =
                "SELECT max(saves) FROM (SELECT count(*) AS saves FROM journal GROUP BY part)";
            assert!(number(&counters, most) <= 63);
        }
    }
    assert!(number(&counters, in_tables) > 200 * 990);
    drop(counters);
    let moved = now(9_000_000, WALL + 7_300_000_000);
    let (_, rows) = Counters::open_in_boot(directory.path(), moved, "two").unwrap();
    assert_eq!(rows.len(), 999);
    // By its own clocks the last save was 100 s before.
    let by = 270_000_000 + 100_000_000 - 9_000_000;
    for row in &rows {
        assert_eq!(row.quota.unwrap().opened_micros, 1_000_000 - by);
    }
}

/// What stands in the file after so many saves of `going_on`, read beside it.
fn says_all(counters: &Counters, directory: &Path, save: u64) {
    let (_, mut rows) =
        Counters::open_in_boot(directory, now(1_000_000 * save, WALL), "one").unwrap();
    rows.sort_by(|one, other| one.subject.cmp(&other.subject));
    let mut expected: Vec<Row> = (0..1_000)
        .filter_map(|number| {
            let last = (1..=save).rev().find(|save| used_in(number, *save))?;
            let gone = last < 140 && save >= 140 && number < 2;
            (!gone).then(|| Row {
                subject: Subject::Key(numbered(number)),
                quota: Some(quota_after(last)),
                burst: Some(SavedBurst {
                    seconds: 60,
                    behind: None,
                    log: burst_after(number, last),
                }),
            })
        })
        .collect();
    expected.sort_by(|one, other| one.subject.cmp(&other.subject));
    assert!(rows == expected, "{save}");
    let count = |number: u64| {
        let saves = (1..=save).filter(|save| used_in(number, *save));
        saves.count() as u64
    };
    let usage = counters.usage(None).unwrap();
    let total: u64 = usage.iter().map(|row| row.total).sum();
    assert_eq!(total, (0..1_000).map(count).sum::<u64>(), "{save}");
    let history = History::open(directory).unwrap().unwrap();
    let hours = history.hours_of(numbered(2), HOUR, HOUR).unwrap();
    assert_eq!(hours[0].1.success, count(2), "{save}");
    let all = history.hours(None, HOUR, HOUR + 2).unwrap();
    let all: u64 = all.iter().map(|(_, tally)| tally.success).sum();
    assert_eq!(all, total, "{save}");
}

/// However much is written at once, so much waits at most, and the rest is in the tables.
#[test]
fn the_journal_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let (mut counters, _) = Counters::open(directory.path(), now(1, WALL)).unwrap();
    let log: Vec<(i64, u32)> = (0..512)
        .map(|step| (step * 100_000_000, 1_000_000))
        .collect();
    let rows: Vec<Row> = (0..1_000)
        .map(|number| Row {
            subject: Subject::Key(numbered(number)),
            quota: None,
            burst: Some(SavedBurst {
                seconds: 86_400,
                behind: None,
                log: log.clone(),
            }),
        })
        .collect();
    let bytes = |counters: &Counters| -> u64 {
        let all = "SELECT coalesce(sum(length(lines)), 0) FROM journal";
        let of = &counters.connection;
        of.query_row(all, [], |row| row.get(0)).unwrap()
    };
    counters.hand.bytes_max = 16 << 20;
    let mut most = 0;
    for _ in 0..8 {
        save(&mut counters, &rows, now(1, WALL));
        most = most.max(bytes(&counters));
    }
    assert!(most > 12 << 20 && most <= 16 << 20, "{most}");
    // Others each time: there is nothing to merge.
    let kept = read_again(&directory);
    for round in 1..6 {
        let mut others = rows.clone();
        for (number, row) in (1_000 * round..).zip(&mut others) {
            row.subject = Subject::Key(numbered(number));
        }
        save(&mut counters, &others, now(1, WALL));
        assert!(bytes(&counters) <= 16 << 20);
    }
    assert!(read_again(&directory).len() == 6 * kept.len());
}

fn read_again(directory: &tempfile::TempDir) -> Vec<Row> {
    let (_, rows) = Counters::open(directory.path(), now(1, WALL)).unwrap();
    rows
}
