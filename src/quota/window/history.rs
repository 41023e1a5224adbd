//! What the windows are held to: a list of every admission.

use proptest::prelude::*;

use crate::model::limit::Limits;
use crate::quota::window::Windows;
use crate::quota::window::tests::at;
use crate::quota::window::tests::limits;
use crate::quota::window::tests::rate;
use crate::quota::window::tests::take_at;

/// All that was admitted under one window, told from a list of every admission.
#[derive(Default)]
pub(super) struct History(pub(super) Vec<(u64, u64)>);

impl History {
    fn within(&self, after: Option<u64>) -> u64 {
        self.0
            .iter()
            .filter(|(at, _)| after.is_none_or(|after| *at > after))
            .map(|(_, cost)| cost)
            .sum()
    }

    pub(super) fn in_span_before(&self, now: u64, span: u64) -> u64 {
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

    pub(super) fn worst_span(&self, span: u64) -> u64 {
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
pub(super) fn check_retry_after(
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
                let (quota, burst) = windows.save(false);
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
}
