//! How long honest clients wait beside each kind of abuse: measured and printed, for `tests/run --long`.
//!
//! Attacker, gateway and honest client share the machine's cores, the attacker as a task that gets what the others leave (SCHED_IDLE). What sharing costs
//! all the same shows in three places, against which the other figures are to be read: in the line where the attacker never talks to anybody and keeps a
//! core busy, in what our clients wait while an nginx beside us is attacked and we are not, and in what clients of that nginx wait.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::Site;
use crate::resident_bytes;
use crate::support::client::Http1;
use crate::support::frames;
use crate::support::frames::Frames;
use crate::support::gateway::Setup;
use crate::support::real;
use crate::support::request::Request;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;

/// Which kinds are measured: those whose name has this in it, or all.
const KINDS: &str = "PORTCULLIS_ABUSE_KINDS";
/// How long each measurement takes.
const SPAN: Duration = Duration::from_secs(3);
/// Memory may grow by so much over all of them.
const GROWTH_MAX: usize = 64 << 20;

/// What honest clients waited, in order: on a kept connection, and with a new one.
#[derive(Default)]
struct Waits {
    kept: Vec<Duration>,
    fresh: Vec<Duration>,
}

/// Milliseconds that so many of a hundred waited at most.
fn at(waits: &[Duration], hundredths: usize) -> f64 {
    waits[(waits.len() - 1) * hundredths / 100].as_secs_f64() * 1_000.0
}

/// A kept connection and a new one in turn, until this is true; every answer must be a good one.
fn honest(https: SocketAddr, key: &str, done: impl Fn() -> bool) -> Waits {
    let request = Request::get("/any/x").bearer(key);
    let mut kept = Http1::tls(https);
    let mut waits = Waits::default();
    while !done() || waits.kept.len() < 25 {
        let begun = Instant::now();
        kept.exchange(&request).expect(200);
        waits.kept.push(begun.elapsed());
        let begun = Instant::now();
        Http1::tls(https).exchange(&request).expect(200);
        waits.fresh.push(begun.elapsed());
    }
    waits.kept.sort();
    waits.fresh.sort();
    waits
}

/// Where an attack goes, and whether it is over.
struct Target<'a> {
    https: SocketAddr,
    over: &'a AtomicBool,
}

impl Target<'_> {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Frames on one connection after another, until each is ended by the gateway.
    fn frames(&self, mut send: impl FnMut(&mut Frames, u32) -> bool) {
        while self.goes_on() {
            let mut client = Frames::connect(self.https);
            let _ = (0..20_000).all(|at| self.goes_on() && send(&mut client, at));
        }
    }

    /// These bytes over TLS on so many connections at once, again as soon as all were ended.
    fn heads(&self, connections: usize, bytes: &str) {
        while self.goes_on() {
            let mut held: Vec<Http1> = (0..connections)
                .filter_map(|_| Http1::tls_try(self.https))
                .collect();
            for client in &mut held {
                client.send(bytes);
            }
            for client in &mut held {
                if self.goes_on() {
                    client.read_to_end();
                }
            }
        }
    }

    /// These bytes in clear on so many connections at once.
    fn bytes(&self, connections: usize, bytes: &[u8]) {
        while self.goes_on() {
            let mut held: Vec<TcpStream> = (0..connections)
                .filter_map(|_| TcpStream::connect(self.https).ok())
                .collect();
            for socket in &mut held {
                let _ = socket.write_all(bytes);
            }
        }
    }
}

fn post() -> Vec<(&'static str, &'static str)> {
    let mut fields = frames::get("/public/hold");
    fields[0].1 = "POST";
    fields
}

fn bomb() -> Vec<u8> {
    let value = "x".repeat(3_900);
    let mut block = frames::encode(&frames::get("/public/x"));
    let mut indexed = frames::encode(&[("x-bomb", &value)]);
    indexed[0] = 0x40;
    block.extend(indexed);
    block.resize(16_000, 0xbe);
    block
}

type Abuse = (&'static str, fn(&Target<'_>));

const ABUSES: [Abuse; 17] = [
    ("nothing, but a busy core", |target| {
        while target.goes_on() {
            std::hint::black_box(frames::encode(&post()));
        }
    }),
    ("PING", |target| {
        target.frames(|client, _| client.send(frames::PING, 0, 0, &[0; 8]));
    }),
    ("SETTINGS", |target| {
        target.frames(|client, _| client.send(frames::SETTINGS, 0, 0, &[]));
    }),
    ("WINDOW_UPDATE", |target| {
        target.frames(|client, _| client.send(frames::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
    }),
    ("empty DATA", |target| {
        target.frames(|client, at| {
            if at == 0 {
                client.open(&post(), false);
            }
            client.send(frames::DATA, 0, 1, &[])
        });
    }),
    ("CONTINUATION", |target| {
        target.frames(|client, at| match at {
            0 => client.send(frames::HEADERS, 0, 1, &frames::encode(&post())),
            _ => client.send(frames::CONTINUATION, 0, 1, &[0x80; 16_000]),
        });
    }),
    ("rapid reset", |target| {
        target.frames(|client, _| {
            let stream = client.open(&frames::get("/public/hold"), true);
            client.send(frames::RST_STREAM, 0, stream, &8u32.to_be_bytes())
        });
    }),
    ("MadeYouReset", |target| {
        target.frames(|client, _| {
            let stream = client.open(&post(), false);
            client.send(frames::WINDOW_UPDATE, 0, stream, &[0; 4])
        });
    }),
    ("HPACK bomb", |target| {
        let block = bomb();
        target.frames(move |client, at| client.send(frames::HEADERS, 5, 1 + 2 * at, &block));
    }),
    ("half heads", |target| {
        let filler = "x".repeat(30_000);
        target.heads(
            100,
            &format!("GET /public/x HTTP/1.1\r\nX-Filler: {filler}"),
        );
    }),
    ("heads too large", |target| {
        let filler = "x".repeat(60_000);
        target.heads(
            20,
            &format!("GET /public/x HTTP/1.1\r\nX-Filler: {filler}\r\n\r\n"),
        );
    }),
    ("doubtful framing", |target| {
        let doubtful = "POST /public/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx";
        target.heads(20, doubtful);
    }),
    ("handshakes, whole", |target| {
        while target.goes_on() {
            drop(Http1::tls_try(target.https));
        }
    }),
    ("handshakes, half", |target| {
        target.bytes(100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    }),
    ("HTTP on the TLS port", |target| {
        target.bytes(100, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    }),
    ("connections without a word", |target| {
        target.bytes(100, b"")
    }),
    ("random keys", |target| {
        let mut count = 0;
        while target.goes_on() {
            let Some(mut client) = Http1::tls_try(target.https) else {
                continue;
            };
            for _ in 0..50 {
                count += 1;
                let spray = Request::get("/any/x").bearer(&format!("unknown{count}"));
                let answer = client.exchange(&spray);
                assert!(matches!(answer.status, 401 | 429), "{answer:?}");
            }
        }
    }),
];

// S20, S21, S22, S24, S25, S28: beside each abuse every honest request is served; how much later than in quiet is printed.
#[test]
#[ignore = "takes minutes and wants a quiet machine: tests/run --long"]
fn what_honest_clients_wait_beside_each_abuse() {
    let upstream = Upstream::start();
    upstream.script("/public/hold", vec![Step::Hold]);
    let setup = Setup::usual(&upstream)
        .set("connections", "head_timeout", r#""1s""#)
        .set("connections", "handshake_timeout", r#""1s""#);
    let site = Site::of(setup);
    let gateway = site.start();
    let key = site.key();
    honest(site.https, &key, || true);
    let before = resident_bytes(&gateway);
    let nginx = (!real::left_out("nginx")).then(real::nginx_attacked);
    println!(
        "| beside | requests | kept: p50 | p99, ms | in quiet | times | not attacked | nginx's times | new: p50 | p99, ms | in quiet | times | not attacked | nginx's times |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let kinds = std::env::var(KINDS).unwrap_or_default();
    for (name, attack) in ABUSES.iter().filter(|(name, _)| name.contains(&kinds)) {
        let (quiet, waits) = attacked(site.https, site.https, &key, *attack);
        let others = nginx.as_ref().map(|nginx| {
            let beside = attacked(site.https, nginx.address, &key, *attack);
            let of_nginx = attacked(nginx.address, nginx.address, &key, *attack);
            [beside, of_nginx].map(|(quiet, waits)| {
                let kept = times(&quiet.kept, &waits.kept);
                let fresh = times(&quiet.fresh, &waits.fresh);
                (format!("{kept:.1}"), format!("{fresh:.1}"))
            })
        });
        let [beside, of_nginx] = others.unwrap_or_default();
        let columns = [
            (&waits.kept, &quiet.kept, beside.0, of_nginx.0),
            (&waits.fresh, &quiet.fresh, beside.1, of_nginx.1),
        ]
        .map(|(waits, quiet, beside, of_nginx)| {
            let (p50, p99, before) = (at(waits, 50), at(waits, 99), at(quiet, 99));
            // A promise of hundreds of milliseconds would be one about this machine.
            assert!(p99 < 8_000.0, "{name}: {p99} ms");
            let times = times(quiet, waits);
            format!("{p50:.1} | {p99:.1} | {before:.1} | {times:.1} | {beside} | {of_nginx}")
        });
        println!(
            "| {name} | {} | {} |",
            2 * waits.kept.len(),
            columns.join(" | ")
        );
    }
    let growth = resident_bytes(&gateway).saturating_sub(before);
    println!("memory grew by {} KiB", growth / 1024);
    assert!(growth < GROWTH_MAX, "grew by {} KiB", growth / 1024);
}

/// How many times as long as in quiet 99 of 100 wait at most.
fn times(quiet: &[Duration], waits: &[Duration]) -> f64 {
    at(waits, 99) / at(quiet, 99)
}

/// What honest clients of `asked` wait in quiet, and beside an attack on `victim`.
fn attacked(
    asked: SocketAddr,
    victim: SocketAddr,
    key: &str,
    attack: fn(&Target<'_>),
) -> (Waits, Waits) {
    let until = Instant::now() + SPAN;
    let quiet = honest(asked, key, || Instant::now() >= until);
    let over = AtomicBool::new(false);
    let waits = thread::scope(|scope| {
        let target = Target {
            https: victim,
            over: &over,
        };
        let attacker = scope.spawn(move || {
            give_way();
            attack(&target);
        });
        let until = Instant::now() + SPAN;
        let waits = honest(asked, key, || Instant::now() >= until);
        over.store(true, Ordering::Relaxed);
        attacker.join().unwrap();
        waits
    });
    (quiet, waits)
}

/// An attacker has a machine of its own: here this thread gets what the others leave, and makes way at once. With a priority however low it would run to
/// the end of its slice, milliseconds, on the core where somebody was just woken up.
fn give_way() {
    let thread = fs::read_link("/proc/thread-self").unwrap();
    let done = Command::new("chrt")
        .args(["--idle", "--pid", "0"])
        .arg(thread.file_name().unwrap())
        .status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "chrt of util-linux"
    );
}
