//! What a key may, where and for how long.

use std::sync::Arc;

use http::HeaderValue;
use http::header;

use super::LIVE;
use super::SECOND;
use super::TEST;
use super::World;
use super::ask;
use super::at;
use super::config;
use super::head;
use super::key;
use super::means;
use super::peer;
use super::route;
use super::run;
use super::scope;
use super::scope_access;
use crate::alerts::Alerts;
use crate::clock::Wall;
use crate::config::Host;
use crate::gate::Ended;
use crate::gate::admit;
use crate::gate::exposed::PEEK_LINES_MAX;
use crate::gate::peek;
use crate::model::binding;
use crate::model::binding::Binding;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::key_text;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::model::scope::Scopes;
use crate::quota::Quota;
use crate::refusal::Refusal;
use crate::snapshot::KeyEntry;
use crate::token::Tokens;

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

/// A text is looked for before it is known to be the key: which one counts is decided afterwards all the same, whatever was found.
#[test]
fn what_is_looked_for_early_is_not_what_counts() {
    let long = "k".repeat(65);
    let longer = "k".repeat(512);
    let snapshot = World::new()
        .key("one", key(b'1'))
        .key("other", key(b'2'))
        .key(&long[..64], key(b'3'))
        .key(&long, key(b'4'))
        .key(&longer, key(b'5'))
        .key("Basic one", key(b'6'))
        .key("bearer one", key(b'7'))
        .build();
    let both = |first, second| vec![("authorization", first), ("x-api-key", second)];
    let bearer = |text: &str| format!("Bearer {text}");
    let (at_most, more, most) = (bearer(&long[..64]), bearer(&long), bearer(&longer));
    let cases = [
        (vec![("authorization", "Bearer one")], Ok(b'1')),
        (vec![("authorization", "bearer one")], Ok(b'1')),
        (vec![("authorization", "Bearer  one")], Ok(b'1')),
        (vec![("authorization", at_most.as_str())], Ok(b'3')),
        (vec![("authorization", more.as_str())], Ok(b'4')),
        (vec![("authorization", most.as_str())], Ok(b'5')),
        (vec![("x-api-key", "one")], Ok(b'1')),
        (vec![("x-api-key", &long[..64])], Ok(b'3')),
        (vec![("x-api-key", long.as_str())], Ok(b'4')),
        (vec![("x-api-key", longer.as_str())], Ok(b'5')),
        (both("Bearer one", "one"), Ok(b'1')),
        (both("Bearer one", "other"), Err("credentials_differ")),
        (both("Bearer other", "one"), Err("credentials_differ")),
        (both("Basic one", "one"), Err("authorization_scheme")),
        (
            vec![("authorization", "Basic one")],
            Err("authorization_scheme"),
        ),
        (vec![("authorization", "one")], Err("authorization_scheme")),
        (
            vec![("x-api-key", "Bearer one")],
            Err("credential_malformed"),
        ),
        (vec![("x-api-key", "on")], Err("unknown_key")),
        (vec![("x-api-key", "onee")], Err("unknown_key")),
        (
            vec![("x-api-key", "one"), ("x-api-key", "one")],
            Err("credential_repeated"),
        ),
        (vec![], Err("credential_missing")),
    ];
    for (lines, expected) in cases {
        let mut head = head("GET", "/any", &lines);
        let judged = run(&snapshot, &Quota::new(), 0, &mut head);
        let judged = judged.map(|admission| admission.principal().unwrap().reported().0[0]);
        let judged = judged.map_err(|refused| refused.reason);
        assert_eq!(judged, expected, "{lines:?}");
    }
    // What is passed on may begin as the key does, and is looked for first.
    let mut world = World::new().key("one", key(b'1'));
    world.config.auth.pass_foreign_authorization = true;
    let snapshot = world.build();
    for foreign in ["one more", "on", "one", "Basic one"] {
        let mut head = head("GET", "/any", &both(foreign, "one"));
        let admission = run(&snapshot, &Quota::new(), 0, &mut head).unwrap();
        let key = admission.principal().unwrap().reported();
        assert_eq!(key.0[0], b'1', "{foreign}");
        assert_eq!(head.headers[header::AUTHORIZATION], foreign);
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
fn an_ipv4_client_of_an_ipv6_socket_is_judged_by_its_ipv4_address() {
    let mut world = World::new();
    world.keys[0].1.binding = Some(Box::new(Binding {
        cidrs: vec![binding::network("192.0.2.0/24").unwrap()],
        ..Binding::default()
    }));
    let snapshot = world.build();
    for (address, admitted) in [
        ("192.0.2.7", true),
        ("::ffff:192.0.2.7", true),
        ("::ffff:192.0.3.7", false),
        ("::192.0.2.7", false),
        ("2001:db8::1", false),
    ] {
        let peer = peer(address);
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
