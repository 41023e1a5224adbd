//! Large bodies in flat memory.

use crate::resident_bytes;
use crate::support;
use crate::support::client;
use crate::support::gateway::Access;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::site::Site;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;

/// Uploads and downloads so many MiB through a gateway process and gives what it grew by, at most, bytes.
fn grown_by_media(mebibytes: usize) -> usize {
    use std::io::Read;
    use std::io::Write;
    const MIB: usize = 1 << 20;
    let upstream = Upstream::start();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        mebibytes * MIB
    );
    let down = vec![
        Step::ReadBody,
        Step::Send(head.into_bytes()),
        Step::Repeat(vec![b'x'; MIB], mebibytes),
    ];
    let up = vec![
        Step::Forget(mebibytes * MIB),
        Step::Send(support::upstream::ok("taken")),
    ];
    upstream.script("/media/down", down).script("/media/up", up);
    let site = Site::of(
        Setup::usual(&upstream)
            .route("/media/{*rest}", &["GET"], Access::Scope("media:read"))
            .route("/media/{*rest}", &["PUT"], Access::Scope("media:write")),
    );
    let running = site.start();
    let key = site.key();
    // What every request needs is there before the measure is taken.
    site.get(&key).expect(200);
    let before = resident_bytes(&running);
    let mut peak = before;
    let mut wire = client::tls(site.https, "localhost", client::tls_config(&[])).unwrap();
    let size = (mebibytes * MIB).to_string();
    let put = Request::new("PUT", "/media/up")
        .bearer(&key)
        .header("Content-Length", &size);
    wire.write_all(&put.bytes()).unwrap();
    let mut piece = vec![b'x'; MIB];
    for _ in 0..mebibytes {
        wire.write_all(&piece).unwrap();
        peak = peak.max(resident_bytes(&running));
    }
    let count = wire.read(&mut piece).unwrap();
    assert!(piece[..count].starts_with(b"HTTP/1.1 200"));
    drop(wire);
    let mut wire = client::tls(site.https, "localhost", client::tls_config(&[])).unwrap();
    let get = Request::get("/media/down").bearer(&key);
    wire.write_all(&get.bytes()).unwrap();
    let (mut got, mut measured) = (0, 0);
    while got < mebibytes * MIB {
        let count = wire.read(&mut piece).unwrap();
        assert_ne!(count, 0, "the answer was cut after {got} bytes");
        got += count;
        if got - measured >= MIB {
            measured = got;
            peak = peak.max(resident_bytes(&running));
        }
    }
    peak - before
}

// FA17: media pass unbuffered in both directions; 1 GiB of them in the long run.
#[test]
fn media_pass_in_flat_memory() {
    let grown = grown_by_media(96);
    assert!(grown < 32 << 20, "{grown} bytes more");
}

// FA17: as the promise says it.
#[test]
#[ignore = "moves 2 GiB through TLS, for a minute or more: tests/run --long"]
fn a_gibibyte_of_media_passes_in_flat_memory() {
    let grown = grown_by_media(1024);
    println!("1 GiB up and 1 GiB down: {} KiB more", grown / 1024);
    assert!(grown < 32 << 20, "{grown} bytes more");
}
