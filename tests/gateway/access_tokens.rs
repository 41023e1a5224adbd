//! JWT access tokens go through the same gate as keys: tenant header, scopes, limits, refusals, log (PB2, PB7, PB9, PB10, PB14).

use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::support::eventually;
use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::idp::AUDIENCE;
use crate::support::idp::ISSUER;
use crate::support::idp::Idp;
use crate::support::idp::claims;
use crate::support::idp::with;
use crate::support::request::Request;
use crate::support::signer::Signer;
use crate::support::signer::jwks;
use crate::support::upstream::Upstream;

const TAKES_BOTH: &str = r#"["key", "jwt"]"#;

/// The usual routes, taking keys and the tokens of this provider.
fn setup(upstream: &Upstream, idp: &Idp) -> Setup {
    Setup::usual(upstream)
        .set("auth", "credentials", TAKES_BOTH)
        .set("subject_header", "name", r#""X-User-Id""#)
        .more(&idp.table(""))
}

fn get(gateway: &Gateway, target: &str, token: &str) -> u16 {
    gateway.send(&Request::get(target).bearer(token)).status
}

// PB7, PB9, PB10: a good token is let in, as its tenant and its user, and may do what its scopes say.
#[test]
fn pb7_pb9_pb10_a_good_token_is_let_in_with_its_tenant_user_and_scopes() {
    let (upstream, signer) = (Upstream::start(), Signer::rsa());
    let idp = Idp::start(&[signer]);
    let gateway = setup(&upstream, &idp).start();
    let token = signer.token(&claims(&gateway, "leases:read openid other"));
    let asked = Request::get("/leases/7")
        .bearer(&token)
        .header("X-User-Id", "user-1")
        .header("X_User_Id", "user-1")
        .header("X-Tenant-ID", "bravo");
    gateway.send(&asked).expect(200);
    let seen = upstream.last();
    assert_eq!(seen.look_alikes("X-Tenant-ID"), [("x-tenant-id", "acme")]);
    assert_eq!(seen.look_alikes("X-User-Id"), [("x-user-id", "user-7")]);
    assert!(seen.all("authorization").is_empty());
    assert!(!seen.text().contains(&token));
    // PB9, PB14: a missing scope is 403, never 401.
    let post = Request::new("POST", "/leases/7").bearer(&token).body("x");
    let refused = gateway.send(&post);
    refused.expect(403);
    assert!(
        refused
            .one("www-authenticate")
            .contains("insufficient_scope")
    );
    assert_eq!(upstream.hits(), 1);
    let line = gateway.log_line("scope_not_of_key");
    assert_eq!(line["credential"], "jwt");
    assert_eq!(line["tenant"], "acme");
    assert_eq!(line["token.subject"], "user-7");
    assert_eq!(line["token.client"], "app-1");
    assert!(line["token.id"].as_str().unwrap().starts_with("jti-"));
    assert!(line.get("key_id").is_none());
    assert!(!gateway.log().contains(&token));
}

// Every algorithm that the issuer's table allows, each with a key of its own kind.
#[test]
fn pb7_every_algorithm_verifies_with_its_own_kind_of_key() {
    let upstream = Upstream::start();
    let signers = [
        Signer::rsa_for("RS384"),
        Signer::rsa_for("PS256"),
        Signer::new("ES256", "p256"),
        Signer::new("ES384", "p384"),
        Signer::new("EdDSA", "ed"),
    ];
    let all: Vec<&Signer> = signers.iter().chain([Signer::rsa()]).collect();
    let idp = Idp::start(&all);
    let algorithms = r#"algorithms = ["RS256", "RS384", "PS256", "ES256", "ES384", "EdDSA"]"#;
    let gateway = Setup::usual(&upstream)
        .set("auth", "credentials", TAKES_BOTH)
        .more(&idp.table(algorithms))
        .start();
    for signer in &all {
        let token = signer.token(&claims(&gateway, ""));
        assert_eq!(get(&gateway, "/any", &token), 200, "{}", signer.alg);
        // A signature is of its own text alone.
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let other = signer.token(&claims(&gateway, "admin:all"));
        let (other, _) = other.rsplit_once('.').unwrap();
        assert_ne!(signed, other);
        let mixed = format!("{other}.{signature}");
        assert_eq!(get(&gateway, "/any", &mixed), 401, "{}", signer.alg);
    }
    assert_eq!(upstream.hits(), all.len());
}

// PB2: what a credential is, its form says; the wrong kind is 401 and nobody is called.
#[test]
fn pb2_the_wrong_kind_is_401_and_nobody_is_called() {
    // Its tokens are short enough for the place of a key.
    let (upstream, signer) = (Upstream::start(), Signer::new("ES256", "short"));
    let idp = Idp::start(&[&signer]);
    let gateway = Setup::usual(&upstream)
        .route_to(
            "legacy",
            "/tokens/{*rest}",
            &[],
            Access::AnyKey,
            "credentials = [\"jwt\"]\n",
        )
        .route_to(
            "legacy",
            "/both/{*rest}",
            &[],
            Access::AnyKey,
            "credentials = [\"key\", \"jwt\"]\n",
        )
        .more(&idp.table(""))
        .start();
    let (key, token) = (
        gateway.key("acme").text,
        signer.token(&claims(&gateway, "")),
    );
    for (target, credential, status) in [
        ("/any", &key, 200),
        ("/any", &token, 401),
        ("/tokens", &key, 401),
        ("/tokens", &token, 200),
        ("/both", &key, 200),
        ("/both", &token, 200),
    ] {
        assert_eq!(get(&gateway, target, credential), status, "{target}");
    }
    assert_eq!(upstream.hits(), 4);
    gateway.log_line("wrong_kind");
    // Mistyped keys, and what is neither key nor token, go to nobody.
    let called = idp.server().hits();
    for text in [
        &key[..key.len() - 1],
        "fp_live_x",
        "fp_live_a.b.c",
        "opaque",
        "a.b.c.d.e",
    ] {
        for target in ["/tokens", "/both"] {
            assert_eq!(get(&gateway, target, text), 401, "{text}");
        }
    }
    assert_eq!(idp.server().hits(), called);
    // A token has one place, also one that is remembered.
    assert!(token.len() <= 512, "{}", token.len());
    for text in ["a.b.c", token.as_str()] {
        let misplaced = Request::get("/both").header("X-API-Key", text);
        gateway.send(&misplaced).expect(401);
    }
    gateway.log_line("token_misplaced");
    assert_eq!(upstream.hits(), 4);
}

// PB7: limits count a token under its tenant and user, whichever token it is; a stranger's token is counted under nobody.
#[test]
fn limits_count_the_user_and_not_the_token() {
    let (upstream, signer) = (Upstream::start(), Signer::rsa());
    let idp = Idp::start(&[signer]);
    let gateway = setup(&upstream, &idp)
        .plan("limited", "3/hour", "unlimited")
        .tenant("acme", "limited")
        .start();
    let of = |user: &str| {
        let own = with(&claims(&gateway, ""), json!({ "sub": user }));
        signer.token(&own)
    };
    for left in [2, 1, 0] {
        let answer = gateway.send(&Request::get("/any").bearer(&of("user-1")));
        assert_eq!(answer.expect(200).number("x-ratelimit-remaining"), left);
    }
    let over = gateway.send(&Request::get("/any").bearer(&of("user-1")));
    over.expect(429);
    assert!(over.number("retry-after") > 0);
    assert_eq!(get(&gateway, "/any", &of("user-2")), 200);
    let client = with(
        &claims(&gateway, ""),
        json!({ "sub": null, "client_id": "user-1" }),
    );
    assert_eq!(
        get(&gateway, "/any", &signer.token(&client)),
        401,
        "sub is required"
    );
    // Counts survive a restart.
    let gateway = gateway.restart();
    let again = signer.token(&with(&claims(&gateway, ""), json!({ "sub": "user-1" })));
    assert_eq!(get(&gateway, "/any", &again), 429);
    let stranger = Signer::new("ES256", "stranger");
    let forged = stranger.token(&claims(&gateway, ""));
    let refused = gateway.send(&Request::get("/any").bearer(&forged));
    assert!(!refused.expect(401).has("x-ratelimit-limit"));
}

// What tells tenants of tokens apart is the claim that the issuer's table names, or the table itself.
#[test]
fn the_tenant_comes_from_where_the_issuers_table_says() {
    let (upstream, signer) = (Upstream::start(), Signer::rsa());
    let idp = Idp::start(&[signer]);
    let paths = "tenant_claim = \"/org/id\"\nsubject_claim = \"/org/user\"\nscope_claim = \"scp\"\nrequired_claims = []\n";
    let gateway = Setup::usual(&upstream)
        .set("auth", "credentials", TAKES_BOTH)
        .set("subject_header", "name", r#""X-User-Id""#)
        .more(&idp.table(paths))
        .start();
    let own = json!({ "org": { "id": "bravo", "user": "u|7" }, "scp": ["owners:read"], "sub": null, "jti": null });
    let good = with(&claims(&gateway, ""), own.clone());
    assert_eq!(get(&gateway, "/owners/1", &signer.token(&good)), 200);
    assert_eq!(upstream.last().all("x-tenant-id"), ["bravo"]);
    assert_eq!(upstream.last().all("x-user-id"), ["u|7"]);
    for (org, reason) in [
        (json!({ "user": "u" }), "tenant_missing"),
        (json!({ "id": "nobody" }), "unknown_tenant"),
        (json!({ "id": 7 }), "malformed_tenant"),
        (json!({ "id": "a b" }), "malformed_tenant"),
        (
            json!({ "id": "acme", "user": "u\r\nX-Tenant-ID: bravo" }),
            "malformed_name",
        ),
        (json!({ "id": "acme", "user": "" }), "malformed_name"),
        (json!({ "id": "acme", "user": ["u"] }), "malformed_name"),
    ] {
        let bad = with(&good, json!({ "org": org }));
        assert_eq!(
            get(&gateway, "/owners/1", &signer.token(&bad)),
            401,
            "{reason}"
        );
        gateway.log_line(reason);
    }
    assert_eq!(upstream.hits(), 1);
    let fixed = Idp::start(&[signer]);
    let gateway = Setup::usual(&upstream)
        .set("auth", "credentials", TAKES_BOTH)
        .more(&fixed.table("tenant = \"bravo\""))
        .start();
    assert_eq!(
        get(&gateway, "/any", &signer.token(&claims(&gateway, ""))),
        200
    );
    assert_eq!(upstream.last().all("x-tenant-id"), ["bravo"]);
}

// A plan that knows whole keys only makes no token whole, and a tenant that is suspended or without API access is 403 to tokens too.
#[test]
fn a_token_is_never_more_than_its_scopes_its_tenant_and_its_plan() {
    let (upstream, signer) = (Upstream::start(), Signer::rsa());
    let idp = Idp::start(&[signer]);
    let gateway = setup(&upstream, &idp)
        .set("plans.open", "granular_scopes", "false")
        .plan("shut", "unlimited", "unlimited")
        .set("plans.shut", "api_access", "false")
        .tenant("charlie", "shut")
        .start();
    let token = signer.token(&claims(&gateway, "leases:read"));
    assert_eq!(get(&gateway, "/leases/1", &token), 200);
    assert_eq!(get(&gateway, "/owners/1", &token), 403);
    let shut = with(
        &claims(&gateway, "leases:read"),
        json!({ "tenant": "charlie" }),
    );
    assert_eq!(get(&gateway, "/leases/1", &signer.token(&shut)), 403);
    gateway.log_line("plan_without_api");
}

// Key rotation: a token of a key that is not known yet waits for one fetch of the keys and is let in; one of a key that is gone is not.
#[test]
fn pb7_a_new_key_is_fetched_when_a_token_names_it_and_an_old_one_ends() {
    let (upstream, old) = (Upstream::start(), Signer::rsa());
    let new = Signer::new("ES256", "next");
    let idp = Idp::start(&[old]);
    let gateway = setup(&upstream, &idp).start();
    let before = old.token(&claims(&gateway, ""));
    assert_eq!(get(&gateway, "/any", &before), 200);
    assert_eq!(idp.fetches(), 1);
    idp.publish(&[&new]);
    gateway.advance(Duration::from_secs(31));
    assert_eq!(
        get(&gateway, "/any", &new.token(&claims(&gateway, ""))),
        200
    );
    assert_eq!(idp.fetches(), 2);
    // The old key is no longer published: what it signed falls, although it was verified and remembered.
    assert_eq!(get(&gateway, "/any", &before), 401);
    gateway.log_line("unknown_kid");
    assert_eq!(idp.fetches(), 2);
    // Ahead of need: nobody has to name a key for it to be known.
    idp.publish(&[&new, old]);
    gateway.advance(Duration::from_secs(601));
    eventually("the keys are fetched ahead of need", || {
        (idp.fetches() == 3).then_some(())
    });
    assert_eq!(
        get(&gateway, "/any", &old.token(&claims(&gateway, ""))),
        200
    );
    assert_eq!(idp.fetches(), 3);
}

// PB14: the provider is down. What is known stays good, and what is not is 503, never 401; it comes back, and so does everything.
#[test]
fn pb14_while_the_provider_is_down_known_keys_serve_and_unknown_ones_are_503() {
    let (upstream, old) = (Upstream::start(), Signer::rsa());
    let new = Signer::new("ES256", "next");
    let idp = Idp::start(&[old]);
    let gateway = setup(&upstream, &idp).start();
    assert_eq!(
        get(&gateway, "/any", &old.token(&claims(&gateway, ""))),
        200
    );
    idp.go_down("/jwks");
    gateway.advance(Duration::from_secs(3_000));
    assert_eq!(
        get(&gateway, "/any", &old.token(&claims(&gateway, ""))),
        200,
        "never seen, known key"
    );
    let later = new.token(&claims(&gateway, ""));
    let unclear = gateway.send(&Request::get("/any").bearer(&later));
    assert_eq!(unclear.expect(503).json()["code"], "credential_unclear");
    gateway.log_line("jwks_unavailable");
    idp.publish(&[old, &new]);
    gateway.advance(Duration::from_secs(61));
    assert_eq!(
        get(&gateway, "/any", &new.token(&claims(&gateway, ""))),
        200
    );
    // Nonsense is no set of keys: the old ones stay.
    for nonsense in [
        "",
        "{}",
        "[]",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"oct","k":"AA"}]}"#,
    ] {
        let fetches = idp.fetches();
        idp.answer("/jwks", nonsense);
        gateway.advance(Duration::from_secs(700));
        eventually("another fetch", || (idp.fetches() > fetches).then_some(()));
        assert_eq!(
            get(&gateway, "/any", &new.token(&claims(&gateway, ""))),
            200,
            "{nonsense}"
        );
    }
}

// A provider that is not there when the gateway starts keeps nobody else out, and is asked again.
#[test]
fn a_provider_that_comes_later_is_found() {
    let (upstream, signer) = (Upstream::start(), Signer::rsa());
    let idp = Idp::start(&[signer]);
    idp.go_down("/jwks");
    let gateway = setup(&upstream, &idp).start();
    let key = gateway.key("acme").text;
    assert_eq!(get(&gateway, "/any", &key), 200);
    let token = signer.token(&claims(&gateway, ""));
    assert_eq!(get(&gateway, "/any", &token), 503);
    idp.publish(&[signer]);
    eventually("the provider is asked again", || {
        gateway.advance(Duration::from_secs(2));
        (get(&gateway, "/any", &token) == 200).then_some(())
    });
}

// An issuer that the file no longer names, or trusts for something else, is believed no more; what is in flight ends.
#[test]
fn what_the_file_says_of_an_issuer_holds_at_once() {
    let (upstream, signer) = (Upstream::start(), Signer::rsa());
    let idp = Idp::start(&[signer]);
    let mut gateway = setup(&upstream, &idp).start();
    let token = signer.token(&claims(&gateway, "leases:read"));
    assert_eq!(get(&gateway, "/leases/1", &token), 200);
    let changed = |gateway: &mut Gateway, more: &str| {
        let directory = gateway.setup.clone();
        let mut text = std::fs::read_to_string(directory.directory().join("gateway.toml")).unwrap();
        let tables = text.find("[issuers.main]").unwrap();
        text.truncate(tables);
        text.push_str(&idp.table(more));
        std::fs::write(directory.directory().join("gateway.toml"), text).unwrap();
        gateway.reload_as_is().unwrap();
    };
    changed(&mut gateway, "types = [\"JWT\"]");
    assert_eq!(get(&gateway, "/leases/1", &token), 401);
    gateway.log_line("wrong_type");
    changed(&mut gateway, "algorithms = [\"ES256\"]");
    assert_eq!(get(&gateway, "/leases/1", &token), 401);
    gateway.log_line("algorithm_not_allowed");
    changed(&mut gateway, "");
    assert_eq!(get(&gateway, "/leases/1", &token), 200);
}

// Keys may come from a file, which is read again when it changes; one that cannot be used is refused at the start and on reload.
#[test]
fn keys_may_come_from_a_file() {
    let (upstream, signer) = (Upstream::start(), Signer::rsa());
    let next = Signer::new("ES256", "next");
    let table = format!(
        "[issuers.main]\nissuer = {ISSUER:?}\naudience = [{AUDIENCE:?}]\njwks_file = \"keys.json\"\n"
    );
    let setup = Setup::usual(&upstream)
        .set("auth", "credentials", TAKES_BOTH)
        .more(&table);
    let file = setup.directory().join("keys.json");
    let clock = portcullis::clock::Clock::movable();
    let missing = setup.try_start(&clock).unwrap_err();
    assert!(missing.contains("[issuers.main] jwks_file"), "{missing}");
    std::fs::write(&file, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#).unwrap();
    let useless = setup.try_start(&clock).unwrap_err();
    assert!(useless.contains("no key that is good"), "{useless}");
    std::fs::write(&file, jwks(&[signer])).unwrap();
    let gateway = setup.start();
    assert_eq!(
        get(&gateway, "/any", &signer.token(&claims(&gateway, ""))),
        200
    );
    std::fs::write(&file, jwks(&[&next])).unwrap();
    eventually("the file is read again", || {
        gateway.advance(Duration::from_secs(1));
        let token = next.token(&claims(&gateway, ""));
        (get(&gateway, "/any", &token) == 200).then_some(())
    });
    assert_eq!(
        get(&gateway, "/any", &signer.token(&claims(&gateway, ""))),
        401
    );
}

// FF14, PB19: what tokens do is reported under their tenant, in one row for all its users; keys have theirs beside it. So is whom a rule would have refused
// that is only observed.
#[test]
fn what_tokens_do_is_reported_under_their_tenant() {
    let upstream = Upstream::start();
    let idp = Idp::start(&[Signer::rsa()]);
    let gateway = Setup::usual(&upstream)
        .set("auth", "credentials", r#"["key", "jwt"]"#)
        .route_to(
            "legacy",
            "/tried/{*rest}",
            &[],
            Access::Scope("x:y"),
            "mode = \"observe\"\n",
        )
        .more(&idp.table(""))
        .start();
    let ask = |path: &str, changes: Value| {
        let token = Signer::rsa().token(&with(&claims(&gateway, "leases:read"), changes));
        gateway.send(&Request::get(path).bearer(&token)).status
    };
    for user in ["u1", "u2", "u3"] {
        assert_eq!(ask("/leases/1", json!({ "sub": user })), 200);
    }
    assert_eq!(ask("/owners/1", json!({ "sub": "u1" })), 403);
    assert_eq!(ask("/leases/1", json!({ "tenant": "bravo" })), 200);
    assert_eq!(ask("/tried/1", json!({})), 200);
    let key = gateway.key("acme");
    gateway.get("/any", &key).expect(200);
    let told = |words: &[&str], requests: u64| -> Vec<Value> {
        let words = [&["usage"], words, &["--output", "json"]].concat();
        eventually("the requests are counted", || {
            let (_, out, _) = gateway.command(&words);
            let said: Value = serde_json::from_str(&out).unwrap();
            (said["total"]["requests"] == requests)
                .then(|| said["keys"].as_array().unwrap().clone())
        })
    };
    let of_tokens = |rows: &[Value]| -> Vec<Value> {
        let tokens = rows
            .iter()
            .filter(|row| row["name"] == "access tokens and sessions");
        tokens
            .map(|row| json!([row["tenant"], row["requests"], row["refused"]]))
            .collect()
    };
    let all = told(&[], 6);
    assert_eq!(all.len(), 3);
    assert_eq!(
        of_tokens(&all),
        [json!(["acme", 4, 1]), json!(["bravo", 1, 0])]
    );
    let acme = told(&["--tenant", "acme"], 5);
    assert_eq!(of_tokens(&acme), [json!(["acme", 4, 1])]);
    let (_, out, _) = gateway.command(&["limits", "observed", "--output", "json"]);
    let observed: Value = serde_json::from_str(&out).unwrap();
    let row = &observed["rows"][0];
    assert_eq!(
        (&row["tenant"], &row["name"], &row["reason"]),
        (
            &json!("acme"),
            &json!("access tokens and sessions"),
            &json!("scope_not_of_key")
        )
    );
}
