//! What operators are told at once: each thing once, in the log and to a real receiver that fails, redirects and delays.

use std::fs;
use std::time::Duration;
use std::time::Instant;

use portcullis::clock::Clock;
use portcullis::store::NewKey;
use serde_json::Value;

use crate::support::certs;
use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::half_past;
use crate::support::gateway::new_key;
use crate::support::ports::free_port;
use crate::support::request::Request;
use crate::support::upstream::Upstream;
use crate::support::upstream::status;
use crate::support::webhooks::Receiver;
use crate::support::webhooks::with_webhook;

/// What the API tells of alerts, the latest first.
struct Told {
    token: String,
}

impl Told {
    fn of(gateway: &Gateway) -> Told {
        let words = [
            "admin-tokens",
            "create",
            "--name",
            "x",
            "--role",
            "read-only",
            "--expires",
            "never",
        ];
        let token = gateway.command(&words).1.trim().to_owned();
        Told { token }
    }

    fn alerts(&self, gateway: &Gateway) -> Vec<Value> {
        let request = Request::get("/v1/alerts")
            .header("Connection", "close")
            .bearer(&self.token);
        let answer = Http1::plain(gateway.admin()).exchange(&request);
        answer.expect(200);
        answer.json()["alerts"].as_array().unwrap().clone()
    }

    fn of_kind(&self, gateway: &Gateway, kind: &str) -> Vec<Value> {
        let mut alerts = self.alerts(gateway);
        alerts.retain(|alert| alert["kind"] == kind);
        alerts
    }

    #[track_caller]
    fn wait_for(&self, gateway: &Gateway, kind: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} alerts of {kind}"), || {
            let found = self.of_kind(gateway, kind);
            (found.len() >= count).then_some(found)
        })
    }
}

fn call(gateway: &Gateway, key: &Key, path: &str, times: usize) {
    let mut client = gateway.connect();
    for _ in 0..times {
        client.exchange(&Request::get(path).bearer(&key.text));
    }
}

// FF15: at 80 % of a window exactly one POST, its signature good; the next window has its own.
#[test]
fn a_limit_is_told_of_once_in_each_window_and_signed() {
    let upstream = Upstream::start();
    let port = free_port();
    let setup = with_webhook(Setup::limited(&upstream, "10/hour", "unlimited"), port);
    let receiver = Receiver::start(&setup, port, "ok");
    let gateway = setup.start();
    let key = gateway.key("acme");
    call(&gateway, &key, "/any/x", 7);
    let told = Told::of(&gateway);
    assert_eq!(told.alerts(&gateway).len(), 0);
    call(&gateway, &key, "/any/x", 6);
    let seen = receiver.wait_for(1);
    let (hook, body) = (&seen[0], &seen[0]["body"]);
    assert_eq!(hook["valid"], true, "{hook}");
    assert_eq!(hook["path"], "/hook?x=1");
    assert!(hook["id"].as_str().unwrap().starts_with("alert_"));
    assert_eq!(body["type"], "limit.approaching");
    assert_eq!(body["data"]["key_id"], key.id.as_str());
    assert_eq!(
        (&body["data"]["used"], &body["data"]["remaining"]),
        (&8.into(), &2.into())
    );
    assert!(!body.to_string().contains(&key.text));
    let done = eventually("it is delivered", || {
        let alerts = told.alerts(&gateway);
        (alerts[0]["delivery"] == "done").then_some(alerts)
    });
    assert_eq!(done.len(), 1);
    gateway.advance(Duration::from_secs(3_600));
    call(&gateway, &key, "/any/x", 9);
    assert_eq!(receiver.wait_for(2).len(), 2);
    eventually("both are counted", || {
        let delivered = gateway.metric(r#"portcullis_alerts_total{outcome="delivered"}"#);
        (delivered == 2).then_some(())
    });
}

// FF15: where limits are by key and by tenant both windows are told of, each once, also when one request brings both there; what is charged and
// then refused (404, 403) counts like any other, and what is refused by the limit itself tells nothing.
#[test]
fn both_windows_are_told_of_and_so_is_what_a_refusal_was_charged_for() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "20/hour", "unlimited")
        .set("limits", "subject", r#""both""#)
        .more("[[routes]]\npath = \"/secret\"\nscope = \"x:y\"\nupstream = \"legacy\"\n")
        .start();
    let told = Told::of(&gateway);
    let key = || {
        gateway.make_key(NewKey {
            quota: Some("10/hour".to_owned()),
            scopes: Some(vec!["y:z".to_owned()]),
            ..new_key("acme")
        })
    };
    let (first, second) = (key(), key());
    // The 8th of 10 is a 404: that is the first key's window.
    call(&gateway, &first, "/any/x", 7);
    assert_eq!(told.alerts(&gateway).len(), 0);
    call(&gateway, &first, "/nowhere", 1);
    let alerts = told.wait_for(&gateway, "limit.approaching", 1);
    let says = |alert: &Value, words: &str| {
        let text = alert["text"].as_str().unwrap();
        assert!(text.contains(words), "{text}");
    };
    says(
        &alerts[0],
        &format!("{} of tenant acme has used 8 of its 10/hour", first.id),
    );
    // The 16th of the tenant's 20 is the 8th of the second key's 10, and it is a 403: two windows, one request.
    call(&gateway, &second, "/any/x", 7);
    assert_eq!(told.alerts(&gateway).len(), 1);
    call(&gateway, &second, "/secret", 1);
    let alerts = told.wait_for(&gateway, "limit.approaching", 3);
    let told_of = |words: &str| {
        let mut texts = alerts.iter().map(|alert| alert["text"].as_str().unwrap());
        assert!(
            texts.any(|text| text.contains(words)),
            "{words}: {alerts:?}"
        );
    };
    told_of(&format!("{} of tenant acme has used 8", second.id));
    told_of("tenant acme has used 16 of its 20/hour");
    for key in [&first, &second] {
        call(&gateway, key, "/any/x", 9);
    }
    assert_eq!(gateway.get("/any/x", &first).status, 429);
    assert_eq!(told.alerts(&gateway).len(), 3);
}

// FF15: a receiver that fails and one that redirects is asked again, later each time, under the same id; no redirect is followed; what is
// pending outlives a restart, and is not told twice.
#[test]
fn what_is_not_taken_is_sent_again_until_it_is() {
    let upstream = Upstream::start();
    let port = free_port();
    let setup = with_webhook(Setup::limited(&upstream, "10/hour", "unlimited"), port);
    let receiver = Receiver::start(&setup, port, "fail,redirect,slow,ok");
    let gateway = setup.start();
    let key = gateway.key("acme");
    let told = Told::of(&gateway);
    call(&gateway, &key, "/any/x", 9);
    receiver.wait_for(1);
    let pause = |gateway: &Gateway, tries: u64, seconds: u64| {
        eventually("the try is over", || {
            let failed = gateway.metric(r#"portcullis_alerts_total{outcome="failed_try"}"#);
            // More, where the machine stood still for as long as the gateway waits between two.
            (failed >= tries).then_some(())
        });
        gateway.advance(Duration::from_secs(seconds));
    };
    pause(&gateway, 1, 5);
    receiver.wait_for(2);
    pause(&gateway, 2, 10);
    assert_eq!(told.alerts(&gateway)[0]["delivery"], "pending");
    let gateway = gateway.restart();
    let seen = receiver.wait_for(3);
    eventually("it is delivered", || {
        (told.alerts(&gateway)[0]["delivery"] == "done").then_some(())
    });
    let modes: Vec<_> = seen
        .iter()
        .map(|hook| hook["mode"].as_str().unwrap())
        .collect();
    assert_eq!(modes, ["fail", "redirect", "slow"]);
    assert!(
        seen.iter()
            .all(|hook| hook["id"] == seen[0]["id"] && hook["valid"] == true),
        "{seen:?}"
    );
    assert_eq!(told.alerts(&gateway).len(), 1);
}

// FF15: a receiver that never answers holds up no request, and 410 is the last that is sent.
#[test]
fn a_receiver_that_hangs_holds_nobody_up_and_one_that_is_gone_is_left_alone() {
    let upstream = Upstream::start();
    let port = free_port();
    let setup = with_webhook(Setup::limited(&upstream, "10/hour", "unlimited"), port);
    let receiver = Receiver::start(&setup, port, "hang");
    let gateway = setup.start();
    let keys: Vec<Key> = (0..5).map(|_| gateway.key("acme")).collect();
    for key in &keys {
        call(&gateway, key, "/any/x", 8);
    }
    receiver.wait_for(1);
    let begun = Instant::now();
    let other = gateway.key("bravo");
    call(&gateway, &other, "/any/x", 100);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let told = Told::of(&gateway);
    told.wait_for(&gateway, "limit.approaching", 5);
    drop(gateway);
    drop(receiver);
    let upstream = Upstream::start();
    let port = free_port();
    let setup = with_webhook(Setup::limited(&upstream, "10/hour", "unlimited"), port);
    let receiver = Receiver::start(&setup, port, "gone");
    let gateway = setup.start();
    let told = Told::of(&gateway);
    for _ in 0..2 {
        call(&gateway, &gateway.key("acme"), "/any/x", 8);
        told.wait_for(&gateway, "limit.approaching", 1);
        eventually("410 is taken for an answer", || {
            let given_up = told
                .alerts(&gateway)
                .iter()
                .any(|alert| alert["delivery"] == "given up");
            given_up.then_some(())
        });
    }
    told.wait_for(&gateway, "limit.approaching", 2);
    assert_eq!(receiver.seen().len(), 1);
}

// FF15, FA13, FA32: errors, unusual activity, unused and ending keys, a certificate that ends, failing authentication and a key in clear are
// told of, each once, without a webhook too.
#[test]
fn whatever_should_be_known_is_told_once() {
    let upstream = Upstream::start();
    upstream.answer("/any/broken", status(500, &[], "no"));
    let gateway = Setup::usual(&upstream)
        .set("auth", "failures", r#""3/min""#)
        .set("alerts", "unusual_requests", "30")
        .set("alerts", "unusual_factor", "5")
        .start_at(half_past());
    let told = Told::of(&gateway);
    let key = gateway.key("acme");
    // FF15: the error rate, from the threshold on.
    call(&gateway, &key, "/any/broken", 19);
    call(&gateway, &key, "/any/x", 1);
    let errors = told.wait_for(&gateway, "key.error_rate", 1);
    assert!(
        errors[0]["text"].as_str().unwrap().contains(&key.id),
        "{errors:?}"
    );
    // Strangers who try keys, once.
    for _ in 0..9 {
        gateway.send(&Request::get("/any/x").bearer("fp_live_nothing"));
    }
    told.wait_for(&gateway, "authentication.failing", 1);
    // A key in clear (FA29).
    for _ in 0..3 {
        Http1::plain(gateway.http())
            .exchange(&Request::get("/any/x").bearer(&key.text))
            .expect(403);
    }
    told.wait_for(&gateway, "key.seen_in_clear", 1);
    // 20 requests in the first hour are 0.8 an hour of that day; 40 in the next are more than five times that.
    gateway.advance(Duration::from_secs(3_700));
    call(&gateway, &key, "/any/x", 40);
    gateway.advance(Duration::from_secs(61));
    told.wait_for(&gateway, "key.unusual_activity", 1);
    // A key that ends within two weeks.
    gateway.make_key(NewKey {
        expires_in_seconds: Some(13 * 86_400),
        ..new_key("bravo")
    });
    gateway.advance(Duration::from_secs(61));
    told.wait_for(&gateway, "key.expiring", 1);
    // Nobody used the first one for 90 days; the other has ended.
    gateway.advance(Duration::from_secs(91 * 86_400));
    let unused = told.wait_for(&gateway, "key.unused", 1);
    assert!(
        unused[0]["text"].as_str().unwrap().contains(&key.id),
        "{unused:?}"
    );
    // Once each, also over a restart and the next look.
    let gateway = gateway.restart();
    gateway.advance(Duration::from_secs(3_700));
    told.wait_for(&gateway, "key.unused", 1);
    for kind in [
        "key.error_rate",
        "authentication.failing",
        "key.seen_in_clear",
        "key.unusual_activity",
        "key.expiring",
        "key.unused",
    ] {
        assert_eq!(told.of_kind(&gateway, kind).len(), 1, "{kind}");
    }
}

// FF15: over HTTPS an alert goes to who proves to be the receiver, by an authority that is named or by the system's, and to nobody else.
#[test]
fn alerts_over_https_go_to_the_receiver_alone() {
    let upstream = Upstream::start();
    let other = certs::leaf(&["alerts.test"]);
    for (name, leaf, named, taken) in [
        ("a named authority", certs::usual(), true, true),
        (
            "an authority that the system does not know",
            certs::usual(),
            false,
            false,
        ),
        ("a certificate for another name", &other, true, false),
    ] {
        let port = free_port();
        let setup = with_webhook(Setup::limited(&upstream, "10/hour", "unlimited"), port).set(
            "alerts",
            "webhook",
            &format!(r#""https://127.0.0.1:{port}/hook""#),
        );
        fs::write(setup.directory().join("ca.pem"), &certs::authority().pem).unwrap();
        let setup = match named {
            true => setup.set("alerts", "webhook_ca", r#""ca.pem""#),
            false => setup,
        };
        let receiver = Receiver::start_tls(&setup, port, "ok", leaf);
        let gateway = setup.start();
        let key = gateway.key("acme");
        let told = Told::of(&gateway);
        let tries = |outcome: &str| {
            gateway.metric(&format!(
                r#"portcullis_alerts_total{{outcome="{outcome}"}}"#
            ))
        };
        call(&gateway, &key, "/any/x", 8);
        if taken {
            let seen = receiver.wait_for(1);
            assert_eq!(
                (&seen[0]["valid"], &seen[0]["path"]),
                (&true.into(), &"/hook".into()),
                "{name}"
            );
            eventually("it is delivered", || {
                (told.alerts(&gateway)[0]["delivery"] == "done").then_some(())
            });
            continue;
        }
        eventually("the first try is over", || {
            (tries("failed_try") >= 1).then_some(())
        });
        gateway.advance(Duration::from_secs(5));
        eventually("the second try is over", || {
            (tries("failed_try") >= 2).then_some(())
        });
        assert_eq!(told.alerts(&gateway)[0]["delivery"], "pending", "{name}");
        assert_eq!(receiver.seen().len(), 0, "{name}: not a byte of it");
    }
}

// FF15: a certificate that ends within two weeks is told of each day, until another takes its place.
#[test]
fn a_certificate_that_ends_is_told_of_each_day() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream)
        .set("tls", "certificate", r#""short.pem""#)
        .set("tls", "private_key", r#""short.key""#);
    let names = ["localhost", "api.test", "127.0.0.1"];
    certs::ending(&names, 12).write(setup.directory(), "short");
    let gateway = setup.start();
    let told = Told::of(&gateway);
    let kind = "certificate.expiring";
    gateway.advance(Duration::from_secs(61));
    let alerts = told.wait_for(&gateway, kind, 1);
    let text = alerts[0]["text"].as_str().unwrap();
    assert!(text.contains("a certificate of [tls] ends at 2"), "{text}");
    for _ in 0..3 {
        gateway.advance(Duration::from_secs(3_600));
    }
    gateway.advance(Duration::from_secs(21 * 3_600 + 61));
    told.wait_for(&gateway, kind, 2);
    certs::usual().write(gateway.directory(), "short");
    gateway.reload_as_is().unwrap();
    gateway.advance(Duration::from_secs(86_400 + 61));
    // What is looked for behind it has been told: so has this, if there were anything.
    gateway.make_key(NewKey {
        expires_in_seconds: Some(86_400),
        ..new_key("acme")
    });
    gateway.advance(Duration::from_secs(61));
    told.wait_for(&gateway, "key.expiring", 1);
    gateway.advance(Duration::from_secs(61));
    assert_eq!(told.of_kind(&gateway, kind).len(), 2);
}

// A webhook without its secret, or with a secret that is none, is no start.
#[test]
fn a_webhook_has_a_good_secret_or_there_is_no_start() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream);
    let alone = setup
        .clone()
        .set("alerts", "webhook", r#""https://hooks.example""#);
    let error = alone.try_start(&Clock::movable()).err().unwrap();
    assert!(
        error.contains("webhook and webhook_secret go together"),
        "{error}"
    );
    let bad = with_webhook(setup.clone(), 1);
    fs::write(bad.directory().join("webhook.secret"), "hunter2").unwrap();
    let error = bad.try_start(&Clock::movable()).err().unwrap();
    assert!(
        error.contains("whsec_") && !error.contains("hunter2"),
        "{error}"
    );
    let nobody = with_webhook(setup, 1)
        .set("alerts", "webhook", r#""https://127.0.0.1:1/""#)
        .set("alerts", "webhook_ca", r#""nothing.pem""#);
    let error = nobody.try_start(&Clock::movable()).err().unwrap();
    assert!(
        error.contains("webhook_ca: ") && error.contains("nothing.pem"),
        "{error}"
    );
}
