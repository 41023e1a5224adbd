//! What outlives a restart, opened: the store and its one writer, the counters, this node's place among others.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crate::alerts::Alerts;
use crate::clock::Clock;
use crate::config::Config;
use crate::handler::Burnt;
use crate::handler::Shared;
use crate::metrics::Metrics;
use crate::observed::Observed;
use crate::quota::Quota;
use crate::server::cluster;
use crate::server::cluster::Membership;
use crate::server::error::StartError;
use crate::server::flush::Flusher;
use crate::server::telling;
use crate::snapshot::build;
use crate::snapshot::change::Keeper;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::counters::Counters;
use crate::store::history::set_aside_of_another;
use crate::token::Tokens;
use crate::usage::Usage;

/// What outlives a restart, and its one writer.
#[derive(Debug)]
pub(super) struct State {
    pub(super) keeper: Arc<Keeper>,
    pub(super) quota: Arc<Quota>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) usage: Arc<Usage>,
    pub(super) observed: Arc<Observed>,
    pub(super) flusher: Arc<Flusher>,
    /// This node's place among those that share the store.
    pub(super) member: Option<Membership>,
}

impl State {
    pub(super) fn open(config: &Arc<Config>, clock: &Clock) -> Result<State, StartError> {
        let mut store = open_store(config)?;
        let now = clock.now();
        let joined = cluster::join(&mut store, &config.store, now)?;
        let (contact, member) = joined.unzip();
        if config.store.shared {
            let aside = set_aside_of_another(&config.store.path, &store.node_id()?);
            aside.map_err(|error| StoreError::from_io(&config.store.path, error))?;
        }
        let (counters, saved) = Counters::open(&config.store.path, now)?;
        let quota = Arc::new(Quota::new());
        let usage = Arc::new(Usage::new(&quota));
        quota.restore(saved, now);
        let flusher = Arc::new(Flusher::new(
            counters,
            Arc::clone(&quota),
            Arc::clone(&usage),
        ));
        let redis = &config.store.redis;
        let told = (config.store.shared && redis.share_usage).then_some(redis);
        let last_used = Box::new(telling::last_used(told, &flusher, clock));
        let (keeper, conflicts) =
            Keeper::start_shared(store, Arc::clone(config), last_used, contact)?;
        if !conflicts.is_empty() {
            tracing::error!("{}", build::conflict_text(&conflicts));
        }
        Ok(State {
            member,
            keeper: Arc::new(keeper),
            quota,
            tokens: Arc::new(Tokens::new()),
            usage,
            observed: Arc::new(Observed::new()),
            flusher,
        })
    }

    pub(super) fn shared(
        &self,
        clock: &Clock,
        metrics: &Arc<Metrics>,
        burnt: Burnt,
        alerts: Alerts,
    ) -> Shared {
        Shared {
            burnt,
            alerts,
            snapshot: Arc::clone(self.keeper.snapshot()),
            clock: clock.clone(),
            quota: Arc::clone(&self.quota),
            tokens: Arc::clone(&self.tokens),
            usage: Arc::clone(&self.usage),
            observed: Arc::clone(&self.observed),
            metrics: Arc::clone(metrics),
        }
    }
}

/// Opens the store. A command (`keys create` beside a start) holds it for milliseconds and is waited for; a gateway, which
/// answers on its admin socket, is not.
fn open_store(config: &Config) -> Result<Store, StoreError> {
    let socket = &config.listen.admin_socket;
    for attempt in 0..STORE_TRIES {
        match Store::open_for(&config.store) {
            Err(error) if error.is_in_use() && UnixStream::connect(socket).is_err() => {
                if attempt == 0 {
                    tracing::info!("{error}; waiting for it");
                }
                std::thread::sleep(STORE_PAUSE);
            }
            opened => return opened,
        }
    }
    Store::open_for(&config.store)
}

/// How often, and how long apart, a store is tried that a command holds at this moment.
const STORE_TRIES: u32 = 30;

const STORE_PAUSE: Duration = Duration::from_millis(100);
