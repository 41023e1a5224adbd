//! `[upstreams.NAME]`.

use std::sync::Arc;

use crate::config::Config;
use crate::config::Destination;
use crate::config::HostHeader;
use crate::config::Upstream;
use crate::config::UpstreamProtocol;
use crate::config::addresses::show_server;
use crate::config::dump::writer::Writer;
use crate::config::dump::writer::key;
use crate::config::dump::writer::quoted;
use crate::config::values::show_duration;
use crate::config::values::show_size;
use crate::model::isolation::Isolation;
use crate::model::tenant::TenantId;

impl Config {
    pub(super) fn dump_upstream(&self, out: &mut Writer, upstream: &Upstream) {
        out.table(&format!("[upstreams.{}]", key(&upstream.name)));
        out.list("servers", upstream.servers.iter().map(show_server));
        for (name, span) in [
            ("connect_timeout", upstream.connect_timeout),
            ("first_byte_timeout", upstream.first_byte_timeout),
            ("idle_timeout", upstream.idle_timeout),
            ("tunnel_idle_timeout", upstream.tunnel_idle_timeout),
        ] {
            out.text(name, &show_duration(span));
        }
        let total = upstream.total_timeout.map(show_duration);
        out.text("total_timeout", total.as_deref().unwrap_or("unlimited"));
        out.bare("pool_idle_max", upstream.pool_idle_max);
        out.text(
            "pool_idle_timeout",
            &show_duration(upstream.pool_idle_timeout),
        );
        out.text("head_bytes_max", &show_size(upstream.head_bytes_max as u64));
        out.bare("header_count_max", upstream.header_count_max);
        out.bare("connect_retries", upstream.connect_retries);
        dump_care(out, upstream);
        match &upstream.host_header {
            HostHeader::Client => out.text("host_header", "client"),
            HostHeader::Server => out.text("host_header", "server"),
            HostHeader::Fixed(name) => {
                let name = name.to_str().unwrap_or_default();
                out.text("host_header", &format!("fixed:{name}"));
            }
        }
        out.text("environment", self.environment(upstream.environment));
        dump_isolation(out, upstream);
        out.text(
            "protocol",
            match upstream.protocol {
                UpstreamProtocol::Http1 => "http1",
                UpstreamProtocol::Http2 => "http2",
            },
        );
        let Some(tls) = &upstream.tls else {
            return;
        };
        if let Some(ca) = &tls.ca {
            out.path("tls.ca", ca);
        }
        if let Some(client) = &tls.client {
            out.path("tls.certificate", &client.certificate);
            out.path("tls.private_key", &client.private_key);
        }
        if let Some(name) = &tls.server_name {
            out.text("tls.server_name", name);
        }
    }
}

/// What was said of isolation; nothing where nothing was.
fn dump_isolation(out: &mut Writer, upstream: &Upstream) {
    if upstream.isolation != Isolation::Unstated {
        out.text("isolation", upstream.isolation.as_str());
    }
    if upstream.every_tenant_sees_all_data {
        out.bare("every_tenant_sees_all_data", true);
    }
    if let Some(prefix) = &upstream.path_prefix {
        out.text("path_prefix", &prefix.text());
    }
    if let Some(not_found) = &upstream.not_found {
        let kind = not_found.content_type.to_str().unwrap_or_default();
        out.text("not_found_type", kind);
        out.text("not_found_body", &not_found.body);
    }
    let place = |(tenant, place): (&TenantId, &Arc<Destination>)| {
        let texts: Vec<String> = place.texts().iter().map(|text| quoted(text)).collect();
        format!("{} = [{}]", key(tenant.as_str()), texts.join(", "))
    };
    if upstream.isolation == Isolation::Physical {
        let places: Vec<String> = upstream.tenants.iter().map(place).collect();
        out.bare("tenants", format!("{{ {} }}", places.join(", ")));
    }
}

/// What is done about servers that fail.
fn dump_care(out: &mut Writer, upstream: &Upstream) {
    out.bare("retry_budget.share", upstream.retry_budget.share);
    let free = upstream.retry_budget.free_per_second;
    out.bare("retry_budget.free_per_second", free);
    let ejection = &upstream.ejection;
    out.bare("ejection.failures", ejection.failures);
    out.list("ejection.statuses", &ejection.statuses);
    out.text("ejection.time", &show_duration(ejection.time));
    out.text("ejection.time_max", &show_duration(ejection.time_max));
    out.bare("ejection.share_max", ejection.share_max);
    if let Some(health) = &upstream.health {
        out.text("health.path", &health.path);
        let host = health.host.as_ref().and_then(|host| host.to_str().ok());
        out.text("health.host", host.unwrap_or_default());
        out.text("health.interval", &show_duration(health.interval));
        out.text("health.timeout", &show_duration(health.timeout));
        out.bare("health.healthy", health.healthy);
        out.bare("health.unhealthy", health.unhealthy);
        let (low, high) = health.status;
        out.text("health.status", &format!("{low}-{high}"));
    }
    let refuse = upstream.refuse_when_all_out;
    out.text("all_out", if refuse { "refuse" } else { "try" });
    match upstream.in_flight_max {
        Some(most) => out.bare("in_flight_max", most),
        None => out.text("in_flight_max", "unlimited"),
    }
    out.bare("queue_max", upstream.queue_max);
    out.text("queue_timeout", &show_duration(upstream.queue_timeout));
}
