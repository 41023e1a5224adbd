//! What refusals say, as maps and as lines.

use serde_json::Value;

use super::*;
use crate::model::scope::Scope;
use crate::refusal::UpstreamFailure;

const ID: &str = "0198c5f0-0000-7000-8000-000000000000";

fn style(shape: Shape, name_permission: bool) -> Style<'static> {
    Style {
        shape,
        name_permission,
        realm: "api",
        grpc: false,
        metadata: None,
    }
}

fn scope_missing() -> Refusal {
    Refusal::ScopeMissing(Scope::new("leases:write").unwrap())
}

fn header<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
    let value = response.headers().get(name)?;
    Some(value.to_str().unwrap())
}

fn body_of(refusal: &Refusal, shape: Shape, name_permission: bool) -> String {
    let response = refusal.render(&style(shape, name_permission), ID, false);
    String::from_utf8(response.into_body().to_vec()).unwrap()
}

#[test]
fn what_is_not_ours_cannot_break_out_of_its_text() {
    for id in [
        "a",
        "\"",
        "\\",
        "a\",\"code\":\"x",
        "\u{1}\n",
        "é",
        "\u{7f}",
    ] {
        let style = style(Shape::Problem, true);
        let response = Refusal::NoRoute.render(&style, id, false);
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(
            (&body["request_id"], &body["code"]),
            (&Value::from(id), &Value::from("not_found"))
        );
    }
}

#[test]
fn every_refusal_is_valid_in_every_shape() {
    for refusal in Refusal::examples() {
        for shape in [Shape::Problem, Shape::Nested, Shape::Flat] {
            let response = refusal.render(&style(shape, true), ID, false);
            let body: Value = serde_json::from_slice(response.body()).unwrap();
            let length = header(&response, "content-length").unwrap();
            assert_eq!(length, response.body().len().to_string());
            assert_eq!(header(&response, "x-request-id"), Some(ID));
            assert_eq!(response.status(), refusal.status());
            match shape {
                Shape::Problem => {
                    assert_eq!(body["status"], response.status().as_u16());
                    assert_eq!(body["code"], refusal.code());
                    assert_eq!(body["request_id"], ID);
                    assert!(body["type"].is_string() && body["title"].is_string());
                    assert!(body["detail"].is_string());
                    assert_eq!(
                        header(&response, "content-type"),
                        Some("application/problem+json")
                    );
                }
                Shape::Nested => {
                    let code = body["error"]["code"].as_str().unwrap();
                    assert_eq!(code, refusal.code().to_uppercase());
                    assert!(body["error"]["message"].is_string());
                    assert_eq!(header(&response, "content-type"), Some("application/json"));
                }
                Shape::Flat => {
                    assert!(body["error"].is_string());
                    assert_eq!(header(&response, "content-type"), Some("application/json"));
                }
            }
        }
    }
}

// FM7: over HTTP/1.1 a refusal's lines say what the map does over HTTP/2.
#[test]
fn lines_say_what_a_map_says() {
    let shapes = [Shape::Problem, Shape::Nested, Shape::Flat];
    let urls = [None, Some("https://api.test/.well-known/x")];
    for (shape, metadata) in shapes
        .into_iter()
        .flat_map(|shape| urls.map(|url| (shape, url)))
    {
        for (refusal, id) in Refusal::examples()
            .iter()
            .flat_map(|refusal| [ID, "", "é", "a\r\nx: y"].map(|id| (refusal, id)))
        {
            let style = Style {
                metadata,
                ..style(shape, true)
            };
            let map = refusal.render(&style, id, false);
            let mut lines = Vec::new();
            assert_eq!(refusal.write_head(&style, id, &mut lines), map.status());
            let lines = String::from_utf8(lines).unwrap();
            let mut told: Vec<&str> = lines.split_terminator("\r\n").collect();
            let mut expected: Vec<String> = (map.headers().iter())
                .filter(|(name, _)| *name != header::CONTENT_LENGTH)
                .map(|(name, value)| {
                    format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
                })
                .collect();
            told.sort_unstable();
            expected.sort_unstable();
            assert_eq!(told, expected);
            let mut text = Vec::new();
            refusal.write_body(&style, id, &mut text);
            assert_eq!(&text[..], &map.body()[..]);
        }
    }
}

#[test]
fn a_challenge_says_where_metadata_stand() {
    let style = Style {
        metadata: Some("https://api.test/.well-known/x"),
        ..style(Shape::Problem, true)
    };
    let response = scope_missing().render(&style, ID, false);
    assert_eq!(
        header(&response, "www-authenticate"),
        Some(
            r#"Bearer realm="api", error="insufficient_scope", scope="leases:write", resource_metadata="https://api.test/.well-known/x""#
        )
    );
    assert!(
        header(
            &Refusal::NoRoute.render(&style, ID, false),
            "www-authenticate"
        )
        .is_none()
    );
}

#[test]
fn pb12_nested_401_is_exact() {
    for refusal in [
        Refusal::CredentialMissing,
        Refusal::CredentialInvalid,
        Refusal::CredentialAmbiguous,
    ] {
        assert_eq!(
            body_of(&refusal, Shape::Nested, true),
            r#"{"error":{"code":"UNAUTHORIZED","message":"Invalid or expired token"}}"#
        );
    }
}

#[test]
fn pb13_nested_403_is_exact_when_it_names_nothing() {
    let refusal = scope_missing();
    assert_eq!(
        body_of(&refusal, Shape::Nested, false),
        r#"{"error":{"code":"FORBIDDEN","message":"Insufficient permissions"}}"#
    );
    let response = refusal.render(&style(Shape::Nested, false), ID, false);
    assert_eq!(
        header(&response, "www-authenticate"),
        Some(r#"Bearer realm="api", error="insufficient_scope""#)
    );
}

#[test]
fn cw9_flat_401_is_exact() {
    assert_eq!(
        body_of(&Refusal::CredentialInvalid, Shape::Flat, true),
        r#"{"error":"Invalid API key"}"#
    );
}

#[test]
fn fa19_403_names_the_permission_in_every_shape() {
    let refusal = scope_missing();
    let problem: Value = serde_json::from_str(&body_of(&refusal, Shape::Problem, true)).unwrap();
    assert_eq!(problem["required_permission"], "leases:write");
    let nested: Value = serde_json::from_str(&body_of(&refusal, Shape::Nested, true)).unwrap();
    assert_eq!(nested["error"]["required_permission"], "leases:write");
    let flat: Value = serde_json::from_str(&body_of(&refusal, Shape::Flat, true)).unwrap();
    assert_eq!(flat["required_permission"], "leases:write");
    let response = refusal.render(&style(Shape::Problem, true), ID, false);
    assert_eq!(
        header(&response, "www-authenticate"),
        Some(r#"Bearer realm="api", error="insufficient_scope", scope="leases:write""#)
    );
}

#[test]
fn fa27_bad_credentials_cannot_be_told_apart() {
    let style = style(Shape::Problem, true);
    let invalid = Refusal::CredentialInvalid.render(&style, ID, false);
    let ambiguous = Refusal::CredentialAmbiguous.render(&style, ID, false);
    let missing = Refusal::CredentialMissing.render(&style, ID, false);
    assert_eq!(invalid.headers(), ambiguous.headers());
    assert_eq!(invalid.body(), ambiguous.body());
    assert_eq!(invalid.body(), missing.body());
    assert_eq!(
        header(&invalid, "www-authenticate"),
        Some(r#"Bearer realm="api", error="invalid_token""#)
    );
    assert_eq!(
        header(&missing, "www-authenticate"),
        Some(r#"Bearer realm="api""#)
    );
}

#[test]
fn headers_stand_only_where_they_belong() {
    for refusal in Refusal::examples() {
        let response = refusal.render(&style(Shape::Problem, true), ID, false);
        let status = response.status().as_u16();
        let has = |name: &str| response.headers().contains_key(name);
        assert_eq!(has("cache-control"), [401, 403, 429].contains(&status));
        assert_eq!(has("retry-after"), status == 429);
        assert_eq!(has("allow"), status == 405);
        assert_eq!(has("proxy-status"), matches!(refusal, Refusal::Upstream(_)));
        assert_eq!(has("connection"), refusal.closes_connection());
        let challenged = status == 401 || matches!(refusal, Refusal::ScopeMissing(_));
        assert_eq!(has("www-authenticate"), challenged);
    }
}

#[test]
fn plaintext_closes_and_upstream_failures_are_told_apart() {
    let style = style(Shape::Problem, true);
    let plaintext = Refusal::PlaintextRefused.render(&style, ID, false);
    assert_eq!(header(&plaintext, "connection"), Some("close"));
    let refused = Refusal::Upstream(UpstreamFailure::ConnectionRefused).render(&style, ID, false);
    assert_eq!(
        header(&refused, "proxy-status"),
        Some("portcullis; error=connection_refused")
    );
}

#[test]
fn head_keeps_the_length_and_drops_the_body() {
    let style = style(Shape::Flat, true);
    let full = Refusal::NoRoute.render(&style, ID, false);
    let head = Refusal::NoRoute.render(&style, ID, true);
    assert_eq!(full.headers(), head.headers());
    assert!(head.body().is_empty() && !full.body().is_empty());
}

#[test]
fn no_request_id_is_left_out() {
    let response = Refusal::NoRoute.render(&style(Shape::Problem, true), "", false);
    let body: Value = serde_json::from_slice(response.body()).unwrap();
    assert!(body.get("request_id").is_none());
    assert!(!response.headers().contains_key("x-request-id"));
}

#[test]
fn grpc_gets_trailers_only() {
    let style = Style {
        grpc: true,
        ..style(Shape::Problem, true)
    };
    let cases = [
        (Refusal::CredentialInvalid, "16", "Invalid API key"),
        (
            scope_missing(),
            "7",
            "Insufficient permissions: leases:write",
        ),
        (Refusal::NoRoute, "12", "Nothing is served here."),
        (Refusal::BodyTooLarge, "8", "The request body is too large."),
        (
            Refusal::Upstream(UpstreamFailure::ResponseTimeout),
            "4",
            "The service behind the gateway did not answer in time.",
        ),
    ];
    for (refusal, status, message) in cases {
        let response = refusal.render(&style, ID, false);
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.body().is_empty());
        assert_eq!(header(&response, "content-type"), Some("application/grpc"));
        assert_eq!(header(&response, "grpc-status"), Some(status));
        assert_eq!(header(&response, "grpc-message"), Some(message));
    }
    for refusal in Refusal::examples() {
        let response = refusal.render(&style, ID, false);
        // grpc-message is percent-encoded; our texts need none.
        let message = header(&response, "grpc-message").unwrap();
        assert!(!message.contains('%') && message.is_ascii(), "{message}");
    }
}
