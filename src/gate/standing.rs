//! Whether a key that exists may be used now, here, and by its tenant (DESIGN section 3, step 4).

use std::net::IpAddr;
use std::sync::Arc;

use super::Ended;
use super::refused::Fault;
use crate::clock::Wall;
use crate::model::issuer::Issuer;
use crate::model::key::Environment;
use crate::model::key::KeyStatus;
use crate::refusal::Refusal;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::token::Verified;

/// Checks status, expiry and environment, and then tenant and plan. `places` are the environments of the host and the route.
///
/// # Errors
/// The uniform 401 for the key's own faults (FA27); 403 for a suspended tenant or a plan without API access (CW3).
pub(super) fn check(
    snapshot: &Snapshot,
    key: &KeyEntry,
    places: impl IntoIterator<Item = Environment>,
    wall: Wall,
) -> Result<(), Fault> {
    if let Some(reason) = fault_of_key(key, wall) {
        return Err(Fault::new(Refusal::CredentialInvalid, reason));
    }
    if places.into_iter().any(|place| place != key.environment) {
        return Err(Fault::new(Refusal::CredentialInvalid, "wrong_environment"));
    }
    if snapshot.tenant_of(key).suspended {
        return Err(Fault::new(Refusal::TenantSuspended, "tenant_suspended"));
    }
    if !snapshot.plan_of(key).api_access {
        return Err(Fault::new(Refusal::PlanWithoutApi, "plan_without_api"));
    }
    Ok(())
}

/// Whether the client's address lies in a network of the key's, where it has any. IPv4 clients of an IPv6 socket count as what they are.
///
/// # Errors
/// 403.
pub(super) fn check_address(key: &KeyEntry, client: IpAddr) -> Result<(), Fault> {
    let networks = match &key.binding {
        Some(binding) if !binding.cidrs.is_empty() => &binding.cidrs,
        _ => return Ok(()),
    };
    let client = client.to_canonical();
    match networks.iter().any(|network| network.contains(&client)) {
        true => Ok(()),
        false => Err(Fault::new(Refusal::AddressNotAllowed, "address_not_of_key")),
    }
}

/// What ends a request that was admitted under this key: what is for good, or was done to the tenant. A key that was switched off or has
/// expired since lets its requests finish (C-20), and so does a change of plan.
pub(super) fn ended(snapshot: &Snapshot, key: &KeyEntry) -> Option<Ended> {
    if key.status.is_final() {
        return Some(Ended::Key);
    }
    snapshot.tenant_of(key).suspended.then_some(Ended::Tenant)
}

/// What ends a request that was admitted with this token: it is denied, its issuer is no longer trusted, or its tenant is suspended or gone. That it expired
/// lets its requests finish, as with a key.
pub(super) fn token_ended(
    before: &Snapshot,
    snapshot: &Snapshot,
    token: &Verified,
) -> Option<Ended> {
    if (snapshot.denials).denies_since(&before.denials, &token.identity) {
        return Some(Ended::Key);
    }
    let mut issuers = snapshot.config.issuers.iter();
    let trusted = |issuer: &Arc<Issuer>| {
        *issuer.issuer == *token.identity.issuer && issuer.issues(token.kind)
    };
    if !issuers.any(trusted) {
        return Some(Ended::Key);
    }
    let Some(index) = snapshot.tenants.by_id.get(&token.tenant) else {
        return Some(Ended::Key);
    };
    let tenant = &snapshot.tenants.entries[*index as usize];
    tenant.suspended.then_some(Ended::Tenant)
}

fn fault_of_key(key: &KeyEntry, wall: Wall) -> Option<&'static str> {
    match key.status {
        KeyStatus::Inactive => Some("key_inactive"),
        KeyStatus::Revoked => Some("key_revoked"),
        KeyStatus::Deleted => Some("key_deleted"),
        KeyStatus::Active => key.expired(wall).then_some("key_expired"),
    }
}
