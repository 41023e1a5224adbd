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
use super::account::End;

/// An answer's body. Dropping it, at its end or before, counts and logs the request.
#[derive(Debug)]
pub struct Body {
    source: Source,
    /// `None` for a 101, whose account goes on with its tunnel.
    account: Option<Account>,
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
}

impl Body {
    pub(crate) fn local(text: Bytes, account: Account) -> Body {
        let text = Some(text).filter(|text| !text.is_empty());
        Body {
            source: Source::Local(text),
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

    pub(crate) fn upstream(stream: ResponseBody, account: Account) -> Body {
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
        let frame = match &mut self.source {
            Source::Local(text) => text.take().map(|text| Ok(Frame::data(text))),
            Source::Upstream(stream) => ready!(Pin::new(stream).poll_frame(context)),
        };
        if let (Some(Ok(frame)), Some(account)) = (&frame, &mut self.account) {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            account.sent_bytes += bytes as u64;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Local(text) => text.is_none(),
            Source::Upstream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Local(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Upstream(stream) => stream.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let Some(account) = &mut self.account else {
            return;
        };
        account.end = match &self.source {
            Source::Local(None) => End::Complete,
            Source::Local(Some(_)) => End::ClientLeft,
            Source::Upstream(stream) => {
                account.received_bytes = stream.request_bytes();
                match stream.outcome() {
                    Outcome::Completed => End::Complete,
                    Outcome::Unfinished => account.left(),
                    Outcome::BrokeOff => End::UpstreamCut,
                    Outcome::TimedOut => End::TimedOut,
                    Outcome::ClientFailed => End::ClientFailed,
                }
            }
        };
    }
}
