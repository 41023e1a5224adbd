//! Counters saved and read again: over restarts and reboots; `formats` of earlier versions, `damage`, and the `journal` of large saves.

use super::*;
use crate::clock::Mono;
use crate::store::history::Tally;

mod damage;
mod formats;
mod journal;

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
                log: vec![(5_000_000, 1), (5_000_007, 70), (9_000_000, 2)].into(),
            }),
        },
        Row {
            subject: Subject::Tenant(TenantId::new("acme.co_1").unwrap()),
            quota: None,
            burst: Some(SavedBurst {
                seconds: 1,
                behind: None,
                log: vec![(-3, 1)].into(),
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
