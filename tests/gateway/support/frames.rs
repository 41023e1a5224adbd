//! HTTP/2 frames made by hand, for what no honest client library sends.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;

use crate::support::client::Wire;
use crate::support::client::tls;
use crate::support::client::tls_config;

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer with this status.
    Status(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
    /// The connection ended without a word.
    Closed,
}

/// One HTTP/2 connection on which a test decides every frame.
pub struct Frames {
    wire: Box<dyn Wire>,
    next_stream: u32,
    /// What is to be sent in one piece.
    gathered: Option<Vec<u8>>,
}

/// DATA.
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// PRIORITY.
pub const PRIORITY: u8 = 2;
/// RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PUSH_PROMISE.
pub const PUSH_PROMISE: u8 = 5;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// WINDOW_UPDATE.
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;
/// END_STREAM.
pub const END_STREAM: u8 = 1;
/// ACK of SETTINGS and PING.
pub const ACK: u8 = 1;
/// PADDED.
pub const PADDED: u8 = 8;
/// PRIORITY as a flag of HEADERS.
pub const WITH_PRIORITY: u8 = 0x20;
/// END_HEADERS.
pub const END_HEADERS: u8 = 4;

impl Frames {
    /// Over TLS, preface and SETTINGS sent.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Frames {
        let mut frames = Frames::silent(address);
        frames.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // SETTINGS_HEADER_TABLE_SIZE 0: answers then hold no reference to earlier ones, and `status_of` needs no memory.
        frames.send(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
        frames
    }

    /// Over TLS, without a word.
    #[track_caller]
    pub fn silent(address: SocketAddr) -> Frames {
        Frames {
            wire: Box::new(tls(address, "localhost", tls_config(&["h2"])).unwrap()),
            next_stream: 1,
            gathered: None,
        }
    }

    /// Waits until both sides' SETTINGS are acknowledged.
    #[track_caller]
    pub fn greet(&mut self) {
        let (mut theirs, mut ours) = (false, false);
        while !(theirs && ours) {
            match self.read().expect("the gateway greets") {
                (SETTINGS, flags, ..) if flags & ACK != 0 => ours = true,
                (SETTINGS, ..) => {
                    self.send(SETTINGS, ACK, 0, &[]);
                    theirs = true;
                }
                _ => {}
            }
        }
    }

    /// Whether the connection still answers a PING.
    pub fn lives(&mut self) -> bool {
        const WORD: [u8; 8] = *b"alive???";
        self.send(PING, 0, 0, &WORD);
        loop {
            match self.read() {
                Some((PING, flags, _, payload)) if flags & ACK != 0 && payload == WORD => {
                    return true;
                }
                Some((GOAWAY, ..)) | None => return false,
                Some(_) => {}
            }
        }
    }

    /// Reads frames, past any answers, until this stream or the connection is ended by an error.
    pub fn outcome_unanswered(&mut self, stream: u32) -> Outcome {
        loop {
            match self.read() {
                None => return Outcome::Closed,
                Some((RST_STREAM, _, on, payload)) if on == stream => {
                    return Outcome::Reset(number(&payload));
                }
                Some((GOAWAY, _, _, payload)) if number(&payload[4..]) != 0 => {
                    return Outcome::GoAway(number(&payload[4..]));
                }
                Some(_) => {}
            }
        }
    }

    /// Sends one frame. A connection that has ended is no failure here; the outcome tells.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.write(&frame(kind, flags, stream, payload))
    }

    /// Opens a stream with these fields, names and values as they are; the stream's number.
    pub fn open(&mut self, fields: &[(&str, &str)], end_stream: bool) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let flags = END_HEADERS | if end_stream { END_STREAM } else { 0 };
        self.send(HEADERS, flags, stream, &encode(fields));
        stream
    }

    /// Sends a request without a body and says what became of it.
    pub fn exchange(&mut self, fields: &[(&str, &str)]) -> Outcome {
        let stream = self.open(fields, true);
        self.outcome(stream)
    }

    /// Reads frames until this stream is answered or ended.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            let Some((kind, flags, on, payload)) = self.read() else {
                return Outcome::Closed;
            };
            match kind {
                SETTINGS if flags & END_STREAM == 0 => {
                    self.send(SETTINGS, END_STREAM, 0, &[]);
                }
                HEADERS if on == stream => return Outcome::Status(status_of(&payload)),
                RST_STREAM if on == stream => return Outcome::Reset(number(&payload)),
                GOAWAY => match number(&payload[4..]) {
                    0 => {}
                    code => return Outcome::GoAway(code),
                },
                _ => {}
            }
        }
    }

    /// Reads frames until RST_STREAM or the connection's end; `None` when the stream ended in order (END_STREAM).
    pub fn ending(&mut self, stream: u32) -> Option<Outcome> {
        loop {
            let Some((kind, flags, on, payload)) = self.read() else {
                return Some(Outcome::Closed);
            };
            match kind {
                RST_STREAM if on == stream => return Some(Outcome::Reset(number(&payload))),
                HEADERS | DATA if on == stream && flags & END_STREAM != 0 => return None,
                _ => {}
            }
        }
    }

    /// Reads one frame: kind, flags, stream, payload; `None` at the end of the connection. Answers PING, as every client must.
    pub fn read(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.wire.read_exact(&mut head).ok()?;
        let length = number(&[0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.wire.read_exact(&mut payload).ok()?;
        if head[3] == PING && head[4] & END_STREAM == 0 {
            self.send(PING, END_STREAM, 0, &payload);
        }
        Some((head[3], head[4], number(&head[5..]), payload))
    }

    /// Sends in one piece what this sends one by one; whether the connection took it. What is a flood goes by what comes within a moment: how fast a test
    /// can send frame by frame depends on what else the machine does.
    pub fn together(&mut self, sends: impl FnOnce(&mut Frames)) -> bool {
        self.gathered = Some(Vec::new());
        sends(self);
        let bytes = self.gathered.take().unwrap_or_default();
        self.write(&bytes)
    }

    /// Makes so many requests with these fields and gives each up, all in one piece.
    pub fn give_up_at_once(&mut self, fields: &[(&str, &str)], count: usize) {
        self.together(|client| {
            for _ in 0..count {
                let stream = client.open(fields, true);
                client.send(RST_STREAM, 0, stream, &8u32.to_be_bytes());
            }
        });
    }

    /// Sends these bytes; whether the connection took them.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        if let Some(gathered) = &mut self.gathered {
            gathered.extend_from_slice(bytes);
            return true;
        }
        self.wire
            .write_all(bytes)
            .and_then(|()| self.wire.flush())
            .is_ok()
    }
}

/// The bytes of one frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The four pseudo-header fields of a GET of `path`.
pub fn get(path: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
    ]
}

/// Fields as HPACK literals without indexing and without Huffman coding (RFC 7541 section 6.2.2): every byte as given.
pub fn encode(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len(), 0x7f);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn integer(block: &mut Vec<u8>, mut value: usize, limit: usize) {
    if value < limit {
        block.push(value as u8);
        return;
    }
    block.push(limit as u8);
    value -= limit;
    while value >= 128 {
        block.push((value % 128) as u8 | 0x80);
        value /= 128;
    }
    block.push(value as u8);
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// The `:status` that a response's header block begins with. Only that field is decoded: indexed, or a literal of the
/// static table's name, plain or Huffman-coded (digits have codes of 5 and 6 bits, RFC 7541 appendix B).
pub fn status_of(block: &[u8]) -> u16 {
    let mut at = 0;
    while block[at] & 0xe0 == 0x20 {
        at += if block[at] & 0x1f == 0x1f {
            2 + usize::from(block[at + 1] >> 7)
        } else {
            1
        };
    }
    let first = block[at];
    if first & 0x80 != 0 {
        const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
        return INDEXED[usize::from(first & 0x7f) - 8];
    }
    let length = usize::from(block[at + 1] & 0x7f);
    let text = &block[at + 2..at + 2 + length];
    if block[at + 1] & 0x80 == 0 {
        return String::from_utf8_lossy(text).parse().unwrap();
    }
    let bits: Vec<u8> = text
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let take = |at: usize, count: usize| {
        bits[at..at + count]
            .iter()
            .fold(0u16, |sum, bit| sum * 2 + u16::from(*bit))
    };
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let short = take(at, 5);
        let digit = if short < 3 {
            at += 5;
            short
        } else {
            at += 6;
            take(at - 6, 6) - 0b01_1001 + 3
        };
        status = status * 10 + digit;
    }
    status
}
