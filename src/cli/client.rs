//! One call to the running gateway over its admin socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::Request;
use http::StatusCode;
use http::header::HOST;
use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::store::VerbError;
use crate::store::error::EXIT_PERMISSION;
use crate::store::error::EXIT_UNAVAILABLE;

/// Longest wait for an answer; the gateway itself gives up earlier.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(130);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// No gateway is running here.
    NobodyListens,
    /// A gateway is there, but did not answer as it should, or refused.
    Failed(VerbError),
}

/// Sends a request and gives the body of a successful answer.
///
/// # Errors
/// `NobodyListens`, or what the gateway said.
pub(super) fn call(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<Bytes, CallError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| unavailable(socket, &error))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "portcullis")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| unavailable(socket, &error))?;
    let answer = runtime
        .block_on(async { tokio::time::timeout(ANSWER_TIMEOUT, send(socket, request)).await });
    let (status, body) = answer.map_err(|elapsed| unavailable(socket, &elapsed))??;
    if status.is_success() {
        return Ok(body);
    }
    let said = serde_json::from_slice(&body);
    Err(CallError::Failed(said.unwrap_or_else(|_| VerbError {
        text: format!("the gateway at \"{}\" answered {status}", socket.display()),
        exit: EXIT_UNAVAILABLE,
    })))
}

async fn send(
    socket: &Path,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), CallError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| not_connected(socket, &error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unavailable(socket, &error))?;
    tokio::spawn(connection);
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| unavailable(socket, &error))?;
    let status = answer.status();
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| unavailable(socket, &error))?;
    Ok((status, body.to_bytes()))
}

fn not_connected(socket: &Path, error: &io::Error) -> CallError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => CallError::NobodyListens,
        io::ErrorKind::PermissionDenied => CallError::Failed(VerbError {
            text: format!(
                "\"{}\": {error}; run this as the gateway's user, or as a member of its group where listen.admin_socket stands in a directory open to that group",
                socket.display()
            ),
            exit: EXIT_PERMISSION,
        }),
        _ => unavailable(socket, error),
    }
}

fn unavailable(socket: &Path, error: &dyn std::error::Error) -> CallError {
    CallError::Failed(VerbError {
        text: format!(
            "the gateway at \"{}\" did not answer: {error}; whether it did what was asked is not known, `portcullis keys list` shows it",
            socket.display()
        ),
        exit: EXIT_UNAVAILABLE,
    })
}
