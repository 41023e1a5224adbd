//! Large saves.

use std::collections::HashSet;
use std::path::Path;

use super::*;
use crate::store::history::History;

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
                log: log[log.len() - 1..].into(),
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
                    log: burst_after(number, last).into(),
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
                log: log.clone().into(),
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
