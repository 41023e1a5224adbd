//! The window of a burst: sliding, in flat memory.

use crate::clock::Wall;
use crate::model::limit::Rate;
use crate::quota::WindowNumbers;
use crate::quota::window::log::Log;
use crate::quota::window::log::Stamp;
use crate::quota::window::micros::length;
use crate::quota::window::micros::narrow;
use crate::quota::window::micros::seconds_up;
use crate::quota::window::micros::unix_seconds_up;
use crate::store::counters::SavedBurst;

/// A sliding window: no span of its length ever holds more admissions than its count.
///
/// Each admission is known by its exact time while at most 512 times are held. Beyond that, times are rounded **up** onto a fixed grid of
/// 1/511 of the length: memory stays below 6 KiB, and an admission is counted for longer, never for less. A plan of at most 512 is always exact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BurstWindow {
    /// In order of time; none has passed at the last `roll`.
    log: Log,
    /// The sum of the log.
    total: u32,
    /// Its length at the last `roll`; 0 before the first.
    seconds: u32,
}

/// How many of a burst's last times are not in the store as they are here: so many a save writes that follows another. Perhaps more than there are: then
/// all. Beside the window and not in it, where it would make an entry a cache line longer.
pub(super) type Fresh = u16;

impl BurstWindow {
    pub(super) fn is_open(&self) -> bool {
        self.seconds != 0
    }

    pub(super) fn over(&self, at: i64) -> bool {
        self.log
            .last()
            .is_none_or(|last| at >= last.at.saturating_add(length(self.seconds)))
    }

    pub(super) fn roll(&mut self, rate: Rate, at: i64, fresh: &mut Fresh) {
        self.let_go(at);
        if self.seconds == rate.seconds {
            return;
        }
        // A grid of a longer window may have rounded far ahead of now, further than the new length.
        self.move_times(|time| time.min(at), fresh);
        self.seconds = rate.seconds;
        *fresh = ALL;
        self.let_go(at);
    }

    fn let_go(&mut self, at: i64) {
        let length = length(self.seconds);
        while let Some(first) = self.log.first() {
            if at < first.at.saturating_add(length) {
                break;
            }
            self.total -= first.count;
            self.log.pop_first();
        }
    }

    pub(super) fn wait_for(&self, rate: Rate, cost: u32, at: i64) -> i64 {
        let needed = u64::from(self.total) + u64::from(cost);
        let Some(mut excess) = needed
            .checked_sub(u64::from(rate.count))
            .filter(|excess| *excess > 0)
        else {
            return 0;
        };
        for stamp in self.log.from(0) {
            excess = excess.saturating_sub(u64::from(stamp.count));
            if excess == 0 {
                return stamp.at + length(rate.seconds) - at;
            }
        }
        length(rate.seconds)
    }

    pub(super) fn take(&mut self, cost: u32, at: i64, fresh: &mut Fresh) {
        let mut at = at;
        if self.log.len() >= STAMPS_MAX && self.log.last().is_some_and(|last| last.at < at) {
            let step = grid_step(self.seconds);
            // Rounding twice changes nothing, so times do not drift.
            self.move_times(|time| round_up(time, step), fresh);
            at = round_up(at, step);
        }
        self.total = self.total.saturating_add(cost);
        match self.log.last_mut() {
            Some(last) if last.at >= at => {
                last.count = last.count.saturating_add(cost);
                *fresh = (*fresh).max(1);
            }
            _ => {
                self.log.push(Stamp { at, count: cost });
                *fresh = fresh.saturating_add(1);
            }
        }
    }

    /// Moves every time, none past the one behind it; those that meet become one. Out of line, since it is seldom and long.
    #[cold]
    #[inline(never)]
    fn move_times(&mut self, to: impl Fn(i64) -> i64, fresh: &mut Fresh) {
        let mut kept = 0_usize;
        // How many at the front are in the store and stay as they are.
        let mut known = self.known(*fresh);
        for index in 0..self.log.len() {
            let Some(Stamp { at: before, count }) = self.log.get(index) else {
                break;
            };
            let at = to(before);
            let behind = kept.checked_sub(1).and_then(|last| self.log.at_mut(last));
            if let Some(behind) = behind.filter(|behind| behind.at == at) {
                behind.count = behind.count.saturating_add(count);
                known = known.min(kept - 1);
            } else {
                if at != before {
                    known = known.min(kept);
                }
                if let Some(stamp) = self.log.at_mut(kept) {
                    *stamp = Stamp { at, count };
                }
                kept += 1;
            }
        }
        self.log.truncate(kept);
        *fresh = Fresh::try_from(kept - known.min(kept)).unwrap_or(ALL);
    }

    /// How many of the first times are in the store as they are here.
    fn known(&self, fresh: Fresh) -> usize {
        self.log.len().saturating_sub(usize::from(fresh))
    }

    pub(super) fn numbers(&self, rate: Rate, at: i64, wall: Wall) -> WindowNumbers {
        let full_in = self
            .log
            .last()
            .map_or(0, |last| last.at + length(rate.seconds) - at);
        WindowNumbers {
            rate,
            remaining: rate.count.saturating_sub(self.total),
            reset_unix_seconds: unix_seconds_up(wall, full_in),
            reset_in_seconds: narrow(seconds_up(full_in)),
        }
    }

    /// What a save is to write: all, or `only_new` what the save before did not, where it wrote something that is still here.
    pub(super) fn saved(&self, only_new: bool, fresh: Fresh) -> Option<SavedBurst> {
        let first = self.log.first()?.at;
        let skipped = if only_new { self.known(fresh) } else { 0 };
        let last_known = skipped.checked_sub(1).and_then(|last| self.log.get(last));
        let new = self.log.from(skipped);
        Some(SavedBurst {
            seconds: self.seconds,
            behind: last_known.map(|last| (first, last.at)),
            log: new.map(|stamp| (stamp.at, stamp.count)).collect(),
        })
    }

    pub(super) fn restored(saved: &SavedBurst, at: i64) -> BurstWindow {
        let mut window = BurstWindow {
            seconds: saved.seconds,
            ..BurstWindow::default()
        };
        let mut fresh = ALL;
        let mut log = saved.log.clone();
        log.sort_unstable();
        for (stamp, count) in log {
            if stamp.saturating_add(length(saved.seconds)) > at {
                window.take(count, stamp.min(at), &mut fresh);
            }
        }
        window
    }
}

fn grid_step(seconds: u32) -> i64 {
    // The live grid points lie in an open interval of length + step, which holds at most 512 of them.
    (length(seconds) + GRID - 1) / GRID
}

fn round_up(at: i64, step: i64) -> i64 {
    at.saturating_add((-at).rem_euclid(step))
}

/// None is known.
pub(super) const ALL: Fresh = Fresh::MAX;

/// The most times one burst window holds.
const STAMPS_MAX: usize = 512;

const GRID: i64 = STAMPS_MAX as i64 - 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::STAMPS_MAX;
    use super::Stamp;
    use super::grid_step;
    use crate::quota::window::Windows;
    use crate::quota::window::history::History;
    use crate::quota::window::history::check_retry_after;
    use crate::quota::window::tests::at;
    use crate::quota::window::tests::limits;
    use crate::quota::window::tests::rate;
    use crate::quota::window::tests::take_at;

    #[test]
    fn burst_window_stays_within_six_kibibytes() {
        assert_eq!(size_of::<Stamp>() * STAMPS_MAX, 6 * 1024);
        let limits = limits(None, rate(1_000_000, 60));
        let mut windows = Windows::default();
        for index in 0..200_000_u64 {
            take_at(&mut windows, &limits, 1, at(index * 777)).unwrap();
        }
        assert!(windows.burst.log.heap_bytes() <= 6 * 1024);
    }

    #[test]
    fn coarse_times_are_never_early() {
        let limits = limits(None, rate(1_000, 60));
        let mut windows = Windows::default();
        for micros in 0..512 {
            take_at(&mut windows, &limits, 1, at(micros)).unwrap();
        }
        // The 513th time has the log rounded, and itself too.
        let late = 10_000_001;
        take_at(&mut windows, &limits, 488, at(late)).unwrap();
        for (micros, cost, admitted) in [
            (59_999_999, 1, false),
            (60_117_417, 512, true),
            (late + 59_999_999, 488, false),
            (late + 60_117_417, 488, true),
        ] {
            let outcome = take_at(&mut windows, &limits, cost, at(micros));
            assert_eq!(outcome.is_ok(), admitted, "{micros}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Under one plan, however fine or coarse the memory: never over in any span, and never refused what a window one grid step
        /// longer would admit; up to 512 exactly what the window itself would.
        #[test]
        fn never_over_in_any_span(
            count in prop_oneof![1_u32..513, 513_u32..1_500],
            seconds in 1_u32..4,
            steps in prop::collection::vec((0_u64..3_000, 1_u32..4), 1..2_500),
        ) {
            let limits = limits(None, rate(count, seconds));
            let span = u64::from(seconds) * 1_000_000;
            let slack = if count > 512 { grid_step(seconds).unsigned_abs() } else { 0 };
            let mut windows = Windows::default();
            let mut history = History::default();
            let mut now = 1_000_000_000;
            let mut refusals = 0;
            for (advance, cost) in steps {
                now += advance;
                match take_at(&mut windows, &limits, cost, at(now)) {
                    Ok(_) => history.0.push((now, u64::from(cost))),
                    Err(refused) => {
                        let inside = history.in_span_before(now, span + slack);
                        prop_assert!(inside + u64::from(cost) > u64::from(count));
                        refusals += 1;
                        if refusals % 50 == 1 && cost <= count {
                            check_retry_after(&windows, &limits, cost, now, refused.retry_after_seconds)?;
                        }
                    }
                }
                prop_assert!(windows.burst.log.len() <= STAMPS_MAX);
            }
            prop_assert!(history.worst_span(span) <= u64::from(count));
        }
    }
}
