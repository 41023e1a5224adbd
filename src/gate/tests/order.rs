//! The order of the checks, and what an admission says.

use super::World;
use super::ask;
use super::head;
use super::key;
use super::plan;
use super::remaining;
use super::route;
use super::run;
use super::tenant;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::quota::Quota;
use crate::snapshot::KeyEntry;
use crate::snapshot::TenantEntry;

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
