//! Counters charged, exported, written and restored.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use super::*;
use crate::clock::Mono;
use crate::clock::Now;
use crate::clock::Wall;
use crate::store::counters::Batch;
use crate::store::counters::Counters;

const KEY: KeyId = KeyId(*b"aaaaaaaaaaaa");

fn at(seconds: u64) -> Now {
    Now {
        mono: Mono(seconds * 1_000_000),
        wall: Wall(1_700_000_000_000_000 + seconds * 1_000_000),
    }
}

fn limits(quota: u32, burst: u32) -> Limits {
    Limits {
        quota: Some(Rate {
            count: quota,
            seconds: 3_600,
        }),
        burst: Some(Rate {
            count: burst,
            seconds: 60,
        }),
    }
}

fn by_key(key: KeyId, limits: &Limits) -> Charge<'_> {
    Charge {
        key: Some((key, limits)),
        tenant: None,
        cost: 1,
    }
}

fn left(numbers: &Numbers) -> (u32, u32) {
    (
        numbers.quota.unwrap().remaining,
        numbers.burst.unwrap().remaining,
    )
}

/// FA21: a second key of the same tenant is unaffected.
#[test]
fn keys_are_counted_apart() {
    let (quota, limits) = (Quota::new(), limits(5, 5));
    let other = KeyId(*b"bbbbbbbbbbbb");
    for _ in 0..5 {
        quota.charge(&by_key(KEY, &limits), at(0)).unwrap();
    }
    assert!(quota.charge(&by_key(KEY, &limits), at(0)).is_err());
    assert_eq!(
        left(&quota.charge(&by_key(other, &limits), at(0)).unwrap()),
        (4, 4)
    );
}

/// S31, SEEDS 8.1: 64 threads, exactly as many pass as the limit says, by key, by tenant and by both, while sweeps and exports run.
#[test]
fn exactly_the_limit_passes_under_concurrency() {
    let tenant = TenantId::new("acme").unwrap();
    let (loose, tight) = (limits(10_000, 10_000), limits(700, 1_000));
    let cases = [
        (Some(&tight), None),
        (None, Some(&tight)),
        (Some(&tight), Some(&loose)),
        (Some(&loose), Some(&tight)),
    ];
    for (key, of_tenant) in cases {
        let quota = Quota::new();
        let passed = AtomicUsize::new(0);
        let charge = Charge {
            key: key.map(|limits| (KEY, limits)),
            tenant: of_tenant.map(|limits| (&tenant, limits)),
            cost: 1,
        };
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    for round in 0..50 {
                        if quota.charge(&charge, at(round)).is_ok() {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    quota.sweep(at(50));
                    let _ = quota.export(at(0));
                });
            }
        });
        assert_eq!(passed.into_inner(), 700);
        assert_eq!(quota.peek(&charge, at(50)).quota.unwrap().remaining, 0);
    }
}

/// Many keys of many tenants at once: nobody waits for ever.
#[test]
fn two_subjects_never_wait_for_each_other() {
    let quota = Quota::new();
    let limits = limits(1_000_000, 1_000_000);
    let tenants = ["a", "b", "c"].map(|id| TenantId::new(id).unwrap());
    let keys = [b'a', b'b', b'c'].map(|byte| KeyId([byte; 12]));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (quota, limits, tenants) = (&quota, &limits, &tenants);
            scope.spawn(move || {
                for round in 0..2_000 {
                    let charge = Charge {
                        key: Some((keys[(round + thread) % 3], limits)),
                        tenant: Some((&tenants[round % 3], limits)),
                        cost: 1,
                    };
                    quota.charge(&charge, at(0)).unwrap();
                }
            });
        }
    });
    let used: u32 = tenants
        .iter()
        .map(|tenant| {
            let charge = Charge {
                key: None,
                tenant: Some((tenant, &limits)),
                cost: 1,
            };
            1_000_000 - quota.peek(&charge, at(0)).quota.unwrap().remaining
        })
        .sum();
    assert_eq!(used, 16_000);
}

/// S28, PB21.
#[test]
fn unlimited_subjects_keep_no_state() {
    let quota = Quota::new();
    let unlimited = Limits::default();
    let tenant = TenantId::new("acme").unwrap();
    let charge = Charge {
        key: Some((KEY, &unlimited)),
        tenant: Some((&tenant, &unlimited)),
        cost: 1,
    };
    for _ in 0..10_000 {
        assert_eq!(quota.charge(&charge, at(0)), Ok(Numbers::default()));
    }
    assert_eq!(quota.peek(&charge, at(0)), Numbers::default());
    assert_eq!(quota.subjects(), 0);
    assert_eq!(quota.export(at(0)), Changes::default());
}

#[test]
fn peek_takes_nothing_and_makes_nothing() {
    let (quota, limits) = (Quota::new(), limits(5, 3));
    let charge = by_key(KEY, &limits);
    assert_eq!(left(&quota.peek(&charge, at(0))), (5, 3));
    assert_eq!(quota.subjects(), 0);
    quota.charge(&charge, at(0)).unwrap();
    let _ = quota.export(at(0));
    for _ in 0..3 {
        assert_eq!(left(&quota.peek(&charge, at(59))), (4, 2));
    }
    assert_eq!(left(&quota.peek(&charge, at(60))), (4, 3));
    assert_eq!(quota.export(at(0)), Changes::default());
}

/// ASKS 26: only what is over goes.
#[test]
fn sweep_removes_only_what_is_over() {
    let (quota, limits) = (Quota::new(), limits(5, 3));
    quota.charge(&by_key(KEY, &limits), at(0)).unwrap();
    assert_eq!(quota.export(at(0)).rows.len(), 1);
    for (seconds, subjects) in [(61, 1), (3_599, 1), (3_609, 1), (3_610, 0)] {
        quota.sweep(at(seconds));
        assert_eq!(quota.subjects(), subjects, "{seconds} s");
    }
    let changes = quota.export(at(0));
    assert_eq!(changes.rows, []);
    assert_eq!(changes.removed, [Subject::Key(KEY)]);
}

#[test]
fn export_brings_what_changed_once_and_in_order() {
    let (quota, limits) = (Quota::new(), limits(5, 3));
    let tenant = TenantId::new("acme").unwrap();
    for byte in [b'c', b'a', b'b', b'a'] {
        let charge = Charge {
            tenant: Some((&tenant, &limits)),
            ..by_key(KeyId([byte; 12]), &limits)
        };
        let _ = quota.charge(&charge, at(0));
    }
    let changes = quota.export(at(0));
    let subjects: Vec<String> = changes
        .rows
        .iter()
        .map(|row| row.subject.to_string())
        .collect();
    assert_eq!(
        subjects,
        [
            "k:aaaaaaaaaaaa",
            "k:bbbbbbbbbbbb",
            "k:cccccccccccc",
            "t:acme"
        ]
    );
    assert_eq!(changes.rows[3].quota.unwrap().used, 3);
    assert_eq!(quota.export(at(0)), Changes::default());
    quota.charge(&by_key(KEY, &limits), at(1)).unwrap();
    assert_eq!(quota.export(at(0)).rows.len(), 1);
    // What could not be written comes again, as it is by then.
    quota.charge(&by_key(KEY, &limits), at(2)).unwrap();
    quota.unexport(changes);
    let again = quota.export(at(0));
    assert_eq!(again.rows.len(), 4);
    assert_eq!(again.rows[0].quota.unwrap().used, 3);
}

/// SEEDS 8.4: after `kill -9` what was admitted since the last save is forgotten, and nothing else.
#[test]
fn restore_forgets_only_what_came_after_the_save() {
    let directory = tempfile::tempdir().unwrap();
    let (mut file, saved) = Counters::open(directory.path(), at(0)).unwrap();
    assert_eq!(saved, []);
    let (before, limits) = (Quota::new(), limits(100, 100));
    let charge = by_key(KEY, &limits);
    for second in 0..73 {
        before.charge(&charge, at(second)).unwrap();
    }
    let changes = before.export(at(0));
    let batch = Batch {
        rows: &changes.rows,
        removed: &changes.removed,
        usage: &[],
    };
    file.save(&batch, at(73)).unwrap();
    for _ in 0..4 {
        before.charge(&charge, at(73)).unwrap();
    }
    let (_, saved) = Counters::open(directory.path(), at(74)).unwrap();
    let after = Quota::new();
    after.restore(saved, at(74));
    // The burst still knows the second of each.
    assert_eq!(left(&after.peek(&charge, at(74))), (27, 42));
    assert_eq!(after.export(at(0)), Changes::default());
    let admitted = (0..50)
        .filter(|_| after.charge(&charge, at(75)).is_ok())
        .count();
    assert_eq!(admitted, 27);
}

/// Many keys are saved by what is new of their bursts: whatever was charged, swept, not written, rounded, given another length or read again in
/// between, the file says what memory does.
#[test]
fn saves_of_what_is_new_add_up() {
    let directory = tempfile::tempdir().unwrap();
    let (mut file, _) = Counters::open(directory.path(), at(0)).unwrap();
    let mut quota = Quota::new();
    let mut chance = Chance(7);
    let (mut micros, mut partly) = (0, 0);
    let tenant = TenantId::new("acme").unwrap();
    for round in 0..90_u64 {
        for number in 0..NUMBERED {
            // Enough of the first for its times to be rounded up, past new ones; some are let go of for a while, and some are over and swept.
            let times = match number {
                0 => 90,
                _ if (number + round / 9) % 5 == 0 => 0,
                _ => 1 + chance.below(2),
            };
            let mut limits = limits(1_000_000, 1_000_000);
            let lengths = [1, 20, 60];
            let length = lengths[((number + round / 31) % 3) as usize];
            limits.burst.as_mut().unwrap().seconds = length;
            limits.quota = limits.quota.filter(|_| number % 4 > 0);
            for _ in 0..times {
                micros += chance.below(700);
                let charge = Charge {
                    key: Some((numbered(number), &limits)),
                    tenant: (number == 7).then_some((&tenant, &limits)),
                    cost: 1,
                };
                quota.charge(&charge, at_micros(micros)).unwrap();
            }
        }
        let now = at_micros(micros);
        if round % 11 == 4 {
            micros += 21_000_000;
            quota.sweep(at_micros(micros));
        }
        let changes = quota.export(at(0));
        let new = |row: &&Row| {
            row.burst
                .as_ref()
                .is_some_and(|burst| burst.behind.is_some())
        };
        partly += changes.rows.iter().filter(new).count();
        if round % 7 == 2 {
            quota.unexport(changes);
            continue;
        }
        save(&mut file, &changes, now);
        if round % 13 == 12 {
            drop(file);
            let mut rows;
            (file, rows) = Counters::open(directory.path(), now).unwrap();
            rows.sort_by(|one, other| one.subject.cmp(&other.subject));
            assert!(rows == all_of(&quota, &tenant).rows, "round {round}");
            if round % 2 == 0 {
                quota = Quota::new();
                quota.restore(rows, now);
            }
            save(&mut file, &all_of(&quota, &tenant), now);
        }
    }
    assert!(partly > 20_000, "{partly}");
}

/// Whoever's windows are over and swept is told of as removed, also where he sits again by then and was refused.
#[test]
fn who_is_swept_is_told_of_whoever_sits_there() {
    let quota = Quota::new();
    let limits = limits(5, 5);
    let charge = |cost, now| {
        let charge = Charge {
            key: Some((KEY, &limits)),
            tenant: None,
            cost,
        };
        quota.charge(&charge, now).is_ok()
    };
    assert!(charge(1, at(1)));
    assert_eq!(quota.export(at(0)).rows.len(), 1);
    quota.sweep(at(10_000));
    assert_eq!(quota.subjects(), 0);
    assert!(!charge(6, at(10_000)));
    assert_eq!(quota.subjects(), 1);
    let changes = quota.export(at(0));
    assert_eq!((changes.rows.len(), changes.removed.len()), (0, 1));
    assert_eq!(quota.export(at(0)), Changes::default());
    // And as a row where he was charged again.
    assert!(charge(1, at(10_000)));
    quota.sweep(at(20_000));
    assert!(charge(2, at(20_000)));
    let changes = quota.export(at(0));
    assert_eq!((changes.rows.len(), changes.removed.len()), (1, 0));
}

/// Everything, whole.
fn all_of(quota: &Quota, tenant: &TenantId) -> Changes {
    let keys = (0..NUMBERED).map(|number| Subject::Key(numbered(number)));
    let subjects = keys.chain([Subject::Tenant(tenant.clone())]);
    quota.unexport(Changes {
        rows: Vec::new(),
        removed: subjects.collect(),
        ..Changes::default()
    });
    let mut all = Changes::default();
    quota.export_new_from(usize::MAX, &mut all, at(0));
    all
}

fn save(file: &mut Counters, changes: &Changes, now: Now) {
    let batch = Batch {
        rows: &changes.rows,
        removed: &changes.removed,
        usage: &[],
    };
    file.save(&batch, now).unwrap();
}

fn numbered(number: u64) -> KeyId {
    let mut id = *b"000000000000";
    id[..4].copy_from_slice(format!("{:04}", number * 8 % 9_973).as_bytes());
    KeyId(id)
}

fn at_micros(micros: u64) -> Now {
    Now {
        mono: Mono(micros),
        wall: Wall(1_700_000_000_000_000 + micros),
    }
}

/// So that four in five of them go through the journal.
const NUMBERED: u64 = 1_400;

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

#[test]
fn restore_leaves_out_what_is_over() {
    let (before, limits) = (Quota::new(), limits(100, 100));
    before.charge(&by_key(KEY, &limits), at(0)).unwrap();
    let after = Quota::new();
    after.restore(before.export(at(0)).rows, at(3_600));
    assert_eq!(after.subjects(), 0);
    let changes = after.export(at(0));
    assert_eq!(changes.removed, [Subject::Key(KEY)]);
    after.unexport(changes);
    assert_eq!(after.export(at(0)).removed, [Subject::Key(KEY)]);
}

/// From 131,072 keys in use on, and no longer when some have gone.
#[test]
fn very_many_keys_in_use_are_a_crowd() {
    let (quota, limits) = (Quota::new(), limits(5, 5));
    let id = |index: u32| {
        let mut id = [b'a'; 12];
        id[..4].copy_from_slice(&index.to_be_bytes());
        KeyId(id)
    };
    for index in 0..131_072 {
        assert!(!quota.is_crowded(), "{index}");
        quota.charge(&by_key(id(index), &limits), at(0)).unwrap();
        // Who sits already counts once.
        quota.charge(&by_key(id(index), &limits), at(0)).unwrap();
    }
    assert!(quota.is_crowded());
    assert_eq!(quota.subjects(), 131_072);
    assert_eq!(quota.export(at(1)).rows.len(), 131_072);
    quota.sweep(at(10_000));
    assert!(!quota.is_crowded());
    assert_eq!(quota.subjects(), 0);
}
