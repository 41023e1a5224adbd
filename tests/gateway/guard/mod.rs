//! The response guard and the members that it sets in requests: what a leaking backend says does not reach another tenant.

mod answers;
mod real;
mod requests;

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use serde_json::json;

use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;

/// A guard on `/g/…`, which takes `tenant_id` out; with these keys of its table besides.
fn guarded(upstream: &Upstream, keys: &[(&str, &str)]) -> Setup {
    guarded_at(Setup::usual(upstream), keys)
}

fn guarded_at(setup: Setup, keys: &[(&str, &str)]) -> Setup {
    let setup = setup
        .set("guards.tenants", "remove", r#"["tenant_id"]"#)
        .route_to(
            "legacy",
            "/g/{*rest}",
            &[],
            Access::AnyKey,
            "guard = \"tenants\"\n",
        );
    keys.iter().fold(setup, |setup, (key, value)| {
        setup.set("guards.tenants", key, value)
    })
}

/// An answer with a `Content-Length`, of `application/json` unless the headers say otherwise.
fn answer(headers: &[(&str, &str)], body: &[u8]) -> Step {
    let mut text = "HTTP/1.1 200 OK\r\n".to_owned();
    if !headers.iter().any(|(name, _)| *name == "Content-Type") {
        text.push_str("Content-Type: application/json\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    Step::Send([text.as_bytes(), body].concat())
}

/// An answer in chunks of this size.
fn chunked(headers: &str, body: &[u8], size: usize) -> Step {
    let head = format!("HTTP/1.1 200 OK\r\n{headers}Transfer-Encoding: chunked\r\n\r\n");
    let mut out = head.into_bytes();
    for piece in body.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    Step::Send(out)
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(body).unwrap();
    gzip.finish().unwrap()
}

fn packed(coding: &str, body: &[u8]) -> Vec<u8> {
    match coding {
        "gzip" => gzip(body),
        "zstd" => zstd::stream::encode_all(body, 3).unwrap(),
        "br" => {
            let mut out = Vec::new();
            let params = brotli::enc::BrotliEncoderParams {
                quality: 5,
                ..Default::default()
            };
            brotli::BrotliCompress(&mut &body[..], &mut out, &params).unwrap();
            out
        }
        _ => body.to_vec(),
    }
}

/// What `jq 'del(.. | .tenant_id?)'` would leave.
fn deleted(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            members.remove("tenant_id");
            for inner in members.values_mut() {
                *inner = deleted(inner.take());
            }
        }
        Value::Array(items) => {
            for inner in items {
                *inner = deleted(inner.take());
            }
        }
        _ => {}
    }
    value
}

/// Many leases of one tenant, `count` of them, some 150 bytes each.
fn leases(count: usize, tenant: &str) -> Value {
    let lease = |number: usize| {
        json!({
            "id": number,
            "tenant_id": tenant,
            "title": "Flat \"north\", Ü — 3rd floor",
            "rent": 1234.50,
            "parties": [{"name": "A\\B", "tenant_id": tenant}, {"tenant_id": tenant}],
        })
    };
    Value::Array((0..count).map(lease).collect())
}

fn get(gateway: &Gateway, path: &str, key: &Key) -> Answer {
    gateway.get(path, key)
}

/// What the backend got of this body, and what it was told of it.
fn posted(gateway: &Gateway, upstream: &Upstream, request: &Request) -> (Answer, Option<Vec<u8>>) {
    upstream.forget();
    let answer = gateway.send(request);
    let body = upstream.requests().pop().map(|request| {
        match request.all("content-length")[..] {
            [length] => assert_eq!(length.parse(), Ok(request.body.len())),
            _ => assert_eq!(request.all("transfer-encoding"), ["chunked"]),
        }
        request.body
    });
    (answer, body)
}
