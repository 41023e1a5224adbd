//! What nodes have of a store that they share, over a real server: what each file says stands in its first line.

mod audit;
mod copies;
mod histories;
mod images;
mod nodes;

use tempfile::TempDir;

use super::nodes::Nodes;
use super::testing::Server;
use super::*;
use crate::clock::Wall;
use crate::model::binding::Binding;
use crate::model::denial::Denial;
use crate::model::denial::DeniedBy;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyKind;
use crate::model::key::KeyStatus;
use crate::model::key::Override;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::model::tenant::TenantId;
use crate::store::Store;
use crate::store::audit::Act;
use crate::store::audit::Actor;
use crate::store::audit::Keep;
use crate::store::audit::Log;
use crate::store::audit::Pruned;
use crate::store::sqlite::Write;

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

fn ask(server: &Server, words: &[&str]) -> redis::Value {
    let mut link = Link::new(&server.settings);
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    link.call(0, |connection| command.query::<redis::Value>(connection))
        .unwrap()
}

fn status(store: &Store, number: u32) -> Option<KeyStatus> {
    store.key(id(number)).unwrap().map(|key| key.status)
}

/// A new text for a key; the digest that it had is retired at once.
fn regenerate(number: u32, text: u8) -> Write {
    let old = match key(number) {
        Write::InsertKey(key) => key.digest,
        _ => unreachable!("it is a key"),
    };
    Write::ReplaceDigest {
        id: id(number),
        old,
        new: Digest([text; 32]),
        prefix: "fp_live_".to_owned(),
        last_four: "wxyz".to_owned(),
        now: NOW,
        until: None,
    }
}
