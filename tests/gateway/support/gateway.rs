//! A real gateway in this process, on free ports, with its own directory and a clock that the test moves.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::clock::Wall;
use portcullis::store::NewKey;
use portcullis::store::Verb;
use tempfile::TempDir;

use crate::support::certs;
use crate::support::client::Http1;
use crate::support::client::Http2;
use crate::support::eventually;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

/// A key as its owner knows it.
#[derive(Clone, Debug)]
pub struct Key {
    /// The public id.
    pub id: String,
    /// The secret.
    pub text: String,
}

/// What a route demands.
#[derive(Clone, Copy)]
pub enum Access<'a> {
    /// A key with this scope.
    Scope(&'a str),
    /// Any key.
    AnyKey,
    /// No key.
    Public,
}

/// A gateway.toml in the making.
#[derive(Clone)]
pub struct Setup {
    directory: Arc<TempDir>,
    tables: BTreeMap<String, BTreeMap<String, String>>,
    tenants: Vec<(String, String)>,
    routes: Vec<String>,
    more: String,
    /// A whole file instead of tables, upstreams and routes.
    whole: Option<String>,
}

impl Setup {
    /// The least that runs: one upstream, `legacy`, no plan, tenant or route.
    pub fn bare(upstream: SocketAddr) -> Setup {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        certs::usual().write(directory.path(), "cert");
        let setup = Setup {
            directory,
            tables: BTreeMap::new(),
            tenants: Vec::new(),
            routes: Vec::new(),
            more: String::new(),
            whole: None,
        };
        setup
            .set("listen", "https", r#"["127.0.0.1:0"]"#)
            .set("listen", "http", r#"["127.0.0.1:0"]"#)
            .set("listen", "admin", r#""127.0.0.1:0""#)
            .set("listen", "admin_socket", r#""admin.sock""#)
            .set("server", "workers", "2")
            .set("server", "drain_timeout", r#""5s""#)
            .set("tls", "certificate", r#""cert.pem""#)
            .set("tls", "private_key", r#""cert.key""#)
            .set("store", "path", r#""state""#)
            .set("log", "access", r#""file:access.log""#)
            .upstream("legacy", upstream)
            .over_redis()
    }

    /// Where `PORTCULLIS_OVER_REDIS` names a server (`127.0.0.1:6379`), a shared store of its own there: the same scenarios over the other store.
    fn over_redis(self) -> Setup {
        let Ok(server) = std::env::var("PORTCULLIS_OVER_REDIS") else {
            return self;
        };
        let prefix = self.directory().file_name().unwrap().to_string_lossy();
        let prefix = format!("{:?}", prefix.trim_start_matches('.'));
        self.set("store", "kind", r#""redis""#)
            .set("store", "redis_timeout", r#""3s""#)
            .set("store", "redis_servers", &format!("[{server:?}]"))
            .set("store", "redis_prefix", &prefix)
    }

    /// A file of `examples/`, its backends and listeners put where the test has them; `sandbox` stands for the second backend.
    pub fn example(name: &str, live: &Upstream, sandbox: &Upstream) -> Setup {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("examples")
            .join(name);
        let mut text = fs::read_to_string(path).unwrap();
        for (from, to) in [
            ("0.0.0.0:8443", "127.0.0.1:0".to_owned()),
            ("0.0.0.0:8080", "127.0.0.1:0".to_owned()),
            ("127.0.0.1:9600", "127.0.0.1:0".to_owned()),
            ("\"key.pem\"", "\"cert.key\"".to_owned()),
            ("\"stdout\"", "\"file:access.log\"".to_owned()),
            ("127.0.0.1:3000", live.address.to_string()),
        ] {
            assert!(text.contains(from), "{name} has {from}");
            text = text.replace(from, &to);
        }
        Setup {
            whole: Some(text.replace("127.0.0.1:3001", &sandbox.address.to_string())),
            ..Setup::bare(live.address)
        }
    }

    /// A whole file with one text in the place of another.
    pub fn instead(mut self, from: &str, to: &str) -> Setup {
        let text = self.whole.as_mut().expect("a whole file");
        assert!(text.contains(from), "there is {from}");
        *text = text.replace(from, to);
        self
    }

    /// What most scenarios need. Tenants `acme` and `bravo` on plan `open` (no limits, all scopes), and routes to everything:
    /// `/leases/…` GET `leases:read`, POST `leases:write`; `/owners/…` GET `owners:read`; `/admin/…` every method `admin:all`;
    /// `/any/…` any key; `/public/…` no key.
    pub fn usual(upstream: &Upstream) -> Setup {
        Setup::usual_at(upstream.address)
    }

    /// The same in front of whatever listens at this address.
    pub fn usual_at(upstream: SocketAddr) -> Setup {
        Setup::bare(upstream)
            .plan("open", "unlimited", "unlimited")
            .tenant("acme", "open")
            .tenant("bravo", "open")
            .route("/leases/{*rest}", &["GET"], Access::Scope("leases:read"))
            .route("/leases/{*rest}", &["POST"], Access::Scope("leases:write"))
            .route("/owners/{*rest}", &["GET"], Access::Scope("owners:read"))
            .route("/admin/{*rest}", &[], Access::Scope("admin:all"))
            .route("/any/{*rest}", &[], Access::AnyKey)
            .route("/public/{*rest}", &[], Access::Public)
    }

    /// The usual, with tenant `acme` on a plan with these limits.
    pub fn limited(upstream: &Upstream, quota: &str, burst: &str) -> Setup {
        Setup::usual(upstream)
            .plan("limited", quota, burst)
            .tenant("acme", "limited")
    }

    /// Puts these servers behind upstream `legacy`.
    pub fn servers(self, servers: &[SocketAddr]) -> Setup {
        let texts: Vec<String> = servers.iter().map(|at| format!("http://{at}")).collect();
        self.set("upstreams.legacy", "servers", &format!("{texts:?}"))
    }

    /// Sets one key of one table to this TOML text.
    pub fn set(mut self, table: &str, key: &str, value: &str) -> Setup {
        self.tables
            .entry(table.to_owned())
            .or_default()
            .insert(key.to_owned(), value.to_owned());
        self
    }

    /// Takes one key of one table out.
    pub fn unset(mut self, table: &str, key: &str) -> Setup {
        self.tables.entry(table.to_owned()).or_default().remove(key);
        self
    }

    /// Adds or replaces an upstream.
    pub fn upstream(self, name: &str, address: SocketAddr) -> Setup {
        let servers = format!(r#"["http://{address}"]"#);
        self.set(&format!("upstreams.{name}"), "servers", &servers)
    }

    /// Adds or replaces a plan that grants all scopes.
    pub fn plan(self, name: &str, quota: &str, burst: &str) -> Setup {
        let table = format!("plans.{name}");
        self.set(&table, "quota", &format!("{quota:?}"))
            .set(&table, "burst", &format!("{burst:?}"))
            .set(&table, "scopes", r#"["*"]"#)
    }

    /// Adds a tenant, or puts it on another plan.
    pub fn tenant(mut self, id: &str, plan: &str) -> Setup {
        self.tenants.retain(|(known, _)| known != id);
        self.tenants.push((id.to_owned(), plan.to_owned()));
        self
    }

    /// Adds a route to `legacy`; no methods means all.
    pub fn route(self, path: &str, methods: &[&str], access: Access<'_>) -> Setup {
        self.route_to("legacy", path, methods, access, "")
    }

    /// Adds a route with more lines of TOML.
    pub fn route_to(
        mut self,
        upstream: &str,
        path: &str,
        methods: &[&str],
        access: Access<'_>,
        more: &str,
    ) -> Setup {
        let mut table = format!("[[routes]]\npath = {path:?}\nupstream = {upstream:?}\n");
        if !methods.is_empty() {
            table.push_str(&format!("methods = {methods:?}\n"));
        }
        table.push_str(&match access {
            Access::Scope(scope) => format!("scope = {scope:?}\n"),
            Access::AnyKey => "access = \"any-key\"\n".to_owned(),
            Access::Public => "access = \"public\"\n".to_owned(),
        });
        table.push_str(more);
        self.routes.push(table);
        self
    }

    /// Appends TOML as it is.
    pub fn more(mut self, toml: &str) -> Setup {
        self.more.push_str(toml);
        self.more.push('\n');
        self
    }

    /// The directory that everything of this gateway lives in.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes gateway.toml and says where.
    pub fn write(&self) -> PathBuf {
        let path = self.directory.path().join("gateway.toml");
        let fresh = self.directory.path().join("gateway.toml.new");
        fs::write(&fresh, self.text()).unwrap();
        fs::rename(&fresh, &path).unwrap();
        path
    }

    /// Writes gateway.toml and starts a gateway on it.
    #[track_caller]
    pub fn start(self) -> Gateway {
        self.start_at(Clock::movable())
    }

    /// The same, at this clock.
    #[track_caller]
    pub fn start_at(self, clock: Clock) -> Gateway {
        let inner = self
            .try_start(&clock)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.text()));
        Gateway {
            setup: self,
            clock,
            inner: Some(inner),
        }
    }

    /// Writes gateway.toml and tries to start; the text of the error otherwise.
    pub fn try_start(&self, clock: &Clock) -> Result<portcullis::server::Gateway, String> {
        portcullis::server::Gateway::start(&self.write(), clock.clone())
            .map_err(|error| error.to_string())
    }

    fn text(&self) -> String {
        let mut text = self.whole.clone().unwrap_or_default();
        let tables = self.tables.iter().filter(|_| self.whole.is_none());
        for (name, table) in tables {
            text.push_str(&format!("[{name}]\n"));
            for (key, value) in table {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        for (id, plan) in &self.tenants {
            text.push_str(&format!("[[tenants]]\nid = {id:?}\nplan = {plan:?}\n"));
        }
        for route in &self.routes {
            text.push_str(route);
        }
        text.push_str(&self.more);
        text
    }
}

/// A movable clock that shows half past an hour when it is made: what is kept by the hour stays within one, whatever time it is.
pub fn half_past() -> Clock {
    let clock = Clock::movable();
    let hour = 3_600;
    let into_it = clock.now().wall.unix_seconds() % hour;
    clock.set_wall_by(hour as i64 / 2 - into_it as i64);
    clock
}

/// A clock that stands still at a whole second, half past an hour, and goes on by `advance` alone: for what is exact in time, on a busy machine too.
pub fn still() -> Clock {
    let mut now = half_past().now();
    now.wall = Wall::from_unix_seconds(now.wall.unix_seconds());
    Clock::still(now)
}

/// A key that inherits all that its tenant may do and never expires.
pub fn new_key(tenant: &str) -> NewKey {
    NewKey {
        tenant: tenant.to_owned(),
        name: "test".to_owned(),
        kind: "secret".to_owned(),
        environment: None,
        plan: None,
        quota: None,
        burst: None,
        scopes: None,
        expires_in_seconds: None,
        ..NewKey::default()
    }
}

/// A running gateway; drains and stops when dropped.
pub struct Gateway {
    /// What it was started with.
    pub setup: Setup,
    /// Its clock.
    pub clock: Clock,
    inner: Option<portcullis::server::Gateway>,
}

impl Gateway {
    fn inner(&self) -> &portcullis::server::Gateway {
        self.inner.as_ref().expect("the gateway runs")
    }

    /// The first TLS address.
    pub fn https(&self) -> SocketAddr {
        self.inner().https()[0]
    }

    /// The first plain-HTTP address.
    pub fn http(&self) -> SocketAddr {
        self.inner().http()[0]
    }

    /// The admin address.
    pub fn admin(&self) -> SocketAddr {
        self.inner().admin().expect("an admin listener")
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        self.setup.directory()
    }

    /// Performs an administrative act, as the command line would; the outcome as the JSON that the command line gets.
    pub fn execute(&self, verb: Verb) -> Result<serde_json::Value, String> {
        match self.inner().execute(verb) {
            Ok(outcome) => Ok(serde_json::to_value(outcome).unwrap()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the real command line prints when it is asked this of the running gateway, over its admin socket; standard error behind.
    #[track_caller]
    pub fn command(&self, words: &[&str]) -> (i32, String, String) {
        let beside = self.directory().join("admin.sock");
        let in_store = self.directory().join("state/admin.sock");
        let socket = if beside.exists() { beside } else { in_store };
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(words)
            .arg("--admin-socket")
            .arg(socket)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    }

    /// A key of this tenant that inherits everything.
    #[track_caller]
    pub fn key(&self, tenant: &str) -> Key {
        self.make_key(new_key(tenant))
    }

    /// A key of this tenant with exactly these scopes.
    #[track_caller]
    pub fn key_with_scopes(&self, tenant: &str, scopes: &[&str]) -> Key {
        self.make_key(NewKey {
            scopes: Some(scopes.iter().map(|scope| (*scope).to_owned()).collect()),
            ..new_key(tenant)
        })
    }

    /// This key.
    #[track_caller]
    pub fn make_key(&self, key: NewKey) -> Key {
        let outcome = self.execute(Verb::KeyCreate(key)).unwrap();
        key_of(&outcome)
    }

    /// Revokes a key; in force when this returns.
    #[track_caller]
    pub fn revoke(&self, key: &Key) {
        let id = key.id.clone();
        self.execute(Verb::KeyRevoke { id }).unwrap();
    }

    /// A TLS connection.
    #[track_caller]
    pub fn connect(&self) -> Http1 {
        Http1::tls(self.https())
    }

    /// An HTTP/2 connection.
    pub async fn connect_h2(&self) -> Http2 {
        Http2::connect(self.https()).await
    }

    /// GET of this target with this key, on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str, key: &Key) -> Answer {
        self.send(&Request::get(target).bearer(&key.text))
    }

    /// This request, on a connection of its own.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Answer {
        self.connect().exchange(request)
    }

    /// These bytes, on a TLS connection of their own; what came back until the gateway closed, or one answer.
    #[track_caller]
    pub fn send_bytes(&self, bytes: impl AsRef<[u8]>) -> Option<Answer> {
        self.connect().send(bytes).try_read_for("GET")
    }

    /// What `GET path` on the admin listener says.
    #[track_caller]
    pub fn admin_get(&self, path: &str) -> Answer {
        Http1::plain(self.admin()).exchange(&Request::get(path).header("Connection", "close"))
    }

    /// How often this has happened to client connections.
    pub fn connection_events(&self, event: &str) -> u64 {
        self.metric(&format!(
            r#"portcullis_connection_events_total{{event="{event}"}}"#
        ))
    }

    /// The number of one series; 0 when it is not there.
    pub fn metric(&self, series: &str) -> u64 {
        let text = self.admin_get("/metrics").text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
    }

    /// The names of all series, with their labels, once this many requests are counted: a request is counted when its answer has
    /// ended, which its client may see first.
    #[track_caller]
    pub fn series_after(&self, requests: u64) -> Vec<String> {
        eventually(&format!("{requests} requests are counted"), || {
            let text = self.admin_get("/metrics").text();
            let samples = text.lines().filter(|line| !line.starts_with('#'));
            let samples: Vec<_> = samples.filter_map(|line| line.rsplit_once(' ')).collect();
            let counts = samples
                .iter()
                .filter(|(name, _)| name.starts_with("http_server_requests_total{"));
            let counted: u64 = counts.map(|(_, count)| count.parse::<u64>().unwrap()).sum();
            assert!(counted <= requests, "{counted} requests are counted");
            let mut names: Vec<_> = samples.iter().map(|(name, _)| (*name).to_owned()).collect();
            names.sort();
            (counted == requests).then_some(names)
        })
    }

    /// Whether this server of upstream `legacy` is in this state: `up`, `ejected`, `probing`, `down`.
    pub fn server_is(&self, server: SocketAddr, state: &str) -> bool {
        self.metric(&format!(
            r#"portcullis_upstream_server_state{{upstream="legacy",server="{server}",state="{state}"}}"#
        )) == 1
    }

    /// Waits until it is.
    #[track_caller]
    pub fn wait_until(&self, server: SocketAddr, state: &str) {
        eventually(&format!("{server} is {state}"), || {
            self.server_is(server, state).then_some(())
        });
    }

    /// A number of upstream `legacy`: `retries_total`, `requests_queued` …
    pub fn upstream_number(&self, name: &str) -> u64 {
        self.metric(&format!(
            r#"portcullis_upstream_{name}{{upstream="legacy"}}"#
        ))
    }

    /// Puts a changed file in place and asks for a reload.
    pub fn reload(&mut self, setup: Setup) -> Result<String, String> {
        setup.write();
        let outcome = self.inner().reload();
        if outcome.is_ok() {
            self.setup = setup;
        }
        outcome
    }

    /// Asks for a reload of the file as it is.
    pub fn reload_as_is(&self) -> Result<String, String> {
        self.inner().reload()
    }

    /// Moves its clock.
    pub fn advance(&self, span: Duration) {
        self.clock.advance(span);
        if std::env::var_os("PORTCULLIS_OVER_REDIS").is_some() {
            // To a node whose clock was moved, what it knew of its store is as old as that.
            eventually("the shared store is heard", || {
                (self.metric("portcullis_shared_store_silence_seconds") < 5).then_some(())
            });
        }
    }

    /// Drains, stops, and starts again on the same directory.
    #[track_caller]
    pub fn restart(mut self) -> Gateway {
        self.halt();
        self.setup.clone().start_at(self.clock.clone())
    }

    /// Drains and stops.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        if let Some(inner) = self.inner.take() {
            inner.stop();
        }
    }

    /// The access log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory().join("access.log")).unwrap_or_default()
    }

    /// Waits for the first access-log line that contains this text.
    #[track_caller]
    pub fn log_line(&self, text: &str) -> serde_json::Value {
        let line = eventually(&format!("a log line with {text:?}"), || {
            let log = self.log();
            let mut lines = log
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            lines.find(|line| line.contains(text)).map(str::to_owned)
        });
        serde_json::from_str(&line).expect("each log line is JSON")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.halt();
    }
}

/// The key in the outcome of a create or regenerate: the one place that knows its shape.
#[track_caller]
pub fn key_of(outcome: &serde_json::Value) -> Key {
    Key {
        id: string_named(outcome, "id").expect("the outcome has an id"),
        text: string_named(outcome, "text").expect("the outcome has the key's text"),
    }
}

fn string_named(value: &serde_json::Value, name: &str) -> Option<String> {
    match value {
        serde_json::Value::Object(members) => members
            .get(name)
            .and_then(|found| found.as_str())
            .map(str::to_owned)
            .or_else(|| members.values().find_map(|inner| string_named(inner, name))),
        _ => None,
    }
}

/// All files below a directory, with their bytes.
pub fn files_below(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if let Ok(bytes) = fs::read(&path) {
            found.push((path, bytes));
        }
    }
    found
}
