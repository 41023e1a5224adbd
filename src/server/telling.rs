//! Tells the other nodes what this one's keys did, and asks when keys were last used on any of them.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Clock;
use crate::clock::Mono;
use crate::clock::Now;
use crate::clock::Wall;
use crate::clock::thread_time;
use crate::config::Redis;
use crate::model::key::KeyId;
use crate::server::flush::Flusher;
use crate::snapshot::change::Keeper;
use crate::store::StoreError;
use crate::store::counters::CountersError;
use crate::store::history::HOURS_KEPT;
use crate::store::history::History;
use crate::store::history::hour_of;
use crate::store::outcome::Uses;
use crate::store::outcome::add_later;
use crate::store::shared::link::Link;
use crate::store::shared::nodes::Nodes;
use crate::store::shared::usage;
use crate::store::shared::usage::Hour;
use crate::store::shared::usage::Told;

use super::error::chain;

/// The thread that tells, in a gateway whose nodes share usage.
#[derive(Debug)]
pub(crate) struct Telling {
    ended: Sender<()>,
    thread: JoinHandle<()>,
}

impl Telling {
    /// Starts it; `None` where usage is this node's alone.
    ///
    /// # Errors
    /// There is no thread to be had, or the counters cannot be read.
    pub(crate) fn start(
        keeper: &Arc<Keeper>,
        flusher: &Arc<Flusher>,
        clock: &Clock,
    ) -> Result<Option<Telling>, StoreError> {
        let Some(settings) = keeper.shared().filter(|settings| settings.share_usage) else {
            return Ok(None);
        };
        let unreadable =
            |error: CountersError| StoreError::away("usage".to_owned(), &chain(&error));
        let mark = flusher.note_untold(keeper.node_id()).map_err(unreadable)?;
        let name = Nodes::new(settings, "").name().to_owned();
        let (ended, end) = mpsc::channel();
        let work = Work {
            keeper: Arc::clone(keeper),
            told: Told::new(settings, keeper.node_id(), &name, mark),
            directory: keeper.snapshot().load().config.store.path.clone(),
            flusher: Arc::clone(flusher),
            clock: clock.clone(),
            used_from: 0,
            failing: false,
        };
        let thread = std::thread::Builder::new().name("shared-usage".to_owned());
        let thread = thread.spawn(move || work.run(&end));
        let thread =
            thread.map_err(|error| StoreError::away("a thread".to_owned(), &error.to_string()))?;
        Ok(Some(Telling { ended, thread }))
    }

    /// Tells the rest; once everything has been flushed.
    pub(crate) fn stop(self) {
        drop(self.ended);
        if self.thread.join().is_err() {
            tracing::error!("the thread that tells usage ended by a panic");
        }
    }
}

struct Work {
    keeper: Arc<Keeper>,
    told: Told,
    directory: PathBuf,
    flusher: Arc<Flusher>,
    clock: Clock,
    /// Uses before this were told; unix seconds.
    used_from: u64,
    failing: bool,
}

/// Why nothing could be told.
enum Fault {
    Store(StoreError),
    Counters(CountersError),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        Fault::Store(error)
    }
}

impl From<CountersError> for Fault {
    fn from(error: CountersError) -> Fault {
        Fault::Counters(error)
    }
}

impl Work {
    fn run(mut self, end: &mpsc::Receiver<()>) {
        loop {
            let began = thread_time();
            self.tell(self.clock.now(), false);
            // Where there is very much to tell, it still takes a fiftieth of a core and of the store, which has less to do. What is waited for does not
            // count: a store that answers late is not told the later for it.
            let took = thread_time().saturating_sub(began);
            match end.recv_timeout((took * 49).clamp(INTERVAL, INTERVAL_MAX)) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => break,
            }
        }
        self.tell(self.clock.now(), true);
    }

    /// Tells what was flushed since it was told last; the last time of all where it `ends`.
    fn tell(&mut self, now: Now, ends: bool) {
        let mut hours = self.flusher.take_untold();
        if (self.keeper.contact())
            .is_some_and(|contact| contact.told().gave_way.load(Ordering::Relaxed))
        {
            // The other one tells under this id.
            return;
        }
        let told = self.round(&mut hours, now, ends);
        self.flusher.put_back_untold(hours);
        let failed = told.is_err();
        match told {
            Ok(()) if self.failing => tracing::warn!("usage is told to the other nodes again"),
            Ok(()) => {}
            Err(_) if self.failing => {}
            Err(Fault::Store(error)) => {
                tracing::error!(%error, "other nodes are not told what keys did here; trying on");
            }
            Err(Fault::Counters(error)) => {
                let error = chain(&error);
                tracing::error!(
                    error,
                    "other nodes are not told what keys did here; trying on"
                );
            }
        }
        self.failing = failed;
    }

    fn round(&mut self, hours: &mut BTreeSet<u32>, now: Now, ends: bool) -> Result<(), Fault> {
        let oldest = hour_of(now.wall).saturating_sub(HOURS_KEPT);
        let history = History::open(&self.directory)?;
        if self.told.may_be_lacked()? {
            // At each start too: what the run before flushed and had no time to tell.
            if let Some(history) = &history {
                let sums = history.hours(None, oldest, u32::MAX)?;
                hours.extend(self.told.lacked(&sums)?);
            }
            let used = self.flusher.last_used(None, now);
            let used: Vec<(KeyId, u64)> = (used.into_iter())
                .map(|(key, at)| (key, at.unix_seconds()))
                .collect();
            self.told.last_used(&used)?;
        }
        let Some(history) = history else {
            return Ok(self.told.sign(oldest, ends)?);
        };
        let used_from = self.used_from;
        while let Some(number) = hours.first().copied() {
            let mut hour = Hour::default();
            let mut used: Vec<(KeyId, u64)> = Vec::new();
            history.parts_of(number, |part, keys| {
                hour.add(number, part, keys);
                let recent = keys
                    .iter()
                    .map(|(key, did)| (*key, did.last_used_unix_seconds));
                used.extend(recent.filter(|(_, at)| *at >= used_from.max(1)));
            })?;
            let age = (now.wall.unix_seconds()).saturating_sub(u64::from(number) * 3_600);
            self.told.last_used(&used)?;
            self.told.hour(number, &hour, usage::kept(age))?;
            hours.remove(&number);
        }
        self.told.sign(oldest, ends)?;
        // A use is flushed some time after it was.
        self.used_from = now.wall.unix_seconds().saturating_sub(FLUSHED_SECONDS);
        Ok(())
    }
}

/// When keys were last used, here or on any other node.
pub(crate) fn last_used(
    settings: Option<&Redis>,
    flusher: &Arc<Flusher>,
    clock: &Clock,
) -> impl Fn(Uses<'_>) -> Result<HashMap<KeyId, Wall>, StoreError> + Send + Sync + 'static {
    let others = settings.map(|settings| Mutex::new(OtherUses::new(settings)));
    let (flusher, clock) = (Arc::clone(flusher), clock.clone());
    move |of: Uses<'_>| {
        let now = clock.now();
        let keys = match of {
            Uses::Of(keys) => Some(keys),
            Uses::OfAll | Uses::ToJudge => None,
        };
        let mut times = flusher.last_used(keys, now);
        let Some(others) = &others else {
            return Ok(times);
        };
        let told = (others.lock().unwrap_or_else(PoisonError::into_inner)).ask(of, now.mono)?;
        add_later(&mut times, told);
        Ok(times)
    }
}

/// The store asked for last uses.
struct OtherUses {
    link: Link,
    /// Until then it is not asked for what is only to be shown: it was away.
    away_until: Mono,
}

impl OtherUses {
    fn new(settings: &Redis) -> OtherUses {
        OtherUses {
            link: Link::new(settings),
            away_until: Mono(0),
        }
    }

    fn ask(&mut self, of: Uses<'_>, now: Mono) -> Result<HashMap<KeyId, u64>, StoreError> {
        let keys = match of {
            Uses::Of(keys) => Some(keys),
            Uses::OfAll | Uses::ToJudge => None,
        };
        if of != Uses::ToJudge && now < self.away_until {
            return Ok(HashMap::new());
        }
        match usage::last_used(&mut self.link, keys) {
            Err(error) if of == Uses::ToJudge => Err(error),
            Err(_) => {
                self.away_until = now.plus(AWAY);
                Ok(HashMap::new())
            }
            told => told,
        }
    }
}

/// How often nodes tell what was flushed.
const INTERVAL: Duration = Duration::from_secs(2);
const INTERVAL_MAX: Duration = Duration::from_secs(50);
/// Longer than flushes are apart, and requests take.
const FLUSHED_SECONDS: u64 = 3_600;
/// For so long nobody waits again for a store that was away, to be shown when keys were last used.
const AWAY: Duration = Duration::from_secs(5);
