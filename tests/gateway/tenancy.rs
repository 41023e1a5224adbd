//! The tenant comes from the key and from nowhere else: the spoof matrix, and the other names that only the gateway sets.

use crate::support::client::block_on;
use crate::support::frames;
use crate::support::frames::DATA;
use crate::support::frames::END_HEADERS;
use crate::support::frames::END_STREAM;
use crate::support::frames::Frames;
use crate::support::frames::HEADERS;
use crate::support::frames::Outcome;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::upstream::Recorded;
use crate::support::upstream::Upstream;
use crate::support::upstream::ok;

/// Spellings of the tenant header that a client may send and that some backend would take for it.
const SPELLINGS: [&str; 24] = [
    "X-Tenant-ID",
    "X-Tenant-Id",
    "x-tenant-id",
    "X-TENANT-ID",
    "x-TeNaNt-iD",
    "X_Tenant_ID",
    "X_Tenant_Id",
    "x_tenant_id",
    "X_TENANT_ID",
    "X-Tenant_ID",
    "X_Tenant-ID",
    "x-tenant_id",
    "x_tenant-id",
    "X.Tenant.ID",
    "X-Tenant.ID",
    "x.tenant-id",
    "X~Tenant~ID",
    "X!Tenant!ID",
    "X*Tenant*ID",
    "X'Tenant'ID",
    "X+Tenant+ID",
    "X|Tenant|ID",
    "X`Tenant`ID",
    "X^Tenant_ID",
];

/// Fails unless what the backend got names the tenant exactly once, and rightly, in every reading of header names.
#[track_caller]
fn assert_only_acme(request: &Recorded, case: &str) {
    let found = request.look_alikes("x-tenant-id");
    assert_eq!(found.len(), 1, "{case}: {}", request.text());
    assert_eq!(found[0].1, "acme", "{case}: {}", request.text());
    assert!(
        !request.trailers.contains("bravo"),
        "{case}: {}",
        request.text()
    );
    let head = request.text();
    let head = head.split("\r\n\r\n").next().unwrap().to_owned();
    let lines_with_bravo = head.lines().skip(1).filter(|line| line.contains("bravo"));
    assert_eq!(lines_with_bravo.count(), 0, "{case}: {head}");
}

// FM1, FA2, CW4, S8, S9, S11: whatever the spelling, position or framing over HTTP/1.1.
#[test]
fn no_spelling_over_http1_forges_the_tenant() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme").text;
    let start = format!("GET /any HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n");
    let mut cases: Vec<String> = SPELLINGS
        .iter()
        .map(|name| format!("{start}{name}: bravo\r\n\r\n"))
        .collect();
    for more in [
        "X-Tenant-ID: bravo\r\nX-Tenant-ID: bravo\r\n",
        "X-Tenant-ID: acme\r\nX-Tenant-ID: bravo\r\n",
        "X-Tenant-ID: acme, bravo\r\n",
        "X-Tenant-ID:bravo\r\n",
        "X-Tenant-ID:\t bravo \r\n",
        "X-Tenant-ID:\r\nX-Tenant-ID: bravo\r\n",
        "Connection: X-Tenant-ID\r\n",
        "Connection: x-tenant-id\r\nX-Tenant-ID: bravo\r\n",
        "Connection: close, X-Tenant-Id\r\n",
        "Connection: keep-alive\r\nConnection: x-tenant-id\r\n",
        "Connection: X_Tenant_ID\r\nX_Tenant_ID: bravo\r\n",
        "Connection: close, authorization, x-tenant-id, host\r\n",
        "Keep-Alive: x-tenant-id\r\n",
        "Proxy-Connection: X-Tenant-ID\r\nX-Tenant-ID: bravo\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade, X-Tenant-ID\r\nX-Tenant-ID: bravo\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nX-Tenant-ID: bravo\r\n",
        "TE: trailers\r\nX-Tenant-ID: bravo\r\n",
        "Forwarded: for=bravo;host=bravo\r\n",
        "X-Forwarded-Tenant: x\r\nX-Tenant-ID: bravo\r\n",
    ] {
        cases.push(format!("{start}{more}\r\n"));
    }
    let post = start.replace("GET", "POST");
    for trailer in ["X-Tenant-ID", "x-tenant-id", "X_Tenant_ID"] {
        cases.push(format!(
            "{post}Transfer-Encoding: chunked\r\nTrailer: {trailer}\r\n\r\n2\r\nhi\r\n0\r\n{trailer}: bravo\r\n\r\n"
        ));
        cases.push(format!(
            "{post}Transfer-Encoding: chunked\r\n\r\n0\r\n{trailer}: bravo\r\n\r\n"
        ));
    }
    assert!(cases.len() >= 40, "{} spellings", cases.len());
    for case in &cases {
        try_to_forge(&upstream, &case.replace(&key, "KEY"), || {
            gateway.send_bytes(case).map_or(0, |answer| answer.status)
        });
    }
}

/// The gateway may refuse a strange request (400); but what reaches the backend names acme alone.
#[track_caller]
fn try_to_forge(upstream: &Upstream, case: &str, send: impl FnOnce() -> u16) {
    let before = upstream.hits();
    match send() {
        200 => {
            assert_eq!(upstream.hits(), before + 1, "{case}");
            assert_only_acme(&upstream.last(), case);
        }
        400 => assert_eq!(upstream.hits(), before, "{case}"),
        status => panic!("{status} to {case}"),
    }
}

// FM1: the plain spellings are not refused but overwritten: a client that sends its tenant by habit is served.
#[test]
fn a_tenant_header_of_the_client_is_overwritten() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    for (tenant, sent) in [("acme", "bravo"), ("bravo", "acme"), ("acme", "acme")] {
        let key = gateway.key(tenant).text;
        let request = Request::get("/any")
            .bearer(&key)
            .header("X-Tenant-ID", sent);
        gateway.send(&request).expect(200);
        assert_eq!(upstream.last().all("x-tenant-id"), [tenant]);
    }
}

// FM1, S4, S9, S11: the same over HTTP/2, where names may hold bytes that no client library lets through.
#[test]
fn no_spelling_over_http2_forges_the_tenant() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = format!("Bearer {}", gateway.key("acme").text);
    let lower: Vec<String> = SPELLINGS.iter().map(|name| name.to_lowercase()).collect();
    let mut cases: Vec<Vec<(&str, &str)>> = Vec::new();
    for name in SPELLINGS
        .iter()
        .copied()
        .chain(lower.iter().map(String::as_str))
    {
        cases.push(vec![(name, "bravo")]);
    }
    cases.push(vec![("x-tenant-id", "bravo"), ("x-tenant-id", "bravo")]);
    cases.push(vec![("x-tenant-id", "acme"), ("x_tenant_id", "bravo")]);
    cases.push(vec![("connection", "x-tenant-id")]);
    cases.push(vec![
        ("connection", "x-tenant-id"),
        ("x-tenant-id", "bravo"),
    ]);
    cases.push(vec![("x-a", "b\r\nx-tenant-id: bravo")]);
    cases.push(vec![("x-a\r\nx-tenant-id", "bravo")]);
    cases.push(vec![("x-a: b\r\nx-tenant-id", "bravo")]);
    cases.push(vec![("x-tenant-id:", "bravo")]);
    cases.push(vec![("x-tenant-id ", "bravo")]);
    cases.push(vec![(" x-tenant-id", "bravo")]);
    cases.push(vec![("x-tenant-id\0", "bravo")]);
    cases.push(vec![(":x-tenant-id", "bravo")]);
    assert!(cases.len() >= 40, "{} spellings", cases.len());
    for case in cases {
        let before = upstream.hits();
        let mut fields = frames::get("/any");
        fields.push(("authorization", &key));
        fields.extend(&case);
        let outcome = Frames::connect(gateway.https()).exchange(&fields);
        if outcome == Outcome::Status(200) {
            assert_eq!(upstream.hits(), before + 1);
            assert_only_acme(&upstream.last(), &format!("{case:?}"));
        } else {
            let refused = matches!(
                outcome,
                Outcome::Status(400) | Outcome::Reset(_) | Outcome::GoAway(_) | Outcome::Closed
            );
            assert!(refused, "{case:?}: {outcome:?}");
            assert_eq!(upstream.hits(), before, "{case:?}");
        }
    }
}

// FM1, S11, S43: an HTTP/2 trailer section does not carry a tenant either.
#[test]
fn http2_trailers_do_not_forge_the_tenant() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = format!("Bearer {}", gateway.key("acme").text);
    for name in ["x-tenant-id", "x_tenant_id", "x-tenant_id"] {
        let mut client = Frames::connect(gateway.https());
        let mut fields = frames::get("/any");
        fields[0].1 = "POST";
        fields.push(("authorization", &key));
        let stream = client.open(&fields, false);
        client.send(DATA, 0, stream, b"hi");
        let trailers = frames::encode(&[(name, "bravo")]);
        client.send(HEADERS, END_HEADERS | END_STREAM, stream, &trailers);
        assert_eq!(client.outcome(stream), Outcome::Status(200), "{name}");
        assert_only_acme(&upstream.last(), name);
    }
}

// FM1, CHECK8: what stands in the query or in a JSON body is not touched, and is not the tenant.
#[test]
fn query_and_body_are_left_alone() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme").text;
    let body = r#"{"tenant_id":"bravo","X-Tenant-ID":"bravo"}"#;
    let request = Request::new("POST", "/any?x-tenant-id=bravo&b=%2F&&a=%41+")
        .bearer(&key)
        .body(body);
    gateway.send(&request).expect(200);
    let got = upstream.last();
    assert_eq!(got.all("x-tenant-id"), ["acme"]);
    assert_eq!(got.target(), "/any?x-tenant-id=bravo&b=%2F&&a=%41+");
    assert_eq!(got.body, body.as_bytes());
}

// FM1: another name for the header is guarded alike, and the usual name is then nothing special to the backend.
#[test]
fn a_renamed_tenant_header_is_guarded_alike() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("tenant_header", "name", r#""X-Organization""#)
        .start();
    let key = gateway.key("acme").text;
    for spelling in ["X-Organization", "x_organization", "X-ORGANIZATION"] {
        let request = Request::get("/any").bearer(&key).header(spelling, "bravo");
        gateway.send(&request).expect(200);
        let found = upstream.last();
        let found = found.look_alikes("x-organization");
        assert_eq!(
            found.iter().map(|pair| pair.1).collect::<Vec<_>>(),
            ["acme"]
        );
    }
}

// S10, S19: identity and override headers of the client do not reach the backend; ours do, once.
#[test]
fn other_trusted_names_are_treated_alike() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme").text;
    let forged = [
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-Server",
        "X-Forwarded-User",
        "X-Real-IP",
        "X_Forwarded_For",
        "X-Forwarded_Host",
        "Forwarded",
        "X-Request-Id",
        "X_Request_Id",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "Client-Cert",
        "True-Client-IP",
        "WL-Proxy-Client-IP",
        "Proxy-Client-IP",
        "X-ProxyUser-Ip",
        "X-Azure-ClientIP",
        "X-Appengine-User-Ip",
        "X-Envoy-External-Address",
        "X-Override-URL",
        "X-Url-Scheme",
        "Front-End-Https",
    ];
    for name in forged {
        let request = Request::get("/any").bearer(&key).header(name, "6.6.6.6");
        let status = gateway.send(&request).status;
        if name.contains('_') && status == 400 {
            continue;
        }
        assert_eq!(status, 200, "{name}");
        let got = upstream.last();
        assert!(!got.text().contains("6.6.6.6"), "{name}: {}", got.text());
    }
    let got = upstream.last();
    assert_eq!(got.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(got.all("x-forwarded-proto"), ["https"]);
    assert_eq!(got.all("x-forwarded-host"), ["localhost"]);
    assert_eq!(got.all("x-request-id").len(), 1);
}

// S41: the backend, the client and the log agree on the request id.
#[test]
fn one_request_id_goes_everywhere() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    let answer = gateway.get("/any", &key);
    let id = answer.one("x-request-id").to_owned();
    assert_eq!(upstream.last().all("x-request-id"), [id.as_str()]);
    let line = gateway.log_line(&id);
    let text = line.to_string();
    assert!(text.contains("acme") && text.contains(&key.id), "{text}");
    let second = gateway.get("/any", &key);
    assert_ne!(second.one("x-request-id"), id);
}

// S9: other names with an underscore are dropped, unless the operator keeps them.
#[test]
fn underscore_names_are_dropped_unless_kept() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream);
    let gateway = setup.clone().start();
    let key = gateway.key("acme").text;
    let request = Request::get("/any")
        .bearer(&key)
        .header("my_header", "1")
        .header("x_tenant_id", "bravo");
    gateway.send(&request).expect(200);
    assert!(upstream.last().look_alikes("my-header").is_empty());
    gateway.stop();

    let gateway = setup
        .set("headers", "underscore_headers", r#""keep""#)
        .start();
    gateway.send(&request).expect(200);
    assert_eq!(upstream.last().all("my_header"), ["1"]);
    assert_only_acme(&upstream.last(), "underscore names kept");
}

// FM8 in part, DESIGN section 3 step 9: the tenant header does not come back to the client.
#[test]
fn the_tenant_is_not_shown_to_the_client() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    upstream.answer(
        "/any",
        "HTTP/1.1 200 OK\r\nX-Tenant-ID: acme\r\nContent-Length: 0\r\n\r\n",
    );
    assert!(!gateway.get("/any", &key).has("x-tenant-id"));
    for (target, status) in [("/nowhere", 404), ("/any/%00", 400)] {
        let refused = gateway.get(target, &key);
        refused.expect(status);
        assert!(!refused.text().contains("acme"), "{}", refused.text());
    }
}

// FM5, S39: the same URL with two keys is two hits and two bodies; a cache in between is told.
#[test]
fn answers_of_two_tenants_are_never_mixed() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let (acme, bravo) = (gateway.key("acme"), gateway.key("bravo"));
    upstream.answer("/any", ok("one"));
    let first = gateway.get("/any", &acme);
    upstream.answer("/any", ok("two"));
    let second = gateway.get("/any", &bravo);
    assert_eq!(
        (first.text().as_str(), second.text().as_str()),
        ("one", "two")
    );
    assert_eq!(upstream.hits(), 2);
    assert_eq!(first.one("cache-control"), "private");
    upstream.answer(
        "/any",
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=5\r\nContent-Length: 0\r\n\r\n",
    );
    let dated = gateway.get("/any", &acme);
    assert_eq!(dated.one("cache-control"), "max-age=5, private");
}

// FM1 under load: many tenants on one HTTP/2 connection, each answer to its own.
#[test]
fn concurrent_streams_keep_their_tenants_apart() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let keys = [gateway.key("acme"), gateway.key("bravo")];
    block_on(async {
        let client = gateway.connect_h2().await;
        let requests: Vec<Request> = (0..100)
            .map(|count| {
                let which = count % 2;
                Request::get(&format!("/any/{which}")).bearer(&keys[which].text)
            })
            .collect();
        let mut pending = Vec::new();
        for request in &requests {
            pending.push(client.begin(request).await.unwrap());
        }
        for response in pending {
            assert_eq!(response.await.unwrap().status(), 200);
        }
    });
    for request in upstream.requests() {
        let tenant = if request.target().ends_with('0') {
            "acme"
        } else {
            "bravo"
        };
        assert_eq!(request.all("x-tenant-id"), [tenant]);
    }
}
