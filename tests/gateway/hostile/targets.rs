//! Targets and paths that a backend could read as others (S17, S18).

use super::assert_refused;
use super::usual;
use crate::support::frames;
use crate::support::frames::Frames;
use crate::support::frames::Outcome;
use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

// S17: the target chooses no server and no scheme; what is forwarded is in origin form.
#[test]
fn strange_target_forms_are_refused() {
    let (upstream, gateway) = usual();
    for target in [
        "*",
        "localhost:443",
        "ftp://localhost/public/x",
        "http:/public/x",
        "public/x",
        "?x",
        "https://user@localhost/public/x",
        "//localhost/public/x",
    ] {
        for method in ["GET", "OPTIONS"] {
            let bytes = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            if (method, target) != ("OPTIONS", "*") {
                assert_refused_or_404(&upstream, &gateway, &bytes);
            }
        }
    }
    let bytes = "CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n";
    assert_refused_or_404(&upstream, &gateway, bytes);
    // Absolute form: refused, or served by the route alone.
    let bytes = "GET https://localhost/public/abs HTTP/1.1\r\nHost: localhost\r\n\r\n";
    if gateway
        .send_bytes(bytes)
        .is_some_and(|answer| answer.status == 200)
    {
        assert_eq!(upstream.last().target(), "/public/abs");
    }
}

#[track_caller]
fn assert_refused_or_404(upstream: &Upstream, gateway: &Gateway, bytes: &str) {
    let before = upstream.hits();
    if let Some(answer) = gateway.send_bytes(bytes) {
        assert!(
            matches!(answer.status, 400 | 404 | 405 | 501),
            "{bytes:?}: {}",
            answer.status
        );
    }
    assert_eq!(upstream.hits(), before, "{bytes:?}");
}

/// Targets that some backend reads as another path than the gateway did.
pub const PATH_TRICKS: [&str; 40] = [
    "/public/../admin",
    "/public/./../admin",
    "/public/%2e%2e/admin",
    "/public/%2E%2E/admin",
    "/public/.%2e/admin",
    "/public/%2e./admin",
    "/public/..%2fadmin",
    "/public/..%2Fadmin",
    "/public%2f..%2fadmin",
    "/public/%2e%2e%2fadmin",
    "/public/..%5cadmin",
    "/public/..\\admin",
    "/public\\..\\admin",
    "/public/%5c..%5cadmin",
    "/public/..;/admin",
    "/public/..;x=y/admin",
    "/public/%2e%2e;/admin",
    "/public;/../admin",
    "/public/x;/../../admin",
    "//admin",
    "/public//../admin",
    "/public/..//admin",
    "///admin",
    "/.//admin",
    "/./admin",
    "/%2e/admin",
    "/public/%252e%252e/admin",
    "/public/%00/../admin",
    "/public/..%00/admin",
    "/public/x%00",
    "/public/#/../admin",
    "/public/%23/../admin",
    "/public/%ff",
    "/public/%c0%ae%c0%ae/admin",
    "/public/%zz",
    "/public/%",
    "/public/%2",
    "/public/\u{7f}",
    "/public/..",
    "/public/.",
];

// S18: an ambiguous path is refused, not repaired; HTTP/1.1 and HTTP/2.
#[test]
fn ambiguous_paths_are_refused() {
    let (upstream, gateway) = usual();
    // Double encoding is not ambiguous: it is one segment that begins with a percent sign.
    // A fragment is cut off by the HTTP library before anybody sees it: see the next test.
    let single = |target: &&&str| !target.contains("%25") && !target.contains(['\u{7f}', '#']);
    for target in PATH_TRICKS.iter().filter(single) {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_refused(&upstream, &gateway, &bytes, &[400]);
        let outcome = Frames::connect(gateway.https()).exchange(&frames::get(target));
        let refused = matches!(
            outcome,
            Outcome::Status(400) | Outcome::Reset(_) | Outcome::GoAway(_)
        );
        assert!(refused, "{target}: {outcome:?}");
    }
    assert_eq!(upstream.hits(), 0);
}

// S18: one canonical path is decided on and forwarded; the query is not touched.
#[test]
fn the_path_that_was_decided_on_is_forwarded() {
    let (upstream, gateway) = usual();
    for (sent, forwarded) in [
        ("/public/%7euser", "/public/~user"),
        ("/public/%41%62c", "/public/Abc"),
        ("/public/%c3%a4", "/public/%C3%A4"),
        ("/public/a%20b", "/public/a%20b"),
        ("/public/%252e%252e/admin", "/public/%252e%252e/admin"),
        // Nothing behind a `#` is decided on, and nothing of it is forwarded.
        (
            "/public/x?a=%2e%2e/&b=%7e#/../admin",
            "/public/x?a=%2e%2e/&b=%7e",
        ),
        ("/public/#/../admin", "/public/"),
        (
            "/public/x?a=%2e%2e/..//;\\&b=%7e",
            "/public/x?a=%2e%2e/..//;\\&b=%7e",
        ),
        ("/public/x?", "/public/x?"),
    ] {
        let bytes = format!("GET {sent} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = gateway.send_bytes(bytes).expect("an answer");
        if sent.contains('#') && answer.status == 400 {
            continue;
        }
        assert_eq!(answer.status, 200, "{sent}");
        assert_eq!(upstream.last().target(), forwarded);
    }
}

// DESIGN section 3: a route may ask for the path as it came.
#[test]
fn a_raw_path_route_passes_what_came() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .route_to(
            "legacy",
            "/files/{*rest}",
            &[],
            Access::Public,
            "raw_path = true\n",
        )
        .start();
    gateway.send(&Request::get("/files/a%2fb//c;d")).expect(200);
    assert_eq!(upstream.last().target(), "/files/a%2fb//c;d");
}
