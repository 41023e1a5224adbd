//! What fails between several nodes, and what becomes of it: the store frozen, killed, emptied, full, busy, promoted or another one; a node stopped,
//! killed, cut off, or with another clock. The table of ARCHITECTURE.md, row by row.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::store::Verb;
use rustix::process::Signal;

use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::nodes::heard_of;
use crate::support::nodes::knows_nodes;
use crate::support::redis::Redis;
use crate::support::redis::left_out;
use crate::support::relay::Relay;
use crate::support::request::Request;
use crate::support::site::Site;
use crate::support::upstream::Upstream;

fn status(gateway: &Gateway, key: &Key) -> u16 {
    gateway.get("/any/x", key).status
}

/// Exit code and words of the command line.
fn revoke(gateway: &Gateway, key: &Key) -> (i32, String) {
    let (code, out, err) = gateway.command(&["keys", "revoke", &key.id, "--yes"]);
    (code, out + &err)
}

#[track_caller]
fn says(text: &str, words: &str) {
    assert!(text.contains(words), "{words:?} in {text}");
}

fn node(redis: &Redis, setup: Setup, name: &str) -> Gateway {
    redis.node(setup, name).start()
}

/// Three nodes that share limits; `deny` or `share` while the store is away, or is silent for this long.
fn limited(
    redis: &Redis,
    upstream: &Upstream,
    quota: &str,
    (outage, silence): (&str, &str),
) -> Vec<Gateway> {
    let start = |name| {
        redis
            .node(Setup::limited(upstream, quota, "unlimited"), name)
            .set("store", "limits_outage", &format!("{outage:?}"))
            .set("store", "redis_timeout", &format!("{silence:?}"))
            .start()
    };
    let all: Vec<Gateway> = ["gw-1", "gw-2", "gw-3"].map(start).into();
    for gateway in &all {
        knows_nodes(gateway, 3);
    }
    all
}

/// What a burst got.
#[derive(Debug, Default)]
struct Burst {
    admitted: AtomicUsize,
    refused: AtomicUsize,
    unknown: AtomicUsize,
    ended: AtomicBool,
}

impl Burst {
    fn admitted(&self) -> usize {
        self.admitted.load(Ordering::SeqCst)
    }

    fn ask(&self, gateway: &Gateway, key: &Key) {
        let request = Request::get("/any/x").bearer(&key.text);
        let mut client = gateway.connect();
        while !self.ended.load(Ordering::SeqCst) {
            let answer = client.exchange(&request);
            let count = match answer.status {
                200 => &self.admitted,
                429 => &self.refused,
                503 => &self.unknown,
                other => panic!("{other}: {}", answer.text()),
            };
            count.fetch_add(1, Ordering::SeqCst);
            // Not as fast as can be: the machine is needed for more than this.
            thread::sleep(Duration::from_millis(3));
        }
    }

    /// Requests to all nodes at once until `during` has ended: 200, 429 and 503 only (CHECK11: no other 5xx, no 401).
    #[track_caller]
    fn over(all: &[Gateway], key: &Key, during: impl FnOnce(&Burst)) -> Burst {
        let burst = Burst::default();
        thread::scope(|scope| {
            let own = &burst;
            for gateway in all.iter().chain(all) {
                scope.spawn(move || own.ask(gateway, key));
            }
            let ended = Ended(&burst);
            during(&burst);
            drop(ended);
        });
        burst
    }
}

/// Ends the burst, also when what happens meanwhile panics.
struct Ended<'a>(&'a Burst);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::SeqCst);
    }
}

#[track_caller]
fn more_than(what: &str, count: &AtomicUsize, than: usize) {
    eventually(what, || (count.load(Ordering::SeqCst) > than).then_some(()));
}

// CHECK11: frozen, killed with its data, killed without, each amid a burst. With "deny" no more than the limit is admitted in all, counted at the
// backend; what nobody can judge is 503; and once the store is back, all is as exact as before.
#[test]
fn a_store_that_fails_amid_a_burst_never_lets_more_through_than_the_limit() {
    if left_out() {
        return;
    }
    let kept = ["--appendonly", "yes", "--appendfsync", "always"];
    // Waited for while it is frozen; as long as its nodes need to start on a busy machine.
    let ways: [(&str, &[&str], &str); 3] = [
        ("frozen", &[], "1s"),
        ("restarted", &kept, "3s"),
        ("emptied", &[], "3s"),
    ];
    thread::scope(|scope| {
        for (way, more, silence) in ways {
            scope.spawn(move || {
                let (mut redis, upstream) = (Redis::start_with(more), Upstream::start());
                let all = limited(&redis, &upstream, "120/hour", ("deny", silence));
                let key = all[0].key("acme");
                all.iter().for_each(|gateway| heard_of(gateway, &key));
                let burst = Burst::over(&all, &key, |burst| {
                    more_than("some are admitted", &burst.admitted, 20);
                    match way {
                        "frozen" => redis.freeze(),
                        _ => redis.kill(),
                    }
                    more_than("nobody can say", &burst.unknown, 6);
                    match way {
                        "frozen" => redis.thaw(),
                        _ => redis.restart(),
                    }
                    more_than("the limit is reached", &burst.refused, 6);
                });
                let admitted = burst.admitted();
                assert!((21..=120).contains(&admitted), "{way}: {burst:?}");
                assert_eq!(upstream.hits(), admitted, "{way}");
                for gateway in &all {
                    eventually("it is refused", || match status(gateway, &key) {
                        // A busy machine's store may be silent for as long once more.
                        503 => None,
                        other => {
                            assert_eq!(other, 429, "{way}");
                            Some(())
                        }
                    });
                }
            });
        }
    });
}

// CHECK11: with "share" each node goes on to its part of the limit, by what it has admitted itself. The worst that can be: all of the limit was used
// on one node before, and each of the others admits its part besides. No request gets a 5xx.
#[test]
fn without_the_store_no_node_admits_more_than_its_share_beside_what_was_used() {
    if left_out() {
        return;
    }
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let all = limited(&redis, &upstream, "60/hour", ("share", "3s"));
    let key = all[0].key("acme");
    all.iter().for_each(|gateway| heard_of(gateway, &key));
    let admitted = |gateway: &Gateway| (0..70).filter(|_| status(gateway, &key) == 200).count();
    assert_eq!(admitted(&all[0]), 60);
    redis.kill();
    let after: Vec<usize> = all.iter().map(admitted).collect();
    assert_eq!(after[0], 0, "its share is used");
    assert!(after.iter().all(|count| *count <= 20), "{after:?}");
    redis.restart();
    eventually("what was admitted meanwhile is told", || {
        (status(&all[1], &key) == 429).then_some(())
    });
}

// A node that starts without the store knows from its copy how many share the limits, and takes no more than its part.
#[test]
fn a_node_that_starts_without_the_store_takes_its_share_alone() {
    if left_out() {
        return;
    }
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let mut all = limited(&redis, &upstream, "60/hour", ("share", "3s"));
    let key = all[0].key("acme");
    all.iter().for_each(|gateway| heard_of(gateway, &key));
    redis.kill();
    let again = all.remove(2).restart();
    let admitted = (0..70).filter(|_| status(&again, &key) == 200).count();
    assert_eq!(admitted, 20);
}

// Promise 1: a node that was stopped and one that was killed are both named, with the moment until which they may still admit, and the exit
// code says that it is not done. Back again, the same command says that it is.
#[test]
fn a_stopped_and_a_killed_node_are_named_until_they_are_back() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let gateway = node(&redis, Setup::usual(&upstream), "gw-1");
    let site = |name| Site::of(redis.node(Setup::usual(&upstream), name));
    let (stopped, killed) = (site("gw-2"), site("gw-3"));
    let (running, mut dying) = (stopped.start(), killed.start());
    let key = gateway.key("acme");
    for one in [&stopped, &killed] {
        eventually("the key is known", || {
            (one.get(&key.text).status == 200).then_some(())
        });
    }
    running.signal(Signal::STOP);
    dying.child.kill().unwrap();
    dying.child.wait().unwrap();
    let (code, said) = revoke(&gateway, &key);
    assert_eq!(code, 69, "{said}");
    says(&said, "in force on 1 of 3 nodes");
    for name in ["gw-2 (", "gw-3 ("] {
        says(&said, name);
    }
    says(&said, "may still admit until 2");
    assert_eq!(status(&gateway, &key), 401);
    eventually("who watches is told", || {
        (gateway.metric("portcullis_shared_store_nodes_silent") == 2).then_some(())
    });
    running.signal(Signal::CONT);
    let _again = killed.start();
    for one in [&stopped, &killed] {
        eventually("the revocation is in force", || {
            (one.get(&key.text).status == 401).then_some(())
        });
    }
    let said = eventually("all of them have it", || {
        let (code, said) = revoke(&gateway, &key);
        (code == 0).then_some(said)
    });
    says(&said, "in force on 3 of 3 nodes");
}

// CHECK4 over nodes: kill -9 of a node forgets nothing that it admitted, since the counts are in the store.
#[test]
fn a_killed_node_forgets_no_admission() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let setup = Setup::limited(&upstream, "100/hour", "unlimited");
    let site = Site::of(redis.node(setup, "gw-1"));
    let mut running = site.start();
    let key = site.key();
    let used = (0..73).filter(|_| site.get(&key).status == 200).count();
    assert_eq!(used, 73);
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    let _again = site.start();
    let more = (0..60).filter(|_| site.get(&key).status == 200).count();
    assert_eq!(more, 27);
    assert_eq!(upstream.hits(), 100);
}

// Partitioned: the node that is cut off goes on with known keys, says 503 of unknown ones, and is named by the fence; also when the store is emptied
// meanwhile, and knows of that node by the others alone. Then it hears all of it.
#[test]
fn a_node_that_is_cut_off_is_not_forgotten_with_an_emptied_store() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let relay = Relay::to(redis.port);
    let near = node(&redis, Setup::usual(&upstream), "gw-1");
    let far = relay.node(Setup::usual(&upstream), "gw-2").start();
    let (key, kept) = (near.key("acme"), near.key("bravo"));
    for gateway in [&near, &far] {
        heard_of(gateway, &kept);
        knows_nodes(gateway, 2);
    }
    relay.freeze();
    let _: () = redis.ask(&["FLUSHALL"]);
    let (code, said) = revoke(&near, &key);
    assert_eq!(code, 69, "{said}");
    says(&said, "in force on 1 of 2 nodes");
    says(&said, "gw-2 (");
    assert_eq!(status(&near, &key), 401);
    assert_eq!(status(&far, &key), 200, "it cannot know");
    let unknown = Key {
        id: String::new(),
        text: "sk-somebody-elses".to_owned(),
    };
    far.advance(Duration::from_secs(20));
    assert_eq!(status(&far, &unknown), 503);
    assert_eq!(status(&far, &kept), 200);
    relay.thaw();
    eventually("the revocation is heard of", || {
        (status(&far, &key) == 401).then_some(())
    });
    let (code, said) = revoke(&near, &key);
    assert_eq!(code, 0, "{said}");
    says(&said, "in force on 2 of 2 nodes");
    for gateway in [&near, &far] {
        assert_eq!(status(gateway, &kept), 200, "the emptied store took no key");
    }
}

// Connections that are closed under acts lose none of them and do none twice.
#[test]
fn closed_connections_lose_no_act() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let all = ["gw-1", "gw-2"].map(|name| node(&redis, Setup::usual(&upstream), name));
    let ended = AtomicBool::new(false);
    let keys: Vec<Key> = thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                let _: i64 = redis.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                thread::sleep(Duration::from_millis(15));
            }
        });
        let made = (0..30).filter_map(|round: usize| {
            let create = Verb::KeyCreate(crate::support::gateway::new_key("acme"));
            let made = all[round % 2].execute(create).ok()?;
            Some(crate::support::gateway::key_of(&made))
        });
        let made = made.collect();
        ended.store(true, Ordering::SeqCst);
        made
    });
    assert!(!keys.is_empty());
    for gateway in &all {
        for key in &keys {
            eventually("the key is known", || {
                (status(gateway, key) == 200).then_some(())
            });
        }
        let (code, out, _) = gateway.command(&["audit", "verify"]);
        assert_eq!(code, 0, "{out}");
    }
    let listed = |gateway: &Gateway| gateway.command(&["keys", "list", "--output", "json"]).1;
    let ids = |gateway: &Gateway| {
        let mut ids: Vec<String> = listed(gateway)
            .split('"')
            .filter(|word| word.starts_with("key_"))
            .map(str::to_owned)
            .collect();
        ids.sort();
        ids
    };
    eventually("both list the same", || {
        (ids(&all[0]) == ids(&all[1])).then_some(())
    });
}

// Out of memory (maxmemory reached, noeviction) counts as away: keys go on, what ends rights is in force here and written later, nothing new is made,
// limits follow their policy.
#[test]
fn a_store_without_memory_is_a_store_that_is_away() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let setup = || Setup::limited(&upstream, "60/hour", "unlimited");
    let all = ["gw-1", "gw-2"].map(|name| node(&redis, setup(), name));
    let (lost, limited) = (all[0].key("bravo"), all[0].key("acme"));
    all.iter().for_each(|gateway| heard_of(gateway, &limited));
    let _: () = redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let (code, said) = revoke(&all[0], &lost);
    assert_eq!(code, 69, "{said}");
    says(&said, "in force, not durable");
    assert_eq!(status(&all[0], &lost), 401);
    assert_eq!(all[0].metric("portcullis_changes_not_durable"), 1);
    let create = Verb::KeyCreate(crate::support::gateway::new_key("acme"));
    let error = all[1].execute(create).unwrap_err();
    says(&error, "is away");
    says(&error, "OOM");
    for gateway in &all {
        assert_eq!(status(gateway, &limited), 200);
    }
    eventually("who watches is told", || {
        (all[0].metric("portcullis_shared_store_up") == 0).then_some(())
    });
    let _: () = redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("the revocation is everywhere", || {
        (status(&all[1], &lost) == 401).then_some(())
    });
    eventually("it is durable", || {
        (all[0].metric("portcullis_changes_not_durable") == 0).then_some(())
    });
    eventually("who watches is told", || {
        (all[0].metric("portcullis_shared_store_up") == 1).then_some(())
    });
}

// Another user's script that never ends holds up no request; ended by SCRIPT KILL, the store is used again. Scripts that the server forgot
// (SCRIPT FLUSH) are given to it again.
#[test]
fn a_busy_store_and_forgotten_scripts_hold_up_nobody() {
    if left_out() {
        return;
    }
    let redis = Redis::start_with(&["--busy-reply-threshold", "50"]);
    let upstream = Upstream::start();
    let gateway = node(
        &redis,
        Setup::limited(&upstream, "60/hour", "unlimited"),
        "gw-1",
    );
    let (free, limited) = (gateway.key("bravo"), gateway.key("acme"));
    let _: () = redis.ask(&["SCRIPT", "FLUSH"]);
    let late = gateway.key("bravo");
    assert_eq!(status(&gateway, &late), 200);
    assert_eq!(status(&gateway, &limited), 200);
    thread::scope(|scope| {
        let mut hogging = redis.connect();
        scope.spawn(move || {
            let endless = redis::cmd("EVAL")
                .arg("while true do end")
                .arg(0)
                .query::<redis::Value>(&mut hogging);
            assert!(endless.is_err(), "it was killed");
        });
        eventually("the store is busy", || {
            let ping = redis::cmd("PING").query::<String>(&mut redis.connect());
            ping.is_err().then_some(())
        });
        for key in [&free, &limited, &late] {
            assert_eq!(status(&gateway, key), 200);
        }
        let (code, said) = revoke(&gateway, &free);
        assert_eq!(code, 69, "{said}");
        says(&said, "in force, not durable");
        let _: () = redis.ask(&["SCRIPT", "KILL"]);
    });
    eventually("it is written", || {
        (gateway.metric("portcullis_changes_not_durable") == 0).then_some(())
    });
    let (code, said) = revoke(&gateway, &free);
    assert_eq!(code, 0, "{said}");
}

// A replica that lags is made the primary by hand, as behind a name or an address that moves: what it lost is written again by the nodes that have it,
// a revocation that was answered among it.
#[test]
fn a_promoted_replica_hears_again_what_it_had_not() {
    if left_out() {
        return;
    }
    let (mut primary, upstream) = (Redis::start(), Upstream::start());
    let replica = Redis::replica_of(&primary);
    let relay = Relay::to(primary.port);
    let setup = || Setup::limited(&upstream, "60/hour", "unlimited");
    let all = ["gw-1", "gw-2"].map(|name| {
        relay
            .node(setup(), name)
            .set("store", "limits_outage", r#""deny""#)
            .start()
    });
    let (kept, ended, limited) = (all[0].key("bravo"), all[0].key("bravo"), all[0].key("acme"));
    all.iter().for_each(|gateway| heard_of(gateway, &limited));
    eventually("the replica has all three", || {
        let seq: Option<String> = replica.ask(&["HGET", "portcullis:facts", "seq"]);
        (seq.as_deref() == Some("3")).then_some(())
    });
    replica.freeze();
    let _: i64 = primary.ask(&["CLIENT", "KILL", "TYPE", "replica"]);
    let (code, said) = revoke(&all[1], &ended);
    assert_eq!(code, 0, "{said}");
    let used = |count| {
        (0..count)
            .filter(|_| status(&all[0], &limited) == 200)
            .count()
    };
    assert_eq!(used(40), 40);
    primary.kill();
    replica.thaw();
    let _: () = replica.ask(&["REPLICAOF", "NO", "ONE"]);
    relay.lead_to(replica.port);
    eventually("the replica is healed", || {
        let seq: Option<String> = replica.ask(&["HGET", "portcullis:facts", "seq"]);
        (seq.as_deref() == Some("4")).then_some(())
    });
    let third = node(&replica, setup(), "gw-3");
    for gateway in all.iter().chain([&third]) {
        assert_eq!(status(gateway, &ended), 401);
        assert_eq!(status(gateway, &kept), 200);
    }
    // Promise 2: the counts that the replica never had are told it too, before it admits anything.
    let mut more = 0;
    eventually("limits are shared again", || {
        match status(&all[1], &limited) {
            200 => {
                more += 1;
                None
            }
            503 => None,
            other => {
                assert_eq!(other, 429);
                Some(())
            }
        }
    });
    assert!(more <= 20, "{more} beside 40");
}

// A name that moves leaves a connection on what was the primary and lags behind now, for ever: what is read there is not taken for news.
#[test]
fn a_connection_left_on_a_former_primary_is_not_believed() {
    if left_out() {
        return;
    }
    let (former, upstream) = (Redis::start(), Upstream::start());
    let promoted = Redis::replica_of(&former);
    let relay = Relay::to(former.port);
    let far = relay.node(Setup::usual(&upstream), "gw-1").start();
    let key = far.key("acme");
    eventually("the replica has it", || {
        let seq: Option<String> = promoted.ask(&["HGET", "portcullis:facts", "seq"]);
        (seq.as_deref() == Some("1")).then_some(())
    });
    let _: () = promoted.ask(&["REPLICAOF", "NO", "ONE"]);
    relay.later_to(promoted.port);
    // A replica of nobody: it never hears anything again.
    let _: () = former.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    let near = node(&promoted, Setup::usual(&upstream), "gw-2");
    heard_of(&near, &key);
    knows_nodes(&near, 2);
    let (code, said) = revoke(&near, &key);
    assert_eq!(code, 0, "{said}");
    says(&said, "in force on 2 of 2 nodes");
    assert_eq!(status(&far, &key), 401);
}

// A store that takes the sign of life of a start and then fails has told nothing: the copy is as old as it was, and past max_stale no key counts.
#[test]
fn a_start_that_did_not_catch_up_is_no_fresher_than_its_copy() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let relay = Relay::to(redis.port);
    let gateway = relay
        .node(Setup::usual(&upstream), "gw-1")
        .set("store", "max_stale", r#""1h""#)
        .start();
    let key = gateway.key("acme");
    assert_eq!(status(&gateway, &key), 200);
    let (setup, clock) = (gateway.setup.clone(), gateway.clock.clone());
    gateway.stop();
    clock.advance(Duration::from_secs(7_200));
    relay.let_in(1);
    let gateway = setup.start_at(clock);
    assert_eq!(status(&gateway, &key), 503);
    relay.let_in(usize::MAX);
    eventually("it has caught up", || {
        (status(&gateway, &key) == 200).then_some(())
    });
}

// What is in a copy and cannot be put in force (here: a row that makes no sense, as another hand or a fault could write it) is never reported as in
// force, however often it is tried; known keys go on.
#[test]
fn what_could_not_be_put_in_force_is_not_called_so() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let gateway = node(&redis, Setup::usual(&upstream), "gw-1");
    let key = gateway.key("acme");
    let header: String = redis.ask(&["HGET", "portcullis:facts", "header"]);
    let row = r#"{"t":"tenant","c":{"id":"not an id","name":"x","plan":"open","suspended":0,"created":0}}"#;
    let line = [
        "XADD",
        "portcullis:log",
        "2-0",
        "n",
        "other",
        "h",
        &header,
        "not an id",
        row,
    ];
    let facts = ["HSET", "portcullis:facts", "seq", "2", "head", "other"];
    let mut both = redis::pipe();
    both.atomic();
    for words in [&facts[..], &line[..]] {
        let command = both.cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.ignore();
    }
    both.query::<()>(&mut redis.connect()).unwrap();
    eventually("it was tried again and again", || {
        (gateway.metric("portcullis_shared_store_failures_total") >= 4).then_some(())
    });
    let in_force = gateway.metric("portcullis_shared_store_change_in_force");
    assert_eq!(in_force, 1);
    assert_eq!(status(&gateway, &key), 200);
}

// Promise 2, FA25: clocks of nodes an hour apart change no limit and no Reset: the store's time alone decides. (What a key's own expiry says is judged by
// each node's clock.)
#[test]
fn clocks_of_nodes_that_are_an_hour_apart_change_no_limit() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let start = |(name, seconds): (&str, i64)| {
        let clock = Clock::movable();
        clock.set_wall_by(seconds);
        redis
            .node(Setup::limited(&upstream, "40/hour", "60/min"), name)
            .start_at(clock)
    };
    let all = [("gw-1", 0), ("gw-2", -3_600), ("gw-3", 3_600)].map(start);
    let key = all[1].key("acme");
    all.iter().for_each(|gateway| heard_of(gateway, &key));
    let burst = Burst::over(&all, &key, |burst| {
        more_than("the limit is reached", &burst.refused, 30);
    });
    assert_eq!(burst.admitted(), 40, "{burst:?}");
    assert_eq!(upstream.hits(), 40);
    let resets: Vec<u64> = all
        .iter()
        .map(|gateway| {
            let answer = gateway.get("/any/x", &key);
            assert_eq!(answer.status, 429);
            answer.number("x-ratelimit-reset")
        })
        .collect();
    assert_eq!(resets, [resets[0]; 3]);
    let (code, said) = revoke(&all[2], &key);
    assert_eq!(code, 0, "{said}");
    for gateway in &all {
        assert_eq!(status(gateway, &key), 401);
    }
}

// A node whose file does not fit what another changed has in force what ends rights all the same, and is named as one that has not all in force; also
// by itself.
#[test]
fn a_node_that_is_held_up_says_so() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let usual = || Setup::usual(&upstream);
    let new = node(
        &redis,
        usual().plan("gold", "unlimited", "unlimited"),
        "gw-1",
    );
    let mut old = node(&redis, usual(), "gw-2");
    let create = |id: &str, plan: &str| {
        new.execute(Verb::TenantCreate {
            id: id.to_owned(),
            name: None,
            plan: plan.to_owned(),
            upstreams: Default::default(),
        })
        .unwrap();
    };
    create("plain", "open");
    let keys: Vec<Key> = (0..3).map(|_| new.key("acme")).collect();
    let (own, of_tenant) = (old.key("acme"), new.key("plain"));
    heard_of(&old, &of_tenant);
    create("rich", "gold");
    let (code, said) = revoke(&new, &keys[0]);
    assert_eq!(code, 69, "{said}");
    says(&said, "in force on 1 of 2 nodes; not yet on gw-2 (");
    says(&said, "whose gateway.toml does not fit");
    eventually("it has ended there all the same", || {
        (status(&old, &keys[0]) == 401).then_some(())
    });
    assert_eq!(status(&old, &keys[1]), 200);
    let (code, said, _) = new.command(&["tenants", "suspend", "plain"]);
    assert_eq!(code, 69, "{said}");
    eventually("the tenant is suspended there", || {
        (status(&old, &of_tenant) == 403).then_some(())
    });
    eventually("who watches is told", || {
        (old.metric("portcullis_shared_store_changes_behind") > 0).then_some(())
    });
    let (code, said) = revoke(&old, &own);
    assert_eq!(code, 69, "{said}");
    says(&said, "gw-2 (");
    // With the file it fits, and all of it is in force.
    let setup = old.setup.clone().plan("gold", "unlimited", "unlimited");
    old.reload(setup).unwrap();
    let said = eventually("both have all", || {
        let (code, said) = revoke(&old, &own);
        (code == 0).then_some(said)
    });
    says(&said, "in force on 2 of 2 nodes");
    eventually("who watches is told", || {
        (old.metric("portcullis_shared_store_changes_behind") == 0).then_some(())
    });
}

// Keys of two stores are never mixed because an address was wrong: a copy of one refuses the other.
#[test]
fn a_copy_of_one_store_is_not_led_to_another() {
    if left_out() {
        return;
    }
    let (redis, other, upstream) = (Redis::start(), Redis::start(), Upstream::start());
    let setup = Setup::usual(&upstream);
    let (gateway, stranger) = (
        node(&redis, setup.clone(), "gw-1"),
        node(&other, Setup::usual(&upstream), "gw-1"),
    );
    let (key, of_other) = (gateway.key("acme"), stranger.key("acme"));
    gateway.stop();
    let error = other
        .node(setup.clone(), "gw-1")
        .try_start(&Clock::movable());
    says(
        &error.err().unwrap_or_default(),
        "it is another store than the one",
    );
    // Led there while it runs, it hears nothing of it.
    let relay = Relay::to(redis.port);
    let gateway = relay.node(setup, "gw-1").start();
    relay.lead_to(other.port);
    eventually("it is told to be away", || {
        (gateway.metric("portcullis_shared_store_up") == 0).then_some(())
    });
    assert_eq!(status(&gateway, &key), 200);
    assert_eq!(status(&gateway, &of_other), 401);
    assert_eq!(status(&stranger, &key), 401);
    relay.lead_to(redis.port);
    eventually("it is heard again", || {
        (gateway.metric("portcullis_shared_store_up") == 1).then_some(())
    });
}

// A store that is away and back again: one alert for each, and numbers for who watches (FF15, OP5).
#[test]
fn an_outage_of_the_store_is_told_of_and_so_is_its_end() {
    if left_out() {
        return;
    }
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let gateway = node(&redis, Setup::usual(&upstream), "gw-1");
    let key = gateway.key("acme");
    let words = [
        "admin-tokens",
        "create",
        "--name",
        "x",
        "--role",
        "read-only",
    ];
    let words = [&words[..], &["--expires", "never"]].concat();
    let token = gateway.command(&words).1.trim().to_owned();
    let told = |count: usize| {
        eventually("it is told", || {
            let request = Request::get("/v1/alerts")
                .header("Connection", "close")
                .bearer(&token);
            let answer = Http1::plain(gateway.admin()).exchange(&request).json();
            let alerts = answer["alerts"].as_array()?.clone();
            let of_store = alerts
                .into_iter()
                .filter(|one| one["kind"] == "store.trouble");
            let of_store: Vec<_> = of_store.collect();
            (of_store.len() >= count).then_some(of_store)
        })
    };
    let metric = |name: &str| gateway.metric(&format!("portcullis_shared_store_{name}"));
    assert_eq!(
        (metric("up"), metric("nodes"), metric("nodes_silent")),
        (1, 1, 0)
    );
    eventually("both changes are counted", || {
        (metric("change") == 2 && metric("change_in_force") == 2).then_some(())
    });
    assert!(metric("silence_seconds") < 10);
    redis.kill();
    eventually("it is away", || (metric("up") == 0).then_some(()));
    gateway.advance(Duration::from_secs(15));
    let away = told(1);
    let text = away[0].to_string();
    says(&text, "has not been heard for");
    says(&text, &format!("127.0.0.1:{}", redis.port));
    assert!(metric("silence_seconds") >= 15);
    assert!(metric("failures_total") > 0);
    assert_eq!(status(&gateway, &key), 200);
    redis.restart();
    let back = told(2);
    says(&format!("{back:?}"), "is heard again");
    assert_eq!(back.len(), 2, "each once: {back:?}");
    assert_eq!(metric("up"), 1);
}

// A node alone has none of these numbers.
#[test]
fn a_node_alone_tells_of_no_shared_store() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let text = gateway.admin_get("/metrics").text();
    let told = |line: &str| line.starts_with("portcullis_shared_store");
    assert!(!text.lines().any(told), "{text}");
    let (_, status, _) = gateway.command(&["status", "--output", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert!(status["shared_store"].is_null(), "{status}");
}

// [audit] keep, over nodes: one lets old lines go for all, by the store's clock too; every copy and every later node has the rest, and it is whole.
#[test]
fn the_audit_log_of_all_is_shortened_by_one() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let past = Clock::movable();
    past.set_wall_by(-20 * 86_400);
    let first = redis.node(Setup::usual(&upstream), "gw-1").start_at(past);
    for _ in 0..5 {
        first.key("acme");
    }
    // A clock that runs ahead makes no young line old.
    let ahead = Clock::movable();
    ahead.set_wall_by(400 * 86_400);
    let setup = redis
        .node(Setup::usual(&upstream), "gw-2")
        .set("audit", "keep", r#""30d""#)
        .set("store", "flush_interval", r#""100ms""#);
    let hasty = setup.clone().start_at(ahead);
    hasty.key("acme");
    let lines = |gateway: &Gateway| {
        let (code, out, err) = gateway.command(&["audit", "verify"]);
        assert_eq!(code, 0, "{out}{err}");
        out + &err
    };
    thread::sleep(Duration::from_millis(500));
    let text = lines(&hasty);
    assert!(!text.contains("were let go"), "{text}");
    hasty.stop();
    let second = setup.set("audit", "keep", r#""10d""#).start();
    for gateway in [&second, &first] {
        eventually("old lines are gone", || {
            lines(gateway).contains("were let go").then_some(())
        });
    }
    let third = node(&redis, Setup::usual(&upstream), "gw-3");
    says(&lines(&third), "were let go");
    second.key("acme");
    eventually("all have the same log", || {
        (lines(&third) == lines(&first) && lines(&first) == lines(&second)).then_some(())
    });
    let rows: Vec<String> = redis.ask(&["HKEYS", "portcullis:u:0"]);
    assert!(!rows.contains(&"1".to_owned()), "gone from the store too");
}

// A failover that loses a change, and with it goes the one node that had it: the command said that it was not everywhere, and the others go on as if it
// had never been. It is on that node's disk alone, and comes back with it.
#[test]
fn a_change_that_one_dead_node_alone_knew_comes_back_with_its_disk() {
    if left_out() {
        return;
    }
    let (mut primary, upstream) = (Redis::start(), Upstream::start());
    let replica = Redis::replica_of(&primary);
    let relay = Relay::to(primary.port);
    let dies = node(&primary, Setup::usual(&upstream), "gw-1");
    let stays = relay.node(Setup::usual(&upstream), "gw-2").start();
    let key = dies.key("acme");
    heard_of(&stays, &key);
    eventually("the replica has it", || {
        let seq: Option<String> = replica.ask(&["HGET", "portcullis:facts", "seq"]);
        (seq.as_deref() == Some("1")).then_some(())
    });
    replica.freeze();
    let _: i64 = primary.ask(&["CLIENT", "KILL", "TYPE", "replica"]);
    relay.freeze();
    let (code, said) = revoke(&dies, &key);
    assert_eq!(code, 69, "{said}");
    says(&said, "in force on 1 of 2 nodes");
    primary.kill();
    replica.thaw();
    let _: () = replica.ask(&["REPLICAOF", "NO", "ONE"]);
    let disk = dies.setup.clone();
    dies.stop();
    relay.lead_to(replica.port);
    relay.thaw();
    let kept = eventually("the new primary takes changes", || {
        let create = Verb::KeyCreate(crate::support::gateway::new_key("acme"));
        stays.execute(create).ok()
    });
    let kept = crate::support::gateway::key_of(&kept);
    assert_eq!(status(&stays, &key), 200, "nobody is left who knows");
    let back = node(&replica, disk, "gw-1");
    for gateway in [&stays, &back] {
        eventually("the revocation is in force", || {
            (status(gateway, &key) == 401).then_some(())
        });
        eventually("what was made meanwhile is known", || {
            (status(gateway, &kept) == 200).then_some(())
        });
    }
}

// A directory that was copied with its node's id: the copy takes an id of its own when it finds the other alive, and keeps it. Neither is ever missing
// among those that a revocation waits for.
#[test]
fn a_copied_directory_gets_an_id_of_its_own() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let first = node(&redis, Setup::usual(&upstream), "gw-1");
    let key = first.key("acme");
    let (original, copy) = (first.setup.clone(), Setup::usual(&upstream));
    first.stop();
    std::fs::create_dir(copy.directory().join("state")).unwrap();
    for file in std::fs::read_dir(original.directory().join("state")).unwrap() {
        let file = file.unwrap();
        let to = copy.directory().join("state").join(file.file_name());
        std::fs::copy(file.path(), to).unwrap();
    }
    let first = original.start();
    let second = node(&redis, copy, "gw-2");
    let ids = || {
        let fields: Vec<String> = redis.ask(&["HKEYS", "portcullis:nodes"]);
        let ids = fields.iter().filter_map(|field| field.split('.').next());
        let ids: std::collections::BTreeSet<String> = ids.map(str::to_owned).collect();
        ids
    };
    let known = ids();
    assert_eq!(known.len(), 2, "{known:?}");
    for gateway in [&first, &second] {
        knows_nodes(gateway, 2);
        assert_eq!(status(gateway, &key), 200);
    }
    let second = second.restart();
    assert_eq!(ids(), known);
    let (code, said) = revoke(&second, &key);
    assert_eq!(code, 0, "{said}");
    says(&said, "in force on 2 of 2 nodes");
    assert_eq!(status(&first, &key), 401);
}

// CHECK4, promise 2: a store is emptied while one node is cut off and another has been restarted, so that neither run that admitted most can say so. The
// node that is left tells what it heard of them, and the limit holds; said by themselves later, it counts once.
#[test]
fn check4_what_those_admitted_who_cannot_speak_is_not_forgotten() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let relay = Relay::to(redis.port);
    let limited = || {
        Setup::limited(&upstream, "100/hour", "unlimited").set(
            "store",
            "limits_outage",
            r#""deny""#,
        )
    };
    let (near, restarted) = (
        node(&redis, limited(), "gw-1"),
        node(&redis, limited(), "gw-3"),
    );
    let far = relay.node(limited(), "gw-2").start();
    let key = near.key("acme");
    for gateway in [&near, &far, &restarted] {
        heard_of(gateway, &key);
    }
    let passed = |gateway: &Gateway, tries: usize| {
        let answers = (0..tries).map(|_| status(gateway, &key));
        answers.filter(|status| *status == 200).count()
    };
    assert_eq!((passed(&far, 40), passed(&restarted, 30)), (40, 30));
    let restarted = restarted.restart();
    heard_of(&restarted, &key);
    assert_eq!(passed(&near, 5), 5);
    relay.freeze();
    let _: () = redis.ask(&["FLUSHALL"]);
    let mut more = 0;
    eventually("the limit is reached", || {
        match status(&near, &key) {
            200 => more += 1,
            429 => return Some(()),
            other => assert_eq!(other, 503),
        }
        None
    });
    assert_eq!((more, passed(&restarted, 5)), (25, 0));
    relay.thaw();
    eventually("it is heard again", || {
        (status(&far, &key) == 429).then_some(())
    });
    assert_eq!(upstream.hits(), 100);
}

// What stays open: bursts of those who cannot speak, and windows that nobody who can has been told of. An emptied store gives such a limit once more, to
// the others, and no more than that.
#[test]
fn what_nobody_else_heard_of_may_be_given_once_more() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let relay = Relay::to(redis.port);
    let limited = || Setup::limited(&upstream, "60/hour", "40/min");
    let near = node(&redis, limited(), "gw-1");
    let far = relay.node(limited(), "gw-2").start();
    let key = near.key("acme");
    for gateway in [&near, &far] {
        heard_of(gateway, &key);
    }
    let passed = |gateway: &Gateway, tries: usize| {
        let answers = (0..tries).map(|_| status(gateway, &key));
        answers.filter(|status| *status == 200).count()
    };
    assert_eq!(passed(&far, 50), 40);
    relay.freeze();
    let _: () = redis.ask(&["FLUSHALL"]);
    eventually("the store has learnt", || {
        let learn: Option<String> = redis.ask(&["HGET", "portcullis:limits", "learn"]);
        learn.map(|_| ())
    });
    assert_eq!(passed(&near, 80), 40, "once more, and no more");
    relay.thaw();
    eventually("it is heard again", || {
        (status(&far, &key) == 429).then_some(())
    });
    assert_eq!(upstream.hits(), 80);
}
