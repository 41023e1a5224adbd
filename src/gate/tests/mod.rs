//! The gate seen from outside: snapshots built by hand, requests as the edge hands them over.

mod keys;
mod limits;
mod order;
mod style;

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use http::Request;
use http::Uri;
use http::header;
use http::request::Parts;

use crate::alerts::Alerts;
use crate::clock::Now;
use crate::clock::Wall;
use crate::config::Config;
use crate::config::Upstream;
use crate::gate::Admission;
use crate::gate::Early;
use crate::gate::Means;
use crate::gate::Peer;
use crate::gate::Refused;
use crate::gate::Via;
use crate::gate::admit;
use crate::model::isolation::Isolation;
use crate::model::key::Environment;
use crate::model::key::KeyId;
use crate::model::key::KeyKind;
use crate::model::key::KeyStatus;
use crate::model::key_text;
use crate::model::limit::Limits;
use crate::model::limit::Mode;
use crate::model::limit::Rate;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::model::route::RouteTable;
use crate::model::scope::Scope;
use crate::model::scope::ScopePattern;
use crate::model::scope::Scopes;
use crate::model::seat::SeatHint;
use crate::model::tenant::Plan;
use crate::model::tenant::TenantId;
use crate::quota::Numbers;
use crate::quota::Quota;
use crate::snapshot::KeyEntry;
use crate::snapshot::NEVER_EXPIRES;
use crate::snapshot::OwnLimits;
use crate::snapshot::Snapshot;
use crate::snapshot::TenantEntry;
use crate::snapshot::TenantTable;
use crate::snapshot::key_table::KeyTable;
use crate::token::Patience;
use crate::token::Tokens;

const LIVE: Environment = Environment(0);
const TEST: Environment = Environment(1);
const SECOND: u64 = 1_000_000;

/// What a test changes before it builds its snapshot.
pub(super) struct World {
    config: Config,
    routes: Vec<Route>,
    plans: Vec<Plan>,
    tenants: Vec<TenantEntry>,
    keys: Vec<(String, KeyEntry)>,
}

impl World {
    /// Tenant `acme` on a plan that grants `leases:*`, 5 an hour; key `good` with `leases:read` and `leases:write`.
    pub(super) fn new() -> World {
        World {
            config: config(),
            routes: vec![
                route("/leases/{*rest}", &["GET"], scope_access("leases:read")),
                route("/owners", &["GET"], scope_access("owners:read")),
                route("/any", &[], Access::AnyKey),
                route("/status", &["GET"], Access::Public),
            ],
            plans: vec![plan("free", 5), plan("pro", 50)],
            tenants: vec![tenant("acme")],
            keys: vec![("good".to_owned(), key(b'g'))],
        }
    }

    fn key(mut self, text: &str, entry: KeyEntry) -> World {
        self.keys.push((text.to_owned(), entry));
        self
    }

    pub(super) fn build(self) -> Arc<Snapshot> {
        let routes: Vec<Arc<Route>> = self.routes.into_iter().map(Arc::new).collect();
        let keys = self.keys.into_iter();
        let keys = keys.map(|(text, entry)| (key_text::digest_of(text.as_bytes()), entry));
        Arc::new(Snapshot {
            revision: 1,
            generation: 1,
            config: Arc::new(self.config),
            routes: Arc::new(RouteTable::build(&routes).unwrap()),
            plans: self.plans.into(),
            tenants: Arc::new(TenantTable {
                entries: self.tenants,
                by_id: std::collections::HashMap::new(),
            }),
            contact: None,
            denials: Arc::default(),
            keys: KeyTable::build(keys),
        })
    }
}

fn config() -> Config {
    let mut config = Config::for_tests("");
    config.http.header_count_max = 50;
    config.http.target_bytes_max = 1024;
    config.upstreams = vec![upstream()];
    config
}

/// Where all routes lead; no test of the gate goes there.
fn upstream() -> Arc<Upstream> {
    Arc::new(Upstream {
        servers: Vec::new(),
        environment: LIVE,
        isolation: Isolation::Header,
        ..Upstream::for_tests()
    })
}

fn route(path: &str, methods: &[&str], access: Access) -> Route {
    Route {
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        access,
        ..Route::for_tests(path)
    }
}

fn scope(text: &str) -> Scope {
    Scope::new(text).unwrap()
}

fn scope_access(text: &str) -> Access {
    Access::Scope(scope(text))
}

fn plan(name: &str, hourly: u32) -> Plan {
    let quota = Some(Rate {
        count: hourly,
        seconds: 3600,
    });
    Plan {
        name: name.to_owned(),
        limits: Limits { quota, burst: None },
        scopes: vec![ScopePattern::new("leases:*").unwrap()],
        api_access: true,
        mode: Mode::Enforce,
        granular_scopes: true,
    }
}

fn tenant(id: &str) -> TenantEntry {
    TenantEntry {
        id: TenantId::new(id).unwrap(),
        header_value: HeaderValue::from_str(id).unwrap(),
        plan: 0,
        scopes: Scopes::Inherit,
        own: OwnLimits::NONE,
        suspended: false,
        places: Vec::new(),
        seat: SeatHint::default(),
    }
}

fn key(letter: u8) -> KeyEntry {
    KeyEntry {
        id: KeyId([letter; 12]),
        tenant: 0,
        plan: u32::MAX,
        expires: NEVER_EXPIRES,
        status: KeyStatus::Active,
        kind: KeyKind::Secret,
        environment: LIVE,
        own: None,
        binding: None,
        scopes: Scopes::Listed(vec![scope("leases:read"), scope("leases:write")].into()),
    }
}

fn at(wall: u64) -> Now {
    Now {
        wall: Wall(wall),
        ..Now::default()
    }
}

fn head(method: &str, uri: &str, lines: &[(&'static str, &str)]) -> Parts {
    let uri: Uri = uri.parse().unwrap();
    let request = Request::builder().method(method).uri(uri).body(());
    let mut head = request.unwrap().into_parts().0;
    head.headers
        .insert(header::HOST, HeaderValue::from_static("api.example"));
    for (name, value) in lines {
        let value = HeaderValue::from_str(value).unwrap();
        head.headers.append(*name, value);
    }
    head
}

fn means<'a>(quota: &'a Quota, tokens: &'a Tokens, alerts: &'a Alerts) -> Means<'a> {
    Means {
        quota,
        tokens,
        alerts,
        patience: Patience::Fresh,
        charged: None,
        early: None,
    }
}

fn peer(address: &str) -> Peer {
    Peer {
        address: SocketAddr::new(address.parse().unwrap(), 50_000),
        local: "198.51.100.1:8443".parse().unwrap(),
        via: Via::Direct,
    }
}

fn run(
    snapshot: &Arc<Snapshot>,
    quota: &Quota,
    wall: u64,
    head: &mut Parts,
) -> Result<Box<Admission>, Box<Refused>> {
    let (tokens, alerts) = (Tokens::new(), Alerts::queue().0);
    let early = Early::of(&head.headers);
    early.iter().for_each(|early| early.look_out(snapshot));
    let means = Means {
        early: early.as_ref(),
        ..means(quota, &tokens, &alerts)
    };
    admit(snapshot, &means, at(wall), &peer("192.0.2.7"), head)
}

/// Status and reason of one request with a fresh quota; 200 when it is admitted.
fn ask(snapshot: &Arc<Snapshot>, method: &str, uri: &str, key: &str) -> (u16, &'static str) {
    let bearer = format!("Bearer {key}");
    let lines: &[_] = if key.is_empty() {
        &[]
    } else {
        &[("authorization", bearer.as_str())]
    };
    match run(snapshot, &Quota::new(), 0, &mut head(method, uri, lines)) {
        Ok(_) => (200, ""),
        Err(refused) => (refused.refusal.status().as_u16(), refused.reason),
    }
}

fn remaining(numbers: Option<&Numbers>) -> Option<u32> {
    numbers
        .and_then(|numbers| numbers.quota)
        .map(|quota| quota.remaining)
}
