//! One node's counters, in a lock-sharded map.

use std::hash::Hash;
use std::sync::PoisonError;

use crate::aside::give_way;
use crate::clock::Now;
use crate::quota::window;
use crate::quota::window::Saved;
use crate::quota::window::Windows;

use super::sync;
use super::sync::DashMap;
use super::sync::LANES;
use super::sync::Mutex;
use super::sync::MutexGuard;
use super::sync::RefMut;

/// The windows of all subjects of one kind. While an entry is held nobody else charges it: that makes all its windows one step.
#[derive(Debug)]
pub(super) struct Table<K: Eq + Hash> {
    entries: DashMap<K, Windows>,
    /// Ids that were charged or swept since the last export, so that an export does not walk a million entries. Many small locks,
    /// each taken at most once per subject and export.
    changed: Box<[Mutex<Vec<K>>]>,
}

/// An entry that nobody else can touch.
pub(super) type Held<'a, K> = RefMut<'a, K, Windows>;

impl<K: Eq + Hash + Clone + Ord> Table<K> {
    pub(super) fn new() -> Table<K> {
        Table {
            entries: sync::sharded(SHARDS),
            changed: (0..LANES).map(|_| Mutex::default()).collect(),
        }
    }

    /// Holds a subject's entry, made if there is none.
    pub(super) fn hold(&self, id: &K) -> Held<'_, K> {
        // Looked up first: `entry` needs an id of its own, and a tenant's is a shared count that all workers would write to.
        match self.entries.get_mut(id) {
            Some(held) => held,
            None => self.entries.entry(id.clone()).or_default(),
        }
    }

    /// A copy of a subject's windows.
    pub(super) fn copy(&self, id: &K) -> Option<Windows> {
        self.entries.get(id).map(|windows| windows.clone())
    }

    /// Says that a held entry is to be exported.
    pub(super) fn mark(&self, held: &mut Held<'_, K>, now: Now) {
        if !held.changed {
            held.changed = true;
            // Any list will do; the clock's last digits spread the threads over them without another hash.
            let lane = now.mono.0 as usize % LANES;
            lock(&self.changed[lane]).push(held.key().clone());
        }
    }

    /// Puts saved windows in place.
    pub(super) fn restore(&self, id: K, windows: Windows) {
        self.entries.insert(id, windows);
    }

    /// Says that ids are to be exported: as rows if they have entries by then, as removed if not.
    pub(super) fn note(&self, ids: impl Iterator<Item = K>) {
        lock(&self.changed[0]).extend(ids);
    }

    /// Has these ids exported again, whole: what was handed over of them was not written.
    pub(super) fn note_again(&self, ids: Vec<K>) {
        // Before they are noted, and not while the list is held: who charges holds an entry and takes a list.
        for id in &ids {
            if let Some(mut windows) = self.entries.get_mut(id) {
                windows.saved_is_lost();
            }
        }
        self.note(ids.into_iter());
    }

    /// Hands over the ids noted since the last call, in order, each once, with what is to be written of them, or `None` for those that are gone. Of
    /// fewer than `only_new_from` that is all, else what is new.
    pub(super) fn export(&self, only_new_from: usize) -> Vec<(K, Option<Saved>)> {
        let mut ids = Vec::new();
        for lane in &self.changed {
            ids.append(&mut lock(lane));
        }
        ids.sort_unstable();
        ids.dedup();
        let only_new = ids.len() >= only_new_from;
        ids.into_iter()
            .enumerate()
            .map(|(index, id)| {
                give_way(index);
                let saved = self.entries.get_mut(&id).map(|mut windows| {
                    windows.changed = false;
                    windows.save(only_new)
                });
                (id, saved)
            })
            .collect()
    }

    /// Removes entries whose windows are all over. Locks one shard at a time: a thousandth of the entries.
    pub(super) fn sweep(&self, now: Now) {
        // A thread may still be on its way here with a clock it read before now.
        let at = window::instant(now).saturating_sub(GRACE_MICROS);
        let mut swept = Vec::new();
        self.entries.retain(|id, windows| {
            let idle = windows.idle(at);
            if idle {
                swept.push(id.clone());
            }
            !idle
        });
        self.note(swept.into_iter());
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A list of ids is whole after every push, so a panic elsewhere has not broken it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As many as the key table has: a sweep or a growing map stops only a thousandth of the keys, and only for microseconds.
const SHARDS: usize = 1024;

/// How long after its end an entry stays.
const GRACE_MICROS: i64 = 10_000_000;
