//! The control runtime: admin listeners, counter flushes, file watching. No request waits for anything here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::time::MissedTickBehavior;

use crate::admin;
use crate::alerts::Alerts;
use crate::clock::Clock;
use crate::clock::Now;
use crate::config::Listen;
use crate::metrics::Metrics;
use crate::observed::Observed;
use crate::quota::Quota;
use crate::shutdown::State;
use crate::shutdown::Watch;
use crate::snapshot::change::Keeper;
use crate::upstream::Backends;
use crate::upstream::UpstreamReport;
use crate::upstream::check::check_servers;

use super::Addresses;
use super::error::StartError;
use super::flush::Flusher;
use super::reload::Reloader;

/// How often files are looked at; a change is taken once two looks agree.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// The admin listeners, bound before anything serves.
#[derive(Debug)]
pub(crate) struct AdminListeners {
    tcp: Option<TcpListener>,
    socket: UnixListener,
}

impl AdminListeners {
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.tcp
            .as_ref()
            .and_then(|listener| listener.local_addr().ok())
    }
}

/// How often counters whose windows are over are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// What the control side works with.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) quota: Arc<Quota>,
    pub(crate) observed: Arc<Observed>,
    pub(crate) clock: Clock,
    pub(crate) reloader: Arc<Reloader>,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) backends: Arc<Backends>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) alerts: Alerts,
    pub(crate) addresses: Addresses,
    pub(crate) watch: Watch,
    pub(crate) started: Now,
}

pub(crate) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
}

/// Binds the admin listeners; a TCP socket that the service manager handed over is used as it is.
pub(crate) fn bind_admin(
    runtime: &Runtime,
    listen: &Listen,
    inherited: Option<std::net::TcpListener>,
) -> Result<AdminListeners, StartError> {
    let _inside = runtime.enter();
    let tcp = inherited.map(TcpListener::from_std).transpose()?;
    let socket = admin::bind_socket(&listen.admin_socket).map_err(|error| {
        let path = listen.admin_socket.display();
        let text = format!("listen.admin_socket: cannot listen on {path}: {error}");
        StartError::of_path(text, &error)
    })?;
    Ok(AdminListeners { tcp, socket })
}

/// Starts everything of the control side; it ends with the runtime.
pub(crate) fn spawn(runtime: &Runtime, listeners: AdminListeners, parts: Parts) {
    let admin = Arc::new(admin_handles(&parts));
    runtime.spawn(admin::serve_socket(listeners.socket, Arc::clone(&admin)));
    if let Some(tcp) = listeners.tcp {
        runtime.spawn(admin::serve_tcp(tcp, admin));
    }
    runtime.spawn(flush_counters(parts.clone()));
    runtime.spawn(flush_when_asked(parts.clone()));
    let keeper = Arc::clone(&parts.keeper);
    let view = move || keeper.snapshot().load_full();
    runtime.spawn(check_servers(Arc::clone(&parts.backends), view));
    runtime.spawn(watch_files(parts));
}

fn admin_handles(parts: &Parts) -> admin::Admin {
    let reloader = Arc::clone(&parts.reloader);
    let status = parts.clone();
    let overview = parts.clone();
    let metrics = Arc::clone(&parts.metrics);
    let watch = parts.watch.clone();
    let upstreams = parts.clone();
    admin::Admin {
        keeper: Arc::clone(&parts.keeper),
        quota: Arc::clone(&parts.quota),
        observed: Arc::clone(&parts.observed),
        started: parts.started.wall,
        store: parts.keeper.snapshot().load().config.store.path.clone(),
        flush: {
            let (flusher, clock) = (Arc::clone(&parts.flusher), parts.clock.clone());
            Arc::new(move || flusher.flush(clock.now()))
        },
        clock: parts.clock.clone(),
        reload: Arc::new(move |actor| reloader.reload(actor)),
        status: Arc::new(move || status_json(&status)),
        upstreams: Arc::new(move || upstreams_report(&upstreams)),
        overview: Arc::new(move || overview_json(&overview)),
        sessions: Arc::default(),
        alerts: parts.alerts.clone(),
        unwritten: Arc::clone(parts.flusher.unwritten()),
        address: parts.addresses.admin,
        metrics: Arc::new(move || metrics.render()),
        ready: Arc::new(move || watch.state() == State::Running),
    }
}

fn status_json(parts: &Parts) -> serde_json::Value {
    let snapshot = parts.keeper.snapshot().load_full();
    let texts = |addresses: &[SocketAddr]| {
        addresses
            .iter()
            .map(SocketAddr::to_string)
            .collect::<Vec<_>>()
    };
    serde_json::json!({
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": parts.clock.now().mono.since(parts.started.mono).as_secs(),
        "state": if parts.watch.state() == State::Running { "running" } else { "draining" },
        "config": parts.reloader.path(),
        "generation": snapshot.generation,
        "last_reload_successful": parts.reloader.last_successful(),
        "revision": snapshot.revision,
        "keys": snapshot.keys.len(),
        "tenants": snapshot.tenants.entries.len(),
        "routes": snapshot.config.routes.len(),
        "requests_in_flight": parts.metrics.requests_in_flight(),
        "upstreams": upstreams_report(parts),
        "https": texts(&parts.addresses.https),
        "http": texts(&parts.addresses.http),
        "admin": parts.addresses.admin.map(|address| address.to_string()),
        "shared_store": shared_json(&parts.keeper, parts.clock.now()),
    })
}

/// How this node stands among those that share its store; nothing where it is alone.
fn shared_json(keeper: &Keeper, now: Now) -> serde_json::Value {
    let Some(settings) = keeper.shared() else {
        return serde_json::Value::Null;
    };
    serde_json::json!({
        "node": keeper.node_id(),
        "servers": settings.servers,
        "heard": !keeper.snapshot().load().may_miss_keys(now.mono),
        "change_in_force": keeper.applied(),
        "nodes": keeper.peers().load(Ordering::Relaxed),
    })
}

fn upstreams_report(parts: &Parts) -> Vec<UpstreamReport> {
    let config = Arc::clone(&parts.keeper.snapshot().load().config);
    parts.backends.report(&config)
}

/// What a page that is looked at shows of all traffic; it makes rates of two answers.
fn overview_json(parts: &Parts) -> serde_json::Value {
    let snapshot = parts.keeper.snapshot().load();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let sums = parts.metrics.sums();
    serde_json::json!({
        "at_unix_millis": parts.clock.now().wall.0 / 1_000,
        "uptime_seconds": parts.clock.now().mono.since(parts.started.mono).as_secs(),
        "state": if parts.watch.state() == State::Running { "running" } else { "draining" },
        "requests": sums.requests,
        "status_classes": sums.classes,
        "sent_bytes": sums.sent_bytes,
        "latency_bounds_seconds": sums.bounds,
        "latency": sums.latency,
        "refusals": sums.refusals,
        "requests_in_flight": parts.metrics.requests_in_flight(),
        "tunnels_open": count(&parts.metrics.tunnels_open),
        "keys": snapshot.keys.len(),
        "tenants": snapshot.tenants.entries.len(),
        "revision": snapshot.revision,
        "counters_failing": parts.flusher.failing(),
        "changes_not_durable": parts.keeper.not_durable(),
        "last_reload_successful": parts.reloader.last_successful(),
        "certificate_expires_unix_seconds": parts.reloader.first_expiry_unix_seconds(),
    })
}

/// Has counters written as soon as a request waits for it (`store.durability = "strict"`); never ends.
async fn flush_when_asked(parts: Parts) {
    loop {
        parts.flusher.saves().asked().await;
        let strict = parts.keeper.snapshot().load().config.store.strict;
        let (flusher, now) = (Arc::clone(&parts.flusher), parts.clock.now());
        let work = move || {
            flusher.sync(strict);
            flusher.flush(now);
        };
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

async fn flush_counters(parts: Parts) {
    let mut swept = parts.clock.now().mono;
    let mut not_durable = 0;
    // At the start too: a gateway that is restarted each day has its log shortened all the same.
    let mut prune_at = swept;
    loop {
        let store = parts.keeper.snapshot().load().config.store.clone();
        tokio::time::sleep(store.flush_interval).await;
        let (flusher, keeper) = (Arc::clone(&parts.flusher), Arc::clone(&parts.keeper));
        let now = parts.clock.now();
        let sweep = now.mono.since(swept) >= SWEEP_INTERVAL;
        if sweep {
            swept = now.mono;
            parts.backends.sweep();
        }
        let prune = now.mono >= prune_at;
        let work = move || {
            if sweep {
                flusher.sweep(now);
            }
            flusher.sync(store.strict);
            flusher.flush(now);
            let left = keeper.retry_unwritten(now.wall);
            (left, prune && keeper.prune_audit(now.wall))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let (left, more) = done.unwrap_or((not_durable, false));
        if prune && !more {
            prune_at = now.mono.plus(PRUNE_INTERVAL);
        }
        if left < not_durable {
            tracing::warn!(
                left,
                "changes that were in force but not durable are written now"
            );
        }
        not_durable = left;
    }
}

/// How often old lines of the audit log are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3_600);

async fn watch_files(parts: Parts) {
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        ticks.tick().await;
        let reloader = Arc::clone(&parts.reloader);
        let mut looked = seen.take();
        let look = tokio::task::spawn_blocking(move || {
            reloader.reload_if_changed(&mut looked);
            looked
        });
        seen = look.await.unwrap_or(None);
    }
}
