//! Writes counters and usage to the store once per flush interval, and at the end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::clock::Now;
use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::quota::Quota;
use crate::store::counters::Batch;
use crate::store::counters::Counters;
use crate::usage::Usage;

use super::error::chain;

/// The one writer of `counters.db`.
#[derive(Debug)]
pub(crate) struct Flusher {
    /// A std mutex: held for one transaction, by the control side only; no request waits for it.
    counters: Mutex<Counters>,
    quota: Arc<Quota>,
    usage: Arc<Usage>,
    failures: AtomicU64,
}

impl Flusher {
    pub(crate) fn new(counters: Counters, quota: Arc<Quota>, usage: Arc<Usage>) -> Flusher {
        Flusher {
            counters: Mutex::new(counters),
            quota,
            usage,
            failures: AtomicU64::new(0),
        }
    }

    /// Writes what changed since the last flush. What could not be written is written next time.
    pub(crate) fn flush(&self, now: Now) {
        let changes = self.quota.export();
        let usage = self.usage.take();
        let batch = Batch {
            rows: &changes.rows,
            removed: &changes.removed,
            usage: &usage,
        };
        let saved = lock(&self.counters).save(&batch, now);
        if let Err(error) = saved {
            self.quota.unexport(changes);
            self.usage.put_back(&usage);
            self.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                error = chain(&error),
                "counters not written: limits hold in memory, a crash now would forget them"
            );
        }
    }

    /// Forgets counters whose windows are over.
    pub(crate) fn sweep(&self, now: Now) {
        self.quota.sweep(now);
    }

    /// When each key was last used, up to now.
    pub(crate) fn last_used(&self, now: Now) -> HashMap<KeyId, Wall> {
        self.flush(now);
        let rows = lock(&self.counters).usage().unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "usage not read");
            Vec::new()
        });
        let times = rows.into_iter().map(|row| {
            let last_used = Wall::from_unix_seconds(row.last_used_unix_seconds);
            (row.key, last_used)
        });
        times.collect()
    }

    /// How many flushes failed since the start.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
