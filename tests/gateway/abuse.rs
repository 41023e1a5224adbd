//! Clients that want to hurt: keys sprayed, frames flooded, names injected. Others are served, the abuser is ended and counted.

use std::time::Duration;

use crate::support::client::Http1;
use crate::support::client::socket_from;
use crate::support::client::tls_config;
use crate::support::client::tls_over;
use crate::support::frames;
use crate::support::frames::CONTINUATION;
use crate::support::frames::DATA;
use crate::support::frames::END_HEADERS;
use crate::support::frames::END_STREAM;
use crate::support::frames::Frames;
use crate::support::frames::HEADERS;
use crate::support::frames::Outcome;
use crate::support::frames::PING;
use crate::support::frames::PRIORITY;
use crate::support::frames::RST_STREAM;
use crate::support::frames::SETTINGS;
use crate::support::frames::WINDOW_UPDATE;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::gateway::still;
use crate::support::request::Request;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;

fn from(gateway: &Gateway, source: &str) -> Http1 {
    let socket = socket_from(Some(source), gateway.https()).unwrap();
    Http1::over(tls_over(socket, "localhost", tls_config(&["http/1.1"])).unwrap())
}

// S28, CHECK15: a spray of unknown keys is answered 429 beyond auth.failures, while the known keys of the same address, on the same
// connection, are served as ever; other addresses do not notice. A key that is known but does not stand is 401, always.
#[test]
fn a_spray_of_unknown_keys_hurts_no_known_one() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("auth", "failures", r#""50/min""#)
        .start_at(still());
    let good = gateway.key("acme");
    let revoked = gateway.key("acme");
    gateway.revoke(&revoked);
    let ask = |key: &str| Request::get("/any").bearer(key);
    let mut sprayer = from(&gateway, "127.0.0.3");
    let mut neighbour = from(&gateway, "127.0.0.3");
    for count in 1..=200 {
        let answer = sprayer.exchange(&ask(&format!("sk_unknown_{count:020}")));
        if count <= 50 {
            answer.expect(401);
        } else {
            answer.expect(429);
            assert!((1..=60).contains(&answer.number("retry-after")));
            assert!(!answer.has("x-ratelimit-limit"));
        }
        for client in [&mut sprayer, &mut neighbour] {
            client.exchange(&ask(&good.text)).expect(200);
        }
    }
    neighbour.exchange(&ask(&revoked.text)).expect(401);
    neighbour.exchange(&Request::get("/any")).expect(401);
    from(&gateway, "127.0.0.4")
        .exchange(&ask("unknown"))
        .expect(401);
    let refused = |reason: &str| {
        gateway.metric(&format!(
            r#"portcullis_refusals_total{{reason="{reason}"}}"#
        ))
    };
    assert_eq!(
        (refused("unknown_key"), refused("auth_throttled")),
        (51, 150)
    );
    gateway.log_line("auth_throttled");
    gateway.advance(Duration::from_secs(60));
    neighbour.exchange(&ask("unknown")).expect(401);
    assert_eq!(upstream.hits(), 400);
}

// S28: sprayed from everywhere, the table of sources stays as large as it is.
#[test]
fn a_spray_from_everywhere_is_counted_in_a_bounded_table() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("trusted_proxies", "networks", r#"["127.0.0.1"]"#)
        .set("trusted_proxies", "headers", r#""trust""#)
        .start_at(still());
    let good = gateway.key("acme");
    let mut proxy = gateway.connect();
    for count in 0..6_000u32 {
        let source = format!("2001:db8:{:x}:{:x}::1", count / 256, count % 256);
        let spray = Request::get("/any")
            .bearer("unknown")
            .header("X-Forwarded-For", &source);
        proxy.exchange(&spray).expect(401);
        if count % 1_000 == 0 {
            let ask = Request::get("/any")
                .bearer(&good.text)
                .header("X-Forwarded-For", &source);
            proxy.exchange(&ask).expect(200);
        }
    }
    let sources = gateway.metric("portcullis_auth_failure_sources");
    assert!((2_000..=4_096).contains(&sources), "{sources}");
}

type Flood = (&'static str, fn(&mut Frames, u32) -> bool);

/// Each sends its next piece, of a hundred that go together; `false` when the connection takes no more.
const FLOODS: [Flood; 8] = [
    ("PING", |client, _| client.send(PING, 0, 0, &[0; 8])),
    ("SETTINGS", |client, _| client.send(SETTINGS, 0, 0, &[])),
    ("PRIORITY", |client, _| {
        client.send(PRIORITY, 0, 3, &[0, 0, 0, 0, 9])
    }),
    ("WINDOW_UPDATE", |client, _| {
        client.send(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
    }),
    ("empty DATA", |client, at| {
        if at == 0 {
            client.open(&post(), false);
        }
        client.send(DATA, 0, 1, &[])
    }),
    ("CONTINUATION", |client, at| {
        let filler = frames::encode(&[("x-filler", "x")]);
        match at {
            0 => client.send(HEADERS, 0, 1, &frames::encode(&post())),
            _ => client.send(CONTINUATION, 0, 1, &filler),
        }
    }),
    ("rapid reset", |client, _| {
        let stream = client.open(&frames::get("/public/hold"), true);
        client.send(RST_STREAM, 0, stream, &8u32.to_be_bytes())
    }),
    // The gateway is made to reset the streams itself.
    ("MadeYouReset", |client, _| {
        let stream = client.open(&post(), false);
        client.send(WINDOW_UPDATE, 0, stream, &[0; 4])
    }),
];

/// Slow enough that each request is under way before it is given up; as many at once as are allowed, or a busy machine would pace them to a rate that any
/// client may have.
const PACED: Flood = ("paced reset", |client, _| {
    let mut streams = Vec::new();
    client.together(|client| {
        let stream = || client.open(&frames::get("/public/hold"), true);
        streams = std::iter::repeat_with(stream).take(90).collect();
    });
    client.lives()
        && client.together(|client| {
            for stream in streams {
                client.send(RST_STREAM, 0, stream, &8u32.to_be_bytes());
            }
        })
});

fn post() -> Vec<(&'static str, &'static str)> {
    let mut fields = frames::get("/public/hold");
    fields[0].1 = "POST";
    fields
}

// S20, S21: each flood of frames ends its own connection and is counted; a client beside it is served in the meantime.
#[test]
fn each_flood_of_frames_is_ended_and_counted() {
    let upstream = Upstream::start();
    upstream.script("/public/hold", vec![Step::Hold]);
    let gateway = Setup::usual(&upstream).start();
    let ended = || ["flooded", "protocol_error"].map(|event| gateway.connection_events(event));
    let gathered = |client: &mut Frames, flood: Flood, turn: u32| {
        client.together(|client| {
            (100 * turn..100 * (turn + 1)).for_each(|at| {
                flood.1(client, at);
            });
        })
    };
    for flood in FLOODS.into_iter().chain([PACED]) {
        let name = flood.0;
        let before: u64 = ended().iter().sum();
        let mut client = Frames::connect(gateway.https());
        client.greet();
        let mut beside = gateway.connect();
        let lives = (0..300).all(|turn| {
            if turn % 5 == 1 {
                beside.exchange(&Request::get("/public/x")).expect(200);
            }
            match name == PACED.0 {
                true => flood.1(&mut client, turn),
                false => gathered(&mut client, flood, turn),
            }
        });
        if lives {
            let outcome = client.outcome_unanswered(u32::MAX);
            assert!(
                matches!(outcome, Outcome::Closed | Outcome::GoAway(_)),
                "{name}: {outcome:?}"
            );
        }
        beside.exchange(&Request::get("/public/x")).expect(200);
        crate::support::eventually(&format!("{name} is counted"), || {
            (ended().iter().sum::<u64>() > before).then_some(())
        });
    }
}

// S20: requests that are given up in the same breath in which they were made are counted, and no backend is asked for a connection for them.
#[test]
fn what_is_given_up_at_once_opens_no_connection_to_a_backend() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("server", "workers", "1")
        .set("upstreams.legacy", "pool_idle_timeout", r#""1min""#)
        .start();
    let mut client = Frames::connect(gateway.https());
    client.greet();
    // The second time there is a connection that was kept.
    for round in 1..=2 {
        for _ in 0..5 {
            client.give_up_at_once(&frames::get("/public/x"), 10);
            assert!(client.lives());
        }
        let answer = client.exchange(&frames::get("/public/x"));
        assert_eq!(answer, Outcome::Status(200));
        gateway.series_after(51 * round);
        assert_eq!(upstream.hits() as u64, round);
    }
    assert_eq!(upstream.connections(), 1);
}

// S21: a block that grows without bound when it is unpacked is refused before it has.
#[test]
fn an_hpack_bomb_is_refused() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let mut client = Frames::connect(gateway.https());
    let value = "x".repeat(3_900);
    let mut block = frames::encode(&frames::get("/public/x"));
    let mut indexed = frames::encode(&[("x-bomb", &value)]);
    indexed[0] = 0x40;
    block.extend(indexed);
    // Each byte is one more copy of it.
    block.resize(16_000, 0xbe);
    for stream in (1..99).step_by(2) {
        client.send(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        match client.outcome(stream) {
            Outcome::Status(431) => {}
            Outcome::Reset(_) | Outcome::GoAway(_) | Outcome::Closed => break,
            Outcome::Status(status) => panic!("{status}"),
        }
    }
    assert_eq!(upstream.hits(), 0);
    gateway.send(&Request::get("/public/x")).expect(200);
}

// S28: what a client writes becomes no metric and no label of one.
#[test]
fn nothing_that_a_client_writes_becomes_a_metric() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let odd = |at: usize| {
        [
            Request::new(&format!("EVIL{at}"), "/any"),
            Request::get(&format!("/public/evil{at}%22%7D%0A")),
            Request::get(&format!("/evil{at}")),
            Request::get("/public/x").host(&format!("evil{at}.example")),
            Request::get("/any").bearer(&format!("evil{at}")),
            Request::get("/public/x").header("User-Agent", "evil\"} 1"),
            Request::get("/public/x").header("Content-Type", &format!("evil{at}")),
        ]
    };
    let mut known = Vec::new();
    for at in 0..8 {
        for request in odd(at) {
            gateway.send(&request);
        }
        if at == 0 {
            known = gateway.series_after(7);
        }
    }
    assert_eq!(gateway.series_after(8 * 7), known);
    assert!(
        !known
            .iter()
            .any(|name| name.contains("evil") || name.contains("EVIL")),
        "{known:?}"
    );
}
