//! The target and the head of a request: bounded, in a form that is served, with one canonical path (DESIGN section 3, step 1).

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Uri;
use http::Version;
use http::header;
use http::request::Parts;
use http::uri::PathAndQuery;

use super::refused::Fault;
use crate::config::Http;
use crate::model::route::path;
use crate::model::route::path::Doubt;
use crate::refusal::Refusal;

/// What a request asks for, in origin-form.
#[derive(Debug)]
pub(super) struct Target {
    came: PathAndQuery,
    /// Where it is another.
    canonical: Option<PathAndQuery>,
    doubt: Option<Doubt>,
}

impl Target {
    /// The path to match.
    pub(super) fn path(&self) -> &str {
        self.canonical.as_ref().unwrap_or(&self.came).path()
    }

    /// What is decided on and forwarded: the canonical path with the query as it came. A route with `raw_path` takes an ambiguous path as
    /// it came; it was matched segment by segment with dots, semicolons and encodings taken literally.
    ///
    /// # Errors
    /// 400 for an ambiguous path without such a route.
    pub(super) fn decide(self, raw_path: bool) -> Result<PathAndQuery, Fault> {
        match self.doubt {
            None => Ok(self.canonical.unwrap_or(self.came)),
            Some(_) if raw_path => Ok(self.came),
            Some(doubt) => Err(Fault::bad_request(doubt.detail(), doubt.reason())),
        }
    }
}

/// Checks method, target form, sizes and transfer coding, and finds the canonical path. A fragment never gets here: the HTTP library cuts it off.
///
/// # Errors
/// 400, 414, 431 or 501.
pub(super) fn of(head: &Parts, bounds: &Http) -> Result<Target, Fault> {
    check_form(head)?;
    check_values(head)?;
    if check_sizes(head, bounds)? {
        check_transfer_coding(&head.headers)?;
    }
    let came = head
        .uri
        .path_and_query()
        .ok_or_else(|| wrong_form("target_without_path"))?;
    let canonical = path::canonical(came.path());
    let unchanged = canonical.text == came.path() && came.as_str().starts_with('/');
    Ok(Target {
        canonical: match unchanged {
            true => None,
            false => Some(join(&canonical.text, came.query())?),
        },
        doubt: canonical.doubt,
        came: came.clone(),
    })
}

/// The target as it goes upstream: origin-form, so that no scheme or authority of the client's says where (S17).
pub(super) fn origin_form(target: PathAndQuery) -> Uri {
    Uri::from(target)
}

/// Origin-form and absolute-form with http or https; TRACE would echo credentials, CONNECT would open a tunnel (S17).
fn check_form(head: &Parts) -> Result<(), Fault> {
    if head.method == Method::TRACE || head.method == Method::CONNECT {
        return Err(Fault::bad_request(
            "TRACE and CONNECT are not served.",
            "method_refused",
        ));
    }
    if is_known_in_other_case(&head.method) {
        return Err(Fault::bad_request(
            "Methods are written in capitals.",
            "method_in_small_letters",
        ));
    }
    match (head.uri.scheme_str(), head.uri.authority()) {
        (None, None) if head.uri.path().starts_with('/') => Ok(()),
        (Some("http" | "https"), Some(_)) if head.uri.path().starts_with('/') => Ok(()),
        _ => Err(wrong_form("target_form")),
    }
}

/// `get` is another method than `GET` to us and to the routes, and the same one to many a backend (RFC 9110 section 9.1).
fn is_known_in_other_case(method: &Method) -> bool {
    let name = method.as_str();
    name.bytes().any(|byte| byte.is_ascii_lowercase())
        && KNOWN_METHODS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
}

/// White space around a value is malformed in HTTP/2 (RFC 9113 section 8.2.1): written into HTTP/1.1 it would vanish (S4). In HTTP/1.1 it
/// is gone before we look.
fn check_values(head: &Parts) -> Result<(), Fault> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let padded = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        blank(bytes.first()) || blank(bytes.last())
    };
    if head.version == Version::HTTP_2 && head.headers.values().any(padded) {
        return Err(Fault::bad_request(
            "A header value begins or ends with white space.",
            "value_padded",
        ));
    }
    Ok(())
}

/// Whether there is a `Transfer-Encoding`, too.
fn check_sizes(head: &Parts, bounds: &Http) -> Result<bool, Fault> {
    let target = target_length(&head.uri);
    if target > bounds.target_bytes_max {
        return Err(Fault::new(Refusal::TargetTooLong, "target_too_long"));
    }
    if head.headers.len() > bounds.header_count_max {
        return Err(Fault::new(Refusal::HeadTooLarge, "too_many_headers"));
    }
    // Two for `: ` and two for the line end.
    let (mut size, mut is_coded) = (0, false);
    for (name, value) in &head.headers {
        size += name.as_str().len() + value.len() + 4;
        is_coded |= *name == header::TRANSFER_ENCODING;
    }
    if size + target > bounds.head_bytes_max {
        return Err(Fault::new(Refusal::HeadTooLarge, "head_too_large"));
    }
    Ok(is_coded)
}

fn target_length(uri: &Uri) -> usize {
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    path + uri.authority().map_or(0, |name| name.as_str().len())
}

/// The HTTP library frames `gzip, chunked` as chunked and leaves the gzip to whoever looks (RFC 9112 section 6.1, S1).
fn check_transfer_coding(headers: &HeaderMap) -> Result<(), Fault> {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let plain = match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    if plain {
        return Ok(());
    }
    Err(Fault::new(
        Refusal::UnknownTransferCoding,
        "unknown_transfer_coding",
    ))
}

fn join(path: &str, query: Option<&str>) -> Result<PathAndQuery, Fault> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    PathAndQuery::from_maybe_shared(Bytes::from(text))
        .map_err(|_| wrong_form("target_not_canonical"))
}

fn wrong_form(reason: &'static str) -> Fault {
    Fault::bad_request("The request target has a form that is not served.", reason)
}

/// Methods that backends act upon.
const KNOWN_METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
];

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn bounds() -> Http {
        Http {
            head_bytes_max: 200,
            header_count_max: 3,
            target_bytes_max: 60,
            body_bytes_max: u64::MAX,
            hsts: None,
        }
    }

    fn head(method: &str, uri: Uri) -> Parts {
        let request = Request::builder().method(method).uri(uri).body(());
        request.unwrap().into_parts().0
    }

    fn decided(uri: &str, raw_path: bool) -> Result<String, &'static str> {
        let head = head("GET", uri.parse().unwrap());
        let target = of(&head, &bounds()).and_then(|target| target.decide(raw_path));
        target
            .map(|target| target.as_str().to_owned())
            .map_err(|fault| fault.reason)
    }

    #[test]
    fn s17_only_origin_and_absolute_form_are_served() {
        let cases = [
            ("GET", "/a?b", Ok(())),
            ("OPTIONS", "/a", Ok(())),
            ("GET", "http://h/a", Ok(())),
            ("GET", "HTTPS://h/a", Ok(())),
            ("GET", "https://h", Ok(())),
            ("GET", "ftp://h/a", Err("target_form")),
            ("GET", "h", Err("target_form")),
            ("GET", "h:443", Err("target_form")),
            ("OPTIONS", "*", Err("target_form")),
            ("GET", "*", Err("target_form")),
            ("TRACE", "/a", Err("method_refused")),
            ("PROPFIND", "/a", Ok(())),
            ("propfind", "/a", Ok(())),
            ("get", "/a", Err("method_in_small_letters")),
            ("DELETe", "/a", Err("method_in_small_letters")),
            ("trace", "/a", Err("method_in_small_letters")),
            ("CONNECT", "h:443", Err("method_refused")),
            ("CONNECT", "https://h/a", Err("method_refused")),
        ];
        for (method, uri, expected) in cases {
            let found = of(&head(method, uri.parse().unwrap()), &bounds());
            let found = found.map(|_| ()).map_err(|fault| fault.reason);
            assert_eq!(found, expected, "{method} {uri}");
        }
    }

    #[test]
    fn the_canonical_path_is_forwarded_and_the_query_untouched() {
        let cases = [
            ("/a/b", "/a/b"),
            ("/%61?x=%61&y=/../;#f", "/a?x=%61&y=/../;"),
            ("/caf%c3%a9?%c3", "/caf%C3%A9?%c3"),
            ("http://h?x=%7e", "/?x=%7e"),
            ("http://h", "/"),
            ("https://h/%7e", "/~"),
            ("/a?", "/a?"),
            ("/%61?", "/a?"),
        ];
        for (uri, expected) in cases {
            assert_eq!(decided(uri, false).as_deref(), Ok(expected), "{uri}");
            assert_eq!(decided(uri, true).as_deref(), Ok(expected), "{uri}");
        }
    }

    #[test]
    fn an_ambiguous_path_passes_only_as_it_came_to_a_raw_route() {
        let cases = [
            ("/%61/..%2fb?x", "path_encoded_slash"),
            ("/a/../b", "path_dot_segment"),
            ("/a;b", "path_semicolon"),
        ];
        for (uri, reason) in cases {
            assert_eq!(decided(uri, false), Err(reason));
            assert_eq!(decided(uri, true).as_deref(), Ok(uri));
        }
    }

    #[test]
    fn s24_sizes_are_bounded() {
        let long = format!("/{}", "a".repeat(60));
        assert_eq!(decided(&long, false), Err("target_too_long"));
        assert!(decided(&long[..60], false).is_ok());
        let mut head = head("GET", Uri::from_static("/"));
        for _ in 0..3 {
            head.headers.append("a", HeaderValue::from_static("b"));
        }
        assert!(of(&head, &bounds()).is_ok());
        head.headers.append("a", HeaderValue::from_static("b"));
        assert_eq!(of(&head, &bounds()).unwrap_err().reason, "too_many_headers");
        head.headers.clear();
        let value = HeaderValue::from_str(&"v".repeat(200)).unwrap();
        head.headers.insert("a", value);
        assert_eq!(of(&head, &bounds()).unwrap_err().reason, "head_too_large");
    }

    #[test]
    fn s1_only_chunked_is_understood() {
        let cases: [(&[&str], bool); 8] = [
            (&[], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["chunked", "chunked"], false),
            (&["identity"], false),
            (&["chunked;x"], false),
            (&[""], false),
        ];
        for (lines, understood) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::TRANSFER_ENCODING, line.parse().unwrap());
            }
            assert_eq!(
                check_transfer_coding(&headers).is_ok(),
                understood,
                "{lines:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_decided_is_decided_the_same_again(
            text in "/([a-zA-Z0-9.;:%/~]|%[0-9a-fA-F]{2}){0,16}(\\?[a-z%&=/]{0,6})?",
        ) {
            let uri: Uri = text.parse().unwrap();
            if let Ok(once) = of(&head("GET", uri), &bounds()).and_then(|target| target.decide(false)) {
                let again = of(&head("GET", origin_form(once.clone())), &bounds()).unwrap();
                let again = again.decide(false).unwrap();
                prop_assert_eq!(again.as_str(), once.as_str());
            }
        }
    }
}
