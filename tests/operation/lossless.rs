//! Reloads, certificate rotations and restarts under load: no request fails, no count is lost, no connection ends unannounced.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::activated::Activated;
use crate::load::Load;
use crate::support::PATIENCE;
use crate::support::certs;
use crate::support::client;
use crate::support::client::Http1;
use crate::support::gateway::Access;
use crate::support::gateway::Setup;
use crate::support::real;
use crate::support::request::Request;
use crate::support::site::BINARY;
use crate::support::site::Site;
use crate::support::upstream::Upstream;

/// How much of each.
struct Amount {
    reloads: usize,
    rotations: usize,
    restarts: usize,
}

// OP1, DESIGN section 12, S46, IMP5: reloads (limits, routes and keys changed), rotations, and restarts by socket activation, one of them onto
// another binary.
#[test]
fn reloads_rotations_and_restarts_lose_nothing() {
    lose_nothing(&Amount {
        reloads: 40,
        rotations: 4,
        restarts: 3,
    });
}

// The same in full.
#[test]
#[ignore = "takes minutes: tests/run --long"]
fn two_hundred_reloads_and_ten_restarts_lose_nothing() {
    lose_nothing(&Amount {
        reloads: 200,
        rotations: 20,
        restarts: 10,
    });
}

fn lose_nothing(amount: &Amount) {
    if real::left_out("systemd") {
        return;
    }
    let upstream = Upstream::start();
    let site = Site::of(Setup::limited(&upstream, "1000000/hour", "unlimited"));
    let keys: Vec<String> = (0..5).map(|_| site.key()).collect();
    let other = site.setup.directory().join("portcullis-next");
    fs::copy(BINARY, &other).unwrap();
    let mut gateway = Activated::start(&site, Path::new(BINARY));
    let load = Load::default();
    let sent = std::thread::scope(|scope| {
        let clients: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(number, key)| {
                let (load, address) = (&load, site.https);
                scope.spawn(move || match number % 2 {
                    0 => load.http1(address, key),
                    _ => load.http2(address, key),
                })
            })
            .collect();
        let _until_dropped = load.until_dropped();
        load.goes_on(20);
        for number in 0..amount.reloads {
            edit(&site, number);
            load.goes_on(1);
        }
        for _ in 0..amount.rotations {
            rotate(&site);
            load.goes_on(5);
        }
        assert_eq!(
            load.told.load(Ordering::SeqCst),
            0,
            "a reload ends no connection"
        );
        for number in 0..amount.restarts {
            let binary = match number {
                1 => other.clone(),
                _ => PathBuf::from(BINARY),
            };
            gateway.restart(&site, &binary);
            let runs = fs::read_link(format!("/proc/{}/exe", gateway.pid())).unwrap();
            assert_eq!(runs, binary.canonicalize().unwrap());
            load.goes_on(50);
        }
        load.stop();
        clients
            .into_iter()
            .map(|client| client.join().unwrap().sent)
            .sum::<u64>()
    });
    load.expect_none_failed();
    let probes = amount.reloads.div_ceil(10) as u64;
    assert_eq!(
        upstream.hits() as u64,
        sent + probes,
        "each request reached the backend once"
    );
    let told = load.told.load(Ordering::SeqCst);
    assert!(
        told >= amount.restarts,
        "{told} connections were told to leave"
    );
    assert!(
        !site.stderr().contains("cut connections"),
        "{}",
        site.stderr()
    );
}

/// One reload: another limit, one more route, and now and then another key.
fn edit(site: &Site, number: usize) {
    let quota = ["1000000/hour", "2000000/hour"][number % 2];
    site.setup
        .clone()
        .plan("limited", quota, "unlimited")
        .route(&format!("/extra/{number}"), &[], Access::AnyKey)
        .write();
    site.told(&["reload"]);
    if number.is_multiple_of(10) {
        let (text, id) = site.key_and_id();
        site.get(&text).expect(200);
        site.told(&["keys", "revoke", &id, "--yes"]);
    }
}

/// Another certificate, which the next handshake gets.
fn rotate(site: &Site) {
    let leaf = certs::leaf(&["localhost", "api.test", "127.0.0.1"]);
    leaf.write(site.setup.directory(), "cert");
    site.told(&["reload"]);
    let stream = client::tls(site.https, "localhost", client::tls_config(&[])).unwrap();
    let expected = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
    assert_eq!(stream.conn.peer_certificates().unwrap()[0], expected);
}

// ASKS 25, S46: memory stays flat over ten thousand reloads.
#[test]
#[ignore = "takes minutes: tests/run --long"]
fn ten_thousand_reloads_leave_memory_flat() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let running = site.start();
    let key = site.key();
    let socket = site.setup.directory().join("admin.sock");
    let reload = Request::new("POST", "/v1/reload")
        .header("Connection", "close")
        .body("");
    let mut settled = 0;
    for number in 0..10_000 {
        let path = format!("/extra/{}", number % 50);
        site.setup.clone().route(&path, &[], Access::AnyKey).write();
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Http1::over(stream).exchange(&reload).expect(200);
        if number % 1_000 == 999 {
            site.get(&key);
            let now = memory_kib(running.child.id());
            println!("{} reloads: {now} KiB", number + 1);
            if number == 1_999 {
                settled = now;
            }
            assert!(
                settled == 0 || now < settled + 8 * 1024,
                "{now} KiB, {settled} before"
            );
        }
    }
}

fn memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
