//! What an access token costs at the gate: verified by each algorithm, remembered beside an API key, and how often it is remembered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http::HeaderValue;
use http::Request;
use http::Uri;
use http::header;
use http::request::Parts;
use serde_json::json;
use tikv_jemallocator::Jemalloc;

use portcullis::clock::Clock;
use portcullis::config::Config;
use portcullis::model::binding::Binding;
use portcullis::model::credential::Kind;
use portcullis::model::scope::Scope;
use portcullis::model::scope::Scopes;
use portcullis::snapshot::KeyEntry;
use portcullis::snapshot::Snapshot;
use portcullis::snapshot::key_table::KeyTable;

use setup::Gate;
use setup::now;
use signer::Signer;
use signer::jwks;

mod setup;
#[path = "../tests/gateway/support/signer.rs"]
#[allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "part of the tests' harness, of which a benchmark takes some"
)]
mod signer;

/// The gateway's own: what a token allocates costs here what it costs there.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        // What `cargo bench` passes. `cargo test --all-targets` passes nothing, and must not wait for a table.
        ["--bench"] => print_tables(),
        ["--callgrind", name] if CASES.contains(&name) => run_once(name),
        _ => println!("usage: tokens --bench | --callgrind {}", CASES.join("|")),
    }
}

fn print_tables() {
    println!("{:<12} {:>10}", "case", "ns each");
    for name in CASES {
        let case = Case::new(name);
        let clock = Clock::system();
        let mut nanos = 0;
        // Made just before they are judged, as requests are read just before: all of them at once would fit no cache that a machine has.
        for first in (0..case.rounds).step_by(BATCH) {
            let mut heads = case.heads(first, BATCH as u32);
            let start = clock.now().mono;
            case.measured(first, &mut heads);
            nanos += clock.now().mono.since(start).as_nanos();
        }
        println!("{name:<12} {:>10}", nanos / u128::from(case.rounds));
    }
    println!("\n{:>14} {:>10}", "tokens in use", "remembered");
    for in_use in [1_000, 10_000, 12_000, 20_000, 100_000] {
        println!("{in_use:>14} {:>9.1}%", hit_rate(in_use));
    }
}

/// For callgrind: sets up, warms up, and then does in `measured` what is to be counted.
fn run_once(name: &str) {
    let name = CASES.iter().find(|case| **case == name);
    let case = Case::new(name.expect("it was looked for"));
    let mut heads = case.heads(0, case.rounds);
    case.measured(0, &mut heads);
    println!("{}: {} rounds", case.name, case.rounds);
}

/// How many of a hundred requests find their token remembered, when this many tokens of as many users are in use at the default `cached_max`, and
/// any of them comes next.
fn hit_rate(in_use: u32) -> f64 {
    let case = Case::new("Ed25519");
    let texts: Vec<String> = (0..in_use).map(|user| token(&case.signer, user)).collect();
    let mut hits = 0;
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % u64::from(in_use)) as usize
    };
    let requests = 200_000;
    for request in 0..2 * requests {
        let text = &texts[next()];
        let mark = case.gate.tokens.mark(text.as_bytes()).expect("a mark");
        let found = (case.gate.tokens).recall(&case.snapshot, &mark, Kind::Jwt, now(0));
        // The first half fills it.
        hits += u32::from(request >= requests && matches!(found, Ok(Some(_))));
        case.admit(&mut case.head(text), 0);
    }
    f64::from(hits) * 100.0 / f64::from(requests)
}

struct Case {
    name: &'static str,
    gate: Gate,
    snapshot: Arc<Snapshot>,
    signer: Signer,
    path: &'static str,
    /// What is presented, in turn.
    texts: Vec<String>,
    rounds: u32,
}

impl Case {
    /// Keys and remembered tokens have been presented once before.
    fn new(name: &'static str) -> Case {
        let signer = signer(name);
        let (texts, rounds): (Vec<String>, u32) = match name {
            "key" | "key-alone" | "key-of-user" => {
                ((0..CREDENTIALS).map(setup::key).collect(), ROUNDS)
            }
            "cached" | "session" => (
                (0..CREDENTIALS).map(|user| token(&signer, user)).collect(),
                ROUNDS,
            ),
            _ => (
                (0..VERIFIED).map(|user| token(&signer, user)).collect(),
                VERIFIED,
            ),
        };
        let sessions = if name == "session" { SESSIONS } else { "" };
        let config = setup::config(&[setup::ACME, sessions, ISSUERS_AND_ROUTES]);
        let case = Case {
            name,
            gate: Gate::new(),
            snapshot: match name {
                "key-of-user" => with_keys_of_users(config),
                _ => setup::snapshot(config, CREDENTIALS),
            },
            signer,
            path: match name {
                "key-alone" => "/keys/4711?page=2",
                "session" => "/pages/4711?page=2",
                _ => PATH,
            },
            texts,
            rounds,
        };
        let issuers = case.gate.tokens.issuers();
        for keys in issuers.keep(&case.snapshot.config.issuers) {
            assert!(keys.begin(now(0).mono, Duration::from_secs(1)));
            let set = jwks(&[&case.signer]);
            assert_eq!(keys.end(Some(set.as_bytes())), Ok(true));
        }
        if rounds == ROUNDS {
            for text in &case.texts {
                case.admit(&mut case.head(text), 0);
            }
        }
        case
    }

    /// The requests of some rounds.
    fn heads(&self, first: u32, count: u32) -> Vec<Parts> {
        let texts = self.texts.len() as u32;
        let rounds = first..self.rounds.min(first + count);
        let heads = rounds.map(|round| {
            let index = match self.rounds == texts {
                // Each once.
                true => round,
                false => setup::spread(round, texts),
            };
            self.head(&self.texts[index as usize])
        });
        heads.collect()
    }

    fn head(&self, text: &str) -> Parts {
        match self.name {
            "session" => head(self.path, header::COOKIE, "__Host-session=", text),
            _ => head(self.path, header::AUTHORIZATION, "Bearer ", text),
        }
    }

    /// Kept out of line, so that callgrind can be told to count this and nothing else.
    #[inline(never)]
    fn measured(&self, first: u32, heads: &mut [Parts]) {
        for (round, head) in (u64::from(first)..).zip(heads) {
            self.admit(head, 2_100 * round);
        }
    }

    #[inline(always)]
    fn admit(&self, head: &mut Parts, micros: u64) {
        let admission = self.gate.admit(&self.snapshot, head, now(micros));
        std::hint::black_box(&admission);
    }
}

/// The head of a request as a connection makes it: all its texts are parts of what was read in one piece, and none is copied.
fn head(path: &str, field: HeaderName, word: &str, text: &str) -> Parts {
    let texts = [
        path,
        "api.example",
        "bench/1",
        "application/json",
        word,
        text,
    ];
    let read = Bytes::from(texts.concat());
    let mut end = 0;
    let [target, host, agent, accept] = [path, texts[1], texts[2], texts[3]].map(|text| {
        end += text.len();
        read.slice(end - text.len()..end)
    });
    let value = |text| HeaderValue::from_maybe_shared(text).expect("a value");
    let request = Request::get(Uri::from_maybe_shared(target).expect("a path"))
        .header(header::HOST, value(host))
        .header(header::USER_AGENT, value(agent))
        .header(header::ACCEPT, value(accept))
        .header(field, value(read.slice(end..)))
        .body(());
    request.expect("a valid request").into_parts().0
}

/// Keys that say as much as tokens do: whom each acts for, and what each may do.
fn with_keys_of_users(config: Arc<Config>) -> Arc<Snapshot> {
    let mut snapshot = setup::snapshot(config, 0);
    let scopes: Vec<Scope> = ["leases:read", "leases:write"]
        .into_iter()
        .map(|scope| Scope::new(scope).expect("a scope"))
        .collect();
    let scopes = Scopes::Listed(scopes.into());
    let keys = (0..CREDENTIALS).map(|user| {
        let binding = Binding {
            subject: Some(format!("user-{user}").into()),
            ..Binding::default()
        };
        let entry = KeyEntry {
            binding: Some(Box::new(binding)),
            scopes: scopes.clone(),
            ..setup::entry(user, 0)
        };
        (setup::digest(user), entry)
    });
    Arc::get_mut(&mut snapshot)
        .expect("nobody else has it")
        .keys = KeyTable::build(keys);
    snapshot
}

/// What signs the tokens of this case.
fn signer(name: &str) -> Signer {
    match name {
        "PS256" => Signer::rsa_for("PS256"),
        "ES256" => Signer::new("ES256", "1"),
        "ES384" => Signer::new("ES384", "1"),
        "Ed25519" => Signer::new("EdDSA", "1"),
        _ => Signer::rsa_for("RS256"),
    }
}

/// What an identity provider issues to this user.
fn token(signer: &Signer, user: u32) -> String {
    let issued = now(0).wall.unix_seconds();
    signer.token(&json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": format!("user-{user}"), "client_id": "app-1", "tenant": "acme",
        "scope": "leases:read leases:write", "iat": issued, "exp": issued + 3_600, "jti": format!("{user:016x}"),
    }))
}

/// `key-alone`: a key on a route that takes nothing else. `key`: on one that takes tokens too. `key-of-user`: one that has a user and scopes of its
/// own, as a token has. `cached`: a token that is remembered. `session`: one in a cookie. The others: tokens that nobody has seen before, by
/// their algorithm.
const CASES: [&str; 10] = [
    "key-alone",
    "key",
    "key-of-user",
    "cached",
    "session",
    "RS256",
    "PS256",
    "ES256",
    "ES384",
    "Ed25519",
];

const CREDENTIALS: u32 = 1_000;
const ROUNDS: u32 = 20_000;
const VERIFIED: u32 = 2_000;

/// How many requests are timed together; the clock counts microseconds. So few that their heads lie in the first cache, where a connection has just
/// written what it judges next.
const BATCH: usize = 8;
const PATH: &str = "/leases/4711?page=2";
const ISSUER: &str = "https://auth.example.org";
const AUDIENCE: &str = "https://api.example.org";

const SESSIONS: &str = r#"
[sessions]
cookie = "__Host-session"

[[routes]]
path = "/pages/{id}"
methods = ["GET"]
scope = "leases:read"
credentials = ["key", "session"]
upstream = "legacy"
"#;

const ISSUERS_AND_ROUTES: &str = r#"
[issuers.main]
issuer = "https://auth.example.org"
audience = ["https://api.example.org"]
jwks_file = "jwks.json"
algorithms = ["RS256", "PS256", "ES256", "ES384", "EdDSA"]
credentials = ["jwt", "session"]

[[routes]]
path = "/leases/{id}"
methods = ["GET"]
scope = "leases:read"
credentials = ["key", "jwt"]
upstream = "legacy"

[[routes]]
path = "/keys/{id}"
methods = ["GET"]
scope = "leases:read"
upstream = "legacy"
"#;
