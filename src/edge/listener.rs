//! Listening sockets: bound exclusively, one per worker, or taken over from systemd.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::time::Duration;

use listenfd::ListenFd;
use rustix::process::Resource;
use rustix::process::Rlimit;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::TcpKeepalive;
use socket2::Type;

use crate::config::Listen;

/// Everything the process listens on.
#[derive(Debug)]
pub struct Bound {
    /// One set per worker.
    pub workers: Vec<WorkerSockets>,
    /// Health and metrics, if configured or handed over.
    pub admin: Option<TcpListener>,
    /// The TLS addresses with their real ports (a configured port 0 is resolved).
    pub https: Vec<SocketAddr>,
    /// The plain addresses with their real ports.
    pub http: Vec<SocketAddr>,
    /// Whether client sockets came from systemd: then a restart loses no queued connection.
    pub inherited: bool,
}

/// The sockets of one worker; all non-blocking.
#[derive(Debug, Default)]
pub struct WorkerSockets {
    /// TLS listeners.
    pub https: Vec<TcpListener>,
    /// Plain listeners.
    pub http: Vec<TcpListener>,
    /// They came from systemd, which keeps them open: connections that nobody has accepted wait for the next process.
    pub inherited: bool,
}

/// An address that could not be listened on.
#[derive(Debug)]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

impl BindError {
    /// What the process exits with: 77 when permission is missing, else 69.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => 77,
            _ => 69,
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { address, source } = self;
        write!(f, "cannot listen on {address}: ")?;
        match source.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "the port is taken, perhaps by another portcullis; `ss -ltnp 'sport = :{}'` shows by whom; stop it or change [listen]",
                address.port()
            ),
            io::ErrorKind::PermissionDenied => write!(
                f,
                "ports below 1024 need a privilege; use systemd/portcullis.socket, or AmbientCapabilities=CAP_NET_BIND_SERVICE, or a port from 1024 up"
            ),
            io::ErrorKind::AddrNotAvailable => {
                write!(
                    f,
                    "this machine has no such address; `ip address` shows what it has"
                )
            }
            _ => write!(f, "{source}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Sockets that systemd handed over, with the names of their units (`FileDescriptorName=`).
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(String, TcpListener)>,
}

impl Inherited {
    /// Takes what the environment offers. Call once, before any thread starts: it clears the variables.
    #[must_use]
    pub fn from_env() -> Inherited {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut offered = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..offered.len() {
            let name = names.next().unwrap_or_default().to_owned();
            match offered.take_tcp_listener(index) {
                Ok(Some(socket)) => sockets.push((name, socket)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(name, %error, "a socket from the service manager is not a TCP listener; left alone");
                }
            }
        }
        Inherited { sockets }
    }

    /// Takes the sockets called `name`, and those without a known name that stand on one of these addresses.
    fn take(&mut self, name: &str, addresses: &[SocketAddr]) -> Vec<TcpListener> {
        let mut taken = Vec::new();
        for (label, socket) in std::mem::take(&mut self.sockets) {
            let known = NAMES.contains(&label.as_str());
            let here = || {
                socket
                    .local_addr()
                    .is_ok_and(|local| addresses.contains(&local))
            };
            if label == name || (!known && here()) {
                taken.push(socket);
            } else {
                self.sockets.push((label, socket));
            }
        }
        taken
    }
}

/// Listens on everything in `listen`, for this many workers (at least 1). What systemd handed over is used instead of binding.
///
/// # Errors
/// The first address that cannot be had. Everything bound before it is closed again.
pub fn bind(listen: &Listen, workers: usize, mut inherited: Inherited) -> Result<Bound, BindError> {
    let mut bound = Bound {
        workers: (0..workers).map(|_| WorkerSockets::default()).collect(),
        admin: None,
        https: Vec::new(),
        http: Vec::new(),
        inherited: false,
    };
    let given = inherited.take(EDGE, &listen.https);
    bound.inherited = !given.is_empty();
    let https = one_set_per_worker(&listen.https, given, workers)?;
    let given = inherited.take(PLAIN, &listen.http);
    let http = one_set_per_worker(&listen.http, given, workers)?;
    bound.https = local_addresses(&https);
    bound.http = local_addresses(&http);
    for (worker, (https, http)) in bound.workers.iter_mut().zip(https.into_iter().zip(http)) {
        let inherited = bound.inherited;
        *worker = WorkerSockets {
            https,
            http,
            inherited,
        };
    }
    let wanted: Vec<SocketAddr> = listen.admin.into_iter().collect();
    bound.admin = match inherited.take(ADMIN, &wanted).pop() {
        Some(socket) => Some(prepare(socket, listen.admin)?),
        None => listen.admin.map(bind_one).transpose()?,
    };
    for (name, socket) in inherited.sockets {
        let address = socket.local_addr().ok();
        tracing::warn!(
            name,
            ?address,
            "a socket from the service manager matches no listener; closed"
        );
    }
    Ok(bound)
}

/// For each worker, a socket for each address.
fn one_set_per_worker(
    addresses: &[SocketAddr],
    given: Vec<TcpListener>,
    workers: usize,
) -> Result<Vec<Vec<TcpListener>>, BindError> {
    let mut sets: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    if given.is_empty() {
        for address in addresses {
            for (set, socket) in sets.iter_mut().zip(bind_all(*address, workers)?) {
                set.push(socket);
            }
        }
        return Ok(sets);
    }
    for socket in given {
        let socket = prepare(socket, None)?;
        for set in &mut sets {
            // Shared: one queue for all workers, which outlives this process.
            let copy = socket.try_clone().map_err(|source| BindError {
                address: local_address(&socket),
                source,
            })?;
            set.push(copy);
        }
    }
    Ok(sets)
}

/// One socket per worker on one address. The first binds and listens *without* `SO_REUSEPORT`, so that a port held by anyone,
/// another Portcullis included, is an error; only then it lets its siblings in. Nobody can slip in between.
fn bind_all(address: SocketAddr, workers: usize) -> Result<Vec<TcpListener>, BindError> {
    let wrap = |source| BindError { address, source };
    let first = bind_one(address)?;
    let address = first.local_addr().map_err(wrap)?;
    let mut sockets = Vec::with_capacity(workers);
    let first = Socket::from(first);
    first.set_reuse_port(true).map_err(wrap)?;
    sockets.push(first.into());
    for _ in 1..workers {
        let socket = open(address).map_err(wrap)?;
        socket.set_reuse_port(true).map_err(wrap)?;
        sockets.push(listen_on(socket, address).map_err(wrap)?);
    }
    Ok(sockets)
}

/// One socket, alone on its address.
fn bind_one(address: SocketAddr) -> Result<TcpListener, BindError> {
    open(address)
        .and_then(|socket| listen_on(socket, address))
        .map_err(|source| BindError { address, source })
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // For a restart while old connections are in TIME_WAIT; it lets nobody share a listening port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` is IPv6; IPv4 has its own line. So both can stand in the file, whatever the machine's default is.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn listen_on(socket: Socket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.bind(&address.into())?;
    tune(&socket)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Makes a socket from systemd like one of ours.
fn prepare(socket: TcpListener, configured: Option<SocketAddr>) -> Result<TcpListener, BindError> {
    let address = configured.unwrap_or_else(|| local_address(&socket));
    let socket = Socket::from(socket);
    tune(&socket)
        .map_err(|source| BindError { address, source })
        .map(|()| socket.into())
}

/// Accepted connections inherit these from the listener, which saves two system calls for each.
fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // Finds clients that vanished while we have nothing to send, such as on an event stream.
    let probe = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    socket.set_tcp_keepalive(&probe)
}

fn local_addresses(sets: &[Vec<TcpListener>]) -> Vec<SocketAddr> {
    let first = sets.first().into_iter().flatten();
    first.map(local_address).collect()
}

fn local_address(socket: &TcpListener) -> SocketAddr {
    socket
        .local_addr()
        .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
}

/// Raises the soft limit of open files to the hard one; returns the limit in force, `None` for unlimited. Each client connection takes one
/// file, each request under way up to one more.
pub fn raise_file_limit() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, current = ?limit.current, "cannot raise the limit of open files; connections.total_max may not be reached");
            limit.current
        }
    }
}

/// Connections that the kernel completes and holds until a worker accepts them; `net.core.somaxconn` may lower it.
const BACKLOG: i32 = 1024;
const EDGE: &str = "edge";
const PLAIN: &str = "plain";
const ADMIN: &str = "admin";
const NAMES: [&str; 3] = [EDGE, PLAIN, ADMIN];

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::PathBuf;

    fn listen(https: &[SocketAddr], http: &[SocketAddr]) -> Listen {
        Listen {
            https: https.to_vec(),
            http: http.to_vec(),
            admin: None,
            admin_socket: PathBuf::from("admin.sock"),
        }
    }

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn all_workers_share_the_port_that_zero_resolved_to() {
        let wanted = listen(&[loopback(0), loopback(0)], &[loopback(0)]);
        let bound = bind(&wanted, 3, Inherited::default()).unwrap();
        assert_eq!(bound.workers.len(), 3);
        assert_eq!((bound.https.len(), bound.http.len()), (2, 1));
        for worker in &bound.workers {
            let https: Vec<_> = worker.https.iter().map(local_address).collect();
            assert_eq!(https, bound.https);
            assert_eq!(local_address(&worker.http[0]), bound.http[0]);
        }
        assert_ne!(bound.https[0], bound.https[1]);
    }

    #[test]
    fn a_port_taken_by_another_portcullis_is_an_error() {
        let first = bind(&listen(&[loopback(0)], &[]), 2, Inherited::default()).unwrap();
        let taken = first.https[0];
        let error = bind(&listen(&[taken], &[]), 2, Inherited::default()).unwrap_err();
        assert_eq!(error.exit_code(), 69);
        let text = error.to_string();
        assert!(text.contains(&taken.to_string()), "{text}");
        assert!(text.contains("the port is taken"), "{text}");
        drop(first);
        bind(&listen(&[taken], &[]), 2, Inherited::default()).unwrap();
    }

    #[test]
    fn a_port_taken_by_a_plain_program_is_an_error() {
        let other = TcpListener::bind(loopback(0)).unwrap();
        let taken = other.local_addr().unwrap();
        let error = bind(&listen(&[loopback(0)], &[taken]), 1, Inherited::default()).unwrap_err();
        assert_eq!(error.address, taken);
    }

    #[test]
    fn missing_permission_and_missing_address_have_their_own_way_out() {
        let denied = BindError {
            address: loopback(443),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        assert_eq!(denied.exit_code(), 77);
        assert!(denied.to_string().contains("1024"));
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 0));
        let error = bind(&listen(&[elsewhere], &[]), 1, Inherited::default()).unwrap_err();
        assert_eq!(error.exit_code(), 69);
        assert!(error.to_string().contains("no such address"), "{error}");
    }

    #[test]
    fn sockets_handed_over_are_used_by_name_or_by_address_and_shared() {
        let (named, by_address) = (
            TcpListener::bind(loopback(0)).unwrap(),
            TcpListener::bind(loopback(0)).unwrap(),
        );
        let edge = named.local_addr().unwrap();
        let plain = by_address.local_addr().unwrap();
        let inherited = Inherited {
            sockets: vec![
                ("edge".to_owned(), named),
                ("portcullis.socket".to_owned(), by_address),
            ],
        };
        let bound = bind(&listen(&[loopback(1)], &[plain]), 2, inherited).unwrap();
        assert!(bound.inherited);
        assert_eq!((bound.https, bound.http), (vec![edge], vec![plain]));
        assert_eq!(bound.workers.len(), 2);
    }

    #[test]
    fn ipv4_and_ipv6_wildcards_can_share_a_port() {
        let v4 = bind(
            &listen(&[SocketAddr::from(([0, 0, 0, 0], 0))], &[]),
            1,
            Inherited::default(),
        )
        .unwrap();
        let port = v4.https[0].port();
        let v6: SocketAddr = format!("[::]:{port}").parse().unwrap();
        match bind(&listen(&[v6], &[]), 1, Inherited::default()) {
            Ok(bound) => assert_eq!(bound.https, [v6]),
            // A machine without IPv6.
            Err(error) => assert_ne!(error.source.kind(), io::ErrorKind::AddrInUse),
        }
    }

    #[test]
    fn the_file_limit_is_raised_to_what_is_allowed() {
        let raised = raise_file_limit();
        let limit = rustix::process::getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(raised, limit.current);
    }
}
