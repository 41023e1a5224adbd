//! The view after a change: it shares with the one before all that the change leaves alone.

use std::sync::Arc;

use crate::model::denial::DenyTable;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyStatus;
use crate::model::tenant::TenantId;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::snapshot::build;
use crate::snapshot::build::Names;
use crate::snapshot::build::ScopeSets;
use crate::store::Failure;
use crate::store::verbs::Change;

/// `current` after `change`.
pub(super) fn changed(
    current: &Snapshot,
    change: &Change,
    scope_sets: &mut ScopeSets,
) -> Result<Snapshot, Failure> {
    let names = Names::of(&current.config);
    let unfit = |(what, name): (&str, String)| {
        Failure::refused(format!("no {what} {name:?} is in force any more"))
    };
    let keys = |changes: &[(Digest, Option<KeyEntry>)]| Snapshot {
        keys: current.keys.with(changes),
        ..shared(current)
    };
    Ok(match change {
        Change::Nothing | Change::AdminTokens(_) => shared(current),
        Change::Keys { put, gone } => {
            let mut changes: Vec<(Digest, Option<KeyEntry>)> =
                gone.iter().map(|digest| (*digest, None)).collect();
            for key in put {
                let entry = build::entry_of(key, &current.tenants, &names, scope_sets);
                changes.push((key.digest, Some(entry.map_err(unfit)?)));
            }
            keys(&changes)
        }
        Change::KeyStatus(digests, status) => with_statuses(current, digests, *status),
        Change::Tenant(tenant) => {
            let mut tenants = (*current.tenants).clone();
            tenants.put(build::tenant_entry(tenant, &names).map_err(unfit)?);
            Snapshot {
                tenants: Arc::new(tenants),
                ..shared(current)
            }
        }
        Change::Denied(denial) => with_denials(current, current.denials.with(denial.clone())),
        Change::Allowed(denial) => with_denials(current, current.denials.without(denial)),
    })
}

/// Whether a request in flight may have to end with this change. A change that is not known to be harmless is taken to end some: a look
/// at every request for nothing costs less than one that is missed.
pub(super) fn may_end_requests(before: &Snapshot, change: &Change) -> bool {
    match change {
        Change::Nothing
        | Change::AdminTokens(_)
        | Change::Allowed(_)
        | Change::KeyStatus(_, KeyStatus::Active) => false,
        Change::KeyStatus(..) | Change::Denied(_) => true,
        Change::Keys { put, gone } => {
            let known = |key: &ApiKey| before.key(&key.digest).is_some();
            !gone.is_empty() || put.iter().any(known)
        }
        Change::Tenant(tenant) => tenant.suspended,
    }
}

pub(super) fn with_denials(current: &Snapshot, denials: DenyTable) -> Snapshot {
    Snapshot {
        denials: Arc::new(denials),
        ..shared(current)
    }
}

/// Those of the keys that have not ended for good, with another status.
pub(super) fn with_statuses(current: &Snapshot, digests: &[Digest], status: KeyStatus) -> Snapshot {
    let found = digests.iter().filter_map(|digest| {
        let entry = current.keys.get(digest)?;
        let may_change = !entry.status.is_final() || status.is_final();
        may_change.then(|| (*digest, Some(with_status(entry, status))))
    });
    let changes: Vec<(Digest, Option<KeyEntry>)> = found.collect();
    Snapshot {
        keys: current.keys.with(&changes),
        ..shared(current)
    }
}

pub(super) fn with_suspended(current: &Snapshot, id: &TenantId, suspended: bool) -> Snapshot {
    let mut tenants = (*current.tenants).clone();
    if let Some(index) = tenants.by_id.get(id) {
        tenants.entries[*index as usize].suspended = suspended;
    }
    Snapshot {
        tenants: Arc::new(tenants),
        ..shared(current)
    }
}

pub(super) fn with_status(entry: &KeyEntry, status: KeyStatus) -> KeyEntry {
    KeyEntry {
        status,
        ..entry.clone()
    }
}

/// The same view again, sharing everything.
pub(super) fn shared(current: &Snapshot) -> Snapshot {
    Snapshot {
        revision: current.revision,
        generation: current.generation,
        config: Arc::clone(&current.config),
        routes: Arc::clone(&current.routes),
        plans: Arc::clone(&current.plans),
        tenants: Arc::clone(&current.tenants),
        keys: current.keys.clone(),
        denials: Arc::clone(&current.denials),
        contact: current.contact.clone(),
    }
}
