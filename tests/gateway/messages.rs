//! Kinds of messages: HTTP/1.0 clients, pipelines, target forms, methods, interim answers, and answers without a body.

use crate::support::client::Http1;
use crate::support::client::block_on;
use crate::support::frames;
use crate::support::frames::DATA;
use crate::support::frames::END_STREAM;
use crate::support::frames::Frames;
use crate::support::frames::HEADERS;
use crate::support::frames::Outcome;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;

fn usual() -> (Upstream, Gateway) {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    (upstream, gateway)
}

fn said(gateway: &Gateway, bytes: &str) -> Http1 {
    let mut client = gateway.connect();
    client.send(bytes);
    client
}

// RFC 9112 section 9.3, appendix C.2: a client of HTTP/1.0 gets no chunks, and its connection ends unless it asks to keep it.
#[test]
fn clients_of_http_1_0_are_served() {
    let (upstream, gateway) = usual();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    upstream.answer("/public/chunked", chunked);
    let mut client = said(
        &gateway,
        "GET /public/chunked HTTP/1.0\r\nHost: localhost\r\n\r\n",
    );
    let answer = client.read();
    answer.expect(200);
    assert!(!answer.has("transfer-encoding"));
    assert_eq!(answer.body, b"hello");
    assert!(client.is_closed());
    let keep = "POST /public/x HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi";
    let mut client = said(&gateway, keep);
    client.read().expect(200);
    client.send(keep).read().expect(200);
    assert_eq!(upstream.last().body, b"hi");
    assert_eq!(upstream.last().all("via"), ["1.0 portcullis"]);
    // A refusal is one too; and without Host nobody knows which site is meant (S16).
    said(&gateway, "GET /any HTTP/1.0\r\nHost: localhost\r\n\r\n")
        .read()
        .expect(401);
    said(&gateway, "GET /public/x HTTP/1.0\r\n\r\n")
        .read()
        .expect(400);
    // Chunks are no part of HTTP/1.0 (RFC 9112 section 6.1).
    let before = upstream.hits();
    let coded =
        "POST /public/x HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    said(&gateway, coded).read().expect(400);
    assert_eq!(upstream.hits(), before);
}

// RFC 9112 section 9.3.2: pipelined requests are answered in their order, refusals and bodies among them.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let (upstream, gateway) = usual();
    for path in ["/public/a", "/public/b", "/public/c"] {
        let body = format!("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{path}");
        upstream.answer(path, body);
    }
    let host = "Host: localhost\r\n";
    let mut client = said(
        &gateway,
        &format!(
            "GET /public/a HTTP/1.1\r\n{host}\r\nGET /any HTTP/1.1\r\n{host}\r\n\
             POST /public/b HTTP/1.1\r\n{host}Content-Length: 3\r\n\r\nabc\
             POST /public/c HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n\
             GET /public/a HTTP/1.1\r\n{host}Connection: close\r\n\r\nGET /public/never HTTP/1.1\r\n{host}\r\n"
        ),
    );
    assert_eq!(client.read().text(), "/public/a");
    client.read().expect(401);
    assert_eq!(client.read().text(), "/public/b");
    assert_eq!(client.read().text(), "/public/c");
    assert_eq!(client.read().text(), "/public/a");
    assert!(client.is_closed());
    let bodies: Vec<Vec<u8>> = upstream
        .requests()
        .into_iter()
        .map(|request| request.body)
        .collect();
    assert_eq!(bodies, [&b""[..], b"abc", b"xyz", b""]);
}

// RFC 9112 section 3.2.2: the authority of an absolute target counts, a Host beside it does not; the backend gets origin form (S17).
#[test]
fn an_absolute_target_names_the_host() {
    let (upstream, gateway) = usual();
    let bytes = "GET https://api.test/public/abs?q=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    said(&gateway, bytes).read().expect(200);
    assert_eq!(upstream.last().target(), "/public/abs?q=1");
    assert_eq!(upstream.last().all("x-forwarded-host"), ["api.test"]);
    said(&gateway, "GET https://localhost/public/x HTTP/1.1\r\n\r\n")
        .read()
        .expect(400);
    assert_eq!(upstream.hits(), 1);
}

// RFC 9110 sections 9.3.6 to 9.3.8: no tunnels, no echo, and nothing about the server as a whole, over both protocols.
#[test]
fn connect_trace_and_options_of_everything_are_refused() {
    let (upstream, gateway) = usual();
    let host = "Host: localhost\r\n";
    for line in [
        "CONNECT localhost:443",
        "TRACE /public/x",
        "OPTIONS *",
        "CONNECT /public/x",
    ] {
        let answer = said(&gateway, &format!("{line} HTTP/1.1\r\n{host}\r\n")).read();
        assert!(
            matches!(answer.status, 400 | 405 | 501),
            "{line}: {}",
            answer.status
        );
    }
    let with = |method, path| {
        let mut fields = frames::get(path);
        fields[0].1 = method;
        fields
    };
    let connect = vec![(":method", "CONNECT"), (":authority", "localhost:443")];
    for fields in [
        connect,
        with("CONNECT", "/public/x"),
        with("TRACE", "/public/x"),
        with("OPTIONS", "*"),
    ] {
        let outcome = Frames::connect(gateway.https()).exchange(&fields);
        let refused = matches!(
            outcome,
            Outcome::Status(400 | 405 | 501) | Outcome::Reset(_)
        );
        assert!(refused, "{fields:?}: {outcome:?}");
    }
    assert_eq!(upstream.hits(), 0);
}

// RFC 9110 section 10.1.1: a backend that answers at once instead of continuing is relayed, and its client need not send a body; the 100 is the
// gateway's own, once the request is admitted. Over HTTP/2 the expectation is kept too.
#[test]
fn an_expectation_that_is_not_met_costs_no_body() {
    let (upstream, gateway) = usual();
    let refusal =
        b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    upstream.script("/public/early", vec![Step::Send(refusal.to_vec())]);
    let head = "POST /public/early HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let answer = said(&gateway, head).read();
    answer.expect(417);
    assert!(answer.interim.is_empty() || answer.interim == [100]);
    block_on(async {
        let client = gateway.connect_h2().await;
        let upload = Request::new("POST", "/public/x")
            .header("Expect", "100-continue")
            .body("hello");
        client.exchange(&upload).await.unwrap().expect(200);
    });
    assert_eq!(upstream.last().body, b"hello");
}

// S11, S43, FA23, FM5, FM7: fields go on as lines over HTTP/1.1 and by a map over HTTP/2, and what is told is the same; also the second time, when HTTP/2 has
// names and values in its table, and where the backend says something else under a name that it used before.
#[test]
fn fields_are_the_same_over_both_protocols() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "1000/hour", "unlimited").start();
    let acme = gateway.key("acme");
    let key = |text: &str| Request::get(text).bearer(&acme.text);
    for (path, more) in [
        ("/any/a", "Server: one\r\nContent-Type: text/plain\r\n"),
        (
            "/any/b",
            "Server: two\r\nContent-Type: application/json\r\nDate: Sun, 29 Nov 2026 00:00:00 GMT\r\n",
        ),
        (
            "/any/c",
            "Server: one\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nVary: Origin\r\nEmpty:\r\nX-Request-Id: theirs\r\nX-RateLimit-Limit: 7\r\n\
                    Ratelimit: theirs\r\nX-Tenant-ID: bravo\r\nX_Tenant.Id: bravo\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\nUpgrade: h2c\r\n\
                    Strict-Transport-Security: max-age=1\r\nX-Accel-Expires: 60\r\n",
        ),
        (
            "/any/d",
            "Cache-Control: public\r\nLocation: /any/there\r\nTrailer: x-sum\r\n",
        ),
        ("/any/e", "Cache-Control: no-store\r\nServer: one\r\n"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{more}Content-Length: 5\r\n\r\nhello");
        upstream.answer(path, answer);
    }
    let requests = [
        key("/any/a"),
        key("/any/b"),
        key("/any/c"),
        key("/any/d"),
        key("/any/e"),
        key("/any/a"),
        Request::get("/any/a"),
        Request::new("PUT", "/leases/1").bearer(&acme.text),
        Request::get("/nothing").bearer(&acme.text),
        Request::get("/any/a")
            .bearer(&acme.text)
            .header("X-API-Key", "other"),
        Request::new("HEAD", "/any/a").bearer(&acme.text),
    ];
    let old: Vec<Told> = {
        let mut client = gateway.connect();
        let twice = requests.iter().chain(&requests);
        twice
            .map(|request| told(client.exchange(request)))
            .collect()
    };
    let new: Vec<Told> = block_on(async {
        let client = gateway.connect_h2().await;
        let mut all = Vec::new();
        for request in requests.iter().chain(&requests) {
            all.push(told(client.exchange(request).await.unwrap()));
        }
        all
    });
    for (request, (old, new)) in requests.iter().cycle().zip(old.into_iter().zip(new)) {
        assert_eq!(old, new, "{}", String::from_utf8_lossy(&request.bytes()));
    }
}

/// What an answer tells, whatever carries it.
type Told = (u16, Vec<(String, String)>, String);

/// Status, fields and body; what counts and times change is told to be there, and what is of one connection alone is left out.
fn told(answer: Answer) -> Told {
    const CHANGE: [&str; 5] = [
        "date",
        "x-request-id",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "ratelimit",
    ];
    let id = answer.all("x-request-id").join(" ");
    assert_eq!(answer.all("date").len(), 1, "a date and no other");
    assert_ne!(id, "theirs");
    let mut fields: Vec<(String, String)> = answer
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| name != "connection" && name != "trailer")
        .collect();
    for (name, value) in &mut fields {
        if CHANGE.contains(&name.as_str()) {
            *value = String::new();
        }
    }
    fields.sort_unstable();
    (answer.status, fields, answer.text().replace(&id, ""))
}

// RFC 9110 section 15.2: interim answers other than 100 and 101 end here, over both protocols.
#[test]
fn other_interim_answers_reach_nobody() {
    let (upstream, gateway) = usual();
    let interim = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 199 Odd\r\n\r\n";
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    upstream.answer("/public/x", format!("{interim}{last}"));
    let answer = gateway.send(&Request::get("/public/x"));
    assert_eq!((answer.interim.len(), answer.status), (0, 200));
    let outcome = Frames::connect(gateway.https()).exchange(&frames::get("/public/x"));
    assert_eq!(outcome, Outcome::Status(200));
}

// RFC 9113 section 8.1, RFC 9110 section 6.4.1: answers without a body end with their head over HTTP/2, and keep the connection over HTTP/1.1.
#[test]
fn answers_without_a_body_end_with_their_head() {
    let (upstream, gateway) = usual();
    upstream.answer(
        "/public/head",
        "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
    );
    upstream.answer("/public/204", "HTTP/1.1 204 No Content\r\n\r\n");
    upstream.answer(
        "/public/304",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\n\r\n",
    );
    upstream.answer(
        "/public/empty",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    );
    let cases = [
        ("HEAD", "/public/head", 200),
        ("GET", "/public/204", 204),
        ("GET", "/public/304", 304),
        ("HEAD", "/any", 401),
    ];
    let mut client = gateway.connect();
    for (method, path, status) in cases {
        let answer = client.exchange(&Request::new(method, path));
        assert_eq!(
            (answer.status, answer.body.len()),
            (status, 0),
            "{method} {path}"
        );
    }
    client.exchange(&Request::get("/public/empty")).expect(200);
    for (method, path, _) in cases {
        let mut fields = frames::get(path);
        fields[0].1 = method;
        let mut client = Frames::connect(gateway.https());
        let stream = client.open(&fields, true);
        let mut bytes = 0;
        loop {
            let (kind, flags, on, payload) = client.read().expect("an answer");
            if kind == DATA {
                bytes += payload.len();
            }
            if on == stream && matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                break;
            }
        }
        assert_eq!(bytes, 0, "{method} {path}");
    }
}
