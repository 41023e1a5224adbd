//! Window arithmetic: pure functions of counts, limits and a time.
//!
//! `fixed` is the window of a quota and `sliding` that of a burst, whose times `log` keeps; here they are charged together, and what is left of them is told. `history` (in
//! tests) holds both to a list of every admission.

mod fixed;
#[cfg(test)]
mod history;
mod log;
mod micros;
mod sliding;
#[cfg(test)]
mod tests;

use crate::clock::Now;
use crate::clock::Wall;
use crate::model::limit::Limits;
use crate::quota::Exhausted;
use crate::quota::Numbers;
use crate::quota::WindowNumbers;
use crate::quota::window::fixed::QuotaWindow;
use crate::quota::window::micros::narrow;
use crate::quota::window::micros::seconds_up;
use crate::quota::window::sliding::ALL;
use crate::quota::window::sliding::BurstWindow;
use crate::quota::window::sliding::Fresh;
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

/// What the store keeps of a subject.
pub(super) type Saved = (Option<SavedQuota>, Option<SavedBurst>);

/// All windows of one subject. Times are microseconds on the monotonic clock, negative before the last boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Windows {
    quota: QuotaWindow,
    burst: BurstWindow,
    /// The latest time any charge came with. Threads read the clock before they take the lock, so a charge can come with an
    /// earlier one; it counts from here, or what a later one has let go could be admitted twice within a span.
    latest: i64,
    /// What the store does not have of the burst.
    fresh: Fresh,
    /// Whether the next save is to bring them; for who keeps them, and of no matter here.
    pub(super) changed: bool,
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
            self.burst.roll(rate, self.latest, &mut self.fresh);
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
            self.burst.take(cost, self.latest, &mut self.fresh);
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

    /// Whether anything was ever charged here, or asked for.
    pub(super) fn are_open(&self) -> bool {
        self.quota.is_open() || self.burst.is_open()
    }

    /// What the store is to keep of it: of the burst all, or `only_new` what is new since the last call. Who cannot write it says `saved_is_lost`.
    pub(super) fn save(&mut self, only_new: bool) -> Saved {
        let fresh = std::mem::take(&mut self.fresh);
        (self.quota.saved(), self.burst.saved(only_new, fresh))
    }

    /// Has the next save bring all.
    pub(super) fn saved_is_lost(&mut self) {
        self.fresh = ALL;
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
            fresh: ALL,
            changed: false,
        }
    }
}

/// The monotonic clock as a signed number, so that what happened before a reboot has a place on it.
pub(super) fn instant(now: Now) -> i64 {
    i64::try_from(now.mono.0).unwrap_or(i64::MAX / 2)
}
