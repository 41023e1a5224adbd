//! TLS and plain HTTP: what the listeners speak, and what they refuse to.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

use portcullis::store::NewKey;
use portcullis::store::Verb;

use crate::support::PATIENCE;
use crate::support::certs;
use crate::support::client;
use crate::support::client::Http1;
use crate::support::client::block_on;
use crate::support::eventually;
use crate::support::gateway::Setup;
use crate::support::gateway::key_of;
use crate::support::gateway::new_key;
use crate::support::real;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

// FA29, S25, CHECK14: refused in the configured shape, closed, never redirected, nothing upstream.
#[test]
fn plain_http_is_refused_and_never_redirected() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let mut client = Http1::plain(gateway.http());
    let answer = client.exchange(&Request::get("/leases"));
    answer.expect(403);
    assert!(!answer.has("location"), "{answer:#?}");
    assert_eq!(answer.one("connection"), "close");
    assert_eq!(answer.one("content-type"), "application/problem+json");
    assert_eq!(answer.json()["status"], 403);
    assert!(client.is_closed());
    assert_eq!(upstream.hits(), 0);
}

// FA29, S25, S26: a key that was sent in clear is burnt; the log says which, by its public id.
#[test]
fn a_key_sent_in_clear_is_recorded_by_its_id() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    let request = Request::get("/leases").bearer(&key.text);
    Http1::plain(gateway.http()).exchange(&request).expect(403);
    gateway.log_line(&key.id);
    assert!(!gateway.log().contains(&key.text));
    assert_eq!(upstream.hits(), 0);
}

// FA29, S41: in the shape of the host that was asked for, and a key in either header is recognised, however it stands.
#[test]
fn plain_http_is_refused_in_the_shape_of_its_host() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .more("[[hosts]]\nname = \"flat.test\"\n[hosts.errors]\nshape = \"flat\"")
        .start();
    let revoked = gateway.key("acme");
    gateway.revoke(&revoked);
    let request = Request::get("/leases").host("flat.test");
    let request = request.header("X-API-Key", &revoked.text);
    let answer = Http1::plain(gateway.http()).exchange(&request);
    answer.expect(403);
    assert!(answer.json()["error"].is_string(), "{}", answer.text());
    assert_eq!(answer.one("cache-control"), "no-store");
    assert_eq!(answer.one("x-request-id").len(), 36);
    let line = gateway.log_line(&revoked.id);
    assert_eq!(line["reason"], "key_seen_in_plaintext");
    assert_eq!(line["http.response.status_code"], 403);
    assert_eq!(upstream.hits(), 0);
}

// FA29, C-26: where the operator says so, a secret key that came in clear is revoked, once and for good, by the one writer; a key that
// anybody can read in a web page is not, and strangers' words revoke nothing.
#[test]
fn a_secret_key_sent_in_clear_is_revoked_where_the_operator_says_so() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("revocation", "plaintext_key", r#""revoke""#)
        .set("auth", "query_parameter", r#""api_key""#)
        .start();
    let (secret, other) = (gateway.key("acme"), gateway.key("acme"));
    let in_query = gateway.key("bravo");
    let public = gateway.make_key(NewKey {
        kind: "public".to_owned(),
        ..new_key("acme")
    });
    let in_clear = |request: &Request| {
        Http1::plain(gateway.http()).exchange(request).expect(403);
    };
    let revision = || {
        let metrics = gateway.admin_get("/metrics").text();
        let line = metrics
            .lines()
            .find(|line| line.starts_with("portcullis_store_revision "));
        line.unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    let before = revision();
    for stranger in ["fp_live_nobody", "nobody"] {
        in_clear(&Request::get("/any").bearer(stranger));
    }
    in_clear(&Request::get("/any").bearer(&public.text));
    for _ in 0..20 {
        in_clear(&Request::get("/any").bearer(&secret.text));
    }
    in_clear(&Request::get(&format!("/any?api_key={}", in_query.text)));
    for burnt in [&secret, &in_query] {
        eventually("the key has ended", || {
            (gateway.get("/any", burnt).status == 401).then_some(())
        });
    }
    gateway.get("/any", &other).expect(200);
    gateway.get("/any", &public).expect(200);
    assert_eq!(revision(), before + 2.0, "each of the two once");
    let show = Verb::KeyShow {
        id: secret.id.clone(),
    };
    let shown = gateway.execute(show).unwrap();
    assert_eq!(shown["key"]["status"], "revoked");
    let activate = Verb::KeyActivate { id: secret.id };
    let error = gateway.execute(activate);
    assert!(error.unwrap_err().contains("for good"));
}

// C-26: the old text of a regenerated key, in its overlap, ends alone.
#[test]
fn an_old_text_sent_in_clear_ends_alone() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("revocation", "plaintext_key", r#""revoke""#)
        .start();
    let old = gateway.key("acme");
    let regenerate = Verb::KeyRegenerate {
        id: old.id.clone(),
        overlap_seconds: 3600,
    };
    let new = key_of(&gateway.execute(regenerate).unwrap());
    let request = Request::get("/any").bearer(&old.text);
    Http1::plain(gateway.http()).exchange(&request).expect(403);
    eventually("the old text has ended", || {
        (gateway.get("/any", &old).status == 401).then_some(())
    });
    gateway.get("/any", &new).expect(200);
}

// FA29: whatever the method or the target.
#[test]
fn plain_http_refuses_every_method_and_public_routes_too() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let request = Request::new(method, "/public/page");
        let answer = Http1::plain(gateway.http()).exchange(&request);
        assert_eq!(answer.status, 403, "{method}");
        assert!(!answer.has("location"), "{method}");
    }
    assert_eq!(upstream.hits(), 0);
}

// S25: plain HTTP on the TLS port gets a clear 400, and no redirect.
#[test]
fn plain_http_on_the_tls_port_gets_a_clear_400() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("errors", "shape", r#""nested""#)
        .start();
    let mut client = Http1::plain(gateway.https());
    let answer = client.exchange(&Request::get("/leases"));
    answer.expect(400);
    assert!(!answer.has("location"));
    assert_eq!(answer.one("connection"), "close");
    assert_eq!(answer.json()["error"]["code"], "HTTPS_REQUIRED", "S41");
    assert_eq!(answer.one("x-request-id").len(), 36, "S41");
    assert!(!answer.text().contains("leases"), "no echo");
    assert!(client.is_closed());
    assert_eq!(upstream.hits(), 0);
}

#[test]
fn both_protocols_and_both_tls_versions_are_spoken() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = client::tls_config_of(&[version], &["http/1.1"]);
        let wire = client::tls(gateway.https(), "localhost", config).unwrap();
        let request = Request::get("/any").bearer(&key.text);
        Http1::over(wire).exchange(&request).expect(200);
    }
    let answer = block_on(async {
        let client = gateway.connect_h2().await;
        let request = Request::get("/any").bearer(&key.text);
        client.exchange(&request).await.unwrap()
    });
    answer.expect(200);
    assert_eq!(upstream.hits(), 3);
}

#[test]
fn a_client_without_alpn_gets_http_1_1() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let wire = client::tls(gateway.https(), "localhost", client::tls_config(&[])).unwrap();
    Http1::over(wire)
        .exchange(&Request::get("/public/x"))
        .expect(200);
}

// S23: TLS 1.1 and older are not spoken.
#[test]
fn tls_1_1_is_refused() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    // A ClientHello of version 3.2 (TLS 1.1) without extensions: one cipher suite, no compression.
    let mut hello = vec![0x03, 0x02];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 4, 0xc0, 0x2f, 0xc0, 0x13, 1, 0]);
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend_from_slice(&((hello.len() + 4) as u16).to_be_bytes());
    record.extend_from_slice(&[1, 0, 0, hello.len() as u8]);
    record.extend_from_slice(&hello);
    let mut socket = TcpStream::connect(gateway.https()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(&record).unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    // Nothing, or an alert (record type 21): never a handshake record (22).
    assert_ne!(answer.first(), Some(&22));
}

// S23: the end of a closed connection is announced, so that a cut one can be told from it.
#[test]
fn a_closing_connection_says_close_notify() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let mut wire = client::tls(gateway.https(), "localhost", client::tls_config(&[])).unwrap();
    let request = Request::get("/public/x").header("Connection", "close");
    wire.write_all(&request.bytes()).unwrap();
    let mut answer = Vec::new();
    // rustls reports a connection that ends without close_notify as an error.
    wire.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn each_server_name_gets_its_certificate() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream).more(
        "[[tls.sni]]\nhosts = [\"other.test\"]\ncertificate = \"other.pem\"\nprivate_key = \"other.key\"",
    );
    certs::leaf(&["other.test"]).write(setup.directory(), "other");
    let gateway = setup.start();
    for name in ["localhost", "other.test"] {
        // The client refuses a certificate that does not hold the name.
        let wire = client::tls(gateway.https(), name, client::tls_config(&["http/1.1"])).unwrap();
        let request = Request::get("/public/x").host(name);
        Http1::over(wire).exchange(&request).expect(200);
    }
}

// S46: a renewed certificate is served without a restart; a broken one changes nothing.
#[test]
fn certificates_are_reloaded_when_their_files_change() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let mut old = gateway.connect();
    std::fs::write(gateway.directory().join("cert.pem"), "broken").unwrap();
    assert!(gateway.reload_as_is().is_err());
    gateway
        .connect()
        .exchange(&Request::get("/public/x"))
        .expect(200);

    certs::leaf(&["renewed.test"]).write(gateway.directory(), "cert");
    eventually("the renewed certificate is served", || {
        client::tls(gateway.https(), "renewed.test", client::tls_config(&[])).ok()
    });
    // A connection made under the old one lives on.
    old.exchange(&Request::get("/public/x")).expect(200);
}

#[test]
fn hsts_is_sent_when_it_is_configured() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("http", "hsts", r#""max-age=31536000""#)
        .start();
    for target in ["/public/x", "/any/x"] {
        let answer = gateway.send(&Request::get(target));
        assert_eq!(answer.one("strict-transport-security"), "max-age=31536000");
    }
    let answer = Http1::plain(gateway.http()).exchange(&Request::get("/public/x"));
    assert!(
        !answer.has("strict-transport-security"),
        "RFC 6797 section 7.2"
    );
}

// S22: a connection that says nothing is ended by a deadline.
#[test]
fn a_silent_handshake_is_ended() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("connections", "handshake_timeout", r#""200ms""#)
        .start();
    let mut socket = TcpStream::connect(gateway.https()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(answer, b"");
}

// S22: one address cannot take all connections.
#[test]
fn connections_from_one_address_are_capped() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("connections", "per_address_max", "3")
        .start();
    let mut held: Vec<Http1> = (0..3).map(|_| gateway.connect()).collect();
    for client in &mut held {
        client.exchange(&Request::get("/public/x")).expect(200);
    }
    assert!(client::tls(gateway.https(), "localhost", client::tls_config(&[])).is_err());
    held.clear();
    eventually("a place is free again", || {
        client::tls(gateway.https(), "localhost", client::tls_config(&[])).ok()
    });
}

// The real curl, as a stranger would use it.
#[test]
fn curl_gets_in_with_a_key_and_not_without() {
    if real::left_out("curl") {
        return;
    }
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    let url = format!("https://localhost:{}/any", gateway.https().port());
    let bearer = format!("Authorization: Bearer {}", key.text);
    for protocol in ["--http1.1", "--http2"] {
        let (status, _) = client::curl(gateway.directory(), &[protocol, "-H", &bearer, &url]);
        assert_eq!(status, 200, "{protocol}");
        let (status, _) = client::curl(gateway.directory(), &[protocol, &url]);
        assert_eq!(status, 401, "{protocol}");
    }
}

// S5: an answer that is given before the body has come must still arrive; curl 7.88 loses it when the stream is closed under its upload.
#[test]
fn curl_gets_the_refusal_of_an_upload() {
    if real::left_out("curl") {
        return;
    }
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let url = format!("https://localhost:{}/leases", gateway.https().port());
    for protocol in ["--http1.1", "--http2"] {
        for _ in 0..20 {
            let (status, _) = client::curl(gateway.directory(), &[protocol, "-d", "{}", &url]);
            assert_eq!(status, 401, "{protocol}");
        }
    }
    assert_eq!(upstream.hits(), 0);
}
