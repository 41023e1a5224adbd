//! Requests to a guarded route: the members that are set and those that are taken away.

use serde_json::Value;
use serde_json::json;

use super::guarded;
use super::gzip;
use super::leases;
use super::posted;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

// FM9, CHECK8: what is created belongs to the caller: the member is set once, whatever the client wrote under its name in whatever spelling.
#[test]
fn a_created_resource_belongs_to_the_callers_tenant() {
    let upstream = Upstream::start();
    let keys = [
        ("request_set", r#"["tenant_id"]"#),
        ("request_remove", r#"["owner"]"#),
    ];
    let gateway = guarded(&upstream, &keys).start();
    let key = gateway.key("acme");
    let post = |body: &[u8]| {
        Request::new("POST", "/g/leases")
            .bearer(&key.text)
            .header("Content-Type", "application/json")
            .body(body)
    };
    for (body, expected) in [
        (r#"{"tenant_id":"bravo"}"#, r#"{"tenant_id":"acme"}"#),
        (r#"{"a":1}"#, r#"{"a":1,"tenant_id":"acme"}"#),
        ("{}", r#"{"tenant_id":"acme"}"#),
        (
            r#"{"tenant_id":"bravo","a":{"tenant_id":"x"},"\u0074enant_id":[1],"Tenant_ID":"bravo","owner":7}"#,
            r#"{"a":{"tenant_id":"x"},"tenant_id":"acme"}"#,
        ),
    ] {
        let (answer, got) = posted(&gateway, &upstream, &post(body.as_bytes()));
        answer.expect(200);
        assert_eq!(String::from_utf8(got.unwrap()).unwrap(), expected);
    }
    // A large one flows through in chunks.
    let large = json!({"tenant_id": "bravo", "items": leases(5000, "x")});
    let (answer, got) = posted(&gateway, &upstream, &post(large.to_string().as_bytes()));
    answer.expect(200);
    let got: Value = serde_json::from_slice(&got.unwrap()).unwrap();
    assert_eq!(
        (&got["tenant_id"], &got["items"]),
        (&json!("acme"), &large["items"])
    );
    // Sent in pieces of one byte.
    let mut client = gateway.connect();
    client.send(format!("POST /g/leases HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", key.text));
    for byte in br#"{"tenant_id":"bravo"}"# {
        client.send([b"1\r\n", &[*byte][..], b"\r\n"].concat());
    }
    client.send("0\r\n\r\n");
    client.read().expect(200);
    assert_eq!(upstream.last().body, br#"{"tenant_id":"acme"}"#);
    assert_eq!(upstream.last().all("content-length"), ["20"]);
    // What is no object is refused before the backend hears of it.
    for body in [
        &b"[]"[..],
        b"{",
        b"{}{}",
        b"{\"a\":1,}",
        b"\xef\xbb\xbf\xff",
        b"{\"a\":\"\xff\"}",
        b"null",
    ] {
        let (answer, got) = posted(&gateway, &upstream, &post(body));
        assert_eq!((answer.status, got), (400, None), "{body:?}");
    }
    let (answer, got) = posted(&gateway, &upstream, &post(b"").body(""));
    assert_eq!((answer.status, got), (200, Some(Vec::new())));
    for (name, value) in [
        ("Content-Type", "text/plain"),
        ("Content-Type", "application/x-ndjson"),
        // A decoder that believes it sees a tenant_id in {"x":"+ACI-,+ACI-tenant_id+ACI-:…"}.
        ("Content-Type", "application/json; charset=utf-7"),
    ] {
        let request = Request::new("POST", "/g/leases")
            .bearer(&key.text)
            .header(name, value)
            .body("{}");
        let (answer, got) = posted(&gateway, &upstream, &request);
        assert_eq!(
            (answer.expect(415).json()["code"].clone(), got),
            (json!("unsupported_media_type"), None)
        );
    }
    let (answer, got) = posted(
        &gateway,
        &upstream,
        &post(&gzip(b"{}")).header("Content-Encoding", "gzip"),
    );
    assert_eq!((answer.status, got), (415, None));
}

// FM9: a body that turns out to be no JSON after its beginning has gone on is cut towards the backend, which must not take it for whole.
#[test]
fn a_late_fault_in_a_request_never_looks_whole_to_the_backend() {
    let upstream = Upstream::start();
    let keys = [
        ("request_set", r#"["tenant_id"]"#),
        ("bytes_held", "\"1KiB\""),
    ];
    let gateway = guarded(&upstream, &keys).start();
    let key = gateway.key("acme");
    let body = format!("{{\"a\":\"{}\",}}", "x".repeat(200_000));
    let request = Request::new("POST", "/g/leases")
        .bearer(&key.text)
        .header("Content-Type", "application/json")
        .body(body);
    gateway.send(&request).expect(400);
    assert!(upstream.requests().iter().all(|request| !request.complete));
    let pass = guarded(
        &upstream,
        &[
            ("request_set", r#"["tenant_id"]"#),
            ("request_other_types", "\"pass\""),
        ],
    )
    .start();
    let key = pass.key("acme");
    let request = Request::new("POST", "/g/text")
        .bearer(&key.text)
        .header("Content-Type", "text/plain")
        .body("hello");
    pass.send(&request).expect(200);
    assert_eq!(upstream.last().body, b"hello");
}
