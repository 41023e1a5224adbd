//! Window arithmetic: pure functions of counts, limits and a time.

use std::collections::VecDeque;

use crate::clock::Now;
use crate::clock::Wall;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::quota::Exhausted;
use crate::quota::Numbers;
use crate::quota::WindowNumbers;
use crate::store::counters::SavedBurst;
use crate::store::counters::SavedQuota;

/// One subject's windows and its limits, as one charge sees them.
pub(super) type Subject<'a> = (&'a mut Windows, &'a Limits);

/// Takes `cost` from every window of every subject, or from none (SEEDS 8.2).
pub(super) fn charge(
    subjects: &mut [Option<Subject<'_>>; 2],
    cost: u32,
    now: Now,
) -> Result<Numbers, Exhausted> {
    let mut wait = 0;
    for (windows, limits) in subjects.iter_mut().flatten() {
        windows.roll(limits, now);
        wait = wait.max(windows.wait_for(limits, cost));
    }
    if wait == 0 {
        for (windows, limits) in subjects.iter_mut().flatten() {
            windows.take(limits, cost, now.wall);
        }
    }
    let numbers = subjects
        .iter()
        .flatten()
        .map(|(windows, limits)| windows.numbers(limits, now.wall))
        .reduce(tightest)
        .unwrap_or_default();
    if wait == 0 {
        return Ok(numbers);
    }
    Err(Exhausted {
        numbers,
        retry_after_seconds: narrow(seconds_up(wait)).max(1),
    })
}

/// Of two subjects' numbers, for each window the one with the least remaining.
pub(super) fn tightest(one: Numbers, other: Numbers) -> Numbers {
    Numbers {
        quota: tighter(one.quota, other.quota),
        burst: tighter(one.burst, other.burst),
    }
}

fn tighter(one: Option<WindowNumbers>, other: Option<WindowNumbers>) -> Option<WindowNumbers> {
    let (Some(a), Some(b)) = (one, other) else {
        return one.or(other);
    };
    // Of two that are equally empty, the one that stays so for longer tells the truth about both.
    if (b.remaining, a.reset_in_seconds) < (a.remaining, b.reset_in_seconds) {
        other
    } else {
        one
    }
}

/// All windows of one subject. Times are microseconds on the monotonic clock, negative before the last boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Windows {
    quota: QuotaWindow,
    burst: BurstWindow,
    /// The latest time any charge came with. Threads read the clock before they take the lock, so a charge can come with an
    /// earlier one; it counts from here, or what a later one has let go could be admitted twice within a span.
    latest: i64,
}

impl Windows {
    /// Lets go of what has passed by `now`, and takes over the lengths of these limits.
    ///
    /// A window whose length changes while it is open keeps its start and what was used, and ends at start + new length. What had
    /// passed under the old length stays passed.
    pub(super) fn roll(&mut self, limits: &Limits, now: Now) {
        self.latest = self.latest.max(instant(now));
        if let Some(rate) = limits.quota {
            self.quota.roll(rate, self.latest);
        }
        if let Some(rate) = limits.burst {
            self.burst.roll(rate, self.latest);
        }
    }

    /// Microseconds until all these limits admit `cost`, if nothing else is charged; 0 when they do now.
    fn wait_for(&self, limits: &Limits, cost: u32) -> i64 {
        let quota = limits
            .quota
            .map(|rate| self.quota.wait_for(rate, cost, self.latest));
        let burst = limits
            .burst
            .map(|rate| self.burst.wait_for(rate, cost, self.latest));
        quota.unwrap_or(0).max(burst.unwrap_or(0))
    }

    fn take(&mut self, limits: &Limits, cost: u32, wall: Wall) {
        if let Some(rate) = limits.quota {
            self.quota.take(rate, cost, self.latest, wall);
        }
        if limits.burst.is_some() {
            self.burst.take(cost, self.latest);
        }
    }

    /// What the headers say; true after `roll`.
    pub(super) fn numbers(&self, limits: &Limits, wall: Wall) -> Numbers {
        Numbers {
            quota: limits
                .quota
                .map(|rate| self.quota.numbers(rate, self.latest, wall)),
            burst: limits
                .burst
                .map(|rate| self.burst.numbers(rate, self.latest, wall)),
        }
    }

    /// Whether nothing here would matter to a charge that comes with a clock as old as `at`.
    pub(super) fn idle(&self, at: i64) -> bool {
        self.quota.over(at) && self.burst.over(at)
    }

    /// What the store keeps of it.
    pub(super) fn saved(&self) -> (Option<SavedQuota>, Option<SavedBurst>) {
        (self.quota.saved(), self.burst.saved())
    }

    /// What the store kept, as far as it still matters at `now`. A stamp ahead of the clock (a wall clock that fell back over a reboot)
    /// counts from now: no window lasts longer than its length.
    pub(super) fn restored(
        quota: Option<&SavedQuota>,
        burst: Option<&SavedBurst>,
        now: Now,
    ) -> Windows {
        let latest = instant(now);
        Windows {
            quota: quota.map_or_else(QuotaWindow::default, |saved| {
                QuotaWindow::restored(saved, latest, now.wall)
            }),
            burst: burst.map_or_else(BurstWindow::default, |saved| {
                BurstWindow::restored(saved, latest)
            }),
            latest,
        }
    }
}

/// A fixed window, opened by its first charge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct QuotaWindow {
    opened: i64,
    /// Dates `Reset`; kept, so that a wall clock that jumps does not change it within a window (FA25, S30).
    opened_wall: Wall,
    /// Its length; 0 while no charge has opened it.
    seconds: u32,
    used: u32,
}

impl QuotaWindow {
    fn over(&self, at: i64) -> bool {
        self.seconds == 0 || at >= self.opened.saturating_add(length(self.seconds))
    }

    fn roll(&mut self, rate: Rate, at: i64) {
        if !self.over(at) {
            self.seconds = rate.seconds;
        }
        if self.over(at) {
            *self = QuotaWindow::default();
        }
    }

    fn wait_for(&self, rate: Rate, cost: u32, at: i64) -> i64 {
        if u64::from(self.used) + u64::from(cost) <= u64::from(rate.count) {
            return 0;
        }
        self.ends_in(rate, at)
    }

    /// Microseconds until it ends; its whole length while it is not open.
    fn ends_in(&self, rate: Rate, at: i64) -> i64 {
        if self.seconds == 0 {
            return length(rate.seconds);
        }
        self.opened + length(self.seconds) - at
    }

    fn take(&mut self, rate: Rate, cost: u32, at: i64, wall: Wall) {
        if self.seconds == 0 {
            *self = QuotaWindow {
                opened: at,
                opened_wall: wall,
                seconds: rate.seconds,
                used: 0,
            };
        }
        self.used = self.used.saturating_add(cost);
    }

    /// An unopened window is described as if it opened now.
    fn numbers(&self, rate: Rate, at: i64, wall: Wall) -> WindowNumbers {
        let opened_wall = if self.seconds == 0 {
            wall
        } else {
            self.opened_wall
        };
        WindowNumbers {
            rate,
            remaining: rate.count.saturating_sub(self.used),
            reset_unix_seconds: unix_seconds_up(opened_wall, length(rate.seconds)),
            reset_in_seconds: narrow(seconds_up(self.ends_in(rate, at))),
        }
    }

    fn saved(&self) -> Option<SavedQuota> {
        (self.seconds != 0).then_some(SavedQuota {
            opened_micros: self.opened,
            opened_wall: self.opened_wall,
            seconds: self.seconds,
            used: self.used,
        })
    }

    fn restored(saved: &SavedQuota, at: i64, wall: Wall) -> QuotaWindow {
        let ahead = saved.opened_micros > at;
        let window = QuotaWindow {
            opened: saved.opened_micros.min(at),
            opened_wall: if ahead { wall } else { saved.opened_wall },
            seconds: saved.seconds,
            used: saved.used,
        };
        if window.over(at) {
            return QuotaWindow::default();
        }
        window
    }
}

/// A sliding window: no span of its length ever holds more admissions than its count.
///
/// Each admission is known by its exact time while at most 512 times are held. Beyond that, times are rounded **up** onto a fixed grid of
/// 1/511 of the length: memory stays below 6 KiB, and an admission is counted for longer, never for less. A plan of at most 512 is always exact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct BurstWindow {
    /// In order of time; none has passed at the last `roll`.
    log: VecDeque<Stamp>,
    /// The sum of the log.
    total: u32,
    /// Its length at the last `roll`; 0 before the first.
    seconds: u32,
}

/// Admissions that share a time. Packed to 12 bytes: there may be 512 for each of a million keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(Rust, packed(4))]
struct Stamp {
    at: i64,
    count: u32,
}

impl BurstWindow {
    fn over(&self, at: i64) -> bool {
        self.log
            .back()
            .is_none_or(|last| at >= last.at.saturating_add(length(self.seconds)))
    }

    fn roll(&mut self, rate: Rate, at: i64) {
        if self.seconds == rate.seconds {
            self.let_go(at);
            return;
        }
        self.let_go(at);
        // A grid of a longer window may have rounded far ahead of now, further than the new length.
        self.log
            .iter_mut()
            .for_each(|stamp| stamp.at = stamp.at.min(at));
        self.seconds = rate.seconds;
        self.let_go(at);
    }

    fn let_go(&mut self, at: i64) {
        let length = length(self.seconds);
        while let Some(first) = self.log.front() {
            if at < first.at.saturating_add(length) {
                break;
            }
            self.total -= first.count;
            self.log.pop_front();
        }
    }

    fn wait_for(&self, rate: Rate, cost: u32, at: i64) -> i64 {
        let needed = u64::from(self.total) + u64::from(cost);
        let Some(mut excess) = needed
            .checked_sub(u64::from(rate.count))
            .filter(|excess| *excess > 0)
        else {
            return 0;
        };
        for stamp in &self.log {
            excess = excess.saturating_sub(u64::from(stamp.count));
            if excess == 0 {
                return stamp.at + length(rate.seconds) - at;
            }
        }
        length(rate.seconds)
    }

    fn take(&mut self, cost: u32, at: i64) {
        let mut at = at;
        if self.log.len() >= STAMPS_MAX && self.log.back().is_some_and(|last| last.at < at) {
            let step = grid_step(self.seconds);
            self.coarsen(step);
            at = round_up(at, step);
        }
        self.total = self.total.saturating_add(cost);
        match self.log.back_mut() {
            Some(last) if last.at >= at => last.count = last.count.saturating_add(cost),
            _ => self.log.push_back(Stamp { at, count: cost }),
        }
    }

    /// Rounds every time up onto the grid. Rounding twice changes nothing, so times do not drift.
    fn coarsen(&mut self, step: i64) {
        let mut kept = 0;
        for index in 0..self.log.len() {
            let at = round_up(self.log[index].at, step);
            let count = self.log[index].count;
            if kept > 0 && self.log[kept - 1].at == at {
                let sum = self.log[kept - 1].count.saturating_add(count);
                self.log[kept - 1].count = sum;
            } else {
                self.log[kept] = Stamp { at, count };
                kept += 1;
            }
        }
        self.log.truncate(kept);
    }

    fn numbers(&self, rate: Rate, at: i64, wall: Wall) -> WindowNumbers {
        let full_in = self
            .log
            .back()
            .map_or(0, |last| last.at + length(rate.seconds) - at);
        WindowNumbers {
            rate,
            remaining: rate.count.saturating_sub(self.total),
            reset_unix_seconds: unix_seconds_up(wall, full_in),
            reset_in_seconds: narrow(seconds_up(full_in)),
        }
    }

    fn saved(&self) -> Option<SavedBurst> {
        (!self.log.is_empty()).then(|| SavedBurst {
            seconds: self.seconds,
            log: self
                .log
                .iter()
                .map(|stamp| (stamp.at, stamp.count))
                .collect(),
        })
    }

    fn restored(saved: &SavedBurst, at: i64) -> BurstWindow {
        let mut window = BurstWindow {
            seconds: saved.seconds,
            ..BurstWindow::default()
        };
        let mut log = saved.log.clone();
        log.sort_unstable();
        for (stamp, count) in log {
            if stamp.saturating_add(length(saved.seconds)) > at {
                window.take(count, stamp.min(at));
            }
        }
        window
    }
}

/// The monotonic clock as a signed number, so that what happened before a reboot has a place on it.
pub(super) fn instant(now: Now) -> i64 {
    i64::try_from(now.mono.0).unwrap_or(i64::MAX / 2)
}

fn length(seconds: u32) -> i64 {
    i64::from(seconds) * MICROS
}

fn grid_step(seconds: u32) -> i64 {
    // The live grid points lie in an open interval of length + step, which holds at most 512 of them.
    (length(seconds) + GRID - 1) / GRID
}

fn round_up(at: i64, step: i64) -> i64 {
    at.saturating_add((-at).rem_euclid(step))
}

fn seconds_up(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or(0).div_ceil(MICROS as u64)
}

fn unix_seconds_up(wall: Wall, micros: i64) -> u64 {
    wall.0.saturating_add_signed(micros).div_ceil(MICROS as u64)
}

fn narrow(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

const MICROS: i64 = 1_000_000;

/// The most times one burst window holds.
const STAMPS_MAX: usize = 512;

const GRID: i64 = STAMPS_MAX as i64 - 1;
