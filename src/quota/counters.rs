//! Every live counter of this node: charged, looked at, exported and restored.

use std::sync::Arc;
use std::sync::OnceLock;

use crate::clock::Now;
use crate::meter::Meter;
use crate::model::key::KeyId;
use crate::model::limit::Limits;
use crate::model::seat::SeatHint;
use crate::model::tenant::TenantId;
use crate::quota::Changes;
use crate::quota::Charge;
use crate::quota::Exhausted;
use crate::quota::Hints;
use crate::quota::Numbers;
use crate::quota::saves::Saves;
use crate::quota::shared::SharedCounters;
use crate::quota::strangers::Strangers;
use crate::quota::visitors::Visitors;
use crate::quota::window;
use crate::quota::window::Saved;
use crate::store::counters::JOURNAL_FROM;
use crate::store::counters::Row;
use crate::store::counters::Subject;

use super::local;

/// The windows of keys, and beside them what `usage` counts of the same keys.
pub(crate) type Keys = local::Table<KeyId, Meter>;

/// Every live counter of this node. Exists only for real keys and tenants: strangers create none (S28).
///
/// An unlimited window keeps no state, and a subject without limits has no entry. A window under limits that change keeps what was used
/// (`remaining = new limit - used`, ASKS 15); see `Charge` for what follows when its length changes.
#[derive(Debug)]
pub struct Quota {
    tenants: local::Table<TenantId, ()>,
    keys: Arc<Keys>,
    saves: Saves,
    /// The counters that other nodes share; those here are then not used.
    shared: OnceLock<SharedCounters>,
    /// Who presents keys that are not known; of fixed size.
    pub strangers: Strangers,
    /// Who asks for public routes that limit each address; of fixed size.
    pub visitors: Visitors,
}

impl Quota {
    /// No counters yet.
    #[must_use]
    pub fn new() -> Quota {
        Quota {
            tenants: local::Table::new(),
            keys: Arc::new(local::Table::new()),
            saves: Saves::new(),
            shared: OnceLock::new(),
            strangers: Strangers::new(),
            visitors: Visitors::new(),
        }
    }

    /// Has every charge asked of counters that other nodes share; once, before anything is charged.
    pub fn share(&self, counters: SharedCounters) {
        // A second set would forget the first; the first stays.
        let _ = self.shared.set(counters);
    }

    /// The counters that other nodes share, if there are any.
    #[must_use]
    pub fn shared(&self) -> Option<&SharedCounters> {
        self.shared.get()
    }

    /// Where keys that are in use have their state.
    pub(crate) fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Which charges are in the store.
    #[must_use]
    pub fn saves(&self) -> &Saves {
        &self.saves
    }

    /// Whether keys in use are so many that it is worth a turn to look for several together.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.keys.is_crowded()
    }

    /// Says that the key at this seat will be charged soon, unless something speaks against it: what is counted of it may come from memory meanwhile.
    pub fn look_ahead(&self, seat: u32) {
        self.keys.look_ahead(seat);
    }

    /// Takes `cost` from every window, or from none: one step under the entries' locks, so that exactly as many pass as the limit says
    /// under any concurrency (S31).
    ///
    /// # Errors
    /// `Exhausted` when any window lacks room.
    pub fn charge(&self, charge: &Charge<'_>, now: Now) -> Result<Numbers, Exhausted> {
        let (tenant, key) = (&SeatHint::default(), &SeatHint::default());
        self.charge_at(charge, Hints { tenant, key }, now)
    }

    /// The same, for who may know where the subjects' windows lie. The hints of those that are charged are right afterwards.
    ///
    /// # Errors
    /// `Exhausted` when any window lacks room.
    pub fn charge_at(
        &self,
        charge: &Charge<'_>,
        hints: Hints<'_>,
        now: Now,
    ) -> Result<Numbers, Exhausted> {
        let (of_tenant, of_key) = (limited(charge.tenant), limited(charge.key));
        // Always the tenant before the key, each in a table of its own: two threads never wait for each other.
        let mut tenant =
            of_tenant.map(|(id, limits)| (self.tenants.hold(id, hints.tenant), id, limits));
        let mut key = of_key.map(|(id, limits)| (self.keys.hold(&id, hints.key), id, limits));
        let mut subjects = [
            (tenant.as_mut()).map(|(held, _, limits)| (&mut held.windows, *limits)),
            (key.as_mut()).map(|(held, _, limits)| (&mut held.windows, *limits)),
        ];
        let numbers = window::charge(&mut subjects, charge.cost.max(1), now)?;
        if let Some((held, id, _)) = &mut tenant {
            self.tenants.mark(held, id);
        }
        if let Some((held, id, _)) = &mut key {
            self.keys.mark(held, id);
        }
        Ok(numbers)
    }

    /// What `charge` would report before taking anything. For status and explain: it copies the windows.
    #[must_use]
    pub fn peek(&self, charge: &Charge<'_>, now: Now) -> Numbers {
        if let Some(shared) = self.shared.get() {
            return shared.peek(charge).unwrap_or_default();
        }
        let tenant = limited(charge.tenant)
            .map(|(id, limits)| (self.tenants.copy(id).unwrap_or_default(), limits));
        let key = limited(charge.key)
            .map(|(id, limits)| (self.keys.copy(&id).unwrap_or_default(), limits));
        let tenant = tenant.map(|(mut windows, limits)| {
            windows.roll(limits, now);
            windows.numbers_of_tenant(limits, now.wall)
        });
        let key = key.map(|(mut windows, limits)| {
            windows.roll(limits, now);
            windows.numbers(limits, now.wall)
        });
        window::both(tenant, key)
    }

    /// Forgets windows that have been over for ten seconds, and subjects of whom nothing is left; keys stay that did something since the last sweep or
    /// within the minutes that error rates are of, or whose counts no flush has taken. Looks at all of them, one under its lock at a time; once every few seconds is enough.
    pub fn sweep(&self, now: Now) {
        self.tenants.sweep(now, |()| true);
        self.keys.sweep(now, |meter| meter.at_rest(now.mono));
    }

    /// What changed since the last call: of many subjects, only what is new of their bursts. If it could not be written, give it to `unexport`.
    #[must_use]
    pub fn export(&self, now: Now) -> Changes {
        let mut changes = Changes::default();
        self.export_to(&mut changes, now);
        changes
    }

    /// The same, in place of what is there, whose memory is used again.
    pub fn export_to(&self, changes: &mut Changes, now: Now) {
        self.export_new_from(JOURNAL_FROM, changes, now);
    }

    /// The same, with what "many" is.
    pub(super) fn export_new_from(&self, many: usize, changes: &mut Changes, now: Now) {
        let (keys, tenants) = (self.keys.take_listed(), self.tenants.take_listed());
        changes.begin(keys.len(), tenants.len());
        let Changes {
            rows,
            removed,
            counted,
            failing,
        } = changes;
        let mut take = |subject: Subject, saved: Saved| match saved {
            (None, None) => removed.push(subject),
            (quota, burst) => rows.push(Row {
                subject,
                quota,
                burst,
            }),
        };
        self.keys.export(&keys, many, |id, saved, meter| {
            if let Some(saved) = saved {
                take(Subject::Key(*id), saved);
            }
            if let Some(meter) = meter {
                counted.extend(meter.row_of(*id, now.mono));
                failing.extend(meter.error_rate(*id));
            }
        });
        self.tenants.export(&tenants, many, |id, saved, _| {
            if let Some(saved) = saved {
                take(Subject::Tenant(id.clone()), saved);
            }
        });
    }

    /// Has the next export bring these subjects again, whole, as they will be then.
    pub fn unexport(&self, changes: Changes) {
        let subjects = changes.rows.into_iter().map(|row| row.subject);
        let (mut keys, mut tenants) = (Vec::new(), Vec::new());
        for subject in subjects.chain(changes.removed) {
            match subject {
                Subject::Key(id) => keys.push(id),
                Subject::Tenant(id) => tenants.push(id),
            }
        }
        self.keys.note_again(keys);
        self.tenants.note_again(tenants);
    }

    /// Puts saved counters in place of what is here; meant for the start. What has passed by `now` is left out and removed by the next export.
    pub fn restore(&self, rows: Vec<Row>, now: Now) {
        for row in rows {
            let windows = window::Windows::restored(row.quota.as_ref(), row.burst.as_ref(), now);
            if windows.idle(window::instant(now)) {
                self.note(row.subject);
                continue;
            }
            match row.subject {
                Subject::Key(id) => self.keys.restore(&id, windows),
                Subject::Tenant(id) => self.tenants.restore(&id, windows),
            }
        }
    }

    /// How many subjects have live counters, or did something lately.
    #[must_use]
    pub fn subjects(&self) -> usize {
        (self.tenants.in_use() + self.keys.in_use()) as usize
    }

    fn note(&self, subject: Subject) {
        match subject {
            Subject::Key(id) => self.keys.note(std::iter::once(id)),
            Subject::Tenant(id) => self.tenants.note(std::iter::once(id)),
        }
    }
}

impl Default for Quota {
    fn default() -> Quota {
        Quota::new()
    }
}

/// A subject, unless all its limits are `"unlimited"`.
fn limited<K>(subject: Option<(K, &Limits)>) -> Option<(K, &Limits)> {
    subject.filter(|(_, limits)| limits.quota.is_some() || limits.burst.is_some())
}
