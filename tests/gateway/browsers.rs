//! Keys in web pages and in addresses: preflights, origins, networks, the query, and whom a key acts for.

use portcullis::store::NewKey;

use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;
use crate::support::upstream::status;

const APP: &str = "https://app.example";
const OTHER: &str = "https://other.example";
const EVIL: &str = "https://evil.example";

/// Two routes for web pages at `APP` and `OTHER`, one of them public, beside the usual ones.
fn paged(upstream: &Upstream) -> Setup {
    let origins = format!("origins = [{APP:?}, {OTHER:?}]\n");
    Setup::limited(upstream, "5/hour", "unlimited")
        .route_to(
            "legacy",
            "/v1/events/{*rest}",
            &["GET", "POST"],
            Access::Scope("read:events"),
            &origins,
        )
        .route_to("legacy", "/open/{*rest}", &[], Access::Public, &origins)
}

/// A public key that pages at `APP` alone may use.
fn public_key(gateway: &Gateway) -> Key {
    gateway.make_key(NewKey {
        kind: "public".to_owned(),
        scopes: Some(vec!["read:events".to_owned()]),
        origins: vec![APP.to_owned()],
        ..new_key("acme")
    })
}

fn preflight(path: &str, origin: &str, method: &str) -> Request {
    Request::new("OPTIONS", path)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", method)
        .header("Access-Control-Request-Headers", "authorization, x-custom")
}

fn says_nothing_of_origins(answer: &Answer) {
    for (name, _) in &answer.headers {
        assert!(
            !name.to_ascii_lowercase().starts_with("access-control-"),
            "{name}"
        );
    }
}

// FF2: a preflight carries no key and is answered by the gateway from the route's origins; nothing is charged and nothing reaches the backend.
#[test]
fn a_preflight_is_answered_from_the_routes_origins() {
    let upstream = Upstream::start();
    let gateway = paged(&upstream).start();
    for (path, origin, method) in [
        ("/v1/events/7", APP, "GET"),
        ("/v1/events", OTHER, "POST"),
        ("/open/x", APP, "PUT"),
    ] {
        let answer = gateway.send(&preflight(path, origin, method));
        answer.expect(204);
        assert_eq!(answer.one("access-control-allow-origin"), origin);
        assert_eq!(answer.one("access-control-allow-methods"), method);
        assert_eq!(
            answer.one("access-control-allow-headers"),
            "authorization, x-custom"
        );
        assert_eq!(answer.one("access-control-max-age"), "600");
        let vary = answer.one("vary").to_ascii_lowercase();
        assert!(vary.contains("origin") && vary.contains("access-control-request-method"));
        assert!(
            !answer.has("x-ratelimit-limit") && !answer.has("access-control-allow-credentials")
        );
        assert_eq!(answer.body, b"");
    }
    let other_method = gateway.send(&preflight("/v1/events", APP, "DELETE"));
    assert_eq!(
        other_method.one("access-control-allow-methods"),
        "GET, HEAD, POST"
    );
    assert_eq!(upstream.hits(), 0);
    let key = public_key(&gateway);
    let first = gateway.send(
        &Request::get("/v1/events")
            .header("Origin", APP)
            .bearer(&key.text),
    );
    assert_eq!(
        first.number("x-ratelimit-remaining"),
        4,
        "preflights cost nothing"
    );
    assert_eq!(gateway.log_line("preflight")["decision"], "preflight");
}

// CW10, C-14: where no origin is listed, or not this one, a preflight is a request without a key.
#[test]
fn any_other_preflight_is_refused_like_a_request_without_a_key() {
    let upstream = Upstream::start();
    let gateway = paged(&upstream).start();
    let cases = [
        preflight("/leases", APP, "GET"),
        preflight("/any/x", APP, "GET"),
        preflight("/nowhere", APP, "GET"),
        preflight("/v1/events", EVIL, "GET"),
        preflight("/v1/events", "null", "GET"),
        preflight("/v1/events", "https://app.example.evil", "GET"),
        preflight("/v1/events", APP, "GET").header("Origin", EVIL),
    ];
    for request in cases {
        let answer = gateway.send(&request);
        answer.expect(401);
        says_nothing_of_origins(&answer);
    }
    let no_preflight = Request::new("OPTIONS", "/v1/events").header("Origin", APP);
    gateway.send(&no_preflight).expect(401);
    assert_eq!(upstream.hits(), 0);
}

// FF1, FF2, C-14: a public key works from its own origins alone; what is refused for them costs nothing and shows no rate.
#[test]
fn a_public_key_works_from_its_own_origins() {
    let upstream = Upstream::start();
    let gateway = paged(&upstream).start();
    let key = public_key(&gateway);
    let get = |origin: &str| {
        Request::get("/v1/events")
            .header("Origin", origin)
            .bearer(&key.text)
    };
    for origin in [
        EVIL,
        OTHER,
        "null",
        "https://APP.example",
        "https://app.example:443",
    ] {
        let answer = gateway.send(&get(origin));
        answer.expect(403);
        assert_eq!(answer.json()["code"], "origin_not_allowed");
        assert!(!answer.has("x-ratelimit-limit"));
        says_nothing_of_origins(&answer);
        assert_eq!(answer.all("vary"), ["Origin"]);
    }
    gateway.send(&get(APP).header("Origin", EVIL)).expect(403);
    assert_eq!(upstream.hits(), 0);
    let answer = gateway.send(&get(APP));
    answer.expect(200);
    assert_eq!(answer.number("x-ratelimit-remaining"), 4);
    assert_eq!(answer.one("access-control-allow-origin"), APP);
    assert_eq!(answer.one("vary"), "Origin");
    let exposed = answer.one("access-control-expose-headers");
    assert!(exposed.contains("X-RateLimit-Remaining") && exposed.contains("Retry-After"));
    // Who names two origins is told of none, whatever the key.
    let unbound = gateway.key("acme");
    let two = Request::get("/v1/events").bearer(&unbound.text);
    let two = gateway.send(&two.header("Origin", APP).header("Origin", EVIL));
    two.expect(200);
    says_nothing_of_origins(&two);
    assert_eq!(two.all("vary"), ["Origin"]);
    // A write route is out of its scopes.
    gateway
        .send(
            &Request::new("POST", "/leases")
                .header("Origin", APP)
                .bearer(&key.text),
        )
        .expect(403);
    // What names no origin comes from no page.
    gateway.get("/v1/events", &key).expect(200);
}

// FF2: a page can read why it was refused, whatever the refusal.
#[test]
fn refusals_carry_the_origin_too() {
    let upstream = Upstream::start();
    let gateway = paged(&upstream).start();
    let key = public_key(&gateway);
    let no_scope = gateway.key_with_scopes("acme", &["other:scope"]);
    let get = |text: &str| {
        let request = Request::get("/v1/events").header("Origin", APP);
        gateway.send(&if text.is_empty() {
            request
        } else {
            request.bearer(text)
        })
    };
    for (answer, status) in [
        (get(""), 401),
        (get("unknown"), 401),
        (get(&no_scope.text), 403),
    ] {
        answer.expect(status);
        assert_eq!(answer.one("access-control-allow-origin"), APP);
        assert_eq!(answer.one("vary"), "Origin");
    }
    for _ in 0..5 {
        get(&key.text).expect(200);
    }
    let limited = get(&key.text);
    limited.expect(429);
    assert_eq!(limited.one("access-control-allow-origin"), APP);
    assert!(
        limited
            .one("access-control-expose-headers")
            .contains("Retry-After")
    );
}

// FF2: what the backend says of origins gives way to the route's word; on other routes it is the backend's own affair.
#[test]
fn the_backends_own_word_on_origins_is_replaced() {
    let upstream = Upstream::start();
    let said = [
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "X-Total"),
        ("Vary", "Accept"),
    ];
    for path in ["/open/x", "/public/x"] {
        upstream.answer(path, upstream::status(200, &said, "x"));
    }
    let gateway = paged(&upstream).start();
    let allowed = gateway.send(&Request::get("/open/x").header("Origin", APP));
    assert_eq!(allowed.one("access-control-allow-origin"), APP);
    assert!(!allowed.has("access-control-allow-credentials"));
    assert_eq!(allowed.all("vary"), ["Accept", "Origin"]);
    assert_eq!(allowed.all("access-control-expose-headers")[0], "X-Total");
    for request in [
        Request::get("/open/x").header("Origin", EVIL),
        Request::get("/open/x"),
    ] {
        let denied = gateway.send(&request);
        denied.expect(200);
        assert!(!denied.has("access-control-allow-origin"));
        assert_eq!(denied.all("vary"), ["Accept", "Origin"]);
    }
    let silent = gateway.send(&Request::get("/public/x").header("Origin", EVIL));
    assert_eq!(silent.one("access-control-allow-origin"), "*");
    assert_eq!(silent.one("vary"), "Accept");
}

// FF20, C-14: a secret key that a browser sends is refused, and told of, where the operator says so.
#[test]
fn secret_keys_are_refused_from_browsers_where_the_operator_says_so() {
    let upstream = Upstream::start();
    let setup = paged(&upstream);
    let mut gateway = setup.clone().start();
    let secret = gateway.key("bravo");
    let public = public_key(&gateway);
    let get = || Request::get("/v1/events").bearer(&secret.text);
    gateway.send(&get().header("Origin", APP)).expect(200);
    gateway
        .reload(setup.set("auth", "secret_keys_in_browsers", r#""refuse""#))
        .unwrap();
    for (name, value) in [("Origin", APP), ("Sec-Fetch-Mode", "cors")] {
        let answer = gateway.send(&get().header(name, value));
        answer.expect(403);
        assert!(!answer.has("x-ratelimit-limit"));
    }
    let line = gateway.log_line("secret_key_in_browser");
    assert_eq!(line["key_id"], secret.id.as_str());
    gateway.send(&get()).expect(200);
    gateway
        .send(
            &Request::get("/v1/events")
                .header("Origin", APP)
                .bearer(&public.text),
        )
        .expect(200);
    assert_eq!(upstream.hits(), 3);
}

// A key bound to networks is refused from any other, uncharged; 127.0.0.1 is where the tests come from.
#[test]
fn a_key_bound_to_networks_is_refused_from_others() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "5/hour", "unlimited").start();
    let key = |cidrs: &[&str]| {
        let cidrs = cidrs.iter().map(|net| (*net).to_owned()).collect();
        gateway.make_key(NewKey {
            cidrs,
            ..new_key("acme")
        })
    };
    for (cidrs, status) in [
        (&["127.0.0.0/8"][..], 200),
        (&["192.0.2.0/24", "127.0.0.1"], 200),
        (&["127.0.0.2"], 403),
        (&["192.0.2.0/24", "2001:db8::/32", "::1"], 403),
    ] {
        let answer = gateway.get("/any", &key(cidrs));
        answer.expect(status);
        assert_eq!(answer.has("x-ratelimit-limit"), status == 200, "{cidrs:?}");
        if status == 403 {
            assert_eq!(answer.json()["code"], "address_not_allowed");
        }
    }
    // An address that the client writes itself is none.
    let forged = Request::get("/any").bearer(&key(&["192.0.2.0/24"]).text);
    gateway
        .send(&forged.header("X-Forwarded-For", "192.0.2.7"))
        .expect(403);
    assert_eq!(upstream.hits(), 2);
}

// FF11, C-12: the key in the query is as good as one in a header, and all that the backend sees of it is nothing.
#[test]
fn a_key_in_the_query_is_taken_out_byte_for_byte() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("auth", "query_parameter", r#""api_key""#)
        .start();
    let key = gateway.key("acme").text;
    let encoded: String = key.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let cases = [
        (format!("/any?a=1&api_key={key}&b=%2F"), "/any?a=1&b=%2F"),
        (format!("/any?api_key={key}"), "/any"),
        (
            format!("/any?api%5Fkey={encoded}&x=%61+%20"),
            "/any?x=%61+%20",
        ),
        (format!("/any/%6cx?z&&api_key={key}&y="), "/any/lx?z&&y="),
        (format!("/public/x?api_key={key}&b"), "/public/x?b"),
    ];
    for (target, seen) in &cases {
        let answer = gateway.send(&Request::get(target));
        answer.expect(200);
        assert_eq!(upstream.last().target(), *seen, "{target}");
        assert_eq!(answer.one("referrer-policy"), "no-referrer");
        assert_eq!(answer.one("cache-control"), "private");
    }
    for recorded in upstream.requests() {
        assert!(!recorded.text().contains(&key) && !recorded.text().contains(&encoded));
    }
    for (said, kept) in [
        ("public, max-age=60", "private"),
        ("max-age=60", "max-age=60, private"),
        (
            "private=\"set-cookie\", max-age=60",
            "private=\"set-cookie\", max-age=60, private",
        ),
        ("max-age=60, Private", "max-age=60, Private"),
        ("no-store", "no-store"),
    ] {
        let answer = status(200, &[("Cache-Control", said)], "");
        upstream.script("/any/kept", vec![Step::ReadBody, Step::Send(answer)]);
        let answer = gateway.send(&Request::get(&format!("/any/kept?api_key={key}")));
        assert_eq!(answer.all("cache-control"), [kept], "{said}");
    }
    let agreed = Request::get(&format!("/any?api_key={key}"))
        .bearer(&key)
        .header("X-API-Key", &key);
    gateway.send(&agreed).expect(200);
    gateway.stop_and_find_nothing(&key);
}

// FF11: two keys are one too many, and what is not a key is none.
#[test]
fn a_doubtful_key_in_the_query_is_401() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("auth", "query_parameter", r#""api_key""#)
        .start();
    let (one, two) = (gateway.key("acme").text, gateway.key("bravo").text);
    let get = |query: &str| Request::get(&format!("/any?{query}"));
    let cases = [
        get(&format!("api_key={one}")).bearer(&two),
        get(&format!("api_key={one}")).header("X-API-Key", &two),
        get(&format!("api_key={one}&api_key={two}")),
        get(&format!("api_key={one}&api_key={one}")),
        get(&format!("api_key={one}&api%5fkey={two}")),
        get("api_key=").bearer(&one),
        get("api_key").bearer(&one),
        get(&format!("API_KEY={one}")),
        get(&format!("x=1;api_key={one}")),
        get("api_key=unknown"),
    ];
    for request in &cases {
        let answer = gateway.send(request);
        answer.expect(401);
        let keyed = !request.target.contains("API_KEY") && !request.target.contains(';');
        assert_eq!(answer.has("referrer-policy"), keyed, "{}", request.target);
        assert_eq!(answer.one("cache-control"), "no-store");
    }
    let key = gateway.key("acme").text;
    let missing = gateway.send(&Request::get(&format!("/nowhere?api_key={key}")));
    missing.expect(404);
    assert_eq!(missing.one("cache-control"), "private");
    assert_eq!(upstream.hits(), 0);
}

// FA30, C-12: off, which is the default, the parameter is like any other: no credential, and none of our business.
#[test]
fn switched_off_the_parameter_is_like_any_other() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme").text;
    gateway
        .send(&Request::get(&format!("/any?api_key={key}")))
        .expect(401);
    assert_eq!(upstream.hits(), 0);
    let answer = gateway.send(&Request::get("/any?api_key=whatever&b=%2F").bearer(&key));
    answer.expect(200);
    assert!(!answer.has("referrer-policy"));
    assert_eq!(upstream.last().target(), "/any?api_key=whatever&b=%2F");
    gateway.stop_and_find_nothing(&key);
}

// FA18: the backend learns whom a key acts for from us alone.
#[test]
fn the_subject_is_the_keys_whatever_the_client_says() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("subject_header", "name", r#""X-Subject-Id""#)
        .start();
    let bound = gateway.make_key(NewKey {
        subject: Some("7".to_owned()),
        ..new_key("acme")
    });
    let unbound = gateway.key("acme");
    let spoofed = |key: &Key| {
        Request::get("/any")
            .bearer(&key.text)
            .header("X-Subject-Id", "8")
            .header("x_subject_id", "8")
            .header("X-SUBJECT-ID", "9")
            .header("Connection", "x-subject-id")
    };
    for (key, seen) in [(&bound, &["7"][..]), (&unbound, &[])] {
        gateway.send(&spoofed(key)).expect(200);
        let values: Vec<String> = upstream
            .last()
            .look_alikes("x-subject-id")
            .iter()
            .map(|(_, value)| (*value).to_owned())
            .collect();
        assert_eq!(values, seen);
    }
    let mut public = spoofed(&bound);
    public.target = "/public/x".to_owned();
    gateway.send(&public).expect(200);
    assert!(upstream.last().look_alikes("x-subject-id").is_empty());
}

impl Gateway {
    /// Stops, and looks for a key in every file that it left.
    fn stop_and_find_nothing(self, key: &str) {
        let setup = self.setup.clone();
        self.stop();
        for (path, bytes) in crate::support::gateway::files_below(setup.directory()) {
            assert!(
                upstream::find(&bytes, key.as_bytes()).is_none(),
                "{}",
                path.display()
            );
        }
    }
}
