//! Rules of the verbs, each on a real store in a directory of its own; and once more over a store that nodes share, with a second node that
//! has to know the same after every act.

mod change;
mod create;
mod list;

use std::collections::HashMap;

use tempfile::TempDir;

use crate::clock::Wall;
use crate::config::Config;
use crate::store::KeyFilter;
use crate::store::NewKey;
use crate::store::Store;
use crate::store::Verb;
use crate::store::audit::Actor;
use crate::store::outcome::KeyText;
use crate::store::outcome::KeyView;
use crate::store::outcome::Outcome;
use crate::store::outcome::VerbError;
use crate::store::shared::testing::Server;
use crate::store::verbs::Declared;
use crate::store::verbs::apply;

const FILE: &str = r#"
[plans.free]
quota = "100/hour"
burst = "20/min"
scopes = ["leases:*"]
[plans.none]
quota = "1/hour"
burst = "unlimited"
scopes = ["*"]
api_access = false
[[tenants]]
id = "filed"
plan = "free"
[[keys]]
tenant = "filed"
name = "old"
digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
scopes = "inherit"
[[routes]]
path = "/leases"
methods = ["GET"]
scope = "leases:read"
upstream = "legacy"
cost = 5
"#;

const NOW: Wall = Wall(1_770_000_000_900_000);

struct Bench {
    directory: TempDir,
    store: Store,
    config: Config,
    other: Option<OtherNode>,
}

/// A node that only ever hears of what the first one did.
struct OtherNode {
    store: Store,
    _directory: TempDir,
    _server: Server,
}

impl OtherNode {
    /// Joins a shared store, which `first` begins.
    fn join(server: Server, first: &mut Store) -> OtherNode {
        let directory = tempfile::tempdir().unwrap();
        first.share_for_test(&server.settings);
        first.begin(NOW).unwrap();
        let mut store = Store::open(directory.path()).unwrap();
        store.share_for_test(&server.settings);
        store.begin(NOW).unwrap();
        OtherNode {
            store,
            _directory: directory,
            _server: server,
        }
    }

    #[track_caller]
    fn knows_the_same(&mut self, first: &Store) {
        self.store.catch_up(NOW).unwrap();
        let sorted = |store: &Store| {
            let mut all = store.load().unwrap();
            all.keys.sort_by_key(|key| key.id.to_string());
            all.tenants.sort_by_key(|tenant| tenant.id.clone());
            all.retired.sort_by_key(|old| old.digest.hex());
            format!("{all:?} {:?}", store.admin_tokens().unwrap())
        };
        assert_eq!(sorted(&self.store), sorted(first));
        assert_eq!(self.store.position().unwrap(), first.position().unwrap());
    }
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path()).unwrap();
        let shared = module_path!().ends_with("tests_shared");
        let server = shared.then(Server::start).flatten();
        let other = server.map(|server| OtherNode::join(server, &mut store));
        let mut bench = Bench {
            other,
            store,
            config: Config::for_tests(FILE),
            directory,
        };
        bench.done(Verb::TenantCreate {
            id: "acme".into(),
            name: None,
            plan: "free".into(),
            upstreams: Default::default(),
        });
        bench
    }

    fn at(&mut self, verb: Verb, now: Wall) -> Result<Outcome, VerbError> {
        let declared = Declared::of(&self.config);
        let actor = Actor::gateway("test");
        let applied = apply(
            &mut self.store,
            &declared,
            &verb,
            now,
            &|_| Ok(HashMap::new()),
            &actor,
        );
        if let Some(other) = &mut self.other {
            other.knows_the_same(&self.store);
        }
        applied
            .map(|applied| applied.outcome)
            .map_err(VerbError::from)
    }

    fn try_to(&mut self, verb: Verb) -> Result<Outcome, VerbError> {
        self.at(verb, NOW)
    }

    #[track_caller]
    fn done(&mut self, verb: Verb) -> Outcome {
        self.try_to(verb).unwrap()
    }

    #[track_caller]
    fn refused(&mut self, verb: Verb, words: &str) {
        let before = self.store.revision().unwrap();
        let error = self.try_to(verb).unwrap_err();
        assert!(error.text.contains(words), "{error}");
        assert_eq!(error.exit, 1, "{error}");
        assert_eq!(self.store.revision().unwrap(), before);
    }

    #[track_caller]
    fn key(&mut self) -> (String, KeyText) {
        issued(self.done(Verb::KeyCreate(new())))
    }

    #[track_caller]
    fn view(&mut self, id: &str) -> KeyView {
        match self.done(Verb::KeyShow { id: id.into() }) {
            Outcome::Key { key } => *key,
            other => panic!("{other:?}"),
        }
    }

    fn list(&mut self) -> Vec<KeyView> {
        match self.done(Verb::KeyList(KeyFilter::default())) {
            Outcome::Keys { keys } => keys,
            other => panic!("{other:?}"),
        }
    }

    fn file_key(&self) -> String {
        self.config.declared_keys[0].id.to_string()
    }
}

fn new() -> NewKey {
    NewKey {
        tenant: "acme".into(),
        name: "CI".into(),
        kind: "secret".into(),
        scopes: Some(vec!["leases:read".into()]),
        ..NewKey::default()
    }
}

#[track_caller]
fn issued(outcome: Outcome) -> (String, KeyText) {
    match outcome {
        Outcome::KeyIssued { key, text, .. } => (key.id, text),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn changed(outcome: Outcome) -> bool {
    match outcome {
        Outcome::KeyChanged { changed, .. } | Outcome::TenantChanged { changed, .. } => changed,
        other => panic!("{other:?}"),
    }
}

fn revoke(id: &str) -> Verb {
    Verb::KeyRevoke { id: id.into() }
}

fn delete(id: &str) -> Verb {
    Verb::KeyDelete { id: id.into() }
}

fn activate(id: &str) -> Verb {
    Verb::KeyActivate { id: id.into() }
}

fn deactivate(id: &str) -> Verb {
    Verb::KeyDeactivate { id: id.into() }
}

fn regenerate(id: &str) -> Verb {
    Verb::KeyRegenerate {
        id: id.into(),
        overlap_seconds: 0,
    }
}
