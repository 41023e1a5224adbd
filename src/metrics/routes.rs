//! The numbers of the routes. Each worker counts in parts of its own, so that no request waits for another core's; who reads adds the parts up.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::MetricEncoder;
use prometheus_client::metrics::MetricType;

use super::NoLabels;
use super::encode_count;

/// Bounds of the duration histogram in seconds, the OpenTelemetry set for `http.server.request.duration`.
pub(super) const BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// Statuses with a place of their own: those that are registered (RFC 9110 section 16.2.1), and our 499.
const KNOWN: [u16; 63] = [
    100, 101, 102, 103, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304,
    305, 307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415,
    416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504,
    505, 506, 507, 508, 510, 511,
];

/// Where a status is counted; beyond the places, it has none.
static PLACES: [u8; 500] = {
    let mut places = [u8::MAX; 500];
    let mut place = 0;
    while place < KNOWN.len() {
        places[KNOWN[place] as usize - 100] = place as u8;
        place += 1;
    }
    places
};

/// What one worker counted of one route.
#[derive(Debug)]
pub(super) struct Part {
    statuses: [AtomicU64; KNOWN.len()],
    /// Statuses from 100 to 599 that have no place.
    odd: Mutex<BTreeMap<u16, u64>>,
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
    /// Bytes of answer bodies sent to clients.
    sent_bytes: AtomicU64,
}

impl Part {
    pub(super) fn new() -> Part {
        Part {
            statuses: [const { AtomicU64::new(0) }; KNOWN.len()],
            odd: Mutex::default(),
            buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1],
            micros: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        }
    }
}

/// One worker's hand on the numbers of one route; cardinality is the number of routes in gateway.toml, never what a client sends (S28).
#[derive(Debug)]
pub struct RouteMetrics {
    part: Arc<Part>,
    alone: Alone,
}

/// Kept by a value that one thread uses at a time.
type Alone = PhantomData<Cell<()>>;

impl RouteMetrics {
    pub(super) fn new(part: Arc<Part>) -> RouteMetrics {
        RouteMetrics {
            part,
            alone: PhantomData,
        }
    }

    /// Counts one finished request.
    pub fn record(&self, status: u16, took: Duration, sent_bytes: u64) {
        let part = &*self.part;
        let place = PLACES.get(usize::from(status).wrapping_sub(100));
        match place.map(|place| part.statuses.get(usize::from(*place))) {
            Some(Some(counter)) => add(counter, 1),
            Some(None) => {
                let mut odd = part.odd.lock().unwrap_or_else(PoisonError::into_inner);
                *odd.entry(status).or_default() += 1;
            }
            None => {}
        }
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        add(&part.buckets[bucket], 1);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&part.micros, micros);
        add(&part.sent_bytes, sent_bytes);
    }
}

/// A number that one worker alone writes, so that it needs no lock on the memory; whoever reads it adds up those of all workers.
#[derive(Debug)]
pub struct Share {
    number: Arc<AtomicU64>,
    alone: Alone,
}

impl Share {
    pub(super) fn new(number: Arc<AtomicU64>) -> Share {
        Share {
            number,
            alone: PhantomData,
        }
    }

    /// One more.
    pub fn up(&self) {
        add(&self.number, 1);
    }

    /// One less.
    pub fn down(&self) {
        add(&self.number, u64::MAX);
    }
}

/// Of a counter that nobody else writes.
fn add(counter: &AtomicU64, more: u64) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(more);
    counter.store(sum, Ordering::Relaxed);
}

/// What all workers counted of one route.
#[derive(Debug, Default)]
pub(super) struct Total {
    /// Finished requests by status.
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    micros: u64,
    pub(super) sent_bytes: u64,
}

impl Total {
    pub(super) fn of(parts: &[Arc<Part>]) -> Total {
        let mut total = Total::default();
        for part in parts {
            let counts = KNOWN.iter().zip(&part.statuses);
            let counts = counts.map(|(status, count)| (*status, count.load(Ordering::Relaxed)));
            let odd = part.odd.lock().unwrap_or_else(PoisonError::into_inner);
            let odd = odd.iter().map(|(status, count)| (*status, *count));
            for (status, count) in counts.chain(odd).filter(|(_, count)| *count > 0) {
                *total.statuses.entry(status).or_default() += count;
            }
            for (sum, count) in total.buckets.iter_mut().zip(&part.buckets) {
                *sum += count.load(Ordering::Relaxed);
            }
            total.micros += part.micros.load(Ordering::Relaxed);
            total.sent_bytes += part.sent_bytes.load(Ordering::Relaxed);
        }
        total
    }

    fn encode_statuses(&self, family: &mut MetricEncoder<'_>, pattern: &str) -> fmt::Result {
        for (status, count) in &self.statuses {
            let status = status.to_string();
            let labels = [
                ("http_route", pattern),
                ("http_response_status_code", status.as_str()),
            ];
            encode_count(family, &labels, *count)?;
        }
        Ok(())
    }

    fn encode_durations(&self, family: &mut MetricEncoder<'_>, pattern: &str) -> fmt::Result {
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.buckets).collect();
        let count = self.buckets.iter().sum();
        let seconds = Duration::from_micros(self.micros).as_secs_f64();
        let labels = [("http_route", pattern)];
        let mut metric = family.encode_family(&labels)?;
        metric.encode_histogram::<NoLabels>(seconds, count, &buckets, None)
    }
}

/// The families of the routes, which come in order of their patterns.
pub(super) fn encode(totals: &[(&str, Total)], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "http_server_requests",
        "Finished requests by route and status",
        None,
        MetricType::Counter,
    )?;
    for (pattern, total) in totals {
        total.encode_statuses(&mut family, pattern)?;
    }
    let mut family = encoder.encode_descriptor(
        "http_server_request_duration_seconds",
        "From the end of a request head to the end of its answer",
        None,
        MetricType::Histogram,
    )?;
    for (pattern, total) in totals {
        total.encode_durations(&mut family, pattern)?;
    }
    let mut family = encoder.encode_descriptor(
        "http_server_response_body_bytes",
        "Bytes of answer bodies by route",
        None,
        MetricType::Counter,
    )?;
    for (pattern, total) in totals {
        encode_count(&mut family, &[("http_route", pattern)], total.sent_bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_whatever_the_status() {
        let parts = [Arc::new(Part::new()), Arc::new(Part::new())];
        for part in &parts {
            let hand = RouteMetrics::new(Arc::clone(part));
            for status in (0..1_000).chain([200, 299]) {
                hand.record(status, Duration::from_millis(7), 2);
            }
        }
        let total = Total::of(&parts);
        let expected = (100..600).map(|status| match status {
            200 | 299 => (status, 4),
            status => (status, 2),
        });
        assert!(total.statuses.into_iter().eq(expected));
        assert_eq!(total.buckets[1], 2 * 1_002);
        assert_eq!(total.sent_bytes, 2 * 2 * 1_002);
    }
}
