//! What becomes of a try that failed: another, or a failure that says whose it is.

use std::error::Error;
use std::rc::Rc;

use crate::refusal::UpstreamFailure;
use crate::upstream::Failure;
use crate::upstream::FailureKind;
use crate::upstream::body::BodyFault;
use crate::upstream::http1::Connection;
use crate::upstream::http1::Fault;
use crate::upstream::pool::Lease;
use crate::upstream::pool::Server;

use super::Exchange;
use super::Sent;

impl Exchange<'_> {
    /// What is sent again: anything of which nothing was sent; and, should a kept connection turn out to be closed, what `may_repeat`: a safe method
    /// without a body. A DELETE is idempotent too, but answered twice it says 404 to a client whose deletion succeeded (RFC 9110 section 9.2.2; S36).
    pub(super) fn after_fault(
        &self,
        lease: &Lease,
        connection: &mut Connection,
        fault: Fault,
        may_repeat: bool,
    ) -> Sent {
        let server = Some(lease.server());
        if let Some(fault) = self.upload.fault() {
            return Sent::Failed(self.client_failed(fault, server));
        }
        let (kind, detail) = match &fault {
            Fault::Client => {
                return Sent::Failed(self.client_failed(BodyFault::Malformed, server));
            }
            Fault::HeadTooLarge => (
                UpstreamFailure::HeadTooLarge,
                "the answer's head is too large",
            ),
            Fault::Protocol(detail) => (UpstreamFailure::ProtocolError, *detail),
            Fault::Unsent(detail) | Fault::Ended { detail, .. } => {
                (UpstreamFailure::ConnectionTerminated, detail.as_str())
            }
        };
        let failure = self.backend_failed(kind, server, detail);
        let (again, stale) = match &fault {
            Fault::Unsent(_) => (true, lease.is_reused()),
            Fault::Ended { answering, .. } => {
                let stale = may_repeat && lease.is_reused() && !answering;
                (stale, stale)
            }
            _ => (false, false),
        };
        match connection.take_back().filter(|_| again) {
            Some(body) if stale => Sent::Again(body),
            Some(body) => Sent::Unsent(body, failure),
            None => Sent::Failed(failure),
        }
    }

    pub(in crate::upstream) fn timed_out(&self, server: &Server) -> Failure {
        if self.upload.awaits_client() {
            return self.client_failed(BodyFault::ClientStalled, Some(server));
        }
        let detail = "no answer head in time";
        self.backend_failed(UpstreamFailure::ResponseTimeout, Some(server), detail)
    }

    pub(in crate::upstream) fn client_failed(
        &self,
        fault: BodyFault,
        server: Option<&Server>,
    ) -> Failure {
        let kind = match fault {
            BodyFault::ClientStalled => FailureKind::ClientStalled,
            BodyFault::TooLarge => FailureKind::BodyTooLarge,
            BodyFault::Malformed => FailureKind::BodyMalformed,
            BodyFault::Unfit => FailureKind::BodyUnfit,
            BodyFault::ClientGone => FailureKind::ClientGone,
            BodyFault::UpstreamSilent | BodyFault::UpstreamBroke | BodyFault::GuardCut => {
                FailureKind::Backend(UpstreamFailure::ConnectionTerminated)
            }
        };
        Failure {
            kind,
            server: server.map(|server| Rc::clone(&server.name)),
            detail: fault.to_string(),
        }
    }

    pub(in crate::upstream) fn type_unfit(&self) -> Failure {
        Failure {
            kind: FailureKind::TypeUnfit,
            server: None,
            detail: "this route reads no body of this type".to_owned(),
        }
    }

    pub(in crate::upstream) fn backend_failed(
        &self,
        kind: UpstreamFailure,
        server: Option<&Server>,
        detail: &str,
    ) -> Failure {
        Failure {
            kind: FailureKind::Backend(kind),
            server: server.map(|server| Rc::clone(&server.name)),
            detail: format!("upstream {}: {detail}", self.upstream.name),
        }
    }
}

/// An error with its causes, for the log.
pub(in crate::upstream) fn story(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
