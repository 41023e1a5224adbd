//! The body of every answer: text of ours or a backend's stream, with the account that closes when it ends.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf;
use bytes::Bytes;
use http_body::Body as _;
use http_body::Frame;
use http_body::SizeHint;

use crate::model::fields::Fields;
use crate::refusal::Refusal;
use crate::refusal::UpstreamFailure;
use crate::upstream::BodyFault;
use crate::upstream::Outcome;
use crate::upstream::ResponseBody;

use super::account::Account;
use super::account::Deed;
use super::account::End;
use super::answer;
use super::guarded::Guarded;

/// An answer's body. Dropping it, at its end or before, counts and logs the request.
#[derive(Debug)]
pub struct Body {
    source: Source,
    /// `None` for a 101, whose account goes on with its tunnel.
    account: Option<Box<Account>>,
}

#[derive(Debug)]
enum Source {
    /// A refusal's words, until they are taken.
    Local(Option<Words>),
    /// The backend's.
    Upstream(Box<ResponseBody>),
    /// The backend's, read by a guard; boxed, since most routes have none.
    Guarded(Box<Guarded>),
    /// Nothing more; the account knows how it ended.
    Closed,
}

/// What the gateway itself answers: a text, and before it fields of the head as lines, where the answer's map has none.
#[derive(Debug)]
pub(crate) struct Words {
    bytes: Bytes,
    /// Bytes of the fields.
    fields: usize,
}

impl Words {
    /// Of both, and how long the former are.
    pub(crate) fn with_fields(bytes: Vec<u8>, fields: usize) -> Words {
        Words {
            bytes: bytes.into(),
            fields,
        }
    }

    fn text_bytes(&self) -> usize {
        self.bytes.len() - self.fields
    }

    fn write_fields(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes[..self.fields]);
        self.bytes.advance(self.fields);
        self.fields = 0;
    }
}

impl From<Bytes> for Words {
    fn from(bytes: Bytes) -> Words {
        Words { bytes, fields: 0 }
    }
}

/// The body of an answer, which may hold fields of its head.
pub trait Answered: http_body::Body<Data = Bytes> {
    /// Writes fields of the head behind what `out` holds, line by line: those that do not stand in the map that the head has. Says whether a date is
    /// among them. To be called once, before any of the body is asked for.
    fn write_fields(&mut self, _out: &mut Vec<u8>) -> bool {
        false
    }

    /// Whether there are such fields.
    fn has_fields(&self) -> bool {
        false
    }

    /// Puts the same among the fields of an answer over HTTP/2, and says the same; `None` when no map takes them.
    fn put_fields(&mut self, _fields: &mut Fields<'_>) -> Option<bool> {
        None
    }

    /// A number that is the same for answers whose fields of that kind have the same names in the same order, and seldom for others.
    fn shape(&self) -> u32 {
        0
    }
}

impl Answered for Body {
    fn write_fields(&mut self, out: &mut Vec<u8>) -> bool {
        match (&mut self.source, &self.account) {
            (Source::Upstream(stream), Some(account)) if stream.has_fields() => {
                answer::write_fields(stream, account, out)
            }
            (Source::Local(Some(words)), _) => {
                words.write_fields(out);
                false
            }
            _ => false,
        }
    }

    fn has_fields(&self) -> bool {
        matches!(&self.source, Source::Upstream(stream) if stream.has_fields())
    }

    fn put_fields(&mut self, fields: &mut Fields<'_>) -> Option<bool> {
        match (&mut self.source, &self.account) {
            (Source::Upstream(stream), Some(account)) => {
                answer::put_fields(stream, account, fields)
            }
            _ => None,
        }
    }

    fn shape(&self) -> u32 {
        match (&self.source, &self.account) {
            (Source::Upstream(stream), Some(account)) => {
                // Behind a backend's fields come those of its windows.
                stream.shape() ^ account.windows()
            }
            _ => 0,
        }
    }
}

impl Answered for http_body_util::Full<Bytes> {}
impl Answered for http_body_util::Empty<Bytes> {}

impl Body {
    pub(crate) fn local(words: impl Into<Words>, account: Box<Account>) -> Body {
        let words = Some(words.into()).filter(|words| !words.bytes.is_empty());
        Body {
            source: Source::Local(words),
            account: Some(account),
        }
    }

    /// That of a 101.
    pub(crate) fn none() -> Body {
        Body {
            source: Source::Local(None),
            account: None,
        }
    }

    /// The backend's next frame on its way to a gRPC client. When the key ends first, or the time is up, what is left is not cut but ends in trailers
    /// that say so (FA9); that a backend broke off still looks broken off (S34).
    fn poll_grpc(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let Source::Upstream(stream) = &mut self.source else {
            return Poll::Ready(None);
        };
        let flight = self.account.as_deref().and_then(Account::flight);
        let frame = match flight.map(Rc::clone) {
            Some(flight) => ready!(
                flight.poll_unless_ended(context, |context| Pin::new(stream).poll_frame(context))
            ),
            None => Ok(ready!(Pin::new(stream).poll_frame(context))),
        };
        let refusal = match frame {
            Err(ended) => ended.refusal(),
            Ok(Some(Err(BodyFault::UpstreamSilent))) => {
                Refusal::Upstream(UpstreamFailure::ResponseTimeout)
            }
            Ok(frame) => return Poll::Ready(frame),
        };
        self.close();
        Poll::Ready(Some(Ok(Frame::trailers(refusal.grpc_trailers()))))
    }

    /// Lets the backend go.
    fn close(&mut self) {
        if let Source::Upstream(stream) = std::mem::replace(&mut self.source, Source::Closed)
            && let Some(account) = &mut self.account
        {
            account.end = end_of(&stream, account);
        }
    }

    pub(crate) fn guarded(stream: Box<Guarded>, account: Box<Account>) -> Body {
        Body {
            source: Source::Guarded(stream),
            account: Some(account),
        }
    }

    pub(crate) fn upstream(stream: Box<ResponseBody>, account: Box<Account>) -> Body {
        Body {
            source: Source::Upstream(stream),
            account: Some(account),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        let grpc = (this.account.as_deref()).is_some_and(Account::ends_in_trailers);
        let frame = match &mut this.source {
            Source::Local(words) => words.take().map(|words| Ok(Frame::data(words.bytes))),
            Source::Upstream(_) if grpc => ready!(this.poll_grpc(context)),
            Source::Upstream(stream) => ready!(Pin::new(stream).poll_frame(context)),
            Source::Closed => None,
            Source::Guarded(stream) => {
                let frame = ready!(Pin::new(&mut **stream).poll_frame(context));
                if let Some(fault) = stream.take_news() {
                    let deed = Deed::at_sight(stream.guard());
                    if let Some(account) = &mut this.account {
                        account.guard_found(stream.guard(), fault, deed);
                    }
                }
                frame
            }
        };
        if let (Some(Ok(frame)), Some(account)) = (&frame, &mut this.account) {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            account.sent_bytes += bytes as u64;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Local(words) => words.is_none(),
            Source::Upstream(stream) => stream.is_end_stream(),
            Source::Closed => true,
            Source::Guarded(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Local(words) => {
                let length = words.as_ref().map_or(0, Words::text_bytes);
                SizeHint::with_exact(length as u64)
            }
            Source::Upstream(stream) => stream.size_hint(),
            Source::Closed => SizeHint::with_exact(0),
            Source::Guarded(stream) => stream.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let Some(account) = &mut self.account else {
            return;
        };
        account.end = match &self.source {
            Source::Closed => return,
            Source::Local(None) => End::Complete,
            Source::Local(Some(_)) => End::ClientLeft,
            Source::Upstream(stream) => end_of(stream, account),
            Source::Guarded(stream) => {
                account.guard_removed(stream.guard(), stream.removed());
                match stream.cut_for() {
                    Some(_) => {
                        account.received_bytes = stream.stream().request_bytes();
                        End::GuardCut
                    }
                    None if stream.is_unsent() => account.left(),
                    None => end_of(stream.stream(), account),
                }
            }
        };
    }
}

fn end_of(stream: &ResponseBody, account: &mut Account) -> End {
    account.received_bytes = stream.request_bytes();
    match stream.outcome() {
        Outcome::Completed => End::Complete,
        Outcome::Unfinished => account.left(),
        Outcome::BrokeOff => End::UpstreamCut,
        Outcome::TimedOut => End::TimedOut,
        Outcome::ClientFailed => End::ClientFailed,
    }
}
