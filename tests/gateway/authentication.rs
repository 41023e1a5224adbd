//! Who gets in: credentials in all their spellings, and one answer for all that do not stand.

use std::time::Duration;

use portcullis::store::NewKey;
use portcullis::store::Verb;

use crate::support::client::block_on;
use crate::support::frames;
use crate::support::frames::Frames;
use crate::support::frames::Outcome;
use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

// FA1: a key as a bearer credential in every request, the scheme in any letter case.
#[test]
fn a_bearer_key_is_admitted_whatever_the_case_of_the_scheme() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme").text;
    for value in [
        format!("Bearer {key}"),
        format!("bearer {key}"),
        format!("BEARER {key}"),
        format!("Bearer   {key}"),
    ] {
        let request = Request::get("/any").header("Authorization", &value);
        assert_eq!(gateway.send(&request).status, 200, "{value:?}");
    }
    assert_eq!(upstream.hits(), 4);
}

// FA1, S12, S13: everything else is 401 and nothing reaches the backend.
#[test]
fn malformed_credentials_are_refused() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme").text;
    let swapped: String = key
        .chars()
        .map(|letter| match letter.is_ascii_lowercase() {
            true => letter.to_ascii_uppercase(),
            false => letter.to_ascii_lowercase(),
        })
        .collect();
    let values = [
        format!("Bearer{key}"),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        "Bearer  ".to_owned(),
        format!("Basic {key}"),
        format!("Bearer {key} junk"),
        format!("Bearer {key},"),
        format!("Bearer {key}, Bearer {key}x"),
        format!("Bearer \"{key}\""),
        format!("Bearer {}", &key[..key.len() - 1]),
        format!("Bearer {key}0"),
        format!("Bearer {swapped}"),
        format!("Bearer {}", key.to_uppercase()),
        format!("Bearer {}", key.to_lowercase()),
        format!("Bearer {}", &key[..12]),
        format!("Bearer {}", "a".repeat(4000)),
        key.clone(),
    ];
    for value in &values {
        let request = Request::get("/any").header("Authorization", value);
        assert_eq!(gateway.send(&request).status, 401, "{value:?}");
    }
    assert_eq!(upstream.hits(), 0);
}

// S14: keys that differ in one place only are all unknown, wherever the place is.
#[test]
fn keys_that_share_all_but_one_character_are_unknown() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme").text;
    let mut client = gateway.connect();
    for at in 0..key.len() {
        let mut other = key.clone().into_bytes();
        other[at] = if other[at] == b'7' { b'8' } else { b'7' };
        let other = String::from_utf8(other).unwrap();
        let answer = client.exchange(&Request::get("/any").bearer(&other));
        assert_eq!(answer.status, 401, "changed at {at}");
    }
    assert_eq!(upstream.hits(), 0);
}

// CW1: `X-API-Key` serves as well; the same key twice is one credential.
#[test]
fn x_api_key_serves_as_well_and_both_may_agree() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme").text;
    let alone = Request::get("/any").header("X-API-Key", &key);
    gateway.send(&alone).expect(200);
    gateway.send(&alone.clone().bearer(&key)).expect(200);
    assert_eq!(upstream.hits(), 2);
}

// CW1, S12, FA1: two credentials that differ are refused; which one would win is never a question.
#[test]
fn credentials_that_differ_are_refused() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let (one, two) = (gateway.key("acme").text, gateway.key("bravo").text);
    let get = || Request::get("/any");
    let cases = [
        get().bearer(&one).header("X-API-Key", &two),
        get().bearer(&one).header("X-API-Key", "unknown"),
        get().bearer("unknown").header("X-API-Key", &one),
        get().header("X-API-Key", &one).header("X-API-Key", &two),
        get()
            .header("X-API-Key", &one)
            .header("x-api-key", &one[..9]),
        get().header("X-API-Key", &format!("{one}, {two}")),
        get().bearer(&one).bearer(&two),
        get().bearer(&two).bearer(&one),
        get().bearer(&one).header("Authorization", "Basic YTpi"),
    ];
    for request in &cases {
        let answer = gateway.send(request);
        assert_eq!(answer.status, 401, "{:?}", request.headers);
    }
    assert_eq!(upstream.hits(), 0);
}

// CW1: two `X-API-Key` lines and two `Authorization` lines are refused on HTTP/2 as well.
#[test]
fn credentials_that_differ_are_refused_over_http2() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let (one, two) = (gateway.key("acme").text, gateway.key("bravo").text);
    let mut client = Frames::connect(gateway.https());
    for (first, second) in [(&one, &two), (&two, &one)] {
        let mut fields = frames::get("/any");
        fields.extend([
            ("x-api-key", first.as_str()),
            ("x-api-key", second.as_str()),
        ]);
        assert_eq!(client.exchange(&fields), Outcome::Status(401));
    }
    assert_eq!(upstream.hits(), 0);
}

// An `Authorization` of another scheme beside a valid key: refused, or the backend's own when the operator says so.
#[test]
fn a_foreign_authorization_is_refused_unless_it_is_to_be_passed() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream);
    let gateway = setup.clone().start();
    let request = |key: &str| {
        Request::get("/any")
            .header("Authorization", "Basic YTpi")
            .header("X-API-Key", key)
    };
    let key = gateway.key("acme").text;
    gateway.send(&request(&key)).expect(401);
    assert_eq!(upstream.hits(), 0);
    gateway.stop();

    let gateway = setup
        .set("auth", "foreign_authorization", r#""pass""#)
        .start();
    gateway.send(&request(&key)).expect(200);
    assert_eq!(upstream.last().all("authorization"), ["Basic YTpi"]);
    assert!(!upstream.last().text().contains(&key));
}

// CW1: neither header reaches the backend.
#[test]
fn the_credential_does_not_reach_the_backend() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme").text;
    let request = Request::get("/any").bearer(&key).header("X-API-Key", &key);
    gateway.send(&request).expect(200);
    assert!(upstream.last().look_alikes("authorization").is_empty());
    assert!(upstream.last().look_alikes("x-api-key").is_empty());
}

// The same on a route that asks for no key: what the client sent for us is not the backend's business.
#[test]
fn the_credential_does_not_reach_the_backend_of_a_public_route() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme").text;
    let request = Request::get("/public/x")
        .bearer(&key)
        .header("X-API-Key", &key);
    gateway.send(&request).expect(200);
    assert!(!upstream.last().text().contains(&key));
    assert!(upstream.last().look_alikes("x-tenant-id").is_empty());
}

// FA27: no header is a bare challenge; malformed, unknown, expired, revoked and switched-off keys are all one answer.
#[test]
fn all_bad_credentials_get_the_same_answer() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .upstream("sandbox", upstream.address)
        .set("upstreams.sandbox", "environment", r#""test""#)
        .route_to(
            "sandbox",
            "/sandbox",
            &[],
            Access::AnyKey,
            "environment = \"test\"\n",
        )
        .start();
    let answers = bad_credentials(&gateway);
    for (name, answer) in &answers {
        assert_eq!(answer.status, 401, "{name}");
        assert_eq!(comparable(answer), comparable(&answers[0].1), "{name}");
        let challenge = answer.one("www-authenticate");
        assert!(challenge.starts_with("Bearer realm="), "{challenge}");
        assert!(
            challenge.contains(r#"error="invalid_token""#),
            "{challenge}"
        );
        assert_eq!(answer.one("cache-control"), "no-store");
    }
    let nothing = gateway.send(&Request::get("/any"));
    nothing.expect(401);
    let challenge = nothing.one("www-authenticate");
    assert!(challenge.starts_with("Bearer realm=") && !challenge.contains("error"));
    assert_eq!(
        body_without_request_id(&nothing),
        body_without_request_id(&answers[0].1)
    );
    assert_eq!(upstream.hits(), 0);
}

fn bad_credentials(gateway: &Gateway) -> Vec<(&'static str, Answer)> {
    let expired = gateway.make_key(NewKey {
        expires_in_seconds: Some(60),
        ..new_key("acme")
    });
    let revoked = gateway.key("acme");
    gateway.revoke(&revoked);
    let inactive = gateway.key("acme");
    let id = inactive.id.clone();
    gateway.execute(Verb::KeyDeactivate { id }).unwrap();
    let deleted = gateway.key("acme");
    let id = deleted.id.clone();
    gateway.execute(Verb::KeyDelete { id }).unwrap();
    gateway.advance(Duration::from_secs(61));
    let mut wrong_checksum = gateway.key("acme").text;
    let last = wrong_checksum.pop().unwrap();
    wrong_checksum.push(if last == '0' { '1' } else { '0' });
    [
        ("malformed", "x".to_owned()),
        ("another shape", "no-key-at-all".to_owned()),
        ("wrong checksum", wrong_checksum),
        ("expired", expired.text),
        ("revoked", revoked.text),
        ("inactive", inactive.text),
        ("deleted", deleted.text),
    ]
    .into_iter()
    .map(|(name, key)| (name, Request::get("/any").bearer(&key)))
    .chain([
        (
            "ambiguous",
            Request::get("/any").bearer("x").header("X-API-Key", "y"),
        ),
        (
            "another scheme",
            Request::get("/any").header("Authorization", "Basic x"),
        ),
        (
            "wrong environment",
            Request::get("/sandbox").bearer(&gateway.key("acme").text),
        ),
    ])
    .map(|(name, request)| (name, gateway.send(&request)))
    .collect()
}

/// All of an answer but the date and the request id, both of which differ each time.
fn comparable(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| {
        !name.eq_ignore_ascii_case("date") && !name.eq_ignore_ascii_case("x-request-id")
    });
    (answer.status, headers, body_without_request_id(answer))
}

fn body_without_request_id(answer: &Answer) -> String {
    let id = answer.one("x-request-id");
    answer.text().replace(id, "…")
}

// FA30, C-12: a key in the query is no credential by default.
#[test]
fn a_key_in_the_query_is_not_a_credential() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme").text;
    gateway
        .send(&Request::get(&format!("/any?api_key={key}")))
        .expect(401);
    assert_eq!(upstream.hits(), 0);
    assert!(!gateway.log().contains(&key));
}

// CW3, CW8: a plan without API access is 403 to a valid key and 401 to an unknown one, and no limit is touched.
#[test]
fn a_plan_without_api_access_is_403_for_valid_keys_only() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .plan("basic", "100/hour", "20/min")
        .set("plans.basic", "api_access", "false")
        .tenant("acme", "basic")
        .start();
    let key = gateway.key("acme");
    let refused = gateway.get("/any", &key);
    refused.expect(403);
    assert!(
        !refused.has("x-ratelimit-limit"),
        "refused before the charge"
    );
    gateway
        .send(&Request::get("/any").bearer("unknown"))
        .expect(401);
    assert_eq!(upstream.hits(), 0);
}

// A suspended tenant's keys get 403, and work again when it is resumed.
#[test]
fn a_suspended_tenant_is_403_until_it_is_resumed() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let id = || "stored".to_owned();
    let plan = "open".to_owned();
    gateway
        .execute(Verb::TenantCreate {
            id: id(),
            name: None,
            plan,
            upstreams: Default::default(),
        })
        .unwrap();
    let key = gateway.key("stored");
    gateway.get("/any", &key).expect(200);
    gateway.execute(Verb::TenantSuspend { id: id() }).unwrap();
    gateway.get("/any", &key).expect(403);
    gateway.execute(Verb::TenantResume { id: id() }).unwrap();
    gateway.get("/any", &key).expect(200);
    assert_eq!(upstream.hits(), 2);
}

// FM4, CW4: a key belongs to exactly one tenant, which exists.
#[test]
fn a_key_needs_a_tenant_that_exists() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let error = gateway
        .execute(Verb::KeyCreate(new_key("nobody")))
        .unwrap_err();
    assert!(error.contains("nobody"), "{error}");
    assert!(gateway.execute(Verb::KeyCreate(new_key(""))).is_err());
    // Two names are not one tenant.
    assert!(
        gateway
            .execute(Verb::KeyCreate(new_key("acme,bravo")))
            .is_err()
    );
}

// IMP3, CHECK-order: a request that fails several checks gets the first.
#[test]
fn the_first_failing_check_answers() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "1/hour", "unlimited").start();
    let key = gateway.key_with_scopes("acme", &["nothing:here"]);
    let status = |request: Request| gateway.send(&request).status;
    let bad_path = |key: &str| Request::get("/any/%2e%2e/x").bearer(key);
    // 400 before 401.
    assert_eq!(status(bad_path("unknown")), 400);
    // 401 before 404, 405 and 403.
    assert_eq!(status(Request::get("/nowhere").bearer("unknown")), 401);
    assert_eq!(
        status(Request::new("PUT", "/leases").bearer("unknown")),
        401
    );
    // The one request that the limit leaves goes to a 403.
    assert_eq!(status(Request::get("/leases").bearer(&key.text)), 403);
    // 429 before 404, 405 and 403: whatever it asks for.
    for (method, target) in [("GET", "/nowhere"), ("PUT", "/leases"), ("GET", "/leases")] {
        assert_eq!(status(Request::new(method, target).bearer(&key.text)), 429);
    }
    assert_eq!(upstream.hits(), 0);
}

// IMP3: what stands in the way of a key comes before its limits, and those before the size of the body.
#[test]
fn standing_comes_before_the_limits_and_those_before_the_body() {
    let upstream = Upstream::start();
    let mut gateway = Setup::limited(&upstream, "1/hour", "unlimited")
        .set("http", "body_bytes_max", r#""9B""#)
        .start();
    let key = gateway.key("acme");
    let large = |key: &str| {
        let request = Request::new("POST", "/any").bearer(key);
        request.body("more than nine")
    };
    gateway.send(&large("unknown")).expect(401);
    gateway.send(&large(&key.text)).expect(413);
    gateway.send(&large(&key.text)).expect(429);
    let closed = gateway
        .setup
        .clone()
        .set("plans.limited", "api_access", "false");
    gateway.reload(closed).unwrap();
    let refused = gateway.send(&large(&key.text));
    refused.expect(403);
    assert!(!refused.has("retry-after") && !refused.has("x-ratelimit-limit"));
    // The environment of the place is the key's own fault, and so comes before its plan's.
    let moved = gateway
        .setup
        .clone()
        .more("[[hosts]]\nname = \"sandbox.test\"\nenvironment = \"test\"");
    gateway.reload(moved).unwrap();
    let request = large(&key.text).host("sandbox.test");
    gateway.send(&request).expect(401);
    assert_eq!(upstream.hits(), 0);
}

// DESIGN section 4: a gRPC client is answered in trailers alone, with status 200, over HTTP/2 and HTTP/1.1.
#[test]
fn grpc_clients_are_refused_in_trailers() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "2/hour", "unlimited").start();
    let key = gateway.key_with_scopes("acme", &["nothing:here"]).text;
    let call = |target: &str| {
        let request = Request::new("POST", target);
        request.header("Content-Type", "application/grpc+proto")
    };
    let cases = [
        (call("/any"), "16"),
        (call("/any").bearer("unknown"), "16"),
        (call("/leases").bearer(&key), "7"),
        (call("/nowhere").bearer(&key), "12"),
        (call("/nowhere").bearer(&key), "8"),
    ];
    for (request, status) in cases {
        // The last case finds the quota used up by the two before it, so each is sent once, over one protocol after the other.
        let answer = match status {
            "7" => gateway.send(&request),
            _ => block_on(async {
                let client = gateway.connect_h2().await;
                client.exchange(&request).await.unwrap()
            }),
        };
        answer.expect(200);
        assert_eq!(answer.one("grpc-status"), status);
        assert_eq!(answer.one("content-type"), "application/grpc");
        assert!(!answer.one("grpc-message").is_empty());
        assert_eq!(answer.one("x-request-id").len(), 36);
        assert_eq!(answer.body, b"");
        assert_eq!(answer.has("retry-after"), status == "8");
    }
    assert_eq!(upstream.hits(), 0);
}

// CW9, PB12, PB13, FA19: three shapes of body, chosen for all or by host.
#[test]
fn refusals_have_the_configured_shape() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream).more(
        "[[hosts]]\nname = \"nested.test\"\n[hosts.errors]\nshape = \"nested\"\nname_permission = false\n\
         [[hosts]]\nname = \"flat.test\"\n[hosts.errors]\nshape = \"flat\"",
    );
    let gateway = setup.start();
    let key = gateway.key_with_scopes("acme", &["nothing:here"]);
    let cases = [
        Request::get("/leases"),
        Request::get("/leases").bearer(&key.text),
        Request::get("/nowhere").bearer(&key.text),
        Request::new("PUT", "/leases").bearer(&key.text),
        Request::get("/any/%00"),
    ];
    for request in cases {
        let problem = gateway.send(&request);
        assert_eq!(problem.one("content-type"), "application/problem+json");
        assert_eq!(problem.json()["status"], problem.status);
        let nested = gateway.send(&request.clone().host("nested.test"));
        assert_eq!(nested.status, problem.status);
        assert_eq!(nested.one("content-type"), "application/json");
        assert!(
            nested.json()["error"]["code"].is_string(),
            "{}",
            nested.text()
        );
        assert!(nested.json()["error"]["message"].is_string());
        assert!(!nested.text().contains("leases:read"));
        let flat = gateway.send(&request.clone().host("flat.test"));
        assert_eq!(flat.status, problem.status);
        assert!(flat.json()["error"].is_string(), "{}", flat.text());
    }
}

// FA1 over HTTP/2, many requests at once on one connection.
#[test]
fn each_stream_of_a_connection_stands_for_itself() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .route("/who/{*rest}", &[], Access::AnyKey)
        .start();
    let (acme, bravo) = (gateway.key("acme"), gateway.key("bravo"));
    block_on(async {
        let client = gateway.connect_h2().await;
        for (key, status, tenant) in [
            (Some(&acme), 200, "acme"),
            (None, 401, ""),
            (Some(&bravo), 200, "bravo"),
        ] {
            let mut request = Request::get("/who");
            if let Some(key) = key {
                request = request.bearer(&key.text);
            }
            let answer = client.exchange(&request).await.unwrap();
            assert_eq!(answer.status, status);
            if status == 200 {
                assert_eq!(upstream.last().all("x-tenant-id"), [tenant]);
            }
        }
    });
}

/// Four hosts, one for each way of writing errors, before one backend; `acme` may use the API, `bravo` has no plan for it.
fn by_host(upstream: &Upstream) -> Setup {
    let host = |name: &str, shape: &str, named: bool| {
        format!(
            "[[hosts]]\nname = \"{name}.test\"\n[hosts.errors]\nshape = {shape:?}\nname_permission = {named}\n"
        )
    };
    Setup::usual(upstream)
        .plan("basic", "unlimited", "unlimited")
        .set("plans.basic", "api_access", "false")
        .tenant("bravo", "basic")
        .more(&host("nested", "nested", false))
        .more(&host("naming", "nested", true))
        .more(&host("flat", "flat", false))
        .more(&host("problem", "problem", true))
}

// C-1, C-2, PB12, PB13, CW9, FA19: each host writes the bodies of its own API, exactly.
#[test]
fn each_host_writes_exactly_the_bodies_of_its_api() {
    let upstream = Upstream::start();
    let gateway = by_host(&upstream).start();
    let key = gateway.key_with_scopes("acme", &["nothing:here"]).text;
    let bodies = |host: &str, key: &str| {
        let request = Request::get("/owners").host(host);
        gateway.send(&if key.is_empty() {
            request
        } else {
            request.bearer(key)
        })
    };
    let cases = [
        (
            "nested.test",
            "",
            401,
            r#"{"error":{"code":"UNAUTHORIZED","message":"Invalid or expired token"}}"#,
        ),
        (
            "nested.test",
            "unknown",
            401,
            r#"{"error":{"code":"UNAUTHORIZED","message":"Invalid or expired token"}}"#,
        ),
        (
            "nested.test",
            &key,
            403,
            r#"{"error":{"code":"FORBIDDEN","message":"Insufficient permissions"}}"#,
        ),
        (
            "naming.test",
            &key,
            403,
            r#"{"error":{"code":"FORBIDDEN","message":"Insufficient permissions","required_permission":"owners:read"}}"#,
        ),
        ("flat.test", "", 401, r#"{"error":"Invalid API key"}"#),
        (
            "flat.test",
            "unknown",
            401,
            r#"{"error":"Invalid API key"}"#,
        ),
        (
            "flat.test",
            &key,
            403,
            r#"{"error":"Insufficient permissions"}"#,
        ),
    ];
    for (host, key, status, body) in cases {
        let answer = bodies(host, key);
        answer.expect(status);
        assert_eq!(answer.text(), body, "{host}");
        assert_eq!(answer.one("content-type"), "application/json");
        assert!(answer.one("www-authenticate").starts_with("Bearer realm="));
    }
    let problem = bodies("problem.test", &key);
    assert_eq!(problem.json()["required_permission"], "owners:read");
    assert_eq!(upstream.hits(), 0);
}

// CW8, CW3, C-16: 401 is the key, 403 is scope or plan, in every combination; the flat shape stays a text.
#[test]
fn four_cells_of_key_and_right() {
    let upstream = Upstream::start();
    let gateway = by_host(&upstream).start();
    let may = gateway.key_with_scopes("acme", &["leases:read"]).text;
    let may_not = gateway.key_with_scopes("acme", &["owners:read"]).text;
    let no_plan = gateway.key_with_scopes("bravo", &["leases:read"]).text;
    for (key, status) in [
        ("", 401),
        ("unknown", 401),
        (&may_not, 403),
        (&no_plan, 403),
        (&may, 200),
    ] {
        let request = Request::get("/leases").host("flat.test");
        let request = if key.is_empty() {
            request
        } else {
            request.header("X-API-Key", key)
        };
        let answer = gateway.send(&request);
        answer.expect(status);
        assert!(
            status == 200 || answer.json()["error"].is_string(),
            "{}",
            answer.text()
        );
    }
    assert_eq!(upstream.hits(), 1);
}

// PB1, C-8: a key without expiry is good in ten years. PB2: what looks like another kind of credential is no key.
#[test]
fn a_key_lasts_until_it_is_revoked_and_tokens_are_no_keys() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("key_format", "secret_prefix", r#""pb""#)
        .start();
    let key = gateway.key("acme");
    assert!(key.text.starts_with("pb_live_"));
    gateway.advance(Duration::from_secs(10 * 366 * 86_400));
    gateway.get("/any", &key).expect(200);
    let jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhY21lIn0.";
    for text in [jwt, "pb_live_short", "pb_test_0", "opaque-token"] {
        let answer = gateway.send(&Request::get("/any").bearer(text));
        answer.expect(401);
    }
    gateway.revoke(&key);
    gateway.get("/any", &key).expect(401);
    assert_eq!(upstream.hits(), 1);
}
