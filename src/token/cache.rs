//! Verified tokens by digest: bounded, in shards, each under a lock that is held for one lookup.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::RwLockReadGuard;
use std::sync::RwLockWriteGuard;

use crate::model::key::Digest;
use crate::token::entry::Verified;

type Map = HashMap<Digest, Arc<Verified>, BuildHasherDefault<First>>;

/// Takes the first bytes of a digest for its hash: they are as good as random, and nobody chooses those of tokens that an issuer has signed.
#[derive(Debug, Default)]
struct First(u64);

impl Hasher for First {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length of a digest says nothing.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Only what was verified comes here, so that nobody can push others out who has no tokens of his own.
#[derive(Debug)]
pub(super) struct Cache {
    /// Std locks: held for a lookup, a put or a forget, never across an await.
    shards: Box<[RwLock<Map>]>,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }
}

impl Cache {
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Verified>> {
        read(self.shard(digest)).get(digest).cloned()
    }

    /// Keeps a token; in a full shard another gives way, whichever it is: it is only verified once more.
    pub(super) fn put(&self, digest: Digest, token: Arc<Verified>, max: usize) {
        let room = max.div_ceil(SHARDS).max(1);
        let mut shard = write(self.shard(&digest));
        while shard.len() >= room && !shard.contains_key(&digest) {
            let Some(other) = shard.keys().next().copied() else {
                break;
            };
            shard.remove(&other);
        }
        shard.insert(digest, token);
    }

    pub(super) fn forget(&self, digest: &Digest) {
        write(self.shard(digest)).remove(digest);
    }

    /// Forgets all that `keep` does not keep; one shard after the other.
    pub(super) fn sweep(&self, keep: impl Fn(&Verified) -> bool) {
        for shard in &self.shards {
            write(shard).retain(|_, token| keep(token));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| read(shard).len()).sum()
    }

    fn shard(&self, digest: &Digest) -> &RwLock<Map> {
        &self.shards[usize::from(digest.0[31]) % SHARDS]
    }
}

fn read(shard: &RwLock<Map>) -> RwLockReadGuard<'_, Map> {
    // A map is whole after every step, so a panic elsewhere has not broken it.
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &RwLock<Map>) -> RwLockWriteGuard<'_, Map> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

/// A power of two, at most 256.
const SHARDS: usize = 64;
