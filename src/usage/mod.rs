//! What each key did: counted in memory, by the hour, flushed to the store in batches.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::DashMap;
use foldhash::fast::RandomState;

use crate::aside::give_way;
use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::store::history::HourRow;
use crate::store::history::LATENCY_BOUNDS;
use crate::store::history::LATENCY_BUCKETS;
use crate::store::history::Tally;
use crate::store::history::hour_of;

pub mod report;

/// What keys did since the last flush. Holds only those that did something since the sweep before the last, or do it still: about 200 bytes for each
/// such key, nothing for all others.
#[derive(Debug)]
pub struct Usage {
    /// Hashed by seeds of its own: cheaper than SipHash, and only ids that the gateway made come in here.
    meters: DashMap<Slot, Arc<Meter>, RandomState>,
    /// Slots that count since the last flush, so that it does not walk all. Many small locks, each taken at most once a key and flush.
    noted: Box<[Mutex<Vec<Slot>>]>,
}

/// A key in one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Slot {
    key: KeyId,
    hour: u32,
}

/// What one key did in one hour since the last flush. A request holds its meter from its admission to the end of its answer, and counts in the
/// hour in which it began, all of its bytes included: it is looked up once.
///
/// In this order, since what an ordinary success counts lies in one cache line so, with the counts of its `Arc` before it. All is 128 bytes.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Meter {
    /// Whether the next flush will look at it.
    noted: AtomicBool,
    /// Whether it was noted since the last sweep.
    recent: AtomicBool,
    last_used_unix_seconds: AtomicU64,
    success: AtomicU64,
    /// The first bucket of latency.
    fast: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    /// The other buckets.
    slow: [AtomicU64; LATENCY_BUCKETS - 1],
    client_error: AtomicU64,
    server_error: AtomicU64,
    refused: AtomicU64,
}

impl Meter {
    /// Counts a request that was admitted and has ended: by its status (below 400, below 500, above), its time to the end, and its bodies.
    pub fn ended(&self, status: u16, took: Duration, received_bytes: u64, sent_bytes: u64) {
        let class = match status {
            ..400 => &self.success,
            400..500 => &self.client_error,
            _ => &self.server_error,
        };
        class.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < micros);
        self.latency(bucket).fetch_add(1, Ordering::Relaxed);
        self.bytes(received_bytes, sent_bytes);
    }

    /// Counts a request that the gateway refused. It used nothing, so it is no use of the key, and the time it took says nothing of a backend.
    pub fn refused(&self, received_bytes: u64, sent_bytes: u64) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.bytes(received_bytes, sent_bytes);
    }

    fn latency(&self, bucket: usize) -> &AtomicU64 {
        match bucket.checked_sub(1) {
            Some(slower) => &self.slow[slower],
            None => &self.fast,
        }
    }

    fn bytes(&self, received: u64, sent: u64) {
        for (counter, count) in [(&self.received_bytes, received), (&self.sent_bytes, sent)] {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    fn used(&self, unix_seconds: u64) {
        let last = &self.last_used_unix_seconds;
        // Most requests come within the second of one before: then nobody's cache line is taken away.
        if last.load(Ordering::Relaxed) < unix_seconds {
            last.fetch_max(unix_seconds, Ordering::Relaxed);
        }
    }

    fn take(&self) -> Tally {
        // Most are zero, and looking is cheaper than changing.
        let take = |counter: &AtomicU64| match counter.load(Ordering::Relaxed) {
            0 => 0,
            _ => counter.swap(0, Ordering::Relaxed),
        };
        Tally {
            last_used_unix_seconds: take(&self.last_used_unix_seconds),
            success: take(&self.success),
            client_error: take(&self.client_error),
            server_error: take(&self.server_error),
            refused: take(&self.refused),
            received_bytes: take(&self.received_bytes),
            sent_bytes: take(&self.sent_bytes),
            latency: std::array::from_fn(|bucket| take(self.latency(bucket))),
        }
    }

    fn add(&self, tally: &Tally) {
        self.used(tally.last_used_unix_seconds);
        let counts = [
            (&self.success, tally.success),
            (&self.client_error, tally.client_error),
            (&self.server_error, tally.server_error),
            (&self.refused, tally.refused),
        ];
        for (counter, count) in counts {
            counter.fetch_add(count, Ordering::Relaxed);
        }
        for (bucket, count) in tally.latency.into_iter().enumerate() {
            self.latency(bucket).fetch_add(count, Ordering::Relaxed);
        }
        self.bytes(tally.received_bytes, tally.sent_bytes);
    }
}

impl Usage {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Usage {
        Usage {
            meters: DashMap::with_hasher_and_shard_amount(RandomState::default(), SHARDS),
            noted: (0..LANES).map(|_| Mutex::default()).collect(),
        }
    }

    /// The meter of a key whose request was admitted now: from now on it is known as used.
    #[must_use]
    pub fn admitted(&self, key: KeyId, at: Wall) -> Arc<Meter> {
        let meter = self.meter(key, at);
        meter.used(at.unix_seconds());
        meter
    }

    /// Counts a request of a known key that the gateway refused.
    pub fn refused(&self, key: KeyId, at: Wall, received_bytes: u64, sent_bytes: u64) {
        self.meter(key, at).refused(received_bytes, sent_bytes);
    }

    /// Hands over what was counted, in order. If it could not be written, give it to `put_back`.
    #[must_use]
    pub fn take(&self) -> Vec<HourRow> {
        let mut noted = Vec::new();
        for lane in &self.noted {
            let mut lane = std::mem::take(&mut *lock(lane));
            noted.append(&mut lane);
        }
        // Rows come in order so, and are larger to sort.
        noted.sort_unstable_by_key(|slot| (slot.hour, slot.key));
        let mut rows = Vec::with_capacity(noted.len());
        let mut still = Vec::new();
        for (index, slot) in noted.into_iter().enumerate() {
            give_way(index);
            let Some(mut meter) = self.meters.get_mut(&slot) else {
                continue;
            };
            // Nobody can take another handle while this shard is held: with none left outside, what is here is all.
            match Arc::get_mut(&mut meter) {
                Some(meter) => *meter.noted.get_mut() = false,
                None => still.push(slot),
            }
            let tally = meter.take();
            if tally != Tally::default() {
                rows.push(HourRow {
                    key: slot.key,
                    hour: slot.hour,
                    tally,
                });
            }
        }
        lock(&self.noted[0]).append(&mut still);
        rows
    }

    /// Forgets keys that did nothing since the last sweep, and whose counts were handed over.
    pub fn sweep(&self) {
        self.meters.retain(|_, meter| {
            let Some(meter) = Arc::get_mut(meter) else {
                return true;
            };
            let recent = std::mem::take(meter.recent.get_mut());
            recent || *meter.noted.get_mut()
        });
    }

    /// Counts again what `take` handed over.
    pub fn put_back(&self, rows: &[HourRow]) {
        for row in rows {
            let slot = Slot {
                key: row.key,
                hour: row.hour,
            };
            let meter = Arc::clone(&self.meters.entry(slot).or_default());
            self.note(&meter, slot);
            meter.add(&row.tally);
        }
    }

    fn meter(&self, key: KeyId, at: Wall) -> Arc<Meter> {
        let slot = Slot {
            key,
            hour: hour_of(at),
        };
        // Looked at first: most requests find their meter, and readers of one shard do not wait for each other.
        let found = self.meters.get(&slot).map(|meter| Arc::clone(&meter));
        let meter = found.unwrap_or_else(|| Arc::clone(&self.meters.entry(slot).or_default()));
        // It is held from here on, so a flush that comes between looks at it again.
        self.note(&meter, slot);
        meter
    }

    fn note(&self, meter: &Meter, slot: Slot) {
        // Looked at first: most requests come after another in the same interval.
        if !meter.noted.load(Ordering::Relaxed) && !meter.noted.swap(true, Ordering::AcqRel) {
            meter.recent.store(true, Ordering::Relaxed);
            lock(&self.noted[usize::from(slot.key.0[11]) % LANES]).push(slot);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A list of slots is whole after every push, so a panic elsewhere has not broken it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Usage {
    fn default() -> Usage {
        Usage::new()
    }
}

/// Many, so that workers seldom meet and a flush holds up few keys.
const SHARDS: usize = 1024;

/// Lists of what is noted.
const LANES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const A: KeyId = KeyId(*b"aaaaaaaaaaaa");
    const B: KeyId = KeyId(*b"bbbbbbbbbbbb");

    fn at(seconds: u64) -> Wall {
        Wall::from_unix_seconds(seconds)
    }

    /// FA32, FF14: each request counted once, by class, even when a flush fails.
    #[test]
    fn counts_are_handed_over_once_and_can_be_put_back() {
        let usage = Usage::new();
        let slow = Duration::from_secs(60);
        (usage.admitted(B, at(7))).ended(200, Duration::from_millis(10), 3, 5);
        (usage.admitted(A, at(9))).ended(404, Duration::from_micros(10_001), 0, 1);
        (usage.admitted(A, at(8))).ended(503, slow, 0, 0);
        usage.refused(A, at(11), 0, 2);
        let taken = usage.take();
        assert_eq!(taken.len(), 2);
        assert_eq!((taken[0].key, taken[0].hour), (A, 0));
        let expected = Tally {
            last_used_unix_seconds: 9,
            client_error: 1,
            server_error: 1,
            refused: 1,
            sent_bytes: 3,
            latency: [0, 1, 0, 0, 0, 1],
            ..Tally::default()
        };
        assert_eq!(taken[0].tally, expected);
        assert_eq!(taken[1].tally.success, 1);
        assert_eq!(taken[1].tally.latency, [1, 0, 0, 0, 0, 0]);
        assert_eq!(usage.take(), []);
        (usage.admitted(A, at(10))).ended(200, slow, 0, 0);
        usage.put_back(&taken);
        let again = usage.take();
        assert_eq!(again[0].tally.last_used_unix_seconds, 10);
        assert_eq!((again[0].tally.success, again[0].tally.refused), (1, 1));
        assert_eq!(again[0].tally.latency, [0, 1, 0, 0, 0, 2]);
    }

    /// A request in flight keeps its meter, and so does one that ended since the sweep before the last: memory is what is in use.
    #[test]
    fn what_is_in_flight_is_kept_and_what_has_ended_takes_no_memory() {
        let usage = Usage::new();
        let open = usage.admitted(A, at(3_599));
        drop(usage.admitted(B, at(3_599)));
        usage.sweep();
        usage.sweep();
        assert_eq!(usage.meters.len(), 2, "what was not handed over stays");
        assert_eq!(usage.take().len(), 2);
        usage.sweep();
        assert_eq!(usage.meters.len(), 1, "only the one in flight");
        assert_eq!(usage.take(), []);
        // It ends in the next hour and counts in its own.
        open.ended(200, Duration::ZERO, 0, 1);
        drop(usage.admitted(A, at(3_600)));
        let rows = usage.take();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].hour, rows[0].tally.success), (0, 1));
        assert_eq!((rows[1].hour, rows[1].tally.success), (1, 0));
        // Ended after the last look at it: the next flush looks once more, whatever sweeps come first.
        open.ended(200, Duration::ZERO, 0, 1);
        drop(open);
        usage.sweep();
        assert_eq!(usage.take().len(), 1);
        assert_eq!(usage.take(), []);
        usage.sweep();
        usage.sweep();
        assert_eq!(usage.meters.len(), 0);
    }

    /// A key that is used again after a flush is noted again.
    #[test]
    fn each_flush_has_what_came_since() {
        let usage = Usage::new();
        for second in 1..4 {
            (usage.admitted(A, at(second))).ended(200, Duration::ZERO, 0, 0);
            usage.refused(B, at(second), 0, 7);
            let rows = usage.take();
            assert_eq!(rows.len(), 2);
            assert_eq!((rows[0].tally.success, rows[1].tally.refused), (1, 1));
            assert_eq!(rows[1].tally.sent_bytes, 7);
        }
    }

    /// Workers count while the flush takes: nothing is lost, nothing counted twice.
    #[test]
    fn counting_beside_a_flush_loses_nothing() {
        let usage = Usage::new();
        let rounds = 20_000;
        let total = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for second in 0..rounds {
                            (usage.admitted(A, at(second))).ended(200, Duration::ZERO, 0, 0);
                        }
                    })
                })
                .collect();
            let mut total = 0;
            let sum = || -> u64 { usage.take().iter().map(|row| row.tally.success).sum() };
            while workers.iter().any(|worker| !worker.is_finished()) {
                total += sum();
            }
            total + sum()
        });
        assert_eq!(total, 4 * rounds);
    }
}
