//! Several nodes over one Redis: one truth about keys, a revocation that all know, and what becomes of it when the store fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portcullis::store::Verb;

use crate::support::Over;
use crate::support::certs::authority;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::nodes::heard_of;
use crate::support::nodes::knows_nodes;
use crate::support::redis::Redis;
use crate::support::redis::left_out;
use crate::support::relay::Relay;
use crate::support::request::Request;
use crate::support::timed;
use crate::support::upstream::Upstream;

fn revoke(key: &Key) -> Verb {
    Verb::KeyRevoke { id: key.id.clone() }
}

fn status(gateway: &Gateway, key: &Key) -> u16 {
    gateway.get("/any/x", key).status
}

#[track_caller]
fn known(gateway: &Gateway, key: &Key) {
    eventually("the key is known", || {
        (status(gateway, key) == 200).then_some(())
    });
}

fn node(redis: &Redis, upstream: &Upstream, name: &str) -> Gateway {
    redis.node(Setup::usual(upstream), name).start()
}

fn nodes(redis: &Redis, upstream: &Upstream) -> [Gateway; 3] {
    ["gw-1", "gw-2", "gw-3"].map(|name| node(redis, upstream, name))
}

/// A key and whether its revocation has been answered.
struct Ending {
    key: Key,
    answered: AtomicBool,
}

/// One client of one node, as fast as it can: a request that begins after the revocation was answered is admitted on no node.
fn keep_asking(gateway: &Gateway, current: &Mutex<Arc<Ending>>, ended: &AtomicBool) -> usize {
    let mut client = None;
    let mut late = 0;
    while !ended.load(Ordering::SeqCst) {
        let ending = Arc::clone(&current.lock().unwrap());
        let answered = ending.answered.load(Ordering::SeqCst);
        let open = client.get_or_insert_with(|| gateway.connect());
        open.send(Request::get("/any/x").bearer(&ending.key.text).bytes());
        // An answer under way may be cut by the revocation itself.
        let Some(answer) = open.try_read_for("GET").filter(|answer| answer.complete) else {
            client = None;
            continue;
        };
        if answered {
            late += 1;
            assert_eq!(answer.status, 401, "after the revocation was answered");
        }
    }
    late
}

/// So many keys, each made on one node, known on all, revoked on another, under load and with flushes racing.
fn revocations_are_a_fence(rounds: usize) {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let all = ["gw-1", "gw-2", "gw-3"].map(|name| {
        redis
            .node(Setup::usual(&upstream), name)
            .set("store", "flush_interval", r#""100ms""#)
            .start()
    });
    let fresh = |round: usize| {
        Arc::new(Ending {
            key: all[round % 3].key("acme"),
            answered: AtomicBool::new(false),
        })
    };
    let current = Mutex::new(fresh(0));
    let ended = AtomicBool::new(false);
    let late = std::thread::scope(|scope| {
        let (current, ended) = (&current, &ended);
        let asking: Vec<_> = (all.iter())
            .map(|gateway| scope.spawn(move || keep_asking(gateway, current, ended)))
            .collect();
        let over = Over(ended);
        let mut clients: Vec<_> = all.iter().map(Gateway::connect).collect();
        for round in 0..rounds {
            let ending = fresh(round);
            *current.lock().unwrap() = Arc::clone(&ending);
            let request = Request::get("/any/x").bearer(&ending.key.text);
            for client in &mut clients {
                eventually("the key is known", || {
                    (client.exchange(&request).status == 200).then_some(())
                });
            }
            let said = all[(round + 1) % 3].execute(revoke(&ending.key)).unwrap();
            ending.answered.store(true, Ordering::SeqCst);
            let said = said["said"].as_str().unwrap();
            assert!(said.ends_with("in force on 3 of 3 nodes"), "{said}");
            for client in &mut clients {
                assert_eq!(client.exchange(&request).status, 401);
            }
            upstream.forget();
        }
        drop(over);
        let late = asking.into_iter().map(|one| one.join().unwrap());
        late.sum::<usize>()
    });
    assert!(late > rounds, "{late} requests began after an answer");
}

// FA8, CHECK5: a key made on one node works on all, and once a revocation on any of them has been answered it works on none.
#[test]
fn a_revocation_that_was_answered_is_in_force_on_every_node() {
    revocations_are_a_fence(100);
}

// The same a thousand times.
#[test]
#[ignore = "takes a minute or two"]
fn a_thousand_revocations_are_a_fence_over_three_nodes() {
    revocations_are_a_fence(1_000);
}

// The command line's own view: who shares the store, in a table and as JSON, and the exit codes of what cannot be.
#[test]
fn the_nodes_of_a_store_are_listed() {
    if left_out() {
        return;
    }
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let all = nodes(&redis, &upstream);
    all[0].key("acme");
    let run = |setup: &Setup, words: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["store", "nodes"])
            .args(words)
            .arg("--config")
            .arg(setup.write())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let listed = eventually("all have the change in force", || {
        let (code, json, said) = run(&all[0].setup, &["--output", "json"]);
        assert_eq!(code, 0, "{said}");
        let listed: serde_json::Value = serde_json::from_str(&json).unwrap();
        let nodes = listed.as_array().unwrap().clone();
        let done = nodes.iter().filter(|node| node["applied"] == 1).count();
        (done == 3).then_some(nodes)
    });
    let mut names: Vec<&str> = listed
        .iter()
        .map(|node| node["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["gw-1", "gw-2", "gw-3"]);
    for node in &listed {
        assert_eq!(node["id"].as_str().unwrap().len(), 12, "{node}");
        assert!(node["silent_seconds"].as_u64().unwrap() < 10, "{node}");
        assert!(node["serves_until"].as_str().unwrap().starts_with('2'));
        assert_eq!(node["held_up"], false);
    }
    let (code, table, _) = run(&all[0].setup, &[]);
    assert_eq!(code, 0);
    // Not on a terminal: rows without a head, columns apart by tabs.
    assert_eq!(table.lines().count(), 3, "{table}");
    let second = table.lines().find(|line| line.contains("gw-2")).unwrap();
    let columns: Vec<&str> = second.split('\t').collect();
    assert_eq!((columns[1], columns[2]), ("gw-2", "1"), "{table}");
    assert!(columns[3].ends_with(" s") && columns[4].starts_with('2'));
    let alone = Setup::usual(&upstream);
    let (code, out, said) = run(&alone, &[]);
    assert_eq!((code, out.as_str()), (78, ""), "{said}");
    assert!(said.contains("kind = \"redis\""), "{said}");
    redis.kill();
    let (code, out, said) = run(&all[0].setup, &[]);
    assert_eq!((code, out.as_str()), (69, ""), "{said}");
    assert!(said.contains("is away"), "{said}");
}

// The same scenarios that say what the verbs do over a node's own store, unchanged, over one that nodes share. (Old lines of the audit log go by the
// store's clock there, which that scenario cannot move: cluster_failures.rs has its own.)
#[test]
fn what_verbs_promise_holds_over_a_shared_store() {
    if left_out() {
        return;
    }
    let redis = Redis::start();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "key_verbs::",
            "key_lifecycle::",
            "permissions::",
            "tenancy::",
        ])
        .args(["denied_tokens::", "audit::", "environments::"])
        .args(["--skip", "old_lines_go", "--test-threads", "4"])
        .env("PORTCULLIS_OVER_REDIS", format!("127.0.0.1:{}", redis.port))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let passed = said
        .lines()
        .filter(|line| line.ends_with(" ... ok"))
        .count();
    assert!(passed >= 60, "{said}");
    let stores: Vec<String> = redis.ask(&["KEYS", "*:facts"]);
    assert!(stores.len() >= 50, "{} stores", stores.len());
}

// Acts on all nodes at once: none is lost, none is done twice, all end with the same.
#[test]
fn nodes_that_act_at_once_agree() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let all = nodes(&redis, &upstream);
    let keys: Vec<Key> = std::thread::scope(|scope| {
        let acting = all.iter().map(|gateway| {
            scope.spawn(move || (0..10).map(|_| gateway.key("acme")).collect::<Vec<_>>())
        });
        let acting: Vec<_> = acting.collect();
        let made = acting.into_iter().flat_map(|one| one.join().unwrap());
        made.collect()
    });
    assert_eq!(keys.len(), 30);
    for gateway in &all {
        keys.iter().for_each(|key| known(gateway, key));
        let verdict = eventually("the audit log is whole", || {
            let (code, out, _) = gateway.command(&["audit", "verify"]);
            (code == 0 && out.contains("30")).then_some(out)
        });
        assert!(verdict.contains("30"), "{verdict}");
    }
}

// A node that is there but silent is waited for no longer than its lease, and named with the moment until which it may still admit.
#[test]
fn a_silent_node_is_named() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let gateway = node(&redis, &upstream, "gw-1");
    let key = gateway.key("acme");
    let time: (u64, u64) = redis.ask(&["TIME"]);
    let heard = format!("{} 0 86400000 0 gw-9 ", (time.0 - 11) * 1000);
    let _: i64 = redis.ask(&["HSET", "portcullis:nodes", "0123456789ab", &heard]);
    let error = gateway.execute(revoke(&key)).unwrap_err();
    let words = "in force on 1 of 2 nodes; not yet on gw-9 (0123456789ab), silent for 1";
    assert!(error.contains(words), "{error}");
    assert!(error.contains("may still admit until 2"), "{error}");
    assert_eq!(status(&gateway, &key), 401, "here it has ended");
    // What is gone for good is forgotten, and then the same command says that all know.
    let (code, said) = command(&gateway.setup, &["store", "forget", "0123456789ab"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = command(&gateway.setup, &["store", "forget", "0123456789ab"]);
    assert_eq!(code, 1, "{said}");
    let said = gateway.execute(revoke(&key)).unwrap();
    assert!(said["said"].as_str().unwrap().ends_with("1 of 1 nodes"));
}

// DESIGN promise 7: without the store known keys go on, a revocation holds where it was asked for and is not called done, and once the store is
// back, empty, every node's keys are there again and the revocation is everywhere.
#[test]
fn a_store_that_dies_and_comes_back_empty_loses_nothing() {
    if left_out() {
        return;
    }
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let all = nodes(&redis, &upstream);
    let (kept, ended) = (all[0].key("acme"), all[1].key("bravo"));
    for gateway in &all {
        known(gateway, &kept);
        known(gateway, &ended);
    }
    redis.kill();
    for gateway in &all {
        assert_eq!(status(gateway, &kept), 200);
    }
    let error = all[2].execute(revoke(&ended)).unwrap_err();
    assert!(error.contains("in force, not durable"), "{error}");
    assert_eq!(status(&all[2], &ended), 401);
    let (took, refused) = timed(|| all[0].execute(Verb::KeyCreate(new_key("acme"))));
    assert!(refused.unwrap_err().contains("is away"));
    assert!(took < Duration::from_secs(5), "{took:?}");
    redis.restart();
    for gateway in &all {
        eventually("the revocation is everywhere", || {
            (status(gateway, &ended) == 401).then_some(())
        });
        assert_eq!(status(gateway, &kept), 200);
    }
    let late = node(&redis, &upstream, "gw-4");
    known(&late, &kept);
    assert_eq!(status(&late, &ended), 401);
}

// A frozen store holds up no request and no act for ever.
#[test]
fn a_frozen_store_holds_up_nobody() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let gateway = redis
        .node(Setup::usual(&upstream), "gw-1")
        .set("store", "redis_timeout", r#""500ms""#)
        .start();
    let key = gateway.key("acme");
    redis.freeze();
    let (took, _) = timed(|| {
        for _ in 0..20 {
            assert_eq!(status(&gateway, &key), 200);
        }
    });
    let (acting, error) = timed(|| gateway.execute(revoke(&key)).unwrap_err());
    redis.thaw();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(acting < Duration::from_secs(8), "{acting:?}");
    assert!(error.contains("in force, not durable"), "{error}");
    assert_eq!(status(&gateway, &key), 401);
    let late = node(&redis, &upstream, "gw-2");
    eventually("the revocation is in the store", || {
        (status(&late, &key) == 401).then_some(())
    });
}

// A node starts with its copy where the store is away, and without one it does not start.
#[test]
fn a_node_starts_with_its_copy() {
    if left_out() {
        return;
    }
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let gateway = node(&redis, &upstream, "gw-1");
    let key = gateway.key("acme");
    redis.kill();
    let gateway = gateway.restart();
    assert_eq!(status(&gateway, &key), 200);
    let other = redis.node(Setup::usual(&upstream), "gw-2");
    let error = other
        .try_start(&portcullis::clock::Clock::movable())
        .unwrap_err();
    assert!(error.contains("has no copy of it yet"), "{error}");
}

// PB14, `max_stale`: after ten seconds nobody can say that a key is unknown; after max_stale no key counts.
#[test]
fn a_view_that_is_too_old_admits_nobody() {
    if left_out() {
        return;
    }
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let gateway = redis
        .node(Setup::usual(&upstream), "gw-1")
        .set("store", "max_stale", r#""1h""#)
        .start();
    let key = gateway.key("acme");
    let unknown = Key {
        id: String::new(),
        text: "sk-somebody-elses".to_owned(),
    };
    assert_eq!(status(&gateway, &unknown), 401);
    redis.kill();
    gateway.advance(Duration::from_secs(20));
    eventually("an unknown key may be known elsewhere", || {
        (status(&gateway, &unknown) == 503).then_some(())
    });
    assert_eq!(status(&gateway, &key), 200);
    gateway.advance(Duration::from_secs(3_600));
    eventually("no key counts", || {
        (status(&gateway, &key) == 503).then_some(())
    });
    redis.restart();
    eventually("the store is heard again", || {
        (status(&gateway, &key) == 200).then_some(())
    });
    assert_eq!(status(&gateway, &unknown), 401);
}

// A server that would drop keys when its memory is full is refused at the start.
#[test]
fn a_server_that_may_drop_keys_is_refused() {
    if left_out() {
        return;
    }
    let upstream = Upstream::start();
    let redis = Redis::start_with(&["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"]);
    let setup = redis.node(Setup::usual(&upstream), "gw-1");
    let error = setup
        .try_start(&portcullis::clock::Clock::movable())
        .unwrap_err();
    assert!(error.contains("maxmemory-policy is allkeys-lru"), "{error}");
}

// A directory that was a store of its own is neither emptied nor mixed with another's keys; a copy is no store of its own.
#[test]
fn a_store_of_ones_own_is_never_mixed_with_the_shared_one() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let clock = portcullis::clock::Clock::movable();
    let setup = Setup::usual(&upstream);
    let alone = setup.clone().start();
    alone.key("acme");
    alone.stop();
    let error = redis.node(setup, "gw-1").try_start(&clock).unwrap_err();
    assert!(error.contains("store migrate"), "{error}");
    let setup = Setup::usual(&upstream);
    redis.node(setup.clone(), "gw-1").start().stop();
    let error = setup.try_start(&clock).unwrap_err();
    assert!(error.contains("is a copy of a store"), "{error}");
}

// A failover that loses a revocation: no node that knows it forgets it, and the new primary is told again.
#[test]
fn a_failover_that_loses_a_revocation_is_healed() {
    if left_out() {
        return;
    }
    let upstream = Upstream::start();
    let mut primary = Redis::start();
    let replica = Redis::replica_of(&primary);
    let sentinel = Redis::sentinel_of(&primary);
    eventually("the Sentinel knows the replica", || {
        let known: Vec<redis::Value> = sentinel.ask(&["SENTINEL", "replicas", "portcullis"]);
        (!known.is_empty()).then_some(())
    });
    let start = |name| {
        sentinel
            .node(Setup::usual(&upstream), name)
            .set("store", "redis_sentinel", r#""portcullis""#)
            .start()
    };
    let all = [start("gw-1"), start("gw-2")];
    let (kept, ended) = (all[0].key("acme"), all[0].key("acme"));
    all.iter().for_each(|gateway| known(gateway, &ended));
    eventually("the replica has both keys", || {
        let seq: Option<String> = replica.ask(&["HGET", "portcullis:facts", "seq"]);
        (seq.as_deref() == Some("2")).then_some(())
    });
    // Cut off before the revocation: what is on its way to a frozen process would still arrive.
    replica.freeze();
    let _: i64 = primary.ask(&["CLIENT", "KILL", "TYPE", "replica"]);
    all[1].execute(revoke(&ended)).unwrap();
    let late = all[0].key("bravo");
    primary.kill();
    replica.thaw();
    let promoted = ("127.0.0.1".to_owned(), replica.port);
    eventually("the replica is promoted", || {
        let ask = ["SENTINEL", "get-master-addr-by-name", "portcullis"];
        let primary: (String, u16) = sentinel.ask(&ask);
        (primary == promoted).then_some(())
    });
    eventually("the replica is healed", || {
        let seq: Option<String> = replica.ask(&["HGET", "portcullis:facts", "seq"]);
        (seq.as_deref() == Some("4")).then_some(())
    });
    for gateway in &all {
        assert_eq!(status(gateway, &ended), 401);
        assert_eq!(status(gateway, &kept), 200);
    }
    let third = start("gw-3");
    assert_eq!(status(&third, &ended), 401);
    known(&third, &late);
}

/// How many of `tries` requests, spread over these nodes from as many threads, were admitted; and that none got anything but 200 and 429.
fn admitted(all: &[Gateway], key: &Key, tries: usize) -> usize {
    let counts = std::thread::scope(|scope| {
        let asking = (0..8).map(|thread| {
            scope.spawn(move || {
                let own = (thread..tries).step_by(8);
                own.filter(|index| match status(&all[index % all.len()], key) {
                    200 => true,
                    429 => false,
                    other => panic!("{other}"),
                })
                .count()
            })
        });
        let asking: Vec<_> = asking.collect();
        let counts: Vec<usize> = asking.into_iter().map(|one| one.join().unwrap()).collect();
        counts
    });
    counts.iter().sum()
}

fn limited(redis: &Redis, upstream: &Upstream, quota: &str, burst: &str) -> Vec<Gateway> {
    let node = |name| {
        redis
            .node(Setup::limited(upstream, quota, burst), name)
            .start()
    };
    ["gw-1", "gw-2", "gw-3"].map(node).into()
}

// CHECK11, DESIGN promise 2: three nodes, exactly N, and the same numbers on each.
#[test]
fn three_nodes_admit_exactly_the_limit() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    for (quota, burst, limit) in [
        ("100/hour", "unlimited", 100),
        ("unlimited", "20/min", 20),
        ("100/hour", "20/min", 20),
    ] {
        let all = limited(&redis, &upstream, quota, burst);
        let key = all[0].key("acme");
        all.iter().for_each(|gateway| heard_of(gateway, &key));
        upstream.forget();
        assert_eq!(admitted(&all, &key, 3 * limit + 20), limit);
        assert_eq!(upstream.hits(), limit);
        let seen: Vec<(String, String)> = all
            .iter()
            .map(|gateway| {
                let answer = gateway.get("/any/x", &key);
                assert_eq!(answer.status, 429);
                let header = |name: &str| answer.all(name).join(",");
                (header("x-ratelimit-remaining"), header("x-ratelimit-reset"))
            })
            .collect();
        assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
    }
}

// A server that comes back with nothing is told by the nodes what they have admitted, before it admits any more.
#[test]
fn counts_outlive_the_server_that_kept_them() {
    if left_out() {
        return;
    }
    // The quota is what ends it the first time, the burst the second.
    for (quota, burst) in [("50/hour", "80/min"), ("80/hour", "50/min")] {
        let (mut redis, upstream) = (Redis::start(), Upstream::start());
        let all = limited(&redis, &upstream, quota, burst);
        let key = all[0].key("acme");
        all.iter().for_each(|gateway| heard_of(gateway, &key));
        assert_eq!(admitted(&all, &key, 30), 30);
        redis.restart();
        eventually("all nodes have said what they admitted", || {
            let counts: Vec<String> = redis.ask(&["ZRANGE", &burst_log(&key), "0", "-1"]);
            let nodes = counts.iter().filter_map(|count| count.split(':').nth(1));
            (nodes.collect::<BTreeSet<_>>().len() == 3).then_some(())
        });
        assert_eq!(admitted(&all, &key, 90), 20, "{quota} {burst}: 30 are used");
    }
}

fn burst_log(key: &Key) -> String {
    format!("portcullis:lb:k:{}", key.id.trim_start_matches("key_"))
}

// CHECK11: the store dies between two bursts. Each node goes on with its share: no 5xx, no 401, never more than its share on any node.
#[test]
fn without_the_store_each_node_has_its_share() {
    if left_out() {
        return;
    }
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let all = limited(&redis, &upstream, "90/hour", "unlimited");
    let key = all[0].key("acme");
    all.iter().for_each(|gateway| heard_of(gateway, &key));
    assert_eq!(admitted(&all, &key, 30), 30, "ten on each node");
    for gateway in &all {
        eventually("it knows how many they are", || {
            let (_, status, _) = gateway.command(&["status", "--output", "json"]);
            let status: serde_json::Value = serde_json::from_str(&status).ok()?;
            (status["shared_store"]["nodes"] == 3).then_some(())
        });
    }
    redis.kill();
    assert_eq!(admitted(&all, &key, 240), 60, "thirty on each node in all");
    redis.restart();
    eventually("the counts are shared again", || {
        let used: Vec<u64> = redis.ask(&["HVALS", &quota_window(&key)]);
        (used.iter().filter(|used| **used == 30).count() == 3).then_some(())
    });
    assert_eq!(admitted(&all, &key, 60), 0);
}

fn quota_window(key: &Key) -> String {
    format!("portcullis:lq:k:{}", key.id.trim_start_matches("key_"))
}

// `limits_outage = "deny"`: without the store nobody can say, and what has a limit gets 503; what has none goes on.
#[test]
fn without_the_store_limited_requests_may_be_denied() {
    if left_out() {
        return;
    }
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let gateway = redis
        .node(Setup::limited(&upstream, "90/hour", "unlimited"), "gw-1")
        .set("store", "limits_outage", r#""deny""#)
        .start();
    let (limited, free) = (gateway.key("acme"), gateway.key("bravo"));
    assert_eq!(status(&gateway, &limited), 200);
    redis.kill();
    let answer = gateway.get("/any/x", &limited);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("not_recorded"), "{}", answer.text());
    assert_eq!(status(&gateway, &free), 200);
    redis.restart();
    eventually("the store is heard again", || {
        (status(&gateway, &limited) == 200).then_some(())
    });
}

// FA26: a Retry-After of shared counters is true, as one of a node's own.
#[test]
fn retry_after_is_true_across_nodes() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start_with_clock(), Upstream::start());
    let all = limited(&redis, &upstream, "unlimited", "3/30s");
    let key = all[0].key("acme");
    all.iter().for_each(|gateway| heard_of(gateway, &key));
    assert_eq!(admitted(&all, &key, 9), 3);
    let answer = all[1].get("/any/x", &key);
    assert_eq!(answer.status, 429);
    let wait = answer.number("retry-after");
    assert!((1..=30).contains(&wait), "{wait}");
    redis.set_clock_by(wait as i64);
    for gateway in &all {
        gateway.advance(Duration::from_secs(wait));
    }
    assert_eq!(status(&all[2], &key), 200);
}

// TLS, an ACL user and a prefix: keys and limits work, and without the right password or authority the start says why.
#[test]
fn a_server_with_tls_and_an_acl_user_is_used() {
    if left_out() {
        return;
    }
    let upstream = Upstream::start();
    let setup = Setup::limited(&upstream, "5/hour", "unlimited");
    let directory = setup.directory().to_owned();
    let at = |name: &str| directory.join(name);
    std::fs::write(at("ca.pem"), &authority().pem).unwrap();
    let redis = Redis::start_tls(&at("cert.pem"), &at("cert.key"), &at("ca.pem"));
    std::fs::write(directory.join("redis.password"), "open sesame\n").unwrap();
    let setup = redis
        .node(setup, "gw-1")
        .set("store", "redis_tls", "true")
        .set("store", "redis_ca", r#""ca.pem""#)
        .set("store", "redis_user", r#""gateway""#)
        .set("store", "redis_prefix", r#""pc:live""#)
        .set("store", "redis_password", r#""file:redis.password""#);
    let clock = portcullis::clock::Clock::movable();
    for (name, value, words) in [
        ("redis_tls", "false", "away"),
        ("redis_ca", r#""""#, "away"),
        ("redis_user", r#""somebody""#, "authentication failed"),
    ] {
        let wrong = setup.clone().set("store", name, value);
        let wrong = match name {
            "redis_tls" => wrong.unset("store", "redis_ca"),
            _ => wrong,
        };
        let error = wrong.try_start(&clock).err().unwrap_or_default();
        assert!(error.contains(words), "{name}: {error}");
        assert!(!error.contains("sesame"), "{error}");
    }
    let gateway = setup.start();
    let key = gateway.key("acme");
    assert_eq!((0..8).filter(|_| status(&gateway, &key) == 200).count(), 5);
}

/// What the real command line says without a gateway, in the directory of this setup.
fn command(setup: &Setup, words: &[&str]) -> (i32, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(words)
        .arg("--config")
        .arg(setup.write())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

// Sentinels that ask for a password get their own, and never the primary's; without it, or with another, the start says why and repeats none.
#[test]
fn a_sentinel_with_a_user_and_a_password_is_used() {
    if left_out() {
        return;
    }
    let (primary, upstream) = (Redis::start(), Upstream::start());
    let lines = "user default off\nuser watcher on >sesame-of-sentinel -@all +sentinel|get-master-addr-by-name\n";
    let sentinel = Redis::sentinel_with(&primary, lines);
    let setup = Setup::limited(&upstream, "5/hour", "unlimited");
    let secret = |name: &str, text: &str| {
        std::fs::write(setup.directory().join(name), text).unwrap();
    };
    secret("right", "sesame-of-sentinel\n");
    secret("wrong", "sesame-of-somebody\n");
    let bare =
        sentinel
            .node(setup.clone(), "gw-1")
            .set("store", "redis_sentinel", r#""portcullis""#);
    let with = |user: &str, file: &str| {
        bare.clone()
            .set("store", "redis_sentinel_user", &format!("{user:?}"))
            .set("store", "redis_sentinel_password", &format!("{file:?}"))
    };
    let clock = portcullis::clock::Clock::movable();
    for (wrong, words) in [
        (bare.clone(), "NOAUTH"),
        (with("watcher", "file:wrong"), "authentication failed"),
        (with("somebody", "file:right"), "authentication failed"),
        (with("watcher", "file:none"), "redis_sentinel_password: "),
    ] {
        let error = wrong.try_start(&clock).err().unwrap_or_default();
        assert!(error.contains(words), "{words}: {error}");
        assert!(!error.contains("sesame"), "{error}");
    }
    let gateway = with("watcher", "file:right").start();
    let key = gateway.key("acme");
    assert_eq!((0..8).filter(|_| status(&gateway, &key) == 200).count(), 5);
}

// A command without a gateway, right after the store was emptied: it fills the store, and cannot know which nodes there are before one has spoken. It never
// says "0 of 0 nodes" then, but that it does not know (exit 69); and once a node has spoken, how many there are.
#[test]
fn an_emptied_store_does_not_count_as_one_without_nodes() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let relay = Relay::to(redis.port);
    let far = relay.node(Setup::usual(&upstream), "gw-1").start();
    let key = far.key("acme");
    let near = node(&redis, &upstream, "gw-2");
    known(&near, &key);
    let setup = near.setup.clone();
    near.stop();
    // Or it would tell of one that has left.
    knows_nodes(&far, 1);
    relay.freeze();
    let _: () = redis.ask(&["FLUSHALL"]);
    let words = ["keys", "revoke", &key.id, "--yes"];
    let (code, said) = command(&setup, &words);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("has heard of no node since"), "{said}");
    assert_eq!(status(&far, &key), 200, "it cannot know");
    relay.thaw();
    eventually("the revocation is heard of", || {
        (status(&far, &key) == 401).then_some(())
    });
    let (code, said) = command(&setup, &words);
    assert_eq!(code, 0, "{said}");
    // With nobody there, and a store that knows it, it is everywhere.
    far.stop();
    let (code, said) = command(&setup, &words);
    assert_eq!(code, 0, "{said}");
}

// Moving up and down: the same keys work on the way, windows go on where they were, and what would mix or lose is refused.
#[test]
fn a_node_of_its_own_moves_to_a_shared_store_and_back() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let alone = Setup::limited(&upstream, "10/hour", "unlimited");
    let gateway = alone.clone().start();
    let (key, ended) = (gateway.key("acme"), gateway.key("acme"));
    gateway.revoke(&ended);
    assert_eq!((0..4).filter(|_| status(&gateway, &key) == 200).count(), 4);
    let shared = redis.node(alone.clone(), "gw-1");
    let up = ["store", "migrate", "--from", "sqlite", "--to", "redis"];
    let (code, said) = command(&alone, &up);
    assert_eq!(code, 78, "no redis_servers: {said}");
    let (code, said) = command(&shared, &up);
    assert_eq!(code, 69, "a gateway runs on it: {said}");
    gateway.stop();
    let (code, said) = command(&shared, &up);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("each read back and compared"), "{said}");
    let (code, said) = command(&shared, &up);
    assert_eq!(code, 78, "twice: {said}");
    let first = shared.clone().start();
    let second = redis
        .node(Setup::limited(&upstream, "10/hour", "unlimited"), "gw-2")
        .start();
    let all = [first, second];
    assert_eq!(admitted(&all, &key, 20), 6, "four were used before");
    all.iter()
        .for_each(|node| assert_eq!(status(node, &ended), 401));
    let late = all[1].key("bravo");
    drop(all);
    let down = ["store", "migrate", "--from", "redis", "--to", "sqlite"];
    let (code, said) = command(&shared, &down);
    assert_eq!(code, 0, "{said}");
    let gateway = alone.start();
    assert_eq!(status(&gateway, &late), 200);
    assert_eq!(status(&gateway, &ended), 401);
}

// The example that README names: started, shown and stopped by one command.
#[test]
fn the_example_of_a_cluster_holds() {
    if left_out()
        || crate::support::real::left_out("haproxy")
        || crate::support::real::left_out("curl")
    {
        return;
    }
    let output = std::process::Command::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/cluster/check"
    ))
    .env("PORTCULLIS", env!("CARGO_BIN_EXE_portcullis"))
    .output()
    .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.starts_with("held: ") && said.lines().count() == 1,
        "{said}"
    );
}
