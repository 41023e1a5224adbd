//! DESIGN section 7: no more requests at once than an upstream takes, whatever the workers; those beyond wait, and tenants take turns.

use std::sync::Arc;
use std::thread;

use crate::support::Gate;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::h2_upstream::H2Upstream;
use crate::support::request::Request;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;
use crate::support::upstream::ok;

/// So many at once, so many waiting for as long as a test may take.
fn bounded(upstream: &Upstream, most: usize, waiting: usize) -> Setup {
    Setup::usual(upstream)
        .set("upstreams.legacy", "in_flight_max", &most.to_string())
        .set("upstreams.legacy", "queue_max", &waiting.to_string())
        .set("upstreams.legacy", "queue_timeout", r#""1min""#)
}

/// From now on requests for this path are answered once the gate is open.
fn held(upstream: &Upstream, path: &str) -> Gate {
    let gate = Gate::closed();
    let steps = vec![
        Step::ReadBody,
        Step::Wait(gate.clone()),
        Step::Send(ok("ok")),
    ];
    upstream.script(path, steps);
    gate
}

#[track_caller]
fn wait_for_queue(gateway: &Gateway, length: u64) {
    eventually(&format!("{length} requests wait"), || {
        (gateway.upstream_number("requests_queued") == length).then_some(())
    });
}

// Forty at once on two workers, four of them under way: exact, and nobody is lost.
#[test]
fn the_bound_is_exact_over_all_workers() {
    let upstream = Upstream::start();
    let gate = held(&upstream, "/public/x");
    let gateway = bounded(&upstream, 4, 100).start();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..40)
            .map(|_| scope.spawn(|| gateway.send(&Request::get("/public/x"))))
            .collect();
        wait_for_queue(&gateway, 36);
        // They have their places, and may be on their way.
        upstream.wait_for_hits(4);
        assert_eq!(upstream.hits(), 4);
        let active = format!(
            r#"portcullis_upstream_server_requests_active{{upstream="legacy",server="{}"}}"#,
            upstream.address
        );
        assert_eq!(gateway.metric(&active), 4);
        gate.open();
        for client in clients {
            client.join().unwrap().expect(200);
        }
    });
    assert_eq!(upstream.hits(), 40);
    wait_for_queue(&gateway, 0);
}

/// One request of this key waits more than before.
#[track_caller]
fn queue_up<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    gateway: &'scope Gateway,
    target: String,
    key: &'scope Key,
    length: u64,
) -> thread::ScopedJoinHandle<'scope, u16> {
    let client = scope.spawn(move || gateway.get(&target, key).status);
    wait_for_queue(gateway, length);
    client
}

// A tenant with eight waiting requests does not keep another's two from their turns.
#[test]
fn tenants_take_turns() {
    let upstream = Upstream::start();
    let gate = held(&upstream, "/any/first");
    let gateway = bounded(&upstream, 1, 100).start();
    let (acme, bravo) = (gateway.key("acme"), gateway.key("bravo"));
    thread::scope(|scope| {
        let mut clients = vec![scope.spawn(|| gateway.get("/any/first", &acme).status)];
        upstream.wait_for_hits(1);
        for at in 1..=8 {
            let target = format!("/any/acme{at}");
            clients.push(queue_up(scope, &gateway, target, &acme, at));
        }
        for at in 1..=2 {
            let target = format!("/any/bravo{at}");
            clients.push(queue_up(scope, &gateway, target, &bravo, 8 + at));
        }
        gate.open();
        for client in clients {
            assert_eq!(client.join().unwrap(), 200);
        }
    });
    let order: Vec<String> = (upstream.requests().iter())
        .map(|request| request.target()["/any/".len()..].to_owned())
        .collect();
    assert_eq!(
        order[..5],
        ["first", "acme1", "bravo1", "acme2", "bravo2"],
        "{order:?}"
    );
    assert_eq!(order.len(), 11);
}

// Where no more may wait, whoever has the most waiting loses its newest; a tenant that comes late is not shut out by one that came early.
#[test]
fn a_full_queue_turns_away_the_one_with_the_most() {
    let upstream = Upstream::start();
    let gate = held(&upstream, "/any/first");
    let gateway = bounded(&upstream, 1, 3).start();
    let (acme, bravo) = (gateway.key("acme"), gateway.key("bravo"));
    thread::scope(|scope| {
        let first = scope.spawn(|| gateway.get("/any/first", &acme).status);
        upstream.wait_for_hits(1);
        let waiting: Vec<_> = (1..=3)
            .map(|at| queue_up(scope, &gateway, format!("/any/acme{at}"), &acme, at))
            .collect();
        let refused = gateway.get("/any/acme4", &acme);
        refused.expect(503);
        assert_eq!(
            refused.one("proxy-status"),
            "portcullis; error=connection_limit_reached"
        );
        assert!(refused.has("x-ratelimit-limit") || refused.has("x-request-id"));
        let late = scope.spawn(|| gateway.get("/any/bravo", &bravo).status);
        eventually("acme's newest makes way", || {
            (gateway.upstream_number("queue_refusals_total") == 2).then_some(())
        });
        gate.open();
        assert_eq!(first.join().unwrap(), 200);
        let mut statuses: Vec<u16> = (waiting.into_iter())
            .map(|client| client.join().unwrap())
            .collect();
        assert_eq!(statuses.pop(), Some(503));
        assert_eq!(statuses, [200, 200]);
        assert_eq!(late.join().unwrap(), 200);
    });
    assert_eq!(upstream.hits_on("/any/acme3"), 0);
    assert_eq!(upstream.hits_on("/any/acme4"), 0);
    let line = gateway.log_line("acme4");
    assert_eq!(line["reason"], "connection_limit_reached");
}

// Who waited for as long as one may is told so; and it is charged once, as every request behind the gate is.
#[test]
fn who_waits_too_long_gets_503() {
    let upstream = Upstream::start();
    let gate = held(&upstream, "/public/x");
    let gateway = bounded(&upstream, 1, 10)
        .set("upstreams.legacy", "queue_timeout", r#""50ms""#)
        .start();
    thread::scope(|scope| {
        let first = scope.spawn(|| gateway.send(&Request::get("/public/x")));
        upstream.wait_for_hits(1);
        gateway.send(&Request::get("/public/x")).expect(503);
        wait_for_queue(&gateway, 0);
        gate.open();
        first.join().unwrap().expect(200);
    });
    assert_eq!(upstream.hits(), 1);
    gateway.send(&Request::get("/public/x")).expect(200);
}

// S38, S44, S45: whoever leaves the queue, or whose key ends there, stands in nobody's way; and the backend never hears of it.
#[test]
fn who_leaves_while_waiting_leaves_its_place() {
    let upstream = Upstream::start();
    let gate = held(&upstream, "/any/first");
    let gateway = bounded(&upstream, 1, 10).start();
    let (acme, doomed) = (gateway.key("acme"), gateway.key("bravo"));
    thread::scope(|scope| {
        let first = scope.spawn(|| gateway.get("/any/first", &acme).status);
        upstream.wait_for_hits(1);
        let mut leaver = gateway.connect();
        leaver.send(Request::get("/any/leaver").bearer(&acme.text).bytes());
        wait_for_queue(&gateway, 1);
        let revoked = queue_up(scope, &gateway, "/any/doomed".to_owned(), &doomed, 2);
        let last = queue_up(scope, &gateway, "/any/last".to_owned(), &acme, 3);
        drop(leaver);
        wait_for_queue(&gateway, 2);
        gateway.revoke(&doomed);
        assert_eq!(revoked.join().unwrap(), 401);
        wait_for_queue(&gateway, 1);
        gate.open();
        assert_eq!(first.join().unwrap(), 200);
        assert_eq!(last.join().unwrap(), 200);
    });
    assert_eq!(upstream.hits_on("/any/leaver"), 0);
    assert_eq!(upstream.hits_on("/any/doomed"), 0);
}

// A place is held to the end of the answer, not of its head; a client that leaves gives it back.
#[test]
fn a_place_is_held_to_the_end_of_the_answer() {
    let upstream = Upstream::start();
    let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab".to_vec();
    upstream.script(
        "/public/half",
        vec![Step::ReadBody, Step::Send(begun), Step::Hold],
    );
    let gateway = bounded(&upstream, 1, 10).start();
    let mut half = gateway.connect();
    half.send(Request::get("/public/half").bytes());
    half.read_head().unwrap();
    thread::scope(|scope| {
        let next = scope.spawn(|| gateway.send(&Request::get("/public/x")));
        wait_for_queue(&gateway, 1);
        assert_eq!(upstream.hits(), 1);
        drop(half);
        next.join().unwrap().expect(200);
    });
}

// The same bound over HTTP/2, where many requests share a connection.
#[test]
fn the_bound_holds_over_http2_backends() {
    let open = Arc::new(tokio::sync::Semaphore::new(0));
    let door = Arc::clone(&open);
    let upstream = H2Upstream::start(move |mut call| {
        let door = Arc::clone(&door);
        async move {
            let _ = door.acquire().await;
            call.answer(200, &[], "ok");
        }
    });
    let gateway = Setup::usual_at(upstream.address)
        .set("upstreams.legacy", "protocol", r#""http2""#)
        .set("upstreams.legacy", "in_flight_max", "3")
        .set("upstreams.legacy", "queue_timeout", r#""1min""#)
        .start();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| gateway.send(&Request::get("/public/x"))))
            .collect();
        wait_for_queue(&gateway, 17);
        upstream.wait_for_hits(3);
        assert_eq!(upstream.hits(), 3);
        open.close();
        for client in clients {
            client.join().unwrap().expect(200);
        }
    });
    wait_for_queue(&gateway, 0);
}
