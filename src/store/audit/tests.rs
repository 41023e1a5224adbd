//! Lines written with what they are about, read back, chained.

use std::path::Path;

use rusqlite::Connection;

use super::Act;
use super::Actor;
use super::Log;
use super::Verdict;
use super::Which;
use super::Written;
use crate::clock::Wall;
use crate::store::Store;

fn act(subject: &str) -> Act {
    Act {
        actor: Actor::user(Some(7), "socket"),
        act: "key-revoke".to_owned(),
        subject: subject.to_owned(),
        before: Some(serde_json::json!({ "status": "active" })),
        after: Some(serde_json::json!({ "status": "revoked" })),
        result: None,
        at: Wall::from_unix_seconds(1_700_000_000),
    }
}

fn five(directory: &Path) -> Vec<Written> {
    let mut store = Store::open(directory).unwrap();
    let written = ["a", "b", "c", "d", "e"].map(|name| store.record(&act(name)).unwrap().unwrap());
    written.to_vec()
}

fn verdict(directory: &Path, expected: Option<(u64, &str)>) -> Verdict {
    let log = Log::open(directory).unwrap().unwrap();
    log.verify(expected).unwrap()
}

#[test]
fn lines_are_read_back_the_latest_first() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Log::open(directory.path()).unwrap().is_none());
    five(directory.path());
    let log = Log::open(directory.path()).unwrap().unwrap();
    let which = Which {
        limit: Some(2),
        before: Some(5),
        ..Which::default()
    };
    let lines = log.lines(&which, Wall(u64::MAX)).unwrap();
    let seen: Vec<_> = lines
        .iter()
        .map(|line| (line.seq, line.subject.as_str()))
        .collect();
    assert_eq!(seen, [(4, "d"), (3, "c")]);
    assert_eq!(lines[0].before.as_ref().unwrap()["status"], "active");
    let which = Which {
        subject: Some("b".to_owned()),
        ..Which::default()
    };
    assert_eq!(log.lines(&which, Wall(u64::MAX)).unwrap().len(), 1);
}

/// What another hand did to the file, one thing at a time, is found and named.
#[test]
fn a_changed_missing_or_moved_line_is_found() {
    let cases = [
        (
            "UPDATE audit SET who = 'uid:8' WHERE seq = 3",
            "line 3 was changed",
        ),
        (
            "UPDATE audit SET after = NULL WHERE seq = 5",
            "line 5 was changed",
        ),
        (
            "UPDATE audit SET at = at + 1 WHERE seq = 1",
            "line 1 was changed",
        ),
        (
            "UPDATE audit SET once_key = '' WHERE seq = 2",
            "line 2 was changed",
        ),
        (
            "UPDATE audit SET hash = randomblob(32) WHERE seq = 2",
            "line 2 was changed",
        ),
        ("DELETE FROM audit WHERE seq = 1", "line 1 is missing"),
        ("DELETE FROM audit WHERE seq = 4", "line 4 is missing"),
        (
            "DELETE FROM audit WHERE seq = 5",
            "it ends with line 4, but 5 were written",
        ),
        (
            "DELETE FROM audit",
            "it ends with line 0, but 5 were written",
        ),
        (
            "UPDATE audit SET seq = 99 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 99",
            "line 2 was changed, or stands where another did",
        ),
        (
            "DELETE FROM audit WHERE seq = 5; UPDATE meta SET audit_seq = 4",
            "line 4 is not the one that was written last",
        ),
    ];
    for (sql, fault) in cases {
        let directory = tempfile::tempdir().unwrap();
        five(directory.path());
        assert!(verdict(directory.path(), None).whole);
        let file = Connection::open(directory.path().join("keys.db")).unwrap();
        file.execute_batch(sql).unwrap();
        let found = verdict(directory.path(), None);
        assert!(!found.whole, "{sql}");
        assert!(
            found.fault.as_ref().unwrap().contains(fault),
            "{sql}: {found:?}"
        );
    }
}

/// Whoever may write the file can chain it anew; a hash that was written down elsewhere shows it.
#[test]
fn a_log_that_was_written_anew_does_not_fit_a_hash_from_before() {
    let directory = tempfile::tempdir().unwrap();
    let written = five(directory.path());
    let third = written[2].hash.clone();
    let found = verdict(directory.path(), Some((3, &third)));
    assert_eq!((found.whole, found.lines), (true, 5));
    assert_eq!(found.head, written[4].hash);
    assert!(!verdict(directory.path(), Some((2, &third))).whole);
    assert!(!verdict(directory.path(), Some((6, &third))).whole);
}
