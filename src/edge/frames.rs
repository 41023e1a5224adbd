//! Looks at HTTP/2 frame headers as they pass: a header block that trickles in, and floods of control frames.

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

/// A decrypted HTTP/2 stream of bytes, its frame headers noted in `Progress`.
#[derive(Debug)]
pub(super) struct Framed<T> {
    inner: T,
    scanner: Scanner,
    progress: Arc<Progress>,
}

impl<T> Framed<T> {
    pub(super) fn new(inner: T, progress: Arc<Progress>) -> Framed<T> {
        Framed {
            inner,
            scanner: Scanner::default(),
            progress,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Framed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let bytes = &buffer.filled()[before..];
        if !bytes.is_empty() {
            let tick = self.progress.now();
            match self.scanner.scan(bytes, tick) {
                Seen::Whole => self.progress.block_ended(),
                Seen::NewBlock => {
                    self.progress.block_ended();
                    self.progress.block_began();
                }
                Seen::OpenBlock => self.progress.block_began(),
            }
            if self.scanner.control_frames > CONTROL_FRAMES_PER_TICK_MAX {
                self.progress.flood();
            }
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Framed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

/// Where a connection stands after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Between header blocks (a DATA frame may be under way: body stalls are judged elsewhere).
    Whole,
    /// Inside a header block that began with these bytes, after an earlier one ended in them.
    NewBlock,
    /// Inside a header block, the preface, or a frame that is not DATA.
    OpenBlock,
}

/// Walks over frames (RFC 9113 section 4.1); remembers only where it stands.
#[derive(Debug)]
pub(super) struct Scanner {
    /// Bytes of the client preface still to come.
    preface_left: usize,
    /// The frame header being read.
    header: [u8; FRAME_HEADER],
    /// How much of `header` is there.
    header_bytes: usize,
    /// Bytes of payload still to come.
    payload_left: usize,
    /// The frame under way is DATA.
    in_data: bool,
    /// Between HEADERS without END_HEADERS and the CONTINUATION that has it.
    block_open: bool,
    /// The frame under way ends the block.
    ends_block: bool,
    /// Control frames in `tick`.
    pub(super) control_frames: u32,
    tick: u32,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner {
            preface_left: PREFACE,
            header: [0; FRAME_HEADER],
            header_bytes: 0,
            payload_left: 0,
            in_data: false,
            block_open: false,
            ends_block: false,
            control_frames: 0,
            tick: 0,
        }
    }
}

impl Scanner {
    pub(super) fn scan(&mut self, mut bytes: &[u8], tick: u32) -> Seen {
        if self.tick != tick {
            self.tick = tick;
            self.control_frames = 0;
        }
        let mut ended = false;
        skip(&mut bytes, &mut self.preface_left);
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                skip(&mut bytes, &mut self.payload_left);
            } else {
                let take = bytes.len().min(FRAME_HEADER - self.header_bytes);
                self.header[self.header_bytes..][..take].copy_from_slice(&bytes[..take]);
                self.header_bytes += take;
                bytes = &bytes[take..];
                if self.header_bytes < FRAME_HEADER {
                    break;
                }
                self.begin_frame();
            }
            if self.payload_left == 0 && self.header_bytes == FRAME_HEADER {
                ended |= self.end_frame();
            }
        }
        match (self.is_open(), ended) {
            (false, _) => Seen::Whole,
            (true, true) => Seen::NewBlock,
            (true, false) => Seen::OpenBlock,
        }
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.payload_left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.in_data = kind == DATA;
        match kind {
            HEADERS => {
                self.block_open = true;
                self.ends_block = flags & END_HEADERS != 0;
            }
            CONTINUATION => self.ends_block = flags & END_HEADERS != 0,
            // Not counted: DATA and WINDOW_UPDATE grow with honest transfers; h2 itself bounds empty DATA and resets.
            DATA | RST_STREAM | WINDOW_UPDATE => {}
            _ => self.control_frames += 1,
        }
    }

    /// Says whether this frame ended a header block, or lay outside of one.
    fn end_frame(&mut self) -> bool {
        self.header_bytes = 0;
        self.in_data = false;
        if self.ends_block {
            self.block_open = false;
            self.ends_block = false;
        }
        !self.block_open
    }

    fn is_open(&self) -> bool {
        let in_other_frame = self.header_bytes > 0 && !self.in_data;
        self.preface_left > 0 || self.block_open || in_other_frame
    }
}

fn skip(bytes: &mut &[u8], left: &mut usize) {
    let take = bytes.len().min(*left);
    *bytes = &bytes[take..];
    *left -= take;
}

/// PING, SETTINGS, PRIORITY, GOAWAY, PUSH_PROMISE and unknown frames within one tick (250 ms) beyond which a client is flooding (S21).
const CONTROL_FRAMES_PER_TICK_MAX: u32 = 1_000;
/// Length of the client preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![
            0,
            (length >> 8) as u8,
            length as u8,
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        bytes.extend(vec![0xaa; length]);
        bytes
    }

    fn opened() -> Scanner {
        Scanner {
            preface_left: 0,
            ..Scanner::default()
        }
    }

    #[test]
    fn a_header_block_is_open_until_end_headers() {
        let cases: [(&str, Vec<Vec<u8>>, Seen); 9] = [
            ("whole headers", vec![frame(HEADERS, 4, 5)], Seen::Whole),
            ("no end", vec![frame(HEADERS, 0, 5)], Seen::OpenBlock),
            (
                "continued",
                vec![frame(HEADERS, 0, 5), frame(CONTINUATION, 0, 1)],
                Seen::OpenBlock,
            ),
            (
                "continued to the end",
                vec![frame(HEADERS, 0, 5), frame(CONTINUATION, 4, 0)],
                Seen::Whole,
            ),
            (
                "second block opens",
                vec![frame(HEADERS, 4, 5), frame(HEADERS, 0, 5)],
                Seen::NewBlock,
            ),
            (
                "half a header",
                vec![frame(HEADERS, 4, 5)[..7].to_vec()],
                Seen::OpenBlock,
            ),
            (
                "half a payload",
                vec![frame(HEADERS, 4, 5)[..12].to_vec()],
                Seen::OpenBlock,
            ),
            (
                "half of DATA",
                vec![frame(DATA, 0, 5)[..12].to_vec()],
                Seen::Whole,
            ),
            (
                "half a ping",
                vec![frame(6, 0, 8)[..12].to_vec()],
                Seen::OpenBlock,
            ),
        ];
        for (name, frames, expected) in cases {
            assert_eq!(opened().scan(&frames.concat(), 1), expected, "{name}");
        }
    }

    #[test]
    fn an_unfinished_preface_counts_as_an_open_head() {
        let mut scanner = Scanner::default();
        assert_eq!(scanner.scan(b"PRI * HTTP/2.0\r\n", 1), Seen::OpenBlock);
        assert_eq!(scanner.scan(b"\r\nSM\r\n\r\n", 1), Seen::Whole);
    }

    #[test]
    fn control_frames_are_counted_per_tick() {
        let mut scanner = opened();
        for _ in 0..10 {
            scanner.scan(
                &[frame(6, 0, 8), frame(DATA, 0, 3), frame(4, 0, 0)].concat(),
                1,
            );
        }
        assert_eq!(scanner.control_frames, 20);
        scanner.scan(&frame(HEADERS, 4, 8), 2);
        assert_eq!(scanner.control_frames, 0);
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_does_not_matter(
            frames in proptest::collection::vec((0u8..11, 0u8..6, 0usize..40), 1..12),
            cut in 1usize..20,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|f| frame(f.0, f.1, f.2)).collect();
            let mut at_once = opened();
            at_once.scan(&bytes, 1);
            let mut in_pieces = opened();
            for piece in bytes.chunks(cut) {
                in_pieces.scan(piece, 1);
            }
            prop_assert_eq!(format!("{at_once:?}"), format!("{in_pieces:?}"));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            opened().scan(&bytes, 1);
        }
    }
}
