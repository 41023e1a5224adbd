//! Windows charged step by step.

use super::Windows;
use super::charge;
use super::tighter;
use crate::clock::Mono;
use crate::clock::Now;
use crate::clock::Wall;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::quota::Exhausted;
use crate::quota::Numbers;
use crate::quota::WindowNumbers;
use crate::store::counters::SavedBurst;
use crate::store::counters::SavedQuota;

pub(super) const WALL: u64 = 1_700_000_000_000_000;

pub(super) fn at(micros: u64) -> Now {
    Now {
        mono: Mono(micros),
        wall: Wall(WALL + micros),
    }
}

pub(super) fn rate(count: u32, seconds: u32) -> Option<Rate> {
    Some(Rate { count, seconds })
}

pub(super) fn limits(quota: Option<Rate>, burst: Option<Rate>) -> Limits {
    Limits { quota, burst }
}

pub(super) fn take_at(
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
        behind: None,
        log: vec![(i64::MIN, 1), (0, 1), (i64::MAX, 1)].into(),
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
