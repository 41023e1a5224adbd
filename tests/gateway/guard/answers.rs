//! Answers of a guarded route: what goes, what is refused, what is cut, what is told.

use serde_json::json;

use super::answer;
use super::chunked;
use super::deleted;
use super::get;
use super::guarded;
use super::gzip;
use super::leases;
use super::packed;
use crate::support::Gate;
use crate::support::client::block_on;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;
use crate::support::upstream::find;

// FM8, CHECK10: nested, in arrays; plain, gzip, br, zstd; in one piece, in pieces of one byte, 20 MiB; to clients of both protocols. The
// length is right, the tenant header gone, and the backend was asked for plain bytes.
#[test]
fn the_members_are_gone_however_they_came() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream, &[]).start();
    let key = gateway.key("acme");
    for count in [1, 20, 140_000] {
        let body = leases(count, "acme");
        let text = body.to_string().into_bytes();
        let expected = deleted(body);
        for coding in ["identity", "gzip", "br", "zstd"] {
            if count > 1000 && coding == "br" {
                continue;
            }
            let packed = packed(coding, &text);
            let mut steps = vec![answer(
                &[("Content-Encoding", coding), ("X-Tenant-Id", "acme")],
                &packed,
            )];
            if count < 1000 {
                let head =
                    format!("Content-Type: application/json\r\nContent-Encoding: {coding}\r\n");
                steps.push(chunked(&head, &packed, 1));
            }
            for step in steps {
                upstream.script("/g/leases", vec![Step::ReadBody, step]);
                let request = Request::get("/g/leases")
                    .bearer(&key.text)
                    .header("Accept-Encoding", "gzip");
                let answer = gateway.send(&request);
                assert!(answer.expect(200).complete, "{coding} {count}");
                assert!(answer.json() == expected, "{coding} {count}");
                assert!(find(&answer.body, b"tenant_id").is_none());
                assert!(!answer.has("x-tenant-id") && !answer.has("content-encoding"));
                if count < 100 {
                    assert_eq!(answer.number("content-length"), answer.body.len() as u64);
                }
                assert_eq!(upstream.last().all("accept-encoding"), ["identity"]);
                if count < 1000 {
                    let over_h2 =
                        block_on(async { gateway.connect_h2().await.exchange(&request).await });
                    let over_h2 = over_h2.unwrap();
                    assert!(over_h2.complete && over_h2.body == answer.body);
                }
            }
            upstream.forget();
        }
    }
}

// CHECK10: what is not JSON, or is on a route without a guard, passes to the byte; errors of the backend are read like the rest.
#[test]
fn only_json_on_guarded_routes_is_read() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream, &[("remove_headers", r#"["X-Owner"]"#)]).start();
    let key = gateway.key("acme");
    let body = br#"{"tenant_id":"bravo"}"#;
    let packed = gzip(body);
    for (path, media, body) in [
        ("/g/text", "text/plain", &body[..]),
        ("/g/page", "text/html; charset=utf-8", body),
        ("/any/json", "application/json", body),
    ] {
        upstream.script(
            path,
            vec![
                Step::ReadBody,
                answer(&[("Content-Type", media), ("ETag", "\"v1\"")], body),
            ],
        );
        let answer = get(&gateway, path, &key);
        assert_eq!((answer.status, &answer.body[..]), (200, body), "{path}");
        assert_eq!(answer.one("etag"), "\"v1\"");
    }
    let headers = [
        ("Content-Type", "image/svg"),
        ("Content-Encoding", "gzip"),
        ("X-Owner", "bravo"),
    ];
    upstream.script("/g/packed", vec![Step::ReadBody, answer(&headers, &packed)]);
    let got = get(&gateway, "/g/packed", &key);
    assert_eq!(
        (
            got.body == packed,
            got.one("content-encoding"),
            got.has("x-owner")
        ),
        (true, "gzip", false)
    );
    let problem = b"HTTP/1.1 422 No\r\nContent-Type: application/problem+json\r\nContent-Length: 31\r\n\r\n{\"tenant_id\":\"acme\",\"title\":1}\n";
    upstream.script(
        "/g/problem",
        vec![Step::ReadBody, Step::Send(problem.to_vec())],
    );
    assert_eq!(
        get(&gateway, "/g/problem", &key).expect(422).text(),
        "{\"title\":1}\n"
    );
    // No stated type: read when it begins like JSON.
    for (body, expected) in [
        ("{\"tenant_id\":\"acme\"}", "{}"),
        ("plain {\"tenant_id\":1}", "plain {\"tenant_id\":1}"),
    ] {
        let bytes = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        upstream.script(
            "/g/untyped",
            vec![Step::ReadBody, Step::Send(bytes.into_bytes())],
        );
        assert_eq!(
            get(&gateway, "/g/untyped", &key).expect(200).text(),
            expected
        );
    }
}

// FM6, CW13: another tenant's id is answered as if there were nothing, or 502; never with a word of what stood there.
#[test]
fn another_tenants_items_never_arrive() {
    let upstream = Upstream::start();
    for (foreign, status, code) in [("404", 404, "not_found"), ("502", 502, "bad_gateway")] {
        let gateway = guarded(&upstream, &[("foreign", &format!("{foreign:?}"))]).start();
        let (acme, bravo) = (gateway.key("acme"), gateway.key("bravo"));
        let body = json!([{"id": 1, "name": "SECRET-NAME", "tenant_id": "bravo"}]).to_string();
        for (coding, body) in [
            ("identity", body.clone().into_bytes()),
            ("gzip", gzip(body.as_bytes())),
        ] {
            upstream.script(
                "/g/leases",
                vec![
                    Step::ReadBody,
                    answer(&[("Content-Encoding", coding)], &body),
                ],
            );
            let answer = get(&gateway, "/g/leases", &acme);
            answer.expect(status);
            assert_eq!(answer.json()["code"], code);
            assert!(!answer.text().contains("SECRET") && !answer.text().contains("bravo"));
            assert_eq!(
                get(&gateway, "/g/leases", &bravo).expect(200).json(),
                json!([{"id": 1, "name": "SECRET-NAME"}])
            );
        }
        if status == 404 {
            let missing = gateway.get("/nowhere", &acme);
            let refused = get(&gateway, "/g/leases", &acme);
            let names = |answer: &Answer| -> Vec<String> {
                answer
                    .headers
                    .iter()
                    .map(|(name, _)| name.clone())
                    .collect()
            };
            assert_eq!(names(&missing), names(&refused));
        }
        let line = gateway.log_line("guard_foreign");
        assert_eq!(line["reason"], "guard_foreign");
        assert!(!gateway.log().contains("SECRET"));
        let metrics = gateway.admin_get("/metrics").text();
        assert!(
            metrics.contains("portcullis_guarded_answers_total{outcome=\"foreign_refused\"} "),
            "{metrics}"
        );
    }
}

// FM6, S34: found after the head was sent, it is cut, and looks cut to clients of either protocol.
#[test]
fn a_late_find_cuts_the_answer_visibly() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream, &[("bytes_held", "\"1KiB\"")]).start();
    let key = gateway.key("acme");
    // More than the gateway reads at once, and than HTTP/2 lets it send unasked: the head has gone by then.
    let mut items = leases(20_000, "acme");
    items
        .as_array_mut()
        .unwrap()
        .push(json!({"tenant_id": "bravo", "name": "SECRET"}));
    upstream.script(
        "/g/leases",
        vec![Step::ReadBody, answer(&[], items.to_string().as_bytes())],
    );
    let request = Request::get("/g/leases").bearer(&key.text);
    let got = gateway.send(&request);
    assert!(!got.expect(200).complete && !got.text().contains("SECRET"));
    assert_eq!(gateway.log_line("guard_cut")["reason"], "guard_foreign");
    let got = block_on(async { gateway.connect_h2().await.exchange(&request).await }).unwrap();
    assert!(!got.complete && !got.text().contains("SECRET"));
    // "cut" holds nothing back: what is found in the first piece closes the connection, perhaps before the head was written.
    let gateway = guarded(&upstream, &[("foreign", "\"cut\"")]).start();
    let key = gateway.key("acme");
    upstream.script(
        "/g/one",
        vec![Step::ReadBody, answer(&[], br#"{"tenant_id":"bravo"}"#)],
    );
    let got = gateway.send_bytes(Request::get("/g/one").bearer(&key.text).bytes());
    assert!(got.is_none_or(|got| !got.complete && got.body.is_empty()));
    assert_eq!(gateway.log_line("guard_cut")["reason"], "guard_foreign");
}

// CHECK10: NDJSON, JSON sequences and server-sent events; the first event comes at once, and one with a foreign id ends the stream.
#[test]
fn lines_and_events_are_filtered_as_they_come() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream, &[]).start();
    let key = gateway.key("acme");
    let lines = "{\"tenant_id\":\"acme\",\"n\":1}\n{\"n\":2,\"tenant_id\":\"acme\"}\n";
    for media in ["application/x-ndjson", "application/json-seq"] {
        upstream.script(
            "/g/lines",
            vec![
                Step::ReadBody,
                chunked(&format!("Content-Type: {media}\r\n"), lines.as_bytes(), 1),
            ],
        );
        assert_eq!(
            get(&gateway, "/g/lines", &key).text(),
            "{\"n\":1}\n{\"n\":2}\n"
        );
    }
    let more = Gate::closed();
    let event = |text: &str| Step::Send(format!("{:x}\r\n{text}\r\n", text.len()).into_bytes());
    upstream.script(
        "/g/events",
        vec![
            Step::ReadBody,
            Step::Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()),
            event("id: 1\ndata: {\"tenant_id\":\"acme\",\ndata: \"n\":1}\n\n"),
            Step::Wait(more.clone()),
            event("data: {\"tenant_id\":\"bravo\",\"secret\":1}\n\n"),
            Step::Hold,
        ],
    );
    let mut client = gateway.connect();
    client.send(Request::get("/g/events").bearer(&key.text).bytes());
    assert!(
        client.wait_for("id: 1\ndata: {\ndata: \"n\":1}\n\n"),
        "the first event comes at once"
    );
    more.open();
    let rest = client.read_to_end();
    assert!(find(&rest, b"secret").is_none() && !rest.ends_with(b"0\r\n\r\n"));
    upstream.wait_for_aborted(1);
}

// CHECK10: Range, HEAD, ETag and 304, digests and lengths: nothing is claimed of bytes that the client does not get.
#[test]
fn heads_claim_nothing_of_the_backends_bytes() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream, &[]).start();
    let key = gateway.key("acme");
    let headers = [
        ("ETag", "\"v1\""),
        ("Accept-Ranges", "bytes"),
        ("Content-MD5", "x"),
        ("Digest", "sha-256=x"),
        ("Repr-Digest", "sha-256=:eA==:"),
        ("Content-Digest", "sha-256=:eA==:"),
    ];
    upstream.script(
        "/g/one",
        vec![
            Step::ReadBody,
            answer(&headers, br#"{"id":1,"tenant_id":"acme"}"#),
        ],
    );
    let request = Request::get("/g/one").bearer(&key.text);
    let got = gateway.send(
        &request
            .clone()
            .header("Range", "bytes=0-9")
            .header("If-Range", "\"v1\""),
    );
    assert_eq!(got.expect(200).text(), r#"{"id":1}"#);
    assert!(upstream.last().all("range").is_empty() && upstream.last().all("if-range").is_empty());
    assert_eq!(
        (got.one("etag"), got.one("accept-ranges")),
        ("W/\"v1-guarded\"", "none")
    );
    for name in ["content-md5", "digest", "repr-digest", "content-digest"] {
        assert!(!got.has(name), "{name}");
    }
    // The backend gets its own tag back, for reading and for writing.
    let not_modified = "HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n";
    upstream.script(
        "/g/one",
        vec![Step::ReadBody, Step::Send(not_modified.into())],
    );
    let got = gateway.send(&request.clone().header("If-None-Match", "W/\"v1-guarded\""));
    assert_eq!((got.status, got.one("etag")), (304, "W/\"v1-guarded\""));
    assert_eq!(upstream.last().all("if-none-match"), ["\"v1\""]);
    gateway.send(
        &Request::new("DELETE", "/g/one")
            .bearer(&key.text)
            .header("If-Match", "W/\"v1-guarded\", \"v0\""),
    );
    assert_eq!(upstream.last().all("if-match"), ["\"v1\", \"v0\""]);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"v1\"\r\nContent-Length: 27\r\n\r\n";
    upstream.script("/g/one", vec![Step::ReadBody, Step::Send(head.into())]);
    let got = gateway.send(&Request::new("HEAD", "/g/one").bearer(&key.text));
    assert_eq!(
        (got.status, got.one("etag"), got.has("content-length")),
        (200, "W/\"v1-guarded\"", false)
    );
    // A part that nobody asked for cannot be judged.
    let part = "HTTP/1.1 206 Part\r\nContent-Type: application/json\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\n{}";
    upstream.script("/g/one", vec![Step::ReadBody, Step::Send(part.into())]);
    gateway.send(&request).expect(502);
}

// The bad input list: deep nesting, broken JSON, encodings that are unknown, garbled, truncated or bombs: 502, never a part of it; cut when
// it shows later. Megabyte names, doubled members, lone surrogates and bytes that are no UTF-8 are read like the rest.
#[test]
fn bad_input_is_refused_or_read_but_never_half() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream, &[("decoded_bytes_max", "\"4MiB\"")]).start();
    let key = gateway.key("acme");
    let sound = leases(40, "acme").to_string().into_bytes();
    let packed = gzip(&sound);
    let deep = "[".repeat(100_000);
    let bomb = gzip(&vec![b' '; 64 << 20]);
    let mut flipped = packed.clone();
    flipped[packed.len() / 2] ^= 1;
    let cases: [(&str, &str, &[u8]); 10] = [
        ("deep", "identity", deep.as_bytes()),
        ("broken", "identity", br#"{"tenant_id":"acme",}"#),
        ("single quotes", "identity", b"{'tenant_id':'bravo'}"),
        ("ends early", "identity", br#"[{"id":1}"#),
        ("unknown coding", "compress", &sound),
        ("two codings", "gzip, br", &packed),
        ("no gzip", "gzip", &sound),
        ("truncated gzip", "gzip", &packed[..packed.len() - 9]),
        ("garbled gzip", "gzip", &flipped),
        ("bomb", "gzip", &bomb),
    ];
    for (name, coding, body) in cases {
        upstream.script(
            "/g/bad",
            vec![
                Step::ReadBody,
                answer(&[("Content-Encoding", coding)], body),
            ],
        );
        let got = get(&gateway, "/g/bad", &key);
        if name == "bomb" && got.status == 200 {
            assert!(!got.complete);
            continue;
        }
        assert_eq!(got.status, 502, "{name}");
        assert!(got.one("proxy-status").contains("error="), "{name}");
    }
    for (name, body, expected) in [
        (
            "long name",
            format!("{{\"{}\":1,\"tenant_id\":\"acme\"}}", "n".repeat(1 << 20)),
            format!("{{\"{}\":1}}", "n".repeat(1 << 20)),
        ),
        (
            "doubled",
            r#"{"tenant_id":"acme","a":1,"tenant_id":"acme"}"#.into(),
            r#"{"a":1}"#.into(),
        ),
        (
            "escaped",
            r#"{"\u0074enant_id":"\u0061cme","\ud800":"\udfff"}"#.into(),
            r#"{"\ud800":"\udfff"}"#.into(),
        ),
    ] {
        upstream.script("/g/odd", vec![Step::ReadBody, answer(&[], body.as_bytes())]);
        assert!(
            get(&gateway, "/g/odd", &key).expect(200).text() == expected,
            "{name}"
        );
    }
    upstream.script(
        "/g/odd",
        vec![
            Step::ReadBody,
            answer(&[], b"{\"a\xff\":\"\xc3\",\"tenant_id\":\"acme\"}"),
        ],
    );
    assert_eq!(
        get(&gateway, "/g/odd", &key).expect(200).body,
        b"{\"a\xff\":\"\xc3\"}"
    );
    // A backend that breaks off while the answer is held: said in words.
    upstream.script("/g/cut", vec![Step::ReadBody, Step::Send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n[1".to_vec()), Step::Close]);
    get(&gateway, "/g/cut", &key).expect(502);
    // Passed as it is where the guard may, but not once something was taken out.
    let gateway = guarded(&upstream, &[("broken", "\"pass\"")]).start();
    let key = gateway.key("acme");
    upstream.script(
        "/g/bad",
        vec![Step::ReadBody, answer(&[], b"not json, {\"tenant_id\":1}")],
    );
    assert_eq!(
        get(&gateway, "/g/bad", &key).expect(200).text(),
        "not json, {\"tenant_id\":1}"
    );
    upstream.script(
        "/g/bad",
        vec![Step::ReadBody, answer(&[], br#"{"tenant_id":"acme",}"#)],
    );
    get(&gateway, "/g/bad", &key).expect(502);
}

// Observe mode: to the byte as the backend said it, and told in log and metrics.
#[test]
fn observing_changes_nothing_and_tells() {
    let upstream = Upstream::start();
    let gateway = guarded(
        &upstream,
        &[
            ("mode", "\"observe\""),
            ("remove_headers", r#"["X-Owner"]"#),
        ],
    )
    .start();
    let key = gateway.key("acme");
    for (name, coding, body) in [
        ("own", "identity", br#"{"tenant_id":"acme"}"#.to_vec()),
        ("foreign", "gzip", gzip(br#"{"tenant_id":"bravo","x":1}"#)),
        ("broken", "identity", b"{]".to_vec()),
    ] {
        let path = format!("/g/{name}");
        let headers = [
            ("Content-Encoding", coding),
            ("ETag", "\"v1\""),
            ("X-Owner", "o"),
        ];
        upstream.script(&path, vec![Step::ReadBody, answer(&headers, &body)]);
        let got = gateway.send(
            &Request::get(&path)
                .bearer(&key.text)
                .header("Range", "bytes=0-"),
        );
        assert_eq!(
            (got.status, got.body == body, got.one("etag")),
            (200, true, "\"v1\""),
            "{name}"
        );
        assert_eq!(
            (got.one("x-owner"), got.number("content-length")),
            ("o", body.len() as u64)
        );
        assert_eq!(upstream.last().all("range"), ["bytes=0-"]);
    }
    assert_eq!(
        gateway.log_line("/g/foreign")["would_refuse"],
        "guard_foreign"
    );
    assert_eq!(
        gateway.log_line("/g/broken")["would_refuse"],
        "guard_broken"
    );
    let metrics = gateway.admin_get("/metrics").text();
    for outcome in [
        "would_remove",
        "would_refuse_foreign",
        "would_refuse_broken",
    ] {
        let line = format!("portcullis_guarded_answers_total{{outcome=\"{outcome}\"}} 1");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

// FA9: a key that is revoked while its answer is held gets 401, and the backend is let go.
#[test]
fn a_key_that_ends_while_its_answer_is_held_gets_401() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream, &[]).start();
    let key = gateway.key("acme");
    let begun =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n[1"
            .to_vec();
    upstream.script(
        "/g/slow",
        vec![Step::ReadBody, Step::Send(begun), Step::Hold],
    );
    let mut client = gateway.connect();
    client.send(Request::get("/g/slow").bearer(&key.text).bytes());
    upstream.wait_for_hits(1);
    gateway.revoke(&key);
    client.read().expect(401);
    upstream.wait_for_aborted(1);
}
