//! What ties a key to an end user, to browser origins and to client networks; most keys have none of it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ipnet::Ipv4Net;

/// What narrows a key beyond its scopes. Kept behind one pointer where there may be a million keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The end user that the key acts for (FA18): 1 to 128 of `A-Z a-z 0-9 . _ : @ -`; `None` is nobody in particular.
    pub subject: Option<Arc<str>>,
    /// Browser origins that requests may name (FF2); empty is unsaid.
    pub origins: Vec<WebOrigin>,
    /// Networks that requests may come from; empty is any.
    pub cidrs: Vec<IpNet>,
}

impl Binding {
    /// Whether it ties the key to nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.subject.is_none() && self.origins.is_empty() && self.cidrs.is_empty()
    }
}

/// Checks the name of an end user; it stands in a header to the backend and in paths.
///
/// # Errors
/// A sentence fragment saying what is wrong.
pub fn subject(text: &str) -> Result<Arc<str>, &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@-".contains(&byte);
    if text.is_empty() || text.len() > 128 || !text.bytes().all(allowed) {
        return Err("a subject is 1 to 128 letters, digits and . _ : @ -");
    }
    Ok(Arc::from(text))
}

/// Reads a network such as `203.0.113.0/24`, or one address. Host bits are cut off, and IPv4 in IPv6 clothes is IPv4, as clients are.
///
/// # Errors
/// A sentence fragment saying what a network looks like.
pub fn network(text: &str) -> Result<IpNet, &'static str> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(|net| unmapped(net.trunc()))
        .map_err(|_| "a network is for example 203.0.113.0/24, 2001:db8::/32 or one address")
}

/// `::ffff:203.0.113.0/120` as `203.0.113.0/24`: otherwise no client would ever lie in it.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(six) = net else {
        return net;
    };
    let four = six.prefix_len().checked_sub(96).and_then(|length| {
        let address = six.addr().to_ipv4_mapped()?;
        Ipv4Net::new(address, length).ok()
    });
    four.map_or(net, IpNet::V4)
}

/// A browser origin, `scheme://host[:port]` in lower case, without the default port: as browsers write it (RFC 6454, section 6.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebOrigin(Arc<str>);

impl WebOrigin {
    /// Reads an origin as an operator writes it.
    ///
    /// # Errors
    /// A sentence fragment saying what an origin looks like.
    pub fn parse(text: &str) -> Result<WebOrigin, &'static str> {
        const WRONG: &str = "an origin is http:// or https://, a host and perhaps a port, for example https://app.example.com";
        let lower = text.to_ascii_lowercase();
        let (scheme, rest) = lower.split_once("://").ok_or(WRONG)?;
        let default = match scheme {
            "http" => "80",
            "https" => "443",
            _ => return Err(WRONG),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let number = |port: &str| {
            port.bytes().all(|byte| byte.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|port| port != 0)
        };
        if !is_host(host) || !port.is_none_or(number) {
            return Err(WRONG);
        }
        Ok(WebOrigin(match port {
            Some(port) if port != default => Arc::from(format!("{scheme}://{host}:{port}")),
            _ => Arc::from(format!("{scheme}://{host}")),
        }))
    }

    /// The text that a browser sends.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for WebOrigin {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']');
        return address.is_some_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    host.len() <= 253 && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_kept_as_browsers_write_it() {
        let cases = [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://App.Example.com:443", "https://app.example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:80", "http://[::1]"),
            ("http://[::1]", "http://[::1]"),
        ];
        for (text, kept) in cases {
            assert_eq!(WebOrigin::parse(text).unwrap().as_str(), kept);
        }
        for text in [
            "",
            "null",
            "*",
            "app.example.com",
            "https://",
            "https://a/",
            "https://a/b",
            "https://a:0",
            "https://a:+1",
            "https://a:99999",
            "https://a..b",
            "https://u@a",
            "ftp://a",
            "https://[::1",
            "https://a b",
        ] {
            assert!(WebOrigin::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_loses_its_host_bits_and_an_address_is_one_too() {
        assert_eq!(
            network("203.0.113.9/24").unwrap().to_string(),
            "203.0.113.0/24"
        );
        assert_eq!(
            network("2001:db8::1").unwrap().to_string(),
            "2001:db8::1/128"
        );
        for (mapped, kept) in [
            ("::ffff:203.0.113.9/120", "203.0.113.0/24"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("64:ff9b::1/120", "64:ff9b::/120"),
        ] {
            assert_eq!(network(mapped).unwrap().to_string(), kept);
        }
        for text in ["", "203.0.113.0/33", "example.com", "10/8"] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_subject_fits_a_header_and_a_path_segment() {
        for text in ["7", "user:7@example.com"] {
            assert_eq!(&*subject(text).unwrap(), text);
        }
        for text in ["", "a b", "a/b", "ü", &"x".repeat(129)] {
            assert!(subject(text).is_err(), "{text}");
        }
    }
}
