//! What is typed, and where it is carried out: by a running gateway over its socket, or on the locked store.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use clap::CommandFactory;
use clap::Parser;
use http::Method;
use tempfile::TempDir;

use super::*;
use crate::admin;
use crate::admin::Admin;
use crate::cli::act::Place;
use crate::cli::args::At;
use crate::clock::Clock;
use crate::config;
use crate::snapshot::change::Keeper;
use crate::store::KeyFilter;
use crate::store::Outcome;
use crate::store::Store;

const FILE: &str = r#"
[listen]
https = ["127.0.0.1:8443"]
[tls]
certificate = "cert.pem"
private_key = "key.pem"
[plans.free]
quota = "100/hour"
burst = "20/min"
scopes = ["*"]
[[tenants]]
id = "acme"
plan = "free"
[upstreams.legacy]
servers = ["http://127.0.0.1:3000"]
[[routes]]
path = "/leases"
scope = "leases:read"
upstream = "legacy"
"#;

fn typed(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(line.split(' '))
}

fn verb(line: &str) -> Verb {
    match typed(line).unwrap().command {
        Command::Keys(keys) => key_verb(keys).unwrap(),
        Command::Tenants(tenants) => tenant_verb(tenants),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_sound() {
    Arguments::command().debug_assert();
}

// FM4: one key, one tenant. Rights are always stated.
#[test]
fn a_key_needs_one_tenant_a_name_and_its_rights() {
    let good = "portcullis keys create --tenant acme --name CI --inherit";
    assert!(typed(good).is_ok());
    for line in [
        "portcullis keys create --tenant acme --tenant bravo --name CI --inherit",
        "portcullis keys revoke key_AAAAAAAAAAAA --tenant acme --yes",
        "portcullis keys revoke --unused-since 30d --yes",
        "portcullis keys create --tenant acme --name CI --inherit --scope a:b",
        "portcullis keys create --name CI --inherit",
        "portcullis keys create --tenant acme --inherit",
        "portcullis keys create --tenant acme --name CI --inherit --kind other",
        "portcullis keys create --tenant acme --name CI --inherit --expires 90",
        "portcullis keys revoke",
    ] {
        assert_eq!(typed(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn scopes_and_expiry_reach_the_store_as_typed() {
    let line = "portcullis keys create --tenant acme --name CI --scope a:b c:d --scope e,f --expires 90d --quota 7/hour";
    let Verb::KeyCreate(new) = verb(line) else {
        panic!()
    };
    assert_eq!(new.scopes.unwrap(), ["a:b", "c:d", "e", "f"]);
    assert_eq!(new.expires_in_seconds, Some(90 * 86_400));
    assert_eq!(new.quota.as_deref(), Some("7/hour"));
    assert_eq!((new.kind.as_str(), new.environment), ("secret", None));
    let line =
        "portcullis keys create --tenant acme --name CI --inherit --expires 2027-01-31T00:00:00Z";
    let Verb::KeyCreate(new) = verb(line) else {
        panic!()
    };
    assert_eq!(new.scopes, None);
    assert_eq!(new.expires_in_seconds, None);
    assert_eq!(new.expires_at_unix_seconds, Some(1_801_353_600));
}

struct Site {
    directory: TempDir,
}

impl Site {
    fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("gateway.toml"), FILE).unwrap();
        Site { directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("gateway.toml")
    }

    fn place(&self) -> Place {
        let at = At {
            config: self.file(),
            admin_socket: None,
        };
        Place::find(&at).unwrap()
    }

    /// The control side of a gateway on this store, until the runtime is dropped.
    fn run(&self) -> (tokio::runtime::Runtime, Arc<Keeper>) {
        let config = Arc::new(config::load(&self.file()).unwrap().config);
        let store = Store::open(&config.store.path).unwrap();
        let started = Keeper::start(store, Arc::clone(&config), Box::new(|_| Ok(HashMap::new())));
        let keeper = Arc::new(started.unwrap().0);
        let control = Admin {
            quota: Arc::new(crate::quota::Quota::new()),
            observed: Arc::default(),
            started: Clock::system().now().wall,
            keeper: Arc::clone(&keeper),
            store: config.store.path.clone(),
            flush: Arc::new(|| {}),
            clock: Clock::system(),
            reload: Arc::new(|_| Err("gateway.toml:3: wrong".to_owned())),
            overview: Arc::new(|| serde_json::Value::Null),
            sessions: Arc::default(),
            alerts: crate::alerts::Alerts::queue().0,
            unwritten: Arc::default(),
            address: None,
            status: Arc::new(|| serde_json::json!({ "pid": 42 })),
            upstreams: Arc::new(Vec::new),
            metrics: Arc::new(|| "# EOF\n".to_owned()),
            ready: Arc::new(|| false),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let inside = runtime.enter();
        let listener = admin::bind_socket(&config.listen.admin_socket).unwrap();
        drop(inside);
        runtime.spawn(admin::serve_socket(listener, Arc::new(control)));
        (runtime, keeper)
    }
}

fn create() -> Verb {
    verb("portcullis keys create --tenant acme --name CI --inherit")
}

fn listed(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Keys { keys } => keys.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn verbs_go_to_the_running_gateway_and_to_the_store_when_none_runs() {
    let site = Site::new();
    let place = site.place();
    let list = Verb::KeyList(KeyFilter::default());
    place.act(&create()).unwrap();
    let (runtime, keeper) = site.run();
    place.act(&create()).unwrap();
    assert_eq!(keeper.snapshot().load().keys.len(), 2, "in force at once");
    assert_eq!(listed(&place.act(&list).unwrap()), 2);
    drop(runtime);
    drop(keeper);
    place.act(&create()).unwrap();
    assert_eq!(listed(&place.act(&list).unwrap()), 3);
}

#[test]
fn what_the_gateway_says_is_what_the_command_says() {
    let site = Site::new();
    let (_runtime, _keeper) = site.run();
    let place = site.place();
    let unknown = Verb::KeyRevoke {
        id: "key_AAAAAAAAAAAA".to_owned(),
    };
    let error = place.act(&unknown).unwrap_err();
    assert_eq!((error.exit, error.text.contains("keys list")), (1, true));
    let error = place.ask(Method::POST, "/cli/reload").unwrap_err();
    assert_eq!(
        (error.exit, error.text.as_str()),
        (78, "gateway.toml:3: wrong")
    );
    let status = place.ask(Method::GET, "/cli/status").unwrap();
    assert_eq!(&status[..], br#"{"pid":42}"#);
    let metrics = place.ask(Method::GET, "/metrics").unwrap();
    assert_eq!(&metrics[..], b"# EOF\n");
    assert_eq!(place.ask(Method::GET, "/readyz").unwrap_err().exit, 69);
    assert_eq!(&place.ask(Method::GET, "/livez").unwrap()[..], b"live\n");
}

#[test]
fn a_broken_configuration_does_not_keep_the_operator_from_revoking() {
    let site = Site::new();
    let (_runtime, keeper) = site.run();
    let socket = keeper.snapshot().load().config.listen.admin_socket.clone();
    fs::write(site.file(), "this is no TOML").unwrap();
    let at = |admin_socket| At {
        config: site.file(),
        admin_socket,
    };
    let error = Place::find(&at(None)).map(|_| ()).unwrap_err();
    assert_eq!(error.exit, 78);
    assert!(error.text.contains("--admin-socket"), "{error}");
    let place = Place::find(&at(Some(socket))).unwrap();
    place.act(&create()).unwrap();
}

#[test]
fn what_only_a_running_gateway_can_do_exits_69_without_one() {
    let site = Site::new();
    let error = site.place().ask(Method::GET, "/cli/status").unwrap_err();
    assert_eq!(error.exit, 69);
    assert!(error.text.contains("no gateway is running"), "{error}");
}
