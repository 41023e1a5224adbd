//! A key that ends takes its requests in flight with it, and nobody else's.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use portcullis::store::KeyFilter;
use portcullis::store::NewKey;
use portcullis::store::Verb;

use crate::support::Gate;
use crate::support::Over;
use crate::support::client::Http1;
use crate::support::client::block_on;
use crate::support::client::read_h2;
use crate::support::frames;
use crate::support::frames::Frames;
use crate::support::frames::Outcome;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::timed;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;
use crate::support::upstream::ok;

/// What is asserted, since a machine with other work may stand still for seconds; the promise is 200 ms, and usual is one or two.
const BOUND: Duration = Duration::from_secs(8);

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nd\r\ndata: first\n\n\r\n";

const DOWNLOAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndata: first";

fn usual() -> (Upstream, Gateway) {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    (upstream, gateway)
}

/// The backend says nothing and waits to be given up.
fn hold(upstream: &Upstream, path: &str) {
    upstream.script(path, vec![Step::ReadBody, Step::Hold]);
}

/// The backend begins an answer and waits to be given up.
fn begin(upstream: &Upstream, path: &str, answer: &str) {
    let begun = Step::Send(answer.into());
    upstream.script(path, vec![Step::ReadBody, begun, Step::Hold]);
}

/// The backend answers, whole, when the gate opens.
fn answer_later(upstream: &Upstream, path: &str) -> Gate {
    let gate = Gate::closed();
    let steps = vec![
        Step::ReadBody,
        Step::Wait(gate.clone()),
        Step::Send(ok("all of it")),
    ];
    upstream.script(path, steps);
    gate
}

/// The backend begins a stream and ends it in order when the gate opens.
fn stream_later(upstream: &Upstream, path: &str) -> Gate {
    let gate = Gate::closed();
    let steps = vec![
        Step::ReadBody,
        Step::Send(EVENTS.into()),
        Step::Wait(gate.clone()),
        Step::Send(b"e\r\ndata: second\n\n\r\n0\r\n\r\n".to_vec()),
    ];
    upstream.script(path, steps);
    gate
}

fn get(path: &str, key: &Key) -> Request {
    Request::get(path).bearer(&key.text)
}

/// Notes how long after the change its effect was seen.
#[track_caller]
fn in_time(what: &str, since: Instant) {
    let took = since.elapsed();
    println!("{what}: {took:?} after the change began");
    assert!(took < BOUND, "{what}: {took:?}");
}

/// Waits until so many requests have come, while the client's own tasks go on.
async fn hits(upstream: &Upstream, count: usize) {
    while upstream.hits() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Status, and the text without the request id in it.
fn said(answer: &Answer) -> (u16, String) {
    let id = answer.one("x-request-id").to_owned();
    (answer.status, answer.text().replace(&id, "ID"))
}

// FA9, S45, CHECK6: 401 as for any bad key, long before the backend would have answered, and the backend is let go.
#[test]
fn a_waiting_request_gets_401_and_the_backend_is_cancelled() {
    let (upstream, gateway) = usual();
    hold(&upstream, "/any/slow");
    let key = gateway.key("acme");
    let mut client = gateway.connect();
    client.send(get("/any/slow", &key).bytes());
    upstream.wait_for_hits(1);
    let revoked = Instant::now();
    gateway.revoke(&key);
    let answer = client.read();
    in_time("a waiting request", revoked);
    upstream.wait_for_aborted(1);
    in_time("its backend", revoked);
    let later = client.exchange(&get("/any", &key));
    assert_eq!(said(&answer), said(&later));
    assert_eq!(answer.status, 401);
    assert_eq!(
        answer.one("www-authenticate"),
        later.one("www-authenticate")
    );
    let line = gateway.log_line("revoked_meanwhile");
    assert_eq!(line["http.response.status_code"], 401);
    assert_eq!(line["key_id"], key.id);
}

// FA9, CHECK6: several requests on one HTTP/2 connection, of two keys; only those of the revoked one end.
#[test]
fn other_keys_on_the_same_http2_connection_live_on() {
    let (upstream, gateway) = usual();
    hold(&upstream, "/any/wait");
    begin(&upstream, "/any/events", EVENTS);
    let (gone, stays) = (gateway.key("acme"), gateway.key("acme"));
    let wait = answer_later(&upstream, "/any/other-wait");
    let events = stream_later(&upstream, "/any/other-events");
    block_on(async {
        let h2 = gateway.connect_h2().await;
        let waiting = h2.begin(&get("/any/wait", &gone)).await.unwrap();
        let streaming = h2.begin(&get("/any/events", &gone)).await.unwrap();
        let streaming = streaming.await.unwrap();
        let other_waiting = h2.begin(&get("/any/other-wait", &stays)).await.unwrap();
        let other_streaming = h2.begin(&get("/any/other-events", &stays)).await.unwrap();
        let other_streaming = other_streaming.await.unwrap();
        let upload = Request::new("POST", "/any/up").bearer(&stays.text);
        let (other_upload, mut body) = h2.begin_upload(&upload).await.unwrap();
        body.send_data(Bytes::from_static(b"first "), false)
            .unwrap();
        hits(&upstream, 5).await;
        let revoked = Instant::now();
        gateway.revoke(&gone);
        let waited = read_h2(waiting.await.unwrap()).await.unwrap();
        in_time("a waiting HTTP/2 request", revoked);
        waited.expect(401);
        let streamed = read_h2(streaming).await.unwrap();
        in_time("a streaming HTTP/2 answer", revoked);
        assert!(!streamed.complete, "{streamed:?}");
        wait.open();
        events.open();
        body.send_data(Bytes::from_static(b"second"), true).unwrap();
        let whole = read_h2(other_waiting.await.unwrap()).await.unwrap();
        assert_eq!((whole.status, whole.text()), (200, "all of it".to_owned()));
        let whole = read_h2(other_streaming).await.unwrap();
        assert!(whole.complete && whole.text().ends_with("second\n\n"));
        read_h2(other_upload.await.unwrap())
            .await
            .unwrap()
            .expect(200);
        let uploads = upstream.requests();
        let upload = uploads.iter().find(|one| one.target() == "/any/up");
        assert_eq!(upload.unwrap().body, b"first second");
    });
    upstream.wait_for_aborted(2);
}

// FA9: the client learns it in the middle of its upload; what it still sends goes nowhere.
#[test]
fn an_upload_in_progress_gets_401() {
    let (upstream, gateway) = usual();
    upstream.script("/any/up", vec![Step::Hold]);
    let (key, other) = (gateway.key("acme"), gateway.key("acme"));
    let text = &key.text;
    let mut small = gateway.connect();
    small.send(format!("POST /any/up HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {text}\r\nContent-Length: 10\r\n\r\n12345"));
    let mut large = gateway.connect();
    large.send(format!("POST /any/up HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {text}\r\nContent-Length: 1000000000\r\n\r\n12345"));
    block_on(async {
        let h2 = gateway.connect_h2().await;
        let upload = Request::new("POST", "/any/up").bearer(text);
        let (answer, mut body) = h2.begin_upload(&upload).await.unwrap();
        body.send_data(Bytes::from_static(b"12345"), false).unwrap();
        hits(&upstream, 3).await;
        let revoked = Instant::now();
        gateway.revoke(&key);
        answer
            .await
            .map(|answer| assert_eq!(answer.status(), 401))
            .unwrap();
        in_time("an HTTP/2 upload", revoked);
        for client in [&mut small, &mut large] {
            client.read().expect(401);
            in_time("an HTTP/1.1 upload", revoked);
        }
    });
    upstream.wait_for_aborted(3);
    // A body that ends soon leaves a connection that others may use; a long one does not.
    small
        .send("67890")
        .exchange(&get("/any", &other))
        .expect(200);
    large.send(vec![b'x'; 1 << 20]);
    assert!(large.is_closed());
    assert_eq!(upstream.hits_on("/any"), 1);
}

// FA9, S34, CHECK6: an answer that has begun is cut, and looks cut: no last chunk, no END_STREAM.
#[test]
fn a_streaming_answer_is_cut() {
    let (upstream, gateway) = usual();
    for (round, answer) in [EVENTS, DOWNLOAD].into_iter().enumerate() {
        begin(&upstream, "/any/stream", answer);
        let key = gateway.key("acme");
        let mut h1 = gateway.connect();
        h1.send(get("/any/stream", &key).bytes());
        assert!(h1.wait_for("data: first"));
        let mut h2 = Frames::connect(gateway.https());
        let stream = h2.open(
            &with_key("/any/stream", &format!("Bearer {}", key.text)),
            true,
        );
        assert_eq!(h2.outcome(stream), Outcome::Status(200));
        let revoked = Instant::now();
        gateway.revoke(&key);
        let mut answer = h1.read_head().unwrap();
        h1.read_body("GET", &mut answer);
        in_time("a streaming HTTP/1.1 answer", revoked);
        assert!(!answer.complete && answer.status == 200, "{answer:?}");
        assert!(answer.text().starts_with("data: first"));
        let ending = h2.ending(stream);
        in_time("a streaming HTTP/2 answer", revoked);
        assert!(matches!(ending, Some(Outcome::Reset(2 | 8))), "{ending:?}");
        // The HTTP/2 connection goes on.
        let other = format!("Bearer {}", gateway.key("acme").text);
        assert_eq!(h2.exchange(&with_key("/any", &other)), Outcome::Status(200));
        upstream.wait_for_aborted(2 * (round + 1));
    }
    let line = gateway.log_line("\"revoked\"");
    assert_eq!(line["end"], "revoked");
    assert_eq!(line["reason"], "revoked_meanwhile");
}

fn with_key<'a>(path: &'a str, bearer: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut fields = frames::get(path);
    fields.push(("authorization", bearer));
    fields
}

// FA9: a client that does not read cannot keep the answer open: the backend is let go all the same.
#[test]
fn an_answer_that_nobody_reads_is_cut_too() {
    let (upstream, gateway) = usual();
    let head = Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".to_vec());
    let steps = vec![
        Step::ReadBody,
        head,
        Step::Repeat(vec![b'x'; 1 << 20], 900),
        Step::Hold,
    ];
    upstream.script("/any/large", steps);
    let key = gateway.key("acme");
    let bearer = format!("Bearer {}", key.text);
    let mut h1 = gateway.connect();
    h1.send(get("/any/large", &key).bytes());
    let mut answer = h1.read_head().unwrap();
    let mut h2 = Frames::connect(gateway.https());
    let stream = h2.open(&with_key("/any/large", &bearer), true);
    assert_eq!(h2.outcome(stream), Outcome::Status(200));
    let revoked = Instant::now();
    gateway.revoke(&key);
    // Neither has read on; both lines are there all the same.
    crate::support::eventually("both answers end", || {
        (gateway.log().matches("\"revoked\"").count() == 2).then_some(())
    });
    in_time("two answers that nobody reads, logged", revoked);
    // No window was ever opened: the reset comes without one.
    assert!(matches!(h2.ending(stream), Some(Outcome::Reset(_))));
    h1.read_body("GET", &mut answer);
    assert!(!answer.complete);
}

// FA9: both directions at once, as gRPC streams are: an answer that flows while the client still sends.
#[test]
fn an_exchange_that_flows_both_ways_is_cut() {
    let (upstream, gateway) = usual();
    upstream.script("/any/both", vec![Step::Send(EVENTS.into()), Step::Hold]);
    let key = gateway.key("acme");
    let mut h2 = Frames::connect(gateway.https());
    let bearer = format!("Bearer {}", key.text);
    let mut fields = with_key("/any/both", &bearer);
    fields[0] = (":method", "POST");
    let stream = h2.open(&fields, false);
    h2.send(frames::DATA, 0, stream, b"hello");
    assert_eq!(h2.outcome(stream), Outcome::Status(200));
    let revoked = Instant::now();
    gateway.revoke(&key);
    let ending = h2.ending(stream);
    in_time("an exchange both ways", revoked);
    assert!(matches!(ending, Some(Outcome::Reset(2 | 8))), "{ending:?}");
    upstream.wait_for_aborted(1);
}

// FA9, FF6, FF8, S45: whatever ends a key for good ends its requests; a suspended tenant's get the 403 that later ones get.
#[test]
fn whatever_ends_a_key_ends_its_requests() {
    let (upstream, gateway) = usual();
    let (id, name, plan) = ("stored".to_owned(), None, "open".to_owned());
    gateway
        .execute(Verb::TenantCreate {
            id,
            name,
            plan,
            upstreams: Default::default(),
        })
        .unwrap();
    type Way = fn(&Key) -> Verb;
    let ways: [(Way, u16); 4] = [
        (|key| Verb::KeyRevoke { id: key.id.clone() }, 401),
        (|key| Verb::KeyDelete { id: key.id.clone() }, 401),
        (
            |key| Verb::KeyRegenerate {
                id: key.id.clone(),
                overlap_seconds: 0,
            },
            401,
        ),
        (
            |_| Verb::TenantSuspend {
                id: "stored".into(),
            },
            403,
        ),
    ];
    hold(&upstream, "/any/wait");
    begin(&upstream, "/any/events", EVENTS);
    for (round, (way, status)) in ways.into_iter().enumerate() {
        let key = gateway.key("stored");
        let (mut waits, mut streams) = (gateway.connect(), gateway.connect());
        waits.send(get("/any/wait", &key).bytes());
        streams.send(get("/any/events", &key).bytes());
        let mut streamed = streams.read_head().unwrap();
        upstream.wait_for_hits(2 * (round + 1));
        let verb = way(&key);
        let what = format!("{verb:?}");
        let ended = Instant::now();
        gateway.execute(verb).unwrap();
        waits.read().expect(status);
        streams.read_body("GET", &mut streamed);
        in_time(&what, ended);
        assert!(!streamed.complete, "{what}");
    }
}

// FA9: a key that a reload takes out of the file, or whose tenant it suspends there, ends like any other.
#[test]
fn a_reload_that_suspends_a_tenant_ends_its_requests() {
    let upstream = Upstream::start();
    let tenant = "[[tenants]]\nid = \"filed\"\nplan = \"open\"\n";
    let setup = Setup::usual(&upstream);
    let mut gateway = setup.clone().more(tenant).start();
    hold(&upstream, "/any/wait");
    let key = gateway.key("filed");
    let mut client = gateway.connect();
    client.send(get("/any/wait", &key).bytes());
    upstream.wait_for_hits(1);
    let suspended = setup.more(&format!("{tenant}suspended = true"));
    let changed = Instant::now();
    gateway.reload(suspended).unwrap();
    client.read().expect(403);
    in_time("a reload", changed);
    upstream.wait_for_aborted(1);
}

/// A waiting and a streaming request of a key to which `end` happens: both come to their natural ends, and the next is refused.
#[track_caller]
fn finishes(upstream: &Upstream, gateway: &Gateway, key: &Key, end: impl FnOnce()) {
    let wait = answer_later(upstream, "/any/wait");
    let events = stream_later(upstream, "/any/events");
    upstream.forget();
    let (mut waits, mut streams) = (gateway.connect(), gateway.connect());
    waits.send(get("/any/wait", key).bytes());
    streams.send(get("/any/events", key).bytes());
    assert!(streams.wait_for("first"));
    upstream.wait_for_hits(2);
    end();
    let mut third = gateway.connect();
    third.exchange(&get("/any", key)).expect(401);
    wait.open();
    events.open();
    assert_eq!(waits.read().expect(200).text(), "all of it");
    let answer = streams.read();
    assert!(answer.complete && answer.text().ends_with("second\n\n"));
    third.exchange(&get("/any", key)).expect(401);
}

// C-20: what is reversible, or was known beforehand, lets requests finish; and so does all, where the operator says so.
#[test]
fn requests_finish_where_they_may() {
    let (upstream, mut gateway) = usual();
    let key = gateway.key("acme");
    finishes(&upstream, &gateway, &key, || {
        let id = key.id.clone();
        gateway.execute(Verb::KeyDeactivate { id }).unwrap();
    });
    let key = gateway.make_key(NewKey {
        expires_in_seconds: Some(20),
        ..new_key("acme")
    });
    finishes(&upstream, &gateway, &key, || {
        gateway.advance(Duration::from_secs(21));
    });
    let finish = gateway
        .setup
        .clone()
        .set("revocation", "in_flight", "\"finish\"");
    gateway.reload(finish).unwrap();
    let key = gateway.key("acme");
    finishes(&upstream, &gateway, &key, || gateway.revoke(&key));
}

/// One key's life in the loop below.
struct Round {
    key: Key,
    revoked: AtomicBool,
    before: AtomicUsize,
    after: AtomicUsize,
    late: AtomicUsize,
}

// CHECK5 on one node, FA8: a thousand times under load, with counters and usage being written all the while.
#[test]
fn no_request_that_starts_after_a_revocation_is_admitted() {
    const ROUNDS: usize = 1000;
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "1000000/hour", "1000000/min")
        .set("store", "flush_interval", "\"100ms\"")
        .start();
    let round = || {
        Arc::new(Round {
            key: gateway.key("acme"),
            revoked: AtomicBool::new(false),
            before: AtomicUsize::new(0),
            after: AtomicUsize::new(0),
            late: AtomicUsize::new(0),
        })
    };
    let current = Mutex::new(round());
    let over = AtomicBool::new(false);
    let mut admitted = 0;
    let (took, ()) = timed(|| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = gateway.connect();
                    while !over.load(Ordering::SeqCst) {
                        let round = Arc::clone(&current.lock().unwrap());
                        ask(&mut client, &round);
                    }
                });
            }
            let _over = Over(&over);
            for index in 0..ROUNDS {
                let this = Arc::clone(&current.lock().unwrap());
                until(|| this.before.load(Ordering::SeqCst) >= 4);
                gateway.revoke(&this.key);
                this.revoked.store(true, Ordering::SeqCst);
                until(|| this.after.load(Ordering::SeqCst) >= 4);
                admitted += this.before.load(Ordering::SeqCst);
                assert_eq!(this.late.load(Ordering::SeqCst), 0, "round {index}");
                *current.lock().unwrap() = round();
            }
        });
    });
    println!("{ROUNDS} revocations under load in {took:?}, {admitted} requests before them");
}

fn ask(client: &mut Http1, round: &Round) {
    let began_after = round.revoked.load(Ordering::SeqCst);
    let status = client.exchange(&get("/any", &round.key)).status;
    if began_after {
        if status != 401 {
            round.late.fetch_add(1, Ordering::SeqCst);
        }
        round.after.fetch_add(1, Ordering::SeqCst);
    } else if status == 200 {
        round.before.fetch_add(1, Ordering::SeqCst);
    }
}

#[track_caller]
fn until(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < crate::support::PATIENCE, "in time");
        std::thread::yield_now();
    }
}

// FA9, C-19: an answer that began under the old text may outlast the overlap; it ends with the key all the same.
#[test]
fn revoking_ends_what_began_under_an_older_text() {
    for end in [revoke_it, revoke_in_bulk, regenerate_it] {
        let (upstream, gateway) = usual();
        begin(&upstream, "/any/events", EVENTS);
        let key = gateway.key("acme");
        let mut client = gateway.connect();
        client.send(get("/any/events", &key).bytes());
        upstream.wait_for_hits(1);
        assert!(client.wait_for("first"));
        let overlap = Verb::KeyRegenerate {
            id: key.id.clone(),
            overlap_seconds: 1,
        };
        gateway.execute(overlap).unwrap();
        gateway.advance(Duration::from_secs(2));
        gateway.execute(end(&key)).unwrap();
        upstream.wait_for_aborted(1);
    }
}

fn revoke_it(key: &Key) -> Verb {
    Verb::KeyRevoke { id: key.id.clone() }
}

fn revoke_in_bulk(key: &Key) -> Verb {
    Verb::KeyRevokeMany(KeyFilter {
        keys: Some(vec![key.id.clone()]),
        ..KeyFilter::default()
    })
}

fn regenerate_it(key: &Key) -> Verb {
    Verb::KeyRegenerate {
        id: key.id.clone(),
        overlap_seconds: 0,
    }
}
