//! Assembly: the only room that knows all parts. Starts them in order, stops them in the opposite order.

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
mod state;
mod telling;
mod unusual;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

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
use crate::edge::tls::Certificates;
use crate::metrics::Metrics;
use crate::pem::TlsProblem;
use crate::server::alerting::Alerting;
use crate::server::cluster::Tending;
use crate::server::flush::Flusher;
use crate::server::reload::Reloader;
use crate::server::state::State;
use crate::server::telling::Telling;
use crate::server::workers::DataThreads;
use crate::shutdown::Shutdown;
use crate::snapshot::change::Keeper;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::audit::Actor;
use crate::upstream;
use crate::upstream::Backends;

pub use error::StartError;
pub use process::check;
pub use process::demo;
pub use process::protect_memory;
pub use process::run;

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
    telling: Option<Telling>,
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
        let telling = Telling::start(&state.keeper, &state.flusher, &clock)?;
        let tending = Tending::start(&state.keeper, &clock, state.member.take())?;
        Ok(Gateway {
            tending,
            telling,
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
        if let Some(telling) = self.telling.take() {
            telling.stop();
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
