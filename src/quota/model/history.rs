//! One subject's plain list of admissions, and what it says: the naive side of every comparison.

use crate::clock::Now;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::quota::Numbers;
use crate::quota::WindowNumbers;
use crate::store::counters::Subject;

/// Everything admitted to one subject that may still count.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// Beginning on both clocks, length, and what was taken in the open quota window.
    quota: Option<(i64, u64, i64, Vec<u32>)>,
    /// Time and cost of each admission within the burst's span, and that span.
    burst: Vec<(i64, u32)>,
    span: i64,
    /// The latest clock that was seen.
    latest: i64,
}

pub(super) const SECOND: i64 = 1_000_000;

pub(super) fn up(micros: i64) -> i64 {
    (micros + SECOND - 1).div_euclid(SECOND)
}

impl History {
    /// Forgets what is over, under the length it was admitted under and under the one in force.
    pub(super) fn look(&mut self, limits: &Limits, now: Now) {
        self.latest = self.latest.max(now.mono.0 as i64);
        let at = self.latest;
        if let Some(rate) = limits.quota {
            let new = i64::from(rate.seconds) * SECOND;
            if let Some((begin, _, length, _)) = &mut self.quota
                && at < *begin + *length
            {
                *length = new;
            }
            self.quota
                .take_if(|(begin, _, length, _)| at >= *begin + *length);
        }
        if let Some(rate) = limits.burst {
            for span in [self.span, i64::from(rate.seconds) * SECOND] {
                self.burst.retain(|(time, _)| at < time + span);
                self.span = span;
            }
        }
    }

    /// Microseconds until `cost` fits, by asking for each moment at which something ends.
    pub(super) fn wait(&self, limits: &Limits, cost: u32) -> i64 {
        let quota = limits.quota.map_or(0, |rate| {
            let used: u32 = self.quota.iter().flat_map(|window| &window.3).sum();
            let end = self
                .quota
                .as_ref()
                .map_or(i64::from(rate.seconds) * SECOND, |window| {
                    window.0 + window.2 - self.latest
                });
            if used + cost <= rate.count { 0 } else { end }
        });
        let burst = limits.burst.map_or(0, |rate| {
            let inside = |wait: i64| -> u32 {
                let alive = self
                    .burst
                    .iter()
                    .filter(|(time, _)| self.latest + wait < time + self.span);
                alive.map(|(_, cost)| cost).sum()
            };
            let ends = self
                .burst
                .iter()
                .map(|(time, _)| time + self.span - self.latest);
            let mut moments = std::iter::once(0).chain(ends);
            moments
                .find(|wait| inside(*wait) + cost <= rate.count)
                .unwrap_or(i64::from(rate.seconds) * SECOND)
        });
        quota.max(burst)
    }

    pub(super) fn take(&mut self, limits: &Limits, cost: u32, now: Now) {
        let wall = now.wall.0 + (self.latest - now.mono.0 as i64) as u64;
        if let Some(rate) = limits.quota {
            let into = wall % SECOND as u64;
            let fresh = || {
                let length = i64::from(rate.seconds) * SECOND;
                (self.latest - into as i64, wall - into, length, Vec::new())
            };
            self.quota.get_or_insert_with(fresh).3.push(cost);
        }
        if limits.burst.is_some() {
            self.burst.push((self.latest, cost));
        }
    }

    pub(super) fn numbers(&self, subject: &Subject, limits: &Limits, now: Now) -> Numbers {
        let quota = limits.quota.map(|rate| {
            let length = i64::from(rate.seconds) * SECOND;
            let used: u32 = self.quota.iter().flat_map(|window| &window.3).sum();
            let (end, opened) = match &self.quota {
                Some((begin, wall, _, _)) => (begin + length - self.latest, *wall),
                None => (length, now.wall.0 - now.wall.0 % SECOND as u64),
            };
            told(rate, used, up(opened as i64 + length), end)
        });
        let burst = limits.burst.map(|rate| {
            let used: u32 = self.burst.iter().map(|(_, cost)| cost).sum();
            let last = self
                .burst
                .last()
                .map_or(0, |(time, _)| time + self.span - self.latest);
            told(rate, used, up(now.wall.0 as i64 + last), last)
        });
        Numbers {
            quota,
            burst,
            other_quota: None,
            quota_is_tenants: quota.is_some() && matches!(subject, Subject::Tenant(_)),
            fell: 0,
        }
    }

    pub(super) fn is_over(&self, at: i64) -> bool {
        let quota = self
            .quota
            .as_ref()
            .is_none_or(|(begin, _, length, _)| at >= *begin + *length);
        quota && self.burst.iter().all(|(time, _)| at >= time + self.span)
    }

    /// As it stands on a disk whose times have been moved.
    pub(super) fn moved(&mut self, shift: i64) {
        if let Some((begin, ..)) = &mut self.quota {
            *begin += shift;
        }
        self.burst.iter_mut().for_each(|(time, _)| *time += shift);
    }

    /// As it is after a start at `now`: a time ahead of the clock counts from now.
    pub(super) fn restored(mut self, now: Now) -> History {
        let at = now.mono.0 as i64;
        if let Some((begin, wall, _, _)) = &mut self.quota
            && *begin > at
        {
            (*begin, *wall) = (at, now.wall.0);
        }
        self.quota
            .take_if(|(begin, _, length, _)| at >= *begin + *length);
        self.burst.retain(|(time, _)| at < time + self.span);
        for (time, _) in &mut self.burst {
            *time = (*time).min(at);
        }
        self.latest = at;
        self
    }
}

fn told(rate: Rate, used: u32, reset_unix: i64, reset_in: i64) -> WindowNumbers {
    WindowNumbers {
        rate,
        remaining: rate.count.saturating_sub(used),
        reset_unix_seconds: reset_unix as u64,
        reset_in_seconds: up(reset_in) as u32,
    }
}

/// For each window the subject with the least left; of equals the one that stays so the longest.
pub(super) fn tightest(all: &[Numbers]) -> Numbers {
    let least = |window: fn(&Numbers) -> Option<WindowNumbers>| {
        let rank =
            |numbers: &WindowNumbers| (numbers.remaining, u32::MAX - numbers.reset_in_seconds);
        all.iter().filter_map(window).min_by_key(rank)
    };
    let quota = least(|numbers| numbers.quota);
    let mut limited: Vec<&Numbers> = all.iter().filter(|one| one.quota.is_some()).collect();
    let shown = limited.iter().position(|one| one.quota == quota);
    let shown = shown.map(|place| limited.remove(place));
    Numbers {
        quota,
        burst: least(|numbers| numbers.burst),
        other_quota: limited.first().and_then(|other| other.quota),
        quota_is_tenants: shown.is_some_and(|one| one.quota_is_tenants),
        fell: 0,
    }
}
