//! What may become of a key and of a tenant; each change is one revision.

use super::Bench;
use super::activate;
use super::changed;
use super::deactivate;
use super::delete;
use super::issued;
use super::new;
use super::regenerate;
use super::revoke;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::key_text;
use crate::model::tenant::Origin;
use crate::store::KeyFilter;
use crate::store::NewKey;
use crate::store::Store;
use crate::store::Verb;
use crate::store::outcome::KeyView;
use crate::store::outcome::Outcome;
use crate::store::sqlite::DigestUse;
use crate::store::sqlite::Write;

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
