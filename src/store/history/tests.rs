//! Hours added, read, paged through and let go.

use std::collections::HashMap;
use std::collections::HashSet;

use super::HOURS_KEPT;
use super::History;
use super::HourRow;
use super::Tally;
use super::start_of;
use crate::clock::Mono;
use crate::clock::Now;
use crate::model::key::KeyId;
use crate::store::counters::Batch;
use crate::store::counters::Counters;

const A: KeyId = KeyId(*b"aaaaaaaaaaaa");
const B: KeyId = KeyId(*b"bbbbbbbbbbbb");

fn at(hour: u32) -> Now {
    Now {
        mono: Mono(1),
        wall: start_of(hour),
    }
}

fn row(key: KeyId, hour: u32, success: u64, refused: u64) -> HourRow {
    HourRow {
        key,
        hour,
        tally: Tally {
            last_used_unix_seconds: u64::from(hour) * 3_600 + success,
            success,
            refused,
            latency: [0, success, 0, 0, 0, 0],
            ..Tally::default()
        },
    }
}

fn save(counters: &mut Counters, rows: &[HourRow], hour: u32) {
    let batch = Batch {
        usage: rows,
        ..Batch::default()
    };
    counters.save(&batch, at(hour)).unwrap();
}

/// FF14, PB19: hours add up over saves, and are read by key, by a set of keys and altogether.
#[test]
fn hours_add_up_and_are_read_back() {
    let directory = tempfile::tempdir().unwrap();
    assert!(History::open(directory.path()).unwrap().is_none());
    let now = HOURS_KEPT + 100;
    let (mut counters, _) = Counters::open(directory.path(), at(now)).unwrap();
    save(
        &mut counters,
        &[row(A, now - 1, 2, 1), row(B, now - 1, 5, 0)],
        now,
    );
    save(
        &mut counters,
        &[row(A, now - 1, 3, 0), row(A, now, 7, 0)],
        now,
    );
    let history = History::open(directory.path()).unwrap().unwrap();
    let hours = history.hours_of(A, now - 24, now).unwrap();
    assert_eq!(hours.len(), 2);
    assert_eq!(
        (hours[0].0, hours[0].1.success, hours[0].1.refused),
        (now - 1, 5, 1)
    );
    assert_eq!(hours[0].1.latency[1], 5);
    assert_eq!((hours[1].0, hours[1].1.success), (now, 7));
    assert_eq!(history.hours_of(A, now, now).unwrap().len(), 1);
    let all = history.hours(None, 0, now).unwrap();
    assert_eq!((all.len(), all[0].1.success), (2, 10));
    let only = HashSet::from([B]);
    let of_b = history.hours(Some(&only), 0, now).unwrap();
    assert_eq!((of_b.len(), of_b[0].1.success), (1, 5));
    let by_key = history.page(0, now, None, 9).unwrap();
    let did = by_key.iter().map(|(key, tally)| (*key, tally.success));
    assert!(did.eq([(A, 12), (B, 5)]));
}

/// Pages by id, whatever their size, say of each key what all hours say together, whenever it did something, and leave none out.
#[test]
fn pages_are_the_whole_in_parts() {
    let directory = tempfile::tempdir().unwrap();
    let now = HOURS_KEPT + 100;
    let (mut counters, _) = Counters::open(directory.path(), at(now)).unwrap();
    // Some do something in each hour, some in one alone: the early ones late, the late ones early.
    let key = |index: u32| KeyId(*b"aaaaaaaaaaaa").nth(index);
    let mut rows = Vec::new();
    for index in 0..40 {
        rows.push(row(key(index), now - index / 4, 1 + u64::from(index), 0));
        if index % 3 == 0 {
            (0..12).for_each(|back| rows.push(row(key(index), now - back, 7, 1)));
        }
    }
    // Large saves go to the journal, some of which is folded by each save behind it.
    let idle = |index: u32| row(KeyId(*b"zzzzzzzzzzzz").nth(index), 1, 1, 0);
    let many: Vec<HourRow> = (0..100).map(idle).collect();
    for (at, row) in rows.iter().enumerate() {
        let mut batch = vec![*row];
        if at % 2 == 0 {
            (0..11).for_each(|_| batch.extend(&many));
        }
        save(&mut counters, &batch, now);
    }
    let history = History::open(directory.path()).unwrap().unwrap();
    let (since, until) = (now - 11, now);
    let mut whole: HashMap<KeyId, Tally> = HashMap::new();
    for row in rows.iter().filter(|row| row.hour >= since) {
        let sum = whole.entry(row.key).or_default();
        *sum = sum.and(&row.tally);
    }
    assert_eq!(whole.len(), 40);
    for most in [1, 2, 7, 39, 40, 41] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = history.page(since, until, after, most).unwrap();
            assert!(page.len() <= most);
            let Some((last, _)) = page.last() else {
                break;
            };
            after = Some(*last);
            seen.extend(page);
        }
        assert!(seen.is_sorted_by_key(|(key, _)| *key), "{most}");
        assert_eq!(seen.len(), 40, "{most}");
        for (key, tally) in seen {
            assert_eq!(tally, whole[&key], "{most}");
        }
    }
    assert_eq!(history.page(since, until, None, 0).unwrap(), []);
}

impl KeyId {
    fn nth(mut self, index: u32) -> KeyId {
        self.0[3] = b'0' + (index / 10) as u8;
        self.0[9] = b'0' + (index % 10) as u8;
        self
    }
}

#[test]
fn hours_older_than_90_days_are_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let now = HOURS_KEPT + 100;
    let (mut counters, _) = Counters::open(directory.path(), at(now)).unwrap();
    let kept = now - HOURS_KEPT;
    save(
        &mut counters,
        &[row(A, 7, 1, 0), row(A, 9, 1, 0), row(A, kept, 1, 0)],
        now,
    );
    save(&mut counters, &[], now);
    let history = History::open(directory.path()).unwrap().unwrap();
    let left = history.hours(None, 0, now).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].0, kept);
}
