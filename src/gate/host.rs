//! The host that a request is for: exactly one, valid, in one spelling (S16).

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::rc::Rc;

use http::Version;
use http::header;
use http::request::Parts;

use super::refused::Fault;

/// A valid host in canonical spelling: lower case, IPv6 compressed, no final dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// Shared: most requests of a worker name the same few.
    text: Rc<str>,
    name_length: usize,
}

impl Host {
    /// The name or address alone; IPv6 in brackets.
    pub(super) fn name(&self) -> &str {
        &self.text[..self.name_length]
    }

    /// The whole host, port included if one was given.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Puts another name in the place of this one; the port stays.
    pub(super) fn rename(&mut self, name: &str) {
        self.text = [name, &self.text[self.name_length..]].concat().into();
        self.name_length = name.len();
    }

    /// The whole host, port included if one was given.
    pub(super) fn into_text(self) -> Rc<str> {
        self.text
    }

    /// The name alone, as its own text.
    pub(super) fn into_name(self) -> String {
        self.name().to_owned()
    }

    /// The host in a line. Most requests of a worker name the same few, of which the last is remembered.
    fn read(bytes: &[u8]) -> Option<Host> {
        thread_local! {
            static LAST: RefCell<Option<(Vec<u8>, Host)>> = const { RefCell::new(None) };
        }
        LAST.with_borrow_mut(|last| {
            if let Some((came, host)) = last
                && came == bytes
            {
                return Some(host.clone());
            }
            let host = Host::parse(bytes)?;
            *last = Some((bytes.to_vec(), host.clone()));
            Some(host)
        })
    }

    /// RFC 9110 section 7.2: `uri-host [ ":" port ]`. Stricter than the grammar: no user information, no percent-encoding, no
    /// sub-delimiters, no empty port, no zone; a name whose last label is a number must be an IPv4 address.
    fn parse(bytes: &[u8]) -> Option<Host> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']')?;
                let address: Ipv6Addr = address.parse().ok()?;
                let port = match after {
                    "" => None,
                    after => Some(after.strip_prefix(':')?),
                };
                (format!("[{address}]"), port)
            }
            None => {
                let (name, port) = match text.split_once(':') {
                    Some((name, port)) => (name, Some(port)),
                    None => (text, None),
                };
                (registered_name(name)?, port)
            }
        };
        with_port(name, port)
    }
}

/// The host of a request.
///
/// HTTP/1: exactly one `Host` line, also with HTTP/1.0 and with an absolute-form target, whose authority then wins (RFC 9112 section 3.2.2).
/// HTTP/2: `:authority`, and a `Host` beside it must say the same; or one `Host` alone.
///
/// # Errors
/// 400 when there is none, more than one, or a malformed one.
pub(super) fn of(head: &Parts) -> Result<Host, Fault> {
    let mut lines = head.headers.get_all(header::HOST).iter();
    let line = match (lines.next(), lines.next()) {
        (_, Some(_)) => return Err(repeated()),
        (Some(value), None) => Some(Host::read(value.as_bytes()).ok_or_else(malformed)?),
        (None, None) => None,
    };
    let Some(authority) = head.uri.authority() else {
        return line.ok_or_else(missing);
    };
    let target = Host::read(authority.as_str().as_bytes()).ok_or_else(malformed)?;
    match line {
        Some(line) if head.version >= Version::HTTP_2 && line != target => Err(different()),
        None if head.version < Version::HTTP_2 => Err(missing()),
        Some(_) | None => Ok(target),
    }
}

fn registered_name(name: &str) -> Option<String> {
    // `example.com.` is the same name; kept, it would miss the routes and the environment of `example.com`.
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let whole = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    if name.len() > 253 || !name.split('.').all(whole) {
        return None;
    }
    let last = name.rsplit('.').next()?;
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        // It has one spelling only: what parses is written like this.
        return name.parse::<Ipv4Addr>().ok().map(|_| name.to_owned());
    }
    Some(name.to_ascii_lowercase())
}

fn with_port(name: String, port: Option<&str>) -> Option<Host> {
    let mut text = name;
    let name_length = text.len();
    if let Some(port) = port {
        let plain = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
        let _: u16 = plain.then(|| port.parse().ok())??;
        text.push(':');
        text.push_str(port);
    }
    Some(Host {
        text: text.into(),
        name_length,
    })
}

fn missing() -> Fault {
    Fault::bad_request("The request has no host.", "host_missing")
}

fn repeated() -> Fault {
    Fault::bad_request("The request has more than one host.", "host_repeated")
}

fn malformed() -> Fault {
    Fault::bad_request("The host is malformed.", "host_malformed")
}

fn different() -> Fault {
    Fault::bad_request("The request names two hosts.", "host_different")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn s16_hosts_have_one_spelling_or_none() {
        let valid = [
            ("example.com", "example.com", "example.com"),
            ("EXAMPLE.Com", "example.com", "example.com"),
            ("example.com.", "example.com", "example.com"),
            ("example.com.:8443", "example.com:8443", "example.com"),
            (
                "a_b-c.example.com:1",
                "a_b-c.example.com:1",
                "a_b-c.example.com",
            ),
            ("localhost", "localhost", "localhost"),
            ("127.0.0.1:8443", "127.0.0.1:8443", "127.0.0.1"),
            ("[::1]", "[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]:443", "[::1]:443", "[::1]"),
            ("[2001:DB8::A]", "[2001:db8::a]", "[2001:db8::a]"),
            (
                "xn--caf-dma.example",
                "xn--caf-dma.example",
                "xn--caf-dma.example",
            ),
        ];
        for (text, whole, name) in valid {
            let host = Host::parse(text.as_bytes()).unwrap();
            assert_eq!((host.name(), &*host.text), (name, whole), "{text}");
        }
        let refused = [
            "",
            ".",
            "..",
            ":80",
            "a..b",
            ".a",
            "a b",
            " a",
            "a,b",
            "a, b",
            "user@a",
            "a@b:1",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a%41",
            "a:",
            "a:x",
            "a:80:80",
            "a:-1",
            "a:+1",
            "a:080",
            "a:0",
            "a:65536",
            "a:99999999999",
            "http://a",
            "1.2.3",
            "1.2.3.4.5",
            "999.1.1.1",
            "0x7f.1",
            "01.2.3.4",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:",
            "[1.2.3.4]",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "caf\u{e9}.example",
            "a\tb",
            "a\0",
        ];
        for text in refused {
            assert_eq!(Host::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Host::parse(&[0xff]), None);
        assert_eq!(Host::parse("a".repeat(64).as_bytes()), None);
        assert_eq!(Host::parse("a.".repeat(130).as_bytes()), None);
    }

    #[test]
    fn s16_exactly_one_host_is_taken() {
        type Case<'a> = (Version, &'a str, &'a [&'a str], Result<&'a str, &'a str>);
        let cases: [Case<'_>; 12] = [
            (Version::HTTP_11, "/", &["a.example"], Ok("a.example")),
            (Version::HTTP_11, "/", &[], Err("host_missing")),
            (Version::HTTP_10, "/", &[], Err("host_missing")),
            (Version::HTTP_11, "/", &["a", "a"], Err("host_repeated")),
            (Version::HTTP_11, "/", &["a", "b"], Err("host_repeated")),
            (Version::HTTP_11, "/", &["a@b"], Err("host_malformed")),
            (Version::HTTP_11, "http://b/", &["a"], Ok("b")),
            (Version::HTTP_11, "http://b/", &[], Err("host_missing")),
            (
                Version::HTTP_11,
                "http://u@b/",
                &["a"],
                Err("host_malformed"),
            ),
            (Version::HTTP_2, "https://b/", &[], Ok("b")),
            (Version::HTTP_2, "https://b/", &["B"], Ok("b")),
            (Version::HTTP_2, "https://b/", &["a"], Err("host_different")),
        ];
        for (version, uri, hosts, expected) in cases {
            let (mut head, ()) = Request::builder()
                .version(version)
                .uri(uri)
                .body(())
                .unwrap()
                .into_parts();
            for host in hosts {
                let value = HeaderValue::from_str(host).unwrap();
                head.headers.append(header::HOST, value);
            }
            let found = of(&head);
            let found = found.as_ref().map(Host::name).map_err(|fault| fault.reason);
            assert_eq!(found, expected, "{version:?} {uri} {hosts:?}");
        }
    }

    proptest! {
        #[test]
        fn a_valid_host_is_a_fixed_point(text in "[a-zA-Z0-9.:\\[\\]_@%-]{0,24}") {
            if let Some(host) = Host::parse(text.as_bytes()) {
                prop_assert_eq!(Host::parse(host.text.as_bytes()), Some(host));
            }
        }
    }
}
