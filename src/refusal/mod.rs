//! Every response that the gateway writes itself: variant to status, code, headers and text.

mod response;
mod upstream;

use bytes::Bytes;
use http::HeaderMap;
use http::Response;
use http::StatusCode;

use crate::model::scope::Scope;

pub use upstream::UpstreamFailure;

/// Why the gateway answers instead of the backend. One variant for each promise that a client can tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400: the request is ambiguous or malformed; the text says what (never a value that the client sent).
    BadRequest(&'static str),
    /// 400 in clear on a TLS port (S25).
    TlsExpected,
    /// 401 with the bare challenge: nothing was presented.
    CredentialMissing,
    /// 401 `invalid_token`: whatever was presented does not stand. One answer for unknown, malformed, expired, revoked, inactive, wrong environment.
    CredentialInvalid,
    /// 401 `invalid_token` too: more than one credential, and they differ.
    CredentialAmbiguous,
    /// 503: whether the credential stands cannot be said at the moment, since its issuer does not answer (PB14).
    CredentialUnclear,
    /// 403 on the plain-HTTP listener.
    PlaintextRefused,
    /// 403: the tenant is suspended.
    TenantSuspended,
    /// 403: the plan has no API access (CW3).
    PlanWithoutApi,
    /// 403: this key may not be used from the web page that sends it (FF2), or from none (FF20).
    OriginNotAllowed,
    /// 403: this key may not be used from the address that sends it.
    AddressNotAllowed,
    /// 403: the key lacks this scope (FA19).
    ScopeMissing(Scope),
    /// 403: what is asked for belongs to another tenant, where that is not to look missing (C-15).
    NotYours,
    /// 404: no route.
    NoRoute,
    /// 405 with `Allow`: a route, but not by this method.
    MethodNotAllowed(String),
    /// 408: the client did not finish its request in time.
    RequestTimeout,
    /// 413: the body is larger than the route allows.
    BodyTooLarge,
    /// 414: the target is too long.
    TargetTooLong,
    /// 415: a body of a type that the route does not take.
    UnsupportedType,
    /// 421: the host is not served on this connection.
    Misdirected,
    /// 429 with `Retry-After` in seconds.
    LimitExceeded {
        /// Seconds after which the same request succeeds; at least 1.
        retry_after_seconds: u32,
    },
    /// 431: the head is too large.
    HeadTooLarge,
    /// 501: a transfer coding other than `chunked`.
    UnknownTransferCoding,
    /// 502, 503 or 504: the backend failed in this way (RFC 9209 error type in `Proxy-Status`).
    Upstream(UpstreamFailure),
    /// 503: the gateway is at its connection or request cap.
    Overloaded,
    /// 503: what the request was charged could not be written, and `store.durability` is `"strict"`.
    NotRecorded,
    /// 500: a bug of ours, contained.
    Internal,
}

/// The three body shapes of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// RFC 9457 problem details.
    Problem,
    /// `{"error":{"code":…,"message":…}}` (PB12, PB13).
    Nested,
    /// `{"error":"…"}` (CW9).
    Flat,
}

/// How one answer is to be written: the configuration of its host, and whether a gRPC client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style<'a> {
    /// Body shape.
    pub shape: Shape,
    /// Whether 403 names the missing permission (FA19; PB13 wants it off).
    pub name_permission: bool,
    /// `realm` of `WWW-Authenticate`: printable ASCII without quotes and backslashes.
    pub realm: &'a str,
    /// Whether the request had a gRPC content type: then the answer is status 200 and trailers only, whatever the shape.
    pub grpc: bool,
    /// Where a client learns whose token it needs here (RFC 9728); every challenge says it.
    pub metadata: Option<&'a str>,
}

/// What a refusal says, whatever the shape of its body.
struct Row {
    status: StatusCode,
    /// Stable word for programs.
    code: &'static str,
    /// One sentence for people; says no more than the client may know.
    detail: &'static str,
    /// gRPC status code.
    grpc: u8,
    challenge: Option<Challenge>,
    /// The connection cannot be used again: its framing is in doubt, its body was not read, or it is not encrypted (S5).
    closes: bool,
}

/// What `WWW-Authenticate` says, RFC 6750 section 3.
#[derive(Clone, Copy)]
enum Challenge {
    /// Nothing was presented.
    Bare,
    /// The same words for every credential that does not stand (FA27).
    InvalidToken,
    InsufficientScope,
}

impl Refusal {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.row().status
    }

    /// The stable word that programs may compare; the `nested` shape writes it in capitals. One word for every 401 (FA27).
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.row().code
    }

    /// The sentence for people.
    #[must_use]
    pub fn detail(&self) -> &'static str {
        self.row().detail
    }

    /// Whether the answer says `Connection: close`.
    #[must_use]
    pub fn closes_connection(&self) -> bool {
        self.row().closes
    }

    /// The whole answer but for rate-limit headers and `Strict-Transport-Security`. `request_id` goes into `X-Request-Id` and
    /// the `problem` body; an empty one is left out. `head_only` keeps `Content-Length` and drops the body, for HEAD.
    #[must_use]
    pub fn render(&self, style: &Style<'_>, request_id: &str, head_only: bool) -> Response<Bytes> {
        response::build(self, style, request_id, head_only)
    }

    /// Writes the fields of the same answer as lines behind what `out` holds, but for its length; not for gRPC. Says its status.
    pub fn write_head(&self, style: &Style<'_>, request_id: &str, out: &mut Vec<u8>) -> StatusCode {
        response::write_head(self, style, request_id, out)
    }

    /// Writes its body behind what `out` holds.
    pub fn write_body(&self, style: &Style<'_>, request_id: &str, out: &mut Vec<u8>) {
        response::write_body(self, style, request_id, out);
    }

    /// Whether no cache may keep the answer. RFC 6585 section 4 says it of 429; a 401 or 403 that is kept would outlive the key's repair.
    #[must_use]
    pub fn is_never_kept(&self) -> bool {
        self.row().is_never_kept()
    }

    /// The same for a gRPC client whose answer has begun: it ends with these trailers.
    #[must_use]
    pub fn grpc_trailers(&self) -> HeaderMap {
        response::grpc_trailers(&self.row(), None)
    }

    /// One refusal of each kind, in the order of their statuses.
    #[must_use]
    pub fn examples() -> Vec<Refusal> {
        let mut all = vec![
            Refusal::BadRequest("The request is malformed or ambiguous."),
            Refusal::TlsExpected,
            Refusal::CredentialMissing,
            Refusal::CredentialInvalid,
            Refusal::CredentialAmbiguous,
            Refusal::PlaintextRefused,
            Refusal::TenantSuspended,
            Refusal::PlanWithoutApi,
            Refusal::OriginNotAllowed,
            Refusal::AddressNotAllowed,
        ];
        all.extend(Scope::new("leases:write").map(Refusal::ScopeMissing));
        all.extend([
            Refusal::NotYours,
            Refusal::NoRoute,
            Refusal::MethodNotAllowed("GET, HEAD".to_owned()),
            Refusal::RequestTimeout,
            Refusal::BodyTooLarge,
            Refusal::TargetTooLong,
            Refusal::UnsupportedType,
            Refusal::Misdirected,
            Refusal::LimitExceeded {
                retry_after_seconds: 7,
            },
            Refusal::HeadTooLarge,
            Refusal::Internal,
            Refusal::UnknownTransferCoding,
        ]);
        all.extend(UpstreamFailure::ALL.map(Refusal::Upstream));
        all.extend([
            Refusal::CredentialUnclear,
            Refusal::Overloaded,
            Refusal::NotRecorded,
        ]);
        all
    }

    /// All that a client can be told as a Markdown table, for README; refusals that look alike to it are one line.
    #[must_use]
    pub fn table() -> String {
        let mut lines: Vec<String> = Vec::new();
        for refusal in Refusal::examples() {
            let (status, code) = (refusal.status().as_u16(), refusal.code());
            let line = format!("| {status} | `{code}` | {} |\n", refusal.detail());
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        format!(
            "| status | code | detail |\n| --- | --- | --- |\n{}",
            lines.concat()
        )
    }

    fn row(&self) -> Row {
        match self {
            Refusal::BadRequest(detail) => row(StatusCode::BAD_REQUEST, "bad_request", detail)
                .grpc(13)
                .closing(),
            Refusal::TlsExpected => {
                row(StatusCode::BAD_REQUEST, "https_required", TLS_EXPECTED).closing()
            }
            Refusal::CredentialMissing => unauthorized().challenge(Challenge::Bare),
            Refusal::CredentialInvalid | Refusal::CredentialAmbiguous => unauthorized(),
            Refusal::CredentialUnclear => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "credential_unclear",
                "The credential cannot be checked at the moment.",
            ),
            Refusal::PlaintextRefused => forbidden("https_required", PLAINTEXT).closing(),
            Refusal::TenantSuspended => forbidden("account_suspended", "The account is suspended."),
            Refusal::PlanWithoutApi => {
                forbidden("plan_without_api", "The plan does not include API access.")
            }
            Refusal::OriginNotAllowed => forbidden(
                "origin_not_allowed",
                "This key may not be used from this web page.",
            ),
            Refusal::AddressNotAllowed => forbidden(
                "address_not_allowed",
                "This key may not be used from this address.",
            ),
            Refusal::ScopeMissing(_) => forbidden("forbidden", "Insufficient permissions")
                .challenge(Challenge::InsufficientScope),
            Refusal::NotYours => forbidden("forbidden", "Insufficient permissions"),
            Refusal::NoRoute => row(
                StatusCode::NOT_FOUND,
                "not_found",
                "Nothing is served here.",
            )
            .grpc(12),
            Refusal::MethodNotAllowed(_) => row(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "This method is not served here.",
            )
            .grpc(12),
            Refusal::RequestTimeout => row(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "The request did not arrive in time.",
            )
            .grpc(4)
            .closing(),
            Refusal::BodyTooLarge => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                "content_too_large",
                "The request body is too large.",
            )
            .grpc(8)
            .closing(),
            Refusal::TargetTooLong => row(
                StatusCode::URI_TOO_LONG,
                "uri_too_long",
                "The request target is too long.",
            )
            .grpc(13),
            Refusal::UnsupportedType => row(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "A request body of this type, or compressed like this, is not taken here.",
            )
            .grpc(13),
            Refusal::Misdirected => row(
                StatusCode::MISDIRECTED_REQUEST,
                "misdirected_request",
                "This host is not served on this connection.",
            ),
            Refusal::LimitExceeded { .. } => row(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_exceeded",
                "Too many requests.",
            )
            .grpc(8),
            Refusal::HeadTooLarge => row(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "header_fields_too_large",
                "The header fields are too large or too many.",
            )
            .grpc(13)
            .closing(),
            Refusal::UnknownTransferCoding => row(
                StatusCode::NOT_IMPLEMENTED,
                "not_implemented",
                "The only transfer coding understood is chunked.",
            )
            .grpc(12)
            .closing(),
            Refusal::Upstream(failure) => failure.row(),
            Refusal::Overloaded => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "The gateway is at its capacity.",
            ),
            Refusal::NotRecorded => row(
                StatusCode::SERVICE_UNAVAILABLE,
                "not_recorded",
                "The gateway cannot record requests at the moment.",
            ),
            Refusal::Internal => row(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "The gateway failed to handle this request.",
            )
            .grpc(13),
        }
    }
}

const PLAINTEXT: &str = "This API is served over HTTPS only. A key that was sent in clear is no longer secret and should be replaced.";
const TLS_EXPECTED: &str = "This port speaks HTTPS; use an https:// URL.";

/// gRPC status 14 (unavailable) unless said otherwise.
fn row(status: StatusCode, code: &'static str, detail: &'static str) -> Row {
    Row {
        status,
        code,
        detail,
        grpc: 14,
        challenge: None,
        closes: false,
    }
}

fn unauthorized() -> Row {
    row(StatusCode::UNAUTHORIZED, "unauthorized", "Invalid API key")
        .grpc(16)
        .challenge(Challenge::InvalidToken)
}

fn forbidden(code: &'static str, detail: &'static str) -> Row {
    row(StatusCode::FORBIDDEN, code, detail).grpc(7)
}

impl Row {
    fn is_never_kept(&self) -> bool {
        matches!(
            self.status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
        )
    }

    fn grpc(self, grpc: u8) -> Row {
        Row { grpc, ..self }
    }

    fn challenge(self, challenge: Challenge) -> Row {
        Row {
            challenge: Some(challenge),
            ..self
        }
    }

    fn closing(self) -> Row {
        Row {
            closes: true,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grows with the enum: a new variant does not compile here until it has a number, and fails below until `examples` has it.
    fn number(refusal: &Refusal) -> usize {
        match refusal {
            Refusal::BadRequest(_) => 0,
            Refusal::CredentialMissing => 1,
            Refusal::CredentialInvalid => 2,
            Refusal::CredentialAmbiguous => 3,
            Refusal::PlaintextRefused => 4,
            Refusal::TenantSuspended => 5,
            Refusal::PlanWithoutApi => 6,
            Refusal::ScopeMissing(_) => 7,
            Refusal::NotYours => 23,
            Refusal::NoRoute => 8,
            Refusal::MethodNotAllowed(_) => 9,
            Refusal::RequestTimeout => 10,
            Refusal::BodyTooLarge => 11,
            Refusal::TargetTooLong => 12,
            Refusal::Misdirected => 13,
            Refusal::LimitExceeded { .. } => 14,
            Refusal::HeadTooLarge => 15,
            Refusal::UnknownTransferCoding => 16,
            Refusal::Upstream(_) => 17,
            Refusal::Overloaded => 18,
            Refusal::Internal => 19,
            Refusal::TlsExpected => 20,
            Refusal::OriginNotAllowed => 21,
            Refusal::AddressNotAllowed => 22,
            Refusal::NotRecorded => 23,
            Refusal::UnsupportedType => 24,
            Refusal::CredentialUnclear => 25,
        }
    }

    #[test]
    fn examples_hold_every_variant() {
        let mut numbers: Vec<usize> = Refusal::examples().iter().map(number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, (0..26).collect::<Vec<_>>());
    }

    #[test]
    fn statuses_are_those_of_the_contract() {
        let cases = [
            (Refusal::CredentialAmbiguous, 401, "unauthorized"),
            (Refusal::PlaintextRefused, 403, "https_required"),
            (Refusal::NotYours, 403, "forbidden"),
            (Refusal::NoRoute, 404, "not_found"),
            (Refusal::Misdirected, 421, "misdirected_request"),
            (Refusal::UnknownTransferCoding, 501, "not_implemented"),
            (
                Refusal::Upstream(UpstreamFailure::ConnectionRefused),
                502,
                "bad_gateway",
            ),
            (
                Refusal::Upstream(UpstreamFailure::ConnectionLimit),
                503,
                "service_unavailable",
            ),
            (
                Refusal::Upstream(UpstreamFailure::ResponseTimeout),
                504,
                "gateway_timeout",
            ),
        ];
        for (refusal, status, code) in cases {
            assert_eq!(refusal.status().as_u16(), status);
            assert_eq!(refusal.code(), code);
        }
    }

    #[test]
    fn the_table_has_every_refusal_once() {
        let table = Refusal::table();
        for refusal in Refusal::examples() {
            let told = (refusal.status().as_u16(), refusal.code(), refusal.detail());
            let line = format!("| {} | `{}` | {} |\n", told.0, told.1, told.2);
            assert_eq!(table.matches(&line).count(), 1, "{line}");
        }
    }
}
