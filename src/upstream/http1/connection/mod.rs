//! One connection and the exchange on it.

mod posting;
mod receive;

use std::cell::RefCell;
use std::io;
use std::io::IoSlice;
use std::io::Write;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::Method;
use http::StatusCode;
use http::request;
use http_body::Body;
use tokio::time::Instant;

use crate::upstream::body::RequestBody;
use crate::upstream::deadline::Timer;
use crate::upstream::http1::Fault;
use crate::upstream::http1::chunks::Chunks;
use crate::upstream::http1::head;
use crate::upstream::http1::head::Framing;
use crate::upstream::http1::head::Outgoing;
use crate::upstream::http1::head::Writes;
use crate::upstream::http1::lines::Lines;
use crate::upstream::wire::Wire;

use posting::Post;

/// What the head of an answer may measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes.
    pub(crate) head_bytes_max: usize,
    /// Fields.
    pub(crate) header_count_max: usize,
}

/// A connection, of its one holder. What is posted to be written knows it besides, as long as he holds it.
pub(crate) type SharedConnection = Rc<RefCell<Connection>>;

/// A connection to a backend. Dropped, it is closed, whatever is on its way.
#[derive(Debug)]
pub(crate) struct Connection {
    wire: Wire,
    limits: Limits,
    /// Head or framing that is written before `piece`.
    out: Vec<u8>,
    /// A piece of the body.
    piece: Bytes,
    /// Framing that is written after it.
    tail: &'static [u8],
    /// How much of the three is written.
    written: usize,
    /// Bytes of this exchange that the socket took.
    sent: u64,
    framing: Outgoing,
    sending: Sending,
    post: Post,
    /// Perhaps for an exchange that was given up since: once for each connection, or who gives up often would make others wait.
    in_outbox: bool,
    /// When it was begun, with those that were in the same go; of no meaning before.
    begun: Instant,
    unflushed: bool,
    /// The body on its way out.
    body: Option<Box<RequestBody>>,
    /// Whether it may have more.
    asking: bool,
    received: BytesMut,
    /// A piece of the answer's body, in front of what was received.
    large: Bytes,
    searched: usize,
    /// The fields of the answer.
    lines: Lines,
    method: Method,
    interim: u32,
    reading: Reading,
    keeps_alive: bool,
    /// What its exchanges wait with for the heads of their answers.
    pub(crate) timer: Timer,
}

/// How far the request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// Something is to be written, or to be asked for.
    Underway,
    /// All is written and flushed.
    Done,
    /// The backend takes no more. It may have answered nevertheless.
    Broken,
}

/// Where in the answer the reader stands.
#[derive(Debug)]
enum Reading {
    Head,
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    /// Whole.
    Done,
}

impl Connection {
    pub(crate) fn new(wire: Wire, limits: Limits) -> SharedConnection {
        Rc::new(RefCell::new(Connection {
            wire,
            limits,
            out: Vec::new(),
            piece: Bytes::new(),
            tail: b"",
            written: 0,
            sent: 0,
            framing: Outgoing::Length(0),
            sending: Sending::Done,
            post: Post::Begun(None),
            in_outbox: false,
            begun: Instant::now(),
            unflushed: false,
            body: None,
            asking: false,
            received: BytesMut::new(),
            large: Bytes::new(),
            searched: 0,
            lines: Lines::default(),
            method: Method::GET,
            interim: 0,
            reading: Reading::Done,
            keeps_alive: true,
            timer: Timer::default(),
        }))
    }

    /// Whether nothing has come since the last exchange, not even the end: what a backend says unasked is no answer to anybody (S35).
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.received.is_empty() && self.wire.is_quiet()
    }

    /// Begins an exchange; `poll_answered` carries it on. Nothing is written yet. `own` writes the host and what is the gateway's, where `head` does not say it.
    pub(crate) fn begin(
        &mut self,
        head: &request::Parts,
        own: Option<&Writes<'_>>,
        body: Box<RequestBody>,
    ) {
        self.out.clear();
        self.framing = head::write(head, own, &mut self.out);
        self.asking = !body.is_end_stream();
        self.tail = match self.framing {
            Outgoing::Chunked if !self.asking => LAST_CHUNK,
            _ => b"",
        };
        self.body = Some(body);
        self.piece = Bytes::new();
        self.written = 0;
        self.sent = 0;
        self.sending = Sending::Underway;
        self.post = Post::Open;
        self.searched = 0;
        self.interim = 0;
        self.method = head.method.clone();
        self.reading = Reading::Head;
        self.keeps_alive = false;
    }

    /// Sends what can be sent, and waits for the head of the answer; interim ones are passed over.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<StatusCode, Fault>> {
        // Whatever is ready of the request is written before anybody looks for the answer.
        self.send(cx)?;
        loop {
            let count = match self.wire.poll_fill(cx, &mut self.received, 0) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.ended("closed"))),
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.ended(&error.to_string()))),
            };
            debug_assert!(count > 0, "an end was told apart above");
            while let Some(start) = head::take(
                &mut self.received,
                &mut self.searched,
                &self.method,
                &self.limits,
                &mut self.lines,
            )? {
                if start.status.is_informational()
                    && start.status != StatusCode::SWITCHING_PROTOCOLS
                {
                    self.interim += 1;
                    if self.interim > INTERIM_MAX {
                        let endless = "too many interim answers";
                        return Poll::Ready(Err(Fault::Protocol(endless)));
                    }
                    continue;
                }
                self.reading = match start.framing {
                    Framing::Length(0) => Reading::Done,
                    Framing::Length(length) => Reading::Length(length),
                    Framing::Chunked => Reading::Chunked(Chunks::new()),
                    Framing::UntilClose => Reading::UntilClose,
                };
                self.keeps_alive = start.keeps_alive;
                self.body.take_if(|_| !self.asking);
                return Poll::Ready(Ok(start.status));
            }
        }
    }

    /// The fields of the answer whose head has come.
    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Makes a map of them, in the room of this one, and lets go of them.
    ///
    /// # Errors
    /// A field that no map takes.
    pub(crate) fn map_lines(&mut self, fields: &mut HeaderMap) -> Result<(), Fault> {
        let mapped = self.lines.to_map(fields);
        self.forget_lines();
        mapped
    }

    /// Lets go of them.
    pub(crate) fn forget_lines(&mut self) {
        self.lines.clear();
    }

    /// The body of a request of which nothing was sent, as it was.
    pub(crate) fn take_back(&mut self) -> Option<Box<RequestBody>> {
        let piece = std::mem::take(&mut self.piece);
        let mut body = self.body.take()?;
        if !piece.is_empty() {
            body.put_back(piece);
        }
        Some(body)
    }

    /// Whether some of the request is still to be written.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending == Sending::Underway
    }

    /// Whether another exchange may follow: both messages are whole, the backend has not said otherwise, and nothing is left over (S35).
    pub(crate) fn is_reusable(&self) -> bool {
        let is_sent = self.sending == Sending::Done;
        self.keeps_alive && is_sent && self.is_end_stream() && self.received.is_empty()
    }

    /// Sends the rest of a request whose answer is whole.
    pub(crate) async fn send_rest(this: SharedConnection) {
        std::future::poll_fn(|cx| {
            let mut connection = this.borrow_mut();
            match connection.send(cx) {
                Ok(()) if connection.sending == Sending::Underway => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
    }

    #[cfg(test)]
    pub(crate) fn break_off(&mut self) {
        self.wire.break_off();
    }

    /// The socket after a 101, and what came behind that head.
    pub(crate) fn into_parts(this: SharedConnection) -> (Wire, Bytes) {
        let connection = Rc::into_inner(this).expect("it has one holder");
        let Connection { wire, received, .. } = connection.into_inner();
        (wire, received.freeze())
    }

    fn ended(&self, how: &str) -> Fault {
        if self.sent == 0 {
            return Fault::Unsent(how.to_owned());
        }
        Fault::Ended {
            answering: !self.received.is_empty() || self.interim > 0,
            detail: format!("the connection ended before the answer did: {how}"),
        }
    }

    /// Writes what can be written. A backend that takes no more may have answered, so that only a request of which nothing was taken is an error.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        while self.sending == Sending::Underway {
            let awaited = self.fetch(cx)?;
            match self.poll_write(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) if self.sent == 0 => {
                    return Err(Fault::Unsent(error.to_string()));
                }
                Poll::Ready(Err(_)) => {
                    self.sending = Sending::Broken;
                    self.body = None;
                    return Ok(());
                }
            }
            if awaited || !self.asking {
                let flushed = self.poll_flush(cx).is_ready();
                if flushed && !self.asking {
                    self.sending = Sending::Done;
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// Asks the body for its next piece, once the last one is written. Whether the client is waited for.
    fn fetch(&mut self, cx: &mut Context<'_>) -> Result<bool, Fault> {
        let is_written = self.piece.is_empty() && self.tail.is_empty();
        let Some(body) = self.body.as_mut().filter(|_| self.asking && is_written) else {
            return Ok(false);
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Pending => return Ok(true),
            Poll::Ready(Some(Ok(frame))) => {
                // Trailers do not go on (S11).
                let data = frame.into_data().unwrap_or_default();
                self.frame(data)?;
            }
            Poll::Ready(Some(Err(_))) => return Err(Fault::Client),
            Poll::Ready(None) => self.end_body()?,
        }
        Ok(false)
    }

    fn end_body(&mut self) -> Result<(), Fault> {
        self.asking = false;
        match self.framing {
            Outgoing::Length(0) => {}
            Outgoing::Length(_) => return Err(Fault::Client),
            Outgoing::Chunked => self.tail = LAST_CHUNK,
        }
        Ok(())
    }

    /// Puts a piece of the body behind what is still to be written, framed.
    fn frame(&mut self, data: Bytes) -> Result<(), Fault> {
        let ended = self.body.as_ref().is_none_or(Body::is_end_stream);
        self.asking = !ended;
        match &mut self.framing {
            Outgoing::Length(rest) => {
                // A body that is longer than it says would be the start of the next request (S1), one that is shorter would swallow it.
                let left = rest.checked_sub(data.len() as u64);
                *rest = left
                    .filter(|left| !ended || *left == 0)
                    .ok_or(Fault::Client)?;
            }
            Outgoing::Chunked if data.is_empty() => {
                self.tail = if ended { LAST_CHUNK } else { b"" }
            }
            Outgoing::Chunked => {
                // Writing to a vector cannot fail.
                let _ = write!(self.out, "{:x}\r\n", data.len());
                self.tail = if ended { b"\r\n0\r\n\r\n" } else { b"\r\n" };
            }
        }
        self.piece = data;
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let (head, piece) = (self.out.len(), self.piece.len());
            let total = head + piece + self.tail.len();
            if self.written == total {
                break;
            }
            let after_head = self.written.saturating_sub(head);
            let parts = [
                IoSlice::new(&self.out[self.written.min(head)..]),
                IoSlice::new(&self.piece[after_head.min(piece)..]),
                IoSlice::new(&self.tail[after_head.saturating_sub(piece)..]),
            ];
            let count = ready!(self.wire.poll_write(cx, &parts))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.sent += count as u64;
            self.unflushed = true;
        }
        self.written = 0;
        self.out.clear();
        self.piece = Bytes::new();
        self.tail = b"";
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.unflushed {
            // An error shows when the answer is read.
            let _ = ready!(self.wire.poll_flush(cx));
            self.unflushed = false;
        }
        Poll::Ready(())
    }
}

/// Interim answers to one request, 100 and 101 aside, that are borne (S40).
const INTERIM_MAX: u32 = 64;
/// Ends a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
