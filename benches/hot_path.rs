//! What one request costs in our own code: admission, the charge in it and the header fields of its answer, by number of keys.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::Request;
use http::request::Parts;

use portcullis::alerts::Alerts;
use portcullis::clock::Clock;
use portcullis::clock::Mono;
use portcullis::clock::Now;
use portcullis::clock::Wall;
use portcullis::config;
use portcullis::gate;
use portcullis::gate::Means;
use portcullis::gate::Peer;
use portcullis::gate::Via;
use portcullis::model::key::Environment;
use portcullis::model::key::KeyId;
use portcullis::model::key::KeyKind;
use portcullis::model::key::KeyStatus;
use portcullis::model::key_text;
use portcullis::model::limit::Limits;
use portcullis::model::limit::Rate;
use portcullis::model::scope::Scopes;
use portcullis::model::tenant::TenantId;
use portcullis::quota::Charge;
use portcullis::quota::Numbers;
use portcullis::quota::Quota;
use portcullis::quota::headers;
use portcullis::quota::headers::Shown;
use portcullis::snapshot::KeyEntry;
use portcullis::snapshot::NEVER_EXPIRES;
use portcullis::snapshot::Snapshot;
use portcullis::snapshot::build;
use portcullis::snapshot::key_table::KeyTable;
use portcullis::store::Contents;
use portcullis::token::Patience;
use portcullis::token::Tokens;
use portcullis::usage::Usage;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        // What `cargo bench` passes. `cargo test --all-targets` passes nothing, and must not wait for a table.
        ["--bench"] => print_table(),
        [] => println!("{USAGE}"),
        ["--callgrind", name, keys] => run_once(name, keys),
        _ => refuse(),
    }
}

fn refuse() {
    eprintln!("{USAGE}");
    std::process::exit(2);
}

fn print_table() {
    println!("{:<10} {:>10} {:>10}", "case", "keys", "ns each");
    for name in CASES {
        for keys in [1_000, 100_000, 1_000_000] {
            let mut case = Case::new(name, keys);
            case.warm();
            let mut heads = case.heads();
            let clock = Clock::system();
            let start = clock.now().mono;
            case.measured(&mut heads);
            let nanos = clock.now().mono.since(start).as_nanos();
            println!("{name:<10} {keys:>10} {:>10}", nanos / u128::from(ROUNDS));
        }
    }
}

/// For callgrind: sets up, warms up, and then does in `measured` what is to be counted.
fn run_once(name: &str, keys: &str) {
    let name = CASES.iter().find(|case| **case == name);
    let (Some(name), Ok(keys)) = (name, keys.parse()) else {
        return refuse();
    };
    let mut case = Case::new(name, keys);
    case.warm();
    let mut heads = case.heads();
    case.measured(&mut heads);
    println!("{name} {keys} keys: {ROUNDS} rounds");
}

struct Case {
    name: &'static str,
    quota: Quota,
    usage: Usage,
    tokens: Tokens,
    alerts: Alerts,
    snapshot: Arc<Snapshot>,
    keys: u32,
    tenant: TenantId,
    limits: Limits,
    micros: u64,
}

const SHOWN: Shown = Shown {
    x: true,
    ietf: true,
    reset_as_delta: false,
};

impl Case {
    /// Every key is known and has been charged once, so that every entry exists.
    fn new(name: &'static str, keys: u32) -> Case {
        let count = if name == "refuse" { 1 } else { 1_000_000_000 };
        let known = if name == "admit" { keys } else { 0 };
        let case = Case {
            name,
            quota: Quota::new(),
            usage: Usage::new(),
            tokens: Tokens::new(),
            alerts: Alerts::queue().0,
            snapshot: snapshot(known),
            keys,
            tenant: TenantId::new("acme").expect("a valid id"),
            limits: Limits {
                quota: Some(Rate {
                    count,
                    seconds: 3_600,
                }),
                burst: Some(Rate {
                    count: 500,
                    seconds: 1,
                }),
            },
            micros: 0,
        };
        for index in 0..keys {
            let _ = case.charge(index);
        }
        case
    }

    fn charge(&self, index: u32) -> Option<Numbers> {
        let charge = Charge {
            key: Some((key_id(index), &self.limits)),
            tenant: (self.name == "both").then_some((&self.tenant, &self.limits)),
            cost: 1,
        };
        self.quota.charge(&charge, now(self.micros)).ok()
    }

    fn admit(&self, head: &mut Parts) {
        let address = ([192, 0, 2, 7], 50_000).into();
        let local = ([198, 51, 100, 1], 8_443).into();
        let via = Via::Direct;
        let peer = Peer {
            address,
            local,
            via,
        };
        let means = Means {
            quota: &self.quota,
            tokens: &self.tokens,
            alerts: &self.alerts,
            patience: Patience::Fresh,
            charged: None,
        };
        let outcome = gate::admit(&self.snapshot, &means, now(self.micros), &peer, head);
        assert!(outcome.is_ok(), "{outcome:?}");
        std::hint::black_box(&outcome);
    }

    /// The requests of one run; made beforehand, since hyper's parsing is not ours to measure.
    fn heads(&self) -> Vec<Parts> {
        if self.name != "admit" {
            return Vec::new();
        }
        (0..ROUNDS)
            .map(|round| head(&key(self.index(round))))
            .collect()
    }

    /// The same once, uncounted: memory that grows once grows here. Then the counters are exported as at every flush interval.
    fn warm(&mut self) {
        let mut heads = self.heads();
        self.run(&mut heads);
        // Leaked: the allocator would tidy up a million freed pieces within `measured`.
        std::mem::forget(self.quota.export());
    }

    /// Kept out of line, so that callgrind can be told to count this and nothing else.
    #[inline(never)]
    fn measured(&mut self, heads: &mut [Parts]) {
        self.run(heads);
    }

    #[inline(always)]
    fn run(&mut self, heads: &mut [Parts]) {
        for round in 0..ROUNDS {
            // A second of one subject's burst then always holds fewer than 500.
            self.micros += 2_100;
            if let Some(head) = heads.get_mut(round as usize) {
                self.admit(head);
                continue;
            }
            if self.name == "usage" {
                let at = now(self.micros).wall;
                let meter = self.usage.admitted(key_id(self.index(round)), at);
                meter.ended(200, Duration::from_millis(3), 0, 512);
                continue;
            }
            let numbers = self.charge(self.index(round));
            if self.name == "headers" {
                let mut fields = HeaderMap::new();
                headers::apply(&mut fields, &numbers.unwrap_or_default(), &SHOWN);
                std::hint::black_box(&fields);
            }
            std::hint::black_box(&numbers);
        }
    }

    /// Steps through the keys so that neighbours in time are no neighbours in memory.
    fn index(&self, round: u32) -> u32 {
        round.wrapping_mul(2_654_435_761) % self.keys
    }
}

fn snapshot(keys: u32) -> Arc<Snapshot> {
    let loaded = config::parse(GATEWAY, Path::new("gateway.toml"));
    let config = loaded.expect("the text below is valid").config;
    let built = build::build(Arc::new(config), &Contents::default(), 1);
    let mut snapshot = built.expect("the text below is whole").snapshot;
    snapshot.keys = KeyTable::build((0..keys).map(|index| {
        let digest = key_text::digest_of(key(index).as_bytes());
        (digest, key_entry(index))
    }));
    Arc::new(snapshot)
}

fn key_entry(index: u32) -> KeyEntry {
    KeyEntry {
        id: key_id(index),
        tenant: 0,
        plan: u32::MAX,
        expires: NEVER_EXPIRES,
        status: KeyStatus::Active,
        kind: KeyKind::Secret,
        environment: Environment(0),
        own: None,
        binding: None,
        scopes: Scopes::Inherit,
    }
}

fn head(key: &str) -> Parts {
    let request = Request::get("/leases/4711?page=2")
        .header("host", "api.example")
        .header("user-agent", "bench/1")
        .header("accept", "application/json")
        .header("authorization", format!("Bearer {key}"))
        .body(());
    request.expect("a valid request").into_parts().0
}

fn key(index: u32) -> String {
    key_text::make("fp", "live", &digits(index))
}

fn key_id(index: u32) -> KeyId {
    KeyId(digits(index))
}

fn digits<const LENGTH: usize>(index: u32) -> [u8; LENGTH] {
    let mut digits = [b'0'; LENGTH];
    let mut rest = index;
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
    }
    digits
}

fn now(micros: u64) -> Now {
    Now {
        mono: Mono(1_000_000_000 + micros),
        wall: Wall(1_700_000_000_000_000 + micros),
    }
}

/// `charge`: one key's quota and burst. `both`: a tenant's besides. `refuse`: no room. `headers`: a charge, then the fields of its answer.
/// `admit`: the whole gate, from a request's head to its admission, a charge within.
const CASES: [&str; 6] = ["charge", "both", "refuse", "headers", "admit", "usage"];

const USAGE: &str =
    "usage: hot_path --bench | --callgrind charge|both|refuse|headers|admit|usage KEYS";

const ROUNDS: u32 = 100_000;

const GATEWAY: &str = r#"
[listen]
https = ["127.0.0.1:8443"]

[tls]
certificate = "cert.pem"
private_key = "key.pem"

[plans.free]
quota = "1000000000/hour"
burst = "500/s"
scopes = ["*"]

[[tenants]]
id = "acme"
plan = "free"

[upstreams.legacy]
servers = ["http://127.0.0.1:3000"]

[[routes]]
path = "/leases/{id}"
methods = ["GET"]
scope = "leases:read"
upstream = "legacy"

[[routes]]
path = "/leases/{*rest}"
access = "any-key"
upstream = "legacy"

[[routes]]
path = "/status"
access = "public"
upstream = "legacy"
"#;
