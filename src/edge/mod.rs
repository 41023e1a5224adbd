//! From an accepted connection to HTTP requests: listeners, TLS, HTTP/1.1 and HTTP/2, caps, deadlines, drain.
//!
//! `run_worker` is one data thread's share: it accepts on the worker's sockets and, once a client of a TLS port has said a whole first record (until
//! then it waits on the `porch`), gives each connection a task of its own, which agrees on TLS and then spawns a smaller task for the protocol that was
//! chosen, so that an idle connection holds little. No connection has a timer: `sweep` judges all of them four times a second from what
//! `watched` noted of their sockets.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Response;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::task::JoinSet;
use tokio::task::spawn_local;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::config::Connections;
use crate::config::TrustedProxies;
use crate::descriptors;
use crate::gate;
use crate::gate::Peer;
use crate::gate::Via;
use crate::handler::Answered;
use crate::handler::Worker;
use crate::handler::handle;
use crate::handler::in_flight::Carrier;
use crate::handler::refuse_plaintext;
use crate::handler::tls_expected;
use crate::shutdown::State;
use crate::shutdown::Watch;
use crate::upstream::ClientRequest;

use accept::Arrival;
use accept::Newcomer;
use client::Client;
use client::Phase;
use connection::Bounds;
use counters::ConnectionCounters;
use counters::Place;
use listener::WorkerSockets;
use porch::Guest;
use porch::Porch;
use proxy_header::Header;
use sweep::Registry;
use turns::Turns;
use watched::NotTls;
use watched::Progress;
use watched::Watched;

mod accept;
mod client;
mod connection;
pub mod counters;
mod date;
mod frames;
mod http1;
mod http2;
pub mod listener;
mod plaintext;
mod porch;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod proxy_header;
mod sweep;
pub mod tls;
mod turns;
mod watched;

/// Whatever ends an answer's body before its end.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves one worker's sockets until the process stops; runs on a local runtime of its own. Returns when every
/// connection has ended by itself, or was cut when the drain's time was over. The last worker to end logs how many were cut.
///
/// # Errors
/// When a socket cannot be registered with the runtime.
pub async fn run_worker(
    worker: Rc<Worker>,
    sockets: WorkerSockets,
    tls: Arc<ArcSwap<ServerConfig>>,
    counters: Arc<ConnectionCounters>,
    shutdown: Watch,
) -> io::Result<()> {
    let snapshot = Arc::clone(&worker.snapshot);
    let settings = Box::new(move || Settings::of(&snapshot.load().config));
    let explainer = Rc::clone(&worker);
    let explain = Box::new(move || tls_expected(&explainer));
    let edge = Edge::new(settings, tls, counters, explain)?;
    let refuser = Rc::clone(&worker);
    let secure: Start = Rc::new(move |seat, arrival| {
        let worker = Rc::clone(&worker);
        let answer = move |peer, carrier, request| {
            let peer = client_of(&worker, peer, &request);
            handle(Rc::clone(&worker), peer, carrier, request)
        };
        spawn_local(secure(seat, arrival, answer));
    });
    let plain: Start = Rc::new(move |seat, arrival| {
        let worker = Rc::clone(&refuser);
        let answer = move |peer, _, request| {
            let peer = client_of(&worker, peer, &request);
            std::future::ready(refuse_plaintext(&worker, peer, request))
        };
        spawn_local(plain(seat, arrival, answer));
    });
    edge.run(sockets, secure, plain, shutdown).await
}

/// Who asks, where a trusted proxy brings the request.
fn client_of(worker: &Worker, peer: Peer, request: &ClientRequest) -> Peer {
    match peer.via {
        Via::Direct => peer,
        Via::TrustedProxy | Via::Unclear => {
            let snapshot = worker.snapshot.load();
            gate::locate(
                peer,
                &request.head.headers,
                &snapshot.config.trusted_proxies,
            )
        }
    }
}

/// Begins the task of a connection that has been let in.
type Start = Rc<dyn Fn(Seat, Arrival)>;

/// What the configuration says of connections; taken anew for each one and for each sweep.
#[derive(Clone, Debug)]
struct Settings {
    connections: Connections,
    proxies: Arc<TrustedProxies>,
    bounds: Bounds,
}

impl Settings {
    fn of(config: &Config) -> Settings {
        Settings {
            connections: config.connections.clone(),
            proxies: Arc::clone(&config.trusted_proxies),
            bounds: Bounds::of(&config.http, &config.connections),
        }
    }
}

/// What the connections of one worker share.
struct Edge {
    settings: Box<dyn Fn() -> Settings>,
    /// The certificates in force; each handshake takes what it finds.
    tls: Arc<ArcSwap<ServerConfig>>,
    counters: Arc<ConnectionCounters>,
    /// What HTTP in clear on a TLS port is answered.
    explain: Box<dyn Fn() -> Response<Bytes>>,
    registry: Registry,
    turns: Rc<Turns>,
    /// Who has not said a word.
    porch: Porch,
    /// The number below which clients' descriptors stay, as of the last sweep: `prlimit` may change it while we run.
    files: Cell<u64>,
}

impl Edge {
    fn new(
        settings: Box<dyn Fn() -> Settings>,
        tls: Arc<ArcSwap<ServerConfig>>,
        counters: Arc<ConnectionCounters>,
        explain: Box<dyn Fn() -> Response<Bytes>>,
    ) -> io::Result<Rc<Edge>> {
        Ok(Rc::new(Edge {
            settings,
            tls,
            counters,
            explain,
            registry: Registry::new(),
            turns: Turns::new(),
            porch: Porch::new()?,
            files: Cell::new(descriptors::clients_below()),
        }))
    }

    async fn run(
        self: Rc<Self>,
        sockets: WorkerSockets,
        secure: Start,
        plain: Start,
        mut shutdown: Watch,
    ) -> io::Result<()> {
        let mut accepting = JoinSet::new();
        let inherited = sockets.inherited;
        let secure = sockets.https.into_iter().map(|socket| (socket, &secure));
        let plain = sockets.http.into_iter().map(|socket| (socket, &plain));
        let doors = secure
            .map(|door| (door, true))
            .chain(plain.map(|door| (door, false)));
        for ((socket, start), tls) in doors {
            let socket = accept::watched(socket)?;
            let (edge, start) = (Rc::clone(&self), Rc::clone(start));
            let arrived = move |newcomer| edge.let_in(newcomer, &start, tls);
            accepting.spawn_local(accept::run(socket, inherited, arrived, shutdown.clone()));
        }
        let attending = spawn_local(Rc::clone(&self).attend());
        self.counters
            .worker_started(Arc::clone(self.registry.tick()));
        let mut sweep = tokio::time::interval(sweep::PERIOD);
        // Late ticks are not made up for: a worker that was held up cuts later, never sooner.
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let state = self.serve(&mut sweep, &mut shutdown).await;
        while accepting.join_next().await.is_some() {}
        if let State::Draining(timeout) = state {
            tokio::select! {
                biased;
                () = self.emptied() => {}
                () = self.drain(&mut sweep) => {}
                () = tokio::time::sleep(timeout) => {}
                () = shutdown.now() => {}
            }
        }
        attending.abort();
        self.porch.clear();
        self.end().await;
        Ok(())
    }

    /// Waits until no connection is left, not even one that waits on the porch.
    async fn emptied(&self) {
        loop {
            self.registry.emptied().await;
            if self.porch.is_empty() {
                return;
            }
            self.porch.emptied().await;
        }
    }

    async fn serve(self: &Rc<Self>, sweep: &mut Interval, shutdown: &mut Watch) -> State {
        loop {
            tokio::select! {
                state = shutdown.stopping() => return state,
                _ = sweep.tick() => self.turn(false),
            }
        }
    }

    /// Tells every connection to finish, and judges on; never ends.
    async fn drain(self: &Rc<Self>, sweep: &mut Interval) {
        sweep.reset_immediately();
        loop {
            sweep.tick().await;
            self.turn(true);
        }
    }

    fn turn(self: &Rc<Self>, draining: bool) {
        let bounds = (self.settings)().connections;
        self.registry.turn(&bounds, &self.counters, draining);
        self.judge_guests(sweep::ticks(bounds.handshake_timeout), draining);
        self.files.set(descriptors::clients_below());
    }

    /// Cuts what is left.
    async fn end(&self) {
        let cut = self.registry.dismiss_all();
        // Tunnels say goodbye, and whoever cuts them must not be waited for.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, self.registry.emptied()).await;
        self.registry.cut_all();
        self.registry.emptied().await;
        let total = self.counters.worker_ended(self.registry.tick(), cut);
        if let Some(connections @ 1..) = total {
            tracing::warn!(
                connections,
                "the time for draining is over: cut connections that had requests under way; server.drain_timeout sets it"
            );
        }
    }

    /// Whether enough descriptors are left beside this one.
    fn has_file_for(&self, socket: &std::net::TcpStream) -> bool {
        descriptors::is_below(socket, self.files.get()) || {
            // The limit may have been raised since.
            self.files.set(descriptors::clients_below());
            descriptors::is_below(socket, self.files.get())
        }
    }

    /// Gives a connection its place under the caps, or closes it. On a TLS port it is heard before it gets a task; behind a proxy that says who it
    /// is, its task reads that first.
    fn let_in(self: &Rc<Self>, newcomer: Newcomer, start: &Start, tls: bool) {
        let Newcomer { socket, mut peer } = newcomer;
        if !self.has_file_for(&socket) {
            let refused = &self.counters.refused_descriptors;
            refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let settings = (self.settings)();
        let (caps, proxies) = (settings.connections, settings.proxies);
        let client = peer.address.ip();
        let trusted = !proxies.networks.is_empty() && proxies.include(client);
        let place = if trusted && proxies.proxy_protocol {
            self.counters.enter_unnamed(caps.total_max)
        } else {
            if trusted && proxies.headers {
                peer.via = Via::TrustedProxy;
            }
            self.counters
                .enter(client, caps.total_max, caps.per_address_max)
        };
        let Ok(place) = place else {
            return;
        };
        let heard = tls && place.is_named();
        let guest = Guest::new(socket, peer, place, Rc::clone(start), self.registry.now());
        match heard {
            true => self.receive(guest),
            false => self.begin(guest, Bytes::new()),
        }
    }
}

/// A connection's place under the sweep and the caps; left when dropped, however its task ends.
struct Seat {
    client: Rc<Client>,
    edge: Rc<Edge>,
    place: Place,
}

impl Seat {
    /// A seat for who came at this tick.
    fn new(edge: &Rc<Edge>, place: Place, since: u32) -> Seat {
        let progress = Progress::new(Arc::clone(edge.registry.tick()));
        let client = Client::new(Arc::new(progress), Arc::clone(&edge.counters));
        client.came(since);
        let client = Rc::new(client);
        edge.registry.join(&client);
        Seat {
            client,
            edge: Rc::clone(edge),
            place,
        }
    }

    /// Reads for whom a trusted proxy connects and counts the connection under that client. `None` when it is to be closed: without a sound header nobody knows whose it is. The sweep bounds the time like that of a handshake.
    async fn named(mut self, mut arrival: Arrival) -> Option<(Seat, Arrival)> {
        let said = {
            let reading = proxy_header::take(&mut arrival.socket);
            self.client.unless_cut(reading).await?
        };
        let peer = &mut arrival.peer;
        match said {
            Ok(Some(Header::Own)) => {}
            Ok(Some(Header::Client {
                source,
                destination,
            })) => {
                peer.address = accept::canonical(source);
                peer.local = accept::canonical(destination);
            }
            Ok(None) => return None,
            Err(error) => {
                let counter = &self.edge.counters.proxy_header_invalid;
                counter.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%error, proxy = %peer.address, "a trusted proxy sent no sound PROXY header");
                return None;
            }
        }
        let settings = (self.edge.settings)();
        let client = peer.address.ip();
        if settings.proxies.headers && settings.proxies.include(client) {
            peer.via = Via::TrustedProxy;
        }
        let per_address_max = settings.connections.per_address_max;
        self.place.name(client, per_address_max).ok()?;
        Some((self, arrival))
    }

    fn watch(&self, arrival: Arrival, expect_tls: bool) -> Watched {
        let Arrival { socket, said, .. } = arrival;
        Watched::new(socket, said, Arc::clone(&self.client.progress), expect_tls)
    }

    /// After our side is closed: waits for the client to close, so that our last bytes reach it. The sweep bounds the time.
    /// An answer that broke off is not closed but dropped here and now: it must look cut (S34).
    async fn linger(self) {
        let progress = &self.client.progress;
        if progress.ended() || !progress.closed() {
            self.forget_what_is_not_taken();
            return;
        }
        if let Some(socket) = self.client.progress.take_leftover() {
            self.client.enter(Phase::Lingering);
            let _ = self.client.unless_cut(plaintext::drain(socket)).await;
        }
    }

    /// What a client that stalled has not taken would stay with the kernel for as long as it pleases that client: up to megabytes each. A reset
    /// throws it away (S22).
    fn forget_what_is_not_taken(&self) {
        if self.client.has_stalled()
            && let Some(socket) = self.client.progress.take_leftover()
        {
            // Where that is refused, the socket is closed the usual way.
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Counts a handshake that failed; a client that spoke HTTP in clear is told (S25).
    async fn handshake_failed(self, error: io::Error) {
        let (progress, counters) = (&self.client.progress, &self.edge.counters);
        let counter = match progress.not_tls() {
            Some(NotTls::Text) => &counters.plaintext_on_tls,
            // A probe that connects and closes.
            None if progress.reading_since() == 0 => return,
            Some(NotTls::Garbage) | None => &counters.handshake_failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%error, "TLS handshake failed");
        if progress.not_tls() == Some(NotTls::Text)
            && let Some(socket) = progress.take_leftover()
        {
            self.client.enter(Phase::Lingering);
            let answer = (self.edge.explain)();
            let _ = self
                .client
                .unless_cut(plaintext::explain(socket, answer))
                .await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.edge.registry.leave(&self.client);
        self.client.forget();
    }
}

/// A connection of a TLS listener. Each phase is a task of its own, so that a quiet connection does not hold what only the handshake,
/// or only the other protocol, needs.
async fn secure<H, F, B>(seat: Seat, arrival: Arrival, answer: H)
where
    H: Fn(Peer, Rc<dyn Carrier>, ClientRequest) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Answered + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (seat, arrival) = match seat.place.is_named() {
        true => (seat, arrival),
        false => match Box::pin(seat.named(arrival)).await {
            Some(named) => named,
            None => return,
        },
    };
    let peer = arrival.peer;
    let handshake = async {
        if arrival.said.is_empty() {
            // A client that says nothing costs no session of TLS. What goes wrong here goes wrong below as well.
            let _ = arrival.socket.readable().await;
        } else {
            // What cannot be written at once is lost where the first bytes already end the handshake: the alert that says why.
            let _ = arrival.socket.writable().await;
        }
        let acceptor = TlsAcceptor::from(seat.edge.tls.load_full());
        acceptor.accept(seat.watch(arrival, true)).await
    };
    let shaken = {
        let handshake = pin!(handshake);
        let turns = Rc::clone(&seat.edge.turns);
        seat.client.unless_cut(turns.step(handshake)).await
    };
    let stream = match shaken {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => return seat.handshake_failed(error).await,
        None => return,
    };
    if stream.get_ref().1.alpn_protocol() == Some(tls::ALPN_HTTP2) {
        spawn_local(speak_http2(seat, stream, peer, answer));
    } else {
        spawn_local(speak_http1(seat, stream, true, peer, answer));
    }
}

/// A connection of a plain listener: one refusal, then closed.
async fn plain<H, F, B>(seat: Seat, arrival: Arrival, answer: H)
where
    H: Fn(Peer, Rc<dyn Carrier>, ClientRequest) -> F,
    F: Future<Output = Response<B>>,
    B: Answered + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (seat, arrival) = match seat.place.is_named() {
        true => (seat, arrival),
        false => match Box::pin(seat.named(arrival)).await {
            Some(named) => named,
            None => return,
        },
    };
    let peer = arrival.peer;
    let socket = seat.watch(arrival, false);
    speak_http1(seat, socket, false, peer, answer).await;
}

async fn speak_http1<T, H, F, B>(seat: Seat, io: T, keep_alive: bool, peer: Peer, answer: H)
where
    T: http1::Incoming,
    H: Fn(Peer, Rc<dyn Carrier>, ClientRequest) -> F,
    F: Future<Output = Response<B>>,
    B: Answered + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let bounds = (seat.edge.settings)().bounds;
    connection::serve_http1(io, &seat.client, bounds, keep_alive, peer, answer).await;
    seat.linger().await;
}

async fn speak_http2<T, H, F, B>(seat: Seat, io: T, peer: Peer, answer: H)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Fn(Peer, Rc<dyn Carrier>, ClientRequest) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Answered + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let bounds = (seat.edge.settings)().bounds;
    connection::serve_http2(io, &seat.client, bounds, peer, answer).await;
    seat.linger().await;
}

/// How long tunnels may take to say goodbye at the end of a drain, and their clients to close.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
