//! Copies that lag, logs that were cut, and histories that parted, over a real server.

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

// A store that was emptied and filled by another node, and emptied again: the log begins anew each time, but says where. What this node ended meanwhile is
// not overwritten because the numbers happen to fit.
#[test]
fn a_log_that_begins_anew_is_not_followed_into_another_history() {
    for cut in [false, true] {
        let (Some(before), Some(after)) = (Server::start(), Server::start()) else {
            return;
        };
        let ((_one, mut first), (_two, mut other)) = (node(&before), node(&before));
        first.commit(&[key(1), key(2)]).unwrap();
        other.catch_up(NOW).unwrap();
        first.commit(&[end(1)]).unwrap();
        other.share_for_test(&after.settings);
        other.catch_up(NOW).unwrap();
        other.commit(&[key(3)]).unwrap();
        ask(&after, &["FLUSHALL"]);
        other.catch_up(NOW).unwrap();
        other.commit(&[key(4)]).unwrap();
        if cut {
            // Not even that line is left.
            ask(&after, &["XTRIM", "portcullis:log", "MAXLEN", "0"]);
        }
        first.share_for_test(&after.settings);
        first.catch_up(NOW).unwrap();
        other.catch_up(NOW).unwrap();
        same(&first, &other);
        assert_eq!(status(&other, 1), Some(KeyStatus::Revoked), "cut: {cut}");
        assert_eq!(status(&first, 4), Some(KeyStatus::Active), "cut: {cut}");
        let (_three, third) = node(&after);
        same(&first, &third);
    }
}

// A text that was regenerated on one side stays ended, whatever the other side did with that key.
#[test]
fn a_text_that_was_regenerated_does_not_come_back() {
    let (Some(before), Some(after)) = (Server::start(), Server::start()) else {
        return;
    };
    let ((_one, mut first), (_two, mut other)) = (node(&before), node(&before));
    first.commit(&[key(1)]).unwrap();
    let old = first.key(id(1)).unwrap().unwrap().digest;
    other.catch_up(NOW).unwrap();
    first.commit(&[regenerate(1, 7)]).unwrap();
    other.share_for_test(&after.settings);
    other.catch_up(NOW).unwrap();
    other.commit(&[key(2)]).unwrap();
    first.share_for_test(&after.settings);
    first.catch_up(NOW).unwrap();
    other.catch_up(NOW).unwrap();
    same(&first, &other);
    assert!(other.key_of_digest(&old).unwrap().is_none());
    let new = other.key_of_digest(&Digest([7; 32])).unwrap().unwrap();
    assert_eq!((new.id, new.last_four.as_str()), (id(1), "wxyz"));
}

// What a failover lost was imported again, elsewhere and under another id: the two nodes agree on one, and it has ended if either had.
#[test]
fn the_same_text_under_two_ids_is_one_key_again() {
    for ended in [false, true] {
        let (Some(before), Some(after)) = (Server::start(), Server::start()) else {
            return;
        };
        let ((_one, mut first), (_two, mut other)) = (node(&before), node(&before));
        first.commit(&[key(1)]).unwrap();
        other.catch_up(NOW).unwrap();
        first.commit(&[key(2)]).unwrap();
        if ended {
            first.commit(&[end(2)]).unwrap();
        }
        other.share_for_test(&after.settings);
        other.catch_up(NOW).unwrap();
        let Write::InsertKey(again) = key(2) else {
            unreachable!("it is a key")
        };
        let digest = again.digest;
        let again = ApiKey {
            id: id(99),
            ..*again
        };
        other.commit(&[Write::InsertKey(Box::new(again))]).unwrap();
        // Also where the log has no line any more that tells the two histories apart.
        other.commit(&[key(5)]).unwrap();
        other.commit(&[key(6)]).unwrap();
        ask(&after, &["XTRIM", "portcullis:log", "MAXLEN", "0"]);
        first.share_for_test(&after.settings);
        first.catch_up(NOW).unwrap();
        other.catch_up(NOW).unwrap();
        same(&first, &other);
        let found = first.key_of_digest(&digest).unwrap().unwrap();
        let expected = match ended {
            true => KeyStatus::Revoked,
            false => KeyStatus::Active,
        };
        assert_eq!((found.id, found.status), (id(99), expected));
        assert_eq!(status(&first, 2), None);
    }
}

// A copy of one store refuses another, and one that was emptied is still the same.
#[test]
fn a_copy_knows_its_store_again() {
    let (Some(one), Some(two)) = (Server::start(), Server::start()) else {
        return;
    };
    let ((_one, mut first), (_two, mut other)) = (node(&one), node(&two));
    first.commit(&[key(1)]).unwrap();
    other.commit(&[key(2)]).unwrap();
    first.share_for_test(&two.settings);
    let error = first.catch_up(NOW).unwrap_err();
    assert_eq!(error.exit_code(), 78, "{error}");
    assert!(error.to_string().contains("another store"), "{error}");
    assert_eq!(status(&first, 2), None);
    first.share_for_test(&one.settings);
    ask(&one, &["FLUSHALL"]);
    // A node with an empty directory is the first to come.
    let (_three, mut third) = node(&one);
    first.catch_up(NOW).unwrap();
    third.catch_up(NOW).unwrap();
    same(&first, &third);
    assert_eq!(status(&third, 1), Some(KeyStatus::Active));
}

// A node that was stopped while it filled an empty store writes nothing once its turn is over.
#[test]
fn a_turn_that_is_over_writes_nothing() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut shared = Shared::new(&server.settings);
    assert!(shared.take_turn("mine").unwrap());
    assert!(!shared.take_turn("other").unwrap());
    let (at, row) = (Position::default(), ["t", "acme", "{}"].map(str::to_owned));
    shared.fill_some("mine", &at, "rows", &row).unwrap();
    ask(&server, &["SET", "portcullis:filling", "other"]);
    let nobody = ["t", "bravo", "{}"].map(str::to_owned);
    let late = shared.fill_some("mine", &at, "rows", &nobody).unwrap_err();
    assert_eq!(late.exit_code(), 69, "{late}");
    let left = ["t", "acme"].map(str::to_owned);
    assert!(shared.fill_some("mine", &at, "begin", &left).is_err());
    assert_eq!(shared.bucket("t").unwrap(), ["{}"]);
    ask(&server, &["SET", "portcullis:filling", "mine"]);
    ask(&server, &["HSET", "portcullis:facts", "seq", "1"]);
    let full = shared.fill_some("mine", &at, "rows", &nobody);
    assert!(full.is_err(), "another has filled it");
}

/// Days after the beginning.
fn day(day: u64) -> Wall {
    Wall::from_unix_seconds(1_700_000_000 + day * 86_400)
}

fn act(at: Wall) -> Act {
    Act {
        actor: Actor::user(Some(7), "socket"),
        act: "key-revoke".to_owned(),
        subject: "key_aaaaaaaaaaaa".to_owned(),
        before: None,
        after: None,
        result: None,
        at,
    }
}

/// First and last line of a log that is whole.
#[track_caller]
fn whole(directory: &TempDir) -> (u64, u64) {
    let verdict = Log::open(directory.path()).unwrap().unwrap();
    let verdict = verdict.verify(None).unwrap();
    assert!(verdict.whole, "{verdict:?}");
    (verdict.first_line, verdict.last_line)
}

// [audit] keep: one node lets old lines go for all. It is a change like any other: followed, read anew, and written again after a failover that lost it.
#[test]
fn lines_of_the_audit_log_go_on_every_node() {
    let (Some(before), Some(after)) = (Server::start(), Server::start()) else {
        return;
    };
    let ((one, mut first), (two, mut other)) = (node(&before), node(&before));
    for at in 0..10 {
        first.record(&act(day(at))).unwrap();
    }
    let keep = Keep {
        seconds: Some(5 * 86_400),
        lines_max: 1_000,
    };
    let behind = other.prune_audit(keep, day(10)).unwrap();
    assert_eq!(behind, Pruned::Nothing, "it knows of no line yet");
    other.catch_up(NOW).unwrap();
    // What the replica of a failover will have.
    let lost = |key: &str| match ask(&before, &["DUMP", key]) {
        redis::Value::BulkString(bytes) => bytes,
        other => panic!("{other:?}"),
    };
    let names = ["facts", "log", "changed", "u:0"].map(|name| format!("portcullis:{name}"));
    let saved = names.clone().map(|name| lost(&name));
    let pruned = first.prune_audit(keep, day(10)).unwrap();
    assert!(matches!(pruned, Pruned::Gone(..)), "{pruned:?}");
    assert_eq!(whole(&one), (6, 11));
    assert_eq!(whole(&two), (1, 10));
    let error = other.prune_audit(keep, day(10)).unwrap_err();
    assert!(matches!(error, StoreError::Behind), "{error}");
    other.catch_up(NOW).unwrap();
    assert_eq!(whole(&two), (6, 11));
    assert_eq!(
        other.prune_audit(keep, day(10)).unwrap(),
        Pruned::Nothing,
        "once is enough"
    );
    let (three, _third) = node(&before);
    assert_eq!(whole(&three), (6, 11));
    let mut shared = Shared::new(&before.settings);
    assert_eq!(shared.bucket("u:0").unwrap().len(), 6);
    for (name, bytes) in names.iter().zip(saved) {
        let mut link = Link::new(&after.settings);
        let mut restore = redis::cmd("RESTORE");
        restore.arg(name).arg(0).arg(bytes);
        link.call(0, |connection| restore.query::<()>(connection))
            .unwrap();
    }
    // Whoever followed it can write it again as well as who did it.
    other.share_for_test(&after.settings);
    other.catch_up(NOW).unwrap();
    assert_eq!(whole(&two), (6, 11));
    let mut shared = Shared::new(&after.settings);
    assert_eq!(shared.bucket("u:0").unwrap().len(), 6);
    let (four, _fourth) = node(&after);
    assert_eq!(whole(&four), (6, 11));
    // By the store's clock too: nothing that is young goes because a clock runs ahead.
    first.record(&act(NOW)).unwrap();
    let ahead = Wall(NOW.0 + 400 * 86_400_000_000);
    first.prune_audit(keep, ahead).unwrap();
    let young = Keep {
        seconds: Some(380 * 86_400),
        lines_max: 1_000,
    };
    assert_eq!(first.prune_audit(young, ahead).unwrap(), Pruned::Nothing);
}

// A store that a node with an empty directory began again has no log of acts: the one that others have stays.
#[test]
fn the_audit_log_outlives_a_store_that_was_begun_anew() {
    let Some(server) = Server::start() else {
        return;
    };
    let (one, mut first) = node(&server);
    first.commit(&[key(1)]).unwrap();
    for at in 0..3 {
        first.record(&act(day(at))).unwrap();
    }
    // So long ago that the copy no longer knows how it began.
    let file = rusqlite::Connection::open(one.path().join("keys.db")).unwrap();
    file.execute("DELETE FROM shared_log WHERE seq < 3", [])
        .unwrap();
    drop(file);
    ask(&server, &["FLUSHALL"]);
    let (two, mut other) = node(&server);
    first.catch_up(NOW).unwrap();
    other.catch_up(NOW).unwrap();
    assert_eq!(whole(&one), (1, 3));
    assert_eq!(whole(&two), (1, 3));
    same(&first, &other);
}

// A fence asks for a change by its number, and a number of another history says nothing.
#[test]
fn a_sign_of_life_counts_in_the_history_of_the_store_alone() {
    let Some(server) = Server::start() else {
        return;
    };
    let (_one, mut first) = node(&server);
    for number in 1..4 {
        first.commit(&[key(number)]).unwrap();
    }
    let named = |head: &str| Position {
        seq: 2,
        head: head.to_owned(),
    };
    let mut nodes = Nodes::join(&server.settings, "aaaaaaaaaaaa", "dir-aaaa").unwrap();
    let applied = |nodes: &mut Nodes, at: &Position| nodes.beat(at, false).unwrap()[0].applied;
    assert_eq!(applied(&mut nodes, &named("0123")), 0);
    let last = first.position().unwrap().unwrap();
    assert_eq!(applied(&mut nodes, &last), 3);
    let ahead = Position { seq: 4, ..last };
    assert_eq!(applied(&mut nodes, &ahead), 0);
    let mut link = Link::new(&server.settings);
    let line: Vec<(String, Vec<String>)> = link
        .call(0, |connection| {
            redis::cmd("XRANGE")
                .arg("portcullis:log")
                .arg("2-0")
                .arg("2-0")
                .query(connection)
        })
        .unwrap();
    assert_eq!(applied(&mut nodes, &named(&line[0].1[1])), 2);
}

// A store that was emptied knows nobody: each node tells it of the others that it knew, at once with itself. One that left is not told of.
#[test]
fn an_emptied_store_is_told_of_silent_nodes_too() {
    let Some(server) = Server::start() else {
        return;
    };
    let (_one, mut first) = node(&server);
    first.commit(&[key(1)]).unwrap();
    let at = first.position().unwrap().unwrap();
    let join = |id: &str| {
        let mut nodes = Nodes::join(&server.settings, id, "at-/srv1").unwrap();
        nodes.beat(&at, false).unwrap();
        nodes
    };
    let (mut one, _silent, mut left) = (join("one"), join("silent"), join("left"));
    let ids = |nodes: &mut Nodes| {
        let mut ids: Vec<String> = (nodes.beat(&at, false).unwrap().into_iter())
            .map(|node| node.id)
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&mut one), ["left", "one", "silent"]);
    assert!(left.leave().unwrap());
    assert_eq!(ids(&mut one), ["one", "silent"]);
    ask(&server, &["FLUSHALL"]);
    assert_eq!(ids(&mut one), ["one", "silent"]);
    first.catch_up(NOW).unwrap();
    assert_eq!(ids(&mut one), ["one", "silent"]);
    // Whom an operator has forgotten stays forgotten.
    assert!(Nodes::new(&server.settings, "silent").leave().unwrap());
    assert_eq!(ids(&mut one), ["one"]);
    // The next run of a node takes the place of the one before, which was killed.
    let mut again = join("one");
    assert_eq!(ids(&mut again), ["one"]);
    // Of two at once both are seen, and the one in a copied directory finds that out at its start; what is silent was an earlier run of it.
    let elsewhere = |id: &str| {
        let mut nodes = Nodes::join(&server.settings, id, "at-/srv2").unwrap();
        let all = nodes.beat(&at, false).unwrap();
        assert!(nodes.has_twin(&all));
        (nodes, all)
    };
    let (mut twin, all) = elsewhere("one");
    let lives = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(300));
            again.beat(&at, false).unwrap();
        });
        twin.lives_elsewhere(&all).unwrap()
    });
    assert!(lives);
    assert_eq!(ids(&mut again), ["one", "one"]);
    again.leave().unwrap();
    drop(join("dead"));
    let (mut moved, all) = elsewhere("dead");
    assert!(!moved.lives_elsewhere(&all).unwrap());
    assert_eq!(ids(&mut moved), ["dead", "one"]);
    moved.leave().unwrap();
    assert!(Nodes::new(&server.settings, "one").leave().unwrap());
    let all = Nodes::new(&server.settings, "").beat(&at, false).unwrap();
    assert!(all.is_empty(), "{all:?}");
}

// The store's clock is set by days, forward and back: nobody is gone by that, and nobody there. (As if: the records are put that far away.)
#[test]
fn a_clock_that_is_set_takes_no_node_away() {
    let Some(server) = Server::start() else {
        return;
    };
    let (_one, mut first) = node(&server);
    first.commit(&[key(1)]).unwrap();
    let at = first.position().unwrap().unwrap();
    let join = |id: &str| {
        let mut nodes = Nodes::join(&server.settings, id, "at-/srv1").unwrap();
        nodes.beat(&at, false).unwrap();
        nodes
    };
    let (_silent, mut one) = (join("silent"), join("one"));
    let mut link = Link::new(&server.settings);
    for days in [2_i64, -2] {
        let script = redis::Script::new(
            "for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
               local heard, rest = string.match(redis.call('HGET', KEYS[1], field), '^(%d+)(.*)$')
               redis.call('HSET', KEYS[1], field, string.format('%.0f', heard - ARGV[1]) .. rest)
             end
             redis.call('SET', KEYS[2], string.format('%.0f', redis.call('GET', KEYS[2]) - ARGV[1]))",
        );
        let mut ask = script.prepare_invoke();
        ask.key("portcullis:nodes").key("portcullis:beat");
        ask.arg(days * 86_400_000);
        link.call(0, |connection| ask.invoke::<()>(connection))
            .unwrap();
        let all = one.beat(&at, false).unwrap();
        assert_eq!(all.len(), 2, "{all:?}");
        for node in all {
            assert!(node.silent_seconds < 5, "{node:?}");
        }
    }
}

// A store that was emptied knows nothing of who is there until a node has spoken; one that has just been begun knows that nobody is.
#[test]
fn an_emptied_store_says_that_it_knows_nobody() {
    let Some(server) = Server::start() else {
        return;
    };
    let (_one, mut first) = node(&server);
    let mut looks = Nodes::new(&server.settings, "");
    let mut knows = || {
        looks.beat(&Position::default(), false).unwrap();
        looks.are_known()
    };
    assert!(knows());
    first.commit(&[key(1)]).unwrap();
    ask(&server, &["FLUSHALL"]);
    assert!(!knows());
    first.catch_up(NOW).unwrap();
    assert!(!knows(), "who filled it need not be a node");
    let mut node = Nodes::join(&server.settings, "one", "at-/srv1").unwrap();
    node.beat(&Position::default(), false).unwrap();
    assert!(knows());
}

// More changes than the store's log is asked for at once, with more rows than one answer should have.
#[test]
fn a_copy_that_is_far_behind_comes_after() {
    let Some(server) = Server::start() else {
        return;
    };
    let ((_one, mut first), (_two, mut late)) = (node(&server), node(&server));
    for round in 0..120 {
        let some: Vec<Write> = (round * 20..round * 20 + 20).map(key).collect();
        first.commit(&some).unwrap();
    }
    late.catch_up(NOW).unwrap();
    same(&first, &late);
}

// More denied tokens than the log carries come and go by their bucket, and what goes is gone on the other node too.
#[test]
fn many_denials_come_and_go_at_once() {
    let Some(server) = Server::start() else {
        return;
    };
    let ((_one, mut first), (_two, mut other)) = (node(&server), node(&server));
    let denial = |number: u32| Denial {
        by: DeniedBy::Jti,
        value: format!("token-{number}").into(),
        issuer: None,
        created: NOW,
        expires: None,
        issued_until: None,
        note: None,
    };
    let put: Vec<Write> = (0..600).map(|at| Write::PutDenial(denial(at))).collect();
    first.commit(&put).unwrap();
    other.catch_up(NOW).unwrap();
    assert_eq!(other.denials().unwrap().len(), 600);
    let away = (0..599).map(|at| Write::RemoveDenial(denial(at)));
    first.commit(&away.collect::<Vec<_>>()).unwrap();
    other.catch_up(NOW).unwrap();
    assert_eq!(other.denials().unwrap(), [denial(599)]);
    first.commit(&[Write::RemoveDenial(denial(599))]).unwrap();
    other.catch_up(NOW).unwrap();
    assert_eq!(other.denials().unwrap(), []);
    same(&first, &other);
}

// One change that would hold up every node for a second is refused before the store hears of it, with the way out.
#[test]
fn a_change_of_too_many_rows_is_refused() {
    let Some(server) = Server::start() else {
        return;
    };
    let (one, store) = node(&server);
    let at = store.position().unwrap().unwrap();
    let mut file = rusqlite::Connection::open(one.path().join("keys.db")).unwrap();
    let row = image::Image {
        bucket: "k:1".to_owned(),
        field: "x".to_owned(),
        text: "{}".to_owned(),
    };
    let mut shared = Shared::new(&server.settings);
    let many = vec![row; 200_001];
    let refused = shared.publish(file.transaction().unwrap(), &at, &many);
    let error = refused.unwrap_err();
    assert_eq!(error.exit_code(), 78, "{error}");
    assert!(error.to_string().contains("do it in parts"), "{error}");
    assert_eq!(shared.there().unwrap().unwrap().at, at);
}
