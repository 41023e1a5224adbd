//! Free ports for processes that must be told theirs in advance.

use std::net::TcpListener;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A loopback port that nobody listens on. It lies below the range from which the kernel hands out ports by itself,
/// and no two calls in one process give the same one.
pub fn free_port() -> u16 {
    const FIRST: u16 = 18_000;
    const COUNT: u16 = 13_000;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
        let port = FIRST + (start + step % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free loopback port");
}
