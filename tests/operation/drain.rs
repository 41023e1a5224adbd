//! The drain of the real process: readiness first, what is under way ends, what remains is cut in time and told.

use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::PATIENCE;
use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::site::Site;
use crate::support::timed;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;

fn ready(admin: SocketAddr) -> u16 {
    let request = Request::get("/readyz").header("Connection", "close");
    Http1::plain(admin).exchange(&request).status
}

// OP2, DESIGN section 9: what does not end within the drain is cut, and a line says how many and what sets the time.
#[test]
fn a_drain_cuts_what_remains_and_says_so() {
    let upstream = Upstream::start();
    upstream.script("/any", vec![Step::ReadBody, Step::Hold]);
    let site = Site::of(Setup::usual(&upstream).set("server", "drain_timeout", r#""700ms""#));
    let mut running = site.start();
    let request = Request::get("/any").bearer(&site.key());
    let mut clients: Vec<Http1> = (0..3).map(|_| Http1::tls(site.https)).collect();
    for client in &mut clients {
        client.send(request.bytes());
    }
    upstream.wait_for_hits(3);
    running.signal(Signal::TERM);
    assert_eq!(running.ended(), Some(0));
    let said = running.stderr();
    assert!(said.contains("the time for draining is over"), "{said}");
    assert!(
        said.contains("connections=3") && said.contains("server.drain_timeout"),
        "{said}"
    );
    for client in &mut clients {
        assert!(client.is_closed());
    }
    upstream.wait_for_aborted(3);
}

// OP2, S22: half a head, half a TLS hello and a silent connection are given a moment, not the whole of their deadlines, and nothing of the drain's.
#[test]
fn half_sent_heads_do_not_hold_a_drain_up() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream)
        .set("server", "drain_timeout", r#""1h""#)
        .set("connections", "head_timeout", r#""5min""#)
        .set("connections", "handshake_timeout", r#""5min""#);
    let site = Site::of(setup);
    let mut running = site.start();
    let mut fresh = Http1::tls(site.https);
    fresh.send("GET /any HTTP/1.1\r\nHost: loc");
    let mut kept = Http1::tls(site.https);
    kept.exchange(&Request::get("/public/x")).expect(200);
    kept.send("GET /public/x HT");
    let mut hello = TcpStream::connect(site.https).unwrap();
    hello.write_all(&[0x16, 3, 1, 2]).unwrap();
    let _silent = TcpStream::connect(site.https).unwrap();
    running.signal(Signal::TERM);
    let (took, code) = timed(|| running.ended());
    assert_eq!(code, Some(0));
    assert!(took < PATIENCE, "{took:?}");
}

// A head that is whole in time is answered, although the drain began in its middle; the answer says that it is the last one.
#[test]
fn a_head_that_is_finished_in_a_drain_is_answered() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    eventually("a head is finished in time", || {
        let mut running = site.start();
        let mut client = Http1::tls(site.https);
        client.exchange(&Request::get("/public/x")).expect(200);
        client.send("GET /public/y HTTP/1.1\r\nHost: loc");
        let (took, ()) = timed(|| {
            running.signal(Signal::TERM);
            eventually("the drain has begun", || {
                TcpStream::connect(site.https).is_err().then_some(())
            });
            client.send("alhost\r\n\r\n");
        });
        let answer = client.try_read_for("GET");
        assert_eq!(running.ended(), Some(0));
        // Two seconds are given; where the machine stood still for as long, there is another try.
        if answer.is_none() && took > Duration::from_secs(1) {
            return None;
        }
        let answer = answer.expect("an answer");
        answer.expect(200);
        assert_eq!(answer.one("connection"), "close");
        assert!(client.is_closed());
        Some(())
    });
}

// OP2, DESIGN section 9: readiness goes first. While `drain_delay` runs, all is served as before; a second TERM ends it at once.
#[test]
fn readiness_goes_before_anything_else() {
    let upstream = Upstream::start();
    upstream.script("/public/held", vec![Step::ReadBody, Step::Hold]);
    let setup = Setup::usual(&upstream)
        .set("server", "drain_delay", r#""5min""#)
        .set("server", "drain_timeout", r#""1h""#);
    let site = Site::of(setup);
    let mut running = site.start();
    assert_eq!(ready(site.admin()), 200);
    let mut held = Http1::tls(site.https);
    held.send(Request::get("/public/held").bytes());
    upstream.wait_for_hits(1);
    running.signal(Signal::TERM);
    eventually("it is no longer ready", || {
        (ready(site.admin()) == 503).then_some(())
    });
    let answer = Http1::tls(site.https).exchange(&Request::get("/public/x"));
    answer.expect(200);
    assert!(!answer.has("connection"), "{answer:?}");
    running.signal(Signal::TERM);
    let (took, code) = timed(|| running.ended());
    assert_eq!(code, Some(0));
    assert!(took < PATIENCE, "{took:?}");
    assert!(held.is_closed());
}
