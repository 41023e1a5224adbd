//! What each key did: counted in memory, by the hour, flushed to the store in batches.

mod counting;
pub mod report;

use crate::quota::Keys;
use crate::quota::Quota;

pub use counting::Counted;
pub use counting::Usage;

impl Usage {
    /// Nothing counted yet. What is counted lies beside the windows of the same keys.
    #[must_use]
    pub fn new(quota: &Quota) -> Usage {
        Usage::beside(quota.keys())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Mono;
    use crate::clock::Now;
    use crate::clock::Wall;
    use crate::model::key::KeyId;
    use crate::store::history::HourRow;
    use crate::store::history::Tally;

    const A: KeyId = KeyId(*b"aaaaaaaaaaaa");
    const B: KeyId = KeyId(*b"bbbbbbbbbbbb");

    fn at(seconds: u64) -> Wall {
        Wall::from_unix_seconds(seconds)
    }

    fn now(minute: u64) -> Now {
        Now {
            mono: Mono(minute * 60_000_000),
            wall: at(0),
        }
    }

    fn sweep(quota: &Quota) {
        quota.sweep(now(17));
    }

    /// What a flush writes of keys.
    fn taken(quota: &Quota, usage: &Usage) -> Vec<HourRow> {
        let mut counted = quota.export(now(17)).counted;
        usage.take(&mut counted);
        counted
    }

    /// A request of a key, from its admission to its end.
    fn request(usage: &Usage, key: KeyId, at: Wall, status: u16, took: Duration, sent: u64) {
        usage.ended(&usage.admitted(key, 0, at), status, took, 0, sent);
    }

    /// FA32, FF14: each request counted once, by class, even when a flush fails.
    #[test]
    fn counts_are_handed_over_once_and_can_be_put_back() {
        let quota = Quota::new();
        let usage = Usage::new(&quota);
        let slow = Duration::from_secs(60);
        request(&usage, B, at(7), 200, Duration::from_millis(10), 5);
        request(&usage, A, at(9), 404, Duration::from_micros(10_001), 1);
        request(&usage, A, at(8), 503, slow, 0);
        usage.refused(A, 0, at(11), 4, 2);
        let first = taken(&quota, &usage);
        assert_eq!(first.len(), 2);
        assert_eq!((first[0].key, first[0].hour), (A, 0));
        let expected = Tally {
            last_used_unix_seconds: 9,
            client_error: 1,
            server_error: 1,
            refused: 1,
            received_bytes: 4,
            sent_bytes: 3,
            latency: [0, 1, 0, 0, 0, 1],
            ..Tally::default()
        };
        assert_eq!(first[0].tally, expected);
        assert_eq!(first[1].tally.success, 1);
        assert_eq!(first[1].tally.latency, [1, 0, 0, 0, 0, 0]);
        assert_eq!(taken(&quota, &usage), []);
        request(&usage, A, at(10), 200, slow, 0);
        usage.put_back(&first);
        let again = taken(&quota, &usage);
        assert_eq!(again.len(), 2, "each key once");
        assert_eq!(again[0].tally.last_used_unix_seconds, 10);
        assert_eq!((again[0].tally.success, again[0].tally.refused), (1, 1));
        assert_eq!(again[0].tally.latency, [0, 1, 0, 0, 0, 2]);
        assert_eq!(taken(&quota, &usage), []);
    }

    /// A request in flight holds no memory, whatever time it takes, and counts in its own hour when it ends.
    #[test]
    fn what_is_in_flight_counts_in_its_own_hour_and_holds_nothing() {
        let quota = Quota::new();
        let usage = Usage::new(&quota);
        let open = usage.admitted(A, 0, at(3_599));
        let _ = usage.admitted(B, 0, at(3_599));
        sweep(&quota);
        sweep(&quota);
        assert_eq!(quota.subjects(), 2, "what was not handed over stays");
        assert_eq!(taken(&quota, &usage).len(), 2);
        sweep(&quota);
        assert_eq!(quota.subjects(), 0);
        assert_eq!(taken(&quota, &usage), []);
        // It ends in the next hour, when its seat is perhaps another's.
        let _ = usage.admitted(B, 0, at(3_600));
        let _ = usage.admitted(A, 0, at(3_600));
        usage.ended(&open, 200, Duration::ZERO, 0, 1);
        request(&usage, A, at(3_601), 200, Duration::ZERO, 2);
        usage.ended(&open, 200, Duration::ZERO, 0, 4);
        let rows = taken(&quota, &usage);
        let told = |row: usize| {
            let tally = &rows[row].tally;
            (
                rows[row].key,
                rows[row].hour,
                tally.success,
                tally.sent_bytes,
            )
        };
        assert_eq!(rows.len(), 3);
        assert_eq!(
            [told(0), told(1), told(2)],
            [(A, 0, 2, 5), (A, 1, 1, 2), (B, 1, 0, 0)]
        );
        assert_eq!(rows[1].tally.last_used_unix_seconds, 3_601);
        // Ended after the last look at it: the next flush looks once more, whatever sweeps come first.
        usage.ended(&open, 200, Duration::ZERO, 0, 1);
        sweep(&quota);
        assert_eq!(taken(&quota, &usage).len(), 1);
        assert_eq!(taken(&quota, &usage), []);
        // Nor does a sweep take what error rates are made of.
        for minute in 17..22 {
            quota.sweep(now(minute));
            assert!(quota.subjects() > 0);
        }
        quota.sweep(now(22));
        assert_eq!(quota.subjects(), 0);
    }

    /// Each export tells of keys that did something since the last one and of whose requests some failed within five minutes.
    #[test]
    fn what_failed_is_told_for_five_minutes() {
        let quota = Quota::new();
        let usage = Usage::new(&quota);
        let failing = |minute, status| {
            request(&usage, A, at(9), status, Duration::ZERO, 0);
            let failing = quota.export(now(minute)).failing;
            failing.first().map(|rate| (rate.requests, rate.failed))
        };
        assert_eq!(failing(17, 200), None);
        assert_eq!(failing(17, 404), Some((2, 1)));
        assert_eq!(failing(19, 500), Some((3, 2)));
        assert_eq!(failing(21, 200), Some((4, 2)));
        assert_eq!(failing(22, 200), Some((3, 1)));
        assert_eq!(failing(24, 200), None);
        assert_eq!(quota.export(now(24)).failing, []);
    }

    /// A key that is used again after a flush is noted again, and stays meanwhile.
    #[test]
    fn each_flush_has_what_came_since() {
        let quota = Quota::new();
        let usage = Usage::new(&quota);
        for second in 1..4 {
            request(&usage, A, at(second), 200, Duration::ZERO, 0);
            usage.refused(B, 0, at(second), 0, 7);
            let rows = taken(&quota, &usage);
            assert_eq!(rows.len(), 2);
            assert_eq!((rows[0].tally.success, rows[1].tally.refused), (1, 1));
            assert_eq!(rows[1].tally.sent_bytes, 7);
            sweep(&quota);
            assert_eq!(quota.subjects(), 2);
        }
    }

    /// Workers count while the flush takes, sweeps take seats away and hours turn: nothing is lost, nothing counted twice.
    #[test]
    fn counting_beside_a_flush_loses_nothing() {
        let quota = Quota::new();
        let usage = Usage::new(&quota);
        let rounds = 20_000;
        let total = std::thread::scope(|scope| {
            let workers: Vec<_> = [A, A, B, B]
                .into_iter()
                .map(|key| {
                    let usage = &usage;
                    scope.spawn(move || {
                        let mut seat = 0;
                        for second in 0..rounds {
                            let open = usage.admitted(key, seat, at(second));
                            seat = (second % 3) as u32;
                            usage.ended(&open, 200, Duration::ZERO, 0, 0);
                        }
                    })
                })
                .collect();
            let mut total = 0;
            let sum = || -> u64 {
                taken(&quota, &usage)
                    .iter()
                    .map(|row| row.tally.success)
                    .sum()
            };
            while workers.iter().any(|worker| !worker.is_finished()) {
                total += sum();
                sweep(&quota);
            }
            total + sum()
        });
        assert_eq!(total, 4 * rounds);
    }
}
