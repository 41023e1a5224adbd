//! Whose request a trusted proxy brings (`[trusted_proxies] headers`): the rightmost address of `X-Forwarded-For` that is no proxy's.
//!
//! Each proxy appends the address that it saw. What stands left of the first address that is not trusted was written by the client.

use std::net::IpAddr;
use std::net::SocketAddr;

use http::HeaderMap;

use super::Peer;
use super::Via;
use super::refused::Fault;
use crate::config::TrustedProxies;
use crate::model::request_id::RequestId;
use crate::refusal::Refusal;

/// The peer with the address of the client whose request this is. A request without `X-Forwarded-For` is the proxy's own. When all
/// addresses are trusted the leftmost counts; the port is not known and is 0.
#[must_use]
pub fn locate(peer: Peer, headers: &HeaderMap, proxies: &TrustedProxies) -> Peer {
    if peer.via != Via::TrustedProxy {
        return peer;
    }
    let mut client = None;
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    for word in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        let Some(address) = address(word) else {
            let via = Via::Unclear;
            return Peer { via, ..peer };
        };
        client = Some(address);
        if !proxies.include(address) {
            break;
        }
    }
    let address = client.map_or(peer.address, |client| SocketAddr::new(client, 0));
    Peer { address, ..peer }
}

/// Refuses a request of which nobody knows who asks: its key may be tied to networks, and the log must not name the wrong one.
///
/// # Errors
/// 400.
pub(super) fn check(peer: &Peer) -> Result<(), Fault> {
    match peer.via {
        Via::Direct | Via::TrustedProxy => Ok(()),
        Via::Unclear => Err(Fault::new(
            Refusal::BadRequest("X-Forwarded-For is malformed."),
            "forwarded_for_malformed",
        )),
    }
}

/// The request id that a trusted proxy has given: one line of 1 to 128 letters, digits and `. _ -`. Any other is as good as none.
#[must_use]
pub fn request_id(peer: &Peer, headers: &HeaderMap) -> Option<RequestId> {
    if peer.via == Via::Direct {
        return None;
    }
    let mut lines = headers.get_all(X_REQUEST_ID).iter();
    let (Some(id), None) = (lines.next(), lines.next()) else {
        return None;
    };
    RequestId::given(id)
}

/// An address as proxies write it: alone, with a port, in brackets.
fn address(word: &[u8]) -> Option<IpAddr> {
    let word = std::str::from_utf8(word.trim_ascii()).ok()?;
    let address = word
        .parse::<IpAddr>()
        .or_else(|_| word.parse::<SocketAddr>().map(|address| address.ip()))
        .ok()
        .or_else(|| {
            let inner = word.strip_prefix('[')?.strip_suffix(']')?;
            inner.parse().ok().map(IpAddr::V6)
        })?;
    Some(address.to_canonical())
}

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_REQUEST_ID: &str = "x-request-id";

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use crate::model::request_id::GIVEN_BYTES_MAX;

    use super::*;

    use proptest::prelude::*;

    fn peer(via: Via) -> Peer {
        Peer {
            address: "10.0.0.9:4000".parse().unwrap(),
            local: "10.0.0.1:8443".parse().unwrap(),
            via,
        }
    }

    fn proxies() -> TrustedProxies {
        TrustedProxies {
            networks: vec![
                "10.0.0.0/8".parse().unwrap(),
                "2001:db8:1::/48".parse().unwrap(),
            ],
            proxy_protocol: false,
            headers: true,
        }
    }

    fn lines(name: &'static str, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxys_is_the_client() {
        let cases: [(&[&str], &str); 12] = [
            (&[], "10.0.0.9:4000"),
            (&["203.0.113.7"], "203.0.113.7:0"),
            (&["198.51.100.1, 203.0.113.7"], "203.0.113.7:0"),
            (&["198.51.100.1 ,203.0.113.7,10.1.2.3"], "203.0.113.7:0"),
            (
                &["198.51.100.1", "203.0.113.7", "10.1.2.3, 10.9.9.9"],
                "203.0.113.7:0",
            ),
            (&["<script>, 203.0.113.7"], "203.0.113.7:0"),
            (&["10.3.3.3, 10.1.2.3"], "10.3.3.3:0"),
            (&["203.0.113.7:4711"], "203.0.113.7:0"),
            (&["2001:db8::7"], "[2001:db8::7]:0"),
            (&["[2001:db8::7]:443, 2001:db8:1::5"], "[2001:db8::7]:0"),
            (&["[2001:db8::7]"], "[2001:db8::7]:0"),
            (&["::ffff:203.0.113.7"], "203.0.113.7:0"),
        ];
        for (chain, expected) in cases {
            let headers = lines(X_FORWARDED_FOR, chain);
            let located = locate(peer(Via::TrustedProxy), &headers, &proxies());
            assert_eq!(located.address.to_string(), expected, "{chain:?}");
            assert!(check(&located).is_ok());
            let direct = locate(peer(Via::Direct), &headers, &proxies());
            assert_eq!(direct.address, peer(Via::Direct).address, "{chain:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for chain in [
            "",
            "unknown",
            "_hidden",
            "203.0.113.7,",
            "203.0.113.7, ,10.1.1.1",
            "203.0.113.7 10.1.1.1",
            "203.0.113.256",
            "10.1.1.1.",
            "[203.0.113.7]",
            "203.0.113.7, junk, 10.1.1.1",
        ] {
            let headers = lines(X_FORWARDED_FOR, &[chain]);
            let located = locate(peer(Via::TrustedProxy), &headers, &proxies());
            assert_eq!(located.via, Via::Unclear, "{chain:?}");
            assert!(check(&located).is_err(), "{chain:?}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_names_requests() {
        let long = "x".repeat(GIVEN_BYTES_MAX);
        let cases: [(&[&str], bool); 8] = [
            (&[], false),
            (&["a.B_9-"], true),
            (&[&long], true),
            (&[&format!("{long}x")], false),
            (&[""], false),
            (&["a b"], false),
            (&["a\"b"], false),
            (&["a", "a"], false),
        ];
        for (ids, kept) in cases {
            let headers = lines(X_REQUEST_ID, ids);
            let trusted = request_id(&peer(Via::TrustedProxy), &headers);
            assert_eq!(trusted.is_some(), kept, "{ids:?}");
            assert!(
                request_id(&peer(Via::Direct), &headers).is_none(),
                "{ids:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_a_client_writes_leaves_the_address_that_the_proxy_saw(
            written in "[ -~]{0,40}",
            saw: std::net::Ipv4Addr,
        ) {
            prop_assume!(!proxies().include(IpAddr::V4(saw)));
            let headers = lines(X_FORWARDED_FOR, &[&format!("{written}, {saw}")]);
            let located = locate(peer(Via::TrustedProxy), &headers, &proxies());
            prop_assert_eq!(located.address.ip(), IpAddr::V4(saw));
        }
    }
}
