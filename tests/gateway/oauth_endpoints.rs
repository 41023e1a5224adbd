//! The public endpoints of an identity provider behind the gateway: limited by client address, passed untouched, token requests in JSON turned into
//! forms where a route says so, and the metadata of protected resources (PB5, PB6, C-24, S28).

use std::time::Duration;

use crate::support::client::Http1;
use crate::support::client::socket_from;
use crate::support::client::tls_config;
use crate::support::client::tls_over;
use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::idp::ISSUER;
use crate::support::idp::Idp;
use crate::support::idp::claims;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::signer::Signer;
use crate::support::upstream::Upstream;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

fn limited(upstream: &Upstream) -> Setup {
    let limit = "address_limit = \"5/hour\"\n";
    Setup::usual(upstream)
        .route_to(
            "legacy",
            "/oauth/token",
            &["POST"],
            Access::Public,
            "address_limit = \"5/hour\"\njson_as_form = true\nauthorization = \"pass\"\n",
        )
        .route_to(
            "legacy",
            "/oauth/authorize",
            &["GET"],
            Access::Public,
            limit,
        )
}

fn from(gateway: &Gateway, source: &str) -> Http1 {
    let socket = socket_from(Some(source), gateway.https()).unwrap();
    Http1::over(tls_over(socket, "localhost", tls_config(&["http/1.1"])).unwrap())
}

fn authorize() -> Request {
    Request::get("/oauth/authorize?state=x")
}

// S28, PB5: one address gets so many, and is told how many are left and when there are more; sleeping that long succeeds, much less does not.
// Other addresses, other routes and keys do not notice.
#[test]
fn s28_pb5_a_public_route_is_limited_by_client_address() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream).start();
    let key = gateway.key("acme");
    let mut one = from(&gateway, "127.0.0.3");
    for left in (0..5).rev() {
        let answer = one.exchange(&authorize());
        answer.expect(200);
        assert_eq!(answer.number("x-ratelimit-limit"), 5);
        assert_eq!(answer.number("x-ratelimit-remaining"), left);
        assert!(!answer.has("retry-after"));
    }
    let refused = one.exchange(&authorize());
    refused.expect(429);
    let wait = refused.number("retry-after");
    assert!((3_000..=3_600).contains(&wait), "{wait}");
    assert_eq!(refused.one("cache-control"), "no-store");
    assert_eq!(refused.number("x-ratelimit-remaining"), 0);
    assert!(refused.one("ratelimit").contains("r=0"));
    assert_eq!(upstream.hits(), 5);
    // A wrong method is looked up by the same address; it costs the same, so that nothing is free.
    one.exchange(&Request::new("PUT", "/oauth/authorize"))
        .expect(429);
    let mut other = from(&gateway, "127.0.0.4");
    other.exchange(&authorize()).expect(200);
    // The same address elsewhere, and with a key.
    let public = one.exchange(&Request::get("/public"));
    public.expect(200);
    assert!(!public.has("x-ratelimit-limit"));
    for _ in 0..20 {
        one.exchange(&Request::get("/any").bearer(&key.text))
            .expect(200);
    }
    // A key buys nothing here: nobody looks at it.
    one.exchange(&authorize().bearer(&key.text)).expect(429);
    let reasons = r#"portcullis_refusals_total{reason="address_limited"}"#;
    assert_eq!(gateway.metric(reasons), 3);
    assert_eq!(gateway.metric("portcullis_visitor_addresses"), 2);
    gateway.log_line("address_limited");
    // Real time passes beside: to the microsecond it is shown where the table is.
    gateway.advance(Duration::from_secs(wait - 600));
    one.exchange(&authorize()).expect(429);
    gateway.advance(Duration::from_secs(600));
    one.exchange(&authorize()).expect(200);
}

// A reload takes nothing back, and a route that only observes refuses nobody.
#[test]
fn an_address_limit_outlives_a_reload_and_can_be_observed() {
    let upstream = Upstream::start();
    let mut gateway = limited(&upstream).start();
    let mut one = gateway.connect();
    for _ in 0..5 {
        one.exchange(&authorize()).expect(200);
    }
    one.exchange(&authorize()).expect(429);
    let setup = gateway.setup.clone().set("auth", "realm", r#""other""#);
    gateway.reload(setup.clone()).unwrap();
    one.exchange(&authorize()).expect(429);
    gateway
        .reload(setup.set("limits", "mode", r#""observe""#))
        .unwrap();
    one.exchange(&authorize()).expect(200);
    gateway.log_line("\"would_refuse\":\"address_limited\"");
    assert_eq!(
        gateway.metric(r#"portcullis_would_refuse_total{reason="address_limited"}"#),
        1
    );
}

// S28: from everywhere at once, whoever asks most stays limited, and a /64 is one client.
#[test]
fn s28_a_spray_from_everywhere_is_counted_in_a_bounded_table() {
    let upstream = Upstream::start();
    let gateway = limited(&upstream)
        .set("trusted_proxies", "networks", r#"["127.0.0.1"]"#)
        .set("trusted_proxies", "headers", r#""trust""#)
        .start();
    let mut proxy = gateway.connect();
    let mut ask = |source: &str, method: &str| {
        let request = Request::new(method, "/oauth/authorize").header("X-Forwarded-For", source);
        proxy.exchange(&request).status
    };
    // 405 is cheap, and counts.
    for host in 0..20 {
        let status = ask(&format!("2001:db8:ffff:1::{host:x}"), "PUT");
        assert_eq!(status, if host < 5 { 405 } else { 429 }, "{host}");
    }
    for count in 0..4_000u32 {
        let source = format!("2001:db8:{:x}:{:x}::1", count / 256, count % 256);
        assert_eq!(ask(&source, "PUT"), 405, "{source}");
    }
    assert_eq!(ask("2001:db8:ffff:1::ffff", "GET"), 429);
    let addresses = gateway.metric("portcullis_visitor_addresses");
    // One more may have given way to another of its set; that the table never grows is shown where it is.
    assert!((3_000..=4_002).contains(&addresses), "{addresses}");
}

fn token_request(gateway: &Gateway, media: &str, body: &str) -> Answer {
    let request = Request::new("POST", "/oauth/token").header("Content-Type", media);
    gateway.send(&request.body(body))
}

fn turning(upstream: &Upstream) -> Gateway {
    Setup::usual(upstream)
        .route_to(
            "legacy",
            "/oauth/token",
            &[],
            Access::Public,
            "json_as_form = true\n",
        )
        .route_to("legacy", "/as-it-is", &[], Access::Public, "")
        .start()
}

// PB6, C-24: a flat object goes on as the form that says the same, its head true to it; a form and a request without a body go on untouched, and so
// does everything on routes that do not ask for this.
#[test]
fn pb6_a_token_request_in_json_goes_on_as_a_form() {
    let upstream = Upstream::start();
    let gateway = turning(&upstream);
    let json = r#"{"grant_type":"authorization_code","code":"a b&c=d+é","n":3600,"ok":true}"#;
    let form = "grant_type=authorization_code&code=a%20b%26c%3Dd%2B%C3%A9&n=3600&ok=true";
    for media in [JSON, "Application/JSON; charset=utf-8"] {
        let request = Request::new("POST", "/oauth/token?x={}")
            .header("Content-Type", media)
            .header("Content-Digest", "sha-256=:AAAA:");
        gateway.send(&request.body(json)).expect(200);
        let seen = upstream.last();
        assert_eq!(seen.body, form.as_bytes());
        assert_eq!(seen.all("content-type"), [FORM]);
        assert_eq!(seen.all("content-length"), [form.len().to_string()]);
        assert!(seen.all("transfer-encoding").is_empty() && seen.all("content-digest").is_empty());
        assert!(seen.target().ends_with("?x={}"));
    }
    // In chunks, and larger than one piece.
    let long = "x".repeat(40_000);
    let chunked = format!(
        "POST /oauth/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{{\"a\":\"\r\n{:x}\r\n{long}\r\n2\r\n\"}}\r\n0\r\n\r\n",
        long.len()
    );
    gateway.send_bytes(chunked).unwrap().expect(200);
    assert_eq!(upstream.last().body, format!("a={long}").as_bytes());
    let untouched = "a=%7B%7D&b={\"x\":1}&a=2";
    token_request(
        &gateway,
        "Application/X-WWW-Form-URLencoded;charset=x",
        untouched,
    )
    .expect(200);
    assert_eq!(upstream.last().body, untouched.as_bytes());
    gateway
        .send(&Request::new("POST", "/oauth/token"))
        .expect(200);
    assert!(upstream.last().body.is_empty());
    let request = Request::new("POST", "/as-it-is").header("Content-Type", JSON);
    gateway.send(&request.body(json)).expect(200);
    assert_eq!(upstream.last().body, json.as_bytes());
    assert_eq!(upstream.last().all("content-type"), [JSON]);
    assert!(!gateway.log().contains("a b&c=d") && !gateway.log().contains("%26c"));
}

// PB6: what a form cannot say is 400, what is no JSON 415, what is too large 413; no backend sees it, and no log and no answer repeats it.
#[test]
fn pb6_what_is_no_flat_object_is_refused_and_repeated_nowhere() {
    let upstream = Upstream::start();
    let gateway = turning(&upstream);
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(64 * 1024));
    let many: Vec<String> = (0..65).map(|at| format!("\"n{at}\":\"s3cret\"")).collect();
    let many = format!("{{{}}}", many.join(","));
    let cases = [
        (
            JSON,
            r#"{"client_secret":"s3cret","client_secret":"s3cret"}"#,
            400,
        ),
        (JSON, r#"{"a":"1","\u0061":"s3cret"}"#, 400),
        (JSON, r#"{"s3cret":{"s3cret":"s3cret"}}"#, 400),
        (JSON, r#"{"scope":["s3cret"]}"#, 400),
        (JSON, r#"{"s3cret":null}"#, 400),
        (JSON, r#"{"s3cret":1.5}"#, 400),
        (JSON, r#"["s3cret"]"#, 400),
        (JSON, r#""s3cret""#, 400),
        (JSON, r#"{"s3cret":"1"#, 400),
        (JSON, r#"{"s3cret":"1"}}"#, 400),
        (JSON, "grant_type=s3cret", 400),
        (JSON, &many, 400),
        (JSON, &large, 413),
        ("text/plain", r#"{"a":"s3cret"}"#, 415),
        ("application/json; charset=utf-7", r#"{"a":"s3cret"}"#, 415),
        ("multipart/form-data; boundary=s3cret", "s3cret", 415),
        ("", r#"{"a":"s3cret"}"#, 415),
    ];
    for (media, body, status) in cases {
        let answer = token_request(&gateway, media, body);
        answer.expect(status);
        assert!(!answer.text().contains("s3cret"), "{body}");
    }
    let compressed = Request::new("POST", "/oauth/token")
        .header("Content-Type", JSON)
        .header("Content-Encoding", "gzip");
    gateway.send(&compressed.body("{}")).expect(415);
    let two = Request::new("POST", "/oauth/token")
        .header("Content-Type", JSON)
        .header("Content-Type", FORM);
    gateway.send(&two.body("{}")).expect(415);
    assert_eq!(upstream.hits(), 0);
    gateway.log_line("form_unfit");
    gateway.log_line("type_unfit");
    assert!(!gateway.log().contains("s3cret"));
}

// A public route takes credentials out; one that passes Authorization on leaves it as it came, unless it is a key's or may be.
#[test]
fn authorization_goes_on_where_a_public_route_says_so_and_keys_never_do() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .route_to(
            "legacy",
            "/userinfo",
            &[],
            Access::Public,
            "authorization = \"pass\"\n",
        )
        .start();
    let key = gateway.key("acme");
    let foreign = "an-imported-key-0123456789";
    std::fs::write(
        gateway.directory().join("keys.csv"),
        format!("value,tenant,name,scopes\n{foreign},acme,imported,inherit\n"),
    )
    .unwrap();
    let (code, _, said) = gateway.command(&[
        "keys",
        "import",
        gateway.directory().join("keys.csv").to_str().unwrap(),
    ]);
    assert_eq!(code, 0, "{said}");
    let jwt = format!("Bearer eyJh.{}.sig", "x".repeat(2_000));
    let seen = |lines: &[&str]| -> Vec<String> {
        let mut request = Request::get("/userinfo").header("X-API-Key", "anything");
        for line in lines {
            request = request.header("Authorization", line);
        }
        gateway.send(&request).expect(200);
        let last = upstream.last();
        assert!(last.all("x-api-key").is_empty() && last.all("x-tenant-id").is_empty());
        let all = last.all("authorization");
        all.into_iter().map(str::to_owned).collect()
    };
    for passed in [jwt.as_str(), "bearer opaque-token", "Basic YTpi", "DPoP x"] {
        assert_eq!(seen(&[passed]), [passed]);
    }
    let own = format!("Bearer {}", key.text);
    let misspelt = format!("Bearer {}x", key.text);
    let two_words = format!("Bearer x {}", key.text);
    let imported = format!("Bearer {foreign}");
    let cases: [&[&str]; 6] = [
        &[&own],
        &[&misspelt],
        &[&two_words],
        &[&imported],
        &["Basic YTpi", "Basic YTpi"],
        &[],
    ];
    for lines in cases {
        assert!(seen(lines).is_empty(), "{lines:?}");
    }
    gateway
        .send(&Request::get("/public").header("Authorization", &jwt))
        .expect(200);
    assert!(upstream.last().all("authorization").is_empty());
    assert!(!gateway.log().contains("opaque-token"));
}

// RFC 9728: clients learn whose tokens are taken here, from the gateway itself and at the path of the RFC; a refusal points there, by host and path
// alone, so that it says nothing of routes.
#[test]
fn metadata_of_protected_resources_are_served_and_pointed_at() {
    let upstream = Upstream::start();
    let idp = Idp::start(&[Signer::rsa()]);
    let gateway = Setup::usual(&upstream)
        .set("auth", "credentials", r#"["key", "jwt"]"#)
        .more(&idp.table(""))
        .more(
            "[[resources]]\nresource = \"https://api.example.org\"\nissuers = [\"main\"]\nscopes = [\"leases:read\", \"leases:write\"]\nname = \"Leases\"\n\
            [[resources]]\nresource = \"https://api.example.org/any\"\nissuers = [\"main\"]\n",
        )
        .start();
    let path = "/.well-known/oauth-protected-resource";
    let ask =
        |method: &str, host: &str, path: &str| gateway.send(&Request::new(method, path).host(host));
    let host = "api.example.org";
    let answer = ask("GET", "API.example.org:8443", path);
    answer.expect(200);
    assert_eq!(answer.one("content-type"), JSON);
    assert_eq!(answer.one("cache-control"), "public, max-age=600");
    assert!(answer.has("x-request-id") && !answer.has("access-control-allow-origin"));
    assert_eq!(
        answer.json(),
        serde_json::json!({
            "resource": "https://api.example.org",
            "authorization_servers": [ISSUER],
            "scopes_supported": ["leases:read", "leases:write"],
            "bearer_methods_supported": ["header"],
            "resource_name": "Leases",
        })
    );
    let head = ask("HEAD", host, path);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.one("content-length"), answer.one("content-length"));
    let other = ask("GET", host, &format!("{path}/any?x=1"))
        .expect(200)
        .json();
    assert_eq!(other["resource"], "https://api.example.org/any");
    for method in ["POST", "OPTIONS", "DELETE"] {
        let refused = ask(method, host, path);
        assert_eq!(refused.expect(405).one("allow"), "GET, HEAD");
    }
    // Nothing of it elsewhere.
    for (host, path) in [
        ("localhost", path.to_owned()),
        (host, format!("{path}/")),
        (host, format!("{path}/other")),
        (host, format!("{path}x")),
    ] {
        ask("GET", host, &path).expect(401);
    }
    assert_eq!(upstream.hits(), 0);
    gateway.log_line("\"decision\":\"metadata\"");
    let challenge = |host: &str, path: &str, token: Option<&str>| {
        let request = Request::get(path).host(host);
        let answer = gateway.send(&match token {
            Some(token) => request.bearer(token),
            None => request,
        });
        answer.one("www-authenticate").to_owned()
    };
    let at = |rest: &str| format!("resource_metadata=\"https://api.example.org{path}{rest}\"");
    let bare = "Bearer realm=\"api\"";
    let bad = "Bearer realm=\"api\", error=\"invalid_token\"";
    for (target, rest) in [
        ("/leases/1", ""),
        ("/nothing-there", ""),
        ("/any", "/any"),
        ("/any/x?y", "/any"),
        ("/anything", ""),
    ] {
        assert_eq!(
            challenge(host, target, None),
            format!("{bare}, {}", at(rest))
        );
        assert_eq!(
            challenge(host, target, Some("x")),
            format!("{bad}, {}", at(rest))
        );
        assert_eq!(challenge("localhost", target, None), bare);
    }
    let token = Signer::rsa().token(&claims(&gateway, "leases:read"));
    let request = Request::new("POST", "/leases/1").host(host);
    let forbidden = gateway.send(&request.bearer(&token));
    forbidden.expect(403);
    assert_eq!(
        forbidden.one("www-authenticate"),
        format!(
            "{bare}, error=\"insufficient_scope\", scope=\"leases:write\", {}",
            at("")
        )
    );
}
