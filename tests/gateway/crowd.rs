//! Very many keys in use at once: a request's key is then looked for together with others', and everything holds as it does for one.

use std::fs;

use http::StatusCode;

use portcullis::model::key::KeyId;
use portcullis::store::counters::Batch;
use portcullis::store::counters::Counters;
use portcullis::store::counters::Row;
use portcullis::store::counters::SavedQuota;
use portcullis::store::counters::Subject;

use crate::support::client::Http2;
use crate::support::client::block_on;
use crate::support::client::read_h2;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::still;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

/// From so many on it is worth a request's while to wait for others.
const IN_USE: u32 = 131_072;

/// A gateway that finds so many keys' counters in its store, each with its window open.
fn crowded(upstream: &Upstream) -> Gateway {
    let setup = Setup::limited(upstream, "100/hour", "20/min");
    let clock = still();
    let now = clock.now();
    let rows: Vec<Row> = (0..IN_USE)
        .map(|index| {
            let mut id = *b"used00000000";
            id[4..].copy_from_slice(format!("{index:08}").as_bytes());
            Row {
                subject: Subject::Key(KeyId(id)),
                quota: Some(SavedQuota {
                    opened_micros: i64::try_from(now.mono.0).unwrap(),
                    opened_wall: now.wall,
                    seconds: 3_600,
                    used: 1,
                }),
                burst: None,
            }
        })
        .collect();
    let state = setup.directory().join("state");
    fs::create_dir_all(&state).unwrap();
    let (mut counters, _) = Counters::open(&state, now).unwrap();
    let batch = Batch {
        rows: &rows,
        ..Batch::default()
    };
    counters.save(&batch, now).unwrap();
    drop(counters);
    setup.start_at(clock)
}

/// Sends all of them at once over one connection.
async fn at_once(gateway: &Gateway, requests: &[Request]) -> Vec<Answer> {
    let client = Http2::connect(gateway.https()).await;
    let mut pending = Vec::new();
    for request in requests {
        pending.push(client.begin(request).await.unwrap());
    }
    let mut answers = Vec::new();
    for response in pending {
        answers.push(read_h2(response.await.unwrap()).await.unwrap());
    }
    answers
}

// FA1, FA2, FA21: more at once than are looked for together, some with a key that nobody has, and each is told apart: whose it is, and what is left of it.
#[test]
fn each_of_many_at_once_is_its_own_keys() {
    let upstream = Upstream::start();
    let gateway = crowded(&upstream);
    let keys: Vec<Key> = (0..90)
        .map(|index| gateway.key(["acme", "bravo"][index % 2]))
        .collect();
    for round in 1..=3 {
        upstream.forget();
        let requests: Vec<Request> = (keys.iter().enumerate())
            .map(|(index, key)| {
                let text = match index % 9 {
                    // Of one that nobody has, and of one with a wrong checksum.
                    8 if index % 2 == 0 => format!("nobody-{index}"),
                    8 => key.text.replace(&key.text[10..14], "AAAA"),
                    _ => key.text.clone(),
                };
                Request::get(&format!("/any/{index}")).bearer(&text)
            })
            .collect();
        let answers = block_on(at_once(&gateway, &requests));
        for (index, answer) in answers.iter().enumerate() {
            if index % 9 == 8 {
                answer.expect(401);
                assert_eq!(upstream.hits_on(&format!("/any/{index}")), 0);
                continue;
            }
            answer.expect(200);
            if index % 2 == 0 {
                assert_eq!(
                    answer.number("x-ratelimit-remaining"),
                    100 - round,
                    "{index}"
                );
            }
        }
        let seen = upstream.requests();
        assert_eq!(seen.len(), 80);
        for request in seen {
            let index: usize = request.target()["/any/".len()..].parse().unwrap();
            assert_eq!(request.all("x-tenant-id"), [["acme", "bravo"][index % 2]]);
        }
    }
}

// FA8, S31: a key's limit is exact however many of its requests are looked for together, and a revoked key's next request is refused.
#[test]
fn limits_are_exact_and_a_revoked_key_is_refused_among_many() {
    let upstream = Upstream::start();
    let gateway = crowded(&upstream);
    let (key, other) = (gateway.key("acme"), gateway.key("acme"));
    let request = |key: &Key| Request::get("/any").bearer(&key.text);
    let requests: Vec<Request> = (0..100).map(|_| request(&key)).collect();
    let answers = block_on(at_once(&gateway, &requests));
    let count = |status: StatusCode| {
        let same = |answer: &&Answer| answer.status == status.as_u16();
        answers.iter().filter(same).count()
    };
    assert_eq!(count(StatusCode::OK), 20);
    assert_eq!(count(StatusCode::TOO_MANY_REQUESTS), 80);
    assert_eq!(upstream.hits(), 20);
    gateway.get("/any", &other).expect(200);
    gateway.revoke(&other);
    gateway.get("/any", &other).expect(401);
    gateway.send(&Request::get("/any")).expect(401);
    let mut client = gateway.connect();
    for _ in 0..3 {
        client.exchange(&request(&other)).expect(401);
        client.exchange(&Request::get("/public/x")).expect(200);
    }
}
