//! Sessions of browsers (PB11): a cookie, an absolute end, and no page but our own that changes anything.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::idp::Idp;
use crate::support::idp::claims;
use crate::support::idp::with;
use crate::support::request::Request;
use crate::support::signer::Signer;
use crate::support::upstream::Upstream;

const NAME: &str = "__Host-session";

fn world(more: &str) -> (Upstream, Idp, Gateway) {
    let upstream = Upstream::start();
    let idp = Idp::start(&[Signer::rsa()]);
    let table =
        format!("credentials = [\"jwt\", \"session\"]\ntypes = [\"at+jwt\", \"JWT\"]\n{more}");
    let gateway = Setup::usual(&upstream)
        .set("sessions", "cookie", &format!("{NAME:?}"))
        .set("sessions", "begins_claim", r#""auth_time""#)
        .set("auth", "credentials", r#"["key", "session"]"#)
        .route_to(
            "legacy",
            "/keys/{*rest}",
            &[],
            Access::AnyKey,
            "credentials = [\"key\"]\n",
        )
        .route_to(
            "legacy",
            "/page/{*rest}",
            &[],
            Access::AnyKey,
            "origins = [\"https://app.example\"]\n",
        )
        .route_to(
            "legacy",
            "/star/{*rest}",
            &[],
            Access::AnyKey,
            "origins = [\"*\"]\n",
        )
        .more(&idp.table(&table))
        .start();
    (upstream, idp, gateway)
}

fn session(gateway: &Gateway, changes: Value) -> String {
    let began = gateway.clock.now().wall.unix_seconds();
    let own = with(
        &claims(gateway, "leases:read"),
        json!({ "auth_time": began }),
    );
    Signer::rsa().token(&with(&own, changes))
}

fn request(method: &str, target: &str, session: &str) -> Request {
    Request::new(method, target).header("Cookie", &format!("a=1; {NAME}={session}; b=\"2\""))
}

// PB11: the session is let in as its tenant and user; the backend gets every cookie but that one, on whatever route.
#[test]
fn pb11_a_session_is_let_in_and_its_cookie_alone_is_taken_out() {
    let (upstream, _idp, gateway) = world("");
    let cookie = session(&gateway, json!({}));
    gateway
        .send(&request("GET", "/leases/1", &cookie))
        .expect(200);
    assert_eq!(upstream.last().all("cookie"), ["a=1; b=\"2\""]);
    assert_eq!(upstream.last().all("x-tenant-id"), ["acme"]);
    gateway
        .send(&request("GET", "/owners/1", &cookie))
        .expect(403);
    gateway
        .send(&request("GET", "/public/1", &cookie))
        .expect(200);
    assert_eq!(upstream.last().all("cookie"), ["a=1; b=\"2\""]);
    let key = gateway.key("acme").text;
    gateway
        .send(&request("GET", "/keys/1", &cookie))
        .expect(401);
    gateway
        .send(&request("GET", "/keys/1", &cookie).bearer(&key))
        .expect(200);
    assert_eq!(upstream.last().all("cookie"), ["a=1; b=\"2\""]);
    assert_eq!(upstream.hits(), 3);
    // One credential is enough, and a session in Authorization is none.
    gateway
        .send(&request("GET", "/leases/1", &cookie).bearer(&key))
        .expect(401);
    gateway.log_line("credentials_differ");
    gateway
        .send(&Request::get("/leases/1").bearer(&cookie))
        .expect(401);
    gateway.send(&request("GET", "/leases/1", &key)).expect(401);
    gateway
        .send(&request(
            "GET",
            "/leases/1",
            &format!("{cookie}; {NAME}={cookie}"),
        ))
        .expect(401);
    assert_eq!(upstream.hits(), 3);
    let line = gateway.log_line("\"credential\":\"session\"");
    assert_eq!(line["token.subject"], "user-7");
    assert!(!gateway.log().contains(&cookie));
}

// PB11: 24 hours from its beginning, however it was prolonged: 23:59 is in, 24:01 is out.
#[test]
fn pb11_a_session_ends_a_day_after_it_began() {
    let (_upstream, _idp, gateway) = world("");
    let began = gateway.clock.now().wall.unix_seconds();
    let first = session(&gateway, json!({ "exp": began + 86_400 }));
    let status = |cookie: &str| gateway.send(&request("GET", "/any", cookie)).status;
    assert_eq!(status(&first), 200);
    gateway.advance(Duration::from_secs(86_400 - 60));
    let prolonged = session(
        &gateway,
        json!({ "auth_time": began, "exp": began + 170_000 }),
    );
    assert_eq!([status(&first), status(&prolonged)], [200, 200]);
    gateway.advance(Duration::from_secs(120));
    assert_eq!([status(&first), status(&prolonged)], [401, 401]);
    let anew = session(&gateway, json!({ "auth_time": began, "jti": "anew" }));
    assert_eq!(status(&anew), 401);
    gateway.log_line("session_too_old");
    assert_eq!(
        status(&session(&gateway, json!({ "auth_time": null }))),
        401
    );
    gateway.log_line("session_without_begin");
    assert_eq!(status(&session(&gateway, json!({}))), 200);
}

// PB11: what changes something must come from our own page, or one that the route names; else 403, and no request goes on.
#[test]
fn pb11_a_foreign_page_changes_nothing() {
    let (upstream, _idp, gateway) = world("");
    let cookie = session(&gateway, json!({}));
    let host = format!("localhost:{}", gateway.https().port());
    let own = format!("https://{host}");
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16);
    let cases: &[Case<'_>] = &[
        ("/any", &[("Origin", &own)], 200),
        (
            "/any",
            &[("Origin", &own.to_uppercase().replace("HTTPS", "https"))],
            200,
        ),
        ("/any", &[("Sec-Fetch-Site", "same-origin")], 200),
        ("/any", &[], 403),
        ("/any", &[("Origin", "https://evil.example")], 403),
        ("/any", &[("Origin", "null")], 403),
        ("/any", &[("Origin", &own.replace("https", "http"))], 403),
        ("/any", &[("Origin", &format!("{own}.evil.example"))], 403),
        ("/any", &[("Origin", "https://localhost")], 403),
        (
            "/any",
            &[("Origin", &own), ("Origin", "https://evil.example")],
            403,
        ),
        (
            "/any",
            &[
                ("Origin", "https://evil.example"),
                ("Sec-Fetch-Site", "same-origin"),
            ],
            403,
        ),
        ("/any", &[("Sec-Fetch-Site", "same-site")], 403),
        ("/any", &[("Sec-Fetch-Site", "cross-site")], 403),
        ("/any", &[("Sec-Fetch-Site", "none")], 403),
        ("/page", &[("Origin", "https://app.example")], 200),
        ("/page", &[("Origin", "https://other.example")], 403),
        ("/star", &[("Origin", "https://app.example")], 403),
    ];
    let mut passed = 0;
    for method in ["POST", "PUT", "PATCH", "DELETE", "PURGE"] {
        for (target, headers, status) in cases {
            let mut asked = request(method, target, &cookie).host(&host);
            for (name, value) in *headers {
                asked = asked.header(name, value);
            }
            assert_eq!(
                gateway.send(&asked).status,
                *status,
                "{method} {target} {headers:?}"
            );
            passed += usize::from(*status == 200);
        }
    }
    gateway.log_line("cross_site");
    // Reading may come from anywhere; opening a WebSocket may not.
    let evil = request("GET", "/any", &cookie).header("Origin", "https://evil.example");
    gateway.send(&evil).expect(200);
    let tunnel = evil
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket");
    gateway.send(&tunnel).expect(403);
    assert_eq!(upstream.hits(), passed + 1);
    // Keys and their clients know nothing of this.
    let key = gateway.key("acme").text;
    let post = Request::new("POST", "/any").header("Origin", "https://evil.example");
    gateway.send(&post.bearer(&key)).expect(200);
}

// PB11: server-side revocable, by user and by id.
#[test]
fn pb11_a_session_is_revocable() {
    let (_upstream, _idp, gateway) = world("");
    let (one, two) = (
        session(&gateway, json!({ "jti": "s1" })),
        session(&gateway, json!({ "jti": "s2" })),
    );
    let status = |cookie: &str| gateway.send(&request("GET", "/any", cookie)).status;
    assert_eq!([status(&one), status(&two)], [200, 200]);
    assert_eq!(gateway.command(&["tokens", "deny", "--jti", "s1"]).0, 0);
    assert_eq!([status(&one), status(&two)], [401, 200]);
    assert_eq!(
        gateway
            .command(&["tokens", "deny", "--subject", "user-7"])
            .0,
        0
    );
    assert_eq!([status(&one), status(&two)], [401, 401]);
}
