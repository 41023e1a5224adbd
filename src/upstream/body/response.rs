//! A backend's body on its way to the client.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;

use crate::model::fields::Fields;
use crate::upstream::body::BodyFault;
use crate::upstream::body::Upload;
use crate::upstream::deadline::Silence;
use crate::upstream::headers::Identity;
use crate::upstream::headers::Passing;
use crate::upstream::headers::clean_trailers;
use crate::upstream::health::Health;
use crate::upstream::http1::SharedConnection;
use crate::upstream::http2::Stream;
use crate::upstream::link::Ticket;
use crate::upstream::pool::Lease;

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
pub(in crate::upstream) enum Source {
    /// A connection of its own, until it has ended.
    Own(Option<SharedConnection>),
    /// One stream of a shared connection.
    Shared(Stream),
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Source::Own(None) => Poll::Ready(None),
            Source::Own(Some(connection)) => {
                let frame = connection.borrow_mut().poll_frame(cx);
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
                .is_none_or(|connection| connection.borrow().is_end_stream()),
            Source::Shared(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Source::Own(None) => SizeHint::with_exact(0),
            Source::Own(Some(connection)) => connection.borrow().size_hint(),
            Source::Shared(stream) => stream.size_hint(),
        }
    }

    /// The connection of its own, which has ended its exchange.
    fn take(&mut self) -> Option<SharedConnection> {
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
pub(in crate::upstream) enum Hold {
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
    pub(in crate::upstream) fn new(
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
    pub(in crate::upstream) fn pass(&mut self, passing: Passing) {
        self.passing = Some(passing);
    }

    pub(in crate::upstream) fn identity(&self) -> &Identity {
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
        let mut connection = connection.borrow_mut();
        let is_dated = passing.write(connection.lines(), &self.identity, is_ours, out);
        connection.forget_lines();
        is_dated
    }

    /// A number that is the same for answers whose fields have the same names in the same order, and seldom for others.
    #[must_use]
    pub fn shape(&self) -> u32 {
        match &self.incoming {
            Source::Own(Some(connection)) => connection.borrow().lines().shape(),
            Source::Own(None) | Source::Shared(_) => 0,
        }
    }

    /// Puts the same among the fields of an answer, and lets go of them; says the same, or `None` when no map takes them.
    #[must_use]
    pub fn put_fields(
        &mut self,
        is_ours: impl Fn(&[u8]) -> bool,
        fields: &mut Fields<'_>,
    ) -> Option<bool> {
        let (Some(passing), Source::Own(Some(connection))) =
            (self.passing.take(), &mut self.incoming)
        else {
            return None;
        };
        let mut connection = connection.borrow_mut();
        let put = passing.put(connection.lines(), &self.identity, is_ours, fields);
        connection.forget_lines();
        put
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
