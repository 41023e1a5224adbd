//! The heads of a guarded exchange: what is asked of the backend, how its answer is to be read, and what no longer holds of it.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use http::header::ACCEPT_ENCODING;
use http::header::ACCEPT_RANGES;
use http::header::CONTENT_ENCODING;
use http::header::CONTENT_LENGTH;
use http::header::CONTENT_TYPE;
use http::header::ETAG;
use http::header::IF_MATCH;
use http::header::IF_NONE_MATCH;
use http::header::IF_RANGE;
use http::header::RANGE;
use http::header::UPGRADE;
use http::response::Parts;

use crate::guard::Coding;
use crate::guard::Form;
use crate::guard::form;

/// Ends the entity tag of what a guard may have changed: weak, since the bytes are others, and told apart from the backend's own.
const MARK: &str = "-guarded\"";

/// Of the backend's bytes; the client gets others.
const DIGESTS: [&str; 4] = ["content-md5", "digest", "content-digest", "repr-digest"];

/// How an answer is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Not at all: it is no JSON.
    Not,
    /// Its head only: it has no body.
    Head,
    /// All of it.
    Body(Form, Coding),
    /// It cannot be; says why.
    Impossible(&'static str),
}

/// Asks the backend for the whole and for plain bytes: a part cannot be judged, and what is decoded at once is compressed in vain. Says
/// whether the client asks about something that this guard has marked.
pub(crate) fn ask(headers: &mut HeaderMap) -> bool {
    // No guard looks into a tunnel.
    headers.remove(UPGRADE);
    headers.remove(RANGE);
    headers.remove(IF_RANGE);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let mut marked = false;
    for name in [IF_NONE_MATCH, IF_MATCH] {
        let lines: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
        if lines.is_empty() {
            continue;
        }
        headers.remove(&name);
        for line in lines {
            let plain = unmarked(&line);
            marked |= plain.is_some();
            headers.append(&name, plain.unwrap_or(line));
        }
    }
    marked
}

/// How this answer is to be read.
pub(crate) fn reading(head: &Parts, has_body: bool, marked: bool) -> Reading {
    if head.status == StatusCode::NOT_MODIFIED {
        return if marked { Reading::Head } else { Reading::Not };
    }
    if head.status == StatusCode::PARTIAL_CONTENT {
        return Reading::Impossible("the backend sent a part although the whole was asked for");
    }
    let mut types = head.headers.get_all(CONTENT_TYPE).iter();
    let media = types.next().map_or(&b""[..], HeaderValue::as_bytes);
    if types.next().is_some() {
        return Reading::Impossible("the answer states two types");
    }
    let Some(form) = form(media) else {
        return Reading::Not;
    };
    match (coding(&head.headers), has_body) {
        (None, _) => Reading::Impossible("the answer is in an encoding that is not known here"),
        (Some(_), false) => Reading::Head,
        (Some(coding), true) => Reading::Body(form, coding),
    }
}

/// Takes out of the head of a guarded answer what is true only of the backend's own bytes.
pub(crate) fn restate(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    headers.remove(CONTENT_ENCODING);
    forget_digests(headers);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
    let tag = headers.get(ETAG).map(marked);
    match tag {
        Some(Some(tag)) => drop(headers.insert(ETAG, tag)),
        Some(None) => drop(headers.remove(ETAG)),
        None => {}
    }
}

/// The same of trailers.
pub(crate) fn forget_digests(headers: &mut HeaderMap) {
    for name in DIGESTS {
        headers.remove(HeaderName::from_static(name));
    }
}

/// The one coding, `Identity` if there is none; `None` if there are several or it is not known.
fn coding(headers: &HeaderMap) -> Option<Coding> {
    let lines = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|coding| coding.trim_ascii().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != b"identity");
    let coding = match codings.next().as_deref() {
        None => Coding::Identity,
        Some(b"gzip" | b"x-gzip") => Coding::Gzip,
        Some(b"br") => Coding::Brotli,
        Some(b"zstd") => Coding::Zstd,
        Some(_) => return None,
    };
    codings.next().is_none().then_some(coding)
}

/// `"x"` as `W/"x-guarded"`; a weak tag claims no bytes and stays; what is no tag goes.
fn marked(tag: &HeaderValue) -> Option<HeaderValue> {
    let text = tag.to_str().ok()?;
    if text.starts_with("W/\"") && text.len() > 3 && text.ends_with('"') {
        return Some(tag.clone());
    }
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    HeaderValue::try_from(format!("W/\"{inner}{MARK}")).ok()
}

/// A list of tags with ours as the backend wrote them; `None` if none is ours. Without this no write could be conditional, since `If-Match`
/// compares strongly (RFC 9110 section 13.1.1).
fn unmarked(list: &HeaderValue) -> Option<HeaderValue> {
    let mut rest = list.to_str().ok()?;
    let mut plain = String::with_capacity(rest.len());
    let mut found = false;
    while let Some(open) = rest.find('"') {
        let close = open + 1 + rest[open + 1..].find('"')?;
        let (before, tag) = (&rest[..open], &rest[open..=close]);
        match (before.strip_suffix("W/"), tag.strip_suffix(MARK)) {
            (Some(before), Some(tag)) => {
                found = true;
                plain.push_str(before);
                plain.push_str(tag);
                plain.push('"');
            }
            _ => {
                plain.push_str(before);
                plain.push_str(tag);
            }
        }
        rest = &rest[close + 1..];
    }
    plain.push_str(rest);
    HeaderValue::try_from(plain).ok().filter(|_| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_marked_and_come_back_as_they_were() {
        for (tag, shown) in [
            ("\"x\"", Some("W/\"x-guarded\"")),
            ("\"\"", Some("W/\"-guarded\"")),
            ("W/\"x\"", Some("W/\"x\"")),
            ("x", None),
        ] {
            let shown_now = marked(&HeaderValue::from_static(tag));
            assert_eq!(shown_now, shown.map(HeaderValue::from_static), "{tag}");
        }
        for (list, plain) in [
            ("W/\"x-guarded\"", Some("\"x\"")),
            (
                "\"a\", W/\"b\",W/\"c-guarded\" , W/\"-guarded\"",
                Some("\"a\", W/\"b\",\"c\" , \"\""),
            ),
            ("\"x-guarded\"", None),
            ("W/\"x\"", None),
            ("*", None),
            ("W/\"x-guarded", None),
        ] {
            let plain_now = unmarked(&HeaderValue::from_static(list));
            assert_eq!(plain_now, plain.map(HeaderValue::from_static), "{list}");
        }
    }

    #[test]
    fn an_encoding_is_known_or_nothing_is_read() {
        for (lines, expected) in [
            (&[][..], Some(Coding::Identity)),
            (&["identity"], Some(Coding::Identity)),
            (&["GZIP"], Some(Coding::Gzip)),
            (&["x-gzip"], Some(Coding::Gzip)),
            (&["br"], Some(Coding::Brotli)),
            (&["identity, zstd"], Some(Coding::Zstd)),
            (&["deflate"], None),
            (&["gzip, br"], None),
            (&["gzip", "gzip"], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(coding(&headers), expected, "{lines:?}");
        }
    }
}
