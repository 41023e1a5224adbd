//! The order of the checks, seen from outside: snapshots built by hand, requests as the edge hands them over.

use http::HeaderValue;
use http::Request;
use http::Uri;

use super::*;
use crate::alerts::Alerts;
use crate::clock::Wall;
use crate::config::Errors;
use crate::config::Host;
use crate::config::Upstream;
use crate::model::binding;
use crate::model::binding::Binding;
use crate::model::credential::Kinds;
use crate::model::isolation::Isolation;
use crate::model::key::KeyStatus;
use crate::model::key::Override;
use crate::model::limit::Limits;
use crate::model::limit::Mode;
use crate::model::limit::Rate;
use crate::model::route::RouteTable;
use crate::model::scope::Scope;
use crate::model::scope::ScopePattern;
use crate::model::scope::Scopes;
use crate::model::tenant::Plan;
use crate::model::tenant::TenantId;
use crate::refusal::Shape;
use crate::snapshot::NEVER_EXPIRES;
use crate::snapshot::OwnLimits;
use crate::snapshot::TenantTable;
use crate::snapshot::key_table::KeyTable;

const LIVE: Environment = Environment(0);
const TEST: Environment = Environment(1);
const SECOND: u64 = 1_000_000;

/// What a test changes before it builds its snapshot.
struct World {
    config: Config,
    routes: Vec<Route>,
    plans: Vec<Plan>,
    tenants: Vec<TenantEntry>,
    keys: Vec<(String, KeyEntry)>,
}

impl World {
    /// Tenant `acme` on a plan that grants `leases:*`, 5 an hour; key `good` with `leases:read` and `leases:write`.
    fn new() -> World {
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

    fn build(self) -> Arc<Snapshot> {
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
        path: path.to_owned(),
        host: None,
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        access,
        credentials: Kinds::KEYS,
        upstream: 0,
        cost: 1,
        environment: LIVE,
        body_bytes_max: None,
        total_timeout: None,
        raw_path: false,
        guard: None,
        references: None,
        address_limit: None,
        pass_authorization: false,
        json_as_form: false,
        origins: Vec::new(),
        mode: Mode::Enforce,
        bindings: None,
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
        scopes: Scopes::Listed(Arc::new([scope("leases:read"), scope("leases:write")])),
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
    }
}

fn run(
    snapshot: &Arc<Snapshot>,
    quota: &Quota,
    wall: u64,
    head: &mut Parts,
) -> Result<Admission, Box<Refused>> {
    let peer = Peer {
        address: "192.0.2.7:50000".parse().unwrap(),
        local: "198.51.100.1:8443".parse().unwrap(),
        via: Via::Direct,
    };
    let (tokens, alerts) = (Tokens::new(), Alerts::queue().0);
    let means = means(quota, &tokens, &alerts);
    admit(snapshot, &means, at(wall), &peer, head)
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

#[test]
fn an_admission_says_who_where_and_how_much_is_left() {
    let snapshot = World::new().build();
    let quota = Quota::new();
    let mut head = head(
        "GET",
        "/%6ceases/7?x=%61",
        &[("authorization", "Bearer good"), ("x-api-key", "good")],
    );
    let admission = run(&snapshot, &quota, 0, &mut head).unwrap();
    assert_eq!(admission.path(), "/leases/7");
    assert_eq!(admission.host(), "api.example");
    assert_eq!(admission.route().path, "/leases/{*rest}");
    assert_eq!(admission.tenant().unwrap().id.as_str(), "acme");
    assert_eq!(admission.principal().unwrap().key, KeyId([b'g'; 12]));
    assert_eq!(remaining(admission.numbers()), Some(4));
    assert_eq!(head.uri, "/leases/7?x=%61");
    assert_eq!(head.headers.len(), 1, "only Host is left");
}

#[test]
fn when_several_checks_fail_the_first_by_number_answers() {
    let suspended = TenantEntry {
        suspended: true,
        ..tenant("gone")
    };
    let mut world = World::new();
    world.tenants.push(suspended);
    let of_gone = KeyEntry {
        tenant: 1,
        ..key(b's')
    };
    let mut noapi = plan("noapi", 5);
    noapi.api_access = false;
    world.plans.push(noapi);
    let without_api = KeyEntry {
        plan: 2,
        ..key(b'n')
    };
    let revoked = KeyEntry {
        status: KeyStatus::Revoked,
        tenant: 1,
        ..key(b'r')
    };
    let snapshot = world
        .key("suspended", of_gone)
        .key("noapi", without_api)
        .key("revoked", revoked)
        .build();
    let cases = [
        // Step 1 beats all others.
        ("PUT", "/leases/..;/x", "revoked", 400, "path_dot_segment"),
        ("TRACE", "/leases", "", 400, "method_refused"),
        ("GET", "/status/%2e%2e/leases", "", 400, "path_dot_segment"),
        // Step 3 beats 4 and 6, and tells a stranger nothing of what is served.
        ("GET", "/leases", "", 401, "credential_missing"),
        ("GET", "/nothing", "", 401, "credential_missing"),
        ("PUT", "/leases", "", 401, "credential_missing"),
        ("GET", "/nothing", "other", 401, "unknown_key"),
        // Step 4: the key's fault beats the tenant's.
        ("GET", "/nothing", "revoked", 401, "key_revoked"),
        ("GET", "/nothing", "suspended", 403, "tenant_suspended"),
        ("GET", "/leases", "suspended", 403, "tenant_suspended"),
        ("GET", "/owners", "noapi", 403, "plan_without_api"),
        // Step 6.
        ("GET", "/nothing", "good", 404, "no_route"),
        ("PUT", "/leases", "good", 405, "method_not_allowed"),
        ("GET", "/owners", "good", 403, "scope_not_of_key"),
        ("GET", "/leases", "good", 200, ""),
        ("HEAD", "/leases", "good", 200, ""),
        ("DELETE", "/any", "good", 200, ""),
        // Public routes ask for nothing.
        ("GET", "/status", "", 200, ""),
        ("GET", "/status", "other", 200, ""),
        ("PUT", "/status", "", 405, "method_not_allowed"),
    ];
    for (method, uri, key, status, reason) in cases {
        assert_eq!(
            ask(&snapshot, method, uri, key),
            (status, reason),
            "{method} {uri} {key}"
        );
    }
}

#[test]
fn a_key_over_its_limit_gets_429_whatever_it_asks_for() {
    let snapshot = World::new().build();
    let quota = Quota::new();
    let bearer = [("authorization", "Bearer good")];
    let mut statuses = Vec::new();
    let mut left = Vec::new();
    for (method, uri) in [
        ("GET", "/leases"),
        ("GET", "/owners"),
        ("GET", "/nothing"),
        ("PUT", "/leases"),
        ("GET", "/leases"),
        ("GET", "/leases"),
        ("GET", "/owners"),
        ("GET", "/nothing"),
        ("PUT", "/leases"),
        ("GET", "/leases/..;/"),
    ] {
        match run(&snapshot, &quota, 0, &mut head(method, uri, &bearer)) {
            Ok(admission) => {
                statuses.push(200);
                left.push(remaining(admission.numbers()));
            }
            Err(refused) => {
                statuses.push(refused.refusal.status().as_u16());
                left.push(remaining(refused.numbers.as_ref()));
            }
        }
    }
    assert_eq!(statuses, [200, 403, 404, 405, 200, 429, 429, 429, 429, 400]);
    let expected = [4, 3, 2, 1, 0, 0, 0, 0, 0].map(Some);
    assert_eq!(left[..9], expected);
    assert_eq!(left[9], None);
}

#[test]
fn refusals_before_the_charge_cost_nothing_and_carry_no_numbers() {
    let revoked = KeyEntry {
        status: KeyStatus::Inactive,
        ..key(b'g')
    };
    let snapshot = World::new().key("off", revoked).build();
    let quota = Quota::new();
    for (uri, key) in [("/leases", "off"), ("/leases", "unknown"), ("/a;b", "good")] {
        let bearer = format!("Bearer {key}");
        let mut head = head("GET", uri, &[("authorization", &bearer)]);
        let refused = run(&snapshot, &quota, 0, &mut head).unwrap_err();
        assert_eq!(refused.numbers, None, "{uri} {key}");
    }
    assert_eq!(quota.subjects(), 0);
    let mut open = head("GET", "/status", &[("x-api-key", "good")]);
    let admission = run(&snapshot, &quota, 0, &mut open).unwrap();
    assert!(admission.numbers().is_none() && admission.tenant().is_none());
    assert!(!open.headers.contains_key("x-api-key"));
}

#[test]
fn the_route_says_what_a_request_costs_and_an_own_limit_beats_the_plans() {
    let mut world = World::new();
    world.routes.push(Route {
        cost: 3,
        ..route("/dear", &[], Access::AnyKey)
    });
    let quota_of_seven = Override::Rate(Rate {
        count: 7,
        seconds: 3600,
    });
    let own = KeyEntry {
        own: Some(Box::new(OwnLimits {
            quota: quota_of_seven,
            burst: Override::Plan,
        })),
        ..key(b'o')
    };
    let snapshot = world.key("own", own).build();
    let quota = Quota::new();
    let bearer = [("authorization", "Bearer own")];
    let left = || match run(&snapshot, &quota, 0, &mut head("GET", "/dear", &bearer)) {
        Ok(admission) => remaining(admission.numbers()),
        Err(refused) => remaining(refused.numbers.as_ref()).map(|left| left + 100),
    };
    assert_eq!([left(), left(), left()], [Some(4), Some(1), Some(101)]);
}

#[test]
fn windows_belong_to_the_key_the_tenant_or_both() {
    // Two keys of one tenant on a plan of 5; the second key is under a plan of 50 of its own.
    let cases = [
        (LimitSubject::Key, [Some(4), Some(49)]),
        (LimitSubject::Tenant, [Some(4), Some(3)]),
        (LimitSubject::Both, [Some(4), Some(3)]),
    ];
    for (subject, expected) in cases {
        let mut world = World::new();
        world.config.limits.subject = subject;
        let second = KeyEntry {
            plan: 1,
            ..key(b'h')
        };
        let snapshot = world.key("second", second).build();
        let quota = Quota::new();
        let left = ["good", "second"].map(|key| {
            let bearer = format!("Bearer {key}");
            let mut head = head("GET", "/any", &[("authorization", &bearer)]);
            remaining(run(&snapshot, &quota, 0, &mut head).unwrap().numbers())
        });
        assert_eq!(left, expected, "{subject:?}");
    }
}

#[test]
fn fa6_a_key_ends_by_the_clock_of_the_request() {
    let expiring = KeyEntry {
        expires: Wall(2 * SECOND),
        ..key(b'e')
    };
    let snapshot = World::new().key("expiring", expiring).build();
    let quota = Quota::new();
    let bearer = [("authorization", "Bearer expiring")];
    let ask = |wall| {
        let found = run(&snapshot, &quota, wall, &mut head("GET", "/any", &bearer));
        found.map(|_| ()).map_err(|refused| refused.reason)
    };
    assert_eq!(ask(1_900_000), Ok(()));
    assert_eq!(ask(2 * SECOND - 1), Ok(()));
    assert_eq!(ask(2 * SECOND), Err("key_expired"));
    assert_eq!(ask(2_100_000), Err("key_expired"));
}

#[test]
fn fa27_all_bad_keys_get_one_answer_and_the_log_tells_them_apart() {
    let with = |status| KeyEntry {
        status,
        ..key(b'x')
    };
    let expired = KeyEntry {
        expires: Wall(0),
        ..key(b'x')
    };
    let elsewhere = KeyEntry {
        environment: TEST,
        ..key(b'x')
    };
    let snapshot = World::new()
        .key("inactive", with(KeyStatus::Inactive))
        .key("revoked", with(KeyStatus::Revoked))
        .key("deleted", with(KeyStatus::Deleted))
        .key("expired", expired)
        .key("elsewhere", elsewhere)
        .build();
    let ours = key_text::make("fp", "live", b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ");
    let wrong = format!("{}0", &ours[..ours.len() - 1]);
    let cases = [
        ("inactive", "key_inactive"),
        ("revoked", "key_revoked"),
        ("deleted", "key_deleted"),
        ("expired", "key_expired"),
        ("elsewhere", "wrong_environment"),
        ("unknown", "unknown_key"),
        ("GOOD", "unknown_key"),
        ("goo", "unknown_key"),
        ("good2", "unknown_key"),
        (&ours, "unknown_key"),
        (&wrong, "bad_checksum"),
        ("a b", "credential_malformed"),
    ];
    for (key, reason) in cases {
        let bearer = format!("Bearer {key}");
        let mut head = head("GET", "/any", &[("authorization", &bearer)]);
        let refused = run(&snapshot, &Quota::new(), 0, &mut head).unwrap_err();
        assert_eq!(refused.reason, reason);
        assert_eq!(refused.refusal, Refusal::CredentialInvalid, "{key}");
        let known = !matches!(
            reason,
            "unknown_key" | "bad_checksum" | "credential_malformed"
        );
        assert_eq!(refused.key.is_some(), known, "{key}");
    }
}

#[test]
fn a_key_stays_in_its_environment() {
    let mut world = World::new();
    let host = |name: &str, environment| Host {
        name: name.to_owned(),
        errors: config().errors,
        environment,
    };
    world.config.hosts = vec![host("sandbox.example", TEST), host("*.live.example", LIVE)];
    world.routes.push(Route {
        host: Some("sandbox.example".to_owned()),
        environment: TEST,
        ..route("/any", &[], Access::AnyKey)
    });
    let of_test = KeyEntry {
        environment: TEST,
        ..key(b't')
    };
    let snapshot = world.key("test", of_test).build();
    let ask = |host: &'static str, uri: &str, key: &str| {
        let bearer = format!("Bearer {key}");
        let mut head = head("GET", uri, &[("authorization", &bearer)]);
        head.headers
            .insert(header::HOST, HeaderValue::from_static(host));
        run(&snapshot, &Quota::new(), 0, &mut head)
            .map(|_| ())
            .map_err(|refused| refused.reason)
    };
    let wrong = Err("wrong_environment");
    assert_eq!(ask("sandbox.example", "/any", "test"), Ok(()));
    assert_eq!(ask("SANDBOX.example.:443", "/any", "test"), Ok(()));
    assert_eq!(ask("sandbox.example", "/any", "good"), wrong);
    assert_eq!(ask("sandbox.example", "/nothing", "good"), wrong);
    assert_eq!(ask("sandbox.example", "/nothing", "test"), Err("no_route"));
    // The host is of one environment and the route of the other: nobody passes.
    assert_eq!(ask("sandbox.example", "/leases", "test"), wrong);
    assert_eq!(ask("sandbox.example", "/leases", "good"), wrong);
    assert_eq!(ask("a.live.example", "/any", "good"), Ok(()));
    assert_eq!(ask("a.live.example", "/any", "test"), wrong);
    assert_eq!(ask("other.example", "/any", "test"), wrong);
}

#[test]
fn fa14_cw6_a_scope_must_be_of_the_key_and_of_the_plan() {
    let mut world = World::new();
    world
        .routes
        .push(route("/lessee", &[], scope_access("lessee:leases:read")));
    let with = |scopes| KeyEntry {
        scopes,
        ..key(b'k')
    };
    let listed = |texts: &[&str]| Scopes::Listed(texts.iter().map(|text| scope(text)).collect());
    let snapshot = world
        .key("inherit", with(Scopes::Inherit))
        .key(
            "prefix",
            with(listed(&["leases:", "leases", "leases:read:x"])),
        )
        .key("owners", with(listed(&["owners:read"])))
        .key("none", with(listed(&[])))
        .build();
    let cases = [
        ("inherit", "/leases", 200, ""),
        ("inherit", "/owners", 403, "scope_not_of_plan"),
        ("inherit", "/lessee", 403, "scope_not_of_plan"),
        ("prefix", "/leases", 403, "scope_not_of_key"),
        ("owners", "/owners", 403, "scope_not_of_plan"),
        ("owners", "/leases", 403, "scope_not_of_key"),
        ("none", "/any", 200, ""),
    ];
    for (key, uri, status, reason) in cases {
        assert_eq!(
            ask(&snapshot, "GET", uri, key),
            (status, reason),
            "{key} {uri}"
        );
    }
}

#[test]
fn a_raw_route_alone_takes_an_ambiguous_path_as_it_came() {
    let mut world = World::new();
    world.routes.push(Route {
        raw_path: true,
        ..route("/files/{*rest}", &[], Access::AnyKey)
    });
    let snapshot = world.build();
    let ask = |uri: &str| {
        let mut head = head("GET", uri, &[("x-api-key", "good")]);
        run(&snapshot, &Quota::new(), 0, &mut head)
            .map(|admission| admission.path().to_owned())
            .map_err(|refused| refused.reason)
    };
    assert_eq!(ask("/files/a%2fb;x"), Ok("/files/a%2fb;x".to_owned()));
    assert_eq!(ask("/files/%61"), Ok("/files/a".to_owned()));
    assert_eq!(ask("/leases/a%2fb"), Err("path_encoded_slash"));
    assert_eq!(ask("/leases/../files/x"), Err("path_dot_segment"));
    assert_eq!(ask("//files/x"), Err("path_empty_segment"));
    assert_eq!(ask("/files%2fx"), Err("path_encoded_slash"));
}

#[test]
fn an_ipv4_client_of_an_ipv6_socket_is_judged_by_its_ipv4_address() {
    let mut world = World::new();
    world.keys[0].1.binding = Some(Box::new(Binding {
        cidrs: vec![binding::network("192.0.2.0/24").unwrap()],
        ..Binding::default()
    }));
    let snapshot = world.build();
    for (address, admitted) in [
        ("192.0.2.7:1", true),
        ("[::ffff:192.0.2.7]:1", true),
        ("[::ffff:192.0.3.7]:1", false),
        ("[::192.0.2.7]:1", false),
        ("[2001:db8::1]:1", false),
    ] {
        let peer = Peer {
            address: address.parse().unwrap(),
            local: "198.51.100.1:8443".parse().unwrap(),
            via: Via::Direct,
        };
        let mut head = head("GET", "/any", &[("x-api-key", "good")]);
        let (quota, tokens, alerts) = (Quota::new(), Tokens::new(), Alerts::queue().0);
        let means = means(&quota, &tokens, &alerts);
        let verdict = admit(&snapshot, &means, at(0), &peer, &mut head);
        assert_eq!(verdict.is_ok(), admitted, "{address}");
    }
}

#[test]
fn fa9_c20_what_ends_a_request_in_flight() {
    let first = World::new().build();
    let admit = |uri: &str, lines: &[(&'static str, &str)]| {
        run(&first, &Quota::new(), 0, &mut head("GET", uri, lines)).unwrap()
    };
    let good = admit("/any", &[("x-api-key", "good")]);
    let public = admit("/status", &[]);
    let later = |change: &dyn Fn(&mut World)| {
        let mut world = World::new();
        change(&mut world);
        world.build()
    };
    let status = |status: KeyStatus| later(&|world: &mut World| world.keys[0].1.status = status);
    let suspended = |world: &mut World| world.tenants[0].suspended = true;
    for (what, snapshot, ended) in [
        ("nothing happened", Arc::clone(&first), None),
        ("something else changed", World::new().build(), None),
        ("revoked", status(KeyStatus::Revoked), Some(Ended::Key)),
        ("deleted", status(KeyStatus::Deleted), Some(Ended::Key)),
        ("switched off", status(KeyStatus::Inactive), None),
        (
            "expired",
            later(&|world| world.keys[0].1.expires = Wall(0)),
            None,
        ),
        (
            "regenerated",
            later(&|world| world.keys[0].0 = "new text".to_owned()),
            Some(Ended::Key),
        ),
        ("suspended", later(&suspended), Some(Ended::Tenant)),
        (
            "revoked, where requests finish",
            later(&|world| {
                world.keys[0].1.status = KeyStatus::Revoked;
                world.config.revocation.abort_in_flight = false;
            }),
            None,
        ),
    ] {
        assert_eq!(good.ended(&snapshot), ended, "{what}");
        assert_eq!(public.ended(&snapshot), None, "{what}");
    }
    assert_eq!(Ended::Key.refusal().status(), 401);
    assert_eq!(Ended::Tenant.refusal().status(), 403);
}

#[test]
fn fa29_a_known_key_is_seen_in_clear_whatever_its_standing() {
    let revoked = KeyEntry {
        status: KeyStatus::Revoked,
        ..key(b'r')
    };
    let snapshot = World::new().key("revoked", revoked).build();
    let seen = |lines: &[(&'static str, &str)]| {
        let head = head("GET", "/", lines);
        peek(&head, &snapshot.config.auth, &snapshot).map(|seen| seen.key)
    };
    let good = Some(KeyId([b'g'; 12]));
    assert_eq!(seen(&[]), None);
    assert_eq!(seen(&[("authorization", "Bearer good")]), good);
    assert_eq!(
        seen(&[("authorization", "Basic x"), ("x-api-key", "good")]),
        good
    );
    assert_eq!(seen(&[("x-api-key", "revoked")]), Some(KeyId([b'r'; 12])));
    assert_eq!(seen(&[("x-api-key", "unknown")]), None);
    let mut many = vec![("x-api-key", "unknown"); PEEK_LINES_MAX];
    many.push(("x-api-key", "good"));
    assert_eq!(seen(&many), None);
}

#[test]
fn each_host_has_its_style() {
    let mut config = config();
    let errors = Errors {
        shape: Shape::Flat,
        name_permission: false,
        foreign_is_forbidden: false,
    };
    config.hosts = vec![Host {
        name: "*.council.example".to_owned(),
        errors,
        environment: LIVE,
    }];
    assert_eq!(style(&config, None, false).shape, Shape::Problem);
    assert_eq!(
        style(&config, Some("x.example"), false).shape,
        Shape::Problem
    );
    let flat = style(&config, Some("a.council.example"), true);
    assert_eq!(
        (flat.shape, flat.name_permission, flat.grpc),
        (Shape::Flat, false, true)
    );
    assert_eq!(flat.realm, "api");
}

#[test]
fn grpc_is_told_by_its_content_type() {
    let cases = [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc;x=y", true),
        ("application/grpc-web", false),
        ("application/json", false),
    ];
    for (kind, expected) in cases {
        let head = head("POST", "/", &[("content-type", kind)]);
        assert_eq!(is_grpc(&head.headers), expected, "{kind}");
    }
    assert!(!is_grpc(&HeaderMap::new()));
}

#[test]
fn the_host_of_a_refusal_chooses_its_style() {
    let snapshot = World::new().build();
    let mut refused = head("GET", "/a;b", &[]);
    refused
        .headers
        .insert(header::HOST, HeaderValue::from_static("API.example:8443"));
    let host = run(&snapshot, &Quota::new(), 0, &mut refused)
        .unwrap_err()
        .host;
    assert_eq!(host.as_deref(), Some("api.example"));
    let mut two = head("GET", "/", &[("host", "other")]);
    let refused = run(&snapshot, &Quota::new(), 0, &mut two).unwrap_err();
    assert_eq!((refused.reason, refused.host), ("host_repeated", None));
}

/// FF15: of all that is asked of a key within a window one request tells, and none that the limit refuses, enforced or observed.
#[test]
fn ff15_what_the_limit_refuses_tells_nothing() {
    for mode in [Mode::Enforce, Mode::Observe] {
        let mut world = World::new();
        world.config.alerts.limit_percent = 80;
        world.plans[0].limits.quota = Some(Rate {
            count: 3,
            seconds: 3_600,
        });
        world.plans[0].mode = mode;
        let snapshot = world.build();
        let peer = Peer {
            address: "192.0.2.7:50000".parse().unwrap(),
            local: "198.51.100.1:8443".parse().unwrap(),
            via: Via::Direct,
        };
        let (quota, tokens) = (Quota::new(), Tokens::new());
        let (alerts, mut raised) = Alerts::queue();
        let means = means(&quota, &tokens, &alerts);
        let told = [1, 2, 3, 4, 5, 6].map(|_| {
            let mut head = head("GET", "/any", &[("x-api-key", "good")]);
            let _ = admit(&snapshot, &means, at(0), &peer, &mut head);
            std::iter::from_fn(|| raised.try_recv().ok()).count()
        });
        assert_eq!(told, [0, 0, 1, 0, 0, 0], "{mode:?}");
    }
}
