//! `[upstreams.NAME]`: the backends.

use std::sync::Arc;

use toml::Spanned;

use crate::config::HostHeader;
use crate::config::Upstream;
use crate::config::entries::Declared;
use crate::config::entries::Placed;
use crate::config::entries::Places;
use crate::config::entries::TOTAL;
use crate::config::entries::bindings;
use crate::config::entries::inner;
use crate::config::entries::label;
use crate::config::file::Reader;
use crate::config::isolation;
use crate::config::names;
use crate::model::isolation::Isolation;

/// `[upstreams.NAME]`.
pub(in crate::config) fn upstreams(
    root: &mut Reader<'_>,
    declared: &Declared<'_>,
) -> Vec<Placed<Arc<Upstream>>> {
    root.named("upstreams", |table, name| {
        label(table, &name);
        let servers = inner(table.list("servers", names::server));
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
        let host_header = table.word("host_header", names::host_header);
        let path_prefix = table.word("path_prefix", names::path_prefix);
        let upstream = Upstream {
            name: (*name.get_ref()).to_owned(),
            servers,
            connect_timeout: table.duration("connect_timeout", "5s", ("10ms", "5min")),
            first_byte_timeout: table.duration("first_byte_timeout", "30s", ("10ms", "1h")),
            idle_timeout: table.duration("idle_timeout", "30s", ("10ms", "24h")),
            total_timeout: table.duration_or_unlimited("total_timeout", None, TOTAL),
            pool_idle_max: table.number("pool_idle_max", 64, 0, 10_000) as usize,
            // Below the 5 s after which common application servers close: a request that meets the close half-way fails.
            pool_idle_timeout: table.duration("pool_idle_timeout", "4s", ("100ms", "1h")),
            head_bytes_max: table.size("head_bytes_max", "32KiB", ("8KiB", "1MiB")),
            header_count_max: table.number("header_count_max", 100, 1, 1_000) as usize,
            connect_retries: table.number("connect_retries", 1, 0, 10),
            host_header: host_header.map_or(HostHeader::Client, Spanned::into_inner),
            environment: declared.environment(table),
            isolation,
            every_tenant_sees_all_data: table.flag("every_tenant_sees_all_data", false),
            path_prefix: path_prefix.map(Spanned::into_inner),
            tenants: bindings::tenants(table),
            not_found: bindings::not_found(table),
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
