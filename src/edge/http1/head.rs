//! Heads of requests as clients write them (RFC 9112 sections 2 to 7), read so strictly that no reader behind us can see another request in them.
//!
//! What several readers in a row are smuggled past is refused here, whole: a line that ends without CR, white space before a colon, a folded line, a length
//! beside a coding, two lengths, two codings (S1, S2, S3, S15).

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Uri;
use http::Version;
use http::header;
use http::request::Parts;
use memchr::memchr;

use super::spare;

/// What a head may measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes, the empty line within.
    pub(crate) bytes_max: usize,
    /// Fields.
    pub(crate) fields_max: usize,
}

/// A request's head, and what it says of the message and its connection.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) parts: Box<Parts>,
    pub(crate) framing: Framing,
    /// Another request may follow (RFC 9112 section 9.3).
    pub(crate) keeps_alive: bool,
    /// The client waits for a 100 before it sends its body (RFC 9110 section 10.1.1).
    pub(crate) expects_continue: bool,
    /// It has an `Upgrade` line, in HTTP/1.1.
    pub(crate) upgrades: bool,
    /// It takes trailers (RFC 9110 section 6.5.1).
    pub(crate) takes_trailers: bool,
}

/// How a request's body is told from what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes.
    Length(u64),
    Chunked,
}

/// What is no request that anybody could answer but with its status and a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Why, for the log.
    Malformed(&'static str),
    /// Too many bytes or fields.
    TooLarge,
    /// No target is that long.
    TargetTooLong,
}

impl Unfit {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Unfit::Malformed(_) => StatusCode::BAD_REQUEST,
            Unfit::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Unfit::TargetTooLong => StatusCode::URI_TOO_LONG,
        }
    }
}

/// How far a head that came in pieces was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Where the line under way begins.
    line: usize,
    /// Up to where there is no end of it.
    searched: usize,
    /// The request line was found to be one.
    begun: bool,
}

/// A head of which every byte is there, in lines that end as they must.
#[derive(Debug)]
pub(crate) struct Lines {
    bytes: Bytes,
    ends: Ends,
}

/// Where the first lines end, so that most heads are searched once.
#[derive(Clone, Copy, Debug)]
struct Ends {
    at: [u16; ENDS_MAX],
    count: usize,
}

impl Ends {
    const NONE: Ends = Ends {
        at: [0; ENDS_MAX],
        count: 0,
    };

    fn push(&mut self, end: usize) {
        if let (Some(place), Ok(end)) = (self.at.get_mut(self.count), u16::try_from(end)) {
            *place = end;
            self.count += 1;
        }
    }
}

/// Takes a head from the front of `received` if all of it is there. `seen` is kept by the caller from one call to the next. What cannot become a request is told at once, and not when its time is up.
///
/// # Errors
/// `Unfit`; the connection is of no more use then.
pub(crate) fn take(
    received: &mut BytesMut,
    seen: &mut Seen,
    limits: &Limits,
) -> Result<Option<Lines>, Unfit> {
    let mut ends = Ends::NONE;
    let Some(length) = end_of_head(received, seen, &mut ends)? else {
        if received.len() > limits.bytes_max {
            return Err(Unfit::TooLarge);
        }
        begins_well(received, seen)?;
        return Ok(None);
    };
    *seen = Seen::default();
    if length > limits.bytes_max {
        return Err(Unfit::TooLarge);
    }
    let bytes = match received.len() == length {
        true => std::mem::take(received).freeze(),
        false => received.split_to(length).freeze(),
    };
    Ok(Some(Lines { bytes, ends }))
}

/// Behind the empty line that ends a head, if it is there. Empty lines before a head are thrown away (RFC 9112 section 2.2).
fn end_of_head(
    received: &mut BytesMut,
    seen: &mut Seen,
    ends: &mut Ends,
) -> Result<Option<usize>, Unfit> {
    let from_start = seen.line == 0;
    loop {
        let Some(found) = memchr(b'\n', &received[seen.searched..]) else {
            seen.searched = received.len();
            return Ok(None);
        };
        let end = seen.searched + found;
        if end == 0 || received[end - 1] != b'\r' {
            return Err(Unfit::Malformed("a line ends without CR"));
        }
        let is_empty = end == seen.line + 1;
        seen.searched = end + 1;
        match (is_empty, seen.line) {
            (true, 0) => {
                received.advance(2);
                *seen = Seen::default();
            }
            (true, _) => return Ok(Some(end + 1)),
            (false, _) => {
                seen.line = end + 1;
                if from_start {
                    ends.push(end);
                }
            }
        }
    }
}

/// Whether what is there of a head can become one: the method, and then the request line.
fn begins_well(received: &[u8], seen: &mut Seen) -> Result<(), Unfit> {
    if seen.begun {
        return Ok(());
    }
    if seen.line > 0 {
        let end = memchr(b'\r', received).unwrap_or(received.len());
        request_line(&received[..end])?;
        seen.begun = true;
        return Ok(());
    }
    let start = &received[..received.len().min(METHOD_BYTES_LOOKED_AT)];
    let word = memchr(b' ', start).map_or(start, |space| &start[..space]);
    // The CR of an empty line whose LF is still to come.
    if received == b"\r" || word.is_empty() && received.is_empty() {
        return Ok(());
    }
    Method::from_bytes(word).map_or(Err(NO_METHOD), |_| Ok(()))
}

/// A method, where in the line its target stands, and the version (RFC 9112 section 3).
fn request_line(line: &[u8]) -> Result<(Method, std::ops::Range<usize>, Version), Unfit> {
    const NO_LINE: Unfit = Unfit::Malformed("the first line is no request line");
    let method_end = memchr(b' ', line).ok_or(NO_METHOD)?;
    let method = Method::from_bytes(&line[..method_end]).map_err(|_| NO_METHOD)?;
    let start = method_end + 1;
    let end = start + memchr(b' ', &line[start..]).ok_or(NO_LINE)?;
    let version = match &line[end + 1..] {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        _ => return Err(Unfit::Malformed("the version is not HTTP/1.1 or HTTP/1.0")),
    };
    Ok((method, start..end, version))
}

/// Reads a head that is whole.
///
/// # Errors
/// `Unfit`; the connection is of no more use then.
pub(crate) fn parse(lines: &Lines, limits: &Limits) -> Result<Head, Unfit> {
    let head = &lines.bytes;
    let end_of = |line: usize, from: usize| match lines.ends.at[..lines.ends.count].get(line) {
        Some(end) => usize::from(*end),
        None => from + memchr(b'\n', &head[from..]).unwrap_or(head.len() - 1 - from),
    };
    let line_end = end_of(0, 0);
    let (method, target, version) = request_line(&head[..line_end.saturating_sub(1)])?;
    if target.len() > TARGET_BYTES_MAX {
        return Err(Unfit::TargetTooLong);
    }
    let target = head.slice(target);
    // Behind a `#` nobody else looks at it.
    let is_text = std::str::from_utf8(&target).is_ok();
    if !is_text || target.iter().any(|byte| *byte <= b' ' || *byte == DELETE) {
        return Err(NO_TARGET);
    }
    let uri = Uri::from_maybe_shared(target).map_err(|_| NO_TARGET)?;
    let mut says = Says::new(version);
    let mut fields = spare::fields();
    let mut at = line_end + 1;
    let mut count = 0;
    // The last two bytes are the empty line's.
    while at + 2 < head.len() {
        count += 1;
        let end = end_of(count, at);
        if count > limits.fields_max {
            return Err(Unfit::TooLarge);
        }
        let (name, value) = field(head, at, end - 1)?;
        says.note(&name, &value)?;
        fields.append(name, value);
        at = end + 1;
    }
    let framing = says.framing()?;
    let (parts, ()) = Request::new(()).into_parts();
    let mut parts = Box::new(parts);
    parts.method = method;
    parts.uri = uri;
    parts.version = version;
    parts.headers = fields;
    Ok(Head {
        parts,
        framing,
        keeps_alive: says.keeps_alive,
        expects_continue: says.expects_continue,
        upgrades: says.upgrades,
        takes_trailers: says.takes_trailers,
    })
}

/// The field in the line from `start` to `end` (RFC 9112 section 5). A folded line begins with white space, which no name has; nor may it stand before the colon.
fn field(head: &Bytes, start: usize, end: usize) -> Result<(HeaderName, HeaderValue), Unfit> {
    let line = &head[start..end];
    // Names are short: searching them in long steps costs more.
    let colon = line.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or(Unfit::Malformed("a header line has no colon"))?;
    let name = HeaderName::from_bytes(&line[..colon]);
    let name = name.map_err(|_| Unfit::Malformed("a header name is no token"))?;
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let value = &line[colon + 1..];
    let before = value.iter().take_while(|byte| is_blank(byte)).count();
    let value = &value[before..];
    let after = value.iter().rev().take_while(|byte| is_blank(byte)).count();
    let from = start + colon + 1 + before;
    let value = head.slice(from..from + value.len() - after);
    let value = HeaderValue::from_maybe_shared(value);
    let value = value.map_err(|_| Unfit::Malformed("a header value has control characters"))?;
    Ok((name, value))
}

/// What the fields of a head say of its message and connection.
#[derive(Debug)]
struct Says {
    is_old: bool,
    length: Option<u64>,
    coded: Option<Coded>,
    keeps_alive: bool,
    closes: bool,
    expects_continue: bool,
    upgrades: bool,
    takes_trailers: bool,
}

/// A `Transfer-Encoding`, which either ends in `chunked` or frames nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coded {
    Chunked,
    Otherwise,
}

impl Says {
    fn new(version: Version) -> Says {
        let is_old = version == Version::HTTP_10;
        Says {
            is_old,
            length: None,
            coded: None,
            keeps_alive: !is_old,
            closes: false,
            expects_continue: false,
            upgrades: false,
            takes_trailers: false,
        }
    }

    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Unfit> {
        const LENGTH: Unfit = Unfit::Malformed("Content-Length is not one number");
        const TWICE: Unfit = Unfit::Malformed("the body is framed twice");
        let value = value.as_bytes();
        if *name == header::CONTENT_LENGTH {
            if self.is_framed() {
                return Err(TWICE);
            }
            self.length = Some(decimal(value).ok_or(LENGTH)?);
        } else if *name == header::TRANSFER_ENCODING {
            if self.is_framed() {
                return Err(TWICE);
            }
            if self.is_old {
                return Err(Unfit::Malformed("HTTP/1.0 has no Transfer-Encoding"));
            }
            // Whatever else was done to the body is for the gate to refuse.
            let last = options(value).last();
            let is_chunked = last.is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
            self.coded = Some(match is_chunked {
                true => Coded::Chunked,
                false => Coded::Otherwise,
            });
        } else if *name == header::CONNECTION {
            self.closes |= has_option(value, b"close");
            self.keeps_alive =
                !self.closes && (self.keeps_alive || has_option(value, b"keep-alive"));
        } else if *name == header::EXPECT {
            self.expects_continue = !self.is_old && value.eq_ignore_ascii_case(b"100-continue");
        } else if *name == header::UPGRADE {
            self.upgrades = !self.is_old;
        } else if *name == header::TE {
            self.takes_trailers |= has_option(value, b"trailers");
        }
        Ok(())
    }

    fn is_framed(&self) -> bool {
        self.length.is_some() || self.coded.is_some()
    }

    fn framing(&self) -> Result<Framing, Unfit> {
        match (self.coded, self.length) {
            (Some(Coded::Chunked), _) => Ok(Framing::Chunked),
            (Some(Coded::Otherwise), _) => Err(Unfit::Malformed("the last coding is not chunked")),
            (None, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether a list has this option, whatever its case.
pub(super) fn has_option(value: &[u8], option: &[u8]) -> bool {
    options(value).any(|there| there.eq_ignore_ascii_case(option))
}

/// Digits and nothing else.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

const NO_METHOD: Unfit = Unfit::Malformed("the method is no token");
const NO_TARGET: Unfit = Unfit::Malformed("the target is no URI");
/// How much of a line that has not ended is looked at for a method: longer than any that is known.
const METHOD_BYTES_LOOKED_AT: usize = 64;
/// The longest target that can be told, bytes.
const TARGET_BYTES_MAX: usize = u16::MAX as usize - 1;
const DELETE: u8 = 0x7f;
/// Lines whose ends are kept.
const ENDS_MAX: usize = 32;
