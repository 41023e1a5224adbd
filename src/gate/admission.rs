//! The proof that every check passed, `Admission`, and whom it was given to.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use http::uri::PathAndQuery;

use crate::gate::binding::Foreign;
use crate::gate::browser::Cors;
use crate::gate::query;
use crate::gate::standing;
use crate::gate::token::Bearer;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::route::Route;
use crate::quota::Numbers;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::TenantEntry;
use crate::snapshot::place::Place;
use crate::token::Verified;

/// Proof that every check passed. Only the gate can make one, and the forwarder demands it.
#[derive(Debug)]
pub struct Admission {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) route: Arc<Route>,
    pub(super) principal: Option<Principal>,
    pub(super) numbers: Option<Numbers>,
    pub(super) host: Rc<str>,
    pub(super) target: PathAndQuery,
    pub(super) manner: Manner,
    /// A cell, since what the body says is known later.
    pub(super) would_refuse: Cell<Option<&'static str>>,
    pub(super) foreign: Option<Box<Foreign>>,
}

/// What an answer says beside its own content because of how the request came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// To the browser that asked.
    pub cors: Cors,
    /// Whether a key stood in the query: then no page may pass the address on, and no shared cache may keep the answer (FF11).
    pub key_in_query: bool,
}

/// Who the credential proved to be.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Its key.
    pub key: KeyId,
    /// Where the state of what it is reported under lies, as far as that is known.
    seat: u32,
    /// The key's digest, to look it up again before the answer is sent; `None` for a token.
    digest: Option<Digest>,
    /// Index into the snapshot's tenants.
    pub(super) tenant: u32,
    /// Whom the key acts for (FA18); a token says that itself.
    subject: Option<Arc<str>>,
    /// The token that it was, where it was no key.
    pub(super) token: Option<Arc<Verified>>,
}

/// What ended a request while it was in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its key is revoked, deleted, has another text, or is gone from the file.
    Key,
    /// Its key's tenant is suspended.
    Tenant,
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

    /// Whom the key acts for, if anybody in particular (FA18).
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.principal.as_ref()?.subject()
    }

    /// For the rate-limit headers; `None` on public routes that do not limit addresses.
    #[must_use]
    pub fn numbers(&self) -> Option<&Numbers> {
        self.numbers.as_ref()
    }

    /// What the answer says because of how the request came.
    #[must_use]
    pub fn manner(&self) -> &Manner {
        &self.manner
    }

    /// Why it would have been refused, if a rule were not only observed.
    #[must_use]
    pub fn would_refuse(&self) -> Option<&'static str> {
        self.would_refuse.get()
    }

    /// Something was found out that would have refused it, and is only observed. The first of it counts.
    pub fn observe(&self, reason: &'static str) {
        let first = self.would_refuse.get().unwrap_or(reason);
        self.would_refuse.set(Some(first));
    }

    /// The host that the client asked for, as it is forwarded: lower case, with its port if one was given.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path that is forwarded; without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// Set where the request is for another's: then its target and host are those of something that cannot exist, and the answer is to be
    /// the 404 twin.
    #[must_use]
    pub fn foreign(&self) -> Option<&Foreign> {
        self.foreign.as_deref()
    }

    /// Where it goes.
    #[must_use]
    pub fn place(&self) -> Place<'_> {
        self.snapshot.place(self.route.upstream, self.tenant())
    }

    /// The target that is forwarded: the path that was decided on behind the prefix of its place, and the query as it came, but for what the
    /// route sets.
    #[must_use]
    pub fn target(&self) -> &PathAndQuery {
        &self.target
    }

    /// Whether a parameter of the query has this name, in any spelling that some backend takes for it.
    #[must_use]
    pub fn query_has(&self, name: &str) -> bool {
        query::sole(self.target.query(), name) != Ok(None)
    }

    /// What has ended the request since it was admitted, as a later snapshot shows it, if anything has (FA9; DESIGN section 3, step 9).
    /// Nothing ends a request without a key, nor any where `[revocation] in_flight` says that they finish.
    #[must_use]
    pub fn ended(&self, snapshot: &Arc<Snapshot>) -> Option<Ended> {
        let principal = self.principal.as_ref()?;
        if Arc::ptr_eq(snapshot, &self.snapshot) || !snapshot.config.revocation.abort_in_flight {
            return None;
        }
        if let Some(token) = &principal.token {
            return standing::token_ended(&self.snapshot, snapshot, token);
        }
        match principal.digest.and_then(|digest| snapshot.key(&digest)) {
            Some(key) => standing::ended(snapshot, key),
            // A regenerated key has another digest under the same id: the old text is unknown and ends here.
            None => Some(Ended::Key),
        }
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
                seat: 0,
                digest: Some(Digest([0; 32])),
                tenant,
                subject: None,
                token: None,
            }),
            numbers: None,
            host: host.into(),
            target: path.parse().expect("a test's path is a valid path"),
            manner: Manner::default(),
            would_refuse: Cell::default(),
            foreign: None,
        }
    }
}

impl Principal {
    pub(super) fn of(bearer: Bearer<'_>) -> Principal {
        let (id, tenant) = (bearer.entry().id, bearer.entry().tenant);
        let (digest, seat, subject, token) = match bearer {
            Bearer::Key(digest, key) => {
                let subject = key
                    .entry
                    .binding
                    .as_ref()
                    .and_then(|own| own.subject.clone());
                (Some(digest), key.seat.number(), subject, None)
            }
            // Tokens are reported together, and not where each is charged.
            Bearer::Token(token) => (None, 0, None, Some(token)),
        };
        Principal {
            key: id,
            seat,
            digest,
            tenant,
            subject,
            token,
        }
    }

    /// Whom it acts for.
    fn subject(&self) -> Option<&str> {
        match &self.token {
            Some(token) => token.identity.subject.as_deref(),
            None => self.subject.as_deref(),
        }
    }

    /// Under what its requests are reported: its key, or the tokens of its tenant.
    #[must_use]
    pub fn reported(&self) -> KeyId {
        (self.token.as_ref()).map_or(self.key, |token| token.reported)
    }

    /// Where the state of that lies, as far as it is known.
    #[must_use]
    pub fn seat(&self) -> u32 {
        self.seat
    }

    /// The token that it was; `None` for a key.
    #[must_use]
    pub fn token(&self) -> Option<&Arc<Verified>> {
        self.token.as_ref()
    }
}

impl Ended {
    /// What the client is told, if it can still be told: what the same request would be told now.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        match self {
            Ended::Key => Refusal::CredentialInvalid,
            Ended::Tenant => Refusal::TenantSuspended,
        }
    }

    /// The word for the log.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Ended::Key => "revoked_meanwhile",
            Ended::Tenant => "suspended_meanwhile",
        }
    }
}
