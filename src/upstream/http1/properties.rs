//! Whatever a backend sends, what we make of it is what hyper's client makes of it, or nothing at all.

use std::convert::Infallible;
use std::sync::OnceLock;

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Version;
use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Builder;
use tokio::runtime::Runtime;

use crate::upstream::http1::Limits;
use crate::upstream::http1::Lines;
use crate::upstream::http1::chunks::Chunks;
use crate::upstream::http1::chunks::Next;
use crate::upstream::http1::head;
use crate::upstream::http1::head::Framing;

/// One answer as somebody read it.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    status: StatusCode,
    fields: HeaderMap,
    /// `None` where it broke off.
    body: Option<(Bytes, Option<HeaderMap>)>,
}

/// The first byte chooses the method and how the rest, an answer, is cut into pieces.
///
/// # Panics
/// When we read something else than hyper, or read it differently when it comes in other pieces.
pub(crate) fn answers(data: &[u8]) {
    let (flags, data) = data.split_first().unwrap_or((&0, &[]));
    let method = [Method::GET, Method::HEAD][usize::from(flags & 1)].clone();
    let whole = ours(data, data.len().max(1), &method);
    let pieces = ours(data, 1 + usize::from(flags >> 1) % 16, &method);
    assert_eq!(whole, pieces, "the pieces make a difference");
    let Some(ours) = whole else {
        return;
    };
    let theirs = hypers(data, &method);
    let Some(theirs) = theirs else {
        panic!("hyper refuses what we take: {ours:?}");
    };
    assert_eq!(ours.status, theirs.status);
    assert_eq!(ours.fields, theirs.fields);
    // Stricter with chunks than hyper, we may break off where it does not, never the other way round.
    if let Some(body) = &ours.body {
        assert_eq!(Some(body), theirs.body.as_ref(), "{:?}", ours.fields);
    }
}

fn ours(data: &[u8], piece: usize, method: &Method) -> Option<Reading> {
    let limits = Limits {
        head_bytes_max: 16 * 1024,
        header_count_max: 100,
    };
    let mut pieces = data.chunks(piece);
    let (mut received, mut searched) = (BytesMut::new(), 0);
    let mut lines = Lines::default();
    let start = loop {
        match head::take(&mut received, &mut searched, method, &limits, &mut lines) {
            Ok(Some(start)) if !start.status.is_informational() => break start,
            // Interim answers of any number, but for a switch of protocols.
            Ok(Some(start)) if start.status != StatusCode::SWITCHING_PROTOCOLS => {}
            Ok(Some(_)) | Err(_) => return None,
            Ok(None) => received.extend_from_slice(pieces.next()?),
        }
    };
    let body = match start.framing {
        Framing::Length(length) => {
            pieces.for_each(|piece| received.extend_from_slice(piece));
            let length = usize::try_from(length).ok();
            let length = length.filter(|length| *length <= received.len());
            length.map(|length| (received.split_to(length).freeze(), None))
        }
        Framing::UntilClose => {
            pieces.for_each(|piece| received.extend_from_slice(piece));
            Some((received.freeze(), None))
        }
        Framing::Chunked => chunked(received, pieces),
    };
    let mut fields = HeaderMap::new();
    lines.to_map(&mut fields).ok()?;
    Some(Reading {
        status: start.status,
        fields,
        body,
    })
}

fn chunked<'a>(
    mut received: BytesMut,
    mut pieces: impl Iterator<Item = &'a [u8]>,
) -> Option<(Bytes, Option<HeaderMap>)> {
    let (mut chunks, mut body) = (Chunks::new(), BytesMut::new());
    loop {
        match chunks.next(&mut received).ok()? {
            Next::Data(data) => {
                body.extend_from_slice(&data);
                if chunks.ends_here(&mut received) {
                    return Some((body.freeze(), None));
                }
            }
            Next::End(trailers) => return Some((body.freeze(), trailers)),
            Next::More => received.extend_from_slice(pieces.next()?),
        }
    }
}

fn hypers(data: &[u8], method: &Method) -> Option<Reading> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_current_thread().build().ok());
    runtime.as_ref()?.block_on(async {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near))
            .await
            .ok()?;
        let (mut reads, mut writes) = tokio::io::split(far);
        let request = Request::builder()
            .method(method.clone())
            .uri("/")
            .version(Version::HTTP_11);
        let request = request.body(Empty::<Bytes>::new()).ok()?;
        let answering = async {
            // The answer comes once the request is there.
            let _ = reads.read(&mut [0; 1024]).await;
            let _ = writes.write_all(data).await;
            let _ = writes.shutdown().await;
            Ok::<_, Infallible>(())
        };
        let asking = async {
            let (head, mut body) = sender.send_request(request).await.ok()?.into_parts();
            let mut there = BytesMut::new();
            let mut trailers = None;
            let mut broke = false;
            while let Some(frame) = body.frame().await {
                match frame.map(|frame| frame.into_data()) {
                    Ok(Ok(data)) => there.extend_from_slice(&data),
                    Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
                    Err(_) => broke = true,
                }
            }
            Some(Reading {
                status: head.status,
                fields: head.headers,
                body: (!broke).then(|| (there.freeze(), trailers)),
            })
        };
        let (reading, _, _) = tokio::join!(asking, connection, answering);
        reading
    })
}
