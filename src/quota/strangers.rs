//! Failed authentications by source, in a table of fixed size: what strangers send never makes it grow (S28).

use std::hash::BuildHasher;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::clock::Mono;
use crate::model::limit::Rate;

/// Counts of unknown credentials. Only they come here, so that a known key never waits for one of these locks.
#[derive(Debug)]
pub struct Strangers {
    /// Chosen by a seeded hash: nobody can aim at the set of another (S29). Std mutexes, held for some comparisons.
    sets: Box<[Mutex<[Slot; WAYS]>]>,
    seed: RandomState,
    /// Sources that began to be over since somebody last asked; at most so many.
    begun: Mutex<Vec<IpAddr>>,
}

/// A source that has failed too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// Seconds until its window ends; at least 1.
    pub retry_after_seconds: u32,
    /// Whether this is the first time in its window.
    pub begins: bool,
}

/// One source and its window, which its first failure opens.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    source: Option<IpAddr>,
    began: Mono,
    count: u32,
}

impl Strangers {
    pub(super) fn new() -> Strangers {
        Strangers {
            sets: (0..SETS).map(|_| Mutex::default()).collect(),
            seed: RandomState::new(),
            begun: Mutex::default(),
        }
    }

    /// Counts one failure of this source; says so when it is one too many. In a full set whoever has failed least gives way, so that
    /// one who sprays from everywhere cannot make us forget those who spray most.
    pub fn failed(&self, source: IpAddr, rate: Rate, now: Mono) -> Option<Over> {
        let index = self.seed.hash_one(source) as usize % SETS;
        let mut set = self.sets[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let window = u64::from(rate.seconds) * 1_000_000;
        let age = |slot: &Slot| now.0.saturating_sub(slot.began.0);
        let known = set
            .iter()
            .position(|slot| slot.source == Some(source) && age(slot) < window);
        let at = known.unwrap_or_else(|| {
            let worth = |slot: &Slot| match slot.source {
                Some(other) if other != source && age(slot) < window => slot.count,
                _ => 0,
            };
            let least = (0..WAYS).min_by_key(|at| worth(&set[*at])).unwrap_or(0);
            set[least] = Slot {
                source: Some(source),
                began: now,
                count: 0,
            };
            least
        });
        let slot = &mut set[at];
        slot.count = slot.count.saturating_add(1);
        let begins = slot.count == rate.count.saturating_add(1);
        let over = (slot.count > rate.count).then(|| Over {
            retry_after_seconds: seconds_left(window - age(slot)),
            begins,
        });
        drop(set);
        if begins {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            if begun.len() < BEGUN_MAX {
                begun.push(source);
            }
        }
        over
    }

    /// Sources that failed too often since the last call.
    #[must_use]
    pub fn take_begun(&self) -> Vec<IpAddr> {
        std::mem::take(&mut self.begun.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this source has failed too often, without counting.
    #[must_use]
    pub fn over(&self, source: IpAddr, rate: Rate, now: Mono) -> Option<Over> {
        let index = self.seed.hash_one(source) as usize % SETS;
        let set = self.sets[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let window = u64::from(rate.seconds) * 1_000_000;
        let age = |slot: &&Slot| now.0.saturating_sub(slot.began.0);
        let mut slots = set.iter();
        let slot = slots.find(|slot| slot.source == Some(source) && age(slot) < window)?;
        (slot.count > rate.count).then(|| Over {
            retry_after_seconds: seconds_left(window - age(&slot)),
            begins: false,
        })
    }

    /// Sources remembered now, those of past windows included; for metrics.
    #[must_use]
    pub fn sources(&self) -> usize {
        let used = |set: &Mutex<[Slot; WAYS]>| {
            let set = set.lock().unwrap_or_else(PoisonError::into_inner);
            set.iter().filter(|slot| slot.source.is_some()).count()
        };
        self.sets.iter().map(used).sum()
    }
}

/// Sources that are told of at once.
const BEGUN_MAX: usize = 256;
/// Rounded up.
fn seconds_left(micros: u64) -> u32 {
    u32::try_from(micros.div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// Sets and the slots of each: 4,096 sources, 160 KiB.
const SETS: usize = 256;
const WAYS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        count: 3,
        seconds: 60,
    };

    fn source(number: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(number))
    }

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000)
    }

    #[test]
    fn a_source_is_over_from_the_first_beyond_its_rate_until_its_window_ends() {
        let strangers = Strangers::new();
        for second in [5, 6, 7] {
            assert_eq!(strangers.failed(source(1), RATE, at(second)), None);
        }
        for (second, retry_after_seconds, begins) in [(8, 57, true), (64, 1, false)] {
            let over = Over {
                retry_after_seconds,
                begins,
            };
            assert_eq!(strangers.failed(source(1), RATE, at(second)), Some(over));
        }
        assert_eq!(strangers.failed(source(2), RATE, at(64)), None, "another");
        assert_eq!(strangers.failed(source(1), RATE, at(65)), None, "anew");
        assert_eq!(strangers.sources(), 2);
    }

    #[test]
    fn a_spray_from_everywhere_stays_bounded_and_forgets_no_heavy_source() {
        let strangers = Strangers::new();
        for _ in 0..4 {
            strangers.failed(source(1), RATE, at(5));
        }
        for number in 2..100_000 {
            assert_eq!(strangers.failed(source(number), RATE, at(6)), None);
        }
        assert!(strangers.sources() <= SETS * WAYS);
        assert!(strangers.failed(source(1), RATE, at(6)).is_some());
    }

    #[test]
    fn a_clock_that_goes_back_opens_nothing() {
        let strangers = Strangers::new();
        for _ in 0..3 {
            strangers.failed(source(1), RATE, at(100));
        }
        assert!(strangers.failed(source(1), RATE, at(50)).is_some());
    }
}
