//! What a key may do: scopes compared whole, methods, missing routes, and what a 403 says.

use portcullis::store::NewKey;
use portcullis::store::Verb;

use crate::support::gateway::Access;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

// FA28, FA19, FF17, FM12: 403 names the missing permission; nothing reaches the backend.
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

// C-4, FF9: a superscope holds every scope where the operator names one, within the plan; nowhere else is the word special.
#[test]
fn a_superscope_is_one_only_where_the_operator_says_so() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream)
        .plan("narrow", "unlimited", "unlimited")
        .set("plans.narrow", "scopes", r#"["leases:*", "admin"]"#)
        .tenant("bravo", "narrow");
    let mut gateway = setup.clone().start();
    let admin = gateway.key_with_scopes("acme", &["admin"]);
    let bounded = gateway.key_with_scopes("bravo", &["admin"]);
    let other = gateway.key_with_scopes("acme", &["admins", "Admin", "admin:all:x"]);
    for path in ["/leases", "/owners", "/admin/x"] {
        gateway.get(path, &admin).expect(403);
    }
    gateway
        .reload(setup.set("scopes", "superuser", r#"["admin"]"#))
        .unwrap();
    for path in ["/leases", "/owners", "/admin/x"] {
        gateway.get(path, &admin).expect(200);
        gateway.get(path, &other).expect(403);
    }
    gateway.get("/leases", &bounded).expect(200);
    let refused = gateway.get("/owners", &bounded);
    assert_eq!(refused.json()["required_permission"], "owners:read", "FF17");
}

// C-5: writing includes reading where the operator says so, through any number of steps, a circle included.
#[test]
fn a_scope_implies_others_only_where_the_operator_says_so() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream);
    let mut gateway = setup.clone().start();
    let writer = gateway.key_with_scopes("acme", &["leases:write"]);
    let reader = gateway.key_with_scopes("acme", &["leases:read"]);
    gateway.get("/leases", &writer).expect(403);
    let implies =
        r#"{ "leases:write" = ["leases:edit"], "leases:edit" = ["leases:read", "leases:write"] }"#;
    gateway
        .reload(setup.set("scopes", "implies", implies))
        .unwrap();
    gateway.get("/leases", &writer).expect(200);
    gateway.get("/owners", &writer).expect(403);
    gateway
        .send(&Request::new("POST", "/leases").bearer(&reader.text))
        .expect(403);
}

// FA15, C-7: a key that inherits has what its tenant has, within the plan, at every moment.
#[test]
fn an_inheriting_key_has_what_its_tenant_has() {
    let upstream = Upstream::start();
    let tenant = |scopes: &str| {
        Setup::usual(&upstream).more(&format!(
            "[[tenants]]\nid = \"org\"\nplan = \"open\"\nscopes = {scopes}\n"
        ))
    };
    let gateway = tenant(r#"["leases:read", "owners:read"]"#).start();
    let (inherits, listed) = (
        gateway.key("org"),
        gateway.key_with_scopes("org", &["owners:read"]),
    );
    gateway.get("/owners", &inherits).expect(200);
    gateway.get("/owners", &listed).expect(200);
    gateway.get("/leases", &listed).expect(403);
    gateway.get("/admin/x", &inherits).expect(403);
    let text = std::fs::read_to_string(gateway.directory().join("gateway.toml")).unwrap();
    let narrowed = text.replace(r#"["leases:read", "owners:read"]"#, r#"["leases:read"]"#);
    std::fs::write(gateway.directory().join("gateway.toml"), narrowed).unwrap();
    gateway.reload_as_is().unwrap();
    for key in [&inherits, &listed] {
        let refused = gateway.get("/owners", key);
        refused.expect(403);
        assert_eq!(refused.json()["required_permission"], "owners:read");
    }
    gateway.get("/leases", &inherits).expect(200);
}

// FF10: under a plan without granular permissions a secret key is whole; a public one never is.
#[test]
fn keys_are_whole_under_a_plan_without_granular_scopes() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream)
        .plan("basic", "unlimited", "unlimited")
        .set("plans.basic", "scopes", r#"["leases:*"]"#)
        .set("key_rules", "ungranted_scopes", r#""allow""#);
    let mut gateway = setup.clone().tenant("acme", "basic").start();
    let secret = gateway.key_with_scopes("acme", &["owners:read"]);
    let public = gateway.make_key(NewKey {
        kind: "public".to_owned(),
        scopes: Some(vec!["owners:read".to_owned()]),
        ..new_key("acme")
    });
    gateway.get("/leases", &secret).expect(403);
    let basic = setup
        .tenant("acme", "basic")
        .set("plans.basic", "granular_scopes", "false");
    let said = gateway.reload(basic.clone()).unwrap();
    assert!(
        said.contains("warning: 1 secret keys that list scopes"),
        "{said}"
    );
    let again = gateway.reload(basic).unwrap();
    assert!(!again.contains("warning"), "{again}");
    gateway.get("/leases", &secret).expect(200);
    gateway.get("/owners", &secret).expect(403);
    gateway.get("/leases", &public).expect(403);
}

// CW5, CW12, C-3, PB3: each of many scopes, whatever its grammar, opens its own routes and no other.
#[test]
fn each_scope_opens_its_own_routes_alone() {
    let upstream = Upstream::start();
    let scopes = [
        "cases:read",
        "cases:write",
        "wards:read",
        "categories:read",
        "events:read",
        "events:write",
        "news:read",
        "users:read",
        "reports:read",
        "audit:read",
        "webhooks:manage",
        "settings:write",
        "read:leads",
        "webhooks",
        "lessee:leases:read",
    ];
    let mut setup = Setup::usual(&upstream);
    for (at, scope) in scopes.iter().enumerate() {
        setup = setup.route(&format!("/matrix/{at}"), &[], Access::Scope(scope));
    }
    let gateway = setup.start();
    for (held, scope) in scopes.iter().enumerate() {
        let key = gateway.key_with_scopes("acme", &[scope]);
        let mut client = gateway.connect();
        for at in 0..scopes.len() {
            for method in ["GET", "POST", "DELETE"] {
                let request = Request::new(method, &format!("/matrix/{at}")).bearer(&key.text);
                let status = client.exchange(&request).status;
                assert_eq!(
                    status,
                    if at == held { 200 } else { 403 },
                    "{scope} on {at}"
                );
            }
        }
    }
    assert_eq!(upstream.hits(), 3 * scopes.len());
}

// FF21: what is served stands under one prefix; all else is 404 and reaches nobody.
#[test]
fn nothing_is_served_beside_the_prefix() {
    let upstream = Upstream::start();
    let gateway = Setup::bare(upstream.address)
        .plan("open", "unlimited", "unlimited")
        .tenant("acme", "open")
        .route_to(
            "legacy",
            "/v1/{*rest}",
            &[],
            Access::AnyKey,
            "host = \"api.example\"\n",
        )
        .start();
    let key = gateway.key("acme");
    let status = |host: &str, path: &str| {
        let request = Request::get(path).host(host).bearer(&key.text);
        gateway.send(&request).status
    };
    for path in ["/v1", "/v1/", "/v1/events/7"] {
        assert_eq!(status("api.example", path), 200, "{path}");
    }
    for path in [
        "/",
        "/v10",
        "/v2/events",
        "/V1/events",
        "/events",
        "/api/v1/events",
    ] {
        assert_eq!(status("api.example", path), 404, "{path}");
    }
    assert_eq!(status("other.example", "/v1/events"), 404);
    assert_eq!(upstream.hits(), 3);
}

// PB15, C-15: a 403 of the backend's own passes as it is, with our rate headers and nothing else of ours.
#[test]
fn a_backends_own_403_passes_through() {
    let upstream = Upstream::start();
    let body = r#"{"error":{"code":"FORBIDDEN","message":"not your listing"}}"#;
    let own = [("Content-Type", "application/json"), ("Retry-After", "9")];
    upstream.answer("/any/7", crate::support::upstream::status(403, &own, body));
    let gateway = Setup::limited(&upstream, "5/hour", "unlimited").start();
    let answer = gateway.get("/any/7", &gateway.key("acme"));
    answer.expect(403);
    assert_eq!(answer.text(), body);
    assert_eq!(answer.one("content-type"), "application/json");
    assert_eq!(
        answer.one("retry-after"),
        "9",
        "C-11: the backend's own passes"
    );
    assert!(!answer.has("www-authenticate"));
    assert_eq!(answer.number("x-ratelimit-remaining"), 4);
}
