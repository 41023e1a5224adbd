//! What one request costs in our own code: the charge and its header fields, with 1,000, 100,000 and 1,000,000 keys.

use http::HeaderMap;

use portcullis::clock::Clock;
use portcullis::clock::Mono;
use portcullis::clock::Now;
use portcullis::clock::Wall;
use portcullis::model::key::KeyId;
use portcullis::model::limit::Limits;
use portcullis::model::limit::Rate;
use portcullis::model::tenant::TenantId;
use portcullis::quota::Charge;
use portcullis::quota::Numbers;
use portcullis::quota::Quota;
use portcullis::quota::headers;
use portcullis::quota::headers::Shown;

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
        ["--callgrind", name, keys] => match keys.parse() {
            Ok(keys) => run_once(name, keys),
            Err(_) => refuse(),
        },
        _ => refuse(),
    }
}

fn refuse() {
    eprintln!("usage: hot_path [--callgrind charge|both|refuse|headers KEYS]");
    std::process::exit(2);
}

fn print_table() {
    println!("{:<10} {:>10} {:>10}", "case", "keys", "ns each");
    for name in CASES {
        for keys in [1_000, 100_000, 1_000_000] {
            let case = Case::new(name, keys);
            case.measured(ROUNDS);
            let clock = Clock::system();
            let start = clock.now().mono;
            case.measured(ROUNDS);
            let nanos = clock.now().mono.since(start).as_nanos();
            println!("{name:<10} {keys:>10} {:>10}", nanos / u128::from(ROUNDS));
        }
    }
}

/// For callgrind: sets up, then collects only what `measured` does.
fn run_once(name: &str, keys: u32) {
    let Some(name) = CASES.iter().find(|case| **case == name) else {
        return refuse();
    };
    Case::new(name, keys).measured(CALLGRIND_ROUNDS);
    println!("{name} {keys} keys: {CALLGRIND_ROUNDS} rounds");
}

struct Case {
    name: &'static str,
    quota: Quota,
    keys: u32,
    tenant: TenantId,
    limits: Limits,
}

const SHOWN: Shown = Shown {
    x: true,
    ietf: true,
    reset_as_delta: false,
};

impl Case {
    /// Every key has been charged once, so that every entry exists.
    fn new(name: &'static str, keys: u32) -> Case {
        let most = if name == "refuse" { 1 } else { 1_000_000_000 };
        let case = Case {
            name,
            quota: Quota::new(),
            keys,
            tenant: TenantId::new("acme").expect("a valid id"),
            limits: Limits {
                quota: Some(Rate {
                    count: most,
                    seconds: 3_600,
                }),
                burst: Some(Rate {
                    count: 500,
                    seconds: 1,
                }),
            },
        };
        for index in 0..keys {
            let _ = case.charge(key(index), 0);
        }
        let _ = case.quota.export();
        case
    }

    fn charge(&self, key: KeyId, micros: u64) -> Option<Numbers> {
        let charge = Charge {
            key: Some((key, &self.limits)),
            tenant: (self.name == "both").then_some((&self.tenant, &self.limits)),
            cost: 1,
        };
        self.quota.charge(&charge, now(micros)).ok()
    }

    /// Kept out of line, so that callgrind can be told to count this and nothing else.
    #[inline(never)]
    fn measured(&self, rounds: u32) {
        for round in 0..rounds {
            // Steps through the keys so that neighbours in time are no neighbours in memory.
            let index = round.wrapping_mul(2_654_435_761) % self.keys;
            // 2.1 ms between charges: a second of one subject's burst then always holds fewer than 500.
            let numbers = self.charge(key(index), u64::from(round) * 2_100);
            if self.name == "headers" {
                let mut fields = HeaderMap::new();
                headers::apply(&mut fields, &numbers.unwrap_or_default(), &SHOWN);
                std::hint::black_box(&fields);
            }
            std::hint::black_box(&numbers);
        }
    }
}

fn key(index: u32) -> KeyId {
    let mut id = *b"000000000000";
    let mut rest = index;
    for byte in id.iter_mut().rev() {
        *byte = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    KeyId(id)
}

fn now(micros: u64) -> Now {
    Now {
        mono: Mono(1_000_000_000 + micros),
        wall: Wall(1_700_000_000_000_000 + micros),
    }
}

/// `charge`: one key's quota and burst. `both`: a tenant's besides. `refuse`: no room. `headers`: a charge, then the fields of its answer.
const CASES: [&str; 4] = ["charge", "both", "refuse", "headers"];

const ROUNDS: u32 = 1_000_000;

const CALLGRIND_ROUNDS: u32 = 50_000;
