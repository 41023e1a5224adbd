//! One request on one page: admit, forward, answer, log.

use std::convert::Infallible;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;

use crate::clock::Clock;
use crate::gate::Peer;
use crate::snapshot::Snapshot;

/// What went wrong inside a response body.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The body of every answer.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// What one data thread holds for its requests; shared as `Rc` within the thread.
#[derive(Debug)]
pub struct Worker {
    /// The view in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where the time comes from.
    pub clock: Clock,
}

/// Answers one request of a TLS connection.
pub async fn handle(
    _worker: Rc<Worker>,
    _peer: Peer,
    _request: Request<Incoming>,
) -> Response<ResponseBody> {
    empty(StatusCode::NOT_FOUND)
}

/// The 403 of the plain listener, in the configured shape.
pub fn refuse_plaintext(
    _worker: &Worker,
    _peer: Peer,
    _request: Request<Incoming>,
) -> Response<ResponseBody> {
    empty(StatusCode::FORBIDDEN)
}

fn empty(status: StatusCode) -> Response<ResponseBody> {
    let body = Empty::new().map_err(|never: Infallible| match never {});
    let mut response = Response::new(UnsyncBoxBody::new(body));
    *response.status_mut() = status;
    response
}
