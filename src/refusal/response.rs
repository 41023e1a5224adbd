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
    set_request_id(headers, request_id);
    response
}

/// See `Refusal::write_head`.
pub(super) fn write_head(
    refusal: &Refusal,
    style: &Style<'_>,
    request_id: &str,
    out: &mut Vec<u8>,
) -> StatusCode {
    let row = refusal.row();
    let permission = named_permission(refusal, style);
    out.fixed(header::CONTENT_TYPE, content_type(style.shape));
    set_common_headers(out, &row, style, permission);
    set_own_header(out, refusal);
    set_request_id(out, request_id);
    row.status
}

/// See `Refusal::write_body`.
pub(super) fn write_body(
    refusal: &Refusal,
    style: &Style<'_>,
    request_id: &str,
    out: &mut Vec<u8>,
) {
    let permission = named_permission(refusal, style);
    body(&refusal.row(), style.shape, request_id, permission, out);
}

/// Where the fields of a refusal go: into a map, or as lines to whoever writes them as they are.
trait Fields {
    /// A value of ours that any field may have.
    fn fixed(&mut self, name: HeaderName, value: &'static str);

    /// A value in parts, left out when it cannot stand in a field; configuration and scopes are checked, so that is never.
    fn text(&mut self, name: HeaderName, parts: &[&str]);
}

impl Fields for HeaderMap {
    fn fixed(&mut self, name: HeaderName, value: &'static str) {
        self.insert(name, HeaderValue::from_static(value));
    }

    fn text(&mut self, name: HeaderName, parts: &[&str]) {
        let value = match parts {
            [whole] => HeaderValue::from_str(whole),
            parts => HeaderValue::from_str(&parts.concat()),
        };
        if let Ok(value) = value {
            self.insert(name, value);
        }
    }
}

impl Fields for Vec<u8> {
    fn fixed(&mut self, name: HeaderName, value: &'static str) {
        for part in [name.as_str(), ": ", value, "\r\n"] {
            put(self, part);
        }
    }

    fn text(&mut self, name: HeaderName, parts: &[&str]) {
        let start = self.len();
        put(self, name.as_str());
        put(self, ": ");
        let value = self.len();
        for part in parts.iter().filter(|part| !part.is_empty()) {
            put(self, part);
        }
        // What the map refuses, too, above all a line that ends early. All bytes are looked at, since the processor does that many at a time.
        let is_odd = |byte: &u8| (*byte < b' ') & (*byte != b'\t') | (*byte == DELETE);
        match (self[value..].iter()).fold(false, |any, byte| any | is_odd(byte)) {
            true => self.truncate(start),
            false => put(self, "\r\n"),
        }
    }
}

fn set_request_id(fields: &mut impl Fields, request_id: &str) {
    if !request_id.is_empty() {
        fields.text(REQUEST_ID, &[request_id]);
    }
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
    let mut text = Vec::with_capacity(BODY_BYTES);
    body(row, shape, request_id, permission, &mut text);
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(if head_only {
        Bytes::new()
    } else {
        Bytes::from(text)
    });
    *response.status_mut() = row.status;
    let headers = response.headers_mut();
    // At once, and not as it grows.
    headers.reserve(FIELDS);
    headers.fixed(header::CONTENT_TYPE, content_type(shape));
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
        Some(permission) => trailers.text(GRPC_MESSAGE, &[row.detail, ": ", permission]),
        None => trailers.fixed(GRPC_MESSAGE, row.detail),
    }
    trailers
}

fn content_type(shape: Shape) -> &'static str {
    match shape {
        Shape::Problem => "application/problem+json",
        Shape::Nested | Shape::Flat => "application/json",
    }
}

/// Written by hand, since strangers ask for most of these: ours are plain texts without anything to escape, and only what is not ours is judged.
fn body(
    row: &Row,
    shape: Shape,
    request_id: &str,
    required_permission: Option<&str>,
    out: &mut Vec<u8>,
) {
    match shape {
        // RFC 9457. With the type `about:blank` the title is the status phrase.
        Shape::Problem => {
            put(out, "{\"type\":\"");
            put(out, problem_type(row));
            member(out, "title", title(row));
            put(out, "\",\"status\":");
            put(out, row.status.as_str());
            put(out, ",\"detail\":\"");
            put(out, row.detail);
            member(out, "code", row.code);
            put(out, "\"");
            if !request_id.is_empty() {
                put(out, ",\"request_id\":");
                foreign(out, request_id);
            }
        }
        // PB12, PB13.
        Shape::Nested => {
            put(out, "{\"error\":{\"code\":\"");
            out.extend(row.code.bytes().map(|letter| letter.to_ascii_uppercase()));
            member(out, "message", nested_message(row));
            put(out, "\"");
        }
        // CW9.
        Shape::Flat => {
            put(out, "{\"error\":\"");
            put(out, row.detail);
            put(out, "\"");
        }
    }
    if let Some(permission) = required_permission {
        put(out, ",\"required_permission\":");
        foreign(out, permission);
    }
    put(out, if shape == Shape::Nested { "}}" } else { "}" });
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// The end of a text, and one more member whose text is ours.
fn member(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in ["\",\"", name, "\":\"", value] {
        put(out, part);
    }
}

/// A text that may hold anything.
fn foreign(out: &mut Vec<u8>, value: &str) {
    // All bytes are looked at, since the processor does that many at a time.
    let is_odd = |byte: u8| !(b' '..=b'~').contains(&byte) | (byte == b'"') | (byte == b'\\');
    if !value.bytes().fold(false, |any, byte| any | is_odd(byte)) {
        for part in ["\"", value, "\""] {
            put(out, part);
        }
    } else {
        put(out, &serde_json::Value::from(value).to_string());
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
    fields: &mut impl Fields,
    row: &Row,
    style: &Style<'_>,
    permission: Option<&str>,
) {
    if row.is_never_kept() {
        fields.fixed(header::CACHE_CONTROL, "no-store");
    }
    if let Some(challenge) = row.challenge {
        set_challenge(fields, challenge, style, permission);
    }
    if row.closes {
        fields.fixed(header::CONNECTION, "close");
    }
}

fn set_challenge(
    fields: &mut impl Fields,
    challenge: Challenge,
    style: &Style<'_>,
    permission: Option<&str>,
) {
    let error = match challenge {
        Challenge::Bare => "",
        Challenge::InvalidToken => ", error=\"invalid_token\"",
        Challenge::InsufficientScope => ", error=\"insufficient_scope\"",
    };
    let [scope_is, scope, scope_ends] = match (challenge, permission) {
        (Challenge::InsufficientScope, Some(scope)) => [", scope=\"", scope, "\""],
        _ => [""; 3],
    };
    // RFC 9728 section 5.1; nothing in the address can end the quotes.
    let [url_is, url, url_ends] = match style.metadata {
        Some(url) => [", resource_metadata=\"", url, "\""],
        None => [""; 3],
    };
    let parts = [
        "Bearer realm=\"",
        style.realm,
        "\"",
        error,
        scope_is,
        scope,
        scope_ends,
        url_is,
        url,
        url_ends,
    ];
    fields.text(header::WWW_AUTHENTICATE, &parts);
}

/// The header that only this one refusal has.
fn set_own_header(fields: &mut impl Fields, refusal: &Refusal) {
    match refusal {
        Refusal::MethodNotAllowed(methods) => fields.text(header::ALLOW, &[methods]),
        Refusal::LimitExceeded {
            retry_after_seconds,
        } => {
            let mut digits = itoa::Buffer::new();
            fields.text(header::RETRY_AFTER, &[digits.format(*retry_after_seconds)]);
        }
        Refusal::Upstream(failure) => {
            fields.text(PROXY_STATUS, &["portcullis; error=", failure.error_type()]);
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

/// Room for the fields of most answers.
const FIELDS: usize = 12;
const DELETE: u8 = 0x7f;
/// Room for most bodies.
const BODY_BYTES: usize = 384;
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
