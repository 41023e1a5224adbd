//! Names in gateway.toml: of headers, cookies, members, paths, methods, people, and parts of key texts.

use http::HeaderName;
use http::HeaderValue;

use crate::config::values::Wrong;
use crate::config::values::digits_only;
use crate::config::values::wrong;
use crate::model::binding::WebOrigin;
use crate::model::display;
use crate::model::guard::MEMBER_BYTES_MAX;
use crate::model::route::pattern::Pattern;

/// A value of `Content-Type`.
pub(super) fn content_type(text: &str) -> Result<HeaderValue, Wrong> {
    match HeaderValue::from_str(text) {
        Ok(value) if text.contains('/') => Ok(value),
        _ => wrong(
            format!("\"{text}\" is no media type"),
            "write \"application/json\" or \"text/html; charset=utf-8\"",
        ),
    }
}

/// What a health check asks a server for: a path, perhaps with a query.
pub(super) fn check_path(text: &str) -> Result<String, Wrong> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    match text.starts_with('/') && text.len() <= 1_024 && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => wrong(
            format!("\"{text}\" is no path to ask a server for"),
            "write \"/healthz\": printable ASCII that begins with /, at most 1024 bytes",
        ),
    }
}

/// A header name that the gateway may set or remove: neither framing nor a name with `_`, which backends confuse with `-`.
pub(super) fn header_name(text: &str) -> Result<HeaderName, Wrong> {
    if text.contains('_') {
        return wrong(
            format!("\"{text}\" holds an underscore"),
            format!(
                "write \"{}\": many backends cannot tell _ from -",
                text.replace('_', "-")
            ),
        );
    }
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) if FRAMING.contains(&name.as_str()) => wrong(
            format!("\"{text}\" belongs to HTTP itself"),
            "choose a name that only your application reads",
        ),
        Ok(name) => Ok(name),
        Err(_) => wrong(
            format!("\"{text}\" is not a header name"),
            "a header name holds letters, digits and -, for example \"X-Tenant-ID\"",
        ),
    }
}

/// The name of a cookie that a browser sends to no other host, over TLS alone (RFC 6265bis section 4.1.3.2).
pub(super) fn session_cookie(text: &str) -> Result<String, Wrong> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let tail = text.strip_prefix("__Host-");
    match tail.is_some_and(|tail| !tail.is_empty()) && text.len() <= 64 && text.bytes().all(token) {
        true => Ok(text.to_owned()),
        false => wrong(
            format!("\"{text}\" is no name for a session"),
            "write \"__Host-session\": browsers take a cookie whose name begins so from this very host alone, over TLS, and let no other set it",
        ),
    }
}

/// A header name that can carry the tenant: none that HTTP, the client or the gateway needs for something else.
pub(super) fn tenant_header(text: &str) -> Result<HeaderName, Wrong> {
    let name = header_name(text)?;
    let taken = TAKEN.contains(&name.as_str())
        || TAKEN_PREFIXES
            .iter()
            .any(|prefix| name.as_str().starts_with(prefix));
    match taken {
        true => wrong(
            format!("\"{text}\" has a meaning of its own"),
            "choose a name that nothing else uses, for example \"X-Tenant-ID\"",
        ),
        false => Ok(name),
    }
}

/// The name of a plan or upstream, as it stands in logs and metrics: 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub(super) fn label(text: &str) -> Result<String, Wrong> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => wrong(
            format!("\"{text}\" is not a name"),
            "use 1 to 64 letters, digits and . _ -",
        ),
    }
}

/// The name of a member of JSON objects.
pub(super) fn member(text: &str) -> Result<String, Wrong> {
    match (1..=MEMBER_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(text.to_owned()),
        false => wrong(
            "this is not the name of a member",
            format!(
                "write the name as it reads, without escapes: 1 to {MEMBER_BYTES_MAX} bytes, no control characters"
            ),
        ),
    }
}

/// What people call a tenant or key: 1 to 128 characters that can be seen.
pub(super) fn display_name(text: &str) -> Result<String, Wrong> {
    match display::check("a name", text, 128) {
        Ok(()) => Ok(text.to_owned()),
        Err(why) => wrong("this is not a name", why),
    }
}

/// The name of the query parameter that carries a key: what needs no encoding in a URL.
pub(super) fn query_parameter(text: &str) -> Result<String, Wrong> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.len() <= 64 && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => wrong(
            format!("\"{text}\" is no name of a query parameter"),
            "use 1 to 64 letters, digits and . _ -, for example \"api_key\"; \"\" for none",
        ),
    }
}

/// An origin as browsers write it, or `*`.
pub(super) fn web_origin(text: &str) -> Result<String, Wrong> {
    match text {
        "*" => Ok(text.to_owned()),
        _ => match WebOrigin::parse(text) {
            Ok(origin) => Ok(origin.as_str().to_owned()),
            Err(why) => wrong(
                format!("\"{text}\" is not an origin"),
                format!("{why}; or \"*\" for all"),
            ),
        },
    }
}

/// The realm of `WWW-Authenticate`, which stands between quotes: 1 to 64 of printable ASCII without `"` and `\`.
pub(super) fn realm(text: &str) -> Result<String, Wrong> {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
    match (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => wrong(
            "this cannot stand in a challenge",
            "use 1 to 64 printable ASCII characters without \" and \\",
        ),
    }
}

/// The value of `Strict-Transport-Security`; empty is none.
pub(super) fn hsts(text: &str) -> Result<Option<HeaderValue>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::from_str(text).ok();
    let age = text
        .split(';')
        .filter_map(|part| part.trim().strip_prefix("max-age="))
        .any(digits_only);
    match value.filter(|_| age) {
        Some(value) => Ok(Some(value)),
        None => wrong(
            format!("\"{text}\" is no Strict-Transport-Security value"),
            "write \"max-age=31536000\", or \"\" for none",
        ),
    }
}

/// A word of `a-z 0-9`, 1 to 16 long: the parts of a key text between its underscores.
pub(super) fn key_word(text: &str) -> Result<String, Wrong> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match (1..=16).contains(&text.len()) && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => wrong(
            format!("\"{text}\" cannot stand in a key"),
            "use 1 to 16 of a-z and 0-9",
        ),
    }
}

/// A route's path pattern.
pub(super) fn route_path(text: &str) -> Result<String, Wrong> {
    if !text.starts_with('/') {
        return wrong(
            format!("\"{text}\" does not begin with /"),
            format!("write \"/{text}\""),
        );
    }
    match Pattern::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(why) => wrong(
            format!("\"{text}\" is not a path pattern: {why}"),
            "write \"/leases\", \"/leases/{id}\" or \"/leases/{*rest}\"",
        ),
    }
}

/// A method that routes may name: an upper-case token that the gateway forwards.
pub(super) fn method(text: &str) -> Result<String, Wrong> {
    let upper = text.to_ascii_uppercase();
    if upper == "CONNECT" || upper == "TRACE" {
        return wrong(format!("{upper} is never forwarded"), "take it out");
    }
    if http::Method::from_bytes(text.as_bytes()).is_err() {
        return wrong(
            format!("\"{text}\" is not a method"),
            "write \"GET\", \"POST\" …; leave methods out for every method",
        );
    }
    match text == upper {
        true => Ok(upper),
        false => wrong(
            format!("\"{text}\" is not in upper case"),
            format!("write \"{upper}\": methods are compared byte for byte"),
        ),
    }
}

/// Fields that frame a message or end at this hop (RFC 9110 §7.6.1): never ours to set or to take away.
const FRAMING: [&str; 11] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields with a meaning that a tenant's name must not replace.
const TAKEN: [&str; 18] = [
    "accept",
    "age",
    "authorization",
    "cache-control",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "from",
    "origin",
    "range",
    "referer",
    "server",
    "set-cookie",
    "user-agent",
    "via",
    "x-api-key",
    "x-request-id",
];

/// Families of such fields.
const TAKEN_PREFIXES: [&str; 9] = [
    "accept-",
    "access-control-",
    "content-",
    "grpc-",
    "if-",
    "proxy-",
    "sec-",
    "x-forwarded-",
    "x-ratelimit-",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_tenant_header_replaces_nothing_that_others_need() {
        for text in ["X-Tenant-ID", "x-org", "Tenant"] {
            assert!(tenant_header(text).is_ok(), "{text}");
        }
        let bad = [
            "",
            "Host",
            "connection",
            "Content-Length",
            "content-type",
            "Transfer-Encoding",
            "TE",
            "Upgrade",
            "Authorization",
            "X-API-Key",
            "Cookie",
            "X-Request-Id",
            "X-Forwarded-For",
            "Forwarded",
            "Via",
            "Date",
            "Accept-Encoding",
            "If-Match",
            "Sec-Fetch-Site",
            "X_Tenant",
            "X Tenant",
            "X-Tenant:",
            "X-RateLimit-Limit",
            "Tenänt",
        ];
        for text in bad {
            assert!(tenant_header(text).is_err(), "{text}");
        }
    }

    #[test]
    fn other_words_are_checked_too() {
        let label_64 = "a".repeat(64);
        assert!(
            label(&label_64).is_ok()
                && label(&format!("{label_64}a")).is_err()
                && label("").is_err()
                && label("a b").is_err()
        );
        assert!(
            key_word("fp2").is_ok()
                && key_word("FP").is_err()
                && key_word("a_b").is_err()
                && key_word("").is_err()
        );
        assert!(
            method("PATCH").is_ok()
                && method("get").is_err()
                && method("CONNECT").is_err()
                && method("trace").is_err()
                && method("").is_err()
        );
        assert!(method("PROPFIND").is_ok() && method("G T").is_err());
        assert!(
            realm("my api").is_ok()
                && realm("a\"b").is_err()
                && realm("a\\b").is_err()
                && realm("").is_err()
                && realm("é").is_err()
        );
        assert!(
            hsts("max-age=1; preload").unwrap().is_some()
                && hsts("").unwrap().is_none()
                && hsts("max-age=x").is_err()
                && hsts("max-age=1\n").is_err()
        );
        assert!(
            display_name("Zoë & Co").is_ok()
                && display_name("a\nb").is_err()
                && display_name("a\u{202e}b").is_err()
                && display_name("").is_err()
        );
        assert!(
            header_name("X-Any").is_ok()
                && header_name("Cookie").is_ok()
                && header_name("host").is_err()
        );
        assert!(
            route_path("/a/{b}/{*c}").is_ok()
                && route_path("a").is_err()
                && route_path("/a/{*c}/b").is_err()
        );
    }

    proptest! {
        #[test]
        fn no_word_panics(text in "\\PC*|(http://|:|\\[|\\]|[a-z0-9.]|/|@|\\*){0,12}") {
            let _ = (tenant_header(&text), label(&text), key_word(&text), method(&text), realm(&text), hsts(&text), display_name(&text), route_path(&text));
        }
    }
}
