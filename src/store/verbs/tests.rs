//! Rules of the verbs, each on a real store in a directory of its own; and once more over a store that nodes share, with a second node that
//! has to know the same after every act.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::config;
use crate::model::key::KeyId;
use crate::model::key_text;
use crate::model::tenant::Origin;
use crate::store::KeyFilter;
use crate::store::NewKey;
use crate::store::outcome::KeyText;
use crate::store::outcome::KeyView;
use crate::store::outcome::VerbError;
use crate::store::shared::testing::Server;
use crate::store::sqlite::DigestUse;

const FILE: &str = r#"
environments = ["live", "test"]
[listen]
https = ["127.0.0.1:8443"]
[tls]
certificate = "cert.pem"
private_key = "key.pem"
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
[upstreams.legacy]
servers = ["http://127.0.0.1:3000"]
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
            config: config::parse(FILE, Path::new("gateway.toml"))
                .unwrap()
                .config,
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
            &|_| HashMap::new(),
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

// FM2: prefix, environment, 36 characters with a checksum.
#[test]
fn a_key_text_has_the_configured_shape() {
    let mut bench = Bench::new();
    let (_, text) = bench.key();
    let shape = key_text::shape(
        text.reveal().as_bytes(),
        &[bench.config.keys.secret_prefix.as_str()],
        &bench.config.environments,
    );
    assert_eq!(shape, key_text::Shape::Ours);
    let test = NewKey {
        environment: Some("test".into()),
        ..new()
    };
    let (_, text) = issued(bench.done(Verb::KeyCreate(test)));
    assert!(text.reveal().contains("_test_"));
}

#[test]
fn no_two_keys_are_alike() {
    let mut bench = Bench::new();
    let (one, two) = (bench.key(), bench.key());
    assert_ne!(one.0, two.0);
    assert!(one.1 != two.1);
}

// FA4, promise 4: the canary. Neither the text nor its random part lies anywhere in the store's directory.
#[test]
fn a_key_text_is_nowhere_in_the_store() {
    let mut bench = Bench::new();
    let (id, first) = bench.key();
    let (_, second) = issued(bench.done(regenerate(&id)));
    bench.done(revoke(&id));
    for text in [first.reveal(), second.reveal()] {
        let body = &text.as_bytes()[text.len() - 36..text.len() - 6];
        for entry in fs::read_dir(bench.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let found = bytes.windows(body.len()).any(|window| window == body);
            assert!(!found, "{}", path.display());
        }
    }
}

// FA5, FA7: name, dates and the last four characters, never the key.
#[test]
fn a_list_shows_names_and_dates_and_never_a_key() {
    let mut bench = Bench::new();
    let (id, text) = bench.key();
    let list = bench.list();
    let ours = list.iter().find(|key| key.id == id).unwrap();
    assert_eq!(ours.name, "CI");
    assert_eq!(ours.created_at.as_deref(), Some("2026-02-02T02:40:00Z"));
    let last_four = &text.reveal()[text.reveal().len() - 4..];
    assert_eq!(ours.key, Some(format!("fp_live_…{last_four}")));
    let json = serde_json::to_string(&list).unwrap();
    assert!(!json.contains(&text.reveal()[8..20]), "{json}");
    assert!(list.iter().any(|key| key.declared_in == "file"));
}

// FA6, FM3: the expiry counts from creation; a date is taken as it is.
#[test]
fn expiry_counts_from_creation() {
    let mut bench = Bench::new();
    let (id, _) = issued(bench.done(Verb::KeyCreate(NewKey {
        expires_in_seconds: Some(90 * 86_400),
        ..new()
    })));
    let stored = bench
        .store
        .key(KeyId::parse(&id).unwrap())
        .unwrap()
        .unwrap();
    let span = stored.expires.unwrap().0 - stored.created.0;
    assert_eq!(span, 90 * 86_400 * 1_000_000);
    let (id, _) = issued(bench.done(Verb::KeyCreate(NewKey {
        expires_at_unix_seconds: Some(1_801_353_600),
        ..new()
    })));
    let shown = bench.view(&id).expires_at;
    assert_eq!(shown.as_deref(), Some("2027-01-31T00:00:00Z"));
}

// FA11: expired is what the clock says, not a stored status.
#[test]
fn an_expired_key_is_listed_as_expired() {
    let mut bench = Bench::new();
    let (id, _) = issued(bench.done(Verb::KeyCreate(NewKey {
        expires_in_seconds: Some(2),
        ..new()
    })));
    for (after_micros, status) in [(1_999_999, "active"), (2_000_000, "expired")] {
        let now = Wall(NOW.0 + after_micros);
        match bench.at(Verb::KeyShow { id: id.clone() }, now).unwrap() {
            Outcome::Key { key } => assert_eq!(key.status, status),
            other => panic!("{other:?}"),
        }
    }
    let error = bench
        .at(regenerate(&id), Wall(NOW.0 + 3_000_000))
        .unwrap_err();
    assert!(error.text.contains("keeps its expiry"), "{error}");
}

// FM4 and the table of what a key may be.
#[test]
fn a_key_that_cannot_be_is_refused_with_the_way_out() {
    let cases: Vec<(NewKey, &str)> = vec![
        (
            NewKey {
                tenant: "acmee".into(),
                ..new()
            },
            "did you mean \"acme\"? (there are: filed, acme)",
        ),
        (
            NewKey {
                tenant: String::new(),
                ..new()
            },
            "no tenant is called",
        ),
        (
            NewKey {
                plan: Some("fre".into()),
                ..new()
            },
            "did you mean \"free\"?",
        ),
        (
            NewKey {
                environment: Some("prod".into()),
                ..new()
            },
            "(there are: live, test)",
        ),
        (
            NewKey {
                kind: "private".into(),
                ..new()
            },
            "`secret` or `public`",
        ),
        (
            NewKey {
                name: " ".into(),
                ..new()
            },
            "a name has",
        ),
        (
            NewKey {
                name: "a\u{1b}[2J".into(),
                ..new()
            },
            "a name has",
        ),
        (
            NewKey {
                quota: Some("7/fortnight".into()),
                ..new()
            },
            "7/fortnight",
        ),
        (
            NewKey {
                burst: Some("0/min".into()),
                ..new()
            },
            "0/min",
        ),
        (
            NewKey {
                scopes: Some(vec!["leases:*".into()]),
                ..new()
            },
            "leases:*",
        ),
        (
            NewKey {
                scopes: Some(vec![]),
                ..new()
            },
            "--inherit",
        ),
        (
            NewKey {
                expires_in_seconds: Some(0),
                ..new()
            },
            "future",
        ),
        (
            NewKey {
                expires_at_unix_seconds: Some(1),
                ..new()
            },
            "future",
        ),
        (
            NewKey {
                expires_in_seconds: Some(1),
                expires_at_unix_seconds: Some(2),
                ..new()
            },
            "not both",
        ),
    ];
    let mut bench = Bench::new();
    for (new, words) in cases {
        bench.refused(Verb::KeyCreate(new), words);
    }
}

#[test]
fn what_is_most_likely_not_meant_is_noted() {
    let mut bench = Bench::new();
    bench.done(Verb::TenantSuspend { id: "acme".into() });
    let outcome = bench.done(Verb::KeyCreate(NewKey {
        plan: Some("none".into()),
        scopes: Some(vec!["leases:raed".into()]),
        ..new()
    }));
    let Outcome::KeyIssued { notes, .. } = outcome else {
        panic!("{outcome:?}")
    };
    for words in [
        "suspended",
        "no API access",
        "costs 5, more than 1/hour",
        "did you mean leases:read?",
    ] {
        assert!(
            notes.iter().any(|note| note.contains(words)),
            "{words}: {notes:?}"
        );
    }
}

#[test]
fn deactivating_is_reversible_and_idempotent() {
    let mut bench = Bench::new();
    let (id, _) = bench.key();
    assert!(changed(bench.done(deactivate(&id))));
    assert!(!changed(bench.done(deactivate(&id))));
    assert_eq!(bench.view(&id).status, "inactive");
    assert!(changed(bench.done(activate(&id))));
    assert!(!changed(bench.done(activate(&id))));
    assert_eq!(bench.view(&id).status, "active");
}

// FA10: nothing brings a revoked key back.
#[test]
fn revoking_is_for_good() {
    let mut bench = Bench::new();
    let (id, _) = bench.key();
    assert!(changed(bench.done(revoke(&id))));
    assert!(!changed(bench.done(revoke(&id))));
    bench.refused(activate(&id), "for good");
    bench.refused(deactivate(&id), "for good");
    bench.refused(regenerate(&id), "for good");
    let key_id = KeyId::parse(&id).unwrap();
    let forced = bench
        .store
        .commit(&[Write::SetStatus(key_id, KeyStatus::Active)]);
    assert!(forced.is_err(), "the store itself refuses too");
    assert_eq!(bench.view(&id).status, "revoked");
}

#[test]
fn deleting_leaves_the_lists_and_a_tombstone() {
    let mut bench = Bench::new();
    let (id, text) = bench.key();
    bench.done(revoke(&id));
    assert!(changed(bench.done(delete(&id))));
    assert!(!changed(bench.done(delete(&id))));
    assert!(bench.list().iter().all(|key| key.id != id));
    let digest = key_text::digest_of(text.reveal().as_bytes());
    let mut again = bench.config.declared_keys[0].clone();
    again.id = KeyId(*b"AAAAAAAAAAAA");
    again.digest = digest;
    again.origin = Origin::Store;
    let forced = bench.store.commit(&[Write::InsertKey(Box::new(again))]);
    assert!(forced.is_err(), "its digest can never come back");
}

#[test]
fn regenerating_keeps_the_id_and_retires_the_old_digest() {
    let mut bench = Bench::new();
    let (id, old) = bench.key();
    let (same, new) = issued(bench.done(regenerate(&id)));
    assert_eq!(id, same);
    assert!(old != new);
    let key_id = KeyId::parse(&id).unwrap();
    let old = key_text::digest_of(old.reveal().as_bytes());
    let new = key_text::digest_of(new.reveal().as_bytes());
    let store = &bench.store;
    assert_eq!(
        store.digest_use(&old).unwrap(),
        DigestUse::Retired(key_id, None)
    );
    assert_eq!(
        store.digest_use(&new).unwrap(),
        DigestUse::Key(key_id, KeyStatus::Active)
    );
    let retired = store.load().unwrap().retired;
    assert_eq!(retired.len(), 1);
    assert_eq!((retired[0].digest, retired[0].until), (old, None));
}

#[test]
fn a_key_of_the_file_can_only_be_revoked() {
    let mut bench = Bench::new();
    let id = bench.file_key();
    bench.refused(deactivate(&id), "declared in gateway.toml");
    bench.refused(regenerate(&id), "declared in gateway.toml");
    bench.refused(delete(&id), "declared in gateway.toml");
    assert!(changed(bench.done(revoke(&id))));
    assert!(!changed(bench.done(revoke(&id))));
    let shown: Vec<KeyView> = bench
        .list()
        .into_iter()
        .filter(|key| key.id == id)
        .collect();
    assert_eq!(shown.len(), 1, "the tombstone stands for the file's key");
    assert_eq!(shown[0].status, "revoked");
    bench.config.declared_keys.clear();
    assert_eq!(
        bench.view(&id).status,
        "revoked",
        "also once the file forgets it"
    );
    assert!(changed(bench.done(delete(&id))));
}

#[test]
fn a_key_of_the_file_with_a_dead_digest_is_revoked() {
    let mut bench = Bench::new();
    let (id, text) = bench.key();
    let (_, second) = issued(bench.done(regenerate(&id)));
    bench.done(revoke(&id));
    for text in [text, second] {
        bench.config.declared_keys[0].digest = key_text::digest_of(text.reveal().as_bytes());
        let file = bench.file_key();
        assert_eq!(bench.view(&file).status, "revoked");
        let listed = bench.list();
        let file = listed.iter().find(|key| key.id == file).unwrap();
        assert_eq!(file.status, "revoked");
    }
}

#[test]
fn a_key_of_the_file_and_of_the_store_at_once_is_refused_naming_both() {
    let mut bench = Bench::new();
    let (id, text) = bench.key();
    bench.config.declared_keys[0].digest = key_text::digest_of(text.reveal().as_bytes());
    bench.refused(Verb::KeyList(KeyFilter::default()), &id);
    let file = bench.file_key();
    bench.refused(Verb::KeyList(KeyFilter::default()), &file);
    bench.refused(revoke(&file), &id);
}

#[test]
fn what_is_no_key_id_is_refused_without_being_repeated() {
    let mut bench = Bench::new();
    let (_, text) = bench.key();
    let error = bench.try_to(revoke(text.reveal())).unwrap_err();
    assert!(!error.text.contains(text.reveal()), "{error}");
    bench.refused(revoke("key_AAAAAAAAAAAA"), "keys list");
    assert_eq!(revoke(text.reveal()).label(), ("key-revoke", ""));
}

#[test]
fn tenants_are_made_suspended_and_resumed() {
    let mut bench = Bench::new();
    let suspend = |id: &str| Verb::TenantSuspend { id: id.into() };
    let resume = |id: &str| Verb::TenantResume { id: id.into() };
    assert!(changed(bench.done(suspend("acme"))));
    assert!(!changed(bench.done(suspend("acme"))));
    assert!(changed(bench.done(resume("acme"))));
    assert!(!changed(bench.done(resume("acme"))));
    bench.refused(suspend("nobody"), "no tenant is called \"nobody\"");
    bench.refused(suspend("filed"), "declared in gateway.toml");
    let create = |id: &str, plan: &str| Verb::TenantCreate {
        id: id.into(),
        name: None,
        plan: plan.into(),
        upstreams: Default::default(),
    };
    bench.refused(create("acme", "free"), "already");
    bench.refused(create("filed", "free"), "declared in gateway.toml");
    bench.refused(create("-x", "free"), "a tenant id begins");
    bench.refused(create("new", "fre"), "did you mean \"free\"?");
    let Outcome::Tenants { tenants } = bench.done(Verb::TenantList) else {
        panic!()
    };
    let ids: Vec<&str> = tenants.iter().map(|tenant| tenant.id.as_str()).collect();
    assert_eq!(ids, ["acme", "filed"]);
}

#[test]
fn each_change_is_one_revision_and_outlives_the_process() {
    let mut bench = Bench::new();
    let before = bench.store.revision().unwrap();
    let (id, _) = issued(bench.done(Verb::KeyCreate(NewKey {
        quota: Some("7/hour".into()),
        burst: Some("unlimited".into()),
        plan: Some("none".into()),
        expires_in_seconds: Some(60),
        ..new()
    })));
    assert_eq!(bench.store.revision().unwrap(), before + 1);
    bench.done(deactivate(&id));
    assert_eq!(bench.store.revision().unwrap(), before + 2);
    let shown = bench.view(&id);
    drop(bench.store);
    bench.store = Store::open(bench.directory.path()).unwrap();
    assert_eq!(bench.view(&id), shown);
    assert_eq!(bench.store.revision().unwrap(), before + 2);
}

/// A page of these keys, or what it is refused with.
fn page(
    bench: &mut Bench,
    which: KeyFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<KeyView>, VerbError> {
    let after = after.map(str::to_owned);
    let verb = Verb::KeyPage {
        which,
        after,
        limit,
    };
    bench.try_to(verb).map(|outcome| match outcome {
        Outcome::Keys { keys } => keys,
        other => panic!("{other:?}"),
    })
}

fn ids(keys: &[KeyView]) -> Vec<&str> {
    keys.iter().map(|key| key.id.as_str()).collect()
}

#[test]
fn pages_follow_each_other_and_begin_with_the_file() {
    let mut bench = Bench::new();
    let made: Vec<String> = (0..5).map(|_| bench.key().0).collect();
    let file = bench.file_key();
    let all = || KeyFilter::default();
    let of = |tenant: &str| KeyFilter {
        tenant: Some(tenant.to_owned()),
        ..KeyFilter::default()
    };
    let first = page(&mut bench, all(), None, 3).unwrap();
    assert_eq!(ids(&first), [&file, &made[0], &made[1]]);
    let second = page(&mut bench, all(), Some(&file), 3).unwrap();
    assert_eq!(ids(&second), [&made[0], &made[1], &made[2]]);
    // What a filter leaves out fills no page; what was revoked or deleted meanwhile is still a place to go on from.
    bench.done(revoke(&made[2]));
    bench.done(Verb::KeyDelete {
        id: made[3].clone(),
    });
    let active = KeyFilter {
        status: Some("active".to_owned()),
        ..of("acme")
    };
    let found = page(&mut bench, active.clone(), Some(&made[1]), 2).unwrap();
    assert_eq!(ids(&found), [&made[4]]);
    let found = page(&mut bench, of("acme"), Some(&made[3]), 2).unwrap();
    assert_eq!(ids(&found), [&made[4]]);
    assert_eq!(
        ids(&page(&mut bench, of("filed"), None, 9).unwrap()),
        [&file]
    );
    // Whoever may see one tenant's keys learns nothing of another's from where he goes on.
    for stranger in [made[0].as_str(), "key_nobody000000"] {
        let error = page(&mut bench, of("filed"), Some(stranger), 9).unwrap_err();
        assert_eq!(error.exit, 1);
        assert!(
            error
                .text
                .contains(&format!("no key of this list has the id {stranger}"))
        );
    }
    let error = page(&mut bench, of("acme"), Some(&file), 9).unwrap_err();
    assert!(error.text.contains("no key of this list"), "{error}");
}

/// A page costs what it shows: at a hundred thousand keys a small part of what all of them do, wherever it begins.
#[test]
fn a_page_costs_the_page() {
    let mut bench = Bench::new();
    let (id, _) = bench.key();
    let like = bench
        .store
        .key(KeyId::parse(&id).unwrap())
        .unwrap()
        .unwrap();
    let writes = (0..100_000u32).map(|number| {
        let mut key = like.clone();
        key.id = KeyId::parse(&format!("key_{number:012}")).unwrap();
        key.digest = key_text::digest_of(&number.to_be_bytes());
        Write::InsertKey(Box::new(key))
    });
    let writes: Vec<Write> = writes.collect();
    bench.store.commit(&writes).unwrap();
    // Comparing all keys with another node's would be what is timed.
    let _other = bench.other.take();
    let of_acme = || KeyFilter {
        tenant: Some("acme".to_owned()),
        ..KeyFilter::default()
    };
    let clock = crate::clock::Clock::system();
    let timed = |work: &mut dyn FnMut()| {
        let begun = clock.now().mono;
        work();
        clock.now().mono.since(begun)
    };
    let whole = timed(&mut || assert_eq!(bench.list().len(), 100_002));
    for which in [KeyFilter::default(), of_acme()] {
        for place in [1, 50_000, 99_000] {
            let after = format!("key_{place:012}");
            // The quickest of three: the machine may be busy.
            let mut took = [(); 3].map(|()| {
                timed(&mut || {
                    let keys = page(&mut bench, which.clone(), Some(&after), 100).unwrap();
                    assert_eq!(keys.len(), 100);
                })
            });
            took.sort();
            assert!(
                took[0] * 10 < whole,
                "behind {after} a page took {took:?}, all keys {whole:?}"
            );
        }
    }
    let mut seen = 0;
    for which in [KeyFilter::default(), of_acme()] {
        let mut after = None::<String>;
        loop {
            let keys = page(&mut bench, which.clone(), after.as_deref(), 1_000).unwrap();
            seen += keys.len();
            after = keys.last().map(|key| key.id.clone());
            if keys.len() < 1_000 {
                break;
            }
        }
    }
    assert_eq!(seen, 200_003);
}
