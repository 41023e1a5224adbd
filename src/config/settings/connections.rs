//! `[server]`, `[connections]`, `[trusted_proxies]` and `[http]`: bounds on clients, and who speaks for them.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;
use toml::Spanned;

use crate::config::file::Reader;
use crate::config::names;
use crate::config::problem::Problem;
use crate::config::values::wrong;
use crate::model::binding;

/// `[server]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Data threads; 0 is one per core. 0 to 256.
    pub workers: usize,
    /// How long a drain waits for requests in flight before it cuts them. 0s to 1h.
    pub drain_timeout: Duration,
    /// How long before the drain the gateway says that it is not ready. 0s to 5min.
    pub drain_delay: Duration,
}

/// `[connections]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Open client connections, all listeners together. 1 to 1,000,000.
    pub total_max: usize,
    /// Open client connections from one address. 1 to 1,000,000.
    pub per_address_max: usize,
    /// From accept to the end of the TLS handshake. 100ms to 5min.
    pub handshake_timeout: Duration,
    /// From the first byte of a request head to its last. 100ms to 5min.
    pub head_timeout: Duration,
    /// Between two requests of a kept connection. 100ms to 1h.
    pub idle_timeout: Duration,
    /// Longest silence of a client that is sending a body or should be reading an answer. 100ms to 1h.
    pub stall_timeout: Duration,
    /// Of a body that was answered unread: bytes that are thrown away before the connection is given up. 0B to 64MiB.
    pub unread_bytes_max: u64,
    /// How long that may take. 100ms to 5min.
    pub unread_timeout: Duration,
    /// HTTP/2 streams open at once on one connection. 1 to 10,000.
    pub http2_streams_max: u32,
}

/// `[trusted_proxies]`: who may say where a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Where they connect from.
    pub networks: Vec<IpNet>,
    /// Whether each of their connections begins with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol: bool,
    /// Whether `X-Forwarded-For` and `X-Request-Id` of their requests are believed.
    pub headers: bool,
}

impl TrustedProxies {
    /// Whether this is the address of one of them. IPv4 in IPv6 clothes counts as what it is.
    #[must_use]
    pub fn include(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks
            .iter()
            .any(|network| network.contains(&address))
    }
}

/// `[http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Whole request head, bytes; beyond it 431. 8KiB to 1MiB.
    pub head_bytes_max: usize,
    /// Header fields of a request; beyond it 431. 1 to 1,000.
    pub header_count_max: usize,
    /// Request target, bytes; beyond it 414. 256B to 64KiB.
    pub target_bytes_max: usize,
    /// Request body, bytes; beyond it 413. `u64::MAX` is unlimited.
    pub body_bytes_max: u64,
    /// Value of `Strict-Transport-Security` on every TLS answer; `None` sends none.
    pub hsts: Option<HeaderValue>,
}

/// `[server]`.
pub(in crate::config) fn server(root: &mut Reader<'_>) -> Server {
    root.table("server", "server", |table| Server {
        workers: table.number("workers", 0, 0, 256) as usize,
        drain_timeout: table.duration("drain_timeout", "30s", ("0s", "1h")),
        drain_delay: table.duration("drain_delay", "0s", ("0s", "5min")),
    })
}

/// `[connections]`.
pub(in crate::config) fn connections(root: &mut Reader<'_>) -> Connections {
    root.table("connections", "connections", |table| Connections {
        total_max: table.number("total_max", 10_000, 1, 1_000_000) as usize,
        per_address_max: table.number("per_address_max", 1_000, 1, 1_000_000) as usize,
        handshake_timeout: table.duration("handshake_timeout", "10s", ("100ms", "5min")),
        head_timeout: table.duration("head_timeout", "10s", ("100ms", "5min")),
        idle_timeout: table.duration("idle_timeout", "75s", ("100ms", "1h")),
        stall_timeout: table.duration("stall_timeout", "30s", ("100ms", "1h")),
        unread_bytes_max: table.size("unread_bytes_max", "256KiB", ("0B", "64MiB")) as u64,
        unread_timeout: table.duration("unread_timeout", "5s", ("100ms", "5min")),
        http2_streams_max: table.number("http2_streams_max", 100, 1, 10_000),
    })
}

/// `[trusted_proxies]`. A proxy that says nothing, and words from nobody, are mistakes: both read as if clients' addresses were known.
pub(in crate::config) fn trusted_proxies(root: &mut Reader<'_>) -> TrustedProxies {
    root.table("trusted_proxies", "trusted_proxies", |table| {
        let networks = table.list("networks", |text| match binding::network(text) {
            Ok(network) if network.prefix_len() == 0 => wrong(
                format!("\"{text}\" trusts everybody: any client could pose as any other"),
                "write the addresses of your load balancers",
            ),
            Ok(network) => Ok(network),
            Err(why) => wrong(format!("\"{text}\" is not a network"), why),
        });
        let proxies = TrustedProxies {
            networks: (networks.into_iter().flatten())
                .map(Spanned::into_inner)
                .collect(),
            proxy_protocol: table.choice(
                "proxy_protocol",
                false,
                &[("off", false), ("require", true)],
            ),
            headers: table.choice("headers", false, &[("ignore", false), ("trust", true)]),
        };
        let asks = proxies.proxy_protocol || proxies.headers;
        let problem = match (proxies.networks.is_empty(), asks) {
            (true, true) if table.list_is_empty("networks") => Some((
                "[trusted_proxies] networks: nobody is trusted",
                "write networks = [\"10.0.0.0/8\"], the addresses of your load balancers and of nobody else; or leave [trusted_proxies] out",
            )),
            (false, false) => Some((
                "[trusted_proxies]: these networks are trusted with nothing",
                "write proxy_protocol = \"require\", or headers = \"trust\", as your load balancer speaks; or leave [trusted_proxies] out",
            )),
            _ => None,
        };
        if let Some((what, help)) = problem {
            table
                .notes()
                .error(Problem::context(table.place("networks"), what, help));
        }
        proxies
    })
}

/// `[http]`.
pub(in crate::config) fn http(root: &mut Reader<'_>) -> Http {
    root.table("http", "http", |table| Http {
        head_bytes_max: table.size("head_bytes_max", "32KiB", ("8KiB", "1MiB")),
        header_count_max: table.number("header_count_max", 100, 1, 1_000) as usize,
        target_bytes_max: table.size("target_bytes_max", "8KiB", ("256B", "64KiB")),
        body_bytes_max: table
            .size_or_unlimited("body_bytes_max", BODY_MAX)
            .unwrap_or(u64::MAX),
        hsts: table
            .word("hsts", names::hsts)
            .and_then(Spanned::into_inner),
    })
}

/// Largest body limit that can be written; beyond it say `"unlimited"`.
pub(in crate::config) const BODY_MAX: &str = "1048576GiB";
