//! SEEDS check 12: what an access token must not be able to do, whoever wrote it. Each is 401, and the backend is not touched.

use std::time::Duration;

use aws_lc_rs::hmac;
use portcullis::clock::Clock;
use serde_json::Value;
use serde_json::json;

use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::gateway::still;
use crate::support::idp::AUDIENCE;
use crate::support::idp::ISSUER;
use crate::support::idp::Idp;
use crate::support::idp::claims;
use crate::support::idp::with;
use crate::support::request::Request;
use crate::support::signer::Signer;
use crate::support::signer::b64;
use crate::support::upstream::Upstream;

struct World {
    upstream: Upstream,
    idp: Idp,
    gateway: Gateway,
}

/// A gateway whose every route takes tokens of one provider, with two keys: an RSA one and one on P-256.
fn world() -> (World, &'static Signer, Signer) {
    world_at(Clock::movable())
}

fn world_at(clock: Clock) -> (World, &'static Signer, Signer) {
    let (upstream, rsa) = (Upstream::start(), Signer::rsa());
    let ec = Signer::new("ES256", "ec");
    let idp = Idp::start(&[rsa, &ec]);
    let gateway = Setup::usual(&upstream)
        .set("auth", "credentials", r#"["jwt"]"#)
        .more(&idp.table(""))
        .start_at(clock);
    (
        World {
            upstream,
            idp,
            gateway,
        },
        rsa,
        ec,
    )
}

impl World {
    fn status(&self, token: &str) -> u16 {
        self.gateway
            .send(&Request::get("/any").bearer(token))
            .status
    }

    /// 401 with this reason in the log, the same words as for every other bad credential, and no request to the backend.
    #[track_caller]
    fn refused(&self, token: &str, reason: &str) {
        let hits = self.upstream.hits();
        let answer = self.gateway.send(&Request::get("/any").bearer(token));
        assert_eq!(answer.status, 401, "{reason}");
        assert!(
            answer.one("www-authenticate").contains("invalid_token"),
            "{reason}"
        );
        let id = answer.one("x-request-id");
        let line = self.gateway.log_line(id);
        assert_eq!(line["reason"], reason, "{line}");
        assert_eq!(self.upstream.hits(), hits, "{reason}");
    }
}

fn hs256(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let signed = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", b64(signature))
}

// CHECK12, PB7: no algorithm, a symmetric one with the public key as secret, and one key taken for another kind.
#[test]
fn check12_an_algorithm_is_never_the_tokens_choice() {
    let (world, rsa, ec) = world();
    let good = claims(&world.gateway, "");
    assert_eq!(world.status(&rsa.token(&good)), 200);
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        for kid in [json!(rsa.kid), Value::Null] {
            let header = json!({ "alg": alg, "typ": "at+jwt", "kid": kid });
            let signed = format!("{}.{}", b64(header.to_string()), b64(good.to_string()));
            world.refused(&format!("{signed}.AAAA"), "algorithm_not_allowed");
            // Without a signature it has not even the form of a token.
            world.refused(&format!("{signed}."), "wrong_kind");
        }
    }
    let header = json!({ "typ": "at+jwt", "kid": rsa.kid });
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        b64(rsa.public_bytes())
    );
    for secret in [
        rsa.public_bytes(),
        pem.into_bytes(),
        rsa.jwk().to_string().into_bytes(),
        vec![0],
    ] {
        for alg in ["HS256", "hs256"] {
            let header = with(&header, json!({ "alg": alg }));
            world.refused(&hs256(&header, &good, &secret), "algorithm_not_allowed");
        }
        let posing = with(&header, json!({ "alg": "RS256" }));
        world.refused(&hs256(&posing, &good, &secret), "bad_signature");
    }
    // A key is of one kind: its own signature under another name, and another key's under its name.
    let cross = ec.token_of(
        &json!({ "alg": "RS256", "kid": "ec", "typ": "at+jwt" }).to_string(),
        &good.to_string(),
    );
    world.refused(&cross, "key_of_another_kind");
    let cross = rsa.token_of(
        &json!({ "alg": "ES256", "kid": rsa.kid, "typ": "at+jwt" }).to_string(),
        &good.to_string(),
    );
    world.refused(&cross, "key_of_another_kind");
    let cross = rsa.token_of(
        &json!({ "alg": "PS256", "kid": rsa.kid, "typ": "at+jwt" }).to_string(),
        &good.to_string(),
    );
    world.refused(&cross, "key_of_another_kind");
    let cross = ec.token_of(
        &json!({ "alg": "RS256", "kid": rsa.kid, "typ": "at+jwt" }).to_string(),
        &good.to_string(),
    );
    world.refused(&cross, "bad_signature");
    let list = rsa.token_of(
        &json!({ "alg": ["RS256"], "kid": rsa.kid, "typ": "at+jwt" }).to_string(),
        &good.to_string(),
    );
    world.refused(&list, "algorithm_not_allowed");
}

// CHECK12: a token that brings its key along, or says where to get one, is refused for that alone; nobody is called.
#[test]
fn check12_a_token_brings_no_key_along() {
    let (world, rsa, _) = world();
    let attacker = Signer::new("ES256", "mine");
    let listener = Upstream::start();
    let there = format!("http://{}/jwks", listener.address);
    let good = claims(&world.gateway, "");
    for (name, value, reason) in [
        ("jwk", attacker.jwk(), "key_in_header"),
        ("jku", json!(there), "key_in_header"),
        ("x5u", json!(there), "key_in_header"),
        ("x5c", json!(["AAAA"]), "key_in_header"),
        ("crit", json!(["exp"]), "crit_in_header"),
        ("b64", json!(false), "crit_in_header"),
        ("zip", json!("DEF"), "encrypted"),
        ("enc", json!("A128GCM"), "encrypted"),
        ("cty", json!("JWT"), "nested_token"),
    ] {
        // Signed by a stranger, and signed well: neither makes a difference.
        for signer in [&attacker, rsa] {
            let header = with(&signer.header(), json!({ name: value }));
            let token = signer.token_of(&header.to_string(), &good.to_string());
            world.refused(&token, reason);
        }
    }
    let nested = rsa.token_of(
        &rsa.header().to_string(),
        &json!(rsa.token(&good)).to_string(),
    );
    world.refused(&nested, "malformed_token");
    assert_eq!(listener.hits(), 0);
}

// CHECK12: who issued it, for whom, and what must be said.
#[test]
fn check12_issuer_audience_and_type_are_compared_whole() {
    let (world, rsa, _) = world();
    let good = claims(&world.gateway, "");
    let cases = [
        (
            json!({ "iss": "https://auth.example.org/" }),
            "unknown_issuer",
        ),
        (
            json!({ "iss": "https://AUTH.example.org" }),
            "unknown_issuer",
        ),
        (json!({ "iss": [ISSUER] }), "iss_missing"),
        (json!({ "iss": null }), "iss_missing"),
        (json!({ "aud": "https://api.example.org/" }), "wrong_aud"),
        (json!({ "aud": ["https://other.example.org"] }), "wrong_aud"),
        (json!({ "aud": [] }), "wrong_aud"),
        (json!({ "aud": [AUDIENCE, 7] }), "malformed_aud"),
        (json!({ "aud": { "0": AUDIENCE } }), "malformed_aud"),
        (json!({ "aud": null }), "aud_missing"),
        (json!({ "exp": null }), "exp_missing"),
        (json!({ "exp": "9999999999" }), "malformed_exp"),
        (json!({ "exp": true }), "malformed_exp"),
        (json!({ "exp": -1 }), "malformed_exp"),
        (json!({ "exp": 99_999_999_999_u64 }), "token_lives_too_long"),
        (json!({ "exp": 1e300 }), "token_lives_too_long"),
        (json!({ "nbf": "0" }), "malformed_nbf"),
        (json!({ "iat": "0" }), "malformed_iat"),
        (json!({ "sub": null }), "claim_missing"),
        (json!({ "client_id": null }), "claim_missing"),
        (json!({ "iat": null }), "claim_missing"),
        (json!({ "jti": null }), "claim_missing"),
        (json!({ "tenant": null }), "tenant_missing"),
        (json!({ "tenant": "nobody" }), "unknown_tenant"),
        (json!({ "tenant": ["acme", "bravo"] }), "malformed_tenant"),
        (json!({ "scope": { "a": 1 } }), "malformed_scope"),
    ];
    for (changes, reason) in cases {
        world.refused(&rsa.token(&with(&good, changes)), reason);
    }
    for (kind, taken) in [
        ("at+jwt", true),
        ("AT+JWT", true),
        ("application/at+jwt", true),
        ("Application/AT+JWT", true),
        ("JWT", false),
        ("logout+jwt", false),
        ("application/jwt", false),
        ("", false),
    ] {
        let header = with(&rsa.header(), json!({ "typ": kind }));
        let token = rsa.token_of(
            &header.to_string(),
            &with(&good, json!({ "jti": kind })).to_string(),
        );
        let untyped = kind.is_empty() && taken;
        assert!(!untyped);
        match taken {
            true => assert_eq!(
                world.status(&token),
                if kind.is_empty() { 401 } else { 200 },
                "{kind}"
            ),
            false => world.refused(&token, "wrong_type"),
        }
    }
    let untyped = with(&rsa.header(), json!({ "typ": null }));
    world.refused(
        &rsa.token_of(&untyped.to_string(), &good.to_string()),
        "wrong_type",
    );
    // Several audiences are well, if ours is one of them.
    let two = with(
        &good,
        json!({ "aud": ["https://other.example.org", AUDIENCE] }),
    );
    assert_eq!(world.status(&rsa.token(&two)), 200);
}

// CHECK12: nbf, iat and exp to the second, with the leeway of 30 seconds that is the default; remembered or not.
#[test]
fn check12_the_edges_of_time_are_exact() {
    let (world, rsa, _) = world_at(still());
    let now = || world.gateway.clock.now().wall.unix_seconds();
    let good = || claims(&world.gateway, "");
    let token = |changes: Value| rsa.token(&with(&good(), changes));
    assert_eq!(world.status(&token(json!({ "exp": now() - 29 }))), 200);
    world.refused(&token(json!({ "exp": now() - 30 })), "token_expired");
    assert_eq!(world.status(&token(json!({ "nbf": now() + 30 }))), 200);
    world.refused(&token(json!({ "nbf": now() + 31 })), "token_not_yet_valid");
    assert_eq!(world.status(&token(json!({ "iat": now() + 30 }))), 200);
    world.refused(
        &token(json!({ "iat": now() + 31 })),
        "token_from_the_future",
    );
    assert_eq!(world.status(&token(json!({ "exp": now() + 86_400 }))), 200);
    world.refused(
        &token(json!({ "exp": now() + 86_431 })),
        "token_lives_too_long",
    );
    let fraction = token(json!({ "exp": now() as f64 + 3_599.5 }));
    assert_eq!(world.status(&fraction), 200);
    // A remembered token ends when it ends.
    world.gateway.advance(Duration::from_secs(3_599 + 29));
    assert_eq!(world.status(&fraction), 200);
    world.gateway.advance(Duration::from_secs(2));
    world.refused(&fraction, "token_expired");
    world.refused(&fraction, "token_expired");
}

// CHECK12: a name that stands twice is no name, whichever of the two a reader would take; and a text has one spelling.
#[test]
fn check12_what_two_readers_could_read_differently_is_refused() {
    let (world, rsa, _) = world();
    let good = claims(&world.gateway, "");
    let twice = |text: &str, again: &str| text.replacen('{', &format!("{{{again},"), 1);
    let header = rsa.header().to_string();
    for again in [
        r#""tenant":"bravo""#,
        r#""sub":"admin""#,
        r#""exp":1"#,
        r#""tenan\u0074":"bravo""#,
    ] {
        let token = rsa.token_of(&header, &twice(&good.to_string(), again));
        world.refused(&token, "malformed_token");
    }
    let deep = with(&good, json!({ "org": {} })).to_string();
    let deep = deep.replace(r#""org":{}"#, r#""org":{"id":"acme","id":"bravo"}"#);
    world.refused(&rsa.token_of(&header, &deep), "malformed_token");
    for again in [r#""alg":"none""#, r#""kid":"ec""#, r#""typ":"JWT""#] {
        world.refused(
            &rsa.token_of(&twice(&header, again), &good.to_string()),
            "malformed_token",
        );
    }
    for claims in ["[]", "7", "null", "\"x\"", "{}x", "{", ""] {
        let token = rsa.token_of(&header, claims);
        let reason = if claims.is_empty() {
            "wrong_kind"
        } else if claims == "{}" {
            "iss_missing"
        } else {
            "malformed_token"
        };
        world.refused(&token, reason);
    }
    let token = rsa.token(&good);
    // The last character of a signature of 256 bytes holds two bits that nobody needs: another spelling of the same bytes.
    let (body, last) = token.split_at(token.len() - 1);
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet
        .iter()
        .position(|byte| *byte == last.as_bytes()[0])
        .unwrap();
    for spare in 1..4 {
        let other = char::from(alphabet[at ^ spare]);
        world.refused(&format!("{body}{other}"), "malformed_token");
    }
    assert_eq!(world.status(&token), 200);
    for kid in [json!(7), json!(["x"]), json!("k".repeat(257))] {
        let header = with(&rsa.header(), json!({ "kid": kid }));
        world.refused(
            &rsa.token_of(&header.to_string(), &good.to_string()),
            "malformed_token",
        );
    }
}

// CHECK12: a storm of invented keys has the provider asked once in an interval, and costs nobody else anything.
#[test]
fn check12_a_storm_of_unknown_keys_fetches_once_in_an_interval() {
    let (world, rsa, _) = world();
    let good = claims(&world.gateway, "");
    assert_eq!(world.status(&rsa.token(&good)), 200);
    world.gateway.advance(Duration::from_secs(40));
    let before = world.idp.fetches();
    let forged = |kid: usize| {
        let header = with(&rsa.header(), json!({ "kid": format!("kid-{kid}") }));
        rsa.token_of(&header.to_string(), &good.to_string())
    };
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (world, forged) = (&world, &forged);
            scope.spawn(move || {
                let mut connection = world.gateway.connect();
                for round in 0..20 {
                    let request = Request::get("/any").bearer(&forged(client * 100 + round));
                    assert_eq!(connection.exchange(&request).status, 401);
                }
            });
        }
    });
    assert_eq!(world.idp.fetches(), before + 1);
    assert_eq!(world.upstream.hits(), 1);
    assert_eq!(world.status(&rsa.token(&good)), 200);
    world.gateway.advance(Duration::from_secs(31));
    world.refused(&forged(999), "unknown_kid");
    assert_eq!(world.idp.fetches(), before + 2);
}

// CHECK12: whoever sends nonsense from one place soon has nothing verified any more, while tokens that are known from there are served.
#[test]
fn check12_forged_tokens_cost_a_bounded_number_of_verifications() {
    let (upstream, rsa) = (Upstream::start(), Signer::rsa());
    let idp = Idp::start(&[rsa]);
    let gateway = Setup::usual(&upstream)
        .set("auth", "credentials", r#"["jwt"]"#)
        .set("auth", "failures", r#""20/min""#)
        .more(&idp.table(""))
        .start();
    let known = rsa.token(&claims(&gateway, ""));
    assert_eq!(
        gateway.send(&Request::get("/any").bearer(&known)).status,
        200
    );
    let forger = Signer::rsa_for("RS256");
    let mut connection = gateway.connect();
    let mut statuses = Vec::new();
    for _ in 0..100 {
        let header = rsa.header().to_string();
        let forged = forger.token_of(&header, &claims(&gateway, "").to_string());
        statuses.push(
            connection
                .exchange(&Request::get("/any").bearer(&forged))
                .status,
        );
    }
    let refused = statuses.iter().filter(|status| **status == 401).count();
    assert_eq!(refused, 20);
    assert!(
        statuses[20..].iter().all(|status| *status == 429),
        "{statuses:?}"
    );
    assert_eq!(
        connection
            .exchange(&Request::get("/any").bearer(&known))
            .status,
        200
    );
    let new = rsa.token(&claims(&gateway, ""));
    let waiting = connection.exchange(&Request::get("/any").bearer(&new));
    assert!(waiting.expect(429).number("retry-after") <= 60);
    gateway.advance(Duration::from_secs(61));
    assert_eq!(
        connection
            .exchange(&Request::get("/any").bearer(&new))
            .status,
        200
    );
    assert_eq!(upstream.hits(), 3);
}

// CHECK12, S24: a token of a megabyte, or of a little more than tokens may have, is refused unread.
#[test]
fn check12_a_huge_token_is_refused_unread() {
    let (world, rsa, _) = world();
    let good = claims(&world.gateway, "");
    let padded = |length: usize| rsa.token(&with(&good, json!({ "pad": "x".repeat(length) })));
    let megabyte = Request::get("/any").bearer(&padded(1 << 20));
    let answer = world.gateway.send_bytes(megabyte.bytes());
    assert!(answer.is_none_or(|answer| answer.status == 431));
    world.refused(&padded(8_000), "credential_malformed");
    assert_eq!(world.status(&padded(5_000)), 200);
    assert_eq!(world.upstream.hits(), 1);
    // Many members cost no more than few: beyond some hundred nothing is read.
    let many: serde_json::Map<String, Value> = (0..300)
        .map(|index| (format!("m{index}"), json!(0)))
        .collect();
    let many = with(&good, Value::Object(many));
    world.refused(&rsa.token(&many), "malformed_token");
    let nested = with(&good, json!({ "deep": 0 })).to_string();
    let nested = nested.replace(
        "\"deep\":0",
        &format!("\"deep\":{}{}", "[".repeat(2_000), "]".repeat(2_000)),
    );
    world.refused(
        &rsa.token_of(&rsa.header().to_string(), &nested),
        "malformed_token",
    );
}
