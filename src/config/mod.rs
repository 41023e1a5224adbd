//! What gateway.toml means once it is checked: plain values, every reference resolved; all problems at once otherwise.
//!
//! `file` reads tables, `typed` their values, `values` and `names` read words, `settings` and `entries` hold one function per table, `check` looks
//! across tables, `doubts` for what can never matter, `problem` prints what is wrong, `dump` writes the meaning back.

mod check;
mod doubts;
mod dump;
mod entries;
mod file;
mod isolation;
mod issuers;
mod names;
mod problem;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod redis;
pub mod secrets;
mod settings;
mod typed;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::io::Read;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::HeaderValue;
use http::Uri;
use ipnet::IpNet;
use toml::de::DeTable;

use crate::config::check::Entries;
use crate::config::entries::Declared;
use crate::config::entries::Placed;
use crate::config::file::Names;
use crate::config::file::Reader;
use crate::config::problem::Notes;
use crate::model::credential::Kinds;
use crate::model::guard::Guard;
use crate::model::isolation::Isolation;
use crate::model::isolation::PathPrefix;
use crate::model::issuer::ClaimPath;
use crate::model::issuer::Issuer;
use crate::model::key::ApiKey;
use crate::model::key::Environment;
use crate::model::key::KeyKind;
use crate::model::key::Lifetime;
use crate::model::limit::Mode;
use crate::model::limit::Rate;
use crate::model::resource::Resource;
use crate::model::route::Route;
use crate::model::scope::ScopeRules;
use crate::model::scope::Scopes;
use crate::model::tenant::Plan;
use crate::model::tenant::Tenant;
use crate::model::tenant::TenantId;
use crate::refusal::Shape;

pub use crate::config::problem::Problems;
pub use crate::config::redis::Redis;

/// A file that was read and found good.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What is worth a second look; often empty.
    pub warnings: Problems,
    /// Keys that the file leaves at their defaults or does not use, as `table.key`, sorted.
    pub unset: Vec<String>,
    /// Where the file names other files of upstreams: `[upstreams.legacy.tls] ca` and `gateway.toml:7:10`.
    pub places: BTreeMap<String, String>,
}

/// Reads and checks a gateway.toml.
///
/// # Errors
/// Everything that is wrong with it, at once; the file being unreadable, larger than 64 MiB or not UTF-8 included.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    read(std::fs::File::open(path), path)
}

/// The same from what is piped in; relative paths begin at the working directory.
///
/// # Errors
/// As `load`.
pub fn load_piped(input: impl Read) -> Result<Loaded, Problems> {
    read(Ok(input), Path::new("<stdin>"))
}

fn read(input: io::Result<impl Read>, path: &Path) -> Result<Loaded, Problems> {
    let shown = path.display().to_string();
    let mut bytes = Vec::new();
    let read = input.and_then(|input| input.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        let what = format!("cannot be read: {error}");
        let help = "name the file with --config, or give the user of the gateway read permission";
        let problems = Problems::of_file(&shown, what, help);
        return Err(match error.kind() {
            std::io::ErrorKind::PermissionDenied => problems.denied(),
            _ => problems,
        });
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let what = "is larger than 64 MiB".to_owned();
        let help = "keep keys in the store instead: portcullis keys create";
        return Err(Problems::of_file(&shown, what, help));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, path),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
            let what = format!("line {line} is not UTF-8");
            Err(Problems::of_file(&shown, what, "save the file as UTF-8"))
        }
    }
}

/// Checks the text of a gateway.toml. `path` names it in messages, and its directory is where relative paths begin; the
/// disk is not touched.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, Problems> {
    let notes = Notes::default();
    let base = path.parent().unwrap_or(Path::new(""));
    let (table, syntax) = DeTable::parse_recoverable(text);
    let config = Reader::root(table.get_ref(), &notes, |root| resolve(root, base));
    notes.syntax(text, &syntax);
    let unset = notes.unset();
    let shown = path.display().to_string();
    let places = notes.places(&shown, text);
    let warnings = notes.finish(&shown, text)?;
    Ok(Loaded {
        config,
        warnings,
        unset,
        places,
    })
}

fn resolve(root: &mut Reader<'_>, base: &Path) -> Config {
    let environments = settings::environments(root);
    let store = settings::store(root, base);
    let listen = settings::listen(root, base, &store.path);
    let errors = settings::errors(root, "errors", DEFAULT_ERRORS);
    let auth = settings::auth(root);
    let declared = declared(root, &environments, auth.credentials);
    let guards = entries::guards(root);
    let issuers = entries::issuers(root, &declared, base);
    let resources = entries::resources(root, &issuers);
    let entries = Entries {
        plans: entries::plans(root),
        tenants: entries::tenants(root, &declared),
        keys: entries::keys(root, &declared),
        upstreams: entries::upstreams(root, &declared, base),
        hosts: entries::hosts(root, &declared, errors),
        routes: entries::routes(root, &declared, &guards),
        guards,
        issuers,
        auth: auth.clone(),
        sessions: settings::sessions(root),
    };
    let config = Config {
        listen,
        admin: settings::admin_names(root),
        server: settings::server(root),
        connections: settings::connections(root),
        trusted_proxies: Arc::new(settings::trusted_proxies(root)),
        http: settings::http(root),
        tls: settings::tls(root, base),
        store,
        auth,
        tokens: settings::tokens(root),
        sessions: entries.sessions.clone(),
        keys: settings::key_format(root),
        key_rules: settings::key_rules(root),
        key_labels: settings::key_labels(root),
        key_defaults: entries::key_defaults(root, &declared),
        headers: settings::headers(root),
        scopes: settings::scopes(root),
        errors,
        limits: settings::limits(root),
        revocation: settings::revocation(root),
        alerts: settings::alerts(root, base),
        audit: settings::audit(root),
        log: settings::log(root, base),
        plans: values_of(&entries.plans),
        tenants: values_of(&entries.tenants),
        declared_keys: values_of(&entries.keys),
        upstreams: values_of(&entries.upstreams),
        guards: values_of(&entries.guards),
        issuers: values_of(&entries.issuers),
        resources,
        hosts: values_of(&entries.hosts),
        routes: values_of(&entries.routes),
        environments: environments.clone(),
    };
    check::entries(&entries, &environments, root.notes());
    if !root.notes().has_errors() {
        doubts::warn(&entries, &config.scopes, &config.key_defaults, root.notes());
    }
    config
}

fn declared<'a>(root: &Reader<'a>, environments: &'a [String], credentials: Kinds) -> Declared<'a> {
    Declared {
        credentials,
        environments: Names {
            noun: "environment",
            declare: "environments = [\"NAME\"]",
            all: environments.iter().map(String::as_str).collect(),
        },
        environment_order: environments,
        plans: Names {
            noun: "plan",
            declare: "[plans.NAME]",
            all: root.names("plans", None),
        },
        tenants: Names {
            noun: "tenant",
            declare: "[[tenants]]",
            all: root.names("tenants", Some("id")),
        },
        guards: Names {
            noun: "guard",
            declare: "[guards.NAME]",
            all: root.names("guards", None),
        },
        upstreams: Names {
            noun: "upstream",
            declare: "[upstreams.NAME]",
            all: root.names("upstreams", None),
        },
    }
}

fn values_of<T: Clone>(placed: &[Placed<T>]) -> Vec<T> {
    placed.iter().map(|entry| entry.value.clone()).collect()
}

const DEFAULT_ERRORS: Errors = Errors {
    shape: Shape::Problem,
    name_permission: true,
    foreign_is_forbidden: false,
};

/// Largest gateway.toml that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses; a change needs a restart.
    pub listen: Listen,
    /// What the admin listener is called.
    pub admin: AdminConfig,
    /// Threads and the drain; a change of `workers` needs a restart.
    pub server: Server,
    /// Bounds on client connections.
    pub connections: Connections,
    /// Load balancers in front of us, and what they are believed.
    pub trusted_proxies: Arc<TrustedProxies>,
    /// Bounds on HTTP messages.
    pub http: Http,
    /// Certificates.
    pub tls: Tls,
    /// The store; a change of `path` needs a restart.
    pub store: StoreConfig,
    /// Where credentials are looked for and how they are refused.
    pub auth: Auth,
    /// Bounds on access tokens.
    pub tokens: Tokens,
    /// Sessions of browsers.
    pub sessions: Sessions,
    /// How key texts are made.
    pub keys: KeyFormat,
    /// What new keys must be.
    pub key_rules: KeyRules,
    /// What lists call the states of keys.
    pub key_labels: KeyLabels,
    /// `[[key_defaults]]`: what keys may do for which nothing was said.
    pub key_defaults: Vec<KeyDefault>,
    /// Header names: the tenant's, and what is cleaned.
    pub headers: Headers,
    /// What scopes carry with them.
    pub scopes: ScopeRules,
    /// Shape of the gateway's own answers.
    pub errors: Errors,
    /// Limits in general.
    pub limits: LimitsConfig,
    /// What a key's end does to its requests.
    pub revocation: Revocation,
    /// What operators are told at once, and where.
    pub alerts: AlertRules,
    /// How much of the audit log is kept.
    pub audit: AuditRules,
    /// Logs.
    pub log: Log,
    /// Names of environments, 1 to 16; index 0 is the default, `live` unless the file says otherwise.
    pub environments: Vec<String>,
    /// `[plans.NAME]`, sorted by name.
    pub plans: Vec<Plan>,
    /// `[[tenants]]`.
    pub tenants: Vec<Tenant>,
    /// `[[keys]]`: digests, never keys. The id follows from tenant and name; `created` is 0, `prefix` and `last_four` are
    /// empty, since the file does not know them.
    pub declared_keys: Vec<ApiKey>,
    /// `[upstreams.NAME]`, sorted by name.
    pub upstreams: Vec<Arc<Upstream>>,
    /// `[guards.NAME]`, sorted by name.
    pub guards: Vec<Arc<Guard>>,
    /// `[issuers.NAME]`, sorted by name.
    pub issuers: Vec<Arc<Issuer>>,
    /// `[[resources]]`: what OAuth clients are told (RFC 9728).
    pub resources: Vec<Arc<Resource>>,
    /// `[[hosts]]`: what differs by host name.
    pub hosts: Vec<Host>,
    /// `[[routes]]`.
    pub routes: Vec<Arc<Route>>,
}

#[cfg(test)]
impl Config {
    /// Every key at its default, and one upstream, `legacy`, that nobody listens on; with these tables beside.
    pub(crate) fn for_tests(more: &str) -> Config {
        let least = "[tls]\ncertificate = \"cert.pem\"\nprivate_key = \"key.pem\"\n\
            [upstreams.legacy]\nservers = [\"http://127.0.0.1:3000\"]\n";
        let loaded = parse(&format!("{least}{more}"), Path::new("gateway.toml"));
        loaded.expect("a test's tables are good ones").config
    }
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
    /// Unix socket that the command line talks to. At most 107 bytes.
    pub admin_socket: PathBuf,
}

/// `[admin]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminConfig {
    /// Names beside `localhost` and its own addresses under which it may be asked; lower case, without port.
    pub hosts: Vec<String>,
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Data threads; 0 is one per core. 0 to 256.
    pub workers: usize,
    /// How long a drain waits for requests in flight before it cuts them. 0s to 1h.
    pub drain_timeout: Duration,
    /// How long before the drain the gateway says that it is not ready. 0s to 5min.
    pub drain_delay: Duration,
}

/// `[connections]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Open client connections, all listeners together. 1 to 1,000,000.
    pub total_max: usize,
    /// Open client connections from one address. 1 to 1,000,000.
    pub per_address_max: usize,
    /// From accept to the end of the TLS handshake. 100ms to 5min.
    pub handshake_timeout: Duration,
    /// From the first byte of a request head to its last. 100ms to 5min.
    pub head_timeout: Duration,
    /// Between two requests of a kept connection. 100ms to 1h.
    pub idle_timeout: Duration,
    /// Longest silence of a client that is sending a body or should be reading an answer. 100ms to 1h.
    pub stall_timeout: Duration,
    /// Of a body that was answered unread: bytes that are thrown away before the connection is given up. 0B to 64MiB.
    pub unread_bytes_max: u64,
    /// How long that may take. 100ms to 5min.
    pub unread_timeout: Duration,
    /// HTTP/2 streams open at once on one connection. 1 to 10,000.
    pub http2_streams_max: u32,
}

/// `[trusted_proxies]`: who may say where a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Where they connect from.
    pub networks: Vec<IpNet>,
    /// Whether each of their connections begins with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol: bool,
    /// Whether `X-Forwarded-For` and `X-Request-Id` of their requests are believed.
    pub headers: bool,
}

impl TrustedProxies {
    /// Whether this is the address of one of them. IPv4 in IPv6 clothes counts as what it is.
    #[must_use]
    pub fn include(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks
            .iter()
            .any(|network| network.contains(&address))
    }
}

/// `[http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Whole request head, bytes; beyond it 431. 8KiB to 1MiB.
    pub head_bytes_max: usize,
    /// Header fields of a request; beyond it 431. 1 to 1,000.
    pub header_count_max: usize,
    /// Request target, bytes; beyond it 414. 256B to 64KiB.
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
    /// Whether keys and limits are shared with other nodes (`kind = "redis"`).
    pub shared: bool,
    /// Through what.
    pub redis: Redis,
    /// Directory of the SQLite files: the store itself, or this node's copy of the shared one.
    pub path: PathBuf,
    /// How often counters are written: the most that `kill -9` can forget. 100ms to 1min.
    pub flush_interval: Duration,
    /// Whether a request is forwarded only once what it was charged is on the disk (`durability = "strict"`).
    pub strict: bool,
}

/// `[auth]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Whether `Authorization: Bearer` is a credential.
    pub bearer: bool,
    /// Whether `X-API-Key` is a credential.
    pub x_api_key: bool,
    /// Unknown credentials that one source may present before it is answered 429 for them; `None` is without limit.
    pub failures: Option<Rate>,
    /// `realm` of `WWW-Authenticate`: 1 to 64 of printable ASCII without quotes and backslashes.
    pub realm: String,
    /// `true` passes an `Authorization` of another scheme on to the backend when a valid X-API-Key stands beside it; `false` refuses it.
    pub pass_foreign_authorization: bool,
    /// Name of the query parameter that may carry a key (FF11): 1 to 64 of `A-Z a-z 0-9 . _ -`; `None` for none (C-12).
    pub query_parameter: Option<String>,
    /// Whether a secret key that a browser sends gets 403 (FF20, C-14).
    pub refuse_secret_keys_in_browsers: bool,
    /// What routes take that say nothing of credentials, and paths that no route serves.
    pub credentials: Kinds,
}

/// `[tokens]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The longest token, bytes; a longer one is refused unread. 512B to 64KiB.
    pub bytes_max: usize,
    /// Verified tokens that are remembered, so that they cost no more than keys. 64 to 1,000,000.
    pub cached_max: usize,
}

/// `[sessions]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// The cookie that carries one; `None` for no sessions.
    pub cookie: Option<String>,
    /// How old one may become, however it is prolonged. 1min to 720h.
    pub age_max: Duration,
    /// Where it says when it began.
    pub begins: ClaimPath,
}

/// `[key_format]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFormat {
    /// First word of secret keys: 1 to 16 of `a-z 0-9`.
    pub secret_prefix: String,
    /// First word of public keys; may equal the other.
    pub public_prefix: String,
}

/// `[key_labels]`: what lists call the states of keys; each 1 to 128 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLabels {
    /// In use.
    pub active: String,
    /// Switched off.
    pub inactive: String,
    /// Its end is past.
    pub expired: String,
    /// Ended for good.
    pub revoked: String,
    /// Ended for good and off the lists.
    pub deleted: String,
}

impl KeyLabels {
    /// What this state is called.
    #[must_use]
    pub fn of<'a>(&'a self, status: &'a str) -> &'a str {
        match status {
            "active" => &self.active,
            "inactive" => &self.inactive,
            "expired" => &self.expired,
            "revoked" => &self.revoked,
            "deleted" => &self.deleted,
            other => other,
        }
    }
}

/// `[key_rules]`: checked when a key is made or changed from the command line, never at requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRules {
    /// The lifetimes there are to choose from (FA3, C-8); empty is any.
    pub allowed_expirations: Vec<Lifetime>,
    /// The longest lifetime; `None` is unlimited.
    pub max_ttl: Option<Lifetime>,
    /// Whether keys that never end are remarked upon (C-30).
    pub warn_never: bool,
    /// Whether a key may list a scope that its plan does not grant; it has no effect until the plan does (CW7).
    pub allow_ungranted: bool,
}

/// `[[key_defaults]]`: what a key may do when nobody said it (C-7, PB20). The first that fits counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDefault {
    /// Of this kind only.
    pub kind: Option<KeyKind>,
    /// In this environment only.
    pub environment: Option<String>,
    /// What it may do.
    pub scopes: Scopes,
}

/// `[headers]`, `[tenant_header]` and `[subject_header]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The trusted tenant header.
    pub tenant: HeaderName,
    /// The trusted header that carries the key's subject (FA18); `None` sends none.
    pub subject: Option<HeaderName>,
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
    /// Whether what is another tenant's is 403 instead of the 404 twin (C-15).
    pub foreign_is_forbidden: bool,
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
    /// Whether `X-RateLimit-Reset` says how many seconds are left instead of the Unix time (C-23).
    pub reset_as_delta: bool,
    /// Whether any limit holds or all are only observed.
    pub mode: Mode,
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

/// `[revocation]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Whether requests in flight are ended with their key; `false` lets them finish (C-20).
    pub abort_in_flight: bool,
    /// Whether a secret key that came in clear is revoked (FA29).
    pub revoke_plaintext: bool,
}

/// `[alerts]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertRules {
    /// Where alerts are sent; `None` for the log alone.
    pub webhook: Option<Webhook>,
    /// The share of a quota window that is told of, in percent; 0 is none. 0 to 100.
    pub limit_percent: u32,
    /// The share of a key's requests that may fail within five minutes, in percent; 0 is off. 0 to 100.
    pub error_rate_percent: u32,
    /// Fewer requests than this say nothing. 1 to 1,000,000.
    pub error_rate_requests: u32,
    /// How many times the mean hour of the day before is unusual; 0 is off. 0 to 10,000.
    pub unusual_factor: u32,
    /// Fewer requests within the hour than this are never unusual. 1 to 1,000,000,000.
    pub unusual_requests: u32,
    /// After how long a key that nobody uses is told of; `never` is off.
    pub unused_after: Option<Lifetime>,
    /// How long before its end a key is told of.
    pub key_expiry_before: Option<Lifetime>,
    /// How long before its end a certificate is told of.
    pub certificate_expiry_before: Option<Lifetime>,
}

/// A receiver of alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its address.
    pub uri: Uri,
    /// The file of the secret that signs them.
    pub secret: PathBuf,
    /// The file of the authorities that its certificate comes from; `None` is those of the system.
    pub ca: Option<PathBuf>,
}

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRules {
    /// How old a line becomes; `never` (no number of seconds) is for ever.
    pub keep: Option<Lifetime>,
    /// How many lines there are at most. 1,000 to 100,000,000.
    pub lines_max: u32,
}

/// `[log]`; `access` and `queue_bytes_max` need a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Where access lines go.
    pub access: AccessLog,
    /// Access lines, bytes, that may wait for the disk; beyond it lines are lost and counted, requests never wait. 64KiB to 1GiB.
    pub queue_bytes_max: usize,
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

#[cfg(test)]
impl Upstream {
    /// `legacy`, every other key at its default.
    pub(crate) fn for_tests() -> Upstream {
        Upstream::clone(&Config::for_tests("").upstreams[0])
    }
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
        let servers = self.servers.iter().map(names::show_server);
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
    fn json() -> HeaderValue {
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
