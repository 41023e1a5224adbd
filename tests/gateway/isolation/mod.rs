//! Whose data it is: places of single tenants, parts of a request that name the caller, the 404 twin, and caches.

use std::collections::BTreeMap;

use portcullis::store::NewKey;
use portcullis::store::Verb;
use portcullis::store::request::TenantUpdate;

use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Upstream;
use crate::support::upstream::nobody;

mod caches;
mod real_parts;
mod references;
mod twin;

/// Tenants `acme` and `bravo` without limits.
fn tenants(setup: Setup) -> Setup {
    setup
        .plan("open", "unlimited", "unlimited")
        .tenant("acme", "open")
        .tenant("bravo", "open")
}

/// `GET` of everything for any key, to an upstream `apart` with these lines.
fn apart(lines: &str) -> Setup {
    let setup = tenants(Setup::bare(nobody()));
    let setup = setup.route_to("apart", "/{*rest}", &[], Access::AnyKey, "");
    setup.more(&format!(
        "[upstreams.apart]\nisolation = \"physical\"\n{lines}"
    ))
}

fn key_for(gateway: &Gateway, tenant: &str, subject: &str) -> Key {
    gateway.make_key(NewKey {
        subject: Some(subject.to_owned()),
        ..new_key(tenant)
    })
}

// FA20, FM5, FM13: each tenant's requests reach its own server alone; one without a place gets 503 and reaches nobody.
#[test]
fn each_tenant_has_a_server_of_its_own() {
    let (of_acme, of_bravo) = (Upstream::start(), Upstream::start());
    let gateway = apart(&format!(
        "tenants = {{ acme = \"http://{}\", bravo = \"http://{}\" }}",
        of_acme.address, of_bravo.address
    ))
    .tenant("initech", "open")
    .start();
    let (acme, bravo) = (gateway.key("acme"), gateway.key("bravo"));
    for _ in 0..3 {
        gateway.get("/leases/1?x=1", &acme).expect(200);
    }
    assert_eq!((of_acme.hits(), of_bravo.hits()), (3, 0));
    assert_eq!(of_acme.last().target(), "/leases/1?x=1");
    gateway.get("/leases/1", &bravo).expect(200);
    assert_eq!((of_acme.hits(), of_bravo.hits()), (3, 1));
    let answer = gateway.get("/leases/1", &gateway.key("initech"));
    answer.expect(503);
    assert_eq!(answer.json()["code"], "service_unavailable");
    let line = gateway.log_line("tenant_without_upstream");
    assert_eq!(
        (&line["tenant"], &line["decision"]),
        (&"initech".into(), &"refused".into())
    );
    assert_eq!((of_acme.hits(), of_bravo.hits()), (3, 1));
}

// FA20, S36: not on a retry either: acme's servers being down is no reason to ask bravo's.
#[test]
fn a_retry_stays_with_the_tenants_own_servers() {
    let of_bravo = Upstream::start();
    let gateway = apart(&format!(
        "servers = [\"http://{0}\"]\nconnect_retries = 10\ntenants = {{ acme = [\"http://{1}\", \"http://{2}\"], bravo = \"http://{0}\" }}",
        of_bravo.address,
        nobody(),
        nobody()
    ))
    .start();
    let acme = gateway.key("acme");
    for _ in 0..5 {
        gateway.get("/leases/1", &acme).expect(502);
    }
    assert_eq!(of_bravo.hits(), 0);
}

// FM13, DESIGN section 5: the map is data: a reload and the command line change it, and the next request follows.
#[test]
fn places_are_hot() {
    let (one, two, three) = (Upstream::start(), Upstream::start(), Upstream::start());
    let acme_at = |upstream: &Upstream| {
        apart(&format!(
            "tenants = {{ acme = \"http://{}\" }}",
            upstream.address
        ))
    };
    let before = acme_at(&one);
    let mut gateway = before.clone().start();
    let acme = gateway.key("acme");
    gateway.get("/a", &acme).expect(200);
    // The same directory, another map.
    let text = std::fs::read_to_string(before.write()).unwrap();
    let text = text.replace(&one.address.to_string(), &two.address.to_string());
    std::fs::write(gateway.directory().join("gateway.toml"), text).unwrap();
    gateway.reload_as_is().unwrap();
    gateway.get("/a", &acme).expect(200);
    assert_eq!((one.hits(), two.hits()), (1, 1));

    let plan = "open".to_owned();
    let create = Verb::TenantCreate {
        id: "umbrella".to_owned(),
        name: None,
        plan,
        upstreams: Default::default(),
    };
    gateway.execute(create).unwrap();
    let key = gateway.key("umbrella");
    gateway.get("/a", &key).expect(503);
    let update = |upstream: &str, servers: &str| {
        let entry = (upstream.to_owned(), servers.to_owned());
        Verb::TenantUpdate(Box::new(TenantUpdate {
            id: "umbrella".to_owned(),
            upstreams: BTreeMap::from([entry]),
            ..TenantUpdate::default()
        }))
    };
    let url = format!("http://{}/u", three.address);
    let outcome = gateway.execute(update("apart", &url)).unwrap();
    assert!(outcome.to_string().contains(&url), "{outcome}");
    gateway.get("/a?b=c", &key).expect(200);
    assert_eq!(three.last().target(), "/u/a?b=c");
    let refused = |upstream: &str, servers: &str, words: &str| {
        let error = gateway.execute(update(upstream, servers)).unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    refused(
        "apart",
        &format!("http://{}", two.address),
        "tenant acme has that place",
    );
    refused("legacy", &url, "has no places for single tenants");
    refused("apartt", &url, "did you mean \"apart\"");
    refused("apart", "https//x", "does not begin with");
    // A tenant may be made with its place, and is not made where that is none.
    let make = |id: &str, servers: &str| {
        let entry = ("apart".to_owned(), servers.to_owned());
        gateway.execute(Verb::TenantCreate {
            id: id.to_owned(),
            name: None,
            plan: "open".to_owned(),
            upstreams: BTreeMap::from([entry]),
        })
    };
    let error = make("placed", &url).unwrap_err();
    assert!(error.contains("tenant umbrella has that place"), "{error}");
    make("placed", &format!("http://{}/p", three.address)).unwrap();
    gateway.get("/a", &gateway.key("placed")).expect(200);
    assert_eq!(three.last().target(), "/p/a");
    // It outlives a restart.
    gateway = gateway.restart();
    gateway.get("/a", &key).expect(200);
    assert_eq!(three.last().target(), "/u/a");
    gateway.execute(update("apart", "")).unwrap();
    gateway.get("/a", &key).expect(503);
}

// FM9: the tenant in a prefix of the path, taken off again where the backend redirects.
#[test]
fn a_prefix_carries_the_tenant_and_redirects_lose_it() {
    let upstream = Upstream::start();
    let gateway = apart(&format!(
        "servers = [\"http://{}\"]\npath_prefix = \"/t/{{tenant}}\"",
        upstream.address
    ))
    .start();
    let acme = gateway.key("acme");
    gateway.get("/leases/7?x=%2F", &acme).expect(200);
    assert_eq!(upstream.last().target(), "/t/acme/leases/7?x=%2F");
    assert_eq!(upstream.last().all("x-tenant-id"), ["acme"]);
    // No path leads out of it.
    for target in [
        "/../bravo/x",
        "/%2e%2e/bravo/x",
        "//bravo",
        "/..%2fbravo",
        "/x;/../bravo",
    ] {
        gateway.get(target, &acme).expect(400);
    }
    let own = upstream.address.to_string();
    let cases = [
        ("/t/acme/leases/9", "/leases/9"),
        ("/t/acme", "/"),
        ("/t/bravo/leases", "/t/bravo/leases"),
        ("relative", "relative"),
        ("//cdn.example/x", "//cdn.example/x"),
        (
            "https://elsewhere.example/t/acme/x",
            "https://elsewhere.example/t/acme/x",
        ),
        (
            "http://localhost/t/acme/leases?moved=1#top",
            "https://localhost/leases?moved=1#top",
        ),
        (
            &format!("http://{own}/t/acme/leases"),
            "https://localhost/leases",
        ),
    ];
    for (said, expected) in cases {
        let answer = format!("HTTP/1.1 302 Found\r\nLocation: {said}\r\nContent-Length: 0\r\n\r\n");
        upstream.answer("/t/acme/go", answer);
        assert_eq!(
            gateway.get("/go", &acme).expect(302).one("location"),
            expected,
            "{said}"
        );
    }
}

/// A route that is bound to tenant and subject, before a recording backend.
fn bound(upstream: &Upstream, more: &str) -> Setup {
    let setup = tenants(Setup::bare(upstream.address));
    setup
        .set("upstreams.legacy", "isolation", "\"path\"")
        .route_to(
            "legacy",
            "/orgs/{org}/{*rest}",
            &[],
            Access::AnyKey,
            &format!("bind = {{ org = \"tenant\" }}\n{more}"),
        )
        .route_to(
            "legacy",
            "/lessees/{lessee_id}/leases",
            &[],
            Access::Scope("lessee:leases:read"),
            &format!(
                "bind = {{ lessee_id = \"subject\" }}\nset_query = {{ org = \"tenant\" }}\n{more}"
            ),
        )
}

/// Has the backend answer 404 to whatever it does not know.
const MISSING: &str = "HTTP/1.1 404 Not Found\r\nServer: legacy/1\r\nX-Odd: a\r\nContent-Type: text/plain\r\nX-Odd: b\r\nContent-Length: 9\r\n\r\nnot here\n";

// FA18: a renter's key reads its own leases, and nobody else's are asked for; a key without a subject reads none.
#[test]
fn a_renters_key_reads_own_leases_only() {
    let upstream = Upstream::start();
    let gateway = bound(&upstream, "").start();
    let seven = key_for(&gateway, "acme", "7");
    gateway.get("/lessees/7/leases", &seven).expect(200);
    assert_eq!(upstream.last().target(), "/lessees/7/leases?org=acme");
    upstream.forget();
    for (key, target) in [
        (&seven, "/lessees/8/leases"),
        (&seven, "/lessees/07/leases"),
        (&seven, "/lessees/7%20/leases"),
        (&seven, "/lessees/70/leases"),
        (&gateway.key("acme"), "/lessees/7/leases"),
    ] {
        let status = gateway.get(target, key).status;
        assert!(status == 404 || status == 400, "{target}: {status}");
    }
    for request in upstream.requests() {
        let asked = request.target().split('/').nth(2).unwrap().to_owned();
        assert_eq!(asked.len(), 32, "an id that cannot exist: {asked}");
        assert_eq!(request.all("x-tenant-id"), ["acme"]);
    }
    let line = gateway.log_line("foreign_subject");
    let path = line["url.path"].as_str().unwrap();
    assert!(path.starts_with("/lessees/"), "{path}");
    assert_eq!(line["decision"], "refused");
    // A subject may hold what some clients encode.
    let odd = key_for(&gateway, "acme", "user:7@x");
    gateway
        .get("/lessees/user%3A7%40x/leases", &odd)
        .expect(200);
    gateway.get("/lessees/user:7@x/leases", &odd).expect(200);
}

// FA20, FM1: no spelling of another tenant's name gets through, and none of the own name is another's.
#[test]
fn a_segment_names_the_caller_or_nobody_is_asked() {
    let upstream = Upstream::start();
    let gateway = bound(&upstream, "twin = \"gateway\"\n").start();
    let acme = gateway.key("acme");
    for own in ["/orgs/acme/leases", "/orgs/%61cme/leases", "/orgs/acme"] {
        gateway.get(own, &acme).expect(200);
    }
    upstream.forget();
    let foreign = [
        "/orgs/bravo/leases",
        "/orgs/Acme/leases",
        "/orgs/ACME/leases",
        "/orgs/acm/leases",
        "/orgs/acmee/leases",
        "/orgs/acme%2520/leases",
        "/orgs/acme%00/leases",
        "/orgs/acme./leases",
        "/orgs/acme%20/leases",
        "/orgs/acme;bravo/leases",
        "/orgs/bravo%2Facme/leases",
        "/orgs//acme/leases",
        "/orgs/acme/../bravo/leases",
        "/orgs/%EF%BD%81cme/leases",
        "/orgs/acme,bravo/leases",
        "/orgs/acme%252F..%252Fbravo/x",
        "/orgs/*/leases",
    ];
    for target in foreign {
        for method in ["GET", "POST", "DELETE", "HEAD"] {
            let answer = gateway.send(&Request::new(method, target).bearer(&acme.text));
            assert!(
                matches!(answer.status, 400 | 404),
                "{method} {target}: {}",
                answer.status
            );
        }
    }
    assert_eq!(upstream.hits(), 0);
}

// FA20, FM9: a bound parameter of the query is there once and names the caller; a set one is the gateway's alone.
#[test]
fn the_query_names_the_caller() {
    let upstream = Upstream::start();
    let gateway = tenants(Setup::bare(upstream.address))
        .route_to(
            "legacy",
            "/search",
            &[],
            Access::AnyKey,
            "bind_query = { org = \"tenant\" }\n",
        )
        .route_to(
            "legacy",
            "/leases/{*rest}",
            &[],
            Access::AnyKey,
            "set_query = { org = \"tenant\" }\n",
        )
        .start();
    let acme = gateway.key("acme");
    gateway.get("/search?a=1&org=acme&b=%2F", &acme).expect(200);
    assert_eq!(upstream.last().target(), "/search?a=1&org=acme&b=%2F");
    upstream.forget();
    for query in [
        "?org=acme&org=bravo",
        "?org=bravo&org=acme",
        "?ORG=bravo&org=acme",
        "?%6frg=bravo&org=acme",
        "?org=acme&org[]=bravo",
        "?org=acme;org=bravo",
        "?%20org=bravo&org=acme",
    ] {
        gateway.get(&format!("/search{query}"), &acme).expect(400);
    }
    assert_eq!(upstream.hits(), 0);
    upstream.answer("/search", MISSING);
    for query in [
        "",
        "?",
        "?org=bravo",
        "?org",
        "?org=",
        "?org=acme%20",
        "?org=Acme",
        "?x=org=acme",
    ] {
        gateway.get(&format!("/search{query}"), &acme).expect(404);
        assert!(
            !upstream.last().target().contains("bravo"),
            "{}",
            upstream.last().target()
        );
    }
    for (sent, expected) in [
        ("/leases", "/leases?org=acme"),
        ("/leases/7?a=1&&b", "/leases/7?a=1&&b&org=acme"),
        (
            "/leases?org=bravo&ORG=x&org%5B%5D=y&z=1",
            "/leases?z=1&org=acme",
        ),
    ] {
        gateway.get(sent, &acme).expect(200);
        assert_eq!(upstream.last().target(), expected);
    }
}

// FA20: the label of the host, over both protocols, whatever its case.
#[test]
fn the_host_names_the_caller() {
    let upstream = Upstream::start();
    let gateway = tenants(Setup::bare(upstream.address))
        .tenant("Shout", "open")
        .route_to(
            "legacy",
            "/{*rest}",
            &[],
            Access::AnyKey,
            "host = \"*.api.example\"\nbind_host = \"tenant\"\n",
        )
        .start();
    let (acme, shout) = (gateway.key("acme"), gateway.key("Shout"));
    let ask = |host: &str, key: &Key| {
        gateway
            .send(&Request::get("/x").host(host).bearer(&key.text))
            .status
    };
    assert_eq!(ask("acme.api.example", &acme), 200);
    assert_eq!(ask("ACME.API.example:8443", &acme), 200);
    assert_eq!(upstream.last().all("host"), ["acme.api.example:8443"]);
    upstream.forget();
    upstream.answer("/x", MISSING);
    for host in [
        "bravo.api.example",
        "x.acme.api.example",
        "acme.bravo.api.example",
        "acmeapi.example",
    ] {
        assert_eq!(ask(host, &acme), 404, "{host}");
    }
    // Hosts know no capitals, so that such a tenant has none of its own.
    assert_eq!(ask("shout.api.example", &shout), 404);
    for request in upstream.requests() {
        let host = request.all("host").join(",");
        assert!(
            !host.contains("acme") && !host.contains("bravo") && !host.contains("shout"),
            "{host}"
        );
        assert_eq!(request.all("x-forwarded-host"), [host.as_str()]);
    }
    assert_eq!(
        gateway.log_line("\"bravo.api.example\"")["reason"],
        "foreign_tenant"
    );
}

// C-15, PB15: 403 where the operator says so, for all or for one host; it names nothing and reaches nobody.
#[test]
fn foreign_may_be_forbidden() {
    let upstream = Upstream::start();
    let setup = bound(&upstream, "").set("errors", "foreign", "\"403\"");
    let gateway = setup
        .more("[[hosts]]\nname = \"twin.example\"\nerrors.foreign = \"404\"\n")
        .start();
    let acme = gateway.key("acme");
    let answer = gateway.get("/orgs/bravo/leases", &acme);
    assert_eq!(answer.expect(403).json()["code"], "forbidden");
    assert!(answer.json().get("required_permission").is_none());
    assert!(!answer.has("www-authenticate"));
    assert_eq!(upstream.hits(), 0);
    let request = Request::get("/orgs/bravo/leases").host("twin.example");
    gateway.send(&request.bearer(&acme.text)).expect(404);
}

// FM7, promise 9: observing is for limits and scopes; whose data it is is never only observed.
#[test]
fn bindings_hold_in_observe_mode() {
    let upstream = Upstream::start();
    let gateway = bound(&upstream, "mode = \"observe\"\ntwin = \"gateway\"\n").start();
    gateway
        .get("/orgs/bravo/leases", &gateway.key("acme"))
        .expect(404);
    assert_eq!(upstream.hits(), 0);
}

/// The parts of an answer that must not tell foreign from missing: all but the date and the request's id, in order.
fn shape(answer: &Answer) -> String {
    let mut text = format!("{}\n", answer.status);
    let volatile = ["date", "x-request-id", "x-ratelimit-remaining", "ratelimit"];
    for (name, value) in &answer.headers {
        let name = name.to_ascii_lowercase();
        let value = if volatile.contains(&name.as_str()) {
            "…"
        } else {
            value
        };
        text.push_str(&format!("{name}: {value}\n"));
    }
    // Ours carries the request's id.
    let mut body = answer.text();
    if let Some(id) = answer.all("x-request-id").first() {
        body = body.replace(id, "…");
    }
    text + &body
}

/// The leaking backend counts its answers in a header.
fn hits_aside(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("x-hits: "));
    lines.collect::<Vec<_>>().join("\n")
}
