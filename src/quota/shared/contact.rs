//! The connection to the store, and what a server is told that may have forgotten something.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use redis::Pipeline;

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
            self.store_time = Some((number(&answer, 1), asked_at));
            self.heard = asked_at;
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

    /// The store's time, as far as it is known here.
    pub(super) fn now(&self) -> u64 {
        let now = self.clock.now();
        match self.store_time {
            Some((store, at)) => store + now.mono.since(at).as_micros() as u64,
            None => now.wall.0,
        }
    }
}

/// How long a server that is new hears what it may have lost before it admits anything.
pub(super) const LEARN: Duration = Duration::from_secs(1);
/// Between two tries of a server that is away.
const RETRY: Duration = Duration::from_millis(500);
