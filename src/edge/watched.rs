//! The socket of a client connection, which notes when bytes last moved; deadlines are judged from these notes.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;

use bytes::Buf;
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::socket;

/// What is noted of one socket. Times are ticks of the worker's sweep, 0 is never: a note costs one plain store and no clock reading.
/// All of it is used by one thread.
#[derive(Debug)]
pub(super) struct Progress {
    /// The worker's tick.
    tick: Arc<AtomicU32>,
    /// The first read since the last `forget_reads`.
    reading_since: AtomicU32,
    /// When the socket refused to take more bytes; 0 when the last write went through.
    blocked_since: AtomicU32,
    /// When the HTTP/2 header block now being read began; kept by `frames`.
    block_since: AtomicU32,
    /// Set when `frames` has counted too many control frames.
    flooded: AtomicBool,
    /// The peer closed, or the socket failed.
    ended: AtomicBool,
    /// Our side was closed in order.
    closed: AtomicBool,
    /// What came instead of a TLS record.
    not_tls: Mutex<Option<NotTls>>,
    /// The socket, once TLS and HTTP have let go of it.
    leftover: Mutex<Option<TcpStream>>,
}

/// What a client said to a TLS port instead of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTls {
    /// Starts like a request line.
    Text,
    /// Anything else.
    Garbage,
}

impl NotTls {
    /// What a connection is whose first byte this is; `None` when it can be TLS.
    pub(super) fn told_by(first: u8) -> Option<NotTls> {
        match first {
            TLS_HANDSHAKE => None,
            letter if letter.is_ascii_alphabetic() => Some(NotTls::Text),
            _ => Some(NotTls::Garbage),
        }
    }
}

impl Progress {
    pub(super) fn new(tick: Arc<AtomicU32>) -> Progress {
        Progress {
            tick,
            reading_since: AtomicU32::new(0),
            blocked_since: AtomicU32::new(0),
            block_since: AtomicU32::new(0),
            flooded: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            not_tls: Mutex::new(None),
            leftover: Mutex::new(None),
        }
    }

    /// The worker's tick now.
    pub(super) fn now(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// When the first byte since `forget_reads` came; 0 if none did.
    pub(super) fn reading_since(&self) -> u32 {
        self.reading_since.load(Ordering::Relaxed)
    }

    /// Notes that something has come.
    pub(super) fn note_begun(&self) {
        if self.reading_since() == 0 {
            self.reading_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Starts waiting for a first byte anew.
    pub(super) fn forget_reads(&self) {
        self.reading_since.store(0, Ordering::Relaxed);
    }

    /// Since when the socket takes no more bytes; 0 if it does.
    pub(super) fn blocked_since(&self) -> u32 {
        self.blocked_since.load(Ordering::Relaxed)
    }

    /// Since when an HTTP/2 header block is being read; 0 if none is.
    pub(super) fn block_since(&self) -> u32 {
        self.block_since.load(Ordering::Relaxed)
    }

    /// Notes that a header block began (unless one is open already).
    pub(super) fn block_began(&self) {
        if self.block_since() == 0 {
            self.block_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Notes that the header block is whole.
    pub(super) fn block_ended(&self) {
        self.block_since.store(0, Ordering::Relaxed);
    }

    /// Notes a flood of control frames.
    pub(super) fn flood(&self) {
        self.flooded.store(true, Ordering::Relaxed);
    }

    /// Whether control frames have flooded this connection.
    pub(super) fn flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// Whether the peer closed or the socket failed.
    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether our side was closed in order.
    pub(super) fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// What came instead of TLS, if something did.
    pub(super) fn not_tls(&self) -> Option<NotTls> {
        *self.not_tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket, if it has been let go of.
    pub(super) fn take_leftover(&self) -> Option<TcpStream> {
        self.leftover
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn note_read(&self, result: &Poll<io::Result<()>>, bytes: usize) {
        match result {
            Poll::Ready(Ok(())) if bytes > 0 => self.note_begun(),
            Poll::Ready(_) => self.ended.store(true, Ordering::Relaxed),
            Poll::Pending => {}
        }
    }

    fn note_write(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(_)) => self.blocked_since.store(0, Ordering::Relaxed),
            Poll::Ready(Err(_)) => self.ended.store(true, Ordering::Relaxed),
            Poll::Pending => {
                if self.blocked_since() == 0 {
                    self.blocked_since.store(self.now(), Ordering::Relaxed);
                }
            }
        }
    }
}

/// A socket under watch. Lies below TLS, so that progress is what the network saw, not what a buffer took.
#[derive(Debug)]
pub(super) struct Watched {
    /// `None` only while it is being dropped.
    socket: Option<TcpStream>,
    /// What was read from it before it was watched, and is still to be given out.
    said: Bytes,
    progress: Arc<Progress>,
    /// Whether the next byte is the first and must open a TLS record.
    expect_tls: bool,
}

impl Watched {
    pub(super) fn new(
        socket: TcpStream,
        said: Bytes,
        progress: Arc<Progress>,
        expect_tls: bool,
    ) -> Watched {
        Watched {
            socket: Some(socket),
            said,
            progress,
            expect_tls,
        }
    }

    fn socket(&self) -> &TcpStream {
        let socket = self.socket.as_ref();
        socket.expect("the socket is there until drop")
    }

    /// Gives out what was read before.
    fn repeat(&mut self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.said.len().min(buffer.remaining());
        buffer.put_slice(&self.said[..count]);
        self.said.advance(count);
        if self.said.is_empty() {
            // Its memory is given back.
            self.said = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Looks at the first byte of a TLS port while it passes: a peek would cost a system call per connection. The error
    /// ends the handshake before rustls writes an alert, which would garble the plain answer.
    fn check_first(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(first) = bytes.first() else {
            return Ok(());
        };
        self.expect_tls = false;
        let Some(what) = NotTls::told_by(*first) else {
            return Ok(());
        };
        *self
            .progress
            .not_tls
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(what);
        Err(io::Error::new(io::ErrorKind::InvalidData, "not TLS"))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut leftover = self
            .progress
            .leftover
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *leftover = self.socket.take();
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = match self.said.is_empty() {
            true => socket::poll_read(self.socket(), cx, buffer),
            false => self.repeat(buffer),
        };
        let bytes = &buffer.filled()[before..];
        self.progress.note_read(&result, bytes.len());
        if self.expect_tls {
            self.check_first(bytes)?;
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = socket::poll_write(self.socket(), cx, slices);
        self.progress.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket holds nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.progress.closed.store(true, Ordering::Relaxed);
        let socket = self.socket.as_mut();
        Pin::new(socket.expect("the socket is there until drop")).poll_shutdown(cx)
    }
}

/// The content type of a TLS handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
