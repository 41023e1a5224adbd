//! Everything at once for ten minutes: honest traffic with exact counts beside sprays, slow clients, resets, reloads, key changes and failing backends.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::Running;
use crate::Site;
use crate::backend::BIG_BYTES;
use crate::backend::Backend;
use crate::support::client;
use crate::support::client::Http1;
use crate::support::client::Http2;
use crate::support::eventually;
use crate::support::gateway::Access;
use crate::support::gateway::Setup;
use crate::support::request::Answer;
use crate::support::request::Request;

/// Rows of the table.
const PARTS: usize = 10;

/// Quota of the keys that are counted exactly; never reached.
const LIMIT: u64 = 100_000_000;

/// What all threads tell.
struct Log {
    begun: Instant,
    part: Duration,
    ending: AtomicBool,
    /// For each part of the run: how often each thing happened, and how long honest requests took, in microseconds.
    parts: [Mutex<Part>; PARTS],
    unexpected: Mutex<Vec<String>>,
}

#[derive(Clone, Default)]
struct Part {
    counts: BTreeMap<&'static str, u64>,
    micros: Vec<u32>,
    rss_kib: Vec<u64>,
    descriptors: u64,
    threads: u64,
}

impl Log {
    fn new(length: Duration) -> Log {
        Log {
            begun: Instant::now(),
            part: length / PARTS as u32,
            ending: AtomicBool::new(false),
            parts: Default::default(),
            unexpected: Mutex::default(),
        }
    }

    fn goes_on(&self) -> bool {
        !self.ending.load(Ordering::Relaxed) && self.begun.elapsed() < self.part * PARTS as u32
    }

    fn with_part(&self, work: impl FnOnce(&mut Part)) {
        let at = self.begun.elapsed().as_secs_f64() / self.part.as_secs_f64();
        work(&mut self.parts[(at as usize).min(PARTS - 1)].lock().unwrap());
    }

    fn count(&self, what: &'static str) {
        self.with_part(|part| *part.counts.entry(what).or_default() += 1);
    }

    fn honest(&self, what: &'static str, took: Duration) {
        self.with_part(|part| {
            *part.counts.entry(what).or_default() += 1;
            part.micros.push(took.as_micros() as u32);
        });
    }

    /// Notes what must not happen, and goes on: the table then says how much else did.
    fn unexpected(&self, what: String) {
        self.count("UNEXPECTED");
        let mut all = self.unexpected.lock().unwrap();
        if all.len() < 20 {
            all.push(format!("{:?}: {what}", self.begun.elapsed()));
        }
    }

    fn expect(&self, good: bool, what: impl FnOnce() -> String) {
        if !good {
            self.unexpected(what());
        }
    }
}

/// A key whose answered requests are counted here too.
struct Counted {
    text: String,
    answered: AtomicU64,
}

/// CHECK15, S20, S22, S28, S44, S46, FA8: nothing unexpected, exact counts, and memory, descriptors and threads as flat at the end as after warming up.
#[test]
#[ignore = "takes minutes: tests/run --long"]
fn check15_soak() {
    let seconds = std::env::var("PORTCULLIS_SOAK_SECONDS").ok();
    let seconds: u64 = seconds.map_or(600, |text| text.parse().unwrap());
    let (steady, shaky) = (Backend::start(), Backend::start());
    let site = site(&steady, &shaky);
    let running = site.start();
    let [steady_key, shaky_key, h2_key] = [(); 3].map(|()| Counted {
        text: site.key(),
        answered: AtomicU64::new(0),
    });
    let log = Log::new(Duration::from_secs(seconds));
    let quiet = readings(&running);
    let https = site.https;
    thread::scope(|scope| {
        for kind in ["ok", "ok", "big", "upload"] {
            let (log, key) = (&log, &steady_key);
            scope.spawn(move || honest(log, https, key, kind));
        }
        scope.spawn(|| honest_h2(&log, https, &h2_key));
        for _ in 0..2 {
            scope.spawn(|| before_a_failing_backend(&log, https, &shaky_key));
        }
        scope.spawn(|| spray(&log, https));
        scope.spawn(|| slow_clients(&log, https));
        scope.spawn(|| rude_clients(&log, https, &site));
        scope.spawn(|| rude_streams(&log, https, &site));
        scope.spawn(|| operator(&log, &site));
        let mut shaky = shaky;
        let log = &log;
        scope.spawn(move || {
            while log.goes_on() {
                pause(log, Duration::from_secs(7));
                shaky.restart(Duration::from_millis(400));
                log.count("backend restarted");
            }
        });
        while log.goes_on() {
            let now = readings(&running);
            log.with_part(|part| {
                part.rss_kib.push(now.rss_kib);
                part.descriptors = part.descriptors.max(now.descriptors);
                part.threads = part.threads.max(now.threads);
            });
            thread::sleep(Duration::from_millis(500));
        }
    });
    let table = table(&log);
    println!("{table}");
    if let Ok(path) = std::env::var("PORTCULLIS_SOAK_TABLE") {
        fs::write(path, &table).unwrap();
    }
    let unexpected = log.unexpected.lock().unwrap();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    for key in [&steady_key, &shaky_key, &h2_key] {
        let answer = Http1::tls(https).exchange(&Request::get("/steady/ok").bearer(&key.text));
        let answered = key.answered.load(Ordering::SeqCst) + 1;
        assert_eq!(
            remaining(&answer),
            LIMIT - answered,
            "exactly what was answered is counted"
        );
    }
    assert_flat(&log, &running, &quiet);
}

fn site(steady: &Backend, shaky: &Backend) -> Site {
    let setup = Setup::bare(steady.address)
        .upstream("shaky", shaky.address)
        .set("connections", "head_timeout", "\"2s\"")
        .set("server", "workers", "2")
        .plan("counted", &format!("{LIMIT}/day"), "unlimited")
        .plan("open", "unlimited", "unlimited")
        .tenant("acme", "counted")
        .tenant("bravo", "open")
        .route("/steady/{*rest}", &[], Access::AnyKey)
        .route_to("shaky", "/shaky/{*rest}", &[], Access::AnyKey, "");
    Site::of(setup)
}

/// Requests that must all succeed, one after another on kept connections.
fn honest(log: &Log, https: SocketAddr, key: &Counted, kind: &str) {
    let mut client = Http1::tls(https);
    let mut request = Request::get(&format!("/steady/{kind}")).bearer(&key.text);
    if kind == "upload" {
        request = Request::new("POST", "/steady/upload")
            .bearer(&key.text)
            .body("u".repeat(BIG_BYTES));
    }
    let (what, rest) = match kind {
        "big" => ("h1 large answers", 40),
        "upload" => ("h1 large uploads", 40),
        _ => ("h1 requests", 4),
    };
    let mut on_this_connection = 0;
    while log.goes_on() {
        let begun = Instant::now();
        client.send(request.bytes());
        let Some(answer) = client.try_read_for(&request.method) else {
            log.unexpected(format!("{what}: closed without an answer"));
            client = Http1::tls(https);
            continue;
        };
        key.answered.fetch_add(1, Ordering::SeqCst);
        if kind == "ok" {
            log.honest(what, begun.elapsed());
        } else {
            log.count(what);
        }
        let whole = match kind {
            "big" => answer.body.len() == BIG_BYTES,
            "upload" => answer.body == BIG_BYTES.to_string().as_bytes(),
            _ => answer.body == b"ok",
        };
        log.expect(answer.status == 200 && answer.complete && whole, || {
            format!("{what}: {} with {} bytes", answer.status, answer.body.len())
        });
        on_this_connection += 1;
        if on_this_connection == 500 {
            (client, on_this_connection) = (Http1::tls(https), 0);
        }
        thread::sleep(Duration::from_millis(rest));
    }
}

/// The same over HTTP/2, five at a time, some of them late.
fn honest_h2(log: &Log, https: SocketAddr, key: &Counted) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        while log.goes_on() {
            let client = Http2::connect(https).await;
            for _ in 0..200 {
                if !log.goes_on() {
                    break;
                }
                let begun = Instant::now();
                let mut pending = Vec::new();
                for kind in ["ok", "ok", "ok", "late", "big"] {
                    let request = Request::get(&format!("/steady/{kind}")).bearer(&key.text);
                    let response = client.begin(&request).await;
                    // Each is read for itself: an answer that nobody takes would hold up all others of the connection.
                    let answer = async move { client::read_h2(response?.await?).await };
                    pending.push((kind, tokio::spawn(answer)));
                }
                for (kind, answer) in pending {
                    match answer.await.unwrap() {
                        Ok(answer) => {
                            key.answered.fetch_add(1, Ordering::SeqCst);
                            let length = if kind == "big" { BIG_BYTES } else { 2 };
                            let whole = answer.complete && answer.body.len() == length;
                            log.expect(answer.status == 200 && whole, || {
                                format!(
                                    "h2 {kind}: {} with {} bytes",
                                    answer.status,
                                    answer.body.len()
                                )
                            });
                            match kind {
                                "ok" => log.honest("h2 requests", begun.elapsed()),
                                _ => log.count("h2 large and late answers"),
                            }
                        }
                        Err(error) => log.unexpected(format!("h2 {kind}: {error}")),
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
}

/// What a backend that fails and restarts may lead to: 200, 502, 503 or 504, or an answer that looks cut where it was cut. Charged all the same.
fn before_a_failing_backend(log: &Log, https: SocketAddr, key: &Counted) {
    let mut client = Http1::tls(https);
    for kind in ["ok", "half", "late", "refuse", "big", "ok"].iter().cycle() {
        if !log.goes_on() {
            return;
        }
        let request = Request::get(&format!("/shaky/{kind}")).bearer(&key.text);
        client.send(request.bytes());
        let Some(answer) = client.try_read_for("GET") else {
            log.unexpected(format!("shaky {kind}: closed without an answer"));
            client = Http1::tls(https);
            continue;
        };
        key.answered.fetch_add(1, Ordering::SeqCst);
        match (answer.status, answer.complete) {
            (200, true) => {
                log.expect(*kind != "half" && *kind != "refuse", || {
                    format!("shaky {kind}: looks whole")
                });
                log.count("shaky: 200");
            }
            (200, false) => {
                log.expect(*kind == "half" || *kind == "big", || {
                    format!("shaky {kind}: cut")
                });
                log.count("shaky: cut as the backend cut");
                client = Http1::tls(https);
            }
            (502, true) => log.count("shaky: 502"),
            (503, true) => log.count("shaky: 503"),
            (504, true) => log.count("shaky: 504"),
            (status, complete) => log.unexpected(format!("shaky {kind}: {status} {complete}")),
        }
        thread::sleep(Duration::from_millis(15));
    }
}

/// Keys that nobody has, well-formed or not: 401 each, and 429 once their source has shown too many (`auth.failures`).
fn spray(log: &Log, https: SocketAddr) {
    let mut client = Http1::tls(https);
    let mut number: u64 = 0;
    while log.goes_on() {
        number += 1;
        let key = match number % 3 {
            0 => format!("fp_live_{number:036}"),
            1 => format!("legacy-{:x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            _ => format!("{number:0200}"),
        };
        let answer = client.exchange(&Request::get("/steady/ok").bearer(&key));
        log.expect(matches!(answer.status, 401 | 429), || {
            format!("a stranger got {}", answer.status)
        });
        log.count("strangers: refused");
        thread::sleep(Duration::from_millis(6));
    }
}

/// Heads that trickle in: each is cut by `connections.head_timeout`.
fn slow_clients(log: &Log, https: SocketAddr) {
    while log.goes_on() {
        let mut slow: Vec<_> = (0..10)
            .map(|_| client::tls(https, "localhost", client::tls_config(&["http/1.1"])).unwrap())
            .collect();
        let begun = Instant::now();
        while !slow.is_empty() && begun.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(250));
            slow.retain_mut(|wire| {
                use std::io::Read;
                use std::io::Write;
                let short = Some(Duration::from_millis(1));
                let _ = wire.sock.set_read_timeout(short);
                let wrote = wire.write_all(b"X").and_then(|()| wire.flush());
                let told = match wire.read(&mut [0; 512]) {
                    Ok(_) => true,
                    Err(error) => !matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ),
                };
                let cut = wrote.is_err() || told;
                if cut {
                    log.count("slow heads cut");
                }
                !cut
            });
        }
        log.expect(slow.is_empty(), || {
            "a slow head was let live for 20 s".to_owned()
        });
    }
}

/// Clients that leave in the middle of an upload or of an answer.
fn rude_clients(log: &Log, https: SocketAddr, site: &Site) {
    let key = key_of(site, "bravo").1;
    while log.goes_on() {
        let mut leaves = Http1::tls(https);
        leaves.send(format!(
            "POST /steady/upload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Length: 100000\r\n\r\nabc"
        ));
        let mut reads_little = Http1::tls(https);
        reads_little.send(Request::get("/steady/big").bearer(&key).bytes());
        let _ = reads_little.read_head();
        log.count("clients that left");
        pause(log, Duration::from_millis(200));
    }
}

/// HTTP/2 streams that are reset before their answer.
fn rude_streams(log: &Log, https: SocketAddr, site: &Site) {
    let key = key_of(site, "bravo").1;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        while log.goes_on() {
            let client = Http2::connect(https).await;
            for _ in 0..20 {
                let request = Request::get("/steady/late").bearer(&key);
                // The future of the answer is dropped: RST_STREAM.
                match client.begin(&request).await {
                    Ok(answer) => drop(answer),
                    Err(_) => break,
                }
                log.count("streams reset");
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        }
    });
}

/// Reloads, good and bad, and the life of keys: made, regenerated, revoked, each in force when the command returns.
fn operator(log: &Log, site: &Site) {
    let mut round = 0;
    while log.goes_on() {
        round += 1;
        let setup =
            site.setup
                .clone()
                .plan("open", &format!("{}/hour", 1_000_000 + round), "unlimited");
        setup.write();
        let reloaded = site.command(&["reload"]);
        log.expect(reloaded.status.success(), || crate::errors(&reloaded));
        log.count("reloads");
        if round % 5 == 0 {
            fs::write(&site.config, "no = \"such key\"\n").unwrap();
            // Long enough for the watch on the file to look at it twice.
            thread::sleep(Duration::from_millis(1_500));
            let refused = site.command(&["reload"]);
            // Another command line needs a file that it can read.
            setup.write();
            log.expect(!refused.status.success(), || {
                "a bad file was taken".to_owned()
            });
            log.count("bad files refused");
        }
        let (id, text) = key_of(site, "bravo");
        let status = |text: &str| {
            Http1::tls(site.https)
                .exchange(&Request::get("/steady/ok").bearer(text))
                .status
        };
        log.expect(status(&text) == 200, || "a new key is refused".to_owned());
        let fresh = site.told(&["keys", "regenerate", &id, "--yes"]);
        let fresh = fresh.trim();
        // An old text is like a stranger's, and comes from where the strangers of this soak do.
        log.expect(matches!(status(&text), 401 | 429), || {
            "the old text lives".to_owned()
        });
        log.expect(status(fresh) == 200, || {
            "the new text is refused".to_owned()
        });
        let _ = site.told(&["keys", "revoke", &id, "--yes"]);
        log.expect(status(fresh) == 401, || "a revoked key lives".to_owned());
        log.count("keys made, regenerated, revoked");
        pause(log, Duration::from_secs(2));
    }
}

/// Id and text of a new key.
fn key_of(site: &Site, tenant: &str) -> (String, String) {
    let words = [
        "keys",
        "create",
        "--tenant",
        tenant,
        "--name",
        "soak",
        "--inherit",
        "--output",
        "json",
    ];
    let told: serde_json::Value = serde_json::from_str(&site.told(&words)).unwrap();
    let key = crate::support::gateway::key_of(&told);
    (key.id, key.text)
}

fn pause(log: &Log, span: Duration) {
    let until = Instant::now() + span;
    while log.goes_on() && Instant::now() < until {
        thread::sleep(Duration::from_millis(50));
    }
}

fn remaining(answer: &Answer) -> u64 {
    answer.expect(200);
    answer.one("x-ratelimit-remaining").parse().unwrap()
}

struct Readings {
    rss_kib: u64,
    descriptors: u64,
    threads: u64,
}

fn readings(running: &Running) -> Readings {
    let process = Path::new("/proc").join(running.child.id().to_string());
    let status = fs::read_to_string(process.join("status")).unwrap();
    let value = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    };
    Readings {
        rss_kib: value("VmRSS:"),
        descriptors: fs::read_dir(process.join("fd")).unwrap().count() as u64,
        threads: value("Threads:"),
    }
}

/// Of the memory in the second tenth of the run and in the last, the medians; descriptors and threads once everybody is gone.
fn assert_flat(log: &Log, running: &Running, quiet: &Readings) {
    let median = |part: usize| {
        let mut all = log.parts[part].lock().unwrap().rss_kib.clone();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let (warm, last) = (median(1), median(PARTS - 1));
    assert!(
        last < warm + warm / 10 + 4 * 1024,
        "memory grew from {warm} to {last} KiB"
    );
    let calm = eventually("all but a few descriptors are closed", || {
        let now = readings(running);
        (now.descriptors <= quiet.descriptors + 20).then_some(now)
    });
    // Threads of the control runtime that block come and go.
    assert!(
        calm.threads <= quiet.threads + 16,
        "{} threads, then {}",
        quiet.threads,
        calm.threads
    );
}

fn table(log: &Log) -> String {
    let parts: Vec<Part> = log
        .parts
        .iter()
        .map(|part| part.lock().unwrap().clone())
        .collect();
    let mut text = format!("{PARTS} parts of {:?} each\n\n", log.part);
    text.push_str("| part | honest requests | p50, ms | p99, ms | RSS, MiB, least and most | descriptors | threads |\n|---:|---:|---:|---:|---:|---:|---:|\n");
    for (number, part) in parts.iter().enumerate() {
        let mut micros = part.micros.clone();
        micros.sort_unstable();
        let at = |share: f64| {
            let place = (micros.len() as f64 * share) as usize;
            micros
                .get(place.min(micros.len().saturating_sub(1)))
                .map_or(0.0, |micros| f64::from(*micros) / 1_000.0)
        };
        let mib = |kib: Option<&u64>| kib.map_or(0.0, |kib| *kib as f64 / 1_024.0);
        text.push_str(&format!(
            "| {} | {} | {:.1} | {:.1} | {:.1} to {:.1} | {} | {} |\n",
            number + 1,
            micros.len(),
            at(0.5),
            at(0.99),
            mib(part.rss_kib.iter().min()),
            mib(part.rss_kib.iter().max()),
            part.descriptors,
            part.threads,
        ));
    }
    let mut sums: BTreeMap<&str, u64> = BTreeMap::from([("UNEXPECTED", 0)]);
    for (what, count) in parts.iter().flat_map(|part| &part.counts) {
        *sums.entry(what).or_default() += count;
    }
    text.push_str("\n| what | how often |\n|---|---:|\n");
    for (what, count) in sums {
        text.push_str(&format!("| {what} | {count} |\n"));
    }
    text
}
