//! No answer to a key is kept for another: what is added to the policy that a backend gives its answer (FM5).

use http::HeaderMap;
use http::HeaderValue;
use http::header;

use crate::config::Auth;

/// Without a word of the backend that shared caches may keep an answer, they may not. With it they keep one for each key: a backend that
/// knows of no tenants calls public what only looks so. What is the same for everybody belongs on a public route.
pub(super) fn keep_for_one_caller(headers: &mut HeaderMap, auth: &Auth) {
    const PRIVATE: HeaderValue = HeaderValue::from_static("private");
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, PRIVATE);
        return;
    }
    let policy = || {
        let lines = headers.get_all(header::CACHE_CONTROL).iter();
        lines.map(HeaderValue::as_bytes)
    };
    if says(policy(), &["private", "no-store"]) {
        return;
    }
    if says(policy(), &["public", "s-maxage"]) {
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
pub(super) fn says<'a>(policy: impl Iterator<Item = &'a [u8]>, directives: &[&str]) -> bool {
    let mut there = policy.flat_map(|line| line.split(|byte| *byte == b','));
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

/// Headers that tell one make of cache more than `Cache-Control` tells all, and beat it there: nginx, CDNs (RFC 9213), surrogates.
pub(super) fn directs_one_cache(name: &[u8]) -> bool {
    match name.len() {
        15 => name == b"x-accel-expires",
        17.. => name == b"surrogate-control" || name.ends_with(b"cdn-cache-control"),
        _ => false,
    }
}
