//! The head of an admitted request made fit for a backend: first all out that a client may not say, then ours in, last of all.

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Uri;
use http::Version;
use http::header;
use http::request;

use crate::access_log::write_address;
use crate::config::Config;
use crate::config::Headers;
use crate::gate::Admission;
use crate::gate::Peer;
use crate::model::request_id::RequestId;
use crate::upstream::headers::names::remove_forbidden;

/// Makes the head of an admitted request fit for a backend: everything out that a client may not say (DESIGN section 3, step 7; S8 to S11, S19).
/// What the gateway says is `Own`, last of all; `Host` is set for each server by the caller, framing by `frame`.
pub(crate) fn clear(head: &mut request::Parts, admission: &Admission) {
    // The path that was decided on and no other, the query untouched, never an authority (S17, S18).
    head.uri = Uri::from(admission.target().clone());
    let config = &admission.snapshot().config;
    let left = remove_forbidden(&mut head.headers, &config.headers);
    // On a public route that passes it on, the gate has left it only where it is no key's.
    let passes = admission.principal().is_none() && admission.route().pass_authorization;
    if !passes && left.authorization {
        remove_credentials(&mut head.headers, config);
    }
    if left.cookies {
        join_cookies(&mut head.headers);
    }
    // The backend is spoken to in HTTP/1.1 whatever the client spoke, and what else hyper leaves with it is the client's connection's.
    head.version = Version::HTTP_11;
    head.extensions.clear();
}

/// No key of ours reaches a backend, also not on a public route where the gate looks at none (S26). `Authorization` of another scheme stays
/// where it may be passed on.
fn remove_credentials(headers: &mut HeaderMap, config: &Config) {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return;
    };
    let bytes = value.as_bytes();
    let is_bearer = bytes.len() >= 6 && bytes[..6].eq_ignore_ascii_case(b"bearer");
    if !config.auth.pass_foreign_authorization || (config.auth.bearer && is_bearer) {
        headers.remove(header::AUTHORIZATION);
    }
}

/// HTTP/2 clients may split `Cookie`; HTTP/1.1 has one line (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    // Joined from valid values by valid bytes; should it fail nevertheless, no cookie is better than half of them.
    match HeaderValue::try_from(joined) {
        Ok(value) => headers.insert(header::COOKIE, value),
        Err(_) => headers.remove(header::COOKIE),
    };
}

/// What a backend is told of a request by the gateway itself, where nothing of what the client says under these names is left.
#[derive(Clone, Debug)]
pub(crate) struct Own<'a> {
    peer: Peer,
    request_id: &'a RequestId,
    via: &'static str,
}

impl<'a> Own<'a> {
    /// Said of a request that came in this version of HTTP.
    pub(crate) fn new(peer: &Peer, request_id: &'a RequestId, version: Version) -> Own<'a> {
        Own {
            peer: *peer,
            request_id,
            via: match version {
                Version::HTTP_2 => "2 portcullis",
                Version::HTTP_10 => "1.0 portcullis",
                _ => "1.1 portcullis",
            },
        }
    }

    /// Puts it among fields.
    pub(crate) fn insert(&self, headers: &mut HeaderMap, admission: &Admission) {
        let names = &admission.snapshot().config.headers;
        if let Some(entry) = admission.tenant() {
            headers.insert(&names.tenant, entry.header_value.clone());
        }
        if let (Some(name), Some(subject)) = (&names.subject, subject_of(admission)) {
            headers.insert(name, subject);
        }
        headers.insert(&X_REQUEST_ID, self.request_id.to_value());
        if names.forwarded {
            self.insert_forwarded(headers, admission);
        }
        headers.append(header::VIA, HeaderValue::from_static(self.via));
    }

    /// The client's address, scheme, host and port as this gateway saw them (S10).
    fn insert_forwarded(&self, headers: &mut HeaderMap, admission: &Admission) {
        let mut address = Vec::with_capacity(ADDRESS_BYTES);
        write_address(&mut address, self.peer.address.ip().to_canonical());
        if let Ok(address) = HeaderValue::from_maybe_shared(Bytes::from(address)) {
            headers.insert(&X_FORWARDED_FOR, address);
        }
        headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        if let Some(host) = host_value(headers, admission.host()) {
            headers.insert(&X_FORWARDED_HOST, host);
        }
        headers.insert(&X_FORWARDED_PORT, HeaderValue::from(self.peer.local.port()));
    }

    /// Writes the same as lines, the `Host` before them.
    pub(crate) fn write(&self, host: Option<&[u8]>, admission: &Admission, out: &mut Vec<u8>) {
        let names = &admission.snapshot().config.headers;
        if let Some(host) = host {
            line(out, b"host", host);
        }
        if let Some(entry) = admission.tenant() {
            let tenant = names.tenant.as_str();
            line(out, tenant.as_bytes(), entry.header_value.as_bytes());
        }
        if let (Some(name), Some(subject)) = (&names.subject, subject_of(admission)) {
            line(out, name.as_str().as_bytes(), subject.as_bytes());
        }
        line(out, b"x-request-id", self.request_id.as_bytes());
        if names.forwarded {
            out.extend_from_slice(b"x-forwarded-for: ");
            write_address(out, self.peer.address.ip().to_canonical());
            out.extend_from_slice(b"\r\nx-forwarded-proto: https\r\n");
            line(out, b"x-forwarded-host", admission.host().as_bytes());
            let mut port = itoa::Buffer::new();
            let port = port.format(self.peer.local.port());
            line(out, b"x-forwarded-port", port.as_bytes());
        }
        line(out, b"via", self.via.as_bytes());
    }
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whom the key acts for, where that can be said (FA18).
fn subject_of(admission: &Admission) -> Option<HeaderValue> {
    HeaderValue::from_str(admission.subject()?).ok()
}

/// The host that the client asked for as a header value; shares the client's own line where that says the same.
fn host_value(headers: &HeaderMap, host: &str) -> Option<HeaderValue> {
    match headers.get(header::HOST) {
        Some(line) if line.as_bytes() == host.as_bytes() => Some(line.clone()),
        _ => HeaderValue::from_str(host).ok(),
    }
}

/// The head of a lookup for the caller of a prepared request (FM10): who calls and from where, and nothing by which a client could have a backend
/// say yes where it would say no. That rules out most of what it sends: `Accept` may turn a 404 into a page, `Idempotency-Key` names the write.
pub(crate) fn of_lookup(prepared: &HeaderMap, names: &Headers) -> HeaderMap {
    const KEPT: [&str; 10] = [
        "authorization",
        "cookie",
        "traceparent",
        "tracestate",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-request-id",
    ];
    let is_kept = |name: &HeaderName| {
        let own = [Some(&names.tenant), names.subject.as_ref()];
        KEPT.contains(&name.as_str()) || own.contains(&Some(name))
    };
    let kept = prepared.iter().filter(|(name, _)| is_kept(name));
    let mut headers: HeaderMap = kept
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers
}

/// Longest text of an IP address.
const ADDRESS_BYTES: usize = 45;

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
