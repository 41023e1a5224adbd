//! The connection to the store, and what a server is told that may have forgotten something.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use redis::Pipeline;

use crate::clock::Mono;
use crate::model::key::KeyId;
use crate::model::limit::Limits;
use crate::store::StoreError;
use crate::store::counters::Subject;
use crate::store::shared::link::Link;

use super::answers::number;
use super::claims::Claim;
use super::claims::Holding;
use super::claims::claim_keys;
use super::counting::BATCH;
use super::counting::Counting;

impl Counting {
    pub(super) fn lost(&mut self, error: &StoreError) {
        tracing::error!(%error, policy = if self.settings.deny_in_outage { "deny" } else { "share" }, "limits are not shared for now");
        self.link = None;
        self.epoch.clear();
        self.tried = None;
    }

    pub(super) fn look_for_link(&mut self) {
        if self.link.is_some() {
            return;
        }
        if let Some(coming) = self.coming.take() {
            match coming.try_recv() {
                Ok(arrived) => self.arrived(Some(arrived)),
                Err(mpsc::TryRecvError::Empty) => self.coming = Some(coming),
                Err(mpsc::TryRecvError::Disconnected) => {}
            }
            return;
        }
        let now = self.clock.now().mono;
        if self.tried.is_none_or(|tried| now.since(tried) >= RETRY) {
            self.connect();
        }
    }

    pub(super) fn connect(&mut self) {
        self.tried = Some(self.clock.now().mono);
        let (done, coming) = mpsc::sync_channel(1);
        let mut link = Link::new(&self.settings);
        let scripts = self.scripts.clone();
        let work = move || {
            let loaded = scripts.load(&mut link);
            // Nobody listens any more only at the end.
            let _ = done.send(loaded.map(|()| link));
        };
        let thread = std::thread::Builder::new().name("shared-limits-link".to_owned());
        if thread.spawn(work).is_ok() {
            self.coming = Some(coming);
        }
    }

    pub(super) fn arrived(&mut self, arrived: Option<Result<Link, StoreError>>) {
        match arrived {
            Some(Ok(mut link)) => {
                self.epoch.clear();
                self.greet(&mut link);
                self.link = Some(link).filter(|_| !self.epoch.is_empty());
                if self.link.is_some() && !self.claims.is_empty() {
                    tracing::warn!(subjects = self.claims.len(), "limits are shared again");
                }
            }
            Some(Err(error)) => tracing::debug!(%error, "limits are not shared yet"),
            None => {}
        }
    }

    /// Asks a server since when it has forgotten nothing; one that is new begins to learn now, not with the first request. If this node has not
    /// told it yet, it is told what was admitted here. Without an epoch afterwards it is no use.
    pub(super) fn greet(&mut self, link: &mut Link) {
        let asked_at = self.clock.now().mono;
        let mut pipe = redis::pipe();
        pipe.cmd("EVALSHA")
            .arg(self.scripts.charge.get_hash())
            .arg(1)
            .arg(link.name("limits"));
        self.begin(&mut pipe, link);
        pipe.arg(0).arg(0).arg(0);
        let answer = link.call(0, |connection| pipe.query::<Vec<Vec<String>>>(connection));
        let told = answer.and_then(|answers| {
            let answer = answers.into_iter().next().unwrap_or_default();
            let epoch = answer.get(3).cloned().unwrap_or_default();
            self.heard_at(number(&answer, 1), asked_at);
            if epoch != self.epoch {
                self.claim_all(link)?;
                self.epoch = epoch;
            }
            Ok(())
        });
        if let Err(error) = told {
            self.lost(&error);
        }
    }

    /// The first arguments of every script that charges.
    pub(super) fn begin(&self, pipe: &mut Pipeline, link: &Link) {
        pipe.arg(link.run_id())
            .arg(&self.node)
            .arg(LEARN.as_micros() as u64)
            .arg(&self.epoch);
    }

    /// Says what was admitted here and what is held.
    pub(super) fn claim_all(&mut self, link: &mut Link) -> Result<(), StoreError> {
        let mut names: Vec<(String, Option<KeyId>)> = Vec::new();
        for key in self.leases.keys() {
            names.push((Subject::Key(key).to_string(), Some(key)));
        }
        let known: BTreeSet<String> = names.iter().map(|(name, _)| name.clone()).collect();
        let rest = self.claims.keys().filter(|name| !known.contains(*name));
        names.extend(rest.map(|name| (name.clone(), None)));
        for some in names.chunks(BATCH) {
            let mut pipe = redis::pipe();
            for (name, key) in some {
                self.claim(&mut pipe, link, name, *key);
            }
            let bytes = some.len() * 600;
            link.call(bytes, |connection| pipe.query::<()>(connection))?;
            let keys = some.iter().filter_map(|(_, key)| *key);
            keys.for_each(|key| self.watch(key));
        }
        Ok(())
    }

    pub(super) fn claim(
        &mut self,
        pipe: &mut Pipeline,
        link: &Link,
        name: &str,
        key: Option<KeyId>,
    ) {
        self.serial += 1;
        let said = format!("c{}", self.serial);
        let (now, mono) = (self.now(), self.clock.now().mono);
        let claim = self.claims.entry(name.to_owned()).or_default();
        let mut holding = Holding::default();
        if let Some(mut held) = key.and_then(|key| self.leases.find(key)) {
            let limits = *held.limits();
            let uses;
            (uses, holding) = held.claimed(&Claim::entry_name(&said), mono);
            claim.roll(&limits, now);
            for (at, count) in uses {
                claim.take(&limits, count, holding.window, at);
            }
        } else {
            claim.roll(&Limits::default(), now);
        }
        let keys = claim_keys(link, name);
        let about = (self.node.as_str(), said.as_str());
        claim.say(pipe, &self.scripts.claim, &keys, about, holding, now);
    }

    /// Notes the store's time, which is of some moment after it was asked.
    pub(super) fn heard_at(&mut self, store: u64, asked_at: Mono) {
        if let Some(guessed) = self.guess(asked_at).filter(|at| store + STANDS_STILL < *at) {
            self.set_back(guessed);
        }
        self.store_time = Some((store, asked_at));
        self.heard = self.heard.max(asked_at);
    }

    /// The store's clock was set back from this time. A window that was over is not said again as if it were open: of two the store goes on with the one
    /// that was opened first, and the other would end with it.
    fn set_back(&mut self, from: u64) {
        for key in self.leases.keys() {
            let Some(mut held) = self.leases.find(key) else {
                continue;
            };
            if held.window_ends().is_some_and(|ends| ends <= from) {
                let limits = *held.limits();
                let (uses, window) = held.spent();
                let claim = self.claims.entry(Subject::Key(key).to_string());
                let claim = claim.or_default();
                claim.roll(&limits, from);
                for (at, count) in uses {
                    claim.take(&limits, count, window, at);
                }
            }
        }
        for claim in self.claims.values_mut() {
            claim.end(from);
        }
    }

    /// The store's time, as far as it is known here.
    pub(super) fn now(&self) -> u64 {
        let now = self.clock.now();
        self.guess(now.mono).unwrap_or(now.wall.0)
    }

    /// The same at this moment: no earlier than it is, unless it was set forward, and later by a trip at most.
    fn guess(&self, at: Mono) -> Option<u64> {
        let (store, asked_at) = self.store_time?;
        Some(store + at.since(asked_at).as_micros() as u64)
    }
}

/// How long a server that is new hears what it may have lost before it admits anything.
pub(super) const LEARN: Duration = Duration::from_secs(1);
/// Between two tries of a server that is away.
const RETRY: Duration = Duration::from_millis(500);
/// By how much the store's clock may be set back without its time going back (see `begin.lua`), in microseconds.
const STANDS_STILL: u64 = 1_000_000;
