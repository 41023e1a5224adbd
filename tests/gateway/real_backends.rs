//! The same promises in front of three unmodified servers: nginx, Python's WSGI server and Node.

use crate::hostile::targets::PATH_TRICKS;
use crate::support::client::Http1;
use crate::support::client::block_on;
use crate::support::frames;
use crate::support::frames::Frames;
use crate::support::frames::Outcome;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::real;
use crate::support::request::Answer;
use crate::support::request::Request;

/// One gateway before each real backend.
fn fronted() -> Vec<(real::Backend, Gateway)> {
    real::all()
        .into_iter()
        .map(|backend| {
            let gateway = Setup::usual_at(backend.address).start();
            (backend, gateway)
        })
        .collect()
}

#[track_caller]
fn said(answer: &Answer, member: &str) -> String {
    answer.json()[member].as_str().expect("a text").to_owned()
}

// FM1, CW4: each backend sees the key's tenant; the credential and the alias stay outside. X_Tenant_Id and X-Tenant-Id are
// one variable in WSGI, and nginx is told to take underscores.
#[test]
fn real_backends_see_one_tenant_and_no_key() {
    for (backend, gateway) in fronted() {
        for tenant in ["acme", "bravo"] {
            let key = gateway.key(tenant);
            for forged in ["X-Tenant-Id", "X_Tenant_Id", "x-tenant_id", "X-TENANT_ID"] {
                let request = Request::get("/any")
                    .bearer(&key.text)
                    .header("X-API-Key", &key.text)
                    .header(forged, "forged");
                let answer = gateway.send(&request);
                answer.expect(200);
                assert_eq!(said(&answer, "backend"), backend.name);
                assert_eq!(
                    said(&answer, "tenant"),
                    tenant,
                    "{}: {forged}",
                    backend.name
                );
                assert_eq!(said(&answer, "authorization"), "", "{}", backend.name);
                assert_eq!(said(&answer, "key"), "", "{}", backend.name);
                assert_eq!(said(&answer, "request_id"), answer.one("x-request-id"));
            }
        }
    }
}

// FM1, S8, S11: the tricks that other gateways fell for, before servers that act on them.
#[test]
fn nominated_and_trailing_tenants_do_not_reach_real_backends() {
    for (backend, gateway) in fronted() {
        let key = gateway.key("acme").text;
        let start =
            format!("POST /any HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n");
        for rest in [
            "Connection: X-Tenant-Id\r\nContent-Length: 0\r\n\r\n",
            "Connection: X-Tenant-Id\r\nX-Tenant-Id: forged\r\nContent-Length: 0\r\n\r\n",
            "Transfer-Encoding: chunked\r\nTrailer: X-Tenant-Id\r\n\r\n2\r\nhi\r\n0\r\nX-Tenant-Id: forged\r\n\r\n",
        ] {
            let answer = gateway
                .send_bytes(format!("{start}{rest}"))
                .expect("an answer");
            if answer.status != 400 {
                answer.expect(200);
                assert_eq!(said(&answer, "tenant"), "acme", "{}: {rest}", backend.name);
            }
        }
    }
}

// CHECK14, S18: no spelling of a path reaches what the key may not, as each backend itself reads the path.
#[test]
fn no_path_trick_reaches_a_forbidden_place() {
    for (backend, gateway) in fronted() {
        // May do everything under /any, and so whatever `/{*rest}`-like spelling leaves it; but not /admin.
        let key = gateway.key_with_scopes("acme", &["leases:read"]).text;
        let bearer = format!("Bearer {key}");
        gateway
            .send(&Request::get("/admin/x").bearer(&key))
            .expect(403);
        for trick in PATH_TRICKS {
            for base in ["/any", "/leases", "/public"] {
                let target = trick.replacen("/public", base, 1);
                let bytes = format!(
                    "GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {bearer}\r\n\r\n"
                );
                if let Some(answer) = gateway.send_bytes(bytes) {
                    assert_not_admin(&answer, backend.name, &target);
                }
                let mut fields = frames::get(&target);
                fields.push(("authorization", &bearer));
                if let Outcome::Status(200) = Frames::connect(gateway.https()).exchange(&fields) {
                    let answer = block_on(async {
                        let client = gateway.connect_h2().await;
                        client
                            .exchange(&Request::get(&target).bearer(&key))
                            .await
                            .unwrap()
                    });
                    assert_not_admin(&answer, backend.name, &target);
                }
            }
        }
        for absolute in [
            "https://localhost/public/../admin",
            "https://localhost/admin",
            "https://localhost//admin",
            "https://evil/admin",
        ] {
            let bytes = format!(
                "GET {absolute} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {bearer}\r\n\r\n"
            );
            if let Some(answer) = gateway.send_bytes(bytes) {
                assert_not_admin(&answer, backend.name, absolute);
                assert_ne!(answer.status, 200, "{absolute}");
            }
        }
    }
}

// CHECK14, S18: some hundred spellings, put together from what gateways and backends have read differently. Asked directly, each backend falls
// for some of them; through the gateway none leads it to a place that the key has no scope for.
#[test]
fn check14_no_spelling_that_is_accepted_reaches_a_place_that_the_key_lacks() {
    let spellings = spellings();
    for (backend, gateway) in fronted() {
        let key = gateway.key_with_scopes("acme", &["leases:read"]).text;
        let (mut fell, mut passed) = (0, 0);
        let mut client = gateway.connect();
        for target in &spellings {
            let line = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n");
            let direct = Http1::plain(backend.address)
                .send(format!("{line}Connection: close\r\n\r\n"))
                .try_read_for("GET");
            if direct
                .is_some_and(|answer| answer.status == 200 && said(&answer, "place") != "other")
            {
                fell += 1;
            }
            let sent = client.send(format!("{line}Authorization: Bearer {key}\r\n\r\n"));
            let answer = sent.try_read_for("GET");
            if let Some(answer) = &answer {
                assert_not_admin(answer, backend.name, target);
                passed += u32::from(answer.status == 200);
            }
            let kept = answer.is_some_and(|answer| !answer.all("connection").contains(&"close"));
            if !kept {
                client = gateway.connect();
            }
        }
        // Both would be zero if the spellings said nothing.
        assert!(fell >= 20, "{} falls for {fell} spellings", backend.name);
        assert!(passed >= 20, "{} gets {passed} of them", backend.name);
    }
}

fn spellings() -> Vec<String> {
    let starts = ["/any/", "/leases/", "/public/x/"];
    let ways = [
        "",
        "/",
        "./",
        "../",
        "../../",
        "x/../../",
        "./../",
        "%2e%2e/",
        ".%2e/",
        "%2E./",
        "%2e%2e%2f",
        "..%2f",
        "..%5c",
        "..\\",
        "..;/",
        "..;x=1/",
        "%2e%2e;/",
        "..%3b/",
        "..%00/",
        "..%20/",
        "..%09/",
        "..%0a/",
        "..%0d%0a/",
        "..//",
        "//../",
        ".../",
        "..#/",
        "..%23/",
        "..?/",
        "..%3f/",
        "%252e%252e/",
        "..%252f",
        "%25252e%25252e/",
        "%c0%ae%c0%ae/",
        "..%c0%af",
        "%e0%80%ae%e0%80%ae/",
        "%u002e%u002e/",
        "..%ef%bc%8f",
        "%ef%bc%8e%ef%bc%8e/",
        "\u{ff0e}\u{ff0e}/",
        "..%u2215",
        "%5c../",
        "/%2e%2e/%2e%2e/",
        "%%32%65%%32%65/",
        "*/../../",
        "~/../../",
    ];
    let ends = [
        "admin/x",
        "%61dmin/x",
        "owners/1",
        "admin;x/y",
        "%6fwners%2f1",
    ];
    let combined = starts.iter().flat_map(|start| {
        let with_way = ways.iter().map(move |way| format!("{start}{way}"));
        with_way.flat_map(|begun| ends.map(|end| format!("{begun}{end}")))
    });
    let slashes = [
        "//",
        "/\\",
        "/./",
        "/;/",
        "/%2e/",
        "/%2f",
        "/any/..//",
        "/any//..//",
    ];
    let at_root = slashes
        .iter()
        .flat_map(|slash| ends.map(|end| format!("{slash}{end}")));
    combined.chain(at_root).collect()
}

#[track_caller]
fn assert_not_admin(answer: &Answer, backend: &str, target: &str) {
    if answer.status == 200 {
        assert_eq!(said(answer, "place"), "other", "{backend}: {target}");
    }
}

// DESIGN section 7: HTTP/1.0 answers, keep-alive and HEAD of real servers, over both protocols.
#[test]
fn real_backends_serve_many_requests() {
    for (backend, gateway) in fronted() {
        let key = gateway.key("acme");
        let mut client = gateway.connect();
        for _ in 0..50 {
            let request = Request::get("/any?x=1").bearer(&key.text);
            let answer = client.exchange(&request);
            assert_eq!(answer.status, 200, "{}", backend.name);
            assert!(answer.complete);
        }
        let head = Request::new("HEAD", "/any").bearer(&key.text);
        client.exchange(&head).expect(200);
        let post = Request::new("POST", "/any")
            .bearer(&key.text)
            .body("x".repeat(100_000));
        client.exchange(&post).expect(200);
        block_on(async {
            let client = gateway.connect_h2().await;
            let mut pending = Vec::new();
            for _ in 0..50 {
                let request = Request::get("/any").bearer(&key.text);
                pending.push(client.begin(&request).await.unwrap());
            }
            for response in pending {
                assert_eq!(response.await.unwrap().status(), 200);
            }
        });
    }
}

// FA29, CHECK14: plain HTTP reaches none of them.
#[test]
fn plain_http_reaches_no_real_backend() {
    for (_backend, gateway) in fronted() {
        let key = gateway.key("acme").text;
        let request = Request::get("/any").bearer(&key);
        let answer = crate::support::client::Http1::plain(gateway.http()).exchange(&request);
        answer.expect(403);
        assert!(!answer.has("location"));
    }
}
