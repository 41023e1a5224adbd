//! HTTP/2 connections to one server, each shared by many requests: made one at a time, doubted when they fall silent, left when they are full.

use std::cell::Cell;
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use h2::Ping;
use h2::PingPong;
use h2::client::Builder;
use h2::client::ResponseFuture;
use h2::client::SendRequest;
use http::Request;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::config::Upstream;
use crate::config::UpstreamProtocol;
use crate::refusal::UpstreamFailure;
use crate::upstream::connect::ConnectFailure;
use crate::upstream::connect::open;
use crate::upstream::deadline::after;
use crate::upstream::deadline::earliest;
use crate::upstream::pool::Claim;
use crate::upstream::pool::Keeping;
use crate::upstream::pool::Server;
use crate::upstream::tls;
use crate::upstream::wire::Wire;

/// The HTTP/2 connections of one server. Usually one; another only when that one has no room left.
pub(super) struct Links {
    open: RefCell<Vec<Rc<Link>>>,
    /// One connects at a time; the others wait and then find room on what was made.
    connecting: Semaphore,
}

impl Default for Links {
    fn default() -> Links {
        Links {
            open: RefCell::default(),
            connecting: Semaphore::new(1),
        }
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.open.borrow().iter()).finish()
    }
}

impl Links {
    pub(super) fn are_none(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// Lets go of connections that were idle for too long, and of those that take no more requests.
    pub(super) fn sweep(&self, now: Instant) {
        self.open
            .borrow_mut()
            .retain(|link| link.lives() && !link.is_idle_at(now));
    }

    /// One with room for a request; those that will have none any more are forgotten, and close when their last stream has ended.
    fn with_room(&self) -> Option<Rc<Link>> {
        let now = Instant::now();
        self.sweep(now);
        let open = self.open.borrow();
        open.iter().find(|link| link.has_room()).map(Rc::clone)
    }
}

/// A connection with room for one more request, and whether it was made for this one.
///
/// # Errors
/// `ConnectFailure` when there was none by `connect_timeout` or `end`; nothing was sent.
pub(super) async fn link(
    server: &Server,
    upstream: &Upstream,
    end: Option<Instant>,
) -> Result<(Rc<Link>, bool), ConnectFailure> {
    if let Some(link) = server.links.with_room() {
        return Ok((link, false));
    }
    let due = earliest(after(Instant::now(), upstream.connect_timeout), end);
    let turn = tokio::time::timeout_at(due, server.links.connecting.acquire()).await;
    let late = "no connection within the connect timeout";
    let _turn = turn.map_err(|_| ConnectFailure::new(UpstreamFailure::ConnectionTimeout, late))?;
    if let Some(link) = server.links.with_room() {
        return Ok((link, false));
    }
    let wire = open(server, due).await?;
    let made = tokio::time::timeout_at(due, greet(wire, upstream)).await;
    let late = "the server did not begin HTTP/2 within the connect timeout";
    let link =
        Rc::new(made.map_err(|_| ConnectFailure::new(UpstreamFailure::ConnectionTimeout, late))??);
    server.links.open.borrow_mut().push(Rc::clone(&link));
    Ok((link, true))
}

async fn greet(wire: Wire, upstream: &Upstream) -> Result<Link, ConnectFailure> {
    match wire {
        Wire::Clear(stream) => start(stream, upstream).await,
        Wire::Tls(stream) => {
            let agreed = stream.get_ref().1.alpn_protocol();
            if agreed != Some(tls::alpn(UpstreamProtocol::Http2)) {
                let detail = "the server did not agree to HTTP/2 (ALPN h2)";
                return Err(ConnectFailure::new(UpstreamFailure::TlsProtocol, detail));
            }
            start(*stream, upstream).await
        }
    }
}

/// Begins HTTP/2 and waits for the server's settings: they say how many streams it takes, and that it speaks HTTP/2 at all (RFC 9113 section 3.4).
async fn start<T>(stream: T, upstream: &Upstream) -> Result<Link, ConnectFailure>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let broken = |error: h2::Error| {
        let kind = if error.is_io() {
            UpstreamFailure::ConnectionTerminated
        } else {
            UpstreamFailure::ProtocolError
        };
        ConnectFailure::new(kind, &format!("HTTP/2: {error}"))
    };
    let greeting = builder(upstream).handshake::<T, Bytes>(stream).await;
    let (sender, mut connection) = greeting.map_err(broken)?;
    let ping = connection.ping_pong();
    poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(Ok(())) => {
            let detail = "the server closed the connection instead of beginning HTTP/2";
            let kind = UpstreamFailure::ConnectionTerminated;
            Poll::Ready(Err(ConnectFailure::new(kind, detail)))
        }
        Poll::Ready(Err(error)) => Poll::Ready(Err(broken(error))),
        Poll::Pending if sender.current_max_send_streams() == UNSAID => Poll::Pending,
        Poll::Pending => Poll::Ready(Ok(())),
    })
    .await?;
    let driver = tokio::task::spawn_local(async move {
        // An error reaches the streams that it concerns.
        let _ = connection.await;
    });
    Ok(Link {
        sender,
        streams: Cell::new(0),
        cancelled: Cell::new(0),
        doubted: Cell::new(false),
        idle_until: Cell::new(after(Instant::now(), Keeping::of(upstream).idle_timeout)),
        idle_timeout: Keeping::of(upstream).idle_timeout,
        driver: driver.abort_handle(),
        ping: RefCell::new(ping),
    })
}

/// Bounds that keep memory flat, and one tenant's unread answers from stalling another's.
fn builder(upstream: &Upstream) -> Builder {
    let head_bytes = u32::try_from(upstream.head_bytes_max).unwrap_or(u32::MAX / 2);
    let mut builder = Builder::new();
    builder
        .initial_max_send_streams(UNSAID)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(STREAM_WINDOW_BYTES * STREAMS_MAX as u32)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        // Twice, since what is larger than allowed can only be told as such once it is there.
        .max_header_list_size(head_bytes * 2)
        .enable_push(false);
    builder
}

/// One HTTP/2 connection. It closes when nobody holds it any more: neither the list nor a stream.
pub(super) struct Link {
    sender: SendRequest<Bytes>,
    /// Streams of ours that have not ended.
    streams: Cell<usize>,
    /// Streams that we reset, because a client left or its time was up.
    cancelled: Cell<usize>,
    /// Something on it came too late, and the server has not shown since that it is there.
    doubted: Cell<bool>,
    /// When it is closed, should nothing begin on it until then.
    idle_until: Cell<Instant>,
    idle_timeout: Duration,
    driver: AbortHandle,
    /// Away while it is used.
    ping: RefCell<Option<PingPong>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Link")
            .field("streams", &self.streams)
            .field("doubted", &self.doubted)
            .finish_non_exhaustive()
    }
}

/// What a request that was begun is made of.
pub(super) type Begun = (ResponseFuture, h2::SendStream<Bytes>);

impl Link {
    /// Whether it can still take requests: it is open, no GOAWAY came, and we have not reset so many streams that the server may lose patience
    /// with everybody on this connection (S20 seen from the other side).
    fn lives(&self) -> bool {
        let mut sender = self.sender.clone();
        let asked = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        !matches!(asked, Poll::Ready(Err(_))) && self.cancelled.get() < CANCELLED_MAX
    }

    fn has_room(&self) -> bool {
        let room = self.sender.current_max_send_streams().min(STREAMS_MAX);
        !self.doubted.get() && self.streams.get() < room
    }

    fn is_idle_at(&self, now: Instant) -> bool {
        self.streams.get() == 0 && self.idle_until.get() <= now
    }

    /// Begins a request, `whole` when it has no body.
    ///
    /// # Errors
    /// When the connection has closed meanwhile; nothing was sent.
    pub(super) fn begin(&self, head: Request<()>, whole: bool) -> Result<Begun, h2::Error> {
        // A handle of its own: h2 lets one that filled the connection keep hold of the stream.
        self.sender.clone().send_request(head, whole)
    }

    /// Something did not come in time. That may be one slow request, or a peer that is gone without a word: no further request is sent here until a
    /// PING is answered, and if none is, all that waits here fails now and not one by one. No PING is sent otherwise, since servers count them.
    pub(super) fn doubt(self: &Rc<Link>) {
        let Some(mut ping) = self.ping.take() else {
            return;
        };
        self.doubted.set(true);
        let link = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let answer = tokio::time::timeout(PONG_TIMEOUT, ping.ping(Ping::opaque())).await;
            if let Ok(Ok(_)) = answer {
                link.doubted.set(false);
                *link.ping.borrow_mut() = Some(ping);
            } else {
                link.driver.abort();
            }
        });
    }
}

/// One stream of ours on a connection, from its head to its end. Dropped before that, it was given up: h2 resets it when its parts are dropped
/// too, and the connection goes on (S38, S44).
#[derive(Debug)]
pub(super) struct Ticket {
    claim: Claim,
    link: Rc<Link>,
    /// Sends the body.
    sending: Option<AbortHandle>,
    finished: bool,
}

impl Ticket {
    pub(super) fn new(claim: Claim, link: &Rc<Link>) -> Ticket {
        link.streams.set(link.streams.get() + 1);
        Ticket {
            claim,
            link: Rc::clone(link),
            sending: None,
            finished: false,
        }
    }

    /// Ties the task that sends the body to this stream.
    pub(super) fn sends(&mut self, task: AbortHandle) {
        self.sending = Some(task);
    }

    pub(super) fn server(&self) -> &Server {
        self.claim.server()
    }

    pub(super) fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// The answer has ended. What is left of the body nobody waits for (RFC 9113 section 8.1).
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(task) = &self.sending {
            task.abort();
        }
        let link = &self.link;
        if !self.finished {
            link.cancelled.set(link.cancelled.get() + 1);
        }
        link.streams.set(link.streams.get() - 1);
        link.idle_until
            .set(after(Instant::now(), link.idle_timeout));
    }
}

/// Streams at once on one connection, whatever more the server would take.
const STREAMS_MAX: usize = 100;
/// What a server may send on one stream before its client has taken it, bytes. The connection's window is as large as all of these together, so
/// that it is never what an answer waits for: clients that do not read hold up nobody else.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes of a body that wait for the server's window, for each stream.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Streams reset by us after which a connection takes no new ones. Servers end connections whose client resets too many, with all that is on them.
const CANCELLED_MAX: usize = 100;
/// How long a doubted server has to answer a PING.
const PONG_TIMEOUT: Duration = Duration::from_secs(5);
/// Stands for the number of streams until the server has said it.
const UNSAID: usize = usize::MAX - 1;
