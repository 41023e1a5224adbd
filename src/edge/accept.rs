//! The accept loop of one listening socket: it never spins and never dies.

use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::gate::Peer;
use crate::gate::Via;
use crate::shutdown::Watch;

/// A connection that the kernel has completed. No runtime watches it yet: most of a flood of them is gone before that is worth its cost.
pub(super) struct Newcomer {
    pub(super) socket: TcpStream,
    pub(super) peer: Peer,
}

/// A connection that has been let in.
pub(super) struct Arrival {
    pub(super) socket: tokio::net::TcpStream,
    pub(super) peer: Peer,
    /// What has been read from it already.
    pub(super) said: Bytes,
}

/// A descriptor of which the runtime tells when it can be read.
#[expect(
    deprecated,
    reason = "sound for what owns its descriptor, as each `AsFd` here does; its successor is unsafe to call"
)]
pub(super) fn watched<T: AsFd + AsRawFd>(source: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(source, Interest::READABLE)
}

/// Hands every connection to `arrived` until the process stops. Then, unless the socket outlives us, takes what already waits in its
/// queue: closing the socket would reset those clients.
pub(super) async fn run(
    listener: AsyncFd<TcpListener>,
    outlives_us: bool,
    arrived: impl Fn(Newcomer),
    mut shutdown: Watch,
) {
    let bound = listener.get_ref().local_addr().ok();
    let take = |(socket, address)| {
        if let Some(peer) = peer_of(&socket, address, bound) {
            arrived(Newcomer { socket, peer });
        }
    };
    let mut trouble = Trouble::default();
    loop {
        let ready = tokio::select! {
            biased;
            _ = shutdown.stopping() => break,
            ready = listener.readable() => ready,
        };
        let Ok(mut ready) = ready else {
            break;
        };
        let mut taken = 0;
        let failed = loop {
            if taken == IN_A_ROW_MAX {
                break None;
            }
            match ready.try_io(|listener| accept(listener.get_ref())) {
                Ok(Ok(connection)) => {
                    trouble = Trouble::default();
                    take(connection);
                    taken += 1;
                }
                Ok(Err(error)) => break Some(error),
                // Nobody waits any more.
                Err(_) => break None,
            }
        };
        drop(ready);
        match failed.and_then(|error| trouble.pause_after(&error, bound)) {
            Some(pause) => tokio::time::sleep(pause).await,
            None if taken == IN_A_ROW_MAX => tokio::task::yield_now().await,
            None => {}
        }
    }
    if !outlives_us {
        while let Ok(connection) = accept(listener.get_ref()) {
            take(connection);
        }
    }
}

fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, address) = rustix::net::acceptfrom_with(listener, flags)?;
    let address = address.ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((TcpStream::from(socket), SocketAddr::try_from(address)?))
}

fn peer_of(socket: &TcpStream, address: SocketAddr, bound: Option<SocketAddr>) -> Option<Peer> {
    // A system call for each connection only where the listener stands on a wildcard address.
    let local = match bound.filter(|bound| !bound.ip().is_unspecified()) {
        Some(bound) => bound,
        None => socket.local_addr().ok()?,
    };
    Some(Peer {
        address: canonical(address),
        local: canonical(local),
        via: Via::Direct,
    })
}

/// An IPv4 client on an IPv6 socket is an IPv4 client.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A burst of failing accepts: one log line, growing pauses.
#[derive(Debug, Default)]
struct Trouble {
    pause: Duration,
}

impl Trouble {
    /// How long to wait before the next try; `None` when only that one connection was at fault.
    fn pause_after(&mut self, error: &io::Error, bound: Option<SocketAddr>) -> Option<Duration> {
        if matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::Interrupted
        ) {
            return None;
        }
        if self.pause.is_zero() {
            let files = matches!(
                Errno::from_io_error(error),
                Some(Errno::MFILE | Errno::NFILE)
            );
            let way_out = if files {
                "raise LimitNOFILE= (or fs.file-max), or lower connections.total_max"
            } else {
                "clients wait in the kernel's queue"
            };
            tracing::error!(%error, ?bound, way_out, "cannot accept connections; trying on");
        }
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        Some(self.pause)
    }
}

/// So many connections are accepted before everybody else on this worker gets a turn: a flood of them would else hold up all requests for
/// as long as a hundred take (S22, S25).
const IN_A_ROW_MAX: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_files_backs_off_to_half_a_second_and_an_aborted_client_does_not() {
        let mut trouble = Trouble::default();
        let out_of_files = io::Error::from(Errno::MFILE);
        let pauses: Vec<u128> = (0..6)
            .filter_map(|_| trouble.pause_after(&out_of_files, None))
            .map(|pause| pause.as_millis())
            .collect();
        assert_eq!(pauses, [50, 100, 200, 400, 500, 500]);
        let aborted = io::Error::from(Errno::CONNABORTED);
        assert_eq!(trouble.pause_after(&aborted, None), None);
    }
}
