//! `[upstreams.NAME]`: what an upstream is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::config::CertificateFiles;
use crate::config::addresses;
use crate::config::entries;
use crate::model::isolation::Isolation;
use crate::model::isolation::PathPrefix;
use crate::model::key::Environment;
use crate::model::tenant::TenantId;

/// `[upstreams.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The table's name.
    pub name: String,
    /// Its servers; at least one.
    pub servers: Vec<UpstreamServer>,
    /// TCP connect, name resolution included. 10ms to 5min.
    pub connect_timeout: Duration,
    /// From the request sent to the first byte of the answer. 10ms to 1h.
    pub first_byte_timeout: Duration,
    /// Longest silence inside a body. 10ms to 24h.
    pub idle_timeout: Duration,
    /// Longest silence in a tunnel, both ways together; the other timeouts do not concern tunnels (S40). 100ms to 24h.
    pub tunnel_idle_timeout: Duration,
    /// Longest life of one exchange; `None` is unlimited. 10ms to 24h.
    pub total_timeout: Option<Duration>,
    /// Idle connections kept per worker and server. 0 to 10,000.
    pub pool_idle_max: usize,
    /// How long an idle connection is kept. 100ms to 1h.
    pub pool_idle_timeout: Duration,
    /// Answer head, bytes; beyond it 502. 8KiB to 1MiB.
    pub head_bytes_max: usize,
    /// Header fields of an answer; beyond it 502. 1 to 1,000.
    pub header_count_max: usize,
    /// Tries on further servers after a connection could not be made. 0 to 10.
    pub connect_retries: u32,
    /// How many such tries there may be in all.
    pub retry_budget: RetryBudget,
    /// When a server is left out for a while.
    pub ejection: Ejection,
    /// How its servers are asked whether they are well; `None` is not at all.
    pub health: Option<HealthCheck>,
    /// Whether requests are refused while every server is out, instead of sent as if none were.
    pub refuse_when_all_out: bool,
    /// Requests at once; `None` is any number. 1 to 1,000,000.
    pub in_flight_max: Option<u32>,
    /// Requests that wait until there are fewer, of all tenants together. 0 to 10,000.
    pub queue_max: u32,
    /// How long one waits at most. 10ms to 5min.
    pub queue_timeout: Duration,
    /// The `Host` that the backend sees.
    pub host_header: HostHeader,
    /// Which keys may reach it.
    pub environment: Environment,
    /// What keeps tenants apart behind it (FM13).
    pub isolation: Isolation,
    /// Whether the operator has said that every tenant may see the data of all, which `Isolation::None` demands.
    pub every_tenant_sees_all_data: bool,
    /// What stands before the path of each request to `servers`.
    pub path_prefix: Option<PathPrefix>,
    /// Where single tenants have a place of their own, instead of `servers` and `path_prefix`; with `Isolation::Physical` alone.
    pub tenants: BTreeMap<TenantId, Arc<Destination>>,
    /// The 404 that the gateway writes in its name for what is another tenant's; `None` is the gateway's own.
    pub not_found: Option<NotFound>,
    /// What HTTP is spoken to its servers.
    pub protocol: UpstreamProtocol,
    /// How its `https://` servers are trusted; `None` when its servers are spoken to in clear.
    pub tls: Option<UpstreamTls>,
}

#[cfg(test)]
impl Upstream {
    /// `legacy`, every other key at its default.
    pub(crate) fn for_tests() -> Upstream {
        Upstream::clone(&crate::config::Config::for_tests("").upstreams[0])
    }
}

/// `retry_budget` of an upstream: what a failing backend is spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Tries on further servers, in percent of the requests. 0 to 100.
    pub share: u32,
    /// So many a second are free besides. 0 to 10,000.
    pub free_per_second: u32,
}

/// `ejection` of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures of one server, one after another, after which it is left out; 0 is never. 0 to 1,000.
    pub failures: u32,
    /// Statuses that count as failures.
    pub statuses: Vec<u16>,
    /// How long it is left out the first time; twice as long each further time. 100ms to 1h.
    pub time: Duration,
    /// But never longer. 100ms to 24h.
    pub time_max: Duration,
    /// Servers that may be left out at once, in percent. 0 to 100.
    pub share_max: u32,
}

/// `health` of an upstream: how its servers are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for, as the server gets it.
    pub path: String,
    /// `Host`; `None` is the upstream's fixed one, or else the server's own `host:port`.
    pub host: Option<HeaderValue>,
    /// From one check of a server to the next. 100ms to 1h.
    pub interval: Duration,
    /// For all of one check. 10ms to 5min.
    pub timeout: Duration,
    /// Good answers, one after another, that bring a server back. 1 to 100.
    pub healthy: u32,
    /// Bad or missing ones that take it out. 1 to 100.
    pub unhealthy: u32,
    /// Lowest and highest status that is good.
    pub status: (u16, u16),
}

/// Where one tenant's requests to an upstream go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// At least one; nobody else's requests reach them by this path.
    pub servers: Vec<UpstreamServer>,
    /// What stands before the path of each request.
    pub prefix: Option<PathPrefix>,
}

impl Destination {
    /// Reads what an operator writes: one or more `http://host:port[/path]`, separated by spaces.
    ///
    /// # Errors
    /// A sentence fragment saying what is wrong, and the way out.
    pub fn parse(text: &str) -> Result<Destination, String> {
        let texts: Vec<&str> = text.split_ascii_whitespace().collect();
        entries::destination(&texts).map_err(|wrong| format!("{}; {}", wrong.what, wrong.help))
    }

    /// Its servers as an operator writes them.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let path = self.prefix.as_ref().map(PathPrefix::text);
        let path = path.unwrap_or_default();
        let servers = self.servers.iter().map(addresses::show_server);
        servers.map(|server| format!("{server}{path}")).collect()
    }
}

/// A 404 in an upstream's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    /// Of the body.
    pub content_type: HeaderValue,
    /// At most 64 KiB.
    pub body: String,
}

impl NotFound {
    /// The media type where none is given.
    pub(super) fn json() -> HeaderValue {
        HeaderValue::from_static("application/json")
    }
}

/// What HTTP is spoken to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// HTTP/1.1, one exchange at a time on a connection.
    Http1,
    /// HTTP/2, many at a time: agreed on by ALPN over TLS, known beforehand in clear.
    Http2,
}

/// `[upstreams.NAME.tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM file of the authorities that are trusted; `None` for those of the system.
    pub ca: Option<PathBuf>,
    /// What the gateway shows of itself.
    pub client: Option<CertificateFiles>,
    /// The name that is asked for and verified; `None` for the server's own host.
    pub server_name: Option<String>,
    /// What the files hold, once they were read; no part of what the file means, and so of no comparison.
    pub prepared: Prepared,
}

/// TLS as it was made ready when a configuration was loaded; every one equals every other.
#[derive(Clone, Debug, Default)]
pub struct Prepared(pub Option<PreparedTls>);

/// Ready to speak TLS to the servers of one upstream.
#[derive(Clone, Debug)]
pub struct PreparedTls {
    /// For handshakes.
    pub client_config: Arc<rustls::ClientConfig>,
    /// Changes when what the files hold does, so that no connection outlives what it was trusted for.
    pub fingerprint: u64,
}

impl PartialEq for Prepared {
    fn eq(&self, _: &Prepared) -> bool {
        true
    }
}

impl Eq for Prepared {}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamServer {
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// `host:port`, as `Host` writes it.
impl fmt::Display for UpstreamServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(out, "[{}]:{}", self.host, self.port),
            false => write!(out, "{}:{}", self.host, self.port),
        }
    }
}

/// The `Host` that a backend sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// What the client asked for.
    Client,
    /// The server's own `host:port`.
    Server,
    /// This text.
    Fixed(HeaderValue),
}
