//! One JSON line per request, written by a thread of its own; never a secret, never a query string.
//!
//! `line` writes a line, `writer` brings lines to the file.

mod line;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod writer;

pub(crate) use line::write_address;
pub use writer::Sink;
pub use writer::Target;
pub use writer::Writer;

use crate::model::key::KeyId;
use crate::model::request_id::RequestId;
use crate::model::tenant::TenantId;
use std::net::IpAddr;

/// What happened to one request. Empty texts are left out of the line.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// End of the request, microseconds since the Unix epoch.
    pub unix_micros: u64,
    /// The id that the client got in `X-Request-Id`.
    pub request_id: &'a RequestId,
    /// The client's address.
    pub client: IpAddr,
    /// Request method.
    pub method: &'a str,
    /// Host asked for.
    pub host: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// `1.0`, `1.1` or `2`.
    pub protocol: &'static str,
    /// Status sent.
    pub status: u16,
    /// `forwarded`, `refused`, `failed` or `preflight`.
    pub decision: &'static str,
    /// Why it was refused or how it failed, one word.
    pub reason: &'static str,
    /// Why it would have been refused by a rule that is only observed, one word.
    pub would_refuse: &'static str,
    /// The route's pattern.
    pub route: &'a str,
    /// The tenant's id.
    pub tenant: Option<&'a TenantId>,
    /// The key's public id.
    pub key_id: Option<&'a KeyId>,
    /// The token, where it was no key.
    pub token: Option<TokenEntry<'a>>,
    /// The upstream's name.
    pub upstream: &'a str,
    /// The server of the upstream, `host:port`.
    pub server: &'a str,
    /// What went wrong upstream, for people.
    pub detail: &'a str,
    /// Bytes of the request body that were passed on.
    pub request_bytes: u64,
    /// Bytes of the answer body that were sent.
    pub response_bytes: u64,
    /// From the end of the request head to the end of the answer.
    pub total_micros: u64,
    /// From there to the head of the backend's answer; 0 when none was asked.
    pub upstream_micros: u64,
    /// `complete`, `client_left`, `client_failed`, `upstream_cut`, `timed_out` or `revoked`.
    pub end: &'static str,
}

/// Who came with a token: what an operator can deny. Never the token itself.
#[derive(Clone, Copy, Debug)]
pub struct TokenEntry<'a> {
    /// `jwt`, `opaque` or `session`.
    pub kind: &'a str,
    /// Who issued it.
    pub issuer: &'a str,
    /// The end user.
    pub subject: &'a str,
    /// The client.
    pub client: &'a str,
    /// Its own id.
    pub jti: &'a str,
}
