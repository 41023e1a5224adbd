//! One request over HTTP/2 and its answer, as far as the client's windows let it go (RFC 9113 section 8.1).

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use h2::Reason;
use h2::SendStream;
use h2::server::SendResponse;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;
use http_body::Frame;

use crate::edge::BoxError;
use crate::edge::client::UnderWay;
use crate::edge::date;
use crate::handler::Answered;
use crate::handler::turn_was_taken;
use crate::handler::watch_turns;
use crate::model::fields::Fields;

use super::alike;

/// One request, from its head to the last byte of its answer. Dropped before that, it resets its stream (CANCEL).
pub(super) struct Exchange<F, B> {
    stage: Stage<F, B>,
    /// Behind the body, which is dropped before the request ends with this.
    under_way: UnderWay,
    asks_head: bool,
}

enum Stage<F, B> {
    /// The handler works on the answer's head.
    Handling(Pin<Box<F>>, SendResponse<Bytes>),
    /// The answer's body is on its way.
    Sending(Sending<B>),
}

impl<F, B> Exchange<F, B>
where
    F: Future<Output = Response<B>>,
    B: Answered + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(
        answer: Pin<Box<F>>,
        reply: SendResponse<Bytes>,
        under_way: UnderWay,
        asks_head: bool,
    ) -> Exchange<F, B> {
        Exchange {
            stage: Stage::Handling(answer, reply),
            under_way,
            asks_head,
        }
    }

    /// Goes on as far as it can; done when nothing is left to say, or nobody to say it to.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.under_way.is_cut() {
            return Poll::Ready(());
        }
        if let Stage::Handling(answer, reply) = &mut self.stage {
            watch_turns();
            let Poll::Ready(answer) = answer.as_mut().poll(cx) else {
                if turn_was_taken() {
                    return Poll::Pending;
                }
                // Nobody waits for the answer any more, or this wakes when nobody does.
                return reply.poll_reset(cx).map(drop);
            };
            let Some(mut sending) = begin(reply, answer, self.asks_head, &self.under_way) else {
                return Poll::Ready(());
            };
            // Most answers have come whole, and never move to where others wait.
            let polled = sending.poll(cx, &self.under_way);
            if polled.is_pending() {
                self.stage = Stage::Sending(sending);
            }
            return polled;
        }
        match &mut self.stage {
            Stage::Sending(sending) => sending.poll(cx, &self.under_way),
            Stage::Handling(..) => Poll::Ready(()),
        }
    }

    /// Counts that a poll of it panicked.
    pub(super) fn panicked(&self) {
        self.under_way.panicked();
    }
}

/// Sends an answer's head; its body, if there is one.
fn begin<B>(
    reply: &mut SendResponse<Bytes>,
    answer: Response<B>,
    asks_head: bool,
    under_way: &UnderWay,
) -> Option<Sending<B>>
where
    B: Answered + Unpin,
{
    let (mut head, mut body) = answer.into_parts();
    let is_bare = asks_head
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    let ends = body.is_end_stream();
    let tells_length = !ends && !is_bare;
    let left = if body.has_fields() {
        let length = body.size_hint().exact().filter(|_| tells_length);
        let Some(fields) = gather(&mut body, length, under_way) else {
            tracing::debug!("an answer's fields cannot be passed on");
            reply.send_reset(Reason::INTERNAL_ERROR);
            return None;
        };
        head.headers = fields;
        length
    } else {
        complete(&mut head.headers, under_way);
        match tells_length {
            true => told_length(&mut head.headers, body.size_hint().exact()),
            false => None,
        }
    };
    match reply.send_response(Response::from_parts(head, ()), ends) {
        Ok(_) if ends => None,
        Ok(stream) => Some(Sending {
            body,
            stream,
            held: Bytes::new(),
            left,
            is_bare,
        }),
        Err(error) => {
            tracing::debug!(%error, "an answer's head cannot be sent");
            reply.send_reset(Reason::INTERNAL_ERROR);
            None
        }
    }
}

/// The fields of an answer whose body holds them, with its length if that is known; `None` where no map takes them. Fields of one connection have no place among
/// them (RFC 9113 section 8.2.2): the forwarder takes a backend's out, and h2 refuses what has others still.
fn gather(
    body: &mut impl Answered,
    length: Option<u64>,
    under_way: &UnderWay,
) -> Option<HeaderMap> {
    let shape = body.shape();
    let mut map = alike::copy(shape);
    let mut fields = Fields::over(&mut map, under_way.is_young());
    if !body.put_fields(&mut fields)? {
        fields.date(&date::value(under_way.now()));
    }
    if let Some(length) = length {
        fields.put(&CONTENT_LENGTH, HeaderValue::from(length));
    }
    let mut rest = fields.rest();
    rest.settle(&mut map);
    alike::learn(shape, &rest, &map);
    if under_way.tells_names() {
        tell_names(&mut map);
    }
    Some(map)
}

/// Adds to the fields of another answer `Date` if there is none (RFC 9110 section 6.6.1).
fn complete(fields: &mut HeaderMap, under_way: &UnderWay) {
    // Ours say `Connection: close` of the connection that they break off over HTTP/1.1.
    fields.remove(header::CONNECTION);
    let date = fields.entry(header::DATE);
    let date = date.or_insert_with(|| date::value(under_way.now()));
    date.set_sensitive(!under_way.is_young());
}

/// Has h2 take into its compression table the names of fields, too, whose values are worth no place there and therefore marked as sensitive: it finds
/// them there for the next answers. That of `Date` stands in all tables.
fn tell_names(fields: &mut HeaderMap) {
    for (name, value) in fields.iter_mut() {
        if *name != header::DATE {
            value.set_sensitive(false);
        }
    }
}

/// What the head says of the body's length, which it is told here if it does not.
fn told_length(fields: &mut HeaderMap, known: Option<u64>) -> Option<u64> {
    match fields.get(header::CONTENT_LENGTH) {
        Some(told) => told.to_str().ok()?.parse().ok(),
        None => {
            let length = known?;
            fields.append(header::CONTENT_LENGTH, HeaderValue::from(length));
            known
        }
    }
}

static CONTENT_LENGTH: HeaderName = header::CONTENT_LENGTH;

/// An answer's body on its way.
struct Sending<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// What the body gave and the client has no room for yet.
    held: Bytes,
    /// Bytes that must still come, where the head says how many there are.
    left: Option<u64>,
    /// The head is all there may be.
    is_bare: bool,
}

impl<B> Sending<B>
where
    B: Answered + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>, under_way: &UnderWay) -> Poll<()> {
        loop {
            if !self.held.is_empty() {
                ready!(self.poll_room(cx));
                let data = std::mem::take(&mut self.held);
                if self.send(data, self.body.is_end_stream()) {
                    return Poll::Ready(());
                }
            }
            let ended = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.take(frame, under_way),
                Poll::Ready(Some(Err(error))) => {
                    let error: BoxError = error.into();
                    self.break_off(&error)
                }
                Poll::Ready(None) => self.send(Bytes::new(), true),
                Poll::Pending => {
                    under_way.owed(false);
                    return self.stream.poll_reset(cx).map(drop);
                }
            };
            if ended {
                return Poll::Ready(());
            }
        }
    }

    /// Takes a frame of the body; whether the answer ends with it.
    fn take(&mut self, frame: Frame<Bytes>, under_way: &UnderWay) -> bool {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let Ok(trailers) = frame.into_trailers() else {
                    return false;
                };
                // What it cannot send is reset by being dropped.
                let _ = self.stream.send_trailers(trailers);
                return true;
            }
        };
        if data.is_empty() || self.is_bare {
            return self.body.is_end_stream() && self.send(Bytes::new(), true);
        }
        self.left = match self.left.map(|left| left.checked_sub(data.len() as u64)) {
            None => None,
            Some(Some(left)) => Some(left),
            Some(None) => return self.break_off(&"it is longer than its Content-Length"),
        };
        under_way.owed(true);
        // No more than is sent as soon as there is any room: what a stream reserves, no other stream of the connection can have.
        self.stream.reserve_capacity(data.len());
        self.held = data;
        false
    }

    /// Waits until the client's windows, and what h2 holds of earlier data, leave room; that it was reset shows when something is sent.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.stream.capacity() == 0 {
            if !matches!(ready!(self.stream.poll_capacity(cx)), Some(Ok(_))) {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Sends data, the last when the answer `ends`; whether nothing follows.
    fn send(&mut self, data: Bytes, ends: bool) -> bool {
        if ends && self.left.is_some_and(|left| left > 0) {
            return self.break_off(&"it is shorter than its Content-Length");
        }
        // Refused only where nobody waits for it.
        self.stream.send_data(data, ends).is_err() || ends
    }

    /// Ends an answer so that it looks cut (S34); always true.
    fn break_off(&mut self, why: &dyn Display) -> bool {
        tracing::debug!(%why, "an answer broke off");
        self.stream.send_reset(Reason::INTERNAL_ERROR);
        true
    }
}
