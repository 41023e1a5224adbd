//! What an access token costs at the gate: verified by each algorithm, remembered beside an API key, and how often it is remembered.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature;
use aws_lc_rs::signature::EcdsaKeyPair;
use aws_lc_rs::signature::Ed25519KeyPair;
use aws_lc_rs::signature::KeyPair;
use aws_lc_rs::signature::RsaKeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use serde_json::Value;
use serde_json::json;

use portcullis::clock::Clock;
use portcullis::model::credential::Kind;
use portcullis::snapshot::Snapshot;

use setup::Gate;
use setup::now;

mod setup;

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
        // Made just before they are judged, as requests are read just before: all of them at once would fill no cache that a machine has.
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
    let texts: Vec<String> = (0..in_use).map(|user| case.signer.token(user)).collect();
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
        case.admit(&mut setup::head(PATH, text), 0);
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
        let signer = Signer::new(match name {
            "key" | "key-alone" | "cached" | "session" => "RS256",
            algorithm => algorithm,
        });
        let (texts, rounds): (Vec<String>, u32) = match name {
            "key" | "key-alone" => ((0..CREDENTIALS).map(setup::key).collect(), ROUNDS),
            "cached" | "session" => (
                (0..CREDENTIALS).map(|user| signer.token(user)).collect(),
                ROUNDS,
            ),
            _ => (
                (0..VERIFIED).map(|user| signer.token(user)).collect(),
                VERIFIED,
            ),
        };
        let sessions = if name == "session" { SESSIONS } else { "" };
        let config = setup::config(&[setup::ACME, sessions, ISSUERS_AND_ROUTES]);
        let case = Case {
            name,
            gate: Gate::new(),
            snapshot: setup::snapshot(config, CREDENTIALS),
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
            let set = json!({ "keys": [case.signer.jwk()] }).to_string();
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
            "session" => {
                let cookie = format!("__Host-session={text}");
                setup::head_with(self.path, "cookie", &cookie)
            }
            _ => setup::head(self.path, text),
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
        self.gate.admit(&self.snapshot, head, now(micros));
    }
}

struct Signer {
    algorithm: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    fn new(algorithm: &'static str) -> Signer {
        let ec = |of| Pair::Ec(EcdsaKeyPair::generate(of).expect("a key"));
        let pair = match algorithm {
            "ES256" => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            "Ed25519" => Pair::Ed(Ed25519KeyPair::generate().expect("a key")),
            _ => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")),
        };
        Signer { algorithm, pair }
    }

    fn jwk(&self) -> Value {
        let alg = self.alg();
        match &self.pair {
            Pair::Rsa(pair) => {
                let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
                let (n, e) = (
                    b64(n.big_endian_without_leading_zero()),
                    b64(e.big_endian_without_leading_zero()),
                );
                json!({ "kid": "1", "alg": alg, "kty": "RSA", "n": n, "e": e })
            }
            Pair::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let crv = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({ "kid": "1", "alg": alg, "kty": "EC", "crv": crv, "x": b64(x), "y": b64(y) })
            }
            Pair::Ed(pair) => {
                let x = b64(pair.public_key().as_ref());
                json!({ "kid": "1", "alg": alg, "kty": "OKP", "crv": "Ed25519", "x": x })
            }
        }
    }

    fn alg(&self) -> &'static str {
        match self.algorithm {
            "Ed25519" => "EdDSA",
            other => other,
        }
    }

    /// What an identity provider issues to this user.
    fn token(&self, user: u32) -> String {
        let header = json!({ "alg": self.alg(), "kid": "1", "typ": "at+jwt" });
        let issued = now(0).wall.unix_seconds();
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": format!("user-{user}"), "client_id": "app-1", "tenant": "acme",
            "scope": "leases:read leases:write", "iat": issued, "exp": issued + 3_600, "jti": format!("{user:016x}"),
        });
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = b64(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let padding: &'static dyn signature::RsaEncoding = match self.algorithm {
                    "PS256" => &signature::RSA_PSS_SHA256,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let signed = pair.sign(padding, &random, message, &mut signature);
                signed.expect("a signature");
                signature
            }
            Pair::Ec(pair) => {
                let signed = pair.sign(&random, message).expect("a signature");
                signed.as_ref().to_vec()
            }
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// `key-alone`: a key on a route that takes nothing else. `key`: on one that takes tokens too. `cached`: a token that is remembered. `session`: one in
/// a cookie. The others: tokens that nobody has seen before, by their algorithm.
const CASES: [&str; 9] = [
    "key-alone",
    "key",
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

/// How many requests are timed together; the clock counts microseconds.
const BATCH: usize = 64;
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
