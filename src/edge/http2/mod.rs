//! HTTP/2 with one client: h2 speaks it, and one task polls the connection and all requests on it, each when something woke it.
//!
//! `wakes` knows who is to be polled, `exchange` is one request and its answer, `gathered` holds what h2 writes until all of them had their turn; here is their order.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::Connection;
use h2::server::SendResponse;
use http::Method;
use http::Request;
use http::Response;
use http::header::CONTENT_LENGTH;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::task::coop::has_budget_remaining;

use crate::edge::BoxError;
use crate::gate::Peer;
use crate::handler::Answered;
use crate::handler::in_flight::Carrier;
use crate::upstream::ClientBody;
use crate::upstream::ClientRequest;

use super::client::Client;
use super::client::UnderWay;
use exchange::Exchange;
pub(super) use gathered::Gathered;
use wakes::Sleeper;
use wakes::Wakes;
use wakes::Who;

mod alike;
mod exchange;
mod gathered;
mod wakes;

/// One connection from its preface to its end.
pub(super) struct Serving<T, H, F, B> {
    connection: Connection<Gathered<T>, Bytes>,
    /// What `connection` writes to.
    io: Gathered<T>,
    sleeper: Sleeper,
    client: Rc<Client>,
    wakes: Arc<Wakes>,
    streams: Streams<H, F, B>,
    /// Places of the streams to poll now; empty between polls.
    round: Vec<usize>,
    finishes: bool,
}

impl<T, H, F, B> Serving<T, H, F, B>
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Peer, Rc<dyn Carrier>, ClientRequest) -> F,
    F: Future<Output = Response<B>>,
    B: Answered + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        connection: Connection<Gathered<T>, Bytes>,
        io: Gathered<T>,
        client: &Rc<Client>,
        peer: Peer,
        handle: H,
    ) -> Serving<T, H, F, B> {
        let wakes = Arc::new(Wakes::default());
        let sleeper = Sleeper::new(&wakes, Who::Connection);
        sleeper.waker().wake_by_ref();
        io.gather();
        Serving {
            connection,
            io,
            sleeper,
            client: Rc::clone(client),
            streams: Streams {
                client: Rc::clone(client),
                wakes: Arc::clone(&wakes),
                peer,
                handle,
                places: Vec::new(),
                free: Vec::new(),
            },
            wakes,
            round: Vec::new(),
            finishes: false,
        }
    }

    /// Goes on as far as it can; done when the connection has ended, whatever is under way on it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let mut connection = self.wakes.begin(cx.waker(), &mut self.round);
        if !self.finishes && self.client.is_finishing() {
            self.finishes = true;
            // GOAWAY at once for what has not begun, and once more after a round trip, which names the last stream (RFC 9113 section 6.8).
            self.connection.graceful_shutdown();
            connection = true;
        }
        let mut rounds = 0;
        loop {
            if connection && let Poll::Ready(end) = self.poll_connection() {
                return Poll::Ready(end);
            }
            // All of them before the connection again, so that their answers go out together.
            for place in self.round.drain(..) {
                self.streams.poll(place);
            }
            rounds += 1;
            // With no budget left, tokio wakes whoever asks it for more, at once and for ever.
            if rounds == ROUNDS_MAX || !has_budget_remaining() {
                self.write_out();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.wakes.take_or_rest(&mut self.round) {
                Some(noted) => connection = noted,
                None => {
                    self.write_out();
                    self.streams.shrink();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Hands on what was written in this turn, or as much as the client takes; the connection is woken when it takes more, or nothing ever.
    fn write_out(&self) {
        let waker = self.sleeper.waker();
        let mut cx = Context::from_waker(waker);
        if let Poll::Ready(Err(())) = self.io.poll_out(&mut cx) {
            waker.wake_by_ref();
        }
    }

    /// Reads and writes what it can, and takes requests in.
    fn poll_connection(&mut self) -> Poll<Result<(), h2::Error>> {
        let mut cx = self.sleeper.begin();
        self.io.look_again();
        loop {
            match ready!(self.connection.poll_accept(&mut cx)) {
                Some(Ok((request, reply))) => self.round.push(self.streams.begin(request, reply)),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// The requests under way on one connection.
struct Streams<H, F, B> {
    client: Rc<Client>,
    wakes: Arc<Wakes>,
    peer: Peer,
    handle: H,
    places: Vec<Place<F, B>>,
    /// Those of `places` that are empty.
    free: Vec<usize>,
}

/// Where one stream after the other is.
struct Place<F, B> {
    sleeper: Sleeper,
    /// On the heap: a quiet connection has no room for it.
    exchange: Option<Box<Exchange<F, B>>>,
}

impl<H, F, B> Streams<H, F, B>
where
    H: Fn(Peer, Rc<dyn Carrier>, ClientRequest) -> F,
    F: Future<Output = Response<B>>,
    B: Answered + Unpin,
    B::Error: Into<BoxError>,
{
    /// Takes a request in; its place. h2 holds their number below `connections.http2_streams_max`.
    fn begin(&mut self, request: Request<RecvStream>, reply: SendResponse<Bytes>) -> usize {
        let at = self.empty();
        let place = &mut self.places[at];
        let under_way = UnderWay::begin_stream(&self.client, place.sleeper.waker());
        let asks_head = request.method() == Method::HEAD;
        // Room first, so that the future is made where it stays.
        let room = Box::new_uninit();
        let answer = (self.handle)(self.peer, under_way.carrier(), taken(request));
        let answer = Box::into_pin(Box::write(room, answer));
        let exchange = Exchange::new(answer, reply, under_way, asks_head);
        place.exchange = Some(Box::new(exchange));
        at
    }

    fn empty(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            let at = self.places.len();
            self.places.push(Place {
                sleeper: Sleeper::new(&self.wakes, Who::Stream(at)),
                exchange: None,
            });
            at
        })
    }

    /// Polls a stream, unless it is over already. A panic ends that stream alone.
    fn poll(&mut self, at: usize) {
        let Some(place) = self.places.get_mut(at) else {
            return;
        };
        let mut cx = place.sleeper.begin();
        let Some(exchange) = &mut place.exchange else {
            return;
        };
        // What panicked is not looked at again, only dropped.
        let polled = catch_unwind(AssertUnwindSafe(|| exchange.poll(&mut cx)));
        if polled.is_err() {
            exchange.panicked();
        }
        if !matches!(polled, Ok(Poll::Pending)) {
            place.exchange = None;
            self.free.push(at);
        }
    }

    /// Gives up the places of a busy time once it is over.
    fn shrink(&mut self) {
        if self.free.len() == self.places.len() && self.places.len() > PLACES_KEPT {
            self.places.truncate(PLACES_KEPT);
            self.places.shrink_to_fit();
            self.free.clear();
            self.free.extend(0..PLACES_KEPT);
            self.free.shrink_to_fit();
        }
    }
}

/// A request as the handler takes it.
fn taken(request: Request<RecvStream>) -> ClientRequest {
    let (head, stream) = request.into_parts();
    let head = Box::new(head);
    let body = match stream.is_end_stream() {
        true => ClientBody::none(),
        false => {
            // h2 refuses what is no number, and lengths that differ.
            let length = head.headers.get(CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
            ClientBody::http2(stream, length)
        }
    };
    ClientRequest { head, body }
}

/// How often the connection and its streams take turns before other connections do.
const ROUNDS_MAX: usize = 32;
/// Places that a connection keeps which nothing is under way on; some 70 bytes each.
const PLACES_KEPT: usize = 16;
