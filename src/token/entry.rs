//! A token that was verified, as the gate sees it: like a key, so that every check is the same one.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::clock::Wall;
use crate::model::credential::Kind;
use crate::model::denial::DenyTable;
use crate::model::identity::Identity;
use crate::model::identity::tokens_of;
use crate::model::issuer::Issuer;
use crate::model::issuer::TenantOf;
use crate::model::key::KeyId;
use crate::model::key::KeyKind;
use crate::model::key::KeyStatus;
use crate::model::scope::ScopeList;
use crate::model::scope::Scopes;
use crate::model::seat::SeatHint;
use crate::model::tenant::TenantId;
use crate::snapshot::KeyEntry;
use crate::snapshot::NEVER_EXPIRES;
use crate::snapshot::Snapshot;
use crate::token::claims::Claims;
use crate::token::counted_under;
use crate::token::issuers::IssuerKeys;
use crate::token::mark::Mark;

/// A token that was verified. Thousands of them are looked at in turn, so what each request reads comes first: behind the counts of its `Arc` that is
/// one cache line, and `entry` is the next.
#[derive(Debug)]
#[repr(C)]
pub struct Verified {
    /// `Snapshot::generation` of the configuration that it was verified under.
    generation: u64,
    /// The keys that it was verified with, and their version then.
    keys: Option<(Arc<IssuerKeys>, u64)>,
    /// Until then it is believed without asking again; `NEVER_EXPIRES` is as long as it lives.
    fresh_until: Wall,
    /// The table of denials that it was last not found in.
    cleared_under: AtomicU64,
    /// What it came as.
    pub kind: Kind,
    /// What it may do, by whom and until when. It is of the public kind: a plan without scopes of its own makes no token whole.
    pub entry: KeyEntry,
    /// Where its windows lie.
    pub seat: SeatHint,
    /// Under what it is reported: its tenant's tokens.
    pub reported: KeyId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Who it says it is.
    pub identity: Identity,
}

/// How a token was verified.
#[derive(Debug)]
pub(super) struct Origin {
    /// What it came as.
    pub(super) kind: Kind,
    /// What it is remembered under; `None` where that cannot be made.
    pub(super) mark: Option<Mark>,
    /// The keys, and their version.
    pub(super) keys: Option<(Arc<IssuerKeys>, u64)>,
    /// Until when its issuer need not be asked again.
    pub(super) fresh_until: Option<Wall>,
}

impl Verified {
    /// What these claims are worth under this view, with these scopes.
    ///
    /// # Errors
    /// There is no such tenant.
    pub(super) fn new(
        snapshot: &Snapshot,
        issuer: &Issuer,
        claims: Claims,
        scopes: ScopeList,
        origin: Origin,
    ) -> Result<Verified, &'static str> {
        let tenant = match (&issuer.tenant, claims.tenant) {
            (TenantOf::Fixed(tenant), _) => tenant.clone(),
            (TenantOf::Claim(_), tenant) => tenant.ok_or("tenant_missing")?,
        };
        let index = *snapshot
            .tenants
            .by_id
            .get(&tenant)
            .ok_or("unknown_tenant")?;
        let identity = claims.identity;
        let whom = match (&identity.subject, &identity.client) {
            (Some(subject), _) => format!("s:{subject}"),
            (None, Some(client)) => format!("c:{client}"),
            (None, None) => return Err("nobody_named"),
        };
        Ok(Verified {
            entry: KeyEntry {
                id: counted_under(&identity.issuer, tenant.as_str(), &whom),
                tenant: index,
                plan: u32::MAX,
                expires: claims.expires,
                status: KeyStatus::Active,
                kind: KeyKind::Public,
                environment: issuer.environment,
                own: None,
                // Whom it acts for stands in its identity.
                binding: None,
                scopes: Scopes::Listed(scopes),
            },
            seat: SeatHint::default(),
            reported: tokens_of(&tenant),
            tenant,
            identity,
            kind: origin.kind,
            generation: snapshot.generation,
            keys: origin.keys,
            fresh_until: origin.fresh_until.unwrap_or(NEVER_EXPIRES),
            cleared_under: AtomicU64::new(NO_TABLE),
        })
    }

    /// Whether it is denied. Looked for once in each table of denials: what did not hit then cannot hit later.
    pub(super) fn is_denied(&self, denials: &DenyTable, wall: Wall) -> bool {
        if self.cleared_under.load(Ordering::Relaxed) == denials.version() {
            return false;
        }
        let denied = denials.denies(&self.identity, wall);
        if !denied {
            self.cleared_under
                .store(denials.version(), Ordering::Relaxed);
        }
        denied
    }

    /// Whether its issuer has to be asked again.
    pub(super) fn is_stale(&self, wall: Wall) -> bool {
        wall >= self.fresh_until
    }

    /// Whether it was verified under the same configuration and with keys that are still in use.
    pub(super) fn depends_on(&self, snapshot: &Snapshot) -> bool {
        let same_keys = |(keys, version): &(Arc<IssuerKeys>, u64)| keys.version() == *version;
        self.generation == snapshot.generation && self.keys.as_ref().is_none_or(same_keys)
    }
}

/// No table of denials has this version.
const NO_TABLE: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_request_reads_lies_in_two_cache_lines() {
        const COUNTS: usize = 16;
        assert_eq!(COUNTS + std::mem::offset_of!(Verified, entry), 64);
        let ends = std::mem::offset_of!(Verified, seat) + size_of::<SeatHint>();
        assert!(COUNTS + ends <= 128);
        assert!(COUNTS + size_of::<Verified>() <= 256);
    }
}
