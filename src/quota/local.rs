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
use super::sync::lock;

/// The windows of all subjects of one kind. While a seat is held nobody else charges it: that makes all its windows one step.
#[derive(Debug)]
pub(crate) struct Table<K, B> {
    seats: Seats<K, State<B>>,
    /// Ids that were charged or swept since the last export, and their seats, so that an export does not walk a million of them. Many small locks,
    /// each taken at most once per subject and export.
    changed: Box<[Mutex<Changed<K>>]>,
}

/// Who changed, and the number of his seat, as far as it is known.
type Changed<K> = Vec<(K, u32)>;

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
            changed: (0..LANES).map(|_| Mutex::default()).collect(),
        }
    }

    /// Holds a subject's seat, made if there is none. The hint is right afterwards.
    #[inline]
    pub(crate) fn hold(&self, id: &K, hint: &SeatHint) -> Held<'_, K, B> {
        self.seats.hold(id, hint)
    }

    /// Has a subject's seat brought from memory that is wanted soon.
    #[inline]
    pub(super) fn look_ahead(&self, hint: &SeatHint) {
        self.seats.look_ahead(hint.number());
    }

    /// Holds a subject's seat, which is perhaps the one with this number, if he has one.
    pub(crate) fn find(&self, id: &K, number: u32) -> Option<Held<'_, K, B>> {
        self.seats.find(id, number)
    }

    /// A copy of a subject's windows.
    pub(super) fn copy(&self, id: &K) -> Option<Windows> {
        Some(self.find(id, 0)?.windows.clone())
    }

    /// Says that a held subject is to be exported.
    pub(super) fn mark(&self, held: &mut Held<'_, K, B>, id: &K, now: Now) {
        if !held.windows.changed {
            held.windows.changed = true;
            // Any list will do; the clock's last digits spread the threads over them without another hash.
            let lane = now.mono.0 as usize % LANES;
            lock(&self.changed[lane]).push((id.clone(), held.number()));
        }
    }

    /// Puts saved windows in place.
    pub(super) fn restore(&self, id: &K, windows: Windows) {
        self.hold(id, &SeatHint::default()).windows = windows;
    }

    /// Says that ids are to be exported: as rows if they have windows by then, as removed if not.
    pub(super) fn note(&self, ids: impl Iterator<Item = K>) {
        lock(&self.changed[0]).extend(ids.map(|id| (id, 0)));
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

    /// Hands over the ids noted since the last call, in order, each once, with what is to be written of them, or `None` for those that are gone. Of
    /// fewer than `only_new_from` that is all, else what is new. What is not asked for is lost.
    pub(super) fn export(
        &self,
        only_new_from: usize,
    ) -> impl ExactSizeIterator<Item = (K, Option<Saved>)> {
        let mut noted = Vec::new();
        for lane in &self.changed {
            noted.append(&mut lock(lane));
        }
        // Of equal ids the one whose seat is known comes last.
        noted.sort_unstable();
        noted.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = later.1;
            }
            same
        });
        let only_new = noted.len() >= only_new_from;
        (0..noted.len()).map(move |index| {
            give_way(index);
            self.look_ahead_of_some(&noted, index);
            let (id, number) = &noted[index];
            let saved = self.find(id, *number).and_then(|mut held| {
                held.windows.changed = false;
                let saved = held.windows.save(only_new);
                (saved != (None, None)).then_some(saved)
            });
            (id.clone(), saved)
        })
    }

    /// Has the seats brought from memory that are wanted soon, where one is wanted after another. To be called for each of all, with its number.
    pub(crate) fn look_ahead_of_some(&self, noted: &[(K, u32)], index: usize) {
        let more = match index {
            0 => 0..LOOKED_AT,
            _ => index + LOOKED_AT - 1..index + LOOKED_AT,
        };
        let some = noted.iter().take(more.end).skip(more.start);
        some.for_each(|(_, number)| self.seats.look_ahead(*number));
    }

    /// Forgets windows that are all over, and whom nothing is left of, where `at_rest` says so of what lies beside his windows.
    pub(super) fn sweep(&self, now: Now, at_rest: impl Fn(&mut B) -> bool) {
        // A thread may still be on its way here with a clock it read before now.
        let at = window::instant(now).saturating_sub(GRACE_MICROS);
        self.seats.retain(|id, number, state| {
            let idle = state.windows.idle(at);
            if idle && state.windows.are_open() {
                state.windows = Windows::default();
                lock(&self.changed[0]).push((id.clone(), number));
            }
            !(at_rest(&mut state.beside) && idle)
        });
    }

    pub(super) fn len(&self) -> usize {
        self.seats.len()
    }
}

/// How long after its end a window stays.
const GRACE_MICROS: i64 = 10_000_000;

/// How many seats ahead: as many as a processor asks its memory for at once.
const LOOKED_AT: usize = 16;
