//! A real OpenID Provider behind and beside the gateway: the authorization-code flow through it, and its tokens at it (PB5, PB6, PB7, PB8, PB14).

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::support::eventually;
use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::idp::AUDIENCE;
use crate::support::idp::ISSUER;
use crate::support::ports::free_port;
use crate::support::real;
use crate::support::real::Backend;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

/// Two RSA keys of 2,048 bits that only these tests know, as private JWKs.
const KEYS: [&str; 2] = [
    include_str!("support/idp_key_1.json"),
    include_str!("support/idp_key_2.json"),
];

const HOST: &str = "auth.example.org";
const CALLBACK: &str = "https://app.example.org/callback";

/// RFC 7636 appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

struct World {
    upstream: Upstream,
    port: u16,
    provider: Option<Backend>,
    gateway: Gateway,
    /// Which application asks.
    client: &'static str,
}

fn world() -> Option<World> {
    let (upstream, port) = (Upstream::start(), free_port());
    let provider = real::oidc_provider(port, KEYS[0], AUDIENCE)?;
    let table = format!(
        "[issuers.main]\nissuer = {ISSUER:?}\naudience = [{AUDIENCE:?}]\ncredentials = [\"jwt\", \"opaque\"]\n\
        jwks_url = \"http://127.0.0.1:{port}/jwks\"\nintrospection_url = \"http://127.0.0.1:{port}/token/introspection\"\n\
        client_id = \"gateway\"\nclient_secret = \"file:secret\"\nrequired_claims = [\"sub\", \"client_id\", \"iat\"]\n"
    );
    // Clients prove themselves to the token endpoint by Basic, and show tokens at userinfo.
    let public = format!(
        "host = {HOST:?}\nauthorization = \"pass\"\njson_as_form = true\naddress_limit = \"1000/min\"\n"
    );
    let tokens = "credentials = [\"jwt\", \"opaque\"]\n";
    let setup = Setup::usual(&upstream)
        .set("subject_header", "name", r#""X-User-Id""#)
        .upstream("provider", provider.address)
        .route_to("provider", "/{*rest}", &[], Access::Public, &public)
        .route_to(
            "legacy",
            "/v1/leads/{*rest}",
            &["GET"],
            Access::Scope("read:leads"),
            tokens,
        )
        .route_to(
            "legacy",
            "/v1/leads/{*rest}",
            &["POST"],
            Access::Scope("write:leads"),
            tokens,
        )
        .more(&table);
    std::fs::write(setup.directory().join("secret"), "gateway-secret\n").unwrap();
    Some(World {
        upstream,
        port,
        provider: Some(provider),
        gateway: setup.start(),
        client: "app",
    })
}

/// What a person's browser does: keeps cookies, and follows redirects by hand.
struct Browser<'a> {
    gateway: &'a Gateway,
    cookies: BTreeMap<String, String>,
}

impl Browser<'_> {
    fn go(&mut self, method: &str, target: &str, form: Option<&str>) -> Answer {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut request = Request::new(method, target).host(HOST);
        if !cookies.is_empty() {
            request = request.header("Cookie", &cookies.join("; "));
        }
        if let Some(form) = form {
            request = request
                .header("Content-Type", "application/x-www-form-urlencoded")
                .body(form);
        }
        let answer = self.gateway.send(&request);
        for line in answer.all("set-cookie") {
            let (name, rest) = line.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            match value.is_empty() {
                true => self.cookies.remove(name),
                false => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        answer
    }
}

impl World {
    fn authorize(&self, scope: &str) -> String {
        let client = self.client;
        format!(
            "/auth?client_id={client}&response_type=code&redirect_uri=https%3A%2F%2Fapp.example.org%2Fcallback&scope={scope}&state=a%20state%2F%3D&code_challenge={CHALLENGE}&code_challenge_method=S256&prompt=consent"
        )
    }

    /// Logs a user in, has it consent, and gives the code that the application gets.
    fn code(&self, scope: &str) -> String {
        let mut browser = Browser {
            gateway: &self.gateway,
            cookies: BTreeMap::new(),
        };
        let mut answer = browser.go("GET", &self.authorize(scope), None);
        for _ in 0..12 {
            assert!(
                [302, 303].contains(&answer.status),
                "{}: {}",
                answer.status,
                answer.text()
            );
            let location = answer.one("location").to_owned();
            if let Some(query) = location.strip_prefix(CALLBACK) {
                // PB5: the state comes back as it was sent.
                assert!(
                    query.contains("state=a%20state%2F%3D")
                        || query.contains("state=a+state%2F%3D"),
                    "{query}"
                );
                let code = query
                    .split(['?', '&'])
                    .find_map(|part| part.strip_prefix("code="));
                return code.unwrap_or_else(|| panic!("{query}")).to_owned();
            }
            let target = location
                .strip_prefix(ISSUER)
                .unwrap_or(&location)
                .to_owned();
            answer = browser.go("GET", &target, None);
            if answer.status == 200 {
                let login = answer.text().contains("name=\"login\"");
                let form = if login {
                    "prompt=login&login=user-7&password=x"
                } else {
                    "prompt=consent"
                };
                answer = browser.go("POST", &target, Some(form));
            }
        }
        panic!("no code: {}", answer.text());
    }

    fn token(&self, form: &str, secret: &str) -> Answer {
        let basic = STANDARD.encode(format!("{}:{secret}", self.client));
        let request = Request::new("POST", "/token")
            .host(HOST)
            .header("Authorization", &format!("Basic {basic}"))
            .header("Content-Type", "application/x-www-form-urlencoded");
        self.gateway.send(&request.body(form))
    }

    fn redeem(&self, code: &str) -> Answer {
        let form = format!(
            "grant_type=authorization_code&code={code}&redirect_uri=https%3A%2F%2Fapp.example.org%2Fcallback&code_verifier={VERIFIER}"
        );
        self.token(&form, "app-secret")
    }

    fn tokens(&self, scope: &str) -> Value {
        self.redeem(&self.code(scope)).expect(200).json()
    }

    fn leads(&self, method: &str, token: &Value) -> u16 {
        let request = Request::new(method, "/v1/leads/1").bearer(token.as_str().unwrap());
        self.gateway.send(&request).status
    }

    fn stop_provider(&mut self) {
        self.provider = None;
    }

    fn start_provider(&mut self, key: &str) {
        self.provider = real::oidc_provider(self.port, key, AUDIENCE);
    }
}

// PB5, PB6, PB7, PB9, PB10: from the login to the API, all through the gateway.
#[test]
fn pb5_pb6_pb7_the_authorization_code_flow_works_through_the_gateway() {
    let Some(world) = world() else { return };
    // PB5: an unknown redirect_uri is 400 and no redirect.
    let evil = world
        .authorize("openid")
        .replace("app.example.org", "evil.example.org");
    let refused = world.gateway.send(&Request::get(&evil).host(HOST));
    assert_eq!((refused.status, refused.has("location")), (400, false));
    let code = world.code("openid%20read:leads");
    let answer = world.redeem(&code);
    let tokens = answer.expect(200).json();
    assert_eq!(answer.one("cache-control"), "no-store");
    assert_eq!(
        (&tokens["token_type"], &tokens["expires_in"]),
        (&"Bearer".into(), &3_600.into())
    );
    assert!(tokens["refresh_token"].is_string() && tokens["scope"].is_string());
    // PB7: a JWT of an hour, RS256, at+jwt.
    let jwt = tokens["access_token"].as_str().unwrap().to_owned();
    let header = URL_SAFE_NO_PAD
        .decode(jwt.split('.').next().unwrap())
        .unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    assert_eq!(
        (&header["alg"], &header["typ"]),
        (&"RS256".into(), &"at+jwt".into())
    );
    assert_eq!(world.leads("GET", &tokens["access_token"]), 200);
    assert_eq!(world.upstream.last().all("x-tenant-id"), ["acme"]);
    assert_eq!(world.upstream.last().all("x-user-id"), ["user-7"]);
    assert_eq!(world.leads("POST", &tokens["access_token"]), 403);
    // PB6: the code works once; its second use ends what the first one gave. A wrong secret is 401.
    let again = world.redeem(&code);
    assert_eq!(again.expect(400).json()["error"], "invalid_grant");
    let refresh = tokens["refresh_token"].as_str().unwrap();
    let refreshed = world.token(
        &format!("grant_type=refresh_token&refresh_token={refresh}"),
        "app-secret",
    );
    assert_eq!(refreshed.expect(400).json()["error"], "invalid_grant");
    world
        .token("grant_type=refresh_token&refresh_token=x", "wrong")
        .expect(401);
    world.gateway.log_line("\"/token\"");
    for secret in [&jwt, refresh, &code, "app-secret", "a%20state"] {
        assert!(!world.gateway.log().contains(secret), "{secret}");
    }
}

// PB6, C-24: PropertyBase's clients ask for tokens in JSON, which no identity provider takes: with the secret in the body, and by Basic.
#[test]
fn pb6_a_real_provider_takes_token_requests_in_json_through_the_gateway() {
    let Some(world) = world() else { return };
    let ask = |body: Value| {
        let request = Request::new("POST", "/token").host(HOST);
        let request = request.header("Content-Type", "application/json");
        let basic = STANDARD.encode(format!("{}:app-secret", world.client));
        let request = request.header("Authorization", &format!("Basic {basic}"));
        world.gateway.send(&request.body(body.to_string()))
    };
    let code = world.code("openid%20read:leads");
    let answer = ask(serde_json::json!({
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
    }));
    let tokens = answer.expect(200).json();
    assert_eq!(answer.one("cache-control"), "no-store");
    assert!(answer.has("x-ratelimit-remaining"));
    assert_eq!(world.leads("GET", &tokens["access_token"]), 200);
    let refresh = tokens["refresh_token"].as_str().unwrap().to_owned();
    let again = serde_json::json!({ "grant_type": "refresh_token", "refresh_token": refresh });
    let refreshed = ask(again).expect(200).json();
    assert_eq!(world.leads("GET", &refreshed["access_token"]), 200);
    // What the provider says of a bad request comes back as it is.
    let unknown = ask(serde_json::json!({ "grant_type": "refresh_token", "refresh_token": "x" }));
    assert_eq!(unknown.expect(400).json()["error"], "invalid_grant");
    for secret in ["app-secret", &code, &refresh, VERIFIER] {
        assert!(!world.gateway.log().contains(secret), "{secret}");
    }
    // A token at userinfo is the provider's to judge: this one is for the API.
    let userinfo = |token: Option<&str>| {
        let request = Request::get("/me").host(HOST);
        world.gateway.send(&match token {
            Some(token) => request.bearer(token),
            None => request,
        })
    };
    assert_eq!(
        userinfo(None).expect(400).json()["error"],
        "invalid_request"
    );
    let judged = userinfo(tokens["access_token"].as_str());
    assert_eq!(judged.expect(401).json()["error"], "invalid_token");
}

// PB8: refresh tokens are rotated by the provider, and the reuse of an old one ends the family; the gateway keeps none of it from working.
#[test]
fn pb8_refresh_tokens_are_rotated_and_reuse_ends_them() {
    let Some(world) = world() else { return };
    let first = world.tokens("openid%20read:leads");
    let refresh = |tokens: &Value| {
        let token = tokens["refresh_token"].as_str().unwrap();
        world.token(
            &format!("grant_type=refresh_token&refresh_token={token}"),
            "app-secret",
        )
    };
    let second = refresh(&first).expect(200).json();
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    assert_eq!(world.leads("GET", &second["access_token"]), 200);
    assert_eq!(refresh(&first).expect(400).json()["error"], "invalid_grant");
    assert_eq!(
        refresh(&second).expect(400).json()["error"],
        "invalid_grant"
    );
}

// RFC 7662 with a real provider: an opaque token is asked about, and is over within the time of the cache once the provider revoked it.
#[test]
fn an_opaque_token_of_a_real_provider_is_asked_about() {
    let Some(mut world) = world() else { return };
    world.client = "app-opaque";
    let tokens = world.tokens("openid%20read:leads%20write:leads");
    let token = tokens["access_token"].as_str().unwrap();
    assert!(!token.contains('.'), "{token}");
    assert_eq!(world.leads("POST", &tokens["access_token"]), 200);
    assert_eq!(world.upstream.last().all("x-tenant-id"), ["acme"]);
    let basic = STANDARD.encode("app-opaque:app-secret");
    let revoke = Request::new("POST", "/token/revocation")
        .host(HOST)
        .header("Authorization", &format!("Basic {basic}"))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(format!("token={token}"));
    world.gateway.send(&revoke).expect(200);
    world.gateway.advance(Duration::from_secs(61));
    assert_eq!(world.leads("POST", &tokens["access_token"]), 401);
}

// PB14: the provider is away, and comes back with another key.
#[test]
fn pb14_a_real_provider_goes_away_and_comes_back_with_another_key() {
    let Some(mut world) = world() else { return };
    let old = world.tokens("openid%20read:leads");
    assert_eq!(world.leads("GET", &old["access_token"]), 200);
    world.stop_provider();
    world.gateway.advance(Duration::from_secs(700));
    assert_eq!(world.leads("GET", &old["access_token"]), 200, "known key");
    assert_eq!(world.leads("GET", &"opaque".into()), 503);
    world.start_provider(KEYS[1]);
    let new = world.tokens("openid%20read:leads");
    eventually("the new key is fetched", || {
        world.gateway.advance(Duration::from_secs(5));
        (world.leads("GET", &new["access_token"]) == 200).then_some(())
    });
    assert_eq!(world.leads("GET", &old["access_token"]), 401);
}
