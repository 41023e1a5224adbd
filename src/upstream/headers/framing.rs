//! How long a body is, said once and in our own words.

use http::HeaderMap;
use http::HeaderValue;
use http::header;
use http::request;

/// Says how long the body is, once: its exact length, or `chunked`, never both (S1). `length` is `None` when it is not known beforehand.
pub(crate) fn frame(head: &mut request::Parts, length: Option<u64>) {
    let headers = &mut head.headers;
    match length {
        // RFC 9110 section 8.6: a method that usually has a body says that it has none.
        Some(0) => {
            let expected = matches!(head.method.as_str(), "POST" | "PUT" | "PATCH");
            // Looked for by name: few are left, and a hash costs more.
            let announced = headers.keys().any(|name| *name == header::CONTENT_LENGTH);
            if expected || announced {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
        }
        Some(length) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        // Said here because hyper, left to itself, drops the body of a GET whose length is unknown.
        None => {
            headers.remove(header::CONTENT_LENGTH);
            headers.insert(
                header::TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            );
        }
    }
}

/// The same for HTTP/2, whose frames say where a body ends. `takes_trailers` is said on: gRPC servers insist on it.
pub(crate) fn frame_http2(head: &mut request::Parts, length: Option<u64>, takes_trailers: bool) {
    frame(head, length);
    head.headers.remove(header::TRANSFER_ENCODING);
    if takes_trailers {
        let trailers = HeaderValue::from_static("trailers");
        head.headers.insert(header::TE, trailers);
    }
}

/// The length of a body that was not known when it was framed.
pub(crate) fn restate_length(headers: &mut HeaderMap, length: u64) {
    headers.remove(header::TRANSFER_ENCODING);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
}

/// Whether at most one framing is stated, and one that can be passed on in our own framing: no `Content-Length` twice or beside a coding
/// (RFC 9112 section 6.3), no coding but `chunked`.
pub(super) fn framed_once(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lengths.next(), codings.next()) {
        (None, None) => true,
        (Some(length), None) => {
            let digits = length.as_bytes();
            lengths.next().is_none() && !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
        }
        (None, Some(coding)) => {
            codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        }
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::frame;

    #[test]
    fn framing_is_said_once() {
        let cases = [
            ("GET", Some(0), None, None),
            ("GET", Some(0), Some("0"), Some("content-length: 0")),
            ("POST", Some(0), None, Some("content-length: 0")),
            ("POST", Some(7), None, Some("content-length: 7")),
            ("POST", Some(7), Some("7"), Some("content-length: 7")),
            ("POST", None, Some("7"), Some("transfer-encoding: chunked")),
            ("GET", None, None, Some("transfer-encoding: chunked")),
        ];
        for (method, length, announced, expected) in cases {
            let mut head = Request::get("/").body(()).unwrap().into_parts().0;
            head.method = method.parse().unwrap();
            if let Some(announced) = announced {
                head.headers
                    .append("content-length", announced.parse().unwrap());
                head.headers
                    .append("content-length", announced.parse().unwrap());
            }
            frame(&mut head, length);
            let lines: Vec<String> = head
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect();
            let expected: Vec<&str> = expected.into_iter().collect();
            assert_eq!(lines, expected, "{method} {length:?} {announced:?}");
        }
    }
}
