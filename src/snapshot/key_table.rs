//! Keys by digest in 1,024 shared shards, so that one change copies one shard.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::model::key::Digest;
use crate::model::seat::SeatHint;
use crate::prefetch::prefetch;
use crate::snapshot::KeyEntry;

/// How many shards; a power of two.
pub const SHARDS: usize = 1 << SHARD_BITS;

/// How many leading bits of a digest name its shard.
const SHARD_BITS: u32 = 10;

type Row = (Digest, KeyEntry);

/// The keys of one snapshot. Cloning shares every shard.
#[derive(Clone, Debug)]
pub struct KeyTable {
    shards: Arc<[Arc<Shard>]>,
    count: usize,
}

/// Rows by digest, and where in them to look. A hash map would keep one to nine empty places for eight full ones, and a place is 88 bytes.
#[derive(Debug)]
struct Shard {
    /// Sorted by digest, each digest once.
    rows: Box<[Row]>,
    /// Where each bucket begins in `rows`, and at last where the last one ends. There are as many buckets as rows, so that one holds
    /// a row on average, however many keys there are.
    starts: Starts,
    /// The last byte of each row's digest: of several in a bucket the right one is found without a look at the others, each of which is far away.
    tags: Box<[u8]>,
    /// Where the windows and the meter of each row's key lie: not in the row, so that both can be brought from memory at once.
    seats: Box<[SeatHint]>,
}

/// A key that was found.
#[derive(Clone, Copy, Debug)]
pub struct FoundKey<'a> {
    /// What is known of it.
    pub entry: &'a KeyEntry,
    /// Where its windows and its meter lie.
    pub seat: &'a SeatHint,
}

/// Half as much memory, which is then nearer, unless the keys of a shard are very many.
#[derive(Debug)]
enum Starts {
    Narrow(Box<[u16]>),
    Wide(Box<[u32]>),
}

impl KeyTable {
    /// A table of these keys; a digest that comes twice keeps the last.
    #[must_use]
    pub fn build(keys: impl Iterator<Item = (Digest, KeyEntry)>) -> KeyTable {
        let mut gathered = Gathered::new();
        for (digest, entry) in keys {
            gathered.push(digest, entry);
        }
        gathered.into_table()
    }

    fn of(shards: Vec<Arc<Shard>>) -> KeyTable {
        KeyTable {
            count: shards.iter().map(|shard| shard.rows.len()).sum(),
            shards: shards.into(),
        }
    }

    /// The key with this digest.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<&KeyEntry> {
        Some(self.find(digest)?.entry)
    }

    /// The same, and where its state lies.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<FoundKey<'_>> {
        self.shards[shard_of(digest)].find(digest)
    }

    /// Has brought from memory what a look for this digest begins with.
    #[inline]
    pub fn look_out(&self, digest: &Digest) {
        prefetch(&*self.shards[shard_of(digest)]);
    }

    /// A while after that: has brought what says where its row lies.
    #[inline]
    pub fn look_ahead(&self, digest: &Digest) {
        self.shards[shard_of(digest)].look_ahead(digest);
    }

    /// A while after that: has the key's row brought. Gives the number of its seat, as far as both are known.
    #[inline]
    pub fn look_on(&self, digest: &Digest) -> u32 {
        self.shards[shard_of(digest)].look_on(digest)
    }

    /// This table with some digests changed (`Some`) or gone (`None`), the last where one comes twice; copies only the shards
    /// they lie in.
    #[must_use]
    pub fn with(&self, changes: &[(Digest, Option<KeyEntry>)]) -> KeyTable {
        let mut touched: HashMap<usize, Changes<'_>> = HashMap::new();
        for (digest, entry) in changes {
            let of_shard = touched.entry(shard_of(digest)).or_default();
            of_shard.insert(digest, entry.as_ref());
        }
        let mut shards: Vec<Arc<Shard>> = self.shards.to_vec();
        for (index, changes) in &touched {
            shards[*index] = Arc::new(shards[*index].with(changes));
        }
        KeyTable::of(shards)
    }

    /// Every key, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Digest, &KeyEntry)> {
        let rows = self.shards.iter().flat_map(|shard| shard.rows.iter());
        rows.map(|(digest, entry)| (digest, entry))
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

/// A table in the making: rows come one by one, and none is held twice.
#[derive(Debug)]
pub struct Gathered(Vec<Vec<Row>>);

impl Gathered {
    /// No rows yet.
    #[must_use]
    pub fn new() -> Gathered {
        Gathered((0..SHARDS).map(|_| Vec::new()).collect())
    }

    /// Adds a row.
    pub fn push(&mut self, digest: Digest, entry: KeyEntry) {
        self.0[shard_of(&digest)].push((digest, entry));
    }

    /// The table of these rows; a digest that came twice keeps the last.
    #[must_use]
    pub fn into_table(self) -> KeyTable {
        KeyTable::of(self.0.into_iter().map(Shard::build).map(Arc::new).collect())
    }
}

impl Default for Gathered {
    fn default() -> Gathered {
        Gathered::new()
    }
}

/// What becomes of the digests of one shard; `None` is gone.
type Changes<'a> = BTreeMap<&'a Digest, Option<&'a KeyEntry>>;

impl Shard {
    fn build(mut rows: Vec<Row>) -> Shard {
        // Stable, so that the last of equal digests stays last; and quick where `rows` are two sorted runs.
        rows.sort_by_key(|(digest, _)| *digest);
        rows.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        let buckets = rows.len();
        let mut starts = Vec::with_capacity(buckets + 1);
        for (index, (digest, _)) in rows.iter().enumerate() {
            starts.resize(bucket_of(digest, buckets) + 1, index as u32);
        }
        starts.resize(buckets + 1, buckets as u32);
        Shard {
            tags: rows.iter().map(|(digest, _)| tag_of(digest)).collect(),
            seats: rows.iter().map(|_| SeatHint::default()).collect(),
            rows: rows.into_boxed_slice(),
            starts: Starts::of(starts),
        }
    }

    /// Rows are in the order of their digests and evenly spread, so that a digest's own is not far from where it would be if each bucket held one: of tags
    /// that is often the same line, and of rows at least the same page.
    fn look_ahead(&self, digest: &Digest) {
        let rows = self.rows.len();
        if rows == 0 {
            return;
        }
        let bucket = bucket_of(digest, rows);
        self.starts.look_ahead(bucket);
        prefetch(&self.tags[bucket]);
        prefetch(&self.seats[bucket]);
        prefetch(&self.rows[bucket].0);
    }

    fn find(&self, digest: &Digest) -> Option<FoundKey<'_>> {
        if self.rows.is_empty() {
            return None;
        }
        let bucket = bucket_of(digest, self.rows.len());
        let (start, end) = self.starts.of_bucket(bucket);
        if end - start > FEW {
            // A search by halves: whoever imports digests may have chosen them, and all of one bucket.
            let rows = &self.rows[start..end];
            let found = rows.binary_search_by(|(there, _)| there.cmp(digest)).ok()?;
            return Some(self.found(start + found));
        }
        let index = self
            .tagged(start..end, digest)
            .find(|index| self.rows[*index].0 == *digest)?;
        Some(self.found(index))
    }

    #[inline]
    fn found(&self, index: usize) -> FoundKey<'_> {
        FoundKey {
            entry: &self.rows[index].1,
            seat: &self.seats[index],
        }
    }

    fn look_on(&self, digest: &Digest) -> u32 {
        if self.rows.is_empty() {
            return 0;
        }
        let (start, end) = self.starts.of_bucket(bucket_of(digest, self.rows.len()));
        if end - start > FEW {
            return 0;
        }
        let Some(index) = self.tagged(start..end, digest).next() else {
            return 0;
        };
        prefetch(&self.rows[index]);
        self.seats[index].number()
    }

    /// The numbers of those rows among these that have the digest's tag.
    #[inline]
    fn tagged(&self, rows: Range<usize>, digest: &Digest) -> impl Iterator<Item = usize> {
        let tag = tag_of(digest);
        let tags = self.tags[rows.clone()].iter().zip(rows);
        tags.filter_map(move |(there, index)| (*there == tag).then_some(index))
    }

    fn with(&self, changes: &Changes<'_>) -> Shard {
        let mut rows = Vec::with_capacity(self.rows.len() + changes.len());
        let untouched = |(digest, _): &&Row| !changes.contains_key(digest);
        rows.extend(self.rows.iter().filter(untouched).cloned());
        for (digest, entry) in changes {
            rows.extend(entry.map(|entry| (**digest, entry.clone())));
        }
        let next = Shard::build(rows);
        next.sit_as_in(self);
        next
    }

    /// Takes over where those sit who were here before.
    fn sit_as_in(&self, before: &Shard) {
        let mut sat = before.rows.iter().zip(&before.seats).peekable();
        for ((digest, _), seat) in self.rows.iter().zip(&self.seats) {
            while sat.next_if(|((there, _), _)| there < digest).is_some() {}
            if let Some((_, number)) = sat.next_if(|((there, _), _)| there == digest) {
                seat.set(number.number());
            }
        }
    }
}

impl Starts {
    fn of(starts: Vec<u32>) -> Starts {
        let narrow = starts.iter().map(|start| u16::try_from(*start));
        match narrow.collect() {
            Ok(narrow) => Starts::Narrow(narrow),
            Err(_) => Starts::Wide(starts.into_boxed_slice()),
        }
    }

    #[inline]
    fn look_ahead(&self, bucket: usize) {
        match self {
            Starts::Narrow(starts) => prefetch(&starts[bucket]),
            Starts::Wide(starts) => prefetch(&starts[bucket]),
        }
    }

    /// Where a bucket begins and ends.
    #[inline]
    fn of_bucket(&self, bucket: usize) -> (usize, usize) {
        match self {
            Starts::Narrow(starts) => (starts[bucket].into(), starts[bucket + 1].into()),
            Starts::Wide(starts) => (starts[bucket] as usize, starts[bucket + 1] as usize),
        }
    }
}

fn shard_of(digest: &Digest) -> usize {
    (leading(digest) >> (u64::BITS - SHARD_BITS)) as usize
}

/// A digest is uniform, so the bits behind those of its shard, taken as a fraction of the buckets, spread evenly over them; and they
/// keep the order of digests. 0 to `buckets` - 1.
fn bucket_of(digest: &Digest, buckets: usize) -> usize {
    let fraction = leading(digest) << SHARD_BITS;
    ((u128::from(fraction) * buckets as u128) >> u64::BITS) as usize
}

/// Far from the bits that name its bucket.
fn tag_of(digest: &Digest) -> u8 {
    digest.0[31]
}

fn leading(digest: &Digest) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = digest.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Rows of a bucket whose tags are looked through.
const FEW: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::key::Environment;
    use crate::model::key::KeyId;
    use crate::model::key::KeyKind;
    use crate::model::key::KeyStatus;
    use crate::model::scope::Scopes;
    use crate::snapshot::NEVER_EXPIRES;

    fn entry(plan: u32) -> KeyEntry {
        KeyEntry {
            id: KeyId([b'a'; 12]),
            tenant: 0,
            plan,
            expires: NEVER_EXPIRES,
            status: KeyStatus::Active,
            kind: KeyKind::Secret,
            environment: Environment(0),
            own: None,
            binding: None,
            scopes: Scopes::Inherit,
        }
    }

    /// Digests that often share a shard, a bucket, or all but their last byte.
    fn digest() -> impl Strategy<Value = Digest> {
        let first = prop::sample::select(vec![0, 1, 0x7f, 0xff]);
        let rest = prop::sample::select(vec![0, 1, 0x80, 0xff]);
        (first, any::<u8>(), rest, 0..3_u8).prop_map(|(first, second, rest, last)| {
            let mut bytes = [rest; 32];
            (bytes[0], bytes[1], bytes[31]) = (first, second & 0xc7, last);
            Digest(bytes)
        })
    }

    fn assert_same(table: &KeyTable, wanted: &HashMap<Digest, u32>, asked: &[Digest]) {
        assert_eq!(table.len(), wanted.len());
        assert_eq!(table.is_empty(), wanted.is_empty());
        let found: HashMap<Digest, u32> = table.iter().map(|(d, entry)| (*d, entry.plan)).collect();
        assert_eq!(&found, wanted);
        assert_eq!(table.iter().count(), wanted.len(), "each once");
        for digest in wanted.keys().chain(asked) {
            let plan = table.get(digest).map(|entry| entry.plan);
            assert_eq!(plan, wanted.get(digest).copied());
        }
    }

    proptest! {
        #[test]
        fn a_table_answers_as_a_map_does(
            keys in prop::collection::vec((digest(), 0..9_u32), 0..200),
            changes in prop::collection::vec((digest(), prop::option::of(10..19_u32)), 0..60),
            asked in prop::collection::vec(digest(), 0..20),
        ) {
            let mut wanted: HashMap<Digest, u32> = keys.iter().copied().collect();
            let before = wanted.clone();
            let table = KeyTable::build(keys.into_iter().map(|(digest, plan)| (digest, entry(plan))));
            assert_same(&table, &before, &asked);
            for (digest, number) in before.keys().zip(1..) {
                table.find(digest).unwrap().seat.set(number);
            }
            for (digest, plan) in &changes {
                match plan {
                    Some(plan) => wanted.insert(*digest, *plan),
                    None => wanted.remove(digest),
                };
            }
            let changes: Vec<_> =
                changes.into_iter().map(|(digest, plan)| (digest, plan.map(entry))).collect();
            let next = table.with(&changes);
            assert_same(&next, &wanted, &asked);
            assert_same(&table, &before, &asked);
            // Whoever was there sits where he sat.
            let sits = |table: &KeyTable, digest| table.find(digest).map_or(0, |key| key.seat.number());
            for digest in wanted.keys() {
                prop_assert_eq!(sits(&next, digest), sits(&table, digest));
            }
        }
    }

    #[test]
    fn a_change_copies_its_shard_and_shares_the_others() {
        let digest = |first: u8| Digest([first; 32]);
        let table = KeyTable::build((0..=255).map(|first| (digest(first), entry(0))));
        let next = table.with(&[(digest(7), Some(entry(1)))]);
        let shards = table.shards.iter().zip(next.shards.iter());
        let copied = shards.filter(|(old, new)| !Arc::ptr_eq(old, new));
        assert_eq!(copied.count(), 1);
    }

    #[test]
    fn a_row_takes_no_more_than_96_bytes() {
        assert!(
            size_of::<Row>() + size_of::<u16>() + size_of::<u8>() + size_of::<SeatHint>() <= 96
        );
    }

    #[test]
    fn a_bucket_holds_few_rows_however_many_keys_there_are() {
        for count in [1_000_u64, 100_000] {
            let digests = (0..count).map(|index| {
                let mut bytes = [0; 32];
                // Spread as SHA-256 spreads them, but quicker in a test.
                let spread = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                bytes[..8].copy_from_slice(&(spread ^ spread >> 29).to_be_bytes());
                Digest(bytes)
            });
            let table = KeyTable::build(digests.map(|digest| (digest, entry(0))));
            let sizes = table.shards.iter().flat_map(|shard| {
                let buckets = (0..shard.rows.len()).map(|bucket| shard.starts.of_bucket(bucket));
                buckets.map(|(start, end)| end - start)
            });
            let longest = sizes.max().unwrap();
            assert!(longest <= 12, "{count} keys, {longest} in one bucket");
        }
    }

    #[test]
    fn a_shard_may_have_more_rows_than_the_narrow_numbers_reach() {
        let digest = |index: u32| {
            let mut bytes = [0; 32];
            // All of the first shard.
            bytes[1..5].copy_from_slice(&(index.wrapping_mul(0x9e37_79b1) >> 2).to_be_bytes());
            bytes[28..].copy_from_slice(&index.to_be_bytes());
            Digest(bytes)
        };
        let count = u32::from(u16::MAX) + 10;
        let table = KeyTable::build((0..count).map(|index| (digest(index), entry(index))));
        assert_eq!(table.shards[0].rows.len(), count as usize);
        for index in 0..count {
            let found = table.get(&digest(index)).map(|entry| entry.plan);
            assert_eq!(found, Some(index));
        }
        assert!(table.get(&digest(count)).is_none());
    }
}
