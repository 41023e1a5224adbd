//! The answer's body, piece by piece.

use std::io;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use bytes::BytesMut;
use http_body::Frame;
use http_body::SizeHint;

use super::Connection;
use super::Reading;
use crate::upstream::http1::Fault;
use crate::upstream::http1::chunks::Next;

impl Connection {
    /// The next piece of the answer's body. What is left of the request is sent meanwhile.
    ///
    /// # Errors
    /// When the body ends before its end; the connection is of no more use.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.send(cx)?;
        loop {
            match self.take_frame() {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.is_end_stream() => return Poll::Ready(None),
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
            let expected = match &self.reading {
                Reading::Length(rest) => *rest,
                Reading::Chunked(chunks) => chunks.expected(),
                Reading::UntilClose => 0,
                Reading::Head | Reading::Done => return Poll::Ready(None),
            };
            match ready!(self.poll_fill(cx, expected)) {
                Ok(0) if matches!(self.reading, Reading::UntilClose) => {
                    self.reading = Reading::Done;
                }
                Ok(0) => return Poll::Ready(Some(Err(self.ended("closed")))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(self.ended(&error.to_string())))),
            }
        }
    }

    /// Whether the answer is whole.
    pub(crate) fn is_end_stream(&self) -> bool {
        matches!(self.reading, Reading::Done)
    }

    /// What is known of what is to come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.reading {
            Reading::Done => SizeHint::with_exact(0),
            Reading::Length(rest) => SizeHint::with_exact(rest),
            Reading::Head | Reading::Chunked(_) | Reading::UntilClose => SizeHint::default(),
        }
    }

    /// Reads more of a body of which so much is known to come.
    fn poll_fill(&mut self, cx: &mut Context<'_>, expected: u64) -> Poll<io::Result<usize>> {
        if self.received.is_empty()
            && let Some(large) = self.wire.poll_large(cx, expected)
        {
            self.large = ready!(large)?;
            return Poll::Ready(Ok(self.large.len()));
        }
        self.wire.poll_fill(cx, &mut self.received, expected)
    }

    fn take_frame(&mut self) -> Result<Option<Frame<Bytes>>, Fault> {
        if !self.large.is_empty() {
            return Ok(Some(Frame::data(self.take_large())));
        }
        let received = &mut self.received;
        let data = match &mut self.reading {
            Reading::Length(rest) => {
                let there = usize::try_from(*rest).map_or(received.len(), |rest| {
                    // No more than was announced.
                    rest.min(received.len())
                });
                if there == 0 {
                    return Ok(None);
                }
                let data = take_front(received, there);
                *rest -= there as u64;
                if *rest == 0 {
                    self.reading = Reading::Done;
                }
                data
            }
            Reading::Chunked(chunks) => match chunks.next(received)? {
                Next::Data(data) => {
                    if chunks.ends_here(received) {
                        self.reading = Reading::Done;
                    }
                    data
                }
                Next::End(trailers) => {
                    self.reading = Reading::Done;
                    return Ok(trailers.map(Frame::trailers));
                }
                Next::More => return Ok(None),
            },
            Reading::UntilClose if !received.is_empty() => std::mem::take(received).freeze(),
            Reading::UntilClose | Reading::Head | Reading::Done => return Ok(None),
        };
        Ok(Some(Frame::data(data)))
    }

    /// A piece that is no longer than what was expected.
    fn take_large(&mut self) -> Bytes {
        let count = self.large.len() as u64;
        match &mut self.reading {
            Reading::Length(rest) => {
                *rest -= count;
                if *rest == 0 {
                    self.reading = Reading::Done;
                }
            }
            Reading::Chunked(chunks) => chunks.pass(count),
            Reading::UntilClose | Reading::Head | Reading::Done => {}
        }
        std::mem::take(&mut self.large)
    }
}

/// Takes bytes from the front; without a second owner where that is all there is.
fn take_front(received: &mut BytesMut, count: usize) -> Bytes {
    if count == received.len() {
        return std::mem::take(received).freeze();
    }
    received.split_to(count).freeze()
}
