//! A changed gateway.toml: a bad one changes nothing and is explained, a good one loses nothing.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::support::Gate;
use crate::support::Over;
use crate::support::client;
use crate::support::client::block_on;
use crate::support::eventually;
use crate::support::gateway::Access;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::upstream;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;

// S46, DESIGN section 1: the old configuration keeps serving, and the message names place and way out.
#[test]
fn a_bad_file_changes_nothing_and_is_explained() {
    let upstream = Upstream::start();
    let mut gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    let good = gateway.setup.clone();
    let cases = [
        (good.clone().more("[[routes"), "gateway.toml:"),
        (good.clone().set("listen", "htps", "[]"), "https"),
        (
            good.clone().plan("open", "100/fortnight", "unlimited"),
            "fortnight",
        ),
        (good.clone().tenant("acme", "gold"), "gold"),
        (
            good.clone()
                .route_to("billing", "/b", &[], Access::AnyKey, ""),
            "billing",
        ),
        (
            good.clone()
                .more("[[routes]]\npath = \"/x\"\nupstream = \"legacy\""),
            "access",
        ),
        (
            good.clone().set("tls", "certificate", "\"nowhere.pem\""),
            "nowhere.pem",
        ),
    ];
    for (bad, word) in cases {
        let error = gateway.reload(bad).unwrap_err();
        assert!(error.contains(word), "{error:?} says {word:?}");
        gateway.get("/leases", &key).expect(200);
    }
    gateway.reload(good).unwrap();
    gateway.get("/leases", &key).expect(200);
}

// gateway.toml says that bounds on connections take effect on reload.
#[test]
fn caps_on_connections_are_hot() {
    let upstream = Upstream::start();
    let mut gateway = Setup::usual(&upstream).start();
    let mut held = gateway.connect();
    held.exchange(&Request::get("/public/x")).expect(200);
    let connect = |address| client::tls(address, "localhost", client::tls_config(&[]));
    let setup = gateway.setup.clone();
    gateway
        .reload(setup.clone().set("connections", "per_address_max", "1"))
        .unwrap();
    assert!(connect(gateway.https()).is_err());
    held.exchange(&Request::get("/public/x")).expect(200);
    gateway.reload(setup).unwrap();
    assert!(connect(gateway.https()).is_ok());
}

// S46: the file is watched.
#[test]
fn an_edit_takes_effect_by_itself() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    gateway.get("/new", &key).expect(404);
    gateway
        .setup
        .clone()
        .route("/new", &["GET"], Access::AnyKey)
        .write();
    eventually("the new route is served", || {
        (gateway.get("/new", &key).status == 200).then_some(())
    });
}

// IMP5, S46: no request fails, no connection is lost and no count is wrong through 50 reloads under load.
#[test]
fn reloads_under_load_lose_nothing() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "1000000/hour", "unlimited").start();
    let key = gateway.key("acme");
    let (done, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                let request = Request::get("/any").bearer(&key.text);
                while !done.load(Ordering::SeqCst) {
                    client.exchange(&request).expect(200);
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let _over = Over(&done);
        for count in 0..50 {
            let path = format!("/extra/{count}");
            gateway
                .setup
                .clone()
                .route(&path, &[], Access::AnyKey)
                .write();
            gateway.reload_as_is().unwrap();
        }
    });
    let sent = sent.load(Ordering::SeqCst);
    assert_eq!(upstream.hits(), sent);
    let left = gateway.get("/any", &key).number("x-ratelimit-remaining");
    assert_eq!(left, 1_000_000 - sent as u64 - 1);
}

// A request keeps the view it began with.
#[test]
fn a_request_in_flight_outlives_the_removal_of_its_route() {
    let upstream = Upstream::start();
    let gate = Gate::closed();
    upstream.script(
        "/any",
        vec![
            Step::ReadBody,
            Step::Wait(gate.clone()),
            Step::Send(upstream::ok("late")),
        ],
    );
    let mut gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    let mut client = gateway.connect();
    client.send(Request::get("/any").bearer(&key.text).bytes());
    upstream.wait_for_hits(1);
    let other = Upstream::start();
    let moved = gateway.setup.clone().upstream("legacy", other.address);
    gateway.reload(moved).unwrap();
    gate.open();
    assert_eq!(client.read().text(), "late");
    client
        .exchange(&Request::get("/any").bearer(&key.text))
        .expect(200);
    assert_eq!(other.hits(), 1);
}

// Open HTTP/2 connections live on through a reload.
#[test]
fn http2_connections_outlive_a_reload() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    block_on(async {
        let client = gateway.connect_h2().await;
        for _ in 0..5 {
            let request = Request::get("/any").bearer(&key.text);
            client.exchange(&request).await.unwrap().expect(200);
            gateway.reload_as_is().unwrap();
        }
    });
}

// CW6, CHECK13: a downgrade holds from the next request on.
#[test]
fn a_plan_loses_a_scope_at_once() {
    let upstream = Upstream::start();
    let mut gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    let mut client = gateway.connect();
    let request = Request::get("/leases").bearer(&key.text);
    client.exchange(&request).expect(200);
    let downgraded = gateway
        .setup
        .clone()
        .set("plans.open", "scopes", r#"["owners:*"]"#);
    gateway.reload(downgraded).unwrap();
    client.exchange(&request).expect(403);
}

// A change that needs a restart is refused rather than half done.
#[test]
fn listeners_do_not_move_on_a_reload() {
    let upstream = Upstream::start();
    let mut gateway = Setup::usual(&upstream).start();
    let moved = gateway
        .setup
        .clone()
        .set("listen", "https", r#"["127.0.0.2:0"]"#);
    let error = gateway.reload(moved).unwrap_err();
    assert!(error.contains("restart"), "{error}");
    gateway.send(&Request::get("/public/x")).expect(200);
}
