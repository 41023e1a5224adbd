//! Requests that must be taken, and those that must not.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;
use std::task::Waker;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use proptest::prelude::*;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use crate::upstream::BodySource;

use super::answer::Asked;
use super::properties::is_taken;
use super::properties::requests;
use super::talk::Talk;
use super::talk::Upload;
use super::talk::poll_answer;

const START: &str = "POST / HTTP/1.1\r\nHost: x\r\n";

// S1, S2, S3, S15: refused however they come.
#[test]
fn what_two_readers_could_see_in_two_ways_is_no_request() {
    let heads = [
        "POST / HTTP/1.1\nHost: x\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: x\n\r\n".to_owned(),
        format!("{START}\n"),
        "\nGET / HTTP/1.1\r\n\r\n".to_owned(),
        "\r\r\nGET / HTTP/1.1\r\n\r\n".to_owned(),
        format!("{START}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        format!("{START}Content-Length: 5\r\ncontent-length:5\r\n\r\nhello"),
        format!("{START}Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello"),
        format!("{START}Content-Length: +5\r\n\r\nhello"),
        format!("{START}Content-Length: 5, 5\r\n\r\nhello"),
        format!("{START}Content-Length: 0x5\r\n\r\nhello"),
        format!("{START}Content-Length:\r\n\r\nhello"),
        format!("{START}Content-Length: 18446744073709551616\r\n\r\n"),
        format!("{START}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
        format!("{START}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"),
        format!("{START}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
        format!("{START}Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"),
        format!("{START}Transfer-Encoding: chunked, identity\r\n\r\n"),
        format!("{START}Transfer-Encoding: xchunked\r\n\r\n"),
        format!("{START}Transfer-Encoding:\x0bchunked\r\n\r\n"),
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        format!("{START}Content-Length : 5\r\n\r\nhello"),
        format!("{START}Content-Length\t: 5\r\n\r\nhello"),
        format!("{START} Content-Length: 5\r\n\r\nhello"),
        format!("{START}X: a\r\n b\r\n\r\n"),
        format!("{START}X: a\r\n\tb\r\n\r\n"),
        format!("{START}X: a\0b\r\n\r\n"),
        format!("{START}X: a\rb\r\n\r\n"),
        format!("{START}X: a\x0c\r\n\r\n"),
        format!("{START}X\r\n\r\n"),
        format!("{START}: x\r\n\r\n"),
        format!("{START}X(: x\r\n\r\n"),
    ];
    for head in heads {
        for piece in [1, 2, 7, 1000] {
            assert!(!is_taken(head.as_bytes(), piece), "{head:?} by {piece}");
        }
    }
}

#[test]
fn only_a_request_line_begins_a_request() {
    let lines = [
        "GET / HTTP/1.1 ",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET\t/ HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / http/1.1",
        "GET / HTTP/1.1\t",
        "GET /",
        "GET",
        "G(T / HTTP/1.1",
        "GET /\x01 HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET /#\t HTTP/1.1",
        "GET /#\x7f HTTP/1.1",
        "GET /<> HTTP/1.1",
        "PRI * HTTP/2.0",
    ];
    for line in lines {
        for piece in [1, 2, 1000] {
            let head = format!("{line}\r\nHost: x\r\n\r\n");
            assert!(!is_taken(head.as_bytes(), piece), "{line:?} by {piece}");
        }
    }
}

#[test]
fn requests_as_clients_write_them_are_taken() {
    let heads = [
        "GET / HTTP/1.1\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://x/y?z HTTP/1.1\r\nHost: x\r\n\r\n",
        "CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        "M-SEARCH /a%20b HTTP/1.1\r\nX:\r\nY: \t \r\nZ: ä\t \r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 00005\r\n\r\nhello",
    ];
    for head in heads {
        for piece in [1, 3, 1000] {
            assert!(is_taken(head.as_bytes(), piece), "{head:?} by {piece}");
        }
        let mut data = vec![0];
        data.extend_from_slice(head.as_bytes());
        requests(&data);
    }
}

#[test]
fn a_head_is_bounded_in_bytes_and_fields() {
    let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert!(is_taken(fields(100).as_bytes(), 50));
    assert!(!is_taken(fields(101).as_bytes(), 50));
    let long = |bytes: usize| {
        let rest = bytes - "GET / HTTP/1.1\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(rest))
    };
    assert!(is_taken(long(16 * 1024).as_bytes(), 1000));
    assert!(!is_taken(long(16 * 1024 + 1).as_bytes(), 1000));
    // Before its end is there.
    let endless = "GET /".to_owned() + &"y".repeat(17 * 1024);
    let (mut received, mut seen) = (endless.as_bytes().into(), super::head::Seen::default());
    let limits = super::head::Limits {
        bytes_max: 16 * 1024,
        fields_max: 100,
    };
    let refused = super::head::take(&mut received, &mut seen, &limits);
    assert_eq!(refused.unwrap_err(), super::head::Unfit::TooLarge);
}

// What can become no request is told before its head is whole: a client that speaks something else must not wait for its time to be up.
#[test]
fn what_begins_wrongly_is_told_at_once() {
    for start in [
        "\u{16}\u{3}\u{1}",
        "(",
        "GET / HTTP/3\r\nX",
        "GET / HTTP/1.1\n",
        "SSH-2.0-x\r\n",
    ] {
        let (mut received, mut seen) = (start.as_bytes().into(), super::head::Seen::default());
        let limits = super::head::Limits {
            bytes_max: 1024,
            fields_max: 10,
        };
        assert!(
            super::head::take(&mut received, &mut seen, &limits).is_err(),
            "{start:?}"
        );
    }
}

// RFC 9110 section 10.1.1: once an answer has begun, a 100 would stand in the middle of it, whoever reads the body on.
#[tokio::test]
async fn no_100_comes_behind_the_beginning_of_an_answer() {
    for is_last in [true, false] {
        let (near, mut far) = tokio::io::duplex(4096);
        let request = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        far.write_all(request).await.unwrap();
        let limits = super::head::Limits {
            bytes_max: 1024,
            fields_max: 10,
        };
        let mut talk = Talk::new(near);
        let lines = std::future::poll_fn(|cx| talk.poll_head(cx, &limits)).await;
        let lines = lines.unwrap().unwrap();
        talk.expect(&super::head::parse(&lines, &limits).unwrap());
        let (head, mut body) = Response::new(Full::<Bytes>::from("late")).into_parts();
        assert!(talk.begin(&head, &mut body, Asked::default(), is_last, 1));
        let talk = Rc::new(RefCell::new(talk));
        let mut upload = Upload(Rc::clone(&talk));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(upload.poll_data(&mut cx).is_pending());
        assert!(poll_answer(&talk, &mut cx, &mut body).is_ready());
        drop(talk.borrow_mut().let_go());
        let mut said = String::new();
        far.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\nlate"));
        assert!(!said.contains("100"), "{said}");
    }
}

// S22: a flood of long heads holds nobody up for longer than one piece of each takes.
#[tokio::test]
async fn a_long_head_gives_way_before_each_further_piece() {
    let limits = super::head::Limits {
        bytes_max: 64 * 1024,
        fields_max: 10,
    };
    for (filler, turns) in [(16_000, 0), (20_000, 1), (40_000, 2)] {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let request = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(filler));
        far.write_all(request.as_bytes()).await.unwrap();
        let mut talk = Talk::new(near);
        let mut waits = 0;
        let head = std::future::poll_fn(|cx| {
            let polled = talk.poll_head(cx, &limits);
            waits += usize::from(polled.is_pending());
            polled
        });
        assert!(head.await.unwrap().is_some());
        assert_eq!(waits, turns, "{filler}");
    }
}

/// A request that is well formed, but for a change of a few bytes.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        "(X-[a-z]{1,9}|Content-Type|Cookie|Accept): [ -~]{0,40}\r\n",
        "(Connection|connection): ?(close|keep-alive|Close, x|upgrade)\r\n",
        "(TE|Upgrade|Expect|Host|Trailer): [a-z0-9-]{1,12}\r\n",
    ];
    let fields = prop::collection::vec(field, 0..6).prop_map(|fields| fields.concat());
    let line = "(GET|POST|HEAD|PUT|X-Y) (/[a-z0-9/?&=%.~-]{0,20}|[*]|http://a/b) HTTP/1[.][01]\r\n";
    let body = prop_oneof![
        Just("\r\n".to_owned()),
        "[a-z]{0,12}".prop_map(|body| format!("Content-Length: {}\r\n\r\n{body}", body.len())),
        prop::collection::vec("[a-z]{1,9}", 0..4).prop_map(|chunks| {
            let chunks: String = (chunks.iter())
                .map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len()))
                .collect();
            format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
        }),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), change()), 0..3);
    (any::<u8>(), line, fields, body, changes).prop_map(|(cut, line, fields, body, changes)| {
        let mut bytes = format!("{line}{fields}{body}").into_bytes();
        for (at, change) in changes {
            let at = at.index(bytes.len());
            match change {
                Some(byte) => bytes[at] = byte,
                None => drop(bytes.remove(at)),
            }
        }
        bytes.insert(0, cut);
        bytes
    })
}

fn change() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![
        prop::sample::select(b"\r\n \t:,;\0\x7f\x80\"%#0a".to_vec()).prop_map(Some),
        any::<u8>().prop_map(Some),
        Just(None),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    // What we take and hyper reads alike; what we refuse, we refuse in whatever pieces it comes.
    #[test]
    fn we_read_what_hyper_reads_or_nothing(data in nearly()) {
        requests(&data);
    }

    #[test]
    fn any_bytes_are_read_alike(data: Vec<u8>) {
        requests(&data);
    }
}
