//! A new connection to a server: name, TCP, TLS, HTTP/1.1, all within the connect timeout.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::config::Upstream;
use crate::descriptors;
use crate::refusal::UpstreamFailure;
use crate::upstream::deadline::after;
use crate::upstream::deadline::earliest;
use crate::upstream::http1::Connection;
use crate::upstream::http1::Limits;
use crate::upstream::http1::SharedConnection;
use crate::upstream::pool::Server;
use crate::upstream::wire::Wire;

/// Why there is no connection; nothing was sent.
#[derive(Debug)]
pub(super) struct ConnectFailure {
    pub(super) kind: UpstreamFailure,
    pub(super) detail: String,
}

impl ConnectFailure {
    pub(super) fn new(kind: UpstreamFailure, detail: &str) -> ConnectFailure {
        ConnectFailure {
            kind,
            detail: detail.to_owned(),
        }
    }
}

/// Connects.
///
/// # Errors
/// `ConnectFailure` when the server could not be reached by `connect_timeout` or `end`.
pub(super) async fn connect(
    server: &Server,
    upstream: &Upstream,
    end: Option<Instant>,
) -> Result<SharedConnection, ConnectFailure> {
    let due = earliest(after(Instant::now(), upstream.connect_timeout), end);
    let wire = open(server, due).await?;
    let limits = Limits {
        head_bytes_max: upstream.head_bytes_max,
        header_count_max: upstream.header_count_max,
    };
    Ok(Connection::new(wire, limits))
}

/// Which part of connecting is under way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Resolving,
    Connecting,
    Securing,
}

/// Reaches the server: name, TCP and, where it is spoken to over TLS, the handshake, all by `due`.
///
/// # Errors
/// Which of them failed.
pub(super) async fn open(server: &Server, due: Instant) -> Result<Wire, ConnectFailure> {
    let stage = Cell::new(Stage::Resolving);
    match tokio::time::timeout_at(due, reach(server, &stage)).await {
        Ok(reached) => reached,
        Err(_) => {
            let kind = if stage.get() == Stage::Resolving {
                UpstreamFailure::DnsTimeout
            } else {
                UpstreamFailure::ConnectionTimeout
            };
            let detail = match stage.get() {
                Stage::Securing => "no TLS within the connect timeout",
                Stage::Resolving | Stage::Connecting => "no connection within the connect timeout",
            };
            Err(ConnectFailure::new(kind, detail))
        }
    }
}

async fn reach(server: &Server, stage: &Cell<Stage>) -> Result<Wire, ConnectFailure> {
    let stream = dial(server, stage).await;
    let resolving = stage.get() == Stage::Resolving;
    let stream = stream.map_err(|error| failure(&error, resolving))?;
    if !descriptors::backend_may_stay(&stream) {
        let kind = UpstreamFailure::ConnectionLimit;
        let detail =
            "the file descriptors that are left are for the control side; raise LimitNOFILE=";
        return Err(ConnectFailure::new(kind, detail));
    }
    // A request is one write; waiting for more to send with it only delays it.
    stream
        .set_nodelay(true)
        .map_err(|error| failure(&error, false))?;
    let Some(secure) = &server.secure else {
        return Ok(Wire::Clear(stream));
    };
    stage.set(Stage::Securing);
    let (Some(config), Some(name)) = (&secure.client_config, &secure.name) else {
        let kind = UpstreamFailure::TlsProtocol;
        return Err(ConnectFailure::new(kind, "TLS was not made ready"));
    };
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = connector.connect(name.clone(), stream).await;
    let stream = stream.map_err(|error| tls_failure(&error))?;
    Ok(Wire::Tls(Box::new(stream)))
}

async fn dial(server: &Server, stage: &Cell<Stage>) -> io::Result<TcpStream> {
    if let Some(address) = server.address {
        stage.set(Stage::Connecting);
        return TcpStream::connect(address).await;
    }
    let found = tokio::net::lookup_host((server.host.as_str(), server.port)).await?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(io::Error::other("the name has no address"));
    }
    stage.set(Stage::Connecting);
    TcpStream::connect(addresses.as_slice()).await
}

fn failure(error: &io::Error, resolving: bool) -> ConnectFailure {
    let kind = match error.kind() {
        _ if resolving => UpstreamFailure::DnsError,
        io::ErrorKind::TimedOut => UpstreamFailure::ConnectionTimeout,
        io::ErrorKind::AddrNotAvailable => UpstreamFailure::ConnectionLimit,
        _ if is_out_of_files(error) => UpstreamFailure::ConnectionLimit,
        _ => UpstreamFailure::ConnectionRefused,
    };
    ConnectFailure {
        kind,
        detail: error.to_string(),
    }
}

/// Whether it is the certificate that is wrong, or TLS as such.
fn tls_failure(error: &io::Error) -> ConnectFailure {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let kind = match cause {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            UpstreamFailure::TlsCertificate
        }
        _ => UpstreamFailure::TlsProtocol,
    };
    ConnectFailure::new(kind, &format!("TLS: {error}"))
}

fn is_out_of_files(error: &io::Error) -> bool {
    let raw = error.raw_os_error();
    raw == Some(rustix::io::Errno::MFILE.raw_os_error())
        || raw == Some(rustix::io::Errno::NFILE.raw_os_error())
}
