//! The immutable view that one request sees: configuration, routes, tenants, plans and keys.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::HeaderValue;

use crate::clock::Mono;
use crate::clock::Wall;
use crate::config::Config;
use crate::config::Destination;
use crate::model::binding::Binding;
use crate::model::denial::DenyTable;
use crate::model::key::Digest;
use crate::model::key::Environment;
use crate::model::key::KeyId;
use crate::model::key::KeyKind;
use crate::model::key::KeyStatus;
use crate::model::key::Override;
use crate::model::limit::Limits;
use crate::model::route::RouteTable;
use crate::model::scope::Scopes;
use crate::model::seat::SeatHint;
use crate::model::tenant::Plan;
use crate::model::tenant::TenantId;
use crate::snapshot::key_table::FoundKey;
use crate::store::shared::nodes::LEASE;

pub mod build;
pub mod change;
mod impose;
pub mod key_table;
mod next;
pub mod place;
pub mod shared;

/// Everything a request needs to be judged, of one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The store's version number that this view shows.
    pub revision: u64,
    /// Counts configurations put in force by this process, from 1.
    pub generation: u64,
    /// The file in force.
    pub config: Arc<Config>,
    /// Finds routes.
    pub routes: Arc<RouteTable>,
    /// Plans, the same order as `config.plans`.
    pub plans: Arc<[Plan]>,
    /// Tenants; a `KeyEntry` points here by index.
    pub tenants: Arc<TenantTable>,
    /// Keys by digest.
    pub keys: key_table::KeyTable,
    /// Tokens that are denied before their time.
    pub denials: Arc<DenyTable>,
    /// Whether what other nodes changed is known here; `None` where the store is this node's alone.
    pub contact: Option<Arc<Contact>>,
}

/// How well this node hears the store that it shares with others. Points in time, so that a process that was stopped for a day does not
/// serve a single request by what it knew then.
#[derive(Debug)]
pub struct Contact {
    /// From then on a key that is not known here may be known elsewhere (PB14); microseconds of the monotonic clock.
    lost_from: AtomicU64,
    /// From then on nothing that is known here counts any more (`store.max_stale`).
    stale_from: AtomicU64,
    /// For metrics; no request reads them.
    told: Heard,
}

/// What was heard of a store that nodes share, for metrics.
#[derive(Debug, Default)]
pub struct Heard {
    /// When it was asked what it answered; microseconds of the monotonic clock.
    asked: AtomicU64,
    /// How long before that it was heard, at a start without it; microseconds.
    before: AtomicU64,
    /// Whether it answered when it was last asked.
    pub answers: AtomicBool,
    /// The last change that this node's copy holds, in force or not.
    pub change: AtomicU64,
    /// Nodes of which it has not heard for ten seconds.
    pub silent: AtomicUsize,
    /// How often it did not answer.
    pub failures: AtomicU64,
    /// Whether another gateway has this node's id, and this one takes another at its next start.
    pub gave_way: AtomicBool,
}

impl Contact {
    /// It was heard `before` ago, and what is known lasts for `max_stale`.
    #[must_use]
    pub fn new(now: Mono, before: Duration, max_stale: Duration) -> Contact {
        let contact = Contact {
            lost_from: AtomicU64::new(0),
            stale_from: AtomicU64::new(0),
            told: Heard::default(),
        };
        let from = |lasts: Duration| now.plus(lasts.saturating_sub(before)).0;
        contact.lost_from.store(from(LEASE), Ordering::Relaxed);
        contact.stale_from.store(from(max_stale), Ordering::Relaxed);
        contact.told.asked.store(now.0, Ordering::Relaxed);
        let before = u64::try_from(before.as_micros()).unwrap_or(u64::MAX);
        contact.told.before.store(before, Ordering::Relaxed);
        contact
    }

    /// It answered what it was asked at this time.
    pub fn heard(&self, asked: Mono, max_stale: Duration) {
        (self.lost_from).store(asked.plus(LEASE).0, Ordering::Relaxed);
        (self.stale_from).store(asked.plus(max_stale).0, Ordering::Relaxed);
        self.told.before.store(0, Ordering::Relaxed);
        self.told.asked.store(asked.0, Ordering::Relaxed);
    }

    /// What was heard, for metrics.
    #[must_use]
    pub fn told(&self) -> &Heard {
        &self.told
    }

    /// How long ago it was heard.
    #[must_use]
    pub fn silence(&self, now: Mono) -> Duration {
        let asked = Mono(self.told.asked.load(Ordering::Relaxed));
        let before = Duration::from_micros(self.told.before.load(Ordering::Relaxed));
        now.since(asked).saturating_add(before)
    }

    /// Whether it has not been heard for ten seconds.
    #[must_use]
    pub fn is_lost(&self, now: Mono) -> bool {
        now.0 >= self.lost_from.load(Ordering::Relaxed)
    }

    /// Whether it has not been heard for `store.max_stale`.
    #[must_use]
    pub fn is_stale(&self, now: Mono) -> bool {
        now.0 >= self.stale_from.load(Ordering::Relaxed)
    }
}

/// Tenants by index and by id.
#[derive(Clone, Debug, Default)]
pub struct TenantTable {
    /// Where `KeyEntry::tenant` points.
    pub entries: Vec<TenantEntry>,
    /// Finds the index of an id.
    pub by_id: HashMap<TenantId, u32>,
}

/// A tenant as a request sees it.
#[derive(Clone, Debug)]
pub struct TenantEntry {
    /// Who it is.
    pub id: TenantId,
    /// The id, ready to be sent.
    pub header_value: HeaderValue,
    /// Index into `Snapshot::plans`.
    pub plan: u32,
    /// What its keys may do at most; `Inherit` is all that the plan grants.
    pub scopes: Scopes,
    /// Quota and burst of its own.
    pub own: OwnLimits,
    /// Its keys get 403.
    pub suspended: bool,
    /// Its own places behind upstreams, by index into `Config::upstreams`; mostly none.
    pub places: Vec<(usize, Arc<Destination>)>,
    /// Where its windows lie.
    pub seat: SeatHint,
}

/// A key as a request sees it; kept small, since there may be a million.
#[derive(Clone, Debug)]
pub struct KeyEntry {
    /// Who it is; counters stand under this.
    pub id: KeyId,
    /// Index into `TenantTable::entries`.
    pub tenant: u32,
    /// Index into `Snapshot::plans`; `u32::MAX` is the tenant's plan.
    pub plan: u32,
    /// The point from which it is expired, to the microsecond (FA6); `NEVER_EXPIRES` is never.
    pub expires: Wall,
    /// What the operator said.
    pub status: KeyStatus,
    /// What it is for.
    pub kind: KeyKind,
    /// Where it is valid.
    pub environment: Environment,
    /// Limits of its own; `None` is none.
    pub own: Option<Box<OwnLimits>>,
    /// What ties it down; `None` is nothing.
    pub binding: Option<Box<Binding>>,
    /// What it may do; listed sets are shared between keys that list the same.
    pub scopes: Scopes,
}

/// Limits that a key or a tenant sets for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnLimits {
    /// Instead of the plan's quota.
    pub quota: Override,
    /// Instead of the plan's burst.
    pub burst: Override,
}

impl OwnLimits {
    /// None at all.
    pub const NONE: OwnLimits = OwnLimits {
        quota: Override::Plan,
        burst: Override::Plan,
    };

    /// The limits that hold over these.
    #[must_use]
    pub fn over(&self, limits: Limits) -> Limits {
        Limits {
            quota: self.quota.over(limits.quota),
            burst: self.burst.over(limits.burst),
        }
    }
}

/// The expiry of a key that has none.
pub const NEVER_EXPIRES: Wall = Wall(u64::MAX);

impl Snapshot {
    /// Whether a key that is not known here may be known on another node.
    #[must_use]
    pub fn may_miss_keys(&self, now: Mono) -> bool {
        let contact = self.contact.as_ref();
        contact.is_some_and(|contact| contact.is_lost(now))
    }

    /// Whether nothing of it counts any more.
    #[must_use]
    pub fn is_stale(&self, now: Mono) -> bool {
        let contact = self.contact.as_ref();
        contact.is_some_and(|contact| contact.is_stale(now))
    }

    /// Whether a key counts as whole, whatever scopes it lists: its plan knows no others (FF10). A public key stands in web pages and never
    /// gets more than its list.
    #[must_use]
    pub fn counts_as_whole(&self, key: &KeyEntry) -> bool {
        !self.plan_of(key).granular_scopes && key.kind == KeyKind::Secret
    }

    /// Keys that list scopes of their own and count as whole all the same, in order; those that have ended left out.
    #[must_use]
    pub fn widened(&self) -> BTreeSet<KeyId> {
        if self.plans.iter().all(|plan| plan.granular_scopes) {
            return BTreeSet::new();
        }
        let lists = |key: &KeyEntry| matches!(key.scopes, Scopes::Listed(_));
        let keys = self.keys.iter().map(|(_, key)| key);
        keys.filter(|key| lists(key) && !key.status.is_final() && self.counts_as_whole(key))
            .map(|key| key.id)
            .collect()
    }
}

impl KeyEntry {
    /// Whether the key has expired at this point of the wall clock (FA6: judged at each request, by no sweeper).
    #[must_use]
    pub fn expired(&self, wall: Wall) -> bool {
        wall >= self.expires
    }
}

impl Snapshot {
    /// The key with this digest, whatever its status.
    #[must_use]
    pub fn key(&self, digest: &Digest) -> Option<&KeyEntry> {
        self.keys.get(digest)
    }

    /// The same, and where its state lies.
    #[must_use]
    pub fn find_key(&self, digest: &Digest) -> Option<FoundKey<'_>> {
        self.keys.find(digest)
    }

    /// The tenant that a key belongs to.
    #[must_use]
    pub fn tenant_of(&self, key: &KeyEntry) -> &TenantEntry {
        &self.tenants.entries[key.tenant as usize]
    }

    /// The plan that a key is under: its own, else its tenant's.
    #[must_use]
    pub fn plan_of(&self, key: &KeyEntry) -> &Plan {
        let index = if key.plan == u32::MAX {
            self.tenant_of(key).plan
        } else {
            key.plan
        };
        &self.plans[index as usize]
    }

    /// Limits of a key's windows: its own, else those of its own plan, else its tenant's, else those of the tenant's plan (FA22).
    #[must_use]
    pub fn limits_of(&self, key: &KeyEntry) -> Limits {
        let under = if key.plan == u32::MAX {
            self.limits_of_tenant(self.tenant_of(key))
        } else {
            self.plans[key.plan as usize].limits
        };
        key.own.as_ref().map_or(under, |own| own.over(under))
    }

    /// Limits of the windows that all keys of a tenant share: its own, else its plan's.
    #[must_use]
    pub fn limits_of_tenant(&self, tenant: &TenantEntry) -> Limits {
        tenant.own.over(self.plans[tenant.plan as usize].limits)
    }
}

#[cfg(test)]
mod tests;
