//! What a route's guard found in an answer, and what was done about it.

use crate::guard::Fault;
use crate::model::guard::Guard;
use crate::model::key::KeyId;
use crate::model::limit::Mode;

use super::Account;

/// What a guard did about what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Answered something else.
    Refused,
    /// Cut the answer.
    Cut,
    /// Nothing but tell.
    Observed,
}

impl Deed {
    /// What is done about what is found once the head of the answer is sent.
    pub(crate) fn at_sight(guard: &Guard) -> Deed {
        match guard.mode {
            Mode::Enforce => Deed::Cut,
            Mode::Observe => Deed::Observed,
        }
    }
}

impl Account {
    /// The route's guard found this; told at once and never with what stood there (FM6).
    pub(crate) fn guard_found(&mut self, guard: &Guard, fault: Fault, deed: Deed) {
        let (reason, what) = match fault {
            Fault::Foreign(index) => {
                let member = guard.answers.get(index);
                (
                    "guard_foreign",
                    member.map_or("", |member| member.name.as_str()),
                )
            }
            Fault::Broken(what) => ("guard_broken", what),
            Fault::Undecodable(what) => ("guard_undecodable", what),
            Fault::Bomb => ("guard_bomb", "it decodes to more than the guard allows"),
        };
        let outcome = match (deed, reason) {
            (Deed::Refused, "guard_foreign") => "foreign_refused",
            (Deed::Cut, "guard_foreign") => "foreign_cut",
            (Deed::Refused, _) => "broken_refused",
            (Deed::Cut, _) => "broken_cut",
            (Deed::Observed, "guard_foreign") => "would_refuse_foreign",
            (Deed::Observed, _) => "would_refuse_broken",
        };
        self.worker.meters.guard(outcome);
        let mut key = [0u8; 16];
        let key_id = self.key.as_ref().map_or("", |id| key_text(id, &mut key));
        let route = self.route().map_or("", |route| route.path.as_str());
        let (upstream, guard) = (self.upstream_text(), guard.name.as_str());
        let request_id = self.request_id.as_str();
        if let Fault::Foreign(_) = fault {
            tracing::warn!(
                route,
                key_id,
                upstream,
                guard,
                member = what,
                outcome,
                request_id,
                "another tenant's id stands in an answer: the backend does not keep tenants apart here"
            );
        } else {
            tracing::warn!(
                route,
                key_id,
                upstream,
                guard,
                why = what,
                outcome,
                request_id,
                "an answer cannot be judged by its guard"
            );
        }
        match deed {
            Deed::Refused => {}
            Deed::Cut => {
                self.reason = reason;
                self.worker.meters.refusal(reason);
            }
            Deed::Observed => self.observed(Some(reason)),
        }
    }

    /// How many members the route's guard took out of one answer, or would have.
    pub(crate) fn guard_removed(&self, guard: &Guard, members: u64) {
        if members == 0 {
            return;
        }
        if guard.mode == Mode::Enforce {
            return self.worker.meters.guard("removed");
        }
        self.worker.meters.guard("would_remove");
        let route = self.route().map_or("", |route| route.path.as_str());
        let (upstream, guard) = (self.upstream_text(), guard.name.as_str());
        tracing::info!(
            route,
            upstream,
            guard,
            members,
            "the guard would take members out of this answer"
        );
    }
}

fn key_text<'a>(id: &KeyId, room: &'a mut [u8; 16]) -> &'a str {
    room[..4].copy_from_slice(b"key_");
    room[4..].copy_from_slice(&id.0);
    std::str::from_utf8(room).unwrap_or("")
}
