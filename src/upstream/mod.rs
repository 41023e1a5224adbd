//! The servers behind a name: choice, connection pool, and the one way to them, `forward`.

use std::rc::Rc;
use std::sync::Arc;

use http::Response;
use http::response;

use crate::gate::Admission;
use crate::gate::Peer;
use crate::model::request_id::RequestId;
use crate::refusal::UpstreamFailure;
use crate::upstream::headers::Own;

mod backends;
mod balance;
mod body;
mod budget;
pub mod check;
mod client;
mod connect;
mod deadline;
mod drain;
mod forward;
mod headers;
mod health;
mod hold;
pub(crate) mod http1;
mod http2;
mod inject;
#[cfg(test)]
mod interleaved;
mod json_form;
mod link;
mod location;
mod outbox;
mod payload;
mod pieces;
mod pool;
mod prepared;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod queue;
mod references;
mod sync;
#[cfg(test)]
mod tests;
pub mod tls;
mod tunnel;
mod turn;
mod verdict;
mod websocket;
mod wire;

pub use backends::Backends;
pub use backends::ServerReport;
pub use backends::UpstreamReport;
pub use body::BodyFault;
pub use body::Outcome;
pub use body::ResponseBody;
pub use client::BodySource;
pub use client::ClientBody;
pub use client::ClientFault;
pub use client::ClientRequest;
pub use client::ClientStream;
pub use client::Transport;
pub use drain::Unread;
pub use drain::drain;
pub use tunnel::Ending;
pub use tunnel::Opening;
pub use tunnel::Tunnel;
pub(crate) use turn::turn;
pub use websocket::CloseCode;
pub(crate) use wire::poll_piece;

/// The connections of one worker to all upstreams; lives on one thread, in its local runtime.
#[derive(Debug, Default)]
pub struct Pools {
    directory: pool::Directory,
}

/// A finished forward: the backend's answer, its head cleaned, its body streaming with every wait bounded.
#[derive(Debug)]
pub struct Answer {
    /// What goes to the client.
    pub response: Response<Box<ResponseBody>>,
    /// `host:port` of the server that answered, for the log.
    pub server: Rc<str>,
}

/// What a forward came to.
#[derive(Debug)]
pub enum Forwarded {
    /// An answer.
    Answer(Answer),
    /// A 101 that was asked for: HTTP ends here.
    Switched(Box<Switched>),
}

/// A backend's consent to speak WebSocket.
#[derive(Debug)]
pub struct Switched {
    /// The head of the 101, cleaned.
    pub head: response::Parts,
    /// `host:port` of the server, for the log.
    pub server: Rc<str>,
    /// What is to be opened once the client has that head.
    pub opening: Opening,
}

/// A failed forward.
#[derive(Debug)]
pub struct Failure {
    /// What the client is told.
    pub kind: FailureKind,
    /// The server that failed, `host:port`, if one was chosen; for the log.
    pub server: Option<Rc<str>>,
    /// The whole story, for the log; never a header value.
    pub detail: String,
}

/// Whose fault a failed forward is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The backend's.
    Backend(UpstreamFailure),
    /// The client stalled while sending its body: 408.
    ClientStalled,
    /// The client's body is larger than allowed: 413.
    BodyTooLarge,
    /// The client's body is not framed correctly: 400, and the connection closes (S3).
    BodyMalformed,
    /// The client's body is not the JSON object that the route asks for: 400.
    BodyUnfit,
    /// The client's body is of a type that the route does not read: 415.
    TypeUnfit,
    /// The client's JSON says what no form can: 400 (PB6).
    FormUnfit,
    /// A reference in the client's body can name nothing, or there are too many: 400 (FM10).
    ReferenceUnfit,
    /// A reference in the client's body names what the caller has not: the 404 twin (FM10).
    ReferenceForeign,
    /// The client's body broke off: nobody is left to answer.
    ClientGone,
}

impl FailureKind {
    /// A word for the log.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            FailureKind::Backend(failure) => failure.error_type(),
            FailureKind::ClientStalled => "client_stalled",
            FailureKind::BodyTooLarge => "body_too_large",
            FailureKind::BodyMalformed => "body_malformed",
            FailureKind::BodyUnfit => "body_unfit",
            FailureKind::TypeUnfit => "type_unfit",
            FailureKind::FormUnfit => "form_unfit",
            FailureKind::ReferenceUnfit => "reference_unfit",
            FailureKind::ReferenceForeign => "foreign_reference",
            FailureKind::ClientGone => "client_gone",
        }
    }
}

impl Pools {
    /// A worker's own, beside what it shares with the others.
    #[must_use]
    pub fn new(backends: Arc<Backends>) -> Pools {
        Pools {
            directory: pool::Directory::new(backends),
        }
    }

    /// Sends an admitted request and waits for the head of the answer. Headers are prepared here, last of all (DESIGN section 3, step 7).
    /// Dropping the future, or the answer's body before its end, closes the backend's connection, or resets the one stream of a shared one (S38, S44).
    /// A tunnel comes only of a 101 for the WebSocket that was asked for (S7). `by_line` says that the caller looks whether the answer's body has its
    /// fields, and writes them from there.
    ///
    /// # Errors
    /// `Failure` when no answer head came.
    pub fn forward<'a>(
        &'a self,
        admission: &'a Admission,
        peer: &Peer,
        request_id: &'a RequestId,
        by_line: bool,
        request: ClientRequest,
    ) -> impl Future<Output = Result<Forwarded, Failure>> + use<'a> {
        let own = Own::new(peer, request_id, request.head.version);
        forward::forward(&self.directory, admission, own, by_line, request)
    }

    /// Closes connections that were idle for too long; to be called about once a second.
    pub fn sweep(&self) {
        self.directory.sweep();
    }
}
