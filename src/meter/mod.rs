//! What one key did in one hour, as it is counted until a flush takes it, and in the last minutes: plain numbers in one cache line.

use std::time::Duration;

use crate::clock::Mono;
use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::store::history::HourRow;
use crate::store::history::LATENCY_BOUNDS;
use crate::store::history::LATENCY_BUCKETS;
use crate::store::history::Tally;
use crate::store::history::start_of;

use self::lately::Lately;

mod lately;

/// Error rates are those of so many seconds.
pub(crate) const RATE_SECONDS: u64 = lately::MINUTES as u64 * MINUTE_SECONDS;

/// What one key did in one hour since the last flush. Whoever counts holds the seat that it lies in.
///
/// Of 64 bytes, since there may be one for each of a million keys: how many requests were fast is what is left of all when those in slower buckets
/// are taken away, of the last use only the second within the hour is kept, and what does not fit 16 bits is set apart.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    sent_bytes: u64,
    received_bytes: u64,
    hour: u32,
    success: u16,
    client_error: u16,
    server_error: u16,
    refused: u16,
    /// All buckets of latency but the first.
    slow: [u16; LATENCY_BUCKETS - 1],
    /// Beside what was counted since the last flush, what flushes took.
    lately: Lately,
    /// The second of the hour in which it was used last, from 1; 0 is none.
    used: u16,
    /// Whether anything was counted since the last flush.
    noted: bool,
    /// Whether anything was since the last sweep.
    recent: bool,
}

/// Requests of a key within the last `RATE_SECONDS`, and how many of them were answered 400 or above: what flushes have taken, of which the last one took
/// some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRate {
    /// Whose.
    pub key: KeyId,
    /// All of them that were admitted and have ended. Exact up to 65,535 a minute, else to a thirty-thousandth.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
}

/// Whether a count has come to the end of its digits, so that all must be taken before anything else is counted.
#[must_use]
pub(crate) struct Full(pub(crate) bool);

impl Meter {
    /// Counts for this hour from now on. Gives what was counted in another, which belongs to that.
    pub(crate) fn turn_to(&mut self, hour: u32) -> Option<(u32, Tally)> {
        if self.hour == hour {
            return None;
        }
        let counted = (self.hour, self.take());
        self.hour = hour;
        (counted.1 != Tally::default()).then_some(counted)
    }

    /// Says that something is counted.
    pub(crate) fn note(&mut self) {
        (self.noted, self.recent) = (true, true);
    }

    /// A request was admitted at this time, which lies in its hour.
    pub(crate) fn admitted(&mut self, at: Wall) {
        let second = 1 + at.unix_seconds() % HOUR_SECONDS;
        self.used = self.used.max(second as u16);
    }

    /// Counts a request that was admitted and has ended: by its status (below 400, below 500, above), its time to the end, and its bodies.
    pub(crate) fn ended(
        &mut self,
        status: u16,
        took: Duration,
        received_bytes: u64,
        sent_bytes: u64,
    ) -> Full {
        let class = match status {
            ..400 => &mut self.success,
            400..500 => &mut self.client_error,
            _ => &mut self.server_error,
        };
        *class += 1;
        let mut full = *class == u16::MAX;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(slower) = bucket.checked_sub(1) {
            self.slow[slower] += 1;
            full |= self.slow[slower] == u16::MAX;
        }
        self.bytes(received_bytes, sent_bytes);
        Full(full)
    }

    /// Counts a request that the gateway refused. It used nothing, so it is no use of the key, and the time it took says nothing of a backend.
    pub(crate) fn refused(&mut self, received_bytes: u64, sent_bytes: u64) -> Full {
        self.refused += 1;
        self.bytes(received_bytes, sent_bytes);
        Full(self.refused == u16::MAX)
    }

    fn bytes(&mut self, received: u64, sent: u64) {
        self.received_bytes = self.received_bytes.saturating_add(received);
        self.sent_bytes = self.sent_bytes.saturating_add(sent);
    }

    /// The hour it counts for.
    pub(crate) fn hour(&self) -> u32 {
        self.hour
    }

    /// Hands over what was counted, and begins at nothing.
    pub(crate) fn take(&mut self) -> Tally {
        let requests =
            u64::from(self.success) + u64::from(self.client_error) + u64::from(self.server_error);
        let slow = self.slow.map(u64::from);
        let mut latency = [0; LATENCY_BUCKETS];
        latency[0] = requests - slow.iter().sum::<u64>();
        latency[1..].copy_from_slice(&slow);
        let last_used =
            (self.used > 0).then(|| start_of(self.hour).unix_seconds() + u64::from(self.used) - 1);
        let tally = Tally {
            last_used_unix_seconds: last_used.unwrap_or(0),
            success: u64::from(self.success),
            client_error: u64::from(self.client_error),
            server_error: u64::from(self.server_error),
            refused: u64::from(self.refused),
            received_bytes: self.received_bytes,
            sent_bytes: self.sent_bytes,
            latency,
        };
        let mut lately = std::mem::take(&mut self.lately);
        lately.add(tally.requests(), tally.failed());
        *self = Meter {
            hour: self.hour,
            lately,
            noted: self.noted,
            recent: self.recent,
            ..Meter::default()
        };
        tally
    }

    /// Hands over what was counted of this key, whose meter it is; `None` is nothing. What was taken before, by an hour that turned or a count that was
    /// full, is of the minute of the flush before, for error rates.
    pub(crate) fn row_of(&mut self, key: KeyId, now: Mono) -> Option<HourRow> {
        self.noted = false;
        self.lately.roll(minute_of(now));
        let tally = self.take();
        (tally != Tally::default()).then_some(HourRow {
            key,
            hour: self.hour,
            tally,
        })
    }

    /// What of this key's requests failed lately, up to the last flush; `None` is none.
    pub(crate) fn error_rate(&self, key: KeyId) -> Option<ErrorRate> {
        let (requests, failed) = self.lately.sums();
        (failed > 0).then_some(ErrorRate {
            key,
            requests,
            failed,
        })
    }

    /// Whether nothing is counted here that no flush has, nothing was since the last call, and nothing within the minutes that error rates are of: to be
    /// asked once a sweep.
    pub(crate) fn at_rest(&mut self, now: Mono) -> bool {
        let recent = std::mem::take(&mut self.recent);
        self.lately.roll(minute_of(now));
        !recent && !self.noted && self.lately.are_none()
    }
}

/// By the clock that is never set.
fn minute_of(now: Mono) -> u64 {
    now.0 / 1_000_000 / MINUTE_SECONDS
}

const MINUTE_SECONDS: u64 = 60;

const HOUR_SECONDS: u64 = 3_600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_is_one_cache_line() {
        assert_eq!(size_of::<Meter>(), 64);
    }

    /// The first and the last second of an hour, and a count that has no digits left.
    #[test]
    fn what_is_counted_is_what_is_taken() {
        let mut meter = Meter::default();
        assert_eq!(meter.turn_to(7), None);
        for (second, last) in [(0, 25_200), (3_599, 28_799)] {
            meter.admitted(Wall::from_unix_seconds(25_200 + second));
            assert_eq!(meter.take().last_used_unix_seconds, last);
        }
        meter.success = u16::MAX - 2;
        assert!(!meter.ended(200, Duration::ZERO, 1, 2).0);
        assert!(meter.ended(399, Duration::from_secs(6), 1, 2).0);
        let (hour, tally) = meter.turn_to(8).unwrap();
        assert_eq!((hour, tally.success), (7, u64::from(u16::MAX)));
        assert_eq!(tally.latency[0], u64::from(u16::MAX) - 1);
        assert_eq!(tally.latency[5], 1);
        assert_eq!((tally.received_bytes, tally.sent_bytes), (2, 4));
        assert_eq!(meter.turn_to(9), None, "nothing was counted in hour 8");
    }
}
