//! What the gate costs a request that passes it, with 1,000, 100,000 and 1,000,000 keys in the snapshot, and what a key costs in memory.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::Request;
use http::request::Parts;

use portcullis::clock::Clock;
use portcullis::clock::Mono;
use portcullis::clock::Now;
use portcullis::clock::Wall;
use portcullis::config;
use portcullis::gate;
use portcullis::gate::Peer;
use portcullis::model::key::Digest;
use portcullis::model::key::Environment;
use portcullis::model::key::KeyId;
use portcullis::model::key::KeyKind;
use portcullis::model::key::KeyStatus;
use portcullis::model::key_text;
use portcullis::model::scope::Scopes;
use portcullis::quota::Quota;
use portcullis::snapshot::KeyEntry;
use portcullis::snapshot::NEVER_EXPIRES;
use portcullis::snapshot::Snapshot;
use portcullis::snapshot::build;
use portcullis::snapshot::key_table::KeyTable;
use portcullis::store::Contents;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Cargo passes `--bench`.
    let words: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .filter(|word| *word != "--bench")
        .collect();
    match words[..] {
        [] => print_table(),
        ["--callgrind", keys] => match keys.parse() {
            Ok(keys) => run_once(keys),
            Err(_) => refuse(),
        },
        _ => refuse(),
    }
}

fn refuse() {
    eprintln!("usage: admit [--callgrind KEYS]");
    std::process::exit(2);
}

fn print_table() {
    println!("{:>10} {:>12} {:>16}", "keys", "ns each", "snapshot B/key");
    for keys in [1_000, 100_000, 1_000_000] {
        let before = resident_bytes();
        let gate = Gate::new(keys);
        let each = resident_bytes().saturating_sub(before) / u64::from(keys);
        gate.fill();
        let clock = Clock::system();
        let mut nanos = 0;
        for batch in 0..BATCHES {
            let mut heads: Vec<Parts> = (0..BATCH)
                .map(|round| gate.head(batch * BATCH + round))
                .collect();
            let start = clock.now().mono;
            for (round, head) in heads.iter_mut().enumerate() {
                gate.measured(head, round as u64);
            }
            nanos += clock.now().mono.since(start).as_nanos();
        }
        let rounds = u128::from(BATCHES * BATCH);
        println!("{keys:>10} {:>12} {each:>16}", nanos / rounds);
    }
}

/// For callgrind: sets up, then collects only what `measured` does.
fn run_once(keys: u32) {
    let gate = Gate::new(keys);
    gate.fill();
    for round in 0..CALLGRIND_ROUNDS {
        let mut head = gate.head(round);
        gate.measured(&mut head, u64::from(round));
    }
    println!("{keys} keys: {CALLGRIND_ROUNDS} rounds");
}

struct Gate {
    snapshot: Arc<Snapshot>,
    quota: Quota,
    keys: u32,
    peer: Peer,
}

impl Gate {
    fn new(keys: u32) -> Gate {
        let loaded = config::parse(CONFIG, Path::new("gateway.toml"));
        let config = Arc::new(loaded.expect("the configuration is good").config);
        let contents = Contents {
            revision: 1,
            keys: Vec::new(),
            tenants: Vec::new(),
            retired: Vec::new(),
        };
        let built = build::build(config, &contents, 1);
        let mut snapshot = built.expect("the configuration is whole").snapshot;
        snapshot.keys = KeyTable::build((0..keys).map(entry));
        let address = SocketAddr::from(([203, 0, 113, 9], 50_000));
        Gate {
            snapshot: Arc::new(snapshot),
            quota: Quota::new(),
            keys,
            peer: Peer {
                address,
                local: address,
            },
        }
    }

    /// Lets every key pass once, so that every counter exists.
    fn fill(&self) {
        for index in 0..self.keys {
            let mut head = head(index);
            let passed = gate::admit(&self.snapshot, &self.quota, now(0), &self.peer, &mut head);
            assert!(passed.is_ok(), "key {index} is refused");
        }
        let _ = self.quota.export();
    }

    /// Steps through the keys so that neighbours in time are no neighbours in memory.
    fn head(&self, round: u32) -> Parts {
        head(round.wrapping_mul(2_654_435_761) % self.keys)
    }

    /// Kept out of line, so that callgrind can be told to count this and nothing else.
    #[inline(never)]
    fn measured(&self, head: &mut Parts, round: u64) {
        let now = now(round * 1_000);
        let admission = gate::admit(&self.snapshot, &self.quota, now, &self.peer, head);
        std::hint::black_box(&admission);
    }
}

fn key_text_of(index: u32) -> String {
    let mut random = [b'0'; key_text::RANDOM_LENGTH];
    let digits = index.to_string();
    random[..digits.len()].copy_from_slice(digits.as_bytes());
    key_text::make("fp", "live", &random)
}

fn entry(index: u32) -> (Digest, KeyEntry) {
    let mut id = *b"000000000000";
    let digits = format!("{index:012}");
    id.copy_from_slice(digits.as_bytes());
    let entry = KeyEntry {
        id: KeyId(id),
        tenant: 0,
        plan: u32::MAX,
        expires: NEVER_EXPIRES,
        status: KeyStatus::Active,
        kind: KeyKind::Secret,
        environment: Environment(0),
        limits: None,
        scopes: Scopes::Inherit,
    };
    (key_text::digest_of(key_text_of(index).as_bytes()), entry)
}

/// An everyday request.
fn head(index: u32) -> Parts {
    let request = Request::builder()
        .uri("/leases/4711?expand=tenant")
        .header("host", "api.example.org")
        .header("user-agent", "bench/1")
        .header("accept", "application/json")
        .header("x-api-key", key_text_of(index))
        .body(())
        .expect("a valid request");
    request.into_parts().0
}

fn now(micros: u64) -> Now {
    Now {
        mono: Mono(1_000_000_000 + micros),
        wall: Wall(1_700_000_000_000_000 + micros),
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * 4096
}

const CONFIG: &str = r#"
[tls]
certificate = "cert.pem"
private_key = "key.pem"
[plans.everyday]
quota = "1000000000/hour"
burst = "1000000/s"
scopes = ["leases:*"]
[[tenants]]
id = "acme"
plan = "everyday"
[upstreams.legacy]
servers = ["http://127.0.0.1:3000"]
[[routes]]
path = "/leases/{*rest}"
scope = "leases:read"
upstream = "legacy"
[[routes]]
path = "/status"
access = "public"
upstream = "legacy"
"#;

const BATCHES: u32 = 100;

const BATCH: u32 = 10_000;

const CALLGRIND_ROUNDS: u32 = 20_000;
