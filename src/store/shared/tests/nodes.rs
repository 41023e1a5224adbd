//! Who is there, and what a store knows of it that was emptied.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use super::*;

/// A node that is there at this point of the history.
fn joined(server: &Server, at: &Position, id: &str) -> Nodes {
    let mut nodes = Nodes::join(&server.settings, id, "at-/srv1").unwrap();
    nodes.beat(at, false).unwrap();
    nodes
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
    let join = |id: &str| joined(&server, &at, id);
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
    let done = AtomicBool::new(false);
    let lives = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                again.beat(&at, false).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        });
        let lives = twin.lives_elsewhere(&all);
        done.store(true, Ordering::Relaxed);
        lives.unwrap()
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
    let join = |id: &str| joined(&server, &at, id);
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
