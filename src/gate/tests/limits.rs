//! What a request takes, and what it gets where nothing is left.

use super::World;
use super::at;
use super::head;
use super::key;
use super::means;
use super::peer;
use super::remaining;
use super::route;
use super::run;
use crate::alerts::Alerts;
use crate::config::LimitSubject;
use crate::gate::admit;
use crate::model::key::KeyStatus;
use crate::model::key::Override;
use crate::model::limit::Mode;
use crate::model::limit::Rate;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::quota::Quota;
use crate::snapshot::KeyEntry;
use crate::snapshot::OwnLimits;
use crate::token::Tokens;

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
        let peer = peer("192.0.2.7");
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
