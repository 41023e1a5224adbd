//! Whatever a client sends, what we make of it is what hyper's server makes of it, or nothing at all.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::OnceLock;

use bytes::Bytes;
use bytes::BytesMut;
use http::Request;
use http::Response;
use http::Version;
use http::header;
use http::request::Parts;
use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Builder;
use tokio::runtime::Runtime;

use crate::upstream::http1::Chunks;
use crate::upstream::http1::Next;

use super::head;
use super::head::Framing;
use super::head::Limits;
use super::head::Seen;

/// One request as somebody read it.
#[derive(Debug)]
struct Reading {
    head: Parts,
    /// Whether another request may follow.
    keeps_alive: bool,
    /// `None` where it broke off.
    body: Option<Bytes>,
}

/// The first byte says how the rest, a request, is cut into pieces.
///
/// # Panics
/// When we read something else than hyper, or read it differently when it comes in other pieces.
pub(crate) fn requests(data: &[u8]) {
    let (cut, data) = data.split_first().unwrap_or((&0, &[]));
    let whole = ours(data, data.len().max(1));
    let pieces = ours(data, 1 + usize::from(*cut) % 16);
    let text = |reading: &Option<Reading>| format!("{reading:?}");
    assert_eq!(text(&whole), text(&pieces), "the pieces make a difference");
    let Some(ours) = whole else {
        return;
    };
    let Some(theirs) = hypers(data) else {
        panic!("hyper refuses what we take: {ours:?}");
    };
    assert_eq!(ours.head.method, theirs.head.method);
    assert_eq!(ours.head.uri, theirs.head.uri);
    assert_eq!(ours.head.version, theirs.head.version);
    assert_eq!(ours.head.headers, theirs.head.headers);
    // Stricter with chunks than hyper, we may break off where it does not, never the other way round.
    if let Some(body) = &ours.body {
        assert_eq!(Some(body), theirs.body.as_ref(), "{:?}", ours.head.headers);
        // hyper looks at no list that has bytes beyond ASCII.
        let mut lists = ours.head.headers.get_all(header::CONNECTION).iter();
        if lists.all(|list| list.to_str().is_ok()) {
            assert_eq!(ours.keeps_alive, theirs.keeps_alive, "{:?}", ours.head);
        }
    }
}

/// Whether we take these bytes for the head of a request, whatever follows.
#[cfg(test)]
pub(super) fn is_taken(data: &[u8], piece: usize) -> bool {
    ours(data, piece).is_some()
}

fn ours(data: &[u8], piece: usize) -> Option<Reading> {
    let mut pieces = data.chunks(piece);
    let (mut received, mut seen) = (BytesMut::new(), Seen::default());
    let taken = loop {
        match head::take(&mut received, &mut seen, &LIMITS) {
            Ok(Some(lines)) => break head::parse(&lines, &LIMITS).ok()?,
            Ok(None) => received.extend_from_slice(pieces.next()?),
            Err(_) => return None,
        }
    };
    let body = match taken.framing {
        Framing::Length(length) => {
            pieces.for_each(|piece| received.extend_from_slice(piece));
            let length = usize::try_from(length).ok();
            let length = length.filter(|length| *length <= received.len());
            length.map(|length| received.split_to(length).freeze())
        }
        Framing::Chunked => chunked(received, pieces),
    };
    Some(Reading {
        head: *taken.parts,
        keeps_alive: taken.keeps_alive,
        body,
    })
}

fn chunked<'a>(
    mut received: BytesMut,
    mut pieces: impl Iterator<Item = &'a [u8]>,
) -> Option<Bytes> {
    let (mut chunks, mut body) = (Chunks::new(), BytesMut::new());
    loop {
        match chunks.next(&mut received).ok()? {
            Next::Data(data) => {
                body.extend_from_slice(&data);
                if chunks.ends_here(&mut received) {
                    return Some(body.freeze());
                }
            }
            Next::End(_) => return Some(body.freeze()),
            Next::More => received.extend_from_slice(pieces.next()?),
        }
    }
}

fn hypers(data: &[u8]) -> Option<Reading> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_current_thread().build().ok());
    runtime.as_ref()?.block_on(async {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let read = Rc::new(RefCell::new(None));
        let service = service_fn(|request: Request<Incoming>| {
            let read = Rc::clone(&read);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.ok().map(|body| body.to_bytes());
                read.borrow_mut().get_or_insert((head, body));
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut server = hyper::server::conn::http1::Builder::new();
        server.max_headers(LIMITS.fields_max);
        // So that it answers before it looks at the end behind a request.
        server.half_close(true);
        let serving = server.serve_connection(TokioIo::new(near), service);
        let (mut answers, mut asks) = tokio::io::split(far);
        let mut answer = Vec::new();
        let asking = async {
            let _ = asks.write_all(data).await;
            let _ = asks.shutdown().await;
            let _ = answers.read_to_end(&mut answer).await;
        };
        let (_, ()) = tokio::join!(serving, asking);
        let (head, body) = read.take()?;
        Some(Reading {
            keeps_alive: keeps_alive(&answer, head.version),
            head,
            body,
        })
    })
}

/// What the first of some answers says of the connection.
fn keeps_alive(answers: &[u8], version: Version) -> bool {
    let text = String::from_utf8_lossy(answers);
    let head = text.split("\r\n\r\n").next().unwrap_or("");
    match version {
        Version::HTTP_10 => head.contains("connection: keep-alive"),
        _ => !head.contains("connection: close"),
    }
}

const LIMITS: Limits = Limits {
    bytes_max: 16 * 1024,
    fields_max: 100,
};
