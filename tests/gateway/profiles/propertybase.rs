//! `examples/propertybase.toml`, by the rows of SEEDS section 4 that concern keys.

use std::time::Duration;

use portcullis::store::NewKey;
use portcullis::store::Verb;

use crate::profiles::only_the_diagonal;
use crate::profiles::statuses;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::request::Request;
use crate::support::upstream;
use crate::support::upstream::Upstream;

const HOST: &str = "api.propertybase.ai";
const SANDBOX: &str = "api.sandbox.propertybase.ai";

fn start(live: &Upstream, sandbox: &Upstream) -> Gateway {
    Setup::example("propertybase.toml", live, sandbox)
        .tenant("acme", "standard")
        .start()
}

fn key_for(gateway: &Gateway, environment: &str) -> Key {
    gateway.make_key(NewKey {
        environment: Some(environment.to_owned()),
        ..new_key("acme")
    })
}

// PB1, PB2, C-8, C-22: pb_live_… and good until it is revoked.
#[test]
fn keys_never_expire() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, &upstream);
    let key = key_for(&gateway, "live");
    assert!(key.text.starts_with("pb_live_"));
    gateway.advance(Duration::from_secs(10 * 366 * 86_400));
    assert_eq!(
        statuses(&gateway, HOST, &key, &[("GET", "/v1/leads")]),
        [200]
    );
    gateway.revoke(&key);
    assert_eq!(
        statuses(&gateway, HOST, &key, &[("GET", "/v1/leads")]),
        [401]
    );
}

// PB2: a text that is no key is 401, whatever it looks like; one that looks like a key and is not goes no other way.
#[test]
fn what_is_no_key_is_401() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, &upstream);
    let key = key_for(&gateway, "live");
    let last = if key.text.ends_with('0') { "1" } else { "0" };
    let mistyped = format!("{}{last}", &key.text[..key.text.len() - 1]);
    let texts = [
        mistyped.as_str(),
        "pb_live_",
        "pb_live_short",
        "sk_live_0123456789abcdefghijABCDEFGHIJ0123456789",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
        "0123456789abcdef0123456789abcdef",
    ];
    for text in texts {
        let answer = gateway.send(&Request::get("/v1/leads").host(HOST).bearer(text));
        answer.expect(401);
    }
    assert_eq!(upstream.hits(), 0);
}

// PB4: revoking asks; with nobody to ask and no --yes nothing happens.
#[test]
fn revoking_asks_for_confirmation() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, &upstream);
    let key = key_for(&gateway, "live");
    let works = || statuses(&gateway, HOST, &key, &[("GET", "/v1/leads")])[0];
    for verb in ["revoke", "delete", "regenerate"] {
        let (code, out, said) = gateway.command(&["keys", verb, &key.id]);
        assert_eq!((code, out.as_str()), (2, ""), "{verb}");
        assert!(said.contains("add --yes"), "{said}");
        assert_eq!(works(), 200);
    }
    let (code, _, _) = gateway.command(&["keys", "revoke", &key.id, "--yes"]);
    assert_eq!((code, works()), (0, 401));
}

// PB14: a key that is good and may not is 403, never 401; one that is not good is 401, never 403; and a store that fails makes no difference
// to either, since this node's view of its own store is never behind.
#[test]
fn a_store_that_fails_refuses_nobody() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, &upstream);
    let key = gateway.key_with_scopes("acme", &["read:leads"]);
    let requests = [("GET", "/v1/leads"), ("POST", "/v1/leads")];
    let as_ever = || {
        assert_eq!(statuses(&gateway, HOST, &key, &requests), [200, 403]);
        let unknown = Key {
            id: String::new(),
            text: "pb_live_unknown".to_owned(),
        };
        assert_eq!(statuses(&gateway, HOST, &unknown, &requests), [401, 401]);
    };
    as_ever();
    // Somebody else holds the database: no change can be written.
    let store = gateway.directory().join("state/keys.db");
    let other = rusqlite::Connection::open(store).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = gateway.execute(Verb::KeyCreate(new_key("acme")));
    assert!(refused.is_err());
    as_ever();
    other.execute_batch("ROLLBACK").unwrap();
    gateway.key("acme");
    as_ever();
}

// PB18: data is not a gateway's to reset; while the sandbox's backend is away for it, the live world does not notice.
#[test]
fn a_sandbox_that_is_away_is_away_alone() {
    let (live, sandbox) = (Upstream::start(), Upstream::start());
    let gateway = start(&live, &sandbox);
    let (of_live, of_test) = (key_for(&gateway, "live"), key_for(&gateway, "test"));
    let get = |host: &str, key: &Key| statuses(&gateway, host, key, &[("GET", "/v1/leads")])[0];
    assert_eq!(get(SANDBOX, &of_test), 200);
    drop(sandbox);
    assert!((502..=504).contains(&get(SANDBOX, &of_test)));
    assert_eq!(get(HOST, &of_live), 200);
    assert_eq!(get(HOST, &of_test), 401, "no failover into production");
}

// PB3, C-3, C-4: the scopes of the reference, `webhooks` with every method; admin is all of them.
#[test]
fn scopes_are_words() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, &upstream);
    let rows = [
        ("read:properties", "GET", "/v1/properties"),
        ("write:properties", "POST", "/v1/properties"),
        ("read:leads", "GET", "/v1/leads/1"),
        ("write:leads", "PATCH", "/v1/leads/1"),
        ("read:agents", "GET", "/v1/agents"),
        ("write:agents", "DELETE", "/v1/agents/1"),
        ("read:analytics", "GET", "/v1/analytics"),
        ("webhooks", "PUT", "/v1/webhooks/1"),
    ];
    only_the_diagonal(&gateway, HOST, "acme", &rows);
    let webhooks = gateway.key_with_scopes("acme", &["webhooks"]);
    let methods = [
        ("GET", "/v1/webhooks"),
        ("POST", "/v1/webhooks"),
        ("DELETE", "/v1/webhooks/1"),
        ("GET", "/v1/leads"),
    ];
    assert_eq!(
        statuses(&gateway, HOST, &webhooks, &methods),
        [200, 200, 200, 403]
    );
    let admin = gateway.key_with_scopes("acme", &["admin"]);
    assert_eq!(statuses(&gateway, HOST, &admin, &methods), [200; 4]);
}

// PB12, PB13, C-1, C-2: the bodies of the reference, exactly.
#[test]
fn refusals_are_those_of_the_reference() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, &upstream);
    let get = |key: &str| gateway.send(&Request::get("/v1/leads").host(HOST).bearer(key));
    let unauthorized = get("pb_live_unknown");
    unauthorized.expect(401);
    assert_eq!(
        unauthorized.text(),
        r#"{"error":{"code":"UNAUTHORIZED","message":"Invalid or expired token"}}"#
    );
    assert_eq!(unauthorized.one("content-type"), "application/json");
    assert!(unauthorized.one("www-authenticate").starts_with("Bearer"));
    let forbidden = get(&gateway.key_with_scopes("acme", &["webhooks"]).text);
    forbidden.expect(403);
    assert_eq!(
        forbidden.text(),
        r#"{"error":{"code":"FORBIDDEN","message":"Insufficient permissions"}}"#
    );
    assert_eq!(upstream.hits(), 0);
}

// PB15, C-15: the backend's own 403 is its own.
#[test]
fn the_backends_403_passes() {
    let backend = Upstream::start();
    backend.answer("/v1/leads/7", upstream::status(403, &[], "mine"));
    let gateway = start(&backend, &backend);
    let key = key_for(&gateway, "live");
    let answer = gateway.send(&Request::get("/v1/leads/7").host(HOST).bearer(&key.text));
    answer.expect(403);
    assert_eq!(answer.text(), "mine");
}

// PB16, PB17: the sandbox is for test keys and they for it.
#[test]
fn the_sandbox_is_apart() {
    let (live, sandbox) = (Upstream::start(), Upstream::start());
    let gateway = start(&live, &sandbox);
    let (of_live, of_test) = (key_for(&gateway, "live"), key_for(&gateway, "test"));
    assert!(of_test.text.starts_with("pb_test_"));
    let get = |host: &str, key: &Key| statuses(&gateway, host, key, &[("GET", "/v1/leads")])[0];
    assert_eq!([get(HOST, &of_live), get(HOST, &of_test)], [200, 401]);
    assert_eq!([get(SANDBOX, &of_live), get(SANDBOX, &of_test)], [401, 200]);
    assert_eq!((live.hits(), sandbox.hits()), (1, 1));
}

// PB21: nobody is limited and no answer speaks of limits.
#[test]
fn there_are_no_limits() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, &upstream);
    let key = key_for(&gateway, "live");
    let mut client = gateway.connect();
    let request = Request::get("/v1/leads").host(HOST).bearer(&key.text);
    for _ in 0..300 {
        let answer = client.exchange(&request);
        answer.expect(200);
        let speaks = |(name, _): &(String, String)| name.to_ascii_lowercase().contains("ratelimit");
        assert!(!answer.headers.iter().any(speaks));
    }
}
