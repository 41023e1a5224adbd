//! What `local` locks with. Apart, so that the tests in `interleaved` can put modelled locks in its place.

use std::hash::Hash;

use foldhash::fast::RandomState;

pub(super) use std::sync::Mutex;
pub(super) use std::sync::MutexGuard;

pub(super) use dashmap::mapref::one::RefMut;

/// Hashed by seeds of its own, at a tenth of what SipHash takes. Only ids that the gateway made, and tenants of the operator's, come in here.
pub(super) type DashMap<K, V> = dashmap::DashMap<K, V, RandomState>;

/// A map of so many shards.
pub(super) fn sharded<K: Eq + Hash, V>(shards: usize) -> DashMap<K, V> {
    DashMap::with_hasher_and_shard_amount(RandomState::default(), shards)
}

/// Lists of changed ids, each under a lock of its own.
pub(super) const LANES: usize = 64;
