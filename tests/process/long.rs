//! Runs of minutes (CHECK15): a spray of strangers' keys, a million keys in use, thousands of reloads. `tests/run --long` runs them.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use portcullis::model::key_text;

use crate::BINARY;
use crate::Running;
use crate::Site;
use crate::assert_exit;
use crate::resident_bytes;
use crate::support::client;
use crate::support::client::Http1;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

/// Keys of strangers, and keys in use: a million, unless PORTCULLIS_LONG_KEYS says fewer for a first look.
fn keys() -> usize {
    let said = std::env::var("PORTCULLIS_LONG_KEYS").ok();
    said.map_or(1_000_000, |count| count.parse().unwrap())
}

/// Requests that are sent before their answers are read.
const BATCH: usize = 64;

/// Connections that spray at once.
const SPRAYERS: usize = 2;

/// How long a gateway with a million keys may take to start, in whatever profile it was built.
const START: Duration = Duration::from_secs(240);

/// What strangers may cost in memory, all of them together (SEEDS section 6).
const STRANGERS_BYTES_MAX: usize = 10 << 20;

/// What a key may cost that has counters and usage, bytes.
const BYTES_PER_KEY_MAX: usize = 640;

/// What reloads may cost in memory, all of them together.
const RELOADS_BYTES_MAX: usize = 24 << 20;

/// 99 of 100 requests of a valid key are answered within this, whatever strangers send; two cores serve both, and the test besides.
const P99_MAX: Duration = Duration::from_millis(500);

const RELOADS: usize = 3_000;

/// Keys that are made, used, regenerated and revoked while memory is watched, and before that, until the store's own cache (2 MiB a database) is full.
const LIVES: usize = 2_000;
const LIVES_BEFORE: usize = 1_500;

/// What a key that has ended may still hold in memory, bytes: its tombstone, and for an hour its windows and what it used.
const BYTES_PER_LIFE_MAX: usize = 1_024;

/// The text of the key with this number: of our shape, with its checksum.
fn text(number: usize, letter: u8) -> String {
    let mut random = [letter; 30];
    let digits = format!("{number:012}");
    random[..12].copy_from_slice(digits.as_bytes());
    key_text::make("fp", "live", &random)
}

/// Sends a request with each of these keys, many at a time, and checks that every answer has this status.
fn spray(address: SocketAddr, path: &str, keys: impl Iterator<Item = String>, status: u16) {
    let mut wire = client::tls(address, "localhost", client::tls_config(&["http/1.1"])).unwrap();
    let wanted = format!("HTTP/1.1 {status} ");
    let mut keys = keys.peekable();
    let mut tail: Vec<u8> = Vec::new();
    let mut piece = vec![0; 256 * 1024];
    while keys.peek().is_some() {
        let mut batch = Vec::with_capacity(BATCH * 160);
        let mut sent = 0;
        for key in keys.by_ref().take(BATCH) {
            write!(
                batch,
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
            )
            .unwrap();
            sent += 1;
        }
        wire.write_all(&batch).unwrap();
        while sent > 0 {
            let count = wire.read(&mut piece).unwrap();
            assert_ne!(count, 0, "the connection ended");
            tail.extend_from_slice(&piece[..count]);
            while let Some(at) = crate::find(&tail, b"HTTP/1.1 ") {
                let Some(line) = tail.get(at..at + wanted.len()) else {
                    break;
                };
                assert_eq!(String::from_utf8_lossy(line), wanted);
                tail.drain(..at + wanted.len());
                sent -= 1;
            }
            let kept = tail.len().saturating_sub(wanted.len());
            if crate::find(&tail, b"HTTP/1.1 ").is_none() {
                tail.drain(..kept);
            }
        }
    }
}

/// Sprays with several connections, each its share of these numbers.
fn spray_all(address: SocketAddr, path: &str, key: impl Fn(usize) -> String + Sync, status: u16) {
    std::thread::scope(|scope| {
        for sprayer in 0..SPRAYERS {
            let key = &key;
            let mine = (sprayer..keys()).step_by(SPRAYERS);
            scope.spawn(move || spray(address, path, mine.map(key), status));
        }
    });
}

/// Starts, however long the keys take.
fn start(site: &Site) -> Running {
    let errors = site.setup.directory().join("stderr.log");
    let child = Command::new(BINARY)
        .arg("run")
        .arg("--config")
        .arg(&site.config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let running = Running { child, errors };
    let begun = Instant::now();
    while client::tls(site.https, "localhost", client::tls_config(&[])).is_err() {
        assert!(begun.elapsed() < START, "{}", running.stderr());
        std::thread::sleep(Duration::from_millis(50));
    }
    running
}

/// Asks with one key until told to stop; how long each answer took, in order of length, and what is left of its quota.
fn probe(address: SocketAddr, key: &str, over: &AtomicBool) -> (Vec<Duration>, u64) {
    let mut client = Http1::tls(address);
    let request = Request::get("/any").bearer(key);
    let (mut took, mut left) = (Vec::new(), 0);
    while !over.load(Ordering::SeqCst) {
        let begun = Instant::now();
        let answer = client.exchange(&request);
        took.push(begun.elapsed());
        answer.expect(200);
        left = answer.number("x-ratelimit-remaining");
        std::thread::sleep(Duration::from_millis(10));
    }
    took.sort_unstable();
    (took, left)
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 99 / 100]
}

// CHECK15, IMP2, S28: a million keys of strangers cost no memory and no tenant anything, and valid traffic is served meanwhile; then a
// million valid keys are used once each, and each costs what is stated.
#[test]
#[ignore = "two million requests and a store of a million keys, for some minutes: tests/run --long"]
fn a_million_strangers_and_a_million_keys() {
    const QUOTA: u64 = 1_000_000;
    let upstream = Upstream::start();
    let setup = Setup::limited(&upstream, "1000000/hour", "1000000/min")
        .set("log", "access", "\"off\"")
        // Each stranger is to be looked up: the throttle, which would answer most of them sooner, has tests of its own.
        .set("auth", "failures", "\"unlimited\"")
        .set("key_rules", "warn_never", "false");
    let site = Site::of(setup);
    let file = site.setup.directory().join("keys.csv");
    let mut table = String::from("tenant,name,value,scopes\n");
    let keys = keys();
    for number in 0..keys {
        table.push_str(&format!("acme,{number},{},inherit\n", text(number, b'v')));
    }
    fs::write(&file, table).unwrap();
    let begun = Instant::now();
    assert_exit(
        &site.command(&["keys", "import", file.to_str().unwrap()]),
        0,
    );
    let imported = begun.elapsed();
    let watched = site.key();
    let begun = Instant::now();
    let running = start(&site);
    let started = begun.elapsed();
    println!(
        "{keys} keys imported in {imported:?}, started in {started:?}, {} MiB",
        resident_bytes(&running) >> 20
    );
    // Both kinds of strangers' texts, and every connection's buffers, once, before memory is measured.
    spray(
        site.https,
        "/any",
        (0..BATCH * 8).map(|number| text(number, b'w')),
        401,
    );

    let before = resident_bytes(&running);
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let (took, left) = std::thread::scope(|scope| {
        let prober = scope.spawn(|| probe(site.https, &watched, &over));
        spray_all(
            site.https,
            "/any",
            |number| match number % 2 {
                0 => text(number, b'x'),
                _ => format!("somebody-elses-{number:024}"),
            },
            401,
        );
        over.store(true, Ordering::SeqCst);
        prober.join().unwrap()
    });
    let grown = resident_bytes(&running).saturating_sub(before);
    println!(
        "{keys} strangers in {:?}: {} KiB more; {} requests of a valid key, p50 {:?}, p99 {:?}",
        begun.elapsed(),
        grown / 1024,
        took.len(),
        took[took.len() / 2],
        p99(&took)
    );
    assert!(grown < STRANGERS_BYTES_MAX, "{grown} bytes more");
    assert!(p99(&took) < P99_MAX, "{:?}", p99(&took));
    assert_eq!(
        left,
        QUOTA - took.len() as u64,
        "what the key itself used, and no more"
    );

    let before = resident_bytes(&running);
    let begun = Instant::now();
    spray_all(site.https, "/nowhere", |number| text(number, b'v'), 404);
    let grown = resident_bytes(&running).saturating_sub(before);
    println!(
        "{keys} valid keys, each used once, in {:?}: {} bytes for each",
        begun.elapsed(),
        grown / keys
    );
    assert!(grown / keys < BYTES_PER_KEY_MAX, "{grown} bytes more");
    let answer = Http1::tls(site.https).exchange(&Request::get("/any").bearer(&watched));
    assert_eq!(answer.number("x-ratelimit-remaining"), left - 1);
}

/// One `portcullis reload`, without starting a process for it.
fn reload(site: &Site) {
    let mut socket = UnixStream::connect(site.setup.directory().join("admin.sock")).unwrap();
    socket
        .write_all(b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

// CHECK15, IMP5: thousands of reloads under traffic, a few changed keys between them: no request fails, no count is lost, memory stays.
#[test]
#[ignore = "thousands of reloads, for a minute or more: tests/run --long"]
fn thousands_of_reloads() {
    const QUOTA: u64 = 100_000_000;
    let upstream = Upstream::start();
    let setup =
        Setup::limited(&upstream, "100000000/hour", "unlimited").set("log", "access", "\"off\"");
    let site = Site::of(setup);
    let running = start(&site);
    let key = site.key();
    for _ in 0..50 {
        reload(&site);
    }
    let before = resident_bytes(&running);
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let (took, left) = std::thread::scope(|scope| {
        let prober = scope.spawn(|| probe(site.https, &key, &over));
        for _ in 0..RELOADS {
            reload(&site);
        }
        over.store(true, Ordering::SeqCst);
        prober.join().unwrap()
    });
    let grown = resident_bytes(&running).saturating_sub(before);
    println!(
        "{RELOADS} reloads in {:?}: {} KiB more; {} requests meanwhile, p99 {:?}",
        begun.elapsed(),
        grown / 1024,
        took.len(),
        p99(&took)
    );
    assert_eq!(left, QUOTA - took.len() as u64);
    assert!(grown < RELOADS_BYTES_MAX, "{grown} bytes more");
    assert!(p99(&took) < P99_MAX, "{:?}", p99(&took));
}

/// One call of the API over the admin socket, without starting a process for it.
fn call(site: &Site, path: &str, body: &str) -> serde_json::Value {
    let mut socket = UnixStream::connect(site.setup.directory().join("admin.sock")).unwrap();
    let length = body.len();
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

/// A key is made, used, given a new text, used, and revoked.
fn live(site: &Site, client: &mut Http1) {
    let made = call(
        site,
        "/v1/keys",
        r#"{"tenant": "acme", "name": "one of many", "inherit": true}"#,
    );
    let id = made["id"].as_str().unwrap();
    let mut status = |text: &serde_json::Value| {
        let request = Request::get("/any").bearer(text.as_str().unwrap());
        client.exchange(&request).status
    };
    assert_eq!(status(&made["text"]), 200);
    let fresh = call(site, &format!("/v1/keys/{id}/regenerate"), "{}");
    assert_eq!(status(&fresh["text"]), 200);
    call(site, &format!("/v1/keys/{id}/revoke"), "");
    assert_eq!(status(&fresh["text"]), 401);
}

// CHECK15: a key that has ended leaves rows on disk and little else: what the soak's memory goes on growing by is bounded by key.
#[test]
#[ignore = "thousands of keys, for a minute or more: tests/run --long"]
fn thousands_of_keys_come_and_go() {
    let upstream = Upstream::start();
    let setup = Setup::limited(&upstream, "100000000/hour", "unlimited")
        .set("log", "access", "\"off\"")
        .set("auth", "failures", "\"unlimited\"");
    let site = Site::of(setup);
    let running = start(&site);
    let mut client = Http1::tls(site.https);
    let size = |name: &str| {
        fs::metadata(site.setup.directory().join("state").join(name)).map_or(0, |data| data.len())
    };
    let told = |lives: usize| {
        let bytes = resident_bytes(&running);
        println!(
            "{lives} keys: {} KiB, keys.db {} KiB, counters.db {} KiB",
            bytes / 1024,
            size("keys.db") / 1024,
            size("counters.db") / 1024
        );
        bytes
    };
    told(0);
    let mut before = 0;
    for lives in 1..=LIVES_BEFORE + LIVES {
        live(&site, &mut client);
        if lives % 500 == 0 {
            let bytes = told(lives);
            if lives == LIVES_BEFORE {
                before = bytes;
            }
        }
    }
    let each = resident_bytes(&running).saturating_sub(before) / LIVES;
    println!("{LIVES} keys came and went: {each} bytes for each");
    assert!(each < BYTES_PER_LIFE_MAX, "{each} bytes for each");
}
