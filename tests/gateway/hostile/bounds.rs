//! Too much, too slow, or nothing that is HTTP (S22, S24).

use super::usual;
use crate::support::client;
use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::frames::Frames;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

// S24: large heads, many headers and long targets: 431 and 414, in the configured shape where a request was understood.
#[test]
fn heads_are_bounded() {
    let (upstream, gateway) = usual();
    let long_target = Request::get(&format!("/public/{}", "x".repeat(9_000)));
    gateway.send(&long_target).expect(414);
    let mut many = Request::get("/public/x");
    for count in 0..150 {
        many = many.header(&format!("x-{count}"), "y");
    }
    gateway.send(&many).expect(431);
    let large = Request::get("/public/x").header("x-large", &"y".repeat(64 * 1024));
    if let Some(answer) = gateway.send_bytes(large.bytes()) {
        answer.expect(431);
    }
    let long_key = Request::get("/any").bearer(&"k".repeat(20_000));
    assert!(matches!(gateway.send(&long_key).status, 401 | 431));
    assert_eq!(upstream.hits(), 0);
}

// S24: as many header lines as are allowed and one more, which is refused in the configured shape.
#[test]
fn header_lines_are_counted() {
    let upstream = Upstream::start();
    for bound in [80, 100, 120] {
        let gateway = Setup::usual(&upstream)
            .set("http", "header_count_max", &bound.to_string())
            .start();
        let mut request = Request::get("/public/x");
        let lines = |request: &Request| request.bytes().split(|byte| *byte == b'\n').count() - 3;
        while lines(&request) < bound {
            request = request.header("x-many", "y");
        }
        gateway.send(&request).expect(200);
        let answer = gateway.send(&request.header("x-many", "y"));
        answer.expect(431);
        assert!(answer.has("x-request-id"), "{bound}");
    }
}

// S22: a head must be there in time, however slowly its bytes drip.
#[test]
fn a_slow_head_is_ended() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("connections", "head_timeout", r#""300ms""#)
        .set("connections", "idle_timeout", r#""300ms""#)
        .start();
    let mut slow = gateway.connect();
    slow.send("GET /public/x HTTP/1.1\r\nHost: local");
    if let Some(answer) = slow.try_read_for("GET") {
        answer.expect(408);
    }
    assert!(slow.is_closed());
    // Where the machine stands still before the request, its connection was idle: another one is tried.
    let mut idle = eventually("a request in time", || {
        let mut idle = gateway.connect();
        let answer = idle
            .send(Request::get("/public/x").bytes())
            .try_read_for("GET")?;
        answer.expect(200);
        Some(idle)
    });
    assert!(idle.is_closed());
    let mut h2 = Frames::connect(gateway.https());
    while h2.read().is_some() {}
}

// S5, S24: what is read of a refused upload, and how many headers of a backend are taken, is the operator's to say.
#[test]
fn unread_bodies_and_large_answers_are_bounded_as_configured() {
    let upstream = Upstream::start();
    let many = |count: usize| -> Vec<u8> {
        let lines: String = (0..count).map(|at| format!("X-{at}: y\r\n")).collect();
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{lines}\r\n").into_bytes()
    };
    upstream.answer("/public/150", many(150));
    upstream.answer("/public/250", many(250));
    let upload = Request::new("POST", "/any").body(vec![b'x'; 200 * 1024]);
    let next = Request::get("/public/next");

    let gateway = Setup::usual(&upstream).start();
    gateway.send(&Request::get("/public/150")).expect(502);
    let mut client = gateway.connect();
    client.exchange(&upload).expect(401);
    client.exchange(&next).expect(200);

    let gateway = Setup::usual(&upstream)
        .set("upstreams.legacy", "header_count_max", "200")
        .set("connections", "unread_bytes_max", r#""1KiB""#)
        .set("connections", "unread_timeout", r#""5min""#)
        .start();
    gateway.send(&Request::get("/public/150")).expect(200);
    gateway.send(&Request::get("/public/250")).expect(502);
    let mut client = gateway.connect();
    let head = format!(
        "POST /any HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        200 * 1024
    );
    client.send(head);
    for _ in 0..4 {
        client.send(vec![b'x'; 1024]);
    }
    client.read().expect(401);
    assert!(client.is_closed());
}

// Bytes that are not TLS, a half handshake, random bytes inside TLS: the gateway goes on.
#[test]
fn noise_does_not_stop_the_gateway() {
    let (_upstream, gateway) = usual();
    for noise in [
        &b"\x16\x03\x01\x02\x00"[..],
        &[0; 100],
        &[0xff; 1000],
        b"SSH-2.0-x\r\n",
    ] {
        let mut raw = Http1::plain(gateway.https());
        raw.send(noise);
        drop(raw);
        let mut inside = gateway.connect();
        inside.send(noise);
        drop(inside);
    }
    gateway.send(&Request::get("/public/x")).expect(200);
    eventually("the connections are gone", || {
        client::tls(gateway.https(), "localhost", client::tls_config(&[])).ok()
    });
}
