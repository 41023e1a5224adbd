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
        // A flood is not read on; the sweep will cut the connection at its next turn.
        if self.progress.flooded() {
            return Poll::Pending;
        }
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
            if self.scanner.floods() {
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
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.scanner.sent(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.scanner.sent(&result);
        result
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
    /// WINDOW_UPDATE frames that may still come: each acknowledges something that was sent, but for those of `UPDATES_PER_TICK`.
    updates_left: i64,
    /// Half RST_STREAM frames that may still come: a client may give up requests, but not most of them (S20).
    resets_left: i32,
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
            updates_left: UPDATES_PER_TICK,
            resets_left: RESETS_MAX,
            tick: 0,
        }
    }
}

impl Scanner {
    pub(super) fn scan(&mut self, mut bytes: &[u8], tick: u32) -> Seen {
        if self.tick != tick {
            self.turn(tick);
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

    fn turn(&mut self, tick: u32) {
        let turns = i32::try_from(tick.saturating_sub(self.tick)).unwrap_or(i32::MAX);
        let resets = turns.saturating_mul(RESETS_PER_TICK);
        self.resets_left = self.resets_left.saturating_add(resets).min(RESETS_MAX);
        self.updates_left = self.updates_left.max(UPDATES_PER_TICK);
        self.control_frames = 0;
        self.tick = tick;
    }

    /// Notes bytes on their way to the client, which it will acknowledge.
    fn sent(&mut self, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = result {
            let updates = *bytes as i64 / BYTES_PER_UPDATE;
            self.updates_left = (self.updates_left + updates).min(UPDATES_MAX);
        }
    }

    /// Whether the client sends more frames that cost us and bring nothing than any honest one would.
    fn floods(&self) -> bool {
        self.control_frames > CONTROL_FRAMES_PER_TICK_MAX
            || self.updates_left < 0
            || self.resets_left < 0
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.payload_left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.in_data = kind == DATA;
        match kind {
            HEADERS => {
                self.block_open = true;
                self.ends_block = flags & END_HEADERS != 0;
                self.resets_left = (self.resets_left + 1).min(RESETS_MAX);
            }
            CONTINUATION => self.ends_block = flags & END_HEADERS != 0,
            // Grows with honest uploads; h2 itself bounds empty ones.
            DATA => {}
            RST_STREAM => self.resets_left = self.resets_left.saturating_sub(2),
            WINDOW_UPDATE => self.updates_left = self.updates_left.saturating_sub(1),
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
/// WINDOW_UPDATE frames per tick beside those that acknowledge what was sent.
const UPDATES_PER_TICK: i64 = 1_000;
/// A client that acknowledges every frame of a stream of tiny messages, for stream and connection, sends one for so many bytes.
const BYTES_PER_UPDATE: i64 = 8;
/// Most that can be saved up, so that one large answer does not pay for a flood.
const UPDATES_MAX: i64 = 100_000;
/// Half resets that a connection may have in hand: two full sets of 100 streams given up at once.
const RESETS_MAX: i32 = 400;
/// What it gets back per tick, beside half a reset for each request: 100 resets a second.
const RESETS_PER_TICK: i32 = 50;
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

    #[test]
    fn updates_must_acknowledge_something() {
        let update = frame(WINDOW_UPDATE, 0, 4);
        let mut scanner = opened();
        for tick in 1..5 {
            scanner.scan(&update.repeat(1_000), tick);
            assert!(!scanner.floods());
        }
        scanner.sent(&Poll::Ready(Ok(8_000)));
        scanner.scan(&update.repeat(1_000), 4);
        assert!(!scanner.floods());
        scanner.scan(&update, 4);
        assert!(scanner.floods());
    }

    #[test]
    fn a_client_may_give_up_requests_but_not_most_of_them() {
        let (headers, reset) = (frame(HEADERS, 4, 5), frame(RST_STREAM, 0, 4));
        let mut honest = opened();
        for tick in 1..50 {
            // A page left in its middle, and a client that gives up every third request.
            let left = [headers.repeat(100), reset.repeat(100)].concat();
            honest.scan(if tick % 8 == 0 { &left } else { &[] }, tick);
            let third = [headers.repeat(3), reset.clone()].concat();
            honest.scan(&third.repeat(20), tick);
            assert!(!honest.floods(), "{tick}");
        }
        let mut rapid = opened();
        let pair = [headers, reset].concat();
        rapid.scan(&pair.repeat(399), 1);
        assert!(!rapid.floods());
        rapid.scan(&pair, 1);
        assert!(rapid.floods());
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
