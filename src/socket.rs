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
