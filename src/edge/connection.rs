//! HTTP/1.1 and HTTP/2 on one client connection, which the sweep can tell to finish or cut.

use std::convert::Infallible;
use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use http::Request;
use http::Response;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;

use crate::config::Connections;
use crate::config::Http;
use crate::edge::BoxError;
use crate::gate::Peer;
use crate::handler::Answered;
use crate::handler::in_flight::Carrier;
use crate::upstream::ClientBody;
use crate::upstream::Transport;

use super::client::Client;
use super::client::Phase;
use super::client::UnderWay;
use super::frames::Framed;
use super::http1::Serving;
use super::http1::head::Limits;

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

    fn http1(self) -> Limits {
        Limits {
            bytes_max: self.head_bytes_max,
            // One more than is allowed, so that the gate can refuse the first beyond in the configured shape.
            fields_max: self.header_count_max + 1,
        }
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

/// Serves HTTP/1.1, and what a 101 turned it into, until the connection ends. `keep_alive` off answers one request and closes.
pub(super) async fn serve_http1<T, H, F, B>(
    io: T,
    client: &Rc<Client>,
    bounds: Bounds,
    keep_alive: bool,
    peer: Peer,
    handle: H,
) where
    T: Transport,
    H: Fn(Peer, Rc<dyn Carrier>, Request<ClientBody>) -> F,
    F: Future<Output = Response<B>>,
    B: Answered + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    client.enter(Phase::Http1);
    {
        let mut serving = Serving::new(io, client, bounds.http1(), keep_alive, peer, handle);
        poll_fn(|cx| client.poll_unless_cut(cx, |cx| serving.poll(cx))).await;
    }
    if client.goes_on() {
        // On the heap, since few connections come this far.
        Box::pin(client.go_on()).await;
    }
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
    H: Fn(Peer, Rc<dyn Carrier>, Request<ClientBody>) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Answered + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    client.enter(Phase::Http2);
    let io = Framed::new(io, Arc::clone(&client.progress));
    let service = {
        let client = Rc::clone(client);
        service_fn(move |request: Request<Incoming>| {
            let under_way = UnderWay::begin(&client);
            let request = request.map(ClientBody::from);
            Answering::new(handle(peer, under_way.carrier(), request), under_way)
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
        self.client.spawned(task.abort_handle());
    }
}

/// A request over HTTP/2 until its answer's head is there. On the heap, since hyper moves it six times.
struct Answering<F> {
    answer: Pin<Box<F>>,
    /// Gone to the answer's body when that is there.
    under_way: Option<UnderWay>,
}

impl<F> Answering<F> {
    fn new(answer: F, under_way: UnderWay) -> Answering<F> {
        Answering {
            answer: Box::pin(answer),
            under_way: Some(under_way),
        }
    }
}

impl<F: Future<Output = Response<B>>, B> Future for Answering<F> {
    type Output = Result<Response<Counted<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.answer.as_mut().poll(cx));
        let under_way = self.under_way.take();
        let under_way = under_way.expect("a future is not polled after its end");
        under_way.owed(true);
        Poll::Ready(Ok(response.map(|body| Counted { body, under_way })))
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
