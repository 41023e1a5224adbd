//! After a 101: bytes both ways until both sides close, one breaks, silence lasts too long, or the gateway ends it.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::time::Sleep;

use crate::upstream::client::ClientStream;
use crate::upstream::deadline::Silence;
use crate::upstream::http1::Connection;
use crate::upstream::http1::SharedConnection;
use crate::upstream::pool::Lease;
use crate::upstream::websocket::CloseCode;
use crate::upstream::websocket::Frames;
use crate::upstream::websocket::close_to_backend;
use crate::upstream::websocket::close_to_client;
use crate::upstream::wire::Wire;

/// A tunnel that a backend has granted and whose client is still to be told.
#[derive(Debug)]
pub struct Opening {
    backend: SharedConnection,
    lease: Lease,
    idle_timeout: Duration,
}

impl Opening {
    pub(super) fn new(backend: SharedConnection, lease: Lease, idle_timeout: Duration) -> Opening {
        Opening {
            backend,
            lease,
            idle_timeout,
        }
    }

    /// Joins the client's connection, of which HTTP has let go, to the backend's.
    #[must_use]
    pub fn open(self, client: ClientStream) -> Tunnel {
        let (backend, early) = Connection::into_parts(self.backend);
        // What came behind the head of the 101 is the tunnel's first piece.
        let down = Flow::holding(early.into());
        Tunnel {
            client,
            backend,
            down,
            up: Flow::default(),
            silence: Silence::new(self.idle_timeout, None),
            leaving: None,
            _lease: self.lease,
        }
    }
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both sides closed in order.
    Closed,
    /// The client broke off; the backend was cut too.
    ClientBroke,
    /// The backend broke off; the client was cut too.
    BackendBroke,
    /// Nothing moved for `tunnel_idle_timeout`.
    Silent,
    /// The gateway ended it.
    Dismissed,
}

/// Two connections joined. Holds at most one piece per direction, and only while the side it is for does not take it; reads no more from a
/// side than the other takes.
#[derive(Debug)]
pub struct Tunnel {
    client: ClientStream,
    backend: Wire,
    /// From the backend to the client.
    down: Flow,
    /// From the client to the backend.
    up: Flow,
    silence: Silence,
    leaving: Option<Leaving>,
    /// The claim on the server lasts as long as the tunnel.
    _lease: Lease,
}

/// The gateway's own end of a tunnel.
#[derive(Debug)]
struct Leaving {
    ending: Ending,
    code: CloseCode,
    due: Pin<Box<Sleep>>,
}

impl Tunnel {
    /// Carries on until the end. `dismissed` tells that the gateway ends it: within `GOODBYE_TIMEOUT` both sides get a close frame where they are at
    /// the end of a frame, or are cut. The client's has that code; the backend learns no more than that its client goes away.
    pub fn poll(&mut self, cx: &mut Context<'_>, dismissed: Option<CloseCode>) -> Poll<Ending> {
        if self.leaving.is_none() {
            let (ending, code) = match dismissed {
                Some(code) => (Ending::Dismissed, code),
                None => (ready!(self.poll_carry(cx)), CloseCode::GoingAway),
            };
            if !matches!(ending, Ending::Silent | Ending::Dismissed) {
                return Poll::Ready(ending);
            }
            let due = Box::pin(tokio::time::sleep(GOODBYE_TIMEOUT));
            self.leaving = Some(Leaving { ending, code, due });
        }
        self.poll_leave(cx)
    }

    /// Bytes that came from the client.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.up.bytes
    }

    /// Bytes that came from the backend.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.down.bytes
    }

    /// Lets go of both sides. A backend that got our last words and is still sending would have them taken from it by a reset: what it sends is read on
    /// for a while. Must be called on a worker.
    pub fn end(self) {
        if self.leaving.is_none() || !self.up.shut {
            return;
        }
        let mut backend = self.backend;
        tokio::task::spawn_local(async move {
            let waste = poll_fn(|cx| waste(cx, &mut backend));
            let _ = tokio::time::timeout(LINGER, waste).await;
        });
    }

    fn poll_carry(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let down = self.down.poll(cx, &mut self.backend, &mut self.client);
        let up = self.up.poll(cx, &mut self.client, &mut self.backend);
        match (&down, &up) {
            // Many clients leave without a word of TLS once they have been told that no more comes.
            (Poll::Ready(Ok(())), Poll::Ready(Err(Broken::Source))) => {
                return Poll::Ready(Ending::Closed);
            }
            (Poll::Ready(Err(Broken::Source)), _) | (_, Poll::Ready(Err(Broken::Sink))) => {
                return Poll::Ready(Ending::BackendBroke);
            }
            (Poll::Ready(Err(Broken::Sink)), _) | (_, Poll::Ready(Err(Broken::Source))) => {
                return Poll::Ready(Ending::ClientBroke);
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ending::Closed),
            _ => {}
        }
        // Both flows are asked for what moved, so that neither keeps it for the next time.
        if self.down.has_moved() | self.up.has_moved() {
            self.silence.broken();
        }
        self.silence.poll_expired(cx).map(|()| Ending::Silent)
    }

    /// The client first, at the end of the frame that is on its way to it; then the backend, which gets nothing more of the client's.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let Some(leaving) = &mut self.leaving else {
            return Poll::Pending;
        };
        let (ending, code) = (leaving.ending, leaving.code);
        let late = leaving.due.as_mut().poll(cx).is_ready();
        let words = close_to_client(code);
        let told = self
            .down
            .poll_finish(cx, &mut self.backend, &mut self.client, &words);
        if told.is_pending() && !late {
            return Poll::Pending;
        }
        let told = self
            .up
            .poll_close(cx, &mut self.backend, &close_to_backend());
        if told.is_pending() && !late {
            return Poll::Pending;
        }
        Poll::Ready(ending)
    }
}

/// Which side of a flow failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Source,
    Sink,
}

/// One direction of a tunnel.
#[derive(Debug, Default)]
struct Flow {
    /// Read, and not yet taken by the sink: at most one piece, and no memory while it is empty.
    held: Vec<u8>,
    /// How much of `held` the sink has taken.
    taken: usize,
    /// Where the sink stands.
    frames: Frames,
    /// Bytes read.
    bytes: u64,
    moved: bool,
    unflushed: bool,
    /// The source has no more.
    ended: bool,
    /// A close frame of ours is in `held`, or was.
    last_words: bool,
    /// The sink knows that no more comes.
    shut: bool,
}

impl Flow {
    fn holding(held: Vec<u8>) -> Flow {
        Flow {
            bytes: held.len() as u64,
            held,
            ..Flow::default()
        }
    }

    /// Moves what can be moved; ready when the source has ended and the sink knows it.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        sink: &mut W,
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.ended {
            ready!(self.poll_out(cx, sink))?;
            ready!(self.poll_piece(cx, source, sink, |_, piece| piece.len()))?;
        }
        self.poll_shut(cx, sink)
    }

    /// Ends this direction after the frame under way, with these words; ready at once when there is nobody to tell or nothing to be waited for.
    fn poll_finish<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        sink: &mut W,
        words: &[u8],
    ) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.last_words && !self.frames.at_boundary() && !self.shut {
            self.held.drain(..self.taken);
            self.taken = 0;
            self.held.truncate(self.frames.rest(&self.held));
            let done = if !self.held.is_empty() {
                ready!(self.poll_out(cx, sink))
            } else if self.ended {
                Err(Broken::Source)
            } else {
                ready!(self.poll_piece(cx, source, sink, |frames, piece| frames.rest(piece)))
            };
            if done.is_err() {
                return Poll::Ready(());
            }
        }
        self.poll_close(cx, sink, words)
    }

    /// Ends this direction now: with these words if the sink is at the end of a frame and was told nothing of the kind before, else not at all.
    fn poll_close<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut W,
        words: &[u8],
    ) -> Poll<()> {
        if !self.last_words && !self.shut {
            if !self.frames.at_boundary() {
                return Poll::Ready(());
            }
            self.last_words = true;
            self.taken = 0;
            self.held.clear();
            if !self.frames.closed() {
                self.held.extend_from_slice(words);
            }
        }
        self.poll_shut(cx, sink).map(|_| ())
    }

    /// Tells the sink that no more comes, after what is held.
    fn poll_shut<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut W,
    ) -> Poll<Result<(), Broken>> {
        if !self.shut {
            ready!(self.poll_out(cx, sink))?;
            let shut = ready!(Pin::new(sink).poll_shutdown(cx));
            shut.map_err(|_| Broken::Sink)?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Gives the sink all that is held.
    fn poll_out<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut W,
    ) -> Poll<Result<(), Broken>> {
        while self.taken < self.held.len() {
            let rest = &self.held[self.taken..];
            let count = ready!(poll_write(cx, sink, rest))?;
            self.frames.pass(&rest[..count]);
            self.taken += count;
            self.moved = true;
            self.unflushed = true;
        }
        self.held = Vec::new();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads a piece and gives the sink as much of it as `wanted` says; what the sink does not take is held. While nothing comes, what the sink took is
    /// flushed. On the stack, so that a tunnel at rest holds no buffer.
    fn poll_piece<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        sink: &mut W,
        wanted: impl Fn(&Frames, &[u8]) -> usize,
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut space = [const { MaybeUninit::uninit() }; PIECE_BYTES];
        let mut piece = ReadBuf::uninit(&mut space);
        let Poll::Ready(read) = Pin::new(source).poll_read(cx, &mut piece) else {
            if self.unflushed {
                ready!(Pin::new(sink).poll_flush(cx)).map_err(|_| Broken::Sink)?;
                self.unflushed = false;
            }
            return Poll::Pending;
        };
        read.map_err(|_| Broken::Source)?;
        let piece = piece.filled();
        self.ended = piece.is_empty();
        self.moved = true;
        self.bytes += piece.len() as u64;
        let mut rest = &piece[..wanted(&self.frames, piece)];
        while !rest.is_empty() {
            let Poll::Ready(count) = poll_write(cx, sink, rest) else {
                self.held.extend_from_slice(rest);
                return Poll::Pending;
            };
            let (gone, left) = rest.split_at(count?);
            self.frames.pass(gone);
            self.unflushed = true;
            rest = left;
        }
        Poll::Ready(Ok(()))
    }

    fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }
}

fn poll_write<W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    sink: &mut W,
    bytes: &[u8],
) -> Poll<Result<usize, Broken>> {
    match ready!(Pin::new(sink).poll_write(cx, bytes)) {
        Ok(0) | Err(_) => Poll::Ready(Err(Broken::Sink)),
        Ok(count) => Poll::Ready(Ok(count)),
    }
}

/// Reads and throws away until the source ends or fails.
fn waste<R: AsyncRead + Unpin>(cx: &mut Context<'_>, source: &mut R) -> Poll<()> {
    let mut space = [const { MaybeUninit::uninit() }; PIECE_BYTES];
    loop {
        let mut piece = ReadBuf::uninit(&mut space);
        let read = ready!(Pin::new(&mut *source).poll_read(cx, &mut piece));
        if read.is_err() || piece.filled().is_empty() {
            return Poll::Ready(());
        }
    }
}

/// What is read at once, bytes: a TLS record's worth.
const PIECE_BYTES: usize = 16 * 1024;
/// How long a frame under way may take to end, and the close frame after it to be taken: within the 200 ms that a revocation has.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(100);
/// How long a backend is read from that has got our last words.
const LINGER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
