//! What an access token costs at the gate: verified by each algorithm, remembered beside an API key, and how often it is remembered.

use std::path::Path;
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
use http::Request;
use http::request::Parts;
use serde_json::Value;
use serde_json::json;

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
use portcullis::model::credential::Kind;
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
use portcullis::token::Patience;
use portcullis::token::Tokens;

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
        let mut case = Case::new(name);
        let mut heads = case.heads();
        let rounds = heads.len() as u128;
        let clock = Clock::system();
        let start = clock.now().mono;
        case.measured(&mut heads);
        let nanos = clock.now().mono.since(start).as_nanos();
        println!("{name:<12} {:>10}", nanos / rounds);
    }
    println!("\n{:>14} {:>10}", "tokens in use", "remembered");
    for in_use in [1_000, 10_000, 12_000, 20_000, 100_000] {
        println!("{in_use:>14} {:>9.1}%", hit_rate(in_use));
    }
}

/// For callgrind: sets up, warms up, and then does in `measured` what is to be counted.
fn run_once(name: &str) {
    let name = CASES.iter().find(|case| **case == name);
    let mut case = Case::new(name.expect("it was looked for"));
    let mut heads = case.heads();
    let rounds = heads.len();
    case.measured(&mut heads);
    println!("{name:?}: {rounds} rounds");
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
        let digest = key_text::digest_of(text.as_bytes());
        let found = (case.tokens).recall(&case.snapshot, &digest, Kind::Jwt, now(0));
        // The first half fills it.
        hits += u32::from(request >= requests && matches!(found, Ok(Some(_))));
        case.admit(&mut head(text), 0);
    }
    f64::from(hits) * 100.0 / f64::from(requests)
}

struct Case {
    name: &'static str,
    alerts: Alerts,
    quota: Quota,
    tokens: Tokens,
    snapshot: Arc<Snapshot>,
    signer: Signer,
}

impl Case {
    fn new(name: &'static str) -> Case {
        let signer = Signer::new(match name {
            "key" | "key-alone" | "cached" => "RS256",
            algorithm => algorithm,
        });
        let case = Case {
            name,
            alerts: Alerts::queue().0,
            quota: Quota::new(),
            tokens: Tokens::new(),
            snapshot: snapshot(),
            signer,
        };
        for keys in case.tokens.issuers().keep(&case.snapshot.config.issuers) {
            assert!(keys.begin(now(0).mono, Duration::from_secs(1)));
            let set = json!({ "keys": [case.signer.jwk()] }).to_string();
            assert_eq!(keys.end(Some(set.as_bytes())), Ok(true));
        }
        case
    }

    /// The requests of one run; made beforehand. Those of keys and remembered tokens have been made once before.
    fn heads(&self) -> Vec<Parts> {
        let texts = |count: u32, text: &dyn Fn(u32) -> String| -> Vec<String> {
            (0..count).map(text).collect()
        };
        let (texts, rounds) = match self.name {
            "key" | "key-alone" => (texts(CREDENTIALS, &key), ROUNDS),
            "cached" => (texts(CREDENTIALS, &|user| self.signer.token(user)), ROUNDS),
            _ => {
                let texts = texts(VERIFIED, &|user| self.signer.token(user));
                return texts.iter().map(|text| head(text)).collect();
            }
        };
        let path = if self.name == "key-alone" {
            "/keys/4711?page=2"
        } else {
            PATH
        };
        for text in &texts {
            self.admit(&mut head_of(path, text), 0);
        }
        let heads = (0..rounds).map(|round| {
            // Neighbours in time are no neighbours in memory.
            let index = round.wrapping_mul(2_654_435_761) % CREDENTIALS;
            head_of(path, &texts[index as usize])
        });
        heads.collect()
    }

    /// Kept out of line, so that callgrind can be told to count this and nothing else.
    #[inline(never)]
    fn measured(&mut self, heads: &mut [Parts]) {
        for (round, head) in (0..).zip(heads) {
            self.admit(head, 2_100 * round);
        }
    }

    fn admit(&self, head: &mut Parts, micros: u64) {
        let peer = Peer {
            address: ([192, 0, 2, 7], 50_000).into(),
            local: ([198, 51, 100, 1], 8_443).into(),
            via: Via::Direct,
        };
        let means = Means {
            quota: &self.quota,
            tokens: &self.tokens,
            alerts: &self.alerts,
            patience: Patience::Fresh,
            charged: None,
        };
        let outcome = gate::admit(&self.snapshot, &means, now(micros), &peer, head);
        assert!(outcome.is_ok(), "{}: {outcome:?}", self.name);
        std::hint::black_box(&outcome);
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

fn snapshot() -> Arc<Snapshot> {
    let loaded = config::parse(GATEWAY, Path::new("gateway.toml"));
    let config = loaded.expect("the text below is valid").config;
    let built = build::build(Arc::new(config), &Contents::default(), 1);
    let mut snapshot = built.expect("the text below is whole").snapshot;
    snapshot.keys = KeyTable::build((0..CREDENTIALS).map(|index| {
        let digest = key_text::digest_of(key(index).as_bytes());
        let entry = KeyEntry {
            id: KeyId(digits(index)),
            tenant: 0,
            plan: u32::MAX,
            expires: NEVER_EXPIRES,
            status: KeyStatus::Active,
            kind: KeyKind::Secret,
            environment: Environment(0),
            own: None,
            binding: None,
            scopes: Scopes::Inherit,
        };
        (digest, entry)
    }));
    Arc::new(snapshot)
}

fn head(credential: &str) -> Parts {
    head_of(PATH, credential)
}

fn head_of(path: &str, credential: &str) -> Parts {
    let request = Request::get(path)
        .header("host", "api.example")
        .header("user-agent", "bench/1")
        .header("accept", "application/json")
        .header("authorization", format!("Bearer {credential}"))
        .body(());
    request.expect("a valid request").into_parts().0
}

fn key(index: u32) -> String {
    key_text::make("fp", "live", &digits(index))
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

/// `key-alone`: a key on a route that takes nothing else. `key`: on one that takes tokens too. `cached`: a token that is remembered. The others:
/// tokens that nobody has seen before, by their algorithm.
const CASES: [&str; 8] = [
    "key-alone",
    "key",
    "cached",
    "RS256",
    "PS256",
    "ES256",
    "ES384",
    "Ed25519",
];

const CREDENTIALS: u32 = 1_000;
const ROUNDS: u32 = 20_000;
const VERIFIED: u32 = 2_000;
const PATH: &str = "/leases/4711?page=2";
const ISSUER: &str = "https://auth.example.org";
const AUDIENCE: &str = "https://api.example.org";

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

[issuers.main]
issuer = "https://auth.example.org"
audience = ["https://api.example.org"]
jwks_file = "jwks.json"
algorithms = ["RS256", "PS256", "ES256", "ES384", "EdDSA"]

[upstreams.legacy]
servers = ["http://127.0.0.1:3000"]

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
