//! What a data thread works with.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::access_log;
use crate::alerts::Alerts;
use crate::clock::Clock;
use crate::gate::Exposed;
use crate::gate::Gathering;
use crate::metrics::Metrics;
use crate::observed::Observed;
use crate::quota::Quota;
use crate::snapshot::Snapshot;
use crate::token::Tokens;
use crate::upstream::Pools;
use crate::usage::Usage;

use super::in_flight::InFlight;
use super::meters::Meters;
use super::request_id::RequestIds;

/// What one data thread works with. Only the snapshot, the counters and the metrics are shared with other threads.
#[derive(Debug)]
pub struct Worker {
    /// The view in force; a request is judged by one of them, taken when nothing more is waited for before that.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where the time comes from.
    pub clock: Clock,
    /// All counters of this node.
    pub quota: Arc<Quota>,
    /// What is known of access tokens.
    pub tokens: Arc<Tokens>,
    /// What each key does.
    pub usage: Arc<Usage>,
    /// Whom observed rules would have refused.
    pub observed: Arc<Observed>,
    /// This thread's connections to backends.
    pub pools: Pools,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// This thread's end of the access log.
    pub log: access_log::Sink,
    pub(super) alerts: Alerts,
    pub(super) burnt: Burnt,
    /// Keys of requests that wait for their turn.
    pub(super) gathering: Gathering,
    pub(super) in_flight: InFlight,
    pub(super) meters: Meters,
    pub(super) request_ids: RequestIds,
}

impl Worker {
    /// A data thread's tools.
    #[must_use]
    pub fn new(shared: Shared, pools: Pools, log: access_log::Sink) -> Worker {
        Worker {
            snapshot: shared.snapshot,
            clock: shared.clock,
            quota: shared.quota,
            tokens: shared.tokens,
            usage: shared.usage,
            observed: shared.observed,
            pools,
            meters: Meters::new(Arc::clone(&shared.metrics)),
            metrics: shared.metrics,
            log,
            alerts: shared.alerts,
            burnt: shared.burnt,
            gathering: Gathering::default(),
            in_flight: InFlight::default(),
            request_ids: RequestIds::default(),
        }
    }
}

/// What all data threads share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The view in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where the time comes from.
    pub clock: Clock,
    /// All counters.
    pub quota: Arc<Quota>,
    /// What is known of access tokens.
    pub tokens: Arc<Tokens>,
    /// What each key does.
    pub usage: Arc<Usage>,
    /// Whom observed rules would have refused.
    pub observed: Arc<Observed>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// What operators should know at once.
    pub alerts: Alerts,
    /// Takes the keys that came in clear.
    pub burnt: Burnt,
}

/// Where keys go that came in clear and are to be revoked, each with the client's address. Bounded: what does not fit is only logged.
pub type Burnt = mpsc::Sender<(Exposed, IpAddr)>;
