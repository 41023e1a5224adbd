//! Backends over TLS, shown on nginx: whom the gateway trusts, what it shows of itself, and how it fails.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::CertificateParams;
use rcgen::KeyPair;

use crate::support::certs;
use crate::support::client::block_on;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::h2_upstream::H2Upstream;
use crate::support::h2_upstream::Manners;
use crate::support::real;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

/// A gateway before this TLS server; it trusts the test authority.
fn before(address: SocketAddr) -> Setup {
    let servers = format!(r#"["https://{address}"]"#);
    let setup = Setup::usual_at(address)
        .set("upstreams.legacy", "servers", &servers)
        .set("upstreams.legacy", "tls.ca", r#""ca.pem""#);
    fs::write(setup.directory().join("ca.pem"), &certs::authority().pem).unwrap();
    setup
}

fn http2(setup: Setup) -> Setup {
    setup.set("upstreams.legacy", "protocol", r#""http2""#)
}

fn ask(gateway: &Gateway) -> Answer {
    gateway.send(&Request::get("/any/x").bearer(&gateway.key("acme").text))
}

#[track_caller]
fn said(gateway: &Gateway, member: &str) -> String {
    let answer = ask(gateway);
    answer.expect(200);
    answer.json()[member].as_str().expect("a text").to_owned()
}

#[track_caller]
fn fails(setup: Setup, error: &str) {
    let answer = ask(&setup.start());
    answer.expect(502);
    let told = answer.one("proxy-status").to_owned();
    assert_eq!(told, format!("portcullis; error={error}"));
}

/// A certificate that signed itself, and nobody else knows; with its key.
fn self_made() -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap(), key)
}

fn stranger() -> String {
    self_made().0.pem()
}

// A certificate that somebody made by hand is trusted by naming it, and only so.
#[test]
fn a_self_made_certificate_is_trusted_by_name() {
    let (certificate, key) = self_made();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let manners = Manners {
        tls: Some(Arc::new(tls)),
        ..Manners::default()
    };
    let upstream = H2Upstream::start_with(manners, |mut call| async move {
        call.answer(200, &[], "ok");
    });
    let setup = || {
        http2(before(upstream.address)).set("upstreams.legacy", "tls.server_name", r#""localhost""#)
    };
    fails(setup(), "tls_certificate_error");
    assert_eq!(upstream.hits(), 0);
    let setup = setup();
    fs::write(setup.directory().join("ca.pem"), certificate.pem()).unwrap();
    let gateway = setup.start();
    ask(&gateway).expect(200);
    let head = upstream.heads.lock().unwrap().pop().unwrap();
    assert_eq!(head.uri.scheme_str(), Some("https"));
    // Asked for HTTP/1.1, it agrees to nothing.
    let setup =
        before(upstream.address).set("upstreams.legacy", "tls.server_name", r#""localhost""#);
    fs::write(setup.directory().join("ca.pem"), certificate.pem()).unwrap();
    fails(setup, "tls_protocol_error");
}

// DESIGN section 7: the protocol is the one that was asked for, over TLS and in clear, on one real server that speaks both.
#[test]
fn protocols_over_tls_and_in_clear() {
    let Some(nginx) = real::secure_nginx() else {
        return;
    };
    let clear = Setup::usual_at(nginx.clear);
    for (setup, protocol) in [
        (before(nginx.https), "HTTP/1.1"),
        (before(nginx.http2), "HTTP/1.1"),
        (http2(before(nginx.http2)), "HTTP/2.0"),
        (http2(clear), "HTTP/2.0"),
    ] {
        let gateway = setup.start();
        assert_eq!(said(&gateway, "protocol"), protocol);
        assert_eq!(said(&gateway, "tenant"), "acme");
        assert_eq!(said(&gateway, "host"), "localhost");
        let key = gateway.key("acme");
        block_on(async {
            let client = gateway.connect_h2().await;
            let mut pending = Vec::new();
            for _ in 0..50 {
                let request = Request::new("POST", "/any").bearer(&key.text).body("body");
                pending.push(client.begin(&request).await.unwrap());
            }
            for response in pending {
                // nginx's `return` does not care for the method.
                assert_eq!(response.await.unwrap().status(), 200);
            }
        });
    }
}

// A server that does not agree to HTTP/2 is not spoken to in it, nor in anything else.
#[test]
fn http2_is_agreed_on_or_nothing_is_sent() {
    let Some(nginx) = real::secure_nginx() else {
        return;
    };
    fails(http2(before(nginx.https)), "tls_protocol_error");
    // In clear it answers 400, which is no TLS; a server that says nothing at all is waited for in vain.
    fails(before(real::nginx().address), "tls_protocol_error");
    let mute = Upstream::start();
    let setup = before(mute.address).set("upstreams.legacy", "connect_timeout", r#""200ms""#);
    let answer = ask(&setup.start());
    answer.expect(504);
    assert_eq!(
        answer.one("proxy-status"),
        "portcullis; error=connection_timeout"
    );
    assert_eq!(mute.hits(), 0);
}

// Whoever is at the other end has to prove the name that was meant; there is no way round it.
#[test]
fn certificates_are_verified() {
    let Some(nginx) = real::secure_nginx() else {
        return;
    };
    let setup = before(nginx.https);
    fs::write(setup.directory().join("ca.pem"), stranger()).unwrap();
    fails(setup, "tls_certificate_error");
    fails(before(nginx.expired), "tls_certificate_error");
    let named = |name: &str| {
        let name = format!("{name:?}");
        before(nginx.https).set("upstreams.legacy", "tls.server_name", &name)
    };
    fails(named("other.test"), "tls_certificate_error");
    let gateway = named("localhost").start();
    assert_eq!(said(&gateway, "sni"), "localhost");
    // The system's authorities do not know the test's.
    let setup = before(nginx.https).unset("upstreams.legacy", "tls.ca");
    fails(setup, "tls_certificate_error");
}

// A backend that asks who the gateway is.
#[test]
fn the_gateway_shows_its_certificate() {
    let Some(nginx) = real::secure_nginx() else {
        return;
    };
    // nginx answers 400 to those without.
    ask(&before(nginx.mutual).start()).expect(400);
    let setup = before(nginx.mutual)
        .set("upstreams.legacy", "tls.certificate", r#""gateway.pem""#)
        .set("upstreams.legacy", "tls.private_key", r#""gateway.key""#);
    certs::leaf(&["gateway.test"]).write(setup.directory(), "gateway");
    let gateway = setup.start();
    assert_eq!(said(&gateway, "client"), "CN=gateway.test");
}

// Files are read when the gateway starts and when they change; a bad one keeps the old in force, and its place in gateway.toml is named.
#[test]
fn tls_files_are_reloaded_or_refused() {
    let Some(nginx) = real::secure_nginx() else {
        return;
    };
    let setup = before(nginx.https);
    let ca = setup.directory().join("ca.pem");
    fs::write(&ca, stranger()).unwrap();
    let gateway = setup.start();
    ask(&gateway).expect(502);
    fs::write(&ca, &certs::authority().pem).unwrap();
    gateway.reload_as_is().unwrap();
    ask(&gateway).expect(200);
    // A connection that was trusted by the old file is not used for the new.
    fs::write(&ca, stranger()).unwrap();
    gateway.reload_as_is().unwrap();
    ask(&gateway).expect(502);
    fs::write(&ca, &certs::authority().pem).unwrap();
    gateway.reload_as_is().unwrap();
    ask(&gateway).expect(200);
    fs::write(&ca, "nothing").unwrap();
    let error = gateway.reload_as_is().unwrap_err();
    let text = fs::read_to_string(gateway.directory().join("gateway.toml")).unwrap();
    let line = 1 + text
        .lines()
        .position(|line| line.starts_with("tls.ca"))
        .unwrap();
    let place = format!("gateway.toml:{line}:10: [upstreams.legacy.tls] ca: ");
    assert!(error.contains(&place), "{error}");
    assert!(error.contains("no certificate in it"), "{error}");
    ask(&gateway).expect(200);
    let setup = before(nginx.https)
        .set("upstreams.legacy", "tls.ca", r#""gone.pem""#)
        .set("upstreams.legacy", "tls.certificate", r#""ca.pem""#)
        .set("upstreams.legacy", "tls.private_key", r#""gone.key""#);
    let error = setup
        .try_start(&portcullis::clock::Clock::system())
        .unwrap_err();
    for told in ["tls] ca: ", "tls] private_key: ", "cannot be read"] {
        assert!(error.contains(told), "{told}: {error}");
    }
}
