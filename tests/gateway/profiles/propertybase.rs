//! `examples/propertybase.toml`, by the rows of SEEDS section 4.

use std::sync::OnceLock;
use std::time::Duration;

use portcullis::store::NewKey;
use portcullis::store::Verb;
use serde_json::Value;
use serde_json::json;

use crate::profiles::only_the_diagonal;
use crate::profiles::statuses;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::idp::Idp;
use crate::support::idp::claims;
use crate::support::idp::with;
use crate::support::request::Request;
use crate::support::signer::Signer;
use crate::support::upstream;
use crate::support::upstream::Upstream;

const HOST: &str = "api.propertybase.ai";
const SANDBOX: &str = "api.sandbox.propertybase.ai";
const AUTH: &str = "auth.propertybase.ai";

fn start(live: &Upstream, sandbox: &Upstream) -> Gateway {
    start_beside(idp(), live, sandbox)
}

fn start_beside(idp: &Idp, live: &Upstream, sandbox: &Upstream) -> Gateway {
    Setup::example("propertybase.toml", live, sandbox)
        .instead("127.0.0.1:3002", &idp.address().to_string())
        .tenant("acme", "standard")
        .start()
}

/// The identity provider of tests that do not look at it.
fn idp() -> &'static Idp {
    static IDP: OnceLock<Idp> = OnceLock::new();
    IDP.get_or_init(|| Idp::start(&[Signer::rsa()]))
}

/// An access token of the profile's provider, or a session, with these claims changed.
fn token(gateway: &Gateway, kind: &str, changes: Value) -> String {
    let now = gateway.clock.now().wall.unix_seconds();
    let own = json!({ "iss": "https://auth.propertybase.ai", "aud": "https://api.propertybase.ai", "auth_time": now });
    let claims = with(&with(&claims(gateway, "read:leads"), own), changes);
    let signer = Signer::rsa();
    let header = with(&signer.header(), json!({ "typ": kind }));
    signer.token_of(&header.to_string(), &claims.to_string())
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

// PB5, PB6, PB8, C-24: the provider's addresses pass byte for byte, token requests in JSON as forms, so many for each client and no more.
#[test]
fn the_providers_addresses_pass_and_are_limited() {
    let (live, idp) = (Upstream::start(), Idp::start(&[Signer::rsa()]));
    let gateway = start_beside(&idp, &live, &live);
    let provider = idp.server();
    // The gateway asks for keys meanwhile.
    let last = || {
        let mut seen = provider.requests().into_iter();
        seen.rfind(|request| request.target() != "/jwks").unwrap()
    };
    let query = "client_id=app&redirect_uri=https%3A%2F%2Fapp%2Fcb&response_type=code&scope=read:leads%20write:leads&state=a%2Fb=+";
    let authorize = Request::get(&format!("/oauth/authorize?{query}")).host(AUTH);
    gateway.send(&authorize).expect(200);
    assert_eq!(last().target(), format!("/oauth/authorize?{query}"));
    let request = |body: Value| {
        let request = Request::new("POST", "/oauth/token").host(AUTH);
        let request = request.header("Content-Type", "application/json");
        request
            .header("Authorization", "Basic YXBwOnNlY3JldA==")
            .body(body.to_string())
    };
    let asked =
        json!({ "grant_type": "refresh_token", "refresh_token": "r 1", "client_secret": "s3cret" });
    gateway.send(&request(asked)).expect(200);
    let seen = last();
    assert_eq!(
        seen.body,
        b"client_secret=s3cret&grant_type=refresh_token&refresh_token=r%201"
    );
    assert_eq!(seen.all("authorization"), ["Basic YXBwOnNlY3JldA=="]);
    gateway
        .send(&request(json!({ "scope": ["x"] })))
        .expect(400);
    let before = provider.hits_on("/oauth/token");
    let statuses: Vec<u16> = (0..30)
        .map(|_| gateway.send(&request(json!({}))).status)
        .collect();
    assert_eq!((statuses[27], statuses[28], statuses[29]), (200, 429, 429));
    assert_eq!(provider.hits_on("/oauth/token"), before + 28);
    let userinfo = Request::get("/oauth/userinfo")
        .host(AUTH)
        .bearer("opaque-token");
    gateway.send(&userinfo).expect(200);
    assert_eq!(last().all("authorization"), ["Bearer opaque-token"]);
    gateway
        .send(&Request::get("/.well-known/openid-configuration").host(AUTH))
        .expect(200);
    gateway.send(&Request::get("/admin").host(AUTH)).expect(401);
    assert!(!gateway.log().contains("s3cret") && !gateway.log().contains("opaque-token"));
    assert_eq!(live.hits(), 0);
}

// PB7, PB9, PB10, PB14, PB16: an hour's token of the provider acts for its user, within its scopes, and not in the sandbox.
#[test]
fn access_tokens_are_let_in_for_an_hour() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, &upstream);
    let good = token(&gateway, "at+jwt", json!({}));
    let ask = |method: &str, host: &str, token: &str| {
        let request = Request::new(method, "/v1/leads").host(host).bearer(token);
        let answer = gateway.send(&request.header("X-User-Id", "forged"));
        (answer.status, answer.has("retry-after"))
    };
    assert_eq!(ask("GET", HOST, &good), (200, false));
    let seen = upstream.last();
    assert_eq!(
        (seen.all("x-tenant-id"), seen.all("x-user-id")),
        (vec!["acme"], vec!["user-7"])
    );
    assert_eq!(ask("POST", HOST, &good).0, 403);
    assert_eq!(ask("GET", SANDBOX, &good).0, 401);
    let now = gateway.clock.now().wall.unix_seconds();
    for (kind, changes) in [
        ("at+jwt", json!({ "exp": now + 7_300 })),
        (
            "at+jwt",
            json!({ "aud": "https://api.sandbox.propertybase.ai" }),
        ),
        ("at+jwt", json!({ "tenant": "nobody" })),
        ("JWT", json!({})),
    ] {
        let bad = token(&gateway, kind, changes.clone());
        assert_eq!(ask("GET", HOST, &bad).0, 401, "{kind} {changes}");
    }
    gateway.advance(Duration::from_secs(3_600 + 31));
    assert_eq!(ask("GET", HOST, &good).0, 401);
    let metadata = Request::get("/.well-known/oauth-protected-resource").host(HOST);
    let metadata = gateway.send(&metadata).expect(200).json();
    assert_eq!(
        metadata["authorization_servers"],
        json!(["https://auth.propertybase.ai"])
    );
    let refused = gateway.send(&Request::get("/v1/leads").host(HOST));
    assert!(
        refused
            .one("www-authenticate")
            .contains("resource_metadata=\"https://api.propertybase.ai/")
    );
}

// PB11: a session of 24 hours, whose cookie stays here, and which no foreign page can use.
#[test]
fn sessions_live_for_a_day_and_act_for_their_own_pages_alone() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, &upstream);
    let now = gateway.clock.now().wall.unix_seconds();
    let scopes = json!({ "scope": "read:leads write:leads", "exp": now + 86_400, "client_id": null, "jti": null });
    let session = token(&gateway, "JWT", scopes);
    let ask = |method: &str, origin: &str| {
        let request = Request::new(method, "/v1/leads")
            .host(HOST)
            .header("Origin", origin);
        let request = request.header("Cookie", &format!("a=1; __Host-session={session}; b=2"));
        gateway.send(&request).status
    };
    let own = "https://api.propertybase.ai";
    assert_eq!([ask("GET", own), ask("POST", own)], [200, 200]);
    assert_eq!(upstream.last().all("cookie"), ["a=1; b=2"]);
    assert_eq!(upstream.last().all("x-user-id"), ["user-7"]);
    assert_eq!(ask("POST", "https://evil.example"), 403);
    gateway.advance(Duration::from_secs(86_400 - 60));
    assert_eq!(ask("GET", own), 200);
    gateway.advance(Duration::from_secs(120));
    assert_eq!(ask("GET", own), 401);
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
