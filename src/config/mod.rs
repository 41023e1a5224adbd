//! What gateway.toml means once it is checked: plain values, every reference resolved.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::HeaderValue;

use crate::model::key::ApiKey;
use crate::model::key::Environment;
use crate::model::route::Route;
use crate::model::tenant::Plan;
use crate::model::tenant::Tenant;
use crate::refusal::Shape;

/// The whole file.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses; a change needs a restart.
    pub listen: Listen,
    /// Threads and the drain; a change of `workers` needs a restart.
    pub server: Server,
    /// Bounds on client connections.
    pub connections: Connections,
    /// Bounds on HTTP messages.
    pub http: Http,
    /// Certificates.
    pub tls: Tls,
    /// The store; a change of `path` needs a restart.
    pub store: StoreConfig,
    /// Where credentials are looked for and how they are refused.
    pub auth: Auth,
    /// How key texts are made.
    pub keys: KeyFormat,
    /// Header names: the tenant's, and what is cleaned.
    pub headers: Headers,
    /// Shape of the gateway's own answers.
    pub errors: Errors,
    /// Limits in general.
    pub limits: LimitsConfig,
    /// Logs.
    pub log: Log,
    /// Names of environments; index 0 is the default, `live`.
    pub environments: Vec<String>,
    /// `[plans.NAME]`, sorted by name.
    pub plans: Vec<Plan>,
    /// `[[tenants]]`.
    pub tenants: Vec<Tenant>,
    /// `[[keys]]`: digests, never keys.
    pub declared_keys: Vec<ApiKey>,
    /// `[upstreams.NAME]`, sorted by name.
    pub upstreams: Vec<Arc<Upstream>>,
    /// `[[hosts]]`: what differs by host name.
    pub hosts: Vec<Host>,
    /// `[[routes]]`.
    pub routes: Vec<Arc<Route>>,
}

/// `[listen]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// TLS addresses; at least one.
    pub https: Vec<SocketAddr>,
    /// Addresses that answer 403 in clear and close.
    pub http: Vec<SocketAddr>,
    /// Health and metrics; `None` for no TCP admin listener.
    pub admin: Option<SocketAddr>,
    /// Unix socket that the command line talks to.
    pub admin_socket: PathBuf,
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Data threads; 0 is one per core. 0 to 256.
    pub workers: usize,
    /// How long a drain waits for requests in flight before it cuts them.
    pub drain_timeout: Duration,
}

/// `[connections]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Open client connections, all listeners together.
    pub total_max: usize,
    /// Open client connections from one address.
    pub per_address_max: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a request head to its last.
    pub head_timeout: Duration,
    /// Between two requests of a kept connection.
    pub idle_timeout: Duration,
    /// Longest silence of a client that is sending a body or should be reading an answer.
    pub stall_timeout: Duration,
    /// HTTP/2 streams open at once on one connection.
    pub http2_streams_max: u32,
}

/// `[http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Whole request head, bytes; beyond it 431.
    pub head_bytes_max: usize,
    /// Header fields of a request; beyond it 431.
    pub header_count_max: usize,
    /// Request target, bytes; beyond it 414.
    pub target_bytes_max: usize,
    /// Request body, bytes; beyond it 413. `u64::MAX` is unlimited.
    pub body_bytes_max: u64,
    /// Value of `Strict-Transport-Security` on every TLS answer; `None` sends none.
    pub hsts: Option<HeaderValue>,
}

/// `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate for every name that no `sni` entry names.
    pub default: CertificateFiles,
    /// `[[tls.sni]]`: certificates by server name.
    pub sni: Vec<SniCertificate>,
    /// Whether TLS 1.2 is spoken beside 1.3.
    pub allow_tls12: bool,
}

/// One certificate chain and its key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Chain, leaf first.
    pub certificate: PathBuf,
    /// Private key; its file must not be readable by others.
    pub private_key: PathBuf,
}

/// `[[tls.sni]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SniCertificate {
    /// Exact or `*.` wildcard names, lower case.
    pub hosts: Vec<String>,
    /// The files.
    pub files: CertificateFiles,
}

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Directory of the SQLite files.
    pub path: PathBuf,
    /// How often counters are written: the most that `kill -9` can forget.
    pub flush_interval: Duration,
}

/// `[auth]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Whether `Authorization: Bearer` is a credential.
    pub bearer: bool,
    /// Whether `X-API-Key` is a credential.
    pub x_api_key: bool,
    /// `realm` of `WWW-Authenticate`: printable ASCII without quotes and backslashes.
    pub realm: String,
    /// `true` passes an `Authorization` of another scheme on to the backend when a valid X-API-Key stands beside it; `false` refuses it.
    pub pass_foreign_authorization: bool,
}

/// `[keys]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFormat {
    /// First word of secret keys: 1 to 16 of `a-z 0-9`.
    pub secret_prefix: String,
    /// First word of public keys; may equal the other.
    pub public_prefix: String,
}

/// `[headers]` and `[tenant_header]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The trusted tenant header.
    pub tenant: HeaderName,
    /// Whether names with `_` reach the backend (`underscore_headers = "keep"`); aliases of trusted names never do.
    pub keep_underscore: bool,
    /// More names that only this gateway or nobody may set; removed from every request, lower case.
    pub remove: Vec<HeaderName>,
    /// Whether `X-Forwarded-For/-Proto/-Host/-Port` are set.
    pub forwarded: bool,
}

/// `[errors]`, and per host in `[[hosts]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errors {
    /// Body shape.
    pub shape: Shape,
    /// Whether 403 names the missing permission (FA19; PB13 wants it off).
    pub name_permission: bool,
}

/// `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Whose windows a request is charged to.
    pub subject: LimitSubject,
    /// `X-RateLimit-*` on authenticated answers.
    pub x_headers: bool,
    /// `RateLimit` and `RateLimit-Policy` on authenticated answers.
    pub ietf_headers: bool,
}

/// Whose windows a request is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitSubject {
    /// Each key has its own (the default, FA21).
    Key,
    /// All keys of a tenant share one, by the tenant's plan.
    Tenant,
    /// Both, in one step.
    Both,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Where access lines go.
    pub access: AccessLog,
    /// Least level of operator events on stderr.
    pub level: tracing::Level,
}

/// Where access lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// This file, appended to, reopened on USR1.
    File(PathBuf),
}

/// `[upstreams.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The table's name.
    pub name: String,
    /// Its servers; at least one.
    pub servers: Vec<UpstreamServer>,
    /// TCP connect, name resolution included.
    pub connect_timeout: Duration,
    /// From the request sent to the first byte of the answer.
    pub first_byte_timeout: Duration,
    /// Longest silence inside a body.
    pub idle_timeout: Duration,
    /// Longest life of one exchange; `None` is unlimited.
    pub total_timeout: Option<Duration>,
    /// Idle connections kept per worker and server.
    pub pool_idle_max: usize,
    /// How long an idle connection is kept.
    pub pool_idle_timeout: Duration,
    /// Answer head, bytes; beyond it 502.
    pub head_bytes_max: usize,
    /// Tries on further servers after a connection could not be made.
    pub connect_retries: u32,
    /// The `Host` that the backend sees.
    pub host_header: HostHeader,
    /// Which keys may reach it.
    pub environment: Environment,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamServer {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
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

/// `[[hosts]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Exact or `*.` wildcard name, lower case.
    pub name: String,
    /// Its error shape.
    pub errors: Errors,
    /// Which keys may use it.
    pub environment: Environment,
}
