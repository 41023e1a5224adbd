//! Heads of answers on the wire, and how their bodies are framed (RFC 9112 sections 4 and 6).

use http::HeaderMap;
use http::HeaderName;
use http::StatusCode;
use http::header;
use http::response::Parts;

use crate::edge::date;

use super::head::decimal;
use super::head::has_option;

/// What the request says of its answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// It asks for the head alone.
    pub(crate) head_only: bool,
    /// It was made in HTTP/1.0, which knows no chunks.
    pub(crate) is_old: bool,
    /// Trailers may follow the body.
    pub(crate) takes_trailers: bool,
}

/// How the body of an answer is told from what follows.
#[derive(Debug)]
pub(crate) enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// Chunks; then those of these trailers that there are.
    Chunked(Vec<HeaderName>),
    /// It ends with the connection.
    UntilClose,
}

/// A head that was written.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) framing: Framing,
    /// No other answer follows on the connection.
    pub(crate) is_last: bool,
}

/// Writes a head behind what `out` holds. `more` writes fields that are not in its map, and says whether a date was among them. `length` is the body's, if it is known; `is_last` says that the connection ends with this answer, which the client
/// is told. `tick` is the worker's.
pub(crate) fn write(
    head: &Parts,
    more: impl FnOnce(&mut Vec<u8>) -> bool,
    length: Option<u64>,
    asked: Asked,
    is_last: bool,
    tick: u32,
    out: &mut Vec<u8>,
) -> Begun {
    let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let framing = framing(head, length, asked);
    let is_last =
        is_last || switches || matches!(framing, Framing::UntilClose) || closes(&head.headers);
    write_status(head.status, asked.is_old, out);
    let mut dated = more(out);
    for (name, value) in &head.headers {
        if *name == header::CONTENT_LENGTH || *name == header::TRANSFER_ENCODING {
            continue;
        }
        if *name == header::TRAILER && !matches!(framing, Framing::Chunked(_)) {
            continue;
        }
        if *name == header::CONNECTION && is_last && !switches {
            continue;
        }
        dated |= *name == header::DATE;
        write_field(name.as_str().as_bytes(), value.as_bytes(), out);
    }
    write_framing(head, &framing, asked, out);
    if is_last && !switches {
        out.extend_from_slice(b"connection: close\r\n");
    } else if asked.is_old {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    if !dated {
        out.extend_from_slice(b"date: ");
        date::write(tick, out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    let framing = match has_body(head.status, asked) {
        true => framing,
        false => Framing::Length(0),
    };
    Begun { framing, is_last }
}

/// Writes fields and the empty line that ends them.
pub(super) fn write_fields(fields: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in fields {
        write_field(name.as_str().as_bytes(), value.as_bytes(), out);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_status(status: StatusCode, is_old: bool, out: &mut Vec<u8>) {
    if status == StatusCode::OK && !is_old {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(if is_old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    // The space stands before an empty reason, too.
    let reason = status.canonical_reason().unwrap_or_default();
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// RFC 9110 section 8.6, RFC 9112 section 6.1: one framing or none, where there can be a body; a `HEAD` is told what a `GET` would be.
fn write_framing(head: &Parts, framing: &Framing, asked: Asked, out: &mut Vec<u8>) {
    if asked.head_only {
        if let Some(length) = told_length(&head.headers) {
            write_length(length, out);
        } else if let Framing::Length(length @ 1..) = framing {
            write_length(*length, out);
        }
        return;
    }
    if !has_body(head.status, asked) {
        return;
    }
    match framing {
        Framing::Length(length) => write_length(*length, out),
        Framing::Chunked(_) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::UntilClose => {}
    }
}

fn write_length(length: u64, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    write_field(b"content-length", digits.format(length).as_bytes(), out);
}

/// How the body would be framed if there were one.
fn framing(head: &Parts, length: Option<u64>, asked: Asked) -> Framing {
    if let Some(length) = length {
        return Framing::Length(length);
    }
    if let Some(length) = told_length(&head.headers) {
        return Framing::Length(length);
    }
    if !has_body(head.status, asked) {
        return Framing::Length(0);
    }
    if asked.is_old {
        return Framing::UntilClose;
    }
    Framing::Chunked(match asked.takes_trailers {
        true => named_trailers(&head.headers),
        false => Vec::new(),
    })
}

fn told_length(fields: &HeaderMap) -> Option<u64> {
    decimal(fields.get(header::CONTENT_LENGTH)?.as_bytes())
}

/// The trailers that an answer announces, but for those that nobody may send so (RFC 9110 section 6.5.1).
fn named_trailers(fields: &HeaderMap) -> Vec<HeaderName> {
    let lines = fields.get_all(header::TRAILER).iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    names.filter(|name| !NO_TRAILERS.contains(name)).collect()
}

fn has_body(status: StatusCode, asked: Asked) -> bool {
    let never = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    !(asked.head_only || never || status.is_informational())
}

fn closes(fields: &HeaderMap) -> bool {
    let mut lines = fields.get_all(header::CONNECTION).iter();
    lines.any(|line| has_option(line.as_bytes(), b"close"))
}

/// What directs the reading of the message, or must be known before its body.
const NO_TRAILERS: [HeaderName; 12] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::HOST,
    header::MAX_FORWARDS,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];
