//! Load balancers in front of the gateway: the PROXY protocol and X-Forwarded-For, from trusted peers and from nobody else.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

use portcullis::store::NewKey;

use crate::support::client;
use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::real;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

/// The balancer's address in these tests; 127.0.0.1 is a stranger unless a test says otherwise.
const BALANCER: &str = "127.0.0.2";

fn behind(upstream: &Upstream, word: &str, value: &str) -> Setup {
    Setup::usual(upstream)
        .set(
            "trusted_proxies",
            "networks",
            r#"["127.0.0.2/32", "10.0.0.0/8"]"#,
        )
        .set("trusted_proxies", word, &format!("{value:?}"))
}

/// A connection from this address that begins with these bytes.
fn speak(gateway: &Gateway, source: &str, header: &[u8]) -> TcpStream {
    let mut socket = client::socket_from(Some(source), gateway.https()).unwrap();
    let _ = socket.write_all(header);
    socket
}

fn secure(socket: TcpStream) -> std::io::Result<Http1> {
    let config = client::tls_config(&["http/1.1"]);
    client::tls_over(socket, "localhost", config).map(Http1::over)
}

/// A connection of the balancer's, for the client that the header names.
#[track_caller]
fn proxied(gateway: &Gateway, header: &[u8]) -> Http1 {
    secure(speak(gateway, BALANCER, header)).unwrap()
}

/// What comes back until the gateway closes.
fn rest(mut socket: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes);
    bytes
}

fn v1(source: &str) -> Vec<u8> {
    let family = if source.contains(':') { "TCP6" } else { "TCP4" };
    let reached = if source.contains(':') {
        "2001:db8::443"
    } else {
        "198.51.100.2"
    };
    format!("PROXY {family} {source} {reached} 50000 443\r\n").into_bytes()
}

/// A version 2 header: command and family, then the rest.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, family, 0, rest.len() as u8]);
    header.extend(rest);
    header
}

const FROM_203_0_113_7: [u8; 12] = [203, 0, 113, 7, 198, 51, 100, 2, 0xc3, 0x50, 0x01, 0xbb];

fn key_for(gateway: &Gateway, network: &str) -> Key {
    gateway.make_key(NewKey {
        cidrs: vec![network.to_owned()],
        ..new_key("acme")
    })
}

// DESIGN section 3: from a trusted peer the header names the client: to backend, log and the networks of keys.
#[test]
fn a_proxy_header_names_the_client() {
    let upstream = Upstream::start();
    let gateway = behind(&upstream, "proxy_protocol", "require").start();
    let key = key_for(&gateway, "203.0.113.0/24");
    let ask = Request::get("/any").bearer(&key.text);
    for header in [v1("203.0.113.7"), v2(0x21, 0x11, &FROM_203_0_113_7)] {
        upstream.forget();
        proxied(&gateway, &header).exchange(&ask).expect(200);
        assert_eq!(upstream.last().all("x-forwarded-for"), ["203.0.113.7"]);
        assert_eq!(upstream.last().all("x-forwarded-port"), ["443"]);
    }
    gateway.log_line(r#""client.address":"203.0.113.7""#);
    let mut other = proxied(&gateway, &v1("198.51.100.7"));
    other.exchange(&ask).expect(403);
    proxied(&gateway, &v1("::ffff:203.0.113.9"))
        .exchange(&ask)
        .expect(200);
    proxied(&gateway, &v1("2001:db8::7"))
        .exchange(&ask)
        .expect(403);
    gateway.log_line(r#""client.address":"2001:db8::7""#);
}

// The balancer's own checks and clients that it does not know count as the balancer's.
#[test]
fn local_and_unknown_keep_the_address_of_the_socket() {
    let upstream = Upstream::start();
    let gateway = behind(&upstream, "proxy_protocol", "require").start();
    let unknown = b"PROXY UNKNOWN 203.0.113.7 198.51.100.2 1 2\r\n".to_vec();
    let local = v2(0x20, 0x11, &FROM_203_0_113_7);
    for header in [unknown, local, v2(0x21, 0, &[])] {
        let mut client = proxied(&gateway, &header);
        client.exchange(&Request::get("/public/x")).expect(200);
        assert_eq!(upstream.last().all("x-forwarded-for"), [BALANCER]);
    }
}

// A trusted peer must send a header, whole, sound and in time; a health check that only connects is no fault.
#[test]
fn a_trusted_peer_without_a_sound_header_is_closed() {
    let upstream = Upstream::start();
    let mut gateway = behind(&upstream, "proxy_protocol", "require").start();
    let mut wrong_sum = FROM_203_0_113_7.to_vec();
    wrong_sum.extend([3, 0, 4, 1, 2, 3, 4]);
    let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
    let cases = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 1 1\r\n".to_vec(),
        v2(0x21, 0x11, &wrong_sum),
        v2(0x21, 0x12, &FROM_203_0_113_7),
        long,
    ];
    let count = cases.len() as u64;
    for case in cases {
        let told = rest(speak(&gateway, BALANCER, &case));
        assert_eq!(told, b"", "{}", case.escape_ascii());
    }
    assert_eq!(gateway.connection_events("proxy_header_invalid"), count);
    let hasty = (gateway.setup.clone()).set("connections", "handshake_timeout", r#""500ms""#);
    gateway.reload(hasty).unwrap();
    assert_eq!(rest(speak(&gateway, BALANCER, b"PROXY TCP4 203.")), b"");
    assert_eq!(gateway.connection_events("handshake_timeout"), 1);
    let patient = (gateway.setup.clone()).unset("connections", "handshake_timeout");
    gateway.reload(patient).unwrap();
    drop(speak(&gateway, BALANCER, b""));
    eventually("the check is gone", || {
        (gateway.metric("portcullis_connections_active") == 0).then_some(())
    });
    assert_eq!(gateway.connection_events("proxy_header_invalid"), count);
    assert!(secure(speak(&gateway, BALANCER, b"")).is_err());
    assert_eq!(upstream.hits(), 0);
}

// S10: nobody else can say who he is: from a stranger the header is what every word is that is not TLS.
#[test]
fn a_stranger_cannot_send_a_proxy_header() {
    let upstream = Upstream::start();
    let gateway = behind(&upstream, "proxy_protocol", "require").start();
    let told = rest(speak(&gateway, "127.0.0.1", &v1("203.0.113.7")));
    assert!(
        told.starts_with(b"HTTP/1.1 400 "),
        "{}",
        told.escape_ascii()
    );
    let told = rest(speak(
        &gateway,
        "127.0.0.1",
        &v2(0x21, 0x11, &FROM_203_0_113_7),
    ));
    assert_eq!(told, b"");
    let mut direct = secure(speak(&gateway, "127.0.0.1", b"")).unwrap();
    direct.exchange(&Request::get("/public/x")).expect(200);
    assert_eq!(upstream.last().all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(upstream.hits(), 1);
    // Where it is off, not even the balancer can.
    let gateway = behind(&upstream, "headers", "trust").start();
    let told = rest(speak(&gateway, BALANCER, &v1("203.0.113.7")));
    assert!(
        told.starts_with(b"HTTP/1.1 400 "),
        "{}",
        told.escape_ascii()
    );
}

// S22: the cap is one client's, not the balancer's.
#[test]
fn the_cap_per_address_counts_the_client_that_was_named() {
    let upstream = Upstream::start();
    let gateway = behind(&upstream, "proxy_protocol", "require")
        .set("connections", "per_address_max", "1")
        .start();
    let mut one = proxied(&gateway, &v1("203.0.113.7"));
    let mut two = proxied(&gateway, &v1("203.0.113.8"));
    assert!(secure(speak(&gateway, BALANCER, &v1("203.0.113.7"))).is_err());
    for client in [&mut one, &mut two] {
        client.exchange(&Request::get("/public/x")).expect(200);
    }
    assert_eq!(gateway.connection_events("refused_address_cap"), 1);
    drop(one);
    eventually("the place is free again", || {
        secure(speak(&gateway, BALANCER, &v1("203.0.113.7"))).ok()
    });
}

// The listener that only refuses is behind the balancer too.
#[test]
fn plain_http_behind_a_balancer_is_refused_by_the_clients_name() {
    let upstream = Upstream::start();
    let gateway = behind(&upstream, "proxy_protocol", "require").start();
    let mut socket = client::socket_from(Some(BALANCER), gateway.http()).unwrap();
    socket.write_all(&v1("203.0.113.7")).unwrap();
    let answer = Http1::over(socket).exchange(&Request::get("/public/x"));
    answer.expect(403);
    gateway.log_line(r#""client.address":"203.0.113.7""#);
}

// The real HAProxy, with both versions, and with all that it can put into a header of version 2.
#[test]
fn haproxy_in_front_says_who_the_client_is() {
    if real::left_out("haproxy") {
        return;
    }
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("trusted_proxies", "networks", r#"["127.0.0.1"]"#)
        .set("trusted_proxies", "proxy_protocol", r#""require""#)
        .start();
    for options in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2-ssl-cn proxy-v2-options crc32c,unique-id,authority,cert-key,cert-sig,ssl-cipher",
        "send-proxy-v2 check inter 50ms",
    ] {
        let balancer = real::haproxy(gateway.https(), options);
        upstream.forget();
        let socket = client::socket_from(Some("127.0.0.77"), balancer.address).unwrap();
        let answer = secure(socket).unwrap().exchange(&Request::get("/public/x"));
        answer.expect(200);
        assert_eq!(
            upstream.last().all("x-forwarded-for"),
            ["127.0.0.77"],
            "{options}"
        );
    }
}

fn ask_through(gateway: &Gateway, source: &str, request: &Request) -> Answer {
    secure(speak(gateway, source, b""))
        .unwrap()
        .exchange(request)
}

// S10, CONVENTIONS 1.6: the rightmost address that is no proxy's is the client, for keys, log and backend; the backend gets that one
// address and nothing of the chain, since what stands left of it is the client's own word.
#[test]
fn a_trusted_proxy_says_whose_request_it_brings() {
    let upstream = Upstream::start();
    let gateway = behind(&upstream, "headers", "trust").start();
    let key = key_for(&gateway, "203.0.113.0/24");
    let ask = |chain: &str| {
        Request::get("/any")
            .bearer(&key.text)
            .header("X-Forwarded-For", chain)
    };
    for (chain, status) in [
        ("203.0.113.7", 200),
        ("junk, 203.0.113.7, 10.1.1.1", 200),
        ("203.0.113.7, 198.51.100.7", 403),
        ("198.51.100.7, 10.1.1.1, 10.2.2.2", 403),
    ] {
        ask_through(&gateway, BALANCER, &ask(chain)).expect(status);
    }
    assert_eq!(upstream.hits(), 2);
    for request in upstream.requests() {
        assert_eq!(request.all("x-forwarded-for"), ["203.0.113.7"]);
    }
    gateway.log_line(r#""client.address":"203.0.113.7""#);
    // From anybody else it is a header like any that is removed.
    ask_through(&gateway, "127.0.0.1", &ask("203.0.113.7")).expect(403);
    let plain = Request::get("/public/x").header("X-Forwarded-For", "203.0.113.7");
    ask_through(&gateway, "127.0.0.1", &plain).expect(200);
    assert_eq!(upstream.last().all("x-forwarded-for"), ["127.0.0.1"]);
    // The proxy's own request.
    ask_through(&gateway, BALANCER, &Request::get("/public/x")).expect(200);
    assert_eq!(upstream.last().all("x-forwarded-for"), [BALANCER]);
}

// Nobody knows who asks: that fails closed, also on a public route.
#[test]
fn an_unreadable_x_forwarded_for_of_a_trusted_proxy_is_refused() {
    let upstream = Upstream::start();
    let gateway = behind(&upstream, "headers", "trust").start();
    for chain in ["unknown", "", "203.0.113.7,", "203.0.113.7, _hidden"] {
        let request = Request::get("/public/x").header("X-Forwarded-For", chain);
        ask_through(&gateway, BALANCER, &request).expect(400);
        ask_through(&gateway, "127.0.0.1", &request).expect(200);
        assert_eq!(upstream.last().all("x-forwarded-for"), ["127.0.0.1"]);
    }
    assert_eq!(upstream.hits(), 4);
    gateway.log_line("forwarded_for_malformed");
}

// The PROXY header says who connects; what that one forwards is believed only if it is a proxy itself.
#[test]
fn both_together_trust_one_hop_each() {
    let upstream = Upstream::start();
    let gateway = behind(&upstream, "headers", "trust")
        .set("trusted_proxies", "proxy_protocol", r#""require""#)
        .start();
    let request = Request::get("/public/x").header("X-Forwarded-For", "203.0.113.7");
    for (connects, client) in [
        ("10.1.1.1", "203.0.113.7"),
        ("198.51.100.7", "198.51.100.7"),
    ] {
        proxied(&gateway, &v1(connects))
            .exchange(&request)
            .expect(200);
        assert_eq!(upstream.last().all("x-forwarded-for"), [client]);
    }
}

// CONVENTIONS 1.6: a trusted proxy's X-Request-Id is kept if it is harmless; everybody else's is replaced.
#[test]
fn a_trusted_proxy_names_its_requests() {
    let upstream = Upstream::start();
    let gateway = behind(&upstream, "headers", "trust").start();
    let long = "x".repeat(129);
    for (source, id, kept) in [
        (BALANCER, "edge-7.a_B", true),
        (BALANCER, "a b", false),
        (BALANCER, "a\"b", false),
        (BALANCER, &long, false),
        ("127.0.0.1", "edge-7.a_B", false),
    ] {
        let request = Request::get("/public/x").header("X-Request-Id", id);
        let answer = ask_through(&gateway, source, &request);
        let given = answer.expect(200).one("x-request-id");
        assert_eq!(given == id, kept, "{source} {id}");
        assert_eq!(upstream.last().all("x-request-id"), [given]);
    }
    let refused = Request::get("/any").header("X-Request-Id", "refused-1");
    let answer = ask_through(&gateway, BALANCER, &refused);
    assert_eq!(answer.expect(401).json()["request_id"], "refused-1");
    gateway.log_line("refused-1");
}
