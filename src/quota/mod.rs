//! Quota and burst: one decision over all windows of a request, and the numbers for its headers.

use crate::clock::Now;
use crate::model::key::KeyId;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::model::tenant::TenantId;
use crate::store::counters::Row;
use crate::store::counters::Subject;

pub mod headers;
mod local;
mod window;

/// Every live counter of this node. Exists only for real keys and tenants: strangers create none (S28).
///
/// An unlimited window keeps no state, and a subject without limits has no entry. A window under limits that change keeps what was used
/// (`remaining = new limit - used`, ASKS 15); see `Charge` for what follows when its length changes.
#[derive(Debug)]
pub struct Quota {
    tenants: local::Table<TenantId>,
    keys: local::Table<KeyId>,
}

/// What one request is to be charged to. The limits are those of the request's snapshot: a window whose length they change keeps its start
/// and its count, and ends at start + new length; what had passed under the old length stays passed.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// The key's own windows, unless limits are by tenant only.
    pub key: Option<(KeyId, &'a Limits)>,
    /// The tenant's windows, unless limits are by key only.
    pub tenant: Option<(&'a TenantId, &'a Limits)>,
    /// What it takes from every window; at least 1.
    pub cost: u32,
}

/// What the rate-limit headers say. With two subjects it describes, for each window, the one with the least remaining.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The quota; `None` when unlimited.
    pub quota: Option<WindowNumbers>,
    /// The burst; `None` when unlimited.
    pub burst: Option<WindowNumbers>,
}

/// The state of one window after this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowNumbers {
    /// The limit.
    pub rate: Rate,
    /// What is left; never negative.
    pub remaining: u32,
    /// Unix seconds, rounded up, at which the window is full again; constant within one quota window (FA25). A quota window that no
    /// charge has opened is described as if it opened now.
    pub reset_unix_seconds: u64,
    /// Seconds from now until then, rounded up, by the monotonic clock.
    pub reset_in_seconds: u32,
}

/// A refused charge; nothing was taken from any window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// For the headers.
    pub numbers: Numbers,
    /// The longest wait among the refusing windows for this cost, in seconds, rounded up; at least 1. True unless something else is
    /// charged meanwhile: sleeping it succeeds, a second less fails (SEEDS 8.3). A cost above a limit never succeeds; it gets the window's length.
    pub retry_after_seconds: u32,
}

/// What the store is to write to catch up with the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Subjects that were charged, in order.
    pub rows: Vec<Row>,
    /// Subjects whose windows are over, in order.
    pub removed: Vec<Subject>,
}

impl Quota {
    /// No counters yet.
    #[must_use]
    pub fn new() -> Quota {
        Quota {
            tenants: local::Table::new(),
            keys: local::Table::new(),
        }
    }

    /// Takes `cost` from every window, or from none: one step under the entries' locks, so that exactly as many pass as the limit says
    /// under any concurrency (S31).
    ///
    /// # Errors
    /// `Exhausted` when any window lacks room.
    pub fn charge(&self, charge: &Charge<'_>, now: Now) -> Result<Numbers, Exhausted> {
        // Always the tenant before the key, each in a map of its own: two threads never wait for each other.
        let mut tenant = limited(charge.tenant).map(|(id, limits)| (self.tenants.hold(id), limits));
        let mut key = limited(charge.key).map(|(id, limits)| (self.keys.hold(&id), limits));
        let mut subjects = [
            tenant
                .as_mut()
                .map(|(held, limits)| (&mut held.windows, *limits)),
            key.as_mut()
                .map(|(held, limits)| (&mut held.windows, *limits)),
        ];
        let numbers = window::charge(&mut subjects, charge.cost.max(1), now)?;
        if let Some((held, _)) = &mut tenant {
            self.tenants.mark(held);
        }
        if let Some((held, _)) = &mut key {
            self.keys.mark(held);
        }
        Ok(numbers)
    }

    /// What `charge` would report before taking anything. For status and explain: it copies the windows.
    #[must_use]
    pub fn peek(&self, charge: &Charge<'_>, now: Now) -> Numbers {
        let tenant = limited(charge.tenant)
            .map(|(id, limits)| (self.tenants.copy(id).unwrap_or_default(), limits));
        let key = limited(charge.key)
            .map(|(id, limits)| (self.keys.copy(&id).unwrap_or_default(), limits));
        [tenant, key]
            .into_iter()
            .flatten()
            .map(|(mut windows, limits)| {
                windows.roll(limits, now);
                windows.numbers(limits, now.wall)
            })
            .reduce(window::tightest)
            .unwrap_or_default()
    }

    /// Removes subjects whose windows have been over for ten seconds. Walks all entries, about a thousandth under one lock at a time; once
    /// every few seconds is enough.
    pub fn sweep(&self, now: Now) {
        self.tenants.sweep(now);
        self.keys.sweep(now);
    }

    /// What changed since the last call. If it could not be written, give it to `unexport`.
    #[must_use]
    pub fn export(&self) -> Changes {
        let tenants = self.tenants.export();
        let keys = self.keys.export();
        let keys = keys
            .into_iter()
            .map(|(id, windows)| (Subject::Key(id), windows));
        let tenants = tenants
            .into_iter()
            .map(|(id, windows)| (Subject::Tenant(id), windows));
        let mut changes = Changes::default();
        for (subject, windows) in keys.chain(tenants) {
            let Some(windows) = windows else {
                changes.removed.push(subject);
                continue;
            };
            let (quota, burst) = windows.saved();
            changes.rows.push(Row {
                subject,
                quota,
                burst,
            });
        }
        changes
    }

    /// Has the next export bring these subjects again, as they will be then.
    pub fn unexport(&self, changes: Changes) {
        let subjects = changes.rows.into_iter().map(|row| row.subject);
        for subject in subjects.chain(changes.removed) {
            self.note(subject);
        }
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
                Subject::Key(id) => self.keys.restore(id, windows),
                Subject::Tenant(id) => self.tenants.restore(id, windows),
            }
        }
    }

    /// How many subjects have live counters.
    #[must_use]
    pub fn subjects(&self) -> usize {
        self.tenants.len() + self.keys.len()
    }

    fn note(&self, subject: Subject) {
        match subject {
            Subject::Key(id) => self.keys.note(id),
            Subject::Tenant(id) => self.tenants.note(id),
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
