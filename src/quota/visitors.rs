//! What each client address asks of public routes, in a table of fixed size: whatever strangers send, it never grows (S28).

use std::hash::BuildHasher;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;

use crate::clock::Now;
use crate::model::limit::Rate;
use crate::quota::Exhausted;
use crate::quota::Numbers;
use crate::quota::WindowNumbers;

/// Requests by address and route. Only routes with an address limit come here; while there is none, there is no table.
#[derive(Debug)]
pub struct Visitors {
    /// Std mutexes, held for some comparisons.
    sets: OnceLock<Box<[Mutex<[Slot; WAYS]>]>>,
    /// Secret: nobody can aim at the set of another, or at its print (S29).
    seed: RandomState,
}

/// One address at one route, and its window, which its first request opens.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Of address and route, with the seed; 0 is an empty slot.
    print: u64,
    /// Microseconds of the boot clock; the beginning of a second of the wall clock, so that its end is one too.
    began: u64,
    /// Requests, those that were refused included: they cost nothing, and say who is heavy.
    count: u32,
}

impl Visitors {
    pub(super) fn new() -> Visitors {
        Visitors {
            sets: OnceLock::new(),
            seed: RandomState::new(),
        }
    }

    /// Takes one request from what this address may ask of this route. In a full set whoever has asked least gives way and begins anew, so that
    /// one who comes from everywhere cannot make us forget those who come most.
    ///
    /// # Errors
    /// `Exhausted` from the first beyond the rate until the window ends.
    pub fn charge(
        &self,
        route: (Option<&str>, &str, &[String]),
        source: IpAddr,
        rate: Rate,
        now: Now,
    ) -> Result<Numbers, Exhausted> {
        let print = self.seed.hash_one((route, source)).max(1);
        let sets = self
            .sets
            .get_or_init(|| (0..SETS).map(|_| Mutex::default()).collect());
        let mut set = sets[print as usize % SETS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let window = u64::from(rate.seconds) * SECOND;
        let age = |slot: &Slot| now.mono.0.saturating_sub(slot.began);
        let lives = |slot: &Slot| slot.print != 0 && age(slot) < window;
        let known = set
            .iter()
            .position(|slot| slot.print == print && lives(slot));
        let at = known.unwrap_or_else(|| {
            let worth = |at: &usize| match &set[*at] {
                slot if slot.print != print && lives(slot) => slot.count,
                _ => 0,
            };
            let least = (0..WAYS).min_by_key(worth).unwrap_or(0);
            set[least] = Slot {
                print,
                began: now.mono.0.saturating_sub(now.wall.0 % SECOND),
                count: 0,
            };
            least
        });
        let slot = &mut set[at];
        slot.count = slot.count.saturating_add(1);
        let (count, left) = (slot.count, window - age(slot));
        drop(set);
        let numbers = numbers(rate, count, left, now);
        match count > rate.count {
            false => Ok(numbers),
            true => Err(Exhausted {
                numbers,
                retry_after_seconds: whole_seconds(left).max(1),
            }),
        }
    }

    /// Addresses remembered now, those of past windows included, each once per route; for metrics.
    #[must_use]
    pub fn addresses(&self) -> usize {
        let used = |set: &Mutex<[Slot; WAYS]>| {
            let set = set.lock().unwrap_or_else(PoisonError::into_inner);
            set.iter().filter(|slot| slot.print != 0).count()
        };
        let sets = self.sets.get();
        sets.map_or(0, |sets| sets.iter().map(used).sum())
    }
}

/// `left` is in microseconds.
fn numbers(rate: Rate, count: u32, left: u64, now: Now) -> Numbers {
    // The window's end is the beginning of a second; what the two clocks differ by since is rounded away.
    let end = now.wall.0.saturating_add(left).saturating_add(SECOND / 2);
    let window = WindowNumbers {
        rate,
        remaining: rate.count.saturating_sub(count),
        reset_unix_seconds: end / SECOND,
        reset_in_seconds: whole_seconds(left),
    };
    Numbers {
        quota: Some(window),
        burst: None,
        other_quota: None,
        quota_is_tenants: false,
        fell: 0,
    }
}

/// Rounded up.
fn whole_seconds(micros: u64) -> u32 {
    u32::try_from(micros.div_ceil(SECOND)).unwrap_or(u32::MAX)
}

/// In microseconds.
const SECOND: u64 = 1_000_000;

/// Sets and the slots of each: 16,384 addresses, 400 KiB.
const SETS: usize = 1_024;
const WAYS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;
    use crate::clock::Wall;

    const RATE: Rate = Rate {
        count: 3,
        seconds: 60,
    };

    fn source(number: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(number))
    }

    fn at(micros: u64) -> Now {
        Now {
            mono: Mono(micros + 7),
            wall: Wall(1_700_000_000_000_000 + micros),
        }
    }

    fn ask(visitors: &Visitors, path: &str, number: u32, micros: u64) -> Result<u32, u32> {
        let charged = visitors.charge((None, path, &[]), source(number), RATE, at(micros));
        match charged {
            Ok(numbers) => Ok(numbers.quota.unwrap().remaining),
            Err(exhausted) => Err(exhausted.retry_after_seconds),
        }
    }

    #[test]
    fn an_address_gets_as_many_as_the_rate_says_and_is_told_when_there_are_more() {
        let visitors = Visitors::new();
        assert_eq!(visitors.addresses(), 0);
        let second = 1_000_000;
        for left in [2, 1, 0] {
            assert_eq!(ask(&visitors, "/token", 1, 10 * second + 400_000), Ok(left));
        }
        assert_eq!(ask(&visitors, "/token", 1, 10 * second + 400_001), Err(60));
        assert_eq!(ask(&visitors, "/token", 2, 11 * second), Ok(2), "another");
        assert_eq!(ask(&visitors, "/auth", 1, 11 * second), Ok(2), "elsewhere");
        // The window ends with a second of the wall clock: sleeping what it says succeeds, a second less does not.
        assert_eq!(ask(&visitors, "/token", 1, 40 * second + 500_000), Err(30));
        assert_eq!(ask(&visitors, "/token", 1, 70 * second - 1), Err(1));
        assert_eq!(ask(&visitors, "/token", 1, 70 * second), Ok(2), "anew");
        assert_eq!(visitors.addresses(), 3);
    }

    #[test]
    fn the_end_of_a_window_is_the_same_in_each_answer() {
        let visitors = Visitors::new();
        for micros in [10_700_000, 10_999_999, 44_000_001] {
            let route = (None, "/token", &[] as &[String]);
            let numbers = visitors.charge(route, source(1), RATE, at(micros)).unwrap();
            assert_eq!(numbers.quota.unwrap().reset_unix_seconds, 1_700_000_070);
        }
    }

    #[test]
    fn a_spray_from_everywhere_stays_bounded_and_forgets_no_heavy_address() {
        let visitors = Visitors::new();
        for _ in 0..5 {
            let _ = ask(&visitors, "/token", 1, 5_000_000);
        }
        for number in 2..300_000 {
            assert_eq!(ask(&visitors, "/token", number, 6_000_000), Ok(2));
        }
        assert!(visitors.addresses() <= SETS * WAYS);
        assert!(ask(&visitors, "/token", 1, 6_000_000).is_err());
    }
}
