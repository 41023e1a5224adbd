//! Whether a key, its tenant and its plan together grant what a route demands (DESIGN section 3, step 6).

use super::refused::Fault;
use crate::model::route::Access;
use crate::model::scope::Scope;
use crate::refusal::Refusal;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;

/// The scope must be covered by the key and by its tenant (FA15) and granted by the plan; compared whole, never by prefix (FA14, CW6).
///
/// # Errors
/// 403 with the scope that is missing.
pub(super) fn check(snapshot: &Snapshot, key: &KeyEntry, access: &Access) -> Result<(), Fault> {
    let scope = match access {
        Access::Public | Access::AnyKey => return Ok(()),
        Access::Scope(scope) => scope,
    };
    let holders = holders(snapshot, key, scope);
    if !holders.key {
        return Err(missing(scope, "scope_not_of_key"));
    }
    if !holders.tenant {
        return Err(missing(scope, "scope_not_of_tenant"));
    }
    if !holders.plan {
        return Err(missing(scope, "scope_not_of_plan"));
    }
    Ok(())
}

/// Who of the three has a scope; all must.
pub(super) struct Holders {
    pub(super) key: bool,
    pub(super) tenant: bool,
    pub(super) plan: bool,
    /// Whether the key has it because its plan knows whole keys only.
    pub(super) whole: bool,
}

pub(super) fn holders(snapshot: &Snapshot, key: &KeyEntry, scope: &Scope) -> Holders {
    let (plan, rules) = (snapshot.plan_of(key), &snapshot.config.scopes);
    let whole = snapshot.counts_as_whole(key);
    Holders {
        key: whole || rules.cover(&key.scopes, scope),
        tenant: rules.cover(&snapshot.tenant_of(key).scopes, scope),
        plan: plan.scopes.iter().any(|pattern| pattern.grants(scope)),
        whole,
    }
}

fn missing(scope: &Scope, reason: &'static str) -> Fault {
    Fault::new(Refusal::ScopeMissing(scope.clone()), reason)
}
