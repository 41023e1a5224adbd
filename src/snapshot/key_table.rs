//! Keys by digest in 1,024 shared shards, so that one change copies one shard.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;
use std::sync::Arc;

use crate::model::key::Digest;
use crate::snapshot::KeyEntry;

/// How many shards; a power of two.
pub const SHARDS: usize = 1024;

type Shard = HashMap<Digest, KeyEntry, BuildHasherDefault<DigestHasher>>;

/// The keys of one snapshot. Cloning shares every shard.
#[derive(Clone, Debug)]
pub struct KeyTable {
    shards: Arc<[Arc<Shard>]>,
    count: usize,
}

impl KeyTable {
    /// A table of these keys; a digest that comes twice keeps the last.
    #[must_use]
    pub fn build(keys: impl Iterator<Item = (Digest, KeyEntry)>) -> KeyTable {
        let mut shards: Vec<Shard> = (0..SHARDS).map(|_| Shard::default()).collect();
        for (digest, entry) in keys {
            shards[shard_of(&digest)].insert(digest, entry);
        }
        let count = shards.iter().map(Shard::len).sum();
        for shard in &mut shards {
            shard.shrink_to_fit();
        }
        KeyTable {
            shards: shards.into_iter().map(Arc::new).collect(),
            count,
        }
    }

    /// The key with this digest.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<&KeyEntry> {
        self.shards[shard_of(digest)].get(digest)
    }

    /// This table with some digests changed (`Some`) or gone (`None`); copies only the shards they lie in.
    #[must_use]
    pub fn with(&self, changes: &[(Digest, Option<KeyEntry>)]) -> KeyTable {
        let mut touched: HashMap<usize, Shard> = HashMap::new();
        for (digest, entry) in changes {
            let index = shard_of(digest);
            let shard = touched
                .entry(index)
                .or_insert_with(|| (*self.shards[index]).clone());
            match entry {
                Some(entry) => shard.insert(*digest, entry.clone()),
                None => shard.remove(digest),
            };
        }
        let mut shards: Vec<Arc<Shard>> = self.shards.to_vec();
        for (index, shard) in touched {
            shards[index] = Arc::new(shard);
        }
        let count = shards.iter().map(|shard| shard.len()).sum();
        KeyTable {
            shards: shards.into(),
            count,
        }
    }

    /// Every key, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Digest, &KeyEntry)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// How many keys there are, tombstones included where they were given.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

fn shard_of(digest: &Digest) -> usize {
    (usize::from(digest.0[0]) << 2 | usize::from(digest.0[1] >> 6)) & (SHARDS - 1)
}

/// A digest is uniform and not chosen by a stranger bit by bit, so eight of its bytes serve as the hash.
#[derive(Default)]
pub struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(Ok(chunk)) = bytes
            .get(bytes.len().saturating_sub(8)..)
            .map(<[u8; 8]>::try_from)
        {
            self.0 = u64::from_le_bytes(chunk);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
