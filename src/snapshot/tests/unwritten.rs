//! What takes rights away while the store cannot be written: in force at once, written later.

use std::sync::Arc;

use super::Bench;
use super::NOW;
use super::issued;
use super::new;
use super::revoke;
use super::with_plans;
use crate::clock::Wall;
use crate::model::identity::Identity;
use crate::model::key::KeyStatus;
use crate::snapshot::KeyEntry;
use crate::store::KeyFilter;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::request::TokenDenial;
use crate::store::request::TokenNames;

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
