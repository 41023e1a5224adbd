//! Quota and burst: exact, all or nothing, told truly in every answer, and kept through restarts.

use std::time::Duration;

use portcullis::store::NewKey;

use crate::support::client::Http2;
use crate::support::client::block_on;
use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::gateway::still;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::unix_seconds;
use crate::support::upstream;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How many of so many requests in a row are admitted.
fn admitted(gateway: &Gateway, key: &Key, tries: usize) -> usize {
    let mut client = gateway.connect();
    let request = Request::get("/any").bearer(&key.text);
    (0..tries)
        .filter(|_| match client.exchange(&request).status {
            200 => true,
            429 => false,
            status => panic!("{status}"),
        })
        .count()
}

// FA21: 100/hour and 20/min at once, per key.
#[test]
fn both_windows_hold_for_each_key_by_itself() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "100/hour", "20/min").start();
    let key = gateway.key("acme");
    for minute in 0..5 {
        assert_eq!(admitted(&gateway, &key, 25), 20, "minute {minute}");
        gateway.advance(MINUTE);
    }
    // The minute is empty, but the hour is full.
    assert_eq!(admitted(&gateway, &key, 5), 0);
    let second = gateway.key("acme");
    assert_eq!(admitted(&gateway, &second, 25), 20);
    gateway.advance(HOUR);
    assert_eq!(admitted(&gateway, &key, 25), 20);
    assert_eq!(upstream.hits(), 140);
}

// FA22: a key's own limits replace its plan's.
#[test]
fn a_key_may_have_limits_of_its_own() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "100/hour", "20/min").start();
    let seven = gateway.make_key(NewKey {
        quota: Some("7/hour".into()),
        burst: Some("unlimited".into()),
        ..new_key("acme")
    });
    assert_eq!(gateway.get("/any", &seven).number("x-ratelimit-limit"), 7);
    assert_eq!(admitted(&gateway, &seven, 10), 6);
    let free = gateway.make_key(NewKey {
        quota: Some("unlimited".into()),
        burst: Some("unlimited".into()),
        ..new_key("acme")
    });
    assert_eq!(admitted(&gateway, &free, 150), 150);
}

// FA23, S41: the header is in every authenticated answer, once, with our value, whoever made the answer.
#[test]
fn every_authenticated_answer_tells_the_limit() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "100/hour", "unlimited")
        .upstream("dead", upstream::nobody())
        .route_to("dead", "/dead", &[], Access::AnyKey, "")
        .route_to(
            "legacy",
            "/late",
            &[],
            Access::AnyKey,
            "total_timeout = \"300ms\"\nbody_bytes_max = \"9B\"\n",
        )
        .start();
    upstream.script("/late", vec![Step::ReadBody, Step::Hold]);
    let key = gateway.key_with_scopes("acme", &["leases:read"]);
    for status in [200, 201, 204, 301, 304, 400, 401, 404, 410, 500, 502, 503] {
        let own = [
            ("X-RateLimit-Limit", "7"),
            ("x-ratelimit-remaining", "7"),
            ("RateLimit", "7"),
        ];
        let mut answer = upstream::status(status, &own, "");
        if matches!(status, 204 | 304) {
            answer = format!("HTTP/1.1 {status} X\r\nX-RateLimit-Limit: 7\r\n\r\n").into_bytes();
        }
        upstream.answer(&format!("/any/{status}"), answer);
        let answer = gateway.get(&format!("/any/{status}"), &key);
        assert_rate_headers(&answer, status);
    }
    let cases = [
        ("GET", "/owners", 403),
        ("GET", "/nowhere", 404),
        ("DELETE", "/leases", 405),
        ("HEAD", "/any", 200),
        ("GET", "/dead", 502),
        ("HEAD", "/owners", 403),
        ("HEAD", "/nowhere", 404),
        ("GET", "/late", 504),
    ];
    for (method, target, status) in cases {
        let request = Request::new(method, target).bearer(&key.text);
        assert_rate_headers(&gateway.send(&request), status);
        let answer = block_on(async {
            let client = gateway.connect_h2().await;
            client.exchange(&request).await.unwrap()
        });
        assert_rate_headers(&answer, status);
    }
    let upload = Request::new("POST", "/late").bearer(&key.text);
    assert_rate_headers(&gateway.send(&upload.body("more than nine")), 413);
    // Strangers are told nothing.
    assert!(!gateway.send(&Request::get("/any")).has("x-ratelimit-limit"));
    assert!(
        !gateway
            .send(&Request::get("/public/x"))
            .has("x-ratelimit-limit")
    );
}

#[track_caller]
fn assert_rate_headers(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status);
    assert_eq!(answer.number("x-ratelimit-limit"), 100, "{status}");
    assert!(answer.number("x-ratelimit-remaining") < 100, "{status}");
    assert!(
        answer.number("x-ratelimit-reset") > unix_seconds(),
        "{status}"
    );
    assert!(answer.one("ratelimit").contains("r="), "{status}");
    assert!(
        answer.one("ratelimit-policy").contains("q=100;w=3600"),
        "{status}"
    );
    assert!(!answer.has("retry-after"), "only on 429, not on {status}");
}

// FA23: a stream tells it in its head, before its end is known.
#[test]
fn a_stream_tells_the_limit_in_its_head() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "100/hour", "unlimited").start();
    let key = gateway.key("acme");
    let head = "HTTP/1.1 200 OK\r\nX-RateLimit-Limit: 7\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let event = "d\r\ndata: first\n\n\r\n";
    let steps = vec![
        Step::ReadBody,
        Step::Send(format!("{head}{event}").into_bytes()),
        Step::Hold,
    ];
    upstream.script("/any", steps);
    let mut client = gateway.connect();
    client.send(Request::get("/any").bearer(&key.text).bytes());
    assert_rate_headers(&client.read_head().unwrap(), 200);
}

// FA26, C-11: the gateway says Retry-After on its own 429 alone; a backend's own passes, and its own 429 keeps ours out.
#[test]
fn a_backends_own_retry_after_passes() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "100/hour", "unlimited").start();
    let key = gateway.key("acme");
    for status in [429, 503] {
        let own = [("Retry-After", "17"), ("X-RateLimit-Reset", "1")];
        upstream.answer("/any", upstream::status(status, &own, ""));
        let answer = gateway.get("/any", &key);
        answer.expect(status);
        assert_eq!(answer.one("retry-after"), "17");
        assert_eq!(answer.number("x-ratelimit-limit"), 100);
        assert!(answer.number("x-ratelimit-reset") > 1);
    }
}

// FA24, FA25: Remaining counts down to 0 and never lies; Reset stays where it is for the whole window.
#[test]
fn remaining_counts_down_and_reset_stands_still() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "100/hour", "unlimited").start();
    let key = gateway.key("acme");
    let mut client = gateway.connect();
    let request = Request::get("/any").bearer(&key.text);
    let asked = unix_seconds();
    let first = client.exchange(&request);
    let reset = first.number("x-ratelimit-reset");
    let hour_later = asked + 3_600..=unix_seconds() + 3_600;
    assert!(hour_later.contains(&reset), "{reset} in {hour_later:?}");
    assert_eq!(first.number("x-ratelimit-remaining"), 99);
    for left in (0..99).rev() {
        let answer = client.exchange(&request);
        assert_eq!(answer.number("x-ratelimit-remaining"), left);
        assert_eq!(answer.number("x-ratelimit-reset"), reset);
    }
    let refused = client.exchange(&request);
    refused.expect(429);
    assert_eq!(refused.number("x-ratelimit-remaining"), 0);
    assert_eq!(refused.number("x-ratelimit-reset"), reset);
    gateway.advance(HOUR + SECOND);
    assert_eq!(
        client.exchange(&request).number("x-ratelimit-remaining"),
        99
    );
}

// FA24, CHECK2: 500 tries in a minute leave the hour at exactly 80; a refused request costs nothing.
#[test]
fn a_refused_request_is_charged_to_no_window() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "100/hour", "20/min").start();
    let key = gateway.key("acme");
    assert_eq!(admitted(&gateway, &key, 500), 20);
    let refused = gateway.get("/any", &key);
    assert_eq!(refused.number("x-ratelimit-remaining"), 80);
    gateway.advance(MINUTE);
    assert_eq!(
        gateway.get("/any", &key).number("x-ratelimit-remaining"),
        79
    );
}

// FA26, CHECK3, IMP4: sleeping Retry-After succeeds, sleeping a second less fails; at 200 points of the sliding burst and the fixed hour.
#[test]
fn retry_after_is_true() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "100/hour", "20/min").start_at(still());
    let key = gateway.key("acme");
    let mut client = gateway.connect();
    let request = Request::get("/any").bearer(&key.text);
    let (mut of_burst, mut of_quota) = (0, 0);
    // A fixed but uneven walk through time, so that refusals come at many points of both windows and of their seconds.
    let mut step = 1u64;
    while of_burst + of_quota < 200 || of_quota < 20 {
        step = step * 48_271 % 0x7fff_ffff;
        gateway.advance(Duration::from_millis(step % 4_000));
        let answer = client.exchange(&request);
        if answer.status == 200 {
            continue;
        }
        answer.expect(429);
        let wait = answer.number("retry-after");
        assert!(wait >= 1);
        if answer.number("x-ratelimit-remaining") == 0 {
            of_quota += 1;
            let until_reset = answer
                .number("x-ratelimit-reset")
                .saturating_sub(wall(&gateway));
            assert!(wait.abs_diff(until_reset) <= 1, "{wait} and {until_reset}");
        } else {
            of_burst += 1;
            assert!(wait <= 60, "{wait}");
        }
        if wait > 1 {
            gateway.advance(Duration::from_secs(wait - 1));
            client.exchange(&request).expect(429);
            gateway.advance(SECOND);
        } else {
            gateway.advance(SECOND);
        }
        client.exchange(&request).expect(200);
    }
    assert!(
        of_burst >= 20,
        "{of_burst} of the burst, {of_quota} of the quota"
    );
}

fn wall(gateway: &Gateway) -> u64 {
    gateway.clock.now().wall.unix_seconds()
}

// IMP4, DESIGN section 3: 403, 404, 405 and backend failures are charged; 400 and 401 are not.
#[test]
fn what_is_charged_and_what_is_not() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "100/hour", "unlimited").start();
    let key = gateway.key_with_scopes("acme", &["leases:read"]);
    let mut client = gateway.connect();
    for _ in 0..5 {
        client
            .exchange(&Request::get("/owners").bearer(&key.text))
            .expect(403);
    }
    client
        .exchange(&Request::get("/nowhere").bearer(&key.text))
        .expect(404);
    client
        .exchange(&Request::get("/any").bearer("unknown"))
        .expect(401);
    gateway
        .send(&Request::get("/any/%00").bearer(&key.text))
        .expect(400);
    let answer = gateway.get("/any", &key);
    assert_eq!(answer.number("x-ratelimit-remaining"), 100 - 5 - 1 - 1);
}

// IMP1: a try on a second server, a 100-continue or a backend failure never charges twice.
#[test]
fn one_request_is_charged_once() {
    let upstream = Upstream::start();
    let dead = upstream::nobody();
    let gateway = Setup::limited(&upstream, "100/hour", "unlimited")
        .set(
            "upstreams.legacy",
            "servers",
            &format!(r#"["http://{dead}", "http://{}"]"#, upstream.address),
        )
        .start();
    let key = gateway.key("acme");
    for left in (90..100).rev() {
        let request = Request::new("POST", "/any")
            .bearer(&key.text)
            .header("Expect", "100-continue")
            .body("x");
        let answer = gateway.send(&request);
        assert_eq!(answer.number("x-ratelimit-remaining"), left);
    }
}

// IMP2, S28: strangers create no counters and cost no tenant anything.
#[test]
fn unknown_keys_touch_no_tenant() {
    let upstream = Upstream::start();
    // The throttle of strangers has tests of its own.
    let gateway = Setup::limited(&upstream, "100/hour", "20/min")
        .set("auth", "failures", r#""unlimited""#)
        .start();
    let key = gateway.key("acme");
    gateway.get("/any", &key).expect(200);
    let mut client = gateway.connect();
    let mut stranger = |count: usize| {
        let request = Request::get("/any").bearer(&format!("fp_live_{count:036}"));
        client.exchange(&request).expect(401);
    };
    stranger(0);
    let known = gateway.series_after(2);
    (1..500).for_each(&mut stranger);
    assert_eq!(
        gateway.get("/any", &key).number("x-ratelimit-remaining"),
        98
    );
    assert_eq!(gateway.series_after(502), known);
}

// CHECK1, S31: of 500 requests fired at one moment over 8 + 8 connections exactly 20 are admitted, a reload in the middle.
#[test]
fn exactly_n_of_500_concurrent_requests_are_admitted() {
    let upstream = Upstream::start();
    let mut gateway = Setup::limited(&upstream, "100000/hour", "20/min").start();
    let key = gateway.key("acme");
    for window in 0..50 {
        upstream.forget();
        let (ok, refused) = fire_500(&gateway, &key, window);
        assert_eq!((ok, refused), (20, 480), "window {window}");
        assert_eq!(upstream.hits(), 20, "window {window}");
        gateway.advance(MINUTE);
        let setup = gateway.setup.clone();
        gateway.reload(setup).unwrap();
    }
}

fn fire_500(gateway: &Gateway, key: &Key, window: usize) -> (usize, usize) {
    let request = Request::get("/any").bearer(&key.text);
    let setup = gateway.setup.clone().set(
        "upstreams.legacy",
        "pool_idle_max",
        &(20 + window).to_string(),
    );
    let ready = std::sync::Barrier::new(17);
    let (ready, request, setup) = (&ready, &request, &setup);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let h1 = (0..8).map(|_| {
            scope.spawn(move || {
                let mut client = gateway.connect();
                ready.wait();
                (0..30)
                    .map(|_| client.exchange(request).status)
                    .collect::<Vec<_>>()
            })
        });
        let mut all: Vec<_> = h1.collect();
        all.extend((0..8).map(|index| {
            scope.spawn(move || {
                let count = if index < 4 { 33 } else { 32 };
                block_on(burst_h2(gateway.https(), request, count, ready))
            })
        }));
        ready.wait();
        setup.write();
        gateway.reload_as_is().unwrap();
        all.into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(statuses.len(), 500);
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    (count(200), count(429))
}

async fn burst_h2(
    address: std::net::SocketAddr,
    request: &Request,
    count: usize,
    ready: &std::sync::Barrier,
) -> Vec<u16> {
    let client = Http2::connect(address).await;
    ready.wait();
    let mut pending = Vec::new();
    for _ in 0..count {
        pending.push(client.begin(request).await.unwrap());
    }
    let mut statuses = Vec::new();
    for response in pending {
        statuses.push(response.await.unwrap().status().as_u16());
    }
    statuses
}

// DESIGN section 6: counters survive a clean restart, down to the last request.
#[test]
fn a_restart_forgets_nothing() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "100/hour", "20/min").start();
    let key = gateway.key("acme");
    assert_eq!(admitted(&gateway, &key, 13), 13);
    let reset = gateway.get("/any", &key).number("x-ratelimit-reset");
    let gateway = gateway.restart();
    let answer = gateway.get("/any", &key);
    assert_eq!(answer.number("x-ratelimit-remaining"), 85);
    assert!(answer.number("x-ratelimit-reset").abs_diff(reset) <= 1);
    // The burst window is kept too.
    assert_eq!(admitted(&gateway, &key, 20), 5);
}

// FF18, CHECK13 in part: a plan change keeps what was used.
#[test]
fn a_plan_change_keeps_what_was_used() {
    let upstream = Upstream::start();
    let mut gateway = Setup::limited(&upstream, "100/hour", "unlimited").start();
    let key = gateway.key("acme");
    assert_eq!(admitted(&gateway, &key, 90), 90);
    let bigger = gateway
        .setup
        .clone()
        .plan("limited", "1000/hour", "unlimited");
    gateway.reload(bigger).unwrap();
    let answer = gateway.get("/any", &key);
    assert_eq!(answer.number("x-ratelimit-limit"), 1000);
    assert_eq!(answer.number("x-ratelimit-remaining"), 909);
    let smaller = gateway
        .setup
        .clone()
        .plan("limited", "50/hour", "unlimited");
    gateway.reload(smaller).unwrap();
    gateway.get("/any", &key).expect(429);
}

// DESIGN section 3: a dearer route takes its cost from every window, or nothing.
#[test]
fn a_route_may_cost_more() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "10/hour", "unlimited")
        .route_to("legacy", "/dear", &[], Access::AnyKey, "cost = 4\n")
        .start();
    let key = gateway.key("acme");
    assert_eq!(
        gateway.get("/dear", &key).number("x-ratelimit-remaining"),
        6
    );
    assert_eq!(
        gateway.get("/dear", &key).number("x-ratelimit-remaining"),
        2
    );
    gateway.get("/dear", &key).expect(429);
    assert_eq!(gateway.get("/any", &key).number("x-ratelimit-remaining"), 1);
}

// PB21, CW14: a plan without windows has no rate headers and refuses nobody.
#[test]
fn an_unlimited_plan_has_no_rate_headers() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    let answer = gateway.get("/any", &key);
    for name in [
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "ratelimit",
    ] {
        assert!(!answer.has(name), "{name}");
    }
    assert_eq!(admitted(&gateway, &key, 300), 300);
}

// C-10: all keys of a tenant may share one limit.
#[test]
fn a_tenant_may_be_the_subject() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "10/hour", "unlimited")
        .set("limits", "subject", r#""tenant""#)
        .start();
    let (one, two) = (gateway.key("acme"), gateway.key("acme"));
    assert_eq!(admitted(&gateway, &one, 6), 6);
    assert_eq!(admitted(&gateway, &two, 6), 4);
}

// FF12, FF13: a single window of another length is reported alike.
#[test]
fn short_windows_are_reported_alike() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "3/10s", "unlimited").start_at(still());
    let key = gateway.key("acme");
    let answer = gateway.get("/any", &key);
    assert_eq!(answer.number("x-ratelimit-limit"), 3);
    assert_eq!(answer.number("x-ratelimit-reset"), wall(&gateway) + 10);
    assert_eq!(admitted(&gateway, &key, 5), 2);
    gateway.advance(10 * SECOND);
    assert_eq!(admitted(&gateway, &key, 5), 3);
}

// S30: time that stands still or leaps never re-opens a window early.
#[test]
fn a_leap_in_time_opens_each_window_once() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "10/hour", "5/min").start_at(still());
    let key = gateway.key("acme");
    assert_eq!(admitted(&gateway, &key, 20), 5);
    gateway.advance(MINUTE - Duration::from_millis(1));
    assert_eq!(admitted(&gateway, &key, 20), 0);
    gateway.advance(400 * 24 * HOUR);
    assert_eq!(admitted(&gateway, &key, 20), 5);
    gateway.advance(MINUTE);
    assert_eq!(admitted(&gateway, &key, 20), 5);
    gateway.advance(MINUTE);
    assert_eq!(admitted(&gateway, &key, 20), 0);
}

// S30: somebody sets the wall clock, forward and back, while the gateway runs and while it is stopped. Windows go by the monotonic clock: none opens
// early, none stays shut for longer, and Retry-After stays true. Expiry is a date, so it goes by the wall clock as it is at each request.
#[test]
fn a_wall_clock_that_is_set_moves_dates_and_no_window() {
    let upstream = Upstream::start();
    let mut gateway = Setup::limited(&upstream, "3/hour", "unlimited").start();
    let key = gateway.key("acme");
    let dated = gateway.make_key(NewKey {
        expires_in_seconds: Some(3_600),
        ..new_key("acme")
    });
    let reset = gateway.get("/any", &key).number("x-ratelimit-reset");
    assert_eq!(admitted(&gateway, &key, 5), 2);
    gateway.get("/any", &dated).expect(200);
    for (moved, dated_key) in [(7_200, 401), (-7_200, 200), (-86_400, 200), (86_400, 200)] {
        gateway.clock.set_wall_by(moved);
        for restarted in [false, true] {
            if restarted {
                gateway = gateway.restart();
            }
            let answer = gateway.get("/any", &key);
            answer.expect(429);
            let wait = answer.number("retry-after");
            assert!((3_000..=3_600).contains(&wait), "{wait} after {moved}");
            assert_eq!(
                answer.number("x-ratelimit-reset"),
                reset,
                "constant within the window (FA25)"
            );
        }
        assert_eq!(
            status_uncharged(&gateway, &dated),
            dated_key,
            "after {moved}"
        );
    }
    gateway.clock.set_wall_by(-86_400);
    gateway.advance(HOUR);
    assert_eq!(admitted(&gateway, &key, 5), 3, "an hour is an hour");
}

/// 401 when the key does not stand, else 200: what a key gets, its limits aside.
fn status_uncharged(gateway: &Gateway, key: &Key) -> u16 {
    match gateway.get("/any", key).status {
        429 => 200,
        status => status,
    }
}

// C-23: the reset is a Unix time, or the seconds that are left where the operator says so; RateLimit says the seconds in any case.
#[test]
fn the_reset_can_be_said_in_seconds() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "5/hour", "unlimited")
        .set("limits", "reset", r#""delta""#)
        .start_at(still());
    let key = gateway.key("acme");
    let first = gateway.get("/any", &key);
    assert_eq!(first.number("x-ratelimit-reset"), 3600);
    gateway.advance(Duration::from_secs(600));
    let second = gateway.get("/any", &key);
    assert_eq!(second.number("x-ratelimit-reset"), 3000);
    assert!(second.one("ratelimit").contains(";t=3000"));
}
