//! How many second tries a failing backend is sent: a share of the requests, and a few a second besides.

use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::config::RetryBudget;

/// One worker's share, in hundredths of a try: earned by its own requests, so that all workers together keep to the share of all requests
/// without a word to one another.
#[derive(Debug, Default)]
pub(super) struct Budget {
    hundredths: Cell<u32>,
}

/// Tries that are free, of all workers together.
#[derive(Debug, Default)]
pub(super) struct Free {
    /// The second that is counted, in the upper half, and the tries in it.
    word: AtomicU64,
}

impl Budget {
    /// A request has begun.
    pub(super) fn earn(&self, rules: &RetryBudget) {
        let hundredths = self.hundredths.get() + rules.share;
        self.hundredths.set(hundredths.min(SAVED_MAX));
    }

    /// Whether one may be sent once more, at this point in microseconds.
    pub(super) fn spend(&self, rules: &RetryBudget, free: &Free, now: u64) -> bool {
        if let Some(left) = self.hundredths.get().checked_sub(100) {
            self.hundredths.set(left);
            return true;
        }
        free.take(rules.free_per_second, now / 1_000_000)
    }
}

impl Free {
    fn take(&self, most: u32, second: u64) -> bool {
        let second = second << 32;
        let taken = self
            .word
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                let used = word & u64::from(u32::MAX);
                let used = if word & !u64::from(u32::MAX) == second {
                    used
                } else {
                    0
                };
                (used < u64::from(most)).then_some(second | (used + 1))
            });
        taken.is_ok()
    }
}

/// What is earned and not spent is kept up to a hundred tries: a quiet hour does not pay for a flood of them.
const SAVED_MAX: u32 = 100 * 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(budget: &Budget, rules: &RetryBudget, free: &Free, now: u64) -> usize {
        (0..10_000)
            .take_while(|_| budget.spend(rules, free, now))
            .count()
    }

    #[test]
    fn a_share_of_the_requests_and_a_few_a_second() {
        let (budget, free) = (Budget::default(), Free::default());
        let rules = RetryBudget {
            share: 20,
            free_per_second: 3,
        };
        assert_eq!(spent(&budget, &rules, &free, 0), 3);
        assert_eq!(spent(&budget, &rules, &free, 999_999), 0);
        assert_eq!(spent(&budget, &rules, &free, 1_000_000), 3);
        for _ in 0..50 {
            budget.earn(&rules);
        }
        assert_eq!(spent(&budget, &rules, &free, 1_500_000), 10);
        for _ in 0..1_000_000 {
            budget.earn(&rules);
        }
        assert_eq!(spent(&budget, &rules, &free, 2_000_000), 103);
    }

    #[test]
    fn nothing_is_nothing() {
        let (budget, free) = (Budget::default(), Free::default());
        let rules = RetryBudget {
            share: 0,
            free_per_second: 0,
        };
        budget.earn(&rules);
        assert_eq!(spent(&budget, &rules, &free, 5), 0);
    }
}
