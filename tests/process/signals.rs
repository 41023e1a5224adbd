//! Signals: reload, drain, the logs; and what systemd is told.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use crate::support;
use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Access;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::site::Site;
use crate::support::site::assert_exit;
use crate::support::site::errors;
use crate::support::upstream::Upstream;

// DESIGN section 9: HUP reloads, and a bad file changes nothing.
#[test]
fn hup_reloads() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let running = site.start();
    let key = site.key();
    let get = |path: &str| {
        let request = Request::get(path).bearer(&key);
        Http1::tls(site.https).exchange(&request).status
    };
    assert_eq!(get("/new"), 404);
    site.setup
        .clone()
        .route("/new", &[], Access::AnyKey)
        .write();
    running.signal(Signal::HUP);
    eventually("the reload", || (get("/new") == 200).then_some(()));
    fs::write(&site.config, "[broken").unwrap();
    running.signal(Signal::HUP);
    eventually("the refusal is told", || {
        running.stderr().contains("gateway.toml:").then_some(())
    });
    assert_eq!(get("/new"), 200);
    let output = site.command(&["reload"]);
    assert!(
        matches!(output.status.code(), Some(1 | 78)),
        "{}",
        errors(&output)
    );
    site.setup.write();
    assert_exit(&site.command(&["reload"]), 0);
    assert_eq!(get("/new"), 404);
}

// A reload changes the level of the messages; where the access log goes needs a restart, and says so.
#[test]
fn the_log_level_is_hot_and_the_access_log_is_not() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let running = site.start();
    let seen = |text: &str| running.stderr().contains(text);
    site.told(&["keys", "list"]);
    assert!(!seen("key-list"), "{}", running.stderr());
    let louder = site.setup.clone().set("log", "level", r#""debug""#);
    louder.write();
    site.told(&["reload"]);
    site.told(&["keys", "list"]);
    eventually("the debug line", || seen("key-list").then_some(()));
    louder.set("log", "access", r#""file:other.log""#).write();
    let output = site.command(&["reload"]);
    assert_exit(&output, 78);
    assert!(
        errors(&output).contains("log.access"),
        "{}",
        errors(&output)
    );
}

/// A drain has begun when nobody new is let in.
fn wait_for_the_drain(site: &Site) {
    eventually("the drain has begun", || {
        TcpStream::connect(site.https).is_err().then_some(())
    });
}

// DESIGN section 9: TERM drains and exits 0.
#[test]
fn term_drains_and_exits_0() {
    let upstream = Upstream::start();
    let gate = support::Gate::closed();
    upstream.script(
        "/any",
        vec![
            support::upstream::Step::ReadBody,
            support::upstream::Step::Wait(gate.clone()),
            support::upstream::Step::Send(support::upstream::ok("whole")),
        ],
    );
    let site = Site::new(&upstream);
    let mut running = site.start();
    let key = site.key();
    let mut client = Http1::tls(site.https);
    client.send(Request::get("/any").bearer(&key).bytes());
    upstream.wait_for_hits(1);
    running.signal(Signal::TERM);
    wait_for_the_drain(&site);
    gate.open();
    assert_eq!(client.read().text(), "whole");
    assert_eq!(running.ended(), Some(0));
}

// DESIGN section 9: a second TERM does not wait.
#[test]
fn a_second_term_does_not_wait() {
    let upstream = Upstream::start();
    upstream.script(
        "/any",
        vec![
            support::upstream::Step::ReadBody,
            support::upstream::Step::Hold,
        ],
    );
    let site = Site::of(Setup::usual(&upstream).set("server", "drain_timeout", r#""1h""#));
    let mut running = site.start();
    let key = site.key();
    let mut client = Http1::tls(site.https);
    client.send(Request::get("/any").bearer(&key).bytes());
    upstream.wait_for_hits(1);
    running.signal(Signal::TERM);
    wait_for_the_drain(&site);
    running.signal(Signal::TERM);
    running.ended();
}

// Uploads that are cut at the end of a drain end quietly: nothing of them outlives the runtime it needs.
#[test]
fn uploads_cut_by_a_second_term_cause_no_panic() {
    let upstream = Upstream::start();
    // More than the runtime takes up in one turn.
    const UPLOADS: usize = 150;
    // Answered early, so that the rest of the upload still flows when nobody waits for an answer any more.
    let answer = support::upstream::Step::Send(support::upstream::ok("early"));
    upstream.script("/any", vec![answer, support::upstream::Step::Hold]);
    let site = Site::of(Setup::usual(&upstream).set("server", "workers", "1").set(
        "server",
        "drain_timeout",
        r#""1h""#,
    ));
    let mut running = site.start();
    let request = Request::new("POST", "/any").bearer(&site.key());
    let request = request.header("Content-Length", "1000000");
    let uploads: Vec<Http1> = (0..UPLOADS)
        .map(|_| {
            let mut client = Http1::tls(site.https);
            client.send(request.bytes());
            client.send("the first of it");
            client.read().expect(200);
            client
        })
        .collect();
    running.signal(Signal::TERM);
    wait_for_the_drain(&site);
    running.signal(Signal::TERM);
    running.ended();
    drop(uploads);
    assert!(
        !running.stderr().contains("panicked"),
        "{}",
        running.stderr()
    );
}

// DESIGN section 9: USR1 reopens the log after it was moved away.
#[test]
fn usr1_reopens_the_log() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let running = site.start();
    let key = site.key();
    let log = site.setup.directory().join("access.log");
    site.get(&key);
    eventually("a first line", || {
        fs::metadata(&log).ok().filter(|file| file.len() > 0)
    });
    fs::rename(&log, log.with_extension("1")).unwrap();
    running.signal(Signal::USR1);
    eventually("a new file", || log.exists().then_some(()));
    site.get(&key);
    eventually("a line in it", || {
        fs::metadata(&log).ok().filter(|file| file.len() > 0)
    });
}

// systemd is told when the gateway is ready, reloads and stops.
#[test]
fn systemd_is_told_of_every_state() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let path = site.setup.directory().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let wait_for = |word: &str| {
        let mut buffer = [0; 4096];
        loop {
            let count = socket.recv(&mut buffer).expect("a notification");
            if String::from_utf8_lossy(&buffer[..count]).contains(word) {
                return;
            }
        }
    };
    let mut running = site.start_with(|command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    wait_for("READY=1");
    running.signal(Signal::HUP);
    wait_for("RELOADING=1");
    wait_for("READY=1");
    running.signal(Signal::TERM);
    wait_for("STOPPING=1");
    assert_eq!(running.ended(), Some(0));
}
