//! One bounded call of the control side to an identity provider: a name, a connection, a request, and an answer that is read no further than
//! it is worth. Follows no redirects. Who asks often keeps some connections.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::StatusCode;
use http::header;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::model::issuer::Endpoint;
use crate::upstream;

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Connections kept for each address.
const IDLE_EACH_MAX: usize = 8;

/// How long one is kept without use: less than the 5 s after which Node closes its own.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// How long one is used at most: a changed `ca` is in force after that.
const AGE_MAX: Duration = Duration::from_secs(60);

/// An answer that came in time and whole.
pub(crate) struct Fetched {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Connections that are kept between calls to the same address: few, and not for long. Only calls that change nothing may use them.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<HashMap<Place, Vec<Idle>>>);

/// An address, and whom it is believed by.
type Place = (String, Option<PathBuf>);

/// A connection and the task that drives it, which ends with it.
#[derive(Debug)]
struct Link {
    sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Idle {
    link: Link,
    opened: Instant,
    since: Instant,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Idle {
    /// Whether nothing speaks against it: it is open, has nothing under way, and is neither old nor idle for longer than servers keep theirs.
    fn is_good(&self) -> bool {
        let sender = &self.link.sender;
        sender.is_ready() && self.since.elapsed() < IDLE_MAX && self.opened.elapsed() < AGE_MAX
    }
}

impl Kept {
    fn take(&self, place: &Place) -> Option<Idle> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let there = all.get_mut(place)?;
        // What is not good is dropped here, the latest first.
        std::iter::from_fn(|| there.pop()).find(Idle::is_good)
    }

    fn put(&self, place: Place, link: Link, opened: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was used just now may still be busy with its end.
        all.retain(|_, idle| {
            idle.retain(|one| one.since.elapsed() < IDLE_MAX && !one.link.sender.is_closed());
            !idle.is_empty()
        });
        let there = all.entry(place).or_default();
        if there.len() < IDLE_EACH_MAX {
            let since = Instant::now();
            there.push(Idle {
                link,
                opened,
                since,
            });
        }
    }
}

/// Asks `endpoint` and reads at most `bytes_max` of the answer, all of it within `timeout`. With `kept`, on a connection that is there already, if one
/// is; should it turn out to be closed, once more on a new one.
///
/// # Errors
/// Why there is no answer, for people.
pub(crate) async fn call(
    kept: Option<&Kept>,
    endpoint: &Endpoint,
    ca: Option<&PathBuf>,
    request: http::request::Builder,
    body: Bytes,
    bytes_max: usize,
    timeout: Duration,
) -> Result<Fetched, String> {
    let exchange = async {
        let mut request = request
            .uri(&endpoint.target)
            .header(header::HOST, host_of(endpoint))
            .header(header::USER_AGENT, "portcullis")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let Some(kept) = kept else {
            let close = HeaderValue::from_static("close");
            request.headers_mut().insert(header::CONNECTION, close);
            let mut link = connect(endpoint, ca).await?;
            return exchange(&mut link, request, bytes_max).await;
        };
        let place = (endpoint.text.clone(), ca.cloned());
        if let Some(mut idle) = kept.take(&place)
            && let Ok(fetched) = exchange(&mut idle.link, request.clone(), bytes_max).await
        {
            kept.put(place, idle.link, idle.opened);
            return Ok(fetched);
        }
        let opened = Instant::now();
        let mut link = connect(endpoint, ca).await?;
        let fetched = exchange(&mut link, request, bytes_max).await?;
        kept.put(place, link, opened);
        Ok(fetched)
    };
    tokio::time::timeout(timeout, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("no whole answer within {timeout:?}")))
}

async fn connect(endpoint: &Endpoint, ca: Option<&PathBuf>) -> Result<Link, String> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(|error| format!("no connection: {error}"))?;
    if !endpoint.tls {
        return link(stream).await;
    }
    let config = trusting(ca).await?;
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| "its host is no name that a certificate can have".to_owned())?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    link(stream.map_err(|error| format!("TLS: {error}"))?).await
}

async fn link<T>(stream: T) -> Result<Link, String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_header_size(HEAD_BYTES_MAX);
    let (sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // What breaks it is told by the call that it breaks.
    let task = tokio::spawn(connection).abort_handle();
    Ok(Link { sender, task })
}

async fn exchange(
    link: &mut Link,
    request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> Result<Fetched, String> {
    let answer = link.sender.send_request(request).await;
    let answer = answer.map_err(|error| format!("no answer: {error}"))?;
    let status = answer.status();
    let body = read(answer.into_body(), bytes_max).await?;
    Ok(Fetched { status, body })
}

async fn read(body: Incoming, bytes_max: usize) -> Result<Bytes, String> {
    let whole = Limited::new(body, bytes_max).collect().await;
    whole.map(|whole| whole.to_bytes()).map_err(|error| {
        format!("its answer is larger than {bytes_max} bytes, or broke off: {error}")
    })
}

/// Read anew for each connection: they are rare, and a changed file is then in force at once.
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
