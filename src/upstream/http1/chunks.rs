//! Chunked bodies (RFC 9112 section 7.1), from backends and from clients, read strictly: what two readers could take apart differently is an error.

use bytes::Buf;
use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

/// Where in a chunked body the reader stands.
#[derive(Debug)]
pub(crate) struct Chunks {
    state: State,
    /// Bytes of extensions seen in the whole body.
    extension_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the line that says how long the next chunk is.
    Size,
    /// In a chunk of which so much is to come.
    Data(u64),
    /// After a chunk's last byte.
    DataEnd,
    /// After the last chunk.
    Trailers,
}

/// What the reader found next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Bytes of the body.
    Data(Bytes),
    /// The end; the trailers that stood before it.
    End(Option<HeaderMap>),
    /// Nothing without more bytes.
    More,
}

/// A body that is not chunked as it should be; why, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl Chunks {
    pub(crate) fn new() -> Chunks {
        Chunks {
            state: State::Size,
            extension_bytes: 0,
        }
    }

    /// Takes what can be taken from the front of `received`.
    ///
    /// # Errors
    /// `Malformed`; the connection is of no more use then.
    pub(crate) fn next(&mut self, received: &mut BytesMut) -> Result<Next, Malformed> {
        loop {
            match self.state {
                State::Size => {
                    let Some(size) = self.take_size(received)? else {
                        return Ok(Next::More);
                    };
                    self.state = match size {
                        0 => State::Trailers,
                        size => State::Data(size),
                    };
                }
                State::Data(rest) => {
                    if received.is_empty() {
                        return Ok(Next::More);
                    }
                    let there = usize::try_from(rest).map_or(received.len(), |rest| {
                        // No more than the chunk has.
                        rest.min(received.len())
                    });
                    let data = received.split_to(there).freeze();
                    self.pass(there as u64);
                    return Ok(Next::Data(data));
                }
                State::DataEnd => match received.get(..2) {
                    Some(b"\r\n") => {
                        received.advance(2);
                        self.state = State::Size;
                    }
                    Some(_) => return Err(Malformed("a chunk does not end where it said")),
                    None => return Ok(Next::More),
                },
                State::Trailers => {
                    let trailers = take_trailers(received)?;
                    return Ok(trailers.map_or(Next::More, Next::End));
                }
            }
        }
    }

    /// Takes the end of a body without trailers if it is there already, so that nobody has to ask once more.
    pub(crate) fn ends_here(&self, received: &mut BytesMut) -> bool {
        let end: &[u8] = match self.state {
            State::DataEnd => b"\r\n0\r\n\r\n",
            State::Size => b"0\r\n\r\n",
            State::Data(_) | State::Trailers => return false,
        };
        let is_end = received.starts_with(end);
        if is_end {
            received.advance(end.len());
        }
        is_end
    }

    /// So many bytes of the chunk under way were taken, no more than it has.
    pub(crate) fn pass(&mut self, count: u64) {
        if let State::Data(rest) = self.state {
            self.state = match rest.saturating_sub(count) {
                0 => State::DataEnd,
                rest => State::Data(rest),
            };
        }
    }

    /// How many bytes of the chunk under way are to come.
    pub(crate) fn expected(&self) -> u64 {
        match self.state {
            State::Data(rest) => rest,
            State::Size | State::DataEnd | State::Trailers => 0,
        }
    }

    /// Takes `size [;extensions] CRLF`, if all of it is there.
    fn take_size(&mut self, received: &mut BytesMut) -> Result<Option<u64>, Malformed> {
        let Some(end) = memchr::memchr(b'\n', received) else {
            if received.len() > SIZE_LINE_BYTES_MAX {
                return Err(Malformed("a chunk's size line is too long"));
            }
            let digits = received.iter().take_while(|byte| byte.is_ascii_hexdigit());
            let digits = digits.count();
            let after = received.get(digits);
            let begins_well =
                digits > 0 && matches!(after, None | Some(b'\r' | b';' | b' ' | b'\t'));
            return if received.is_empty() || begins_well {
                Ok(None)
            } else {
                Err(Malformed("a chunk's size is no hexadecimal number"))
            };
        };
        if end > SIZE_LINE_BYTES_MAX {
            return Err(Malformed("a chunk's size line is too long"));
        }
        let line = received[..end]
            .strip_suffix(b"\r")
            .ok_or(Malformed("a chunk's size line ends without CR"))?;
        let size = self.size_of(line)?;
        received.advance(end + 1);
        Ok(Some(size))
    }

    fn size_of(&mut self, line: &[u8]) -> Result<u64, Malformed> {
        const NO_NUMBER: Malformed = Malformed("a chunk's size is no hexadecimal number");
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let (digits, rest) = line.split_at(digits.count());
        // Sixteen digits are what 64 bits hold; leading zeros count, since readers that count on bits lost some.
        if digits.is_empty() || digits.len() > 16 {
            return Err(NO_NUMBER);
        }
        // Nothing else is white space here: a bare CR would end the line for some.
        let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
        let rest = &rest[blanks.count()..];
        if !rest.is_empty() {
            if rest[0] != b';' || rest.iter().any(|byte| *byte < b' ' && *byte != b'\t') {
                return Err(NO_NUMBER);
            }
            self.extension_bytes += rest.len();
            if self.extension_bytes > EXTENSION_BYTES_MAX {
                return Err(Malformed("too many bytes of chunk extensions"));
            }
        }
        let digits = std::str::from_utf8(digits).map_err(|_| NO_NUMBER)?;
        u64::from_str_radix(digits, 16).map_err(|_| NO_NUMBER)
    }
}

/// Takes the lines after the last chunk with the empty one that ends them, if all are there.
fn take_trailers(received: &mut BytesMut) -> Result<Option<Option<HeaderMap>>, Malformed> {
    const MALFORMED: Malformed = Malformed("the trailers are no header fields");
    match received.get(..2) {
        Some(b"\r\n") => {
            received.advance(2);
            return Ok(Some(None));
        }
        Some(_) => {}
        None => return Ok(None),
    }
    let mut lines = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    let (length, trailers) = match httparse::parse_headers(received, &mut lines) {
        Ok(httparse::Status::Complete((length, fields))) => (length, map_of(fields)?),
        Ok(httparse::Status::Partial) if received.len() > TRAILER_BYTES_MAX => {
            return Err(Malformed("too many bytes of trailers"));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(MALFORMED),
    };
    if length > TRAILER_BYTES_MAX {
        return Err(Malformed("too many bytes of trailers"));
    }
    let mut ends = memchr::memchr_iter(b'\n', &received[..length]);
    if ends.any(|end| end == 0 || received[end - 1] != b'\r') {
        return Err(Malformed("a trailer ends without CR"));
    }
    received.advance(length);
    Ok(Some(Some(trailers)))
}

fn map_of(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, Malformed> {
    const MALFORMED: Malformed = Malformed("the trailers are no header fields");
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| MALFORMED)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| MALFORMED)?;
        map.append(name, value);
    }
    Ok(map)
}

/// Longest line that says how long a chunk is, bytes.
const SIZE_LINE_BYTES_MAX: usize = 4 * 1024;
/// Bytes of extensions in one body. They say nothing to us, and are a way to keep a reader busy.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Bytes of trailers, and their number.
const TRAILER_BYTES_MAX: usize = 16 * 1024;
const TRAILERS_MAX: usize = 100;
