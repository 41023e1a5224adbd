//! Bodies both ways: streamed, with back-pressure and flat memory, and an end that shows whether it is one.

use std::io::Read;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;

use crate::support::Gate;
use crate::support::PATIENCE;
use crate::support::client;
use crate::support::client::Http1;
use crate::support::client::block_on;
use crate::support::client::read_h2;
use crate::support::eventually;
use crate::support::frames;
use crate::support::frames::Frames;
use crate::support::frames::Outcome;
use crate::support::gateway::Access;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::site::Site;
use crate::support::upstream;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;
use crate::support::upstream::ok;

fn send(text: impl Into<Vec<u8>>) -> Step {
    Step::Send(text.into())
}

// DESIGN section 7: the first event is there before the second is made; HTTP/1.1 and HTTP/2.
#[test]
fn the_first_event_arrives_at_once() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let gate = Gate::closed();
    upstream.script(
        "/public/events",
        vec![
            Step::ReadBody,
            send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"),
            send("d\r\ndata: first\n\n\r\n"),
            Step::Wait(gate.clone()),
            send("e\r\ndata: second\n\n\r\n0\r\n\r\n"),
        ],
    );
    let mut h1 = gateway.connect();
    h1.send(Request::get("/public/events").bytes());
    assert!(h1.wait_for("first"));
    block_on(async {
        let h2 = gateway.connect_h2().await;
        let response = h2.begin(&Request::get("/public/events")).await.unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "data: first\n\n");
        gate.open();
        assert_eq!(body.data().await.unwrap().unwrap(), "data: second\n\n");
        // The end may come in an empty frame of its own.
        while let Some(rest) = body.data().await {
            assert_eq!(rest.unwrap(), "");
        }
    });
    assert!(h1.wait_for("second"));
}

// An upload reaches the backend while the client still sends.
#[test]
fn an_upload_is_not_gathered_first() {
    let upstream = Upstream::start();
    upstream.script(
        "/public/up",
        vec![
            send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly"),
            Step::ReadBody,
        ],
    );
    let gateway = Setup::usual(&upstream).start();
    let mut client = gateway.connect();
    client.send("POST /public/up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345");
    upstream.wait_for_hits(1);
    let answer = client.read_head().unwrap();
    answer.expect(200);
    client.send("67890");
    eventually("the whole upload is there", || {
        (upstream.last().body == b"1234567890").then_some(())
    });
}

// FA17 in part: large bodies pass both ways; memory stays flat.
#[test]
fn large_bodies_pass_in_flat_memory() {
    const PIECE: usize = 1 << 20;
    const COUNT: usize = 256;
    let upstream = Upstream::start();
    // A process of its own: what other tests hold is no memory of the gateway's.
    let site = Site::of(Setup::usual(&upstream));
    let running = site.start();
    let total = PIECE * COUNT;
    upstream.script(
        "/public/down",
        vec![
            Step::ReadBody,
            send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n"
            )),
            Step::Repeat(vec![b'x'; PIECE], COUNT),
        ],
    );
    let mut wire = client::tls(site.https, "localhost", client::tls_config(&[])).unwrap();
    let before = resident_bytes(running.child.id());
    wire.write_all(&Request::get("/public/down").bytes())
        .unwrap();
    upstream.wait_for_hits(1);
    let mut piece = vec![0; PIECE];
    let mut got = 0;
    let mut peak = 0;
    while got < total {
        let count = wire.read(&mut piece).unwrap();
        assert_ne!(count, 0, "the answer was cut after {got} bytes");
        got += count;
        if got % (8 * PIECE) < count {
            peak = peak.max(resident_bytes(running.child.id()));
        }
    }
    // A gathered body would show as its full 256 MiB.
    let grown = peak.saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
}

// DESIGN section 7: a client that does not read stops the backend from sending.
#[test]
fn a_slow_reader_holds_the_backend_back() {
    const PIECE: usize = 1 << 20;
    let upstream = Upstream::start();
    let site = Site::of(Setup::usual(&upstream));
    let running = site.start();
    let told = Gate::closed();
    upstream.script(
        "/public/down",
        vec![
            Step::ReadBody,
            send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                64 * PIECE
            )),
            Step::Repeat(vec![b'x'; PIECE], 64),
            Step::Wait(told.clone()),
        ],
    );
    let mut client = Http1::tls(site.https);
    let before = resident_bytes(running.child.id());
    client.send(Request::get("/public/down").bytes());
    let mut answer = client.read_head().unwrap();
    answer.expect(200);
    // What it gets rid of lies in the buffers of the kernel and of the gateway.
    let sent = stands_still(|| upstream.repeated());
    assert!(sent < 48 << 20, "{sent} bytes sent");
    let held = resident_bytes(running.child.id()).saturating_sub(before);
    assert!(held < 48 << 20, "{held} bytes held");
    told.open();
    client.read_body("GET", &mut answer);
    assert!(answer.complete);
    assert_eq!(answer.body.len(), 64 * PIECE);
}

/// What this has come to when it grows no more for a while.
fn stands_still(count: impl Fn() -> usize) -> usize {
    let mut before = count();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = count();
        if now == before {
            return now;
        }
        before = now;
    }
}

/// What this process holds in memory.
pub fn resident_bytes(process: u32) -> usize {
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

// S34, CVE class "cut bodies look complete": HTTP/1.1 closes without the last chunk, HTTP/2 resets the stream.
#[test]
fn a_cut_answer_looks_cut() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let cuts = [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nha",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    ];
    for cut in cuts {
        upstream.answer_and_close("/public/cut", cut);
        let mut h1 = gateway.connect();
        let answer = h1.exchange(&Request::get("/public/cut"));
        assert!(!answer.complete, "{cut:?}: {answer:?}");
        assert!(h1.is_closed(), "{cut:?}");
        let mut h2 = Frames::connect(gateway.https());
        let stream = h2.open(&frames::get("/public/cut"), true);
        let ending = h2.ending(stream);
        assert!(
            matches!(ending, Some(Outcome::Reset(_))),
            "{cut:?}: {ending:?}"
        );
    }
}

// HTTP/1.0 backends end a body by closing; that is a whole body.
#[test]
fn a_body_that_ends_by_closing_is_whole() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    upstream.answer_and_close("/public/old", "HTTP/1.0 200 OK\r\n\r\nall of it");
    let answer = gateway.send(&Request::get("/public/old"));
    assert!(answer.complete);
    assert_eq!(answer.text(), "all of it");
    block_on(async {
        let h2 = gateway.connect_h2().await;
        let answer = h2.exchange(&Request::get("/public/old")).await.unwrap();
        assert!(answer.complete);
        assert_eq!(answer.text(), "all of it");
    });
}

// HEAD, 204 and 304 have no body, whatever their Content-Length says; the connection goes on.
#[test]
fn answers_without_a_body_keep_the_connection() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    upstream.answer(
        "/public/head",
        "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
    );
    upstream.answer("/public/204", "HTTP/1.1 204 No Content\r\n\r\n");
    upstream.answer(
        "/public/304",
        "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
    );
    let mut client = gateway.connect();
    let answer = client.exchange(&Request::new("HEAD", "/public/head"));
    assert_eq!(answer.number("content-length"), 1234);
    client.exchange(&Request::get("/public/204")).expect(204);
    let answer = client.exchange(&Request::get("/public/304"));
    answer.expect(304);
    assert_eq!(answer.one("etag"), "\"x\"");
    client.exchange(&Request::get("/public/x")).expect(200);
}

// S6: 100-continue is passed on when the backend says so, and the body follows only then.
#[test]
fn continue_comes_from_the_backend() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme").text;
    let mut client = gateway.connect();
    client.send(format!(
        "POST /any HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    ));
    assert!(client.wait_for("HTTP/1.1 100"));
    client.send("hi");
    client.read().expect(200);
    assert_eq!(upstream.last().body, b"hi");
}

// S6: a refusal sends no 100 and asks for no body.
#[test]
fn a_refused_upload_gets_no_continue() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let mut client = gateway.connect();
    client.send(
        "POST /any HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n",
    );
    let answer = client.read();
    answer.expect(401);
    assert_eq!(answer.interim, [] as [u16; 0]);
    assert_eq!(upstream.hits(), 0);
}

// S43: response trailers are delivered, HTTP/1.1 (to a client that asks) and HTTP/2; request trailers are not.
#[test]
fn response_trailers_arrive() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    upstream.answer(
        "/public/t",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n2\r\nhi\r\n0\r\ngrpc-status: 0\r\n\r\n",
    );
    block_on(async {
        let h2 = gateway.connect_h2().await;
        let answer = h2.exchange(&Request::get("/public/t")).await.unwrap();
        assert_eq!(answer.text(), "hi");
        assert_eq!(
            answer.trailers,
            [("grpc-status".to_owned(), "0".to_owned())]
        );
    });
    let request = Request::get("/public/t").header("TE", "trailers");
    let answer = gateway.send(&request);
    assert_eq!(answer.text(), "hi");
    assert_eq!(answer.trailers.len(), 1, "{answer:?}");
}

// S38, S44: a client that leaves ends the request to the backend at once, HTTP/1.1 and HTTP/2.
#[test]
fn a_client_that_leaves_cancels_the_backend() {
    let upstream = Upstream::start();
    upstream.script("/public/wait", vec![Step::ReadBody, Step::Hold]);
    let gateway = Setup::usual(&upstream).start();
    let mut h1 = gateway.connect();
    h1.send(Request::get("/public/wait").bytes());
    upstream.wait_for_hits(1);
    drop(h1);
    upstream.wait_for_aborted(1);
    // Its body came with the head.
    let mut h1 = gateway.connect();
    h1.send(
        Request::new("POST", "/public/wait")
            .body("all of it")
            .bytes(),
    );
    upstream.wait_for_hits(2);
    drop(h1);
    upstream.wait_for_aborted(2);
    let mut h2 = Frames::connect(gateway.https());
    let stream = h2.open(&frames::get("/public/wait"), true);
    upstream.wait_for_hits(3);
    h2.send(frames::RST_STREAM, 0, stream, &8u32.to_be_bytes());
    upstream.wait_for_aborted(3);
    // Other streams of the connection live on.
    assert_eq!(h2.exchange(&frames::get("/public/x")), Outcome::Status(200));
}

// DESIGN section 7: connections to the backend are kept and used again.
#[test]
fn connections_to_the_backend_are_used_again() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("server", "workers", "1")
        .start();
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.exchange(&Request::get("/public/x")).expect(200);
    }
    assert_eq!(upstream.connections(), 1);
}

// S36: an idle connection that the backend closed costs nobody a request.
#[test]
fn a_connection_closed_while_idle_costs_no_request() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    upstream.answer_and_close("/public/last", ok("bye"));
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.exchange(&Request::get("/public/last")).expect(200);
    }
}

// S36: a POST that reached the backend is never sent again.
#[test]
fn a_post_is_not_repeated() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    upstream.script("/public/post", vec![Step::ReadBody, Step::Close]);
    let request = Request::new("POST", "/public/post").body("once");
    gateway.send(&request).expect(502);
    assert_eq!(upstream.hits_on("/public/post"), 1);
}

// Several servers: requests spread, and one that is away costs nobody anything.
#[test]
fn several_servers_share_the_work() {
    let (one, two) = (Upstream::start(), Upstream::start());
    let dead = upstream::nobody();
    let servers = format!(
        r#"["http://{}", "http://{}", "http://{dead}"]"#,
        one.address, two.address
    );
    let gateway = Setup::usual(&one)
        .set("upstreams.legacy", "servers", &servers)
        .set("upstreams.legacy", "connect_retries", "2")
        .start();
    let mut client = gateway.connect();
    for _ in 0..60 {
        client.exchange(&Request::get("/public/x")).expect(200);
    }
    assert_eq!(one.hits() + two.hits(), 60);
    assert!(
        one.hits() > 5 && two.hits() > 5,
        "{} and {}",
        one.hits(),
        two.hits()
    );
}

// 502, 503 and 504 told apart, each with its Proxy-Status (RFC 9209).
#[test]
fn backend_failures_are_told_apart() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .upstream("hasty", upstream.address)
        .set("upstreams.hasty", "first_byte_timeout", r#""300ms""#)
        .route_to("hasty", "/silent", &[], Access::Public, "")
        .upstream("dead", upstream::nobody())
        .route_to("dead", "/dead", &[], Access::Public, "")
        .set(
            "upstreams.nodns",
            "servers",
            r#"["http://no-such-name.invalid:80"]"#,
        )
        .route_to("nodns", "/nodns", &[], Access::Public, "")
        .start();
    upstream.script("/silent", vec![Step::ReadBody, Step::Hold]);
    upstream.script("/public/gone", vec![Step::ReadBody, Step::Close]);
    upstream.answer_and_close("/public/half", "HTTP/1.1 200 OK\r\nConte");
    let cases = [
        ("/dead", 502, "connection_refused"),
        ("/nodns", 502, "dns_error"),
        ("/silent", 504, "http_response_timeout"),
        ("/public/gone", 502, "connection_terminated"),
        ("/public/half", 502, "connection_terminated"),
    ];
    for (target, status, error) in cases {
        let answer = gateway.send(&Request::get(target));
        assert_eq!(answer.status, status, "{target}: {}", answer.text());
        let told = answer.one("proxy-status");
        assert!(told.contains(&format!("error={error}")), "{target}: {told}");
        assert_eq!(answer.one("content-type"), "application/problem+json");
    }
}

// DESIGN section 7: a body that falls silent is cut; a total deadline holds for the whole exchange.
#[test]
fn silence_and_total_deadlines_cut_an_answer() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("upstreams.legacy", "idle_timeout", r#""300ms""#)
        .route_to(
            "legacy",
            "/total",
            &[],
            Access::Public,
            "total_timeout = \"300ms\"\n",
        )
        .start();
    for path in ["/public/stall", "/total"] {
        upstream.script(
            path,
            vec![
                Step::ReadBody,
                send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
                Step::Hold,
            ],
        );
        // 504 is a whole answer, and true where a busy machine took all the time before the first byte.
        let answer = eventually("the answer begins in time", || {
            let answer = gateway.send(&Request::get(path));
            (answer.status != 504).then_some(answer)
        });
        answer.expect(200);
        assert!(!answer.complete, "{path}");
    }
    upstream.wait_for_aborted(2);
}

// DESIGN section 8: a body above the bound is 413, told in its head or found on the way; a route may have its own bound.
#[test]
fn bodies_are_bounded() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("http", "body_bytes_max", r#""1KiB""#)
        .route_to(
            "legacy",
            "/big",
            &[],
            Access::Public,
            "body_bytes_max = \"4KiB\"\n",
        )
        .start();
    let post = |path: &str, size: usize| {
        gateway
            .send(&Request::new("POST", path).body(vec![b'x'; size]))
            .status
    };
    assert_eq!(post("/public/x", 1024), 200);
    assert_eq!(post("/public/x", 1025), 413);
    assert_eq!(post("/big", 4096), 200);
    assert_eq!(post("/big", 4097), 413);
    assert_eq!(upstream.hits(), 2);
    let mut chunked =
        "POST /public/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_owned();
    for _ in 0..5 {
        chunked.push_str(&format!("100\r\n{}\r\n", "x".repeat(256)));
    }
    chunked.push_str("0\r\n\r\n");
    let answer = gateway.send_bytes(&chunked).expect("an answer");
    answer.expect(413);
}

// FA8, FA12 while streams run: many at once over one HTTP/2 connection, each whole.
#[test]
fn many_streams_carry_large_bodies_at_once() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let body = "0123456789abcdef".repeat(16 * 1024);
    upstream.answer("/public/big", ok(&body));
    block_on(async {
        let h2 = gateway.connect_h2().await;
        let mut pending = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let response = h2.begin(&Request::get("/public/big")).await.unwrap();
            pending.spawn(async move { read_h2(response.await.unwrap()).await.unwrap() });
        }
        let answers = pending.join_all().await;
        assert!(answers.iter().all(|answer| answer.body.len() == body.len()));
    });
}

// An HTTP/2 upload in pieces arrives whole, and its length is checked against what its head said (S4).
#[test]
fn http2_uploads_arrive_whole() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    block_on(async {
        let h2 = gateway.connect_h2().await;
        let request = Request::new("POST", "/public/up");
        let (response, mut upload) = h2.begin_upload(&request).await.unwrap();
        for piece in ["one ", "two ", "three"] {
            upload.send_data(Bytes::from(piece), false).unwrap();
            tokio::task::yield_now().await;
        }
        upload.send_data(Bytes::new(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
    assert_eq!(upstream.last().body, b"one two three");
}

// S22: a client that stops in the middle of its body, or of reading, is let go.
#[test]
fn a_stalled_client_is_let_go() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("connections", "stall_timeout", r#""300ms""#)
        .start();
    let mut client = gateway.connect();
    client.send("POST /public/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345");
    if let Some(answer) = client.try_read_for("POST") {
        answer.expect(408);
    }
    assert!(client.is_closed());
    assert!(Duration::from_millis(300) < PATIENCE);
}
