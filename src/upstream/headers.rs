//! Hop-by-hop and forged headers out, our own in; and the backend's answer cleaned the same way.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Uri;
use http::Version;
use http::header;
use http::request;
use http::response;
use http::uri::PathAndQuery;

use crate::config::Config;
use crate::config::Headers;
use crate::gate::Admission;
use crate::gate::Peer;
use crate::refusal::UpstreamFailure;

/// Makes the head of an admitted request fit for a backend: first everything out that a client may not say, then ours in, last of all
/// (DESIGN section 3, step 7; S8 to S11, S19). `Host` is set for each server by the caller, framing by `frame`.
///
/// # Errors
/// `Unsendable` when the admitted path cannot stand in a request line; no other path is ever sent instead.
pub(super) fn prepare(
    head: &mut request::Parts,
    admission: &Admission,
    peer: &Peer,
    request_id: &HeaderValue,
) -> Result<(), Unsendable> {
    head.uri = origin_form(&head.uri, admission.path())?;
    let config = &admission.snapshot().config;
    remove_forbidden(&mut head.headers, &config.headers);
    remove_credentials(&mut head.headers, config);
    join_cookies(&mut head.headers);
    set_identity(&mut head.headers, admission, request_id);
    set_forwarded(&mut head.headers, admission, peer);
    head.headers.append(header::VIA, via(head.version));
    // The backend is spoken to in HTTP/1.1 whatever the client spoke, and hyper's extensions (upgrade handle, header case) are the client's connection's.
    head.version = Version::HTTP_11;
    head.extensions.clear();
    Ok(())
}

/// The admitted path cannot stand in a request line: a bug of the gate, contained.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unsendable;

/// Says how long the body is, once: its exact length, or `chunked`, never both (S1). `length` is `None` when it is not known beforehand.
pub(super) fn frame(head: &mut request::Parts, length: Option<u64>) {
    let headers = &mut head.headers;
    match length {
        // RFC 9110 section 8.6: a method that usually has a body says that it has none.
        Some(0) => {
            let expected = matches!(head.method.as_str(), "POST" | "PUT" | "PATCH");
            let announced = headers.remove(header::CONTENT_LENGTH).is_some();
            if expected || announced {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
        }
        Some(length) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        // Said here because hyper, left to itself, drops the body of a GET whose length is unknown.
        None => {
            headers.remove(header::CONTENT_LENGTH);
            headers.insert(
                header::TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            );
        }
    }
}

/// What makes an answer head unfit to be passed on, although hyper could parse it (S33, S42).
pub(super) fn fault(head: &response::Parts) -> Option<UpstreamFailure> {
    let status = head.status.as_u16();
    if status == 101 {
        return Some(UpstreamFailure::UpgradeFailed);
    }
    if !(200..600).contains(&status) || !framed_once(&head.headers) {
        return Some(UpstreamFailure::ProtocolError);
    }
    None
}

/// Makes the head of an answer fit for the client: no hop-by-hop header and no tenant header in any spelling leaves the gateway;
/// an authenticated answer without a cache policy becomes private (FM5).
pub(super) fn clean(head: &mut response::Parts, tenant: &HeaderName, authenticated: bool) {
    let headers = &mut head.headers;
    let mut doomed = nominated(headers);
    for name in headers.keys() {
        // `Trailer` stays: hyper sends a client of HTTP/1.1 those trailers only that it names.
        let hop_by_hop = is_hop_by_hop(name.as_str()) && name != header::TRAILER;
        if hop_by_hop || same_name(name.as_str(), tenant.as_str()) {
            doomed.push(name.clone());
        }
    }
    remove_all(headers, &doomed);
    // RFC 9110 section 8.6: a 204 has no Content-Length.
    if head.status == http::StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
    if authenticated && !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    }
    // The reason phrase and an upgrade handle are the backend's connection's; hyper writes the version that the client speaks.
    head.version = Version::HTTP_11;
    head.extensions.clear();
}

/// Takes out of an answer's trailers what may not stand in its head either (S11, S43).
pub(super) fn clean_trailers(trailers: &mut HeaderMap, tenant: &HeaderName) {
    let doomed: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            is_hop_by_hop(name)
                || same_name(name, tenant.as_str())
                || matches!(name, "content-length" | "host" | "trailer")
        })
        .cloned()
        .collect();
    remove_all(trailers, &doomed);
}

/// One pass over the names, then removal of those that are there: asking the map for each forbidden name costs more (one hash each).
fn remove_forbidden(headers: &mut HeaderMap, rules: &Headers) {
    let mut doomed = nominated(headers);
    for name in headers.keys() {
        if is_forbidden(name.as_str(), rules) {
            doomed.push(name.clone());
        }
    }
    remove_all(headers, &doomed);
}

fn remove_all(headers: &mut HeaderMap, doomed: &[HeaderName]) {
    for name in doomed {
        headers.remove(name);
    }
}

/// What all `Connection` lines together name and the message carries (RFC 9110 section 7.6.1). Framing and `Host` cannot be nominated;
/// nominating one of our own names is without effect, since ours are set later (S8).
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for line in headers.get_all(header::CONNECTION) {
        for option in line.as_bytes().split(|byte| *byte == b',') {
            let Ok(option) = std::str::from_utf8(option.trim_ascii()) else {
                continue;
            };
            if option.is_empty() || !headers.contains_key(option) {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(option.as_bytes())
                && name != header::HOST
                && name != header::CONTENT_LENGTH
            {
                names.push(name);
            }
        }
    }
    names
}

/// Whether a client may not send this header to a backend.
fn is_forbidden(name: &str, rules: &Headers) -> bool {
    // Framing is ours to restate; only look-alikes of this name go.
    if name == "content-length" {
        return false;
    }
    is_hop_by_hop(name)
        || ours(name.len()).iter().any(|own| same_name(name, own))
        || begins_like(name, "x-forwarded-")
        || same_name(name, rules.tenant.as_str())
        || rules
            .remove
            .iter()
            .any(|remove| same_name(name, remove.as_str()))
        || (name.contains('_') && !rules.keep_underscore)
}

/// Headers that speak of one connection, in any spelling that a backend may read as the same name.
fn is_hop_by_hop(name: &str) -> bool {
    let candidates: &[&str] = match name.len() {
        2 => &["te"],
        6 => &["expect"],
        7 => &["upgrade", "trailer"],
        10 => &["connection", "keep-alive"],
        14 => &["http2-settings"],
        16 => &["proxy-connection"],
        17 => &["transfer-encoding"],
        18 => &["proxy-authenticate"],
        19 => &["proxy-authorization"],
        _ => return false,
    };
    candidates.iter().any(|own| same_name(name, own))
}

/// The names of this length that only this gateway, or nobody, may send to a backend.
fn ours(length: usize) -> &'static [&'static str] {
    match length {
        // HTTP_PROXY in a CGI environment: the httpoxy attack.
        5 => &["proxy"],
        6 => &["x-host"],
        8 => &["x-scheme"],
        9 => &["forwarded", "x-real-ip", "x-api-key"],
        11 => &[
            "client-cert",
            "remote-user",
            "x-client-ip",
            "x-forwarded",
            "x-remote-ip",
        ],
        12 => &["x-request-id"],
        13 => &[
            "x-http-method",
            "x-remote-addr",
            "x-remote-user",
            "x-rewrite-url",
            "x-script-name",
        ],
        14 => &["content-length", "true-client-ip", "x-original-url"],
        15 => &["x-original-host"],
        16 => &["cf-connecting-ip", "fastly-client-ip"],
        17 => &["client-cert-chain", "x-method-override"],
        19 => &["x-cluster-client-ip"],
        22 => &["x-http-method-override"],
        24 => &["x-original-forwarded-for"],
        _ => &[],
    }
}

/// Whether a backend may take two names for the same one: WSGI, CGI and PHP fold case and turn every other character into `_` (S9).
fn same_name(name: &str, other: &str) -> bool {
    name.len() == other.len() && begins_like(name, other)
}

fn begins_like(name: &str, start: &str) -> bool {
    name.len() >= start.len()
        && name
            .bytes()
            .zip(start.bytes())
            .all(|(left, right)| folded(left) == folded(right))
}

fn folded(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
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

/// Exactly one tenant, ours; none where nobody was authenticated (DESIGN section 1, promise 3).
fn set_identity(headers: &mut HeaderMap, admission: &Admission, request_id: &HeaderValue) {
    let tenant = &admission.snapshot().config.headers.tenant;
    match admission.tenant() {
        Some(entry) => headers.insert(tenant, entry.header_value.clone()),
        None => headers.remove(tenant),
    };
    headers.insert(&X_REQUEST_ID, request_id.clone());
}

/// The client's address, scheme, host and port as this gateway saw them (S10).
fn set_forwarded(headers: &mut HeaderMap, admission: &Admission, peer: &Peer) {
    if !admission.snapshot().config.headers.forwarded {
        return;
    }
    let address = peer.address.ip().to_canonical().to_string();
    if let Ok(address) = HeaderValue::try_from(address) {
        headers.insert(&X_FORWARDED_FOR, address);
    }
    headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    if let Some(host) = host_value(headers, admission.host()) {
        headers.insert(&X_FORWARDED_HOST, host);
    }
    headers.insert(&X_FORWARDED_PORT, HeaderValue::from(peer.local.port()));
}

/// The host that the client asked for as a header value; shares the client's own line where that says the same.
pub(super) fn host_value(headers: &HeaderMap, host: &str) -> Option<HeaderValue> {
    match headers.get(header::HOST) {
        Some(line) if line.as_bytes() == host.as_bytes() => Some(line.clone()),
        _ => HeaderValue::from_str(host).ok(),
    }
}

fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2 portcullis",
        Version::HTTP_10 => "1.0 portcullis",
        _ => "1.1 portcullis",
    })
}

/// The target as a backend sees it: the path that was decided on and no other, the query untouched, never an authority (S17, S18).
fn origin_form(uri: &Uri, path: &str) -> Result<Uri, Unsendable> {
    if uri.authority().is_none() && uri.path() == path {
        return Ok(uri.clone());
    }
    let target = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    target.map(Uri::from).map_err(|_| Unsendable)
}

/// Whether at most one framing is stated, and one that can be passed on in our own framing: no `Content-Length` twice or beside a coding
/// (RFC 9112 section 6.3), no coding but `chunked`.
fn framed_once(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lengths.next(), codings.next()) {
        (None, None) => true,
        (Some(length), None) => {
            let digits = length.as_bytes();
            lengths.next().is_none() && !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
        }
        (None, Some(coding)) => {
            codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        }
        (Some(_), Some(_)) => false,
    }
}

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
