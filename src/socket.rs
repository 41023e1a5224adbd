//! Reads from sockets and writes to them by system calls of our own.
//!
//! The C library makes each such call a place where its thread can be cancelled, and pays for that with a locked step on either side of it.

use std::io;
use std::io::IoSlice;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::recv;
use rustix::net::send;
use tokio::io::Interest;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// Reads what there is; nothing more in `into` is the end.
///
/// # Errors
/// Those of `recv(2)`.
pub(crate) fn poll_read(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    into: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let room = into.initialize_unfilled();
        let moved = once(socket, Interest::READABLE, room.len(), || {
            let (count, _) = recv(socket, &mut *room, RecvFlags::empty())?;
            Ok(count)
        });
        if let Poll::Ready(moved) = moved {
            into.advance(moved?);
            return Poll::Ready(Ok(()));
        }
    }
}

/// Writes as much as is taken. The kernel takes one part, which a TLS record is, by a shorter way than several.
///
/// # Errors
/// Those of `send(2)` and `writev(2)`.
pub(crate) fn poll_write(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    parts: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        let most = parts.iter().map(|part| part.len()).sum();
        let moved = once(socket, Interest::WRITABLE, most, || match parts {
            [one, rest @ ..] if rest.iter().all(|part| part.is_empty()) => {
                Ok(send(socket, one, SendFlags::NOSIGNAL)?)
            }
            _ => Ok(rustix::io::writev(socket, parts)?),
        });
        if moved.is_ready() {
            return moved;
        }
    }
}

/// One call on a socket that is said to be ready. Pending when it is not.
fn once(
    socket: &TcpStream,
    interest: Interest,
    most: usize,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    let mut moved = None;
    let called = socket.try_io(interest, || {
        let count = call()?;
        moved = Some(count);
        match 0 < count && count < most {
            // That was all: the socket is to be waited for before the next call, which would only say so again. The kernel tells when there is more.
            true => Err(io::ErrorKind::WouldBlock.into()),
            false => Ok(()),
        }
    });
    match (moved, called) {
        (Some(count), _) => Poll::Ready(Ok(count)),
        (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        (None, Err(error)) => Poll::Ready(Err(error)),
        // Nobody says yes without a count.
        (None, Ok(())) => Poll::Ready(Ok(0)),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    fn read(socket: &TcpStream, cx: &mut Context<'_>, room: usize) -> Poll<Vec<u8>> {
        let mut room = vec![0; room];
        let mut into = ReadBuf::new(&mut room);
        ready!(poll_read(socket, cx, &mut into)).unwrap();
        Poll::Ready(into.filled().to_vec())
    }

    #[tokio::test]
    async fn a_short_read_waits_for_more_and_misses_nothing() {
        let (near, mut far) = pair().await;
        for round in 0..200_u8 {
            far.write_all(&[round; 3]).await.unwrap();
            let mut got = Vec::new();
            while got.len() < 3 {
                got.extend(poll_fn(|cx| read(&near, cx, 16)).await);
            }
            assert_eq!(got, [round; 3]);
            // Nothing is asked of the kernel: it is known that there is nothing.
            let waits = poll_fn(|cx| Poll::Ready(read(&near, cx, 16).is_pending())).await;
            assert!(waits, "round {round}");
        }
    }

    #[tokio::test]
    async fn the_end_behind_a_short_read_is_seen() {
        let (near, mut far) = pair().await;
        far.write_all(b"last").await.unwrap();
        far.shutdown().await.unwrap();
        let mut got = Vec::new();
        loop {
            let more = poll_fn(|cx| read(&near, cx, 16)).await;
            if more.is_empty() {
                break;
            }
            got.extend(more);
        }
        assert_eq!(got, b"last");
    }

    #[tokio::test]
    async fn what_a_full_read_leaves_is_read_at_once() {
        let (near, mut far) = pair().await;
        far.write_all(b"abcdef").await.unwrap();
        let mut got = Vec::new();
        while got.len() < 6 {
            got.extend(poll_fn(|cx| read(&near, cx, 2)).await);
        }
        assert_eq!(got, b"abcdef");
    }

    #[tokio::test]
    async fn writes_go_on_when_there_is_room_again() {
        let (near, far) = pair().await;
        let all = vec![7; 8 << 20];
        let write = async {
            let mut written = 0;
            while written < all.len() {
                let (head, rest) = all[written..].split_at((all.len() - written).min(1_000));
                let parts = [IoSlice::new(head), IoSlice::new(rest)];
                written += poll_fn(|cx| poll_write(&near, cx, &parts)).await.unwrap();
            }
        };
        let take = async {
            let mut got = 0;
            while got < all.len() {
                got += poll_fn(|cx| read(&far, cx, 64 << 10)).await.len();
            }
        };
        tokio::join!(write, take);
    }
}
