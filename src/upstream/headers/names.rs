//! Names of headers that do not pass: those of one connection, and those that only this gateway, or nobody, may say, in any spelling.

use http::HeaderMap;
use http::HeaderName;
use http::header;

use crate::config::Headers;

/// What may be among the names that were left, and what for certain is not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left {
    pub(super) authorization: bool,
    pub(super) cookies: bool,
}

/// One pass over the names, then removal of those that are there: asking the map for each name costs more (one hash each).
pub(super) fn remove_forbidden(headers: &mut HeaderMap, rules: &Headers) -> Left {
    let (mut doomed, mut left, mut nominates) = (Vec::new(), Left::default(), false);
    for name in headers.keys() {
        if is_forbidden(name.as_str().as_bytes(), rules) {
            nominates |= *name == header::CONNECTION;
            doomed.push(name.clone());
        }
        left.authorization |= *name == header::AUTHORIZATION;
        left.cookies |= *name == header::COOKIE;
    }
    if nominates {
        doomed.extend(nominated(headers));
    }
    remove_all(headers, &doomed);
    left
}

pub(super) fn remove_all(headers: &mut HeaderMap, doomed: &[HeaderName]) {
    for name in doomed {
        headers.remove(name);
    }
}

/// What all `Connection` lines together name and the message carries (RFC 9110 section 7.6.1). Framing and `Host` cannot be nominated;
/// nominating one of our own names is without effect, since ours are set later (S8).
pub(super) fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
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
fn is_forbidden(name: &[u8], rules: &Headers) -> bool {
    // Framing is ours to restate; only look-alikes of this name go.
    if name == b"content-length" {
        return false;
    }
    is_hop_by_hop(name)
        || ours(name.len())
            .iter()
            .any(|own| same_name(name, own.as_bytes()))
        || begins_like(name, b"x-forwarded-")
        || same_name(name, rules.tenant.as_str().as_bytes())
        || rules
            .subject
            .as_ref()
            .is_some_and(|subject| same_name(name, subject.as_str().as_bytes()))
        || rules
            .remove
            .iter()
            .any(|remove| same_name(name, remove.as_str().as_bytes()))
        || (name.contains(&b'_') && !rules.keep_underscore)
}

/// Headers that speak of one connection, in any spelling that a backend may read as the same name.
pub(super) fn is_hop_by_hop(name: &[u8]) -> bool {
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
    candidates.iter().any(|own| same_name(name, own.as_bytes()))
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
pub(super) fn same_name(name: &[u8], other: &[u8]) -> bool {
    name.len() == other.len() && begins_like(name, other)
}

fn begins_like(name: &[u8], start: &[u8]) -> bool {
    name.len() >= start.len()
        && name
            .iter()
            .zip(start)
            .all(|(left, right)| folded(*left) == folded(*right))
}

pub(super) fn folded(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}
