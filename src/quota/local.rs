//! One node's counters: the windows of whoever is in use, each at a seat of its own, with what else is counted of him beside them.

use std::hash::Hash;

use crate::aside::give_way;
use crate::clock::Now;
use crate::model::seat::SeatHint;
use crate::quota::window;
use crate::quota::window::Saved;
use crate::quota::window::Windows;

use super::seats;
use super::seats::Seats;
use super::sync::LANES;
use super::sync::Mutex;
use super::sync::lane_of;
use super::sync::lock;

/// The windows of all subjects of one kind. While a seat is held nobody else charges it: that makes all its windows one step.
#[derive(Debug)]
pub(crate) struct Table<K, B> {
    seats: Seats<K, State<B>>,
    /// Ids that were charged or counted since the last export, and their seats, so that an export does not walk a million of them. Many small
    /// locks, each taken at most once per subject and export, a few of them by each thread: those few stay near.
    listed: Box<[Mutex<Listed<K>>]>,
    /// Ids that were swept, or are to be exported for another reason, whatever became of them since and whether or not they have a seat.
    noted: Mutex<Vec<K>>,
}

/// Who is to be looked at, and the number of his seat.
type Listed<K> = Vec<(K, u32)>;

/// What lies in a seat. An everyday request touches all of it.
#[derive(Debug, Default)]
pub(crate) struct State<B> {
    pub(super) windows: Windows,
    /// What is none of the quota's business and lies here so that one look finds both.
    pub(crate) beside: B,
}

/// A subject's seat, which nobody else can touch meanwhile.
pub(crate) type Held<'a, K, B> = seats::Held<'a, K, State<B>>;

impl<K: Clone + Eq + Hash + Ord, B: Default> Table<K, B> {
    pub(super) fn new() -> Table<K, B> {
        Table {
            seats: Seats::new(),
            listed: (0..LANES).map(|_| Mutex::default()).collect(),
            noted: Mutex::default(),
        }
    }

    /// Holds a subject's seat, made if there is none. The hint is right afterwards.
    #[inline]
    pub(crate) fn hold(&self, id: &K, hint: &SeatHint) -> Held<'_, K, B> {
        self.seats.hold(id, hint)
    }

    /// Has the seat with this number brought from memory that is wanted soon.
    #[inline]
    pub(super) fn look_ahead(&self, number: u32) {
        self.seats.look_ahead(number);
    }

    /// Holds a subject's seat, which is perhaps the one with this number, if he has one.
    pub(crate) fn find(&self, id: &K, number: u32) -> Option<Held<'_, K, B>> {
        self.seats.find(id, number)
    }

    /// A copy of a subject's windows.
    pub(super) fn copy(&self, id: &K) -> Option<Windows> {
        Some(self.find(id, 0)?.windows.clone())
    }

    /// Says that a held subject's windows are to be exported.
    #[inline]
    pub(super) fn mark(&self, held: &mut Held<'_, K, B>, id: &K) {
        held.windows.changed = true;
        self.list(held, id);
    }

    /// Has the next export look at a held subject, of whom something has changed.
    #[inline]
    pub(crate) fn list(&self, held: &mut Held<'_, K, B>, id: &K) {
        if !held.list(true) {
            let number = held.number();
            lock(&self.listed[lane_of(number)]).push((id.clone(), number));
        }
    }

    /// Puts saved windows in place.
    pub(super) fn restore(&self, id: &K, windows: Windows) {
        self.hold(id, &SeatHint::default()).windows = windows;
    }

    /// Says that ids are to be exported: as rows if they have windows by then, as removed if not.
    pub(super) fn note(&self, ids: impl Iterator<Item = K>) {
        lock(&self.noted).extend(ids);
    }

    /// Has these ids exported again, whole: what was handed over of them was not written.
    pub(super) fn note_again(&self, ids: Vec<K>) {
        // Before they are noted, and not while the list is held: who charges holds a seat and takes a list.
        for id in &ids {
            if let Some(mut held) = self.find(id, 0) {
                held.windows.saved_is_lost();
            }
        }
        self.note(ids.into_iter());
    }

    /// Hands over the ids listed since the last call, in order, each once. Who is not looked at then, by `export`, is lost.
    pub(super) fn take_listed(&self) -> Vec<(K, u32)> {
        let lanes = self.listed.iter().map(|lane| lock(lane).len());
        let mut listed = Vec::with_capacity(lanes.sum());
        for lane in &self.listed {
            listed.append(&mut lock(lane));
        }
        let noted = std::mem::take(&mut *lock(&self.noted));
        listed.extend(noted.into_iter().enumerate().map(|(index, id)| {
            // A sweep may have found the windows of a million over.
            give_way(index);
            let number = self.find(&id, 0).map(|mut held| {
                held.windows.changed = true;
                held.number()
            });
            (id, number.unwrap_or(0))
        }));
        listed.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        listed.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = kept.1.max(later.1);
            }
            same
        });
        listed
    }

    /// Looks at these: `each` is given what is to be written of somebody's windows where they have changed, which is nothing where they are gone, and what
    /// lies beside them. Of fewer than `only_new_from` that is all, else what is new.
    pub(super) fn export(
        &self,
        listed: &[(K, u32)],
        only_new_from: usize,
        mut each: impl FnMut(&K, Option<Saved>, Option<&mut B>),
    ) {
        let only_new = listed.len() >= only_new_from;
        for (index, (id, number)) in listed.iter().enumerate() {
            give_way(index);
            self.look_ahead_of_some(listed, index);
            let Some(mut held) = self.find(id, *number) else {
                each(id, Some((None, None)), None);
                continue;
            };
            held.list(false);
            // Who had no seat, and has one now, was perhaps not charged at it.
            let changed = std::mem::take(&mut held.windows.changed) || *number == 0;
            let saved = changed.then(|| held.windows.save(only_new));
            each(id, saved, Some(&mut held.beside));
        }
    }

    /// Has the seats brought from memory that are wanted soon, where one is wanted after another. To be called for each of all, with its number.
    fn look_ahead_of_some(&self, listed: &[(K, u32)], index: usize) {
        let more = match index {
            0 => 0..LOOKED_AT,
            _ => index + LOOKED_AT - 1..index + LOOKED_AT,
        };
        let some = listed.iter().take(more.end).skip(more.start);
        some.for_each(|(_, number)| self.seats.look_ahead(*number));
    }

    /// Forgets windows that are all over, and whom nothing is left of, where `at_rest` says so of what lies beside his windows.
    pub(super) fn sweep(&self, now: Now, at_rest: impl Fn(&mut B) -> bool) {
        // A thread may still be on its way here with a clock it read before now.
        let at = window::instant(now).saturating_sub(GRACE_MICROS);
        self.seats.retain(|id, state| {
            let idle = state.windows.idle(at);
            if idle && state.windows.are_open() {
                state.windows = Windows::default();
                lock(&self.noted).push(id.clone());
            }
            !(at_rest(&mut state.beside) && idle)
        });
    }

    /// How many subjects have seats.
    #[inline]
    pub(super) fn in_use(&self) -> u32 {
        self.seats.taken()
    }

    /// Whether so many have seats that each is far away in memory: what is known of several is then better looked for together.
    #[inline]
    pub(super) fn is_crowded(&self) -> bool {
        self.in_use() >= CROWDED_FROM
    }
}

/// A turn, and to look for those who came meanwhile together, costs as much as to look for each by itself with 100,000 to 200,000 keys in use.
const CROWDED_FROM: u32 = 131_072;

/// How long after its end a window stays.
const GRACE_MICROS: i64 = 10_000_000;

/// How many seats ahead: as many as a processor asks its memory for at once.
const LOOKED_AT: usize = 16;
