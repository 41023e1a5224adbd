//! What a key may be, and where its text is.

use std::fs;

use super::Bench;
use super::issued;
use super::new;
use super::regenerate;
use super::revoke;
use crate::model::key::KeyId;
use crate::model::key_text;
use crate::store::NewKey;
use crate::store::Verb;
use crate::store::outcome::Outcome;

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
