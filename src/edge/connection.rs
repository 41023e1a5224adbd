//! HTTP/1.1 and HTTP/2 on one client connection, which the sweep can tell to finish or cut.

use std::future::Future;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use h2::server;
use http::Response;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;

use crate::config::Connections;
use crate::config::Http;
use crate::edge::BoxError;
use crate::gate::Peer;
use crate::handler::Answered;
use crate::handler::in_flight::Carrier;
use crate::upstream::ClientRequest;

use super::client::Client;
use super::client::Phase;
use super::frames::Framed;
use super::http1;
use super::http1::head::Limits;
use super::http2;

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

    fn http2(self) -> server::Builder {
        let mut builder = server::Builder::new();
        let head_bytes = u32::try_from(self.head_bytes_max).unwrap_or(u32::MAX);
        builder
            .max_concurrent_streams(self.streams_max)
            .max_header_list_size(head_bytes)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(Some(LOCAL_RESETS_MAX));
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
    T: http1::Incoming,
    H: Fn(Peer, Rc<dyn Carrier>, ClientRequest) -> F,
    F: Future<Output = Response<B>>,
    B: Answered + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    client.enter(Phase::Http1);
    {
        let mut serving = http1::Serving::new(io, client, bounds.http1(), keep_alive, peer, handle);
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
    T: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Peer, Rc<dyn Carrier>, ClientRequest) -> F,
    F: Future<Output = Response<B>>,
    B: Answered + Unpin,
    B::Error: Into<BoxError>,
{
    client.enter(Phase::Http2);
    let io = Framed::new(io, Arc::clone(&client.progress));
    let io = http2::Gathered::new(io);
    let served = async {
        let connection = bounds.http2().handshake(io.shared()).await?;
        let mut serving = http2::Serving::new(connection, io, client, peer, handle);
        poll_fn(|cx| serving.poll(cx)).await
    };
    if let Some(Err(error)) = client.unless_cut(served).await {
        client.count_error(&error);
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
