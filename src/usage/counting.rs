//! Counts what keys do on the meters beside their windows; an export of those hands it over to each flush.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use crate::clock::Wall;
use crate::meter::Full;
use crate::meter::Meter;
use crate::model::key::KeyId;
use crate::model::seat::SeatHint;
use crate::store::history::HourRow;
use crate::store::history::Tally;
use crate::store::history::hour_of;

use super::Keys;

/// What keys did since the last flush, and how much of it failed lately. Holds only those that did something since the sweep before the last or within
/// five minutes, or whose windows are not over: 192 bytes for each such key, and what finds it, nothing for all others.
#[derive(Debug)]
pub struct Usage {
    keys: Arc<Keys>,
    /// Some locks, each taken at most once a key and flush, and where an hour turns.
    lanes: Box<[Mutex<Lane>]>,
}

/// Counts that no meter holds, by hour and key: their hour was over, or they could not be written.
type Lane = BTreeMap<(u32, KeyId), Tally>;

/// A request that was admitted and has not ended. It counts in the hour in which it began, all of its bytes included.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    key: KeyId,
    hour: u32,
    /// Where the key's meter was.
    seat: u32,
}

impl Usage {
    /// Nothing counted yet. Meters lie beside these windows.
    pub(crate) fn beside(keys: &Arc<Keys>) -> Usage {
        Usage {
            keys: Arc::clone(keys),
            lanes: (0..LANES).map(|_| Mutex::default()).collect(),
        }
    }

    /// A request of this key was admitted now: from now on the key is known as used. Its seat is perhaps this one.
    #[must_use]
    pub fn admitted(&self, key: KeyId, seat: u32, at: Wall) -> Counted {
        let request = Counted {
            key,
            hour: hour_of(at),
            seat,
        };
        let seat = self.count(&request, |meter| {
            meter.admitted(at);
            Full(false)
        });
        Counted { seat, ..request }
    }

    /// Counts a request that was admitted and has ended: by its status (below 400, below 500, above), its time to the end, and its bodies.
    pub fn ended(
        &self,
        request: &Counted,
        status: u16,
        took: Duration,
        received_bytes: u64,
        sent_bytes: u64,
    ) {
        self.count(request, |meter| {
            meter.ended(status, took, received_bytes, sent_bytes)
        });
    }

    /// Counts a request of a known key that the gateway refused.
    pub fn refused(&self, key: KeyId, seat: u32, at: Wall, received_bytes: u64, sent_bytes: u64) {
        let request = Counted {
            key,
            hour: hour_of(at),
            seat,
        };
        self.count(&request, |meter| meter.refused(received_bytes, sent_bytes));
    }

    /// Adds to what an export handed over what no meter holds, all in order. If it could not be written, give it to `put_back`.
    pub fn take(&self, counted: &mut Vec<HourRow>) {
        for lane in &self.lanes {
            let apart = std::mem::take(&mut *lock(lane)).into_iter();
            counted.extend(apart.map(|((hour, key), tally)| HourRow { key, hour, tally }));
        }
        // In order already, but where an hour has turned or a flush has failed.
        counted.sort_by_key(|row| (row.hour, row.key));
        counted.dedup_by(|later, kept| {
            let same = (later.hour, later.key) == (kept.hour, kept.key);
            if same {
                kept.tally = kept.tally.and(&later.tally);
            }
            same
        });
    }

    /// Counts again what `take` handed over.
    pub fn put_back(&self, rows: &[HourRow]) {
        for row in rows {
            self.set_apart(row.key, row.hour, &row.tally);
        }
    }

    /// Counts on the request's meter. Gives the number of its seat.
    #[inline]
    fn count(&self, request: &Counted, count: impl FnOnce(&mut Meter) -> Full) -> u32 {
        let &Counted { key, hour, seat } = request;
        let mut held = self.keys.hold(&key, &SeatHint::at(seat));
        let number = held.number();
        let meter = &mut held.beside;
        if meter.hour() != hour {
            // Requests of two hours may end in turn for a while: each time what there is goes where its hour is.
            if let Some((hour, tally)) = meter.turn_to(hour) {
                self.set_apart(key, hour, &tally);
            }
        }
        if let Full(true) = count(meter) {
            self.set_apart(key, hour, &meter.take());
        }
        meter.note();
        self.keys.list(&mut held, &key);
        number
    }

    /// Keeps counts for the next flush beside all meters.
    #[cold]
    #[inline(never)]
    fn set_apart(&self, key: KeyId, hour: u32, tally: &Tally) {
        let mut lane = lock(self.lane(key));
        let sum = lane.entry((hour, key)).or_default();
        *sum = sum.and(tally);
    }

    fn lane(&self, key: KeyId) -> &Mutex<Lane> {
        &self.lanes[usize::from(key.0[11]) % LANES]
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Sums are whole after every step, so a panic elsewhere has not broken them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const LANES: usize = 16;
