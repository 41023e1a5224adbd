//! Lists and pages.

use super::Bench;
use super::NOW;
use super::issued;
use super::new;
use super::regenerate;
use super::revoke;
use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::model::key_text;
use crate::store::KeyFilter;
use crate::store::NewKey;
use crate::store::Verb;
use crate::store::outcome::KeyView;
use crate::store::outcome::Outcome;
use crate::store::outcome::VerbError;
use crate::store::sqlite::Write;

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
