//! Every metric, declared once, its unit in its name; what a request touches is an atomic it already holds.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::RwLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::MetricEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use routes::BOUNDS;
use routes::Part;
pub use routes::RouteMetrics;
pub use routes::Share;
use routes::Total;

mod routes;

/// All routes together.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// Finished requests.
    pub requests: u64,
    /// The same by status: 1xx to 5xx.
    pub classes: [u64; 5],
    /// Bytes of answer bodies.
    pub sent_bytes: u64,
    /// Upper bounds of all buckets but the last, in seconds.
    pub bounds: Vec<f64>,
    /// Finished requests by how long they took.
    pub latency: Vec<u64>,
    /// Refusals by reason.
    pub refusals: BTreeMap<&'static str, u64>,
}

/// How a reading is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; `_total` is appended.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Kind {
    fn metric_type(self) -> MetricType {
        match self {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        }
    }
}

/// A number that lives elsewhere and is read when somebody scrapes.
struct Reading {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: Vec<(&'static str, String)>,
    read: Box<dyn Fn() -> f64 + Send + Sync>,
}

/// Numbers that live elsewhere, of things that come and go; their reader sees to it that they are few.
struct Listing {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    read: Box<dyn Fn() -> Vec<Listed> + Send + Sync>,
}

/// The values of the labels, and the number.
pub type Listed = (Vec<String>, f64);

/// All metrics of this process.
#[derive(Default)]
pub struct Metrics {
    /// By pattern, of each worker that served one.
    routes: RwLock<HashMap<String, Vec<Arc<Part>>>>,
    refusals: RwLock<HashMap<&'static str, Arc<AtomicU64>>>,
    would_refuse: RwLock<HashMap<&'static str, Arc<AtomicU64>>>,
    guards: RwLock<HashMap<&'static str, Arc<AtomicU64>>>,
    readings: RwLock<Vec<Reading>>,
    listings: RwLock<Vec<Listing>>,
    in_flight: RwLock<Vec<Arc<AtomicU64>>>,
    /// Open tunnels.
    pub tunnels_open: AtomicU64,
    tunnel_ends: RwLock<HashMap<&'static str, Arc<AtomicU64>>>,
    /// Bytes from clients through tunnels that have ended.
    pub tunnel_received_bytes: AtomicU64,
    /// Bytes to clients through tunnels that have ended.
    pub tunnel_sent_bytes: AtomicU64,
    /// Access-log lines dropped because the disk did not keep up.
    pub log_lines_dropped: Arc<AtomicU64>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Metrics")
    }
}

impl Metrics {
    /// A part of the numbers of a route for one worker, which keeps it: no request looks it up here.
    pub fn route(&self, pattern: &str) -> RouteMetrics {
        let part = Arc::new(Part::new());
        let mut routes = write(&self.routes);
        let parts = routes.entry(pattern.to_owned()).or_default();
        parts.push(Arc::clone(&part));
        RouteMetrics::new(part)
    }

    /// One worker's share of the requests in flight.
    pub fn in_flight(&self) -> Share {
        let number = Arc::new(AtomicU64::new(0));
        write(&self.in_flight).push(Arc::clone(&number));
        Share::new(number)
    }

    /// Requests between their head and the end of their answer.
    pub fn requests_in_flight(&self) -> u64 {
        let shares = read(&self.in_flight);
        let numbers = shares.iter().map(|share| share.load(Ordering::Relaxed));
        numbers.fold(0, u64::wrapping_add)
    }

    /// The counter of refusals for one reason. A worker keeps the handle.
    pub fn refusal(&self, reason: &'static str) -> Arc<AtomicU64> {
        if let Some(found) = read(&self.refusals).get(reason) {
            return Arc::clone(found);
        }
        Arc::clone(write(&self.refusals).entry(reason).or_default())
    }

    /// The counter of requests that passed a rule which is only observed, for one reason. A worker keeps the handle.
    pub fn would_refuse(&self, reason: &'static str) -> Arc<AtomicU64> {
        if let Some(found) = read(&self.would_refuse).get(reason) {
            return Arc::clone(found);
        }
        Arc::clone(write(&self.would_refuse).entry(reason).or_default())
    }

    /// The counter of tunnels that ended in one way.
    pub fn tunnel_end(&self, end: &'static str) -> Arc<AtomicU64> {
        if let Some(found) = read(&self.tunnel_ends).get(end) {
            return Arc::clone(found);
        }
        Arc::clone(write(&self.tunnel_ends).entry(end).or_default())
    }

    /// The counter of guarded answers with this outcome. A worker keeps the handle.
    pub fn guard(&self, outcome: &'static str) -> Arc<AtomicU64> {
        if let Some(found) = read(&self.guards).get(outcome) {
            return Arc::clone(found);
        }
        Arc::clone(write(&self.guards).entry(outcome).or_default())
    }

    /// Everything together, for a page that people look at.
    pub fn sums(&self) -> Sums {
        let mut sums = Sums {
            bounds: BOUNDS.to_vec(),
            latency: vec![0; BOUNDS.len() + 1],
            ..Sums::default()
        };
        for parts in read(&self.routes).values() {
            let total = Total::of(parts);
            for (status, count) in &total.statuses {
                sums.requests += count;
                sums.classes[usize::from(status / 100 - 1)] += count;
            }
            for (sum, count) in sums.latency.iter_mut().zip(total.buckets) {
                *sum += count;
            }
            sums.sent_bytes += total.sent_bytes;
        }
        let refusals = read(&self.refusals);
        let counts = refusals
            .iter()
            .map(|(reason, count)| (*reason, count.load(Ordering::Relaxed)));
        sums.refusals = counts.collect();
        sums
    }

    /// Adds a number that is read at each scrape. Readings of one name must be added one after the other.
    pub fn add_reading(
        &self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        labels: Vec<(&'static str, String)>,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        write(&self.readings).push(Reading {
            name,
            help,
            kind,
            labels,
            read: Box::new(read),
        });
    }

    /// Adds a family of numbers whose members are asked for at each scrape.
    pub fn add_listing(
        &self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
        read: impl Fn() -> Vec<Listed> + Send + Sync + 'static,
    ) {
        write(&self.listings).push(Listing {
            name,
            help,
            kind,
            labels,
            read: Box::new(read),
        });
    }

    /// OpenMetrics text of everything.
    #[must_use]
    pub fn render(self: &Arc<Metrics>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(self)));
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &registry) {
            Ok(()) => text,
            Err(fmt::Error) => String::from("# EOF\n"),
        }
    }

    fn encode_routes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let routes = read(&self.routes);
        let totals = routes.iter();
        let totals = totals.map(|(pattern, parts)| (pattern.as_str(), Total::of(parts)));
        let mut totals: Vec<_> = totals.collect();
        totals.sort_unstable_by_key(|(pattern, _)| *pattern);
        routes::encode(&totals, encoder)
    }

    fn encode_refusals(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "portcullis_refusals",
            "Requests answered by the gateway itself, by reason",
            None,
            MetricType::Counter,
        )?;
        encode_by("reason", &mut family, &read(&self.refusals))?;
        let mut family = encoder.encode_descriptor(
            "portcullis_would_refuse",
            "Requests that passed a rule in observe mode, by the reason they would have been refused for",
            None,
            MetricType::Counter,
        )?;
        encode_by("reason", &mut family, &read(&self.would_refuse))?;
        let mut family = encoder.encode_descriptor(
            "portcullis_guarded_answers",
            "Answers that a guard changed, refused or cut, or would have",
            None,
            MetricType::Counter,
        )?;
        encode_by("outcome", &mut family, &read(&self.guards))
    }

    fn encode_tunnels(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let open = self.tunnels_open.load(Ordering::Relaxed) as f64;
        let mut gauge = encoder.encode_descriptor(
            "portcullis_tunnels_active",
            "Open tunnels",
            None,
            MetricType::Gauge,
        )?;
        gauge.encode_gauge(&open)?;
        let mut family = encoder.encode_descriptor(
            "portcullis_tunnels_ended",
            "Tunnels that have ended, by how",
            None,
            MetricType::Counter,
        )?;
        encode_by("end", &mut family, &read(&self.tunnel_ends))?;
        let mut family = encoder.encode_descriptor(
            "portcullis_tunnel_bytes",
            "Bytes through tunnels that have ended, as seen by the gateway's clients",
            None,
            MetricType::Counter,
        )?;
        for (direction, bytes) in [
            ("received", &self.tunnel_received_bytes),
            ("sent", &self.tunnel_sent_bytes),
        ] {
            let bytes = bytes.load(Ordering::Relaxed);
            encode_count(&mut family, &[("direction", direction)], bytes)?;
        }
        Ok(())
    }

    fn encode_readings(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let readings = read(&self.readings);
        for group in readings.chunk_by(|left, right| left.name == right.name) {
            let first = &group[0];
            let kind = first.kind.metric_type();
            let mut family = encoder.encode_descriptor(first.name, first.help, None, kind)?;
            for reading in group {
                let labels: Vec<(&str, &str)> = reading
                    .labels
                    .iter()
                    .map(|(name, value)| (*name, value.as_str()))
                    .collect();
                if labels.is_empty() {
                    encode_reading(&mut family, reading)?;
                } else {
                    let labels = labels.as_slice();
                    encode_reading(&mut family.encode_family(&labels)?, reading)?;
                }
            }
        }
        Ok(())
    }

    fn encode_listings(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for listing in read(&self.listings).iter() {
            let kind = listing.kind.metric_type();
            let mut family = encoder.encode_descriptor(listing.name, listing.help, None, kind)?;
            for (values, number) in (listing.read)() {
                let values = values.iter().map(String::as_str);
                let labels: Vec<(&str, &str)> =
                    listing.labels.iter().copied().zip(values).collect();
                if labels.is_empty() {
                    encode_number(&mut family, listing.kind, number)?;
                    continue;
                }
                let labels = labels.as_slice();
                encode_number(&mut family.encode_family(&labels)?, listing.kind, number)?;
            }
        }
        Ok(())
    }
}

type NoLabels = [(&'static str, &'static str); 0];

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_routes(&mut encoder)?;
        self.encode_refusals(&mut encoder)?;
        self.encode_tunnels(&mut encoder)?;
        self.encode_readings(&mut encoder)?;
        self.encode_listings(&mut encoder)
    }
}

fn encode_by(
    label: &'static str,
    family: &mut MetricEncoder<'_>,
    counts: &HashMap<&'static str, Arc<AtomicU64>>,
) -> fmt::Result {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_unstable_by_key(|(word, _)| **word);
    for (word, count) in sorted {
        let labels = [(label, *word)];
        encode_count(family, &labels, count.load(Ordering::Relaxed))?;
    }
    Ok(())
}

fn encode_reading(metric: &mut MetricEncoder<'_>, reading: &Reading) -> fmt::Result {
    encode_number(metric, reading.kind, (reading.read)())
}

fn encode_number(metric: &mut MetricEncoder<'_>, kind: Kind, value: f64) -> fmt::Result {
    match kind {
        Kind::Counter => metric.encode_counter::<NoLabels, f64, f64>(&value, None),
        Kind::Gauge => metric.encode_gauge(&value),
    }
}

fn encode_count(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str)],
    count: u64,
) -> fmt::Result {
    let mut metric = family.encode_family(&labels)?;
    metric.encode_counter::<NoLabels, u64, f64>(&count, None)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn renders_routes_refusals_and_readings_as_openmetrics() {
        let metrics = Arc::new(Metrics::default());
        metrics
            .route("/leases/{*rest}")
            .record(200, Duration::from_millis(7), 11);
        metrics
            .refusal("unknown_key")
            .fetch_add(3, Ordering::Relaxed);
        metrics.add_reading(
            "portcullis_keys",
            "Keys in force",
            Kind::Gauge,
            vec![],
            || 4.0,
        );
        let text = metrics.render();
        for line in [
            r#"http_server_requests_total{http_route="/leases/{*rest}",http_response_status_code="200"} 1"#,
            r#"http_server_request_duration_seconds_bucket{le="0.005",http_route="/leases/{*rest}"} 0"#,
            r#"http_server_request_duration_seconds_bucket{le="0.01",http_route="/leases/{*rest}"} 1"#,
            r#"http_server_request_duration_seconds_bucket{le="+Inf",http_route="/leases/{*rest}"} 1"#,
            r#"portcullis_refusals_total{reason="unknown_key"} 3"#,
            "portcullis_keys 4.0",
        ] {
            assert!(text.contains(line), "{line} is missing from\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
