//! A request that did not pass: what the checks had found out of it, and which of them failed.

use std::sync::Arc;

use crate::gate::Wanted;
use crate::gate::admission::Manner;
use crate::gate::admission::Principal;
use crate::gate::binding::Foreign;
use crate::model::key::KeyId;
use crate::model::limit::Mode;
use crate::model::route::Route;
use crate::quota::Numbers;
use crate::refusal::Refusal;
use crate::token::Verified;

/// A request that did not pass, with all that the answer and the log need.
#[derive(Debug)]
pub struct Refused {
    /// The answer.
    pub refusal: Refusal,
    /// Rate numbers, when the request was authenticated and charged (or refused by a limit).
    pub numbers: Option<Numbers>,
    /// Who it was, as far as it was known (for the log only).
    pub key: Option<KeyId>,
    /// Where that key's state lies, as far as it is known.
    pub seat: u32,
    /// The token that it was, where it was no key (for the log only).
    pub token: Option<Arc<Verified>>,
    /// Index into the snapshot's tenants, as far as it was known (for the log only).
    pub tenant: Option<u32>,
    /// The route, as far as it was known (for log and metrics only).
    pub route: Option<Arc<Route>>,
    /// Why, in one snake_case word that never reaches the client: `key_expired`, `unknown_key`, `path_dot_segment` …
    pub reason: &'static str,
    /// The canonical name of the host without its port, when it was valid (for `style`).
    pub host: Option<String>,
    /// What the answer says because of how the request came.
    pub manner: Manner,
    /// The reason of an earlier refusal that was only observed.
    pub would_refuse: Option<&'static str>,
    /// What can be awaited; then the same head, which is as it came, may be judged once more.
    pub wanted: Option<Box<Wanted>>,
}

/// What the checks found out so far: the answer and the log need it, however the request ends.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) route: Option<Arc<Route>>,
    pub(super) principal: Option<Principal>,
    pub(super) numbers: Option<Numbers>,
    pub(super) manner: Manner,
    pub(super) would_refuse: Option<&'static str>,
    pub(super) foreign: Option<Box<Foreign>>,
}

/// Why a check failed.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) refusal: Refusal,
    /// For the log; never for the client.
    pub(super) reason: &'static str,
    /// What can be awaited before this is the last word.
    pub(super) wanted: Option<Box<Wanted>>,
}

impl Known {
    pub(super) fn refused(self, fault: Fault, host: Option<String>) -> Box<Refused> {
        Box::new(Refused {
            refusal: fault.refusal,
            numbers: self.numbers,
            key: (self.principal.as_ref())
                .filter(|principal| principal.token.is_none())
                .map(|principal| principal.key),
            seat: self.principal.as_ref().map_or(0, Principal::seat),
            token: (self.principal.as_ref()).and_then(|principal| principal.token.clone()),
            tenant: self.principal.as_ref().map(|principal| principal.tenant),
            route: self.route,
            reason: fault.reason,
            host,
            manner: self.manner,
            would_refuse: self.would_refuse,
            wanted: fault.wanted,
        })
    }

    /// Lets a request pass a check that is only observed, and notes the first that would have refused it. What the headers then say is
    /// what they would have said.
    pub(super) fn observe(&mut self, checked: Result<(), Fault>, mode: Mode) -> Result<(), Fault> {
        match (checked, mode) {
            (Err(fault), Mode::Observe) => {
                self.would_refuse.get_or_insert(fault.reason);
                Ok(())
            }
            (checked, _) => checked,
        }
    }
}

impl Refused {
    /// Whether the answer is to be the twin of what is missing.
    #[must_use]
    pub fn is_twin(&self) -> bool {
        self.refusal == Refusal::NoRoute
            && matches!(self.reason, "foreign_tenant" | "foreign_subject")
    }
}

impl Fault {
    pub(super) fn new(refusal: Refusal, reason: &'static str) -> Fault {
        Fault {
            refusal,
            reason,
            wanted: None,
        }
    }

    pub(super) fn bad_request(detail: &'static str, reason: &'static str) -> Fault {
        Fault::new(Refusal::BadRequest(detail), reason)
    }
}
