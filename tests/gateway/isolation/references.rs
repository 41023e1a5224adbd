//! FM10: what a body refers to is the caller's, or the write is a 404 that no backend has seen.

use std::sync::Arc;
use std::sync::Mutex;

use crate::isolation::hits_aside;
use crate::isolation::key_for;
use crate::isolation::shape;
use crate::isolation::tenants;
use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::h2_upstream::H2Upstream;
use crate::support::real;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;
use crate::support::upstream::nobody;
use crate::support::upstream::status;

/// `/leases` looks `estate_id` and `owner_id` up, with these lines besides; everything else goes through.
fn looking_up(setup: Setup, more: &str) -> Setup {
    let references = "references = { estate_id = \"/estates/{}\", owner_id = \"/owners/{}\" }";
    tenants(setup)
        .set("upstreams.legacy", "isolation", "\"header\"")
        .route_to(
            "legacy",
            "/leases/{*rest}",
            &[],
            Access::AnyKey,
            &format!("{references}\n{more}"),
        )
        .route("/{*rest}", &[], Access::AnyKey)
}

/// Before a recording backend on which the estate and the owner `7` are there, and nothing else is.
fn before(upstream: &Upstream, more: &str) -> Setup {
    upstream.answer("/leases", status(201, &[], "made"));
    looking_up(Setup::bare(upstream.address), more)
}

fn write(key: &Key, body: impl Into<Vec<u8>>) -> Request {
    let request = Request::new("POST", "/leases").bearer(&key.text);
    request
        .header("Content-Type", "application/json")
        .body(body)
}

/// The requests that came, as method and target.
fn came(upstream: &Upstream) -> Vec<String> {
    let requests = upstream.requests();
    let lines = requests.iter().map(|request| {
        let line = request.line.trim_end_matches(" HTTP/1.1");
        line.to_owned()
    });
    lines.collect()
}

fn said_of(answer: &Answer) -> String {
    hits_aside(&shape(answer))
}

// FM10, CW13: a real backend that believes estate_id: acme's own passes, bravo's and a missing one are one 404, charged once, and no POST comes.
#[test]
fn a_foreign_estate_is_as_missing_as_a_missing_one() {
    if real::left_out("python3") {
        return;
    }
    let backend = real::leaky("header", &[]);
    let words = r#""{\"error\": \"no such lease\"}""#;
    let gateway = looking_up(Setup::bare(backend.address), "")
        .set("upstreams.legacy", "not_found_body", words)
        .plan("open", "1000/hour", "unlimited")
        .start();
    let (acme, bravo) = (gateway.key("acme"), gateway.key("bravo"));
    let leases = |key: &Key| gateway.get("/leases", key).expect(200).json();
    // What is prevented: the backend itself asks nobody.
    let mut unguarded = write(&acme, r#"{"estate_id":"of-bravo"}"#);
    unguarded.target = "/shared".to_owned();
    gateway.send(&unguarded).expect(201);
    let before = [leases(&acme), leases(&bravo)];
    let foreign = gateway.send(&write(&acme, r#"{"estate_id":"of-bravo"}"#));
    let missing = gateway.send(&write(&acme, r#"{"estate_id":"of-ghost"}"#));
    assert_eq!(said_of(foreign.expect(404)), said_of(missing.expect(404)));
    assert_eq!(foreign.text(), "{\"error\": \"no such lease\"}");
    assert_eq!(
        foreign.number("x-ratelimit-remaining"),
        missing.number("x-ratelimit-remaining") + 1
    );
    assert_eq!([leases(&acme), leases(&bravo)], before);
    let line = gateway.log_line("foreign_reference");
    assert_eq!(
        (&line["decision"], &line["http.response.status_code"]),
        (&"refused".into(), &404.into())
    );
    assert!(!line.to_string().contains("of-bravo"), "{line}");

    let made = gateway.send(&write(&acme, r#"{"title":"acme's","estate_id":"of-acme"}"#));
    assert_eq!(made.expect(201).json()["title"], "acme's");
    gateway
        .send(&write(&bravo, r#"{"estate_id":"of-bravo"}"#))
        .expect(201);
    gateway
        .send(&write(&bravo, r#"{"estate_id":"of-acme"}"#))
        .expect(404);
    assert_eq!(leases(&acme).as_array().unwrap().len(), 5);
}

// FM10, FM6: before a backend that forgets its WHERE clause, which answers 200 to whoever asks, the route's guard judges the lookups too.
#[test]
fn the_guard_judges_what_is_looked_up() {
    if real::left_out("python3") {
        return;
    }
    let backend = real::leaky("forgets", &[]);
    let gateway = looking_up(Setup::bare(backend.address), "guard = \"watch\"\n")
        .set("guards.watch", "watch", r#"["tenant_id"]"#)
        .start();
    let acme = gateway.key("acme");
    gateway
        .send(&write(&acme, r#"{"estate_id":"of-bravo"}"#))
        .expect(404);
    gateway.log_line("the guard saw another tenant's id");
    gateway
        .send(&write(&acme, r#"{"estate_id":"of-ghost"}"#))
        .expect(404);
    gateway
        .send(&write(&acme, r#"{"estate_id":"of-acme"}"#))
        .expect(201);
}

// FM10, FM9: the backend that believes the path is asked in the caller's own part of it.
#[test]
fn a_lookup_goes_to_the_callers_place() {
    if real::left_out("python3") {
        return;
    }
    let backend = real::leaky("path", &[]);
    let gateway = tenants(Setup::bare(backend.address))
        .set("upstreams.legacy", "isolation", "\"path\"")
        .route_to(
            "legacy",
            "/leases",
            &["POST"],
            Access::AnyKey,
            "set_query = { org = \"tenant\" }\nreferences = { estate_id = \"/orgs/{tenant}/estates/{}\" }\n",
        )
        .route_to("prefixed", "/shared", &["POST"], Access::AnyKey, "references = { estate_id = \"/estates/{}\" }\n")
        .more(&format!(
            "[upstreams.prefixed]\nservers = [\"http://{}\"]\nisolation = \"path\"\npath_prefix = \"/t/{{tenant}}\"",
            backend.address
        ))
        .start();
    for (tenant, other) in [("acme", "bravo"), ("bravo", "acme")] {
        let key = gateway.key(tenant);
        let ask = |path: &str, estate: &str| {
            let mut request = write(&key, format!("{{\"estate_id\":\"of-{estate}\"}}"));
            request.target = path.to_owned();
            gateway.send(&request).status
        };
        assert_eq!(ask("/leases", tenant), 201);
        assert_eq!(ask("/leases", other), 404);
        assert_eq!(ask("/shared", tenant), 201);
        assert_eq!(ask("/shared", other), 404);
    }
}

// FM10, FM1: the lookup is the caller's and nobody else's: its tenant, its request id, nothing that the client could bend it by, and then the
// write as it came.
#[test]
fn a_lookup_is_made_as_the_caller() {
    let upstream = Upstream::start();
    let gateway = before(&upstream, "")
        .set("subject_header", "name", "\"X-Subject-ID\"")
        .set("server", "workers", "1")
        .start();
    let seven = key_for(&gateway, "acme", "user-7");
    let body = "{ \"title\": \"größe\",\n\t\"estate_id\": \"7\" }";
    let request = write(&seven, body)
        .header("Accept", "text/html")
        .header("Cookie", "session=1")
        .header("Idempotency-Key", "once")
        .header("If-None-Match", "\"x\"")
        .header("Range", "bytes=0-0")
        .header("X-Tenant-ID", "bravo")
        .header("X-HTTP-Method-Override", "OPTIONS")
        .header("X-Anything", "else");
    let answer = gateway.send(&request);
    assert_eq!(answer.expect(201).text(), "made");
    assert_eq!(came(&upstream), ["GET /estates/7", "POST /leases"]);
    let [lookup, write] = &upstream.requests()[..] else {
        panic!("two requests");
    };
    for both in [lookup, write] {
        assert_eq!(both.look_alikes("x-tenant-id"), [("x-tenant-id", "acme")]);
        assert_eq!(both.all("x-subject-id"), ["user-7"]);
        assert_eq!(both.all("x-request-id"), [answer.one("x-request-id")]);
        assert_eq!(both.all("host"), ["localhost"]);
        assert_eq!(both.all("cookie"), ["session=1"]);
        assert_eq!(both.all("x-forwarded-proto"), ["https"]);
        assert!(!both.text().contains(&seven.text));
    }
    assert_eq!(lookup.all("accept"), ["application/json"]);
    let mut names: Vec<String> = lookup
        .headers
        .iter()
        .map(|(name, _)| name.to_lowercase())
        .collect();
    names.sort_unstable();
    let expected = [
        "accept",
        "cookie",
        "host",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-request-id",
        "x-subject-id",
        "x-tenant-id",
    ];
    assert_eq!(names, expected);
    assert_eq!(write.body, body.as_bytes());
    assert_eq!(write.all("idempotency-key"), ["once"]);
    assert_eq!(write.all("content-length"), [body.len().to_string()]);
    // Lookups give their connections back.
    for _ in 0..5 {
        gateway.send(&request).expect(201);
    }
    let connections: Vec<usize> = upstream
        .requests()
        .iter()
        .map(|request| request.connection)
        .collect();
    assert!(upstream.connections() <= 2, "{connections:?}");
}

// FM10: what refers to something, and what does not.
#[test]
fn every_reference_is_looked_up_once() {
    let upstream = Upstream::start();
    let gateway = before(&upstream, "").start();
    let acme = gateway.key("acme");
    let cases: [(&str, &[&str]); 14] = [
        (r#"{}"#, &[]),
        (r#"{"estate_id":null}"#, &[]),
        (r#"{"estate_id":[]}"#, &[]),
        // Only the top is looked at.
        (
            r#"{"lease":{"estate_id":"of-bravo"},"all":[{"estate_id":1}]}"#,
            &[],
        ),
        (r#"{"estate_id":7}"#, &["/estates/7"]),
        (r#"{"estate_id":-7}"#, &["/estates/-7"]),
        (
            r#"{"estate_id":18446744073709551615}"#,
            &["/estates/18446744073709551615"],
        ),
        (r#"{"estate_id":"a b+ü"}"#, &["/estates/a%20b%2B%C3%BC"]),
        (r#"{"estate_id":"\u0061"}"#, &["/estates/a"]),
        (r#"{"estate\u005fid":"a"}"#, &["/estates/a"]),
        (r#"{"Estate_ID":"a"}"#, &["/estates/a"]),
        (r#"{"e\u017ftate_id":"a"}"#, &["/estates/a"]),
        (
            r#"{"owner_id":3,"estate_id":["1",2,"1",1]}"#,
            &["/owners/3", "/estates/1", "/estates/2"],
        ),
        (r#" {"estate_id" : "{}" } "#, &["/estates/%7B%7D"]),
    ];
    for (body, expected) in cases {
        upstream.forget();
        gateway.send(&write(&acme, body)).expect(201);
        let mut lines: Vec<String> = expected.iter().map(|path| format!("GET {path}")).collect();
        lines.push("POST /leases".to_owned());
        assert_eq!(came(&upstream), lines, "{body}");
        assert_eq!(upstream.last().body, body.as_bytes());
    }
    upstream.forget();
    let typed = write(&acme, r#"{"estate_id":"7"}"#);
    let mut typed = typed.header("Content-Type", "application/json;charset=\"UTF-8\"");
    typed
        .headers
        .retain(|(_, value)| value != "application/json");
    typed.target.push_str("?x=estate_id&lease_estate_id=1");
    gateway.send(&typed).expect(201);
    assert_eq!(upstream.hits(), 2);
    // Reading asks for nothing, nor does a write without a body.
    for (method, body) in [
        ("GET", None),
        ("OPTIONS", Some("[")),
        ("DELETE", None),
        ("POST", None),
        ("POST", Some("")),
    ] {
        upstream.forget();
        let mut request = Request::new(method, "/leases").bearer(&acme.text);
        request.body = body.map(Into::into);
        gateway.send(&request).expect(201);
        assert_eq!(came(&upstream), [format!("{method} /leases")]);
    }
    // Every method that writes does, known or not.
    for method in ["PUT", "PATCH", "DELETE", "MERGE"] {
        upstream.forget();
        let mut request = write(&acme, r#"{"estate_id":"7"}"#);
        request.method = method.to_owned();
        gateway.send(&request).expect(201);
        assert_eq!(
            came(&upstream),
            ["GET /estates/7".to_owned(), format!("{method} /leases")]
        );
    }
}

// FM10: what cannot be read for certain, or names nothing that a path could, is refused before anybody is asked.
#[test]
fn what_is_in_doubt_is_refused_and_asked_of_nobody() {
    let upstream = Upstream::start();
    let gateway = before(&upstream, "").start();
    let acme = gateway.key("acme");
    let ids = [
        r#""""#,
        r#"".""#,
        r#""..""#,
        r#"" 7""#,
        r#""7 ""#,
        r#""7.""#,
        r#""a/b""#,
        r#""../owners/7""#,
        r#""a\\b""#,
        r#""%2e""#,
        r#""7?x=1""#,
        r##""7#x""##,
        r#""7;x""#,
        r#""7\u0000""#,
        r#""7\n""#,
        r#""\u0085""#,
        "true",
        "false",
        "{}",
        r#"{"id":"7"}"#,
        "7.0",
        "7e0",
        "-0",
        "18446744073709551616",
        "[[7]]",
        r#"["7",null]"#,
        r#"[{"id":7}]"#,
        "[true]",
    ];
    let mut bodies: Vec<String> = ids
        .iter()
        .map(|id| format!("{{\"estate_id\":{id}}}"))
        .collect();
    bodies.push(format!("{{\"estate_id\":\"{}\"}}", "x".repeat(129)));
    let many: Vec<String> = (0..17).map(|id| id.to_string()).collect();
    bodies.push(format!("{{\"estate_id\":[{}]}}", many.join(",")));
    let same = vec!["7"; 65];
    bodies.push(format!("{{\"estate_id\":[{}]}}", same.join(",")));
    bodies.extend(
        [
            r#"{"estate_id":"7","estate_id":"8"}"#,
            r#"{"estate_id":null,"estate_id":"8"}"#,
            r#"{"estate_id":"7","Estate_ID":"8"}"#,
            r#"{"estate_id":"7","estate\u005fid":"7"}"#,
        ]
        .map(str::to_owned),
    );
    for body in &bodies {
        let answer = gateway.send(&write(&acme, body.as_str()));
        let detail = "The request body refers to something by no id that can be looked up.";
        assert_eq!(answer.expect(400).json()["detail"], detail, "{body}");
    }
    assert_eq!(
        gateway.metric("portcullis_refusals_total{reason=\"reference_unfit\"}"),
        bodies.len() as u64
    );
    let broken: [&[u8]; 13] = [
        b"{\"estate_id\":1e999}",
        b"[]",
        b"7",
        b"null",
        b"{",
        b"{\"estate_id\":\"7\"",
        b"{\"estate_id\":\"7\"}}",
        b"{\"estate_id\":\"7\"}{\"estate_id\":\"8\"}",
        b"{\"estate_id\":\"\\ud800\"}",
        b"{\"estate_id\":\"\xff\"}",
        b"{\"x\":\"\xc3\",\"estate_id\":\"7\"}",
        b"\xef\xbb\xbf{\"estate_id\":\"7\"}",
        b"{/**/\"estate_id\":\"7\"}",
    ];
    for body in broken {
        let answer = gateway.send(&write(&acme, body));
        let detail = "The request body must be one JSON object.";
        assert_eq!(
            answer.expect(400).json()["detail"],
            detail,
            "{}",
            String::from_utf8_lossy(body)
        );
    }
    let types: [&[(&str, &str)]; 9] = [
        &[("Content-Type", "application/json; charset=utf-7")],
        &[(
            "Content-Type",
            "application/json; charset=utf-8; charset=iso-2022-jp",
        )],
        &[],
        &[("Content-Type", "application/x-www-form-urlencoded")],
        &[("Content-Type", "text/plain")],
        &[("Content-Type", "application/x-ndjson")],
        &[
            ("Content-Type", "application/json"),
            ("Content-Type", "text/plain"),
        ],
        &[
            ("Content-Type", "application/json"),
            ("Content-Encoding", "gzip"),
        ],
        &[
            ("Content-Type", "application/json"),
            ("Content-Encoding", "identity, gzip"),
        ],
    ];
    for headers in types {
        let mut request = Request::new("POST", "/leases")
            .bearer(&acme.text)
            .body("{}");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        gateway.send(&request).expect(415);
    }
    for (query, body) in [
        ("?estate_id=7", Some("{}")),
        ("?a=b&Estate%5FID[]=7", Some(r#"{"estate_id":"7"}"#)),
        ("?owner_id", None),
    ] {
        let mut request = write(&acme, "");
        request.target.push_str(query);
        request.body = body.map(Into::into);
        gateway.send(&request).expect(400);
    }
    assert_eq!(upstream.hits(), 0);
}

// FM10: a body is held within its bound, whether its length is said or not; beyond it the answer is 413.
#[test]
fn a_body_is_held_within_its_bound() {
    let upstream = Upstream::start();
    let gateway = before(&upstream, "references_bytes_max = \"1KiB\"\n").start();
    let acme = gateway.key("acme");
    let body = |length: usize| {
        let empty = r#"{"estate_id":"7","x":""}"#.len();
        format!(
            "{{\"estate_id\":\"7\",\"x\":\"{}\"}}",
            "x".repeat(length - empty)
        )
    };
    let chunked = |body: &str| {
        let mut bytes = write(&acme, "").header("Transfer-Encoding", "chunked");
        bytes.body = None;
        let mut bytes = bytes.bytes();
        for piece in body.as_bytes().chunks(100) {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        gateway.connect().send(bytes).read_for("POST")
    };
    for length in [900, 1024] {
        let body = body(length);
        gateway.send(&write(&acme, body.as_str())).expect(201);
        chunked(&body).expect(201);
        // Many backends cannot read chunks; what is held has a length.
        let last = upstream.last();
        assert_eq!(last.body, body.as_bytes());
        assert_eq!(last.all("content-length"), [length.to_string()]);
        assert!(last.all("transfer-encoding").is_empty());
    }
    upstream.forget();
    for length in [1025, 5000] {
        gateway.send(&write(&acme, body(length))).expect(413);
        chunked(&body(length)).expect(413);
    }
    assert_eq!(upstream.hits(), 0);
}

// FM10: no answer is no yes: whatever else than 2xx or "not there" the backend says, or does not say, the write stays here.
#[test]
fn a_lookup_that_fails_lets_nothing_pass() {
    let upstream = Upstream::start();
    let mut gateway = before(&upstream, "").start();
    let acme = gateway.key("acme");
    let moved = "HTTP/1.1 302 Found\r\nLocation: /estates/7\r\nContent-Length: 0\r\n\r\n";
    let cases = [
        (404, vec![Step::ReadBody, Step::Send(status(404, &[], "no"))]),
        (404, vec![Step::ReadBody, Step::Send(status(403, &[], "no"))]),
        (404, vec![Step::ReadBody, Step::Send(status(410, &[], "no"))]),
        (502, vec![Step::ReadBody, Step::Send(status(401, &[], "who"))]),
        (502, vec![Step::ReadBody, Step::Send(status(405, &[], "how"))]),
        (502, vec![Step::ReadBody, Step::Send(status(429, &[], "slow"))]),
        (502, vec![Step::ReadBody, Step::Send(status(500, &[], "no"))]),
        (502, vec![Step::ReadBody, Step::Send(status(503, &[], "no"))]),
        (502, vec![Step::ReadBody, Step::Send(moved.into())]),
        (502, vec![Step::ReadBody, Step::Send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_vec())]),
        (502, vec![Step::ReadBody, Step::Send(b"nonsense\r\n\r\n".to_vec()), Step::Close]),
        (502, vec![Step::ReadBody, Step::Close]),
        // Last, since all others may take their time.
        (504, vec![Step::ReadBody, Step::Hold]),
    ];
    let patient = gateway.setup.clone();
    for (number, (expected, steps)) in cases.into_iter().enumerate() {
        upstream.script(&format!("/estates/{number}"), steps);
        if expected == 504 {
            gateway.reload(hasty(&patient)).unwrap();
        }
        // The first is there, so that the second is asked for.
        let body = format!("{{\"owner_id\":7,\"estate_id\":{number}}}");
        let answer = gateway.send(&write(&acme, body));
        answer.expect(expected);
        assert_eq!(answer.has("proxy-status"), expected != 404, "{number}");
    }
    assert_eq!(upstream.hits_on("/leases"), 0);
    gateway.reload(patient).unwrap();
    gateway.log_line("reference \\\"estate_id\\\": upstream legacy: 500 to its lookup");
    // A long yes is a yes, without all of it being read.
    let long = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".to_vec(),
        vec![b'x'; 200_000],
    ]
    .concat();
    upstream.script(
        "/estates/long",
        vec![Step::ReadBody, Step::Send(long), Step::Hold],
    );
    gateway
        .send(&write(&acme, r#"{"estate_id":"long"}"#))
        .expect(201);
    upstream.wait_for_aborted(2);
    // Nor is a backend that is away.
    let gateway = looking_up(Setup::bare(nobody()), "").start();
    let key = gateway.key("acme");
    gateway
        .send(&write(&key, r#"{"estate_id":"7"}"#))
        .expect(502);
}

/// The same for a backend that is silent on purpose. Only for that: on a busy machine any backend may be silent for as long.
fn hasty(setup: &Setup) -> Setup {
    (setup.clone()).set("upstreams.legacy", "first_byte_timeout", "\"300ms\"")
}

// FM10, FM6: a yes that the guard cannot read to its end is none.
#[test]
fn what_the_guard_cannot_judge_is_no_yes() {
    let upstream = Upstream::start();
    let mut gateway = before(&upstream, "guard = \"watch\"\n")
        .set("guards.watch", "watch", r#"["tenant_id"]"#)
        .start();
    let acme = gateway.key("acme");
    let json = ("Content-Type", "application/json");
    let cut =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"x\":1"
            .to_vec();
    let long = format!("{{\"x\":\"{}\"}}", "x".repeat(1 << 20));
    let cases = [
        (
            201,
            vec![Step::Send(status(200, &[json], r#"{"tenant_id":"acme"}"#))],
        ),
        (
            201,
            vec![Step::Send(status(
                200,
                &[("Content-Type", "text/plain")],
                "bravo",
            ))],
        ),
        (
            404,
            vec![Step::Send(status(
                200,
                &[json],
                r#"{"x":[{"tenant\u005fid":"bravo"}]}"#,
            ))],
        ),
        (502, vec![Step::Send(status(200, &[json], r#"{"x":"#))]),
        (
            502,
            vec![Step::Send(status(
                200,
                &[json, ("Content-Encoding", "gzip")],
                "{}",
            ))],
        ),
        (502, vec![Step::Send(status(200, &[json], &long))]),
        (502, vec![Step::Send(cut.clone()), Step::Close]),
        (502, vec![Step::Send(cut), Step::Hold]),
    ];
    let last = cases.len() - 1;
    for (number, (expected, steps)) in cases.into_iter().enumerate() {
        if number == last {
            let hasty = hasty(&gateway.setup);
            gateway.reload(hasty).unwrap();
        }
        upstream.forget();
        let steps = std::iter::once(Step::ReadBody).chain(steps);
        upstream.script(&format!("/estates/{number}"), steps.collect());
        let answer = gateway.send(&write(&acme, format!("{{\"estate_id\":{number}}}")));
        answer.expect(expected);
        assert_eq!(
            upstream.hits_on("/leases"),
            usize::from(expected == 201),
            "{number}"
        );
    }
}

// FM10, promise 9: observed, all pass, whatever is found, and what would have been refused is in the log and the metrics.
#[test]
fn observed_lookups_refuse_nothing() {
    let upstream = Upstream::start();
    let gateway = before(
        &upstream,
        "references_mode = \"observe\"\nreferences_bytes_max = \"1KiB\"\n",
    )
    .start();
    let acme = gateway.key("acme");
    upstream.answer("/estates/8", status(404, &[], "no"));
    upstream.answer("/estates/9", status(500, &[], "no"));
    let large = format!("{{\"estate_id\":7,\"x\":\"{}\"}}", "x".repeat(100_000));
    let cases = [
        (r#"{"estate_id":7}"#, ""),
        (r#"{"estate_id":8}"#, "foreign_reference"),
        (r#"{"estate_id":9}"#, "http_protocol_error"),
        (r#"{"estate_id":""}"#, "reference_unfit"),
        (r#"{"estate_id":"#, "body_unfit"),
        (large.as_str(), "body_too_large"),
    ];
    for (body, reason) in cases {
        gateway.send(&write(&acme, body)).expect(201);
        assert_eq!(upstream.last().line, "POST /leases HTTP/1.1");
        assert!(upstream.last().body == body.as_bytes(), "{reason}");
        if !reason.is_empty() {
            let line = gateway.log_line(&format!("\"would_refuse\":\"{reason}\""));
            assert_eq!(
                (&line["decision"], &line["http.response.status_code"]),
                (&"forwarded".into(), &201.into())
            );
            assert_eq!(
                gateway.metric(&format!(
                    "portcullis_would_refuse_total{{reason=\"{reason}\"}}"
                )),
                1
            );
        }
    }
    let mut plain = write(&acme, "estate_id=8");
    plain.headers.retain(|(name, _)| name != "Content-Type");
    gateway.send(&plain).expect(201);
    assert_eq!(upstream.last().body, b"estate_id=8");
    // The same in chunks, begun when the bound is passed.
    let mut request = write(&acme, "").header("Transfer-Encoding", "chunked");
    request.body = None;
    let mut client = gateway.connect();
    client.send(request.bytes());
    for piece in large.as_bytes().chunks(700) {
        client
            .send(format!("{:x}\r\n", piece.len()))
            .send(piece)
            .send("\r\n");
    }
    client.send("0\r\n\r\n").read_for("POST").expect(201);
    assert!(upstream.last().body == large.as_bytes());
}

// FM10, FM9: what is looked up is what the backend gets, after the guard has put in and taken out.
#[test]
fn a_rewritten_body_is_looked_into_and_goes_on() {
    let upstream = Upstream::start();
    let gateway = before(&upstream, "guard = \"sets\"\n")
        .set("guards.sets", "request_set", r#"["tenant_id"]"#)
        .start();
    let acme = gateway.key("acme");
    let body = r#"{"tenant_id":"bravo","estate_id":"7"}"#;
    gateway.send(&write(&acme, body)).expect(201);
    assert_eq!(came(&upstream), ["GET /estates/7", "POST /leases"]);
    let last = upstream.last();
    let sent: serde_json::Value = serde_json::from_slice(&last.body).unwrap();
    assert_eq!(
        sent,
        serde_json::json!({"estate_id": "7", "tenant_id": "acme"})
    );
    assert_eq!(last.all("content-length"), [last.body.len().to_string()]);
    gateway.send(&write(&acme, "[]")).expect(400);
}

// FM10, FA9: a key that ends while its reference is looked up ends the write with it.
#[test]
fn a_revoked_key_writes_nothing() {
    let upstream = Upstream::start();
    let gateway = before(&upstream, "").start();
    upstream.script("/estates/7", vec![Step::ReadBody, Step::Hold]);
    let key = gateway.key("acme");
    let mut client = gateway.connect();
    client.send(write(&key, r#"{"estate_id":7}"#).bytes());
    upstream.wait_for_hits(1);
    gateway.revoke(&key);
    client.read_for("POST").expect(401);
    upstream.wait_for_aborted(1);
    assert_eq!(came(&upstream), ["GET /estates/7"]);
}

// FM10: a client that stalls is told so, observed or not, and one that goes away takes its lookup with it.
#[test]
fn a_client_that_stalls_gets_408() {
    let upstream = Upstream::start();
    let with = |mode: &str| {
        before(&upstream, &format!("references_mode = {mode:?}\n"))
            .set("connections", "stall_timeout", "\"300ms\"")
            .start()
    };
    for mode in ["observe", "enforce"] {
        let gateway = with(mode);
        let mut request = write(&gateway.key("acme"), "");
        request.body = None;
        let request = request.header("Content-Length", "100");
        let mut client = gateway.connect();
        client.send(request.bytes()).send("{\"estate_id\"");
        client.read_for("POST").expect(408);
    }
    assert_eq!(upstream.hits(), 0);
    let gateway = with("enforce");
    let acme = gateway.key("acme");
    upstream.script("/estates/7", vec![Step::ReadBody, Step::Hold]);
    let mut client = gateway.connect();
    client.send(write(&acme, r#"{"estate_id":7}"#).bytes());
    upstream.wait_for_hits(1);
    drop(client);
    upstream.wait_for_aborted(1);
    assert_eq!(upstream.hits_on("/leases"), 0);
}

// FM10, S6: a client that waits for a 100 gets it once it may write at all.
#[test]
fn a_client_that_waits_for_100_is_asked_for_its_body() {
    let upstream = Upstream::start();
    let gateway = before(&upstream, "").start();
    let acme = gateway.key("acme");
    let body = r#"{"estate_id":7}"#;
    let mut request = write(&acme, body).header("Expect", "100-continue");
    request.body = None;
    let request = request.header("Content-Length", &body.len().to_string());
    let mut client = gateway.connect();
    client.send(request.bytes());
    let went_on = client.read_interim();
    assert_eq!(went_on, Some(100));
    client.send(body).read_for("POST").expect(201);
}

// FM10, FA20: with servers for each tenant, the caller's own is asked.
#[test]
fn each_tenants_own_server_is_asked() {
    let (of_acme, of_bravo) = (Upstream::start(), Upstream::start());
    of_acme.answer("/t/estates/8", status(404, &[], "no"));
    let gateway = tenants(Setup::bare(nobody()))
        .route_to("apart", "/leases", &["POST"], Access::AnyKey, "set_query = { org = \"tenant\" }\nreferences = { estate_id = \"/estates/{}\" }\n")
        .more(&format!(
            "[upstreams.apart]\nisolation = \"physical\"\ntenants = {{ acme = \"http://{}/t\", bravo = \"http://{}\" }}",
            of_acme.address, of_bravo.address
        ))
        .start();
    let acme = gateway.key("acme");
    gateway
        .send(&write(&acme, r#"{"estate_id":7}"#))
        .expect(200);
    gateway
        .send(&write(&acme, r#"{"estate_id":8}"#))
        .expect(404);
    assert_eq!(
        came(&of_acme),
        [
            "GET /t/estates/7?org=acme",
            "POST /t/leases?org=acme",
            "GET /t/estates/8?org=acme"
        ]
    );
    assert_eq!(of_bravo.hits(), 0);
}

// FM10, S44: over HTTP/2, lookups and the write share one connection.
#[test]
fn an_http2_backend_is_asked_too() {
    let came = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&came);
    let upstream = H2Upstream::start(move |mut call| {
        let seen = Arc::clone(&seen);
        async move {
            let body = call.read().await;
            let (method, path) = (call.head.method.clone(), call.head.uri.path().to_owned());
            let tenant = call.head.headers["x-tenant-id"]
                .to_str()
                .unwrap()
                .to_owned();
            let body = String::from_utf8(body).unwrap();
            seen.lock()
                .unwrap()
                .push(format!("{method} {path} {tenant} {body}"));
            let there = !path.ends_with("8");
            call.answer(if there { 200 } else { 404 }, &[], "said");
        }
    });
    let gateway = looking_up(Setup::bare(upstream.address), "")
        .set("upstreams.legacy", "protocol", "\"http2\"")
        .set("server", "workers", "1")
        .start();
    let acme = gateway.key("acme");
    gateway
        .send(&write(&acme, r#"{"estate_id":7}"#))
        .expect(200);
    gateway
        .send(&write(&acme, r#"{"estate_id":8}"#))
        .expect(404);
    assert_eq!(
        *came.lock().unwrap(),
        [
            "GET /estates/7 acme ",
            "POST /leases acme {\"estate_id\":7}",
            "GET /estates/8 acme "
        ]
    );
    assert_eq!(upstream.connections(), 1);
}

// Promise 9: `explain` says what a write would be asked first.
#[test]
fn explain_names_the_lookups() {
    let upstream = Upstream::start();
    let gateway: Gateway = before(&upstream, "references_mode = \"observe\"\n").start();
    let acme = gateway.key("acme");
    let (code, told, errors) =
        gateway.command(&["limits", "explain", &acme.id, "/leases", "--method", "POST"]);
    assert_eq!(code, 0, "{errors}");
    let line = "estate_id of a body must be the caller's: GET /estates/{} is asked first, and only observed";
    assert!(told.contains(line), "{told}");
    assert_eq!(upstream.hits(), 0);
}
