//! Addresses in gateway.toml: of listeners, servers, hosts, identity providers and receivers of alerts.

use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use http::HeaderValue;
use http::Uri;
use http::uri::PathAndQuery;
use rustls_pki_types::ServerName;

use crate::config::HostHeader;
use crate::config::UpstreamServer;
use crate::config::values::Wrong;
use crate::config::values::digits_only;
use crate::config::values::wrong;
use crate::model::isolation::PathPrefix;
use crate::model::issuer::Endpoint;

/// An IP address and a port, to listen on.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, Wrong> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let help = match text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        Some(port) => format!("write \"0.0.0.0:{port}\", or \"[::]:{port}\" for IPv6"),
        None => {
            "write an IP address and a port: \"0.0.0.0:8443\", \"127.0.0.1:9600\", \"[::1]:9600\""
                .into()
        }
    };
    wrong(format!("\"{text}\" is not an address"), help)
}

/// `http://host:port` or `https://host:port`, the whole address of one server of an upstream.
pub(super) fn server(text: &str) -> Result<UpstreamServer, Wrong> {
    const HELP: &str = "a server is \"http://host:port\" or \"https://host:port\", for example \"http://127.0.0.1:3000\"";
    let (scheme, usual_port, authority) =
        match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(authority), _) => ("http", 80, authority),
            (_, Some(authority)) => ("https", 443, authority),
            _ => {
                return wrong(
                    format!("\"{text}\" does not begin with http:// or https://"),
                    HELP,
                );
            }
        };
    let tls = scheme == "https";
    if let Some((bare, _)) = authority.split_once(['/', '?', '#']) {
        return wrong(
            format!("\"{text}\" has more than a host and a port"),
            format!("write \"{scheme}://{bare}\"; the path of a request is forwarded as it is"),
        );
    }
    if authority.contains('@') {
        return wrong("user and password do not belong in an address", HELP);
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => {
            return wrong(
                format!("\"{text}\" has no port"),
                format!("write \"{scheme}://{authority}:{usual_port}\""),
            );
        }
    };
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host_is_good = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => is_host_name(host),
    };
    match port.parse::<u16>() {
        Ok(port @ 1..)
            if host_is_good && digits_only(authority.rsplit(':').next().unwrap_or("")) =>
        {
            Ok(UpstreamServer {
                tls,
                host: address.unwrap_or(host).to_ascii_lowercase(),
                port,
            })
        }
        _ => wrong(format!("\"{text}\" is not a host and a port"), HELP),
    }
}

/// `host:port` of a server that is no HTTP server.
pub(super) fn host_and_port(text: &str) -> Result<String, Wrong> {
    const HELP: &str = "write a host and a port, for example \"127.0.0.1:6379\"; TLS, user and password have keys of their own";
    match server(&format!("http://{text}")) {
        Ok(server) => Ok(server.to_string()),
        Err(_) => wrong(format!("\"{text}\" is not a host and a port"), HELP),
    }
}

/// The same with a path that stands before that of each request, if there is one.
pub(super) fn server_with_path(text: &str) -> Result<(UpstreamServer, Option<PathPrefix>), Wrong> {
    let authority = text.find("://").map_or(0, |place| place + 3);
    let end = text[authority..]
        .find('/')
        .map_or(text.len(), |place| authority + place);
    let server = server(&text[..end])?;
    if end == text.len() {
        return Ok((server, None));
    }
    Ok((server, Some(path_prefix(&text[end..])?)))
}

/// `/api` or `/t/{tenant}`.
pub(super) fn path_prefix(text: &str) -> Result<PathPrefix, Wrong> {
    PathPrefix::parse(text).or_else(|why| wrong(format!("\"{text}\" is no prefix of paths"), why))
}

/// Writes a server as it stands in the file.
pub(super) fn show_server(server: &UpstreamServer) -> String {
    let scheme = if server.tls { "https" } else { "http" };
    format!("{scheme}://{server}")
}

/// `https://host[:port]/path`; `http://` only where it leads to this machine.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, Wrong> {
    const HELP: &str = "write \"https://auth.example.org/jwks\", or \"http://127.0.0.1:3000/jwks\" on this machine";
    let no_endpoint = || {
        wrong(
            format!("\"{text}\" is no address of an identity provider"),
            HELP,
        )
    };
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(authority_end);
    let usual_port = if scheme == "https" { 443 } else { 80 };
    let has_port =
        authority.rsplit(':').next().is_some_and(digits_only) && !authority.ends_with(']');
    let with_port = match has_port && authority.contains(':') {
        true => format!("{scheme}://{authority}"),
        false => format!("{scheme}://{authority}:{usual_port}"),
    };
    let Ok(server) = server(&with_port) else {
        return no_endpoint();
    };
    let local = match server.host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => server.host == "localhost",
    };
    if !server.tls && !local {
        return wrong(
            format!(
                "\"{text}\" crosses the network in clear: whoever stands on the way could say who is let in"
            ),
            HELP,
        );
    }
    let target = match target {
        "" => "/".to_owned(),
        query if query.starts_with('?') => format!("/{query}"),
        path => path.to_owned(),
    };
    if target.contains('#') || target.parse::<PathAndQuery>().is_err() {
        return no_endpoint();
    }
    Ok(Endpoint {
        tls: server.tls,
        host: server.host,
        port: server.port,
        target,
        text: text.to_owned(),
    })
}

/// The name that a server's certificate is checked for: a host name or an address.
pub(super) fn server_name(text: &str) -> Result<String, Wrong> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(_) => wrong(
            format!("\"{text}\" is not a name that a certificate can have"),
            "write the name in the server's certificate, without port: \"legacy.internal\" or \"10.0.0.7\"",
        ),
    }
}

/// An exact host name or `*.` and a name, lower-cased, without port.
pub(super) fn host_pattern(text: &str) -> Result<String, Wrong> {
    const HELP: &str = "write a name such as \"api.example.com\" or \"*.example.com\"";
    let name = text.strip_prefix("*.").unwrap_or(text);
    if let Some((host, port)) = text.rsplit_once(':')
        && digits_only(port)
        && !text.starts_with('[')
    {
        return wrong(
            format!("\"{text}\" has a port"),
            format!("write \"{host}\": hosts are matched without their port"),
        );
    }
    let is_address = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    if is_host_name(name) || (is_address && name == text) {
        return Ok(text.to_ascii_lowercase());
    }
    wrong(format!("\"{text}\" is not a host name"), HELP)
}

/// An exact host name, lower-cased, without port.
pub(super) fn host_name(text: &str) -> Result<String, Wrong> {
    match text.starts_with("*.") {
        true => wrong(format!("\"{text}\" is many names"), "write each name out"),
        false => host_pattern(text),
    }
}

/// `client`, `server` or `fixed:NAME`.
pub(super) fn host_header(text: &str) -> Result<HostHeader, Wrong> {
    match text {
        "client" => return Ok(HostHeader::Client),
        "server" => return Ok(HostHeader::Server),
        _ => {}
    }
    match text.strip_prefix("fixed:").and_then(host_value) {
        Some(value) => Ok(HostHeader::Fixed(value)),
        None => wrong(
            format!("\"{text}\" is not a host header"),
            "write \"client\" (what the client asked for), \"server\" (the server's own host:port) or \"fixed:legacy.internal\"",
        ),
    }
}

/// A value of `Host`.
pub(super) fn fixed_host(text: &str) -> Result<HeaderValue, Wrong> {
    match host_value(text) {
        Some(value) => Ok(value),
        None => wrong(
            format!("\"{text}\" is not a host header"),
            "write a name, perhaps with a port: \"legacy.internal\" or \"legacy.internal:8080\"",
        ),
    }
}

fn host_value(text: &str) -> Option<HeaderValue> {
    let (name, port) = text.split_once(':').unwrap_or((text, "80"));
    let good = is_host_name(name) && digits_only(port) && port.parse::<u16>().is_ok();
    good.then(|| HeaderValue::from_str(text).ok()).flatten()
}

/// An address that alerts are sent to.
pub(super) fn webhook(text: &str) -> Result<Uri, Wrong> {
    const HELP: &str =
        "write \"https://alerts.example.com/hook\", or an http:// address of your own network";
    match text.parse::<Uri>() {
        Ok(uri)
            if matches!(uri.scheme_str(), Some("https" | "http"))
                && uri.host().is_some_and(|host| !host.is_empty())
                && !text.contains(['@', '#']) =>
        {
            Ok(uri)
        }
        // What is wrong may hold a password or a token: it is not repeated.
        _ => wrong("this is no address of a webhook", HELP),
    }
}

/// Letters, digits, `-`, `_` and inner dots, at most 253 bytes; an IPv4 address is one too.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn servers_are_a_scheme_a_host_and_a_port() {
        let good = [
            ("https://a:443", "a", 443),
            ("http://127.0.0.1:3000", "127.0.0.1", 3000),
            ("http://Legacy.internal:80", "legacy.internal", 80),
            ("http://my_service:8080", "my_service", 8080),
            ("http://[::1]:3000", "::1", 3000),
        ];
        for (text, host, port) in good {
            let read = server(text).unwrap();
            assert_eq!((read.host.as_str(), read.port), (host, port), "{text}");
            assert_eq!(show_server(&read), text.to_ascii_lowercase());
        }
        let bad = [
            "",
            "http://",
            "http://:80",
            "http://a",
            "http://a:",
            "http://a:0",
            "http://a:65536",
            "http://a:+80",
            "http://a:80/",
            "http://a:80?x",
            "http://u:p@a:80",
            "http://a b:80",
            "http://[::1]",
            "http://[::g]:80",
            "http://::1:80",
            "https://a",
            "h2c://a:80",
            "a:80",
            "HTTP://a:80",
            "unix:/s",
            "http://a..b:80",
            "http://é:80",
        ];
        for text in bad {
            assert!(server(text).is_err(), "{text}");
        }
        for (text, fix) in [
            ("http://a", "\"http://a:80\""),
            ("http://a:80/x/y", "\"http://a:80\""),
            ("http://[::1]", "\"http://[::1]:80\""),
            ("https://a", "\"https://a:443\""),
            ("https://a:80/x", "\"https://a:80\""),
        ] {
            assert!(server(text).unwrap_err().help.contains(fix), "{text}");
        }
    }

    #[test]
    fn passwords_in_an_address_are_not_repeated() {
        let wrong = server("http://user:hunter2@legacy:80").unwrap_err();
        assert!(!format!("{wrong:?}").contains("hunter2"));
    }

    #[test]
    fn host_patterns_have_no_port_and_one_leading_wildcard() {
        for (text, expected) in [
            ("API.example.com", "api.example.com"),
            ("*.example.com", "*.example.com"),
            ("localhost", "localhost"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(host_pattern(text).unwrap(), expected);
        }
        for text in [
            "",
            "*",
            "*.",
            "a.*.b",
            "*a.b",
            "api.example.com:8443",
            "https://a",
            "a/b",
            "a b",
            ".a",
            "a.",
            "*.[::1]",
            "[::1]:80",
        ] {
            assert!(host_pattern(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_and_listeners_are_checked() {
        assert_eq!(host_header("client"), Ok(HostHeader::Client));
        assert!(
            host_header("fixed:legacy:8080").is_ok()
                && host_header("fixed:").is_err()
                && host_header("legacy").is_err()
        );
        assert!(host_header("fixed:a:b").is_err() && host_header("fixed:a b").is_err());
        assert!(
            socket_address("[::]:443").is_ok()
                && socket_address("localhost:443").is_err()
                && socket_address("0.0.0.0").is_err()
        );
    }

    proptest! {
        #[test]
        fn no_address_panics(text in "\\PC*|(http://|:|\\[|\\]|[a-z0-9.]|/|@|\\*){0,12}") {
            let _ = (server(&text), host_pattern(&text), host_header(&text), socket_address(&text));
        }
    }
}
