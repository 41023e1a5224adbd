//! The data threads: one for each core, started with what they share.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::access_log;
use crate::edge;
use crate::edge::counters::ConnectionCounters;
use crate::edge::listener::WorkerSockets;
use crate::handler::Shared;
use crate::handler::Worker;
use crate::handler::in_flight::end_revoked;
use crate::server::error::StartError;
use crate::shutdown::Watch;
use crate::upstream::Backends;
use crate::upstream::Pools;

/// What every data thread is given.
#[derive(Clone, Debug)]
pub(super) struct DataThreads {
    pub(super) shared: Shared,
    pub(super) tls: Arc<ArcSwap<rustls::ServerConfig>>,
    pub(super) connections: Arc<ConnectionCounters>,
    pub(super) backends: Arc<Backends>,
    /// Tells when requests in flight may have to end.
    pub(super) endings: watch::Receiver<()>,
    pub(super) watch: Watch,
}

impl DataThreads {
    pub(super) fn start(
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
            .build_local(LocalOptions::default())
        {
            Ok(runtime) => runtime,
            Err(error) => {
                self.connections.worker_failed();
                return tracing::error!(%error, "a worker could not start");
            }
        };
        let worker = Rc::new(Worker::new(self.shared, Pools::new(self.backends), log));
        runtime.spawn_local(housekeeping(Rc::clone(&worker)));
        runtime.spawn_local(end_revoked(Rc::clone(&worker), self.endings));
        let connections = Arc::clone(&self.connections);
        let serving = edge::run_worker(worker, sockets, self.tls, self.connections, self.watch);
        if let Err(error) = runtime.block_on(serving) {
            connections.worker_failed();
            tracing::error!(%error, "a worker could not serve its sockets");
        }
    }
}

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

/// Log lines leave the worker at least this often.
const LOG_INTERVAL: Duration = Duration::from_millis(200);
