//! What becomes of a request that nobody can be asked about.

use std::sync::atomic::Ordering;

use crate::clock::Mono;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::quota::Numbers;
use crate::quota::window::both;

use super::Ask;
use super::Verdict;
use super::answers::MICROS;
use super::answers::Told;
use super::answers::exhausted;
use super::answers::micros;
use super::claims::Claim;
use super::counting::Counting;

impl Counting {
    /// What is held by lease first; then `store.limits_outage`: nothing, or this node's share of each limit, judged by what it has admitted itself.
    pub(super) fn without_store(&mut self, ask: &Ask, mono: Mono) -> Verdict {
        let mut held_here = 0;
        if let Some(key) = ask.leased
            && let Some(mut held) = self.leases.find(key)
        {
            let limits = ask.subjects[0].1;
            if ask.charges
                && let Some(numbers) = held.take_held(&limits, ask.cost, mono)
            {
                return Verdict::Admitted(numbers);
            }
            held_here = u64::from(held.usable(mono));
            let (uses, opened) = held.spent();
            let granted_under = *held.limits();
            let claim = self.claims.entry(ask.subjects[0].0.clone()).or_default();
            for (at, count) in uses {
                claim.roll(&granted_under, at);
                claim.take(&granted_under, count, opened, at);
            }
        }
        if self.settings.deny_in_outage {
            return Verdict::Unknown;
        }
        self.share(ask, held_here)
    }

    fn share(&mut self, ask: &Ask, held_here: u64) -> Verdict {
        let now = self.now();
        let nodes = self.nodes.load(Ordering::Relaxed).max(1) as u32;
        let share = |rate: Rate| u64::from((rate.count / nodes).max(1));
        let cost = u64::from(ask.cost);
        let mut wait = 0;
        for (name, limits) in &ask.subjects {
            let claim = self.claims.entry(name.clone()).or_default();
            claim.roll(limits, now);
            wait = wait.max(wait_for(claim, limits, cost + held_here, now, share));
        }
        let mut numbers: Option<Numbers> = None;
        for (name, limits) in &ask.subjects {
            let claim = self.claims.entry(name.clone()).or_default();
            let opened = claim.opened.unwrap_or(now - now % MICROS);
            let open = claim.opened.is_some();
            if wait == 0 && ask.charges {
                claim.take(limits, cost, opened, now);
            }
            let left = |rate: Option<Rate>, used: u64| {
                rate.map_or(0, |rate| share(rate).saturating_sub(used + held_here))
            };
            let length = limits.burst.map_or(0, |rate| micros(rate.seconds));
            let told = Told {
                quota_left: left(limits.quota, claim.used),
                opened,
                open: open || wait == 0,
                others: 0,
                burst_left: left(limits.burst, claim.total()),
                full_in: (claim.span()).map_or(0, |(_, last)| (last + length).saturating_sub(now)),
            };
            let of = told.numbers(limits, now, name.starts_with("t:"));
            numbers = Some(both(numbers, Some(of)));
        }
        let numbers = numbers.unwrap_or_default();
        match wait {
            0 => Verdict::Admitted(numbers),
            wait => Verdict::Refused(exhausted(numbers, wait)),
        }
    }
}

/// Microseconds until this node's share has room; 0 when it has.
fn wait_for(
    claim: &Claim,
    limits: &Limits,
    cost: u64,
    now: u64,
    share: impl Fn(Rate) -> u64,
) -> u64 {
    let mut wait = 0;
    if let Some(rate) = limits.quota
        && claim.used + cost > share(rate)
    {
        let opened = claim.opened.unwrap_or(now);
        wait = (opened + micros(rate.seconds)).saturating_sub(now);
    }
    if let Some(rate) = limits.burst
        && claim.total() + cost > share(rate)
    {
        let first = claim.span().map_or(now, |(first, _)| first);
        wait = wait.max((first + micros(rate.seconds)).saturating_sub(now));
    }
    wait
}
