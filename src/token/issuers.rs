//! The keys of every issuer as they are known now, and who waits for newer ones.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::sync::watch;

use crate::clock::Mono;
use crate::model::issuer::Issuer;
use crate::token::Patience;
use crate::token::inquiry::Answer;
use crate::token::keys::KeySet;

/// All issuers by the name of their table. Grows with the file alone.
#[derive(Debug, Default)]
pub struct Issuers {
    /// A std lock: held for a lookup. Only tokens that are not remembered come here.
    by_name: RwLock<HashMap<String, Arc<IssuerKeys>>>,
    /// Tells the control side that somebody waits.
    woken: Notify,
}

/// The keys of one issuer.
#[derive(Debug)]
pub struct IssuerKeys {
    issuer: Arc<Issuer>,
    set: ArcSwap<KeySet>,
    version: AtomicU64,
    /// A std mutex: held for some comparisons.
    state: Mutex<State>,
    /// Counts attempts that have ended.
    attempts: watch::Sender<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// When the last attempt began.
    tried: Option<Mono>,
    /// How many have failed since one succeeded.
    failures: u32,
    under_way: bool,
    /// Somebody waits for the next one.
    asked: bool,
}

/// What can be said of a key that is not in the set.
pub(super) enum Known {
    /// The set was fetched a moment ago: there is no such key.
    Fresh,
    /// The set could not be fetched a moment ago.
    Down,
    /// It is being fetched.
    Soon(Wanted),
}

/// Something that is being fetched for a request.
#[derive(Debug)]
pub enum Wanted {
    /// An issuer's keys: the end of the attempt, and how long to wait for it.
    Keys(watch::Receiver<u64>, Duration),
    /// What an issuer says of a token.
    Answer(watch::Receiver<Option<Answer>>, Duration),
}

impl Wanted {
    /// Waits until the attempt has ended, well or badly, and no longer than calls to the issuer may take.
    pub async fn settle(self) -> Patience {
        match self {
            Wanted::Keys(mut ended, wait) => {
                // Whoever waits looks again afterwards, whatever came of it.
                let _ = tokio::time::timeout(wait, ended.changed()).await;
                Patience::Waited
            }
            Wanted::Answer(mut answered, wait) => {
                let answer = answered.wait_for(Option::is_some);
                let answer = tokio::time::timeout(wait, answer).await;
                let answer = answer.ok().and_then(|answer| answer.ok()?.clone());
                Patience::Answered(answer)
            }
        }
    }
}

impl Issuers {
    /// The keys of this issuer, as its table is now; made when they are first asked for.
    pub(super) fn of(&self, issuer: &Arc<Issuer>) -> Arc<IssuerKeys> {
        let known = |keys: &&Arc<IssuerKeys>| same(&keys.issuer, issuer);
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = by_name.get(&issuer.name).filter(known) {
            return Arc::clone(keys);
        }
        drop(by_name);
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = by_name.get(&issuer.name).filter(known) {
            return Arc::clone(keys);
        }
        let keys = Arc::new(IssuerKeys::new(Arc::clone(issuer)));
        by_name.insert(issuer.name.clone(), Arc::clone(&keys));
        keys
    }

    /// Keeps these issuers and forgets all others; gives the keys of each.
    pub fn keep(&self, issuers: &[Arc<Issuer>]) -> Vec<Arc<IssuerKeys>> {
        {
            let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
            by_name.retain(|name, _| issuers.iter().any(|issuer| issuer.name == *name));
        }
        issuers.iter().map(|issuer| self.of(issuer)).collect()
    }

    /// Waits until somebody asks for keys.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Has the control side look at once.
    pub fn wake(&self) {
        self.woken.notify_one();
    }
}

impl IssuerKeys {
    fn new(issuer: Arc<Issuer>) -> IssuerKeys {
        IssuerKeys {
            issuer,
            set: ArcSwap::default(),
            version: AtomicU64::new(0),
            state: Mutex::default(),
            attempts: watch::Sender::new(0),
        }
    }

    /// Whose they are.
    #[must_use]
    pub fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    /// Those that are in use.
    #[must_use]
    pub fn set(&self) -> Arc<KeySet> {
        self.set.load_full()
    }

    /// Which set is in use; changes whenever another is.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Asks for a newer set, unless there was an attempt within the interval that the issuer's table allows. `wake` of `Issuers` is to follow.
    pub(super) fn ask(&self, now: Mono) -> Known {
        let mut state = self.lock();
        let recent = state
            .tried
            .is_some_and(|tried| now.since(tried) < self.issuer.unknown_key_interval);
        if recent && !state.under_way {
            return match state.failures {
                0 => Known::Fresh,
                _ => Known::Down,
            };
        }
        // One that is under way is new enough.
        state.asked |= !state.under_way;
        Known::Soon(Wanted::Keys(
            self.attempts.subscribe(),
            self.issuer.timeout + GRACE,
        ))
    }

    /// Begins an attempt, if one is due: asked for, or `ahead` after the last one; after failures sooner, but not at once.
    #[must_use]
    pub fn begin(&self, now: Mono, ahead: Duration) -> bool {
        let mut state = self.lock();
        let due = match (state.tried, state.failures) {
            (None, _) => true,
            (Some(tried), 0) => now.since(tried) >= ahead,
            (Some(tried), failures) => now.since(tried) >= pause(failures).min(ahead),
        };
        if state.under_way || !(due || state.asked) {
            return false;
        }
        state.under_way = true;
        state.asked = false;
        state.tried = Some(now);
        true
    }

    /// Ends an attempt with what came of it; a failed one leaves the keys as they are. Whether another set is in use now.
    ///
    /// # Errors
    /// What came is no set of keys.
    pub fn end(&self, fetched: Option<&[u8]>) -> Result<bool, String> {
        let next = self.version() + 1;
        let read = fetched.map(|text| KeySet::read(text, &self.issuer.algorithms, next));
        let outcome = match read {
            Some(Ok(set)) => Ok(self.replace(set, fetched.unwrap_or_default())),
            Some(Err(why)) => Err(why),
            None => Ok(false),
        };
        let mut state = self.lock();
        state.under_way = false;
        state.failures = match fetched.is_some() && outcome.is_ok() {
            true => 0,
            false => state.failures.saturating_add(1),
        };
        drop(state);
        self.attempts.send_modify(|count| *count += 1);
        outcome
    }

    /// Failed attempts since the last one that did not; for metrics.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.lock().failures
    }

    fn replace(&self, set: KeySet, text: &[u8]) -> bool {
        if self.set.load().is_of(text) {
            return false;
        }
        let version = set.version();
        self.set.store(Arc::new(set));
        // After the set: who sees the version finds the set at least as new.
        self.version.store(version, Ordering::Release);
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Plain values, whole after every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what is fetched for one is good for the other.
fn same(one: &Arc<Issuer>, other: &Arc<Issuer>) -> bool {
    Arc::ptr_eq(one, other)
        || (one.keys == other.keys
            && one.ca == other.ca
            && one.algorithms == other.algorithms
            && one.timeout == other.timeout
            && one.refresh == other.refresh
            && one.unknown_key_interval == other.unknown_key_interval)
}

/// How long to wait after so many failures: 1, 2, 4 … and at last 60 seconds.
fn pause(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(60))
}

/// What an attempt may take beyond its calls.
pub(super) const GRACE: Duration = Duration::from_secs(1);
