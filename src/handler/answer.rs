//! The head of every answer: what all of them carry, and what refusals add.

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Response;
use http::StatusCode;
use http::header::ACCESS_CONTROL_ALLOW_CREDENTIALS;
use http::header::ACCESS_CONTROL_ALLOW_HEADERS;
use http::header::ACCESS_CONTROL_ALLOW_METHODS;
use http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
use http::header::ACCESS_CONTROL_EXPOSE_HEADERS;
use http::header::ACCESS_CONTROL_MAX_AGE;
use http::header::CACHE_CONTROL;
use http::header::CONTENT_LENGTH;
use http::header::CONTENT_TYPE;
use http::header::REFERRER_POLICY;
use http::header::STRICT_TRANSPORT_SECURITY;
use http::header::VARY;
use http::request::Parts;
use http::response;

use crate::config::Config;
use crate::gate;
use crate::gate::Admission;
use crate::gate::Cors;
use crate::gate::Manner;
use crate::gate::Preflight;
use crate::gate::Refused;
use crate::model::fields::Fields;
use crate::model::request_id::RequestId;
use crate::model::resource::Resource;
use crate::model::route::Route;
use crate::quota::Numbers;
use crate::quota::headers;
use crate::quota::headers::Shown;
use crate::refusal::Refusal;
use crate::refusal::Style;
use crate::snapshot::Snapshot;
use crate::upstream::ResponseBody;

use super::account::Account;
use super::body::Body;
use super::body::Words;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static REQUEST_ID: HeaderName = X_REQUEST_ID;
static HSTS: HeaderName = STRICT_TRANSPORT_SECURITY;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Ten minutes: what a reload changes is felt soon.
const METADATA_AGE: HeaderValue = HeaderValue::from_static("public, max-age=600");
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");
const PRIVATE: HeaderValue = HeaderValue::from_static("private");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const PREFLIGHT_VARY: HeaderValue = HeaderValue::from_static(
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
);
/// Ten minutes: a changed list of origins is felt soon, and a page does not ask before each request.
const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("600");
/// What a page may read of our own headers.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id",
);

/// A refusal in the shape of the host it was asked of.
pub(crate) fn refusal(
    account: &Account,
    snapshot: &Snapshot,
    refusal: &Refusal,
    numbers: Option<&Numbers>,
    host: Option<&str>,
    manner: &Manner,
) -> Response<Words> {
    if goes_by_line(account, refusal, manner) {
        return by_line(account, &snapshot.config, refusal, numbers, host);
    }
    let response = render(account, &snapshot.config, refusal, host);
    dressed(response, account, snapshot, numbers, manner).map(Words::from)
}

/// Whether the fields of a refusal are written as lines: to HTTP/1.1, where nobody looks them up or changes them. What is told of nothing is told
/// of another's too, some of it in words of an upstream, and looks the same in the order of its fields (FM7).
fn goes_by_line(account: &Account, refusal: &Refusal, manner: &Manner) -> bool {
    account.takes_lines()
        && !account.is_grpc()
        && !refusal.closes_connection()
        && *refusal != Refusal::NoRoute
        && *manner == Manner::default()
}

/// The same as `render` and `dressed` make of a map.
fn by_line(
    account: &Account,
    config: &Config,
    refusal: &Refusal,
    numbers: Option<&Numbers>,
    host: Option<&str>,
) -> Response<Words> {
    let url = gate::metadata_url(config, host, account.path());
    let style = Style {
        metadata: url.as_deref(),
        ..gate::style(config, host, false)
    };
    let request_id = account.request_id().as_str();
    let mut out = Vec::with_capacity(REFUSAL_BYTES);
    let status = refusal.write_head(&style, request_id, &mut out);
    if let Some(numbers) = numbers {
        if !refusal.is_never_kept() {
            out.extend_from_slice(b"cache-control: private\r\n");
        }
        headers::write(numbers, &shown(config), &mut out);
    }
    write_hsts(config, &mut out);
    let fields = out.len();
    refusal.write_body(&style, request_id, &mut out);
    let mut response = Response::new(Words::with_fields(out, fields));
    *response.status_mut() = status;
    response
}

fn write_hsts(config: &Config, out: &mut Vec<u8>) {
    if let Some(hsts) = &config.http.hsts {
        out.extend_from_slice(b"strict-transport-security: ");
        out.extend_from_slice(hsts.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// The gateway's 404 for what is another's, in the words of the upstream where it has some.
pub(crate) fn twin(account: &Account, admission: &Admission) -> Response<Bytes> {
    let (snapshot, route) = (admission.snapshot(), admission.route());
    let host = without_port(admission.host());
    let response = not_found(account, snapshot, route, Some(host));
    dressed(
        response,
        account,
        snapshot,
        admission.numbers(),
        admission.manner(),
    )
}

/// The same where the backend is not asked at all.
pub(crate) fn refused_twin(
    account: &Account,
    snapshot: &Snapshot,
    refused: &Refused,
) -> Response<Bytes> {
    let host = refused.host.as_deref();
    let response = match &refused.route {
        Some(route) => not_found(account, snapshot, route, host),
        None => render(account, &snapshot.config, &Refusal::NoRoute, host),
    };
    let numbers = refused.numbers.as_ref();
    dressed(response, account, snapshot, numbers, &refused.manner)
}

fn not_found(
    account: &Account,
    snapshot: &Snapshot,
    route: &Route,
    host: Option<&str>,
) -> Response<Bytes> {
    let upstream = &snapshot.config.upstreams[route.upstream];
    let Some(own) = upstream.not_found.as_ref().filter(|_| !account.is_grpc()) else {
        return render(account, &snapshot.config, &Refusal::NoRoute, host);
    };
    let body = Bytes::from(own.body.clone());
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(if account.is_head() {
        Bytes::new()
    } else {
        body
    });
    *response.status_mut() = StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, own.content_type.clone());
    headers.insert(CONTENT_LENGTH, length);
    response
}

fn dressed(
    mut response: Response<Bytes>,
    account: &Account,
    snapshot: &Snapshot,
    numbers: Option<&Numbers>,
    manner: &Manner,
) -> Response<Bytes> {
    let headers = response.headers_mut();
    // A 404 that a shared cache kept would be everybody's, its owner's too (FM5).
    if numbers.is_some() && !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, PRIVATE);
    }
    rate_headers(headers, &snapshot.config, numbers);
    manner_headers(headers, manner);
    common_headers(headers, &snapshot.config, account);
    response
}

/// The 403 of the plain-HTTP listener, in the shape of the host it was asked of; no HSTS, which has no meaning there.
pub(crate) fn plaintext(account: &Account, snapshot: &Snapshot, head: &Parts) -> Response<Bytes> {
    let host = gate::host_name(head);
    let refusal = Refusal::PlaintextRefused;
    let mut response = render(account, &snapshot.config, &refusal, host.as_deref());
    response
        .headers_mut()
        .insert(X_REQUEST_ID, account.request_id().to_value());
    response
}

/// The 400 in clear of a TLS port. Nothing of the request is known, so the shape is that of `[errors]`.
pub(crate) fn tls_expected(config: &Config, request_id: &RequestId) -> Response<Bytes> {
    let style = gate::style(config, None, false);
    Refusal::TlsExpected.render(&style, request_id.as_str(), false)
}

/// The 204 of a preflight: what the page may send, said by the gateway alone (FF2).
pub(crate) fn preflight(
    account: &Account,
    snapshot: &Snapshot,
    preflight: &Preflight,
) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, preflight.origin.clone());
    if let Ok(methods) = HeaderValue::from_str(&preflight.methods) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    if let Some(asked) = &preflight.headers {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS);
    headers.insert(VARY, PREFLIGHT_VARY);
    common_headers(headers, &snapshot.config, account);
    response
}

/// A backend's answer on its way to the client.
pub(crate) fn pass_on<B>(
    answer: Response<B>,
    admission: &Admission,
    account: Box<Account>,
    body: fn(B, Box<Account>) -> Body,
) -> Response<Body> {
    let answer = finish(answer, admission, &account);
    answer.map(|stream| body(stream, account))
}

/// Writes the fields of a backend's answer that go on line by line, and what it carries of ours; says whether a date is among them.
pub(crate) fn write_fields(
    stream: &mut ResponseBody,
    account: &Account,
    out: &mut Vec<u8>,
) -> bool {
    let Some(flight) = account.flight() else {
        return false;
    };
    let admission = flight.admission();
    let config = &admission.snapshot().config;
    let is_dated = stream.write_fields(|name| is_ours(name, admission), out);
    if let Some(numbers) = admission.numbers() {
        headers::write(numbers, &shown(config), out);
    }
    out.extend_from_slice(b"x-request-id: ");
    out.extend_from_slice(account.request_id().as_bytes());
    out.extend_from_slice(b"\r\n");
    write_hsts(config, out);
    is_dated
}

/// Puts the same among the fields of an answer, and says the same; `None` when no map takes them.
pub(crate) fn put_fields(
    stream: &mut ResponseBody,
    account: &Account,
    fields: &mut Fields<'_>,
) -> Option<bool> {
    let admission = account.flight()?.admission();
    let config = &admission.snapshot().config;
    let is_dated = stream.put_fields(|name| is_ours(name, admission), fields)?;
    if let Some(numbers) = admission.numbers() {
        headers::put(fields, numbers, &shown(config));
    }
    fields.put(&REQUEST_ID, account.request_id().to_value());
    if let Some(hsts) = &config.http.hsts {
        fields.keep(&HSTS, hsts);
    }
    Some(is_dated)
}

/// Whether what a backend says under this name gives way to our own word.
fn is_ours(name: &[u8], admission: &Admission) -> bool {
    match name {
        b"x-request-id" => true,
        b"strict-transport-security" => admission.snapshot().config.http.hsts.is_some(),
        _ => {
            (admission.numbers().is_some() || admission.principal().is_some())
                && headers::speaks_of_limits(name)
        }
    }
}

/// What every backend's answer carries of ours.
pub(crate) fn finish<T>(
    mut answer: Response<T>,
    admission: &Admission,
    account: &Account,
) -> Response<T> {
    own_headers(answer.headers_mut(), admission, account);
    answer
}

/// A backend's 101 on its way to the client.
pub(crate) fn switch(
    mut head: response::Parts,
    admission: &Admission,
    account: &Account,
) -> response::Parts {
    own_headers(&mut head.headers, admission, account);
    head
}

/// What a backend's answer says of the gateway.
fn own_headers(headers: &mut HeaderMap, admission: &Admission, account: &Account) {
    let config = &admission.snapshot().config;
    match admission.numbers() {
        Some(numbers) => rate_headers(headers, config, Some(numbers)),
        None if admission.principal().is_some() => headers::strip(headers),
        None => {}
    }
    manner_headers(headers, admission.manner());
    common_headers(headers, config, account);
}

fn render(
    account: &Account,
    config: &Config,
    refusal: &Refusal,
    host: Option<&str>,
) -> Response<Bytes> {
    let url = gate::metadata_url(config, host, account.path());
    let style = Style {
        metadata: url.as_deref(),
        ..gate::style(config, host, account.is_grpc())
    };
    let request_id = account.request_id().as_str();
    refusal.render(&style, request_id, account.is_head())
}

/// What clients are told of a protected resource: the same to everybody, by GET alone.
pub(crate) fn metadata(
    account: &Account,
    snapshot: &Snapshot,
    resource: &Resource,
    host: &str,
    head: &Parts,
) -> Response<Words> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        let refused = Refusal::MethodNotAllowed("GET, HEAD".to_owned());
        let manner = Manner::default();
        return refusal(account, snapshot, &refused, None, Some(host), &manner);
    }
    let body = Bytes::from(resource.metadata());
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(if account.is_head() {
        Bytes::new()
    } else {
        body
    });
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CACHE_CONTROL, METADATA_AGE);
    common_headers(headers, &snapshot.config, account);
    response.map(Words::from)
}

fn rate_headers(headers: &mut HeaderMap, config: &Config, numbers: Option<&Numbers>) {
    if let Some(numbers) = numbers {
        headers::apply(headers, numbers, &shown(config));
    }
}

fn shown(config: &Config) -> Shown {
    Shown {
        x: config.limits.x_headers,
        ietf: config.limits.ietf_headers,
        reset_as_delta: config.limits.reset_as_delta,
    }
}

/// What the answer says because of how the request came: a page may read it, or may not pass its address on. What a backend says of other
/// origins gives way to the route's own word.
fn manner_headers(headers: &mut HeaderMap, manner: &Manner) {
    if manner.key_in_query {
        headers.insert(REFERRER_POLICY, NO_REFERRER);
        // To a shared cache this address, key and all, is like any other: what a backend calls public would outlive the key there.
        if !is_for_one_client(headers) {
            headers.insert(CACHE_CONTROL, PRIVATE);
        }
    }
    if manner.cors == Cors::Silent {
        return;
    }
    for name in [
        ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_ALLOW_CREDENTIALS,
        ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_MAX_AGE,
    ] {
        headers.remove(name);
    }
    headers.append(VARY, VARY_ORIGIN);
    if let Cors::Allowed(origin) = &manner.cors {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

/// Whether the cache policy forbids shared caches to keep the whole answer (RFC 9111 sections 5.2.2.5 and 5.2.2.7).
fn is_for_one_client(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CACHE_CONTROL).iter();
    let mut directives = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    directives.any(|directive| {
        let directive = directive.trim_ascii();
        directive.eq_ignore_ascii_case(b"private") || directive.eq_ignore_ascii_case(b"no-store")
    })
}

fn common_headers(headers: &mut HeaderMap, config: &Config, account: &Account) {
    headers.insert(X_REQUEST_ID, account.request_id().to_value());
    if let Some(hsts) = &config.http.hsts {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
}

/// A host without its port.
pub(crate) fn without_port(host: &str) -> &str {
    match host.find(']') {
        Some(end) => &host[..=end],
        None => host.split(':').next().unwrap_or(host),
    }
}

/// Room for most refusals, head and body.
const REFUSAL_BYTES: usize = 896;
