//! The permits that this node holds of each subject: taken by a request without asking anybody.

use dashmap::DashMap;
use dashmap::mapref::one::RefMut;

use crate::clock::Mono;
use crate::model::key::KeyId;
use crate::model::limit::Limits;
use crate::quota::Exhausted;
use crate::quota::Numbers;
use crate::quota::shared::Verdict;

use super::answers::Told;
use super::answers::exhausted;
use super::answers::micros;
use super::answers::narrow;
use super::claims::Holding;
use super::claims::coarse;
use super::claims::grid;

/// All leases of this node, in a lock-sharded map: a request holds one entry for as long as it takes from it.
#[derive(Debug)]
pub(super) struct Leases {
    held: DashMap<KeyId, Held>,
}

/// What came of looking for a permit here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// `None` when the store has to be asked.
    pub(super) verdict: Option<Verdict>,
    /// Whether it is time to ask for more, beside the requests; said once.
    pub(super) renew: bool,
}

impl Leases {
    pub(super) fn new() -> Leases {
        Leases {
            held: DashMap::with_shard_amount(SHARDS),
        }
    }

    /// Takes `cost` permits, or says that there are none to be had.
    pub(super) fn take(&self, key: KeyId, limits: &Limits, cost: u32, now: Mono) -> Taken {
        match self.held.get_mut(&key) {
            Some(mut held) => held.take(limits, cost, now),
            None => Taken {
                verdict: None,
                renew: false,
            },
        }
    }

    /// Nobody could be told to renew it.
    pub(super) fn not_renewed(&self, key: KeyId, now: Mono) {
        if let Some(mut held) = self.held.get_mut(&key) {
            held.unheard(now);
        }
    }

    /// A subject's entry, made if there is none.
    pub(super) fn hold(&self, key: KeyId, limits: &Limits, now: Mono) -> RefMut<'_, KeyId, Held> {
        let new = || Held::new(limits, now);
        self.held.entry(key).or_insert_with(new)
    }

    /// A subject's entry, if there is one.
    pub(super) fn find(&self, key: KeyId) -> Option<RefMut<'_, KeyId, Held>> {
        self.held.get_mut(&key)
    }

    /// Every subject with an entry.
    pub(super) fn keys(&self) -> Vec<KeyId> {
        self.held.iter().map(|held| *held.key()).collect()
    }

    /// Lets go of entries that say nothing any more.
    pub(super) fn sweep(&self, now: Mono) {
        self.held.retain(|_, held| !held.is_idle(now));
    }
}

/// What this node holds of one subject.
#[derive(Debug)]
pub(super) struct Held {
    /// Those that it was given under; under others it is no use.
    limits: Limits,
    /// Permits that may be taken before `deadline`.
    left: u32,
    /// Counted from before the store was asked, so that it never lies behind the end that the store knows.
    deadline: Mono,
    /// The store's time at its last answer, and when it was asked: `at` here is no later than `store` there.
    store: u64,
    at: Mono,
    /// Used since the last report: the store's time, rounded up, and how many.
    uses: Vec<(u64, u64)>,
    /// The entry of the store's burst log that stands for it: how many, and under what name. `None` when it is not known.
    entry: Option<(u64, String)>,
    /// The windows at the last answer, without what is left here.
    told: Told,
    /// The least `Remaining` that was said in this window.
    said: u32,
    /// Asked for since `counted`, admitted or not.
    asked: u32,
    counted: Mono,
    /// Requests a second, smoothed.
    rate: f64,
    /// How much of the limits was free at the last answer, 0 to 1.
    part: f64,
    /// At so many permits left, or at `renew_at`, more are asked for; but not before `renew_after`.
    low: u32,
    renew_at: Mono,
    renew_after: Mono,
    renewing: bool,
    denied: Option<Denied>,
    seen: Mono,
    /// Whether its end is being watched for.
    pub(super) watched: bool,
}

/// “No permits before then.”
#[derive(Clone, Copy, Debug)]
struct Denied {
    /// Requests that cost less may find some.
    cost: u32,
    /// Until then nobody asks.
    until: Mono,
    /// When there are some for sure, unless somebody else takes them.
    frees: Mono,
}

/// What is said to the store when a lease ends or is renewed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Report {
    /// The old entry and the name in it; `None` when there is none.
    pub(super) entry: Option<(u64, String)>,
    pub(super) window: u64,
    /// Stays here, and may be used while the answer is on its way.
    pub(super) kept: u32,
    pub(super) back: u32,
    pub(super) uses: Vec<(u64, u64)>,
    pub(super) rate: f64,
    /// How many are wanted for the time to come, beside what is kept.
    pub(super) ahead: u32,
}

/// What a renewal brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    /// The store's time.
    pub(super) now: u64,
    pub(super) given: u32,
    /// Whether what was kept is good for longer.
    pub(super) keeps: bool,
    pub(super) ends: u64,
    /// Microseconds until there is room for `least`.
    pub(super) wait: u64,
    /// Microseconds until it is worth asking again.
    pub(super) retry: u64,
    pub(super) part: f64,
    /// The smallest cost that was asked for; 0 for a mere report.
    pub(super) least: u32,
    pub(super) told: Told,
    /// When it was asked for, and when the answer was there.
    pub(super) sent: Mono,
    pub(super) heard: Mono,
}

impl Held {
    fn new(limits: &Limits, now: Mono) -> Held {
        Held {
            limits: *limits,
            left: 0,
            deadline: Mono(0),
            store: 0,
            at: Mono(0),
            uses: Vec::new(),
            entry: None,
            told: Told::default(),
            said: u32::MAX,
            asked: 0,
            counted: now,
            rate: 0.0,
            part: 1.0,
            low: 0,
            renew_at: Mono(0),
            renew_after: Mono(0),
            renewing: false,
            denied: None,
            seen: now,
            watched: false,
        }
    }

    fn take(&mut self, limits: &Limits, cost: u32, now: Mono) -> Taken {
        self.note(cost, now);
        if let Some(numbers) = self.take_held(limits, cost, now) {
            let due = self.left <= self.low || now >= self.renew_at;
            let renew = due && !self.renewing && now >= self.renew_after;
            self.renewing |= renew;
            return Taken {
                verdict: Some(Verdict::Admitted(numbers)),
                renew,
            };
        }
        Taken {
            verdict: self.denial(limits, cost, now).map(Verdict::Refused),
            renew: false,
        }
    }

    /// The refusal of a request for which the store has lately had no room.
    pub(super) fn denial(&self, limits: &Limits, cost: u32, now: Mono) -> Option<Exhausted> {
        let denied = self
            .denied
            .filter(|denied| self.limits == *limits && cost >= denied.cost && now < denied.until)?;
        Some(self.refusal(now, denied.frees.since(now).as_micros() as u64))
    }

    /// Whether so few ask that a lease would cost more trips than it saves.
    pub(super) fn is_cold(&mut self, now: Mono) -> bool {
        self.smooth(now);
        self.ends().is_none() && self.rate < LEASE_RATE
    }

    /// Counts what is asked for.
    pub(super) fn note(&mut self, cost: u32, now: Mono) {
        self.asked = self.asked.saturating_add(cost);
        self.seen = self.seen.max(now);
    }

    /// Takes from what is here, without counting that it was asked for.
    pub(super) fn take_held(&mut self, limits: &Limits, cost: u32, now: Mono) -> Option<Numbers> {
        if self.left < cost || now >= self.deadline || self.limits != *limits {
            return None;
        }
        self.left -= cost;
        // A thread may come with a clock that it read before the lease was given.
        let at = now.max(self.at);
        if let Some(rate) = limits.burst {
            let stamp = self.store_time(at).next_multiple_of(grid(rate.seconds));
            match self.uses.last_mut() {
                Some((last, count)) if *last >= stamp => *count += u64::from(cost),
                _ => self.uses.push((stamp, cost.into())),
            }
        } else {
            match self.uses.last_mut() {
                Some((_, count)) => *count += u64::from(cost),
                None => self.uses.push((self.store_time(at), cost.into())),
            }
        }
        let mut numbers = self.numbers(at);
        if let Some(quota) = &numbers.quota {
            numbers.fell = self.said.saturating_sub(quota.remaining);
            self.said = self.said.min(quota.remaining);
        }
        Some(numbers)
    }

    /// A refusal as of now, with this wait in microseconds.
    pub(super) fn refusal(&self, now: Mono, wait: u64) -> Exhausted {
        let mut told = self.told;
        told.full_in = told
            .full_in
            .saturating_sub(now.since(self.at).as_micros() as u64);
        exhausted(self.numbers_of(told, now), wait)
    }

    fn numbers(&self, at: Mono) -> Numbers {
        let mut told = self.told;
        // One has just been used.
        told.full_in = self.limits.burst.map_or(0, |rate| micros(rate.seconds));
        self.numbers_of(told, at)
    }

    fn numbers_of(&self, mut told: Told, at: Mono) -> Numbers {
        told.quota_left += u64::from(self.left);
        told.burst_left += u64::from(self.left);
        told.numbers(&self.limits, self.store_time(at), false)
    }

    /// The store's time, or a little later.
    fn store_time(&self, at: Mono) -> u64 {
        self.store + at.since(self.at).as_micros() as u64
    }

    fn is_alive(&self, now: Mono) -> bool {
        self.left > 0 && now < self.deadline
    }

    fn is_idle(&self, now: Mono) -> bool {
        let silent = now.since(self.seen).as_micros() as u64 >= IDLE_MICROS;
        silent && self.entry.is_none() && self.uses.is_empty() && !self.is_alive(now)
    }

    /// When there is something to be said to the store at the latest; `None` when there is nothing.
    pub(super) fn ends(&self) -> Option<Mono> {
        let open = self.entry.is_some() || self.left > 0 || !self.uses.is_empty();
        open.then_some(self.deadline)
    }

    /// Takes out what is to be reported. What is left stays, if it may still be used under these limits and is not to end.
    pub(super) fn report(&mut self, limits: &Limits, now: Mono, is_end: bool) -> Report {
        self.smooth(now);
        let keeps = self.is_alive(now) && self.limits == *limits && !is_end;
        let kept = if keeps { self.left } else { 0 };
        let back = std::mem::replace(&mut self.left, kept) - kept;
        let uses = std::mem::take(&mut self.uses);
        self.renewing = true;
        Report {
            entry: self.entry.take(),
            window: self.told.opened,
            kept,
            back,
            uses: coarse(uses.into_iter(), REPORTED_MAX),
            rate: self.rate,
            ahead: self.ahead(limits, kept),
        }
    }

    /// How long permits are asked for: less where little is free, so that none lie about where others want them.
    fn ahead(&self, limits: &Limits, kept: u32) -> u32 {
        let span = limits
            .burst
            .or(limits.quota)
            .map_or(60, |rate| rate.seconds);
        let longest = (f64::from(span) / 6.0).min(10.0);
        let horizon = (f64::from(span) * self.part).clamp(longest / 20.0, longest);
        ((self.rate * horizon).ceil() as u32).saturating_sub(kept)
    }

    /// An average that forgets within two seconds: many at once count half a second each, not as a rate without end.
    fn smooth(&mut self, now: Mono) {
        let seconds = now.since(self.counted).as_secs_f64();
        let weight = 1.0 - (-seconds / 2.0).exp();
        let asked = f64::from(std::mem::take(&mut self.asked));
        let fresh = match seconds < 0.001 {
            true => asked / 2.0,
            false => asked / seconds * weight,
        };
        self.rate = self.rate * (1.0 - weight) + fresh;
        self.counted = now;
    }

    /// The store has said what becomes of `report`. Gives what was used meanwhile of a window that has ended: it is counted there already.
    pub(super) fn renewed(
        &mut self,
        limits: &Limits,
        report: &Report,
        name: &str,
        grant: &Grant,
    ) -> Vec<(u64, u64)> {
        self.renewing = false;
        let is_new = self.told.opened != grant.told.opened || self.said == u32::MAX;
        self.limits = *limits;
        (self.told, self.part) = (grant.told, grant.part);
        (self.store, self.at) = (grant.now, grant.sent);
        let kept = if grant.keeps { report.kept } else { 0 };
        let ended = match grant.keeps {
            true => Vec::new(),
            false => std::mem::take(&mut self.uses),
        };
        self.left = match grant.keeps {
            true => self.left + grant.given,
            false => grant.given,
        };
        let whole = u64::from(kept + grant.given);
        self.entry = (whole > 0).then(|| (whole, name.to_owned()));
        if whole > 0 {
            let lasts = grant.ends.saturating_sub(grant.now);
            self.deadline = Mono(grant.sent.0 + lasts);
            self.renew_at = Mono(grant.sent.0 + lasts * 7 / 10);
            self.low = (whole as f64 * 0.2).max(self.rate * 0.1) as u32;
        }
        if is_new {
            // What others had used before this node came was theirs to tell of.
            self.said = narrow(grant.told.quota_left).saturating_add(self.left);
        }
        self.denied = None;
        self.renew_after = grant.sent;
        if grant.given == 0 && grant.least > 0 {
            self.renew_after = Mono(grant.sent.0 + grant.retry);
            self.denied = (grant.wait > 0).then(|| Denied {
                cost: grant.least,
                until: Mono(grant.sent.0 + grant.retry),
                frees: Mono(grant.heard.0 + grant.wait),
            });
        }
        ended
    }

    /// Nobody knows what became of the report: the entry is not known any more, and what is left stays as it was.
    pub(super) fn unheard(&mut self, now: Mono) {
        self.renewing = false;
        self.renew_after = Mono(now.0 + PAUSE_MICROS);
    }

    /// Whether the store has to be told anew what is held here before anything else.
    pub(super) fn is_unsure(&self) -> bool {
        self.entry.is_none() && (self.left > 0 || !self.uses.is_empty())
    }

    /// What is held, for a claim; what was used is taken out. The claim puts it into the log under this name.
    pub(super) fn claimed(&mut self, name: &str, now: Mono) -> (Vec<(u64, u64)>, Holding) {
        if !self.is_alive(now) {
            self.left = 0;
        }
        let holding = Holding {
            count: self.left.into(),
            window: self.told.opened,
            lasts: self.deadline.since(now).as_micros() as u64,
        };
        self.entry = (self.left > 0).then(|| (self.left.into(), name.to_owned()));
        (std::mem::take(&mut self.uses), holding)
    }

    /// When the quota window that it is of ends, in the store's time.
    pub(super) fn window_ends(&self) -> Option<u64> {
        let rate = self.limits.quota?;
        Some(self.told.opened + micros(rate.seconds))
    }

    /// What was used and not reported yet, while there is nobody to report to, or no window to report of; and the window that it counts in.
    pub(super) fn spent(&mut self) -> (Vec<(u64, u64)>, u64) {
        self.entry = None;
        (std::mem::take(&mut self.uses), self.told.opened)
    }

    /// Permits that can be used at this time.
    pub(super) fn usable(&self, now: Mono) -> u32 {
        if self.is_alive(now) { self.left } else { 0 }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// As many as the key table has.
const SHARDS: usize = 1024;
/// Times of use in one report.
const REPORTED_MAX: usize = 8;
/// How long an entry that says nothing stays.
const IDLE_MICROS: u64 = 10_000_000;
/// Requests a second below which each is charged by itself.
const LEASE_RATE: f64 = 2.0;
/// Before a renewal that came to nothing is tried again.
const PAUSE_MICROS: u64 = 200_000;
