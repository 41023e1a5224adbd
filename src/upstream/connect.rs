//! A new connection to a server: name, TCP, HTTP/1.1, all within the connect timeout.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::Upstream;
use crate::descriptors;
use crate::refusal::UpstreamFailure;
use crate::upstream::deadline::after;
use crate::upstream::deadline::earliest;
use crate::upstream::pool::Connection;
use crate::upstream::pool::Server;

/// Why there is no connection; nothing was sent.
#[derive(Debug)]
pub(super) struct ConnectFailure {
    pub(super) kind: UpstreamFailure,
    pub(super) detail: String,
}

/// Connects, and starts the task that drives the connection.
///
/// # Errors
/// `ConnectFailure` when the server could not be reached by `connect_timeout` or `end`.
pub(super) async fn connect(
    server: &Server,
    upstream: &Upstream,
    end: Option<Instant>,
) -> Result<Connection, ConnectFailure> {
    let due = earliest(after(Instant::now(), upstream.connect_timeout), end);
    let resolving = Cell::new(true);
    let stream = match tokio::time::timeout_at(due, dial(server, &resolving)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failure(&error, resolving.get())),
        Err(_) => {
            let kind = if resolving.get() {
                UpstreamFailure::DnsTimeout
            } else {
                UpstreamFailure::ConnectionTimeout
            };
            let detail = "no connection within the connect timeout".to_owned();
            return Err(ConnectFailure { kind, detail });
        }
    };
    if !descriptors::backend_may_stay(&stream) {
        return Err(ConnectFailure {
            kind: UpstreamFailure::ConnectionLimit,
            detail:
                "the file descriptors that are left are for the control side; raise LimitNOFILE="
                    .to_owned(),
        });
    }
    // A request is one write; waiting for more to send with it only delays it.
    if let Err(error) = stream.set_nodelay(true) {
        return Err(failure(&error, false));
    }
    start(stream, upstream).await
}

async fn dial(server: &Server, resolving: &Cell<bool>) -> io::Result<TcpStream> {
    if let Some(address) = server.address {
        resolving.set(false);
        return TcpStream::connect(address).await;
    }
    let found = tokio::net::lookup_host((server.host.as_str(), server.port)).await?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(io::Error::other("the name has no address"));
    }
    resolving.set(false);
    TcpStream::connect(addresses.as_slice()).await
}

async fn start(stream: TcpStream, upstream: &Upstream) -> Result<Connection, ConnectFailure> {
    let mut builder = http1::Builder::new();
    builder
        .max_header_size(upstream.head_bytes_max)
        .max_buf_size(BUFFER_BYTES_MAX.max(upstream.head_bytes_max));
    // Saying what hyper does anyway costs every answer the filling of two arrays.
    if upstream.header_count_max != HYPER_HEADERS {
        builder.max_headers(upstream.header_count_max);
    }
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| ConnectFailure {
        kind: UpstreamFailure::ConnectionTerminated,
        detail: error.to_string(),
    })?;
    let task = tokio::task::spawn_local(async move {
        // An error reaches the request it belongs to; on an idle connection it concerns nobody.
        let _ = connection.await;
    });
    Ok(Connection {
        sender,
        task: task.abort_handle(),
    })
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

fn is_out_of_files(error: &io::Error) -> bool {
    let raw = error.raw_os_error();
    raw == Some(rustix::io::Errno::MFILE.raw_os_error())
        || raw == Some(rustix::io::Errno::NFILE.raw_os_error())
}

/// Most bytes held of a body on its way, in each direction of a connection; hyper's own default is 400 KiB.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
/// Header fields that hyper takes without being told.
const HYPER_HEADERS: usize = 100;
