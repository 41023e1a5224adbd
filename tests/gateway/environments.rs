//! Worlds kept apart: a test key never reaches a production backend, a live key never the sandbox.

use portcullis::store::NewKey;

use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::request::Request;
use crate::support::upstream;
use crate::support::upstream::Upstream;

const LIVE: &str = "api.example";
const SANDBOX: &str = "api.sandbox.example";
const TEST: &str = "environment = \"test\"\n";

/// Two hosts with one route each to a backend of their own, and routes of both worlds on any host.
fn two_worlds(live: &Upstream, sandbox: &Upstream) -> Setup {
    let hosts = format!("[[hosts]]\nname = {LIVE:?}\n[[hosts]]\nname = {SANDBOX:?}\n{TEST}");
    let on = |host: &str, more: &str| format!("host = {host:?}\n{more}");
    Setup::bare(live.address)
        .upstream("sandbox", sandbox.address)
        .set("upstreams.sandbox", "environment", r#""test""#)
        .plan("open", "unlimited", "unlimited")
        .tenant("acme", "open")
        .route_to("legacy", "/v1/{*rest}", &[], Access::AnyKey, &on(LIVE, ""))
        .route_to(
            "sandbox",
            "/v1/{*rest}",
            &[],
            Access::AnyKey,
            &on(SANDBOX, TEST),
        )
        .route_to("legacy", "/both/live", &[], Access::AnyKey, "")
        .route_to("sandbox", "/both/test", &[], Access::AnyKey, TEST)
        .more(&hosts)
}

fn key_of(gateway: &Gateway, environment: &str) -> Key {
    gateway.make_key(NewKey {
        environment: Some(environment.to_owned()),
        ..new_key("acme")
    })
}

// PB16, PB17, FA31, FF16, C-21: a key works where host, route and backend are of its own world, and is an unknown key anywhere else.
#[test]
fn a_key_works_in_its_own_world_only() {
    let (live, sandbox) = (Upstream::start(), Upstream::start());
    let gateway = two_worlds(&live, &sandbox).start();
    let (live_key, test_key) = (key_of(&gateway, "live"), key_of(&gateway, "test"));
    assert!(live_key.text.contains("_live_") && test_key.text.contains("_test_"));
    let unknown = gateway.send(&Request::get("/v1/leads").host(LIVE).bearer("unknown"));
    // Host, path, what the live key gets and what the test key gets.
    let cases = [
        (LIVE, "/v1/leads", 200, 401),
        (SANDBOX, "/v1/leads", 401, 200),
        (LIVE, "/both/live", 200, 401),
        (LIVE, "/both/test", 401, 401),
        (SANDBOX, "/both/live", 401, 401),
        (SANDBOX, "/both/test", 401, 200),
        ("elsewhere.example", "/both/live", 200, 401),
        ("elsewhere.example", "/both/test", 401, 200),
        ("API.Example.", "/v1/leads", 200, 401),
        (LIVE, "/nowhere", 404, 401),
        (SANDBOX, "/nowhere", 401, 404),
    ];
    for (host, path, of_live, of_test) in cases {
        for (key, status, own, foreign) in [
            (&live_key, of_live, &live, &sandbox),
            (&test_key, of_test, &sandbox, &live),
        ] {
            let before = (own.hits(), foreign.hits());
            let answer = gateway.send(&Request::get(path).host(host).bearer(&key.text));
            answer.expect(status);
            let moved = usize::from(status == 200);
            assert_eq!(
                (own.hits(), foreign.hits()),
                (before.0 + moved, before.1),
                "{host}{path}"
            );
            if status == 401 {
                assert_eq!(
                    answer.one("www-authenticate"),
                    unknown.one("www-authenticate")
                );
                assert_eq!(answer.json()["detail"], unknown.json()["detail"]);
                assert!(!answer.has("x-ratelimit-limit"));
            }
        }
    }
    assert_eq!(
        gateway.log_line("wrong_environment")["reason"],
        "wrong_environment"
    );
}

// PB16: neither a dead server, nor a failing one, nor a redirect leads a test key out of the sandbox.
#[test]
fn failure_and_redirects_do_not_lead_out_of_the_sandbox() {
    let (live, sandbox) = (Upstream::start(), Upstream::start());
    let dead = upstream::nobody();
    let servers = format!(r#"["http://{dead}", "http://{}"]"#, sandbox.address);
    let gateway = two_worlds(&live, &sandbox)
        .set("upstreams.sandbox", "servers", &servers)
        .set("upstreams.sandbox", "connect_retries", "3")
        .start();
    let key = key_of(&gateway, "test");
    let to_live = format!("http://{}/v1/leads", live.address);
    sandbox.answer(
        "/v1/moved",
        upstream::status(307, &[("Location", &to_live)], ""),
    );
    sandbox.answer_and_close("/v1/broken", "not http at all");
    let get = |path: &str| {
        gateway
            .send(&Request::get(path).host(SANDBOX).bearer(&key.text))
            .status
    };
    for _ in 0..6 {
        assert_eq!(
            get("/v1/leads"),
            200,
            "failed over to the other server of the sandbox"
        );
    }
    assert_eq!(
        get("/v1/moved"),
        307,
        "the client's to follow, with its key, to where that key is unknown"
    );
    assert_eq!(get("/v1/broken"), 502);
    gateway.stop();

    let gateway = two_worlds(&live, &sandbox)
        .set(
            "upstreams.sandbox",
            "servers",
            &format!(r#"["http://{dead}"]"#),
        )
        .set("upstreams.sandbox", "connect_retries", "3")
        .start();
    let key = key_of(&gateway, "test");
    for _ in 0..4 {
        gateway
            .send(&Request::get("/v1/leads").host(SANDBOX).bearer(&key.text))
            .expect(502);
    }
    assert_eq!(live.hits(), 0);
}

// PB16: a route that would lead test keys to a live backend is no configuration.
#[test]
fn a_route_between_worlds_is_refused() {
    let (live, sandbox) = (Upstream::start(), Upstream::start());
    let setup = two_worlds(&live, &sandbox).route_to("legacy", "/leak", &[], Access::AnyKey, TEST);
    let error = setup
        .try_start(&portcullis::clock::Clock::movable())
        .unwrap_err();
    assert!(error.contains("environment"), "{error}");
}
