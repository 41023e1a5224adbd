//! The servers that one worker knows, and their idle connections.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
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
use crate::model::tenant::TenantId;
use crate::snapshot::Snapshot;
use crate::upstream::backends::Backends;
use crate::upstream::balance::Group;
use crate::upstream::deadline::Timer;
use crate::upstream::deadline::after;
use crate::upstream::health::Health;
use crate::upstream::health::Seat;
use crate::upstream::http1::Connection;
use crate::upstream::http1::SharedConnection;
use crate::upstream::link::Links;
use crate::upstream::queue::Permit;

/// What tells servers apart: a reload that changes none of it keeps their connections.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Known {
    /// The upstream's name: others may speak to the same server under other bounds.
    upstream: String,
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
    /// What is shared with other workers.
    backends: Arc<Backends>,
}

/// The servers of one upstream.
pub(super) type Servers = Rc<Group>;

struct Resolved {
    generation: u64,
    /// Held, so that its address stays its own.
    config: Arc<Config>,
    upstreams: Vec<Servers>,
}

impl Default for Directory {
    fn default() -> Directory {
        Directory::new(Arc::default())
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
    pub(super) fn new(backends: Arc<Backends>) -> Directory {
        Directory {
            servers: RefCell::default(),
            current: RefCell::default(),
            places: RefCell::default(),
            backends,
        }
    }

    /// No servers at all.
    pub(super) fn none(&self) -> Servers {
        Rc::new(Group::new(Vec::new(), Arc::default(), &self.backends))
    }

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
            return self.resolve(&upstream.servers, upstream, None);
        }
        let upstreams: Vec<Servers> = snapshot
            .config
            .upstreams
            .iter()
            .map(|upstream| self.resolve(&upstream.servers, upstream, None))
            .collect();
        let servers = Rc::clone(&upstreams[upstream]);
        *current = Some(Resolved {
            generation: snapshot.generation,
            config: Arc::clone(&snapshot.config),
            upstreams,
        });
        servers
    }

    /// The servers of a place of this tenant's own; never another's.
    pub(super) fn servers_at(
        &self,
        place: &Arc<Destination>,
        upstream: &Upstream,
        tenant: Option<&TenantId>,
    ) -> Servers {
        let mut places = self.places.borrow_mut();
        let (_, servers) = places.entry(Arc::as_ptr(place)).or_insert_with(|| {
            let servers = self.resolve(&place.servers, upstream, tenant);
            (Arc::clone(place), servers)
        });
        Rc::clone(servers)
    }

    fn resolve(
        &self,
        servers: &[UpstreamServer],
        upstream: &Upstream,
        tenant: Option<&TenantId>,
    ) -> Servers {
        let mut known = self.servers.borrow_mut();
        let servers = servers
            .iter()
            .map(|server| {
                let prepared = upstream
                    .tls
                    .as_ref()
                    .and_then(|tls| tls.prepared.0.as_ref());
                let key = Known {
                    upstream: upstream.name.clone(),
                    server: server.clone(),
                    protocol: upstream.protocol,
                    tls: prepared.map(|prepared| prepared.fingerprint),
                };
                let new = || {
                    let health = self.backends.health(&upstream.name, server);
                    Rc::new(Server::of(server, upstream, health))
                };
                Rc::clone(known.entry(key).or_insert_with(new))
            })
            .collect();
        let load = self.backends.load(&upstream.name, tenant);
        Rc::new(Group::new(servers, load, &self.backends))
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
            idle.retain_mut(|entry| entry.until > now && entry.connection.borrow_mut().is_quiet());
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
                entry.connection.borrow_mut().break_off();
            }
        }
    }
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
    /// How it fares, as all workers see it.
    pub(super) health: Arc<Health>,
    idle: RefCell<Vec<Idle>>,
    /// What this worker has outstanding there.
    seat: Arc<Seat>,
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
pub(super) struct Idle {
    pub(super) connection: SharedConnection,
    /// Until when it is kept.
    pub(super) until: Instant,
}

impl Server {
    fn of(server: &UpstreamServer, upstream: &Upstream, health: Arc<Health>) -> Server {
        let own = Server::new(server, health);
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

    fn new(server: &UpstreamServer, health: Arc<Health>) -> Server {
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
            seat: health.seat(),
            health,
        }
    }

    /// Requests that this worker has outstanding there.
    pub(super) fn outstanding(&self) -> usize {
        self.seat.outstanding()
    }

    /// The idle connection used last: the least likely to have been closed by the backend meanwhile.
    pub(super) fn take_idle(&self) -> Option<Idle> {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        while let Some(entry) = idle.pop() {
            if entry.until <= now {
                idle.clear();
                return None;
            }
            if entry.connection.borrow_mut().is_quiet() {
                return Some(entry);
            }
        }
        None
    }

    fn keep(&self, connection: SharedConnection, keeping: Keeping) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < keeping.idle_max {
            let until = keeping.until();
            idle.push(Idle { connection, until });
        }
    }

    /// Keeps one that was taken and not used.
    fn put_back(&self, unused: Idle, keeping: Keeping) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < keeping.idle_max {
            let place = idle.partition_point(|entry| entry.until <= unused.until);
            idle.insert(place, unused);
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

    /// Until when one is kept that becomes idle now.
    fn until(self) -> Instant {
        after(Instant::now(), self.idle_timeout)
    }
}

/// One request outstanding at a server, from the choice of the server to the end of the answer.
#[derive(Debug)]
pub(super) struct Claim {
    server: Rc<Server>,
    /// The request's place, where the upstream takes only so many at once.
    _permit: Option<Rc<Permit>>,
}

impl Claim {
    pub(super) fn new(server: &Rc<Server>, permit: Option<&Rc<Permit>>) -> Claim {
        server.seat.take();
        Claim {
            server: Rc::clone(server),
            _permit: permit.map(Rc::clone),
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
        self.server.seat.give_back();
    }
}

/// The right to a connection for one exchange. The connection itself is held beside it, and closed when it is dropped, whatever was on its way
/// (S38, S44): only `release` keeps it, and `unbegun` as long as nothing is on its way.
#[derive(Debug)]
pub(super) struct Lease {
    claim: Claim,
    keeping: Keeping,
    /// Until when it would have been kept, if it served an exchange before this one, and so may have gone stale.
    until: Option<Instant>,
}

impl Lease {
    pub(super) fn new(claim: Claim, keeping: Keeping, until: Option<Instant>) -> Lease {
        Lease {
            claim,
            keeping,
            until,
        }
    }

    pub(super) fn is_reused(&self) -> bool {
        self.until.is_some()
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
    pub(super) fn release(self, connection: SharedConnection) {
        let mut ended = connection.borrow_mut();
        let is_sending = ended.is_sending();
        if ended.is_reusable() && ended.is_quiet() {
            drop(ended);
            self.claim.server.keep(connection, self.keeping);
        } else if is_sending {
            drop(ended);
            tokio::task::spawn_local(Connection::send_rest(connection));
        }
    }

    /// Until this is dropped: where the exchange is given up before it was begun, its connection is kept for as long as it would have been without, or
    /// whoever gives up at once would take from everybody else the connections that they wait to use (S20).
    pub(super) fn unbegun<'a>(&'a self, connection: &'a SharedConnection) -> Unbegun<'a> {
        let timer = std::mem::take(&mut connection.borrow_mut().timer);
        Unbegun {
            lease: self,
            connection,
            timer,
        }
    }
}

/// An exchange that is perhaps not begun yet.
#[derive(Debug)]
pub(super) struct Unbegun<'a> {
    lease: &'a Lease,
    connection: &'a SharedConnection,
    /// The connection's.
    pub(super) timer: Timer,
}

impl Drop for Unbegun<'_> {
    fn drop(&mut self) {
        let mut connection = self.connection.borrow_mut();
        connection.timer = std::mem::take(&mut self.timer);
        if connection.forget_unbegun() {
            let Lease {
                claim,
                keeping,
                until,
            } = self.lease;
            let unused = Idle {
                connection: Rc::clone(self.connection),
                until: until.unwrap_or_else(|| keeping.until()),
            };
            claim.server.put_back(unused, *keeping);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Server;
    use crate::config::UpstreamServer;
    use crate::upstream::health::Health;

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
            let server = UpstreamServer {
                tls: false,
                host,
                port: 80,
            };
            let health = Arc::new(Health::new("legacy", name));
            let server = Server::new(&server, health);
            assert_eq!(&*server.name, name);
            assert_eq!(server.host_header.as_ref().unwrap(), name);
            assert_eq!(server.address.is_some(), is_address, "{name}");
        }
    }
}
