//! Heads on the wire: ours written, the backend's read (RFC 9112 sections 3 to 6).

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::Method;
use http::StatusCode;
use http::header;
use http::request;
use httparse::Header;
use httparse::ParserConfig;
use httparse::Response;
use httparse::Status;

use crate::upstream::http1::Fault;
use crate::upstream::http1::Kind;
use crate::upstream::http1::Limits;
use crate::upstream::http1::Lines;

/// Writes lines behind what a buffer holds.
pub(crate) type Writes<'a> = dyn Fn(&mut Vec<u8>) + 'a;

/// Writes a request head behind what `out` holds; how it says that its body is framed. `own` writes what the head does not say: its host, and what is
/// the gateway's.
pub(crate) fn write(
    head: &request::Parts,
    own: Option<&Writes<'_>>,
    out: &mut Vec<u8>,
) -> Outgoing {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let target = head.uri.path_and_query();
    out.extend_from_slice(target.map_or("/", |target| target.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(own) = own {
        own(out);
    }
    let mut framing = Outgoing::Length(0);
    for (name, value) in &head.headers {
        if own.is_some() && *name == header::HOST {
            continue;
        }
        if *name == header::TRANSFER_ENCODING {
            framing = Outgoing::Chunked;
        } else if *name == header::CONTENT_LENGTH && framing != Outgoing::Chunked {
            let length = value.to_str().ok().and_then(|length| length.parse().ok());
            framing = Outgoing::Length(length.unwrap_or(0));
        }
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    framing
}

/// How a request's own body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// So many bytes are left.
    Length(u64),
    Chunked,
}

/// How the body of an answer is told from what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// It ends with the connection.
    UntilClose,
}

/// What the start of an answer says, its fields aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) status: StatusCode,
    pub(crate) framing: Framing,
    /// Whether the backend takes another request on the connection.
    pub(crate) keeps_alive: bool,
}

/// Takes a head from the front of `received` if all of it is there; its fields are then in `lines`.
/// `searched` is kept by the caller from one call to the next: how many bytes have no end of a head in them.
///
/// # Errors
/// `Fault::HeadTooLarge` and `Fault::Protocol`.
pub(crate) fn take(
    received: &mut BytesMut,
    searched: &mut usize,
    method: &Method,
    limits: &Limits,
    lines: &mut Lines,
) -> Result<Option<Start>, Fault> {
    begins_well(received)?;
    // Most heads come in one piece and are looked through once. Of others the end is sought first, or each piece would have all of them read again.
    let found = match *searched {
        0 => parse(received, limits, lines)?,
        from => match end_of_head(received, from) {
            Some(_) => parse(received, limits, lines)?,
            None => None,
        },
    };
    let Some(Found {
        length,
        status,
        is_old,
    }) = found
    else {
        *searched = received.len();
        if received.len() > limits.head_bytes_max {
            return Err(Fault::HeadTooLarge);
        }
        return Ok(None);
    };
    *searched = 0;
    if length > limits.head_bytes_max {
        return Err(Fault::HeadTooLarge);
    }
    lines.keep(received.split_to(length));
    let framing = framing(status, method, is_old, lines)?;
    let keeps_alive = framing != Framing::UntilClose && keeps_alive(is_old, lines);
    Ok(Some(Start {
        status,
        framing,
        keeps_alive,
    }))
}

/// Whether the first bytes can become an answer: what is not HTTP is told at once, and not when its time is up.
fn begins_well(received: &[u8]) -> Result<(), Fault> {
    const START: &[u8] = b"HTTP/1.";
    let known = received.len().min(START.len());
    if received[..known] == START[..known] {
        return Ok(());
    }
    Err(Fault::Protocol("no HTTP/1.1 answer begins like this"))
}

/// Behind the first empty line; `from` is where looking began to be of use.
fn end_of_head(received: &[u8], from: usize) -> Option<usize> {
    // An end may straddle what was searched before.
    let mut at = from.saturating_sub(3);
    while let Some(found) = memchr::memchr(b'\n', received.get(at..)?) {
        at += found + 1;
        match received.get(at..) {
            Some([b'\n', ..]) => return Some(at + 1),
            Some([b'\r', b'\n', ..]) => return Some(at + 2),
            _ => {}
        }
    }
    None
}

/// A head that is whole.
struct Found {
    /// Bytes.
    length: usize,
    status: StatusCode,
    /// Its version is 1.0.
    is_old: bool,
}

/// Reads a head, and places its fields; `None` while it is not whole.
fn parse(head: &[u8], limits: &Limits, lines: &mut Lines) -> Result<Option<Found>, Fault> {
    let mut few = [const { MaybeUninit::<Header<'_>>::uninit() }; FEW];
    let mut many = Vec::new();
    let room = match few.get_mut(..limits.header_count_max) {
        Some(room) => room,
        None => {
            many.resize_with(limits.header_count_max, MaybeUninit::uninit);
            &mut many[..]
        }
    };
    let mut answer = Response::new(&mut []);
    let parser = ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut answer, head, room) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::HeadTooLarge),
        Err(_) => return Err(Fault::Protocol("the head is not HTTP/1.1")),
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    // What lies beyond 599 no client knows (S42).
    let status = status.filter(|status| status.as_u16() < 600);
    let status = status.ok_or(Fault::Protocol("the status is no status"))?;
    lines.place(answer.headers, head)?;
    Ok(Some(Found {
        length,
        status,
        is_old: answer.version == Some(0),
    }))
}

/// RFC 9112 section 6.3. A length beside a coding, two lengths, or another coding is what smuggling is made of: an error (S33).
fn framing(
    status: StatusCode,
    method: &Method,
    is_old: bool,
    lines: &Lines,
) -> Result<Framing, Fault> {
    const LENGTH: Fault = Fault::Protocol("Content-Length is not one number");
    let mut lengths = lines.values(Kind::Length);
    let mut codings = lines.values(Kind::Coding);
    let framing = match (lengths.next(), codings.next()) {
        (None, None) => Framing::UntilClose,
        (Some(length), None) if lengths.next().is_none() => {
            let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(length).ok().filter(|_| is_number);
            let length = length.and_then(|length| length.parse().ok());
            Framing::Length(length.ok_or(LENGTH)?)
        }
        (Some(_), None) => return Err(LENGTH),
        (None, Some(coding)) => {
            let is_chunked = coding.eq_ignore_ascii_case(b"chunked");
            if !is_chunked || codings.next().is_some() || is_old {
                return Err(Fault::Protocol("a Transfer-Encoding other than chunked"));
            }
            Framing::Chunked
        }
        (Some(_), Some(_)) => {
            let both = "Content-Length beside Transfer-Encoding";
            return Err(Fault::Protocol(both));
        }
    };
    let has_no_body = *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(if has_no_body {
        Framing::Length(0)
    } else {
        framing
    })
}

/// RFC 9112 section 9.3.
fn keeps_alive(is_old: bool, lines: &Lines) -> bool {
    let mut lines = lines.values(Kind::Connection);
    let says = |line: &[u8], option: &[u8]| {
        let mut options = line.split(|byte| *byte == b',');
        options.any(|there| there.trim_ascii().eq_ignore_ascii_case(option))
    };
    if is_old {
        let mut keeps = false;
        for line in lines {
            keeps = (keeps || says(line, b"keep-alive")) && !says(line, b"close");
        }
        return keeps;
    }
    !lines.any(|line| says(line, b"close"))
}

/// Fields for which the stack has room.
const FEW: usize = 100;
