//! Out of file descriptors: the data path is at its cap, and whoever operates the gateway still gets through.

use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Access;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::site::BINARY;
use crate::support::site::Site;
use crate::support::upstream::Upstream;

// OP7, S22: clients take every descriptor they can get. Those that are served go on, and admin socket, store, reload and health still work.
#[test]
fn the_control_side_works_when_clients_hold_all_descriptors() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream)
        .set("connections", "per_address_max", "100000")
        .set("connections", "handshake_timeout", r#""5min""#);
    let site = Site::of(setup);
    let running = site.start_with(|command| {
        let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let errors = std::fs::File::create(site.setup.directory().join("stderr.log")).unwrap();
        let mut limited = Command::new("/bin/sh");
        limited
            .args(["-c", "ulimit -n 400; exec \"$0\" \"$@\"", BINARY])
            .args(words);
        limited
            .stderr(errors)
            .stdout(std::process::Stdio::null())
            .stdin(std::process::Stdio::null());
        *command = limited;
        command.process_group(0);
    });
    let key = site.key();
    let mut served = Http1::tls(site.https);
    served
        .exchange(&Request::get("/any").bearer(&key))
        .expect(200);
    let crowd: Vec<TcpStream> = (0..600)
        .filter_map(|_| TcpStream::connect(site.https).ok())
        .collect();
    assert_eq!(crowd.len(), 600);
    let refused = eventually("clients are turned away", || {
        let request = Request::get("/metrics").header("Connection", "close");
        let text = Http1::plain(site.admin()).exchange(&request).text();
        let name = r#"portcullis_connection_events_total{event="refused_descriptors"} "#;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.parse::<f64>().ok().filter(|count| *count > 100.0)
    });
    assert!(refused <= 600.0, "{refused}");
    served
        .exchange(&Request::get("/any").bearer(&key))
        .expect(200);
    let (_, id) = site.key_and_id();
    site.setup
        .clone()
        .route("/more", &[], Access::AnyKey)
        .write();
    site.told(&["reload"]);
    site.told(&["keys", "revoke", &id, "--yes"]);
    let more = Request::get("/more").bearer(&key);
    served.exchange(&more).expect(200);
    drop(crowd);
    eventually("clients get in again", || {
        let mut client = crate::support::client::tls(
            site.https,
            "localhost",
            crate::support::client::tls_config(&["http/1.1"]),
        );
        client.as_mut().ok().map(|_| ())
    });
    assert!(
        !running.stderr().contains("panicked"),
        "{}",
        running.stderr()
    );
}
