//! `examples/council.toml`, by the rows of SEEDS section 5.

use portcullis::store::Verb;

use crate::profiles::only_the_diagonal;
use crate::profiles::statuses;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

const HOST: &str = "api.council.example";

fn setup(upstream: &Upstream) -> Setup {
    Setup::example("council.toml", upstream, upstream)
        .tenant("city", "council")
        .tenant("town", "pro")
        .tenant("village", "basic")
}

fn start(upstream: &Upstream) -> Gateway {
    setup(upstream).start()
}

// CW1, C-13: either header, both if they agree; neither reaches the backend.
#[test]
fn either_header_carries_the_key() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let (key, other) = (gateway.key("city").text, gateway.key("town").text);
    let get = || Request::get("/cases");
    for request in [
        get().bearer(&key),
        get().header("X-API-Key", &key),
        get().bearer(&key).header("X-API-Key", &key),
    ] {
        gateway.send(&request).expect(200);
        assert!(!upstream.last().text().contains(&key));
        assert_eq!(upstream.last().all("x-tenant-id"), ["city"], "CW4");
    }
    for request in [
        get().bearer(&key).header("X-API-Key", &other),
        get().header("X-API-Key", &key).header("X-API-Key", &key),
    ] {
        gateway.send(&request).expect(401);
    }
    assert_eq!(upstream.hits(), 3);
}

// CW3, CW8, CW9, C-1, C-16: 401 is the key, 403 is plan or scope; `error` is always a text.
#[test]
fn errors_are_flat_texts() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let no_plan = gateway.key("village").text;
    let no_scope = gateway.key_with_scopes("city", &["news:read"]).text;
    for (key, path, status) in [
        ("unknown", "/cases", 401),
        (no_plan.as_str(), "/cases", 403),
        (&no_scope, "/cases", 403),
        (&no_scope, "/nowhere", 404),
        (&no_scope, "/cases/%00", 400),
    ] {
        let answer = gateway.send(&Request::get(path).header("X-API-Key", key));
        answer.expect(status);
        assert!(answer.json()["error"].is_string(), "{}", answer.text());
        assert_eq!(answer.json().as_object().unwrap().len(), 1);
        if status == 401 {
            assert_eq!(answer.text(), r#"{"error":"Invalid API key"}"#);
        }
    }
    assert_eq!(upstream.hits(), 0);
}

// CW5, CW12: each scope opens its own routes.
#[test]
fn each_scope_opens_its_own_routes() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let rows = [
        ("cases:read", "GET", "/cases"),
        ("cases:write", "POST", "/cases"),
        ("wards:read", "GET", "/wards/1"),
        ("categories:read", "GET", "/categories"),
        ("users:read", "GET", "/users"),
        ("events:read", "GET", "/events"),
        ("events:write", "PATCH", "/events/1"),
        ("news:read", "GET", "/news"),
        ("news:write", "PUT", "/news/1"),
        ("reports:read", "GET", "/reports"),
        ("webhooks:read", "GET", "/webhooks"),
        ("webhooks:write", "DELETE", "/webhooks/1"),
    ];
    only_the_diagonal(&gateway, HOST, "city", &rows);
}

// CW6, C-29: Pro has the basic scopes, Council all; an upgrade and a downgrade hold from the next request on.
#[test]
fn the_plan_bounds_the_scopes() {
    let upstream = Upstream::start();
    let mut gateway = start(&upstream);
    let key = gateway.key("town");
    let requests = [
        ("GET", "/cases"),
        ("POST", "/news"),
        ("GET", "/reports"),
        ("GET", "/users"),
        ("GET", "/audit"),
    ];
    let of_pro = [200, 200, 403, 403, 403];
    assert_eq!(statuses(&gateway, HOST, &key, &requests), of_pro);
    let (pro, council) = (
        gateway.setup.clone(),
        gateway.setup.clone().tenant("town", "council"),
    );
    gateway.reload(council).unwrap();
    assert_eq!(statuses(&gateway, HOST, &key, &requests), [200; 5]);
    gateway.reload(pro).unwrap();
    assert_eq!(statuses(&gateway, HOST, &key, &requests), of_pro);
}

// CW10, C-14: nothing for browsers.
#[test]
fn browsers_get_nothing() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let page = |request: Request| request.header("Origin", "https://app.example");
    let preflight =
        page(Request::new("OPTIONS", "/cases")).header("Access-Control-Request-Method", "GET");
    let keyed = page(Request::get("/cases")).bearer(&gateway.key("city").text);
    for (request, status) in [(preflight, 401), (keyed, 403)] {
        let answer = gateway.send(&request);
        answer.expect(status);
        assert!(!answer.has("access-control-allow-origin"));
    }
    assert_eq!(upstream.hits(), 0);
}

// CW11: of several keys one is switched off.
#[test]
fn keys_are_switched_off_one_by_one() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let (old, new) = (gateway.key("city"), gateway.key("city"));
    gateway
        .execute(Verb::KeyDeactivate { id: old.id.clone() })
        .unwrap();
    gateway.get("/cases", &old).expect(401);
    gateway.get("/cases", &new).expect(200);
}

// CW14: no answer speaks of limits.
#[test]
fn no_answer_speaks_of_limits() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let answer = gateway.get("/cases", &gateway.key("city"));
    answer.expect(200);
    assert!(
        !answer.has("x-ratelimit-limit") && !answer.has("ratelimit") && !answer.has("retry-after")
    );
}

// CW13, FM5, FM13: the same address for two tenants is two requests, each with its own tenant, and no cache may share the answers.
#[test]
fn data_is_the_tenants_own() {
    let upstream = Upstream::start();
    let gateway = setup(&upstream).tenant("village", "council").start();
    for tenant in ["city", "village"] {
        let answer = gateway.get("/cases?all=1", &gateway.key(tenant));
        assert_eq!(answer.expect(200).one("cache-control"), "private");
        assert_eq!(upstream.last().all("x-tenant-id"), [tenant]);
    }
    assert_eq!(upstream.hits(), 2);
}
