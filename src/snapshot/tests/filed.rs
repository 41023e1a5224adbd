//! The file and the store together: keys and tenants of both.

use std::collections::HashMap;
use std::sync::Arc;

use super::Bench;
use super::configured;
use super::new;
use super::revoke;
use super::with_plans;
use crate::model::key::KeyStatus;
use crate::model::key_text;
use crate::model::tenant::TenantId;
use crate::snapshot::build::BuildError;
use crate::snapshot::change::Keeper;
use crate::snapshot::change::KeeperError;
use crate::store::NewKey;
use crate::store::Store;

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
    let (keeper, conflicts) = Keeper::start(store, both, Box::new(|_| Ok(HashMap::new()))).unwrap();
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
