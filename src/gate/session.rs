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

/// What was taken out of the cookies.
#[derive(Default)]
pub(super) struct Taken {
    /// The session.
    pub(super) presented: Presented,
    /// All lines as they came, so that a session that is not known can be judged once more.
    pub(super) lines: Vec<HeaderValue>,
}

/// Takes the cookie of this name out of the headers, whatever the route takes: a session is a credential, and no backend's business. All other
/// cookies stay as they came. `known` says whether a text is a session that is remembered.
pub(super) fn take(
    headers: &mut HeaderMap,
    name: &str,
    length_max: usize,
    mut known: impl FnMut(&[u8]) -> bool,
) -> Taken {
    let Some(found) = find(headers, name) else {
        return Taken::default();
    };
    let text = text_of(found.line.as_bytes(), &found.part, name);
    let is_known = (text.clone())
        .is_some_and(|text| text.len() <= length_max && known(&found.line.as_bytes()[text]));
    let lines = match is_known {
        true => Vec::new(),
        false => headers.get_all(header::COOKIE).iter().cloned().collect(),
    };
    let (is_repeated, place) = (found.is_repeated, (found.index, found.part));
    let line = match (found.is_repeated, found.lines) {
        (false, 1) => remove_from_one(headers, &place.1),
        _ => remove(headers, name, place.0),
    };
    let read = |(line, text)| Credential::cookie(line, text, length_max, is_known);
    let credential = match is_repeated {
        true => Err(invalid("credential_repeated")),
        false => (line.zip(text).and_then(read)).ok_or_else(|| invalid("credential_malformed")),
    };
    Taken {
        presented: Some(credential),
        lines,
    }
}

/// Where a cookie stands.
struct Found<'a> {
    /// The number of its line, and the line.
    index: usize,
    line: &'a HeaderValue,
    /// Which part of the line it is.
    part: Range<usize>,
    /// Whether there is another one.
    is_repeated: bool,
    /// How many lines of cookies there are.
    lines: usize,
}

/// The first cookie of this name.
fn find<'a>(headers: &'a HeaderMap, name: &str) -> Option<Found<'a>> {
    let mut found: Option<Found<'_>> = None;
    let mut lines = 0;
    for line in headers.get_all(header::COOKIE) {
        let bytes = line.as_bytes();
        for part in parts(bytes).filter(|part| is(&bytes[part.clone()], name)) {
            match &mut found {
                Some(found) => found.is_repeated = true,
                None => {
                    found = Some(Found {
                        index: lines,
                        line,
                        part,
                        is_repeated: false,
                        lines: 0,
                    });
                }
            }
        }
        lines += 1;
    }
    found.map(|found| Found { lines, ..found })
}

/// Takes this part out of the only line, and gives the line as it came. Most often there is nothing else in it.
fn remove_from_one(headers: &mut HeaderMap, part: &Range<usize>) -> Option<HeaderValue> {
    let line = headers.remove(header::COOKIE)?;
    let (before, after) = (&line.as_bytes()[..part.start], &line.as_bytes()[part.end..]);
    // One of the semicolons beside it goes with it.
    match (before, after) {
        ([], []) => {}
        ([], after) => append(headers, after.get(1..).unwrap_or_default()),
        ([before @ .., _], after) => append(headers, &[before, after].concat()),
    }
    Some(line)
}

/// Takes every cookie of this name out, and gives the line with this number as it came.
fn remove(headers: &mut HeaderMap, name: &str, index: usize) -> Option<HeaderValue> {
    let mut lines: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    for line in &lines {
        let bytes = line.as_bytes();
        let others = parts(bytes).filter(|part| !is(&bytes[part.clone()], name));
        let rest = others.map(|part| &bytes[part]).collect::<Vec<_>>();
        append(headers, &rest.join(&b';'));
    }
    (index < lines.len()).then(|| lines.swap_remove(index))
}

fn append(headers: &mut HeaderMap, rest: &[u8]) {
    // Parts of a valid line are one; should that ever fail, the line is gone.
    if let Ok(rest) = HeaderValue::from_bytes(rest.trim_ascii())
        && !rest.is_empty()
    {
        headers.append(header::COOKIE, rest);
    }
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
    let after = part.trim_ascii_start().strip_prefix(name.as_bytes());
    after.is_some_and(|after| matches!(after.trim_ascii_start(), [] | [b'=', ..]))
}

/// Where the value stands in a line of which this part is the cookie of this name; `None` where it has none.
fn text_of(line: &[u8], part: &Range<usize>, name: &str) -> Option<Range<usize>> {
    let bytes = line[part.clone()].trim_ascii_end();
    let end = part.start + bytes.len();
    let value = bytes.trim_ascii_start().get(name.len()..)?;
    let value = value.trim_ascii_start().strip_prefix(b"=")?;
    Some(end - value.trim_ascii_start().len()..end)
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
        let presented = take(&mut headers, NAME, 20, |_| false).presented;
        let presented = presented.map(|read| match read {
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

    /// What is known is not looked at and need not be put back; all else can be, as it came.
    #[test]
    fn only_what_is_known_is_not_kept() {
        for (lines, text, known) in [
            (&["a=1; __Host-session=x y"][..], Some("x y"), true),
            (&["a=1; __Host-session=x"][..], Some("x"), false),
            (
                &["a=1", "b=2; __Host-session=x", "c=3"][..],
                Some("x"),
                false,
            ),
            (&["__Host-session=x", "__Host-session=x"][..], None, false),
            (&["__Host-session=0123456789012345678901"][..], None, true),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, HeaderValue::from_str(line).unwrap());
            }
            let taken = take(&mut headers, NAME, 20, |_| known);
            let read = taken.presented.unwrap();
            let read = read.as_ref().ok().map(Credential::text);
            assert_eq!(read, text.map(str::as_bytes), "{lines:?}");
            let kept: Vec<&str> = taken.lines.iter().map(|l| l.to_str().unwrap()).collect();
            let expected = if known && text.is_some() {
                &[][..]
            } else {
                lines
            };
            assert_eq!(kept, *expected, "{lines:?}");
        }
    }
}
