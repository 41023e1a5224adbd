//! What a key may do: scopes compared whole, methods, missing routes, and what a 403 says.

use portcullis::store::NewKey;
use portcullis::store::Verb;

use crate::support::gateway::Access;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

// FA28, FA19: 403 names the missing permission; nothing reaches the backend.
#[test]
fn a_missing_scope_is_403_and_named() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key_with_scopes("acme", &["leases:read"]);
    gateway.get("/leases", &key).expect(200);
    let refused = gateway.get("/owners", &key);
    refused.expect(403);
    assert_eq!(refused.json()["required_permission"], "owners:read");
    let challenge = refused.one("www-authenticate");
    assert!(
        challenge.contains(r#"error="insufficient_scope""#),
        "{challenge}"
    );
    assert_eq!(refused.one("cache-control"), "no-store");
    assert_eq!(upstream.hits(), 1);
}

// FA14, FF9, CW5: scopes are opaque and compared whole; neither a prefix nor a part is enough.
#[test]
fn scopes_are_compared_whole() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .route(
            "/lessee/leases",
            &["GET"],
            Access::Scope("lessee:leases:read"),
        )
        .start();
    let cases = [
        ("leases:read", 200, 403, 403),
        ("leases:write", 403, 200, 403),
        ("lessee:leases:read", 403, 403, 200),
        ("leases:rea", 403, 403, 403),
        ("leases:reads", 403, 403, 403),
        ("LEASES:READ", 403, 403, 403),
        ("leases", 403, 403, 403),
        ("admin", 403, 403, 403),
    ];
    for (scope, read, write, lessee) in cases {
        let key = gateway.key_with_scopes("acme", &[scope]);
        let mut client = gateway.connect();
        let mut status = |method: &str, target: &str| {
            let request = Request::new(method, target).bearer(&key.text);
            client.exchange(&request).status
        };
        assert_eq!(status("GET", "/leases"), read, "{scope}");
        assert_eq!(status("POST", "/leases"), write, "{scope}");
        assert_eq!(status("GET", "/lessee/leases"), lessee, "{scope}");
    }
}

// CW6: what the plan does not grant, no key has; wildcards stand only in the plan.
#[test]
fn a_plan_bounds_the_scopes_of_its_keys() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream)
        .plan("pro", "unlimited", "unlimited")
        .set("plans.pro", "scopes", r#"["leases:*"]"#)
        .set("key_rules", "ungranted_scopes", r#""allow""#)
        .tenant("acme", "pro");
    let mut gateway = setup.start();
    let listed = gateway.key_with_scopes("acme", &["leases:read", "owners:read"]);
    let inherits = gateway.key("acme");
    for key in [&listed, &inherits] {
        gateway.get("/leases", key).expect(200);
        gateway.get("/owners", key).expect(403);
    }
    let upgraded = gateway.setup.clone().tenant("acme", "open");
    gateway.reload(upgraded).unwrap();
    for key in [&listed, &inherits] {
        gateway.get("/owners", key).expect(200);
    }
}

// FA16, FM11: unlisted methods and paths are refused; 405 says what is there.
#[test]
fn unlisted_methods_are_405_and_unlisted_paths_404() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    let refused = gateway.send(&Request::new("DELETE", "/leases/1").bearer(&key.text));
    refused.expect(405);
    let allow = refused.one("allow");
    for method in ["GET", "HEAD", "POST"] {
        assert!(allow.split(", ").any(|word| word == method), "{allow}");
    }
    gateway.get("/users", &key).expect(404);
    gateway.get("/leasesx", &key).expect(404);
    assert_eq!(upstream.hits(), 0);
    gateway
        .send(&Request::new("HEAD", "/leases/1").bearer(&key.text))
        .expect(200);
    assert!(upstream.last().line.starts_with("HEAD "));
}

// DESIGN section 3: the rest of a path may be empty; more exact routes win, whatever their order.
#[test]
fn the_most_exact_route_wins() {
    let upstream = Upstream::start();
    let gateway = Setup::bare(upstream.address)
        .plan("open", "unlimited", "unlimited")
        .tenant("acme", "open")
        .route("/{*rest}", &[], Access::Scope("rest"))
        .route("/a/{id}", &[], Access::Scope("param"))
        .route("/a/b", &[], Access::Scope("static"))
        .start();
    let key = gateway.key_with_scopes("acme", &["nothing"]);
    for (path, scope) in [
        ("/", "rest"),
        ("/x", "rest"),
        ("/a", "rest"),
        ("/a/c", "param"),
        ("/a/b", "static"),
        ("/a/b/c", "rest"),
    ] {
        let refused = gateway.get(path, &key);
        assert_eq!(refused.json()["required_permission"], scope, "{path}");
    }
}

// A route bound to a host is not found under another.
#[test]
fn routes_are_bound_to_their_host() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .route_to("legacy", "/h", &[], Access::AnyKey, "host = \"a.test\"\n")
        .route_to(
            "legacy",
            "/h",
            &[],
            Access::Scope("w"),
            "host = \"*.test\"\n",
        )
        .start();
    let key = gateway.key_with_scopes("acme", &["nothing"]);
    let status = |host: &str| {
        let request = Request::get("/h").bearer(&key.text).host(host);
        gateway.send(&request).status
    };
    assert_eq!(status("a.test"), 200);
    assert_eq!(status("A.Test:443"), 200);
    assert_eq!(status("b.test"), 403);
    assert_eq!(status("localhost"), 404);
}

// FM2, FF3: what a key is made of is checked when it is made.
#[test]
fn impossible_keys_are_refused_with_a_reason() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let cases = [
        (
            NewKey {
                plan: Some("gold".into()),
                ..new_key("acme")
            },
            "gold",
        ),
        (
            NewKey {
                kind: "sesame".into(),
                ..new_key("acme")
            },
            "`secret` or `public`",
        ),
        (
            NewKey {
                quota: Some("100/fortnight".into()),
                ..new_key("acme")
            },
            "fortnight",
        ),
        (
            NewKey {
                environment: Some("moon".into()),
                ..new_key("acme")
            },
            "moon",
        ),
        (
            NewKey {
                scopes: Some(vec!["a b".into()]),
                ..new_key("acme")
            },
            "scope",
        ),
        (
            NewKey {
                expires_at_unix_seconds: Some(1),
                ..new_key("acme")
            },
            "future",
        ),
    ];
    for (key, word) in cases {
        let error = gateway.execute(Verb::KeyCreate(key)).unwrap_err();
        assert!(error.contains(word), "{error:?} says {word:?}");
    }
}

// FA31, PB16, FF16: a test key does not open a live route.
#[test]
fn keys_of_another_environment_are_unknown() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .route_to(
            "sandbox",
            "/sand",
            &[],
            Access::AnyKey,
            "environment = \"test\"\n",
        )
        .upstream("sandbox", upstream.address)
        .set("upstreams.sandbox", "environment", r#""test""#)
        .start();
    let live = gateway.key("acme");
    let test = gateway.make_key(NewKey {
        environment: Some("test".into()),
        ..new_key("acme")
    });
    assert!(test.text.contains("_test_") && live.text.contains("_live_"));
    gateway.get("/any", &live).expect(200);
    gateway.get("/any", &test).expect(401);
    gateway.get("/sand", &test).expect(200);
    gateway.get("/sand", &live).expect(401);
    assert_eq!(upstream.hits(), 2);
}
