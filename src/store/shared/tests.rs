//! Copies that lag, logs that were cut, and histories that parted, over a real server.

use tempfile::TempDir;

use super::testing::Server;
use super::*;
use crate::model::binding::Binding;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyKind;
use crate::model::key::KeyStatus;
use crate::model::key::Override;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::model::tenant::TenantId;
use crate::store::Store;

const NOW: Wall = Wall(1_770_000_000_000_000);

fn node(server: &Server) -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    store.share_for_test(&server.settings);
    store.begin(NOW).unwrap();
    (directory, store)
}

fn key(number: u32) -> Write {
    let mut id = *b"aaaaaaaaaaaa";
    let mut digest = [0; 32];
    for (at, byte) in number.to_be_bytes().into_iter().enumerate() {
        id[at * 2] = b'a' + byte / 16;
        id[at * 2 + 1] = b'a' + byte % 16;
        digest[at] = byte;
    }
    Write::InsertKey(Box::new(ApiKey {
        id: KeyId(id),
        digest: Digest(digest),
        name: format!("number {number}"),
        kind: KeyKind::Secret,
        environment: "live".to_owned(),
        tenant: TenantId::new("acme").unwrap(),
        plan: None,
        quota: Override::Plan,
        burst: Override::Plan,
        scopes: Scopes::Inherit,
        created: NOW,
        expires: None,
        status: KeyStatus::Active,
        prefix: "fp_live_".to_owned(),
        last_four: "abcd".to_owned(),
        origin: Origin::Store,
        binding: Binding::default(),
        note: None,
    }))
}

fn id(number: u32) -> KeyId {
    match key(number) {
        Write::InsertKey(key) => key.id,
        _ => unreachable!("it is a key"),
    }
}

fn end(number: u32) -> Write {
    Write::SetStatus(id(number), KeyStatus::Revoked)
}

#[track_caller]
fn same(one: &Store, other: &Store) {
    let sorted = |store: &Store| {
        let mut all = store.load().unwrap();
        all.keys.sort_by_key(|key| key.id.to_string());
        format!("{all:?}")
    };
    assert_eq!(sorted(one), sorted(other));
    assert_eq!(one.position().unwrap(), other.position().unwrap());
}

fn ask(server: &Server, words: &[&str]) {
    let mut link = Link::new(&server.settings);
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    link.call(0, |connection| command.query::<redis::Value>(connection))
        .unwrap();
}

// Whoever is further behind than the log reaches reads the buckets that changed since.
#[test]
fn a_copy_that_the_log_no_longer_reaches_reads_buckets() {
    let Some(server) = Server::start() else {
        return;
    };
    let ((_one, mut first), (_two, mut late)) = (node(&server), node(&server));
    first.commit(&[key(1)]).unwrap();
    late.catch_up(NOW).unwrap();
    first.commit(&[key(2)]).unwrap();
    first.commit(&[end(1)]).unwrap();
    ask(&server, &["XTRIM", "portcullis:log", "MAXLEN", "0"]);
    late.catch_up(NOW).unwrap();
    same(&first, &late);
    assert!(late.take_caught().more);
    // And goes on by the log.
    first.commit(&[end(2)]).unwrap();
    late.catch_up(NOW).unwrap();
    same(&first, &late);
}

// More rows than a script can hand to the log at once go by buckets.
#[test]
fn a_change_of_thousands_of_keys_arrives() {
    let Some(server) = Server::start() else {
        return;
    };
    let ((_one, mut first), (_two, mut other)) = (node(&server), node(&server));
    let many: Vec<Write> = (0..3_000).map(key).collect();
    first.commit(&many).unwrap();
    other.catch_up(NOW).unwrap();
    same(&first, &other);
    let (_three, third) = node(&server);
    same(&first, &third);
}

// Of two that change the store at once one is told to judge anew; nothing is lost and nothing overwritten.
#[test]
fn who_is_behind_is_told_so() {
    let Some(server) = Server::start() else {
        return;
    };
    let ((_one, mut first), (_two, mut other)) = (node(&server), node(&server));
    first.commit(&[key(1)]).unwrap();
    let refused = other.commit(&[key(2)]).unwrap_err();
    assert!(matches!(refused, StoreError::Behind), "{refused}");
    assert_eq!(other.revision().unwrap(), 0, "nothing was changed here");
    other.catch_up(NOW).unwrap();
    other.commit(&[key(2)]).unwrap();
    first.catch_up(NOW).unwrap();
    same(&first, &other);
}

// After a failover two histories go on from one point: what either of them ended has ended, and no key of either is lost.
#[test]
fn histories_that_parted_are_brought_together() {
    let (Some(before), Some(after)) = (Server::start(), Server::start()) else {
        return;
    };
    let ((_one, mut first), (_two, mut other)) = (node(&before), node(&before));
    first.commit(&[key(1), key(2), key(3)]).unwrap();
    other.catch_up(NOW).unwrap();
    // What the first does now the new primary never hears of.
    first.commit(&[end(1)]).unwrap();
    first.commit(&[key(4)]).unwrap();
    other.share_for_test(&after.settings);
    other.catch_up(NOW).unwrap();
    other.commit(&[end(2)]).unwrap();
    first.share_for_test(&after.settings);
    first.catch_up(NOW).unwrap();
    other.catch_up(NOW).unwrap();
    same(&first, &other);
    let status = |number| other.key(id(number)).unwrap().map(|key| key.status);
    assert_eq!(status(1), Some(KeyStatus::Revoked), "ended by the first");
    assert_eq!(status(2), Some(KeyStatus::Revoked), "ended by the other");
    assert_eq!(status(3), Some(KeyStatus::Active));
    assert_eq!(status(4), Some(KeyStatus::Active), "made by the first");
    let (_three, third) = node(&after);
    same(&first, &third);
}

// What a later version wrote is not guessed at.
#[test]
fn rows_of_a_later_version_are_refused() {
    let Some(server) = Server::start() else {
        return;
    };
    let (_one, mut first) = node(&server);
    first.commit(&[key(1)]).unwrap();
    let header = r#"{"version":99,"revision":9,"audit_seq":0,"audit_hash":""}"#;
    let line = ["XADD", "portcullis:log", "2-0", "n", "other", "h", header];
    ask(&server, &line);
    let facts = ["HSET", "portcullis:facts", "seq", "2", "head", "other"];
    ask(&server, &facts);
    let error = first.catch_up(NOW).unwrap_err();
    assert_eq!(error.exit_code(), 78, "{error}");
    assert!(error.to_string().contains("schema version 99"), "{error}");
    assert_eq!(first.position().unwrap().unwrap().seq, 1);
}
