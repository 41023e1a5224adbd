//! Failed authentications by source, in a table of fixed size: what strangers send never makes it grow (S28).

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::clock::Mono;
use crate::model::limit::Rate;
use crate::quota::crowd::Crowd;
use crate::quota::crowd::Standing;
use crate::quota::crowd::whole_seconds;

/// Counts of unknown credentials. Only they come here, so that a known key never waits for one of these locks.
#[derive(Debug)]
pub struct Strangers {
    sources: Crowd<SETS>,
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

impl Strangers {
    pub(super) fn new() -> Strangers {
        Strangers {
            sources: Crowd::new(),
            begun: Mutex::default(),
        }
    }

    /// Counts one failure of this source; says so when it is one too many.
    pub fn failed(&self, source: IpAddr, rate: Rate, now: Mono) -> Option<Over> {
        let standing = self.sources.count(source, rate, now.0, now.0);
        let begins = standing.count == rate.count.saturating_add(1);
        if begins {
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            if begun.len() < BEGUN_MAX {
                begun.push(source);
            }
        }
        over(standing, rate, begins)
    }

    /// Sources that failed too often since the last call.
    #[must_use]
    pub fn take_begun(&self) -> Vec<IpAddr> {
        std::mem::take(&mut self.begun.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this source has failed too often, without counting.
    #[must_use]
    pub fn over(&self, source: IpAddr, rate: Rate, now: Mono) -> Option<Over> {
        over(self.sources.look(source, rate, now.0)?, rate, false)
    }

    /// Sources remembered now, those of past windows included; for metrics.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.sources.used()
    }
}

fn over(standing: Standing, rate: Rate, begins: bool) -> Option<Over> {
    (standing.count > rate.count).then(|| Over {
        retry_after_seconds: whole_seconds(standing.left),
        begins,
    })
}

/// Sources that are told of at once.
const BEGUN_MAX: usize = 256;

/// Sets of 16: 4,096 sources, 100 KiB.
const SETS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::crowd::WAYS;

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
