//! Writes counters and usage to the store once per flush interval, when a request waits for it, and at the end.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;

use crate::alerts::Alerts;
use crate::alerts::rules;
use crate::alerts::unwritten::Unwritten;
use crate::aside::give_way;
use crate::clock::Now;
use crate::clock::Wall;
use crate::meter::ErrorRate;
use crate::model::key::KeyId;
use crate::quota::Changes;
use crate::quota::Quota;
use crate::quota::saves::Saves;
use crate::snapshot::Snapshot;
use crate::store::alerts::Delivery;
use crate::store::alerts::Noted;
use crate::store::counters::Batch;
use crate::store::counters::Counters;
use crate::store::counters::CountersError;
use crate::usage::Usage;

use super::error::chain;

/// The one writer of `counters.db`.
#[derive(Debug)]
pub(crate) struct Flusher {
    /// A std mutex: held from the export to the end of its transaction, by the control side only; no request waits for it. Two exports
    /// that were written in the other order would leave the older counts on the disk.
    counters: Mutex<Counters>,
    /// What a flush writes: memory that the next one uses again. Taken while `counters` is held.
    changes: Mutex<Changes>,
    quota: Arc<Quota>,
    usage: Arc<Usage>,
    failures: AtomicU64,
    /// Whether the last flush failed: a disk that stays full is told of once, not once a second.
    failing: AtomicBool,
    synced: AtomicBool,
    /// Alerts that the disk did not take. Changed only while `counters` is held, so that none is lost between the two.
    unwritten: Arc<Unwritten>,
    /// What looks at what was flushed, once there is a view to ask for its rules.
    watch: OnceLock<Watch>,
    /// Hours of which other nodes have not been told since they were flushed; 90 days of them at most. Nothing where nobody is to be told.
    untold: OnceLock<Mutex<BTreeSet<u32>>>,
}

/// Looks at what was flushed.
struct Watch {
    alerts: Alerts,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Watch")
    }
}

impl Flusher {
    pub(crate) fn new(counters: Counters, quota: Arc<Quota>, usage: Arc<Usage>) -> Flusher {
        Flusher {
            counters: Mutex::new(counters),
            changes: Mutex::default(),
            quota,
            usage,
            failures: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            synced: AtomicBool::new(false),
            unwritten: Arc::default(),
            watch: OnceLock::new(),
            untold: OnceLock::new(),
        }
    }

    /// Alerts that the disk did not take.
    pub(crate) fn unwritten(&self) -> &Arc<Unwritten> {
        &self.unwritten
    }

    /// Writes what changed since the last flush. What could not be written is written next time.
    pub(crate) fn flush(&self, now: Now) {
        let mut counters = lock(&self.counters);
        let number = self.saves().begin();
        let saved = self.save(&mut counters, now);
        self.saves().end(number, saved.is_ok());
        if saved.is_ok() {
            self.write_alerts(&mut counters);
        }
        drop(counters);
        self.tell(saved);
    }

    fn save(&self, counters: &mut Counters, now: Now) -> Result<(), CountersError> {
        counters.sync_saves(self.synced.load(Ordering::Relaxed))?;
        let changes = &mut *lock(&self.changes);
        self.quota.export_to(changes, now);
        self.watch_over(&changes.failing, now.wall);
        self.usage.take(&mut changes.counted);
        let usage = &changes.counted;
        let batch = Batch {
            rows: &changes.rows,
            removed: &changes.removed,
            usage,
        };
        let saved = counters.save(&batch, now);
        if saved.is_ok()
            && let Some(untold) = self.untold.get()
        {
            lock(untold).extend(usage.iter().map(|row| row.hour));
        }
        if saved.is_err() {
            self.usage.put_back(usage);
            self.quota.unexport(std::mem::take(changes));
        }
        saved
    }

    /// Tells of keys too much of whose requests failed lately, whether or not the disk takes what they did.
    fn watch_over(&self, failing: &[ErrorRate], at: Wall) {
        let Some(watch) = self.watch.get() else {
            return;
        };
        let snapshot = watch.snapshot.load();
        let alerts = failing.iter().enumerate().filter_map(|(index, rate)| {
            give_way(index);
            rules::error_rate(&snapshot.config.alerts, rate, at)
        });
        alerts.for_each(|alert| watch.alerts.raise(alert));
    }

    /// Notes from now on which hours other nodes are to be told of. Gives the number of the file.
    pub(crate) fn note_untold(&self, node: &str) -> Result<u32, CountersError> {
        self.untold.get_or_init(Mutex::default);
        lock(&self.counters).mark(node)
    }

    /// The hours of which other nodes have not been told. What could not be told is given to `put_back_untold`.
    pub(crate) fn take_untold(&self) -> BTreeSet<u32> {
        (self.untold.get()).map_or_else(BTreeSet::new, |untold| std::mem::take(&mut *lock(untold)))
    }

    pub(crate) fn put_back_untold(&self, hours: BTreeSet<u32>) {
        if let Some(untold) = self.untold.get() {
            lock(untold).extend(hours);
        }
    }

    /// Has alerts raised from now on about what was flushed.
    pub(crate) fn watch_with(&self, alerts: Alerts, snapshot: Arc<ArcSwap<Snapshot>>) {
        let watch = Watch { alerts, snapshot };
        // A second watch would tell everything twice; the first stays.
        let _ = self.watch.set(watch);
    }

    /// Keeps an alert, in memory where the disk is full, perhaps; says whether it is new, and to be told.
    pub(crate) fn note_alert(&self, alert: &Noted, delivery: Delivery) -> bool {
        let mut counters = lock(&self.counters);
        if self.unwritten.knows(alert) {
            return false;
        }
        let written = counters.note_alert(alert, delivery);
        written.unwrap_or_else(|_| self.unwritten.hold(alert, delivery))
    }

    /// Notes how far a delivery is.
    pub(crate) fn alert_delivered(
        &self,
        id: &str,
        delivery: Delivery,
    ) -> Result<(), CountersError> {
        let mut counters = lock(&self.counters);
        match self.unwritten.delivered(id, delivery) {
            true => Ok(()),
            false => counters.alert_delivered(id, delivery),
        }
    }

    /// Writes alerts down that found no room before.
    fn write_alerts(&self, counters: &mut Counters) {
        while let Some((alert, delivery)) = self.unwritten.first() {
            if counters.note_alert(&alert, delivery).is_err() {
                return;
            }
            self.unwritten.let_go(&alert.id);
        }
    }

    /// Alerts that still are to be delivered.
    pub(crate) fn alerts_pending(&self, now: Wall) -> Result<Vec<Noted>, CountersError> {
        lock(&self.counters).alerts_pending(now)
    }

    fn tell(&self, saved: Result<(), CountersError>) {
        let failed_before = self.failing.swap(saved.is_err(), Ordering::Relaxed);
        match saved {
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                if !failed_before {
                    tracing::error!(
                        error = chain(&error),
                        "counters not written: limits hold in memory, a crash now would forget them; trying on"
                    );
                }
            }
            Ok(()) if failed_before => {
                tracing::warn!("counters are written again; nothing was lost");
            }
            Ok(()) => {}
        }
    }

    /// Says whether not even a loss of power may forget what a flush writes.
    pub(crate) fn sync(&self, synced: bool) {
        self.synced.store(synced, Ordering::Relaxed);
    }

    /// What requests wait for.
    pub(crate) fn quota(&self) -> &Quota {
        &self.quota
    }

    pub(crate) fn saves(&self) -> &Saves {
        self.quota.saves()
    }

    /// Forgets counters whose windows are over, and keys that did nothing lately.
    pub(crate) fn sweep(&self, now: Now) {
        self.quota.sweep(now);
    }

    /// When these keys, or all, were last used, up to now.
    pub(crate) fn last_used(&self, keys: Option<&[KeyId]>, now: Now) -> HashMap<KeyId, Wall> {
        self.flush(now);
        let rows = lock(&self.counters).usage(keys).unwrap_or_else(|error| {
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

    /// Whether the last flush failed.
    pub(crate) fn failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
