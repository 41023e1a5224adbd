//! Verified tokens by their marks: bounded, in shards, each under a lock that is held for one lookup.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::RwLockReadGuard;
use std::sync::RwLockWriteGuard;

use crate::token::entry::Verified;
use crate::token::mark::Mark;

type Map = HashMap<Mark, Arc<Verified>, BuildHasherDefault<First>>;

/// Takes the first bytes of a mark for its hash: they are as good as random. Nobody chooses those of a keyed one, or of a digest whose text an issuer made.
#[derive(Debug, Default)]
struct First(u64);

impl Hasher for First {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// Which kind a mark is says nothing, nor does the length of a digest.
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
    pub(super) fn get(&self, mark: &Mark) -> Option<Arc<Verified>> {
        read(self.shard(mark)).get(mark).cloned()
    }

    /// Keeps a token; in a full shard another gives way, whichever it is: it is only verified once more.
    pub(super) fn put(&self, mark: Mark, token: Arc<Verified>, max: usize) {
        let room = max.div_ceil(SHARDS).max(1);
        let mut shard = write(self.shard(&mark));
        while shard.len() >= room && !shard.contains_key(&mark) {
            let Some(other) = shard.keys().next().copied() else {
                break;
            };
            shard.remove(&other);
        }
        shard.insert(mark, token);
    }

    pub(super) fn forget(&self, mark: &Mark) {
        write(self.shard(mark)).remove(mark);
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

    fn shard(&self, mark: &Mark) -> &RwLock<Map> {
        // Other bytes than those that the map takes, so that the tokens of a shard are spread in it.
        let last = match mark {
            Mark::Jwt(mark) => mark.to_le_bytes()[15],
            Mark::Opaque(digest) => digest.0[31],
        };
        &self.shards[usize::from(last) % SHARDS]
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

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;
    use crate::model::key::Digest;

    /// The kind and the length, which are hashed too, leave the bytes that tell marks apart.
    #[test]
    fn the_hash_of_a_mark_is_of_its_own_bytes() {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&7_u64.to_le_bytes());
        let marks = [
            (Mark::Jwt(7), 7),
            (Mark::Jwt(u128::MAX), u64::MAX),
            (Mark::Opaque(Digest(bytes)), 7),
        ];
        for (mark, hash) in marks {
            assert_eq!(Map::default().hasher().hash_one(mark), hash);
        }
    }
}
