//! The order of the checks that a request passes, and their proof: `Admission`.

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;

use crate::clock::Now;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::route::Route;
use crate::quota::Numbers;
use crate::quota::Quota;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::TenantEntry;

/// What is known of a client connection before any request on it.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// The address it reached.
    pub local: SocketAddr,
}

/// Who the credential proved to be.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Its key.
    pub key: KeyId,
    /// The digest, to look the key up again before the answer is sent.
    digest: Digest,
    /// Index into the snapshot's tenants.
    tenant: u32,
}

/// Proof that every check passed. Only this module can make one, and the forwarder demands it.
#[derive(Debug)]
pub struct Admission {
    snapshot: Arc<Snapshot>,
    route: Arc<Route>,
    principal: Option<Principal>,
    numbers: Option<Numbers>,
    host: String,
    path: String,
}

/// A request that did not pass, with all that the answer and the log need.
#[derive(Debug)]
pub struct Refused {
    /// The answer.
    pub refusal: Refusal,
    /// Rate numbers, when the request was authenticated and charged (or refused by a limit).
    pub numbers: Option<Numbers>,
    /// Who it was, as far as it was known (for the log only).
    pub key: Option<KeyId>,
    /// Index into the snapshot's tenants, as far as it was known (for the log only).
    pub tenant: Option<u32>,
    /// The route, as far as it was known (for log and metrics only).
    pub route: Option<Arc<Route>>,
    /// Why, in one snake_case word that never reaches the client: `key_expired`, `unknown_key`, `path_dot_segment` …
    pub reason: &'static str,
    /// The canonical host, when it was valid (for the error shape of that host).
    pub host: Option<String>,
}

/// Walks the checks in their order (DESIGN section 3, steps 1 to 6): sanitise, match, authenticate, standing, charge, authorise.
/// Takes every credential out of `head` and rewrites its target to the canonical path.
///
/// # Errors
/// The first check that fails.
pub fn admit(
    _snapshot: &Arc<Snapshot>,
    _quota: &Quota,
    _now: Now,
    _peer: &Peer,
    _head: &mut Parts,
) -> Result<Admission, Box<Refused>> {
    todo!()
}

impl Admission {
    /// The view under which it was admitted.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The route that serves it.
    #[must_use]
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Who calls; `None` on public routes.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// The caller's tenant; `None` on public routes.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantEntry> {
        self.principal
            .as_ref()
            .map(|principal| &self.snapshot.tenants.entries[principal.tenant as usize])
    }

    /// For the rate-limit headers; `None` on public routes.
    #[must_use]
    pub fn numbers(&self) -> Option<&Numbers> {
        self.numbers.as_ref()
    }

    /// The host that the client asked for, as it is forwarded: lower case, with its port if one was given.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path that was decided on and is forwarded; without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the key (if any) still stands in a later snapshot at a later time (DESIGN section 3, step 9).
    #[must_use]
    pub fn still_stands(&self, _snapshot: &Arc<Snapshot>, _now: Now) -> bool {
        todo!()
    }
}

#[cfg(test)]
impl Admission {
    /// An admission that passed no check, so that what comes after the gate can be tested alone. `tenant` is an index into the snapshot's tenants.
    pub(crate) fn for_tests(
        snapshot: Arc<Snapshot>,
        route: Arc<Route>,
        tenant: Option<u32>,
        host: &str,
        path: &str,
    ) -> Admission {
        Admission {
            snapshot,
            route,
            principal: tenant.map(|tenant| Principal {
                key: KeyId(*b"AAAAAAAAAAAA"),
                digest: Digest([0; 32]),
                tenant,
            }),
            numbers: None,
            host: host.to_owned(),
            path: path.to_owned(),
        }
    }
}
