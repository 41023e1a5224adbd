//! Building and changing snapshots, over a real store in a directory of its own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use tempfile::TempDir;

use super::*;
use crate::clock::Wall;
use crate::config;
use crate::model::identity::Identity;
use crate::model::key_text;
use crate::model::tenant::TenantId;
use crate::snapshot::build::BuildError;
use crate::snapshot::change::Keeper;
use crate::snapshot::change::KeeperError;
use crate::store::KeyFilter;
use crate::store::NewKey;
use crate::store::Outcome;
use crate::store::Store;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::request::TokenDenial;
use crate::store::request::TokenNames;
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

const REST: &str = r#"
[listen]
https = ["127.0.0.1:8443"]
[tls]
certificate = "cert.pem"
private_key = "key.pem"
[upstreams.legacy]
servers = ["http://127.0.0.1:3000"]
[[routes]]
path = "/leases"
scope = "leases:read"
upstream = "legacy"
"#;

const NOW: Wall = Wall(1_770_000_000_000_000);

fn configured(more: &str) -> Arc<Config> {
    let text = format!("{REST}{more}");
    let loaded = config::parse(&text, Path::new("gateway.toml"));
    Arc::new(loaded.unwrap().config)
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
    Keeper::start(store, config, Box::new(|_| HashMap::new())).map(|(keeper, _)| keeper)
}

fn new() -> NewKey {
    NewKey {
        tenant: "acme".into(),
        name: "CI".into(),
        kind: "secret".into(),
        environment: None,
        plan: None,
        quota: None,
        burst: None,
        scopes: Some(vec!["leases:read".into()]),
        expires_in_seconds: None,
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
        (Scopes::Listed(one), Scopes::Listed(two)) => assert!(Arc::ptr_eq(one, two)),
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

// DESIGN section 11: what takes rights away holds even when it cannot be written, and is written as soon as it can be.
#[test]
fn a_revocation_that_cannot_be_written_is_in_force_and_written_later() {
    let bench = Bench::new();
    let (revoked, digest) = bench.key(new());
    let (switched, other) = bench.key(new());
    bench.keeper.refuse_writes(true);
    for _ in 0..2 {
        let error = bench.try_to(revoke(&revoked)).unwrap_err();
        assert_eq!(error.exit, 69);
        assert!(error.text.contains("in force, not durable"), "{error}");
    }
    let off = Verb::KeyDeactivate {
        id: switched.clone(),
    };
    assert!(bench.try_to(off).is_err());
    let suspend = Verb::TenantSuspend { id: "acme".into() };
    assert!(bench.try_to(suspend).is_err());
    let in_force = |bench: &Bench| {
        assert_eq!(bench.status(&digest), Some(KeyStatus::Revoked));
        assert_eq!(bench.status(&other), Some(KeyStatus::Inactive));
        assert!(bench.view().tenants.entries[0].suspended);
    };
    in_force(&bench);
    let on = Verb::KeyActivate { id: switched };
    assert!(
        bench.try_to(on).is_err(),
        "nothing overtakes what is unwritten"
    );
    let made = bench.try_to(Verb::KeyCreate(new()));
    assert!(made.is_err(), "no key that would be lost");
    bench.keeper.replace_config(with_plans("")).unwrap();
    in_force(&bench);
    assert_eq!(bench.keeper.retry_unwritten(NOW), 3);
    bench.keeper.refuse_writes(false);
    assert_eq!(bench.keeper.retry_unwritten(NOW), 0);
    let bench = bench.restarted(with_plans("")).unwrap();
    in_force(&bench);
}

// The same for the old text of a key that was regenerated with an overlap: it ends alone.
#[test]
fn the_end_of_a_text_that_cannot_be_written_is_in_force_and_written_later() {
    let bench = Bench::new();
    let (id, old) = bench.key(new());
    let overlap = Verb::KeyRegenerate {
        id,
        overlap_seconds: 3600,
    };
    let (_, digest) = issued(bench.done(overlap));
    bench.keeper.refuse_writes(true);
    let leaked = Verb::KeyRevokeMany(KeyFilter {
        keys: Some(vec![old.hex()]),
        ..KeyFilter::default()
    });
    let error = bench.try_to(leaked).unwrap_err();
    assert!(error.text.contains("in force, not durable"), "{error}");
    let in_force = |bench: &Bench| {
        let view = bench.view();
        let lives = |entry: &KeyEntry| !entry.status.is_final() && !entry.expired(NOW);
        assert!(!view.key(&old).is_some_and(lives), "{:?}", view.key(&old));
        assert_eq!(bench.status(&digest), Some(KeyStatus::Active));
    };
    in_force(&bench);
    bench.keeper.replace_config(with_plans("")).unwrap();
    in_force(&bench);
    bench.keeper.refuse_writes(false);
    assert_eq!(bench.keeper.retry_unwritten(NOW), 0);
    let bench = bench.restarted(with_plans("")).unwrap();
    in_force(&bench);
}

// The same for tokens that are denied.
#[test]
fn a_denial_that_cannot_be_written_is_in_force_and_written_later() {
    let bench = Bench::new();
    let denial = |for_seconds| {
        let names = TokenNames {
            subject: Some("u1".into()),
            ..TokenNames::default()
        };
        Verb::TokenDeny(Box::new(TokenDenial {
            names,
            for_seconds,
            ..TokenDenial::default()
        }))
    };
    let identity = Identity {
        issuer: Arc::from("i"),
        subject: Some(Arc::from("u1")),
        client: None,
        jti: None,
        issued: None,
    };
    let denied = |bench: &Bench, wall| bench.view().denials.denies(&identity, wall);
    bench.keeper.refuse_writes(true);
    let error = bench.try_to(denial(Some(60))).unwrap_err();
    assert!(error.text.contains("in force, not durable"), "{error}");
    assert!(denied(&bench, NOW));
    bench.keeper.replace_config(with_plans("")).unwrap();
    assert!(denied(&bench, NOW));
    bench.keeper.refuse_writes(false);
    assert_eq!(bench.keeper.retry_unwritten(NOW), 0);
    let bench = bench.restarted(with_plans("")).unwrap();
    let later = Wall(NOW.0 + 60_000_000);
    assert_eq!([denied(&bench, NOW), denied(&bench, later)], [true, false]);
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

const FILED: &str = r#"
[[tenants]]
id = "filed"
plan = "pro"
[[keys]]
tenant = "filed"
name = "old"
scopes = "inherit"
digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"#;

#[test]
fn keys_of_the_file_stand_beside_those_of_the_store() {
    let bench = Bench::new();
    let (_, digest) = bench.key(new());
    let view = bench.keeper.replace_config(with_plans(FILED)).unwrap();
    assert_eq!(view.generation, 2);
    let filed = view.key(&key_text::digest_of(b"abc")).unwrap();
    assert_eq!(view.tenant_of(filed).id.as_str(), "filed");
    assert_eq!(view.tenant_of(filed).header_value, "filed");
    let ours = view.key(&digest).unwrap();
    assert_eq!(view.tenant_of(ours).id.as_str(), "acme");
    assert_eq!(view.keys.len(), 2);
}

#[test]
fn a_tombstone_beats_the_file() {
    let bench = Bench::new();
    let view = bench.keeper.replace_config(with_plans(FILED)).unwrap();
    let digest = key_text::digest_of(b"abc");
    let id = view.key(&digest).unwrap().id.to_string();
    bench.done(revoke(&id));
    assert_eq!(bench.status(&digest), Some(KeyStatus::Revoked));
    bench.keeper.replace_config(with_plans(FILED)).unwrap();
    assert_eq!(bench.status(&digest), Some(KeyStatus::Revoked));
    let renamed = FILED.replace("\"old\"", "\"renamed\"");
    let bench = bench.restarted(with_plans(&renamed)).unwrap();
    assert_eq!(bench.status(&digest), Some(KeyStatus::Revoked));
}

#[test]
fn a_new_digest_under_a_revoked_name_is_refused() {
    let bench = Bench::new();
    let view = bench.keeper.replace_config(with_plans(FILED)).unwrap();
    let digest = key_text::digest_of(b"abc");
    bench.done(revoke(&view.key(&digest).unwrap().id.to_string()));
    let replaced = FILED.replace("sha256:ba", "sha256:bb");
    let error = bench
        .keeper
        .replace_config(with_plans(&replaced))
        .unwrap_err();
    assert!(error.to_string().contains("another name"), "{error}");
}

#[test]
fn a_key_of_the_file_that_lives_in_the_store_is_refused_naming_both() {
    let bench = Bench::new();
    let (id, digest) = bench.key(new());
    let hex: String = digest.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let twice = FILED.replace(
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        &hex,
    );
    let error = bench.keeper.replace_config(with_plans(&twice)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&id) && text.contains("\"old\""), "{text}");
    assert_eq!(bench.view().generation, 1, "the old one goes on");
    bench.done(revoke(&id));
    bench.keeper.replace_config(with_plans(&twice)).unwrap();
    assert_eq!(bench.status(&digest), Some(KeyStatus::Revoked));
}

#[test]
fn a_tenant_in_both_places_is_the_files_at_a_start_and_refused_at_a_reload() {
    let bench = Bench::new();
    let both = with_plans("[[tenants]]\nid = \"acme\"\nplan = \"pro\"\n");
    let error = bench.keeper.replace_config(Arc::clone(&both)).unwrap_err();
    assert!(matches!(error, KeeperError::Conflicts(_)));
    assert!(error.to_string().contains("acme"), "{error}");
    drop(bench.keeper);
    let store = Store::open(bench.directory.path()).unwrap();
    let (keeper, conflicts) = Keeper::start(store, both, Box::new(|_| HashMap::new())).unwrap();
    assert_eq!(conflicts, [TenantId::new("acme").unwrap()]);
    let view = keeper.snapshot().load_full();
    assert_eq!(
        view.plans[view.tenants.entries[0].plan as usize].name,
        "pro"
    );
}

// Fail closed: no key is ever served under a plan, tenant or environment that nobody wrote.
#[test]
fn what_the_store_needs_cannot_be_taken_out_of_the_file() {
    let bench = Bench::new();
    let (_, digest) = bench.key(NewKey {
        plan: Some("pro".into()),
        ..new()
    });
    let without =
        configured("[plans.basic]\nquota = \"1/hour\"\nburst = \"1/min\"\nscopes = [\"*\"]\n");
    let error = bench
        .keeper
        .replace_config(Arc::clone(&without))
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("\"free\"") && text.contains("tenant acme"),
        "{text}"
    );
    assert_eq!(
        bench.status(&digest),
        Some(KeyStatus::Active),
        "the old one goes on"
    );
    let error = bench.restarted(without).map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 78);
}

#[test]
fn a_revoked_key_needs_nothing() {
    let bench = Bench::new();
    bench.keeper.replace_config(with_plans(FILED)).unwrap();
    let (id, digest) = bench.key(NewKey {
        tenant: "filed".into(),
        ..new()
    });
    let error = bench.keeper.replace_config(with_plans("")).unwrap_err();
    match error {
        KeeperError::Build(BuildError::Dangling(list)) => {
            assert_eq!(list[0].what, "tenant");
            assert_eq!(list[0].needed_by, [format!("key {id}")]);
        }
        other => panic!("{other:?}"),
    }
    bench.done(revoke(&id));
    bench.keeper.replace_config(with_plans("")).unwrap();
    assert_eq!(bench.status(&digest), None);
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

/// DESIGN sections 10 and 11: an admin token ends even while the disk is full, and the audit log gets its line, with who did it, once there is room.
#[test]
fn an_admin_token_ends_while_the_store_cannot_be_written() {
    let bench = Bench::new();
    let new = crate::store::NewAdminToken {
        name: "ops".to_owned(),
        role: "full".to_owned(),
        ..crate::store::NewAdminToken::default()
    };
    let outcome = bench.done(Verb::AdminTokenCreate(new));
    let Outcome::AdminTokenIssued { token, text } = outcome else {
        panic!("{outcome:?}");
    };
    let digest = crate::model::key_text::digest_of(text.reveal().as_bytes());
    assert!(bench.keeper.admin_token(&digest, NOW).is_some());
    bench.keeper.refuse_writes(true);
    let revoke = Verb::AdminTokenRevoke { id: token.id };
    let actor = crate::store::audit::Actor::user(Some(7), "socket");
    let error = bench.keeper.execute_as(&revoke, &actor, NOW).unwrap_err();
    assert!(error.text.contains("in force, not durable"), "{error}");
    assert!(bench.keeper.admin_token(&digest, NOW).is_none());
    assert!(!bench.keeper.has_admin_tokens(NOW));
    bench.keeper.refuse_writes(false);
    assert_eq!(bench.keeper.retry_unwritten(NOW), 0);
    let log = crate::store::audit::Log::open(bench.directory.path()).unwrap();
    let lines = log.unwrap().lines(&Default::default(), NOW).unwrap();
    let seen: Vec<_> = lines
        .iter()
        .map(|line| (line.act.as_str(), line.who.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            ("admin-token-revoke", "uid:7"),
            ("admin-token-create", "gateway"),
            ("tenant-create", "gateway")
        ]
    );
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
    let fence = std::thread::spawn(move || shared::fence(&settings, Some("one"), 0));
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
    let mut nodes = Nodes::join(&server.settings, "one").unwrap();
    nodes.beat(&Position::default(), false).unwrap();
    assert_eq!(fence.join().unwrap().unwrap(), 1);
}
