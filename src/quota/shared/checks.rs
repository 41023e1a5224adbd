//! What holds of all that nodes admitted, whatever happened: never over a limit.

use std::collections::BTreeMap;

use crate::model::key::KeyId;
use crate::model::limit::Limits;

use super::testing::Cluster;

/// A request that was let through. Times of this module are the store's, had nobody set its clock back: what limits are held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Admission {
    /// How often the store's clock had been set back.
    pub(super) set_backs: usize,
    pub(super) at: u64,
    pub(super) cost: u32,
    /// The end of its quota window, in the store's own seconds.
    pub(super) ends: Option<u64>,
}

/// The store's clock was set back.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetBack {
    pub(super) at: u64,
    pub(super) by: u64,
}

impl Cluster {
    /// Never over the limit: in no span as long as the burst's, in no quota window; and windows do not overlap. Nothing is counted twice in the store.
    pub(super) fn check(&mut self, limits: &Limits) {
        let keys: Vec<KeyId> = self.admitted.keys().copied().collect();
        for key in keys {
            let (_, log, sum) = self.counted(key);
            assert_eq!(log, sum, "{key}: the log and its sum");
        }
        for (key, all) in &self.admitted {
            let mut all = all.clone();
            all.sort_unstable();
            if let Some(rate) = limits.burst {
                let span = u64::from(rate.seconds) * 1_000_000;
                let (mut first, mut sum) = (0, 0);
                for one in &all {
                    sum += one.cost;
                    while all[first].at + span <= one.at {
                        sum -= all[first].cost;
                        first += 1;
                    }
                    assert!(sum <= rate.count, "{key}: {sum} of {rate} until {}", one.at);
                }
            }
            let Some(rate) = limits.quota else { continue };
            let length = u64::from(rate.seconds);
            if !self.set_backs.is_empty() {
                let most = most_in_one_window(&all, length * SECOND, &self.set_backs, self.forgot);
                assert!(most <= rate.count, "{key}: {most} of {rate} in one window");
                continue;
            }
            let mut windows: BTreeMap<u64, u32> = BTreeMap::new();
            for one in &all {
                let ends = one.ends.unwrap();
                *windows.entry(ends).or_default() += one.cost;
                let inside = (ends - length) * 1_000_000..ends * 1_000_000;
                assert!(inside.contains(&one.at), "{key}: {one:?} in {inside:?}");
            }
            assert!(
                windows.values().all(|sum| *sum <= rate.count),
                "{key}: {windows:?} of {rate}"
            );
            let ends: Vec<u64> = windows.into_keys().collect();
            assert!(ends.windows(2).all(|two| two[1] - two[0] >= length));
        }
    }
}

/// The most that one quota window, so many microseconds long, was used for. One that is open when the store's clock is set back is named anew after
/// that, and is the same; in a store that `forgot` only until its own length has passed, which is as long as nodes know what they used of it before.
fn most_in_one_window(all: &[Admission], length: u64, set_backs: &[SetBack], forgot: bool) -> u32 {
    let mut open: Vec<Window> = Vec::new();
    let (mut seen, mut most) = (0, 0);
    for one in all {
        for back in &set_backs[seen..one.set_backs] {
            open.retain(|window| window.until > back.at);
            for window in &mut open {
                // Another may get the same name, long after this one got another that nobody was told.
                window.named = None;
                if !forgot {
                    // It begins anew with a whole second, which may have begun before.
                    window.until = (window.until + back.by).min(back.at + length - SECOND);
                }
            }
        }
        seen = one.set_backs;
        open.retain(|window| window.until > one.at || window.named == one.ends);
        let is_named = open.iter().any(|window| window.named == one.ends);
        match open.last_mut() {
            Some(window) if !is_named && !forgot => window.named = one.ends,
            _ if is_named => {}
            _ => open.push(Window {
                named: one.ends,
                until: end(one, length, &set_backs[..seen]),
                sum: 0,
            }),
        }
        for window in open.iter_mut().filter(|window| window.named == one.ends) {
            window.sum += one.cost;
        }
        most = most.max(open.iter().map(|window| window.sum).sum());
    }
    most
}

/// A quota window that may still be open.
struct Window {
    named: Option<u64>,
    /// Over at the earliest, unless it still has its name.
    until: u64,
    sum: u32,
}

/// When its window ends at the earliest, had the clock never been set back after it. It may have been opened by a request of which nobody heard again,
/// long before.
fn end(one: &Admission, length: u64, set_backs: &[SetBack]) -> u64 {
    let by: u64 = set_backs.iter().map(|back| back.by).sum();
    let named = one.ends.unwrap() * SECOND + by;
    let since = set_backs.last().map_or(0, |back| back.at);
    let opened = named - length;
    if opened + SECOND >= since && opened <= one.at {
        return named;
    }
    // The name is of before the clock was set back, as a lease may know it; the store has given it another since then, or will.
    named.min(since + length - SECOND)
}

const SECOND: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u64 = 8 * SECOND;

    /// Tenths of a second, how much, and the window's end.
    fn most(all: &[(usize, u64, u32, u64)], set_backs: &[(u64, u64)]) -> u32 {
        most_if(false, all, set_backs)
    }

    fn most_if(forgot: bool, all: &[(usize, u64, u32, u64)], set_backs: &[(u64, u64)]) -> u32 {
        let admission = |(set_backs, at, cost, ends)| Admission {
            set_backs,
            at: 100 * SECOND + at * SECOND / 10,
            cost,
            ends: Some(100 + ends),
        };
        let back = |(at, by)| SetBack {
            at: 100 * SECOND + at * SECOND / 10,
            by: by * SECOND / 10,
        };
        let all: Vec<Admission> = all.iter().copied().map(admission).collect();
        let set_backs: Vec<SetBack> = set_backs.iter().copied().map(back).collect();
        most_in_one_window(&all, LENGTH, &set_backs, forgot)
    }

    /// A window that is open when the clock is set back by five seconds goes on until its length has passed since then, and not for longer.
    #[test]
    fn a_window_that_is_named_anew_is_the_same() {
        let back = [(50, 55)];
        assert_eq!(most(&[(0, 42, 60, 12), (1, 60, 30, 7)], &back), 90);
        // Under its old name too, as who holds permits knows it.
        assert_eq!(most(&[(0, 42, 60, 12), (1, 60, 30, 12)], &back), 90);
        // One second is what it may be short of.
        assert_eq!(most(&[(0, 42, 60, 12), (1, 119, 30, 14)], &back), 90);
        assert_eq!(most(&[(0, 42, 60, 12), (1, 121, 40, 14)], &back), 60);
    }

    /// By less than since it was opened: it keeps its name, and ends so much later.
    #[test]
    fn a_window_ends_as_much_later_as_its_clock_was_set_back() {
        let back = [(50, 20)];
        assert_eq!(most(&[(0, 2, 60, 8), (1, 99, 30, 15)], &back), 90);
        assert_eq!(most(&[(0, 2, 60, 8), (1, 100, 40, 16)], &back), 60);
    }

    /// Its first request that was heard of is not what opened it.
    #[test]
    fn a_window_ends_as_it_says() {
        assert_eq!(most(&[(0, 42, 60, 8), (0, 80, 40, 16)], &[]), 60);
        assert_eq!(most(&[(0, 42, 60, 8), (0, 79, 40, 15)], &[]), 100);
        let back = [(20, 40)];
        assert_eq!(most(&[(1, 60, 60, 8), (1, 121, 40, 16)], &back), 60);
        assert_eq!(most(&[(1, 60, 60, 8), (1, 119, 40, 15)], &back), 100);
    }

    /// Over when the clock is set back by more than its length, so that the next one may end when it did.
    #[test]
    fn a_name_may_come_again() {
        let back = [(90, 85)];
        assert_eq!(most(&[(0, 2, 60, 8), (1, 92, 40, 8)], &back), 60);
        assert_eq!(most(&[(0, 2, 60, 8), (0, 70, 30, 8)], &back), 90);
        // Named anew meanwhile, while it had no room for anybody.
        let back = [(22, 177)];
        assert_eq!(most(&[(0, 2, 60, 8), (1, 168, 40, 8)], &back), 60);
        assert_eq!(most(&[(0, 2, 60, 8), (1, 91, 40, 8)], &back), 100);
    }

    /// What a node used before it heard of the new name it knows until its own clock says that the window is over.
    #[test]
    fn what_is_forgotten_counts_for_its_own_length() {
        let back = [(50, 55)];
        let all = [(0, 42, 60, 12), (1, 60, 30, 7), (1, 119, 40, 14)];
        assert_eq!(most_if(true, &all, &back), 130);
        let all = [
            (0, 42, 60, 8),
            (1, 60, 30, 7),
            (1, 79, 1, 7),
            (1, 80, 40, 7),
        ];
        assert_eq!(most_if(true, &all, &back), 91);
        assert_eq!(most(&all, &back), 131);
    }
}
