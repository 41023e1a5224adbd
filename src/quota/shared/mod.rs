//! Counters that several nodes share, in Redis: a hot subject's permits are held here by lease, and everything else is charged by one script each.
//!
//! - `leases.rs`: the permits that this node holds, which a request takes without asking anybody
//! - `counting.rs`: the one thread that speaks to the store, for all requests that wait at that moment and for all leases that run low
//! - `renewals.rs`: what it reports of leases and asks for; `contact.rs`: its connection, and what it says to a server that may have forgotten
//! - `claims.rs`: what was admitted here, said again to a server that may have lost it
//! - `outage.rs`: what becomes of a request that nobody can be asked about
//! - `answers.rs`: what the scripts answer
//! - `begin.lua` before `charge.lua` and `lease.lua`, and `claim.lua`: what is one step in the store

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::clock::Now;
use crate::config::Redis;
use crate::model::key::KeyId;
use crate::model::limit::Limits;
use crate::quota::Charge;
use crate::quota::Exhausted;
use crate::quota::Numbers;
use crate::store::counters::Subject;

mod answers;
#[cfg(test)]
mod checks;
mod claims;
mod contact;
mod counting;
mod leases;
#[cfg(test)]
mod model;
mod outage;
mod renewals;
#[cfg(test)]
mod steady;
#[cfg(test)]
pub(super) mod testing;

pub use claims::carry_over;
use counting::Counting;
use leases::Leases;

/// What the shared counters say of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was charged.
    Admitted(Numbers),
    /// A window lacks room; nothing was taken.
    Refused(Exhausted),
    /// Nobody can say, and `store.limits_outage` is `"deny"`; or too many ask at once.
    Unknown,
}

/// A charge on its way.
#[derive(Clone, Debug)]
pub struct Ask {
    subjects: Vec<(String, Limits)>,
    cost: u32,
    /// Or only looked at.
    charges: bool,
    /// The one key that it is about, whose permits may be held by lease.
    leased: Option<KeyId>,
}

impl Ask {
    /// The charge, unless all its limits are `"unlimited"`.
    #[must_use]
    pub fn of(charge: &Charge<'_>) -> Option<Ask> {
        let tenant = charge
            .tenant
            .map(|(id, limits)| (Subject::Tenant(id.clone()), *limits));
        let key = charge.key.map(|(id, limits)| (Subject::Key(id), *limits));
        let subjects = [tenant, key].into_iter().flatten();
        let subjects: Vec<(String, Limits)> = subjects
            .filter(|(_, limits)| is_limited(limits))
            .map(|(subject, limits)| (subject.to_string(), limits))
            .collect();
        (!subjects.is_empty()).then_some(Ask {
            subjects,
            cost: charge.cost.max(1),
            charges: true,
            leased: leased(charge).map(|(key, _)| key),
        })
    }
}

/// The key whose permits may be held by lease: where a tenant is charged too, or a limit is small, each request is charged by itself.
fn leased<'a>(charge: &Charge<'a>) -> Option<(KeyId, &'a Limits)> {
    if charge.tenant.is_some_and(|(_, limits)| is_limited(limits)) {
        return None;
    }
    let (key, limits) = charge.key.filter(|(_, limits)| is_limited(limits))?;
    let mut rates = [limits.quota, limits.burst].into_iter().flatten();
    rates
        .all(|rate| rate.count >= LEASED_FROM)
        .then_some((key, limits))
}

fn is_limited(limits: &Limits) -> bool {
    limits.quota.is_some() || limits.burst.is_some()
}

/// Where charges go. Its thread ends when nobody can ask any more.
#[derive(Clone, Debug)]
pub struct SharedCounters {
    messages: SyncSender<Message>,
    leases: Arc<Leases>,
    patience: Duration,
}

/// What the thread is told.
enum Message {
    /// A request waits.
    Charge(Asked),
    /// A key's permits run low.
    Renew(KeyId),
    /// Everything that is held goes back; then nothing is held any more.
    GiveBack(SyncSender<()>),
}

struct Asked {
    ask: Ask,
    reply: oneshot::Sender<Verdict>,
}

impl SharedCounters {
    /// Starts the thread. `nodes` is how many share the limits, as far as is known.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(
        settings: &Redis,
        node: &str,
        nodes: Arc<AtomicUsize>,
        clock: Clock,
    ) -> std::io::Result<SharedCounters> {
        let (messages, inbox) = mpsc::sync_channel(MESSAGES_MAX);
        let leases = Arc::new(Leases::new());
        let counting = Counting::new(settings, node, nodes, clock, Arc::clone(&leases));
        let thread = std::thread::Builder::new().name("shared-limits".to_owned());
        thread.spawn(move || counting.run(&inbox))?;
        Ok(SharedCounters {
            messages,
            leases,
            patience: settings.timeout * 2 + Duration::from_secs(3),
        })
    }

    /// Charges from what this node holds, without waiting; `None` when the store has to be asked.
    #[must_use]
    pub fn take(&self, charge: &Charge<'_>, now: Now) -> Option<Verdict> {
        let (key, limits) = leased(charge)?;
        let taken = self.leases.take(key, limits, charge.cost.max(1), now.mono);
        if taken.renew && self.messages.try_send(Message::Renew(key)).is_err() {
            self.leases.not_renewed(key, now.mono);
        }
        taken.verdict
    }

    /// Charges. Waits for the store without holding up the thread; no longer than it may take.
    pub async fn charge(&self, ask: Ask) -> Verdict {
        let (reply, answer) = oneshot::channel();
        let message = Message::Charge(Asked { ask, reply });
        if self.messages.try_send(message).is_err() {
            return Verdict::Unknown;
        }
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(verdict)) => verdict,
            _ => Verdict::Unknown,
        }
    }

    /// What a charge would find, for people. Blocking.
    #[must_use]
    pub fn peek(&self, charge: &Charge<'_>) -> Option<Numbers> {
        let Some(ask) = Ask::of(charge) else {
            return Some(Numbers::default());
        };
        let ask = Ask {
            cost: 0,
            charges: false,
            ..ask
        };
        let (reply, mut answer) = oneshot::channel();
        let message = Message::Charge(Asked { ask, reply });
        self.messages.try_send(message).ok()?;
        // Polled: this may stand on a thread where blocking on a channel of tokio is forbidden.
        for _ in 0..PEEK_LOOKS {
            match answer.try_recv() {
                Ok(Verdict::Admitted(numbers)) => return Some(numbers),
                Ok(Verdict::Refused(exhausted)) => return Some(exhausted.numbers),
                Ok(Verdict::Unknown) | Err(oneshot::error::TryRecvError::Closed) => return None,
                Err(oneshot::error::TryRecvError::Empty) => std::thread::sleep(PEEK_PAUSE),
            }
        }
        None
    }

    /// Gives back what this node holds, so that the others need not wait for its end. Blocking; once nobody asks any more.
    pub fn give_back(&self) {
        let (done, heard) = mpsc::sync_channel(1);
        if self.messages.send(Message::GiveBack(done)).is_ok() {
            let _ = heard.recv_timeout(self.patience);
        }
    }
}

/// Limits with a count below this are charged request by request: exact to the last one, at one trip each.
pub const LEASED_FROM: u32 = 600;

/// Requests that may wait at once; beyond that they are told that nobody can say.
const MESSAGES_MAX: usize = 8_192;
const PEEK_LOOKS: u32 = 300;
const PEEK_PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limit::Rate;
    use crate::model::tenant::TenantId;

    #[test]
    fn only_busy_keys_of_no_limited_tenant_are_leased() {
        let rate = |count| Some(Rate { count, seconds: 60 });
        let limits = |quota, burst| Limits { quota, burst };
        let (large, edge) = (rate(LEASED_FROM), rate(LEASED_FROM - 1));
        let tenant = TenantId::new("acme").unwrap();
        let of_tenant = [Limits::default(), limits(large, large)];
        for (of_key, with_tenant, is_leased) in [
            (limits(large, large), None, true),
            (limits(None, large), None, true),
            (limits(large, None), None, true),
            (limits(large, None), Some(&of_tenant[0]), true),
            (limits(large, large), Some(&of_tenant[1]), false),
            (limits(large, edge), None, false),
            (limits(edge, None), None, false),
            (Limits::default(), None, false),
        ] {
            let charge = Charge {
                key: Some((KeyId(*b"aaaaaaaaaaaa"), &of_key)),
                tenant: with_tenant.map(|limits| (&tenant, limits)),
                cost: 1,
            };
            assert_eq!(leased(&charge).is_some(), is_leased, "{charge:?}");
            let ask = Ask::of(&charge);
            assert_eq!(ask.is_some_and(|ask| ask.leased.is_some()), is_leased);
        }
        let charge = Charge {
            key: None,
            tenant: Some((&tenant, &of_tenant[1])),
            cost: 1,
        };
        assert!(leased(&charge).is_none());
    }
}
