//! What all workers know of the backends together: who is in, how much is under way, and what there is to tell of it.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use serde::Serialize;
use tokio::time::Instant;

use crate::config::Config;
use crate::config::Upstream;
use crate::config::UpstreamServer;
use crate::model::tenant::TenantId;
use crate::upstream::budget::Free;
use crate::upstream::health::Health;
use crate::upstream::health::Standing;
use crate::upstream::health::lock;
use crate::upstream::queue::Gate;

/// Shared by all workers and the control side. Workers look in here once for each server, and when something has failed.
#[derive(Debug)]
pub struct Backends {
    begun: Instant,
    servers: Mutex<HashMap<(String, UpstreamServer), Arc<Health>>>,
    loads: Mutex<HashMap<LoadOf, Arc<Load>>>,
    /// Held while a server is taken out, so that two at once do not take out more than may be.
    ejecting: Mutex<()>,
}

/// An upstream, or one tenant's own place behind it.
type LoadOf = (String, Option<TenantId>);

/// What the requests to one upstream share over all workers.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) gate: Arc<Gate>,
    pub(super) free: Free,
    /// Second tries.
    pub(super) retries: AtomicU64,
    /// Second tries that the budget forbade.
    pub(super) retries_refused: AtomicU64,
}

/// What there is to tell of one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpstreamReport {
    /// Its name.
    pub upstream: String,
    /// Requests under way at all of its servers.
    pub in_flight: u64,
    /// Requests that wait for one of them to end.
    pub queued: u64,
    /// Requests turned away by the queue since the start.
    pub queue_refusals: u64,
    /// Second tries since the start.
    pub retries: u64,
    /// Second tries that the budget forbade.
    pub retries_refused: u64,
    /// Its own servers in the order of the file, then those of single tenants and such as the file names no more.
    pub servers: Vec<ServerReport>,
}

/// What there is to tell of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerReport {
    /// `host:port`.
    pub server: String,
    /// `up`, `ejected`, `probing` or `down`.
    pub state: &'static str,
    /// Of an ejected one: seconds until a request may try it.
    pub retry_in_seconds: Option<u64>,
    /// Requests under way.
    pub in_flight: u64,
    /// Times it was ejected since the start.
    pub ejections: u64,
    /// Whether the file names it among the upstream's `servers`.
    pub listed: bool,
}

impl Default for Backends {
    fn default() -> Backends {
        Backends {
            begun: Instant::now(),
            servers: Mutex::default(),
            loads: Mutex::default(),
            ejecting: Mutex::default(),
        }
    }
}

impl Backends {
    /// Microseconds since the process began, 2 at the least.
    pub(super) fn now(&self) -> u64 {
        let since = Instant::now().saturating_duration_since(self.begun);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX).max(2)
    }

    /// One server of this upstream.
    pub(super) fn health(&self, upstream: &str, server: &UpstreamServer) -> Arc<Health> {
        let mut servers = lock(&self.servers);
        let known = servers.entry((upstream.to_owned(), server.clone()));
        let new = || Arc::new(Health::new(upstream, &server.to_string()));
        Arc::clone(known.or_insert_with(new))
    }

    /// What requests to this upstream share, or to this tenant's own place behind it.
    pub(super) fn load(&self, upstream: &str, tenant: Option<&TenantId>) -> Arc<Load> {
        let mut loads = lock(&self.loads);
        let known = loads.entry((upstream.to_owned(), tenant.cloned()));
        Arc::clone(known.or_default())
    }

    pub(super) fn ejecting(&self) -> MutexGuard<'_, ()> {
        lock(&self.ejecting)
    }

    /// Forgets what nobody uses any more; to be called now and then.
    pub fn sweep(&self) {
        lock(&self.servers).retain(|_, health| Arc::strong_count(health) > 1);
        lock(&self.loads).retain(|_, load| Arc::strong_count(load) > 1);
    }

    /// Every upstream of this configuration.
    #[must_use]
    pub fn report(&self, config: &Config) -> Vec<UpstreamReport> {
        let upstreams = config.upstreams.iter();
        upstreams.map(|upstream| self.report_of(upstream)).collect()
    }

    fn report_of(&self, upstream: &Upstream) -> UpstreamReport {
        let now = self.now();
        let servers = lock(&self.servers);
        let tell = |server: &UpstreamServer, listed| {
            let key = (upstream.name.clone(), server.clone());
            tell(server, servers.get(&key), now, listed)
        };
        let mut told: Vec<ServerReport> = (upstream.servers.iter())
            .map(|server| tell(server, true))
            .collect();
        let own: HashSet<&UpstreamServer> = upstream.servers.iter().collect();
        let mut others: Vec<&UpstreamServer> = (servers.keys())
            .filter(|(name, server)| *name == upstream.name && !own.contains(server))
            .map(|(_, server)| server)
            .collect();
        others.sort_by_key(|server| (&server.host, server.port));
        told.extend(others.into_iter().map(|server| tell(server, false)));
        let loads = lock(&self.loads);
        let loads = loads.iter().filter(|((name, _), _)| *name == upstream.name);
        let loads: Vec<&Arc<Load>> = loads.map(|(_, load)| load).collect();
        let sum = |read: fn(&Load) -> u64| loads.iter().map(|load| read(load)).sum();
        UpstreamReport {
            upstream: upstream.name.clone(),
            in_flight: told.iter().map(|server| server.in_flight).sum(),
            queued: sum(|load| load.gate.waiting() as u64),
            queue_refusals: sum(|load| load.gate.turned_away()),
            retries: sum(|load| load.retries.load(Ordering::Relaxed)),
            retries_refused: sum(|load| load.retries_refused.load(Ordering::Relaxed)),
            servers: told,
        }
    }
}

fn tell(
    server: &UpstreamServer,
    health: Option<&Arc<Health>>,
    now: u64,
    listed: bool,
) -> ServerReport {
    let standing = health.map_or(Standing::In, |health| health.standing(now));
    ServerReport {
        server: server.to_string(),
        state: standing.word(),
        retry_in_seconds: match standing {
            Standing::Ejected(left) => Some(left.div_ceil(1_000_000)),
            Standing::In | Standing::Probing | Standing::Down => None,
        },
        in_flight: health.map_or(0, |health| health.in_flight() as u64),
        ejections: health.map_or(0, |health| health.ejections()),
        listed,
    }
}
