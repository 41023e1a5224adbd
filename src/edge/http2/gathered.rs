//! Gathers what h2 writes while a connection has its turn: many small frames become one TLS record and one system call.

use std::cell::RefCell;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use crate::edge::http1::spare;

/// A connection as h2 has it, and as its task has it too.
#[derive(Debug)]
pub(in crate::edge) struct Gathered<T>(Rc<RefCell<Gathering<T>>>);

#[derive(Debug)]
struct Gathering<T> {
    io: T,
    /// Off until somebody calls `poll_out` at the end of each turn.
    gathers: bool,
    out: Vec<u8>,
    /// How much of `out` is written.
    written: usize,
    /// `io` may hold bytes back.
    unflushed: bool,
    /// What went wrong while h2 did not look.
    broken: Option<io::Error>,
    /// Nothing is left to read, and h2 is woken when there is.
    dry: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Gathered<T> {
    pub(in crate::edge) fn new(io: T) -> Gathered<T> {
        Gathered(Rc::new(RefCell::new(Gathering {
            io,
            gathers: false,
            out: Vec::new(),
            written: 0,
            unflushed: false,
            broken: None,
            dry: false,
        })))
    }

    /// The same connection, of which h2 has the other handle.
    pub(in crate::edge) fn shared(&self) -> Gathered<T> {
        Gathered(Rc::clone(&self.0))
    }

    /// From now on `poll_out` is called at the end of each turn.
    pub(super) fn gather(&self) {
        self.0.borrow_mut().gathers = true;
    }

    /// From now on h2 looks anew whether there is something to read. It asks again for each request that it hands out.
    pub(super) fn look_again(&self) {
        self.0.borrow_mut().dry = false;
    }

    /// Writes what has been gathered. What goes wrong is said here, and to h2 when it reads next.
    pub(super) fn poll_out(&self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        let mut gathering = self.0.borrow_mut();
        gathering.poll_out(cx).map_err(|error| {
            gathering.broken = Some(error);
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Gathering<T> {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            ready!(self.poll_write_with(cx, &[]))?;
        }
        self.poll_flush(cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_put(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.gathers && length <= PIECE_BYTES_MAX && self.out.len() + length <= OUT_BYTES_MAX {
            if self.out.is_empty() {
                self.out = spare::buffer();
            }
            for piece in pieces {
                self.out.extend_from_slice(piece);
            }
            return Poll::Ready(Ok(length));
        }
        // As h2 does when it flushes: no more is taken while the client takes nothing.
        ready!(self.poll_flush(cx))?;
        let mut taken = 0;
        while taken == 0 && length > 0 {
            taken = ready!(self.poll_write_with(cx, pieces))?;
        }
        Poll::Ready(Ok(taken))
    }

    /// Writes what was gathered and these pieces behind it; how much of the pieces was taken, which is nothing while some of the former is left.
    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let waiting = &self.out[self.written..];
        let length = waiting.len();
        let mut all = [IoSlice::new(waiting); PIECES_MAX];
        let count = pieces.len().min(PIECES_MAX - 1);
        all[1..=count].copy_from_slice(&pieces[..count]);
        let first = usize::from(waiting.is_empty());
        let taken = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &all[first..=count]))?;
        if taken == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        if taken < length {
            self.written += taken;
            return Poll::Ready(Ok(0));
        }
        self.written = 0;
        self.out.clear();
        spare::keep_buffer(std::mem::take(&mut self.out));
        Poll::Ready(Ok(taken - length))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut gathering = self.0.borrow_mut();
        if let Some(error) = gathering.broken.take() {
            return Poll::Ready(Err(error));
        }
        if gathering.dry {
            return Poll::Pending;
        }
        let read = Pin::new(&mut gathering.io).poll_read(cx, into);
        // Before anybody gathers, nobody says when to look again.
        gathering.dry = gathering.gathers && read.is_pending();
        read
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
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
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_put(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing yet, when there is somebody who does it at the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.0.borrow_mut();
        match gathering.gathers {
            true => Poll::Ready(Ok(())),
            false => gathering.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.0.borrow_mut();
        ready!(gathering.poll_out(cx))?;
        Pin::new(&mut gathering.io).poll_shutdown(cx)
    }
}

/// What waits at most, bytes: one TLS record.
const OUT_BYTES_MAX: usize = 16 * 1024;
/// What is longer is not copied, bytes, but written at once, behind what waits.
const PIECE_BYTES_MAX: usize = 4 * 1024;
/// h2 writes a frame's head, with what stands before it, and its data.
const PIECES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_is_written_in_one_turn_comes_in_order_and_nothing_is_lost() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut io = Gathered::new(near);
        let handle = io.shared();
        io.write_all(b"first").await.unwrap();
        io.flush().await.unwrap();
        let mut first = [0; 5];
        far.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"first", "not held before anybody gathers");
        handle.gather();
        let sent: Vec<u8> = (0..60_000u32).map(|at| (at % 251) as u8).collect();
        let expected = sent.clone();
        let writing = async {
            // Small pieces, pieces that are not copied, and more than waits at most.
            let (mut rest, mut size) = (&sent[..], 1);
            while !rest.is_empty() {
                let (piece, others) = rest.split_at(size.min(rest.len()));
                io.write_all(piece).await.unwrap();
                io.flush().await.unwrap();
                (rest, size) = (others, size * 3 % 10_000);
            }
            poll_fn(|cx| handle.poll_out(cx)).await.unwrap();
            drop((io, handle));
        };
        let reading = async {
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.unwrap();
            read
        };
        let ((), read) = tokio::join!(writing, reading);
        assert!(read == expected);
    }

    #[tokio::test]
    async fn small_pieces_wait_and_go_out_in_one() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut io = Gathered::new(near);
        let handle = io.shared();
        handle.gather();
        for piece in ["one ", "two ", "three"] {
            io.write_all(piece.as_bytes()).await.unwrap();
            io.flush().await.unwrap();
        }
        let mut read = [0; 100];
        let early = tokio::select! {
            biased;
            read = far.read(&mut read) => Some(read),
            () = std::future::ready(()) => None,
        };
        assert!(early.is_none(), "nothing went out yet");
        poll_fn(|cx| handle.poll_out(cx)).await.unwrap();
        let count = far.read(&mut read).await.unwrap();
        assert_eq!(&read[..count], b"one two three");
    }

    #[tokio::test]
    async fn a_failure_between_turns_is_told_when_h2_reads() {
        let (near, far) = tokio::io::duplex(1000);
        let mut io = Gathered::new(near);
        let handle = io.shared();
        handle.gather();
        io.write_all(b"lost").await.unwrap();
        drop(far);
        assert!(poll_fn(|cx| handle.poll_out(cx)).await.is_err());
        assert!(io.read(&mut [0; 10]).await.is_err());
    }

    #[tokio::test]
    async fn after_nothing_was_left_it_is_looked_for_again_when_told() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut io = Gathered::new(near);
        let handle = io.shared();
        handle.gather();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut byte = [0; 1];
        let mut into = ReadBuf::new(&mut byte);
        assert!(Pin::new(&mut io).poll_read(&mut cx, &mut into).is_pending());
        far.write_all(b"x").await.unwrap();
        assert!(
            Pin::new(&mut io).poll_read(&mut cx, &mut into).is_pending(),
            "not in this turn"
        );
        handle.look_again();
        assert!(Pin::new(&mut io).poll_read(&mut cx, &mut into).is_ready());
        assert_eq!(into.filled(), b"x");
    }
}
