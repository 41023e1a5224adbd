//! Sessions of browsers (PB11): the cookie, taken out of the request and nothing else with it, and where requests that change something may
//! come from.

use std::ops::Range;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header;
use memchr::memchr;

use super::credential::Credential;
use super::host::Host;
use super::query::Presented;
use super::refused::Fault;
use crate::model::route::Route;
use crate::refusal::Refusal;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Takes the cookie of this name out of the headers, whatever the route takes: a session is a credential, and no backend's business. All other
/// cookies stay as they came.
pub(super) fn take(headers: &mut HeaderMap, name: &str, length_max: usize) -> Presented {
    let there = |line: &HeaderValue| {
        let line = line.as_bytes();
        parts(line).any(|part| is(&line[part], name))
    };
    if !headers.get_all(header::COOKIE).iter().any(there) {
        return None;
    }
    let lines: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    let mut presented = None;
    for line in lines {
        let bytes = line.as_bytes();
        let mut others: Vec<&[u8]> = Vec::new();
        for part in parts(bytes) {
            if !is(&bytes[part.clone()], name) {
                others.push(&bytes[part]);
                continue;
            }
            presented = Some(match presented {
                None => read(&line, part, name, length_max),
                Some(_) => Err(invalid("credential_repeated")),
            });
        }
        let rest = others.join(&b';');
        // Parts of a valid line are one; should that ever fail, the line is gone.
        if let Ok(rest) = HeaderValue::from_bytes(rest.trim_ascii())
            && !rest.is_empty()
        {
            headers.append(header::COOKIE, rest);
        }
    }
    presented
}

/// Whether a request with a session comes from where it may. What only reads may come from anywhere: no other page sees the answer.
///
/// # Errors
/// 403: it changes something, or opens a tunnel, and its page is another's, or nobody says which it is.
pub(super) fn check_origin(
    method: &Method,
    headers: &HeaderMap,
    host: &Host,
    route: Option<&Route>,
) -> Result<(), Fault> {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    // A page may open a WebSocket anywhere, and reads what comes back.
    if reads && !headers.contains_key(header::UPGRADE) {
        return Ok(());
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let ours = match (origins.next(), origins.next()) {
        (Some(origin), None) => is_own(origin, host) || is_listed(origin, route),
        (Some(_), Some(_)) => false,
        // Browsers that are old enough to send neither send no `__Host-` cookie back.
        (None, _) => headers
            .get(SEC_FETCH_SITE)
            .is_some_and(|site| site == "same-origin"),
    };
    match ours {
        true => Ok(()),
        false => Err(Fault::new(Refusal::OriginNotAllowed, "cross_site")),
    }
}

/// Clients speak TLS to us, or to a proxy of ours.
fn is_own(origin: &HeaderValue, host: &Host) -> bool {
    let text = host.text();
    let text = text.strip_suffix(":443").unwrap_or(text);
    let own = origin.as_bytes().strip_prefix(b"https://");
    own.is_some_and(|own| own.eq_ignore_ascii_case(text.as_bytes()))
}

/// By its name: `*` lets pages read, but not act for whoever is logged in.
fn is_listed(origin: &HeaderValue, route: Option<&Route>) -> bool {
    route.is_some_and(|route| {
        let mut origins = route.origins.iter();
        origins.any(|listed| listed.as_bytes() == origin.as_bytes())
    })
}

/// Where the cookies of a line stand in it. A session has some 700 bytes, so that they are not looked at one by one.
fn parts(line: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let start = next?;
        let end = memchr(b';', &line[start..]).map(|at| start + at);
        next = end.map(|end| end + 1);
        Some(start..end.unwrap_or(line.len()))
    })
}

/// Whether a part of a line is the cookie of this name; names have one spelling.
fn is(part: &[u8], name: &str) -> bool {
    let end = memchr(b'=', part).unwrap_or(part.len());
    part[..end].trim_ascii() == name.as_bytes()
}

/// Takes the value out of this part of a line, without copying it.
fn read(
    line: &HeaderValue,
    part: Range<usize>,
    name: &str,
    length_max: usize,
) -> Result<Credential, Fault> {
    let bytes = line.as_bytes()[part.clone()].trim_ascii_end();
    let end = part.start + bytes.len();
    let value = bytes.trim_ascii_start().get(name.len()..);
    let value = value.and_then(|value| value.trim_ascii_start().strip_prefix(b"="));
    let credential = value.and_then(|value| {
        let start = end - value.trim_ascii_start().len();
        Credential::cookie(line.clone(), start..end, length_max)
    });
    credential.ok_or_else(|| invalid("credential_malformed"))
}

fn invalid(reason: &'static str) -> Fault {
    Fault::new(Refusal::CredentialInvalid, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "__Host-session";

    fn taken(lines: &[&str]) -> (Option<Result<String, &'static str>>, Vec<String>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::COOKIE, HeaderValue::from_str(line).unwrap());
        }
        let presented = take(&mut headers, NAME, 20).map(|read| match read {
            Ok(credential) => Ok(String::from_utf8(credential.text().to_vec()).unwrap()),
            Err(fault) => Err(fault.reason),
        });
        let rest = headers.get_all(header::COOKIE).iter();
        let rest = rest.map(|line| line.to_str().unwrap().to_owned());
        (presented, rest.collect())
    }

    // PB11: only that cookie goes; all others stay byte for byte.
    #[test]
    fn pb11_only_the_session_is_taken_out() {
        type Case<'a> = (
            &'a [&'a str],
            Option<Result<&'a str, &'a str>>,
            &'a [&'a str],
        );
        let cases: &[Case<'_>] = &[
            (&[], None, &[]),
            (&["a=1; b=2"], None, &["a=1; b=2"]),
            (&["__Host-session=x"], Some(Ok("x")), &[]),
            (
                &["a=1; __Host-session=x; b=2"],
                Some(Ok("x")),
                &["a=1; b=2"],
            ),
            (&["__Host-session=x; b=\"2\""], Some(Ok("x")), &["b=\"2\""]),
            (&["a=1;__Host-session=x"], Some(Ok("x")), &["a=1"]),
            (
                &["a=1", "__Host-session=x", "b=2"],
                Some(Ok("x")),
                &["a=1", "b=2"],
            ),
            (&["__host-session=x"], None, &["__host-session=x"]),
            (&["__Host-session2=x"], None, &["__Host-session2=x"]),
            (&["a=__Host-session=x"], None, &["a=__Host-session=x"]),
            (
                &["__Host-session=x; __Host-session=x"],
                Some(Err("credential_repeated")),
                &[],
            ),
            (
                &["__Host-session=x", "a=1; __Host-session=y"],
                Some(Err("credential_repeated")),
                &["a=1"],
            ),
            (&["__Host-session"], Some(Err("credential_malformed")), &[]),
            (&["__Host-session="], Some(Err("credential_malformed")), &[]),
            (&["__Host-session = x"], Some(Ok("x")), &[]),
            (
                &["a=1;  __Host-session =  x=y  ;b=2"],
                Some(Ok("x=y")),
                &["a=1;b=2"],
            ),
            (&["__Host-session=x;"], Some(Ok("x")), &[]),
            (&[";__Host-session=x;;"], Some(Ok("x")), &[";;"]),
            (
                &["__Host-session= ; a"],
                Some(Err("credential_malformed")),
                &["a"],
            ),
            (
                &["; __Host-session"],
                Some(Err("credential_malformed")),
                &[],
            ),
            (
                &["__Host-session=x y"],
                Some(Err("credential_malformed")),
                &[],
            ),
            (
                &["__Host-session=012345678901234567890"],
                Some(Err("credential_malformed")),
                &[],
            ),
        ];
        for (lines, presented, rest) in cases {
            let (found, left) = taken(lines);
            let found = found
                .as_ref()
                .map(|read| read.as_deref().map_err(|why| *why));
            assert_eq!(found, *presented, "{lines:?}");
            assert_eq!(left, *rest, "{lines:?}");
        }
    }
}
