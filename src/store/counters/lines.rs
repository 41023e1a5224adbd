//! Lines of the journal: one for each subject or key and save, packed.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::RandomState;
use postcard::ser_flavors::Flavor;
use rusqlite::types::Type;
use serde::Deserialize;
use serde::Serialize;

use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::model::tenant::TenantId;
use crate::store::history::HourRow;
use crate::store::history::LATENCY_BUCKETS;
use crate::store::history::Tally;

use super::Row;
use super::SavedBurst;
use super::SavedQuota;
use super::Subject;
use super::tables;

/// What became of a subject's counters; neither window is left when it was removed.
#[derive(Serialize, Deserialize)]
pub(super) struct LimitLine<'a> {
    #[serde(borrow)]
    pub(super) whose: Whose<'a>,
    /// When it opened by both clocks, its length, what was taken.
    pub(super) quota: Option<(i64, u64, u32, u32)>,
    pub(super) burst: BurstLine,
}

/// What became of a burst window. The first two are what format 3 wrote as an `Option`.
#[derive(Serialize, Deserialize)]
pub(super) enum BurstLine {
    /// Nothing is left of it.
    Empty,
    /// Its length, its first time, the log.
    Whole(u32, i64, Steps),
    /// Its first time, how long after that the last is that the save before had too, and what is new of the log.
    Behind(i64, u64, Steps),
}

/// Times after the one before, the first after what is said before them, and counts.
pub(super) type Steps = Vec<(u64, u32)>;

/// The last that was said of each subject; `None` where it was removed.
pub(super) type Latest = Merged<Subject, Option<Row>>;

/// What lines say of each of their owners in the end: in the order in which owners came up first, which is nearly the one that is wanted.
#[derive(Debug)]
pub(super) struct Merged<K, V> {
    places: HashMap<K, usize, RandomState>,
    found: Vec<(K, V)>,
}

impl<K, V> Default for Merged<K, V> {
    fn default() -> Merged<K, V> {
        Merged {
            places: HashMap::default(),
            found: Vec::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord, V: Default> Merged<K, V> {
    pub(super) fn get_mut(&mut self, owner: &K) -> Option<&mut V> {
        let place = *self.places.get(owner)?;
        Some(&mut self.found[place].1)
    }

    /// What there is of this owner, or nothing yet.
    pub(super) fn entry(&mut self, owner: &K) -> &mut V {
        let place = match self.places.get(owner) {
            Some(place) => *place,
            None => {
                self.places.insert(owner.clone(), self.found.len());
                self.found.push((owner.clone(), V::default()));
                self.found.len() - 1
            }
        };
        &mut self.found[place].1
    }

    /// All of it, in order.
    pub(super) fn sorted(self) -> Vec<(K, V)> {
        let mut found = self.found;
        // Made of runs that are in order.
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        found
    }
}

#[derive(Serialize, Deserialize)]
pub(super) enum Whose<'a> {
    Key([u8; 12]),
    Tenant(&'a str),
}

/// What a key did since the save before.
#[derive(Serialize, Deserialize)]
pub(super) struct UsageLine {
    key: [u8; 12],
    hour: u32,
    last_used_unix_seconds: u64,
    /// Successes, client errors, server errors, refusals, bytes received, bytes sent.
    counts: [u64; 6],
    latency: [u64; LATENCY_BUCKETS],
}

/// The first line, and what comes behind it.
pub(super) fn parsed<'a, T: Deserialize<'a>>(
    column: &str,
    packed: &'a [u8],
) -> rusqlite::Result<(T, &'a [u8])> {
    postcard::take_from_bytes(packed).map_err(|_| senseless(column))
}

pub(super) fn senseless(column: &str) -> rusqlite::Error {
    nonsense(format!("the journal of {column} makes no sense"))
}

/// What no save can have written.
pub(super) fn nonsense(what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, what.into())
}

pub(super) fn pack<T: Serialize>(line: &T, packed: &mut Vec<u8>) -> rusqlite::Result<()> {
    postcard::serialize_with_flavor(line, Appended(packed))
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// Writes behind what is there.
struct Appended<'a>(&'a mut Vec<u8>);

impl Flavor for Appended<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

impl<'a> Whose<'a> {
    pub(super) fn of(subject: &'a Subject) -> Whose<'a> {
        match subject {
            Subject::Key(key) => Whose::Key(key.0),
            Subject::Tenant(tenant) => Whose::Tenant(tenant.as_str()),
        }
    }

    pub(super) fn subject(&self) -> Option<Subject> {
        match self {
            Whose::Key(id) => key(*id).map(Subject::Key),
            Whose::Tenant(id) => TenantId::new(id).ok().map(Subject::Tenant),
        }
    }
}

impl<'a> LimitLine<'a> {
    pub(super) fn of(row: &'a Row) -> LimitLine<'a> {
        LimitLine {
            whose: Whose::of(&row.subject),
            quota: row.quota.map(|quota| {
                let opened = (quota.opened_micros, quota.opened_wall.0);
                (opened.0, opened.1, quota.seconds, quota.used)
            }),
            burst: row.burst.as_ref().map_or(BurstLine::Empty, BurstLine::of),
        }
    }

    /// Nothing is left of this subject's.
    pub(super) fn nothing(subject: &'a Subject) -> LimitLine<'a> {
        LimitLine {
            whose: Whose::of(subject),
            quota: None,
            burst: BurstLine::Empty,
        }
    }

    /// Puts this in place of what was said before. An error where no save can have written it.
    pub(super) fn onto(
        self,
        latest: &mut Latest,
        before: impl Fn(&Subject) -> rusqlite::Result<Option<Row>>,
    ) -> rusqlite::Result<()> {
        let wrong = || senseless(LIMITS);
        let subject = self.whose.subject().ok_or_else(wrong)?;
        let quota = match self.quota {
            Some((opened_micros, opened_wall, seconds, used)) => Some(SavedQuota {
                opened_micros,
                opened_wall: Wall(opened_wall),
                seconds: tables::length(seconds).ok_or_else(wrong)?,
                used,
            }),
            None => None,
        };
        let burst = match self.burst {
            BurstLine::Empty => None,
            BurstLine::Whole(seconds, first, steps) => Some(SavedBurst {
                seconds: tables::length(seconds).ok_or_else(wrong)?,
                behind: None,
                log: times(first, &steps).ok_or_else(wrong)?,
            }),
            BurstLine::Behind(first, kept, steps) => {
                let said = match latest.get_mut(&subject) {
                    Some(said) => said.take(),
                    None => before(&subject)?,
                };
                let burst = said.and_then(|said| said.burst).ok_or_else(wrong)?;
                Some(gone_on(burst, first, kept, &steps).ok_or_else(wrong)?)
            }
        };
        let left = quota.is_some() || burst.is_some();
        let row = left.then(|| Row {
            subject: subject.clone(),
            quota,
            burst,
        });
        *latest.entry(&subject) = row;
        Ok(())
    }
}

impl BurstLine {
    pub(super) fn of(burst: &SavedBurst) -> BurstLine {
        let after = |before: i64, at: i64| at.saturating_sub(before).max(0).unsigned_abs();
        let steps = |from: i64| -> Steps {
            let mut before = from;
            let steps = burst.log.iter().map(|(at, count)| {
                let step = (after(before, *at), *count);
                before = *at;
                step
            });
            steps.collect()
        };
        match (burst.behind, burst.log.first()) {
            (Some((first, last)), _) => BurstLine::Behind(first, after(first, last), steps(last)),
            (None, Some((first, _))) => BurstLine::Whole(burst.seconds, *first, steps(*first)),
            (None, None) => BurstLine::Empty,
        }
    }
}

/// Times of their own again. `None` where they are more than there can be.
fn times(first: i64, log: &[(u64, u32)]) -> Option<Vec<(i64, u32)>> {
    let mut at = first;
    log.iter()
        .map(|(after, count)| {
            at = at.checked_add_unsigned(*after)?;
            Some((at, *count))
        })
        .collect()
}

/// A burst with what is new of it. What has passed is still there: `settled` lets go of that, since the next line may move the first time further.
/// `None` where the burst has not what the line comes behind.
fn gone_on(
    mut burst: SavedBurst,
    first: i64,
    kept: u64,
    steps: &[(u64, u32)],
) -> Option<SavedBurst> {
    let last = first.checked_add_unsigned(kept)?;
    let stays = burst.log.partition_point(|(at, _)| *at <= last);
    burst.log.truncate(stays);
    let found = burst.log.last().is_some_and(|(at, _)| *at == last);
    let forward = burst.behind.is_none_or(|(before, _)| before <= first);
    burst.log.extend(times(last, steps)?);
    burst.behind = Some((first, last));
    (found && forward).then_some(burst)
}

/// Lets go of what has passed. `None` where nothing is left, or not what was said, or more than there can be.
pub(super) fn settled(burst: &mut SavedBurst) -> Option<()> {
    let (mut first, last) = (burst.log.first()?.0, burst.log.last()?.0);
    if let Some((begins, _)) = burst.behind.take() {
        let passed = burst.log.partition_point(|(at, _)| *at < begins);
        burst.log.drain(..passed);
        first = burst.log.first()?.0;
        (first == begins).then_some(())?;
    }
    // As far as the tables can tell times apart.
    last.checked_sub(first)?;
    let mut counts = burst.log.iter().map(|(_, count)| *count);
    counts.try_fold(0_u32, u32::checked_add).map(|_| ())
}

impl UsageLine {
    pub(super) fn of(row: &HourRow) -> UsageLine {
        let tally = &row.tally;
        UsageLine {
            key: row.key.0,
            hour: row.hour,
            last_used_unix_seconds: tally.last_used_unix_seconds,
            counts: [
                tally.success,
                tally.client_error,
                tally.server_error,
                tally.refused,
                tally.received_bytes,
                tally.sent_bytes,
            ],
            latency: tally.latency,
        }
    }

    /// Whether it can be read again. A sum of what SQLite can hold is what it can hold.
    pub(super) fn is_sound(&self) -> bool {
        let mut all = self.counts.iter().chain(&self.latency);
        all.all(|count| *count <= COUNT_MAX)
    }

    pub(super) fn row(self) -> Option<HourRow> {
        let [
            success,
            client_error,
            server_error,
            refused,
            received_bytes,
            sent_bytes,
        ] = self.counts;
        self.is_sound().then_some(())?;
        Some(HourRow {
            key: key(self.key)?,
            hour: self.hour,
            tally: Tally {
                last_used_unix_seconds: self.last_used_unix_seconds,
                success,
                client_error,
                server_error,
                refused,
                received_bytes,
                sent_bytes,
                latency: self.latency,
            },
        })
    }
}

fn key(id: [u8; 12]) -> Option<KeyId> {
    id.iter()
        .all(u8::is_ascii_alphanumeric)
        .then_some(KeyId(id))
}

/// Columns of packed lines, by the names that damage is told with.
pub(super) const LIMITS: &str = "limits";
pub(super) const USAGE: &str = "usage";

/// So much of anything in one line is damage, and thousands of saves add up below what 64 bits hold.
const COUNT_MAX: u64 = 1 << 48;
