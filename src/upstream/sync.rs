//! What `queue` counts, locks and calls with. Apart, so that the tests in `interleaved` can put modelled parts in its place.

pub(super) use std::sync::Mutex;
pub(super) use std::sync::MutexGuard;
pub(super) use std::sync::atomic::AtomicUsize;

pub(super) use tokio::sync::oneshot;
