//! The client's side of an exchange as the forwarder sees it: a body that is read, and a connection that goes on after a 101.

use std::error::Error;
use std::fmt;
use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf;
use bytes::Bytes;
use h2::Reason;
use h2::RecvStream;
use http::request::Parts;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

/// Why the client's body ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFault {
    /// Its framing is broken (S3).
    Malformed,
    /// The client went away, or reset the stream.
    Gone,
}

impl fmt::Display for ClientFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            ClientFault::Malformed => "the client's body is not framed correctly",
            ClientFault::Gone => "the client went away while sending its body",
        })
    }
}

impl Error for ClientFault {}

/// The body of a request over HTTP/1.1, read from its connection as it is asked for. Dropped before its end, its connection is told.
pub trait BodySource: Debug {
    /// The next bytes; trailers are read and dropped (S11).
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClientFault>>>;

    /// Whether all of it was read.
    fn has_ended(&self) -> bool;

    /// How many bytes are to come, if the head said so.
    fn length(&self) -> Option<u64>;
}

/// A request as a client's connection hands it on. Its head is on the heap, since it goes from hand to hand.
#[derive(Debug)]
pub struct ClientRequest {
    /// Its head.
    pub head: Box<Parts>,
    /// What follows it.
    pub body: ClientBody,
}

/// What follows a request's head.
#[derive(Debug)]
pub struct ClientBody {
    source: Source,
    /// The head asks for another protocol, and the connection can speak it.
    switches: bool,
}

#[derive(Debug)]
enum Source {
    Nothing,
    Http1(Box<dyn BodySource>),
    Http2(Stream),
}

impl ClientBody {
    /// No body.
    #[must_use]
    pub fn none() -> ClientBody {
        ClientBody {
            source: Source::Nothing,
            switches: false,
        }
    }

    /// A body over HTTP/1.1.
    #[must_use]
    pub fn http1(source: Box<dyn BodySource>) -> ClientBody {
        ClientBody {
            source: Source::Http1(source),
            switches: false,
        }
    }

    /// A body over HTTP/2; `length` is what the head says of it. h2 holds the client to that, and resets the stream of one that does not keep it.
    #[must_use]
    pub fn http2(stream: RecvStream, length: Option<u64>) -> ClientBody {
        ClientBody {
            source: Source::Http2(Stream {
                stream,
                left: length,
            }),
            switches: false,
        }
    }

    /// The same where the head has an `Upgrade` line of HTTP/1.1.
    #[must_use]
    pub fn switching(self) -> ClientBody {
        ClientBody {
            switches: true,
            ..self
        }
    }

    /// Whether the connection can go on after a 101.
    pub(super) fn can_switch(&self) -> bool {
        self.switches
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ClientFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientFault>>> {
        match &mut self.source {
            Source::Nothing => Poll::Ready(None),
            Source::Http1(source) => {
                let data = ready!(source.poll_data(cx));
                Poll::Ready(data.map(|data| data.map(Frame::data)))
            }
            Source::Http2(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Nothing => true,
            Source::Http1(source) => source.has_ended(),
            Source::Http2(stream) => stream.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Nothing => SizeHint::with_exact(0),
            Source::Http1(source) => {
                let length = source.length();
                length.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Source::Http2(stream) => {
                let left = stream.left;
                left.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

/// A client's body over HTTP/2.
#[derive(Debug)]
struct Stream {
    stream: RecvStream,
    /// Bytes to come, if the head said how many there are.
    left: Option<u64>,
}

impl Stream {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientFault>>> {
        let frame = match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // Taken, so that the client may send as much again. Refused only where the stream is gone.
                let _ = self.stream.flow_control().release_capacity(data.len());
                let left = &mut self.left;
                *left = left.map(|left| left.saturating_sub(data.len() as u64));
                Some(Ok(Frame::data(data)))
            }
            Some(Err(error)) => Some(Err(error)),
            None => {
                let trailers = ready!(self.stream.poll_trailers(cx)).transpose();
                trailers.map(|trailers| trailers.map(Frame::trailers))
            }
        };
        Poll::Ready(match frame {
            // The client has its answer, and its body was not wanted whole (RFC 9113 section 8.1).
            Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => None,
            // A stream that broke the rules has been reset by h2: nobody is there any more who could be told.
            frame => frame.map(|frame| frame.map_err(|_| ClientFault::Gone)),
        })
    }
}

/// What a client's connection travels on.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Debug + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Debug + 'static> Transport for T {}

/// A client's connection after its 101, of which HTTP has let go.
#[derive(Debug)]
pub struct ClientStream {
    transport: Box<dyn Transport>,
    /// What came behind the head of the request.
    early: Bytes,
}

impl ClientStream {
    /// The connection, and what was read of it already.
    #[must_use]
    pub fn new(transport: Box<dyn Transport>, early: Bytes) -> ClientStream {
        ClientStream { transport, early }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut *self.transport).poll_read(cx, into);
        }
        let count = self.early.len().min(into.remaining());
        into.put_slice(&self.early[..count]);
        self.early.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.transport).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.transport).poll_shutdown(cx)
    }
}
