//! How long honest clients wait beside each kind of abuse: measured and printed, for `tests/run --long`.
//!
//! The server has the first core for itself, with one worker; its honest clients, their backend and the attacker share the others, the attacker as a task
//! that gets what is left there and makes way at once. So an attack is as strong as a core makes it, however much of its own core the server needs, and what clients
//! wait is what the server makes them wait, but for the work of the kernel that all of them share. Spans in quiet and beside the attack
//! alternate, each some hundreds of requests on several kept connections and as many with new ones, and of all spans of a kind together the 99th of 100 is
//! taken: so a slow moment of the machine falls on both sides. The first line, where the attacker never talks to anybody, shows what sharing costs all the
//! same. Clients of an nginx, with as much to itself and attacked in the same way, are what the other figures can be compared with.
//!
//! On a machine that others use: `PORTCULLIS_ABUSE_REAL_TIME=1 chrt --rr 2` before the whole of it. They starve meanwhile.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
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
/// Set where the whole measurement runs under `chrt --rr 2`, on a machine that others use: the attacker then gets `--rr 1` instead of what nobody wants.
const REAL_TIME: &str = "PORTCULLIS_ABUSE_REAL_TIME";
/// How long clients are timed before the attack begins or ends again.
const SPAN: Duration = Duration::from_millis(800);
/// So often in quiet and beside each attack, and the same for nginx.
const PAIRS: usize = 6;
const PAIRS_OF_NGINX: usize = 3;
/// What an attack leaves behind is over before clients in quiet are timed.
const CALM: Duration = Duration::from_millis(100);
/// Kept connections, used in turn: so many that each worker has some of them, whichever one the attacker has come upon.
const KEPT: usize = 8;
/// Memory may grow by so much over all of them.
const GROWTH_MAX: usize = 64 << 20;

/// What honest clients waited: on a kept connection, and with a new one.
#[derive(Default)]
struct Waits {
    kept: Vec<Duration>,
    fresh: Vec<Duration>,
}

/// Milliseconds that so many of a hundred waited at most.
fn at(waits: &mut [Duration], hundredths: usize) -> f64 {
    waits.sort_unstable();
    waits[(waits.len() - 1) * hundredths / 100].as_secs_f64() * 1_000.0
}

/// Clients of one server.
struct Honest {
    address: SocketAddr,
    request: Request,
    kept: Vec<Http1>,
}

impl Honest {
    fn new(address: SocketAddr, key: &str) -> Honest {
        Honest {
            address,
            request: Request::get("/any/x").bearer(key),
            kept: (0..KEPT).map(|_| Http1::tls(address)).collect(),
        }
    }

    /// A kept connection and a new one in turn for so long; every answer must be a good one.
    fn ask(&mut self, span: Duration, waits: &mut Waits) {
        let until = Instant::now() + span;
        while Instant::now() < until {
            for kept in &mut self.kept {
                let begun = Instant::now();
                kept.exchange(&self.request).expect(200);
                waits.kept.push(begun.elapsed());
                let begun = Instant::now();
                Http1::tls(self.address).exchange(&self.request).expect(200);
                waits.fresh.push(begun.elapsed());
            }
        }
    }
}

/// Ends an attack when dropped: also when an honest client has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Where an attack goes, whether it is over, and how much of it was done.
struct Target<'a> {
    https: SocketAddr,
    over: &'a AtomicBool,
    done: &'a AtomicUsize,
}

impl Target<'_> {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Counts what the attacker got done: frames or connections, requests where it makes those.
    fn did(&self, count: usize) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    /// Frames on one connection after another, until each is ended by the gateway.
    fn frames(&self, mut send: impl FnMut(&mut Frames, u32) -> bool) {
        while self.goes_on() {
            let mut client = Frames::connect(self.https);
            let _ = (0..20_000).all(|at| {
                self.did(1);
                self.goes_on() && send(&mut client, at)
            });
        }
    }

    /// These bytes over TLS on so many connections at once, again as soon as all were ended.
    fn heads(&self, connections: usize, bytes: &str) {
        while self.goes_on() {
            let mut held: Vec<Http1> = (0..connections)
                .filter_map(|_| Http1::tls_try(self.https))
                .collect();
            self.did(held.len());
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
            self.did(held.len());
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
            target.did(1);
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
            target.did(1);
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
                target.did(1);
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
    let cores = thread::available_parallelism().unwrap().get();
    assert!(
        cores > 1,
        "the server and its clients want cores of their own"
    );
    let others = format!("1-{}", cores - 1);
    stay_on(&others);
    let upstream = Upstream::start();
    upstream.script("/public/hold", vec![Step::Hold]);
    let setup = Setup::usual(&upstream)
        .set("server", "workers", "1")
        .set("connections", "head_timeout", r#""1s""#)
        .set("connections", "handshake_timeout", r#""1s""#);
    let site = Site::of(setup);
    let key = site.key();
    // What is started from here on inherits the core.
    stay_on("0");
    let gateway = site.start();
    let nginx = (!real::left_out("nginx")).then(real::nginx_attacked);
    stay_on(&others);
    Honest::new(site.https, &key).ask(SPAN, &mut Waits::default());
    let before = resident_bytes(&gateway);
    println!(
        "| beside | its rate, 1/s | at nginx | requests | kept: p50 | p99, ms | in quiet | times | nginx's times | new: p50 | p99, ms | in quiet | times | nginx's times |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let kinds = std::env::var(KINDS).unwrap_or_default();
    for (name, attack) in ABUSES.iter().filter(|(name, _)| name.contains(&kinds)) {
        let mut ours = Beside::measure(site.https, &key, *attack, PAIRS);
        let nginx = nginx.as_ref().map(|nginx| {
            let mut beside = Beside::measure(nginx.address, &key, *attack, PAIRS_OF_NGINX);
            let times = beside.times().map(|times| format!("{times:.1}"));
            (format!("{:.0}", beside.rate), times)
        });
        let (rate, of_nginx) = nginx.unwrap_or_default();
        let requests = 2 * ours.waits.kept.len();
        let columns = ours.columns(&of_nginx);
        // A promise of hundreds of milliseconds would be one about this machine.
        let slowest = at(&mut ours.waits.kept, 99).max(at(&mut ours.waits.fresh, 99));
        assert!(slowest < 8_000.0, "{name}: {slowest} ms");
        println!(
            "| {name} | {:.0} | {rate} | {requests} | {columns} |",
            ours.rate
        );
    }
    let growth = resident_bytes(&gateway).saturating_sub(before);
    println!("memory grew by {} KiB", growth / 1024);
    assert!(growth < GROWTH_MAX, "grew by {} KiB", growth / 1024);
}

/// What honest clients of one server wait in quiet and beside an attack on it, all spans together.
#[derive(Default)]
struct Beside {
    quiet: Waits,
    waits: Waits,
    /// What the attacker got done each second.
    rate: f64,
}

impl Beside {
    fn measure(server: SocketAddr, key: &str, attack: fn(&Target<'_>), pairs: usize) -> Beside {
        let (mut honest, mut beside) = (Honest::new(server, key), Beside::default());
        let (done, mut attacked) = (AtomicUsize::new(0), Duration::ZERO);
        for _ in 0..pairs {
            honest.ask(SPAN, &mut beside.quiet);
            let (over, begun) = (AtomicBool::new(false), Instant::now());
            thread::scope(|scope| {
                let target = Target {
                    https: server,
                    over: &over,
                    done: &done,
                };
                scope.spawn(move || {
                    give_way();
                    attack(&target);
                });
                let _over = Over(&over);
                honest.ask(SPAN, &mut beside.waits);
            });
            attacked += begun.elapsed();
            thread::sleep(CALM);
        }
        beside.rate = done.into_inner() as f64 / attacked.as_secs_f64();
        beside
    }

    /// How many times as long as in quiet 99 of 100 wait at most, on a kept connection and with a new one.
    fn times(&mut self) -> [f64; 2] {
        let Beside { quiet, waits, .. } = self;
        [
            at(&mut waits.kept, 99) / at(&mut quiet.kept, 99),
            at(&mut waits.fresh, 99) / at(&mut quiet.fresh, 99),
        ]
    }

    /// What is printed of both, with how many times as long nginx's clients wait.
    fn columns(&mut self, of_nginx: &[String; 2]) -> String {
        let times = self.times();
        let Beside { quiet, waits, .. } = self;
        let sides = [
            (&mut waits.kept, &mut quiet.kept),
            (&mut waits.fresh, &mut quiet.fresh),
        ];
        let columns: Vec<String> = (sides.into_iter().enumerate())
            .map(|(which, (waits, quiet))| {
                let (p50, p99, before) = (at(waits, 50), at(waits, 99), at(quiet, 99));
                let (times, of_nginx) = (times[which], &of_nginx[which]);
                format!("{p50:.2} | {p99:.2} | {before:.2} | {times:.1} | {of_nginx}")
            })
            .collect();
        columns.join(" | ")
    }
}

/// Keeps this thread, and the threads and processes that it starts from now on, to these cores.
fn stay_on(cores: &str) {
    let thread = fs::read_link("/proc/thread-self").unwrap();
    let done = Command::new("taskset")
        .args(["--cpu-list", "--pid", cores])
        .arg(thread.file_name().unwrap())
        .stdout(Stdio::null())
        .status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "taskset of util-linux"
    );
}

/// An attacker has a machine of its own: here this thread gets what the clients leave, and makes way at once. With a priority however low it would run to
/// the end of its slice, milliseconds, on the core where somebody was just woken up.
fn give_way() {
    let thread = fs::read_link("/proc/thread-self").unwrap();
    let (policy, priority) = match std::env::var_os(REAL_TIME) {
        Some(_) => ("--rr", "1"),
        None => ("--idle", "0"),
    };
    let done = Command::new("chrt")
        .args([policy, "--pid", priority])
        .arg(thread.file_name().unwrap())
        .status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "chrt of util-linux"
    );
}
