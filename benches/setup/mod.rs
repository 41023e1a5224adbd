//! What the benchmarks of the gate and of the store set up alike: keys, a view with them, the head of a request, a time.

#![allow(dead_code, reason = "each benchmark takes a part of it")]

use std::path::Path;
use std::sync::Arc;

use http::Request;
use http::request::Parts;

use portcullis::alerts::Alerts;
use portcullis::clock::Mono;
use portcullis::clock::Now;
use portcullis::clock::Wall;
use portcullis::config;
use portcullis::config::Config;
use portcullis::gate;
use portcullis::gate::Admission;
use portcullis::gate::Early;
use portcullis::gate::Means;
use portcullis::gate::Peer;
use portcullis::gate::Via;
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
use portcullis::token::Patience;
use portcullis::token::Tokens;

/// What every file here begins with: a plan that lets everything through that a benchmark sends.
const BEGINNING: &str = r#"
[listen]
https = ["127.0.0.1:8443"]

[tls]
certificate = "cert.pem"
private_key = "key.pem"

[plans.free]
quota = "1000000000/hour"
burst = "500/s"
scopes = ["*"]

[upstreams.legacy]
servers = ["http://127.0.0.1:3000"]
"#;

/// A tenant of the file, for who has no store.
pub(crate) const ACME: &str = r#"
[[tenants]]
id = "acme"
plan = "free"
"#;

/// The route that most requests take.
pub(crate) const LEASES: &str = r#"
[[routes]]
path = "/leases/{id}"
methods = ["GET"]
scope = "leases:read"
upstream = "legacy"
"#;

/// A configuration of these parts.
pub(crate) fn config(parts: &[&str]) -> Arc<Config> {
    let text = format!("{BEGINNING}{}", parts.concat());
    let loaded = config::parse(&text, Path::new("gateway.toml"));
    Arc::new(loaded.expect("its parts are valid").config)
}

/// A view of this configuration with so many keys of its first tenant.
pub(crate) fn snapshot(config: Arc<Config>, keys: u32) -> Arc<Snapshot> {
    let built = build::build(config, &Contents::default(), 1);
    let mut snapshot = built.expect("the configuration is whole").snapshot;
    snapshot.keys = KeyTable::build((0..keys).map(|index| (digest(index), entry(index, 0))));
    Arc::new(snapshot)
}

pub(crate) fn entry(index: u32, tenant: u32) -> KeyEntry {
    KeyEntry {
        id: key_id(index),
        tenant,
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

pub(crate) fn key(index: u32) -> String {
    key_text::make("fp", "live", &digits(index))
}

pub(crate) fn key_id(index: u32) -> KeyId {
    KeyId(digits(index))
}

pub(crate) fn digest(index: u32) -> Digest {
    key_text::digest_of(key(index).as_bytes())
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

/// Steps through so many, each once before any comes again, so that neighbours in time are no neighbours in memory.
pub(crate) fn spread(round: u32, of: u32) -> u32 {
    (u64::from(round) * 2_654_435_761 % u64::from(of)) as u32
}

/// The head of a request; made beforehand, since hyper's parsing is not ours to measure.
pub(crate) fn head(path: &str, credential: &str) -> Parts {
    head_with(path, "authorization", &format!("Bearer {credential}"))
}

/// The same, with what it presents in this field.
pub(crate) fn head_with(path: &str, field: &str, presented: &str) -> Parts {
    let request = Request::get(path)
        .header("host", "api.example")
        .header("user-agent", "bench/1")
        .header("accept", "application/json")
        .header(field, presented)
        .body(());
    request.expect("a valid request").into_parts().0
}

/// So long after the start.
pub(crate) fn now(micros: u64) -> Now {
    Now {
        mono: Mono(1_000_000_000 + micros),
        wall: Wall(1_700_000_000_000_000 + micros),
    }
}

/// What the gate works with.
pub(crate) struct Gate {
    pub(crate) quota: Quota,
    pub(crate) tokens: Tokens,
    alerts: Alerts,
}

impl Gate {
    pub(crate) fn new() -> Gate {
        Gate {
            quota: Quota::new(),
            tokens: Tokens::new(),
            alerts: Alerts::queue().0,
        }
    }

    /// Has a request admitted, which must succeed.
    #[inline(always)]
    pub(crate) fn admit(
        &self,
        snapshot: &Arc<Snapshot>,
        head: &mut Parts,
        now: Now,
    ) -> Box<Admission> {
        let peer = Peer {
            address: ([192, 0, 2, 7], 50_000).into(),
            local: ([198, 51, 100, 1], 8_443).into(),
            via: Via::Direct,
        };
        let early = Early::of(&head.headers);
        early.iter().for_each(|early| early.look_out(snapshot));
        let means = Means {
            quota: &self.quota,
            tokens: &self.tokens,
            alerts: &self.alerts,
            patience: Patience::Fresh,
            charged: None,
            early: early.as_ref(),
        };
        let outcome = gate::admit(snapshot, &means, now, &peer, head);
        outcome.expect("it is admitted")
    }
}
