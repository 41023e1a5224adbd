//! What this node has admitted of each subject: what it says again to a server that may have lost it.

use std::collections::VecDeque;

use redis::Pipeline;
use redis::Script;

use crate::clock::Now;
use crate::config::Redis;
use crate::model::limit::Limits;
use crate::quota::window;
use crate::store::StoreError;
use crate::store::counters::Row;
use crate::store::shared::link::Link;

use super::answers::MICROS;
use super::answers::Told;
use super::answers::micros;

/// What this node has admitted of one subject, in the store's time: what it says again to a server that may have lost it, and what it
/// goes by while there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim {
    /// Microseconds; `None` while no window is open.
    pub(super) opened: Option<u64>,
    seconds: u32,
    pub(super) used: u64,
    /// The quota window that the store spoke of last, and how much others had used of it then: what an earlier run of this node admitted, or one that
    /// is cut off, an emptied store hears of whoever heard it.
    others: Option<(u64, u64)>,
    /// (Rounded up to 1/512 of the length, count), in order.
    burst: VecDeque<(u64, u64)>,
    burst_seconds: u32,
}

/// What is held beside what was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holding {
    /// Permits.
    pub(super) count: u64,
    /// The quota window that they are of.
    pub(super) window: u64,
    /// Microseconds until they can be used no more.
    pub(super) lasts: u64,
}

impl Claim {
    pub(super) fn roll(&mut self, limits: &Limits, now: u64) {
        if let Some(rate) = limits.quota {
            self.seconds = rate.seconds;
        }
        if let Some(rate) = limits.burst {
            self.burst_seconds = rate.seconds;
        }
        self.count_from(now);
        // The store's time may be guessed too late here by one trip.
        self.end(now.saturating_sub(SLACK));
        let length = micros(self.burst_seconds) + SLACK;
        while self.burst.front().is_some_and(|(at, _)| at + length <= now) {
            self.burst.pop_front();
        }
    }

    /// Knows nothing any more of a quota window that is over at this time.
    pub(super) fn end(&mut self, now: u64) {
        let length = micros(self.seconds);
        let is_over = |opened: u64| now >= opened + length;
        if self.opened.is_some_and(is_over) {
            (self.opened, self.used) = (None, 0);
        }
        self.others.take_if(|(opened, _)| is_over(*opened));
    }

    /// What lies ahead of the store's time was counted before that was set back: it counts from now, as in the store.
    fn count_from(&mut self, now: u64) {
        self.opened = self.opened.map(|opened| match opened > now + AHEAD_MAX {
            true => now - now % MICROS,
            false => opened,
        });
        let latest = now + AHEAD_MAX;
        if self.span().is_some_and(|(_, last)| last > latest) {
            self.burst
                .iter_mut()
                .for_each(|(at, _)| *at = latest.min(*at));
        }
    }

    /// Notes what the store says of the quota window that is open.
    pub(super) fn hear(&mut self, told: &Told) {
        if told.open {
            self.others = Some((told.opened, told.others)).filter(|(_, others)| *others > 0);
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.burst.iter().map(|(_, count)| count).sum()
    }

    /// The times between which its burst lies.
    pub(super) fn span(&self) -> Option<(u64, u64)> {
        Some((self.burst.front()?.0, self.burst.back()?.0))
    }

    /// Counts what was admitted at `now` in the window that was opened then.
    pub(super) fn take(&mut self, limits: &Limits, cost: u64, opened: u64, now: u64) {
        if limits.quota.is_some() {
            self.enter(opened);
            // Of an earlier window that is over nothing has to be known.
            if self.opened == Some(opened) {
                self.used += cost;
            }
        }
        if limits.burst.is_some() {
            let at = now.next_multiple_of(grid(self.burst_seconds));
            match self.burst.back_mut() {
                Some((last, count)) if *last >= at => *count += cost,
                _ => self.burst.push_back((at, cost)),
            }
        }
    }

    /// The window that the store names. Where two overlap, since a store that had forgotten heard of both, it has what was used in either.
    fn enter(&mut self, opened: u64) {
        let length = micros(self.seconds);
        match self.opened {
            Some(known) if opened + length <= known => {}
            Some(known) if opened < known + length => self.opened = Some(opened),
            _ => (self.opened, self.used) = (Some(opened), 0),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.opened.is_none() && self.others.is_none() && self.burst.is_empty()
    }

    /// The call that says it, and what it holds besides; `name` is of this claim alone. What is held stands in the burst log as `entry_name` says.
    pub(super) fn say(
        &self,
        pipe: &mut Pipeline,
        script: &Script,
        keys: &[String; 4],
        about: (&str, &str),
        holding: Holding,
        now: u64,
    ) {
        let (node, name) = about;
        let (opened, used) = match self.opened {
            Some(opened) if holding.count == 0 || opened > holding.window => (opened, self.used),
            Some(opened) if opened == holding.window => (opened, self.used + holding.count),
            None if holding.count == 0 => (self.others.map_or(0, |(opened, _)| opened), 0),
            _ => (holding.window, holding.count),
        };
        let others = self.others.filter(|(window, _)| *window == opened);
        let others = others.map_or(0, |(_, used)| used);
        pipe.cmd("EVALSHA").arg(script.get_hash()).arg(keys.len());
        for key in keys {
            pipe.arg(key);
        }
        pipe.arg(node)
            .arg(opened)
            .arg(used)
            .arg(opened + micros(self.seconds))
            .arg(micros(self.burst_seconds))
            .arg(name)
            .arg(others);
        if self.burst_seconds > 0 {
            if holding.count > 0 {
                pipe.arg(holding.count).arg(holding.lasts);
            }
            let stamps = self.burst.iter().map(|(at, count)| (*at, *count));
            for (at, count) in coarse(stamps, CLAIMED_MAX) {
                pipe.arg(count).arg(at as i64 - now as i64);
            }
        }
        pipe.ignore();
    }

    /// The name in the burst log under which `say` has put what is held: it is the first of its pairs.
    pub(super) fn entry_name(name: &str) -> String {
        format!("{name}.8")
    }
}

/// Times and counts, in order, as at most `max` of them: several in a row count at the time of the last.
pub(super) fn coarse(
    stamps: impl ExactSizeIterator<Item = (u64, u64)>,
    max: usize,
) -> Vec<(u64, u64)> {
    let each = stamps.len().div_ceil(max).max(1);
    let mut found: Vec<(u64, u64)> = Vec::new();
    for (index, (at, count)) in stamps.enumerate() {
        match found.last_mut() {
            Some((last, sum)) if index % each != 0 => (*last, *sum) = (at, *sum + count),
            _ => found.push((at, count)),
        }
    }
    found
}

/// To what times within a burst of this length are rounded up, in microseconds.
pub(super) fn grid(burst_seconds: u32) -> u64 {
    (micros(burst_seconds) / STAMPS).max(1)
}

/// Says to shared counters what a node that was alone has admitted, so that moving up gives nobody a new window. Blocking.
///
/// # Errors
/// The store is away; said again, nothing counts twice.
pub fn carry_over(settings: &Redis, rows: &[Row], now: Now) -> Result<(), StoreError> {
    let mut link = Link::new(settings);
    let script = Script::new(CLAIM);
    link.call(0, |connection| script.load(connection))?;
    for row in rows {
        let claim = claim_of(row, now);
        let keys = claim_keys(&link, &row.subject.to_string());
        let mut pipe = redis::pipe();
        let about = ("moved", "moved");
        claim.say(
            &mut pipe,
            &script,
            &keys,
            about,
            Holding::default(),
            now.wall.0,
        );
        link.call(0, |connection| pipe.query::<()>(connection))?;
    }
    Ok(())
}

fn claim_of(row: &Row, now: Now) -> Claim {
    let mut claim = Claim::default();
    if let Some(saved) = &row.quota {
        claim.opened = Some(saved.opened_wall.0);
        claim.seconds = saved.seconds;
        claim.used = u64::from(saved.used);
    }
    if let Some(saved) = &row.burst {
        claim.burst_seconds = saved.seconds;
        let length = i64::from(saved.seconds) * MICROS as i64;
        let at = window::instant(now);
        let live = saved.log.iter().filter(|(stamp, _)| stamp + length > at);
        claim.burst = live
            .map(|(stamp, count)| {
                (
                    now.wall.0.saturating_add_signed(stamp - at),
                    (*count).into(),
                )
            })
            .collect();
    }
    claim
}

/// What the script of a claim works on: the server's run, the quota window, the burst log, and the sum of that log.
pub(super) fn claim_keys(link: &Link, subject: &str) -> [String; 4] {
    let [quota, log, sum] = keys(link, subject);
    [link.name("limits"), quota, log, sum]
}

/// Quota window, burst log, and the sum of that log.
pub(super) fn keys(link: &Link, subject: &str) -> [String; 3] {
    ["lq", "lb", "ls"].map(|kind| link.name(&format!("{kind}:{subject}")))
}

/// The script of a claim.
pub(super) const CLAIM: &str = include_str!("claim.lua");

/// Entries that a claim puts into the log at most, beside the one of what is held.
const CLAIMED_MAX: usize = 32;

const STAMPS: u64 = 512;

/// How much longer than it counts a use is known here, in microseconds.
const SLACK: u64 = 100_000;

/// What lies further ahead of the time of any use that is noted late, in microseconds, is of another time: longer than a lease.
const AHEAD_MAX: u64 = 60_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limit::Rate;

    /// Two nodes opened windows while the store was away, and it goes on with the earlier one: what was used in the later one is of that too, also when
    /// the store forgets once more. A report that comes after a window's end takes nothing from the next one.
    #[test]
    fn windows_that_overlap_are_one() {
        let rate = Rate {
            count: 100,
            seconds: 60,
        };
        let limits = Limits {
            quota: Some(rate),
            burst: None,
        };
        let at = |seconds: u64| (1_700_000_000 + seconds) * MICROS;
        let mut claim = Claim::default();
        claim.roll(&limits, at(30));
        claim.take(&limits, 50, at(30), at(30));
        claim.roll(&limits, at(40));
        claim.take(&limits, 1, at(20), at(40));
        assert_eq!((claim.opened, claim.used), (Some(at(20)), 51));
        claim.roll(&limits, at(90));
        claim.take(&limits, 2, at(90), at(90));
        assert_eq!((claim.opened, claim.used), (Some(at(90)), 2));
        claim.take(&limits, 7, at(20), at(79));
        assert_eq!((claim.opened, claim.used), (Some(at(90)), 2));
    }

    /// The store's clock was set back by a day: what was used counts from then on, no shorter than its length, and a minute longer at most. A use that is
    /// noted late moves nothing.
    #[test]
    fn what_is_of_a_time_ahead_counts_from_now() {
        let rate = Rate {
            count: 100,
            seconds: 60,
        };
        let limits = Limits {
            quota: Some(rate),
            burst: Some(rate),
        };
        let at = |seconds: u64| (1_700_000_000 + seconds) * MICROS;
        let mut claim = Claim::default();
        let later = 86_400;
        claim.roll(&limits, at(later));
        claim.take(&limits, 50, at(later), at(later));
        claim.roll(&limits, at(later - 14));
        assert_eq!((claim.opened, claim.total()), (Some(at(later)), 50));
        claim.roll(&limits, at(5));
        assert_eq!((claim.opened, claim.used), (Some(at(5)), 50));
        claim.roll(&limits, at(64));
        assert_eq!((claim.opened, claim.total()), (Some(at(5)), 50));
        claim.roll(&limits, at(66));
        assert_eq!((claim.opened, claim.total()), (None, 50));
        claim.roll(&limits, at(126));
        assert_eq!(claim.total(), 0);
    }
}
