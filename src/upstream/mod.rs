//! The servers behind a name: choice, connection pool, and the one way to them, `forward`.

use http::Response;
use http::request::Parts;
use hyper::body::Incoming;

use crate::gate::Admission;
use crate::gate::Peer;
use crate::refusal::UpstreamFailure;

/// The connections of one worker to all upstreams; lives on one thread.
#[derive(Debug, Default)]
pub struct Pools {}

/// A finished forward: the backend's answer, its head cleaned, its body streaming with every wait bounded.
#[derive(Debug)]
pub struct Answer {
    /// What goes to the client.
    pub response: Response<ResponseBody>,
    /// `host:port` of the server that answered, for the log.
    pub server: String,
}

/// A failed forward.
#[derive(Debug)]
pub struct Failure {
    /// What the client is told.
    pub kind: FailureKind,
    /// The server that failed, `host:port`, if one was chosen; for the log.
    pub server: Option<String>,
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
    /// The client's body broke off: nobody is left to answer.
    ClientGone,
}

/// A backend's body on its way to the client.
#[derive(Debug)]
pub struct ResponseBody {}

impl Pools {
    /// Sends an admitted request and waits for the head of the answer. Headers are prepared here, last of all (DESIGN section 3, step 7).
    ///
    /// # Errors
    /// `Failure` when no answer head came.
    pub async fn forward(
        &self,
        _admission: &Admission,
        _peer: &Peer,
        _request_id: &http::HeaderValue,
        _head: Parts,
        _body: Incoming,
    ) -> Result<Answer, Failure> {
        todo!()
    }
}
