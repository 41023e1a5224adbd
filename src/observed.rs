//! Who would have been refused by rules that are only observed: a bounded table, from the start of the process.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use dashmap::DashMap;
use dashmap::Entry;

use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::model::route::Route;

/// Rows that are kept, each for one key, one route and one reason; about 200 bytes each.
pub const ROWS_MAX: usize = 10_000;

/// Many, so that workers seldom meet.
const SHARDS: usize = 64;

/// The table. Only requests that would have been refused touch it.
#[derive(Debug)]
pub struct Observed {
    rows: DashMap<Occasion, Seen>,
    /// At least as many as there are rows: counted before one is made, so that there are never more.
    count: AtomicUsize,
    beyond: AtomicU64,
}

/// What makes a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Occasion {
    /// Whose request.
    pub key: KeyId,
    /// Host, if it has one, and path of its route; `None` where there is no route.
    pub route: Option<Box<str>>,
    /// Why it would have been refused, in the words of the log.
    pub reason: &'static str,
}

/// How often, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Requests.
    pub count: u64,
    /// The first of them.
    pub first: Wall,
    /// The last of them.
    pub last: Wall,
}

impl Observed {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Observed {
        Observed {
            rows: DashMap::with_shard_amount(SHARDS),
            count: AtomicUsize::new(0),
            beyond: AtomicU64::new(0),
        }
    }

    /// Counts a request that would have been refused.
    pub fn note(&self, key: KeyId, route: Option<&Route>, reason: &'static str, at: Wall) {
        let occasion = Occasion {
            key,
            route: route.map(place),
            reason,
        };
        match self.rows.entry(occasion) {
            Entry::Occupied(mut row) => {
                let seen = row.get_mut();
                seen.count = seen.count.saturating_add(1);
                seen.last = seen.last.max(at);
            }
            Entry::Vacant(row) => {
                if self.count.fetch_add(1, Ordering::Relaxed) < ROWS_MAX {
                    row.insert(Seen {
                        count: 1,
                        first: at,
                        last: at,
                    });
                } else {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                    self.beyond.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// All rows, the most frequent first.
    #[must_use]
    pub fn rows(&self) -> Vec<(Occasion, Seen)> {
        let row = |row: dashmap::mapref::multiple::RefMulti<'_, Occasion, Seen>| {
            (row.key().clone(), *row.value())
        };
        let mut rows: Vec<(Occasion, Seen)> = self.rows.iter().map(row).collect();
        rows.sort_by(|(left, seen), (right, other)| {
            let names = |of: &Occasion| (of.key, of.route.clone(), of.reason);
            (other.count.cmp(&seen.count)).then_with(|| names(left).cmp(&names(right)))
        });
        rows
    }

    /// Requests for which there was no row any more.
    #[must_use]
    pub fn beyond(&self) -> u64 {
        self.beyond.load(Ordering::Relaxed)
    }
}

impl Default for Observed {
    fn default() -> Observed {
        Observed::new()
    }
}

fn place(route: &Route) -> Box<str> {
    let host = route.host.as_deref().unwrap_or("");
    format!("{host}{}", route.path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_bounded_and_what_is_beyond_is_counted() {
        let observed = Observed::new();
        let key = |number: usize| {
            let text = format!("{number:012}");
            KeyId(text.as_bytes().try_into().unwrap())
        };
        let at = Wall::from_unix_seconds;
        for number in 0..ROWS_MAX + 7 {
            observed.note(key(number), None, "limit_exceeded", at(1));
        }
        observed.note(key(3), None, "limit_exceeded", at(5));
        observed.note(key(ROWS_MAX + 3), None, "limit_exceeded", at(5));
        let rows = observed.rows();
        assert_eq!((rows.len(), observed.beyond()), (ROWS_MAX, 8));
        let (occasion, seen) = &rows[0];
        assert_eq!(occasion.key, key(3));
        assert_eq!((seen.count, seen.first, seen.last), (2, at(1), at(5)));
    }
}
