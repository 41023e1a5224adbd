//! Counts of whoever comes, in a table of fixed size: whatever strangers send, it never grows (S28).

use std::hash::BuildHasher;
use std::hash::Hash;
use std::hash::RandomState;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::model::limit::Rate;

/// `SETS` sets of 16 slots, each of 24 bytes.
#[derive(Debug)]
pub(super) struct Crowd<const SETS: usize> {
    /// Std mutexes, held for some comparisons.
    sets: Box<[Mutex<Set>]>,
    /// Secret: nobody can aim at the set of another, or at its print (S29).
    seed: RandomState,
}

type Set = [Slot; WAYS];

/// One of them and its window, which the first count opens.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// A hash with the seed, of 64 bits; 0 is an empty slot.
    print: u64,
    /// Microseconds of the boot clock.
    began: u64,
    count: u32,
}

/// Where somebody stands in his window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// How often he was counted in it.
    pub(super) count: u32,
    /// Microseconds until it ends; at least 1.
    pub(super) left: u64,
}

impl<const SETS: usize> Crowd<SETS> {
    pub(super) fn new() -> Crowd<SETS> {
        Crowd {
            sets: (0..SETS).map(|_| Mutex::default()).collect(),
            seed: RandomState::new(),
        }
    }

    /// Counts somebody once; a window that this opens began at `began`. In a full set whoever was counted least gives way, so that one who comes
    /// from everywhere cannot make us forget those who come most. Times are microseconds of the boot clock.
    pub(super) fn count(&self, who: impl Hash, rate: Rate, now: u64, began: u64) -> Standing {
        let print = self.print(who);
        let mut set = self.set(print);
        let known = position(&set, print, rate, now);
        let at = known.unwrap_or_else(|| {
            let worth = |at: &usize| match &set[*at] {
                slot if slot.print != print && slot.left(rate, now).is_some() => slot.count,
                _ => 0,
            };
            let least = (0..WAYS).min_by_key(worth).unwrap_or(0);
            set[least] = Slot {
                print,
                began,
                count: 0,
            };
            least
        });
        let slot = &mut set[at];
        slot.count = slot.count.saturating_add(1);
        Standing {
            count: slot.count,
            left: slot.left(rate, now).unwrap_or(1),
        }
    }

    /// Where somebody stands, without counting; `None` for who was not counted in this window.
    pub(super) fn look(&self, who: impl Hash, rate: Rate, now: u64) -> Option<Standing> {
        let print = self.print(who);
        let set = self.set(print);
        let slot = &set[position(&set, print, rate, now)?];
        Some(Standing {
            count: slot.count,
            left: slot.left(rate, now)?,
        })
    }

    /// How many are remembered now, those of past windows included; for metrics.
    pub(super) fn used(&self) -> usize {
        let used = |set: &Mutex<Set>| lock(set).iter().filter(|slot| slot.print != 0).count();
        self.sets.iter().map(used).sum()
    }

    fn print(&self, who: impl Hash) -> u64 {
        self.seed.hash_one(who).max(1)
    }

    fn set(&self, print: u64) -> MutexGuard<'_, Set> {
        lock(&self.sets[print as usize % SETS])
    }
}

impl Slot {
    /// Microseconds until its window ends; `None` when it has. A clock that goes back opens nothing.
    fn left(&self, rate: Rate, now: u64) -> Option<u64> {
        let window = u64::from(rate.seconds) * 1_000_000;
        let left = window.saturating_sub(now.saturating_sub(self.began));
        (left > 0).then_some(left)
    }
}

fn position(set: &Set, print: u64, rate: Rate, now: u64) -> Option<usize> {
    set.iter()
        .position(|slot| slot.print == print && slot.left(rate, now).is_some())
}

/// Microseconds as seconds, rounded up.
pub(super) fn whole_seconds(micros: u64) -> u32 {
    u32::try_from(micros.div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    // Numbers alone: whole after every step.
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Slots of a set.
pub(super) const WAYS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        count: 3,
        seconds: 60,
    };

    /// S28, S29: a full set forgets whoever came least, and looking counts nothing.
    #[test]
    fn whoever_came_least_gives_way() {
        let crowd = Crowd::<1>::new();
        for who in 0..WAYS as u32 {
            for _ in 0..=who {
                crowd.count(who, RATE, 5, 5);
            }
        }
        assert_eq!(crowd.used(), WAYS);
        assert_eq!(crowd.look(0, RATE, 5).map(|one| one.count), Some(1));
        assert_eq!(crowd.count(99, RATE, 6, 6).count, 1);
        assert_eq!(crowd.look(0, RATE, 6), None);
        assert_eq!(crowd.look(1, RATE, 6).map(|one| one.count), Some(2));
        let window = u64::from(RATE.seconds) * 1_000_000;
        let last = Standing { count: 2, left: 1 };
        assert_eq!(crowd.look(1, RATE, 5 + window - 1), Some(last));
        assert_eq!(crowd.look(1, RATE, 5 + window), None);
        assert_eq!(crowd.count(1, RATE, 5 + window, 5 + window).count, 1);
        assert_eq!(crowd.used(), WAYS);
    }
}
