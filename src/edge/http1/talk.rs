//! One HTTP/1.1 connection's bytes: requests are read from it as they are asked for, answers written to it as it takes them.
//!
//! Shared by the connection's own task and whoever reads the body of the request under way: that is the exchange with the backend, within the same task but for
//! its beginning (`upstream/outbox.rs`), or after an early answer a task that throws the rest away. A connection that waits holds no buffer.

use std::cell::RefCell;
use std::io;
use std::io::IoSlice;
use std::io::Write;
use std::pin::Pin;
use std::pin::pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::response::Parts;
use http_body::Body;
use http_body::Frame;
use tokio::task::yield_now;

use crate::handler::Answered;
use crate::upstream::BodySource;
use crate::upstream::ClientFault;

use super::answer;
use super::answer::Asked;
use super::answer::Framing;
use super::head;
use super::head::Head;
use super::head::Limits;
use super::head::Lines;
use super::head::Seen;
use super::head::Unfit;
use super::incoming::Incoming;
use super::reading::Reading;
use super::spare;

/// The connection, and where both of its directions stand.
#[derive(Debug)]
pub(super) struct Talk<T> {
    /// `None` once the connection has ended, or HTTP on it.
    io: Option<T>,
    received: BytesMut,
    seen: Seen,
    /// Others have had their turn since the last piece of a long head.
    gave_way: bool,
    reading: Reading,
    /// The client waits for a 100, and has not had it.
    awaits_100: bool,
    /// The 100 is being written.
    continues: bool,
    /// Nobody reads what is left of the body.
    abandoned: bool,
    /// Who waits for the end of a body that somebody else reads.
    waiting: Option<Waker>,
    /// Who reads it, and is to be told when the connection ends.
    reader: Option<Waker>,
    /// Heads and framing that are written before `piece`.
    out: Vec<u8>,
    /// A piece of the answer's body.
    piece: Bytes,
    /// Framing that is written after it.
    tail: &'static [u8],
    /// How much of the three is written.
    written: usize,
    unflushed: bool,
    answering: Answering,
}

/// How far the answer's body is.
#[derive(Debug)]
enum Answering {
    Body(Framing),
    Done,
}

/// Why a connection ends in the middle of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The client went away.
    Client,
    /// The answer broke off.
    Answer,
}

impl<T: Incoming> Talk<T> {
    pub(super) fn new(io: T) -> Talk<T> {
        Talk {
            io: Some(io),
            received: BytesMut::new(),
            seen: Seen::default(),
            gave_way: false,
            reading: Reading::Done,
            awaits_100: false,
            continues: false,
            abandoned: false,
            waiting: None,
            reader: None,
            out: Vec::new(),
            piece: Bytes::new(),
            tail: b"",
            written: 0,
            unflushed: false,
            answering: Answering::Done,
        }
    }

    /// Whether nothing has come since the last request.
    pub(super) fn is_quiet(&self) -> bool {
        self.received.is_empty()
    }

    /// The next request's head; `None` when the client has closed instead.
    ///
    /// # Errors
    /// What is no request.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        limits: &Limits,
    ) -> Poll<Result<Option<Lines>, Unfit>> {
        loop {
            if !self.received.is_empty() {
                let (received, seen) = (&mut self.received, &mut self.seen);
                if let Some(head) = head::take(received, seen, limits)? {
                    return Poll::Ready(Ok(Some(head)));
                }
            }
            // A head this long is an attack more often than not: whoever is ready by now goes before each further piece (S22).
            if self.received.len() >= PROMPT_HEAD_BYTES && !self.gave_way {
                self.gave_way = true;
                let _ = pin!(yield_now()).poll(cx);
                return Poll::Pending;
            }
            let filled = ready!(self.poll_fill(cx));
            self.gave_way = false;
            match filled {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// What follows this head.
    pub(super) fn expect(&mut self, head: &Head) {
        self.reading = Reading::of(head.framing);
        self.awaits_100 = head.expects_continue && !self.has_read();
        self.abandoned = false;
    }

    /// Whether the request has been read to its end.
    pub(super) fn has_read(&self) -> bool {
        matches!(self.reading, Reading::Done)
    }

    /// Whether what is left of the request can never be read, so that no other can follow it. A body that nobody wants is thrown away as far as it is there.
    pub(super) fn is_lost(&mut self) -> bool {
        if self.abandoned {
            while let Ok(Some(_)) = self.reading.take(&mut self.received) {}
        }
        match self.reading {
            Reading::Done => false,
            Reading::Length(_) | Reading::Chunked(_) => self.abandoned,
            Reading::Broken(_) => true,
        }
    }

    /// Whether the client's own framing was broken.
    pub(super) fn is_malformed(&self) -> bool {
        matches!(self.reading, Reading::Broken(ClientFault::Malformed))
    }

    /// Waits until somebody else has read the rest of the request, or given it up.
    pub(super) fn poll_read_by_others(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_read() || self.is_lost() {
            return Poll::Ready(());
        }
        self.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits for the client to go away while it waits for us (S38). What it sends ahead is kept, one piece of it.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.has_read() || !self.received.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.poll_fill(cx)) {
            Ok(1..) => Poll::Pending,
            Ok(0) | Err(_) => Poll::Ready(()),
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Some(io) => io.poll_more(cx, &mut self.received),
            None => Poll::Ready(Ok(0)),
        }
    }

    /// Begins an answer: says whether it is the last one on the connection. Nothing is written yet.
    pub(super) fn begin(
        &mut self,
        head: &Parts,
        body: &mut impl Answered,
        asked: Asked,
        is_last: bool,
        tick: u32,
    ) -> bool {
        let length = match body.is_end_stream() {
            true => Some(0),
            false => body.size_hint().exact(),
        };
        if self.out.capacity() == 0 {
            self.out = spare::buffer();
        }
        // A 100 now would be taken for an answer to what comes next, and what comes next may be this body or another request.
        let awaited_100 = std::mem::take(&mut self.awaits_100);
        let is_last = is_last || awaited_100 || self.is_lost();
        self.continues = false;
        let more = |out: &mut Vec<u8>| body.write_fields(out);
        let begun = answer::write(head, more, length, asked, is_last, tick, &mut self.out);
        self.answering = match begun.framing {
            Framing::Length(0) => Answering::Done,
            framing => Answering::Body(framing),
        };
        begun.is_last
    }

    /// Whether the answer's body is to be asked for its next piece.
    fn wants_piece(&self) -> bool {
        let is_written = self.piece.is_empty() && self.tail.is_empty();
        is_written && matches!(self.answering, Answering::Body(_))
    }

    /// Puts a piece of the answer's body behind what is still to be written, framed; `ended` says that it was the last.
    fn put(&mut self, frame: Option<Frame<Bytes>>, ended: bool) -> Result<(), Broken> {
        let Answering::Body(framing) = &mut self.answering else {
            return Ok(());
        };
        let (data, trailers, ended) = match frame.map(Frame::into_data) {
            Some(Ok(data)) => (data, None, ended),
            Some(Err(frame)) => (Bytes::new(), frame.into_trailers().ok(), true),
            None => (Bytes::new(), None, true),
        };
        match framing {
            Framing::Length(rest) => {
                // A body that is longer than it says would be the start of the next answer, one that is shorter would swallow it.
                let left = rest.checked_sub(data.len() as u64);
                let left = left.filter(|left| !ended || *left == 0);
                *rest = left.ok_or(Broken::Answer)?;
            }
            Framing::UntilClose => {}
            Framing::Chunked(named) => {
                let trailers = trailers.filter(|_| !named.is_empty());
                self.tail = frame_chunk(data.len(), trailers, named, ended, &mut self.out);
            }
        }
        if ended || matches!(framing, Framing::Length(0)) {
            self.answering = Answering::Done;
        }
        self.piece = data;
        Ok(())
    }

    /// Writes what there is; done when the client has it. `waits` says that more comes later.
    fn poll_put(&mut self, cx: &mut Context<'_>, waits: bool) -> Poll<Result<(), Broken>> {
        ready!(self.poll_write(cx)).map_err(|_| Broken::Client)?;
        if waits || matches!(self.answering, Answering::Done) {
            ready!(self.poll_flush(cx)).map_err(|_| Broken::Client)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        loop {
            let (head, piece) = (self.out.len(), self.piece.len());
            if self.written == head + piece + self.tail.len() {
                break;
            }
            let after_head = self.written.saturating_sub(head);
            let parts = [
                IoSlice::new(&self.out[self.written.min(head)..]),
                IoSlice::new(&self.piece[after_head.min(piece)..]),
                IoSlice::new(&self.tail[after_head.saturating_sub(piece)..]),
            ];
            let count = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &parts))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.unflushed = true;
        }
        self.written = 0;
        self.out.clear();
        self.piece = Bytes::new();
        self.tail = b"";
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed
            && let Some(io) = &mut self.io
        {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Lets go of what a connection that waits does not need.
    pub(super) fn rest(&mut self) {
        spare::keep_buffer(std::mem::take(&mut self.out));
        if self.received.is_empty() {
            self.received = BytesMut::new();
        }
        self.answering = Answering::Done;
    }

    /// Writes what is left, and closes our side in order.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_write(cx)).is_ok()
            && let Some(io) = &mut self.io
        {
            // An error is as much of an end as any.
            let _ = ready!(Pin::new(io).poll_shutdown(cx));
        }
        Poll::Ready(())
    }

    /// The connection, of which HTTP lets go, and what was read of it ahead.
    pub(super) fn let_go(&mut self) -> Option<(T, Bytes)> {
        let early = std::mem::take(&mut self.received).freeze();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        self.io.take().map(|io| (io, early))
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClientFault>>> {
        loop {
            match self.reading.take(&mut self.received) {
                Ok(Some(data)) => {
                    self.tell_if_read();
                    return Poll::Ready(Some(Ok(data)));
                }
                Ok(None) if self.has_read() => {
                    self.tell_if_read();
                    return Poll::Ready(None);
                }
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
            self.poll_continue(cx);
            match self.poll_fill(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.reading = Reading::Broken(ClientFault::Gone);
                    self.tell_if_read();
                }
                Poll::Pending => {
                    self.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }

    /// Tells the client to send, since somebody wants to read. An error shows when the answer is written.
    fn poll_continue(&mut self, cx: &mut Context<'_>) {
        if self.awaits_100 {
            self.awaits_100 = false;
            self.continues = true;
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if self.continues && self.poll_put(cx, true).is_ready() {
            self.continues = false;
        }
    }

    fn tell_if_read(&mut self) {
        if matches!(self.reading, Reading::Done | Reading::Broken(_))
            && let Some(waiting) = self.waiting.take()
        {
            waiting.wake();
        }
    }
}

/// Carries an answer on until the client has all of it. The body is asked while nobody holds the connection, from which it may be reading itself.
///
/// # Errors
/// When the client takes no more, or the body breaks off.
pub(super) fn poll_answer<T, B>(
    talk: &RefCell<Talk<T>>,
    cx: &mut Context<'_>,
    body: &mut B,
) -> Poll<Result<(), Broken>>
where
    T: Incoming,
    B: Answered + Unpin,
{
    loop {
        // A piece that is there already goes out with the head.
        let wants = talk.borrow().wants_piece();
        let waits = wants
            && match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => true,
                Poll::Ready(frame) => {
                    let frame = frame.transpose().map_err(|_| Broken::Answer)?;
                    talk.borrow_mut().put(frame, body.is_end_stream())?;
                    false
                }
            };
        let mut talk = talk.borrow_mut();
        ready!(talk.poll_put(cx, waits))?;
        if waits {
            return Poll::Pending;
        }
        if matches!(talk.answering, Answering::Done) {
            return Poll::Ready(Ok(()));
        }
    }
}

/// Writes what stands before a chunk of this length (RFC 9112 section 7.1), or the end of the body; what stands behind it.
fn frame_chunk(
    length: usize,
    trailers: Option<HeaderMap>,
    named: &[HeaderName],
    ended: bool,
    out: &mut Vec<u8>,
) -> &'static [u8] {
    if length > 0 {
        // Writing to a vector cannot fail.
        let _ = write!(out, "{length:x}\r\n");
        return if ended { b"\r\n0\r\n\r\n" } else { b"\r\n" };
    }
    let Some(mut trailers) = trailers else {
        return if ended { b"0\r\n\r\n" } else { b"" };
    };
    keep_named(&mut trailers, named);
    out.extend_from_slice(b"0\r\n");
    answer::write_fields(&trailers, out);
    b""
}

/// RFC 9110 section 6.5.1: those that the head has announced.
fn keep_named(trailers: &mut HeaderMap, named: &[HeaderName]) {
    let others = trailers.keys().filter(|name| !named.contains(name));
    let others: Vec<HeaderName> = others.cloned().collect();
    for name in &others {
        trailers.remove(name);
    }
}

/// The body of the request under way. Dropped before its end, the connection learns that nobody reads it.
#[derive(Debug)]
pub(super) struct Upload<T>(pub(super) Rc<RefCell<Talk<T>>>);

impl<T: Incoming> BodySource for Upload<T> {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClientFault>>> {
        self.0.borrow_mut().poll_data(cx)
    }

    fn has_ended(&self) -> bool {
        self.0.borrow().has_read()
    }

    fn length(&self) -> Option<u64> {
        self.0.borrow().reading.length()
    }
}

impl<T> Drop for Upload<T> {
    fn drop(&mut self) {
        let mut talk = self.0.borrow_mut();
        talk.abandoned = true;
        if let Some(waiting) = talk.waiting.take() {
            waiting.wake();
        }
    }
}

/// As much of a head as is read without giving way to others, bytes: what one TLS record holds.
const PROMPT_HEAD_BYTES: usize = 16 * 1024;
