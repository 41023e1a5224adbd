//! The tables that stand once.

use crate::config::AccessLog;
use crate::config::CertificateFiles;
use crate::config::Config;
use crate::config::Errors;
use crate::config::LimitSubject;
use crate::config::dump::keys::dump_scopes;
use crate::config::dump::writer::Writer;
use crate::config::dump::writer::kinds;
use crate::config::dump::writer::mode;
use crate::config::dump::writer::quoted;
use crate::config::dump::writer::rate;
use crate::config::values::show_duration;
use crate::config::values::show_size;
use crate::model::scope::Scope;
use crate::model::scope::ScopeRules;
use crate::refusal::Shape;

impl Config {
    pub(super) fn dump_edge(&self, out: &mut Writer) {
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

    pub(super) fn dump_gate(&self, out: &mut Writer) {
        self.dump_store(out);
        self.dump_credentials(out);
        self.dump_keys(out);
        self.dump_headers(out);
        self.dump_scope_rules(out);
        self.dump_answers(out);
        self.dump_alerts(out);
        self.dump_audit(out);
        self.dump_log(out);
    }

    fn dump_store(&self, out: &mut Writer) {
        out.table("[store]");
        let kind = if self.store.shared { "redis" } else { "sqlite" };
        out.text("kind", kind);
        out.path("path", &self.store.path);
        out.text("flush_interval", &show_duration(self.store.flush_interval));
        let strict = self.store.strict;
        out.text("durability", if strict { "strict" } else { "interval" });
        self.store.redis.dump(out);
    }

    fn dump_credentials(&self, out: &mut Writer) {
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
    }

    fn dump_keys(&self, out: &mut Writer) {
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
    }

    fn dump_headers(&self, out: &mut Writer) {
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
    }

    fn dump_scope_rules(&self, out: &mut Writer) {
        out.table("[scopes]");
        let superuser = self.scopes.superuser.iter();
        out.list("superuser", superuser.map(|scope| scope.as_str()));
        out.bare("implies", implies(&self.scopes));
    }

    fn dump_answers(&self, out: &mut Writer) {
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
    }

    fn dump_log(&self, out: &mut Writer) {
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
}

fn dump_certificate(out: &mut Writer, files: &CertificateFiles) {
    out.path("certificate", &files.certificate);
    out.path("private_key", &files.private_key);
}

pub(super) fn dump_errors(out: &mut Writer, prefix: &str, errors: Errors) {
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
