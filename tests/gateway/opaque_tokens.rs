//! Opaque tokens, which only their issuer can read and is asked about (RFC 7662): authenticated, remembered for a bounded time, asked about once.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::support::Gate;
use crate::support::eventually;
use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::gateway::still;
use crate::support::idp::Idp;
use crate::support::idp::claims;
use crate::support::idp::with;
use crate::support::request::Request;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;

const ASK: &str = "/introspect";

fn world() -> (Upstream, Idp, Gateway) {
    let (upstream, idp) = (Upstream::start(), Idp::start(&[]));
    let table = format!(
        "credentials = [\"opaque\", \"session\"]\nintrospection_url = \"http://{}{ASK}\"\nclient_id = \"gate/way\"\nclient_secret = \"file:secret\"\nrequired_claims = []\n",
        idp.address()
    );
    let table = idp.table(&table);
    let table = table.lines().filter(|line| !line.starts_with("jwks_url"));
    let setup = Setup::usual(&upstream)
        .set("auth", "credentials", r#"["key", "opaque"]"#)
        .set("sessions", "cookie", r#""__Host-session""#)
        .route_to(
            "legacy",
            "/page/{*rest}",
            &[],
            Access::AnyKey,
            "credentials = [\"session\"]\n",
        )
        .more(&table.collect::<Vec<_>>().join("\n"));
    std::fs::write(setup.directory().join("secret"), "s3cret+/\n").unwrap();
    (upstream, idp, setup.start_at(still()))
}

fn says(gateway: &Gateway, idp: &Idp, changes: Value) {
    let own = with(&claims(gateway, "leases:read"), json!({ "active": true }));
    idp.answer(ASK, &with(&own, changes).to_string());
}

fn get(gateway: &Gateway, target: &str, token: &str) -> u16 {
    gateway.send(&Request::get(target).bearer(token)).status
}

// The issuer is asked once, by POST, with our name and secret; what it says is worth what a JWT's claims are.
#[test]
fn an_opaque_token_is_worth_what_its_issuer_says() {
    let (upstream, idp, gateway) = world();
    says(&gateway, &idp, json!({}));
    assert_eq!(get(&gateway, "/leases/1", "0b5de7c0+8d0a/4d1c"), 200);
    assert_eq!(upstream.last().all("x-tenant-id"), ["acme"]);
    assert!(!upstream.last().text().contains("0b5de7c0"));
    assert_eq!(get(&gateway, "/owners/1", "0b5de7c0+8d0a/4d1c"), 403);
    let asked = idp.server().last();
    assert_eq!(idp.server().hits_on(ASK), 1);
    assert_eq!(asked.line, format!("POST {ASK} HTTP/1.1"));
    let body = String::from_utf8(asked.body.clone()).unwrap();
    assert_eq!(
        body,
        "token=0b5de7c0%2B8d0a%2F4d1c&token_type_hint=access_token"
    );
    // RFC 6749 section 2.3.1: gate%2Fway:s3cret%2B%2F
    assert_eq!(
        asked.all("authorization"),
        ["Basic Z2F0ZSUyRndheTpzM2NyZXQlMkIlMkY="]
    );
    let line = gateway.log_line("scope_not_of_key");
    assert_eq!(line["credential"], "opaque");
    assert!(!gateway.log().contains("0b5de7c0"));
    for (changes, reason) in [
        (json!({ "active": false }), "token_inactive"),
        (json!({ "iss": "https://other" }), "unknown_issuer"),
        (json!({ "aud": "https://other" }), "wrong_aud"),
        (json!({ "exp": 1 }), "token_expired"),
        (json!({ "exp": null }), "exp_missing"),
        (json!({ "tenant": "nobody" }), "unknown_tenant"),
    ] {
        says(&gateway, &idp, changes);
        assert_eq!(
            get(&gateway, "/any", &format!("opaque-{reason}")),
            401,
            "{reason}"
        );
        gateway.log_line(reason);
    }
    // Keys, and what looks like one, are asked about nobody; a token's place is Authorization.
    let asked = idp.server().hits();
    let key = gateway.key("acme").text;
    assert_eq!(get(&gateway, "/any", &key), 200);
    assert_eq!(get(&gateway, "/any", &key[..key.len() - 1]), 401);
    assert_eq!(get(&gateway, "/any", "a.b.c"), 401);
    let misplaced = Request::get("/any").header("X-API-Key", "0b5de7c0+8d0a/4d1c");
    gateway.send(&misplaced).expect(401);
    assert_eq!(idp.server().hits(), asked);
    // PB11: a session may be an opaque id too.
    says(&gateway, &idp, json!({}));
    let session = Request::get("/page").header("Cookie", "__Host-session=s-1");
    gateway.send(&session).expect(200);
    assert_eq!(
        gateway
            .command(&["tokens", "deny", "--subject", "user-7"])
            .0,
        0
    );
    gateway.send(&session).expect(401);
}

// PB14: known tokens stay good within their time while the issuer is away; others get 503, never 401.
#[test]
fn pb14_while_the_issuer_is_away_known_tokens_serve_and_unknown_ones_are_503() {
    let (_upstream, idp, gateway) = world();
    says(&gateway, &idp, json!({}));
    assert_eq!(get(&gateway, "/any", "known"), 200);
    idp.go_down(ASK);
    gateway.advance(Duration::from_secs(58));
    assert_eq!(
        [
            get(&gateway, "/any", "known"),
            get(&gateway, "/any", "unknown")
        ],
        [200, 503]
    );
    gateway.log_line("introspection_unavailable");
    gateway.advance(Duration::from_secs(3));
    assert_eq!(get(&gateway, "/any", "known"), 503);
    for nonsense in [
        "",
        "{}",
        "[]",
        "{\"active\":\"true\"}",
        "{\"active\":true,\"active\":true}",
    ] {
        idp.answer(ASK, nonsense);
        assert_eq!(get(&gateway, "/any", "known"), 503, "{nonsense}");
    }
    says(&gateway, &idp, json!({}));
    assert_eq!(get(&gateway, "/any", "known"), 200);
    says(&gateway, &idp, json!({ "active": false }));
    assert_eq!(get(&gateway, "/any", "known"), 200, "remembered");
    gateway.advance(Duration::from_secs(61));
    assert_eq!(get(&gateway, "/any", "known"), 401);
    // Never beyond the token's own end.
    let soon = gateway.clock.now().wall.unix_seconds() + 10;
    says(&gateway, &idp, json!({ "exp": soon }));
    assert_eq!(get(&gateway, "/any", "short"), 200);
    gateway.advance(Duration::from_secs(45));
    assert_eq!(get(&gateway, "/any", "short"), 401);
}

// Many requests with one new token are one question, and the thread that they are on serves others meanwhile.
#[test]
fn requests_with_one_new_token_are_one_question() {
    let (upstream, idp, gateway) = world();
    let gate = Gate::closed();
    let own = with(&claims(&gateway, ""), json!({ "active": true })).to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{own}",
        own.len()
    );
    let steps = vec![
        Step::ReadBody,
        Step::Wait(gate.clone()),
        Step::Send(answer.into()),
    ];
    idp.server().script(ASK, steps);
    let key = gateway.key("acme").text;
    std::thread::scope(|scope| {
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let gateway = &gateway;
            waiting.push(scope.spawn(move || get(gateway, "/any", "one-token")));
        }
        eventually("the issuer is asked", || {
            (idp.server().hits_on(ASK) == 1).then_some(())
        });
        for _ in 0..10 {
            assert_eq!(get(&gateway, "/any", &key), 200);
        }
        gate.open();
        for request in waiting {
            assert_eq!(request.join().unwrap(), 200);
        }
    });
    assert_eq!(idp.server().hits_on(ASK), 1);
    assert_eq!(upstream.hits(), 30);
}

// One question after the other goes over one connection; many at once over many, of which few are kept; one that the issuer has closed meanwhile is no
// failure; and while it is away nobody waits for a connection of before.
#[test]
fn questions_share_connections_and_survive_those_that_end() {
    let (_upstream, idp, gateway) = world();
    says(&gateway, &idp, json!({}));
    for count in 0..10 {
        assert_eq!(get(&gateway, "/leases/1", &format!("first-{count}")), 200);
    }
    assert_eq!(idp.server().hits_on(ASK), 10);
    assert_eq!(idp.server().connections(), 1);
    std::thread::scope(|scope| {
        for count in 0..24 {
            let gateway = &gateway;
            scope.spawn(move || {
                assert_eq!(get(gateway, "/leases/1", &format!("second-{count}")), 200);
            });
        }
    });
    let open = idp.server().connections();
    assert!(open <= 25, "{open}");
    // Each answer ends its connection now: what was kept is closed by its server, and the next question finds out.
    let own = with(&claims(&gateway, "leases:read"), json!({ "active": true }));
    let body = own.to_string();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let bytes = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    idp.server().answer_and_close(ASK, bytes);
    for count in 0..10 {
        assert_eq!(get(&gateway, "/leases/1", &format!("third-{count}")), 200);
    }
    idp.go_down(ASK);
    assert_eq!(get(&gateway, "/leases/1", "fourth"), 503);
    says(&gateway, &idp, json!({}));
    assert_eq!(get(&gateway, "/leases/1", "fifth"), 200);
}
