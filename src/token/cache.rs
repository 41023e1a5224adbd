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

/// Takes the number that a mark gives for its hash.
#[derive(Debug, Default)]
struct First(u64);

impl Hasher for First {
    /// Nothing else is hashed here.
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Only what was verified comes here, so that nobody can push others out who has no tokens of his own.
#[derive(Debug)]
pub(super) struct Cache {
    shards: Box<[Shard]>,
}

/// A std lock: held for a lookup, a put or a forget, never across an await. Each has a cache line of its own, so that two workers that look into two of
/// them do not wait for each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(RwLock<Map>);

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
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

    fn shard(&self, mark: &Mark) -> &Shard {
        // Another number than the one that the map takes, so that the tokens of a shard are spread in it.
        let [_, number] = mark.places();
        &self.shards[number as usize % SHARDS]
    }
}

fn read(shard: &Shard) -> RwLockReadGuard<'_, Map> {
    // A map is whole after every step, so a panic elsewhere has not broken it.
    shard.0.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &Shard) -> RwLockWriteGuard<'_, Map> {
    shard.0.write().unwrap_or_else(PoisonError::into_inner)
}

/// A power of two, at most 256: of a digest one byte names them.
const SHARDS: usize = 64;

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;
    use crate::model::key::Digest;

    /// All of a mark counts when it is compared; of what it is found by, nothing is lost.
    #[test]
    fn the_hash_of_a_mark_is_a_number_of_its_own() {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&7_u64.to_le_bytes());
        let marks = [
            Mark::Jwt([7, 0, 1, 2], 3),
            Mark::Jwt([0, 7, 1, 2], 3),
            Mark::Opaque(Digest(bytes)),
        ];
        for mark in marks {
            let hash = Map::default().hasher().hash_one(mark);
            assert_eq!(hash, mark.places()[0]);
        }
        for other in [Mark::Jwt([7, 0, 1, 3], 3), Mark::Jwt([7, 0, 1, 2], 4)] {
            assert_ne!(other, Mark::Jwt([7, 0, 1, 2], 3));
        }
    }
}
