//! Looks at HTTP/1.1 messages as they pass, and spoils those whose framing two readers could see in two ways.
//!
//! hyper takes a bare LF for a line end, two equal `Content-Length` for one, and a coding beside a length. Each is allowed to a server that stands alone, but
//! smuggles where several readers stand in a row (S1, S2, S3, S15). So the line end of such a line in a head or in trailers is made a NUL before hyper sees it, which hyper
//! answers with its 400 and a close; between chunks hyper refuses a bare LF itself. What is left is so strict that this walk and hyper cannot disagree about where a message ends.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;

use super::watched::Progress;

/// A decrypted HTTP/1.1 stream of bytes under this watch.
#[derive(Debug)]
pub(super) struct Strict<T> {
    inner: T,
    walk: Walk,
    /// Where it is noted that an answer ends HTTP.
    progress: Arc<Progress>,
}

impl<T> Strict<T> {
    pub(super) fn new(inner: T, progress: Arc<Progress>) -> Strict<T> {
        Strict {
            inner,
            walk: Walk::default(),
            progress,
        }
    }

    /// Bytes of ours go out: with the first of a 101 the walk is over, since behind it the client speaks another protocol. That it is one our own
    /// handler has said; what stands in an answer's body does not count.
    fn answers(&mut self) {
        if self.walk.upgrade && self.progress.switches() {
            self.walk.at = At::Blind;
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Strict<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.walk.over(&mut buffer.filled_mut()[before..]);
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Strict<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.answers();
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.answers();
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Where the walk stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    /// In a body with so many bytes to come.
    Body(u64),
    ChunkSize,
    /// In a chunk with so many bytes to come.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// What comes is no message any more: a line was spoilt, or the connection became a tunnel.
    Blind,
}

/// Walks over requests (RFC 9112); remembers only where it stands and how the head under way says that its body is framed.
#[derive(Debug, Default)]
struct Walk {
    at: At,
    /// The request line has come.
    begun: bool,
    length: Option<u64>,
    coded: bool,
    /// A request has asked for another protocol; stays, since the answer may come later.
    upgrade: bool,
    /// The beginning of a line whose end is still to come.
    part: Part,
}

/// The first bytes of a line that came in pieces, and its last one.
#[derive(Debug)]
struct Part {
    bytes: [u8; PART_BYTES],
    /// How long the line is so far.
    length: usize,
    last: u8,
}

impl Default for Part {
    fn default() -> Part {
        Part {
            bytes: [0; PART_BYTES],
            length: 0,
            last: 0,
        }
    }
}

impl Part {
    fn push(&mut self, piece: &[u8]) {
        let Some(last) = piece.last() else {
            return;
        };
        let at = self.length.min(PART_BYTES);
        let count = piece.len().min(PART_BYTES - at);
        self.bytes[at..at + count].copy_from_slice(&piece[..count]);
        self.length += piece.len();
        self.last = *last;
    }
}

/// The line is one that two readers could take for two different things.
struct Doubtful;

impl Walk {
    /// Walks over bytes that have come; spoils the end of a doubtful line.
    fn over(&mut self, bytes: &mut [u8]) {
        let mut from = 0;
        while from < bytes.len() {
            match &mut self.at {
                At::Blind => return,
                At::Body(left) | At::Chunk(left) => {
                    let count =
                        (bytes.len() - from).min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= count as u64;
                    from += count;
                    if *left == 0 {
                        self.at = match self.at {
                            At::Chunk(_) => At::ChunkEnd,
                            _ => At::Head,
                        };
                    }
                }
                At::Head | At::ChunkSize | At::ChunkEnd | At::Trailers => {
                    let rest = &bytes[from..];
                    let Some(end) = memchr::memchr(b'\n', rest) else {
                        self.part.push(rest);
                        return;
                    };
                    let between_chunks = matches!(self.at, At::ChunkSize | At::ChunkEnd);
                    if self.line_ends(&rest[..end]).is_err() {
                        // Between chunks hyper itself refuses a bare LF and what is no size; in an extension it would take a NUL.
                        if !between_chunks {
                            bytes[from + end] = 0;
                        }
                        self.at = At::Blind;
                        return;
                    }
                    from += end + 1;
                }
            }
        }
    }

    /// A line is whole; `piece` is what came of it last, without its LF.
    fn line_ends(&mut self, piece: &[u8]) -> Result<(), Doubtful> {
        if self.part.length == 0 {
            let line = piece.strip_suffix(b"\r").ok_or(Doubtful)?;
            return self.line(line, true);
        }
        let mut part = std::mem::take(&mut self.part);
        part.push(piece);
        if part.last != b'\r' {
            return Err(Doubtful);
        }
        let length = part.length - 1;
        self.line(&part.bytes[..length.min(PART_BYTES)], length <= PART_BYTES)
    }

    /// A line without its end; of a long one that came in pieces only the beginning, and then it is not `whole`.
    fn line(&mut self, line: &[u8], whole: bool) -> Result<(), Doubtful> {
        match self.at {
            At::Head if line.is_empty() => self.head_ends(),
            At::Head if !self.begun => self.begun = true,
            At::Head => self.field(line, whole)?,
            At::ChunkSize => {
                self.at = match chunk_size(line).ok_or(Doubtful)? {
                    0 => At::Trailers,
                    size => At::Chunk(size),
                }
            }
            At::ChunkEnd if line.is_empty() => self.at = At::ChunkSize,
            At::ChunkEnd => return Err(Doubtful),
            At::Trailers if line.is_empty() => self.at = At::Head,
            At::Trailers | At::Body(_) | At::Chunk(_) | At::Blind => {}
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8], whole: bool) -> Result<(), Doubtful> {
        // One look at the first letter for nearly every line.
        let framed = self.length.is_some() || self.coded;
        match line[0] {
            b'c' | b'C' => {
                if let Some(value) = value_of(line, b"content-length:") {
                    let length = decimal(value).filter(|_| whole && !framed);
                    self.length = Some(length.ok_or(Doubtful)?);
                }
            }
            // Whatever codings there are: the last one is chunked, or hyper refuses the request.
            b't' | b'T' if value_of(line, b"transfer-encoding:").is_some() => {
                if framed || !whole {
                    return Err(Doubtful);
                }
                self.coded = true;
            }
            b'u' | b'U' => self.upgrade |= value_of(line, b"upgrade:").is_some(),
            _ => {}
        }
        Ok(())
    }

    fn head_ends(&mut self) {
        // RFC 9112 section 2.2: empty lines before a request line are ignored.
        if !self.begun {
            return;
        }
        self.begun = false;
        self.at = match (std::mem::take(&mut self.coded), self.length.take()) {
            (true, _) => At::ChunkSize,
            (false, None | Some(0)) => At::Head,
            (false, Some(length)) => At::Body(length),
        };
    }
}

/// The value of a line of this name, which is given in small letters with its colon.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn decimal(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// RFC 9112 section 7.1: hexadecimal digits, and then nothing, white space or an extension.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let is_digit = |byte: &u8| byte.is_ascii_hexdigit();
    let count = line.iter().take_while(|byte| is_digit(byte)).count();
    let (digits, rest) = line.split_at(count);
    if !matches!(rest.first(), None | Some(b' ' | b'\t' | b';')) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// How much of a line in pieces is kept: enough for a length or a coding.
const PART_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// Whether these bytes, coming in pieces of this size, pass unspoilt; and where the walk then stands.
    fn passes(bytes: &[u8], piece: usize) -> (bool, At) {
        let mut walk = Walk::default();
        let mut seen = bytes.to_vec();
        for part in seen.chunks_mut(piece) {
            walk.over(part);
        }
        (seen == bytes, walk.at)
    }

    #[test]
    fn doubtful_framing_is_spoilt() {
        let start = "POST / HTTP/1.1\r\nHost: x\r\n";
        let chunked = format!("{start}Transfer-Encoding: chunked\r\n\r\n");
        let cases = [
            "POST / HTTP/1.1\nHost: x\r\n\r\n".to_owned(),
            "POST / HTTP/1.1\r\nHost: x\n\r\n".to_owned(),
            format!("{start}\n"),
            "\nGET / HTTP/1.1\r\n\r\n".to_owned(),
            format!("{start}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
            format!("{start}Content-Length: 5\r\ncontent-length:5\r\n\r\nhello"),
            format!("{start}Content-Length: +5\r\n\r\nhello"),
            format!("{start}Content-Length: 5, 5\r\n\r\nhello"),
            format!("{start}Content-Length: 18446744073709551616\r\n\r\n"),
            format!("{start}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
            format!("{start}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"),
            format!("{start}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
            format!("{chunked}5\nhello\r\n0\r\n\r\n"),
            format!("{chunked}5\r\nhello\n0\r\n\r\n"),
            format!("{chunked}5\r\nhelloX\r\n0\r\n\r\n"),
            format!("{chunked}5;a\nb\r\nhello\r\n0\r\n\r\n"),
            format!("{chunked}0x5\r\nhello\r\n0\r\n\r\n"),
            format!("{chunked}-5\r\nhello\r\n0\r\n\r\n"),
            format!("{chunked}10000000000000000\r\n"),
            format!("{chunked}5\r\nhello\r\n0\r\nX: y\n\r\n"),
            format!("{chunked}5\r\nhello\r\n0\r\n\n"),
            format!("{start}Content-Length: 2\r\n\r\nhiGET / HTTP/1.1\n\r\n"),
        ];
        for bytes in cases {
            for piece in [1, 2, 7, 1000] {
                let (whole, at) = passes(bytes.as_bytes(), piece);
                let between_chunks =
                    bytes.contains("chunked\r\n\r\n") && !bytes.contains("\r\n0\r\nX");
                let spoilt = !whole || between_chunks;
                assert!(spoilt && at == At::Blind, "{bytes:?} by {piece}: {at:?}");
            }
        }
    }

    #[test]
    fn framing_that_is_too_long_to_be_kept_is_doubtful() {
        for field in ["Content-Length:", "Transfer-Encoding:"] {
            let value = if field.starts_with('C') {
                "5"
            } else {
                "chunked"
            };
            let padded = format!(
                "POST / HTTP/1.1\r\n{field}{}{value}\r\n\r\n",
                " ".repeat(90)
            );
            assert!(passes(padded.as_bytes(), usize::MAX).0, "{field}");
            assert_eq!(passes(padded.as_bytes(), 30), (false, At::Blind), "{field}");
        }
    }

    #[test]
    fn a_tunnel_is_not_looked_at() {
        let progress = Arc::new(Progress::new(Arc::default()));
        let mut stream = Strict::new((), Arc::clone(&progress));
        let mut asked = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n".to_vec();
        stream.walk.over(&mut asked);
        // An answer, whatever its body says.
        stream.answers();
        assert_eq!(stream.walk.at, At::Head);
        progress.switch();
        stream.answers();
        let mut frames = b"\x81\x05\nhe\n\n".to_vec();
        stream.walk.over(&mut frames);
        assert_eq!(frames, b"\x81\x05\nhe\n\n");
    }

    fn message() -> impl Strategy<Value = Vec<u8>> {
        let field = "(X-[a-z]{1,9}|Content-Type|Cookie|TE|Upgrade-Insecure-Requests|Connection): [ -~]{0,90}\r\n";
        let fields = proptest::collection::vec(field, 0..5);
        let body = proptest::collection::vec(any::<u8>(), 0..80);
        let sizes = proptest::collection::vec(1usize..20, 1..5);
        (fields, body, sizes, 0..3, "[;]?").prop_map(|(fields, body, sizes, framing, extension)| {
            let mut bytes =
                format!("POST /x HTTP/1.1\r\nHost: x\r\n{}", fields.concat()).into_bytes();
            match framing {
                0 => bytes.extend(b"\r\n"),
                1 => {
                    bytes.extend(format!("content-length: {} \r\n\r\n", body.len()).bytes());
                    bytes.extend(body);
                }
                _ => {
                    bytes.extend(b"Transfer-Encoding:Chunked\r\n\r\n");
                    let mut rest = &body[..];
                    for size in sizes.iter().cycle() {
                        let (chunk, after) = rest.split_at((*size).min(rest.len()));
                        bytes.extend(format!("{:X}{extension}\r\n", chunk.len()).bytes());
                        bytes.extend(chunk);
                        rest = after;
                        if chunk.is_empty() {
                            bytes.extend(b"X-Trailer: y\r\n\r\n");
                            break;
                        }
                        bytes.extend(b"\r\n");
                    }
                }
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn sound_messages_pass_however_they_are_cut(
            messages in proptest::collection::vec(message(), 1..5),
            piece in 1usize..100,
        ) {
            let bytes = messages.concat();
            prop_assert_eq!(passes(&bytes, piece), (true, At::Head));
            prop_assert_eq!(passes(&bytes, usize::MAX), (true, At::Head));
        }

        #[test]
        fn how_bytes_are_cut_does_not_matter(text in "(GET / HTTP/1.1|Content-Length: [0-9]\r?\n|Transfer-Encoding: chunked\r?\n|[0-9a]|\r\n|\n|x){0,30}", piece in 1usize..9) {
            prop_assert_eq!(passes(text.as_bytes(), piece), passes(text.as_bytes(), usize::MAX));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, piece in 1usize..9) {
            passes(&bytes, piece);
        }
    }
}
