//! Building and changing snapshots, over a real store in a directory of its own.

mod filed;
mod unwritten;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use tempfile::TempDir;

use crate::clock::Wall;
use crate::config::Config;
use crate::model::key::Digest;
use crate::model::key::KeyStatus;
use crate::model::key_text;
use crate::model::scope::Scopes;
use crate::snapshot::Snapshot;
use crate::snapshot::change::Keeper;
use crate::snapshot::change::KeeperError;
use crate::store::KeyFilter;
use crate::store::NewKey;
use crate::store::Outcome;
use crate::store::Store;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::shared::Position;
use crate::store::shared::link::Link;
use crate::store::shared::nodes::Nodes;
use crate::store::shared::testing::Server;

const PLANS: &str = r#"
[plans.free]
quota = "100/hour"
burst = "20/min"
scopes = ["*"]
[plans.pro]
quota = "1000/hour"
burst = "unlimited"
scopes = ["*"]
"#;

const ROUTE: &str = r#"
[[routes]]
path = "/leases"
scope = "leases:read"
upstream = "legacy"
"#;

const NOW: Wall = Wall(1_770_000_000_000_000);

fn configured(more: &str) -> Arc<Config> {
    Arc::new(Config::for_tests(&format!("{ROUTE}{more}")))
}

fn with_plans(more: &str) -> Arc<Config> {
    configured(&format!("{PLANS}{more}"))
}

struct Bench {
    keeper: Keeper,
    directory: TempDir,
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let bench = Bench {
            keeper: start(&directory, with_plans("")).unwrap(),
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

    fn try_to(&self, verb: Verb) -> Result<Outcome, VerbError> {
        self.keeper.execute(&verb, NOW)
    }

    #[track_caller]
    fn done(&self, verb: Verb) -> Outcome {
        self.try_to(verb).unwrap()
    }

    #[track_caller]
    fn key(&self, new: NewKey) -> (String, Digest) {
        issued(self.done(Verb::KeyCreate(new)))
    }

    fn view(&self) -> Arc<Snapshot> {
        self.keeper.snapshot().load_full()
    }

    fn status(&self, digest: &Digest) -> Option<KeyStatus> {
        self.view().key(digest).map(|entry| entry.status)
    }

    /// The process ends and starts again.
    fn restarted(self, config: Arc<Config>) -> Result<Bench, KeeperError> {
        drop(self.keeper);
        let keeper = start(&self.directory, config)?;
        Ok(Bench {
            keeper,
            directory: self.directory,
        })
    }
}

fn start(directory: &TempDir, config: Arc<Config>) -> Result<Keeper, KeeperError> {
    let store = Store::open(directory.path()).unwrap();
    Keeper::start(store, config, Box::new(|_| Ok(HashMap::new()))).map(|(keeper, _)| keeper)
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
fn issued(outcome: Outcome) -> (String, Digest) {
    match outcome {
        Outcome::KeyIssued { key, text, .. } => {
            (key.id, key_text::digest_of(text.reveal().as_bytes()))
        }
        other => panic!("{other:?}"),
    }
}

fn revoke(id: &str) -> Verb {
    Verb::KeyRevoke { id: id.into() }
}

#[test]
fn every_verb_is_in_force_when_it_returns_and_after_a_restart() {
    let bench = Bench::new();
    let (id, digest) = bench.key(new());
    assert_eq!(bench.status(&digest), Some(KeyStatus::Active));
    bench.done(Verb::KeyDeactivate { id: id.clone() });
    assert_eq!(bench.status(&digest), Some(KeyStatus::Inactive));
    bench.done(Verb::KeyActivate { id: id.clone() });
    assert_eq!(bench.status(&digest), Some(KeyStatus::Active));
    let (_, second) = issued(bench.done(Verb::KeyRegenerate {
        id: id.clone(),
        overlap_seconds: 0,
    }));
    assert_eq!(bench.status(&digest), None);
    assert_eq!(bench.status(&second), Some(KeyStatus::Active));
    bench.done(revoke(&id));
    assert_eq!(bench.status(&second), Some(KeyStatus::Revoked));
    let revision = bench.view().revision;
    assert_eq!(revision, 6);
    let bench = bench.restarted(with_plans("")).unwrap();
    assert_eq!(bench.status(&digest), None);
    assert_eq!(bench.status(&second), Some(KeyStatus::Revoked));
    assert_eq!(bench.view().revision, revision);
}

#[test]
fn suspending_a_tenant_is_in_force_at_once() {
    let bench = Bench::new();
    let (_, digest) = bench.key(new());
    let suspended = || {
        let view = bench.view();
        view.tenant_of(view.key(&digest).unwrap()).suspended
    };
    assert!(!suspended());
    bench.done(Verb::TenantSuspend { id: "acme".into() });
    assert!(suspended());
    bench.done(Verb::TenantResume { id: "acme".into() });
    assert!(!suspended());
}

#[test]
fn a_key_has_its_plan_its_own_limits_and_a_shared_scope_list() {
    let bench = Bench::new();
    let (_, plain) = bench.key(new());
    let (_, own) = bench.key(NewKey {
        plan: Some("pro".into()),
        quota: Some("7/hour".into()),
        expires_in_seconds: Some(60),
        ..new()
    });
    let view = bench.view();
    let (plain, own) = (view.key(&plain).unwrap(), view.key(&own).unwrap());
    assert_eq!(view.plan_of(plain).name, "free");
    assert_eq!(plain.own, None);
    assert!(!plain.expired(Wall(u64::MAX - 1)));
    assert_eq!(view.plan_of(own).name, "pro");
    let limits = view.limits_of(own);
    assert_eq!(limits.quota.map(|rate| rate.count), Some(7));
    assert_eq!(limits.burst, None, "the plan says unlimited");
    assert!(!own.expired(Wall(NOW.0 + 59_999_999)));
    assert!(own.expired(Wall(NOW.0 + 60_000_000)));
    match (&plain.scopes, &own.scopes) {
        (Scopes::Listed(one), Scopes::Listed(two)) => assert!(one.is(two)),
        other => panic!("{other:?}"),
    }
}

// FA8: a look-up that begins after `revoke` returned never finds the key active, whatever else changes meanwhile.
#[test]
fn revocation_is_a_fence_for_every_reader() {
    let bench = Bench::new();
    for _ in 0..20 {
        let (id, digest) = bench.key(new());
        let (_, other) = bench.key(new());
        let returned = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let too_late = returned.load(Ordering::SeqCst);
                        let active = bench.status(&digest) == Some(KeyStatus::Active);
                        assert!(!(too_late && active));
                        assert_eq!(bench.status(&other), Some(KeyStatus::Active));
                        if too_late {
                            return;
                        }
                    }
                });
            }
            scope.spawn(|| bench.key(new()));
            scope.spawn(|| bench.keeper.replace_config(with_plans("")).unwrap());
            bench.done(revoke(&id));
            returned.store(true, Ordering::SeqCst);
        });
    }
}

// Freeing a view may mean freeing most of a million keys: no request is to wait for that.
#[test]
fn a_replaced_view_is_freed_by_the_keeper_and_not_by_who_read_it_last() {
    let bench = Bench::new();
    for change in 0..2 {
        let read = bench.keeper.snapshot().load_full();
        let view = Arc::downgrade(&read);
        if change == 0 {
            bench.done(Verb::KeyCreate(new()));
        } else {
            bench.keeper.replace_config(with_plans("")).unwrap();
        }
        drop(read);
        assert!(view.upgrade().is_some(), "freed by its reader");
        bench.keeper.retry_unwritten(NOW);
        assert!(view.upgrade().is_none(), "kept for good");
    }
}

#[test]
fn fa9_what_may_end_requests_is_told_and_what_only_adds_is_not() {
    let directory = TempDir::new().unwrap();
    let keeper = start(
        &directory,
        with_plans("[[tenants]]\nid = \"acme\"\nplan = \"free\"\n"),
    )
    .unwrap();
    let mut endings = keeper.endings();
    let mut told = |verb: &Verb| {
        // Most of them are carried out; the last, whose store is full, is only in force.
        let outcome = keeper.execute(verb, NOW);
        let told = endings.has_changed().unwrap();
        endings.mark_unchanged();
        (told, outcome.ok())
    };
    let (create, tenant) = (Verb::KeyCreate(new()), "initech".to_owned());
    let (adds, outcome) = told(&create);
    let (id, _) = issued(outcome.unwrap());
    assert!(!adds);
    let plan = "free".to_owned();
    for (verb, ends) in [
        (Verb::KeyList(KeyFilter::default()), false),
        (Verb::KeyDeactivate { id: id.clone() }, true),
        (Verb::KeyActivate { id: id.clone() }, false),
        (
            Verb::KeyRegenerate {
                id: id.clone(),
                overlap_seconds: 0,
            },
            true,
        ),
        (
            Verb::TenantCreate {
                id: tenant.clone(),
                name: None,
                plan,
                upstreams: Default::default(),
            },
            false,
        ),
        (Verb::TenantSuspend { id: tenant.clone() }, true),
        (Verb::TenantResume { id: tenant }, false),
        (revoke(&id), true),
    ] {
        assert_eq!(told(&verb).0, ends, "{verb:?}");
    }
    let (id, _) = issued(told(&create).1.unwrap());
    keeper.refuse_writes(true);
    let (ends, outcome) = told(&revoke(&id));
    assert!(ends && outcome.is_none(), "in force, not durable");
}

/// An act that was given a name is done once within a day; the same name for another is refused.
#[test]
fn an_act_with_a_name_is_done_once() {
    let bench = Bench::new();
    let verb = |id: &str| Verb::TenantCreate {
        id: id.to_owned(),
        name: None,
        plan: "free".to_owned(),
        upstreams: std::collections::BTreeMap::default(),
    };
    let actor = |print: &str| crate::store::audit::Actor {
        once: Some(crate::store::audit::Once {
            key: "first".to_owned(),
            print: print.to_owned(),
        }),
        ..crate::store::audit::Actor::user(Some(7), "socket")
    };
    let execute = |id: &str, actor: &crate::store::audit::Actor, at: Wall| {
        bench.keeper.execute_as(&verb(id), actor, at)
    };
    let first = execute("umbra", &actor("x"), NOW).unwrap();
    assert!(matches!(
        first,
        Outcome::TenantChanged { changed: true, .. }
    ));
    let again = execute("umbra", &actor("x"), NOW).unwrap();
    assert_eq!(
        again,
        Outcome::Replayed {
            id: "umbra".to_owned()
        }
    );
    assert!(execute("vega", &actor("y"), NOW).is_err());
    let later = Wall(NOW.0 + 86_401 * 1_000_000);
    assert!(matches!(
        execute("vega", &actor("y"), later),
        Ok(Outcome::TenantChanged { .. })
    ));
}

// A store that was emptied knows nobody: a fence waits until it has heard of the node that asks, and with it of all that this one knew.
#[test]
fn a_fence_in_an_emptied_store_waits_for_its_own_node() {
    let Some(server) = Server::start() else {
        return;
    };
    let settings = server.settings.clone();
    let fence =
        std::thread::spawn(move || crate::snapshot::shared::fence(&settings, Some("one"), 0));
    let mut link = Link::new(&server.settings);
    let looked = |link: &mut Link| {
        let stats: String = link
            .call(0, |connection| {
                redis::cmd("INFO").arg("commandstats").query(connection)
            })
            .unwrap();
        let calls = stats
            .lines()
            .find(|line| line.starts_with("cmdstat_hgetall:calls="));
        let calls = calls.and_then(|line| line.split(['=', ',']).nth(1)?.parse::<u32>().ok());
        calls.unwrap_or(0) >= 3
    };
    while !looked(&mut link) {
        assert!(!fence.is_finished(), "it waits: {:?}", fence.join());
        std::thread::yield_now();
    }
    let mut nodes = Nodes::join(&server.settings, "one", "at-/srv1").unwrap();
    nodes.beat(&Position::default(), false).unwrap();
    assert_eq!(fence.join().unwrap().unwrap(), 1);
}
