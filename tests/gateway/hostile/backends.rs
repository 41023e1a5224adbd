//! Backends that answer garbage, too much, or what nobody asked for (S33, S35, S37, S42).

use super::usual;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;
use crate::support::upstream::ok;

// S33, S42: what is not HTTP from the backend is 502, and its connection is not used again.
#[test]
fn garbage_from_the_backend_is_502() {
    let (upstream, gateway) = usual();
    let key = gateway.key("acme");
    let large = format!(
        "HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n",
        "x".repeat(200_000)
    );
    let answers = [
        "garbage\r\n\r\n",
        "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        "<html>hello</html>",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: b\0\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
        large.as_str(),
    ];
    for bytes in answers {
        upstream.answer_and_close("/any", bytes);
        let answer = gateway.get("/any", &key);
        let shown: String = bytes.chars().take(60).collect();
        assert_eq!(answer.status, 502, "{shown:?}");
        assert_eq!(
            answer.one("content-type"),
            "application/problem+json",
            "S41"
        );
        assert!(answer.has("proxy-status"), "{shown:?}");
        upstream.answer("/any", ok("fine"));
        gateway.get("/any", &key).expect(200);
    }
}

// S35: bytes beyond an answer never become the answer to the next request.
#[test]
fn excess_bytes_do_not_answer_the_next_request() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("server", "workers", "1")
        .start();
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    upstream.answer(
        "/public/a",
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{evil}"),
    );
    upstream.answer(
        "/public/b",
        format!("HTTP/1.1 204 No Content\r\n\r\n{evil}"),
    );
    upstream.answer(
        "/public/c",
        format!("HTTP/1.1 304 Not Modified\r\n\r\n{evil}"),
    );
    let mut client = gateway.connect();
    for poisoned in ["/public/a", "/public/b", "/public/c"] {
        client.exchange(&Request::get(poisoned));
        for _ in 0..5 {
            let answer = client.exchange(&Request::get("/public/next"));
            assert_eq!(answer.text(), "ok", "after {poisoned}");
        }
    }
    upstream.answer(
        "/public/head",
        format!("HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n{evil}"),
    );
    client.exchange(&Request::new("HEAD", "/public/head"));
    for _ in 0..5 {
        assert_eq!(client.exchange(&Request::get("/public/next")).text(), "ok");
    }
}

// S37: interim answers are dropped and bounded; an early 4xx is passed on.
#[test]
fn interim_answers_are_bounded() {
    let (upstream, gateway) = usual();
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    upstream.answer(
        "/public/few",
        format!("{hints}{hints}{}", String::from_utf8_lossy(&ok("done"))),
    );
    assert_eq!(gateway.send(&Request::get("/public/few")).text(), "done");
    upstream.answer_and_close("/public/flood", hints.repeat(10_000));
    gateway.send(&Request::get("/public/flood")).expect(502);
    upstream.script(
        "/public/early",
        vec![Step::Send(
            b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
        )],
    );
    let mut client = gateway.connect();
    client.send(
        "POST /public/early HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nsome",
    );
    client.read().expect(413);
}

// S33: what a backend writes into its headers splits nothing.
#[test]
fn a_backend_cannot_split_the_answer() {
    let (upstream, gateway) = usual();
    upstream.answer_and_close(
        "/public/x",
        "HTTP/1.1 200 OK\r\nX-A: b\rX-B: c\r\nContent-Length: 0\r\n\r\n",
    );
    let answer = gateway.send(&Request::get("/public/x"));
    assert!(answer.status == 502 || !answer.has("x-b"), "{answer:?}");
}

// S7, S42: a 101 that nobody asked for is a backend failure.
#[test]
fn a_101_that_nobody_asked_for_is_502() {
    let (upstream, gateway) = usual();
    upstream.answer(
        "/public/x",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n",
    );
    gateway.send(&Request::get("/public/x")).expect(502);
}

// S8: the same on the way back.
#[test]
fn hop_by_hop_headers_of_the_backend_end_here_too() {
    let (upstream, gateway) = usual();
    upstream.answer(
        "/public/x",
        "HTTP/1.1 200 OK\r\nConnection: x-one\r\nX-One: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-Two: 2\r\nContent-Length: 0\r\n\r\n",
    );
    let answer = gateway.send(&Request::get("/public/x"));
    for name in ["x-one", "keep-alive", "proxy-authenticate"] {
        assert!(!answer.has(name), "{name}");
    }
    assert_eq!(answer.one("x-two"), "2");
}
