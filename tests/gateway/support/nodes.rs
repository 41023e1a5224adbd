//! Several gateways over one store, and many requests to all of them.

use std::net::SocketAddr;

use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::redis::Redis;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

/// Three of them with these limits.
pub fn nodes(redis: &Redis, upstream: &Upstream, quota: &str, burst: &str) -> [Gateway; 3] {
    ["gw-1", "gw-2", "gw-3"].map(|name| {
        let setup = Setup::limited(upstream, quota, burst);
        redis.node(setup, name).start()
    })
}

/// Waits until the key is in force on this node, without a request that would be charged.
#[track_caller]
pub fn heard_of(gateway: &Gateway, key: &Key) {
    eventually("the key is known", || {
        (gateway.command(&["keys", "show", &key.id]).0 == 0).then_some(())
    });
}

/// Waits until this node knows that so many share the store.
#[track_caller]
pub fn knows_nodes(gateway: &Gateway, count: u64) {
    eventually("it knows how many they are", || {
        (gateway.metric("portcullis_shared_store_nodes") == count).then_some(())
    });
}

/// Where clients come in.
pub fn addresses(all: &[Gateway]) -> Vec<SocketAddr> {
    all.iter().map(Gateway::https).collect()
}

/// As many requests at each node, from two connections that stay: the answers, which are all 200 or 429.
pub fn ask(all: &[SocketAddr], key: &Key, each: usize) -> Vec<Answer> {
    ask_at_once(all, key, 2, each / 2)
}

/// As many requests from each of so many connections to each node, one after the other: the answers, which are all 200 or 429.
pub fn ask_at_once(all: &[SocketAddr], key: &Key, connections: usize, each: usize) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let addresses = all
            .iter()
            .flat_map(|address| std::iter::repeat_n(*address, connections));
        let asking = addresses.map(|address| {
            scope.spawn(move || {
                let mut connection = Http1::tls(address);
                let request = Request::get("/any/x").bearer(&key.text);
                let answers = (0..each).map(|_| connection.exchange(&request));
                answers.collect::<Vec<_>>()
            })
        });
        let asking: Vec<_> = asking.collect();
        let answers = asking.into_iter().flat_map(|one| one.join().unwrap());
        let answers: Vec<Answer> = answers.collect();
        let known = |answer: &Answer| [200, 429].contains(&answer.status);
        assert!(answers.iter().all(known));
        answers
    })
}

/// How many of them were let through.
pub fn admitted(answers: &[Answer]) -> usize {
    let admitted = answers.iter().filter(|answer| answer.status == 200);
    admitted.count()
}

/// What the store counts as used of the quota: permits that are held count too.
pub fn used(redis: &Redis, key: &Key) -> u64 {
    let name = format!("portcullis:lq:k:{}", key.id.trim_start_matches("key_"));
    let all: Vec<(String, u64)> = redis.ask(&["HGETALL", &name]);
    let of_nodes = all.iter().filter(|(field, _)| field != "opened");
    of_nodes.map(|(_, used)| used).sum()
}
