//! Hop-by-hop and forged headers out, our own in; and the backend's answer cleaned the same way.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Uri;
use http::Version;
use http::header;
use http::request;
use http::response;

use crate::access_log::write_address;
use crate::config::Auth;
use crate::config::Config;
use crate::config::Headers;
use crate::gate::Admission;
use crate::gate::Peer;
use crate::refusal::UpstreamFailure;

/// Makes the head of an admitted request fit for a backend: first everything out that a client may not say, then ours in, last of all
/// (DESIGN section 3, step 7; S8 to S11, S19). `Host` is set for each server by the caller, framing by `frame`.
pub(super) fn prepare(
    head: &mut request::Parts,
    admission: &Admission,
    peer: &Peer,
    request_id: &HeaderValue,
) {
    // The path that was decided on and no other, the query untouched, never an authority (S17, S18).
    head.uri = Uri::from(admission.target().clone());
    let config = &admission.snapshot().config;
    remove_forbidden(&mut head.headers, &config.headers);
    // On a public route that passes it on, the gate has left it only where it is no key's.
    let passes = admission.principal().is_none() && admission.route().pass_authorization;
    if !passes {
        remove_credentials(&mut head.headers, config);
    }
    join_cookies(&mut head.headers);
    set_identity(&mut head.headers, admission, request_id);
    set_forwarded(&mut head.headers, admission, peer);
    head.headers.append(header::VIA, via(head.version));
    // The backend is spoken to in HTTP/1.1 whatever the client spoke, and what else hyper leaves with it is the client's connection's.
    head.version = Version::HTTP_11;
    head.extensions.clear();
}

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

/// The length of a body that was not known when it was framed.
pub(super) fn restate_length(headers: &mut HeaderMap, length: u64) {
    headers.remove(header::TRANSFER_ENCODING);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
}

/// The head of a lookup for the caller of a prepared request (FM10): who calls and from where, and nothing by which a client could have a backend
/// say yes where it would say no. That rules out most of what it sends: `Accept` may turn a 404 into a page, `Idempotency-Key` names the write.
pub(super) fn of_lookup(prepared: &HeaderMap, names: &Headers) -> HeaderMap {
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

/// The same for HTTP/2, whose frames say where a body ends. `takes_trailers` is said on: gRPC servers insist on it.
pub(super) fn frame_http2(head: &mut request::Parts, length: Option<u64>, takes_trailers: bool) {
    frame(head, length);
    head.headers.remove(header::TRANSFER_ENCODING);
    if takes_trailers {
        let trailers = HeaderValue::from_static("trailers");
        head.headers.insert(header::TE, trailers);
    }
}

/// Whether the client wants trailers.
pub(super) fn takes_trailers(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::TE).iter();
    let mut codings = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// How long a gRPC client waits for all of an exchange. What is not written as gRPC writes it says nothing.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let count: u64 = is_number.then(|| digits.parse().ok())??;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// What makes an answer head unfit to be passed on, although hyper could parse it (S33, S42).
pub(super) fn fault(head: &response::Parts) -> Option<UpstreamFailure> {
    let status = head.status.as_u16();
    if !(200..600).contains(&status) || !framed_once(&head.headers) {
        return Some(UpstreamFailure::ProtocolError);
    }
    None
}

/// The headers by which a backend learns who calls. They are between the gateway and the backend, and no answer carries them on.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    tenant: HeaderName,
    subject: Option<HeaderName>,
}

impl Identity {
    pub(super) fn of(rules: &Headers) -> Identity {
        Identity {
            tenant: rules.tenant.clone(),
            subject: rules.subject.clone(),
        }
    }

    /// Whether this is one of them in any spelling.
    fn has(&self, name: &str) -> bool {
        let is = |own: &HeaderName| same_name(name, own.as_str());
        is(&self.tenant) || self.subject.as_ref().is_some_and(is)
    }
}

/// Makes the head of an answer fit for the client: no hop-by-hop header and no tenant or subject header in any spelling leaves the
/// gateway. `keys` says where keys are taken from, if this request had one: then no shared cache may give the answer to another (FM5).
pub(super) fn clean(head: &mut response::Parts, identity: &Identity, keys: Option<&Auth>) {
    let headers = &mut head.headers;
    let mut doomed = nominated(headers);
    for name in headers.keys() {
        // `Trailer` stays: a client of HTTP/1.1 gets those trailers only that it names.
        let hop_by_hop = is_hop_by_hop(name.as_str()) && name != header::TRAILER;
        let directs_caches = keys.is_some() && directs_one_cache(name.as_str());
        if hop_by_hop || directs_caches || identity.has(name.as_str()) {
            doomed.push(name.clone());
        }
    }
    remove_all(headers, &doomed);
    // RFC 9110 section 8.6: a 204 has no Content-Length.
    if head.status == http::StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
    if let Some(auth) = keys {
        keep_for_one_caller(headers, auth);
    }
    // What else was read with the head is the backend's connection's; whoever writes it knows the version that the client speaks.
    head.version = Version::HTTP_11;
    head.extensions.clear();
}

/// Headers that tell one make of cache more than `Cache-Control` tells all, and beat it there: nginx, CDNs (RFC 9213), surrogates.
fn directs_one_cache(name: &str) -> bool {
    match name.len() {
        15 => name == "x-accel-expires",
        17.. => name == "surrogate-control" || name.ends_with("cdn-cache-control"),
        _ => false,
    }
}

/// Without a word of the backend that shared caches may keep an answer, they may not. With it they keep one for each key: a backend that
/// knows of no tenants calls public what only looks so. What is the same for everybody belongs on a public route.
fn keep_for_one_caller(headers: &mut HeaderMap, auth: &Auth) {
    const PRIVATE: HeaderValue = HeaderValue::from_static("private");
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, PRIVATE);
        return;
    }
    if says(headers, &["private", "no-store"]) {
        return;
    }
    if says(headers, &["public", "s-maxage"]) {
        headers.append(header::VARY, credentials(auth));
        return;
    }
    let lines: Vec<&[u8]> = headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .map(HeaderValue::as_bytes)
        .chain([&b"private"[..]])
        .filter(|line| !line.is_empty())
        .collect();
    // Joined from valid values by valid bytes; the one word alone is strict enough, should it fail nevertheless.
    let joined = HeaderValue::try_from(lines.join(&b", "[..])).unwrap_or(PRIVATE);
    headers.insert(header::CACHE_CONTROL, joined);
}

/// Whether one of these directives stands whole in the cache policy; `private="x-name"` is about that header alone.
fn says(headers: &HeaderMap, directives: &[&str]) -> bool {
    let lines = headers.get_all(header::CACHE_CONTROL).iter();
    let mut there = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    there.any(|directive| {
        let name = directive.trim_ascii();
        directives.iter().any(|wanted| {
            let has_value = *wanted == "s-maxage";
            let end = name.iter().position(|byte| has_value && *byte == b'=');
            let name = &name[..end.unwrap_or(name.len())];
            name.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes())
        })
    })
}

fn credentials(auth: &Auth) -> HeaderValue {
    HeaderValue::from_static(match (auth.bearer, auth.x_api_key) {
        (true, true) => "Authorization, X-API-Key",
        (true, false) => "Authorization",
        (false, _) => "X-API-Key",
    })
}

/// Takes out of an answer's trailers what may not stand in its head either (S11, S43).
pub(super) fn clean_trailers(trailers: &mut HeaderMap, identity: &Identity) {
    let doomed: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            is_hop_by_hop(name) || identity.has(name) || matches!(name, "content-length" | "host")
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
            .subject
            .as_ref()
            .is_some_and(|subject| same_name(name, subject.as_str()))
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
        12 => &["x-request-id", "x-url-scheme"],
        13 => &[
            "x-http-method",
            "x-remote-addr",
            "x-remote-user",
            "x-rewrite-url",
            "x-script-name",
        ],
        14 => &[
            "content-length",
            "true-client-ip",
            "x-original-url",
            "x-override-url",
            "x-proxyuser-ip",
        ],
        15 => &["front-end-https", "proxy-client-ip", "x-original-host"],
        16 => &["cf-connecting-ip", "fastly-client-ip", "x-azure-clientip"],
        17 => &["client-cert-chain", "x-method-override"],
        18 => &["wl-proxy-client-ip"],
        19 => &["x-appengine-user-ip", "x-cluster-client-ip"],
        22 => &["x-http-method-override"],
        24 => &["x-envoy-external-address", "x-original-forwarded-for"],
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

/// Exactly one tenant, ours; none where nobody was authenticated (DESIGN section 1, promise 3). The same for the subject (FA18).
fn set_identity(headers: &mut HeaderMap, admission: &Admission, request_id: &HeaderValue) {
    let names = &admission.snapshot().config.headers;
    if let Some(entry) = admission.tenant() {
        headers.insert(&names.tenant, entry.header_value.clone());
    }
    if let (Some(name), Some(subject)) = (&names.subject, admission.subject())
        && let Ok(subject) = HeaderValue::from_str(subject)
    {
        headers.insert(name, subject);
    }
    headers.insert(&X_REQUEST_ID, request_id.clone());
}

/// The client's address, scheme, host and port as this gateway saw them (S10).
fn set_forwarded(headers: &mut HeaderMap, admission: &Admission, peer: &Peer) {
    if !admission.snapshot().config.headers.forwarded {
        return;
    }
    let mut address = Vec::with_capacity(ADDRESS_BYTES);
    write_address(&mut address, peer.address.ip().to_canonical());
    if let Ok(address) = HeaderValue::from_maybe_shared(Bytes::from(address)) {
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

/// Longest text of an IP address.
const ADDRESS_BYTES: usize = 45;

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::HeaderMap;
    use http::HeaderName;
    use http::HeaderValue;
    use http::Request;
    use http::Response;
    use http::StatusCode;
    use http::Version;
    use http::request;
    use proptest::prelude::*;

    use super::Identity;
    use super::clean;
    use super::clean_trailers;
    use super::fault;
    use super::folded;
    use super::frame;
    use super::grpc_timeout;
    use super::prepare;
    use super::takes_trailers;
    use crate::config::Config;
    use crate::refusal::UpstreamFailure;
    use crate::upstream::tests::admission;
    use crate::upstream::tests::config;
    use crate::upstream::tests::peer;

    fn identity() -> Identity {
        Identity {
            tenant: HeaderName::from_static("x-tenant-id"),
            subject: Some(HeaderName::from_static("x-subject-id")),
        }
    }

    fn auth() -> crate::config::Auth {
        crate::config::Auth {
            bearer: true,
            failures: None,
            x_api_key: true,
            realm: "api".to_owned(),
            pass_foreign_authorization: false,
            query_parameter: None,
            credentials: crate::model::credential::Kinds::KEYS,
            refuse_secret_keys_in_browsers: false,
        }
    }

    fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// The head that the backend sees, as sorted lines.
    fn prepared(config: Config, authenticated: bool, head: request::Parts) -> Vec<String> {
        let mut head = head;
        let admission = admission(&Arc::new(config), authenticated, "/leases");
        let id = HeaderValue::from_static("ours");
        prepare(&mut head, &admission, &peer(), &id);
        let mut lines: Vec<String> = head
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort_unstable();
        lines
    }

    /// What of these headers reaches the backend beyond what the gateway sets itself.
    fn passed(config: Config, headers: &[(&str, &str)]) -> Vec<String> {
        let set_by_us = prepared(config.clone(), true, head("/leases", &[]));
        prepared(config, true, head("/leases", headers))
            .into_iter()
            .filter(|line| !set_by_us.contains(line))
            .collect()
    }

    #[test]
    fn a_grpc_deadline_is_written_as_grpc_writes_it() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("10S", Some(Duration::from_secs(10))),
            ("0S", Some(Duration::ZERO)),
            ("150m", Some(Duration::from_millis(150))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("5n", Some(Duration::from_nanos(5))),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("10", None),
            ("10s", None),
            ("+1S", None),
            ("-1S", None),
            ("1.5S", None),
            ("1 S", None),
        ];
        for (text, span) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_str(text).unwrap());
            assert_eq!(grpc_timeout(&headers), span, "{text}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn trailers_are_wanted_when_a_te_line_says_so() {
        let cases: [(&[&str], bool); 5] = [
            (&[], false),
            (&["trailers"], true),
            (&["gzip"], false),
            (&["gzip, Trailers"], true),
            (&["gzip", " trailers "], true),
        ];
        for (lines, wanted) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("te", HeaderValue::from_str(line).unwrap());
            }
            assert_eq!(takes_trailers(&headers), wanted, "{lines:?}");
        }
    }

    #[test]
    fn no_spelling_of_a_trusted_name_reaches_the_backend() {
        let names = [
            "X-Tenant-ID",
            "x-tenant-id",
            "X_Tenant_ID",
            "X_TENANT_ID",
            "X-Tenant_ID",
            "X_Tenant-Id",
            "X.Tenant.ID",
            "X-Tenant.Id",
            "X~Tenant~Id",
            "X!Tenant|Id",
            "X*Tenant'Id",
            "X`Tenant^Id",
            "X#Tenant$Id",
            "X%Tenant&Id",
            "X+Tenant+Id",
            "X-Request-Id",
            "X_Request_Id",
            "X.Request.Id",
            "X-Forwarded-For",
            "X_Forwarded_For",
            "X-Forwarded-Host",
            "X-Forwarded-Prefix",
            "X_Forwarded_Prefix",
            "X-Forwarded-User",
            "X-Forwarded-Client-Cert",
            "X.Forwarded.Port",
            "X-Forwarded",
            "Forwarded",
            "X-Real-IP",
            "X_Real_IP",
            "X-Client-IP",
            "True-Client-IP",
            "CF-Connecting-IP",
            "CF_Connecting_IP",
            "Client-Cert",
            "Client_Cert",
            "Client-Cert-Chain",
            "X-Original-URL",
            "X_Original_URL",
            "X-Rewrite-URL",
            "X-HTTP-Method-Override",
            "X_HTTP_Method_Override",
            "X-Method-Override",
            "X-HTTP-Method",
            "X-API-Key",
            "X_API_KEY",
            "X.Api.Key",
            "Authorization",
            "Connection",
            "Proxy-Connection",
            "Keep-Alive",
            "TE",
            "Transfer-Encoding",
            "Transfer_Encoding",
            "Transfer.Encoding",
            "Content_Length",
            "Content.Length",
            "Upgrade",
            "Trailer",
            "Expect",
            "Proxy-Authorization",
            "Proxy_Authorization",
            "HTTP2-Settings",
            "Proxy",
        ];
        for keep_underscore in [false, true] {
            for name in names {
                let mut config = config(&[]);
                config.headers.keep_underscore = keep_underscore;
                let evil = [(name, "evil"), (name, "evil, too"), ("x-fine", "1")];
                assert_eq!(passed(config, &evil), ["x-fine: 1"], "{name}");
            }
        }
    }

    #[test]
    fn other_headers_pass_untouched() {
        let headers = [
            ("accept", "*/*"),
            ("content-type", "text/plain"),
            ("dnt", "1"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            ("x-forward", "no dash"),
            ("x-tenant-ids", "longer"),
            ("xtenantid", "shorter"),
        ];
        let expected: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        assert_eq!(passed(config(&[]), &headers), expected);
    }

    #[test]
    fn names_with_an_underscore_pass_only_where_they_are_kept() {
        let headers = [("my_header", "1"), ("my.header", "2")];
        assert_eq!(passed(config(&[]), &headers), ["my.header: 2"]);
        let mut keeping = config(&[]);
        keeping.headers.keep_underscore = true;
        assert_eq!(passed(keeping, &headers), ["my.header: 2", "my_header: 1"]);
    }

    #[test]
    fn names_that_the_operator_lists_are_removed_in_every_spelling() {
        let mut config = config(&[]);
        config.headers.remove = vec![HeaderName::from_static("x-internal-role")];
        let headers = [("X-Internal-Role", "1"), ("X.Internal.Role", "2")];
        assert!(passed(config, &headers).is_empty());
    }

    #[test]
    fn a_tenant_header_named_with_an_underscore_has_aliases_too() {
        let mut config = config(&[]);
        config.headers.tenant = HeaderName::from_static("x_tenant");
        let lines = prepared(config, true, head("/leases", &[("X-Tenant", "evil")]));
        assert!(lines.contains(&"x_tenant: acme".to_owned()), "{lines:?}");
        assert!(!lines.contains(&"x-tenant: evil".to_owned()), "{lines:?}");
    }

    #[test]
    fn all_connection_lines_are_obeyed_but_never_against_framing_host_or_ours() {
        let headers = [
            ("connection", "close, x-one"),
            ("connection", "X-Two,, ,x-tenant-id ,via"),
            (
                "connection",
                "host, content-length, x-request-id, x-forwarded-for",
            ),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("host", "api.example"),
            ("content-length", "5"),
        ];
        let lines = prepared(config(&[]), true, head("/leases", &headers));
        for expected in [
            "content-length: 5",
            "host: api.example",
            "via: 1.1 portcullis",
            "x-forwarded-for: 192.0.2.7",
            "x-request-id: ours",
            "x-tenant-id: acme",
            "x-three: 3",
        ] {
            assert!(lines.contains(&expected.to_owned()), "{lines:?}");
        }
        assert!(!lines.iter().any(|line| line.starts_with("x-one")));
        assert!(!lines.iter().any(|line| line.starts_with("x-two")));
        assert!(!lines.iter().any(|line| line.starts_with("connection")));
    }

    #[test]
    fn nobody_has_no_tenant() {
        let lines = prepared(
            config(&[]),
            false,
            head("/leases", &[("x-tenant-id", "evil")]),
        );
        assert!(!lines.iter().any(|line| line.starts_with("x-tenant-id")));
    }

    #[test]
    fn forwarded_headers_are_ours_or_absent() {
        let mut off = config(&[]);
        off.headers.forwarded = false;
        let lines = prepared(
            off,
            true,
            head("/leases", &[("x-forwarded-for", "1.2.3.4")]),
        );
        assert!(!lines.iter().any(|line| line.starts_with("x-forwarded")));
    }

    #[test]
    fn authorization_of_another_scheme_passes_where_it_may() {
        let cases = [
            (true, true, "Basic abc", true),
            (true, true, "Bearer fp_live_x", false),
            (true, true, "bEARER fp_live_x", false),
            (true, false, "Bearer foreign", true),
            (false, true, "Basic abc", false),
            (false, false, "Bearer x", false),
        ];
        for (pass, bearer, value, passes) in cases {
            let mut config = config(&[]);
            config.auth.pass_foreign_authorization = pass;
            config.auth.bearer = bearer;
            let lines = passed(config, &[("authorization", value)]);
            assert_eq!(!lines.is_empty(), passes, "{pass} {bearer} {value}");
        }
    }

    #[test]
    fn cookie_crumbs_become_one_line() {
        let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
        assert_eq!(passed(config(&[]), &crumbs), ["cookie: a=1; b=2; c=3"]);
    }

    #[test]
    fn via_names_the_protocol_of_the_client_and_keeps_who_came_before() {
        let cases = [
            (Version::HTTP_10, "via: 1.0 portcullis"),
            (Version::HTTP_11, "via: 1.1 portcullis"),
            (Version::HTTP_2, "via: 2 portcullis"),
        ];
        for (version, expected) in cases {
            let mut head = head("/leases", &[("via", "1.1 cache")]);
            head.version = version;
            let lines = prepared(config(&[]), true, head);
            assert!(lines.contains(&"via: 1.1 cache".to_owned()), "{lines:?}");
            assert!(lines.contains(&expected.to_owned()), "{lines:?}");
        }
    }

    #[test]
    fn the_target_is_the_admitted_one_whatever_the_head_says() {
        for uri in ["/leases", "https://evil.example/leases?x", "/other?x"] {
            let mut head = head(uri, &[]);
            let admission = admission(&Arc::new(config(&[])), true, "/leases?a=1&b=%2f");
            let id = HeaderValue::from_static("ours");
            prepare(&mut head, &admission, &peer(), &id);
            assert_eq!(head.uri.to_string(), "/leases?a=1&b=%2f");
        }
    }

    #[test]
    fn nothing_of_the_clients_connection_goes_on() {
        let mut head = head("/leases", &[]);
        head.version = Version::HTTP_10;
        head.extensions.insert("upgrade handle");
        let admission = admission(&Arc::new(config(&[])), true, "/leases");
        let id = HeaderValue::from_static("ours");
        prepare(&mut head, &admission, &peer(), &id);
        assert_eq!(head.version, Version::HTTP_11);
        assert!(head.extensions.is_empty());
    }

    #[test]
    fn framing_is_said_once() {
        let cases = [
            ("GET", Some(0), None, None),
            ("GET", Some(0), Some("0"), Some("content-length: 0")),
            ("POST", Some(0), None, Some("content-length: 0")),
            ("POST", Some(7), None, Some("content-length: 7")),
            ("POST", Some(7), Some("7"), Some("content-length: 7")),
            ("POST", None, Some("7"), Some("transfer-encoding: chunked")),
            ("GET", None, None, Some("transfer-encoding: chunked")),
        ];
        for (method, length, announced, expected) in cases {
            let mut head = head("/", &[]);
            head.method = method.parse().unwrap();
            if let Some(announced) = announced {
                head.headers
                    .append("content-length", announced.parse().unwrap());
                head.headers
                    .append("content-length", announced.parse().unwrap());
            }
            frame(&mut head, length);
            let lines: Vec<String> = head
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect();
            let expected: Vec<&str> = expected.into_iter().collect();
            assert_eq!(lines, expected, "{method} {length:?} {announced:?}");
        }
    }

    #[test]
    fn answers_lose_what_speaks_of_the_backends_connection_and_of_the_caller() {
        let response = Response::builder()
            .header("connection", "keep-alive, x-hop")
            .header("connection", "content-length")
            .header("keep-alive", "timeout=5")
            .header("transfer-encoding", "chunked")
            .header("upgrade", "h2c")
            .header("x-hop", "1")
            .header("x-tenant-id", "acme")
            .header("x_tenant.id", "acme")
            .header("x-subject-id", "user-7")
            .header("X.Subject_Id", "user-7")
            .header("server", "legacy")
            .header("x-powered-by", "old")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("trailer", "x-sum")
            .header("content-length", "5");
        let mut head = response.body(()).unwrap().into_parts().0;
        clean(&mut head, &identity(), Some(&auth()));
        let mut names: Vec<&str> = head.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let expected = [
            "cache-control",
            "content-length",
            "server",
            "set-cookie",
            "set-cookie",
            "trailer",
            "x-powered-by",
        ];
        assert_eq!(names, expected);
        assert_eq!(head.headers["cache-control"], "private");
    }

    // FM5: what the backend left open is private; what it called shared is kept apart by key; public routes are left alone.
    #[test]
    fn fm5_no_answer_to_a_key_is_shared_by_caches() {
        let both = "Authorization, X-API-Key";
        let cases: [(&[&str], &str, &str); 14] = [
            (&[], "private", ""),
            (&[""], "private", ""),
            (&["max-age=60"], "max-age=60, private", ""),
            (
                &["max-age=60", "must-revalidate"],
                "max-age=60, must-revalidate, private",
                "",
            ),
            (&["no-cache"], "no-cache, private", ""),
            (&["private=\"x-name\""], "private=\"x-name\", private", ""),
            (&["private"], "private", ""),
            (&["max-age=1, Private"], "max-age=1, Private", ""),
            (&["no-store"], "no-store", ""),
            (&["private, public"], "private, public", ""),
            (&["public"], "public", both),
            (&["PUBLIC, max-age=60"], "PUBLIC, max-age=60", both),
            (&["s-maxage=60"], "s-maxage=60", both),
            (
                &["max-age=5", "s-maxage = 60"],
                "max-age=5|s-maxage = 60",
                both,
            ),
        ];
        for (lines, policy, vary) in cases {
            let mut response = Response::builder()
                .header("x-accel-expires", "600")
                .header("surrogate-control", "max-age=600")
                .header("cdn-cache-control", "max-age=600")
                .header("cloudflare-cdn-cache-control", "public");
            for line in lines {
                response = response.header("cache-control", *line);
            }
            let came = response.body(()).unwrap().into_parts().0;
            let all = |head: &http::response::Parts, name: &str| {
                let lines = head.headers.get_all(name).iter();
                let lines: Vec<&str> = lines.map(|line| line.to_str().unwrap()).collect();
                lines.join("|")
            };
            let mut of_key = came.clone();
            clean(&mut of_key, &identity(), Some(&auth()));
            assert_eq!(all(&of_key, "cache-control"), policy, "{lines:?}");
            assert_eq!(all(&of_key, "vary"), vary, "{lines:?}");
            let more = of_key.headers.len() - lines.len().max(1).min(policy.split('|').count());
            assert_eq!(more, usize::from(!vary.is_empty()), "{lines:?}");
            let mut of_nobody = came.clone();
            clean(&mut of_nobody, &identity(), None);
            assert_eq!(of_nobody.headers, came.headers, "{lines:?}");
        }
    }

    #[test]
    fn a_204_has_no_length() {
        let response = Response::builder()
            .status(204)
            .header("content-length", "0");
        let mut head = response.body(()).unwrap().into_parts().0;
        clean(&mut head, &identity(), None);
        assert!(head.headers.is_empty());
    }

    #[test]
    fn statuses_outside_the_protocol_are_faults() {
        let cases = [
            (100, Some(UpstreamFailure::ProtocolError)),
            (199, Some(UpstreamFailure::ProtocolError)),
            (200, None),
            (304, None),
            (599, None),
            (600, Some(UpstreamFailure::ProtocolError)),
            (999, Some(UpstreamFailure::ProtocolError)),
        ];
        for (status, expected) in cases {
            let mut head = Response::new(()).into_parts().0;
            head.status = StatusCode::from_u16(status).unwrap();
            assert_eq!(fault(&head), expected, "{status}");
        }
    }

    #[test]
    fn trailers_never_carry_framing_or_the_caller() {
        let mut trailers = HeaderMap::new();
        for name in [
            "x-tenant-id",
            "x_tenant_id",
            "x-subject-id",
            "x_subject_id",
            "transfer-encoding",
            "content-length",
            "host",
            "trailer",
            "connection",
            "grpc-status",
        ] {
            trailers.append(name, HeaderValue::from_static("0"));
        }
        clean_trailers(&mut trailers, &identity());
        let names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["grpc-status"]);
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_the_backend_sees_one_tenant_and_it_is_ours(
            names in proptest::collection::vec(
                "[xX][-_.~!][tT][eE][nN][aA][nN][tT][-_.~!][iI][dD]|[a-zA-Z_.!-]{1,14}|connection",
                0..12,
            ),
            value in "[ -~]{0,20}",
        ) {
            let mut head = head("/leases", &[]);
            for name in &names {
                let name: HeaderName = name.parse().unwrap();
                head.headers.append(name, HeaderValue::from_str(&value).unwrap());
            }
            let admission = admission(&Arc::new(config(&[])), true, "/leases");
            let id = HeaderValue::from_static("ours");
            prepare(&mut head, &admission, &peer(), &id);
            let fold = |name: &str| -> Vec<u8> { name.bytes().map(folded).collect() };
            let tenants: Vec<&HeaderValue> = head
                .headers
                .iter()
                .filter(|(name, _)| fold(name.as_str()) == b"x-tenant-id")
                .map(|(_, value)| value)
                .collect();
            prop_assert_eq!(tenants, ["acme"]);
            prop_assert!(!head.headers.contains_key("connection"));
        }
    }
}
