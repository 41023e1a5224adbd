//! A start, and who may stand in its way.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::process::Stdio;

use crate::support::client;
use crate::support::eventually;
use crate::support::site::BINARY;
use crate::support::site::Running;
use crate::support::site::Site;
use crate::support::site::assert_exit;
use crate::support::site::errors;
use crate::support::upstream::Upstream;

// DESIGN section 9: 69 is "not available": a port or a store that somebody else has.
#[test]
fn a_taken_port_exits_69() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let taken = TcpListener::bind(site.https).unwrap();
    let output = site.command(&["run"]);
    assert_exit(&output, 69);
    assert!(
        errors(&output).contains(&site.https.port().to_string()),
        "{}",
        errors(&output)
    );
    drop(taken);
    let _running = site.start();
    // Another Portcullis on the same port, with a store of its own.
    let second = Site::new(&upstream);
    second
        .setup
        .clone()
        .set("listen", "https", &format!(r#"["{}"]"#, site.https))
        .write();
    let output = second.command(&["run"]);
    assert_exit(&output, 69);
}

#[test]
fn a_store_in_use_exits_69_and_names_the_process() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let running = site.start();
    let second = Site::of(
        site.setup
            .clone()
            .set("listen", "admin_socket", r#""two.sock""#),
    );
    let output = second.command(&["run"]);
    assert_exit(&output, 69);
    assert!(
        errors(&output).contains(&running.child.id().to_string()),
        "{}",
        errors(&output)
    );
}

// README's walk: `portcullis run &` and at once `portcullis keys create`; whichever comes first, both succeed.
#[test]
fn a_start_waits_for_a_command_that_holds_the_store() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    site.key();
    let held = fs::File::open(site.setup.directory().join("state/lock")).unwrap();
    held.lock().unwrap();
    let log = site.setup.directory().join("waiting.log");
    let child = Command::new(BINARY)
        .args(["run", "--config"])
        .arg(&site.config)
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let running = Running { child, errors: log };
    eventually("the start waits", || {
        running.stderr().contains("waiting").then_some(())
    });
    drop(held);
    eventually("the gateway accepts", || {
        client::tls(site.https, "localhost", client::tls_config(&[])).ok()
    });
}
