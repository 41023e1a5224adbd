//! The head of every answer: what all of them carry, and what refusals add.

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Response;
use http::header::STRICT_TRANSPORT_SECURITY;
use http::request::Parts;

use crate::config::Config;
use crate::gate;
use crate::gate::Admission;
use crate::quota::Numbers;
use crate::quota::headers;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::upstream::ResponseBody;

use super::account::Account;
use super::body::Body;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A refusal in the shape of the host it was asked of.
pub(crate) fn refusal(
    account: &Account,
    snapshot: &Snapshot,
    refusal: &Refusal,
    numbers: Option<&Numbers>,
    host: Option<&str>,
) -> Response<Bytes> {
    let mut response = render(account, &snapshot.config, refusal, host);
    rate_headers(response.headers_mut(), &snapshot.config, numbers);
    common_headers(response.headers_mut(), &snapshot.config, account);
    response
}

/// The 403 of the plain-HTTP listener, in the shape of the host it was asked of; no HSTS, which has no meaning there.
pub(crate) fn plaintext(account: &Account, snapshot: &Snapshot, head: &Parts) -> Response<Bytes> {
    let host = gate::host_name(head);
    let refusal = Refusal::PlaintextRefused;
    let mut response = render(account, &snapshot.config, &refusal, host.as_deref());
    response
        .headers_mut()
        .insert(X_REQUEST_ID, account.request_id().clone());
    response
}

/// The 400 in clear of a TLS port. Nothing of the request is known, so the shape is that of `[errors]`.
pub(crate) fn tls_expected(config: &Config, request_id: &HeaderValue) -> Response<Bytes> {
    let style = gate::style(config, None, false);
    Refusal::TlsExpected.render(&style, request_id.to_str().unwrap_or(""), false)
}

/// A backend's answer on its way to the client.
pub(crate) fn pass_on(
    answer: Response<ResponseBody>,
    admission: &Admission,
    account: Account,
) -> Response<Body> {
    let (mut head, stream) = answer.into_parts();
    let config = &admission.snapshot().config;
    if admission.principal().is_some() {
        headers::strip(&mut head.headers);
        rate_headers(&mut head.headers, config, admission.numbers());
    }
    common_headers(&mut head.headers, config, &account);
    Response::from_parts(head, Body::upstream(stream, account))
}

fn render(
    account: &Account,
    config: &Config,
    refusal: &Refusal,
    host: Option<&str>,
) -> Response<Bytes> {
    let style = gate::style(config, host, account.is_grpc());
    let request_id = account.request_id().to_str().unwrap_or("");
    refusal.render(&style, request_id, account.is_head())
}

fn rate_headers(headers: &mut HeaderMap, config: &Config, numbers: Option<&Numbers>) {
    if let Some(numbers) = numbers {
        headers::apply(
            headers,
            numbers,
            config.limits.x_headers,
            config.limits.ietf_headers,
        );
    }
}

fn common_headers(headers: &mut HeaderMap, config: &Config, account: &Account) {
    headers.insert(X_REQUEST_ID, account.request_id().clone());
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
