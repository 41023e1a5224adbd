//! The log of administrators' acts, over nodes.

use super::*;

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
