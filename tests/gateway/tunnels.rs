//! WebSockets: what opens a tunnel and what does not, what flows through it, and what ends it.

use std::io::Write;
use std::time::Duration;
use std::time::Instant;

use portcullis::store::Verb;

use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::frames;
use crate::support::frames::Frames;
use crate::support::frames::Outcome;
use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::real;
use crate::support::request::Request;
use crate::support::timed;
use crate::support::upstream::Upstream;
use crate::support::upstream::ok;
use crate::support::websocket::ACCEPT;
use crate::support::websocket::BINARY;
use crate::support::websocket::Backend;
use crate::support::websocket::CLOSE;
use crate::support::websocket::CONTINUATION;
use crate::support::websocket::PING;
use crate::support::websocket::PONG;
use crate::support::websocket::Socket;
use crate::support::websocket::TEXT;
use crate::support::websocket::granted;
use crate::support::websocket::handshake;

/// What is asserted, since a machine with other work may stand still for seconds; the promise is 200 ms, and usual is one or two, a hundred where a frame never ends.
const BOUND: Duration = Duration::from_secs(8);

fn usual() -> (Backend, Gateway) {
    let backend = Backend::start();
    let gateway = Setup::usual_at(backend.address).start();
    (backend, gateway)
}

/// A tunnel of this key, both ends of it.
#[track_caller]
fn tunnel(backend: &Backend, gateway: &Gateway, key: &Key) -> (Socket, Socket) {
    let mut client = Socket::connect(gateway);
    client.send_bytes(handshake("/any/ws").bearer(&key.text).bytes());
    let server = backend.accept();
    client.head().unwrap().expect(101);
    (client, server)
}

#[track_caller]
fn in_time(what: &str, since: Instant) {
    let took = since.elapsed();
    println!("{what}: {took:?} after the change began");
    assert!(took < BOUND, "{what}: {took:?}");
}

/// The same where the gateway allows so little time for it that a busy machine may need several tries.
#[track_caller]
fn tunnel_in_time(backend: &Backend, gateway: &Gateway, key: &Key) -> (Socket, Socket) {
    eventually("a tunnel is opened in time", || {
        let mut client = Socket::connect(gateway);
        client.send_bytes(handshake("/any/ws").bearer(&key.text).bytes());
        let server = backend.accept();
        let answer = client.head().filter(|answer| answer.status != 504)?;
        answer.expect(101);
        Some((client, server))
    })
}

/// Both ends hear each other.
#[track_caller]
fn assert_open(client: &mut Socket, server: &mut Socket) {
    client.send(TEXT, "hello");
    assert_eq!(server.read().unwrap().payload, b"hello");
    server.send(TEXT, "you");
    assert_eq!(client.read().unwrap().payload, b"you");
}

// S7, FM1, FA23: the backend is asked for exactly WebSocket, by acme alone; the 101 carries what every answer does.
#[test]
fn a_websocket_goes_through() {
    let backend = Backend::start();
    let gateway = Setup::usual_at(backend.address)
        .plan("limited", "100/hour", "unlimited")
        .tenant("acme", "limited")
        .start();
    let key = gateway.key("acme");
    let request = handshake("/any/ws?room=1")
        .bearer(&key.text)
        .header("Sec-WebSocket-Protocol", "chat")
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
        .header("Connection", "keep-alive, X-Tenant-ID")
        .header("X-Tenant-ID", "bravo")
        .header("X_Tenant_Id", "bravo");
    let mut client = Socket::connect(&gateway);
    client.send_bytes(request.bytes());
    let (mut server, got) = backend.next();
    assert_eq!(got.line, "GET /any/ws?room=1 HTTP/1.1");
    assert_eq!(got.all("connection"), ["upgrade"]);
    assert_eq!(got.all("upgrade"), ["websocket"]);
    assert_eq!(got.all("sec-websocket-protocol"), ["chat"]);
    assert_eq!(got.all("sec-websocket-extensions"), ["permessage-deflate"]);
    assert_eq!(got.look_alikes("x-tenant-id"), [("x-tenant-id", "acme")]);
    assert!(!got.text().contains(&key.text) && !got.text().contains("bravo"));
    // A backend's forged limits, and its first frame in one piece with the 101.
    let head = granted(&got).replace(
        "\r\n\r\n",
        "\r\nX-RateLimit-Limit: 7\r\nX-Tenant-ID: acme\r\nContent-Length: 5\r\n\r\n",
    );
    let first = server.encode(true, TEXT, b"welcome");
    server.send_bytes([head.as_bytes(), &first].concat());
    let answer = client.head().unwrap();
    answer.expect(101);
    assert_eq!(answer.one("connection"), "upgrade");
    assert_eq!(answer.one("upgrade"), "websocket");
    assert_eq!(answer.one("sec-websocket-accept"), ACCEPT);
    assert_eq!(answer.one("x-ratelimit-limit"), "100");
    assert_eq!(answer.one("x-ratelimit-remaining"), "99");
    assert_eq!(answer.one("x-request-id"), got.all("x-request-id")[0]);
    assert!(!answer.has("x-tenant-id") && !answer.has("content-length"));
    assert_eq!(client.read().unwrap().payload, b"welcome");
    assert_open(&mut client, &mut server);
    let text = gateway.admin_get("/metrics").text();
    assert!(text.contains("\nportcullis_tunnels_active 1"), "{text}");
    assert!(gateway.log().is_empty(), "nothing is logged before its end");
    // An orderly end, and its account.
    client.send(CLOSE, [3, 232]);
    assert_eq!(server.read().unwrap().close_code(), 1000);
    server.send(CLOSE, [3, 232]);
    assert_eq!(client.read().unwrap().close_code(), 1000);
    drop(server);
    assert!(client.ends_in_order());
    drop(client);
    let line = gateway.log_line("/any/ws");
    assert_eq!(line["http.response.status_code"], 101, "{line}");
    assert_eq!(line["key_id"], key.id, "{line}");
    assert_eq!(line["end"], "complete", "{line}");
    assert_eq!(line["http.request.body.size"], 19, "{line}");
    let text = gateway.admin_get("/metrics").text();
    for expected in [
        "portcullis_tunnels_active 0",
        "portcullis_tunnel_bytes_total{direction=\"received\"} 19",
        "portcullis_tunnel_bytes_total{direction=\"sent\"} 18",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
}

// S7: whoever does not ask for exactly WebSocket, over HTTP/1.1 and by GET, asks for nothing; a 101 is then a backend's failure.
#[test]
fn nothing_else_opens_a_tunnel() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let usual = String::from_utf8(handshake("/public/x").bytes()).unwrap();
    let replaced = |from: &str, to: &str| {
        assert!(usual.contains(from), "{from}");
        usual.replace(from, to)
    };
    let cases = [
        replaced("Upgrade: websocket", "Upgrade: h2c"),
        replaced("Upgrade: websocket", "Upgrade: foo"),
        replaced("Upgrade: websocket", "Upgrade: websocket, h2c"),
        replaced("Upgrade: websocket", "Upgrade: h2c, websocket"),
        replaced("Upgrade: websocket", "Upgrade: websocket/13"),
        replaced("Upgrade: websocket", "Upgrade: websocket\r\nUpgrade: h2c"),
        replaced(
            "Upgrade: websocket",
            "Upgrade: websocket\r\nUpgrade: websocket",
        ),
        replaced("Upgrade: websocket\r\n", ""),
        replaced("Connection: Upgrade", "Connection: keep-alive"),
        replaced("Connection: Upgrade\r\n", ""),
        replaced("Sec-WebSocket-Key: ", "Sec-WebSocket-Kez: "),
        replaced("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: x"),
        replaced("GET ", "HEAD "),
        replaced("GET ", "POST "),
        replaced("HTTP/1.1", "HTTP/1.0"),
        replaced("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi"),
        replaced(
            "\r\n\r\n",
            "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
    ];
    let method = |case: &str| {
        if case.starts_with("HEAD") {
            "HEAD"
        } else {
            "GET"
        }
    };
    for case in &cases {
        let answer = gateway.connect().send(case).try_read_for(method(case));
        assert_eq!(answer.expect("an answer").status, 200, "{case}");
        let got = upstream.last();
        assert!(got.all("upgrade").is_empty(), "{case}\n{}", got.text());
        assert!(
            !got.text().to_lowercase().contains("upgrade"),
            "{}",
            got.text()
        );
    }
    let right = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    upstream.answer("/public/x", right);
    for case in &cases {
        let answer = gateway.connect().send(case).try_read_for(method(case));
        assert_eq!(answer.expect("an answer").status, 502, "{case}");
    }
    gateway.log_line("http_upgrade_failed");
}

// S7, S42: a 101 that grants something else, or was made for another request, is a backend's failure, and its connection is closed.
#[test]
fn a_101_must_grant_what_was_asked() {
    let (backend, gateway) = usual();
    let right = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    for (from, to) in [
        ("Upgrade: websocket", "Upgrade: foo"),
        ("Upgrade: websocket", "Upgrade: websocket, foo"),
        ("Upgrade: websocket\r\n", ""),
        ("Connection: upgrade\r\n", ""),
        (ACCEPT, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accepz: "),
    ] {
        assert!(right.contains(from), "{from}");
        let mut client = Socket::connect(&gateway);
        client.send_bytes(handshake("/public/x").bytes());
        let (mut server, _) = backend.next();
        server.send_bytes(right.replace(from, to));
        client.head().unwrap().expect(502);
        assert!(server.read_to_end().is_empty(), "{to}");
    }
}

// S7: after a 200 or a 426 the bytes are HTTP again, and each request of it is judged like any other.
#[test]
fn no_tunnel_on_another_answer() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    for status in ["200 OK", "426 Upgrade Required", "404 Not Found"] {
        upstream.forget();
        upstream.answer("/public/x", format!("HTTP/1.1 {status}\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\nContent-Length: 2\r\n\r\nno"));
        let mut client = gateway.connect();
        let smuggled = "GET /any/secret HTTP/1.1\r\nHost: localhost\r\n\r\nGET /public/y HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let both = [handshake("/public/x").bytes(), smuggled.into()].concat();
        let answer = client.send(both).read();
        assert_eq!(answer.text(), "no");
        assert!(!answer.has("upgrade"), "{status}");
        client.read().expect(401);
        client.read().expect(200);
        assert_eq!((upstream.hits(), upstream.hits_on("/any/secret")), (2, 0));
        // Frames are no HTTP: they end the connection and reach nobody.
        client.send([0x81, 0x85, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let refused = client.try_read_for("GET");
        assert!(refused.is_none_or(|refused| refused.status == 400));
        assert_eq!(upstream.hits(), 2);
    }
}

// FM6, S7: no guard looks into a tunnel, so that a guarded route asks the backend for none; one that takes another's id for the caller's opens
// none either.
#[test]
fn a_guarded_or_foreign_request_opens_no_tunnel() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("guards.tenants", "remove", r#"["tenant_id"]"#)
        .route_to(
            "legacy",
            "/guarded/{*rest}",
            &[],
            Access::AnyKey,
            "guard = \"tenants\"\n",
        )
        .route_to(
            "legacy",
            "/orgs/{org}/{*rest}",
            &[],
            Access::AnyKey,
            "bind = { org = \"tenant\" }\n",
        )
        .start();
    let key = gateway.key("acme");
    for path in ["/guarded/x", "/orgs/bravo/x"] {
        upstream.forget();
        gateway.send(&handshake(path).bearer(&key.text));
        assert_eq!(upstream.hits(), 1, "{path}");
        assert_eq!(upstream.last().look_alikes("upgrade"), [], "{path}");
    }
    upstream.forget();
    gateway.send(&handshake("/orgs/acme/x").bearer(&key.text));
    assert_eq!(
        upstream.last().look_alikes("upgrade"),
        [("upgrade", "websocket")]
    );
}

// A connection that once had an Upgrade line is closed in order: the client must not take its answer for a broken one.
#[test]
fn an_upgrade_that_came_to_nothing_ends_in_order() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    for token in ["websocket", "foo"] {
        let request = handshake("/public/x").header("Connection", "close");
        let text = String::from_utf8(request.bytes()).unwrap();
        let mut client = Socket::connect(&gateway);
        client.send_bytes(text.replace("Upgrade: websocket", &format!("Upgrade: {token}")));
        client.head().unwrap().expect(200);
        assert!(client.ends_in_order(), "{token}");
    }
}

// S7: what the client sends before it has its 101 waits for it, and goes nowhere if it does not come.
#[test]
fn early_bytes_wait_for_the_101() {
    let (backend, gateway) = usual();
    let key = gateway.key("acme");
    for grant in [true, false] {
        let mut client = Socket::connect(&gateway);
        let early = client.encode(true, TEXT, b"early");
        let request = handshake("/any/ws").bearer(&key.text).bytes();
        client.send_bytes([request, early].concat());
        let (mut server, got) = backend.next();
        let window = Some(Duration::from_millis(100));
        server.below.set_read_timeout(window).unwrap();
        let mut byte = [0];
        let came = std::io::Read::read(&mut server.below, &mut byte);
        assert!(came.is_err(), "{came:?}");
        let patience = Some(crate::support::PATIENCE);
        server.below.set_read_timeout(patience).unwrap();
        if grant {
            server.send_bytes(granted(&got));
            client.head().unwrap().expect(101);
            assert_eq!(server.read().unwrap().payload, b"early");
            assert_open(&mut client, &mut server);
        } else {
            server.send_bytes(ok("no"));
            client.head().unwrap().expect(200);
            drop(client);
            server.die();
        }
    }
}

// FA1: a tunnel takes a key like any request; without one nobody is reached.
#[test]
fn a_handshake_without_a_key_reaches_nobody() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    for request in [
        handshake("/any/ws"),
        handshake("/any/ws").bearer("fp_live_nonsense"),
    ] {
        gateway.send(&request).expect(401);
    }
    let key = gateway.key_with_scopes("acme", &["other"]);
    let request = handshake("/leases/ws").bearer(&key.text);
    gateway.send(&request).expect(403);
    assert_eq!(upstream.hits(), 0);
}

// What a real client would do with it, frame by frame.
#[test]
fn frames_of_all_kinds_pass_unchanged() {
    let (backend, gateway) = usual();
    let (mut client, mut server) = tunnel(&backend, &gateway, &gateway.key("acme"));
    for length in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        let payload: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| client.send(BINARY, &payload));
            let frame = server.read().unwrap();
            assert!(frame.masked && frame.payload == payload, "{length} up");
        });
        std::thread::scope(|scope| {
            scope.spawn(|| server.send(BINARY, &payload));
            let frame = client.read().unwrap();
            assert!(!frame.masked && frame.payload == payload, "{length} down");
        });
    }
    for (last, opcode, payload) in [
        (false, TEXT, "a"),
        (true, PING, "p"),
        (false, CONTINUATION, "b"),
        (true, PONG, ""),
        (true, CONTINUATION, "c"),
    ] {
        // One byte at a time.
        for byte in client.encode(last, opcode, payload.as_bytes()) {
            client.send_bytes([byte]);
        }
        let frame = server.read().unwrap();
        assert_eq!((frame.last, frame.opcode), (last, opcode));
        assert_eq!(frame.payload, payload.as_bytes());
    }
}

// FA9, CHECK6: a revoked key's tunnel gets 1008 and its backend is let go in time, idle or in full flow; other keys' live on.
#[test]
fn a_revoked_tunnel_is_closed_with_1008() {
    let (backend, gateway) = usual();
    let other = gateway.key("acme");
    let (mut other_client, mut other_server) = tunnel(&backend, &gateway, &other);
    let key = gateway.key("acme");
    let (mut client, mut server) = tunnel(&backend, &gateway, &key);
    assert_open(&mut client, &mut server);
    let (mut fresh_client, _fresh_server) = tunnel(&backend, &gateway, &key);
    let revoked = Instant::now();
    gateway.revoke(&key);
    assert_eq!(client.read().unwrap().close_code(), 1008);
    in_time("an idle tunnel", revoked);
    assert!(client.ends_in_order());
    let told = server.read().unwrap();
    assert!(told.masked);
    assert_eq!(told.close_code(), 1001);
    assert!(server.read().is_none());
    in_time("its backend", revoked);
    assert_eq!(fresh_client.read().unwrap().close_code(), 1008);
    assert_open(&mut other_client, &mut other_server);
    let line = gateway.log_line("\"revoked\"");
    assert_eq!(line["end"], "revoked", "{line}");
    assert_eq!(line["reason"], "revoked_meanwhile", "{line}");
    assert_eq!(line["http.response.status_code"], 101, "{line}");
    // What the client still says goes nowhere, and a new handshake is refused.
    client.send(TEXT, "after");
    let request = handshake("/any/ws").bearer(&key.text);
    gateway.send(&request).expect(401);
}

// FA9: in full flow both ways, at the end of a frame.
#[test]
fn a_tunnel_in_full_flow_is_closed_with_1008() {
    let (backend, gateway) = usual();
    let key = gateway.key("acme");
    let (mut client, mut server) = tunnel(&backend, &gateway, &key);
    let message = server.encode(true, BINARY, &[7; 10_000]);
    let mut sender = server.below.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || while sender.write_all(&message).is_ok() {});
        for _ in 0..20 {
            assert_eq!(client.read().unwrap().payload.len(), 10_000);
            client.send(TEXT, "more");
            assert_eq!(server.read().unwrap().payload, b"more");
        }
        let revoked = Instant::now();
        // The client reads all the while: one that does not is cut, as its frame under way does not end.
        scope.spawn(|| gateway.revoke(&key));
        assert_eq!(client.read_close().unwrap().close_code(), 1008);
        in_time("a tunnel in full flow", revoked);
        let told = server.read_close();
        assert_eq!(told.expect("the backend is told too").close_code(), 1001);
        server.die();
    });
}

// FA9: in the middle of a frame no close frame can be told from payload: one that ends soon is waited for, one that does not is cut.
#[test]
fn a_frame_under_way_is_ended_or_cut() {
    let (backend, gateway) = usual();
    for ends in [true, false] {
        let key = gateway.key("acme");
        let (mut client, mut server) = tunnel(&backend, &gateway, &key);
        let frame = server.encode(true, BINARY, &[7; 100]);
        server.send_bytes(&frame[..50]);
        let half = client.encode(true, TEXT, b"half");
        client.send_bytes(&half[..7]);
        let mut come = vec![0; 7];
        std::io::Read::read_exact(&mut server.below, &mut come).unwrap();
        let revoked = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| gateway.revoke(&key));
            if ends {
                client.send_bytes(&half[7..]);
                server.send_bytes(&frame[50..]);
                let got = client.read_to_end();
                let all = [&frame[..], &[0x88, 2, 3, 0xf0]].concat();
                // On a busy machine the rest may come too late.
                assert!(got == all || got == frame[..50], "{got:?}");
            } else {
                assert_eq!(client.read_to_end(), frame[..50]);
            }
        });
        in_time("a tunnel inside a frame", revoked);
        server.read_to_end();
        in_time("its backend", revoked);
    }
}

// FA9, S45: whatever ends a key for good, and a suspended tenant.
#[test]
fn a_suspended_tenant_loses_its_tunnels() {
    let (backend, gateway) = usual();
    let (id, name, plan) = ("stored".to_owned(), None, "open".to_owned());
    gateway
        .execute(Verb::TenantCreate {
            id,
            name,
            plan,
            upstreams: Default::default(),
        })
        .unwrap();
    let (mut client, _server) = tunnel(&backend, &gateway, &gateway.key("stored"));
    let id = "stored".to_owned();
    gateway.execute(Verb::TenantSuspend { id }).unwrap();
    assert_eq!(client.read().unwrap().close_code(), 1008);
}

// S22, S38: a client that does not read stops the backend, loses nothing when it goes on, and cannot keep a revoked tunnel open.
#[test]
fn a_client_that_does_not_read_stops_the_backend() {
    let (backend, gateway) = usual();
    let key = gateway.key("acme");
    let (mut client, mut server) = tunnel(&backend, &gateway, &key);
    let message = server.encode(true, BINARY, &[7; 1 << 20]);
    let sent = fill(&mut server, &message);
    println!("the gateway and two sockets took {sent} bytes of a client that does not read");
    assert!(sent < 64 << 20);
    let (whole, part) = (sent / message.len(), sent % message.len());
    for _ in 0..whole {
        assert_eq!(client.read().unwrap().payload.len(), 1 << 20);
    }
    server.send_bytes(&message[part..]);
    assert_eq!(client.read().unwrap().payload.len(), 1 << 20);
    fill(&mut server, &message);
    let revoked = Instant::now();
    gateway.revoke(&key);
    gateway.log_line("\"revoked\"");
    in_time("a tunnel whose client does not read", revoked);
    server.read_to_end();
    in_time("its backend", revoked);
}

/// Sends this message again and again until nobody takes more for a while; says how many bytes were taken.
fn fill(server: &mut Socket, message: &[u8]) -> usize {
    let wait = Some(Duration::from_millis(500));
    server.below.set_write_timeout(wait).unwrap();
    let mut sent = 0;
    while let Ok(count) = server.below.write(&message[sent % message.len()..]) {
        sent += count;
    }
    let patience = Some(crate::support::PATIENCE);
    server.below.set_write_timeout(patience).unwrap();
    sent
}

// S40: the timeouts of requests and connections do not end a tunnel; its own does, and both sides are told.
#[test]
fn a_tunnel_has_an_idle_timer_of_its_own() {
    let backend = Backend::start();
    let mut setup = Setup::usual_at(backend.address);
    for (table, key) in [
        ("upstreams.legacy", "first_byte_timeout"),
        ("upstreams.legacy", "idle_timeout"),
        ("upstreams.legacy", "total_timeout"),
        ("connections", "idle_timeout"),
        ("connections", "head_timeout"),
        ("connections", "stall_timeout"),
    ] {
        setup = setup.set(table, key, "\"500ms\"");
    }
    let idle = |span: &str| {
        setup
            .clone()
            .set("upstreams.legacy", "tunnel_idle_timeout", span)
    };
    let mut gateway = idle("\"10min\"").start();
    let key = gateway.key("acme");
    let (mut client, mut server) = tunnel_in_time(&backend, &gateway, &key);
    std::thread::sleep(Duration::from_millis(1500));
    assert_open(&mut client, &mut server);
    gateway.reload(idle("\"1s\"")).unwrap();
    let (mut short, mut short_server, silent) = eventually("a tunnel moves for a while", || {
        let (mut short, mut server) = tunnel_in_time(&backend, &gateway, &key);
        let mut moved = Instant::now();
        // What moves, either way, is not idle. Where the machine stands still for too long, nothing has moved: another one is tried.
        for _ in 0..6 {
            std::thread::sleep(Duration::from_millis(250));
            let before = std::mem::replace(&mut moved, Instant::now());
            short.send(PING, "");
            match server.read() {
                Some(frame) if frame.opcode == PING => {}
                other => {
                    assert!(before.elapsed() >= Duration::from_secs(1), "{other:?}");
                    return None;
                }
            }
        }
        Some((short, server, moved))
    });
    assert_eq!(short.read().unwrap().close_code(), 1001);
    // From before the last that moved on.
    assert!(
        silent.elapsed() >= Duration::from_secs(1),
        "not before its time"
    );
    assert_eq!(short_server.read().unwrap().close_code(), 1001);
    assert!(short.ends_in_order() && short_server.read().is_none());
    assert_eq!(
        gateway.log_line("timed_out")["http.response.status_code"],
        101
    );
    assert_open(&mut client, &mut server);
}

// S34, S38: whichever end dies, the other sees it, and nothing is left behind.
#[test]
fn a_dead_end_ends_the_other() {
    let (backend, gateway) = usual();
    let key = gateway.key("acme");
    let (mut client, server) = tunnel(&backend, &gateway, &key);
    server.reset();
    assert!(!client.ends_in_order(), "it must look cut");
    assert_eq!(
        gateway.log_line("upstream_cut")["http.response.status_code"],
        101
    );
    let (mut client, mut server) = tunnel(&backend, &gateway, &key);
    server.send(TEXT, "last words");
    server.die();
    assert_eq!(client.read().unwrap().payload, b"last words");
    assert!(client.read().is_none());
    drop(client);
    assert_eq!(
        gateway.log_line("\"complete\"")["http.response.status_code"],
        101
    );
    for end in [Socket::die as fn(Socket), Socket::reset] {
        let (client, mut server) = tunnel(&backend, &gateway, &key);
        end(client);
        assert!(server.read_to_end().is_empty());
    }
    assert_eq!(
        gateway.log_line("client_left")["http.response.status_code"],
        101
    );
}

// One side may say that it has no more, and still listen.
#[test]
fn a_side_that_has_no_more_to_say_still_listens() {
    let (backend, gateway) = usual();
    let (mut client, server) = tunnel(&backend, &gateway, &gateway.key("acme"));
    server.below.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.ends_in_order());
    let mut server = server;
    client.send(TEXT, "still here");
    assert_eq!(server.read().unwrap().payload, b"still here");
}

// DESIGN section 9: a drain lets tunnels live for its time, and then tells both sides.
#[test]
fn a_drain_ends_with_1001() {
    let backend = Backend::start();
    let gateway = Setup::usual_at(backend.address)
        .set("server", "drain_timeout", "\"3s\"")
        .start();
    let key = gateway.key("acme");
    let (mut client, mut server) = tunnel(&backend, &gateway, &key);
    let mut idle = gateway.connect();
    idle.exchange(&Request::get("/any")).expect(401);
    let directory = gateway.setup.clone();
    let (took, ()) = timed(|| {
        std::thread::scope(|scope| {
            let stopping = scope.spawn(|| gateway.stop());
            assert!(idle.is_closed(), "the drain has begun");
            assert_open(&mut client, &mut server);
            assert_eq!(client.read().unwrap().close_code(), 1001);
            assert!(client.ends_in_order());
            drop(client);
            assert_eq!(server.read().unwrap().close_code(), 1001);
            assert!(server.read().is_none());
            stopping.join().unwrap();
        });
    });
    assert!(took >= Duration::from_millis(2_900), "{took:?}");
    assert!(took < crate::support::PATIENCE, "{took:?}");
    let log = std::fs::read_to_string(directory.directory().join("access.log")).unwrap();
    assert!(log.contains("\"drained\""), "{log}");
}

// S28: a tunnel holds its connection's place under the caps, and gives it back.
#[test]
fn a_tunnel_counts_as_a_connection() {
    let backend = Backend::start();
    let gateway = Setup::usual_at(backend.address)
        .set("connections", "per_address_max", "2")
        .start();
    let key = gateway.key("acme");
    let (first, _server) = tunnel(&backend, &gateway, &key);
    let (second, _other) = tunnel(&backend, &gateway, &key);
    let refused = || {
        gateway
            .admin_get("/metrics")
            .text()
            .contains("event=\"refused_address_cap\"} 0")
    };
    assert!(refused());
    let mut third = std::net::TcpStream::connect(gateway.https()).unwrap();
    third
        .set_read_timeout(Some(crate::support::PATIENCE))
        .unwrap();
    assert!(matches!(
        std::io::Read::read(&mut third, &mut [0]),
        Ok(0) | Err(_)
    ));
    assert!(!refused());
    first.die();
    second.die();
    eventually("the places are free again", || {
        let mut again = Http1::tls_try(gateway.https())?;
        again
            .send(Request::get("/nowhere").bytes())
            .try_read_for("GET")
    });
}

// A public route opens tunnels too; no key, and so no revocation, ends them.
#[test]
fn a_public_tunnel_needs_no_key() {
    let (backend, gateway) = usual();
    let mut client = Socket::connect(&gateway);
    client.send_bytes(handshake("/public/ws").bytes());
    let mut server = backend.accept();
    let answer = client.head().unwrap();
    answer.expect(101);
    assert!(!answer.has("x-ratelimit-limit"));
    gateway.revoke(&gateway.key("acme"));
    assert_open(&mut client, &mut server);
}

// RFC 8441 is not offered: extended CONNECT over HTTP/2 is refused, and the connection goes on.
#[test]
fn extended_connect_is_refused() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let mut client = Frames::connect(gateway.https());
    let mut fields = frames::get("/public/ws");
    fields[0] = (":method", "CONNECT");
    fields.push((":protocol", "websocket"));
    fields.push(("sec-websocket-version", "13"));
    let outcome = client.exchange(&fields);
    println!("extended CONNECT: {outcome:?}");
    assert!(
        matches!(
            outcome,
            Outcome::Status(400 | 405 | 501) | Outcome::Reset(_)
        ),
        "{outcome:?}"
    );
    let ordinary = client.exchange(&frames::get("/public/x"));
    assert_eq!(ordinary, Outcome::Status(200));
    assert_eq!(upstream.hits(), 1);
}

// S7, FA9, FM1: a real WebSocket server behind, a real client before it: messages of all sizes both ways at once, fragments, pings, compression,
// subprotocols, close codes; and what that client is told when its key is revoked.
#[test]
fn a_real_client_talks_to_a_real_server() {
    let Some(backend) = real::websockets() else {
        return;
    };
    let gateway = Setup::usual_at(backend.address).start();
    let key = gateway.key("acme");
    let mut client = real::WebsocketClient::start(&gateway, &key.text);
    assert_eq!(client.line(), "tenant acme");
    assert_eq!(client.line(), "battery passed");
    assert_eq!(client.line(), "waiting");
    let revoked = Instant::now();
    gateway.revoke(&key);
    assert_eq!(client.line(), "closed 1008");
    in_time("a real client", revoked);
}
