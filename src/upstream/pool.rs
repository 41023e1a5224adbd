//! The servers that one worker knows, their idle connections, and the choice between them.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::Instant;

use crate::config::Config;
use crate::config::Destination;
use crate::config::Upstream;
use crate::config::UpstreamProtocol;
use crate::config::UpstreamServer;
use crate::snapshot::Snapshot;
use crate::upstream::deadline::after;
use crate::upstream::http1::Connection;
use crate::upstream::link::Links;

/// What tells servers apart: a reload that changes none of it keeps their connections.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Known {
    server: UpstreamServer,
    protocol: UpstreamProtocol,
    /// Of what TLS rests on; `None` in clear.
    tls: Option<u64>,
}

/// Every server of every upstream.
pub(super) struct Directory {
    servers: RefCell<HashMap<Known, Rc<Server>>>,
    /// The servers of the newest configuration, found by index, so that a request hashes no name.
    current: RefCell<Option<Resolved>>,
    /// The servers of single tenants' places, by the address of the place, which the entry holds in memory and so makes its own.
    places: RefCell<HashMap<*const Destination, (Arc<Destination>, Servers)>>,
    /// Counts choices; also the source of chance, hence seeded: workers that start together must not choose alike.
    turn: Cell<u64>,
}

/// The servers of one upstream, in the order of its `servers`.
pub(super) type Servers = Rc<[Rc<Server>]>;

struct Resolved {
    generation: u64,
    /// Held, so that its address stays its own.
    config: Arc<Config>,
    upstreams: Vec<Servers>,
}

impl Default for Directory {
    fn default() -> Directory {
        Directory {
            servers: RefCell::default(),
            current: RefCell::default(),
            places: RefCell::default(),
            turn: Cell::new(RandomState::new().hash_one(0)),
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list()
            .entries(self.servers.borrow().values())
            .finish()
    }
}

impl Directory {
    /// The servers of an upstream of this snapshot.
    pub(super) fn servers(&self, snapshot: &Snapshot, upstream: usize) -> Servers {
        let mut current = self.current.borrow_mut();
        if let Some(resolved) = &*current
            && Arc::ptr_eq(&resolved.config, &snapshot.config)
        {
            return Rc::clone(&resolved.upstreams[upstream]);
        }
        // A request that began before a reload does not put the old servers back in front.
        if current
            .as_ref()
            .is_some_and(|resolved| resolved.generation > snapshot.generation)
        {
            let upstream = &snapshot.config.upstreams[upstream];
            return self.resolve(&upstream.servers, upstream);
        }
        let upstreams: Vec<Servers> = snapshot
            .config
            .upstreams
            .iter()
            .map(|upstream| self.resolve(&upstream.servers, upstream))
            .collect();
        let servers = Rc::clone(&upstreams[upstream]);
        *current = Some(Resolved {
            generation: snapshot.generation,
            config: Arc::clone(&snapshot.config),
            upstreams,
        });
        servers
    }

    /// The servers of a place of one tenant's own; never another's.
    pub(super) fn servers_at(&self, place: &Arc<Destination>, upstream: &Upstream) -> Servers {
        let mut places = self.places.borrow_mut();
        let (_, servers) = places.entry(Arc::as_ptr(place)).or_insert_with(|| {
            let servers = self.resolve(&place.servers, upstream);
            (Arc::clone(place), servers)
        });
        Rc::clone(servers)
    }

    fn resolve(&self, servers: &[UpstreamServer], upstream: &Upstream) -> Servers {
        let mut known = self.servers.borrow_mut();
        servers
            .iter()
            .map(|server| {
                let prepared = upstream
                    .tls
                    .as_ref()
                    .and_then(|tls| tls.prepared.0.as_ref());
                let key = Known {
                    server: server.clone(),
                    protocol: upstream.protocol,
                    tls: prepared.map(|prepared| prepared.fingerprint),
                };
                let entry = known
                    .entry(key)
                    .or_insert_with(|| Rc::new(Server::of(server, upstream)));
                Rc::clone(entry)
            })
            .collect()
    }

    /// The server with the fewest requests outstanding, of two taken by chance, leaving out those at the indexes `failed`; `None` when none is left.
    pub(super) fn choose(&self, servers: &[Rc<Server>], failed: &[usize]) -> Option<usize> {
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        let outstanding = |index: usize| servers[index].outstanding.get();
        if failed.is_empty() {
            return pick(servers.len(), outstanding, turn);
        }
        let open: Vec<usize> = (0..servers.len())
            .filter(|index| !failed.contains(index))
            .collect();
        pick(open.len(), |index| outstanding(open[index]), turn).map(|index| open[index])
    }

    /// Closes connections that were idle for too long or that the backend closed, and forgets servers that no configuration names any more.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        // Places that no snapshot holds any more.
        let mut places = self.places.borrow_mut();
        places.retain(|_, (place, _)| Arc::strong_count(place) > 1);
        let current = self.current.borrow();
        self.servers.borrow_mut().retain(|_, server| {
            let mut idle = server.idle.borrow_mut();
            idle.retain_mut(|entry| entry.until > now && entry.connection.is_quiet());
            server.links.sweep(now);
            // The map holds one reference, `current` another where the configuration names the server.
            let is_known = current.is_none() || Rc::strong_count(server) > 1;
            is_known || !idle.is_empty() || !server.links.are_none()
        });
    }
}

#[cfg(test)]
impl Directory {
    /// Breaks all idle connections so that nothing can be written to them, without a word of it to be read.
    pub(super) fn break_idle(&self) {
        for server in self.servers.borrow().values() {
            for entry in server.idle.borrow_mut().iter_mut() {
                entry.connection.break_off();
            }
        }
    }
}

/// Power of two choices; with two servers that is the least loaded. Ties fall to chance, with two servers to turns.
fn pick(count: usize, outstanding: impl Fn(usize) -> usize, turn: u64) -> Option<usize> {
    let (first, second) = match count {
        0 => return None,
        1 => return Some(0),
        2 => ((turn % 2) as usize, ((turn + 1) % 2) as usize),
        _ => {
            let chance = scattered(turn);
            let first = (chance >> 32) as usize % count;
            let step = 1 + (chance & 0xffff_ffff) as usize % (count - 1);
            (first, (first + step) % count)
        }
    };
    Some(if outstanding(second) < outstanding(first) {
        second
    } else {
        first
    })
}

/// Spreads a counter over 64 bits (Steele, Lea and Flood's SplitMix).
fn scattered(counter: u64) -> u64 {
    let mixed = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// One server with its idle connections, newest last.
#[derive(Debug)]
pub(super) struct Server {
    /// `host:port`, for logs.
    pub(super) name: Rc<str>,
    /// `host:port`, for `Host`.
    pub(super) host_header: Option<HeaderValue>,
    /// The host without brackets, to be looked up.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
    /// Its address, where the configuration gives one instead of a name.
    pub(super) address: Option<SocketAddr>,
    /// How it is spoken to over TLS; `None` in clear.
    pub(super) secure: Option<Secure>,
    /// Its HTTP/2 connections, which requests share.
    pub(super) links: Links,
    idle: RefCell<Vec<Idle>>,
    outstanding: Cell<usize>,
}

/// TLS to one server.
pub(super) struct Secure {
    /// `None` when its files were not read: then nobody connects.
    pub(super) client_config: Option<Arc<ClientConfig>>,
    /// The name that is asked for and verified.
    pub(super) name: Option<ServerName<'static>>,
}

impl fmt::Debug for Secure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Secure")
            .field("name", &self.name)
            .finish()
    }
}

/// A connection on which nothing is outstanding.
#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    until: Instant,
}

impl Server {
    fn of(server: &UpstreamServer, upstream: &Upstream) -> Server {
        let own = Server::new(server);
        let secure = server.tls.then(|| {
            let tls = upstream.tls.as_ref();
            let name = tls.and_then(|tls| tls.server_name.clone());
            let prepared = tls.and_then(|tls| tls.prepared.0.as_ref());
            Secure {
                client_config: prepared.map(|prepared| Arc::clone(&prepared.client_config)),
                name: ServerName::try_from(name.unwrap_or_else(|| own.host.clone())).ok(),
            }
        });
        Server { secure, ..own }
    }

    fn new(server: &UpstreamServer) -> Server {
        let bare = server.host.trim_start_matches('[').trim_end_matches(']');
        let address: Option<IpAddr> = bare.parse().ok();
        let name = match address {
            Some(IpAddr::V6(_)) => format!("[{bare}]:{}", server.port),
            _ => format!("{bare}:{}", server.port),
        };
        Server {
            host_header: HeaderValue::from_str(&name).ok(),
            name: Rc::from(name),
            host: bare.to_owned(),
            port: server.port,
            address: address.map(|address| SocketAddr::new(address, server.port)),
            secure: None,
            links: Links::default(),
            idle: RefCell::default(),
            outstanding: Cell::new(0),
        }
    }

    /// The idle connection used last: the least likely to have been closed by the backend meanwhile.
    pub(super) fn take_idle(&self) -> Option<Box<Connection>> {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        while let Some(mut entry) = idle.pop() {
            if entry.until <= now {
                idle.clear();
                return None;
            }
            if entry.connection.is_quiet() {
                return Some(entry.connection);
            }
        }
        None
    }

    fn keep(&self, connection: Box<Connection>, keeping: Keeping) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < keeping.idle_max {
            idle.push(Idle {
                connection,
                until: after(Instant::now(), keeping.idle_timeout),
            });
        }
    }
}

/// How an upstream keeps its idle connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeping {
    idle_max: usize,
    pub(super) idle_timeout: Duration,
}

impl Keeping {
    pub(super) fn of(upstream: &Upstream) -> Keeping {
        Keeping {
            idle_max: upstream.pool_idle_max,
            idle_timeout: upstream.pool_idle_timeout,
        }
    }
}

/// One request outstanding at a server, from the choice of the server to the end of the answer.
#[derive(Debug)]
pub(super) struct Claim {
    server: Rc<Server>,
}

impl Claim {
    pub(super) fn new(server: &Rc<Server>) -> Claim {
        server.outstanding.set(server.outstanding.get() + 1);
        Claim {
            server: Rc::clone(server),
        }
    }
}

impl Claim {
    pub(super) fn server(&self) -> &Server {
        &self.server
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.server
            .outstanding
            .set(self.server.outstanding.get() - 1);
    }
}

/// The right to a connection for one exchange. The connection itself is held beside it, and closed when it is dropped, whatever was on its way
/// (S38, S44): only `release` keeps it.
#[derive(Debug)]
pub(super) struct Lease {
    claim: Claim,
    keeping: Keeping,
    /// Whether it served an exchange before this one, and so may have gone stale.
    reused: bool,
}

impl Lease {
    pub(super) fn new(claim: Claim, keeping: Keeping, reused: bool) -> Lease {
        Lease {
            claim,
            keeping,
            reused,
        }
    }

    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    pub(super) fn server(&self) -> &Server {
        &self.claim.server
    }

    /// The server, to be held on.
    pub(super) fn claimed(&self) -> &Rc<Server> {
        &self.claim.server
    }

    /// The answer is whole: keeps the connection for the next exchange if nothing speaks against it (S35). Where it came before the request was over,
    /// the rest of that may still flow, but such a connection is not used again (S5).
    pub(super) fn release(self, mut connection: Box<Connection>) {
        if connection.is_reusable() && connection.is_quiet() {
            self.claim.server.keep(connection, self.keeping);
        } else if connection.is_sending() {
            tokio::task::spawn_local(connection.send_rest());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Server;
    use super::pick;
    use crate::config::UpstreamServer;

    #[test]
    fn the_least_loaded_of_two_is_picked() {
        for turn in 0..10 {
            assert_eq!(pick(2, |index| [3, 2][index], turn), Some(1));
            assert_eq!(pick(2, |index| [0, 1][index], turn), Some(0));
        }
    }

    #[test]
    fn two_idle_servers_take_turns() {
        let picked: Vec<_> = (0..4).map(|turn| pick(2, |_| 0, turn)).collect();
        assert_eq!(picked, [Some(0), Some(1), Some(0), Some(1)]);
    }

    #[test]
    fn of_many_every_one_is_picked_but_never_the_most_loaded() {
        let mut counts = [0; 5];
        for turn in 0..10_000 {
            let outstanding = |index: usize| if index == 3 { 9 } else { 1 };
            counts[pick(5, outstanding, turn).unwrap()] += 1;
        }
        assert_eq!(counts[3], 0);
        for index in [0, 1, 2, 4] {
            assert!(counts[index] > 2_000, "{counts:?}");
        }
    }

    #[test]
    fn one_is_picked_and_none_is_not() {
        assert_eq!(pick(1, |_| 7, 3), Some(0));
        assert_eq!(pick(0, |_| 7, 3), None);
    }

    #[test]
    fn addresses_are_named_as_a_host_header_writes_them() {
        let cases = [
            ("127.0.0.1", "127.0.0.1:80", true),
            ("::1", "[::1]:80", true),
            ("[::1]", "[::1]:80", true),
            ("legacy.internal", "legacy.internal:80", false),
        ];
        for (host, name, is_address) in cases {
            let host = host.to_owned();
            let server = Server::new(&UpstreamServer {
                tls: false,
                host,
                port: 80,
            });
            assert_eq!(&*server.name, name);
            assert_eq!(server.host_header.as_ref().unwrap(), name);
            assert_eq!(server.address.is_some(), is_address, "{name}");
        }
    }
}
