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

/// Takes `cost` from every window of every subject, the tenant before the key, or from none (SEEDS 8.2).
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
            windows.take(limits, cost, now);
        }
    }
    let [tenant, key] = &*subjects;
    let tenant =
        (tenant.as_ref()).map(|(windows, limits)| windows.numbers_of_tenant(limits, now.wall));
    let key = (key.as_ref()).map(|(windows, limits)| windows.numbers(limits, now.wall));
    let numbers = both(tenant, key);
    if wait == 0 {
        return Ok(numbers);
    }
    Err(Exhausted {
        numbers,
        retry_after_seconds: narrow(seconds_up(wait)).max(1),
    })
}

/// What is said of a tenant's windows and a key's together.
pub(super) fn both(tenant: Option<Numbers>, key: Option<Numbers>) -> Numbers {
    match (tenant, key) {
        (Some(tenant), Some(key)) => tightest(tenant, key),
        (one, other) => one.or(other).unwrap_or_default(),
    }
}

/// Of two subjects' numbers, for each window the one with the least remaining.
fn tightest(one: Numbers, other: Numbers) -> Numbers {
    let quota = tighter(one.quota, other.quota);
    let is_one = quota == one.quota && one.quota.is_some();
    let (chosen, left) = if is_one { (one, other) } else { (other, one) };
    Numbers {
        quota,
        burst: tighter(one.burst, other.burst),
        other_quota: left.quota,
        quota_is_tenants: chosen.quota_is_tenants,
        fell: 0,
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

    fn take(&mut self, limits: &Limits, cost: u32, now: Now) {
        // The wall clock at `latest`, which a late thread's own reading lies before.
        let wall = Wall(now.wall.0.saturating_add_signed(self.latest - instant(now)));
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
            ..Numbers::default()
        }
    }

    /// The same of a tenant's windows.
    pub(super) fn numbers_of_tenant(&self, limits: &Limits, wall: Wall) -> Numbers {
        Numbers {
            quota_is_tenants: limits.quota.is_some(),
            ..self.numbers(limits, wall)
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

/// A fixed window, opened by its first charge, at the beginning of that second of the wall clock: so `Reset` is a whole second that is
/// neither early nor further away than the window is long (FA25).
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
                opened: at.saturating_sub_unsigned(wall.0 % MICROS as u64),
                opened_wall: second_of(wall),
                seconds: rate.seconds,
                used: 0,
            };
        }
        self.used = self.used.saturating_add(cost);
    }

    /// An unopened window is described as if it opened now.
    fn numbers(&self, rate: Rate, at: i64, wall: Wall) -> WindowNumbers {
        let opened_wall = if self.seconds == 0 {
            second_of(wall)
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

/// The beginning of a second.
fn second_of(wall: Wall) -> Wall {
    Wall(wall.0 - wall.0 % MICROS as u64)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Mono;

    const WALL: u64 = 1_700_000_000_000_000;

    fn at(micros: u64) -> Now {
        Now {
            mono: Mono(micros),
            wall: Wall(WALL + micros),
        }
    }

    fn rate(count: u32, seconds: u32) -> Option<Rate> {
        Some(Rate { count, seconds })
    }

    fn limits(quota: Option<Rate>, burst: Option<Rate>) -> Limits {
        Limits { quota, burst }
    }

    fn take_at(
        windows: &mut Windows,
        limits: &Limits,
        cost: u32,
        now: Now,
    ) -> Result<Numbers, Exhausted> {
        charge(&mut [None, Some((windows, limits))], cost, now)
    }

    /// Remaining of quota and burst after a charge at a time in milliseconds, or the Retry-After of a refusal.
    fn step(windows: &mut Windows, limits: &Limits, millis: u64) -> Result<[Option<u32>; 2], u32> {
        take_at(windows, limits, 1, at(millis * 1_000))
            .map(|numbers| {
                [numbers.quota, numbers.burst].map(|window| window.map(|window| window.remaining))
            })
            .map_err(|refused| refused.retry_after_seconds)
    }

    /// FA21, FA24, FA26.
    #[test]
    fn quota_and_burst_refuse_with_the_longest_wait() {
        let limits = limits(rate(3, 3_600), rate(2, 60));
        let mut windows = Windows::default();
        for (millis, expected) in [
            (0, Ok([Some(2), Some(1)])),
            (10_500, Ok([Some(1), Some(0)])),
            (11_000, Err(49)),
            (59_999, Err(1)),
            // Exactly one length later the first has left every span that holds this one.
            (60_000, Ok([Some(0), Some(0)])),
            // Both refuse now: the quota for longer.
            (60_001, Err(3_540)),
            (3_599_999, Err(1)),
            (3_600_000, Ok([Some(2), Some(1)])),
        ] {
            assert_eq!(step(&mut windows, &limits, millis), expected, "{millis} ms");
        }
    }

    /// ASKS 14, FA24: a request that one window refuses is charged to none.
    #[test]
    fn refusal_takes_nothing() {
        let limits = limits(rate(100, 3_600), rate(20, 60));
        let mut windows = Windows::default();
        let admitted = (0..500)
            .filter(|index| step(&mut windows, &limits, index * 100).is_ok())
            .count();
        assert_eq!(admitted, 20);
        let refused = take_at(&mut windows, &limits, 1, at(50_000_000)).unwrap_err();
        assert_eq!(refused.numbers.quota.unwrap().remaining, 80);
        assert_eq!(refused.numbers.burst.unwrap().remaining, 0);
    }

    #[test]
    fn two_subjects_are_charged_together_or_not_at_all() {
        let (loose, tight) = (
            limits(rate(100, 3_600), None),
            limits(rate(2, 60), rate(5, 1)),
        );
        let (mut tenant, mut key) = (Windows::default(), Windows::default());
        let mut both = |now| {
            charge(
                &mut [Some((&mut tenant, &loose)), Some((&mut key, &tight))],
                1,
                now,
            )
        };
        assert_eq!(both(at(0)).unwrap().quota.unwrap().remaining, 1);
        assert_eq!(both(at(1)).unwrap().quota.unwrap().remaining, 0);
        let refused = both(at(2)).unwrap_err();
        assert_eq!(refused.retry_after_seconds, 60);
        assert_eq!(refused.numbers.quota.unwrap().rate.count, 2);
        assert_eq!(refused.numbers.burst.unwrap().remaining, 3);
        assert_eq!(tenant.numbers(&loose, Wall(0)).quota.unwrap().remaining, 98);
    }

    #[test]
    fn numbers_are_those_of_the_tighter_subject() {
        let window = |remaining, reset_in_seconds| WindowNumbers {
            rate: Rate {
                count: 9,
                seconds: 60,
            },
            remaining,
            reset_unix_seconds: 0,
            reset_in_seconds,
        };
        let (tight, loose, late) = (Some(window(1, 5)), Some(window(2, 9)), Some(window(1, 6)));
        for (one, other, expected) in [
            (tight, loose, tight),
            (loose, tight, tight),
            (tight, late, late),
            (late, tight, late),
            (None, loose, loose),
            (loose, None, loose),
            (None, None, None),
        ] {
            assert_eq!(tighter(one, other), expected);
        }
    }

    /// FA25: the same in every answer of one window, whatever the wall clock does (S30).
    #[test]
    fn reset_is_a_whole_second_and_stays() {
        let limits = limits(rate(10, 3_600), None);
        let mut windows = Windows::default();
        let mut reset = |mono: u64, wall: u64| {
            let now = Now {
                mono: Mono(mono * 1_000_000),
                wall: Wall(wall),
            };
            let quota = take_at(&mut windows, &limits, 1, now)
                .unwrap()
                .quota
                .unwrap();
            (
                quota.remaining,
                quota.reset_unix_seconds,
                quota.reset_in_seconds,
            )
        };
        assert_eq!(reset(5, 1_000_000_001), (9, 4_600, 3_600));
        assert_eq!(reset(6, 1_001_000_001), (8, 4_600, 3_599));
        // The wall clock jumps back, then far ahead: no window opens again, none freezes.
        assert_eq!(reset(7, 3), (7, 4_600, 3_598));
        assert_eq!(reset(8, 9_000_000_000_000), (6, 4_600, 3_597));
        assert_eq!(reset(3_604, 9_003_596_000_000), (5, 4_600, 1));
        assert_eq!(
            reset(3_605, 9_003_597_000_000),
            (9, 9_003_597 + 3_600, 3_600)
        );
    }

    /// FF12, FF13: a plan of one sliding minute.
    #[test]
    fn burst_reset_is_when_it_is_full_again() {
        let limits = limits(None, rate(2, 60));
        let mut windows = Windows::default();
        let first = take_at(&mut windows, &limits, 1, at(0)).unwrap();
        assert_eq!(first.quota, None);
        assert_eq!(first.burst.unwrap().reset_in_seconds, 60);
        let second = take_at(&mut windows, &limits, 1, at(30_000_001)).unwrap();
        assert_eq!(second.burst.unwrap().reset_in_seconds, 60);
        let refused = take_at(&mut windows, &limits, 1, at(45_000_000)).unwrap_err();
        let burst = refused.numbers.burst.unwrap();
        assert_eq!((burst.remaining, burst.reset_in_seconds), (0, 46));
        assert_eq!(burst.reset_unix_seconds, WALL / 1_000_000 + 91);
        assert_eq!(refused.retry_after_seconds, 15);
    }

    /// ASKS 15, FF18: a plan change keeps what was used.
    #[test]
    fn plan_change_keeps_what_was_used() {
        let free = limits(rate(100, 3_600), rate(100, 60));
        let mut windows = Windows::default();
        for index in 0..90 {
            step(&mut windows, &free, index).unwrap();
        }
        let pro = limits(rate(1_000, 3_600), rate(500, 60));
        assert_eq!(step(&mut windows, &pro, 100), Ok([Some(909), Some(409)]));
        let less = limits(rate(50, 3_600), rate(50, 60));
        let refused = take_at(&mut windows, &less, 1, at(100_000)).unwrap_err();
        assert_eq!(refused.numbers.quota.unwrap().remaining, 0);
        // The last of the first 42 must leave the burst before another fits: but the quota waits for its end.
        assert_eq!(refused.retry_after_seconds, 3_600);
        let no_quota = limits(None, rate(50, 60));
        assert_eq!(step(&mut windows, &no_quota, 100), Err(60));
        assert_eq!(
            step(&mut windows, &limits(None, None), 100),
            Ok([None, None])
        );
    }

    #[test]
    fn open_window_takes_the_new_length_from_its_start() {
        let hour = limits(rate(10, 3_600), None);
        let day = limits(rate(10, 86_400), None);
        let minute = limits(rate(10, 60), None);
        for (name, next, millis, remaining, reset_in) in [
            ("longer", day, 1_800_000, 8, 84_600),
            // The hour was over before the day came into force.
            ("longer, too late", day, 3_600_000, 9, 86_400),
            ("shorter, still open", minute, 59_000, 8, 1),
            ("shorter, over", minute, 60_000, 9, 60),
        ] {
            let mut windows = Windows::default();
            step(&mut windows, &hour, 0).unwrap();
            let quota = take_at(&mut windows, &next, 1, at(millis * 1_000))
                .unwrap()
                .quota
                .unwrap();
            assert_eq!(
                (quota.remaining, quota.reset_in_seconds),
                (remaining, reset_in),
                "{name}"
            );
        }
    }

    #[test]
    fn burst_takes_the_new_length_without_freezing() {
        let long = limits(None, rate(2_000, 86_400));
        let short = limits(None, rate(2_000, 10));
        let mut windows = Windows::default();
        for index in 0..1_000 {
            step(&mut windows, &long, index).unwrap();
        }
        // A grid of a day had rounded some times up by minutes; a window of ten seconds forgets them within ten.
        assert_eq!(step(&mut windows, &short, 1_000), Ok([None, Some(999)]));
        assert_eq!(step(&mut windows, &short, 11_001), Ok([None, Some(1_999)]));
        assert_eq!(step(&mut windows, &long, 12_000), Ok([None, Some(1_998)]));
    }

    #[test]
    fn cost_above_a_limit_waits_the_length_of_the_window() {
        let limits = limits(rate(5, 3_600), rate(3, 60));
        let mut windows = Windows::default();
        for (cost, seconds) in [(4, 60), (6, 3_600), (u32::MAX, 3_600)] {
            let refused = take_at(&mut windows, &limits, cost, at(0)).unwrap_err();
            assert_eq!(refused.retry_after_seconds, seconds);
        }
        assert!(take_at(&mut windows, &limits, 3, at(0)).is_ok());
    }

    /// A saved time ahead of the clock must not stretch a window (S30).
    #[test]
    fn restored_times_ahead_of_the_clock_count_from_now() {
        let limits = limits(rate(5, 3_600), rate(3, 60));
        let quota = SavedQuota {
            opened_micros: i64::MAX,
            opened_wall: Wall(7),
            seconds: 3_600,
            used: 2,
        };
        let burst = SavedBurst {
            seconds: 60,
            log: vec![(i64::MIN, 1), (0, 1), (i64::MAX, 1)],
        };
        let mut windows = Windows::restored(Some(&quota), Some(&burst), at(1_000_000));
        let numbers = take_at(&mut windows, &limits, 1, at(1_000_000)).unwrap();
        assert_eq!(numbers.quota.unwrap().remaining, 2);
        assert_eq!(numbers.quota.unwrap().reset_in_seconds, 3_600);
        assert_eq!(
            numbers.quota.unwrap().reset_unix_seconds,
            WALL / 1_000_000 + 3_601
        );
        assert_eq!(numbers.burst.unwrap().remaining, 0);
        assert_eq!(numbers.burst.unwrap().reset_in_seconds, 60);
    }

    #[test]
    fn burst_window_stays_within_six_kibibytes() {
        assert_eq!(size_of::<Stamp>() * STAMPS_MAX, 6 * 1024);
        let limits = limits(None, rate(1_000_000, 60));
        let mut windows = Windows::default();
        for index in 0..200_000_u64 {
            take_at(&mut windows, &limits, 1, at(index * 777)).unwrap();
        }
        assert!(windows.burst.log.capacity() <= STAMPS_MAX);
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

    /// All that was admitted under one window, told from a list of every admission.
    #[derive(Default)]
    struct History(Vec<(u64, u64)>);

    impl History {
        fn within(&self, after: Option<u64>) -> u64 {
            self.0
                .iter()
                .filter(|(at, _)| after.is_none_or(|after| *at > after))
                .map(|(_, cost)| cost)
                .sum()
        }

        fn in_span_before(&self, now: u64, span: u64) -> u64 {
            self.within(now.checked_sub(span))
        }

        /// Start and use of the fixed window that is open at `now`.
        fn open_window(&self, now: u64, span: u64) -> Option<(u64, u64)> {
            let mut open: Option<(u64, u64)> = None;
            for (at, cost) in &self.0 {
                open = match open {
                    Some((start, used)) if *at < start + span => Some((start, used + cost)),
                    // `WALL` is a whole second, so the seconds of both clocks begin together.
                    _ => Some((at - at % 1_000_000, *cost)),
                };
            }
            open.filter(|(start, _)| now < start + span)
        }

        fn worst_span(&self, span: u64) -> u64 {
            (0..self.0.len())
                .map(|first| {
                    let end = self.0[first].0 + span;
                    let inside = self.0[first..].iter().take_while(|(at, _)| *at < end);
                    inside.map(|(_, cost)| cost).sum()
                })
                .max()
                .unwrap_or(0)
        }
    }

    #[derive(Clone, Debug)]
    struct Event {
        quarters: u64,
        jitter: u64,
        backwards: bool,
        cost: u32,
        quota: Option<u32>,
        burst: Option<u32>,
        restart: bool,
    }

    fn count() -> impl Strategy<Value = Option<u32>> {
        prop_oneof![4 => Just(Some(6)), 4 => (1_u32..12).prop_map(Some), 1 => Just(None)]
    }

    fn event() -> impl Strategy<Value = Event> {
        (
            prop_oneof![6 => Just(0_u64), 3 => 1_u64..6, 1 => 6_u64..40],
            0_u64..3,
            prop::bool::weighted(0.1),
            1_u32..4,
            count(),
            count(),
            prop::bool::weighted(0.05),
        )
            .prop_map(
                |(quarters, jitter, backwards, cost, quota, burst, restart)| Event {
                    quarters,
                    jitter,
                    backwards,
                    cost,
                    quota,
                    burst,
                    restart,
                },
            )
    }

    /// SEEDS 8.3: sleeping Retry-After succeeds, sleeping a second less fails.
    fn check_retry_after(
        windows: &Windows,
        limits: &Limits,
        cost: u32,
        now: u64,
        seconds: u32,
    ) -> Result<(), TestCaseError> {
        let after = |seconds: u32| {
            let now = at(now + u64::from(seconds) * 1_000_000);
            take_at(&mut windows.clone(), limits, cost, now)
        };
        prop_assert!(after(seconds).is_ok());
        prop_assert!(after(seconds - 1).is_err());
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Exactly what a list of all admissions says, at every step, through plan changes, refusals, late threads and restarts.
        #[test]
        fn agrees_with_a_list_of_all_admissions(
            quota_seconds in 1_u32..6,
            burst_seconds in 1_u32..4,
            events in prop::collection::vec(event(), 1..120),
        ) {
            let mut windows = Windows::default();
            let (mut in_quota, mut in_burst) = (History::default(), History::default());
            let spans = [quota_seconds, burst_seconds].map(|seconds| u64::from(seconds) * 1_000_000);
            let mut latest = 1_000_000_000;
            for event in events {
                latest += event.quarters * 250_000 + event.jitter;
                if event.restart {
                    let (quota, burst) = windows.saved();
                    windows = Windows::restored(quota.as_ref(), burst.as_ref(), at(latest));
                    windows.roll(&limits(rate(1, quota_seconds), rate(1, burst_seconds)), at(latest));
                }
                let limits = limits(
                    event.quota.and_then(|count| rate(count, quota_seconds)),
                    event.burst.and_then(|count| rate(count, burst_seconds)),
                );
                windows.roll(&limits, at(latest));
                let clock = if event.backwards { latest - 700_000 } else { latest };
                let cost = u64::from(event.cost);
                let open = in_quota.open_window(latest, spans[0]);
                let used = open.map_or(0, |(_, used)| used);
                let inside = in_burst.in_span_before(latest, spans[1]);
                let quota_fits = event.quota.is_none_or(|count| used + cost <= u64::from(count));
                let burst_fits = event.burst.is_none_or(|count| inside + cost <= u64::from(count));
                let outcome = take_at(&mut windows, &limits, event.cost, at(clock));
                prop_assert_eq!(outcome.is_ok(), quota_fits && burst_fits);
                if outcome.is_ok() {
                    if event.quota.is_some() {
                        in_quota.0.push((latest, cost));
                    }
                    if event.burst.is_some() {
                        in_burst.0.push((latest, cost));
                    }
                }
                let numbers = outcome.unwrap_or_else(|refused| refused.numbers);
                let open = in_quota.open_window(latest, spans[0]);
                let used = open.map_or(0, |(_, used)| used);
                let inside = in_burst.in_span_before(latest, spans[1]);
                prop_assert_eq!(
                    numbers.quota.map(|window| u64::from(window.remaining)),
                    event.quota.map(|count| u64::from(count).saturating_sub(used))
                );
                prop_assert_eq!(
                    numbers.burst.map(|window| u64::from(window.remaining)),
                    event.burst.map(|count| u64::from(count).saturating_sub(inside))
                );
                if let (Some((start, _)), Some(window)) = (open, numbers.quota) {
                    prop_assert_eq!(
                        u64::from(window.reset_in_seconds),
                        (start + spans[0] - latest).div_ceil(1_000_000)
                    );
                }
                if let Err(refused) = outcome {
                    let possible = event.quota.is_none_or(|count| event.cost <= count)
                        && event.burst.is_none_or(|count| event.cost <= count);
                    if possible {
                        check_retry_after(&windows, &limits, event.cost, latest, refused.retry_after_seconds)?;
                    }
                }
            }
        }

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
