//! The body of every answer: text of ours or a backend's stream, with the account that closes when it ends.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use http_body::Frame;
use http_body::SizeHint;

use crate::upstream::BodyFault;
use crate::upstream::Outcome;
use crate::upstream::ResponseBody;

use super::account::Account;
use super::account::Deed;
use super::account::End;
use super::guarded::Guarded;

/// An answer's body. Dropping it, at its end or before, counts and logs the request.
#[derive(Debug)]
pub struct Body {
    source: Source,
    account: Account,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one; a box would cost every answer an allocation"
)]
enum Source {
    /// A refusal's text, until it is taken.
    Local(Option<Bytes>),
    /// The backend's.
    Upstream(ResponseBody),
    /// The backend's, read by a guard; boxed, since most routes have none.
    Guarded(Box<Guarded>),
}

impl Body {
    pub(crate) fn local(text: Bytes, account: Account) -> Body {
        let text = Some(text).filter(|text| !text.is_empty());
        Body {
            source: Source::Local(text),
            account,
        }
    }

    pub(crate) fn guarded(stream: Box<Guarded>, account: Account) -> Body {
        Body {
            source: Source::Guarded(stream),
            account,
        }
    }

    pub(crate) fn upstream(stream: ResponseBody, account: Account) -> Body {
        Body {
            source: Source::Upstream(stream),
            account,
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
        let frame = match &mut this.source {
            Source::Local(text) => text.take().map(|text| Ok(Frame::data(text))),
            Source::Upstream(stream) => ready!(Pin::new(stream).poll_frame(context)),
            Source::Guarded(stream) => {
                let frame = ready!(Pin::new(&mut **stream).poll_frame(context));
                if let Some(fault) = stream.take_news() {
                    let deed = Deed::at_sight(stream.guard());
                    this.account.guard_found(stream.guard(), fault, deed);
                }
                frame
            }
        };
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            this.account.sent_bytes += bytes as u64;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Local(text) => text.is_none(),
            Source::Upstream(stream) => stream.is_end_stream(),
            Source::Guarded(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Local(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Upstream(stream) => stream.size_hint(),
            Source::Guarded(stream) => stream.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.account.end = match &self.source {
            Source::Local(None) => End::Complete,
            Source::Local(Some(_)) => End::ClientLeft,
            Source::Upstream(stream) => end(stream, &mut self.account),
            Source::Guarded(stream) => {
                self.account.guard_removed(stream.guard(), stream.removed());
                match stream.cut_for() {
                    Some(_) => {
                        self.account.received_bytes = stream.stream().request_bytes();
                        End::GuardCut
                    }
                    None if stream.is_unsent() => self.account.left(),
                    None => end(stream.stream(), &mut self.account),
                }
            }
        };
    }
}

fn end(stream: &ResponseBody, account: &mut Account) -> End {
    account.received_bytes = stream.request_bytes();
    match stream.outcome() {
        Outcome::Completed => End::Complete,
        Outcome::Unfinished => account.left(),
        Outcome::BrokeOff => End::UpstreamCut,
        Outcome::TimedOut => End::TimedOut,
        Outcome::ClientFailed => End::ClientFailed,
    }
}
