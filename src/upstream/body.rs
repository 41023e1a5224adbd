//! Bodies on their way: counted, bounded, never held whole; a broken one looks broken at the other end.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use bytes::BytesMut;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use tokio::time::Instant;

use crate::upstream::client::ClientBody;
use crate::upstream::client::ClientFault;
use crate::upstream::deadline::Silence;
use crate::upstream::drain::Unread;
use crate::upstream::drain::drain;
use crate::upstream::headers::Identity;
use crate::upstream::headers::Passing;
use crate::upstream::headers::clean_trailers;
use crate::upstream::health::Health;
use crate::upstream::http1::Connection;
use crate::upstream::http2::Stream;
use crate::upstream::inject::Inject;
use crate::upstream::link::Ticket;
use crate::upstream::pool::Lease;

/// What the forwarder knows of the client's body while it is being sent.
#[derive(Debug, Default)]
pub(super) struct Upload {
    bytes: Cell<u64>,
    complete: Cell<bool>,
    awaits_client: Cell<bool>,
    progressed: Cell<Option<Instant>>,
    fault: Cell<Option<BodyFault>>,
    /// Set when the answer was given up: then nobody waits for a polite end of the body either.
    abandoned: Cell<bool>,
}

impl Upload {
    /// Bytes that the client has sent so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether it is the client that everybody waits for: then the backend's time does not run.
    pub(super) fn awaits_client(&self) -> bool {
        self.awaits_client.get() && !self.complete.get()
    }

    /// When the connection last took a piece of the body; `None` before the first and without a body.
    pub(super) fn progressed(&self) -> Option<Instant> {
        self.progressed.get()
    }

    /// Why the body broke off, if it did.
    pub(super) fn fault(&self) -> Option<BodyFault> {
        self.fault.get()
    }
}

/// Why a body in transit was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// The client fell silent, or its time was up.
    ClientStalled,
    /// The client sent more than the route allows.
    TooLarge,
    /// The client's framing is broken (S3).
    Malformed,
    /// The client's body is not the JSON object that the route's guard can read (FM9).
    Unfit,
    /// The client went away.
    ClientGone,
    /// The backend fell silent, or the exchange ran out of time.
    UpstreamSilent,
    /// The backend's body ended before its end.
    UpstreamBroke,
    /// The guard found in the answer what may not go on.
    GuardCut,
}

impl From<ClientFault> for BodyFault {
    fn from(fault: ClientFault) -> BodyFault {
        match fault {
            ClientFault::Malformed => BodyFault::Malformed,
            ClientFault::Gone => BodyFault::ClientGone,
        }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            BodyFault::ClientStalled => "the client stalled while sending its body",
            BodyFault::TooLarge => "the client's body is larger than allowed",
            BodyFault::Malformed => "the client's body is not framed correctly",
            BodyFault::Unfit => "the client's body is not one JSON object",
            BodyFault::GuardCut => "the guard cut the answer",
            BodyFault::ClientGone => "the client went away while sending its body",
            BodyFault::UpstreamSilent => "the upstream's body did not go on in time",
            BodyFault::UpstreamBroke => "the upstream's body broke off",
        })
    }
}

impl Error for BodyFault {}

/// A client's body on its way to a backend: counted, capped, its silences bounded, its trailers dropped (S11, S43).
#[derive(Debug)]
pub(super) struct RequestBody {
    /// `None` once it has ended in whatever way.
    incoming: Option<ClientBody>,
    upload: Rc<Upload>,
    bytes_max: u64,
    silence: Silence,
    /// What becomes of the rest when it is left before its end.
    unread: Unread,
    /// Rewrites it, where the route's guard says so.
    inject: Option<Box<Inject>>,
    /// A piece that was counted and taken, and then not sent.
    again: Option<Bytes>,
}

impl RequestBody {
    /// Wraps the client's body.
    pub(super) fn new(
        incoming: ClientBody,
        upload: Rc<Upload>,
        bytes_max: u64,
        silence: Silence,
        unread: Unread,
    ) -> RequestBody {
        let ended = incoming.is_end_stream();
        upload.complete.set(ended);
        RequestBody {
            incoming: (!ended).then_some(incoming),
            upload,
            bytes_max,
            silence,
            unread,
            inject: None,
            again: None,
        }
    }

    /// Rewrites what comes on its way through.
    pub(super) fn rewrite(&mut self, inject: Box<Inject>) {
        self.inject = Some(inject);
        self.upload.complete.set(false);
    }

    /// Gives back the first piece, of which nothing was sent: it comes once more.
    pub(super) fn put_back(&mut self, piece: Bytes) {
        self.again = Some(piece);
    }

    /// Takes back what was read of it before anything was sent: it goes on from there.
    pub(super) fn begin_again(&mut self, read: BytesMut) {
        let ended = self.incoming.is_none();
        let inject = self.inject.get_or_insert_with(|| Inject::nothing(ended));
        inject.put_back(read);
        self.upload.complete.set(inject.length() == Some(0));
    }

    /// Whether it is being rewritten.
    pub(super) fn is_rewritten(&self) -> bool {
        self.inject.is_some()
    }

    /// Reads and rewrites until the whole body is there, whose length is then known, or as much of it as may be held.
    pub(super) fn poll_gather(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<u64>, BodyFault>> {
        loop {
            match &self.inject {
                Some(inject) if !inject.has_ended() && !inject.is_full() => {
                    ready!(self.poll_more(cx))?;
                }
                Some(inject) => {
                    let length = inject.length();
                    self.upload.complete.set(length == Some(0));
                    return Poll::Ready(Ok(length));
                }
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// Rewrites one more piece of what the client sends, or its end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyFault>> {
        let frame = ready!(self.poll_plain(cx)).transpose()?;
        let data = frame.and_then(|frame| frame.into_data().ok());
        let Some(inject) = &mut self.inject else {
            return Poll::Ready(Ok(()));
        };
        let taken = match data {
            Some(data) => inject.feed(data),
            None => inject.finish(),
        };
        if taken.is_err() {
            let rest = self.incoming.take();
            if let Some(rest) = rest {
                drain(rest, self.unread.begun());
            }
            self.upload.fault.set(Some(BodyFault::Unfit));
            return Poll::Ready(Err(BodyFault::Unfit));
        }
        // The backend does not have what is ready here.
        self.upload.complete.set(false);
        Poll::Ready(Ok(()))
    }

    fn poll_rewritten(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        loop {
            let Some(inject) = &mut self.inject else {
                return Poll::Ready(None);
            };
            let next = inject.next();
            if inject.has_ended() {
                self.upload.complete.set(true);
                self.upload.progressed.set(Some(Instant::now()));
            }
            if next.is_some() || inject.has_ended() {
                return Poll::Ready(next.map(|data| Ok(Frame::data(data))));
            }
            if let Err(fault) = ready!(self.poll_more(cx)) {
                return Poll::Ready(Some(Err(fault)));
            }
        }
    }

    /// No body, for a request of our own.
    pub(super) fn none(upload: Rc<Upload>, silence: Silence, unread: Unread) -> RequestBody {
        upload.complete.set(true);
        RequestBody {
            incoming: None,
            upload,
            bytes_max: 0,
            silence,
            unread,
            inject: None,
            again: None,
        }
    }

    fn end(&mut self) {
        self.incoming = None;
        self.upload.complete.set(true);
        self.upload.progressed.set(Some(Instant::now()));
    }

    fn give_up(&mut self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let rest = self.incoming.take();
        if let Some(rest) = rest.filter(|_| fault == BodyFault::TooLarge) {
            drain(rest, self.unread.begun());
        }
        self.upload.fault.set(Some(fault));
        Poll::Ready(Some(Err(fault)))
    }

    fn take(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let bytes = self.upload.bytes.get().saturating_add(data.len() as u64);
        self.upload.bytes.set(bytes);
        if bytes > self.bytes_max {
            return self.give_up(BodyFault::TooLarge);
        }
        if self.silence.past_end() {
            return self.give_up(BodyFault::ClientStalled);
        }
        if self.incoming.as_ref().is_some_and(Body::is_end_stream) {
            self.end();
        } else {
            self.upload.progressed.set(Some(Instant::now()));
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl Drop for RequestBody {
    /// Left before its end: the backend failed, or answered early, or there was too much of it.
    fn drop(&mut self) {
        if let Some(rest) = self.incoming.take()
            && !self.upload.abandoned.get()
        {
            drain(rest, self.unread);
        }
    }
}

impl RequestBody {
    fn poll_plain(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self;
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(incoming).poll_frame(cx);
        this.upload.awaits_client.set(polled.is_pending());
        let Poll::Ready(frame) = polled else {
            ready!(this.silence.poll_expired(cx));
            return this.give_up(BodyFault::ClientStalled);
        };
        this.silence.broken();
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => this.take(data),
                Err(_trailers) => {
                    this.end();
                    Poll::Ready(None)
                }
            },
            Some(Err(fault)) => this.give_up(fault.into()),
            None => {
                this.end();
                Poll::Ready(None)
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if let Some(piece) = self.again.take() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.inject {
            Some(_) => self.poll_rewritten(cx),
            None => self.poll_plain(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        if self.again.is_some() {
            return false;
        }
        if let Some(inject) = &self.inject {
            return inject.length() == Some(0) && self.upload.fault.get().is_none();
        }
        // A body given up has not ended: claiming so would end the message towards the backend as if it were whole.
        self.incoming.is_none() && self.upload.fault.get().is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if let Some(inject) = &self.inject {
            let length = inject.length();
            return length.map_or_else(SizeHint::default, SizeHint::with_exact);
        }
        match &self.incoming {
            Some(incoming) => incoming.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// How an answer's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has not ended; said of a body that is being dropped, that the client left first.
    Unfinished,
    /// All of it was passed on.
    Completed,
    /// The backend broke off; the client saw its answer cut.
    BrokeOff,
    /// The backend fell silent or the exchange ran out of time; the client saw its answer cut.
    TimedOut,
    /// The client's own body failed while the answer was already flowing; the answer was cut.
    ClientFailed,
}

/// Where a backend's body comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// A connection of its own, until it has ended.
    Own(Option<Box<Connection>>),
    /// One stream of a shared connection.
    Shared(Stream),
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Source::Own(None) => Poll::Ready(None),
            Source::Own(Some(connection)) => {
                let frame = connection.poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map_err(|_| Broken)))
            }
            Source::Shared(stream) => {
                let frame = stream.poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map_err(|_| Broken)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Source::Own(connection) => connection
                .as_ref()
                .is_none_or(|connection| connection.is_end_stream()),
            Source::Shared(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Source::Own(None) => SizeHint::with_exact(0),
            Source::Own(Some(connection)) => connection.size_hint(),
            Source::Shared(stream) => stream.size_hint(),
        }
    }

    /// The connection of its own, which has ended its exchange.
    fn take(&mut self) -> Option<Box<Connection>> {
        match self {
            Source::Own(connection) => connection.take(),
            Source::Shared(_) => None,
        }
    }
}

/// A body that ended before its end; why is known elsewhere.
struct Broken;

/// What a body holds of the connection that it comes from, until it has ended.
#[derive(Debug)]
pub(super) enum Hold {
    /// All of it.
    Own(Lease),
    /// A stream. Boxed, so that the usual answer does not grow.
    Shared(Box<Ticket>),
}

impl Hold {
    fn health(&self) -> &Health {
        let server = match self {
            Hold::Own(lease) => lease.server(),
            Hold::Shared(ticket) => ticket.server(),
        };
        &server.health
    }
}

/// A backend's body on its way to the client: every wait bounded, a cut visible as a cut (S34). Dropping it unfinished closes the backend's
/// connection, or resets the one stream of a shared one (S38, S44); ending cleanly gives the connection back.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Source,
    /// The connection it comes from; gone once the body has ended.
    hold: Option<Hold>,
    upload: Rc<Upload>,
    silence: Silence,
    identity: Identity,
    /// How the answer's fields go on, where its head has none of them.
    passing: Option<Passing>,
    bytes: u64,
    outcome: Outcome,
    /// It broke off, and the client is about to be cut off.
    broke: bool,
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Source,
        hold: Hold,
        upload: Rc<Upload>,
        silence: Silence,
        identity: Identity,
    ) -> ResponseBody {
        let mut body = ResponseBody {
            incoming,
            hold: Some(hold),
            upload,
            silence,
            identity,
            passing: None,
            bytes: 0,
            outcome: Outcome::Unfinished,
            broke: false,
        };
        // Nobody polls a body that is over from the start (HEAD, 204, 304).
        if body.incoming.is_end_stream() {
            body.complete();
        }
        body
    }

    /// Keeps the answer's fields until they are asked for.
    pub(super) fn pass(&mut self, passing: Passing) {
        self.passing = Some(passing);
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the answer's fields are here and not in its head: all of them, but for framing, which is its writer's.
    #[must_use]
    pub fn has_fields(&self) -> bool {
        self.passing.is_some()
    }

    /// Writes them behind what `out` holds, without those that `is_ours`, and lets go of them; says whether a date is among them. To be called
    /// before any of the body is asked for.
    pub fn write_fields(&mut self, is_ours: impl Fn(&[u8]) -> bool, out: &mut Vec<u8>) -> bool {
        let (Some(passing), Source::Own(Some(connection))) =
            (self.passing.take(), &mut self.incoming)
        else {
            return false;
        };
        let is_dated = passing.write(connection.lines(), &self.identity, is_ours, out);
        connection.forget_lines();
        is_dated
    }

    /// Bytes of body passed on so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of body that the client has sent so far.
    #[must_use]
    pub fn request_bytes(&self) -> u64 {
        self.upload.bytes()
    }

    /// How it ended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    fn complete(&mut self) {
        self.outcome = Outcome::Completed;
        if let Some(hold) = &self.hold {
            hold.health().ended_well();
        }
        match self.hold.take() {
            Some(Hold::Own(lease)) => {
                if let Some(connection) = self.incoming.take() {
                    lease.release(connection);
                }
            }
            Some(Hold::Shared(ticket)) => ticket.finish(),
            None => {}
        }
    }

    fn cut(
        &mut self,
        outcome: Outcome,
        fault: BodyFault,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.outcome = outcome;
        if let (Outcome::TimedOut, Some(Hold::Shared(ticket))) = (outcome, &self.hold) {
            ticket.link().doubt();
        }
        // Silence at the end of the exchange may be the client's doing, who allowed so little time.
        if matches!(outcome, Outcome::BrokeOff | Outcome::TimedOut)
            && !self.silence.past_end()
            && let Some(hold) = &self.hold
        {
            hold.health().broke_off();
        }
        // Closes a connection of its own.
        self.incoming.take();
        self.hold = None;
        Poll::Ready(Some(Err(fault)))
    }

    fn pass_on(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match frame.into_data() {
            Ok(data) => {
                self.bytes += data.len() as u64;
                if self.incoming.is_end_stream() {
                    self.complete();
                } else if self.silence.past_end() {
                    return self.cut(Outcome::TimedOut, BodyFault::UpstreamSilent);
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => {
                self.complete();
                let Ok(mut trailers) = frame.into_trailers() else {
                    return Poll::Ready(None);
                };
                clean_trailers(&mut trailers, &self.identity);
                Poll::Ready((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))))
            }
        }
    }
}

impl Drop for ResponseBody {
    /// Left before its end: an HTTP/2 stream is reset only once the client's body, too, is let go.
    fn drop(&mut self) {
        if self.outcome == Outcome::Unfinished {
            self.upload.abandoned.set(true);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        if this.outcome != Outcome::Unfinished {
            return Poll::Ready(None);
        }
        if this.broke {
            return this.cut(Outcome::BrokeOff, BodyFault::UpstreamBroke);
        }
        let Poll::Ready(frame) = this.incoming.poll_frame(cx) else {
            ready!(this.silence.poll_expired(cx));
            return this.cut(Outcome::TimedOut, BodyFault::UpstreamSilent);
        };
        this.silence.broken();
        match frame {
            Some(Ok(frame)) => this.pass_on(frame),
            Some(Err(_)) => match this.upload.fault() {
                Some(fault) => this.cut(Outcome::ClientFailed, fault),
                None => {
                    // One turn later, so that the client gets what came before: with the cut at once it would get nothing, not even the head.
                    this.broke = true;
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            },
            None => {
                this.complete();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.outcome == Outcome::Completed
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
