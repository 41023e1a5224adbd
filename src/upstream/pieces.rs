//! Large pieces of answers: memory that goes round among the exchanges of a worker, so that one read takes much at once and none of it is allocated for it.
//!
//! A backend is told of free room, and perhaps woken, once for each read, and a client once for each write: a body in four large pieces costs both a fraction
//! of what it does in sixteen. What clients that take nothing can hold so is bounded; beyond that, pieces are smaller.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::BufMut;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What one worker has.
#[derive(Debug, Default)]
struct Pieces(Mutex<Supply>);

#[derive(Debug, Default)]
struct Supply {
    spare: Vec<Vec<u8>>,
    /// How many are in use.
    out: usize,
}

/// One that is in use; whoever drops it gives it back.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    of: Arc<Pieces>,
}

thread_local! {
    static PIECES: Arc<Pieces> = Arc::default();
}

/// Reads at most so many bytes at once; none are the end. Nothing where all pieces are in use.
pub(super) fn poll_read(
    socket: &mut TcpStream,
    cx: &mut Context<'_>,
    most: u64,
) -> Option<Poll<io::Result<Bytes>>> {
    // Asked first, so that no piece waits along.
    match socket.poll_read_ready(cx) {
        Poll::Pending => return Some(Poll::Pending),
        Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
        Poll::Ready(Ok(())) => {}
    }
    let mut piece = PIECES.with(Pieces::take)?;
    let most = usize::try_from(most).map_or(PIECE_BYTES, |most| most.min(PIECE_BYTES));
    Some(fill(socket, cx, &mut piece.bytes, most).map_ok(|()| Bytes::from_owner(piece)))
}

fn fill(
    socket: &mut TcpStream,
    cx: &mut Context<'_>,
    bytes: &mut Vec<u8>,
    most: usize,
) -> Poll<io::Result<()>> {
    let mut room = bytes.limit(most);
    ready!(pin!(socket.read_buf(&mut room)).poll(cx))?;
    Poll::Ready(Ok(()))
}

impl Pieces {
    fn take(self: &Arc<Pieces>) -> Option<Piece> {
        let mut supply = self.0.lock();
        if supply.out == OUT_MAX {
            return None;
        }
        supply.out += 1;
        let spare = supply.spare.pop();
        Some(Piece {
            bytes: spare.unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES)),
            of: Arc::clone(self),
        })
    }

    fn take_back(&self, mut bytes: Vec<u8>) {
        let mut supply = self.0.lock();
        supply.out -= 1;
        if supply.spare.len() < SPARE_MAX {
            bytes.clear();
            supply.spare.push(bytes);
        }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.of.take_back(std::mem::take(&mut self.bytes));
    }
}

/// Most bytes of one.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces of a worker that are in use at most: 8 MiB.
const OUT_MAX: usize = 32;
/// Pieces of a worker that are kept when nobody uses them: 1 MiB.
const SPARE_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(pieces: &[Piece]) -> Vec<*const u8> {
        pieces.iter().map(|piece| piece.bytes.as_ptr()).collect()
    }

    #[test]
    fn pieces_are_bounded_and_go_round() {
        let of = Arc::new(Pieces::default());
        let mut pieces: Vec<Piece> = std::iter::from_fn(|| of.take()).collect();
        assert_eq!(pieces.len(), OUT_MAX);
        pieces[0].bytes.extend_from_slice(b"said before");
        let mut spare = addresses(&pieces);
        spare.truncate(SPARE_MAX);
        drop(pieces);
        assert_eq!(of.0.lock().spare.len(), SPARE_MAX);
        let pieces: Vec<Piece> = std::iter::from_fn(|| of.take()).collect();
        assert_eq!(pieces.len(), OUT_MAX);
        assert!(pieces.iter().all(|piece| piece.bytes.is_empty()));
        let taken = addresses(&pieces);
        assert!(spare.iter().all(|piece| taken[..SPARE_MAX].contains(piece)));
    }

    /// What is handed on gives its memory back when the last who holds some of it lets go.
    #[test]
    fn a_piece_is_given_back_by_its_last_holder() {
        let of = Arc::new(Pieces::default());
        let mut piece = of.take().unwrap();
        piece.bytes.extend_from_slice(b"abc");
        let whole = Bytes::from_owner(piece);
        let part = whole.slice(1..);
        drop(whole);
        assert_eq!(of.0.lock().out, 1);
        assert_eq!(&part[..], b"bc");
        drop(part);
        let supply = of.0.lock();
        assert_eq!((supply.out, supply.spare.len()), (0, 1));
    }
}
