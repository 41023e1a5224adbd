//! Histories that parted, and stores that begin anew.

use super::*;

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
