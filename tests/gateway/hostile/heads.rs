//! The grammar of heads: lines, Host, methods, headers of one connection (S7, S8, S15, S16).

use super::assert_refused;
use super::usual;
use crate::support::frames;
use crate::support::frames::Frames;
use crate::support::frames::Outcome;
use crate::support::request::Request;
use crate::support::upstream::Step;

// S15: the grammar of a head is kept to the letter.
#[test]
fn malformed_heads_are_refused() {
    let (upstream, gateway) = usual();
    let line = "GET /public/x HTTP/1.1\r\n";
    for rest in [
        "Host: localhost\r\nX-A: b\r\n folded\r\n\r\n",
        "Host: localhost\r\nX-A : b\r\n\r\n",
        "Host: localhost\r\n: b\r\n\r\n",
        "Host: localhost\r\nX-A\r\n\r\n",
        "Host: localhost\r\nX-A: b\0c\r\n\r\n",
        "Host: localhost\r\nX-A: b\rc\r\n\r\n",
        "Host: localhost\r\nX A: b\r\n\r\n",
        "Host: localhost\r\nX-Ä: b\r\n\r\n",
        " Host: localhost\r\n\r\n",
    ] {
        assert_refused(&upstream, &gateway, &format!("{line}{rest}"), &[400]);
    }
    for bytes in [
        "GET  /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /public/x HTTP/1.1 \r\nHost: localhost\r\n\r\n",
        "GET /public/x\r\nHost: localhost\r\n\r\n",
        "GET /public/x HTTP/3.7\r\nHost: localhost\r\n\r\n",
        "GET /public/x http/1.1\r\nHost: localhost\r\n\r\n",
        "G\0T /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /public/ä HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ] {
        assert_refused(&upstream, &gateway, bytes, &[400, 505]);
    }
}

// S16: exactly one valid Host.
#[test]
fn host_must_be_one_and_valid() {
    let (upstream, gateway) = usual();
    let line = "GET /public/x HTTP/1.1\r\n";
    for hosts in [
        "",
        "Host:\r\n",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nHost: evil\r\n",
        "Host: a, b\r\n",
        "Host: user@localhost\r\n",
        "Host: localhost/path\r\n",
        "Host: localhost:99999\r\n",
        "Host: localhost:x\r\n",
        "Host: local host\r\n",
        "Host: localhost?x\r\n",
        "Host: localhost#x\r\n",
        "Host: [::1\r\n",
    ] {
        assert_refused(&upstream, &gateway, &format!("{line}{hosts}\r\n"), &[400]);
    }
    let mut client = Frames::connect(gateway.https());
    for authority in ["user@localhost", "a, b", "localhost/path", ""] {
        let mut fields = frames::get("/public/x");
        fields[2].1 = authority;
        let outcome = client.exchange(&fields);
        assert_ne!(outcome, Outcome::Status(200), "{authority:?}");
        if !matches!(outcome, Outcome::Status(_) | Outcome::Reset(_)) {
            client = Frames::connect(gateway.https());
        }
    }
    let mut fields = frames::get("/public/x");
    fields.push(("host", "other"));
    assert_ne!(client.exchange(&fields), Outcome::Status(200));
    assert_eq!(upstream.hits(), 0);
}

// RFC 9110 section 9.1: a method in small letters is not the one that a route names, but a lenient backend may take it for that.
#[test]
fn methods_in_small_letters_reach_nobody() {
    let (upstream, gateway) = usual();
    let key = gateway.key("acme").text;
    for method in ["get", "Delete", "pOST", "trace"] {
        let request = Request::new(method, "/any").bearer(&key);
        gateway.send(&request).expect(400);
    }
    assert_eq!(upstream.hits(), 0);
}

// TRACE would show a client what the gateway adds; it is refused.
#[test]
fn trace_and_connect_are_refused() {
    let (upstream, gateway) = usual();
    let key = gateway.key("acme").text;
    for method in ["TRACE", "CONNECT"] {
        let answer = gateway.send(&Request::new(method, "/any").bearer(&key));
        assert!(
            matches!(answer.status, 400 | 405 | 501),
            "{method}: {}",
            answer.status
        );
    }
    assert_eq!(upstream.hits(), 0);
}

// S7: no tunnel on an unknown token, none on a 200, and no h2c; the bytes after it are HTTP again.
#[test]
fn upgrades_open_no_tunnel() {
    let (upstream, gateway) = usual();
    for upgrade in ["h2c", "foo", "TLS/1.0", "websocket, h2c"] {
        let mut client = gateway.connect();
        client.send(format!(
            "GET /public/x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
        ));
        let answer = client.read();
        assert_ne!(answer.status, 101, "{upgrade}");
        if answer.status == 200 {
            assert!(upstream.last().all("upgrade").is_empty(), "{upgrade}");
        }
    }
}

// S8: hop-by-hop headers end here, all Connection lines read; framing and Host cannot be nominated.
#[test]
fn hop_by_hop_headers_end_at_the_gateway() {
    let (upstream, gateway) = usual();
    let bytes = "POST /public/x HTTP/1.1\r\nHost: localhost\r\nConnection: x-one, host\r\nX-One: 1\r\nConnection: keep-alive, X-Two, content-length\r\nX-Two: 2\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nProxy-Authorization: Basic x\r\nTE: trailers\r\nTrailer: x\r\nUpgrade: foo\r\nX-Three: 3\r\nContent-Length: 2\r\n\r\nhi";
    gateway.send_bytes(bytes).unwrap().expect(200);
    let got = upstream.last();
    for name in [
        "x-one",
        "x-two",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "trailer",
    ] {
        assert!(got.all(name).is_empty(), "{name}: {}", got.text());
    }
    assert_eq!(got.all("x-three"), ["3"]);
    assert_eq!(got.all("host"), ["localhost"]);
    assert_eq!(got.body, b"hi");
}

// S41: every answer that the gateway writes has the configured shape and a request id.
#[test]
fn every_refusal_has_a_shape_and_a_request_id() {
    let (upstream, gateway) = usual();
    let key = gateway.key_with_scopes("acme", &["none"]).text;
    upstream.script("/any/gone", vec![Step::ReadBody, Step::Close]);
    let cases = [
        (Request::get("/any/%00"), 400),
        (Request::get("/any"), 401),
        (Request::get("/leases").bearer(&key), 403),
        (Request::get("/nowhere").bearer(&key), 404),
        (Request::new("DELETE", "/leases").bearer(&key), 405),
        (Request::get(&format!("/any/{}", "x".repeat(9_000))), 414),
        (Request::get("/any/gone").bearer(&key), 502),
        (
            Request::new("POST", "/any").header("Transfer-Encoding", "gzip, chunked"),
            501,
        ),
    ];
    for (request, status) in cases {
        let answer = gateway.send(&request);
        assert_eq!(answer.status, status);
        assert!(!answer.one("x-request-id").is_empty(), "{status}");
        assert_eq!(
            answer.one("content-type"),
            "application/problem+json",
            "{status}"
        );
        assert_eq!(answer.json()["status"], status, "{status}");
        if matches!(status, 401 | 403) {
            assert_eq!(answer.one("cache-control"), "no-store", "{status}");
        }
    }
}
