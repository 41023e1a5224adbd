//! Metrics that live in other rooms, read when somebody scrapes.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::clock::Clock;
use crate::edge::counters::ConnectionCounters;
use crate::metrics::Kind;
use crate::metrics::Listed;
use crate::metrics::Metrics;
use crate::snapshot::Contact;
use crate::snapshot::change::Keeper;
use crate::upstream::Backends;
use crate::upstream::ServerReport;
use crate::upstream::UpstreamReport;

use super::alerting::Alerting;
use super::alerting::Counts;
use super::reload::Reloader;
use super::state::State;

pub(crate) fn register(
    metrics: &Arc<Metrics>,
    connections: &Arc<ConnectionCounters>,
    state: &State,
    reloader: &Arc<Reloader>,
) {
    process(metrics);
    edge(metrics, connections);
    kept(metrics, state);
    reloads(metrics, reloader);
}

fn process(metrics: &Arc<Metrics>) {
    let version = vec![("version", String::from(env!("CARGO_PKG_VERSION")))];
    metrics.add_reading(
        "portcullis_build_info",
        "Always 1; the version is its label",
        Kind::Gauge,
        version,
        || 1.0,
    );
    let weak = Arc::downgrade(metrics);
    metrics.add_reading(
        "http_server_active_requests",
        "Requests whose answer has not ended",
        Kind::Gauge,
        vec![],
        move || {
            weak.upgrade()
                .map_or(0.0, |metrics| metrics.requests_in_flight() as f64)
        },
    );
    let dropped = Arc::clone(&metrics.log_lines_dropped);
    metrics.add_reading(
        "portcullis_access_log_lines_dropped",
        "Access-log lines lost because the disk did not keep up",
        Kind::Counter,
        vec![],
        move || count(&dropped),
    );
}

/// A counter of the edge, by the word that its metric's label says.
type Event = (&'static str, fn(&ConnectionCounters) -> &AtomicU64);

const EVENTS: [Event; 14] = [
    ("accepted", |counters| &counters.accepted),
    ("refused_total_cap", |counters| &counters.refused_total_cap),
    ("refused_address_cap", |counters| {
        &counters.refused_address_cap
    }),
    ("refused_descriptors", |counters| {
        &counters.refused_descriptors
    }),
    ("proxy_header_invalid", |counters| {
        &counters.proxy_header_invalid
    }),
    ("handshake_failed", |counters| &counters.handshake_failed),
    ("handshake_timeout", |counters| &counters.handshake_timeout),
    ("plaintext_on_tls", |counters| &counters.plaintext_on_tls),
    ("head_timeout", |counters| &counters.head_timeout),
    ("idle_closed", |counters| &counters.idle_closed),
    ("stalled", |counters| &counters.stalled),
    ("protocol_error", |counters| &counters.protocol_error),
    ("flooded", |counters| &counters.flooded),
    ("panicked", |counters| &counters.panicked),
];

fn edge(metrics: &Arc<Metrics>, connections: &Arc<ConnectionCounters>) {
    let open = Arc::clone(connections);
    let help = "Open client connections";
    metrics.add_reading(
        "portcullis_connections_active",
        help,
        Kind::Gauge,
        vec![],
        move || open.active.load(Ordering::Relaxed) as f64,
    );
    for (event, counter) in EVENTS {
        let connections = Arc::clone(connections);
        let labels = vec![("event", String::from(event))];
        let help = "What happened to client connections";
        metrics.add_reading(
            "portcullis_connection_events",
            help,
            Kind::Counter,
            labels,
            move || count(counter(&connections)),
        );
    }
}

/// What became of alerts.
pub(crate) fn alerts(metrics: &Arc<Metrics>, alerting: &Alerting) {
    for (outcome, read) in [
        ("told", (|counts| &counts.told) as fn(&Counts) -> &AtomicU64),
        ("delivered", |counts| &counts.delivered),
        ("failed_try", |counts| &counts.failed_tries),
        ("given_up", |counts| &counts.given_up),
    ] {
        let counts = Arc::clone(&alerting.counts);
        let labels = vec![("outcome", String::from(outcome))];
        let help = "Alerts, and what became of their delivery";
        metrics.add_reading(
            "portcullis_alerts",
            help,
            Kind::Counter,
            labels,
            move || count(read(&counts)),
        );
    }
    let alerts = alerting.alerts.clone();
    metrics.add_reading(
        "portcullis_alerts_dropped",
        "Alerts that found no room in their queue",
        Kind::Counter,
        vec![],
        move || alerts.dropped() as f64,
    );
}

fn kept(metrics: &Arc<Metrics>, state: &State) {
    let snapshot = Arc::clone(state.keeper.snapshot());
    metrics.add_reading(
        "portcullis_keys",
        "Keys in the snapshot in force, tombstones included",
        Kind::Gauge,
        vec![],
        move || snapshot.load().keys.len() as f64,
    );
    let snapshot = Arc::clone(state.keeper.snapshot());
    metrics.add_reading(
        "portcullis_store_revision",
        "Version of keys and tenants in force",
        Kind::Gauge,
        vec![],
        move || snapshot.load().revision as f64,
    );
    let quota = Arc::clone(&state.quota);
    metrics.add_reading(
        "portcullis_auth_failure_sources",
        "Addresses whose unknown keys are counted; at most 4096",
        Kind::Gauge,
        vec![],
        move || quota.strangers.sources() as f64,
    );
    let quota = Arc::clone(&state.quota);
    metrics.add_reading(
        "portcullis_visitor_addresses",
        "Addresses whose requests to public routes are counted (address_limit), each once per route; at most 16384",
        Kind::Gauge,
        vec![],
        move || quota.visitors.addresses() as f64,
    );
    let flusher = Arc::clone(&state.flusher);
    metrics.add_reading(
        "portcullis_counter_flush_failures",
        "Counter flushes that failed",
        Kind::Counter,
        vec![],
        move || flusher.failures() as f64,
    );
    let flusher = Arc::clone(&state.flusher);
    metrics.add_reading(
        "portcullis_counter_flush_failing",
        "1 while counters cannot be written: limits hold in memory, a crash would forget them",
        Kind::Gauge,
        vec![],
        move || f64::from(u8::from(flusher.failing())),
    );
    let keeper = Arc::clone(&state.keeper);
    metrics.add_reading(
        "portcullis_changes_not_durable",
        "Revocations and their like that are in force but could not be written yet",
        Kind::Gauge,
        vec![],
        move || keeper.not_durable() as f64,
    );
}

/// A store that nodes share; names without numbers where it is this node's alone.
pub(crate) fn cluster(metrics: &Arc<Metrics>, keeper: &Arc<Keeper>, clock: &Clock) {
    for (name, help, kind, read) in OF_SHARED_STORE {
        let (keeper, clock) = (Arc::clone(keeper), clock.clone());
        metrics.add_listing(name, help, kind, &[], move || {
            let contact = keeper.contact().into_iter();
            contact
                .map(|contact| (Vec::new(), read(&keeper, contact, &clock)))
                .collect()
        });
    }
}

/// A number of a store that nodes share.
type OfSharedStore = (
    &'static str,
    &'static str,
    Kind,
    fn(&Keeper, &Contact, &Clock) -> f64,
);

const OF_SHARED_STORE: [OfSharedStore; 8] = [
    (
        "portcullis_shared_store_up",
        "1 when the shared store answered when it was last asked",
        Kind::Gauge,
        |_, contact, _| f64::from(u8::from(contact.told().answers.load(Ordering::Relaxed))),
    ),
    (
        "portcullis_shared_store_silence_seconds",
        "Since the shared store was last heard: so old may be what this node knows of changes on others",
        Kind::Gauge,
        |_, contact, clock| contact.silence(clock.now().mono).as_secs_f64(),
    ),
    (
        "portcullis_shared_store_failures",
        "Times that the shared store did not answer, or not with what can be used",
        Kind::Counter,
        |_, contact, _| count(&contact.told().failures),
    ),
    (
        "portcullis_shared_store_change",
        "The last change of the shared store that this node's copy holds",
        Kind::Gauge,
        |_, contact, _| count(&contact.told().change),
    ),
    (
        "portcullis_shared_store_change_in_force",
        "The last change of the shared store that is in force here",
        Kind::Gauge,
        |keeper, _, _| keeper.applied() as f64,
    ),
    (
        "portcullis_shared_store_changes_behind",
        "Changes that this node's copy holds and that are not in force here, since they do not fit its gateway.toml",
        Kind::Gauge,
        |keeper, contact, _| {
            let copied = contact.told().change.load(Ordering::Relaxed);
            copied.saturating_sub(keeper.applied()) as f64
        },
    ),
    (
        "portcullis_shared_store_nodes",
        "Nodes that share the store, this one included, and those that fell silent and have not left",
        Kind::Gauge,
        |keeper, _, _| keeper.peers().load(Ordering::Relaxed) as f64,
    ),
    (
        "portcullis_shared_store_nodes_silent",
        "Nodes of which the shared store has not heard for ten seconds",
        Kind::Gauge,
        |_, contact, _| contact.told().silent.load(Ordering::Relaxed) as f64,
    ),
];

/// Who is in and who is not, and how much waits. A series for each server that the file names for all tenants; all others are one.
pub(crate) fn upstreams(metrics: &Arc<Metrics>, backends: &Arc<Backends>, state: &State) {
    let servers = |read: fn(&ServerReport) -> f64| {
        let reports = reports(backends, state);
        move || of_servers(&reports(), |server, add| add("", read(server)))
    };
    let report = reports(backends, state);
    metrics.add_listing(
        "portcullis_upstream_server_state",
        "1 for the state that a server is in: up, ejected, probing (one request tries it) or down (its health checks fail)",
        Kind::Gauge,
        &["upstream", "server", "state"],
        move || {
            of_servers(&report(), |server, add| {
                for state in ["up", "ejected", "probing", "down"] {
                    add(state, f64::from(u8::from(server.state == state)));
                }
            })
        },
    );
    metrics.add_listing(
        "portcullis_upstream_server_requests_active",
        "Requests under way at a server",
        Kind::Gauge,
        &["upstream", "server"],
        servers(|server| server.in_flight as f64),
    );
    metrics.add_listing(
        "portcullis_upstream_server_ejections",
        "Times that a server was left out for a while after failures",
        Kind::Counter,
        &["upstream", "server"],
        servers(|server| server.ejections as f64),
    );
    for (name, help, kind, read) in OF_UPSTREAMS {
        let report = reports(backends, state);
        metrics.add_listing(name, help, kind, &["upstream"], move || {
            let reports = report().into_iter();
            reports
                .map(|report| (vec![report.upstream.clone()], read(&report) as f64))
                .collect()
        });
    }
}

/// A number of an upstream.
type OfUpstream = (&'static str, &'static str, Kind, fn(&UpstreamReport) -> u64);

const OF_UPSTREAMS: [OfUpstream; 4] = [
    (
        "portcullis_upstream_requests_queued",
        "Requests that wait since in_flight_max others are under way",
        Kind::Gauge,
        |report| report.queued,
    ),
    (
        "portcullis_upstream_queue_refusals",
        "Requests turned away by the queue, full or too slow",
        Kind::Counter,
        |report| report.queue_refusals,
    ),
    (
        "portcullis_upstream_retries",
        "Second tries, on another server",
        Kind::Counter,
        |report| report.retries,
    ),
    (
        "portcullis_upstream_retries_refused",
        "Second tries that the budget forbade",
        Kind::Counter,
        |report| report.retries_refused,
    ),
];

fn reports(
    backends: &Arc<Backends>,
    state: &State,
) -> impl Fn() -> Vec<UpstreamReport> + Send + Sync + use<> {
    let (backends, snapshot) = (Arc::clone(backends), Arc::clone(state.keeper.snapshot()));
    move || backends.report(&snapshot.load().config)
}

/// One number, or several told apart by a word more, of each server; those of single tenants added up.
fn of_servers(
    reports: &[UpstreamReport],
    read: impl Fn(&ServerReport, &mut dyn FnMut(&str, f64)),
) -> Vec<Listed> {
    let mut listed: Vec<Listed> = Vec::new();
    for report in reports {
        let begin = listed.len();
        for server in &report.servers {
            let name = if server.listed {
                &server.server
            } else {
                "(others)"
            };
            read(server, &mut |word, number| {
                let mut labels = vec![report.upstream.clone(), name.to_owned()];
                if !word.is_empty() {
                    labels.push(word.to_owned());
                }
                match listed[begin..]
                    .iter_mut()
                    .find(|(known, _)| *known == labels)
                {
                    Some((_, sum)) => *sum += number,
                    None => listed.push((labels, number)),
                }
            });
        }
    }
    listed
}

fn reloads(metrics: &Arc<Metrics>, reloader: &Arc<Reloader>) {
    let of = Arc::clone(reloader);
    metrics.add_reading(
        "portcullis_config_last_reload_successful",
        "1 when the last reload took effect",
        Kind::Gauge,
        vec![],
        move || f64::from(u8::from(of.last_successful())),
    );
    let of = Arc::clone(reloader);
    metrics.add_reading(
        "portcullis_config_last_reload_success_timestamp_seconds",
        "Unix time of the last reload that took effect",
        Kind::Gauge,
        vec![],
        move || of.last_success_unix_seconds() as f64,
    );
    for (result, read) in [
        ("success", Reloader::successes as fn(&Reloader) -> u64),
        ("failure", Reloader::failures),
    ] {
        let of = Arc::clone(reloader);
        let labels = vec![("result", String::from(result))];
        metrics.add_reading(
            "portcullis_config_reloads",
            "Reloads by result",
            Kind::Counter,
            labels,
            move || read(&of) as f64,
        );
    }
    let of = Arc::clone(reloader);
    metrics.add_reading(
        "portcullis_cert_expiry_timestamp_seconds",
        "Unix time at which the first certificate expires",
        Kind::Gauge,
        vec![],
        move || of.first_expiry_unix_seconds() as f64,
    );
}

fn count(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}
