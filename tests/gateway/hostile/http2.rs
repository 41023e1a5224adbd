//! What HTTP/2 can say and HTTP/1.1 cannot, and floods of frames (S4, S20, S21).

use super::usual;
use crate::support::frames;
use crate::support::frames::DATA;
use crate::support::frames::END_HEADERS;
use crate::support::frames::END_STREAM;
use crate::support::frames::Frames;
use crate::support::frames::HEADERS;
use crate::support::frames::Outcome;
use crate::support::request::Request;

// S4: what is malformed in HTTP/2 never becomes an HTTP/1.1 request.
#[test]
fn malformed_http2_requests_reach_nobody() {
    let (upstream, gateway) = usual();
    let get = || frames::get("/public/x");
    let with = |name, value| {
        let mut fields = get();
        fields.push((name, value));
        fields
    };
    let replaced = |at: usize, value| {
        let mut fields = get();
        fields[at].1 = value;
        fields
    };
    let cases = [
        with("x-a", "b\r\nc: d"),
        with("x-a", "b\nc"),
        with("x-a", "b\0c"),
        with("x-a\r\nb", "c"),
        with("x a", "b"),
        with("x:a", "b"),
        with("X-Upper", "b"),
        with("", "b"),
        with("transfer-encoding", "chunked"),
        with("connection", "close"),
        with("keep-alive", "x"),
        with("proxy-connection", "x"),
        with("upgrade", "h2c"),
        with("te", "gzip"),
        with("content-length", "5"),
        with("content-length", "x"),
        with(":path", "/public/y"),
        with(":unknown", "x"),
        with(":status", "200"),
        replaced(0, "GET /public/y HTTP/1.1\r\nX:"),
        replaced(0, "G T"),
        replaced(0, ""),
        replaced(1, "https://evil/"),
        replaced(1, ""),
        replaced(2, "localhost\r\nx: y"),
        replaced(3, "/public/x HTTP/1.1\r\nx: y"),
        replaced(3, "/public/x y"),
        replaced(3, ""),
        replaced(3, "public/x"),
        replaced(3, "*"),
        get()[..3].to_vec(),
        vec![(":method", "GET"), (":path", "/public/x")],
    ];
    for fields in cases {
        let outcome = Frames::connect(gateway.https()).exchange(&fields);
        let refused = match outcome {
            Outcome::Status(status) => (400..500).contains(&status) || status == 501,
            _ => true,
        };
        assert!(refused, "{fields:?}: {outcome:?}");
        assert_eq!(upstream.hits(), 0, "{fields:?}");
    }
}

// S4: white space around a value would vanish on the way to HTTP/1.1, so that two readers see two values; it is malformed in HTTP/2.
#[test]
fn padded_values_over_http2_reach_nobody() {
    let (upstream, gateway) = usual();
    let mut client = Frames::connect(gateway.https());
    for value in [" a", "a ", "\ta", "a\t", " "] {
        let mut fields = frames::get("/public/x");
        fields.push(("x-padded", value));
        assert_eq!(client.exchange(&fields), Outcome::Status(400), "{value:?}");
    }
    let mut fields = frames::get("/public/x");
    fields.extend([("x-empty", ""), ("x-inner", "a b")]);
    assert_eq!(client.exchange(&fields), Outcome::Status(200));
    assert_eq!(upstream.hits(), 1);
}

// S4: a body longer or shorter than its Content-Length is malformed.
#[test]
fn http2_bodies_must_have_the_stated_length() {
    let (upstream, gateway) = usual();
    for (stated, body) in [("2", "four"), ("9", "four")] {
        let mut client = Frames::connect(gateway.https());
        let mut fields = frames::get("/public/x");
        fields[0].1 = "POST";
        fields.push(("content-length", stated));
        let stream = client.open(&fields, false);
        client.send(DATA, END_STREAM, stream, body.as_bytes());
        assert_ne!(client.outcome(stream), Outcome::Status(200), "{stated}");
    }
    assert!(upstream.requests().iter().all(|request| !request.complete));
}

// S20: opening and resetting streams without end ends the connection, not the gateway.
#[test]
fn rapid_resets_end_the_connection() {
    let (_upstream, gateway) = usual();
    let mut client = Frames::connect(gateway.https());
    let mut lives = true;
    for _ in 0..200 {
        lives = client.together(|client| {
            for _ in 0..100 {
                let stream = client.open(&frames::get("/public/x"), true);
                client.send(frames::RST_STREAM, 0, stream, &8u32.to_be_bytes());
            }
        });
        if !lives {
            break;
        }
    }
    if lives {
        let ended =
            (0..10_000).any(|_| client.read().is_none_or(|frame| frame.0 == frames::GOAWAY));
        assert!(ended, "20,000 resets were borne without GOAWAY");
    }
    gateway.send(&Request::get("/public/x")).expect(200);
}

// S21: floods of CONTINUATION, SETTINGS, PING and empty DATA end that connection; others are served.
#[test]
fn frame_floods_end_the_connection() {
    let (_upstream, gateway) = usual();
    let mut client = Frames::connect(gateway.https());
    client.send(HEADERS, 0, 1, &frames::encode(&frames::get("/public/x")));
    let filler = frames::encode(&[("x-filler", &"x".repeat(8000))]);
    let mut lives = true;
    for _ in 0..1000 {
        lives = client.send(frames::CONTINUATION, 0, 1, &filler);
        if !lives {
            break;
        }
    }
    if lives {
        assert!(matches!(
            client.outcome(1),
            Outcome::GoAway(_) | Outcome::Closed | Outcome::Reset(_)
        ));
    }
    for kind in [frames::PING, frames::SETTINGS] {
        let mut client = Frames::connect(gateway.https());
        let payload: &[u8] = if kind == frames::PING { &[0; 8] } else { &[] };
        for _ in 0..5_000 {
            if !client.send(kind, 0, 0, payload) {
                break;
            }
        }
    }
    let mut client = Frames::connect(gateway.https());
    let mut fields = frames::get("/public/x");
    fields[0].1 = "POST";
    let stream = client.open(&fields, false);
    for _ in 0..20_000 {
        if !client.send(DATA, 0, stream, &[]) {
            break;
        }
    }
    gateway.send(&Request::get("/public/x")).expect(200);
}

// S21: the total of header fields is bounded in HTTP/2 too.
#[test]
fn large_http2_heads_are_refused() {
    let (upstream, gateway) = usual();
    let large = "x".repeat(4000);
    let mut fields = frames::get("/public/x");
    let names: Vec<String> = (0..12).map(|count| format!("x-{count}")).collect();
    for name in &names {
        fields.push((name, &large));
    }
    let block = frames::encode(&fields);
    let mut client = Frames::connect(gateway.https());
    let (first, rest) = block.split_at(16_000);
    client.send(HEADERS, END_STREAM, 1, first);
    let mut pieces = rest.chunks(16_000).peekable();
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        client.send(frames::CONTINUATION, flags, 1, piece);
    }
    assert_ne!(client.outcome(1), Outcome::Status(200));
    assert_eq!(upstream.hits(), 0);
}
