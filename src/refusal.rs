//! Every response that the gateway writes itself: variant to status, code, headers and text.

/// Why the gateway answers instead of the backend. One variant for each promise that a client can tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400: the request is ambiguous or malformed; the text says what (never a value that the client sent).
    BadRequest(&'static str),
    /// 401 with the bare challenge: nothing was presented.
    CredentialMissing,
    /// 401 `invalid_token`: whatever was presented does not stand. One answer for unknown, malformed, expired, revoked, inactive, wrong environment.
    CredentialInvalid,
    /// 401 `invalid_token` too: more than one credential, and they differ.
    CredentialAmbiguous,
    /// 403 on the plain-HTTP listener.
    PlaintextRefused,
    /// 403: the tenant is suspended.
    TenantSuspended,
    /// 403: the plan has no API access (CW3).
    PlanWithoutApi,
    /// 403: the key lacks this scope (FA19).
    ScopeMissing(crate::model::scope::Scope),
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
    /// 500: a bug of ours, contained.
    Internal,
}

/// How a backend failed, in the words of RFC 9209 section 2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamFailure {
    /// 502 `dns_error`.
    DnsError,
    /// 504 `dns_timeout`.
    DnsTimeout,
    /// 503 `destination_unavailable`: every server is out.
    Unavailable,
    /// 502 `connection_refused`.
    ConnectionRefused,
    /// 502 `connection_terminated`: closed before a whole answer head.
    ConnectionTerminated,
    /// 504 `connection_timeout`.
    ConnectionTimeout,
    /// 503 `connection_limit_reached`.
    ConnectionLimit,
    /// 502 `http_protocol_error`: the answer is not HTTP.
    ProtocolError,
    /// 502 `http_response_header_section_size`.
    HeadTooLarge,
    /// 504 `http_response_timeout`: no answer head in time.
    ResponseTimeout,
    /// 502 `http_upgrade_failed`: a 101 that nobody asked for.
    UpgradeFailed,
}
