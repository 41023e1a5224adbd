//! What goes wrong between the gateway and a backend, and what the client is told of it.

use http::StatusCode;

use crate::refusal::Row;
use crate::refusal::row;

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
    /// 502 `tls_certificate_error`: its certificate is not to be trusted.
    TlsCertificate,
    /// 502 `tls_protocol_error`: no TLS, or none that speaks the protocol wanted.
    TlsProtocol,
}

impl UpstreamFailure {
    /// Every failure, in the order of the enum.
    pub const ALL: [UpstreamFailure; 13] = [
        UpstreamFailure::DnsError,
        UpstreamFailure::DnsTimeout,
        UpstreamFailure::Unavailable,
        UpstreamFailure::ConnectionRefused,
        UpstreamFailure::ConnectionTerminated,
        UpstreamFailure::ConnectionTimeout,
        UpstreamFailure::ConnectionLimit,
        UpstreamFailure::ProtocolError,
        UpstreamFailure::HeadTooLarge,
        UpstreamFailure::ResponseTimeout,
        UpstreamFailure::UpgradeFailed,
        UpstreamFailure::TlsCertificate,
        UpstreamFailure::TlsProtocol,
    ];

    /// The HTTP status: 502, 503 or 504.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            UpstreamFailure::DnsError
            | UpstreamFailure::ConnectionRefused
            | UpstreamFailure::ConnectionTerminated
            | UpstreamFailure::ProtocolError
            | UpstreamFailure::HeadTooLarge
            | UpstreamFailure::UpgradeFailed
            | UpstreamFailure::TlsCertificate
            | UpstreamFailure::TlsProtocol => StatusCode::BAD_GATEWAY,
            UpstreamFailure::Unavailable | UpstreamFailure::ConnectionLimit => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            UpstreamFailure::DnsTimeout
            | UpstreamFailure::ConnectionTimeout
            | UpstreamFailure::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The error type of RFC 9209 section 2.3, as `Proxy-Status` says it.
    #[must_use]
    pub fn error_type(self) -> &'static str {
        match self {
            UpstreamFailure::DnsError => "dns_error",
            UpstreamFailure::DnsTimeout => "dns_timeout",
            UpstreamFailure::Unavailable => "destination_unavailable",
            UpstreamFailure::ConnectionRefused => "connection_refused",
            UpstreamFailure::ConnectionTerminated => "connection_terminated",
            UpstreamFailure::ConnectionTimeout => "connection_timeout",
            UpstreamFailure::ConnectionLimit => "connection_limit_reached",
            UpstreamFailure::ProtocolError => "http_protocol_error",
            UpstreamFailure::HeadTooLarge => "http_response_header_section_size",
            UpstreamFailure::ResponseTimeout => "http_response_timeout",
            UpstreamFailure::UpgradeFailed => "http_upgrade_failed",
            UpstreamFailure::TlsCertificate => "tls_certificate_error",
            UpstreamFailure::TlsProtocol => "tls_protocol_error",
        }
    }

    pub(super) fn row(self) -> Row {
        let status = self.status();
        if status == StatusCode::BAD_GATEWAY {
            row(
                status,
                "bad_gateway",
                "The service behind the gateway failed to answer.",
            )
        } else if status == StatusCode::SERVICE_UNAVAILABLE {
            row(
                status,
                "service_unavailable",
                "The service behind the gateway is not available.",
            )
        } else {
            row(
                status,
                "gateway_timeout",
                "The service behind the gateway did not answer in time.",
            )
            .grpc(4)
        }
    }
}
