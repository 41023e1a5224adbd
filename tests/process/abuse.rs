//! Attacks on a real gateway in a process of its own, whose memory and files can be measured and bounded.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::prlimit;

use crate::resident_bytes;
use crate::support::client;
use crate::support::client::Http1;
use crate::support::client::socket_from;
use crate::support::client::tls_config;
use crate::support::client::tls_over;
use crate::support::eventually;
use crate::support::frames;
use crate::support::frames::Frames;
use crate::support::gateway::Setup;
use crate::support::real;
use crate::support::request::Request;
use crate::support::site::BINARY;
use crate::support::site::Running;
use crate::support::site::Site;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;

impl Running {
    /// Resident memory, bytes.
    fn memory(&self) -> u64 {
        resident_bytes(self) as u64
    }

    /// Open files.
    fn files(&self) -> u64 {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count() as u64
    }

    /// The number that the next file would get: with it as the limit there is none.
    fn next_file(&self) -> u64 {
        let taken = |number: &u64| {
            let path = format!("/proc/{}/fd/{number}", self.child.id());
            fs::symlink_metadata(path).is_ok()
        };
        (0..).find(|number| !taken(number)).unwrap()
    }

    /// Bounds its open files from now on; `None` is as many as there may be.
    fn bound_files(&self, limit: Option<u64>) {
        let pid = Pid::from_raw(self.child.id() as i32);
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        let current = limit.or(maximum);
        prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap();
    }
}

impl Site {
    /// How often this has happened to client connections.
    fn events(&self, event: &str) -> u64 {
        let admin = Http1::plain(self.admin())
            .exchange(&Request::get("/metrics").header("Connection", "close"));
        let series = format!(r#"portcullis_connection_events_total{{event="{event}"}} "#);
        let text = admin.text();
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap().parse::<f64>().unwrap() as u64
    }
}

fn ask(client: &mut Http1) {
    client.exchange(&Request::get("/public/x")).expect(200);
}

/// The ninety-ninth percentile of how long a kept connection and a new one wait for their answers, while this is false.
fn p99_until(site: &Site, done: impl Fn() -> bool) -> Duration {
    let mut kept = Http1::tls(site.https);
    let mut waits = Vec::new();
    while !done() || waits.len() < 50 {
        let begun = Instant::now();
        ask(&mut kept);
        waits.push(begun.elapsed());
        let begun = Instant::now();
        ask(&mut Http1::tls(site.https));
        waits.push(begun.elapsed());
    }
    waits.sort();
    waits[waits.len() * 99 / 100]
}

/// Runs attacks beside honest clients, who must all be served.
fn under_attack(site: &Site, what: &str, attacks: Vec<Box<dyn Fn() + Send + '_>>) {
    let quiet = p99_until(site, || true);
    let attacked = thread::scope(|scope| {
        let threads: Vec<_> = attacks
            .into_iter()
            .map(|attack| scope.spawn(attack))
            .collect();
        let p99 = p99_until(site, || {
            threads.iter().all(thread::ScopedJoinHandle::is_finished)
        });
        for thread in threads {
            thread.join().unwrap();
        }
        p99
    });
    println!("{what}: p99 {quiet:?} in quiet, {attacked:?} under attack");
    // Not twice the quiet figure: attackers, gateway and clients share two cores here, and other tests run beside them.
    assert!(attacked < Duration::from_secs(8), "{what}: {attacked:?}");
}

/// More than anything measured here, and less than one attacker could take if something grew with what is sent.
const GROWTH_MAX: u64 = 64 << 20;

// S20, S21, S22, S24: floods of frames, bombs, and half heads in masses: honest clients are served, memory stays below its cap.
#[test]
fn floods_and_bombs_leave_memory_flat() {
    let upstream = Upstream::start();
    let site = Site::of(Setup::usual(&upstream).set("connections", "head_timeout", r#""2s""#));
    let gateway = site.start();
    ask(&mut Http1::tls(site.https));
    let before = gateway.memory();
    let flood = |send: fn(&mut Frames, u32) -> bool| {
        let https = site.https;
        move || {
            for _ in 0..5 {
                let mut client = Frames::connect(https);
                let _ = (0..200).all(|turn| {
                    client.together(|client| {
                        (100 * turn..100 * (turn + 1)).for_each(|at| {
                            send(client, at);
                        });
                    })
                });
                // Who leaves at once takes with it what the gateway has not read yet.
                while client.read().is_some() {}
            }
        }
    };
    let value = "x".repeat(3_900);
    let bomb = move |https| {
        let mut block = frames::encode(&frames::get("/public/x"));
        let mut indexed = frames::encode(&[("x-bomb", &value)]);
        indexed[0] = 0x40;
        block.extend(indexed);
        block.resize(16_000, 0xbe);
        for _ in 0..5 {
            let mut client = Frames::connect(https);
            for stream in (1..199).step_by(2) {
                client.send(frames::HEADERS, 5, stream, &block);
            }
            client.outcome(197);
        }
    };
    let half_heads = |https| {
        let filler = "x".repeat(30_000);
        let mut held: Vec<Http1> = (0..100).map(|_| Http1::tls(https)).collect();
        for client in &mut held {
            client.send(format!(
                "GET /public/x HTTP/1.1\r\nHost: localhost\r\nX-Filler: {filler}"
            ));
        }
        for client in &mut held {
            client.read_to_end();
        }
    };
    under_attack(
        &site,
        "floods",
        vec![
            Box::new(flood(|client, _| client.send(frames::PING, 0, 0, &[0; 8]))),
            Box::new(flood(|client, _| {
                client.send(frames::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
            })),
            Box::new(flood(|client, at| match at {
                0 => client.send(
                    frames::HEADERS,
                    0,
                    1,
                    &frames::encode(&frames::get("/public/x")),
                ),
                _ => client.send(frames::CONTINUATION, 0, 1, &[0x80; 16_000]),
            })),
            Box::new(flood(|client, _| {
                let stream = client.open(&frames::get("/public/x"), true);
                client.send(frames::RST_STREAM, 0, stream, &[0, 0, 0, 8])
            })),
            Box::new(|| bomb(site.https)),
            Box::new(|| half_heads(site.https)),
        ],
    );
    assert!(site.events("flooded") >= 5);
    assert!(site.events("head_timeout") >= 100);
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {} KiB", growth / 1024);
}

// S22: half and whole handshakes in masses.
#[test]
fn floods_of_handshakes_are_cut() {
    let upstream = Upstream::start();
    // Time enough for the honest, beside all this on a busy machine.
    let site = Site::of(Setup::usual(&upstream).set("connections", "handshake_timeout", r#""5s""#));
    let gateway = site.start();
    let before = gateway.memory();
    let half = || {
        let mut held: Vec<TcpStream> = (0..300)
            .map(|_| socket_from(Some("127.0.0.5"), site.https).unwrap())
            .collect();
        for socket in &mut held {
            socket
                .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
                .unwrap();
        }
        for socket in held {
            assert!(Http1::over(socket).is_closed());
        }
    };
    let whole = || {
        for _ in 0..200 {
            drop(Http1::tls(site.https));
        }
    };
    under_attack(&site, "handshakes", vec![Box::new(half), Box::new(whole)]);
    assert!(site.events("handshake_timeout") >= 300);
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {} KiB", growth / 1024);
}

fn without_colours(text: &str) -> String {
    let mut pieces = text.split("\u{1b}[");
    let first = pieces.next().unwrap().to_owned();
    let after = |piece: &str| {
        piece
            .split_once('m')
            .map_or(String::new(), |(_, rest)| rest.to_owned())
    };
    first + &pieces.map(after).collect::<String>()
}

// S22: the real slowhttptest in all three directions: every connection of it is ended by a deadline, and counted.
#[test]
fn slowhttptest_finds_no_open_door() {
    if real::left_out("slowhttptest") {
        return;
    }
    let upstream = Upstream::start();
    let mut large = vec![Step::ReadBody];
    let length = 64 << 20;
    large.push(Step::Send(
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes(),
    ));
    large.push(Step::Repeat(vec![b'x'; 1 << 20], 64));
    upstream.script("/public/large", large);
    let site = Site::of(
        Setup::usual(&upstream)
            .set("connections", "head_timeout", r#""1s""#)
            .set("connections", "stall_timeout", r#""1s""#),
    );
    let gateway = site.start();
    let before = gateway.memory();
    let url = |path: &str| format!("https://{}{path}", site.https);
    let run = |words: &[&str], path: &str| {
        let output = Command::new("slowhttptest")
            .args(["-c", "50", "-r", "50", "-l", "12", "-p", "10"])
            .args(words)
            .args(["-u", &url(path)])
            .output()
            .expect("this test needs slowhttptest; install it, or leave it out by PORTCULLIS_WITHOUT=slowhttptest");
        let text = without_colours(&String::from_utf8_lossy(&output.stdout));
        let end = text
            .lines()
            .filter(|line| line.starts_with("Test ended") || line.starts_with("Exit status"));
        println!(
            "slowhttptest {words:?}: {}",
            end.collect::<Vec<_>>().join("; ")
        );
        // A reader this slow does not see that it is cut; the gateway's own count tells.
        assert!(
            words[0] == "-X" || text.contains("No open connections left"),
            "{words:?}: {text}"
        );
        assert!(
            !text.contains("service available:   NO"),
            "{words:?}: {text}"
        );
    };
    under_attack(
        &site,
        "slow head",
        vec![Box::new(|| run(&["-H", "-i", "1"], "/public/x"))],
    );
    assert!(site.events("head_timeout") >= 40);
    under_attack(
        &site,
        "slow body",
        vec![Box::new(|| run(&["-B", "-i", "4"], "/public/x"))],
    );
    let stalled = site.events("stalled");
    let slow_read = ["-X", "-w", "10", "-y", "20", "-n", "4", "-z", "1"];
    under_attack(
        &site,
        "slow read",
        vec![Box::new(move || run(&slow_read, "/public/large"))],
    );
    assert!(site.events("stalled") >= stalled + 40);
    let growth = gateway.memory().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {} KiB", growth / 1024);
}

// S22: with no file left, accepting waits; what is connected is served, and those who waited are served as soon as there is room.
#[test]
fn without_files_accepting_waits_and_traffic_lives() {
    let upstream = Upstream::start();
    let site = Site::of(Setup::usual(&upstream));
    let gateway = site.start();
    let mut kept = Http1::tls(site.https);
    ask(&mut kept);
    gateway.bound_files(Some(gateway.next_file()));
    let waiting = socket_from(None, site.https).unwrap();
    eventually("the gateway says that it cannot accept", || {
        gateway
            .stderr()
            .contains("cannot accept connections")
            .then_some(())
    });
    for _ in 0..20 {
        ask(&mut kept);
    }
    let told = gateway
        .stderr()
        .matches("cannot accept connections")
        .count();
    assert!(
        told <= 4,
        "one line a burst and worker, not one a try: {told}"
    );
    gateway.bound_files(None);
    let config = tls_config(&["http/1.1"]);
    ask(&mut Http1::over(
        tls_over(waiting, "localhost", config).unwrap(),
    ));
}

// S22: the file limit leaves room for backends: clients beyond it are turned away at once instead of taking the last file.
#[test]
fn clients_cannot_take_the_files_that_backends_need() {
    let upstream = Upstream::start();
    let site = Site::of(Setup::usual(&upstream));
    let gateway = site.start_with(few_files);
    eventually("the low limit is told of", || {
        gateway
            .stderr()
            .contains("connections.total_max")
            .then_some(())
    });
    let mut kept = Http1::tls(site.https);
    let crowd: Vec<TcpStream> = (0..300)
        .filter_map(|_| socket_from(Some("127.0.0.6"), site.https).ok())
        .collect();
    eventually("clients are turned away", || {
        (site.events("refused_descriptors") >= 200).then_some(())
    });
    // A fresh connection to the backend, and the listeners of the operator.
    ask(&mut kept);
    assert!(gateway.files() < 160);
    drop(crowd);
    eventually("there is room again", || {
        client::tls(site.https, "localhost", tls_config(&[])).ok()
    });
}

/// Starts the gateway with 160 files at most: room for some 40 clients.
fn few_files(command: &mut Command) {
    let run = std::mem::replace(command, Command::new("sh"));
    let limited = "ulimit -n 160; exec \"$0\" \"$@\"";
    command
        .args(["-c", limited])
        .arg(BINARY)
        .args(run.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::null());
}

// 100,000 connections in waves, against a gateway with few files: between the waves and after them it serves as before, its memory flat.
#[test]
#[ignore = "takes a minute: tests/run --long"]
fn a_hundred_thousand_connections_in_waves() {
    let upstream = Upstream::start();
    let site = Site::of(Setup::usual(&upstream));
    let gateway = site.start_with(few_files);
    let mut kept = Http1::tls(site.https);
    ask(&mut kept);
    let before = gateway.memory();
    let mut attempted = 0;
    for wave in 0..200u8 {
        let source = format!("127.0.1.{}", wave + 1);
        let held: Vec<TcpStream> = (0..500)
            .filter_map(|_| socket_from(Some(&source), site.https).ok())
            .collect();
        attempted += 500;
        ask(&mut kept);
        assert!(gateway.files() <= 160);
        for socket in held {
            // A reset instead of a goodbye: no port of ours stays behind in TIME_WAIT.
            let socket = socket2::Socket::from(socket);
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }
    assert_eq!(attempted, 100_000);
    eventually("a new client gets in", || {
        client::tls(site.https, "localhost", tls_config(&[])).ok()
    });
    let growth = gateway.memory().saturating_sub(before);
    println!("100,000 connections: memory grew by {} KiB", growth / 1024);
    assert!(growth < GROWTH_MAX, "grew by {} KiB", growth / 1024);
}
