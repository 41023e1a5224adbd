//! Copies that lag, logs that were cut, and changes of many rows.

use super::*;

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
