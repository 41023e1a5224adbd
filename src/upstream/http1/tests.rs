//! The wire, byte by byte.

use bytes::BytesMut;
use http::HeaderMap;
use http::Method;
use http::Request;
use http::StatusCode;
use proptest::prelude::*;

use crate::upstream::http1::Fault;
use crate::upstream::http1::Limits;
use crate::upstream::http1::Lines;
use crate::upstream::http1::chunks::Chunks;
use crate::upstream::http1::chunks::Next;
use crate::upstream::http1::head;
use crate::upstream::http1::head::Framing;
use crate::upstream::http1::head::Start;
use crate::upstream::http1::properties;

const LIMITS: Limits = Limits {
    head_bytes_max: 1024,
    header_count_max: 10,
};

fn take(text: &str, method: &Method) -> Result<Option<Start>, Fault> {
    let mut received = BytesMut::from(text);
    head::take(
        &mut received,
        &mut 0,
        method,
        &LIMITS,
        &mut Lines::default(),
    )
}

fn start(text: &str) -> Start {
    take(text, &Method::GET).unwrap().unwrap()
}

// What is marked stays out of HTTP/2's compression table: all that is said for the first time, unless it is usual, and every date.
#[test]
fn what_is_not_likely_to_come_again_is_marked() {
    let marked = |sum: &str, server: &str, date: &str| {
        let head =
            format!("HTTP/1.1 200 OK\r\nX-Sum: {sum}\r\nServer: {server}\r\nDate: {date}\r\n\r\n");
        let mut lines = Lines::default();
        let mut received = BytesMut::from(&head[..]);
        head::take(&mut received, &mut 0, &Method::GET, &LIMITS, &mut lines).unwrap();
        let mut fields = HeaderMap::new();
        lines.to_map(&mut fields).unwrap();
        assert_eq!(fields["x-sum"], sum);
        assert_eq!(fields["server"], server);
        assert_eq!(fields["date"], date);
        ["x-sum", "server", "date"].map(|name| fields[name].is_sensitive())
    };
    let long = "7".repeat(100);
    for (sum, server, date, expected) in [
        ("1", "a", "now", [true, false, true]),
        ("1", "a", "now", [false, false, true]),
        ("2", "b", "then", [true, false, true]),
        ("2", "b", "then", [false, false, true]),
        (&long, &long, "then", [true, true, true]),
        (&long, &long, &long, [false, false, true]),
        ("1", "b", "now", [true, false, true]),
    ] {
        assert_eq!(marked(sum, server, date), expected, "{sum} {server} {date}");
    }
}

#[test]
fn a_head_is_written_as_it_is() {
    let request = Request::put("/a/b?c=d")
        .header("b", "2")
        .header("a", "1")
        .header("b", "3");
    let (head, ()) = request.body(()).unwrap().into_parts();
    let mut out = Vec::new();
    head::write(&head, None, &mut out);
    assert_eq!(
        out,
        b"PUT /a/b?c=d HTTP/1.1\r\nb: 2\r\nb: 3\r\na: 1\r\n\r\n"
    );
}

#[test]
fn the_body_is_told_from_the_head() {
    let cases = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n",
            Framing::Length(12),
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n",
            Framing::Chunked,
            true,
        ),
        ("HTTP/1.1 200\r\n\r\n", Framing::UntilClose, false),
        ("HTTP/1.1 204 \r\n\r\n", Framing::Length(0), true),
        (
            "HTTP/1.1 304 Not\r\nContent-Length: 7\r\n\r\n",
            Framing::Length(0),
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 1\r\n\r\n",
            Framing::Length(1),
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
            Framing::Length(1),
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\n",
            Framing::Length(1),
            true,
        ),
        (
            "HTTP/1.1 200 OK\nContent-Length: 12\n\n",
            Framing::Length(12),
            true,
        ),
    ];
    for (text, framing, keeps_alive) in cases {
        let start = start(text);
        assert_eq!(
            (start.framing, start.keeps_alive),
            (framing, keeps_alive),
            "{text}"
        );
    }
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n";
    let start = take(text, &Method::HEAD).unwrap().unwrap();
    assert_eq!(
        (start.status, start.framing),
        (StatusCode::OK, Framing::Length(0))
    );
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    for fields in [
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1, 1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: \r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "A : b\r\n",
        "A: b\r\n c\r\n",
        "A\r\n",
    ] {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let taken = take(&text, &Method::GET);
        assert!(
            matches!(taken, Err(Fault::Protocol(_))),
            "{fields}: {taken:?}"
        );
    }
    for text in [
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 600 OK\r\n\r\n",
        "nonsense",
        "HTTP/1.0 200\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let taken = take(text, &Method::GET);
        assert!(
            matches!(taken, Err(Fault::Protocol(_))),
            "{text}: {taken:?}"
        );
    }
}

#[test]
fn a_head_that_is_too_large_is_told_as_such() {
    let long = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: a\r\n".repeat(11));
    for text in [format!("{long}\r\n\r\n"), long, many] {
        let taken = take(&text, &Method::GET);
        assert!(
            matches!(taken, Err(Fault::HeadTooLarge)),
            "{text}: {taken:?}"
        );
    }
    let most = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: a\r\n".repeat(10));
    assert!(take(&most, &Method::GET).unwrap().is_some());
}

#[test]
fn chunks_are_read_strictly() {
    let read = |text: &str| {
        let (mut received, mut chunks) = (BytesMut::from(text), Chunks::new());
        let mut body = Vec::new();
        loop {
            match chunks.next(&mut received) {
                Ok(Next::Data(data)) => body.extend_from_slice(&data),
                Ok(Next::End(_)) => return Some((String::from_utf8(body).unwrap(), received)),
                Ok(Next::More) => panic!("{text} does not end"),
                Err(_) => return None,
            }
        }
    };
    for (text, body) in [
        ("3\r\nabc\r\n0\r\n\r\n", "abc"),
        ("003;a=b\r\nabc\r\n1 ;x\r\nd\r\n0;z\r\nA: b\r\n\r\n", "abcd"),
        ("0\r\n\r\n", ""),
    ] {
        let (read, rest) = read(text).unwrap();
        assert_eq!((read.as_str(), rest.len()), (body, 0));
    }
    assert_eq!(&read("0\r\n\r\nHTTP").unwrap().1[..], b"HTTP");
    for text in [
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "\r\n",
        "x\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3 3\r\nabc\r\n0\r\n\r\n",
        // Found by the property that compares us with hyper's server.
        "3\r;a\r\nabc\r\n0\r\n\r\n",
        "3\r\r\nabc\r\n0\r\n\r\n",
        "3\x0c\r\nabc\r\n0\r\n\r\n",
        "10000000000000000\r\n",
        "00000000000000003\r\n",
        "0\r\nno field\r\n\r\n",
    ] {
        assert!(read(text).is_none(), "{text:?}");
    }
}

/// Answers that are nearly right.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("Content-Length: 3\r\n"),
        Just("Content-Length: 0\r\n"),
        Just("Transfer-Encoding: chunked\r\n"),
        Just("Transfer-Encoding: gzip\r\n"),
        Just("Connection: close\r\n"),
        Just("Trailer: x\r\n"),
        Just("X: \u{e4}\r\n"),
        Just("A: b\n"),
        Just("A:\tb \r\n"),
        Just("A : b\r\n"),
        Just(" a\r\n"),
    ];
    let status = prop_oneof![
        Just("\r\nHTTP/1.1 200 OK\r\n"),
        Just("HTTP/1.1 200 OK\r\n"),
        Just("HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200\r\n"),
        Just("HTTP/1.0 404 N\r\n"),
        Just("HTTP/1.1 204 N\r\n"),
        Just("HTTP/1.1 304 \r\n"),
        Just("HTTP/1.1 099 N\r\n"),
        Just("HTTP/1.1 101 S\r\n"),
    ];
    let body = prop_oneof![
        Just(""),
        Just("abc"),
        Just("abcdef"),
        Just("3\r\nabc\r\n0\r\n\r\n"),
        Just("3;e\r\nabc\r\n0\r\nX: y\r\n\r\n"),
        Just("A\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\nHTTP/1.1"),
        Just("2\r\nabc\r\n"),
        Just("3\nabc\n0\n\n"),
    ];
    let whole = (any::<u8>(), status, prop::collection::vec(line, 0..4), body);
    (
        whole,
        prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    )
        .prop_map(|((flags, status, lines, body), change)| {
            let text = format!("{status}{}\r\n{body}", lines.concat());
            let mut bytes = vec![flags];
            bytes.extend_from_slice(text.as_bytes());
            if let Some((index, byte)) = change {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn we_read_what_hyper_reads_or_nothing(data in nearly()) {
        properties::answers(&data);
    }

    #[test]
    fn of_anything_too(data in prop::collection::vec(any::<u8>(), 0..200)) {
        properties::answers(&data);
    }
}
