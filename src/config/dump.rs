//! The meaning of a configuration written back as TOML, and which changes of it need a restart.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use toml::Value;

use crate::config::AccessLog;
use crate::config::CertificateFiles;
use crate::config::Config;
use crate::config::Destination;
use crate::config::Errors;
use crate::config::HostHeader;
use crate::config::LimitSubject;
use crate::config::Upstream;
use crate::config::UpstreamProtocol;
use crate::config::entries::guard_words;
use crate::config::issuers;
use crate::config::names::show_server;
use crate::config::values::show_duration;
use crate::config::values::show_size;
use crate::model::credential::Kind;
use crate::model::credential::Kinds;
use crate::model::guard::Guard;
use crate::model::guard::Member;
use crate::model::isolation::Isolation;
use crate::model::key::ApiKey;
use crate::model::key::Environment;
use crate::model::key::KeyKind;
use crate::model::key::Override;
use crate::model::limit::Mode;
use crate::model::limit::Rate;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::model::route::bind::Bindings;
use crate::model::route::bind::QueryBinding;
use crate::model::route::bind::TwinId;
use crate::model::route::bind::TwinSource;
use crate::model::route::bind::Whom;
use crate::model::route::reference::References;
use crate::model::scope::Scope;
use crate::model::scope::ScopeRules;
use crate::model::scope::Scopes;
use crate::model::tenant::TenantId;
use crate::refusal::Shape;

impl Config {
    /// The whole configuration in force as TOML, every key written out, in the order of the reference file. Parsing it
    /// gives the same configuration. It holds no secret: digests, and the paths of key files, are as much as there is.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut out = Writer::default();
        let names = self.environments.iter().map(String::as_str);
        out.list("environments", names);
        self.dump_edge(&mut out);
        self.dump_gate(&mut out);
        for plan in &self.plans {
            out.table(&format!("[plans.{}]", key(&plan.name)));
            out.text("quota", &rate(plan.limits.quota));
            out.text("burst", &rate(plan.limits.burst));
            out.list("scopes", plan.scopes.iter().map(|scope| scope.as_str()));
            out.bare("api_access", plan.api_access);
            out.text("mode", mode(plan.mode));
            out.bare("granular_scopes", plan.granular_scopes);
        }
        for tenant in &self.tenants {
            out.table("[[tenants]]");
            out.text("id", tenant.id.as_str());
            out.text("name", &tenant.name);
            out.text("plan", &tenant.plan);
            dump_scopes(&mut out, &tenant.scopes);
            dump_own_limits(&mut out, tenant.quota, tenant.burst);
            out.bare("suspended", tenant.suspended);
        }
        for key in &self.declared_keys {
            dump_key(&mut out, key);
        }
        for upstream in &self.upstreams {
            self.dump_upstream(&mut out, upstream);
        }
        for guard in &self.guards {
            dump_guard(&mut out, guard);
        }
        for issuer in &self.issuers {
            issuers::dump_issuer(&mut out, issuer, self.environment(issuer.environment));
        }
        for resource in &self.resources {
            issuers::dump_resource(&mut out, resource);
        }
        for host in &self.hosts {
            out.table("[[hosts]]");
            out.text("name", &host.name);
            out.text("environment", self.environment(host.environment));
            dump_errors(&mut out, "errors.", host.errors);
        }
        for route in &self.routes {
            self.dump_route(&mut out, route);
        }
        out.0
    }

    fn dump_edge(&self, out: &mut Writer) {
        out.table("[listen]");
        out.list("https", &self.listen.https);
        out.list("http", &self.listen.http);
        let admin = self.listen.admin.map(|address| address.to_string());
        out.text("admin", &admin.unwrap_or_default());
        out.path("admin_socket", &self.listen.admin_socket);
        out.table("[admin]");
        out.list("hosts", &self.admin.hosts);
        out.table("[server]");
        out.bare("workers", self.server.workers);
        out.text("drain_timeout", &show_duration(self.server.drain_timeout));
        out.text("drain_delay", &show_duration(self.server.drain_delay));
        let connections = &self.connections;
        out.table("[connections]");
        out.bare("total_max", connections.total_max);
        out.bare("per_address_max", connections.per_address_max);
        for (name, span) in [
            ("handshake_timeout", connections.handshake_timeout),
            ("head_timeout", connections.head_timeout),
            ("idle_timeout", connections.idle_timeout),
            ("stall_timeout", connections.stall_timeout),
            ("unread_timeout", connections.unread_timeout),
        ] {
            out.text(name, &show_duration(span));
        }
        out.text("unread_bytes_max", &show_size(connections.unread_bytes_max));
        out.bare("http2_streams_max", connections.http2_streams_max);
        let proxies = &self.trusted_proxies;
        out.table("[trusted_proxies]");
        out.list("networks", &proxies.networks);
        let required = proxies.proxy_protocol;
        out.text("proxy_protocol", if required { "require" } else { "off" });
        let trust = proxies.headers;
        out.text("headers", if trust { "trust" } else { "ignore" });
        out.table("[http]");
        out.text(
            "head_bytes_max",
            &show_size(self.http.head_bytes_max as u64),
        );
        out.bare("header_count_max", self.http.header_count_max);
        out.text(
            "target_bytes_max",
            &show_size(self.http.target_bytes_max as u64),
        );
        out.text("body_bytes_max", &show_size(self.http.body_bytes_max));
        let hsts = self
            .http
            .hsts
            .as_ref()
            .and_then(|value| value.to_str().ok());
        out.text("hsts", hsts.unwrap_or(""));
        out.table("[tls]");
        dump_certificate(out, &self.tls.default);
        out.text(
            "min_version",
            if self.tls.allow_tls12 { "1.2" } else { "1.3" },
        );
        for sni in &self.tls.sni {
            out.table("[[tls.sni]]");
            out.list("hosts", &sni.hosts);
            dump_certificate(out, &sni.files);
        }
    }

    fn dump_gate(&self, out: &mut Writer) {
        out.table("[store]");
        let kind = if self.store.shared { "redis" } else { "sqlite" };
        out.text("kind", kind);
        out.path("path", &self.store.path);
        out.text("flush_interval", &show_duration(self.store.flush_interval));
        let strict = self.store.strict;
        out.text("durability", if strict { "strict" } else { "interval" });
        self.store.redis.dump(out);
        out.table("[auth]");
        let places = [
            (self.auth.bearer, "authorization"),
            (self.auth.x_api_key, "x-api-key"),
        ];
        out.list(
            "headers",
            places.iter().filter(|(on, _)| *on).map(|(_, name)| name),
        );
        out.text("failures", &rate(self.auth.failures));
        let parameter = self.auth.query_parameter.as_deref();
        out.text("query_parameter", parameter.unwrap_or(""));
        let refuse = self.auth.refuse_secret_keys_in_browsers;
        out.text(
            "secret_keys_in_browsers",
            if refuse { "refuse" } else { "allow" },
        );
        out.text("realm", &self.auth.realm);
        let pass = self.auth.pass_foreign_authorization;
        out.text(
            "foreign_authorization",
            if pass { "pass" } else { "refuse" },
        );
        out.list("credentials", kinds(self.auth.credentials));
        out.table("[tokens]");
        out.text("bytes_max", &show_size(self.tokens.bytes_max as u64));
        out.bare("cached_max", self.tokens.cached_max);
        out.table("[sessions]");
        out.text("cookie", self.sessions.cookie.as_deref().unwrap_or(""));
        out.text("age_max", &show_duration(self.sessions.age_max));
        out.text("begins_claim", self.sessions.begins.as_str());
        out.table("[key_format]");
        out.text("secret_prefix", &self.keys.secret_prefix);
        out.text("public_prefix", &self.keys.public_prefix);
        out.table("[key_rules]");
        let allowed = self.key_rules.allowed_expirations.iter();
        out.list(
            "allowed_expirations",
            allowed.map(|lifetime| &lifetime.text),
        );
        let longest = self.key_rules.max_ttl.as_ref();
        out.text(
            "max_ttl",
            longest.map_or("unlimited", |longest| &longest.text),
        );
        out.bare("warn_never", self.key_rules.warn_never);
        let allow = self.key_rules.allow_ungranted;
        out.text("ungranted_scopes", if allow { "allow" } else { "refuse" });
        out.table("[key_labels]");
        let labels = &self.key_labels;
        for (status, label) in [
            ("active", &labels.active),
            ("inactive", &labels.inactive),
            ("expired", &labels.expired),
            ("revoked", &labels.revoked),
            ("deleted", &labels.deleted),
        ] {
            out.text(status, label);
        }
        for default in &self.key_defaults {
            out.table("[[key_defaults]]");
            if let Some(kind) = default.kind {
                out.text("kind", kind.as_str());
            }
            if let Some(environment) = &default.environment {
                out.text("environment", environment);
            }
            dump_scopes(out, &default.scopes);
        }
        out.table("[tenant_header]");
        out.text("name", self.headers.tenant.as_str());
        out.table("[subject_header]");
        let subject = self.headers.subject.as_ref();
        out.text("name", subject.map_or("", |name| name.as_str()));
        out.table("[headers]");
        let keep = self.headers.keep_underscore;
        out.text("underscore_headers", if keep { "keep" } else { "drop" });
        out.list("remove", &self.headers.remove);
        out.bare("forwarded", self.headers.forwarded);
        out.table("[scopes]");
        let superuser = self.scopes.superuser.iter();
        out.list("superuser", superuser.map(|scope| scope.as_str()));
        out.bare("implies", implies(&self.scopes));
        out.table("[errors]");
        dump_errors(out, "", self.errors);
        out.table("[limits]");
        out.text(
            "subject",
            match self.limits.subject {
                LimitSubject::Key => "key",
                LimitSubject::Tenant => "tenant",
                LimitSubject::Both => "both",
            },
        );
        out.bare("x_headers", self.limits.x_headers);
        out.bare("ietf_headers", self.limits.ietf_headers);
        let delta = self.limits.reset_as_delta;
        out.text("reset", if delta { "delta" } else { "unix" });
        out.text("mode", mode(self.limits.mode));
        out.table("[revocation]");
        let abort = self.revocation.abort_in_flight;
        out.text("in_flight", if abort { "abort" } else { "finish" });
        let revoke = self.revocation.revoke_plaintext;
        out.text("plaintext_key", if revoke { "revoke" } else { "log" });
        self.dump_alerts(out);
        self.dump_audit(out);
        out.table("[log]");
        match &self.log.access {
            AccessLog::Off => out.text("access", "off"),
            AccessLog::Stdout => out.text("access", "stdout"),
            AccessLog::File(path) => out.text("access", &format!("file:{}", path.display())),
        }
        out.text(
            "queue_bytes_max",
            &show_size(self.log.queue_bytes_max as u64),
        );
        out.text("level", &self.log.level.as_str().to_ascii_lowercase());
    }

    fn dump_alerts(&self, out: &mut Writer) {
        let alerts = &self.alerts;
        out.table("[alerts]");
        match &alerts.webhook {
            Some(webhook) => {
                out.text("webhook", &webhook.uri.to_string());
                out.path("webhook_secret", &webhook.secret);
            }
            None => {
                out.text("webhook", "");
                out.text("webhook_secret", "");
            }
        }
        match alerts
            .webhook
            .as_ref()
            .and_then(|webhook| webhook.ca.as_ref())
        {
            Some(ca) => out.path("webhook_ca", ca),
            None => out.text("webhook_ca", ""),
        }
        out.bare("limit_percent", alerts.limit_percent);
        out.bare("error_rate_percent", alerts.error_rate_percent);
        out.bare("error_rate_requests", alerts.error_rate_requests);
        out.bare("unusual_factor", alerts.unusual_factor);
        out.bare("unusual_requests", alerts.unusual_requests);
        for (name, span) in [
            ("unused_after", &alerts.unused_after),
            ("key_expiry_before", &alerts.key_expiry_before),
            (
                "certificate_expiry_before",
                &alerts.certificate_expiry_before,
            ),
        ] {
            out.text(name, span.as_ref().map_or("never", |span| &span.text));
        }
    }

    fn dump_audit(&self, out: &mut Writer) {
        let keep = self.audit.keep.as_ref();
        out.table("[audit]");
        out.text("keep", keep.map_or("never", |span| &span.text));
        out.bare("lines_max", self.audit.lines_max);
    }

    fn dump_upstream(&self, out: &mut Writer, upstream: &Upstream) {
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

    fn dump_route(&self, out: &mut Writer, route: &Route) {
        out.table("[[routes]]");
        out.text("path", &route.path);
        if let Some(host) = &route.host {
            out.text("host", host);
        }
        out.list("methods", &route.methods);
        match &route.access {
            Access::Public => out.text("access", "public"),
            Access::AnyKey => out.text("access", "any-key"),
            Access::Scope(scope) => out.text("scope", scope.as_str()),
        }
        if route.access != Access::Public {
            out.list("credentials", kinds(route.credentials));
        }
        let upstream = self.upstreams.get(route.upstream);
        out.text("upstream", upstream.map_or("", |upstream| &upstream.name));
        out.bare("cost", route.cost);
        out.text("environment", self.environment(route.environment));
        if let Some(bytes) = route.body_bytes_max {
            out.text("body_bytes_max", &show_size(bytes));
        }
        if let Some(span) = route.total_timeout {
            out.text("total_timeout", &show_duration(span));
        }
        out.bare("raw_path", route.raw_path);
        out.list("origins", &route.origins);
        out.text("mode", mode(route.mode));
        if let Some(bindings) = &route.bindings {
            dump_bindings(out, bindings);
        }
        if let Some(guard) = &route.guard {
            out.text("guard", &guard.name);
        }
        if let Some(references) = &route.references {
            dump_references(out, references);
        }
        if route.access == Access::Public {
            out.text("address_limit", &rate(route.address_limit));
            let passes = route.pass_authorization;
            out.text("authorization", if passes { "pass" } else { "remove" });
        }
        out.bare("json_as_form", route.json_as_form);
    }

    fn environment(&self, environment: Environment) -> &str {
        let name = self.environments.get(usize::from(environment.0));
        name.map_or("", String::as_str)
    }

    /// The keys that differ in `next` and are only read at start; a reload leaves them as they are until a restart.
    #[must_use]
    pub fn restart_needed(&self, next: &Config) -> Vec<&'static str> {
        let (listen, new) = (&self.listen, &next.listen);
        let differs = [
            ("listen.https", listen.https != new.https),
            ("listen.http", listen.http != new.http),
            ("listen.admin", listen.admin != new.admin),
            (
                "listen.admin_socket",
                listen.admin_socket != new.admin_socket,
            ),
            ("server.workers", self.server.workers != next.server.workers),
            ("store.path", self.store.path != next.store.path),
            ("store.kind", self.store.shared != next.store.shared),
            (
                "store.redis_servers and the keys beside it",
                self.store.redis != next.store.redis,
            ),
            ("log.access", self.log.access != next.log.access),
            (
                "log.queue_bytes_max",
                self.log.queue_bytes_max != next.log.queue_bytes_max,
            ),
        ];
        let changed = differs.into_iter().filter(|(_, differs)| *differs);
        changed.map(|(key, _)| key).collect()
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

fn dump_bindings(out: &mut Writer, bindings: &Bindings) {
    let table = |entries: Vec<String>| format!("{{ {} }}", entries.join(", "));
    let entry = |name: &str, whom: Whom| format!("{} = {}", key(name), quoted(whom.as_str()));
    let of_query = |bound: &QueryBinding| entry(&bound.name, bound.whom);
    if !bindings.path.is_empty() {
        let path = bindings.path.iter();
        out.bare(
            "bind",
            table(path.map(|bound| entry(&bound.name, bound.whom)).collect()),
        );
    }
    if !bindings.query.is_empty() {
        out.bare(
            "bind_query",
            table(bindings.query.iter().map(of_query).collect()),
        );
    }
    if let Some(whom) = bindings.host {
        out.text("bind_host", whom.as_str());
    }
    if !bindings.set_query.is_empty() {
        out.bare(
            "set_query",
            table(bindings.set_query.iter().map(of_query).collect()),
        );
    }
    if bindings.demand() {
        let backend = bindings.twin.source == TwinSource::Backend;
        out.text("twin", if backend { "backend" } else { "gateway" });
        let id = match bindings.twin.id {
            TwinId::Text => "text",
            TwinId::Digits => "digits",
            TwinId::Uuid => "uuid",
        };
        out.text("twin_id", id);
        out.bare("twin_echo", bindings.twin.echo);
    }
}

fn dump_references(out: &mut Writer, references: &References) {
    let members = references.members.iter();
    let members: Vec<String> = members
        .map(|one| format!("{} = {}", key(&one.member), quoted(one.place.text())))
        .collect();
    out.bare("references", format!("{{ {} }}", members.join(", ")));
    let bytes = show_size(references.body_bytes_max as u64);
    out.text("references_bytes_max", &bytes);
    out.text("references_mode", mode(references.mode));
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

fn dump_guard(out: &mut Writer, guard: &Guard) {
    out.table(&format!("[guards.{}]", key(&guard.name)));
    let named = |which: fn(&Member) -> bool| {
        let members = guard.answers.iter().filter(move |member| which(member));
        members.map(|member| member.name.as_str())
    };
    out.list("remove", named(|member| member.remove));
    out.list("watch", named(|member| member.watch));
    for (key, word) in guard_words(guard) {
        out.text(key, word);
    }
    out.text("mode", mode(guard.mode));
    out.text("bytes_held", &show_size(guard.bytes_held as u64));
    out.text("decoded_bytes_max", &show_size(guard.decoded_bytes_max));
    out.bare("decoded_ratio_max", guard.decoded_ratio_max);
    out.list("remove_headers", &guard.remove_headers);
    out.list("request_set", &guard.set);
    let removed = guard.requests.iter().map(|member| member.name.as_str());
    let removed = removed.filter(|name| !guard.set.iter().any(|set| set == name));
    out.list("request_remove", removed);
}

fn dump_key(out: &mut Writer, key: &ApiKey) {
    out.table("[[keys]]");
    let hex: String = key
        .digest
        .0
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    out.text("digest", &format!("sha256:{hex}"));
    out.text("tenant", key.tenant.as_str());
    out.text("name", &key.name);
    dump_scopes(out, &key.scopes);
    if let Some(plan) = &key.plan {
        out.text("plan", plan);
    }
    dump_own_limits(out, key.quota, key.burst);
    out.text("environment", &key.environment);
    out.text(
        "kind",
        match key.kind {
            KeyKind::Secret => "secret",
            KeyKind::Public => "public",
        },
    );
    let expires = key
        .expires
        .and_then(|wall| jiff::Timestamp::from_microsecond(i64::try_from(wall.0).ok()?).ok());
    out.text(
        "expires",
        &expires.map_or("never".into(), |stamp| stamp.to_string()),
    );
    if let Some(subject) = &key.binding.subject {
        out.text("subject", subject);
    }
    out.list("origins", &key.binding.origins);
    out.list("cidrs", &key.binding.cidrs);
    if let Some(note) = &key.note {
        out.text("note", note);
    }
}

fn dump_scopes(out: &mut Writer, scopes: &Scopes) {
    match scopes {
        Scopes::Inherit => out.text("scopes", "inherit"),
        Scopes::Listed(scopes) => out.list("scopes", scopes.iter().map(|scope| scope.as_str())),
    }
}

fn dump_own_limits(out: &mut Writer, quota: Override, burst: Override) {
    for (name, own) in [("quota", quota), ("burst", burst)] {
        match own {
            Override::Plan => {}
            Override::Unlimited => out.text(name, "unlimited"),
            Override::Rate(limit) => out.text(name, &limit.to_string()),
        }
    }
}

fn dump_certificate(out: &mut Writer, files: &CertificateFiles) {
    out.path("certificate", &files.certificate);
    out.path("private_key", &files.private_key);
}

fn dump_errors(out: &mut Writer, prefix: &str, errors: Errors) {
    out.text(
        &format!("{prefix}shape"),
        match errors.shape {
            Shape::Problem => "problem",
            Shape::Nested => "nested",
            Shape::Flat => "flat",
        },
    );
    out.bare(&format!("{prefix}name_permission"), errors.name_permission);
    let foreign = if errors.foreign_is_forbidden {
        "403"
    } else {
        "404"
    };
    out.text(&format!("{prefix}foreign"), foreign);
}

fn implies(rules: &ScopeRules) -> String {
    let rule = |(scope, implied): (&Scope, &Vec<Scope>)| {
        let implied: Vec<String> = implied.iter().map(|more| quoted(more.as_str())).collect();
        format!("{} = [{}]", quoted(scope.as_str()), implied.join(", "))
    };
    let rules: Vec<String> = rules.implies.iter().map(rule).collect();
    match rules.is_empty() {
        true => "{}".into(),
        false => format!("{{ {} }}", rules.join(", ")),
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "observe",
    }
}

fn rate(limit: Option<Rate>) -> String {
    limit.map_or("unlimited".into(), |limit| limit.to_string())
}

/// Kinds of credentials in their words.
pub(super) fn kinds(kinds: Kinds) -> impl Iterator<Item = &'static str> {
    kinds.iter().map(Kind::as_str)
}

/// A name as a TOML key: quoted when it holds a dot.
pub(super) fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    match !name.is_empty() && name.bytes().all(is_bare) {
        true => name.to_owned(),
        false => quoted(name),
    }
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// TOML being written, line by line.
#[derive(Default)]
pub(super) struct Writer(String);

impl Writer {
    pub(super) fn table(&mut self, header: &str) {
        self.0.push_str(&format!("\n{header}\n"));
    }

    pub(super) fn bare(&mut self, key: &str, value: impl fmt::Display) {
        self.0.push_str(&format!("{key} = {value}\n"));
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.bare(key, quoted(value));
    }

    pub(super) fn path(&mut self, key: &str, value: &Path) {
        self.text(key, &value.to_string_lossy());
    }

    pub(super) fn list(&mut self, key: &str, values: impl IntoIterator<Item = impl fmt::Display>) {
        let words: Vec<String> = values
            .into_iter()
            .map(|value| quoted(&value.to_string()))
            .collect();
        self.bare(key, format!("[{}]", words.join(", ")));
    }
}
