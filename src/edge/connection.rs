//! HTTP/1.1 and HTTP/2 on one client connection, which the sweep can tell to finish or cut.

use std::cell::Cell;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::task::AbortHandle;

use crate::config::Connections;
use crate::config::Http;
use crate::edge::BoxError;
use crate::gate::Peer;

use super::counters::ConnectionCounters;
use super::frames::Framed;
use super::sweep::View;
use super::sweep::over;
use super::watched::Progress;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// TLS is being agreed on.
    Handshake,
    /// Speaks HTTP/1.1.
    Http1,
    /// Speaks HTTP/2.
    Http2,
    /// Closed on our side; what the client still sends is thrown away, so that the kernel does not answer it with a
    /// reset that would take our last bytes with it (RFC 9112 section 9.6).
    Lingering,
}

/// Why a connection ends before its client wants it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    HandshakeTimeout,
    HeadTimeout,
    Idle,
    Stalled,
    Flooded,
    Drain,
    /// Told to finish, with nothing left to answer, and did not.
    Unfinished,
}

/// What the sweep tells a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Continue,
    /// Answer what is under way, take no more requests, close.
    Finish(Why),
    /// Close at once.
    Cut(Why),
}

/// One client connection as its task, its requests and the sweep see it.
#[derive(Debug)]
pub(super) struct Client {
    /// What the socket noted.
    pub(super) progress: Arc<Progress>,
    /// Where the registry keeps it.
    pub(super) slot: Cell<usize>,
    phase: Cell<Phase>,
    quiet_since: Cell<u32>,
    requests: Cell<usize>,
    served: Cell<bool>,
    draining: Cell<bool>,
    order: Cell<Order>,
    finishing_since: Cell<u32>,
    /// HTTP/2 streams under way; HTTP/1.1 needs no list.
    streams: RefCell<Vec<Rc<Stream>>>,
    /// The stream whose task hyper is about to spawn.
    unspawned: RefCell<Option<Rc<Stream>>>,
    waker: RefCell<Option<Waker>>,
    counters: Arc<ConnectionCounters>,
}

/// One HTTP/2 request and its answer.
#[derive(Debug, Default)]
struct Stream {
    /// Since when the answer waits for the client to take it; 0 while it waits for us. HTTP/2 flow control stops a
    /// stream while the socket goes on, so the socket's notes cannot tell.
    owed_since: Cell<u32>,
    task: RefCell<Option<AbortHandle>>,
}

impl Client {
    pub(super) fn new(progress: Arc<Progress>, counters: Arc<ConnectionCounters>) -> Client {
        let now = progress.now();
        Client {
            progress,
            slot: Cell::new(0),
            phase: Cell::new(Phase::Handshake),
            quiet_since: Cell::new(now),
            requests: Cell::new(0),
            served: Cell::new(false),
            draining: Cell::new(false),
            order: Cell::new(Order::Continue),
            finishing_since: Cell::new(0),
            streams: RefCell::new(Vec::new()),
            unspawned: RefCell::new(None),
            waker: RefCell::new(None),
            counters,
        }
    }

    /// Goes on to the next phase, whose waits begin now.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.quiet_since.set(self.progress.now());
        self.progress.forget_reads();
    }

    /// What the sweep judges.
    pub(super) fn view(&self) -> View {
        let phase = self.phase.get();
        let requests = self.requests.get();
        let head_since = match phase {
            Phase::Http2 => self.progress.block_since(),
            // While a request is under way, what is read is its body or the next request waiting its turn.
            Phase::Http1 if requests > 0 => 0,
            _ => self.progress.reading_since(),
        };
        View {
            phase,
            quiet_since: self.quiet_since.get(),
            requests,
            served: self.served.get(),
            head_since,
            blocked_since: self.progress.blocked_since(),
            flooded: self.progress.flooded(),
            finishing_since: self.finishing_since.get(),
            draining: self.draining.get(),
        }
    }

    /// From now on this connection is judged as one of a worker that drains.
    pub(super) fn drain(&self) {
        self.draining.set(true);
    }

    /// Gives an order unless it, or a harder one, has been given; says whether it is new.
    pub(super) fn give(&self, order: Order) -> bool {
        let new = match (self.order.get(), order) {
            (Order::Continue, _) => order != Order::Continue,
            (Order::Finish(_), Order::Cut(_)) => true,
            _ => false,
        };
        if new {
            self.order.set(order);
            if let Order::Finish(_) = order {
                self.finishing_since.set(self.progress.now());
            }
            if let Some(waker) = self.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
        new
    }

    /// Resets each stream whose answer the client has not taken for `limit` ticks; the others live on. Says how many.
    pub(super) fn cut_stalled_streams(&self, now: u32, limit: u32) -> u64 {
        let mut cut = 0;
        for stream in self.streams.borrow().iter() {
            if over(stream.owed_since.get(), now, limit) {
                stream.owed_since.set(0);
                if let Some(task) = stream.task.borrow().as_ref() {
                    task.abort();
                    cut += 1;
                }
            }
        }
        cut
    }

    /// Polls `work`, unless the order is to cut.
    fn poll_unless_cut<T>(
        &self,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Option<T>> {
        if let Order::Cut(_) = self.order.get() {
            return Poll::Ready(None);
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        work(cx).map(Some)
    }

    /// Runs `work` to its end, or to `None` when the order is to cut.
    pub(super) async fn unless_cut<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        poll_fn(|cx| self.poll_unless_cut(cx, |cx| work.as_mut().poll(cx))).await
    }

    /// Runs a hyper connection to its end under the sweep's orders; `finish` is its graceful shutdown.
    async fn drive<C>(&self, connection: C, finish: fn(Pin<&mut C>))
    where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        let mut connection = pin!(connection);
        let mut finishing = false;
        let result = poll_fn(|cx| {
            self.poll_unless_cut(cx, |cx| {
                if !finishing && matches!(self.order.get(), Order::Finish(_)) {
                    finishing = true;
                    finish(connection.as_mut());
                }
                connection.as_mut().poll(cx)
            })
        })
        .await;
        if let Some(Err(error)) = result {
            self.count_error(&error);
        }
    }

    fn count_error(&self, error: &hyper::Error) {
        // A client that went away broke no rule.
        let gone = self.progress.ended() || error.is_incomplete_message() || error.is_user();
        if !gone {
            self.counters.protocol_error.fetch_add(1, Ordering::Relaxed);
        }
        tracing::debug!(%error, gone, "client connection ended with an error");
    }
}

/// How HTTP is spoken, from the configuration in force when the connection came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    head_bytes_max: usize,
    header_count_max: usize,
    streams_max: u32,
}

impl Bounds {
    pub(super) fn of(http: &Http, connections: &Connections) -> Bounds {
        Bounds {
            head_bytes_max: http.head_bytes_max,
            header_count_max: http.header_count_max,
            streams_max: connections.http2_streams_max,
        }
    }

    fn http1(self, keep_alive: bool) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder
            .keep_alive(keep_alive)
            .half_close(false)
            .header_read_timeout(None)
            .max_header_size(self.head_bytes_max)
            .max_buf_size(self.head_bytes_max.max(BUFFER_BYTES));
        // Left at hyper's 100 where that will do: another number costs an allocation per request.
        if self.header_count_max >= HYPER_HEADERS {
            builder.max_headers(self.header_count_max + 1);
        }
        builder
    }

    fn http2(self, client: &Rc<Client>) -> http2::Builder<StreamSpawner> {
        let mut builder = http2::Builder::new(StreamSpawner {
            client: Rc::clone(client),
        });
        let head_bytes = u32::try_from(self.head_bytes_max).unwrap_or(u32::MAX);
        builder
            .max_concurrent_streams(self.streams_max)
            .max_header_list_size(head_bytes)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX);
        builder
    }
}

/// Serves HTTP/1.1 until the connection ends. `keep_alive` off answers one request and closes.
pub(super) async fn serve_http1<T, H, F, B>(
    io: T,
    client: &Rc<Client>,
    bounds: Bounds,
    keep_alive: bool,
    peer: Peer,
    handle: H,
) where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Fn(Peer, Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    client.enter(Phase::Http1);
    let service = service_fn(|request| {
        let under_way = UnderWay::begin(client, None);
        let answer = handle(peer, request);
        async move {
            let response = answer.await;
            under_way.owed(true);
            Ok::<_, Infallible>(response.map(|body| Counted { body, under_way }))
        }
    });
    let builder = bounds.http1(keep_alive);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    client
        .drive(connection, http1::Connection::graceful_shutdown)
        .await;
}

/// Serves HTTP/2 until the connection ends.
pub(super) async fn serve_http2<T, H, F, B>(
    io: T,
    client: &Rc<Client>,
    bounds: Bounds,
    peer: Peer,
    handle: H,
) where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Fn(Peer, Request<Incoming>) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    client.enter(Phase::Http2);
    let io = Framed::new(io, Arc::clone(&client.progress));
    let service = {
        let client = Rc::clone(client);
        service_fn(move |request| {
            let under_way = UnderWay::begin(&client, Some(Rc::default()));
            let answer = handle(peer, request);
            async move {
                let response = answer.await;
                under_way.owed(true);
                Ok::<_, Infallible>(response.map(|body| Counted { body, under_way }))
            }
        })
    };
    let connection = bounds
        .http2(client)
        .serve_connection(TokioIo::new(io), service);
    client
        .drive(connection, http2::Connection::graceful_shutdown)
        .await;
}

/// Spawns the task of each HTTP/2 stream on this thread, and keeps a handle to cut it.
#[derive(Clone, Debug)]
struct StreamSpawner {
    client: Rc<Client>,
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for StreamSpawner {
    fn execute(&self, stream: F) {
        let task = tokio::task::spawn_local(stream);
        // hyper calls the service and then this, within one poll.
        if let Some(stream) = self.client.unspawned.borrow_mut().take() {
            *stream.task.borrow_mut() = Some(task.abort_handle());
        }
    }
}

/// A request under way: from its head to the last byte handed to hyper, however it ends.
#[derive(Debug)]
struct UnderWay {
    client: Rc<Client>,
    /// On HTTP/2 only.
    stream: Option<Rc<Stream>>,
}

impl UnderWay {
    fn begin(client: &Rc<Client>, stream: Option<Rc<Stream>>) -> UnderWay {
        client.requests.set(client.requests.get() + 1);
        client.served.set(true);
        if let Some(stream) = &stream {
            client.streams.borrow_mut().push(Rc::clone(stream));
            *client.unspawned.borrow_mut() = Some(Rc::clone(stream));
        }
        UnderWay {
            client: Rc::clone(client),
            stream,
        }
    }

    /// Notes whether something of the answer waits for the client to take it.
    fn owed(&self, owed: bool) {
        if let Some(stream) = &self.stream {
            let since = if owed { self.client.progress.now() } else { 0 };
            stream.owed_since.set(since);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let client = &self.client;
        client.requests.set(client.requests.get() - 1);
        client.quiet_since.set(client.progress.now());
        client.progress.forget_reads();
        if let Some(stream) = &self.stream {
            let mut streams = client.streams.borrow_mut();
            if let Some(at) = streams.iter().position(|other| Rc::ptr_eq(other, stream)) {
                streams.swap_remove(at);
            }
        }
        if std::thread::panicking() {
            client.counters.panicked.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a request panicked; its connection or stream is closed, others go on");
        }
    }
}

/// A body on its way to the client, which notes whose turn it is.
struct Counted<B> {
    body: B,
    under_way: UnderWay,
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let result = Pin::new(&mut self.body).poll_frame(cx);
        self.under_way.owed(result.is_ready());
        result
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Read buffer of an upload and write buffer of an answer, HTTP/1.1, bytes.
const BUFFER_BYTES: usize = 64 * 1024;
/// Header fields that hyper takes without being told.
const HYPER_HEADERS: usize = 100;
/// What a client may send on one stream before we have taken it, bytes: what one stalled upload can cost us.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The same over all streams of a connection, bytes.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Largest frame taken, bytes (the least that RFC 9113 allows).
const FRAME_BYTES: u32 = 16 * 1024;
/// What a stream may hold of an answer that the client has not taken, bytes.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Streams that the client reset before we looked at them; beyond it GOAWAY (S20).
const PENDING_RESETS_MAX: usize = 20;
/// Streams that we reset because the client broke a rule; beyond it GOAWAY (S20).
const LOCAL_RESETS_MAX: usize = 100;
