//! Writes one refusal as an HTTP answer: headers, and a body in one of three shapes or none for gRPC.

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;

use super::Challenge;
use super::Refusal;
use super::Row;
use super::Shape;
use super::Style;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// See `Refusal::render`.
pub(super) fn build(
    refusal: &Refusal,
    style: &Style<'_>,
    request_id: &str,
    head_only: bool,
) -> Response<Bytes> {
    let row = refusal.row();
    let permission = named_permission(refusal, style);
    let mut response = if style.grpc {
        grpc_response(&row, permission)
    } else {
        http_response(&row, style.shape, request_id, permission, head_only)
    };
    let headers = response.headers_mut();
    set_common_headers(headers, &row, style, permission);
    set_own_header(headers, refusal);
    if !request_id.is_empty() {
        set(headers, REQUEST_ID, request_id);
    }
    response
}

/// The scope that a 403 may name; operators switch that off where it says too much (PB13).
fn named_permission<'a>(refusal: &'a Refusal, style: &Style<'_>) -> Option<&'a str> {
    match refusal {
        Refusal::ScopeMissing(scope) if style.name_permission => Some(scope.as_str()),
        _ => None,
    }
}

fn http_response(
    row: &Row,
    shape: Shape,
    request_id: &str,
    permission: Option<&str>,
    head_only: bool,
) -> Response<Bytes> {
    let body = body(row, shape, request_id, permission);
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(if head_only { Bytes::new() } else { body });
    *response.status_mut() = row.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type(shape));
    headers.insert(header::CONTENT_LENGTH, length);
    response
}

/// A gRPC client reads the outcome from trailers; with no message before them they stand in the one header block.
fn grpc_response(row: &Row, permission: Option<&str>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let kind = HeaderValue::from_static("application/grpc");
    *response.headers_mut() = grpc_trailers(row, permission);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// What a gRPC client is told of the outcome.
pub(super) fn grpc_trailers(row: &Row, permission: Option<&str>) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(row.grpc)));
    match permission {
        Some(permission) => set(
            &mut trailers,
            GRPC_MESSAGE,
            &format!("{}: {permission}", row.detail),
        ),
        None => set(&mut trailers, GRPC_MESSAGE, row.detail),
    }
    trailers
}

fn content_type(shape: Shape) -> HeaderValue {
    match shape {
        Shape::Problem => HeaderValue::from_static("application/problem+json"),
        Shape::Nested | Shape::Flat => HeaderValue::from_static("application/json"),
    }
}

/// Written by hand, since strangers ask for most of these: ours are plain texts without anything to escape, and only what is not ours is judged.
fn body(row: &Row, shape: Shape, request_id: &str, required_permission: Option<&str>) -> Bytes {
    let mut text = String::with_capacity(BODY_BYTES);
    match shape {
        // RFC 9457. With the type `about:blank` the title is the status phrase.
        Shape::Problem => {
            text.push_str("{\"type\":\"");
            text.push_str(problem_type(row));
            member(&mut text, "title", title(row));
            text.push_str("\",\"status\":");
            text.push_str(row.status.as_str());
            text.push_str(",\"detail\":\"");
            text.push_str(row.detail);
            member(&mut text, "code", row.code);
            text.push('"');
            if !request_id.is_empty() {
                text.push_str(",\"request_id\":");
                foreign(&mut text, request_id);
            }
        }
        // PB12, PB13.
        Shape::Nested => {
            text.push_str("{\"error\":{\"code\":\"");
            text.extend(row.code.chars().map(|letter| letter.to_ascii_uppercase()));
            member(&mut text, "message", nested_message(row));
            text.push('"');
        }
        // CW9.
        Shape::Flat => {
            text.push_str("{\"error\":\"");
            text.push_str(row.detail);
            text.push('"');
        }
    }
    if let Some(permission) = required_permission {
        text.push_str(",\"required_permission\":");
        foreign(&mut text, permission);
    }
    text.push_str(if shape == Shape::Nested { "}}" } else { "}" });
    Bytes::from(text)
}

/// The end of a text, and one more member whose text is ours.
fn member(text: &mut String, name: &str, value: &str) {
    for part in ["\",\"", name, "\":\"", value] {
        text.push_str(part);
    }
}

/// A text that may hold anything.
fn foreign(text: &mut String, value: &str) {
    // All bytes are looked at, since the processor does that many at a time.
    let is_odd = |byte: u8| !(b' '..=b'~').contains(&byte) | (byte == b'"') | (byte == b'\\');
    if !value.bytes().fold(false, |any, byte| any | is_odd(byte)) {
        text.push('"');
        text.push_str(value);
        text.push('"');
    } else {
        text.push_str(&serde_json::Value::from(value).to_string());
    }
}

/// PB12 promises this sentence where CW9 promises the other.
fn nested_message(row: &Row) -> &'static str {
    match row.status {
        StatusCode::UNAUTHORIZED => "Invalid or expired token",
        _ => row.detail,
    }
}

fn problem_type(row: &Row) -> &'static str {
    match row.status {
        StatusCode::TOO_MANY_REQUESTS => {
            "https://iana.org/assignments/http-problem-types#quota-exceeded"
        }
        _ => "about:blank",
    }
}

/// The phrases of RFC 9110 where they are newer than those of the `http` crate, and the IANA title of the quota type.
fn title(row: &Row) -> &'static str {
    match row.status {
        StatusCode::TOO_MANY_REQUESTS => {
            "Request cannot be satisfied as assigned quota has been exceeded"
        }
        StatusCode::PAYLOAD_TOO_LARGE => "Content Too Large",
        status => status.canonical_reason().unwrap_or("Error"),
    }
}

fn set_common_headers(
    headers: &mut HeaderMap,
    row: &Row,
    style: &Style<'_>,
    permission: Option<&str>,
) {
    // RFC 6585 section 4 forbids caching 429; a cached 401 or 403 would outlive the key's repair.
    if [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::TOO_MANY_REQUESTS,
    ]
    .contains(&row.status)
    {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Some(challenge) = row.challenge {
        let text = challenge_text(challenge, style.realm, permission);
        set(headers, header::WWW_AUTHENTICATE, &text);
    }
    if row.closes {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

fn challenge_text(challenge: Challenge, realm: &str, permission: Option<&str>) -> String {
    let mut text = String::with_capacity(CHALLENGE_BYTES);
    for part in ["Bearer realm=\"", realm, "\""] {
        text.push_str(part);
    }
    text.push_str(match challenge {
        Challenge::Bare => "",
        Challenge::InvalidToken => ", error=\"invalid_token\"",
        Challenge::InsufficientScope => ", error=\"insufficient_scope\"",
    });
    if let (Challenge::InsufficientScope, Some(scope)) = (challenge, permission) {
        for part in [", scope=\"", scope, "\""] {
            text.push_str(part);
        }
    }
    text
}

/// The header that only this one refusal has.
fn set_own_header(headers: &mut HeaderMap, refusal: &Refusal) {
    match refusal {
        Refusal::MethodNotAllowed(methods) => set(headers, header::ALLOW, methods),
        Refusal::LimitExceeded {
            retry_after_seconds,
        } => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_seconds));
        }
        Refusal::Upstream(failure) => {
            let text = format!("portcullis; error={}", failure.error_type());
            set(headers, PROXY_STATUS, &text);
        }
        Refusal::BadRequest(_)
        | Refusal::TlsExpected
        | Refusal::CredentialMissing
        | Refusal::CredentialInvalid
        | Refusal::CredentialAmbiguous
        | Refusal::PlaintextRefused
        | Refusal::TenantSuspended
        | Refusal::PlanWithoutApi
        | Refusal::OriginNotAllowed
        | Refusal::AddressNotAllowed
        | Refusal::ScopeMissing(_)
        | Refusal::NotYours
        | Refusal::NoRoute
        | Refusal::RequestTimeout
        | Refusal::BodyTooLarge
        | Refusal::TargetTooLong
        | Refusal::UnsupportedType
        | Refusal::Misdirected
        | Refusal::HeadTooLarge
        | Refusal::UnknownTransferCoding
        | Refusal::Overloaded
        | Refusal::NotRecorded
        | Refusal::CredentialUnclear
        | Refusal::Internal => {}
    }
}

/// Leaves the header out when the text cannot stand in one; configuration and scopes are checked, so that is never.
fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// Room for most bodies.
const BODY_BYTES: usize = 384;
/// Room for most challenges.
const CHALLENGE_BYTES: usize = 128;

#[cfg(test)]
mod tests {
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
        let problem: Value =
            serde_json::from_str(&body_of(&refusal, Shape::Problem, true)).unwrap();
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
        let refused =
            Refusal::Upstream(UpstreamFailure::ConnectionRefused).render(&style, ID, false);
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
}
