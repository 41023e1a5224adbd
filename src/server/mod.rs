//! Assembly: the only room that knows all parts. Starts them in order, stops them in the opposite order.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;

use crate::access_log;
use crate::alerts::Alerts;
use crate::clock::Clock;
use crate::clock::Wall;
use crate::config;
use crate::config::AccessLog;
use crate::config::Config;
use crate::config::Loaded;
use crate::descriptors;
use crate::edge;
use crate::edge::counters::ConnectionCounters;
use crate::edge::counters::Heartbeat;
use crate::edge::listener::Inherited;
use crate::edge::listener::WorkerSockets;
use crate::edge::tls::Certificates;
use crate::handler::Burnt;
use crate::handler::Shared;
use crate::handler::Worker;
use crate::handler::in_flight::end_revoked;
use crate::metrics::Metrics;
use crate::model::key::KeyId;
use crate::observed::Observed;
use crate::pem::TlsProblem;
use crate::quota::Quota;
use crate::shutdown::Shutdown;
use crate::shutdown::Watch;
use crate::snapshot::build;
use crate::snapshot::change::Keeper;
use crate::store::Outcome;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::audit::Actor;
use crate::store::counters::Counters;
use crate::token::Tokens;
use crate::upstream;
use crate::upstream::Backends;
use crate::upstream::Pools;
use crate::usage::Usage;

use alerting::Alerting;
use cluster::Membership;
use cluster::Tending;
pub use error::StartError;
use flush::Flusher;
pub use process::check;
pub use process::demo;
pub use process::protect_memory;
pub use process::run;
use reload::Reloader;

mod alerting;
mod burnt;
mod cluster;
mod control;
mod demo;
mod error;
mod fetch;
mod flush;
mod introspect;
mod jwks;
mod logging;
mod process;
mod readings;
mod reload;

/// A running gateway: data threads, a control runtime, and the store it alone may write.
#[derive(Debug)]
pub struct Gateway {
    keeper: Arc<Keeper>,
    clock: Clock,
    reloader: Arc<Reloader>,
    shutdown: Arc<Shutdown>,
    addresses: Addresses,
    admin_socket: PathBuf,
    workers: Vec<JoinHandle<()>>,
    control: tokio::runtime::Runtime,
    flusher: Arc<Flusher>,
    connections: Arc<ConnectionCounters>,
    log: Option<access_log::Writer>,
    tending: Option<Tending>,
}

/// What outlives a restart, and its one writer.
#[derive(Debug)]
struct State {
    keeper: Arc<Keeper>,
    quota: Arc<Quota>,
    tokens: Arc<Tokens>,
    usage: Arc<Usage>,
    observed: Arc<Observed>,
    flusher: Arc<Flusher>,
    /// This node's place among those that share the store.
    member: Option<Membership>,
}

impl State {
    fn open(config: &Arc<Config>, clock: &Clock) -> Result<State, StartError> {
        let mut store = open_store(config)?;
        let now = clock.now();
        let joined = cluster::join(&mut store, &config.store, now)?;
        let (contact, member) = joined.unzip();
        let (counters, saved) = Counters::open(&config.store.path, now)?;
        let quota = Arc::new(Quota::new());
        let usage = Arc::new(Usage::new());
        quota.restore(saved, now);
        let flusher = Arc::new(Flusher::new(
            counters,
            Arc::clone(&quota),
            Arc::clone(&usage),
        ));
        let (asked, time) = (Arc::clone(&flusher), clock.clone());
        let last_used = Box::new(move |keys: Option<&[KeyId]>| asked.last_used(keys, time.now()));
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

    fn shared(
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

/// How often, and how long apart, a store is tried that a command holds at this moment.
const STORE_TRIES: u32 = 30;
const STORE_PAUSE: Duration = Duration::from_millis(100);

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

/// What every data thread is given.
#[derive(Clone, Debug)]
struct DataThreads {
    shared: Shared,
    tls: Arc<ArcSwap<rustls::ServerConfig>>,
    connections: Arc<ConnectionCounters>,
    backends: Arc<Backends>,
    /// Tells when requests in flight may have to end.
    endings: watch::Receiver<()>,
    watch: Watch,
}

impl DataThreads {
    fn start(
        &self,
        sockets: Vec<WorkerSockets>,
        log: Option<&access_log::Writer>,
    ) -> Result<Vec<JoinHandle<()>>, StartError> {
        let mut threads = Vec::new();
        for (index, sockets) in sockets.into_iter().enumerate() {
            let dropped = Arc::clone(&self.shared.metrics.log_lines_dropped);
            let sink = log.map_or_else(access_log::Sink::off, |log| log.sink(dropped));
            let own = self.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(thread.spawn(move || own.work(sink, sockets))?);
        }
        Ok(threads)
    }

    /// One data thread, from start to drained.
    fn work(self, log: access_log::Sink, sockets: WorkerSockets) {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                self.connections.worker_failed();
                return tracing::error!(%error, "a worker could not start");
            }
        };
        let worker = Rc::new(Worker::new(self.shared, Pools::new(self.backends), log));
        let tasks = LocalSet::new();
        tasks.spawn_local(housekeeping(Rc::clone(&worker)));
        tasks.spawn_local(end_revoked(Rc::clone(&worker), self.endings));
        let connections = Arc::clone(&self.connections);
        let serving = edge::run_worker(worker, sockets, self.tls, self.connections, self.watch);
        if let Err(error) = tasks.block_on(&runtime, serving) {
            connections.worker_failed();
            tracing::error!(%error, "a worker could not serve its sockets");
        }
    }
}

/// Log lines leave the worker at least this often.
const LOG_INTERVAL: Duration = Duration::from_millis(200);

/// Hands gathered log lines over and closes idle backend connections.
async fn housekeeping(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(LOG_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = 0u32;
    loop {
        ticks.tick().await;
        worker.log.hand_over();
        count = count.wrapping_add(1);
        if count.is_multiple_of(5) {
            worker.pools.sweep();
        }
    }
}

/// Where a gateway can be reached, ports resolved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) https: Vec<SocketAddr>,
    pub(crate) http: Vec<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
}

impl Gateway {
    /// Reads the file, loads certificates, opens the store, binds, and serves. On an error nothing stays open.
    ///
    /// # Errors
    /// What is wrong and the way out, with an exit code (DESIGN section 9).
    pub fn start(config_path: &Path, clock: Clock) -> Result<Gateway, StartError> {
        Gateway::start_on(config_path, clock, Inherited::default())
    }

    /// The same, on sockets that the service manager handed over.
    pub(crate) fn start_on(
        config_path: &Path,
        clock: Clock,
        inherited: Inherited,
    ) -> Result<Gateway, StartError> {
        let mut loaded = config::load(config_path)?;
        if !loaded.warnings.is_empty() {
            tracing::warn!("{}", loaded.warnings);
        }
        let certificates = load_tls(&mut loaded, clock.now().wall)?;
        let receiver = alerting::receiver_of(&loaded.config).map_err(StartError::config)?;
        jwks::check_files(&loaded.config)?;
        let config = Arc::new(loaded.config);
        let mut state = State::open(&config, &clock)?;
        cluster::share_limits(&state.quota, &state.keeper, &clock)?;
        let bound = edge::listener::bind(&config.listen, worker_count(&config), inherited)?;
        let control = control::runtime()?;
        let admin = control::bind_admin(&control, &config.listen, bound.admin)?;
        let log = start_log(&config)?;
        let shutdown = Arc::new(Shutdown::new());
        let metrics = Arc::new(Metrics::default());
        let connections = Arc::new(ConnectionCounters::default());
        let reloader = Arc::new(Reloader::new(
            config_path,
            &clock,
            &state.keeper,
            certificates,
            receiver,
        ));
        let backends = Arc::new(Backends::default());
        readings::upstreams(&metrics, &backends, &state);
        let (alerts, raised) = Alerts::queue();
        (state.flusher).watch_with(alerts.clone(), Arc::clone(state.keeper.snapshot()));
        let alerting = Alerting {
            alerts: alerts.clone(),
            receiver: Arc::clone(reloader.receiver()),
            keeper: Arc::clone(&state.keeper),
            quota: Arc::clone(&state.quota),
            flusher: Arc::clone(&state.flusher),
            reloader: Arc::clone(&reloader),
            clock: clock.clone(),
            counts: Arc::default(),
            store_lost_at: Arc::default(),
        };
        readings::register(&metrics, &connections, &state, &reloader);
        readings::cluster(&metrics, &state.keeper, &clock);
        readings::alerts(&metrics, &alerting);
        let (to_send, sending) = mpsc::channel(alerting::WAITING_MAX);
        control.spawn(alerting::watch(alerting.clone()));
        control.spawn(alerting::tell(alerting.clone(), raised, to_send));
        control.spawn(alerting::deliver(alerting, sending));
        let addresses = Addresses {
            https: bound.https,
            http: bound.http,
            admin: admin.address(),
        };
        let (burnt, to_revoke) = mpsc::channel(burnt::WAITING_MAX);
        control.spawn(burnt::revoke(
            to_revoke,
            Arc::clone(&state.keeper),
            clock.clone(),
        ));
        control.spawn(introspect::answer_all(Arc::clone(&state.tokens)));
        control.spawn(jwks::keep_fetched(
            Arc::clone(&state.tokens),
            Arc::clone(state.keeper.snapshot()),
            clock.clone(),
        ));
        let data = DataThreads {
            shared: state.shared(&clock, &metrics, burnt, alerts.clone()),
            tls: Arc::clone(reloader.tls()),
            connections: Arc::clone(&connections),
            backends: Arc::clone(&backends),
            endings: state.keeper.endings(),
            watch: shutdown.watch(),
        };
        let workers = data.start(bound.workers, log.as_ref())?;
        control::spawn(
            &control,
            admin,
            control::Parts {
                keeper: Arc::clone(&state.keeper),
                quota: Arc::clone(&state.quota),
                observed: Arc::clone(&state.observed),
                clock: clock.clone(),
                reloader: Arc::clone(&reloader),
                flusher: Arc::clone(&state.flusher),
                backends,
                metrics,
                alerts,
                addresses: addresses.clone(),
                watch: shutdown.watch(),
                started: clock.now(),
            },
        );
        let tending = Tending::start(&state.keeper, &clock, state.member.take())?;
        Ok(Gateway {
            tending,
            keeper: state.keeper,
            clock,
            reloader,
            shutdown,
            addresses,
            admin_socket: config.listen.admin_socket.clone(),
            workers,
            control,
            flusher: state.flusher,
            connections,
            log,
        })
    }

    /// Tells of a limit of open files, in force now, that lets in fewer clients than the file does; `None` is any number.
    pub(crate) fn warn_of_files(&self, limit: Option<u64>) {
        let Some(limit) = limit else {
            return;
        };
        // Each client may need one more towards its backend.
        let room = descriptors::for_clients(limit) / 2;
        let total_max = self.keeper.snapshot().load().config.connections.total_max;
        if room < total_max as u64 {
            tracing::warn!(
                "connections.total_max is {total_max}, but the limit of {limit} open files has room for {room} clients; raise LimitNOFILE= (ulimit -n), or lower connections.total_max"
            );
        }
    }

    /// Addresses of the TLS listeners.
    #[must_use]
    pub fn https(&self) -> Vec<SocketAddr> {
        self.addresses.https.clone()
    }

    /// Addresses of the listeners that refuse plain HTTP.
    #[must_use]
    pub fn http(&self) -> Vec<SocketAddr> {
        self.addresses.http.clone()
    }

    /// Address of health and metrics.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.addresses.admin
    }

    /// Carries out an administrative act; it is in force when this returns.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn execute(&self, verb: Verb) -> Result<Outcome, VerbError> {
        self.keeper.execute(&verb, self.clock.now().wall)
    }

    /// Reads gateway.toml and the certificates again; all of it comes into force, or nothing.
    ///
    /// # Errors
    /// Why nothing changed.
    pub fn reload(&self) -> Result<String, String> {
        self.reloader.reload(&Actor::gateway("SIGHUP"))
    }

    /// Drains: no new connections, requests in flight end or are cut at `server.drain_timeout`; then counters are written.
    pub fn stop(mut self) {
        self.drain();
        self.finish();
    }

    /// Is no longer ready; gives how long to wait before the drain.
    pub(crate) fn leave(&self) -> Duration {
        self.shutdown.leave();
        self.keeper.snapshot().load().config.server.drain_delay
    }

    /// Begins the drain and returns at once.
    pub(crate) fn drain(&self) {
        let config = &self.keeper.snapshot().load().config;
        self.shutdown.terminate(config.server.drain_timeout);
    }

    /// Waits for the data threads, then stops everything behind them.
    pub(crate) fn finish(&mut self) {
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a worker thread ended by a panic");
            }
        }
        let now = self.clock.now();
        self.flusher.flush(now);
        let left = self.keeper.retry_unwritten(now.wall);
        if left > 0 {
            tracing::error!(
                changes = left,
                "the store could not be written to the last: what was told to be in force, not durable, is undone by the next start; do it again"
            );
        }
        if let Some(shared) = self.flusher.quota().shared() {
            shared.give_back();
        }
        if let Some(tending) = self.tending.take() {
            tending.stop();
        }
        let _ = std::fs::remove_file(&self.admin_socket);
        if let Some(log) = self.log.take() {
            log.stop();
        }
    }

    pub(crate) fn shutdown(&self) -> &Arc<Shutdown> {
        &self.shutdown
    }

    pub(crate) fn control(&self) -> &tokio::runtime::Runtime {
        &self.control
    }

    pub(crate) fn heartbeat(&self) -> Heartbeat {
        Heartbeat::new(Arc::clone(&self.connections))
    }

    pub(crate) fn reopen_logs(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
    }
}

/// Reads every file that TLS needs, of both sides. All problems at once.
fn load_tls(loaded: &mut Loaded, now: Wall) -> Result<Certificates, Vec<TlsProblem>> {
    let certificates = Certificates::load(&loaded.config.tls, now);
    let problems = upstream::tls::prepare(&mut loaded.config, &loaded.places);
    match certificates {
        Ok(certificates) if problems.is_empty() => Ok(certificates),
        Ok(_) => Err(problems),
        Err(mut all) => {
            all.extend(problems);
            Err(all)
        }
    }
}

fn worker_count(config: &Config) -> usize {
    match config.server.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

fn start_log(config: &Config) -> Result<Option<access_log::Writer>, StartError> {
    let target = match &config.log.access {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => access_log::Target::Stdout,
        AccessLog::File(path) => access_log::Target::File(path.clone()),
    };
    let writer = access_log::Writer::start(target, config.log.queue_bytes_max)
        .map_err(|error| log_error(config, &error))?;
    Ok(Some(writer))
}

/// What keeps the access log from being written, and the way out.
fn log_error(config: &Config, error: &io::Error) -> StartError {
    let path = match &config.log.access {
        AccessLog::File(path) => path.display().to_string(),
        AccessLog::Stdout | AccessLog::Off => "standard output".to_owned(),
    };
    let text = format!(
        "log.access: {path}: {error}; the directory has to exist, and this user has to be allowed to write there"
    );
    StartError::of_path(text, error)
}
