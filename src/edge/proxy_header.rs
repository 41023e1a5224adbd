//! The PROXY protocol header, versions 1 and 2, with which a load balancer says on whose behalf it connects.
//!
//! Written here, since the crates at hand read leniently (`PROXYxTCP4`, port `+80`, datagrams) and check no CRC-32c, and since what may be taken
//! off the socket must be known byte by byte: TLS begins right behind the header.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// The balancer speaks for itself (LOCAL), or does not know for whom (UNKNOWN, AF_UNSPEC): the socket's addresses hold.
    Own,
    /// On behalf of this client, which reached that address.
    Client {
        source: SocketAddr,
        destination: SocketAddr,
    },
}

/// Where reading stands after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Whole(Header),
    /// At most this many more bytes are the header's, all of them unless a line end comes first.
    Line(usize),
    /// This many more bytes are the header's.
    Bytes(usize),
    Wrong(&'static str),
}

/// Takes the header off the socket and not a byte more. The caller bounds the time. `None` when the peer closed without a word.
///
/// # Errors
/// The socket's, or `InvalidData` saying what is wrong with the header.
pub(super) async fn take(socket: &mut TcpStream) -> io::Result<Option<Header>> {
    let mut header = Vec::with_capacity(V1_BYTES_MAX);
    loop {
        let (count, is_line) = match step(&header) {
            Step::Whole(said) => return Ok(Some(said)),
            Step::Wrong(why) => return Err(io::Error::new(io::ErrorKind::InvalidData, why)),
            Step::Line(count) => (count, true),
            Step::Bytes(count) => (count, false),
        };
        let count = match is_line {
            true => up_to_line_end(socket, count).await?,
            false => count,
        };
        let mut part = (&mut *socket).take(count as u64);
        if part.read_buf(&mut header).await? == 0 {
            return match header.is_empty() {
                true => Ok(None),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
    }
}

/// How many of the next `count` bytes may be taken without going past the end of the line. At least 1, so that an end is noticed.
async fn up_to_line_end(socket: &TcpStream, count: usize) -> io::Result<usize> {
    let mut next = [0; V1_BYTES_MAX];
    let there = socket.peek(&mut next[..count]).await?;
    let line_end = next[..there].iter().position(|byte| *byte == b'\n');
    Ok(line_end.map_or(there, |at| at + 1).max(1))
}

fn step(header: &[u8]) -> Step {
    let begins = |signature: &[u8]| {
        let common = header.len().min(signature.len());
        header[..common] == signature[..common]
    };
    if header.len() < SHORTEST {
        // No header of either version is shorter.
        return match begins(V1_START) || begins(V2_SIGNATURE) {
            true => Step::Bytes(SHORTEST - header.len()),
            false => Step::Wrong("no PROXY header"),
        };
    }
    if begins(V1_START) {
        version_1(header)
    } else if begins(V2_SIGNATURE) {
        version_2(header)
    } else {
        Step::Wrong("no PROXY header")
    }
}

fn version_1(header: &[u8]) -> Step {
    let Some(line) = header.strip_suffix(b"\n") else {
        return match V1_BYTES_MAX - header.len().min(V1_BYTES_MAX) {
            0 => Step::Wrong("the line of a PROXY header is longer than 107 bytes"),
            left => Step::Line(left),
        };
    };
    let words = line
        .strip_suffix(b"\r")
        .and_then(|line| std::str::from_utf8(line).ok())
        .and_then(|line| line.strip_prefix("PROXY "));
    words
        .and_then(words_of_version_1)
        .map_or(Step::Wrong("a malformed PROXY header"), Step::Whole)
}

fn words_of_version_1(words: &str) -> Option<Header> {
    // Whatever else stands in the line of an unknown client is to be ignored.
    if words == "UNKNOWN" || words.starts_with("UNKNOWN ") {
        return Some(Header::Own);
    }
    let mut words = words.split(' ');
    let family = words.next()?;
    let mut address = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse().ok().map(IpAddr::V4),
            "TCP6" => word.parse().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, destination) = (address()?, address()?);
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    words.next().is_none().then_some(Header::Client {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let padded = word.len() > 1 && word.starts_with('0');
    (plain && !padded).then(|| word.parse().ok()).flatten()
}

fn version_2(header: &[u8]) -> Step {
    let Some((fixed, rest)) = header.split_first_chunk::<V2_FIXED>() else {
        return Step::Bytes(V2_FIXED - header.len());
    };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > V2_BYTES_MAX {
        return Step::Wrong("a PROXY header is longer than 4 KiB");
    }
    match length.saturating_sub(rest.len()) {
        0 => {}
        left => return Step::Bytes(left),
    }
    let said = match command {
        LOCAL => Some(Header::Own),
        PROXY => said_by_version_2(header, family, rest),
        _ => None,
    };
    said.map_or(Step::Wrong("a malformed PROXY header"), Step::Whole)
}

fn said_by_version_2(header: &[u8], family: u8, rest: &[u8]) -> Option<Header> {
    let (said, extensions) = match family {
        UNSPECIFIED => return Some(Header::Own),
        TCP_OVER_IPV4 => {
            let (block, rest) = rest.split_first_chunk::<12>()?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *block;
            let addresses = [Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h)];
            (client(addresses.map(IpAddr::V4), ports), rest)
        }
        TCP_OVER_IPV6 => {
            let (source, rest) = rest.split_first_chunk::<16>()?;
            let (destination, rest) = rest.split_first_chunk::<16>()?;
            let (ports, rest) = rest.split_first_chunk::<4>()?;
            let addresses = [Ipv6Addr::from(*source), Ipv6Addr::from(*destination)];
            (client(addresses.map(IpAddr::V6), *ports), rest)
        }
        // Datagrams and Unix sockets do not reach a TCP listener.
        _ => return None,
    };
    extensions_are_sound(header, extensions).then_some(said)
}

fn client(addresses: [IpAddr; 2], ports: [u8; 4]) -> Header {
    let [source, destination] = addresses;
    let [a, b, c, d] = ports;
    Header::Client {
        source: SocketAddr::new(source, u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    }
}

/// Whether the type-length-value fields fill their room exactly, and the checksum, if there is one, is that of the header.
fn extensions_are_sound(header: &[u8], mut fields: &[u8]) -> bool {
    while let Some(([kind, high, low], rest)) = fields.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            return false;
        };
        if *kind == CRC32C {
            let Ok(stated) = <[u8; 4]>::try_from(value) else {
                return false;
            };
            let at = header.len() - rest.len() - stated.len();
            let parts = [&header[..at], &[0; 4], rest];
            if u32::from_be_bytes(stated) != crc32c(parts.into_iter().flatten().copied()) {
                return false;
            }
        }
        fields = rest;
    }
    fields.is_empty()
}

/// CRC-32c (RFC 3720 appendix B.4), bit by bit: once per connection over some hundred bytes.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (CASTAGNOLI & (crc & 1).wrapping_neg())
        })
    })
}

/// Longest line of version 1, its end included.
const V1_BYTES_MAX: usize = 107;
/// Most that may follow the fixed part of version 2: room for TLS details of the balancer's client, bytes.
const V2_BYTES_MAX: usize = 4096;
const V1_START: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// `PROXY UNKNOWN` and its line end; the fixed part of version 2 is one byte longer.
const SHORTEST: usize = 15;
const V2_FIXED: usize = 16;
/// Version 2 in the high half, the command in the low one.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// The type of the checksum field.
const CRC32C: u8 = 0x03;
const CASTAGNOLI: u32 = 0x82f6_3b78;

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    fn from(source: &str, destination: &str) -> Step {
        Step::Whole(Header::Client {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        })
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((rest.len() as u16).to_be_bytes());
        header.extend(rest);
        header
    }

    const BLOCK: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0xc3, 0x50, 0x20, 0xfb];

    /// The block and a checksum field, which a bit may be wrong in.
    fn with_checksum(flip: u32) -> Vec<u8> {
        let mut rest = BLOCK.to_vec();
        rest.extend([4, 0, 2, 7, 7, CRC32C, 0, 4, 0, 0, 0, 0]);
        let mut header = v2(PROXY, TCP_OVER_IPV4, &rest);
        let sum = crc32c(header.iter().copied()) ^ flip;
        let at = header.len() - 4;
        header[at..].copy_from_slice(&sum.to_be_bytes());
        header
    }

    #[test]
    fn crc32c_is_the_one_of_the_standard() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
        assert_eq!(crc32c([0; 32].into_iter()), 0x8a91_36aa);
    }

    #[test]
    fn sound_headers_name_the_client() {
        let mapped: Ipv6Addr = "::ffff:192.0.2.1".parse().unwrap();
        let six = [mapped.octets(), Ipv6Addr::LOCALHOST.octets()].concat();
        let six = [six, vec![0, 1, 0, 2]].concat();
        let cases = [
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 8443\r\n".to_vec(),
                from("192.0.2.1:50000", "198.51.100.2:8443"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n".to_vec(),
                from("[2001:db8::1]:0", "[::1]:65535"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Step::Whole(Header::Own)),
            (
                b"PROXY UNKNOWN ffff::1 what ever\r\n".to_vec(),
                Step::Whole(Header::Own),
            ),
            (
                v2(PROXY, TCP_OVER_IPV4, &BLOCK),
                from("192.0.2.1:50000", "198.51.100.2:8443"),
            ),
            (
                v2(PROXY, TCP_OVER_IPV6, &six),
                from("[::ffff:192.0.2.1]:1", "[::1]:2"),
            ),
            (
                with_checksum(0),
                from("192.0.2.1:50000", "198.51.100.2:8443"),
            ),
            (v2(LOCAL, 0, &[]), Step::Whole(Header::Own)),
            (v2(LOCAL, 0x77, &[1, 2, 3]), Step::Whole(Header::Own)),
            (v2(PROXY, 0, &[1, 2, 3]), Step::Whole(Header::Own)),
        ];
        for (header, expected) in cases {
            assert_eq!(step(&header), expected, "{}", header.escape_ascii());
        }
    }

    #[test]
    fn malformed_headers_are_wrong() {
        let mut long = b"PROXY UNKNOWN ".to_vec();
        long.resize(V1_BYTES_MAX, b'x');
        let cases = [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaa".to_vec(),
            b"\x16".to_vec(),
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXYxTCP4 1.2.3.4 1.2.3.4 1 1\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n".to_vec(),
            b"PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n".to_vec(),
            b"PROXY TCP4 01.2.3.4 1.2.3.4 1 1\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 1\r\n".to_vec(),
            b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n".to_vec(),
            b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n".to_vec(),
            b"PROXY UNKNOWNS\r\n".to_vec(),
            long,
            v2(0x22, TCP_OVER_IPV4, &BLOCK),
            v2(0x11, TCP_OVER_IPV4, &BLOCK),
            v2(PROXY, TCP_OVER_IPV4, &BLOCK[..11]),
            v2(PROXY, TCP_OVER_IPV6, &BLOCK),
            v2(PROXY, 0x12, &BLOCK),
            v2(PROXY, 0x31, &[0; 216]),
            v2(PROXY, TCP_OVER_IPV4, &[&BLOCK[..], &[4, 0, 1]].concat()),
            v2(PROXY, TCP_OVER_IPV4, &[&BLOCK[..], &[4, 0]].concat()),
            v2(PROXY, TCP_OVER_IPV4, &[&BLOCK[..], &[3, 0, 1, 9]].concat()),
            v2(PROXY, TCP_OVER_IPV4, &[0; V2_BYTES_MAX + 1]),
            with_checksum(1),
        ];
        for header in cases {
            let step = step(&header);
            assert!(
                matches!(step, Step::Wrong(_)),
                "{}: {step:?}",
                header.escape_ascii()
            );
        }
    }

    /// What `take` makes of these bytes, sent in pieces, and what it leaves on the socket.
    async fn taken(bytes: &[u8], piece: usize) -> (io::Result<Option<Header>>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        client.set_nodelay(true).unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        let send = async {
            for part in bytes.chunks(piece) {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let (said, ()) = tokio::join!(take(&mut socket), send);
        let mut left = Vec::new();
        let _ = socket.read_to_end(&mut left).await;
        (said, left)
    }

    #[tokio::test]
    async fn not_a_byte_behind_the_header_is_taken() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 50000 8443\r\n";
        let headers = [
            line.to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            v2(LOCAL, 0, &[]),
            with_checksum(0),
        ];
        for header in headers {
            for piece in [1, 7, 1000] {
                let bytes = [&header[..], b"\n\x16\x03TLS"].concat();
                let (said, left) = taken(&bytes, piece).await;
                assert!(matches!(said, Ok(Some(_))), "{}", header.escape_ascii());
                assert_eq!(left, b"\n\x16\x03TLS", "{}", header.escape_ascii());
            }
            let (cut, _) = taken(&header[..header.len() - 1], 1000).await;
            assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(taken(b"", 1).await.0.unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_the_demand_is_bounded(
            start in prop_oneof![Just(&b""[..]), Just(V1_START), Just(V2_SIGNATURE)],
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            match step(&[start, &rest].concat()) {
                Step::Line(more) => prop_assert!(more > 0 && more <= V1_BYTES_MAX),
                Step::Bytes(more) => prop_assert!(more > 0 && more <= V2_BYTES_MAX),
                Step::Whole(_) | Step::Wrong(_) => {}
            }
        }

        #[test]
        fn every_address_is_read_back(source: SocketAddr, port: u16) {
            let destination = SocketAddr::new(source.ip(), port);
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (ip, from) = (source.ip(), source.port());
            let line = format!("PROXY {family} {ip} {ip} {from} {port}\r\n");
            let plain = SocketAddr::new(ip, from);
            let expected = Step::Whole(Header::Client { source: plain, destination });
            prop_assert_eq!(step(line.as_bytes()), expected);
            for cut in 0..line.len() {
                let short = step(&line.as_bytes()[..cut]);
                prop_assert!(matches!(short, Step::Line(_) | Step::Bytes(_)), "{}: {:?}", cut, short);
            }
        }
    }
}
