//! Usage by the hour in `counters.db`: what is added with each save, and what reports read, beside the saves and without holding them up.
//!
//! `table` is what the saves write, `reader` what reports read, `told` what other nodes are told.

mod reader;
mod table;
#[cfg(test)]
mod tests;
mod told;

use crate::clock::Wall;
use crate::model::key::KeyId;

pub use reader::History;
pub(super) use table::SCHEMA;
pub(super) use table::add;
pub(super) use table::let_go;
pub use told::PARTS;
pub use told::set_aside;
pub use told::set_aside_of_another;

/// How many buckets the latency of requests is kept in.
pub const LATENCY_BUCKETS: usize = 6;

/// Upper bounds of all buckets but the last, in microseconds, bounds included: 10 ms, 50 ms, 200 ms, 1 s, 5 s.
pub const LATENCY_BOUNDS: [u64; LATENCY_BUCKETS - 1] =
    [10_000, 50_000, 200_000, 1_000_000, 5_000_000];

/// How long usage is kept: 90 days of hours.
pub const HOURS_KEPT: u32 = 90 * 24;

/// What was done within some time. Everything but the last use adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Unix seconds of the last admission; 0 is none.
    pub last_used_unix_seconds: u64,
    /// Admitted, answered below 400.
    pub success: u64,
    /// Admitted, answered 400 to 499.
    pub client_error: u64,
    /// Admitted, answered 500 or more.
    pub server_error: u64,
    /// Refused by the gateway before a backend was asked.
    pub refused: u64,
    /// Bytes of request bodies.
    pub received_bytes: u64,
    /// Bytes of answer bodies.
    pub sent_bytes: u64,
    /// Admitted requests by how long they took, to the end of their answer.
    pub latency: [u64; LATENCY_BUCKETS],
}

impl Tally {
    /// Successes, client errors, server errors, refusals, bytes received and sent, as they are packed; and when it was last, and the latency.
    pub(in crate::store) fn of(
        last_used_unix_seconds: u64,
        counts: [u64; 6],
        latency: [u64; LATENCY_BUCKETS],
    ) -> Tally {
        let [
            success,
            client_error,
            server_error,
            refused,
            received_bytes,
            sent_bytes,
        ] = counts;
        Tally {
            last_used_unix_seconds,
            success,
            client_error,
            server_error,
            refused,
            received_bytes,
            sent_bytes,
            latency,
        }
    }

    /// Admitted requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.success + self.client_error + self.server_error
    }

    /// Those of them that were answered 400 or above.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.client_error + self.server_error
    }

    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Tally) -> Tally {
        Tally {
            last_used_unix_seconds: self
                .last_used_unix_seconds
                .max(other.last_used_unix_seconds),
            success: self.success + other.success,
            client_error: self.client_error + other.client_error,
            server_error: self.server_error + other.server_error,
            refused: self.refused + other.refused,
            received_bytes: self.received_bytes + other.received_bytes,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            latency: std::array::from_fn(|bucket| self.latency[bucket] + other.latency[bucket]),
        }
    }
}

/// A key, and what it did in each hour in which it did something.
pub type HoursOfKey = (KeyId, Vec<(u32, Tally)>);

/// What one key did in one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HourRow {
    /// Which key.
    pub key: KeyId,
    /// Hours since the Unix epoch.
    pub hour: u32,
    /// What it did; in a `Batch` since the last save.
    pub tally: Tally,
}

/// The hour that a time lies in, since the Unix epoch.
#[must_use]
pub fn hour_of(at: Wall) -> u32 {
    u32::try_from(at.unix_seconds() / 3_600).unwrap_or(u32::MAX)
}

/// When an hour begins.
#[must_use]
pub fn start_of(hour: u32) -> Wall {
    Wall::from_unix_seconds(u64::from(hour) * 3_600)
}
