//! Who may take the last file descriptors: not clients, and not backends, so that store, admin socket and reload always find one.

use std::os::fd::AsRawFd;

use rustix::process::Resource;

/// The number below which clients' descriptors stay, so that enough is left for connections to backends and for the control side. By the soft limit
/// as it is now: a system call of a tenth of a microsecond.
#[must_use]
pub fn clients_below() -> u64 {
    ceilings(limit()).0
}

/// Whether a descriptor stays below this number. The kernel gives the lowest free one, so that of a new descriptor says how many are in use at least.
#[must_use]
pub fn is_below(socket: &impl AsRawFd, ceiling: u64) -> bool {
    number(socket) < ceiling
}

/// Whether a connection to a backend leaves enough for the control side.
#[must_use]
pub fn backend_may_stay(socket: &impl AsRawFd) -> bool {
    number(socket) < ceilings(limit()).1
}

/// How many descriptors clients may have under this limit.
#[must_use]
pub fn for_clients(limit: u64) -> u64 {
    ceilings(limit).0
}

fn number(socket: &impl AsRawFd) -> u64 {
    u64::try_from(socket.as_raw_fd()).unwrap_or(u64::MAX)
}

/// The soft limit, as it is now: `prlimit` may change it while we run.
fn limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current.unwrap_or(u64::MAX)
}

/// Clients stay below the first, backends below the second.
fn ceilings(limit: u64) -> (u64, u64) {
    let shared = limit.saturating_sub(CONTROL.min(limit / 2));
    (shared - shared / 4, shared)
}

/// Kept for the control side: databases and their logs, 64 connections to each admin listener at most, files that a reload reads.
const CONTROL: u64 = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_the_control_sides() {
        for (limit, clients, backends) in [
            (1_024, 648, 864),
            (400, 180, 240),
            (64, 24, 32),
            (0, 0, 0),
            (
                u64::MAX,
                u64::MAX - 160 - (u64::MAX - 160) / 4,
                u64::MAX - 160,
            ),
        ] {
            assert_eq!(ceilings(limit), (clients, backends), "{limit}");
        }
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(is_below(&socket, clients_below()) && backend_may_stay(&socket));
    }
}
