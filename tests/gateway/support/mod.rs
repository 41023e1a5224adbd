//! What every scenario stands on: a real gateway, a recording backend, clients that send exact bytes.

pub mod certs;
pub mod client;
pub mod frames;
pub mod gateway;
pub mod grpc;
pub mod h2_upstream;
pub mod idp;
pub mod nodes;
pub mod ports;
pub mod real;
pub mod redis;
pub mod relay;
pub mod request;
pub mod signer;
pub mod site;
pub mod upstream;
pub mod webhooks;
pub mod websocket;

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// The longest any wait in these tests takes before the test fails: generous, since nothing waits for it when all is well.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Asks `ready` again and again until it gives a value; fails with `what` after twice [`PATIENCE`], since what is polled for often takes several
/// rounds of several threads. For what only polling can see (a listening socket, a file of another process).
#[track_caller]
pub fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(
            begun.elapsed() < 2 * PATIENCE,
            "waited {:?} in vain for: {what}",
            2 * PATIENCE
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// How long `work` took, with its value.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let value = work();
    (begun.elapsed(), value)
}

/// Whole seconds since the Unix epoch on this machine's wall clock.
pub fn unix_seconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Sets this when it goes, by a panic too: what other threads look at to end.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A door that a test opens: a scripted backend waits behind it.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Gate {
        Gate::default()
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open, at most [`PATIENCE`]; says whether it is.
    pub fn pass(&self) -> bool {
        let guard = self.0.0.lock().unwrap();
        let (open, _) = self
            .0
            .1
            .wait_timeout_while(guard, PATIENCE, |open| !*open)
            .unwrap();
        *open
    }
}
