//! WebSocket as far as a gateway must know it: the handshake that opens a tunnel, and where its frames begin (RFC 6455).

use aws_lc_rs::digest;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header;
use http::request;
use http::response;
use http_body::Body;

use crate::upstream::client::ClientBody;

/// A client's wish to speak WebSocket, and what the backend must answer to grant it.
#[derive(Debug)]
pub(super) struct Handshake {
    /// The one right `Sec-WebSocket-Accept`.
    accept: [u8; ACCEPT_BYTES],
}

impl Handshake {
    /// The handshake that a request asks for; `None` for every other request, those with another `Upgrade` included (S7).
    pub(super) fn asked(head: &request::Parts, body: &ClientBody) -> Option<Handshake> {
        if !body.can_switch() {
            return None;
        }
        let is_handshake = head.method == Method::GET
            // What follows the head would else be read as a body by one side and as frames by the other.
            && body.is_end_stream()
            && names_websocket(&head.headers);
        let key = lone(&head.headers, &header::SEC_WEBSOCKET_KEY)?;
        (is_handshake && is_key(key)).then(|| Handshake {
            accept: accept_of(key),
        })
    }

    /// Whether this 101 grants what was asked, and was meant for this very request.
    pub(super) fn is_granted(&self, head: &response::Parts) -> bool {
        names_websocket(&head.headers)
            && lone(&head.headers, &header::SEC_WEBSOCKET_ACCEPT) == Some(&self.accept[..])
    }
}

/// Says it anew, and nothing else, where hop-by-hop headers were removed (RFC 9110 section 7.8).
pub(super) fn restate(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// Whether a head names WebSocket as the one protocol to switch to.
fn names_websocket(headers: &HeaderMap) -> bool {
    let is = |name: &[u8], word: &str| name.trim_ascii().eq_ignore_ascii_case(word.as_bytes());
    let mut options = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    lone(headers, &header::UPGRADE).is_some_and(|protocol| is(protocol, "websocket"))
        && options.any(|option| is(option, "upgrade"))
}

/// The value of a header that stands there exactly once.
fn lone<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => Some(line.as_bytes()),
        _ => None,
    }
}

/// Whether this is 16 bytes in base64 (RFC 6455 section 4.1).
fn is_key(key: &[u8]) -> bool {
    key.len() == 24
        && key.ends_with(b"==")
        && key[..22]
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// RFC 6455 section 4.2.2: shows that the answer was made for this key.
fn accept_of(key: &[u8]) -> [u8; ACCEPT_BYTES] {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = hash.finish();
    let mut text = [b'='; ACCEPT_BYTES];
    for (group, out) in hash.as_ref().chunks(3).zip(text.chunks_mut(4)) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (at, out) in out.iter_mut().enumerate().take(group.len() + 1) {
            *out = BASE64[(bits >> (18 - 6 * at)) as usize & 0x3f];
        }
    }
    text
}

/// Why the gateway ends a tunnel, as its client is told (RFC 6455 section 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// 1001: silence, or the gateway stops.
    GoingAway,
    /// 1008: the key has ended, or its tenant was suspended.
    PolicyViolation,
}

impl CloseCode {
    fn bytes(self) -> [u8; 2] {
        match self {
            CloseCode::GoingAway => 1001_u16.to_be_bytes(),
            CloseCode::PolicyViolation => 1008_u16.to_be_bytes(),
        }
    }
}

/// A close frame as a server sends it.
pub(super) fn close_to_client(code: CloseCode) -> [u8; 4] {
    let [high, low] = code.bytes();
    [FIN | CLOSE, 2, high, low]
}

/// A close frame as a client sends it: 1001, masked (RFC 6455 section 5.3).
pub(super) fn close_to_backend() -> [u8; 8] {
    let mut mask = [0; 4];
    // A mask keeps scripts from choosing what stands on the wire; these two bytes are ours, so a failure here harms nobody.
    let _ = getrandom::fill(&mut mask);
    let [first, second, third, fourth] = mask;
    let [high, low] = CloseCode::GoingAway.bytes();
    let (high, low) = (high ^ first, low ^ second);
    [
        FIN | CLOSE,
        MASKED | 2,
        first,
        second,
        third,
        fourth,
        high,
        low,
    ]
}

/// Follows the frame headers of one direction as its bytes go by; remembers only where it stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frames {
    header: [u8; HEADER_BYTES_MAX],
    /// How much of `header` is there.
    header_bytes: usize,
    /// Bytes of payload still to come.
    payload_left: u64,
    closed: bool,
}

impl Frames {
    /// Whether a frame may be put in here: a control frame may stand between the pieces of a message, not inside a frame.
    pub(super) fn at_boundary(&self) -> bool {
        self.header_bytes == 0 && self.payload_left == 0
    }

    /// Whether a close frame has gone by, after which no other may follow (RFC 6455 section 5.5.1).
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    /// Takes note of bytes that go by.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.step(bytes)..];
        }
    }

    /// How many of the bytes that come next belong to the frame under way.
    pub(super) fn rest(mut self, bytes: &[u8]) -> usize {
        if self.at_boundary() {
            return 0;
        }
        self.step(bytes)
    }

    /// Goes to the end of one frame, or of the bytes; says how many that took.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while self.payload_left == 0 {
            let Some(byte) = bytes.get(used) else {
                return used;
            };
            self.header[self.header_bytes] = *byte;
            self.header_bytes += 1;
            used += 1;
            if let Some(length) = payload_of(&self.header[..self.header_bytes]) {
                self.closed |= self.header[0] & OPCODE == CLOSE;
                self.header_bytes = 0;
                self.payload_left = length;
                if length == 0 {
                    return used;
                }
            }
        }
        let here = (bytes.len() - used) as u64;
        let taken = self.payload_left.min(here);
        self.payload_left -= taken;
        used + taken as usize
    }
}

/// The length of a frame's payload, once its header is whole (RFC 6455 section 5.2).
fn payload_of(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    let extended = match second & LENGTH {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & MASKED == 0 { 0 } else { 4 };
    if header.len() < 2 + extended + mask {
        return None;
    }
    if extended == 0 {
        return Some(u64::from(second & LENGTH));
    }
    let length = &header[2..2 + extended];
    Some(
        length
            .iter()
            .fold(0, |length, byte| length << 8 | u64::from(*byte)),
    )
}

const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const CLOSE: u8 = 0x8;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// Two bytes, a length of eight, a mask of four.
const HEADER_BYTES_MAX: usize = 14;
/// A SHA-1 digest in base64.
const ACCEPT_BYTES: usize = 28;
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // The example of RFC 6455 section 1.3.
    #[test]
    fn the_accept_of_a_key_is_that_of_the_rfc() {
        let accept = accept_of(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(&accept, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        for (key, expected) in [
            ("dGhlIHNhbXBsZSBub25jZQ==", true),
            ("AAAAAAAAAAAAAAAAAAAA+/==", true),
            ("dGhlIHNhbXBsZSBub25jZQ=", false),
            ("dGhlIHNhbXBsZSBub25jZQ", false),
            ("dGhlIHNhbXBsZSBub25jZ===", false),
            ("dGhlIHNhbXBsZSBub25jZQ== ", false),
            ("dGhlIHNhbXBsZSBub2 5jZQ==", false),
            ("", false),
        ] {
            assert_eq!(is_key(key.as_bytes()), expected, "{key:?}");
        }
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn websocket_is_named_alone_or_not_at_all() {
        for (lines, expected) in [
            (
                &[("connection", "Upgrade"), ("upgrade", "WebSocket")][..],
                true,
            ),
            (
                &[
                    ("connection", "keep-alive, upgrade"),
                    ("upgrade", "websocket"),
                ],
                true,
            ),
            (
                &[
                    ("connection", "keep-alive"),
                    ("connection", "UPGRADE"),
                    ("upgrade", "websocket"),
                ],
                true,
            ),
            (&[("upgrade", "websocket")], false),
            (&[("connection", "upgrade")], false),
            (
                &[("connection", "upgraded"), ("upgrade", "websocket")],
                false,
            ),
            (
                &[("connection", "upgrade"), ("upgrade", "websocket2")],
                false,
            ),
            (
                &[("connection", "upgrade"), ("upgrade", "websocket/1")],
                false,
            ),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], false),
            (
                &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
                false,
            ),
            (
                &[
                    ("connection", "upgrade"),
                    ("upgrade", "websocket"),
                    ("upgrade", "websocket"),
                ],
                false,
            ),
        ] {
            assert_eq!(names_websocket(&headers(lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_101_for_another_key_grants_nothing() {
        let asked = Handshake {
            accept: accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="),
        };
        for (accept, expected) in [
            (&["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="][..], true),
            (&["s3pPLMBiTxaQ9kYGzzhZRbK+xOO="], false),
            (
                &[
                    "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                    "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                ],
                false,
            ),
            (&[], false),
        ] {
            let mut answer = http::Response::new(());
            restate(answer.headers_mut());
            for value in accept {
                let name = header::SEC_WEBSOCKET_ACCEPT;
                answer
                    .headers_mut()
                    .append(name, HeaderValue::from_static(value));
            }
            let (head, ()) = answer.into_parts();
            assert_eq!(asked.is_granted(&head), expected, "{accept:?}");
        }
    }

    /// A frame with this opcode and a payload of zeros.
    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut bytes = vec![FIN | opcode];
        match length {
            0..126 => bytes.push(mask | length as u8),
            126..65536 => {
                bytes.push(mask | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&[0xff; 4][..if masked { 4 } else { 0 }]);
        bytes.resize(bytes.len() + length, 0);
        bytes
    }

    proptest! {
        // However frames are cut into pieces, their ends are found where they are, and nowhere else.
        #[test]
        fn finds_the_ends_of_frames(
            lengths in prop::collection::vec((prop_oneof![0..130usize, 65_530..65_540usize], any::<bool>()), 1..6),
            piece in 1..3000usize,
        ) {
            let frames: Vec<Vec<u8>> = lengths.iter().map(|(length, masked)| frame(1, *length, *masked)).collect();
            let mut ends = std::collections::BTreeSet::from([0]);
            let mut all = Vec::new();
            for frame in &frames {
                all.extend_from_slice(frame);
                ends.insert(all.len());
            }
            let (mut follower, mut at) = (Frames::default(), 0);
            for piece in all.chunks(piece) {
                let next = *ends.range(at..).next().unwrap();
                let rest = follower.rest(&all[at..]);
                prop_assert_eq!(at + rest, next);
                follower.pass(piece);
                at += piece.len();
                prop_assert_eq!(follower.at_boundary(), ends.contains(&at));
            }
            prop_assert!(!follower.closed());
        }
    }

    #[test]
    fn our_close_frames_are_frames() {
        let going = close_to_client(CloseCode::GoingAway);
        let policy = close_to_client(CloseCode::PolicyViolation);
        let masked = close_to_backend();
        for bytes in [&going[..], &policy, &masked] {
            let mut follower = Frames::default();
            follower.pass(bytes);
            assert!(follower.at_boundary() && follower.closed());
        }
        assert_eq!((&going[2..], &policy[2..]), (&[3, 233][..], &[3, 240][..]));
        assert_eq!([masked[6] ^ masked[2], masked[7] ^ masked[3]], [3, 233]);
        let mut follower = Frames::default();
        follower.pass(&frame(0x9, 3, true));
        assert!(!follower.closed(), "a ping is no close");
    }

    // A length that no frame may have (its highest bit is set) ends at no boundary, and costs nothing.
    #[test]
    fn an_absurd_length_is_followed_without_harm() {
        let mut follower = Frames::default();
        follower.pass(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255]);
        follower.pass(&[0; 1000]);
        assert!(!follower.at_boundary());
        assert_eq!(follower.rest(&[0; 10]), 10);
    }
}
