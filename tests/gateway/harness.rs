//! The harness itself: a test that sees nothing would pass for the wrong reason.

use crate::support::Gate;
use crate::support::client::Http1;
use crate::support::frames;
use crate::support::real;
use crate::support::request::Request;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;
use crate::support::upstream::status;

#[test]
fn the_backend_records_every_byte() {
    let upstream = Upstream::start();
    let mut client = Http1::plain(upstream.address);
    let sent = "POST /a?b=%2F HTTP/1.1\r\nhOsT: x\r\nX_Tenant_Id:  y\r\nTransfer-Encoding: chunked\r\n\r\n2;e=1\r\nhi\r\n0\r\nT: z\r\n\r\n";
    client.send(sent).read().expect(200);
    let got = upstream.last();
    assert_eq!(got.text(), sent);
    assert_eq!(got.body, b"hi");
    assert_eq!(got.trailers, "T: z\r\n");
    assert_eq!(got.target(), "/a?b=%2F");
    assert_eq!(got.look_alikes("x-tenant-id"), [("X_Tenant_Id", "y")]);
    assert!(got.complete);
    client
        .exchange(&Request::new("POST", "/a").body("second"))
        .expect(200);
    assert_eq!(upstream.last().body, b"second");
    assert_eq!(
        (
            upstream.hits(),
            upstream.hits_on("/a"),
            upstream.connections()
        ),
        (2, 2, 1)
    );
}

#[test]
fn the_backend_answers_as_it_is_told() {
    let upstream = Upstream::start();
    upstream.answer("/s", status(503, &[("X-A", "1"), ("x-a", "2")], "busy"));
    let mut client = Http1::plain(upstream.address);
    let answer = client.exchange(&Request::get("/s"));
    answer.expect(503);
    assert_eq!(answer.all("x-a"), ["1", "2"]);
    assert_eq!(answer.text(), "busy");

    let gate = Gate::closed();
    upstream.script(
        "/w",
        vec![
            Step::ReadBody,
            Step::Send(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n".to_vec()),
            Step::Wait(gate.clone()),
            Step::Close,
        ],
    );
    client.send(Request::get("/w").bytes());
    let mut answer = client.read_head().unwrap();
    assert_eq!(answer.interim, [103]);
    gate.open();
    client.read_body("GET", &mut answer);
    assert!(!answer.complete);
    assert_eq!(answer.text(), "a");
    assert!(client.is_closed());
}

#[test]
fn the_backend_counts_who_gives_up() {
    let upstream = Upstream::start();
    upstream.script("/h", vec![Step::ReadBody, Step::Hold]);
    let mut client = Http1::plain(upstream.address);
    client.send(Request::get("/h").bytes());
    upstream.wait_for_hits(1);
    assert_eq!(upstream.aborted(), 0);
    drop(client);
    upstream.wait_for_aborted(1);
}

#[test]
fn hand_made_header_blocks_are_literal() {
    assert_eq!(frames::encode(&[("a", "b\r\n")]), b"\0\x01a\x03b\r\n");
    let long = "x".repeat(300);
    let block = frames::encode(&[("a", &long)]);
    assert_eq!(block[..5], [0, 1, b'a', 0x7f, 0xad]);
    assert_eq!(block[5], 1);
}

// The examples of RFC 7541 appendix C.6, and the forms that answers of a gateway have.
#[test]
fn statuses_are_read_from_header_blocks() {
    for (block, status) in [
        (&[0x88][..], 200),
        (&[0x20, 0x8d], 404),
        (&[0x48, 0x82, 0x64, 0x02, 0x58], 302),
        (&[0x48, 0x83, 0x64, 0x0e, 0xff], 307),
        (&[0x48, 0x82, 0x68, 0x01], 401),
        (&[0x08, 0x03, b'4', b'2', b'9'], 429),
    ] {
        assert_eq!(frames::status_of(block), status);
    }
}

// Each real backend believes what it is told: without a gateway the alias is taken for the tenant. That is the danger.
#[test]
fn real_backends_fall_for_an_alias_when_nothing_stands_before_them() {
    for backend in real::all() {
        let request = Request::get("/admin/x")
            .header("X_Tenant_Id", "forged")
            .header("Connection", "close");
        let answer = Http1::plain(backend.address).exchange(&request);
        answer.expect(200);
        assert_eq!(answer.json()["backend"], backend.name);
        assert_eq!(answer.json()["tenant"], "forged", "{}", backend.name);
        assert_eq!(answer.json()["place"], "admin", "{}", backend.name);
        let trick = Request::get("/public/%2e%2e/admin").header("Connection", "close");
        let answer = Http1::plain(backend.address).exchange(&trick);
        assert_eq!(answer.json()["place"], "admin", "{}", backend.name);
    }
}
