//! The drain: no new connections, requests in flight finish, and it ends in bounded time.

use std::net::TcpStream;
use std::time::Duration;

use crate::support::Gate;
use crate::support::PATIENCE;
use crate::support::eventually;
use crate::support::frames;
use crate::support::frames::Frames;
use crate::support::frames::GOAWAY;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::timed;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;
use crate::support::upstream::ok;

// DESIGN section 9: a request in flight is finished, and nothing new is taken.
#[test]
fn a_drain_finishes_what_is_in_flight() {
    let upstream = Upstream::start();
    let gate = Gate::closed();
    upstream.script(
        "/public/slow",
        vec![
            Step::ReadBody,
            Step::Wait(gate.clone()),
            Step::Send(ok("whole")),
        ],
    );
    let gateway = Setup::usual(&upstream).start();
    let address = gateway.https();
    let mut client = gateway.connect();
    client.send(Request::get("/public/slow").bytes());
    upstream.wait_for_hits(1);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| gateway.stop());
        eventually("new connections are refused", || {
            TcpStream::connect(address).is_err().then_some(())
        });
        gate.open();
        let answer = client.read();
        assert!(answer.complete);
        assert_eq!(answer.text(), "whole");
        assert!(client.is_closed());
        stopping.join().unwrap();
    });
}

// An idle kept connection does not hold a drain up.
#[test]
fn idle_connections_do_not_hold_a_drain_up() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("server", "drain_timeout", r#""60s""#)
        .start();
    let mut h1 = gateway.connect();
    h1.exchange(&Request::get("/public/x")).expect(200);
    let mut h2 = Frames::connect(gateway.https());
    h2.exchange(&frames::get("/public/x"));
    let told = std::thread::spawn(move || while h2.read().is_some() {});
    let (took, ()) = timed(|| gateway.stop());
    told.join().unwrap();
    assert!(took < PATIENCE, "{took:?}");
    assert!(h1.is_closed());
}

// S22: a client that has gone deaf, and answers no PING, does not either.
#[test]
fn a_deaf_http2_client_does_not_hold_a_drain_up() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("server", "drain_timeout", r#""60s""#)
        .start();
    let mut served = Frames::connect(gateway.https());
    served.exchange(&frames::get("/public/x"));
    let _fresh = Frames::connect(gateway.https());
    let (took, ()) = timed(|| gateway.stop());
    assert!(took < PATIENCE, "{took:?}");
}

// HTTP/2 clients are told by GOAWAY, so that they lose nothing: first that there will be no more streams, and after a round trip which one was the last.
#[test]
fn http2_clients_are_told_to_go_away() {
    let upstream = Upstream::start();
    let gate = Gate::closed();
    upstream.script(
        "/public/slow",
        vec![
            Step::ReadBody,
            Step::Wait(gate.clone()),
            Step::Send(ok("whole")),
        ],
    );
    let gateway = Setup::usual(&upstream).start();
    let mut client = Frames::connect(gateway.https());
    let stream = client.open(&frames::get("/public/slow"), true);
    upstream.wait_for_hits(1);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| gateway.stop());
        let (mut told, mut ended) = (Vec::new(), false);
        while let Some((kind, flags, on, payload)) = client.read() {
            if kind == GOAWAY {
                told.push(u32::from_be_bytes(payload[..4].try_into().unwrap()));
            }
            if told.len() == 2 {
                gate.open();
            }
            ended |= on == stream && flags & frames::END_STREAM != 0 && kind <= frames::HEADERS;
        }
        assert_eq!(told[..2], [(1 << 31) - 1, stream]);
        assert!(ended);
        stopping.join().unwrap();
    });
}

// What does not finish within the drain is cut, and the drain ends.
#[test]
fn a_drain_is_bounded() {
    let upstream = Upstream::start();
    upstream.script("/public/never", vec![Step::ReadBody, Step::Hold]);
    let gateway = Setup::usual(&upstream)
        .set("server", "drain_timeout", r#""300ms""#)
        .start();
    let mut client = gateway.connect();
    client.send(Request::get("/public/never").bytes());
    upstream.wait_for_hits(1);
    let (took, ()) = timed(|| gateway.stop());
    assert!(
        took >= Duration::from_millis(250) && took < PATIENCE,
        "{took:?}"
    );
    upstream.wait_for_aborted(1);
}

// A stopped gateway gives its store and its ports back.
#[test]
fn a_stopped_gateway_leaves_nothing_behind() {
    let upstream = Upstream::start();
    let mut gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    for _ in 0..3 {
        gateway = gateway.restart();
        gateway.get("/any", &key).expect(200);
    }
}

// DESIGN section 5: one store, one gateway.
#[test]
fn a_store_in_use_is_refused() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let second = gateway
        .setup
        .clone()
        .set("listen", "admin_socket", r#""second.sock""#);
    let Err(error) = second.try_start(&gateway.clock) else {
        panic!("a second gateway runs on the same store");
    };
    assert!(error.contains("in use"), "{error}");
    gateway.send(&Request::get("/public/x")).expect(200);
}
