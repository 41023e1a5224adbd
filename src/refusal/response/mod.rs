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
mod tests;
