//! What bytes to and from a backend travel on: TCP, in clear or within TLS.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use bytes::Bytes;
use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::socket;
use crate::upstream::pieces;

/// A connected socket.
pub(crate) enum Wire {
    Clear(TcpStream),
    /// Boxed: it is large, and the rarer one.
    Tls(Box<TlsStream<TcpStream>>),
}

impl fmt::Debug for Wire {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Wire::Clear(_) => "Clear",
            Wire::Tls(_) => "Tls",
        })
    }
}

thread_local! {
    /// What is read lands here first and is copied at its true size: a connection that waits holds no buffer.
    static PIECE: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE_BYTES].into_boxed_slice());
}

/// Reads a piece behind what `into` holds; zero is the end.
pub(crate) fn poll_piece<T: AsyncRead + Unpin>(
    stream: &mut T,
    cx: &mut Context<'_>,
    into: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    PIECE.with_borrow_mut(|piece| {
        let mut piece = ReadBuf::new(piece);
        ready!(Pin::new(stream).poll_read(cx, &mut piece))?;
        into.extend_from_slice(piece.filled());
        Poll::Ready(Ok(piece.filled().len()))
    })
}

impl Wire {
    /// Whether there is nothing to read: no byte, no end, no error.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut one = [0; 1];
        match self {
            Wire::Clear(stream) => {
                let read = stream.try_read(&mut one);
                read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Wire::Tls(stream) => {
                let mut cx = Context::from_waker(Waker::noop());
                let mut one = ReadBuf::new(&mut one);
                Pin::new(stream).poll_read(&mut cx, &mut one).is_pending()
            }
        }
    }

    /// Makes every later write fail.
    #[cfg(test)]
    pub(crate) fn break_off(&mut self) {
        let (Wire::Clear(stream), how) = (self, std::net::Shutdown::Write) else {
            return;
        };
        socket2::SockRef::from(&*stream).shutdown(how).unwrap();
    }

    /// Reads a piece behind what `into` holds; zero is the end. Where much is `expected`, it is read in large pieces to where it stays.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
        expected: u64,
    ) -> Poll<io::Result<usize>> {
        if let Wire::Clear(stream) = self
            && expected > PIECE_BYTES as u64
        {
            // Asked first, so that no memory waits along.
            ready!(stream.poll_read_ready(cx))?;
            let room = usize::try_from(expected).map_or(LARGE_PIECE_BYTES, |expected| {
                // No more than the body has.
                expected.min(LARGE_PIECE_BYTES)
            });
            into.reserve(room);
            return pin!(stream.read_buf(into)).poll(cx);
        }
        poll_piece(self, cx, into)
    }

    /// Reads a large piece of so many bytes at most; none are the end. Nothing where that is not the way to read: too little is expected, or there is no room.
    pub(crate) fn poll_large(
        &mut self,
        cx: &mut Context<'_>,
        expected: u64,
    ) -> Option<Poll<io::Result<Bytes>>> {
        match self {
            Wire::Clear(stream) if expected > LARGE_PIECE_BYTES as u64 => {
                pieces::poll_read(stream, cx, expected)
            }
            _ => None,
        }
    }

    /// Writes the parts one behind the other, as much of them as is taken.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Wire::Clear(stream) => socket::poll_write(stream, cx, parts),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    /// Lets go of what TLS holds back.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Wire::Clear(_) => Poll::Ready(Ok(())),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Wire::Clear(stream) => socket::poll_read(stream, cx, into),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Wire::Clear(stream) => socket::poll_write(stream, cx, &[IoSlice::new(bytes)]),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Wire::poll_flush(&mut self, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Wire::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Bytes read at once. One such buffer for each worker.
const PIECE_BYTES: usize = 16 * 1024;
/// Most bytes of a large body that are read at once where no larger piece is to be had.
const LARGE_PIECE_BYTES: usize = 64 * 1024;
