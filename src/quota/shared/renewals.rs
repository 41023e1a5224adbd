//! Renewals of leases, and their ends: what is reported, what is asked for, and what the answer changes here.

use std::collections::HashMap;
use std::time::Duration;

use redis::Pipeline;

use crate::clock::Mono;
use crate::model::key::KeyId;
use crate::store::counters::Subject;
use crate::store::shared::link::Link;

use super::Verdict;
use super::answers::Told;
use super::answers::narrow;
use super::answers::number;
use super::claims::keys;
use super::counting::BATCH;
use super::counting::Counting;
use super::counting::Group;
use super::counting::Work;
use super::counting::limits_of;
use super::leases::Grant;
use super::leases::Report;

impl Counting {
    /// Whose leases have ended, as far as the store does not know it.
    pub(super) fn ended(&mut self) -> Vec<KeyId> {
        let now = self.clock.now().mono;
        let mut ended = Vec::new();
        while let Some((at, key)) = self.ends.first().copied()
            && at <= now
            && ended.len() < BATCH
        {
            self.ends.pop_first();
            let Some(mut held) = self.leases.find(key) else {
                continue;
            };
            match held.ends().map(|end| end.plus(AFTER)) {
                Some(end) if end > now => {
                    self.ends.insert((end, key));
                }
                Some(_) if self.link.is_some() => {
                    held.watched = false;
                    ended.push(key);
                }
                // A new server is told everything anew.
                _ => held.watched = false,
            }
        }
        ended
    }

    #[cfg(test)]
    pub(super) fn next_end(&self) -> Option<Mono> {
        self.ends.first().map(|(at, _)| *at)
    }

    pub(super) fn watch(&mut self, key: KeyId) {
        if let Some(mut held) = self.leases.find(key)
            && !held.watched
            && let Some(end) = held.ends()
        {
            held.watched = true;
            self.ends.insert((end.plus(AFTER), key));
        }
    }

    pub(super) fn sort_renewal(
        &mut self,
        key: KeyId,
        is_end: bool,
        work: &mut Work,
        places: &mut HashMap<KeyId, usize>,
    ) {
        if places.contains_key(&key) {
            return;
        }
        let Some(held) = self.leases.find(key) else {
            return;
        };
        places.insert(key, work.groups.len());
        work.groups.push(Group {
            key,
            name: Subject::Key(key).to_string(),
            limits: *held.limits(),
            waiting: Vec::new(),
            is_end,
        });
    }

    /// Nobody knows what became of a trip.
    pub(super) fn unheard(&mut self, work: &Work) {
        let now = self.clock.now().mono;
        for group in &work.groups {
            if let Some(mut held) = self.leases.find(group.key) {
                held.unheard(now);
            }
        }
    }

    /// The report, the name of the new lease, and the least that is of use.
    pub(super) fn call_lease(
        &mut self,
        pipe: &mut Pipeline,
        link: &Link,
        group: &Group,
        sent: Mono,
    ) -> (Report, String, u32) {
        self.serial += 1;
        let name = format!("l{}", self.serial);
        let (limits, at) = (&group.limits, self.now());
        let mut held = self.leases.hold(group.key, limits, sent);
        let granted_under = *held.limits();
        let report = held.report(limits, sent, group.is_end);
        drop(held);
        if !report.uses.is_empty() {
            let claim = self.claims.entry(group.name.clone()).or_default();
            claim.roll(&granted_under, at);
            for (at, count) in &report.uses {
                claim.take(&granted_under, *count, report.window, *at);
            }
        }
        let costs = group.waiting.iter().map(|asked| asked.ask.cost);
        let least = costs.clone().min().unwrap_or(1);
        let waiting: u32 = costs.sum();
        let (least, want) = match group.is_end {
            true => (0, 0),
            false => (least, (waiting + report.ahead).max(least)),
        };
        pipe.cmd("EVALSHA")
            .arg(self.scripts.lease.get_hash())
            .arg(5)
            .arg(link.name("limits"));
        for key in keys(link, &group.name) {
            pipe.arg(key);
        }
        pipe.arg(link.name(&format!("lr:{}", group.name)));
        self.begin(pipe, link);
        limits_of(pipe, limits);
        let entry = report.entry.as_ref();
        let entry = entry.map(|(count, name)| format!("{count}:{}:{name}", self.node));
        pipe.arg(least)
            .arg(want)
            .arg(format!("{:.2}", report.rate))
            .arg(waiting)
            .arg(&name)
            .arg(entry.unwrap_or_default())
            .arg(report.window)
            .arg(report.kept)
            .arg(report.back);
        for (at, count) in &report.uses {
            pipe.arg(count).arg(at);
        }
        (report, name, least)
    }

    /// Takes in a lease, serves those that wait for it, and gives back whom it did not reach.
    pub(super) fn leased(
        &mut self,
        mut group: Group,
        (report, name, least): &(Report, String, u32),
        answer: &[String],
        sent: Mono,
    ) -> Option<Group> {
        let heard = self.clock.now().mono;
        self.heard_at(number(answer, 1), sent);
        let wait = number(answer, 2);
        self.serial += 1;
        // Spread, so that nodes do not ask in step; never beyond the moment at which there is room.
        let spread = (self.serial.wrapping_mul(0x9e37_79b9) >> 8) & 0xff;
        let retry = number(answer, 7);
        let retry = retry + retry * spread / 1_024;
        let grant = Grant {
            now: number(answer, 1),
            given: narrow(number(answer, 4)),
            keeps: number(answer, 5) == u64::from(report.kept),
            ends: number(answer, 6),
            wait,
            retry: if wait > 0 { retry.min(wait) } else { retry },
            part: answer
                .get(8)
                .and_then(|text| text.parse().ok())
                .unwrap_or(1.0),
            least: *least,
            told: Told::read(answer, 9),
            sent,
            heard,
        };
        let mut rest = Vec::new();
        {
            let mut held = self.leases.hold(group.key, &group.limits, sent);
            let ended = held.renewed(&group.limits, report, name, &grant);
            let claim = self.claims.entry(group.name.clone()).or_default();
            for (at, count) in ended {
                claim.take(&group.limits, count, report.window, at);
            }
            claim.roll(&group.limits, grant.now);
            claim.hear(&grant.told);
            for asked in group.waiting.drain(..) {
                let cost = asked.ask.cost;
                if let Some(numbers) = held.take_held(&group.limits, cost, heard) {
                    let _ = asked.reply.send(Verdict::Admitted(numbers));
                } else if grant.given == 0 && cost <= *least && wait > 0 {
                    let verdict = Verdict::Refused(held.refusal(heard, wait));
                    let _ = asked.reply.send(verdict);
                } else {
                    rest.push(asked);
                }
            }
        }
        self.watch(group.key);
        group.waiting = rest;
        (!group.waiting.is_empty()).then_some(group)
    }

    /// Reports everything and holds nothing any more.
    pub(super) fn give_back(&mut self) {
        for keys in self.leases.keys().chunks(BATCH) {
            let work = self.sorted(Vec::new(), keys, &mut Vec::new());
            self.serve(work);
        }
    }
}

/// How long after its end a lease is reported, if no renewal has.
const AFTER: Duration = Duration::from_millis(20);
