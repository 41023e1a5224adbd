//! `examples/fairplace.toml`, by the rows of SEEDS sections 1 and 2.

use std::time::Duration;

use portcullis::store::NewKey;

use crate::profiles::only_the_diagonal;
use crate::profiles::statuses;
use crate::support::client::Http1;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

const HOST: &str = "api.fairplace.example";

fn start(upstream: &Upstream) -> Gateway {
    Setup::example("fairplace.toml", upstream, upstream)
        .tenant("acme", "enterprise")
        .tenant("small", "free")
        .start()
}

// FA1, FA2, FA30, FM2, C-12, C-13: Bearer alone, one tenant, the prefix; no key in X-API-Key or the query.
#[test]
fn keys_travel_as_bearer_alone() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let key = gateway.key("acme");
    assert!(key.text.starts_with("fp_live_"));
    gateway.get("/leases", &key).expect(200);
    assert_eq!(upstream.last().all("x-tenant-id"), ["acme"]);
    gateway
        .send(&Request::get("/leases").header("X-API-Key", &key.text))
        .expect(401);
    gateway
        .send(&Request::get(&format!("/leases?api_key={}", key.text)))
        .expect(401);
    assert_eq!(upstream.hits(), 1);
}

// FA17: what acts has permissions of its own; without them nothing is bought, signed or uploaded.
#[test]
fn action_routes_have_permissions_of_their_own() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let reader =
        gateway.key_with_scopes("acme", &["signatures:read", "credits:read", "media:read"]);
    let actions = [
        ("POST", "/credits/purchase"),
        ("POST", "/signatures/1/initiate"),
        ("POST", "/signatures/1/otp"),
        ("POST", "/media"),
        ("PUT", "/media/1"),
    ];
    let host = "localhost";
    assert_eq!(statuses(&gateway, host, &reader, &actions), [403; 5]);
    assert_eq!(upstream.hits(), 0);
    let reads = [
        ("GET", "/credits"),
        ("GET", "/signatures/1"),
        ("GET", "/media/1"),
    ];
    assert_eq!(statuses(&gateway, host, &reader, &reads), [200; 3]);
    let writer = gateway.key_with_scopes(
        "acme",
        &["signatures:write", "credits:write", "media:write"],
    );
    assert_eq!(statuses(&gateway, host, &writer, &actions), [200; 5]);
    assert_eq!(statuses(&gateway, host, &writer, &reads), [403; 3]);
}

// FM11: users are no resource of the API, whatever the method and whatever the key may do.
#[test]
fn users_are_not_managed_here() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let key = gateway.key("acme");
    let mut requests = Vec::new();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        requests.extend([
            (method, "/users"),
            (method, "/users/1"),
            (method, "/users/1/keys"),
        ]);
    }
    assert_eq!(statuses(&gateway, "localhost", &key, &requests), [404; 15]);
    assert_eq!(upstream.hits(), 0);
}

// FA14, C-3: the permissions of the reference, each by itself; three parts are one word.
#[test]
fn each_permission_opens_its_own_routes() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let rows = [
        ("properties:read", "GET", "/properties/1"),
        ("properties:write", "POST", "/estates"),
        ("leases:read", "GET", "/leases"),
        ("leases:write", "PATCH", "/charges/1"),
        ("lessees:read", "GET", "/contacts"),
        ("lessees:write", "PUT", "/guarantors/1"),
        ("owners:read", "GET", "/owners"),
        ("owners:write", "POST", "/owners"),
        ("signatures:read", "GET", "/signatures/1"),
        ("signatures:write", "POST", "/signatures/1/otp"),
        ("credits:read", "GET", "/credits"),
        ("credits:write", "POST", "/credits/purchase"),
        ("media:read", "GET", "/media/1"),
        ("media:write", "POST", "/media"),
        ("compliance:read", "GET", "/compliance/rent"),
        ("types:read", "GET", "/types"),
        ("webhooks:read", "GET", "/webhooks"),
        ("webhooks:write", "DELETE", "/webhooks/1"),
        ("lessee:leases:read", "GET", "/lessee/leases"),
    ];
    only_the_diagonal(&gateway, HOST, "acme", &rows);
}

// FA16, C-6: properties may be deleted, leases may not, whatever the key may.
#[test]
fn properties_may_be_deleted_and_leases_not() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let key = gateway.key_with_scopes("acme", &["properties:write", "leases:write"]);
    let seen = statuses(
        &gateway,
        HOST,
        &key,
        &[
            ("DELETE", "/properties/1"),
            ("DELETE", "/leases/1"),
            ("POST", "/users"),
        ],
    );
    assert_eq!(seen, [200, 405, 404]);
    assert_eq!(upstream.hits(), 1);
}

// FA18: a renter's key says whom it acts for.
#[test]
fn a_renters_key_says_whom_it_acts_for() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let key = gateway.make_key(NewKey {
        scopes: Some(vec!["lessee:leases:read".to_owned()]),
        subject: Some("7".to_owned()),
        ..new_key("acme")
    });
    let request = Request::get("/lessee/leases")
        .bearer(&key.text)
        .header("X-Subject-ID", "8");
    gateway.send(&request).expect(200);
    assert_eq!(upstream.last().all("x-subject-id"), ["7"]);
}

// FA19, FA28, C-2: the required permission stands in the body.
#[test]
fn a_403_names_the_permission() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let refused = gateway.get(
        "/owners",
        &gateway.key_with_scopes("acme", &["leases:read"]),
    );
    refused.expect(403);
    assert_eq!(refused.json()["required_permission"], "owners:read");
    assert_eq!(upstream.hits(), 0);
}

// FA21, FA23 to FA26, C-9, C-10, C-23: twenty a minute and a hundred an hour, each key for itself; the headers speak of the hour.
#[test]
fn the_free_plan_is_100_an_hour_and_20_a_minute() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let (key, other) = (gateway.key("small"), gateway.key("small"));
    let mut client = gateway.connect();
    let mut get = |key: &str| client.exchange(&Request::get("/leases").bearer(key));
    let mut left = 100;
    for minute in 0..5 {
        for _ in 0..20 {
            let answer = get(&key.text);
            answer.expect(200);
            left -= 1;
            assert_eq!(answer.number("x-ratelimit-limit"), 100);
            assert_eq!(answer.number("x-ratelimit-remaining"), left);
            assert!(!answer.has("retry-after") && !answer.has("ratelimit"));
        }
        if minute < 4 {
            let refused = get(&key.text);
            refused.expect(429);
            assert!((1..=60).contains(&refused.number("retry-after")));
            assert_eq!(
                refused.number("x-ratelimit-remaining"),
                left,
                "refused by the minute: the hour is not charged"
            );
        }
        gateway.advance(Duration::from_secs(61));
    }
    let refused = get(&key.text);
    refused.expect(429);
    assert_eq!(refused.number("x-ratelimit-remaining"), 0);
    get(&other.text).expect(200);
}

// FA22: a key of the custom plan has a quota of its own.
#[test]
fn a_custom_quota_is_the_keys_own() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let key = gateway.make_key(NewKey {
        quota: Some("7/hour".to_owned()),
        ..new_key("acme")
    });
    for _ in 0..7 {
        assert_eq!(gateway.get("/leases", &key).number("x-ratelimit-limit"), 7);
    }
    gateway.get("/leases", &key).expect(429);
}

// FA29, C-26: plain HTTP is refused and leads nowhere.
#[test]
fn plain_http_is_refused() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let request = Request::get("/leases").bearer(&gateway.key("acme").text);
    let answer = Http1::plain(gateway.http()).exchange(&request);
    answer.expect(403);
    assert!(!answer.has("location"));
    assert_eq!(upstream.hits(), 0);
}

// FA31: a test key is no key on live routes.
#[test]
fn a_test_key_is_refused() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let key = gateway.make_key(NewKey {
        environment: Some("test".to_owned()),
        ..new_key("acme")
    });
    assert!(key.text.starts_with("fp_test_"));
    gateway.get("/leases", &key).expect(401);
    assert_eq!(upstream.hits(), 0);
}

// FA18: a renter's key reads the renter's own leases, by path too; nobody asks the backend for another's.
#[test]
fn a_renter_reads_own_leases_only() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let key = gateway.make_key(NewKey {
        subject: Some("7".to_owned()),
        scopes: Some(vec!["lessee:leases:read".to_owned()]),
        ..new_key("acme")
    });
    gateway.get("/lessees/7/leases", &key).expect(200);
    gateway.get("/lessees/8/leases", &key).expect(404);
    assert_eq!(upstream.hits_on("/lessees/7/leases"), 1);
    assert_eq!(upstream.hits_on("/lessees/8/leases"), 0);
}

// FM11: no endpoint for user management, by whatever method and path.
#[test]
fn users_are_not_served() {
    let upstream = Upstream::start();
    let gateway = start(&upstream);
    let key = gateway.key("acme");
    for method in [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE",
    ] {
        for path in [
            "/users",
            "/users/",
            "/users/1",
            "/users/1/roles",
            "/users?x=1",
            "/users.json",
        ] {
            let request = Request::new(method, path).bearer(&key.text);
            assert_eq!(gateway.send(&request).status, 404, "{method} {path}");
        }
    }
    assert_eq!(upstream.hits(), 0);
}

// FA20, FM13: the file states that the backend filters; what it says of another tenant's lease, its own 404, is what the client gets.
#[test]
fn what_the_backend_calls_missing_is_missing() {
    let upstream = Upstream::start();
    let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\nno lease";
    upstream.answer("/leases/of-bravo", missing);
    let gateway = start(&upstream);
    let answer = gateway.get("/leases/of-bravo", &gateway.key("acme"));
    assert_eq!(answer.expect(404).text(), "no lease");
    assert_eq!(upstream.last().all("x-tenant-id"), ["acme"]);
}
