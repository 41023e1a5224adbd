//! The counters under every order of threads that a scheduler draws: `counters.rs` and `local.rs` are compiled here once more, over modelled locks.
//!
//! Covered: whose charge takes the last place, that no admission is lost between charges, exports, failed saves and sweeps, and that nobody waits
//! for ever. Not covered: `DashMap` itself (in its place stands a map of two shards, each under a lock), weak memory order (one thread runs at a time),
//! and orders that are not drawn.

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
    clippy::duplicate_mod,
    reason = "the product's file, of which these tests use a part"
)]
#[path = "local.rs"]
mod local;

/// Stands in for `quota::sync`.
mod sync {
    use std::fmt;
    use std::hash::DefaultHasher;
    use std::hash::Hash;
    use std::hash::Hasher;
    use std::ops::Deref;
    use std::ops::DerefMut;

    use shuttle::sync::RwLock;
    use shuttle::sync::RwLockWriteGuard;

    pub(super) use shuttle::sync::Mutex;
    pub(super) use shuttle::sync::MutexGuard;

    /// Few, so that an export is not mostly lists that nobody uses.
    pub(super) const LANES: usize = 2;

    const SHARDS: usize = 2;

    /// As much of a `DashMap` as `local` uses: entries of a shard share its lock.
    pub(super) struct DashMap<K, V> {
        shards: Vec<RwLock<Vec<(K, V)>>>,
    }

    pub(super) fn sharded<K, V>(_: usize) -> DashMap<K, V> {
        let shards = (0..SHARDS).map(|_| RwLock::new(Vec::new())).collect();
        DashMap { shards }
    }

    /// An entry, and with it its shard.
    pub(super) struct RefMut<'a, K, V> {
        shard: RwLockWriteGuard<'a, Vec<(K, V)>>,
        place: usize,
    }

    pub(super) struct Entry<'a, K, V> {
        shard: RwLockWriteGuard<'a, Vec<(K, V)>>,
        key: K,
    }

    impl<K: Hash + Eq, V> DashMap<K, V> {
        fn shard(&self, key: &K) -> RwLockWriteGuard<'_, Vec<(K, V)>> {
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            let shard = &self.shards[hasher.finish() as usize % SHARDS];
            shard.write().expect("no thread of a model panics")
        }

        pub(super) fn get_mut(&self, key: &K) -> Option<RefMut<'_, K, V>> {
            let shard = self.shard(key);
            let place = shard.iter().position(|(found, _)| found == key)?;
            Some(RefMut { shard, place })
        }

        pub(super) fn get(&self, key: &K) -> Option<RefMut<'_, K, V>> {
            self.get_mut(key)
        }

        pub(super) fn entry(&self, key: K) -> Entry<'_, K, V> {
            let shard = self.shard(&key);
            Entry { shard, key }
        }

        pub(super) fn insert(&self, key: K, value: V) {
            let mut shard = self.shard(&key);
            shard.retain(|(found, _)| *found != key);
            shard.push((key, value));
        }

        pub(super) fn retain(&self, mut keep: impl FnMut(&K, &mut V) -> bool) {
            for shard in &self.shards {
                let mut shard = shard.write().expect("no thread of a model panics");
                shard.retain_mut(|(key, value)| keep(key, value));
            }
        }

        pub(super) fn len(&self) -> usize {
            let count = |shard: &RwLock<Vec<(K, V)>>| shard.read().map_or(0, |shard| shard.len());
            self.shards.iter().map(count).sum()
        }
    }

    impl<'a, K: Eq, V: Default> Entry<'a, K, V> {
        pub(super) fn or_default(mut self) -> RefMut<'a, K, V> {
            let place = self.shard.iter().position(|(found, _)| *found == self.key);
            let place = place.unwrap_or_else(|| {
                self.shard.push((self.key, V::default()));
                self.shard.len() - 1
            });
            RefMut {
                shard: self.shard,
                place,
            }
        }
    }

    impl<K, V> RefMut<'_, K, V> {
        pub(super) fn key(&self) -> &K {
            &self.shard[self.place].0
        }
    }

    impl<K, V> Deref for RefMut<'_, K, V> {
        type Target = V;

        fn deref(&self) -> &V {
            &self.shard[self.place].1
        }
    }

    impl<K, V> DerefMut for RefMut<'_, K, V> {
        fn deref_mut(&mut self) -> &mut V {
            &mut self.shard[self.place].1
        }
    }

    impl<K, V> fmt::Debug for DashMap<K, V> {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("DashMap")
        }
    }
}

mod tests {
    use std::collections::BTreeMap;

    use shuttle::sync::Arc;
    use shuttle::sync::Mutex;
    use shuttle::thread;

    use super::counters::Quota;
    use crate::clock::Mono;
    use crate::clock::Now;
    use crate::clock::Wall;
    use crate::model::key::KeyId;
    use crate::model::limit::Limits;
    use crate::model::limit::Rate;
    use crate::model::tenant::TenantId;
    use crate::quota::Changes;
    use crate::quota::Charge;
    use crate::store::counters::Subject;

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

    /// One of two keys, of one of two tenants, a cost of 1; says whether it passed.
    fn charge(quota: &Quota, key: u8, tenant: &str, count: u32, now: Now) -> bool {
        let (limits, id) = (limits(count), TenantId::new(tenant).unwrap());
        let charge = Charge {
            key: Some((KeyId([key; 12]), &limits)),
            tenant: Some((&id, &limits)),
            cost: 1,
        };
        quota.charge(&charge, now).is_ok()
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
            let quota = Arc::new(Quota::new());
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
                    let _ = quota.export();
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
            let quota = Arc::new(Quota::new());
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
                    let failed = quota.export();
                    quota.unexport(failed);
                    let changes = quota.export();
                    write(&mut disk.lock().unwrap(), &changes);
                })
            };
            for thread in chargers.into_iter().chain([sweeper, saver]) {
                thread.join().unwrap();
            }
            let mut disk = disk.lock().unwrap();
            assert!(disk.values().all(|used| *used <= 3));
            write(&mut disk, &quota.export());
            let told = |subject: &Subject| disk.get(subject).copied();
            let key = |byte: u8| Subject::Key(KeyId([byte; 12]));
            let tenant = |id: &str| Subject::Tenant(TenantId::new(id).unwrap());
            assert_eq!([told(&key(b'a')), told(&key(b'b'))], [Some(1), Some(1)]);
            assert_eq!(told(&tenant("acme")), Some(2));
            assert_eq!([told(&key(b'z')), told(&tenant("old"))], [Some(2), Some(2)]);
            assert_eq!(quota.export(), Changes::default());
        });
    }

    /// Keys and tenants crosswise, some in one shard: nobody waits for ever (the scheduler reports a deadlock).
    #[test]
    fn s31_nobody_waits_for_ever() {
        in_any_order(|| {
            let quota = Arc::new(Quota::new());
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
            assert_eq!(quota.export().rows.len(), 4);
        });
    }
}
