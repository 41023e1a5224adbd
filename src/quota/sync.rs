//! What `local` locks with. Apart, so that the tests in `interleaved` can put modelled locks in its place.

pub(super) use std::sync::Mutex;
pub(super) use std::sync::MutexGuard;

pub(super) use dashmap::DashMap;
pub(super) use dashmap::mapref::one::RefMut;

/// Lists of changed ids, each under a lock of its own.
pub(super) const LANES: usize = 64;
