//! The admin API over TCP: who may do what, all verbs, once and not twice, under no foreign name, and as its description says.

use std::net::SocketAddr;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::support::client::Http1;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::idp::ISSUER;
use crate::support::idp::Idp;
use crate::support::idp::claims;
use crate::support::idp::with;
use crate::support::real::left_out;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::signer::Signer;
use crate::support::upstream::Upstream;

/// Somebody who speaks to the admin listener with a token.
struct Api {
    address: SocketAddr,
    token: String,
}

impl Api {
    /// A new token of this gateway, as the command line makes it.
    #[track_caller]
    fn of(gateway: &Gateway, words: &[&str]) -> Api {
        let words = [&["admin-tokens", "create", "--name", "ops"], words].concat();
        let (code, token, said) = gateway.command(&words);
        assert_eq!(code, 0, "{said}");
        Api {
            address: gateway.admin(),
            token: token.trim().to_owned(),
        }
    }

    fn send(&self, request: Request) -> Answer {
        let request = request.header("Connection", "close").bearer(&self.token);
        Http1::plain(self.address).exchange(&request)
    }

    fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let request = Request::new(method, path);
        self.send(match body {
            None => request,
            Some(body) => with_json(request, &body),
        })
    }

    fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None)
    }
}

fn with_json(request: Request, body: &Value) -> Request {
    request
        .header("Content-Type", "application/json")
        .body(body.to_string())
}

fn key_in(answer: &Answer) -> Key {
    let said = answer.json();
    Key {
        id: said["id"].as_str().unwrap().to_owned(),
        text: said["text"].as_str().unwrap().to_owned(),
    }
}

// DESIGN section 10: without a token TCP serves health and metrics only; with one, whoever shows it, until it ends.
#[test]
fn nothing_is_there_without_a_token_and_nothing_opens_with_an_ended_one() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    for path in ["/", "/v1/keys", "/v1/openapi.json", "/app.js"] {
        gateway.admin_get(path).expect(404);
    }
    let api = Api::of(&gateway, &["--role", "full", "--expires", "1h"]);
    api.get("/v1/keys").expect(200);
    let refused = gateway.admin_get("/v1/keys");
    refused.expect(401);
    assert_eq!(refused.one("content-type"), "application/problem+json");
    assert!(refused.one("www-authenticate").starts_with("Bearer realm="));
    let wrong = Api {
        token: format!("{}x", api.token),
        address: api.address,
    };
    assert_eq!(
        wrong.get("/v1/keys").body,
        refused.body,
        "the same words for every bad token"
    );
    // A client's key opens nothing here, and a token nothing there.
    let key = gateway.key("acme");
    let with_key = Api {
        token: key.text,
        address: api.address,
    };
    with_key.get("/v1/keys").expect(401);
    gateway
        .send(&Request::get("/any/x").bearer(&api.token))
        .expect(401);
    let kept = Api::of(&gateway, &["--role", "full"]);
    gateway.advance(Duration::from_secs(3_601));
    api.get("/v1/keys").expect(401);
    let tokens = kept.get("/v1/admin-tokens").json();
    let own = tokens["admin_tokens"][1]["id"].as_str().unwrap().to_owned();
    kept.call("DELETE", &format!("/v1/admin-tokens/{own}"), None)
        .expect(200);
    // It was the last: the listener is what it was before.
    kept.get("/v1/keys").expect(404);
}

// FA3 to FA8, FF6 to FF8, FA13: every verb over the API, in force at the edge when it is answered.
#[test]
fn keys_live_and_die_over_the_api() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let api = Api::of(&gateway, &["--role", "full"]);
    let made = api.call(
        "POST",
        "/v1/keys",
        Some(json!({"tenant": "acme", "name": "CI", "inherit": true, "expires_in_seconds": 7_776_000})),
    );
    made.expect(201);
    let key = key_in(&made);
    let edge = |key: &Key| gateway.get("/any/x", key).status;
    assert_eq!(made.one("location"), format!("/v1/keys/{}", key.id));
    assert_eq!(edge(&key), 200);
    let at = format!("/v1/keys/{}", key.id);
    let shown = api.get(&at).json();
    assert_eq!(
        (&shown["name"], &shown["status"]),
        (&json!("CI"), &json!("active"))
    );
    assert!(shown["created_at"].is_string() && shown["expires_at"].is_string());
    assert!(shown["key"].as_str().unwrap().contains('…') && shown.get("text").is_none());
    let post = |verb: &str| api.call("POST", &format!("{at}/{verb}"), None);
    post("deactivate").expect(200);
    assert_eq!(edge(&key), 401);
    assert_eq!(post("deactivate").json()["changed"], false, "idempotent");
    post("activate").expect(200);
    assert_eq!(edge(&key), 200);
    let patched = api.call("PATCH", &at, Some(json!({"name": "CI 2", "note": "x"})));
    assert_eq!(
        (patched.status, &patched.json()["name"]),
        (200, &json!("CI 2"))
    );
    let again = key_in(&api.call("POST", &format!("{at}/regenerate"), Some(json!({}))));
    assert_eq!(
        (edge(&key), edge(&again), again.id == key.id),
        (401, 200, true)
    );
    let rotated = api.call(
        "POST",
        &format!("{at}/rotate"),
        Some(json!({"overlap_seconds": 60})),
    );
    rotated.expect(201);
    let second = key_in(&rotated);
    assert_eq!((edge(&again), edge(&second)), (200, 200));
    let usage = crate::support::eventually("the requests are counted", || {
        let usage = api.get(&format!("{at}/usage")).json();
        (usage["total"]["success"] == 4).then_some(usage)
    });
    assert_eq!(usage["keys"][0]["name"], "CI 2");
    assert_eq!(
        api.get(&format!("{at}/limits")).json()["windows"][0]["limit"],
        "unlimited"
    );
    post("revoke").expect(200);
    assert_eq!(edge(&again), 401);
    post("activate").expect(409);
    api.call("DELETE", &at, None).expect(200);
    assert_eq!(api.call("DELETE", &at, None).json()["changed"], false);
    let listed = api.get("/v1/keys").json();
    assert_eq!(
        listed["keys"].as_array().unwrap().len(),
        1,
        "deleted keys leave lists"
    );
    let many = api.call("POST", "/v1/revocations", Some(json!({"tenant": "acme"})));
    assert_eq!((many.status, &many.json()["count"]), (200, &json!(1)));
    assert_eq!(edge(&second), 401);
    api.get("/v1/keys/key_nobody000000").expect(404);
    api.get("/v1/keys/nonsense").expect(404);
    // Foreign keys, by value.
    let import = json!({"keys": [{"tenant": "bravo", "name": "old", "inherit": true, "value": "legacy-key-of-old-days-0123456789"}]});
    api.call("POST", "/v1/imports", Some(import)).expect(200);
    let old = Key {
        id: String::new(),
        text: "legacy-key-of-old-days-0123456789".to_owned(),
    };
    assert_eq!(edge(&old), 200);
}

// Pages of keys follow each other without a gap.
#[test]
fn keys_are_listed_by_the_page() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let made: Vec<String> = (0..5).map(|_| gateway.key("acme").id).collect();
    gateway.key("bravo");
    let api = Api::of(&gateway, &["--role", "read-only"]);
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = api
            .get(&format!("/v1/keys?tenant=acme&limit=2{after}"))
            .json();
        let keys = page["keys"].as_array().unwrap().iter();
        seen.extend(keys.map(|key| key["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    seen.sort();
    let mut expected = made;
    expected.sort();
    assert_eq!(seen, expected);
    for query in [
        "?limit=0",
        "?limit=1001",
        "?nonsense=1",
        "?tenant=a&tenant=b",
        "?after=x",
    ] {
        api.get(&format!("/v1/keys{query}")).expect(400);
    }
}

// S27: a name or note that turns the direction of what follows, or hides in it, is refused wherever one is given, by its place and without being repeated;
// one that was there before is shown for what it is.
#[test]
fn s27_names_that_nobody_can_read_are_refused_and_old_ones_shown_for_what_they_are() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    let (code, _, said) = gateway.command(&["tenants", "create", "delta", "--plan", "open"]);
    assert_eq!(code, 0, "{said}");
    let api = Api::of(&gateway, &["--role", "full"]);
    let odd = "paid\u{202e}eerf";
    let create = ["keys", "create", "--tenant", "acme", "--inherit", "--name"];
    let cases: [&[&str]; 7] = [
        &[&create[..], &[odd]].concat(),
        &[&create[..], &["x", "--note", odd]].concat(),
        &["keys", "update", &key.id, "--name", odd],
        &["keys", "update", &key.id, "--note", odd],
        &["tenants", "create", "echo", "--plan", "open", "--name", odd],
        &["tenants", "update", "delta", "--name", odd],
        &["admin-tokens", "create", "--role", "full", "--name", odd],
    ];
    for words in cases {
        let (code, out, said) = gateway.command(words);
        assert_eq!((code, out.as_str()), (1, ""), "{words:?}: {said}");
        assert!(said.contains("character 5 is U+202E"), "{said}");
        assert!(!said.contains('\u{202e}'), "{said:?}");
    }
    let new = json!({"tenant": "acme", "name": odd, "inherit": true});
    let of_key = format!("/v1/keys/{}", key.id);
    for (method, path, body) in [
        ("POST", "/v1/keys", new),
        ("PATCH", of_key.as_str(), json!({"name": odd})),
        ("PATCH", of_key.as_str(), json!({"note": odd})),
        (
            "PUT",
            "/v1/tenants/echo",
            json!({"plan": "open", "name": odd}),
        ),
        ("PATCH", "/v1/tenants/delta", json!({"name": odd})),
        (
            "POST",
            "/v1/admin-tokens",
            json!({"role": "full", "name": odd}),
        ),
    ] {
        let answer = api.call(method, path, Some(body));
        let detail = answer.expect(409).json()["detail"].clone();
        let detail = detail.as_str().unwrap();
        assert!(detail.contains("character 5 is U+202E"), "{detail}");
    }
    let before = "UPDATE api_key SET name = replace(name, 't', char(0x202e)), note = char(0x200b); UPDATE tenant SET name = char(0x2067) || name";
    let file = gateway.directory().join("state/keys.db");
    let store = rusqlite::Connection::open(file).unwrap();
    store.execute_batch(before).unwrap();
    let plain = |text: &str| {
        !text
            .chars()
            .any(|one| "\u{202e}\u{200b}\u{2067}".contains(one))
    };
    for (path, shown) in [
        ("/v1/keys", "\\\\u{202e}es\\\\u{202e}"),
        ("/v1/keys", "\\\\u{200b}"),
        ("/v1/tenants", "\\\\u{2067}delta"),
    ] {
        let text = api.get(path).expect(200).text();
        assert!(text.contains(shown) && plain(&text), "{text:?}");
    }
    for (words, shown) in [
        (&["keys", "list"][..], "\\u{202e}es\\u{202e}"),
        (&["tenants", "list"], "\\u{2067}delta"),
        (&["keys", "deactivate", &key.id], "\\u{202e}es\\u{202e}"),
    ] {
        let (code, out, said) = gateway.command(words);
        assert_eq!(code, 0, "{said}");
        let all = out + &said;
        assert!(all.contains(shown) && plain(&all), "{all:?}");
    }
}

// FF14, PB19: usage comes by the page too, whatever its size, with the sums of all on the first page alone; of a tenant, of named keys, and never of
// another's.
#[test]
fn usage_is_told_by_the_page() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let keys: Vec<Key> = (0..5).map(|_| gateway.key("acme")).collect();
    let (idle, other) = (gateway.key("acme"), gateway.key("bravo"));
    for key in keys.iter().chain([&other]) {
        gateway.get("/any", key).expect(200);
    }
    let api = Api::of(&gateway, &["--role", "read-only"]);
    crate::support::eventually("the requests are counted", || {
        (api.get("/v1/usage").json()["total"]["requests"] == 6).then_some(())
    });
    let ids = |page: &Value| -> Vec<String> {
        let keys = page["keys"].as_array().unwrap().iter();
        keys.map(|key| key["key_id"].as_str().unwrap().to_owned())
            .collect()
    };
    let pages = |api: &Api, query: &str, limit: usize| {
        let (mut seen, mut next, mut shown) = (Vec::new(), String::new(), 0);
        loop {
            let page = api
                .get(&format!("/v1/usage?limit={limit}{query}{next}"))
                .json();
            let first = next.is_empty();
            assert_eq!(page["total"].is_object(), first, "{page}");
            assert_eq!(page["hours"].as_array().unwrap().is_empty(), !first);
            let found = ids(&page);
            assert!(found.len() <= limit, "{page}");
            assert!(page["keys"].as_array().unwrap().iter().all(|key| {
                let named = key["name"].is_string() && key["tenant"].is_string();
                named && key["requests"] == 1
            }));
            seen.extend(found);
            shown += 1;
            match page["next"].as_str() {
                Some(after) => next = format!("&after={after}"),
                None => break,
            }
        }
        seen.sort();
        (seen, shown)
    };
    let mut acme: Vec<String> = keys.iter().map(|key| key.id.clone()).collect();
    acme.sort();
    let mut all = [acme.clone(), vec![other.id.clone()]].concat();
    all.sort();
    let tenant = Api::of(&gateway, &["--tenant", "acme"]);
    for limit in [1, 2, 5, 6, 100] {
        assert_eq!(
            pages(&api, "", limit),
            (all.clone(), 6_usize.div_ceil(limit))
        );
        assert_eq!(pages(&api, "&tenant=acme", limit).0, acme);
        assert_eq!(pages(&tenant, "", limit).0, acme);
        let named = format!("&keys={},{},{}", acme[0], idle.id, other.id);
        assert_eq!(pages(&tenant, &named, limit).0, acme[..1]);
        let mut two = vec![acme[0].clone(), other.id.clone()];
        two.sort();
        assert_eq!(pages(&api, &named, limit).0, two);
    }
    let of_acme = tenant.get("/v1/usage?limit=1").json();
    assert_eq!(of_acme["total"]["requests"], 5, "of all, not of the page");
    let named = api.get(&format!("/v1/usage?keys={}", acme[0])).json();
    assert_eq!(named["total"]["requests"], 1);
    for query in [
        "?limit=0",
        "?limit=1001",
        "?after=x",
        "?keys=",
        "?keys=key_nobody000000,x",
        &format!("?keys={}", vec!["key_nobody000000"; 101].join(",")),
    ] {
        api.get(&format!("/v1/usage{query}")).expect(400);
    }
    // Of one tenant the page begins behind a key that it has.
    let foreign = format!("/v1/usage?after={}", other.id);
    tenant.get(&foreign).expect(409);
    // The command line puts the pages together again, the busiest first.
    gateway.get("/any", &keys[3]).expect(200);
    let told = crate::support::eventually("the request is counted", || {
        let (_, out, _) = gateway.command(&["usage", "--output", "json"]);
        let said: Value = serde_json::from_str(&out).unwrap();
        (said["total"]["requests"] == 7).then_some(said)
    });
    assert_eq!(told["keys"][0]["key_id"], keys[3].id.as_str());
    assert_eq!(told["keys"].as_array().unwrap().len(), 6);
}

// DESIGN section 10: a read-only token changes nothing; one of a tenant sees and changes that tenant's keys, knows of no other, and
// cannot raise what the tenant has bought.
#[test]
fn a_token_may_what_its_role_says() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let (own, other) = (gateway.key("acme"), gateway.key("bravo"));
    let reader = Api::of(&gateway, &["--role", "read-only"]);
    for path in [
        "/v1/keys",
        "/v1/audit",
        "/v1/tenants",
        "/v1/status",
        "/v1/admin-tokens",
        "/v1/overview",
    ] {
        reader.get(path).expect(200);
    }
    let new = json!({"tenant": "acme", "name": "x", "inherit": true});
    for (method, path, body) in [
        ("POST", "/v1/keys", Some(new)),
        ("POST", &*format!("/v1/keys/{}/revoke", own.id), None),
        ("DELETE", &*format!("/v1/keys/{}", own.id), None),
        ("POST", "/v1/reload", None),
        ("PUT", "/v1/tenants/acme", Some(json!({"plan": "open"}))),
        (
            "POST",
            "/v1/admin-tokens",
            Some(json!({"name": "x", "role": "full"})),
        ),
    ] {
        reader.call(method, path, body).expect(403);
    }
    let tenant = Api::of(&gateway, &["--tenant", "acme"]);
    let listed = tenant.get("/v1/keys").json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1);
    assert_eq!(listed["keys"][0]["id"], own.id.as_str());
    tenant.get("/v1/keys?tenant=bravo").expect(403);
    tenant.get("/v1/usage?tenant=bravo").expect(403);
    assert_eq!(
        tenant.get("/v1/tenants").json()["tenants"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    tenant.get("/v1/tenants/acme").expect(200);
    tenant.get("/v1/tenants/bravo").expect(404);
    // Another tenant's key and a missing one are the same bytes, whatever is asked of it.
    let missing = tenant.get("/v1/keys/key_nobody000000");
    for (method, path, body) in [
        ("GET", "", None),
        ("PATCH", "", Some(json!({"name": "mine"}))),
        ("DELETE", "", None),
        ("POST", "/deactivate", None),
        ("POST", "/activate", None),
        ("POST", "/revoke", None),
        ("POST", "/regenerate", Some(json!({}))),
        ("POST", "/rotate", Some(json!({}))),
        ("GET", "/usage", None),
        ("GET", "/limits", None),
    ] {
        let answer = tenant.call(method, &format!("/v1/keys/{}{path}", other.id), body);
        answer.expect(404);
        assert_eq!(answer.body, missing.body, "{method} {path}");
    }
    for path in [
        "/v1/audit",
        "/v1/audit/verify",
        "/v1/admin-tokens",
        "/v1/status",
        "/v1/overview",
        "/v1/routes",
        "/v1/upstreams",
        "/v1/plans",
        "/v1/observed",
        "/v1/denied-tokens",
    ] {
        tenant.get(path).expect(403);
    }
    for (method, path, body) in [
        ("POST", "/v1/reload", json!({})),
        ("POST", "/v1/denied-tokens", json!({"jti": "x"})),
        ("DELETE", "/v1/denied-tokens/jti/x", json!({})),
        ("POST", "/v1/revocations", json!({"tenant": "bravo"})),
        ("POST", "/v1/imports", json!({"keys": []})),
        ("PUT", "/v1/tenants/acme", json!({"plan": "open"})),
        ("PATCH", "/v1/tenants/acme", json!({"quota": "unlimited"})),
        ("POST", "/v1/tenants/acme/resume", json!({})),
        (
            "POST",
            "/v1/explain",
            json!({"key": own.id, "method": "GET", "path": "/"}),
        ),
        (
            "POST",
            "/v1/keys",
            json!({"name": "x", "inherit": true, "tenant": "bravo"}),
        ),
        (
            "POST",
            "/v1/keys",
            json!({"name": "x", "inherit": true, "quota": "unlimited"}),
        ),
        (
            "POST",
            "/v1/keys",
            json!({"name": "x", "inherit": true, "plan": "open"}),
        ),
        (
            "PATCH",
            &*format!("/v1/keys/{}", own.id),
            json!({"burst": "unlimited"}),
        ),
    ] {
        tenant.call(method, path, Some(body)).expect(403);
    }
    let made = tenant.call(
        "POST",
        "/v1/keys",
        Some(json!({"name": "ours", "inherit": true})),
    );
    made.expect(201);
    assert_eq!(made.json()["tenant"], "acme");
    assert_eq!(gateway.get("/any/x", &key_in(&made)).status, 200);
    assert_eq!(
        gateway.get("/any/x", &other).status,
        200,
        "nobody touched the other's"
    );
    // The audit log knows which token it was, and from where.
    let lines = reader.get("/v1/audit?limit=1").json();
    assert!(
        lines["lines"][0]["who"]
            .as_str()
            .unwrap()
            .starts_with("token:tok_"),
        "{lines}"
    );
    assert_eq!(lines["lines"][0]["from"], "127.0.0.1");
}

// Idempotent where it can be: what is asked for twice under one name is done once, and the text is not kept to be told again (FA4).
#[test]
fn what_is_asked_twice_under_one_name_is_done_once() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let api = Api::of(&gateway, &["--role", "full"]);
    let new = json!({"tenant": "acme", "name": "CI", "inherit": true});
    let create = |body: &Value| {
        let request = Request::new("POST", "/v1/keys").header("Idempotency-Key", "order-7");
        api.send(with_json(request, body))
    };
    let first = create(&new);
    first.expect(201);
    let again = create(&new);
    again.expect(200);
    assert_eq!(again.one("idempotent-replayed"), "true");
    assert_eq!(again.json()["id"], first.json()["id"]);
    assert!(again.json()["text"].is_null());
    create(&json!({"tenant": "acme", "name": "other", "inherit": true})).expect(409);
    assert_eq!(
        api.get("/v1/keys").json()["keys"].as_array().unwrap().len(),
        1
    );
    // PUT says how a tenant is to be, however often.
    let tenant = json!({"plan": "open", "name": "Initech", "quota": "7/hour"});
    api.call("PUT", "/v1/tenants/initech", Some(tenant.clone()))
        .expect(201);
    let again = api.call("PUT", "/v1/tenants/initech", Some(tenant));
    again.expect(200);
    assert_eq!(again.json()["changed"], false);
    let bare = api
        .call("PUT", "/v1/tenants/initech", Some(json!({"plan": "open"})))
        .json();
    assert_eq!(
        (&bare["name"], &bare["quota"]),
        (&json!("initech"), &Value::Null)
    );
    api.call("POST", "/v1/tenants/initech/suspend", None)
        .expect(200);
    assert_eq!(api.get("/v1/tenants/initech").json()["status"], "suspended");
}

// A page of another site cannot reach the API: not under a name of its own (DNS rebinding), not by a preflight, not on a session's cookie.
#[test]
fn no_foreign_page_reaches_the_api() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .set("admin", "hosts", r#"["admin.example.org"]"#)
        .start();
    let api = Api::of(&gateway, &["--role", "full"]);
    for (host, status) in [
        ("evil.example", 421),
        ("127.0.0.1.evil.example:9600", 421),
        ("localhost", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:9600", 200),
        ("Admin.example.org:443", 200),
        ("example.org", 421),
    ] {
        api.send(Request::get("/v1/keys").host(host)).expect(status);
    }
    let preflight = Request::new("OPTIONS", "/v1/keys")
        .header("Origin", "https://evil.example")
        .header("Access-Control-Request-Method", "POST");
    let answer = api.send(preflight);
    assert!(
        answer.status >= 400 && !answer.has("access-control-allow-origin"),
        "{answer:?}"
    );
    let anonymous = |request: Request| {
        Http1::plain(gateway.admin()).exchange(&request.header("Connection", "close"))
    };
    let log_in = |token: &str| {
        let request = Request::new("POST", "/v1/session").header("X-Portcullis-Page", "1");
        anonymous(with_json(request, &json!({"token": token})))
    };
    log_in("adm_full_nothing").expect(401);
    let session = log_in(&api.token);
    session.expect(200);
    let cookie = session.one("set-cookie").to_owned();
    assert!(
        cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Strict"),
        "{cookie}"
    );
    assert!(!cookie.contains(&api.token));
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let with_cookie = |request: Request| anonymous(request.header("Cookie", &cookie));
    with_cookie(Request::get("/v1/keys")).expect(200);
    let new = json!({"tenant": "acme", "name": "x", "inherit": true});
    let post = || with_json(Request::new("POST", "/v1/keys"), &new);
    with_cookie(post()).expect(403);
    let own = || post().header("X-Portcullis-Page", "1");
    with_cookie(own().header("Origin", "https://evil.example")).expect(403);
    with_cookie(own().header("Sec-Fetch-Site", "same-site")).expect(403);
    with_cookie(own()).expect(201);
    // The session ends with its token, and when it is left.
    let end = Request::new("DELETE", "/v1/session").header("X-Portcullis-Page", "1");
    with_cookie(end).expect(204);
    with_cookie(Request::get("/v1/keys")).expect(401);
}

// What cannot be read is refused in the API's own words, which repeat nothing.
#[test]
fn what_is_malformed_is_refused_as_a_problem() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let api = Api::of(&gateway, &["--role", "full"]);
    let post = |kind: &str, body: &str| {
        let request = Request::new("POST", "/v1/keys").header("Content-Type", kind);
        api.send(request.body(body))
    };
    let secret = r#"{"name": "x", "fp_live_secret": "fp_live_secret"}"#;
    for (answer, status) in [
        (post("application/json", "{"), 400),
        (post("application/json", secret), 400),
        (post("text/plain", "{}"), 415),
        (
            post("application/json", &format!("\"{}\"", "x".repeat(2 << 20))),
            413,
        ),
        (
            post(
                "application/json",
                r#"{"tenant":"nobody","name":"x","inherit":true}"#,
            ),
            409,
        ),
        (api.call("PUT", "/v1/keys", Some(json!({}))), 405),
        (api.get("/v1/nothing"), 404),
    ] {
        answer.expect(status);
        assert_eq!(answer.one("content-type"), "application/problem+json");
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        assert!(!answer.text().contains("secret"), "{problem}");
    }
    let audit = api.get("/v1/audit/verify").json();
    assert_eq!(audit["whole"], true);
}

// FA8, FA13: access tokens are denied over the API too, in force when it is answered, in the audit log, and never by who may only read.
#[test]
fn access_tokens_are_denied_over_the_api() {
    let upstream = Upstream::start();
    let idp = Idp::start(&[Signer::rsa()]);
    let gateway = Setup::usual(&upstream)
        .set("auth", "credentials", r#"["key", "jwt"]"#)
        .more(&idp.table(""))
        .start();
    let api = Api::of(&gateway, &["--role", "full"]);
    let reader = Api::of(&gateway, &["--role", "read-only"]);
    let token = |changes: Value| Signer::rsa().token(&with(&claims(&gateway, ""), changes));
    let one = token(json!({ "jti": "one", "sub": "u1" }));
    let two = token(json!({ "jti": "two", "sub": "u2" }));
    let statuses =
        || [&one, &two].map(|token| gateway.send(&Request::get("/any").bearer(token)).status);
    assert_eq!(statuses(), [200, 200]);
    let path = "/v1/denied-tokens";
    let deny = json!({ "jti": "one", "for_seconds": 60, "note": "lost" });
    reader.call("POST", path, Some(deny.clone())).expect(403);
    reader
        .call("DELETE", &format!("{path}/jti/one"), None)
        .expect(403);
    assert_eq!(statuses(), [200, 200]);
    let denied = api.call("POST", path, Some(deny));
    let said = denied.expect(201).json();
    assert_eq!(statuses(), [401, 200]);
    assert_eq!(
        (&said["denied_by"], &said["value"]),
        (&json!("jti"), &json!("one"))
    );
    assert_eq!(
        reader.get(path).expect(200).json()["denied_tokens"],
        json!([said])
    );
    let (code, listed, _) = gateway.command(&["tokens", "list"]);
    assert_eq!((code, listed.lines().count()), (0, 1));
    let lines = reader.get("/v1/audit?limit=1").json();
    assert_eq!(lines["lines"][0]["act"], "token-deny");
    assert!(
        lines["lines"][0]["who"]
            .as_str()
            .unwrap()
            .starts_with("token:tok_")
    );
    api.call("DELETE", &format!("{path}/jti/one?issuer=x"), None)
        .expect(404);
    api.call("DELETE", &format!("{path}/jti/one"), None)
        .expect(200);
    api.call("DELETE", &format!("{path}/jti/one"), None)
        .expect(404);
    assert_eq!(statuses(), [200, 200]);
    let everybody = json!({ "client": "app-1", "issued_until_now": true, "issuer": ISSUER });
    api.call("POST", path, Some(everybody)).expect(201);
    assert_eq!(statuses(), [401, 401]);
    // A user's id may have anything that is printed.
    let odd = json!({ "subject": "a/b?c&d%2F" });
    api.call("POST", path, Some(odd)).expect(201);
    api.call("DELETE", &format!("{path}/subject/a%2Fb%3Fc&d%252F"), None)
        .expect(200);
    for (body, status) in [
        (json!({}), 400),
        (json!({ "jti": null }), 400),
        (json!({ "jti": "a", "subject": "b" }), 400),
        (json!({ "jti": "a", "for_seconds": 0 }), 400),
        (json!({ "jti": "a", "other": 1 }), 400),
        (json!({ "jti": one }), 409),
    ] {
        let refused = api.call("POST", path, Some(body));
        refused.expect(status);
        assert!(!refused.text().contains(&one));
    }
    let audit = api.get("/v1/audit/verify").json();
    assert_eq!(audit["whole"], true);
}

// DESIGN section 10: the description that is served is true: schemathesis calls everything it tells of, with what fits and what does not. Of the
// tokens that it may end, one is there: it ends again and again, with the answer that is described.
#[test]
fn the_description_is_held_to_by_schemathesis() {
    if left_out("schemathesis") {
        return;
    }
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let api = Api::of(&gateway, &["--role", "full"]);
    let victim = Api::of(&gateway, &["--role", "read-only"]);
    let listed = api.get("/v1/admin-tokens").json();
    let mut tokens = listed["admin_tokens"].as_array().unwrap().iter();
    let id = tokens.rfind(|token| token["role"] == "read-only");
    let id = id.unwrap()["id"].as_str().unwrap();
    // It learns ids from answers, and would end the token that it is let in by.
    let all = ["run", "--exclude-operation-id", "revokeAdminToken"];
    let said = schemathesis(&gateway, &api, &all);
    assert!(said.contains("Tested: 40"), "all was called: {said}");
    victim.get("/v1/keys").expect(200);
    let config = format!(
        "[[operations]]\ninclude-operation-id = \"revokeAdminToken\"\nparameters = {{ id = \"{id}\" }}\n"
    );
    let file = gateway.directory().join("schemathesis.toml");
    std::fs::write(&file, config).unwrap();
    let words = [
        "--config-file",
        file.to_str().unwrap(),
        "run",
        "--include-operation-id",
        "revokeAdminToken",
    ];
    let said = schemathesis(&gateway, &api, &words);
    assert!(said.contains("Tested: 1"), "{said}");
    victim.get("/v1/keys").expect(401);
    api.call("DELETE", "/v1/admin-tokens/tok_nobody000000", None)
        .expect(404);
    assert_eq!(api.get("/v1/audit/verify").json()["whole"], true);
}

/// Has schemathesis call the API, and gives what it says; these are its first words.
#[track_caller]
fn schemathesis(gateway: &Gateway, api: &Api, words: &[&str]) -> String {
    let program = crate::support::real::tool("schemathesis", "venv/bin/schemathesis");
    let directory = gateway.directory().to_owned();
    let log = std::fs::File::create(directory.join("schemathesis.log")).unwrap();
    let mut command = Command::new(program);
    command
        .current_dir(&directory)
        .args(words)
        .arg(format!("http://{}/v1/openapi.json", gateway.admin()))
        .arg("--header")
        .arg(format!("Authorization: Bearer {}", api.token))
        .args(["--phases", "coverage,fuzzing", "--max-examples", "5"])
        .args([
            "--generation-deterministic",
            "--suppress-health-check",
            "all",
        ])
        .args(["--no-color", "--max-failures", "10"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let mut child = command.spawn().expect("schemathesis starts");
    // Bounded by its number of examples; a busy machine may be slow.
    let begun = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > Duration::from_secs(600) {
            let _ = child.kill();
            panic!("schemathesis takes too long");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let said = std::fs::read_to_string(directory.join("schemathesis.log")).unwrap();
    assert!(status.success(), "{said}");
    said
}
