//! The counters under every order of threads that a scheduler draws: `counters.rs`, `local.rs`, `seats.rs` and what `usage` counts with them are
//! compiled here once more, over modelled locks.
//!
//! Covered: whose charge takes the last place, that no admission and no count is lost between requests, exports, failed saves and sweeps, that nobody sits
//! in another's seat, whatever his hint says, and that nobody waits for ever. Not covered: weak memory order (one thread runs at a time), and orders that
//! are not drawn.

#[allow(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "the product's file, of which these tests use a part"
)]
#[path = "counters.rs"]
mod counters;
#[allow(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "the product's file, of which these tests use a part"
)]
#[path = "../usage/counting.rs"]
mod counting;
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the product's file, of which these tests use a part"
)]
#[path = "local.rs"]
mod local;
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the product's file, of which these tests use a part"
)]
#[path = "seats.rs"]
mod seats;

use counters::Keys;

/// Stands in for `quota::sync`. Of everything there are few, so that threads meet, and an export is not mostly lists that nobody uses.
mod sync {
    use std::hash::BuildHasher;
    use std::hash::DefaultHasher;

    pub(super) use shuttle::sync::Mutex;
    pub(super) use shuttle::sync::MutexGuard;

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect("no thread of a model panics")
    }

    /// The same each time, so that an order can be drawn again.
    #[derive(Clone, Debug, Default)]
    pub(super) struct Seed {}

    impl BuildHasher for Seed {
        type Hasher = DefaultHasher;

        fn build_hasher(&self) -> DefaultHasher {
            DefaultHasher::new()
        }
    }

    pub(super) const SHARDS: usize = 2;

    pub(super) const ROW: usize = 2;

    pub(super) const LANES: usize = 2;

    /// By the seat alone: all threads of a model are one.
    pub(super) fn lane_of(number: u32) -> usize {
        number as usize % LANES
    }
}

mod tests {
    use std::collections::BTreeMap;
    use std::ops::Deref;
    use std::time::Duration;

    use shuttle::sync::Arc;
    use shuttle::sync::Mutex;
    use shuttle::thread;

    use super::counters::Quota;
    use super::counting::Usage;
    use crate::clock::Mono;
    use crate::clock::Now;
    use crate::clock::Wall;
    use crate::model::key::KeyId;
    use crate::model::limit::Limits;
    use crate::model::limit::Rate;
    use crate::model::seat::SeatHint;
    use crate::model::tenant::TenantId;
    use crate::quota::Changes;
    use crate::quota::Charge;
    use crate::quota::Hints;
    use crate::store::counters::Subject;
    use crate::store::history::HourRow;

    /// Orders drawn for each test; some are drawn anew with few switches in mind, which is where most mistakes show.
    const ORDERS: usize = 600;

    fn in_any_order(model: impl Fn() + Send + Sync + Clone + 'static) {
        shuttle::check_random(model.clone(), ORDERS);
        shuttle::check_pct(model, ORDERS, 3);
    }

    fn at(seconds: u64) -> Now {
        Now {
            mono: Mono(1_000_000_000 + seconds * 1_000_000),
            wall: Wall(1_700_000_000_000_000 + seconds * 1_000_000),
        }
    }

    fn limits(count: u32) -> Limits {
        let rate = |seconds| Some(Rate { count, seconds });
        Limits {
            quota: rate(60),
            burst: rate(60),
        }
    }

    /// Counters, and one hint for all keys and one for all tenants, so that as often as not it says another's seat, or one that was left.
    struct Hinted {
        quota: Quota,
        key: SeatHint,
        tenant: SeatHint,
    }

    impl Hinted {
        fn new() -> Hinted {
            Hinted {
                quota: Quota::new(),
                key: SeatHint::default(),
                tenant: SeatHint::default(),
            }
        }
    }

    impl Deref for Hinted {
        type Target = Quota;

        fn deref(&self) -> &Quota {
            &self.quota
        }
    }

    /// One of some keys, of one of two tenants, a cost of 1; says whether it passed.
    fn charge(quota: &Hinted, key: u8, tenant: &str, count: u32, now: Now) -> bool {
        let (limits, id) = (limits(count), TenantId::new(tenant).unwrap());
        let charge = Charge {
            key: Some((KeyId([key; 12]), &limits)),
            tenant: Some((&id, &limits)),
            cost: 1,
        };
        let hints = Hints {
            key: &quota.key,
            tenant: &quota.tenant,
        };
        quota.charge_at(&charge, hints, now).is_ok()
    }

    /// What a store holds after these saves.
    fn write(disk: &mut BTreeMap<Subject, u32>, changes: &Changes) {
        for subject in &changes.removed {
            disk.remove(subject);
        }
        for row in &changes.rows {
            let used = row.quota.map_or(0, |quota| quota.used);
            disk.insert(row.subject.clone(), used);
        }
    }

    /// S31: of six charges at once exactly four pass, while others export and sweep.
    #[test]
    fn s31_exactly_the_limit_passes_in_any_order() {
        in_any_order(|| {
            let quota = Arc::new(Hinted::new());
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let quota = Arc::clone(&quota);
                    thread::spawn(move || {
                        let passed = (0..2).filter(|_| charge(&quota, b'a', "acme", 4, at(0)));
                        passed.count()
                    })
                })
                .collect();
            let exporter = {
                let quota = Arc::clone(&quota);
                thread::spawn(move || {
                    quota.sweep(at(0));
                    let _ = quota.export(at(0));
                })
            };
            let passed: usize = threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum();
            exporter.join().unwrap();
            assert_eq!(passed, 4);
        });
    }

    /// CHECK4: what was admitted before a save began is in that save, whatever went on beside it, also when an earlier save failed and windows were
    /// swept; and nothing is saved that nobody did.
    #[test]
    fn check4_no_admission_is_lost_between_charges_saves_and_sweeps() {
        in_any_order(|| {
            let quota = Arc::new(Hinted::new());
            let disk = Arc::new(Mutex::new(BTreeMap::new()));
            // Over long before the rest begins, so that the sweep has something to take.
            assert!(charge(&quota, b'z', "old", 4, at(0)));
            let chargers: Vec<_> = [b'a', b'b']
                .into_iter()
                .map(|key| {
                    let quota = Arc::clone(&quota);
                    thread::spawn(move || {
                        assert!(charge(&quota, key, "acme", 9, at(100)));
                        assert!(charge(&quota, b'z', "old", 9, at(100)));
                    })
                })
                .collect();
            let sweeper = {
                let quota = Arc::clone(&quota);
                thread::spawn(move || quota.sweep(at(100)))
            };
            let saver = {
                let (quota, disk) = (Arc::clone(&quota), Arc::clone(&disk));
                thread::spawn(move || {
                    let failed = quota.export(at(0));
                    quota.unexport(failed);
                    let changes = quota.export(at(0));
                    write(&mut disk.lock().unwrap(), &changes);
                })
            };
            for thread in chargers.into_iter().chain([sweeper, saver]) {
                thread.join().unwrap();
            }
            let mut disk = disk.lock().unwrap();
            assert!(disk.values().all(|used| *used <= 3));
            write(&mut disk, &quota.export(at(0)));
            let told = |subject: &Subject| disk.get(subject).copied();
            let key = |byte: u8| Subject::Key(KeyId([byte; 12]));
            let tenant = |id: &str| Subject::Tenant(TenantId::new(id).unwrap());
            assert_eq!([told(&key(b'a')), told(&key(b'b'))], [Some(1), Some(1)]);
            assert_eq!(told(&tenant("acme")), Some(2));
            assert_eq!([told(&key(b'z')), told(&tenant("old"))], [Some(2), Some(2)]);
            assert_eq!(quota.export(at(0)), Changes::default());
        });
    }

    /// Seats change hands while requests follow old hints to them: each key and tenant passes as often as its own limit says, and has its own counts.
    #[test]
    fn s31_nobody_is_charged_for_another() {
        in_any_order(|| {
            let quota = Arc::new(Hinted::new());
            // Over long before the rest begins: these seats are left, and given to whoever comes next.
            for key in [b'x', b'y', b'z'] {
                assert!(charge(&quota, key, "old", 9, at(0)));
            }
            let threads: Vec<_> = [(b'a', "acme"), (b'b', "other"), (b'y', "old")]
                .into_iter()
                .map(|(key, tenant)| {
                    let quota = Arc::clone(&quota);
                    thread::spawn(move || {
                        let passed = (0..3).filter(|_| charge(&quota, key, tenant, 2, at(100)));
                        assert_eq!(passed.count(), 2);
                    })
                })
                .collect();
            let sweeper = {
                let quota = Arc::clone(&quota);
                thread::spawn(move || {
                    quota.sweep(at(100));
                    quota.sweep(at(100));
                })
            };
            for thread in threads.into_iter().chain([sweeper]) {
                thread.join().unwrap();
            }
            quota.sweep(at(100));
            assert_eq!(quota.subjects(), 6);
            let used = quota.export(at(0)).rows.into_iter();
            assert!(used.map(|row| row.quota.unwrap().used).eq([2; 6]));
        });
    }

    /// FA32: requests of two hours begin and end while one flush fails and others do not, windows end beside their meters, and seats are left: every
    /// request is counted once, for its key and in its hour.
    #[test]
    fn fa32_no_count_is_lost_between_requests_flushes_and_sweeps() {
        in_any_order(|| {
            let quota = Arc::new(Hinted::new());
            let usage = Arc::new(Usage::beside(quota.keys()));
            let counted = Arc::new(Mutex::new(BTreeMap::new()));
            assert!(charge(&quota, b'a', "old", 9, at(0)));
            let workers: Vec<_> = [(b'a', HOUR - 1), (b'a', HOUR), (b'b', HOUR)]
                .into_iter()
                .map(|(key, second)| {
                    let (quota, usage) = (Arc::clone(&quota), Arc::clone(&usage));
                    thread::spawn(move || {
                        let (key, wall) = (KeyId([key; 12]), Wall::from_unix_seconds(second));
                        let open = usage.admitted(key, quota.key.number(), wall);
                        usage.refused(key, 1, wall, 0, 2);
                        usage.ended(&open, 200, Duration::ZERO, 0, 1);
                    })
                })
                .collect();
            let flusher = {
                let (quota, usage) = (Arc::clone(&quota), Arc::clone(&usage));
                let counted = Arc::clone(&counted);
                thread::spawn(move || {
                    usage.put_back(&taken(&quota, &usage));
                    add(&mut counted.lock().unwrap(), &taken(&quota, &usage));
                })
            };
            let sweeper = {
                let quota = Arc::clone(&quota);
                thread::spawn(move || {
                    quota.sweep(at(100));
                    quota.sweep(at(100));
                })
            };
            for thread in workers.into_iter().chain([flusher, sweeper]) {
                thread.join().unwrap();
            }
            let mut counted = counted.lock().unwrap();
            add(&mut counted, &taken(&quota, &usage));
            let all: Vec<_> = counted
                .iter()
                .map(|(slot, counts)| (*slot, *counts))
                .collect();
            let hours = [(0, b'a'), (1, b'a'), (1, b'b')];
            assert_eq!(all, hours.map(|slot| (slot, [1, 1, 3])));
            for seconds in [100, 400] {
                quota.sweep(at(seconds));
            }
            assert_eq!(quota.subjects(), 0);
        });
    }

    /// What a flush writes of keys.
    fn taken(quota: &Quota, usage: &Usage) -> Vec<HourRow> {
        let mut counted = quota.export(at(0)).counted;
        usage.take(&mut counted);
        counted
    }

    /// By hour and key: successes, refusals and bytes.
    fn add(counted: &mut BTreeMap<(u32, u8), [u64; 3]>, rows: &[HourRow]) {
        for row in rows {
            let sum = counted.entry((row.hour, row.key.0[0])).or_default();
            sum[0] += row.tally.success;
            sum[1] += row.tally.refused;
            sum[2] += row.tally.sent_bytes;
        }
    }

    const HOUR: u64 = 3_600;

    /// Keys and tenants crosswise, some in one shard: nobody waits for ever (the scheduler reports a deadlock).
    #[test]
    fn s31_nobody_waits_for_ever() {
        in_any_order(|| {
            let quota = Arc::new(Hinted::new());
            let threads: Vec<_> = [(b'a', "one"), (b'b', "two"), (b'a', "two"), (b'b', "one")]
                .into_iter()
                .map(|(key, tenant)| {
                    let quota = Arc::clone(&quota);
                    thread::spawn(move || assert!(charge(&quota, key, tenant, 9, at(0))))
                })
                .collect();
            quota.sweep(at(0));
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(quota.export(at(0)).rows.len(), 4);
        });
    }
}
