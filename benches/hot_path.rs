//! What one request costs in our own code: admission, the charge in it and the header fields of its answer, by number of keys.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::request::Parts;

use portcullis::clock::Clock;
use portcullis::model::limit::Limits;
use portcullis::model::limit::Rate;
use portcullis::model::seat::SeatHint;
use portcullis::model::tenant::TenantId;
use portcullis::quota::Charge;
use portcullis::quota::Hints;
use portcullis::quota::Numbers;
use portcullis::quota::headers;
use portcullis::quota::headers::Shown;
use portcullis::snapshot::Snapshot;
use portcullis::usage::Usage;

use tikv_jemallocator::Jemalloc;

use setup::Gate;
use setup::key;
use setup::key_id;
use setup::now;

mod setup;

/// As the gateway's.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        // What `cargo bench` passes. `cargo test --all-targets` passes nothing, and must not wait for a table.
        ["--bench"] => print_table(&CASES, &[1_000, 100_000, 1_000_000], 1),
        [name, keys, "--bench"] => match parsed(name, keys) {
            Some((name, keys)) => print_table(&[name], &[keys], 9),
            None => refuse(),
        },
        [] => println!("{USAGE}"),
        ["--callgrind", name, keys] => run_once(name, keys),
        _ => refuse(),
    }
}

fn refuse() {
    eprintln!("{USAGE}");
    std::process::exit(2);
}

fn print_table(cases: &[&'static str], keys: &[u32], times: u32) {
    println!("{:<10} {:>10} {:>10}", "case", "keys", "ns each");
    for &name in cases {
        for &keys in keys {
            let mut case = Case::new(name, keys);
            // Every key has its turn before any has its second: what is measured then is what was not touched for longest.
            let turn = keys.max(ROUNDS);
            case.timed(0, turn);
            case.flushed();
            for time in 0..times {
                let nanos = case.timed(turn + time * ROUNDS, ROUNDS);
                println!("{name:<10} {keys:>10} {:>10}", nanos / u128::from(ROUNDS));
            }
        }
    }
}

/// For callgrind: sets up, warms up, and then does in `measured` what is to be counted.
fn run_once(name: &str, keys: &str) {
    let Some((name, keys)) = parsed(name, keys) else {
        return refuse();
    };
    let mut case = Case::new(name, keys);
    case.warm();
    let mut heads = case.heads(0, ROUNDS);
    case.measured(0, ROUNDS, &mut heads);
    println!("{name} {keys} keys: {ROUNDS} rounds");
}

fn parsed(name: &str, keys: &str) -> Option<(&'static str, u32)> {
    let name = CASES.into_iter().find(|case| *case == name)?;
    Some((name, keys.parse().ok()?))
}

struct Case {
    name: &'static str,
    gate: Gate,
    usage: Usage,
    /// By key, as rows keep them.
    seats: Vec<SeatHint>,
    tenant_seat: SeatHint,
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
            "admit" | "request" => ("", keys),
            "untold" => (untold, keys),
            _ => ("", 0),
        };
        let config = setup::config(&[setup::ACME, setup::LEASES, ROUTES, told]);
        let gate = Gate::new();
        let case = Case {
            name,
            usage: Usage::new(&gate.quota),
            gate,
            seats: (0..keys).map(|_| SeatHint::default()).collect(),
            tenant_seat: SeatHint::default(),
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
        let hints = Hints {
            key: &self.seats[index as usize],
            tenant: &self.tenant_seat,
        };
        (self.gate.quota)
            .charge_at(&charge, hints, now(self.micros))
            .ok()
    }

    /// The requests of so many rounds.
    fn heads(&self, first: u32, rounds: u32) -> Vec<Parts> {
        if !matches!(self.name, "admit" | "untold" | "request") {
            return Vec::new();
        }
        (first..first + rounds)
            .map(|round| setup::head("/leases/4711?page=2", &key(self.index(round))))
            .collect()
    }

    /// The same once, uncounted: memory that grows once grows here. Then the counters are exported as at every flush interval.
    fn warm(&mut self) {
        let mut heads = self.heads(0, ROUNDS);
        self.run(0, ROUNDS, &mut heads);
        self.flushed();
    }

    fn flushed(&self) {
        // Leaked: the allocator would tidy up a million freed pieces within `measured`.
        let mut changes = self.gate.quota.export(now(self.micros));
        self.usage.take(&mut changes.counted);
        std::mem::forget(changes);
    }

    /// Nanoseconds that these rounds take. Heads are made just before they are judged, as requests are read just before: all of them at once would fit
    /// no cache, and one would wait for them instead of for what is known of keys.
    fn timed(&mut self, first: u32, rounds: u32) -> u128 {
        let clock = Clock::system();
        let mut nanos = 0;
        for first in (first..first + rounds).step_by(BATCH as usize) {
            let mut heads = self.heads(first, BATCH);
            let start = clock.now().mono;
            self.measured(first, BATCH, &mut heads);
            nanos += clock.now().mono.since(start).as_nanos();
        }
        nanos
    }

    /// Kept out of line, so that callgrind can be told to count this and nothing else.
    #[inline(never)]
    fn measured(&mut self, first: u32, rounds: u32, heads: &mut [Parts]) {
        self.run(first, rounds, heads);
    }

    #[inline(always)]
    fn run(&mut self, first: u32, rounds: u32, heads: &mut [Parts]) {
        for round in first..first + rounds {
            // A second of one subject's burst then always holds fewer than 500.
            self.micros += 2_100;
            if let Some(head) = heads.get_mut((round - first) as usize) {
                let at = now(self.micros);
                let admission = self.gate.admit(&self.snapshot, head, at);
                if self.name == "request" {
                    let known = admission.principal().expect("a key");
                    let usage = &self.usage;
                    let request = usage.admitted(known.reported(), known.seat(), at.wall);
                    usage.ended(&request, 200, Duration::from_millis(3), 0, 512);
                }
                std::hint::black_box(&admission);
                continue;
            }
            if self.name == "usage" {
                let at = now(self.micros).wall;
                let index = self.index(round);
                let seat = self.seats[index as usize].number();
                let request = self.usage.admitted(key_id(index), seat, at);
                (self.usage).ended(&request, 200, Duration::from_millis(3), 0, 512);
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
/// are nearly reached. `usage`: what one request counts for its key. `request`: `admit` and `usage`, which is all that is looked up of a known key.
const CASES: [&str; 8] = [
    "charge", "both", "refuse", "headers", "admit", "untold", "usage", "request",
];

const USAGE: &str = "usage: hot_path [CASE KEYS] --bench | --callgrind CASE KEYS; CASE: charge, both, refuse, headers, admit, untold, usage, request";

const ROUNDS: u32 = 100_000;

/// Heads that are made at a time; all numbers of rounds can be divided by it.
const BATCH: u32 = 8;

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
