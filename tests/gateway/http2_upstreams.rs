//! Backends over HTTP/2: many requests on one connection, none of which another can spoil.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;

use crate::support::PATIENCE;
use crate::support::client::block_on;
use crate::support::client::read_h2;
use crate::support::eventually;
use crate::support::frames;
use crate::support::frames::Frames;
use crate::support::frames::Outcome;
use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::h2_upstream::Call;
use crate::support::h2_upstream::H2Upstream;
use crate::support::h2_upstream::Manners;
use crate::support::h2_upstream::RawH2;
use crate::support::h2_upstream::Then;
use crate::support::h2_upstream::bare_200;
use crate::support::h2_upstream::frame;
use crate::support::h2_upstream::go_away;
use crate::support::h2_upstream::reset;
use crate::support::h2_upstream::send_all;
use crate::support::real;
use crate::support::request::Request;
use crate::support::timed;
use crate::support::upstream::Upstream;
use crate::support::upstream::nobody;

/// A gateway before an HTTP/2 backend in clear; one worker, so that connections can be counted.
fn before(address: std::net::SocketAddr) -> Setup {
    Setup::usual_at(address)
        .set("upstreams.legacy", "protocol", r#""http2""#)
        .set("server", "workers", "1")
}

fn get(target: &str, key: &Key) -> Request {
    Request::get(target).bearer(&key.text)
}

fn post(target: &str, key: &Key, body: &str) -> Request {
    Request::new("POST", target).bearer(&key.text).body(body)
}

/// Says `ok` and what it was sent.
async fn echo(mut call: Call) {
    let body = call.read().await;
    let length = body.len().to_string();
    call.answer(200, &[("x-length", &length)], "ok");
}

#[track_caller]
fn proxy_error(gateway: &Gateway, request: &Request, status: u16, error: &str) {
    let answer = gateway.send(request);
    answer.expect(status);
    assert_eq!(
        answer.one("proxy-status"),
        format!("portcullis; error={error}")
    );
}

// DESIGN section 7: many at once share one connection, from both protocols of clients.
#[test]
fn requests_share_one_connection() {
    let upstream = H2Upstream::start(echo);
    let gateway = before(upstream.address).start();
    let key = gateway.key("acme");
    block_on(async {
        let client = gateway.connect_h2().await;
        let mut pending = Vec::new();
        for _ in 0..50 {
            pending.push(client.begin(&post("/any/x", &key, "body")).await.unwrap());
        }
        for response in pending {
            let answer = read_h2(response.await.unwrap()).await.unwrap();
            assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()));
            assert_eq!(answer.one("x-length"), "4");
        }
    });
    let mut client = gateway.connect();
    for _ in 0..5 {
        let answer = client.exchange(&get("/any/x", &key));
        assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()));
    }
    assert_eq!(upstream.connections(), 1);
}

// S8, S9, S11, FM1: what HTTP/1.1 says in `Host` stands in the authority; hop-by-hop headers end here; one tenant, ours.
#[test]
fn the_head_is_that_of_http2() {
    let upstream = H2Upstream::start(echo);
    let gateway = before(upstream.address).start();
    let key = gateway.key("acme").text;
    let bytes = format!(
        "POST /any/x?q=%41 HTTP/1.1\r\nHost: api.test:8443\r\nAuthorization: Bearer {key}\r\nX-Tenant-Id: forged\r\nX_Tenant_Id: forged\r\n\
         Connection: close, X-Gone\r\nX-Gone: 1\r\nTE: trailers, deflate\r\nTransfer-Encoding: chunked\r\nTrailer: X-Tenant-Id\r\nCookie: a=1\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Tenant-Id: forged\r\n\r\n"
    );
    let answer = gateway.send_bytes(bytes).unwrap();
    answer.expect(200);
    assert_eq!(answer.one("x-length"), "3");
    let head = upstream.heads.lock().unwrap().pop().unwrap();
    assert_eq!(head.uri.to_string(), "http://api.test:8443/any/x?q=%41");
    let tenants: Vec<_> = head.headers.get_all("x-tenant-id").iter().collect();
    assert_eq!(tenants, ["acme"]);
    assert_eq!(head.headers["te"], "trailers");
    assert_eq!(head.headers["x-forwarded-host"], "api.test:8443");
    assert_eq!(head.headers["x-forwarded-proto"], "https");
    for gone in [
        "host",
        "connection",
        "x-gone",
        "transfer-encoding",
        "authorization",
        "x_tenant_id",
        "trailer",
        "content-length",
    ] {
        assert!(!head.headers.contains_key(gone), "{gone}");
    }
    let length = post("/any/x", &gateway.key("acme"), "12345");
    gateway.send(&length).expect(200);
    assert_eq!(upstream.last()["content-length"], "5");
    assert!(!upstream.last().contains_key("te"));
}

// The host policy of an upstream holds for the authority too.
#[test]
fn the_authority_follows_host_header() {
    let upstream = H2Upstream::start(echo);
    for (policy, authority) in [
        ("\"server\"", upstream.address.to_string()),
        ("\"fixed:legacy.internal\"", "legacy.internal".to_owned()),
    ] {
        let setup = before(upstream.address).set("upstreams.legacy", "host_header", policy);
        let gateway = setup.start();
        gateway.send(&get("/any", &gateway.key("acme"))).expect(200);
        let head = upstream.heads.lock().unwrap().pop().unwrap();
        assert_eq!(head.uri.authority().unwrap().as_str(), authority);
    }
}

// S43: trailers reach both protocols of clients; the tenant's name does not come back in them, nor in the head.
#[test]
fn trailers_of_the_backend_arrive() {
    let upstream = H2Upstream::start(|mut call| async move {
        let headers = [("trailer", "x-sum"), ("x-tenant-id", "acme")];
        let mut stream = call.begin(200, &headers, false);
        stream
            .send_data(Bytes::from_static(b"data"), false)
            .unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("4"));
        trailers.insert("x-tenant-id", HeaderValue::from_static("acme"));
        stream.send_trailers(trailers).unwrap();
    });
    let gateway = before(upstream.address).start();
    let key = gateway.key("acme");
    let request = get("/any", &key).header("TE", "trailers");
    let h1 = gateway.send(&request);
    let h2 = block_on(async {
        let client = gateway.connect_h2().await;
        client.exchange(&request).await.unwrap()
    });
    for answer in [h1, h2] {
        assert_eq!((answer.status, answer.text()), (200, "data".to_owned()));
        let trailers: Vec<_> = answer
            .trailers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
            .collect();
        assert_eq!(trailers, [("x-sum".to_owned(), "4")]);
        assert!(!answer.has("x-tenant-id"));
    }
}

// DESIGN section 7: HEAD, 204, 304 have no body and leave the connection as it was.
#[test]
fn answers_without_a_body() {
    let upstream = H2Upstream::start(|mut call| async move {
        match (call.head.method.as_str(), call.head.uri.path()) {
            ("HEAD", _) => drop(call.begin(200, &[("content-length", "77")], true)),
            (_, "/any/204") => drop(call.begin(204, &[], true)),
            (_, "/any/304") => drop(call.begin(304, &[("etag", "\"e\"")], true)),
            _ => call.answer(200, &[], "ok"),
        }
    });
    let gateway = before(upstream.address).start();
    let key = gateway.key("acme");
    let mut client = gateway.connect();
    let head = client.exchange(&Request::new("HEAD", "/any").bearer(&key.text));
    head.expect(200);
    assert_eq!(head.one("content-length"), "77");
    client.exchange(&get("/any/204", &key)).expect(204);
    let unchanged = client.exchange(&get("/any/304", &key));
    unchanged.expect(304);
    assert_eq!(unchanged.one("etag"), "\"e\"");
    assert_eq!(client.exchange(&get("/any", &key)).text(), "ok");
    assert_eq!(upstream.connections(), 1);
}

// S6: the 100 comes from the gateway, once the backend's stream takes the body; a refusal comes without.
#[test]
fn expect_100_continue() {
    let upstream = H2Upstream::start(echo);
    let gateway = before(upstream.address).start();
    let key = gateway.key("acme").text;
    let head = |key: &str| {
        format!(
            "POST /any HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
    };
    let mut client = gateway.connect();
    client.send(head(&key));
    assert!(client.wait_for("HTTP/1.1 100"));
    let answer = client.send("body").read();
    assert_eq!((answer.status, answer.interim.len()), (200, 1));
    assert_eq!(answer.one("x-length"), "4");
    assert!(!upstream.last().contains_key("expect"));
    let refused = gateway.connect().send(head("wrong")).read();
    assert_eq!((refused.status, refused.interim.len()), (401, 0));
}

// DESIGN section 7, large bodies with flat memory: both ways at once, each as large as no buffer.
#[test]
fn large_bodies_stream_both_ways() {
    const BYTES: usize = 24 << 20;
    let upstream = H2Upstream::start(|mut call| async move {
        let mut stream = call.begin(200, &[], false);
        let up = async { call.read().await.len() };
        let down = send_all(&mut stream, BYTES, false);
        let (up, down) = tokio::join!(up, down);
        assert!(down);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-length", HeaderValue::from(up));
        stream.send_trailers(trailers).unwrap();
    });
    let gateway = before(upstream.address).start();
    let key = gateway.key("acme");
    block_on(async {
        let client = gateway.connect_h2().await;
        let request = Request::new("POST", "/any").bearer(&key.text);
        let (response, mut body) = client.begin_upload(&request).await.unwrap();
        let up = send_all(&mut body, BYTES, true);
        let down = async { read_h2(response.await.unwrap()).await.unwrap() };
        let (up, down) = tokio::join!(up, down);
        assert!(up && down.complete);
        assert_eq!(down.body.len(), BYTES);
        assert_eq!(down.trailers, [("x-length".to_owned(), BYTES.to_string())]);
    });
}

// S5: an answer in the middle of an upload reaches the client; both connections stay good.
#[test]
fn an_early_answer_does_not_spoil_the_connection() {
    let upstream = H2Upstream::start(|mut call| async move {
        match call.head.uri.path() {
            "/any/early" => call.answer(403, &[], "no more"),
            _ => echo(call).await,
        }
    });
    let gateway = before(upstream.address).start();
    let key = gateway.key("acme");
    let mut client = gateway.connect();
    let answer = client.exchange(&post("/any/early", &key, &"x".repeat(100_000)));
    assert_eq!((answer.status, answer.text()), (403, "no more".to_owned()));
    let answer = client.exchange(&post("/any", &key, &"x".repeat(100_000)));
    assert_eq!(answer.one("x-length"), "100000");
    assert_eq!(upstream.connections(), 1);
}

// S38, S44: a client that leaves takes its stream with it and nothing else.
#[test]
fn a_client_that_leaves_resets_its_stream_only() {
    let resets = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&resets);
    let upstream = H2Upstream::start(move |mut call| {
        let noted = Arc::clone(&noted);
        async move {
            match call.head.uri.path() {
                "/any/wait" | "/any/up" => {
                    let reason = call.reset().await;
                    noted.lock().unwrap().push(reason);
                }
                "/any/stream" => {
                    let mut stream = call.begin(200, &[], false);
                    stream
                        .send_data(Bytes::from_static(b"first"), false)
                        .unwrap();
                    let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                    noted.lock().unwrap().push(reason.ok());
                }
                _ => {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    call.answer(200, &[], "still here");
                }
            }
        }
    });
    let gateway = before(upstream.address).start();
    let key = gateway.key("acme");
    let mut other = gateway.connect();
    other.send(get("/any/other", &key).bytes());
    upstream.wait_for_hits(1);
    {
        let mut waiting = gateway.connect();
        waiting.send(get("/any/wait", &key).bytes());
        let mut streaming = gateway.connect();
        streaming.send(get("/any/stream", &key).bytes());
        let mut uploading = gateway.connect();
        uploading.send(format!("POST /any/up HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Length: 10\r\n\r\n12345", key.text));
        upstream.wait_for_hits(4);
        assert!(streaming.wait_for("first"));
    }
    let seen = eventually("three streams are reset", || {
        Some(resets.lock().unwrap().clone()).filter(|seen| seen.len() == 3)
    });
    assert_eq!(seen, vec![Some(h2::Reason::CANCEL); 3]);
    assert_eq!(other.read().text(), "still here");
    assert_eq!(upstream.connections(), 1);
}

// S20: what a client gives up in the same breath in which it was made reaches no backend.
#[test]
fn a_stream_given_up_at_once_reaches_no_backend() {
    let upstream = H2Upstream::start(echo);
    let gateway = before(upstream.address)
        .set("upstreams.legacy", "pool_idle_timeout", r#""1min""#)
        .start();
    let key = gateway.key("acme");
    gateway.send(&get("/any/x", &key)).expect(200);
    let mut fields = frames::get("/any/x");
    fields.push(("x-api-key", &key.text));
    let mut client = Frames::connect(gateway.https());
    client.greet();
    for _ in 0..5 {
        client.give_up_at_once(&fields, 10);
        assert!(client.lives());
    }
    assert_eq!(client.exchange(&fields), Outcome::Status(200));
    gateway.series_after(52);
    assert_eq!((upstream.connections(), upstream.hits()), (1, 2));
}

// S34: what the backend cuts looks cut, over both protocols; others on the connection notice nothing.
#[test]
fn a_cut_stream_looks_cut() {
    let seen = Arc::new(tokio::sync::Semaphore::new(0));
    let may_cut = Arc::clone(&seen);
    let upstream = H2Upstream::start(move |mut call| {
        let may_cut = Arc::clone(&may_cut);
        async move {
            let headers: &[(&str, &str)] = match call.head.uri.path() {
                "/any/long" => &[("content-length", "100")],
                _ => &[],
            };
            let mut stream = call.begin(200, headers, false);
            stream
                .send_data(Bytes::from_static(b"first"), false)
                .unwrap();
            if call.head.uri.path() != "/any/short" {
                // Or the reset might overtake what was said before it.
                may_cut.acquire().await.unwrap().forget();
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
            } else {
                stream.send_data(Bytes::new(), true).unwrap();
            }
        }
    });
    let gateway = before(upstream.address).start();
    let key = gateway.key("acme");
    for path in ["/any/long", "/any/chunked"] {
        let mut h1 = gateway.connect();
        h1.send(get(path, &key).bytes());
        let mut answer = h1.read_head().unwrap();
        assert!(h1.wait_for("first"));
        seen.add_permits(1);
        h1.read_body("GET", &mut answer);
        assert!(!answer.complete && answer.status == 200, "{answer:?}");
        let mut h2 = Frames::connect(gateway.https());
        let bearer = format!("Bearer {}", key.text);
        let mut fields = crate::support::frames::get(path);
        fields.push(("authorization", &bearer));
        let stream = h2.open(&fields, true);
        assert_eq!(h2.outcome(stream), Outcome::Status(200));
        seen.add_permits(1);
        let ending = h2.ending(stream);
        assert!(matches!(ending, Some(Outcome::Reset(_))), "{ending:?}");
    }
    assert!(gateway.send(&get("/any/short", &key)).complete);
    gateway.log_line("upstream_cut");
    assert_eq!(upstream.connections(), 1);
}

// Another connection is made when the server takes no more streams on the first, and not before.
#[test]
fn a_full_connection_gets_company() {
    let manners = Manners {
        streams_max: Some(3),
        ..Manners::default()
    };
    let held = Arc::new(tokio::sync::Semaphore::new(0));
    let let_go = Arc::clone(&held);
    let upstream = H2Upstream::start_with(manners, move |mut call| {
        let held = Arc::clone(&held);
        async move {
            let _ = held.acquire().await;
            call.answer(200, &[], "ok");
        }
    });
    let gateway = before(upstream.address).start();
    let key = gateway.key("acme");
    block_on(async {
        let client = gateway.connect_h2().await;
        let mut pending = Vec::new();
        for _ in 0..8 {
            pending.push(client.begin(&get("/any", &key)).await.unwrap());
        }
        while upstream.hits() < 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(upstream.connections(), 3);
        let_go.add_permits(100);
        for response in pending {
            assert_eq!(response.await.unwrap().status(), 200);
        }
    });
}

// RFC 9113 section 8.7: what the server says it has not looked at is sent again, whatever it is; the client notices nothing.
#[test]
fn unprocessed_requests_are_sent_again() {
    for (name, turn_away) in [
        ("refused", (|stream| reset(stream, 7)) as fn(u32) -> Vec<u8>),
        ("going away", |stream| go_away(stream - 2, 0)),
        ("going away in anger", |stream| go_away(stream - 2, 11)),
    ] {
        // The second request is turned away once its body is there; its successor is not.
        let turned_away = AtomicUsize::new(0);
        let upstream = RawH2::start(frame(4, 0, 0, &[]), move |came| {
            let ends = came.flags & 1 == 1 && came.kind <= 1;
            if !ends {
                return Then::Write(Vec::new());
            }
            if came.stream == 3 && turned_away.fetch_add(1, Ordering::SeqCst) == 0 {
                return Then::Write(turn_away(came.stream));
            }
            Then::Write(bare_200(came.stream))
        });
        let gateway = before(upstream.address).start();
        let key = gateway.key("acme");
        let mut client = gateway.connect();
        client.exchange(&get("/any", &key)).expect(200);
        let answer = client.exchange(&post("/any", &key, "a body"));
        assert_eq!(answer.status, 200, "{name}");
        assert_eq!(upstream.requests.load(Ordering::SeqCst), 3, "{name}");
        client.exchange(&get("/any", &key)).expect(200);
    }
}

// S36: what may have been processed is never sent twice; a body that is no longer there is not either.
#[test]
fn processed_requests_are_not_sent_again() {
    for (name, end, error) in [
        (
            "reset",
            (|stream| Then::Write(reset(stream, 2))) as fn(u32) -> Then,
            "connection_terminated",
        ),
        (
            "cancelled",
            |stream| Then::Write(reset(stream, 8)),
            "connection_terminated",
        ),
        (
            "going away after it",
            |stream| Then::Close(go_away(stream, 0)),
            "connection_terminated",
        ),
        (
            "closed",
            |_| Then::Close(Vec::new()),
            "connection_terminated",
        ),
    ] {
        let upstream = RawH2::start(frame(4, 0, 0, &[]), move |came| {
            match (came.kind, came.flags & 1, came.stream) {
                (0 | 1, 1, 1) => Then::Write(bare_200(1)),
                (0 | 1, 1, stream) => end(stream),
                _ => Then::Write(Vec::new()),
            }
        });
        let gateway = before(upstream.address).start();
        let key = gateway.key("acme");
        gateway.send(&get("/any", &key)).expect(200);
        proxy_error(&gateway, &post("/any", &key, "a body"), 502, error);
        assert_eq!(upstream.requests.load(Ordering::SeqCst), 2, "{name}");
    }
    let upstream = RawH2::start(frame(4, 0, 0, &[]), |came| {
        let large = frame(8, 0, 0, &1_000_000u32.to_be_bytes());
        let window = frame(8, 0, came.stream, &1_000_000u32.to_be_bytes());
        match (came.kind, came.flags & 1) {
            (1, _) => Then::Write([large, window].concat()),
            (0, 1) => Then::Write(reset(came.stream, 7)),
            _ => Then::Write(Vec::new()),
        }
    });
    let gateway = before(upstream.address).start();
    let key = gateway.key("acme");
    let large = post("/any", &key, &"x".repeat(200_000));
    proxy_error(&gateway, &large, 503, "destination_unavailable");
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 1);
}

// A server that could not be reached, or refuses, is left for the next.
#[test]
fn another_server_is_tried() {
    let upstream = H2Upstream::start(echo);
    let servers = format!(r#"["http://{}", "http://{}"]"#, nobody(), upstream.address);
    let gateway = before(upstream.address)
        .set("upstreams.legacy", "servers", &servers)
        .start();
    let key = gateway.key("acme");
    for _ in 0..6 {
        gateway.send(&post("/any", &key, "body")).expect(200);
    }
}

// DESIGN section 7: each failure by its name.
#[test]
fn failures_are_told_apart() {
    let key = |gateway: &Gateway| gateway.key("acme");
    // HTTP/1.1 only.
    let old = Upstream::start();
    let gateway = before(old.address).start();
    let request = get("/any", &key(&gateway));
    let answer = gateway.send(&request);
    answer.expect(502);
    assert!(
        [
            "portcullis; error=http_protocol_error",
            "portcullis; error=connection_terminated"
        ]
        .contains(&answer.one("proxy-status"))
    );
    // Nobody.
    let gateway = before(nobody()).start();
    proxy_error(
        &gateway,
        &get("/any", &key(&gateway)),
        502,
        "connection_refused",
    );
    // Silent from the start.
    let mute = RawH2::start(Vec::new(), |_| Then::Write(Vec::new()));
    let gateway = before(mute.address)
        .set("upstreams.legacy", "connect_timeout", r#""200ms""#)
        .start();
    proxy_error(
        &gateway,
        &get("/any", &key(&gateway)),
        504,
        "connection_timeout",
    );
    assert_eq!(mute.requests.load(Ordering::SeqCst), 0);
    // Malformed answer: no status.
    let malformed = RawH2::start(frame(4, 0, 0, &[]), |came| match came.kind {
        1 => Then::Write(frame(1, 0x5, came.stream, b"\x00\x01a\x01b")),
        _ => Then::Write(Vec::new()),
    });
    let gateway = before(malformed.address).start();
    proxy_error(
        &gateway,
        &get("/any", &key(&gateway)),
        502,
        "http_protocol_error",
    );
    // A head that is too large, by bytes and by number.
    let upstream = H2Upstream::start(|mut call| async move {
        match call.head.uri.path() {
            "/any/bytes" => call.answer(200, &[("x", &"x".repeat(9_000))], "ok"),
            _ => call.answer(200, &[("x", "1"); 21], "ok"),
        }
    });
    let gateway = before(upstream.address)
        .set("upstreams.legacy", "head_bytes_max", r#""8KiB""#)
        .set("upstreams.legacy", "header_count_max", "20")
        .start();
    for path in ["/any/bytes", "/any/number"] {
        let error = "http_response_header_section_size";
        proxy_error(&gateway, &get(path, &key(&gateway)), 502, error);
    }
    assert_eq!(upstream.connections(), 1);
}

// A server that is gone without a word fails the requests that wait for it once, not each new one in turn.
#[test]
fn a_dead_connection_is_found_out() {
    let upstream = RawH2::start(frame(4, 0, 0, &[]), |came| {
        match (came.kind, came.connection) {
            (1, 1..) => Then::Write(bare_200(came.stream)),
            _ => Then::Write(Vec::new()),
        }
    });
    let gateway = before(upstream.address)
        .set("upstreams.legacy", "first_byte_timeout", r#""2s""#)
        .start();
    let key = gateway.key("acme");
    proxy_error(&gateway, &get("/any", &key), 504, "http_response_timeout");
    // The first connection is doubted: this one goes elsewhere.
    gateway.send(&get("/any", &key)).expect(200);
    assert_eq!(upstream.pings.load(Ordering::SeqCst), 1);
}

// One slow request is no reason to leave a connection: it answers a PING and is used again.
#[test]
fn a_slow_answer_does_not_cost_the_connection() {
    let upstream = H2Upstream::start(|mut call| async move {
        if call.head.uri.path() == "/any/slow" {
            call.reset().await;
        } else {
            call.answer(200, &[], "ok");
        }
    });
    let gateway = before(upstream.address)
        .set("upstreams.legacy", "first_byte_timeout", r#""2s""#)
        .start();
    let key = gateway.key("acme");
    proxy_error(
        &gateway,
        &get("/any/slow", &key),
        504,
        "http_response_timeout",
    );
    eventually("the connection is trusted again", || {
        gateway.send(&get("/any", &key)).expect(200);
        let heads = upstream.heads.lock().unwrap().len();
        (heads > 2).then_some(())
    });
    assert!(upstream.connections() <= 2);
}

// Flow control between tenants: downloads that one tenant does not read hold up no other's answer.
#[test]
fn unread_answers_stall_nobody_else() {
    let upstream = H2Upstream::start(|mut call| async move {
        if call.head.uri.path() == "/any/flood" {
            let mut stream = call.begin(200, &[], false);
            send_all(&mut stream, 16 << 20, true).await;
        } else {
            let mut stream = call.begin(200, &[], false);
            send_all(&mut stream, 1 << 20, true).await;
        }
    });
    let gateway = before(upstream.address).start();
    let (greedy, other) = (gateway.key("acme"), gateway.key("bravo"));
    block_on(async {
        // Sixty answers that nobody reads, each worth a whole stream window.
        let client = gateway.connect_h2().await;
        let mut unread = Vec::new();
        for _ in 0..60 {
            let response = client.begin(&get("/any/flood", &greedy)).await.unwrap();
            unread.push(response.await.unwrap());
        }
        let reader = gateway.connect_h2().await;
        for _ in 0..3 {
            let answer = reader.exchange(&get("/any", &other)).await.unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, 1 << 20));
        }
    });
    assert_eq!(upstream.connections(), 1);
}

// S20 from the other side: a client that leaves again and again does not get the connection of others closed.
#[test]
fn many_cancelled_streams_move_to_a_new_connection() {
    let upstream = H2Upstream::start(|mut call| async move {
        if call.head.uri.path() == "/any/wait" {
            call.reset().await;
        } else {
            call.answer(200, &[], "ok");
        }
    });
    let gateway = before(upstream.address).start();
    let key = gateway.key("acme");
    block_on(async {
        let client = gateway.connect_h2().await;
        for _ in 0..110 {
            let seen = upstream.hits();
            let waiting = client.begin(&get("/any/wait", &key)).await.unwrap();
            while upstream.hits() == seen {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(waiting);
        }
        let answer = client.exchange(&get("/any", &key)).await.unwrap();
        answer.expect(200);
    });
    assert_eq!(upstream.connections(), 2);
}

// `pool_idle_timeout`: an idle connection is closed, and a new one is made when it is wanted.
#[test]
fn idle_connections_end() {
    let upstream = H2Upstream::start(echo);
    let gateway = before(upstream.address)
        .set("upstreams.legacy", "pool_idle_timeout", r#""100ms""#)
        .start();
    let key = gateway.key("acme");
    gateway.send(&get("/any", &key)).expect(200);
    let (took, ()) = timed(|| {
        eventually("a new connection is made", || {
            std::thread::sleep(Duration::from_millis(120));
            gateway.send(&get("/any", &key)).expect(200);
            (upstream.connections() > 1).then_some(())
        });
    });
    assert!(took < PATIENCE);
}

// 408, 413: a client that breaks off, or sends too much, looks broken off to the backend, never whole.
#[test]
fn broken_uploads_are_reset() {
    let endings = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&endings);
    let upstream = H2Upstream::start(move |mut call| {
        let noted = Arc::clone(&noted);
        async move {
            let mut whole = true;
            while let (true, Some(piece)) = (whole, call.body.data().await) {
                match piece {
                    Ok(piece) => drop(call.body.flow_control().release_capacity(piece.len())),
                    Err(_) => whole = false,
                }
            }
            noted.lock().unwrap().push(whole);
        }
    });
    let gateway = before(upstream.address)
        .set("connections", "stall_timeout", r#""200ms""#)
        .route_to(
            "legacy",
            "/small",
            &[],
            Access::AnyKey,
            "body_bytes_max = \"1KiB\"\n",
        )
        .start();
    let key = gateway.key("acme").text;
    let start = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
    };
    let stalled = gateway.send_bytes(format!("{}5\r\nhello\r\n", start("/any")));
    stalled.unwrap().expect(408);
    let large = format!(
        "{}fff\r\n{}\r\n0\r\n\r\n",
        start("/small"),
        "x".repeat(0xfff)
    );
    gateway.send_bytes(large).unwrap().expect(413);
    let malformed = gateway.send_bytes(format!("{}xyz\r\n", start("/any")));
    malformed.unwrap().expect(400);
    let seen = eventually("three uploads are over", || {
        Some(endings.lock().unwrap().clone()).filter(|seen| seen.len() >= 2)
    });
    assert!(seen.iter().all(|whole| !whole), "{seen:?}");
}

// FM1, DESIGN section 7: real HTTP/2 servers, many requests at once, uploads and files whole, bodies and trailers as they are; the tenant is the key's.
#[test]
fn real_http2_servers_serve_many_requests() {
    for backend in real::http2() {
        let gateway = before(backend.address).start();
        let key = gateway.key("acme");
        let node = backend.name == "nodejs";
        block_on(async {
            let client = gateway.connect_h2().await;
            let mut pending = Vec::new();
            for _ in 0..90 {
                let request = get("/any/x", &key).header("X-Tenant-Id", "forged");
                pending.push(client.begin(&request).await.unwrap());
            }
            for response in pending {
                let answer = read_h2(response.await.unwrap()).await.unwrap();
                assert!(answer.status == 200 && answer.complete, "{answer:?}");
                match node {
                    true => assert_eq!(answer.json()["tenant"], "acme"),
                    false => assert_eq!(answer.text(), "a file"),
                }
            }
            let large = "x".repeat(300_000);
            let answer = client
                .exchange(&post("/any/x", &key, &large))
                .await
                .unwrap();
            assert!(answer.status == 200 && answer.complete, "{answer:?}");
            match node {
                true => {
                    let told = answer.json();
                    assert_eq!(told["length"], 300_000);
                    assert_eq!(
                        (told["authorization"].as_str(), told["key"].as_str()),
                        (Some(""), Some(""))
                    );
                    assert_eq!(
                        answer.trailers,
                        [("x-length".to_owned(), "300000".to_owned())]
                    );
                }
                false => assert_eq!(answer.text(), large),
            }
        });
        let head = Request::new("HEAD", "/any/x").bearer(&key.text);
        gateway.send(&head).expect(200);
        assert!(gateway.server_is(backend.address, "up"));
    }
}
