//! `[upstreams.NAME]`: the backends.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use toml::Spanned;

use crate::config::CertificateFiles;
use crate::config::Destination;
use crate::config::HostHeader;
use crate::config::Prepared;
use crate::config::Upstream;
use crate::config::UpstreamProtocol;
use crate::config::UpstreamServer;
use crate::config::UpstreamTls;
use crate::config::addresses;
use crate::config::entries::Declared;
use crate::config::entries::Placed;
use crate::config::entries::Places;
use crate::config::entries::TOTAL;
use crate::config::entries::bindings;
use crate::config::entries::care;
use crate::config::entries::inner;
use crate::config::entries::label;
use crate::config::file::Reader;
use crate::config::isolation;
use crate::config::settings::path;
use crate::config::values::Wrong;
use crate::model::isolation::Isolation;
use crate::model::tenant::TenantId;

/// `[upstreams.NAME]`.
pub(in crate::config) fn upstreams(
    root: &mut Reader<'_>,
    declared: &Declared<'_>,
    base: &Path,
) -> Vec<Placed<Arc<Upstream>>> {
    root.named("upstreams", |table, name| {
        label(table, &name);
        let servers = table.list("servers", addresses::server).unwrap_or_default();
        let tenants = bindings::tenants(table);
        let tls = tls(table, &servers, &tenants, base);
        let servers = inner(Some(servers));
        let isolation = table.choice("isolation", Isolation::Unstated, &ISOLATION);
        // Each tenant may have servers of its own, and nobody else any.
        let needs_servers = isolation != Isolation::Physical || table.has("path_prefix");
        if needs_servers && servers.is_empty() && table.list_is_empty("servers") {
            table.missing("servers", "write servers = [\"http://127.0.0.1:3000\"]");
        }
        let at = Places {
            name: name.span(),
            environment: table.place("environment").unwrap_or_default(),
            isolation: (table.place("isolation"))
                .filter(|_| table.has("isolation"))
                .unwrap_or_default(),
            ..Places::default()
        };
        let host_header = table.word("host_header", addresses::host_header);
        let path_prefix = table.word("path_prefix", addresses::path_prefix);
        let upstream = Upstream {
            name: (*name.get_ref()).to_owned(),
            servers,
            connect_timeout: table.duration("connect_timeout", "5s", ("10ms", "5min")),
            first_byte_timeout: table.duration("first_byte_timeout", "30s", ("10ms", "1h")),
            idle_timeout: table.duration("idle_timeout", "30s", ("10ms", "24h")),
            // Libraries that ping do so within a minute and people think for longer; but a peer that vanished must not hold its place for hours.
            tunnel_idle_timeout: table.duration("tunnel_idle_timeout", "10min", ("100ms", "24h")),
            total_timeout: table.duration_or_unlimited("total_timeout", None, TOTAL),
            pool_idle_max: table.number("pool_idle_max", 1024, 0, 10_000) as usize,
            // Below the 5 s after which common application servers close: a request that meets the close half-way fails.
            pool_idle_timeout: table.duration("pool_idle_timeout", "4s", ("100ms", "1h")),
            head_bytes_max: table.size("head_bytes_max", "32KiB", ("8KiB", "1MiB")),
            header_count_max: table.number("header_count_max", 100, 1, 1_000) as usize,
            connect_retries: table.number("connect_retries", 1, 0, 10),
            retry_budget: care::retry_budget(table),
            ejection: care::ejection(table),
            health: care::health(table),
            refuse_when_all_out: table.choice(
                "all_out",
                false,
                &[("try", false), ("refuse", true)],
            ),
            in_flight_max: table.number_or_unlimited("in_flight_max", 1, 1_000_000),
            queue_max: table.number("queue_max", 100, 0, 10_000),
            queue_timeout: table.duration("queue_timeout", "1s", ("10ms", "5min")),
            host_header: host_header.map_or(HostHeader::Client, Spanned::into_inner),
            environment: declared.environment(table),
            isolation,
            every_tenant_sees_all_data: table.flag("every_tenant_sees_all_data", false),
            path_prefix: path_prefix.map(Spanned::into_inner),
            tenants,
            not_found: bindings::not_found(table),
            protocol: table.choice(
                "protocol",
                UpstreamProtocol::Http1,
                &[
                    ("http1", UpstreamProtocol::Http1),
                    ("http2", UpstreamProtocol::Http2),
                ],
            ),
            tls,
        };
        isolation::stated(table, &upstream);
        Placed {
            value: Arc::new(upstream),
            at,
        }
    })
}

const ISOLATION: [(&str, Isolation); 5] = [
    ("physical", Isolation::Physical),
    ("header", Isolation::Header),
    ("path", Isolation::Path),
    ("guard", Isolation::Guard),
    ("none", Isolation::None),
];

/// `[upstreams.NAME.tls]`: how servers over TLS are trusted. All servers of an upstream are spoken to alike: which of them has a request is chance.
fn tls(
    table: &mut Reader<'_>,
    servers: &[Spanned<UpstreamServer>],
    tenants: &BTreeMap<TenantId, Arc<Destination>>,
    base: &Path,
) -> Option<UpstreamTls> {
    let read = table.own_table("tls", "upstreams.tls", |table| UpstreamTls {
        ca: pem(table, "ca", base),
        client: client(table, base),
        server_name: table
            .word("server_name", addresses::server_name)
            .map(Spanned::into_inner),
        prepared: Prepared::default(),
    });
    let places = || tenants.values().flat_map(|place| &place.servers);
    let known = servers.first().map(Spanned::get_ref);
    // Where the store alone knows the servers, the table says that they are spoken to over TLS.
    let secure = match known.or_else(|| places().next()) {
        Some(server) => server.tls,
        None => table.has("tls"),
    };
    if places().any(|server| server.tls != secure) {
        let at = table.place("tenants").unwrap_or_default();
        table.refuse(at, "tenants", mixed());
    }
    if let Some(other) = servers.iter().find(|other| other.get_ref().tls != secure) {
        table.refuse(other.span(), "servers", mixed());
    }
    if !secure {
        if let Some(place) = table.place("tls").filter(|_| table.has("tls")) {
            table.refuse(
                place,
                "tls",
                Wrong {
                    what: "no server is spoken to over TLS".to_owned(),
                    help: "write the servers with https://, or take tls out".to_owned(),
                },
            );
        }
        return None;
    }
    for server in servers.iter().filter(|_| read.server_name.is_none()) {
        if let Err(wrong) = addresses::server_name(&server.get_ref().host) {
            table.refuse(server.span(), "servers", wrong);
        }
    }
    for server in places().filter(|_| read.server_name.is_none()) {
        if let Err(wrong) = addresses::server_name(&server.host) {
            let at = table.place("tenants").unwrap_or_default();
            table.refuse(at, "tenants", wrong);
        }
    }
    Some(read)
}

fn mixed() -> Wrong {
    Wrong {
        what: "http:// and https:// stand side by side".to_owned(),
        help: "write all servers with https://, or make two upstreams: else chance decides which requests cross the network in clear".to_owned(),
    }
}

fn client(table: &mut Reader<'_>, base: &Path) -> Option<CertificateFiles> {
    let certificate = pem(table, "certificate", base);
    let private_key = pem(table, "private_key", base);
    for (key, other) in [
        ("certificate", "private_key"),
        ("private_key", "certificate"),
    ] {
        if !table.has(key) && table.has(other) {
            table.missing(key, "a client certificate is two files, certificate and private_key: write both, or take both out");
        }
    }
    Some(CertificateFiles {
        certificate: certificate?,
        private_key: private_key?,
    })
}

/// A file that is read when the configuration is loaded; its place is kept for what may be wrong with it then.
fn pem(table: &mut Reader<'_>, key: &'static str, base: &Path) -> Option<PathBuf> {
    let word = table.word(key, |text| path(base, text))?;
    table.notes().place(table.name(key), &word.span());
    Some(word.into_inner())
}
