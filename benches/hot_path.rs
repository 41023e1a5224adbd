//! What one request costs in our own code: admission, the charge in it and the header fields of its answer, by number of keys.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::request::Parts;

use portcullis::clock::Clock;
use portcullis::model::limit::Limits;
use portcullis::model::limit::Rate;
use portcullis::model::tenant::TenantId;
use portcullis::quota::Charge;
use portcullis::quota::Numbers;
use portcullis::quota::headers;
use portcullis::quota::headers::Shown;
use portcullis::snapshot::Snapshot;
use portcullis::usage::Usage;

use setup::Gate;
use setup::key;
use setup::key_id;
use setup::now;

mod setup;

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
    gate: Gate,
    usage: Usage,
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
        let untold = "[alerts]\nlimit_percent = 0\n";
        let (told, known) = match name {
            "admit" => ("", keys),
            "untold" => (untold, keys),
            _ => ("", 0),
        };
        let config = setup::config(&[setup::ACME, setup::LEASES, ROUTES, told]);
        let case = Case {
            name,
            gate: Gate::new(),
            usage: Usage::new(),
            snapshot: setup::snapshot(config, known),
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
        self.gate.quota.charge(&charge, now(self.micros)).ok()
    }

    /// The requests of one run.
    fn heads(&self) -> Vec<Parts> {
        if !matches!(self.name, "admit" | "untold") {
            return Vec::new();
        }
        (0..ROUNDS)
            .map(|round| setup::head("/leases/4711?page=2", &key(self.index(round))))
            .collect()
    }

    /// The same once, uncounted: memory that grows once grows here. Then the counters are exported as at every flush interval.
    fn warm(&mut self) {
        let mut heads = self.heads();
        self.run(&mut heads);
        // Leaked: the allocator would tidy up a million freed pieces within `measured`.
        std::mem::forget(self.gate.quota.export());
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
                let at = now(self.micros);
                self.gate.admit(&self.snapshot, head, at);
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

    fn index(&self, round: u32) -> u32 {
        setup::spread(round, self.keys)
    }
}

/// `charge`: one key's quota and burst. `both`: a tenant's besides. `refuse`: no room. `headers`: a charge, then the fields of its answer.
/// `admit`: the whole gate, from a request's head to its admission, a charge within. `untold`: the same where nobody wants to hear of limits that
/// are nearly reached. `usage`: what one request counts for its key.
const CASES: [&str; 7] = [
    "charge", "both", "refuse", "headers", "admit", "untold", "usage",
];

const USAGE: &str =
    "usage: hot_path --bench | --callgrind charge|both|refuse|headers|admit|untold|usage KEYS";

const ROUNDS: u32 = 100_000;

const ROUTES: &str = r#"
[[routes]]
path = "/leases/{*rest}"
access = "any-key"
upstream = "legacy"

[[routes]]
path = "/status"
access = "public"
upstream = "legacy"
"#;
