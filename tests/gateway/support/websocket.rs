//! Both ends of a WebSocket on which a test decides every byte: a client over TLS, and a raw backend.

use std::io::Read;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;

use aws_lc_rs::digest;

use crate::support::PATIENCE;
use crate::support::client::Wire;
use crate::support::client::tls;
use crate::support::client::tls_config;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Recorded;
use crate::support::upstream::find;

/// Opcodes.
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The key of RFC 6455 section 1.3, and the one right answer to it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// One frame, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether it ends its message.
    pub last: bool,
    pub opcode: u8,
    /// Whether it came masked.
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a close frame.
    #[track_caller]
    pub fn close_code(&self) -> u16 {
        assert_eq!(self.opcode, CLOSE, "{self:?}");
        u16::from_be_bytes(self.payload[..2].try_into().unwrap())
    }
}

/// One end of a WebSocket.
pub struct Socket {
    wire: Box<dyn Wire>,
    /// The same connection below TLS.
    pub below: TcpStream,
    buffer: Vec<u8>,
    masks: bool,
}

/// A handshake for this path.
pub fn handshake(path: &str) -> Request {
    Request::get(path)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", KEY)
}

impl Socket {
    /// A TLS connection on which nothing was said yet.
    #[track_caller]
    pub fn connect(gateway: &Gateway) -> Socket {
        let stream = tls(gateway.https(), "localhost", tls_config(&["http/1.1"])).unwrap();
        let below = stream.sock.try_clone().unwrap();
        Socket {
            wire: Box::new(stream),
            below,
            buffer: Vec::new(),
            masks: true,
        }
    }

    /// A tunnel of this key, with the 101 that opened it.
    #[track_caller]
    pub fn open(gateway: &Gateway, path: &str, key: &Key) -> (Socket, Answer) {
        let mut socket = Socket::connect(gateway);
        socket.send_bytes(handshake(path).bearer(&key.text).bytes());
        let answer = socket.head().expect("an answer");
        answer.expect(101);
        (socket, answer)
    }

    /// Sends these bytes as they are; that the other side has closed is no failure here.
    pub fn send_bytes(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self
            .wire
            .write_all(bytes.as_ref())
            .and_then(|()| self.wire.flush());
    }

    /// Sends a whole message in one frame.
    pub fn send(&mut self, opcode: u8, payload: impl AsRef<[u8]>) {
        let bytes = self.encode(true, opcode, payload.as_ref());
        self.send_bytes(bytes);
    }

    /// A frame as this end would send it.
    pub fn encode(&self, last: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mask = if self.masks { 0x80 } else { 0 };
        let mut bytes = vec![u8::from(last) << 7 | opcode];
        match payload.len() {
            length @ 0..126 => bytes.push(mask | length as u8),
            length @ 126..65536 => {
                bytes.push(mask | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        if self.masks {
            let key = [0x12, 0xff, 0x00, 0x5a];
            bytes.extend(key);
            bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b));
        } else {
            bytes.extend(payload);
        }
        bytes
    }

    /// The next frame; `None` when the connection ended at the end of a frame.
    #[track_caller]
    pub fn read(&mut self) -> Option<Frame> {
        let second = match self.peek(2) {
            true => self.buffer[1],
            false if self.buffer.is_empty() => return None,
            false => panic!("the connection ended inside a frame: {:?}", self.buffer),
        };
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let masked = second & 0x80 != 0;
        let start = 2 + extended + if masked { 4 } else { 0 };
        assert!(self.peek(start), "ended inside a frame header");
        let length = self.buffer[2..2 + extended]
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        let length = if extended == 0 {
            usize::from(second & 0x7f)
        } else {
            length
        };
        assert!(self.peek(start + length), "ended inside a frame");
        let frame: Vec<u8> = self.buffer.drain(..start + length).collect();
        let mask = if masked {
            &frame[start - 4..start]
        } else {
            &[0; 4][..]
        };
        let payload = frame[start..].iter().zip(mask.iter().cycle());
        Some(Frame {
            last: frame[0] & 0x80 != 0,
            opcode: frame[0] & 0x0f,
            masked,
            payload: payload.map(|(a, b)| a ^ b).collect(),
        })
    }

    /// Reads frames until a close frame or the end of the connection, and throws the others away.
    #[track_caller]
    pub fn read_close(&mut self) -> Option<Frame> {
        loop {
            match self.read() {
                Some(frame) if frame.opcode != CLOSE => {}
                other => return other,
            }
        }
    }

    /// Everything until the other side closes, frames or not.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.buffer)
    }

    /// Reads what is left; whether the end that follows is an orderly one and no cut.
    pub fn ends_in_order(&mut self) -> bool {
        let mut piece = [0; 64 * 1024];
        loop {
            match self.wire.read(&mut piece) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if is_timeout(&error) => panic!("not closed within {PATIENCE:?}"),
                Err(_) => return false,
            }
        }
    }

    /// Reads the head of an answer.
    pub fn head(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                return None;
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        Some(crate::support::client::parse_head(&head))
    }

    /// Whether so many bytes came before the end.
    fn peek(&mut self, count: usize) -> bool {
        while self.buffer.len() < count {
            if !self.fill() {
                return false;
            }
        }
        true
    }

    fn fill(&mut self) -> bool {
        let mut piece = [0; 64 * 1024];
        match self.wire.read(&mut piece) {
            Ok(0) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                true
            }
            Err(error) if is_timeout(&error) => {
                panic!("nothing came and nothing was closed within {PATIENCE:?}")
            }
            Err(_) => false,
        }
    }

    /// Closes the connection without a word of TLS or WebSocket, as a process that dies does.
    pub fn die(self) {
        let _ = self.below.shutdown(Shutdown::Both);
    }

    /// Resets the connection.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(&self.below).set_linger(Some(Duration::ZERO));
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::TimedOut;
    use std::io::ErrorKind::WouldBlock;
    matches!(error.kind(), TimedOut | WouldBlock)
}

/// A backend that a test is.
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    listener: TcpListener,
}

impl Backend {
    /// Begins to listen.
    pub fn start() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Backend {
            address: listener.local_addr().unwrap(),
            listener,
        }
    }

    /// Takes the next connection and its request; the test answers.
    #[track_caller]
    pub fn next(&self) -> (Socket, Recorded) {
        let (stream, _) = eventually("the gateway connects to the backend", || {
            self.listener.accept().ok()
        });
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let below = stream.try_clone().unwrap();
        let mut socket = Socket {
            wire: Box::new(stream),
            below,
            buffer: Vec::new(),
            masks: false,
        };
        let request = socket.request();
        (socket, request)
    }

    /// Takes the next connection and grants it the tunnel that it asks for.
    #[track_caller]
    pub fn accept(&self) -> Socket {
        let (mut socket, request) = self.next();
        socket.send_bytes(granted(&request));
        socket
    }
}

impl Socket {
    /// Reads the next request head.
    #[track_caller]
    pub fn request(&mut self) -> Recorded {
        while find(&self.buffer, b"\r\n\r\n").is_none() {
            assert!(self.fill(), "a request, but the connection was closed");
        }
        let end = find(&self.buffer, b"\r\n\r\n").unwrap() + 4;
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        crate::support::upstream::parse_head(&head, 0)
    }
}

/// The 101 that grants what a request asks for.
pub fn granted(request: &Recorded) -> String {
    let key = request.all("sec-websocket-key");
    let [key] = key[..] else {
        panic!("one Sec-WebSocket-Key: {}", request.text());
    };
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        accept_of(key)
    )
}

/// RFC 6455 section 4.2.2.
fn accept_of(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let letters: Vec<char> = ('A'..='Z')
        .chain('a'..='z')
        .chain('0'..='9')
        .chain(['+', '/'])
        .collect();
    let bits: String = hash
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:08b}"))
        .collect();
    let mut text: String = bits
        .as_bytes()
        .chunks(6)
        .map(|six| {
            let six = format!("{:0<6}", std::str::from_utf8(six).unwrap());
            letters[usize::from_str_radix(&six, 2).unwrap()]
        })
        .collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}
