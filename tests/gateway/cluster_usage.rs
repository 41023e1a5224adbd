//! Several nodes, one report: what each did adds up on any of them, whatever becomes of the store and of the nodes, and a use on one is known to all.

use std::time::Duration;

use portcullis::clock::Clock;
use serde_json::Value;

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
use crate::support::site::errors;
use crate::support::upstream::Upstream;
use crate::support::upstream::status;

/// Clears away what a tenant's keys have not been used for.
const REVOKE_UNUSED: [&str; 7] = [
    "keys",
    "revoke",
    "--tenant",
    "acme",
    "--unused-since",
    "30d",
    "--yes",
];

fn nodes(redis: &Redis, upstream: &Upstream) -> [Gateway; 3] {
    ["gw-1", "gw-2", "gw-3"].map(|name| redis.node(Setup::usual(upstream), name).start())
}

fn call(gateway: &Gateway, key: &Key, path: &str, times: usize, expected: u16) {
    let mut client: Http1 = gateway.connect();
    for _ in 0..times {
        let answer = client.exchange(&Request::get(path).bearer(&key.text));
        answer.expect(expected);
    }
}

/// What this node says of usage now, and what it says beside it.
#[track_caller]
fn said(gateway: &Gateway, words: &[&str]) -> (Value, String) {
    let words = [&["usage"], words, &["--output", "json"]].concat();
    let (code, out, err) = gateway.command(&words);
    assert_eq!(code, 0, "{err}");
    (serde_json::from_str(&out).unwrap(), err)
}

/// The same once so many requests are in it.
#[track_caller]
fn usage(gateway: &Gateway, words: &[&str], requests: u64) -> Value {
    eventually("the requests are told of", || {
        let (said, _) = said(gateway, words);
        let told = &said["total"]["requests"];
        assert!(told.as_u64().unwrap() <= requests, "{said:#}");
        (*told == requests).then_some(said)
    })
}

fn names(said: &Value) -> Vec<&str> {
    let nodes = said["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let mut names: Vec<&str> = (nodes.iter())
        .map(|node| node["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// Whether this node's list of keys that were not used for a month has this one.
#[track_caller]
fn is_unused(gateway: &Gateway, key: &Key) -> bool {
    let (code, out, err) = gateway.command(&["keys", "list", "--unused-since", "30d"]);
    assert_eq!(code, 0, "{err}");
    out.contains(&key.id)
}

// FA32, FF14 over nodes: any of them says what all did, of all keys, of one, of a tenant, by key and by the hour; none twice, also when a node was stopped or
// started again.
#[test]
fn what_each_node_did_adds_up_on_every_node() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    upstream.answer("/any/broken", status(500, &[], "no"));
    let [one, two, three] = nodes(&redis, &upstream);
    let (key, other) = (one.key("acme"), one.key("bravo"));
    for gateway in [&one, &two, &three] {
        heard_of(gateway, &key);
        heard_of(gateway, &other);
    }
    call(&one, &key, "/any/x", 3, 200);
    call(&two, &key, "/any/x", 5, 200);
    call(&two, &key, "/any/broken", 1, 500);
    call(&three, &key, "/any/x", 7, 200);
    call(&three, &other, "/any/x", 2, 200);
    let all = |gateway: &Gateway| {
        let all = usage(gateway, &[], 18);
        let keys = all["keys"].as_array().unwrap();
        let of = |key: &Key| {
            let of = keys.iter().find(|of| of["key_id"] == key.id.as_str());
            of.unwrap()["requests"].as_u64().unwrap()
        };
        assert_eq!((keys.len(), of(&key), of(&other)), (2, 16, 2));
        let hours = all["hours"].as_array().unwrap();
        let in_hours = hours.iter().map(|hour| hour["requests"].as_u64().unwrap());
        assert_eq!(in_hours.sum::<u64>(), 18);
        let single = usage(gateway, &[&key.id], 16);
        assert_eq!(single["total"]["server_error"], 1);
        assert_eq!(single["total"]["success"], 15);
        let tenant = usage(gateway, &["--tenant", "bravo"], 2);
        assert_eq!(tenant["keys"][0]["key_id"], other.id.as_str());
        let (code, csv, _) = gateway.command(&["usage", "--tenant", "acme", "--csv"]);
        assert_eq!(code, 0);
        assert!(csv.contains(",16,15,0,1,0,"), "{csv}");
        all
    };
    for gateway in [&one, &two, &three] {
        assert_eq!(names(&all(gateway)), ["gw-1", "gw-2", "gw-3"]);
    }
    // The same by the page, over the API; a tenant's own token is told no name.
    let token = |words: &[&str]| {
        let words = [&["admin-tokens", "create", "--name", "ops"], words].concat();
        let (code, token, err) = one.command(&words);
        assert_eq!(code, 0, "{err}");
        token.trim().to_owned()
    };
    let ask = |path: &str, token: &str| {
        let request = Request::get(path).header("Connection", "close");
        Http1::plain(one.admin()).exchange(&request.bearer(token))
    };
    let full = token(&["--role", "read-only"]);
    let first = ask("/v1/usage?limit=1", &full).json();
    assert_eq!(first["total"]["requests"], 18);
    let after = first["next"].as_str().unwrap();
    let second = ask(&format!("/v1/usage?limit=1&after={after}"), &full).json();
    let sum = |page: &Value| page["keys"][0]["requests"].as_u64().unwrap();
    assert_eq!(sum(&first) + sum(&second), 18);
    assert_eq!(second["next"], Value::Null);
    let own = ask("/v1/usage", &token(&["--tenant", "bravo"]));
    assert_eq!(own.json()["total"]["requests"], 2);
    assert!(!own.text().contains("gw-"), "{}", own.text());
    // One tells the rest when it stops, and another counts on where it was.
    call(&three, &other, "/any/x", 1, 200);
    three.stop();
    let two = two.restart();
    for gateway in [&one, &two] {
        let all = usage(gateway, &[], 19);
        assert_eq!(names(&all), ["gw-1", "gw-2", "gw-3"]);
        let lacking = |node: &Value| node["may_lack"] == true;
        assert!(!all["nodes"].as_array().unwrap().iter().any(lacking));
    }
    call(&two, &key, "/any/x", 4, 200);
    usage(&one, &[&key.id], 20);
}

// CHECK11: without the store a report is this node's alone and says so; what goes by other nodes' uses is refused; a store that comes back empty is told
// again what each did.
#[test]
fn a_store_that_is_away_or_emptied_costs_no_usage() {
    if left_out() {
        return;
    }
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let [one, two, three] = nodes(&redis, &upstream);
    let key = one.key("acme");
    for (gateway, times) in [(&one, 3), (&two, 4), (&three, 5)] {
        heard_of(gateway, &key);
        call(gateway, &key, "/any/x", times, 200);
    }
    usage(&one, &[], 12);
    redis.kill();
    call(&two, &key, "/any/x", 2, 200);
    let (alone, words) = said(&one, &[]);
    assert_eq!(alone["total"]["requests"], 3);
    assert!(words.contains("of this node alone"), "{words}");
    assert!(alone["others_missing"].as_str().unwrap().contains("away"));
    let list = ["keys", "list", "--unused-since", "30d"];
    let revoke = [
        "keys",
        "revoke",
        "--tenant",
        "acme",
        "--unused-since",
        "1s",
        "--yes",
    ];
    for words in [&list[..], &revoke] {
        let (code, _, said) = one.command(words);
        assert_eq!(code, 69, "{said}");
    }
    assert_eq!(one.command(&["keys", "list"]).0, 0);
    redis.restart();
    for gateway in [&one, &two, &three] {
        let all = usage(gateway, &[&key.id], 14);
        assert_eq!(all["others_missing"], Value::Null);
    }
    // Not before all have said so: another node may hear of these at once.
    for gateway in [&one, &two, &three] {
        assert_eq!(gateway.get("/any/x", &key).status, 200);
    }
    usage(&one, &[], 17);
    assert!(!is_unused(&one, &key));
}

// A node of which nothing is heard is named with when it told last; what it told stays, and once it is back the rest comes. Once it is forgotten, nobody waits.
#[test]
fn a_node_that_tells_nothing_is_named() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start_with_clock(), Upstream::start());
    let relay = Relay::to(redis.port);
    let near = redis.node(Setup::usual(&upstream), "gw-1").start();
    let far = relay.node(Setup::usual(&upstream), "gw-2").start();
    let key = near.key("acme");
    heard_of(&far, &key);
    call(&far, &key, "/any/x", 3, 200);
    usage(&near, &[], 3);
    relay.freeze();
    call(&far, &key, "/any/x", 2, 200);
    redis.set_clock_by(120);
    let named = || {
        let (all, words) = said(&near, &[]);
        let nodes = all["nodes"].as_array().unwrap();
        let late = nodes.iter().find(|node| node["name"] == "gw-2").unwrap();
        assert_eq!(all["total"]["requests"], 3);
        (late["may_lack"] == true).then(|| (late["id"].as_str().unwrap().to_owned(), words))
    };
    let (id, words) = eventually("it is said", named);
    let expected = format!("gw-2 ({id}) told last at ");
    assert!(words.contains(&expected), "{words}");
    relay.thaw();
    usage(&near, &[], 5);
    eventually("it is not said", || {
        named_late(&near).is_none().then_some(())
    });
    relay.freeze();
    redis.set_clock_by(240);
    eventually("it is said again", || named_late(&near));
    let toml = near.directory().join("gateway.toml");
    let forgotten = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["store", "forget", &id, "--config"])
        .arg(toml)
        .output()
        .unwrap();
    assert!(forgotten.status.success(), "{forgotten:?}");
    assert_eq!(named_late(&near), None);
    assert_eq!(said(&near, &[]).0["total"]["requests"], 5);
}

/// What the command line says of nodes that may not have told all.
fn named_late(gateway: &Gateway) -> Option<String> {
    let (_, words) = said(gateway, &[]);
    words.contains("told last at").then_some(words)
}

// A key that is used on one node alone is unused on none: who clears away by use must know.
#[test]
fn a_use_on_another_node_is_a_use() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let [one, two, three] = nodes(&redis, &upstream);
    let (key, idle) = (one.key("acme"), one.key("acme"));
    for gateway in [&one, &two, &three] {
        gateway.advance(Duration::from_secs(31 * 86_400));
        heard_of(gateway, &idle);
        eventually("the store is heard", || {
            (gateway.metric("portcullis_shared_store_silence_seconds") < 5).then_some(())
        });
    }
    assert!(is_unused(&one, &key) && is_unused(&one, &idle));
    call(&two, &key, "/any/x", 1, 200);
    eventually("the use is known", || {
        (!is_unused(&one, &key)).then_some(())
    });
    assert!(is_unused(&one, &idle));
    let (code, shown, _) = one.command(&["keys", "show", &key.id, "--output", "json"]);
    assert_eq!(code, 0);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert!(shown["last_used_at"].is_string(), "{shown:#}");
    let (code, _, said) = three.command(&REVOKE_UNUSED);
    assert_eq!(code, 0, "{said}");
    call(&one, &key, "/any/x", 1, 200);
    call(&one, &idle, "/any/x", 1, 401);
}

// The same without nodes and without a gateway: what clears away by use goes by what was counted, also where a command does it by itself.
#[test]
fn keys_in_use_outlive_a_command_without_a_gateway() {
    let upstream = Upstream::start();
    let clock = Clock::movable();
    clock.set_wall_by(-40 * 86_400);
    let gateway = Setup::usual(&upstream).start_at(clock.clone());
    let (key, idle) = (gateway.key("acme"), gateway.key("acme"));
    clock.set_wall_by(40 * 86_400);
    call(&gateway, &key, "/any/x", 1, 200);
    let setup = gateway.setup.clone();
    gateway.stop();
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(REVOKE_UNUSED)
        .arg("--config")
        .arg(setup.directory().join("gateway.toml"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let gateway = setup.start();
    call(&gateway, &key, "/any/x", 1, 200);
    call(&gateway, &idle, "/any/x", 1, 401);
}

// A directory that was copied tells nobody's usage twice: what the copy had counted is the other's, and lies beside.
#[test]
fn a_copied_directory_counts_nothing_twice() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let first = redis.node(Setup::usual(&upstream), "gw-1").start();
    let key = first.key("acme");
    call(&first, &key, "/any/x", 4, 200);
    usage(&first, &[], 4);
    let (original, copy) = (first.setup.clone(), Setup::usual(&upstream));
    first.stop();
    std::fs::create_dir(copy.directory().join("state")).unwrap();
    for file in std::fs::read_dir(original.directory().join("state")).unwrap() {
        let file = file.unwrap();
        let to = copy.directory().join("state").join(file.file_name());
        std::fs::copy(file.path(), to).unwrap();
    }
    let first = original.start();
    let second = redis.node(copy, "gw-2").start();
    for gateway in [&first, &second] {
        knows_nodes(gateway, 2);
        heard_of(gateway, &key);
    }
    call(&second, &key, "/any/x", 2, 200);
    call(&first, &key, "/any/x", 1, 200);
    for gateway in [&first, &second] {
        let all = usage(gateway, &[], 7);
        assert_eq!(names(&all), ["gw-1", "gw-2"]);
    }
}

// The same where both start while the store is away, and nobody can tell: once it is back both find the same one of them to give way. That one says so, and
// has an id of its own after a restart; meanwhile a revocation waits for both.
#[test]
fn one_of_two_with_one_id_gives_way_when_the_store_is_back() {
    if left_out() {
        return;
    }
    let (mut redis, upstream) = (Redis::start(), Upstream::start());
    let sites = ["gw-1", "gw-2"].map(|name| Site::of(redis.node(Setup::usual(&upstream), name)));
    let running = sites[0].start();
    let (text, id) = sites[0].key_and_id();
    for _ in 0..4 {
        sites[0].get(&text).expect(200);
    }
    sites[0].told(&["usage", &id]);
    drop(running);
    let [from, to] = [&sites[0], &sites[1]].map(|site| site.setup.directory().join("state"));
    std::fs::create_dir_all(&to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    redis.kill();
    let mut running: Vec<_> = sites.iter().map(|site| Some(site.start())).collect();
    redis.restart();
    let gives_way = |site: &Site| site.stderr().contains("this node gives way");
    eventually("both are there", || {
        let there: Vec<String> = redis.ask(&["HKEYS", "portcullis:nodes"]);
        (there.len() == 2).then_some(())
    });
    eventually("one gives way", || {
        sites.iter().any(gives_way).then_some(())
    });
    for site in &sites {
        eventually("both say that there are two", || {
            site.stderr()
                .contains("runs under this node's id")
                .then_some(())
        });
    }
    let ids = || -> Vec<String> {
        let fields: Vec<String> = redis.ask(&["HKEYS", "portcullis:nodes"]);
        let ids = fields.iter().filter_map(|field| field.split('.').next());
        ids.map(str::to_owned).collect()
    };
    let both = ids();
    assert_eq!((both.len(), &both[0]), (2, &both[1]));
    let other = sites[0].key_and_id().1;
    let revoked = sites[1].command(&["keys", "revoke", &other, "--yes"]);
    assert!(
        errors(&revoked).contains("in force on 2 of 2 nodes"),
        "{revoked:?}"
    );
    let late = sites.iter().position(gives_way).unwrap();
    assert!(!gives_way(&sites[1 - late]), "one is enough");
    drop(running[late].take());
    running[late] = Some(sites[late].start());
    for site in &sites {
        site.get(&text).expect(200);
    }
    let all = || {
        let told = sites[0].command(&["usage", &id, "--output", "json"]);
        let said: Value = serde_json::from_slice(&told.stdout).unwrap();
        said["total"]["requests"].as_u64().unwrap()
    };
    eventually("each use is counted once", || (all() == 6).then_some(()));
    let known = |id: &String| ids().contains(id);
    assert!(known(&both[0]) && ids().iter().any(|id| *id != both[0]));
}

// A store that is far away, 200 ms a trip, is told as often as one that is near: how long a node rests between two tellings goes by the work of telling,
// and not by what it waits for.
#[test]
fn a_slow_store_is_told_as_often() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let relay = Relay::to(redis.port);
    let near = redis.node(Setup::usual(&upstream), "gw-1").start();
    let far = relay.node(Setup::usual(&upstream), "gw-2").start();
    let key = near.key("acme");
    heard_of(&far, &key);
    relay.slow(Duration::from_millis(200));
    for requests in 1..=2 {
        call(&far, &key, "/any/x", 1, 200);
        usage(&near, &[], requests);
    }
}

// kill -9: what the run before had flushed and not told is told by the next; nothing is told twice, and a counter file that begins anew takes nothing back.
#[test]
fn what_a_killed_node_had_counted_is_told_by_its_next_run() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let near = redis.node(Setup::usual(&upstream), "gw-1").start();
    let site = Site::of(redis.node(Setup::usual(&upstream), "gw-2"));
    let running = site.start();
    let (text, id) = site.key_and_id();
    for _ in 0..6 {
        site.get(&text).expect(200);
    }
    // A report has this node flush; nobody waits until it has told.
    site.told(&["usage", &id]);
    drop(running);
    let running = site.start();
    usage(&near, &[&id], 6);
    drop(running);
    for end in ["", "-wal", "-shm"] {
        let file = format!("state/counters.db{end}");
        let _ = std::fs::remove_file(site.setup.directory().join(file));
    }
    let _running = site.start();
    for _ in 0..3 {
        site.get(&text).expect(200);
    }
    usage(&near, &[&id], 9);
    let told = site.command(&["usage", &id, "--output", "json"]);
    let own: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(own["total"]["requests"], 9, "{}", errors(&told));
}

// `share_usage = false`: nothing is told, and nothing is asked.
#[test]
fn usage_may_stay_each_nodes_own() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let node = |name: &str| {
        let setup = redis.node(Setup::usual(&upstream), name);
        setup.set("store", "share_usage", "false").start()
    };
    let (one, two) = (node("gw-1"), node("gw-2"));
    let key = one.key("acme");
    heard_of(&two, &key);
    call(&one, &key, "/any/x", 2, 200);
    call(&two, &key, "/any/x", 3, 200);
    assert_eq!(names(&usage(&one, &[], 2)), [""; 0]);
    usage(&two, &[], 3);
    let (two, one) = (two.restart(), one.restart());
    usage(&one, &[], 2);
    usage(&two, &[], 3);
    let told: Vec<String> = redis.ask(&["KEYS", "portcullis:use*"]);
    assert_eq!(told, [""; 0]);
}
