//! Bodies on their way: counted, bounded, never held whole; a broken one looks broken at the other end.
//!
//! `request` is the client's on its way to a backend, `response` the backend's on its way to the client; here is what both know of the upload.

mod request;
mod response;

use std::cell::Cell;
use std::error::Error;
use std::fmt;

use tokio::time::Instant;

use crate::upstream::client::ClientFault;

pub(super) use request::RequestBody;
pub(super) use response::Hold;
pub use response::Outcome;
pub use response::ResponseBody;
pub(super) use response::Source;

/// What the forwarder knows of the client's body while it is being sent.
#[derive(Debug, Default)]
pub(super) struct Upload {
    pub(super) bytes: Cell<u64>,
    pub(super) complete: Cell<bool>,
    pub(super) awaits_client: Cell<bool>,
    pub(super) progressed: Cell<Option<Instant>>,
    pub(super) fault: Cell<Option<BodyFault>>,
    /// Set when the answer was given up: then nobody waits for a polite end of the body either.
    pub(super) abandoned: Cell<bool>,
}

impl Upload {
    /// Bytes that the client has sent so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether it is the client that everybody waits for: then the backend's time does not run.
    pub(super) fn awaits_client(&self) -> bool {
        self.awaits_client.get() && !self.complete.get()
    }

    /// When the connection last took a piece of the body; `None` before the first and without a body.
    pub(super) fn progressed(&self) -> Option<Instant> {
        self.progressed.get()
    }

    /// Why the body broke off, if it did.
    pub(super) fn fault(&self) -> Option<BodyFault> {
        self.fault.get()
    }
}

/// Why a body in transit was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// The client fell silent, or its time was up.
    ClientStalled,
    /// The client sent more than the route allows.
    TooLarge,
    /// The client's framing is broken (S3).
    Malformed,
    /// The client's body is not the JSON object that the route's guard can read (FM9).
    Unfit,
    /// The client went away.
    ClientGone,
    /// The backend fell silent, or the exchange ran out of time.
    UpstreamSilent,
    /// The backend's body ended before its end.
    UpstreamBroke,
    /// The guard found in the answer what may not go on.
    GuardCut,
}

impl From<ClientFault> for BodyFault {
    fn from(fault: ClientFault) -> BodyFault {
        match fault {
            ClientFault::Malformed => BodyFault::Malformed,
            ClientFault::Gone => BodyFault::ClientGone,
        }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            BodyFault::ClientStalled => "the client stalled while sending its body",
            BodyFault::TooLarge => "the client's body is larger than allowed",
            BodyFault::Malformed => "the client's body is not framed correctly",
            BodyFault::Unfit => "the client's body is not one JSON object",
            BodyFault::GuardCut => "the guard cut the answer",
            BodyFault::ClientGone => "the client went away while sending its body",
            BodyFault::UpstreamSilent => "the upstream's body did not go on in time",
            BodyFault::UpstreamBroke => "the upstream's body broke off",
        })
    }
}

impl Error for BodyFault {}
