//! `examples/fanfare.toml`, by the rows of SEEDS section 3.

use portcullis::store::NewKey;
use portcullis::store::Verb;

use crate::profiles::only_the_diagonal;
use crate::profiles::statuses;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

const HOST: &str = "api.fanfare.io";
const TEST_HOST: &str = "api.test.fanfare.io";
const SHOP: &str = "https://shop.example";

struct World {
    live: Upstream,
    test: Upstream,
    gateway: Gateway,
}

fn start() -> World {
    let (live, test) = (Upstream::start(), Upstream::start());
    let gateway = Setup::example("fanfare.toml", &live, &test)
        .tenant("acme", "enterprise")
        .tenant("small", "free")
        .start();
    World {
        live,
        test,
        gateway,
    }
}

fn make(gateway: &Gateway, kind: &str, environment: &str, scopes: &[&str]) -> Key {
    gateway.make_key(NewKey {
        kind: kind.to_owned(),
        environment: Some(environment.to_owned()),
        scopes: Some(scopes.iter().map(|scope| (*scope).to_owned()).collect()),
        ..new_key("acme")
    })
}

// FF1, C-21, C-22: kind and world stand in the prefix; a public key writes nothing.
#[test]
fn kinds_and_worlds_have_their_prefixes() {
    let world = start();
    for (kind, environment, prefix) in [
        ("public", "live", "pk_live_"),
        ("secret", "live", "sk_live_"),
        ("public", "test", "pk_test_"),
        ("secret", "test", "sk_test_"),
    ] {
        let key = make(&world.gateway, kind, environment, &["read:experiences"]);
        assert!(key.text.starts_with(prefix), "{kind} {environment}");
    }
    let public = make(&world.gateway, "public", "live", &["read:experiences"]);
    let seen = statuses(
        &world.gateway,
        HOST,
        &public,
        &[("GET", "/v1/experiences"), ("POST", "/v1/experiences")],
    );
    assert_eq!(seen, [200, 403]);
}

// FF1, FF3, FF10, C-7: scopes are optional; then a secret key may do all and a public one reads experiences, whatever the plan.
#[test]
fn keys_without_stated_scopes_are_full_or_limited_by_their_kind() {
    let World {
        live: _live,
        test: _test,
        gateway,
    } = start();
    let requests = [
        ("GET", "/v1/experiences"),
        ("POST", "/v1/experiences"),
        ("GET", "/v1/admin/users"),
    ];
    for tenant in ["acme", "small"] {
        for (kind, expected) in [("secret", [200, 200, 200]), ("public", [200, 403, 403])] {
            let key = gateway.make_key(NewKey {
                kind: kind.to_owned(),
                default_scopes: true,
                scopes: None,
                ..new_key(tenant)
            });
            let seen = statuses(&gateway, HOST, &key, &requests);
            assert_eq!(seen, expected, "{tenant} {kind}");
        }
    }
}

// FF2, FF20, C-14: pages of the shop may read with a public key; a secret key in a page is refused.
#[test]
fn pages_use_public_keys() {
    let World { live, gateway, .. } = start();
    let preflight = Request::new("OPTIONS", "/v1/experiences")
        .host(HOST)
        .header("Origin", SHOP)
        .header("Access-Control-Request-Method", "GET");
    gateway.send(&preflight).expect(204);
    assert_eq!(live.hits(), 0);
    let public = gateway.make_key(NewKey {
        kind: "public".to_owned(),
        scopes: Some(vec!["read:experiences".to_owned()]),
        origins: vec![SHOP.to_owned()],
        ..new_key("acme")
    });
    let secret = make(&gateway, "secret", "live", &["read:experiences"]);
    let get = |key: &Key, origin: &str| {
        gateway.send(
            &Request::get("/v1/experiences")
                .host(HOST)
                .bearer(&key.text)
                .header("Origin", origin),
        )
    };
    let answer = get(&public, SHOP);
    answer.expect(200);
    assert_eq!(answer.one("access-control-allow-origin"), SHOP);
    assert_eq!(answer.one("vary"), "Origin");
    get(&public, "https://evil.example").expect(403);
    get(&secret, SHOP).expect(403);
    assert_eq!(live.hits(), 1);
}

// FF7, FF8: switched off and on again; deleted for good.
#[test]
fn keys_are_switched_off_and_deleted() {
    let World {
        live: _live,
        test: _test,
        gateway,
    } = start();
    let key = make(&gateway, "secret", "live", &["read:experiences"]);
    let get = || statuses(&gateway, HOST, &key, &[("GET", "/v1/experiences")]);
    let id = || key.id.clone();
    gateway.execute(Verb::KeyDeactivate { id: id() }).unwrap();
    assert_eq!(get(), [401]);
    gateway.execute(Verb::KeyActivate { id: id() }).unwrap();
    assert_eq!(get(), [200]);
    gateway.execute(Verb::KeyDelete { id: id() }).unwrap();
    assert_eq!(get(), [401]);
}

// FF5, C-17, C-27: name, type, created, last used and status, in Fanfare's words.
#[test]
fn the_list_has_five_columns_in_their_words() {
    let World {
        live: _live,
        test: _test,
        gateway,
    } = start();
    let named = |name: &str, expires_in_seconds| {
        gateway.make_key(NewKey {
            name: name.to_owned(),
            expires_in_seconds,
            ..new_key("acme")
        })
    };
    let used = named("shop", None);
    let paused = named("partner", None);
    named("trial", Some(60));
    let gone = named("old", None);
    let id = paused.id.clone();
    gateway.execute(Verb::KeyDeactivate { id }).unwrap();
    gateway.execute(Verb::KeyDelete { id: gone.id }).unwrap();
    gateway.advance(std::time::Duration::from_secs(120));
    assert_eq!(
        statuses(&gateway, HOST, &used, &[("GET", "/v1/experiences")]),
        [200]
    );
    let columns = "name,type,created,last-used,status";
    let list = |more: &[&str]| {
        let words = [&["keys", "list", "--columns", columns], more].concat();
        let (code, out, _) = gateway.command(&words);
        assert_eq!(code, 0);
        let mut rows: Vec<Vec<String>> = out
            .lines()
            .map(|line| line.split('\t').map(str::to_owned).collect())
            .collect();
        rows.sort();
        rows
    };
    let rows = list(&[]);
    let seen: Vec<[&str; 3]> = rows
        .iter()
        .map(|row| [row[0].as_str(), row[1].as_str(), row[4].as_str()])
        .collect();
    assert_eq!(
        seen,
        [
            ["partner", "secret", "Inactive"],
            ["shop", "secret", "Active"],
            ["trial", "secret", "Expired"],
        ]
    );
    let is_date = |text: &str| text.len() == 20 && text.ends_with('Z');
    assert!(rows.iter().all(|row| is_date(&row[2])), "{rows:?}");
    assert_eq!([&rows[0][3], &rows[2][3]], ["never", "never"]);
    assert!(is_date(&rows[1][3]) && rows[1][3] > rows[1][2], "{rows:?}");
    assert_eq!(list(&["--all"])[0][4], "Deleted");
    let (_, json, _) = gateway.command(&["keys", "show", &paused.id, "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        [&json["status"], &json["status_label"]],
        ["inactive", "Inactive"]
    );
}

// FF10: under the smallest plan no key may list scopes, and one that did before counts as whole; whoever changes the plan is told.
#[test]
fn a_smaller_plan_makes_keys_whole_and_says_so() {
    let World {
        live: _live,
        test: _test,
        gateway,
    } = start();
    let create = Verb::TenantCreate {
        id: "shop".to_owned(),
        name: None,
        plan: "pro".to_owned(),
        upstreams: Default::default(),
    };
    gateway.execute(create).unwrap();
    let narrow = gateway.key_with_scopes("shop", &["read:experiences"]);
    gateway.key_with_scopes("shop", &["read:analytics"]);
    gateway.key("shop");
    let writes = [("POST", "/v1/experiences")];
    assert_eq!(statuses(&gateway, HOST, &narrow, &writes), [403]);
    let (code, _, said) = gateway.command(&["tenants", "update", "shop", "--plan", "free"]);
    assert_eq!(code, 0);
    assert!(
        said.contains("note: 2 of its secret keys list scopes of their own"),
        "{said}"
    );
    assert_eq!(statuses(&gateway, HOST, &narrow, &writes), [200]);
    let words = [
        "keys", "create", "--tenant", "shop", "--name", "x", "--scope", "read:x",
    ];
    let (code, _, said) = gateway.command(&words);
    assert_eq!(code, 1, "{said}");
    let (_, _, said) = gateway.command(&["tenants", "update", "shop", "--plan", "basic"]);
    assert!(!said.contains("note:"), "{said}");
    let (_, _, said) = gateway.command(&["keys", "update", &narrow.id, "--plan", "free"]);
    assert!(
        said.contains("note: the key may do all that its tenant may"),
        "{said}"
    );
    let (_, _, said) = gateway.command(&["keys", "update", &narrow.id, "--note", "x"]);
    assert!(!said.contains("note: the key may"), "{said}");
}

// FF9, C-3, C-4: the scopes of the reference, each by itself, and admin, which is all of them.
#[test]
fn admin_is_every_scope() {
    let World {
        live: _live,
        test: _test,
        gateway,
    } = start();
    let rows = [
        ("read:experiences", "GET", "/v1/experiences"),
        ("write:experiences", "POST", "/v1/experiences"),
        ("read:consumers", "GET", "/v1/consumers/1"),
        ("write:consumers", "PUT", "/v1/consumers/1"),
        ("read:analytics", "GET", "/v1/analytics"),
    ];
    only_the_diagonal(&gateway, HOST, "acme", &rows);
    let admin = gateway.key_with_scopes("acme", &["admin"]);
    let mut requests: Vec<(&str, &str)> = rows
        .iter()
        .map(|(_, method, path)| (*method, *path))
        .collect();
    requests.push(("DELETE", "/v1/admin/users/1"));
    assert_eq!(statuses(&gateway, HOST, &admin, &requests), [200; 6]);
}

// FF11, C-12: the key in the query is gone before the backend.
#[test]
fn the_key_may_stand_in_the_query() {
    let World { live, gateway, .. } = start();
    let key = make(&gateway, "secret", "live", &["read:experiences"]);
    let target = format!("/v1/experiences?a=1&api_key={}&b=%2F", key.text);
    let answer = gateway.send(&Request::get(&target).host(HOST));
    answer.expect(200);
    assert_eq!(live.last().target(), "/v1/experiences?a=1&b=%2F");
    assert_eq!(answer.one("referrer-policy"), "no-referrer");
    assert_eq!(answer.one("cache-control"), "private");
}

// FF12, FF13, C-9: a hundred a minute, which is what the headers describe.
#[test]
fn the_free_plan_is_100_a_minute() {
    let World {
        live: _live,
        test: _test,
        gateway,
    } = start();
    let key = gateway.key("small");
    let mut client = gateway.connect();
    let request = Request::get("/v1/experiences").host(HOST).bearer(&key.text);
    for left in (0..100).rev() {
        let answer = client.exchange(&request);
        answer.expect(200);
        assert_eq!(answer.number("x-ratelimit-limit"), 100);
        assert_eq!(answer.number("x-ratelimit-remaining"), left);
    }
    let refused = client.exchange(&request);
    refused.expect(429);
    assert!((1..=60).contains(&refused.number("retry-after")));
}

// FF16, C-21: each world at its own host.
#[test]
fn test_keys_have_their_own_host() {
    let World {
        live,
        test,
        gateway,
    } = start();
    let (of_live, of_test) = (
        make(&gateway, "secret", "live", &["admin"]),
        make(&gateway, "secret", "test", &["admin"]),
    );
    let get =
        |host: &str, key: &Key| statuses(&gateway, host, key, &[("GET", "/v1/experiences")])[0];
    assert_eq!(get(HOST, &of_live), 200);
    assert_eq!(get(HOST, &of_test), 401);
    assert_eq!(get(TEST_HOST, &of_test), 200);
    assert_eq!(get(TEST_HOST, &of_live), 401);
    assert_eq!((live.hits(), test.hits()), (1, 1));
}

// FF17, FF21: a 403 names the scope; beside /v1 nothing is served.
#[test]
fn refusals_say_what_is_missing() {
    let World { live, gateway, .. } = start();
    let key = make(&gateway, "secret", "live", &["read:experiences"]);
    let get = |path: &str| gateway.send(&Request::get(path).host(HOST).bearer(&key.text));
    assert_eq!(
        get("/v1/consumers").json()["required_permission"],
        "read:consumers"
    );
    get("/v2/experiences").expect(404);
    get("/experiences").expect(404);
    assert_eq!(live.hits(), 0);
}
