//! What each key did: counted in memory, flushed to the store in batches.

use dashmap::DashMap;

use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::store::counters::UsageRow;

/// What keys did since the last flush. Holds only those that did something, so it stays as small as one interval's traffic.
#[derive(Debug)]
pub struct Usage {
    pending: DashMap<KeyId, Pending>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    last_used_unix_seconds: u64,
    total: u64,
}

impl Usage {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Usage {
        Usage {
            pending: DashMap::with_shard_amount(SHARDS),
        }
    }

    /// Counts one request of a key.
    pub fn count(&self, key: KeyId, at: Wall) {
        self.add(key, at.unix_seconds(), 1);
    }

    /// Hands over what was counted, in order of keys. If it could not be written, give it to `put_back`.
    #[must_use]
    pub fn take(&self) -> Vec<UsageRow> {
        let mut rows = Vec::new();
        self.pending.retain(|key, pending| {
            rows.push(UsageRow {
                key: *key,
                last_used_unix_seconds: pending.last_used_unix_seconds,
                total: pending.total,
            });
            false
        });
        rows.sort_unstable_by_key(|row| row.key);
        rows
    }

    /// Counts again what `take` handed over.
    pub fn put_back(&self, rows: &[UsageRow]) {
        for row in rows {
            self.add(row.key, row.last_used_unix_seconds, row.total);
        }
    }

    fn add(&self, key: KeyId, unix_seconds: u64, count: u64) {
        let mut pending = self.pending.entry(key).or_default();
        pending.last_used_unix_seconds = pending.last_used_unix_seconds.max(unix_seconds);
        pending.total = pending.total.saturating_add(count);
    }
}

impl Default for Usage {
    fn default() -> Usage {
        Usage::new()
    }
}

/// Many, so that workers seldom meet and a flush holds up few keys.
const SHARDS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// FA32, FF14: last used and total, each request counted once even when a flush fails.
    #[test]
    fn counts_are_handed_over_once_and_can_be_put_back() {
        let usage = Usage::new();
        let (a, b) = (KeyId(*b"aaaaaaaaaaaa"), KeyId(*b"bbbbbbbbbbbb"));
        usage.count(b, Wall::from_unix_seconds(7));
        usage.count(a, Wall::from_unix_seconds(9));
        usage.count(a, Wall::from_unix_seconds(8));
        let row = |key, last_used_unix_seconds, total| UsageRow {
            key,
            last_used_unix_seconds,
            total,
        };
        let taken = usage.take();
        assert_eq!(taken, [row(a, 9, 2), row(b, 7, 1)]);
        assert_eq!(usage.take(), []);
        usage.count(a, Wall::from_unix_seconds(10));
        usage.put_back(&taken);
        assert_eq!(usage.take(), [row(a, 10, 3), row(b, 7, 1)]);
    }
}
