//! What each client address asks of public routes, in a table of fixed size: whatever strangers send, it never grows (S28).

use std::net::IpAddr;
use std::sync::OnceLock;

use crate::clock::Now;
use crate::model::limit::Rate;
use crate::quota::Exhausted;
use crate::quota::Numbers;
use crate::quota::WindowNumbers;
use crate::quota::crowd::Crowd;
use crate::quota::crowd::whole_seconds;

/// Requests by address and route, those that were refused included: they cost nothing, and say who is heavy. Only routes with an address limit come here;
/// while there is none, there is no table.
#[derive(Debug)]
pub struct Visitors(OnceLock<Crowd<SETS>>);

impl Visitors {
    pub(super) fn new() -> Visitors {
        Visitors(OnceLock::new())
    }

    /// Takes one request from what this address may ask of this route. Its window begins with a second of the wall clock, so that it ends with one.
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
        let began = now.mono.0.saturating_sub(now.wall.0 % SECOND);
        let crowd = self.0.get_or_init(Crowd::new);
        let standing = crowd.count((route, source), rate, now.mono.0, began);
        let numbers = numbers(rate, standing.count, standing.left, now);
        match standing.count > rate.count {
            false => Ok(numbers),
            true => Err(Exhausted {
                numbers,
                retry_after_seconds: whole_seconds(standing.left),
            }),
        }
    }

    /// Addresses remembered now, those of past windows included, each once per route; for metrics.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.0.get().map_or(0, Crowd::used)
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

/// In microseconds.
const SECOND: u64 = 1_000_000;

/// Sets of 16: 16,384 addresses, 400 KiB.
const SETS: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;
    use crate::clock::Wall;
    use crate::quota::crowd::WAYS;

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
