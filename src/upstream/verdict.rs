//! What happens around the tries of one request: the wait for a place, the next server, and what each try says of the server that had it.

use std::rc::Rc;

use tokio::time::Instant;

use crate::refusal::UpstreamFailure;
use crate::upstream::Failure;
use crate::upstream::FailureKind;
use crate::upstream::Forwarded;
use crate::upstream::balance::Choice;
use crate::upstream::deadline::after;
use crate::upstream::deadline::earliest;
use crate::upstream::forward::Exchange;
use crate::upstream::queue::Bounds;
use crate::upstream::queue::Permit;
use crate::upstream::queue::TurnedAway;

impl Exchange<'_> {
    /// A place among the requests that the upstream takes at once; `None` where it takes any number.
    pub(super) async fn enter(&self) -> Result<Option<Rc<Permit>>, Failure> {
        self.servers.begin(self.upstream);
        let Some(most) = self.upstream.in_flight_max else {
            return Ok(None);
        };
        let bounds = Bounds {
            most: most as usize,
            waiting_max: self.upstream.queue_max as usize,
        };
        if let Some(permit) = self.servers.load.gate.enter(bounds) {
            return Ok(Some(Rc::new(permit)));
        }
        // Boxed: it is rare, and would make every request's future larger.
        Box::pin(self.wait(bounds)).await.map(Rc::new).map(Some)
    }

    async fn wait(&self, bounds: Bounds) -> Result<Permit, Failure> {
        let tenant = self.admission.tenant().map(|tenant| &tenant.id);
        let due = after(Instant::now(), self.upstream.queue_timeout);
        let gate = &self.servers.load.gate;
        let got = gate.wait(tenant, bounds, earliest(due, self.end)).await;
        got.map_err(|turned_away| {
            let detail = match turned_away {
                TurnedAway::Full => {
                    "queue_full: in_flight_max requests are under way, and too many wait"
                }
                TurnedAway::Late => {
                    "queue_timeout: in_flight_max requests are under way, and none ended in time"
                }
            };
            self.backend_failed(UpstreamFailure::ConnectionLimit, None, detail)
        })
    }

    /// A server for the first try, or for one more after `failure`, if there is one and `connect_retries` and the budget allow it.
    pub(super) fn next_try(
        &self,
        failed: &[usize],
        failure: Option<Failure>,
    ) -> Result<Choice, Failure> {
        let Some(failure) = failure else {
            let first = self.servers.choose(failed, self.upstream);
            return first.ok_or_else(|| self.nobody());
        };
        if failed.len() > self.upstream.connect_retries as usize {
            return Err(failure);
        }
        match self.servers.choose(failed, self.upstream) {
            Some(next) if self.servers.may_retry(self.upstream) => Ok(next),
            _ => Err(failure),
        }
    }

    fn nobody(&self) -> Failure {
        let detail = match self.servers.is_empty() {
            true => "no server",
            false => "every server is out",
        };
        self.backend_failed(UpstreamFailure::Unavailable, None, detail)
    }

    /// Counts a try for or against its server; what the client, or our own lack of something, brought about says nothing of it.
    pub(super) fn judge(&self, choice: &mut Choice, outcome: Result<&Forwarded, &Failure>) {
        match outcome {
            Ok(Forwarded::Answer(answer)) if self.is_bad(answer.response.status().as_u16()) => {
                let why = answer.response.status();
                self.servers.went_wrong(choice, self.upstream, why.as_str());
            }
            Ok(_) => self.servers.went_well(choice, self.upstream),
            Err(failure) => {
                if let FailureKind::Backend(kind) = failure.kind
                    && self.is_to_blame(kind)
                {
                    let why = kind.error_type();
                    self.servers.went_wrong(choice, self.upstream, why);
                }
            }
        }
    }

    fn is_bad(&self, status: u16) -> bool {
        status >= 500 && self.upstream.ejection.statuses.contains(&status)
    }

    fn is_to_blame(&self, kind: UpstreamFailure) -> bool {
        match kind {
            UpstreamFailure::DnsError
            | UpstreamFailure::ConnectionRefused
            | UpstreamFailure::ConnectionTerminated
            | UpstreamFailure::ProtocolError
            | UpstreamFailure::Unavailable
            | UpstreamFailure::TlsCertificate
            | UpstreamFailure::TlsProtocol => true,
            // A client that allows a backend no time, or uses that time up itself, could else take servers from everybody.
            UpstreamFailure::DnsTimeout
            | UpstreamFailure::ConnectionTimeout
            | UpstreamFailure::ResponseTimeout => {
                let ended = self.end.is_some_and(|end| Instant::now() >= end);
                !(ended && (self.hurried || self.upload.bytes() > 0))
            }
            UpstreamFailure::ConnectionLimit
            | UpstreamFailure::HeadTooLarge
            | UpstreamFailure::UpgradeFailed => false,
        }
    }
}
