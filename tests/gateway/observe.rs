//! Observe mode: what a rule would refuse passes, and is counted and logged.

use portcullis::store::NewKey;

use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::gateway::still;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

/// The line of `portcullis_would_refuse_total` for a reason, as a number.
fn would_refuse(gateway: &Gateway, reason: &str) -> u64 {
    let text = gateway.admin_get("/metrics").text();
    let name = format!("portcullis_would_refuse_total{{reason=\"{reason}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |number| number.parse().unwrap())
}

// DESIGN section 1, promise 9: with limits observed nobody gets 429, and the report says who would have.
#[test]
fn observed_limits_refuse_nobody_and_report_who() {
    let upstream = Upstream::start();
    let setup = Setup::limited(&upstream, "3/hour", "unlimited");
    let mut gateway = setup.clone().set("limits", "mode", r#""observe""#).start();
    let key = gateway.key("acme");
    let left: Vec<u64> = (0..6)
        .map(|_| {
            let answer = gateway.get("/any", &key);
            answer.expect(200);
            assert!(!answer.has("retry-after"));
            answer.number("x-ratelimit-remaining")
        })
        .collect();
    assert_eq!(left, [2, 1, 0, 0, 0, 0]);
    assert_eq!(upstream.hits(), 6);
    let line = gateway.log_line("would_refuse");
    assert_eq!(line["would_refuse"], "limit_exceeded");
    assert_eq!(line["key_id"], key.id.as_str());
    assert_eq!(line["http.response.status_code"], 200);
    assert_eq!(line["decision"], "forwarded");
    assert_eq!(would_refuse(&gateway, "limit_exceeded"), 3);
    // Enforced from now on, with the counts as they are.
    gateway.reload(setup).unwrap();
    gateway.get("/any", &key).expect(429);
    assert_eq!(would_refuse(&gateway, "limit_exceeded"), 3);
}

// The same for one plan or one route, limits and scopes; other plans and routes keep their rules.
#[test]
fn a_plan_or_a_route_is_observed_alone() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "4/hour", "unlimited")
        .plan("tried", "1/hour", "unlimited")
        .set("plans.tried", "mode", r#""observe""#)
        .tenant("bravo", "tried")
        .route_to(
            "legacy",
            "/tried",
            &[],
            Access::Scope("tried:read"),
            "mode = \"observe\"\n",
        )
        .start();
    let strict = gateway.key_with_scopes("acme", &["leases:read"]);
    let tried = gateway.key_with_scopes("bravo", &["leases:read"]);
    // By plan.
    for path in ["/leases", "/owners", "/leases"] {
        gateway.get(path, &tried).expect(200);
    }
    gateway.get("/nowhere", &tried).expect(404);
    // By route.
    gateway.get("/tried", &strict).expect(200);
    gateway.get("/owners", &strict).expect(403);
    gateway.get("/leases", &strict).expect(200);
    gateway.get("/leases", &strict).expect(200);
    gateway.get("/leases", &strict).expect(429);
    gateway.get("/tried", &strict).expect(200);
    assert_eq!(would_refuse(&gateway, "limit_exceeded"), 4);
    assert_eq!(would_refuse(&gateway, "scope_not_of_key"), 1);
    let line = gateway.log_line(r#""would_refuse":"scope_not_of_key""#);
    assert_eq!(line["http.route"], "/tried");
}

// The report: each key, route and reason once, with its name, its tenant and how often; nobody who was let in by right.
#[test]
fn the_report_names_who_would_have_been_refused() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "2/hour", "unlimited")
        .set("limits", "mode", r#""observe""#)
        .set("plans.open", "mode", r#""observe""#)
        .start_at(still());
    let report = || -> serde_json::Value {
        let (code, json, _) = gateway.command(&["limits", "observed", "--output", "json"]);
        assert_eq!(code, 0);
        serde_json::from_str(&json).unwrap()
    };
    assert_eq!(report()["rows"], serde_json::json!([]));
    let (code, table, said) = gateway.command(&["limits", "observed"]);
    assert_eq!((code, table.as_str()), (0, ""));
    assert!(said.contains("nobody would have been refused"), "{said}");
    let greedy = gateway.make_key(NewKey {
        name: "nightly import".to_owned(),
        ..new_key("acme")
    });
    let narrow = gateway.key_with_scopes("bravo", &["leases:read"]);
    for _ in 0..4 {
        gateway.get("/leases/7", &greedy).expect(200);
    }
    gateway.advance(std::time::Duration::from_secs(5));
    gateway.get("/leases/8", &greedy).expect(200);
    gateway.get("/nowhere", &greedy).expect(404);
    gateway.get("/owners", &narrow).expect(200);
    gateway.get("/leases", &narrow).expect(200);
    let report = report();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(
        (rows.len(), &report["not_listed"]),
        (3, &serde_json::json!(0))
    );
    let first = &rows[0];
    assert_eq!(first["key_id"], greedy.id.as_str());
    assert_eq!(
        [&first["name"], &first["tenant"]],
        ["nightly import", "acme"]
    );
    assert_eq!(
        [&first["route"], &first["reason"]],
        ["/leases/{*rest}", "limit_exceeded"]
    );
    assert_eq!(first["count"], 3);
    let time = |name: &str| -> jiff::Timestamp { first[name].as_str().unwrap().parse().unwrap() };
    let apart = time("last_seen").as_second() - time("first_seen").as_second();
    assert_eq!(apart, 5, "{report}");
    let nowhere = rows.iter().find(|row| row["route"].is_null()).unwrap();
    assert_eq!(
        [&nowhere["reason"], &nowhere["key_id"]],
        ["limit_exceeded", greedy.id.as_str()]
    );
    let scope = rows.iter().find(|row| row["tenant"] == "bravo").unwrap();
    assert_eq!(
        [&scope["route"], &scope["reason"]],
        ["/owners/{*rest}", "scope_not_of_key"]
    );
    let (_, table, said) = gateway.command(&["limits", "observed"]);
    assert_eq!(table.lines().count(), 3);
    assert!(
        table.starts_with(&format!("{}\tnightly import\tacme\t", greedy.id)),
        "{table}"
    );
    assert!(said.contains("would have been refused since"), "{said}");
    assert!(!table.contains(&greedy.text));
}

// What is observed is limits and scopes: no key, no entry.
#[test]
fn observing_lets_no_stranger_in() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("limits", "mode", r#""observe""#)
        .set("plans.open", "mode", r#""observe""#)
        .start();
    gateway.send(&Request::get("/leases")).expect(401);
    let key = gateway.key("acme");
    gateway.revoke(&key);
    gateway.get("/leases", &key).expect(401);
    assert_eq!(upstream.hits(), 0);
}
