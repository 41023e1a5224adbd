//! Sessions of browsers (PB11): the cookie, taken out of the request and nothing else with it, and where requests that change something may
//! come from.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header;

use super::Fault;
use super::credential::Credential;
use super::host::Host;
use super::query::Presented;
use crate::model::route::Route;
use crate::refusal::Refusal;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Takes the cookie of this name out of the headers, whatever the route takes: a session is a credential, and no backend's business. All other
/// cookies stay as they came.
pub(super) fn take(headers: &mut HeaderMap, name: &str, length_max: usize) -> Presented {
    let there = |line: &HeaderValue| line.as_bytes().split(cuts).any(|part| is(part, name));
    if !headers.get_all(header::COOKIE).iter().any(there) {
        return None;
    }
    let lines: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    let mut presented = None;
    for line in lines {
        let parts = line.as_bytes().split(cuts);
        let (own, others): (Vec<&[u8]>, Vec<&[u8]>) = parts.partition(|part| is(part, name));
        for part in own {
            presented = Some(match presented {
                None => read(part, name, length_max),
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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "it is what `split` calls"
)]
fn cuts(byte: &u8) -> bool {
    *byte == b';'
}

/// Whether a part of a line is the cookie of this name; names have one spelling.
fn is(part: &[u8], name: &str) -> bool {
    let own = part.split(|byte| *byte == b'=').next().unwrap_or_default();
    own.trim_ascii() == name.as_bytes()
}

fn read(part: &[u8], name: &str, length_max: usize) -> Result<Credential, Fault> {
    let value = part.trim_ascii().get(name.len()..).unwrap_or_default();
    let value = value.trim_ascii_start().strip_prefix(b"=");
    let value = value.and_then(|value| HeaderValue::from_bytes(value.trim_ascii()).ok());
    let credential = value.and_then(|value| Credential::cookie(value, length_max));
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
