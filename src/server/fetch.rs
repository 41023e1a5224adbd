//! One bounded call of the control side to an identity provider: a name, a connection, a request, and an answer that is read no further than
//! it is worth. Follows no redirects.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::model::issuer::Endpoint;
use crate::upstream;

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// An answer that came in time and whole.
pub(crate) struct Fetched {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Asks `endpoint` and reads at most `bytes_max` of the answer, all of it within `timeout`.
///
/// # Errors
/// Why there is no answer, for people.
pub(crate) async fn call(
    endpoint: &Endpoint,
    ca: Option<&PathBuf>,
    request: http::request::Builder,
    body: Bytes,
    bytes_max: usize,
    timeout: Duration,
) -> Result<Fetched, String> {
    let exchange = async {
        let request = request
            .uri(&endpoint.target)
            .header(header::HOST, host_of(endpoint))
            .header(header::USER_AGENT, "portcullis")
            .header(header::CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
            .await
            .map_err(|error| format!("no connection: {error}"))?;
        if !endpoint.tls {
            return exchange(stream, request, bytes_max).await;
        }
        let config = trusting(ca).await?;
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|_| "its host is no name that a certificate can have".to_owned())?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(|error| format!("TLS: {error}"))?;
        exchange(stream, request, bytes_max).await
    };
    tokio::time::timeout(timeout, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("no whole answer within {timeout:?}")))
}

async fn exchange<T>(
    stream: T,
    request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> Result<Fetched, String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_header_size(HEAD_BYTES_MAX);
    let (mut sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let answering = async {
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| format!("no answer: {error}"))?;
        let status = answer.status();
        let body = read(answer.into_body(), bytes_max).await?;
        Ok(Fetched { status, body })
    };
    // The connection is driven here and dies with the call.
    let mut connection = std::pin::pin!(connection);
    let mut answering = std::pin::pin!(answering);
    tokio::select! {
        biased;
        answer = &mut answering => answer,
        ended = &mut connection => match ended {
            Ok(()) => answering.await,
            Err(error) => Err(format!("the connection broke: {error}")),
        },
    }
}

async fn read(body: Incoming, bytes_max: usize) -> Result<Bytes, String> {
    let whole = Limited::new(body, bytes_max).collect().await;
    whole.map(|whole| whole.to_bytes()).map_err(|error| {
        format!("its answer is larger than {bytes_max} bytes, or broke off: {error}")
    })
}

/// Read anew for each call: calls are rare, and a changed file is then in force at once.
async fn trusting(ca: Option<&PathBuf>) -> Result<Arc<ClientConfig>, String> {
    let ca = ca.cloned();
    let work = move || upstream::tls::trusting(ca.as_deref().map(Path::new));
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(config)) => Ok(Arc::new(config)),
        Ok(Err(problem)) => Err(problem.to_string()),
        Err(_) => Err("the certificate authorities could not be read".to_owned()),
    }
}

fn host_of(endpoint: &Endpoint) -> String {
    let usual = if endpoint.tls { 443 } else { 80 };
    let host = match endpoint.host.contains(':') {
        true => format!("[{}]", endpoint.host),
        false => endpoint.host.clone(),
    };
    match endpoint.port == usual {
        true => host,
        false => format!("{host}:{}", endpoint.port),
    }
}
