//! What the scripts answer, and the numbers that headers say of it.

use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::quota::Exhausted;
use crate::quota::Numbers;
use crate::quota::WindowNumbers;

/// One subject's windows as the store knows them. Times are the store's, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) quota_left: u64,
    pub(super) opened: u64,
    pub(super) burst_left: u64,
    /// Until the burst is full again.
    pub(super) full_in: u64,
    /// Whether a quota window is open.
    pub(super) open: bool,
    /// What other nodes used and hold of it.
    pub(super) others: u64,
}

impl Told {
    /// How many fields of an answer are about one subject.
    pub(super) const FIELDS: usize = 6;

    /// Some fields of an answer, from here.
    pub(super) fn read(answer: &[String], at: usize) -> Told {
        Told {
            quota_left: number(answer, at),
            opened: number(answer, at + 1),
            burst_left: number(answer, at + 2),
            full_in: number(answer, at + 3),
            open: number(answer, at + 4) == 1,
            others: number(answer, at + 5),
        }
    }

    /// For the headers.
    pub(super) fn numbers(&self, limits: &Limits, now: u64, is_tenants: bool) -> Numbers {
        Numbers {
            quota_is_tenants: is_tenants && limits.quota.is_some(),
            quota: limits.quota.map(|rate| {
                let ends = self.opened + micros(rate.seconds);
                WindowNumbers {
                    rate,
                    remaining: narrow(self.quota_left),
                    reset_unix_seconds: ends.div_ceil(MICROS),
                    reset_in_seconds: match self.open {
                        true => seconds_up(ends.saturating_sub(now)),
                        false => rate.seconds,
                    },
                }
            }),
            burst: limits.burst.map(|rate: Rate| WindowNumbers {
                rate,
                remaining: narrow(self.burst_left),
                reset_unix_seconds: (now + self.full_in).div_ceil(MICROS),
                reset_in_seconds: seconds_up(self.full_in),
            }),
            ..Numbers::default()
        }
    }
}

/// A refusal, with the wait in microseconds.
pub(super) fn exhausted(numbers: Numbers, wait: u64) -> Exhausted {
    Exhausted {
        numbers,
        retry_after_seconds: seconds_up(wait).max(1),
    }
}

pub(super) fn number(answer: &[String], at: usize) -> u64 {
    answer
        .get(at)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

pub(super) fn micros(seconds: u32) -> u64 {
    u64::from(seconds) * MICROS
}

pub(super) fn seconds_up(micros: u64) -> u32 {
    narrow(micros.div_ceil(MICROS))
}

pub(super) fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) const MICROS: u64 = 1_000_000;
