//! The window of a quota: fixed, opened by its first charge.

use crate::clock::Wall;
use crate::model::limit::Rate;
use crate::quota::WindowNumbers;
use crate::quota::window::micros::MICROS;
use crate::quota::window::micros::length;
use crate::quota::window::micros::narrow;
use crate::quota::window::micros::second_of;
use crate::quota::window::micros::seconds_up;
use crate::quota::window::micros::unix_seconds_up;
use crate::store::counters::SavedQuota;

/// A fixed window, opened by its first charge, at the beginning of that second of the wall clock: so `Reset` is a whole second that is
/// neither early nor further away than the window is long (FA25).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QuotaWindow {
    opened: i64,
    /// Dates `Reset`; kept, so that a wall clock that jumps does not change it within a window (FA25, S30).
    opened_wall: Wall,
    /// Its length; 0 while no charge has opened it.
    seconds: u32,
    used: u32,
}

impl QuotaWindow {
    pub(super) fn is_open(&self) -> bool {
        self.seconds != 0
    }

    pub(super) fn over(&self, at: i64) -> bool {
        self.seconds == 0 || at >= self.opened.saturating_add(length(self.seconds))
    }

    pub(super) fn roll(&mut self, rate: Rate, at: i64) {
        if !self.over(at) {
            self.seconds = rate.seconds;
        }
        if self.over(at) {
            *self = QuotaWindow::default();
        }
    }

    pub(super) fn wait_for(&self, rate: Rate, cost: u32, at: i64) -> i64 {
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

    pub(super) fn take(&mut self, rate: Rate, cost: u32, at: i64, wall: Wall) {
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
    pub(super) fn numbers(&self, rate: Rate, at: i64, wall: Wall) -> WindowNumbers {
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

    pub(super) fn saved(&self) -> Option<SavedQuota> {
        (self.seconds != 0).then_some(SavedQuota {
            opened_micros: self.opened,
            opened_wall: self.opened_wall,
            seconds: self.seconds,
            used: self.used,
        })
    }

    pub(super) fn restored(saved: &SavedQuota, at: i64, wall: Wall) -> QuotaWindow {
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
