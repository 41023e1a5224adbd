//! The tables that stand once: one function per table, each key with its default and bounds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::path::PathBuf;

use http::HeaderName;
use http::Uri;
use toml::Spanned;
use toml::de::DeValue;

use crate::config::AccessLog;
use crate::config::AdminConfig;
use crate::config::AlertRules;
use crate::config::AuditRules;
use crate::config::Auth;
use crate::config::CertificateFiles;
use crate::config::Connections;
use crate::config::Errors;
use crate::config::Headers;
use crate::config::Http;
use crate::config::KeyFormat;
use crate::config::KeyLabels;
use crate::config::KeyRules;
use crate::config::LimitSubject;
use crate::config::LimitsConfig;
use crate::config::Listen;
use crate::config::Log;
use crate::config::Revocation;
use crate::config::Server;
use crate::config::Sessions;
use crate::config::SniCertificate;
use crate::config::StoreConfig;
use crate::config::Tls;
use crate::config::Tokens;
use crate::config::TrustedProxies;
use crate::config::Webhook;
use crate::config::check;
use crate::config::entries;
use crate::config::file::Reader;
use crate::config::names;
use crate::config::problem::Problem;
use crate::config::redis::Redis;
use crate::config::values::Wrong;
use crate::config::values::wrong;
use crate::model::binding;
use crate::model::credential::Kinds;
use crate::model::key::Lifetime;
use crate::model::limit::Mode;
use crate::model::limit::Rate;
use crate::model::scope::Scope;
use crate::model::scope::ScopeRules;
use crate::refusal::Shape;

/// `environments`: 1 to 16 names; the first is the default of hosts, routes, upstreams and keys.
pub(super) fn environments(root: &mut Reader<'_>) -> Vec<String> {
    let place = root.place("environments");
    let Some(names) = root.list("environments", names::key_word) else {
        return vec!["live".into(), "test".into()];
    };
    if !(1..=16).contains(&names.len()) {
        root.notes().error(Problem::context(
            place,
            format!("environments: {} names", names.len()),
            "1 to 16 names; leave it out for [\"live\", \"test\"]",
        ));
        return vec!["live".into()];
    }
    names.into_iter().map(Spanned::into_inner).collect()
}

/// `[listen]`. The admin socket stands in the store's directory unless it is given.
pub(super) fn listen(root: &mut Reader<'_>, base: &Path, store: &Path) -> Listen {
    root.table("listen", "listen", |table| {
        let https = addresses(table, "https", "0.0.0.0:8443");
        let http = addresses(table, "http", "0.0.0.0:8080");
        let admin = admin(table);
        if https.is_empty() && table.list_is_empty("https") {
            table.notes().error(Problem::context(
                table.place("https"),
                "[listen] https: no address to serve on",
                "write https = [\"0.0.0.0:8443\"], or leave it out for just that",
            ));
        }
        let named = |name| move |address: &Spanned<SocketAddr>| (name, address.clone());
        let all: Vec<_> = (https.iter().map(named("https")))
            .chain(http.iter().map(named("http")))
            .chain(admin.iter().map(named("admin")))
            .collect();
        check::listeners(&all, table.notes());
        Listen {
            https: https.into_iter().map(Spanned::into_inner).collect(),
            http: http.into_iter().map(Spanned::into_inner).collect(),
            admin: admin.map(Spanned::into_inner),
            admin_socket: admin_socket(table, base, store),
        }
    })
}

fn addresses(table: &mut Reader<'_>, key: &'static str, default: &str) -> Vec<Spanned<SocketAddr>> {
    let place = table.header().unwrap_or_default();
    let default = || names::socket_address(default).map(|address| Spanned::new(place, address));
    match table.list(key, names::socket_address) {
        Some(list) => list,
        None => default().into_iter().collect(),
    }
}

fn admin(table: &mut Reader<'_>) -> Option<Spanned<SocketAddr>> {
    let place = table.header().unwrap_or_default();
    let admin = table.word("admin", |text| match text {
        "" => Ok(None),
        text => names::socket_address(text).map(Some),
    });
    match admin {
        Some(admin) => {
            let place = admin.span();
            admin
                .into_inner()
                .map(|address| Spanned::new(place, address))
        }
        None => {
            let default = names::socket_address("127.0.0.1:9600").ok()?;
            Some(Spanned::new(place, default))
        }
    }
}

fn admin_socket(table: &mut Reader<'_>, base: &Path, store: &Path) -> PathBuf {
    let given = table.word("admin_socket", |text| match text {
        "" => Ok(store.join("admin.sock")),
        text => path(base, text),
    });
    let socket = given.map_or_else(|| store.join("admin.sock"), Spanned::into_inner);
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        table.notes().error(Problem::context(
            table.place("admin_socket"),
            format!(
                "[listen] admin_socket: {} is too long for a socket",
                socket.display()
            ),
            format!(
                "at most {SOCKET_PATH_MAX} bytes: admin_socket = \"/run/portcullis/admin.sock\""
            ),
        ));
    }
    socket
}

/// `[admin]`.
pub(super) fn admin_names(root: &mut Reader<'_>) -> AdminConfig {
    root.table("admin", "admin", |table| AdminConfig {
        hosts: (table.list("hosts", names::host_name).into_iter().flatten())
            .map(Spanned::into_inner)
            .collect(),
    })
}

/// `[server]`.
pub(super) fn server(root: &mut Reader<'_>) -> Server {
    root.table("server", "server", |table| Server {
        workers: table.number("workers", 0, 0, 256) as usize,
        drain_timeout: table.duration("drain_timeout", "30s", ("0s", "1h")),
        drain_delay: table.duration("drain_delay", "0s", ("0s", "5min")),
    })
}

/// `[connections]`.
pub(super) fn connections(root: &mut Reader<'_>) -> Connections {
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
pub(super) fn trusted_proxies(root: &mut Reader<'_>) -> TrustedProxies {
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
pub(super) fn http(root: &mut Reader<'_>) -> Http {
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

/// `[tls]`. The files are not opened here.
pub(super) fn tls(root: &mut Reader<'_>, base: &Path) -> Tls {
    if !root.has("tls") {
        root.notes().error(Problem::context(
            None,
            "[tls] is missing: there is no HTTPS without a certificate",
            "write [tls] with certificate = \"cert.pem\" and private_key = \"key.pem\"",
        ));
    }
    root.table("tls", "tls", |table| {
        let missing = table.header().is_some();
        let default = certificate(table, base, missing).unwrap_or_else(|| CertificateFiles {
            certificate: PathBuf::new(),
            private_key: PathBuf::new(),
        });
        let allow_tls12 = table.choice("min_version", true, &[("1.2", true), ("1.3", false)]);
        let sni = table.each("sni", "tls.sni", |table| {
            let hosts = table.list("hosts", names::host_pattern).unwrap_or_default();
            if hosts.is_empty() {
                table.missing("hosts", "write hosts = [\"api.example.com\"]");
            }
            let files = certificate(table, base, true)?;
            let hosts = hosts.into_iter().map(Spanned::into_inner).collect();
            Some(SniCertificate { hosts, files })
        });
        Tls {
            default,
            sni: sni.into_iter().flatten().collect(),
            allow_tls12,
        }
    })
}

fn certificate(
    table: &mut Reader<'_>,
    base: &Path,
    note_missing: bool,
) -> Option<CertificateFiles> {
    let mut file = |key, help| match note_missing {
        true => table.required(key, help, |text| path(base, text)),
        false => table.word(key, |text| path(base, text)),
    };
    let certificate = file(
        "certificate",
        "write certificate = \"cert.pem\": the chain, leaf first",
    );
    let private_key = file("private_key", "write private_key = \"key.pem\"");
    Some(CertificateFiles {
        certificate: certificate?.into_inner(),
        private_key: private_key?.into_inner(),
    })
}

/// `[store]`.
pub(super) fn store(root: &mut Reader<'_>, base: &Path) -> StoreConfig {
    root.table("store", "store", |table| {
        let kind = table.word("kind", |text| match text {
            "sqlite" => Ok(false),
            "redis" => Ok(true),
            _ => wrong(
                format!("\"{text}\" is no kind of store"),
                "write kind = \"sqlite\", or \"redis\" where several nodes share keys and limits",
            ),
        });
        let shared = kind.is_some_and(Spanned::into_inner);
        let state = table.word("path", |text| path(base, text));
        let redis = Redis::read(table, base, shared);
        let strict = table.choice(
            "durability",
            false,
            &[("interval", false), ("strict", true)],
        );
        Redis::check_durability(table, shared, strict);
        StoreConfig {
            shared,
            redis,
            path: state.map_or_else(|| base.join("state"), Spanned::into_inner),
            flush_interval: table.duration("flush_interval", "1s", ("100ms", "1min")),
            strict,
        }
    })
}

/// `[auth]`.
pub(super) fn auth(root: &mut Reader<'_>) -> Auth {
    root.table("auth", "auth", |table| {
        let headers = table.list("headers", |text| match text.to_ascii_lowercase().as_str() {
            "authorization" => Ok(true),
            "x-api-key" => Ok(false),
            _ => wrong(
                format!("\"{text}\" is no place for a key"),
                "choose from \"authorization\" (Bearer) and \"x-api-key\"",
            ),
        });
        if table.has("headers") && table.list_is_empty("headers") {
            table.notes().error(Problem::context(
                table.place("headers"),
                "[auth] headers: nobody could present a key",
                "write headers = [\"authorization\", \"x-api-key\"], or one of them",
            ));
        }
        let query_parameter = table.word("query_parameter", |text| match text {
            "" => Ok(None),
            text => names::query_parameter(text).map(Some),
        });
        let takes = |bearer| match &headers {
            Some(headers) => headers.iter().any(|header| *header.get_ref() == bearer),
            None => true,
        };
        Auth {
            bearer: takes(true),
            x_api_key: takes(false),
            failures: table.rate_or_unlimited("failures").unwrap_or(FAILURES),
            realm: table
                .word("realm", names::realm)
                .map_or_else(|| "api".into(), Spanned::into_inner),
            pass_foreign_authorization: table.choice(
                "foreign_authorization",
                false,
                &[("refuse", false), ("pass", true)],
            ),
            query_parameter: query_parameter.and_then(Spanned::into_inner),
            credentials: entries::listed_kinds(table, "credentials").unwrap_or(Kinds::KEYS),
            refuse_secret_keys_in_browsers: table.choice(
                "secret_keys_in_browsers",
                false,
                &[("allow", false), ("refuse", true)],
            ),
        }
    })
}

/// `[tokens]`.
pub(super) fn tokens(root: &mut Reader<'_>) -> Tokens {
    root.table("tokens", "tokens", |table| Tokens {
        bytes_max: table.size("bytes_max", "8KiB", ("512B", "64KiB")),
        cached_max: table.number("cached_max", 10_000, 64, 1_000_000) as usize,
    })
}

/// `[sessions]`.
pub(super) fn sessions(root: &mut Reader<'_>) -> Sessions {
    root.table("sessions", "sessions", |table| {
        let cookie = table.word("cookie", |text| match text {
            "" => Ok(None),
            text => names::session_cookie(text).map(Some),
        });
        Sessions {
            cookie: cookie.and_then(Spanned::into_inner),
            age_max: table.duration("age_max", "24h", ("1min", "720h")),
            begins: entries::claim(table, "begins_claim", "iat"),
        }
    })
}

/// `[key_format]`.
pub(super) fn key_format(root: &mut Reader<'_>) -> KeyFormat {
    root.table("key_format", "key_format", |table| {
        let mut prefix = |key| {
            table
                .word(key, names::key_word)
                .map_or_else(|| "fp".into(), Spanned::into_inner)
        };
        KeyFormat {
            secret_prefix: prefix("secret_prefix"),
            public_prefix: prefix("public_prefix"),
        }
    })
}

/// `[scopes]`.
pub(super) fn scopes(root: &mut Reader<'_>) -> ScopeRules {
    root.table("scopes", "scopes", |table| ScopeRules {
        superuser: table
            .list("superuser", scope)
            .unwrap_or_default()
            .into_iter()
            .map(Spanned::into_inner)
            .collect(),
        implies: implies(table),
    })
}

fn scope(text: &str) -> Result<Scope, Wrong> {
    Scope::new(text).or_else(|why| wrong(format!("\"{text}\" is not a scope"), why))
}

/// `implies = { "leases:write" = ["leases:read"] }`: the names are the operator's, so no key of them is known beforehand.
fn implies(table: &mut Reader<'_>) -> BTreeMap<Scope, Vec<Scope>> {
    const HELP: &str = "write implies = { \"leases:write\" = [\"leases:read\"] }, or {} for none";
    let mut rules = BTreeMap::new();
    let Some(value) = table.ask("implies") else {
        return rules;
    };
    let Some(entries) = value.get_ref().as_table() else {
        table.refuse_kind(value, "implies", "a table of lists", HELP.into());
        return rules;
    };
    for (name, implied) in entries {
        let Some(list) = implied.get_ref().as_array() else {
            table.refuse_kind(implied, "implies", "a list of scopes", HELP.into());
            continue;
        };
        let texts = list.iter().map(|entry| match entry.get_ref() {
            DeValue::String(text) => (entry.span(), scope(text)),
            _ => (entry.span(), wrong("this is not a scope", HELP)),
        });
        let mut read = Vec::new();
        for (at, word) in std::iter::once((name.span(), scope(name.get_ref()))).chain(texts) {
            match word {
                Ok(word) => read.push(word),
                Err(wrong) => table.refuse(at, "implies", wrong),
            }
        }
        if !read.is_empty() {
            rules.insert(read.remove(0), read);
        }
    }
    rules
}

/// `mode` of the limits, a plan or a route.
pub(super) fn mode(table: &mut Reader<'_>) -> Mode {
    let words = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
    table.choice("mode", Mode::Enforce, &words)
}

/// `[key_rules]`.
pub(super) fn key_rules(root: &mut Reader<'_>) -> KeyRules {
    root.table("key_rules", "key_rules", |table| {
        let lifetime = |text: &str| {
            Lifetime::parse(text).or_else(|why| wrong(format!("\"{text}\" is not a lifetime"), why))
        };
        let allowed = table.list("allowed_expirations", lifetime);
        let max_ttl = table.word("max_ttl", |text| match text {
            "unlimited" => Ok(None),
            "never" => wrong("\"never\" is no longest lifetime", "write \"unlimited\""),
            text => lifetime(text).map(Some),
        });
        KeyRules {
            allowed_expirations: (allowed.into_iter().flatten())
                .map(Spanned::into_inner)
                .collect(),
            max_ttl: max_ttl.and_then(Spanned::into_inner),
            warn_never: table.flag("warn_never", true),
            allow_ungranted: table.choice(
                "ungranted_scopes",
                false,
                &[("refuse", false), ("allow", true)],
            ),
        }
    })
}

/// `[tenant_header]`, `[subject_header]` and `[headers]`.
pub(super) fn headers(root: &mut Reader<'_>) -> Headers {
    let tenant = root.table("tenant_header", "tenant_header", |table| {
        table.word("name", names::tenant_header).map_or_else(
            || HeaderName::from_static("x-tenant-id"),
            Spanned::into_inner,
        )
    });
    let subject = subject_header(root, &tenant);
    root.table("headers", "headers", |table| Headers {
        tenant,
        subject,
        keep_underscore: table.choice(
            "underscore_headers",
            false,
            &[("drop", false), ("keep", true)],
        ),
        remove: table
            .list("remove", names::header_name)
            .unwrap_or_default()
            .into_iter()
            .map(Spanned::into_inner)
            .collect(),
        forwarded: table.flag("forwarded", true),
    })
}

fn subject_header(root: &mut Reader<'_>, tenant: &HeaderName) -> Option<HeaderName> {
    root.table("subject_header", "subject_header", |table| {
        let name = table.word("name", |text| match text {
            "" => Ok(None),
            text => names::tenant_header(text).map(Some),
        });
        let (at, name) = name.map(|name| (name.span(), name.into_inner()))?;
        if name.as_ref() == Some(tenant) {
            let what = "[subject_header] name: the tenant has this header";
            let help = "choose another name, for example \"X-Subject-ID\"";
            table.notes().error(Problem::here(at, what, help));
        }
        name
    })
}

/// `[errors]`, and `errors` of a host, which starts from `default`.
pub(super) fn errors(parent: &mut Reader<'_>, kind: &'static str, default: Errors) -> Errors {
    parent.table("errors", kind, |table| Errors {
        shape: table.choice(
            "shape",
            default.shape,
            &[
                ("problem", Shape::Problem),
                ("nested", Shape::Nested),
                ("flat", Shape::Flat),
            ],
        ),
        name_permission: table.flag("name_permission", default.name_permission),
        foreign_is_forbidden: table.choice(
            "foreign",
            default.foreign_is_forbidden,
            &[("404", false), ("403", true)],
        ),
    })
}

/// `[limits]`.
pub(super) fn limits(root: &mut Reader<'_>) -> LimitsConfig {
    root.table("limits", "limits", |table| LimitsConfig {
        subject: table.choice(
            "subject",
            LimitSubject::Key,
            &[
                ("key", LimitSubject::Key),
                ("tenant", LimitSubject::Tenant),
                ("both", LimitSubject::Both),
            ],
        ),
        x_headers: table.flag("x_headers", true),
        ietf_headers: table.flag("ietf_headers", true),
        reset_as_delta: table.choice("reset", false, &[("unix", false), ("delta", true)]),
        mode: mode(table),
    })
}

/// `[key_labels]`.
pub(super) fn key_labels(root: &mut Reader<'_>) -> KeyLabels {
    root.table("key_labels", "key_labels", |table| {
        let mut label = |key| {
            table
                .word(key, names::display_name)
                .map_or_else(|| key.to_owned(), Spanned::into_inner)
        };
        KeyLabels {
            active: label("active"),
            inactive: label("inactive"),
            expired: label("expired"),
            revoked: label("revoked"),
            deleted: label("deleted"),
        }
    })
}

/// `[revocation]`.
pub(super) fn revocation(root: &mut Reader<'_>) -> Revocation {
    root.table("revocation", "revocation", |table| Revocation {
        abort_in_flight: table.choice("in_flight", true, &[("abort", true), ("finish", false)]),
        revoke_plaintext: table.choice("plaintext_key", false, &[("log", false), ("revoke", true)]),
    })
}

/// `[alerts]`.
pub(super) fn alerts(root: &mut Reader<'_>, base: &Path) -> AlertRules {
    root.table("alerts", "alerts", |table| {
        let webhook = table.word("webhook", |text| match text {
            "" => Ok(None),
            text => names::webhook(text).map(Some),
        });
        let mut file = |key| {
            let read = table.word(key, |text| match text {
                "" => Ok(None),
                text => path(base, text).map(Some),
            });
            read.and_then(Spanned::into_inner)
        };
        let (secret, ca) = (file("webhook_secret"), file("webhook_ca"));
        let place = table.place("webhook").or_else(|| table.place("webhook_secret"));
        let webhook = webhook.and_then(Spanned::into_inner);
        if webhook.is_some() != secret.is_some() {
            table.notes().error(Problem::context(
                place,
                "[alerts] webhook and webhook_secret go together",
                "write both, the secret being a file: echo whsec_$(openssl rand -base64 32) > webhook.secret; or neither",
            ));
        }
        let is_https = (webhook.as_ref()).is_some_and(|uri: &Uri| uri.scheme_str() == Some("https"));
        if ca.is_some() && !is_https {
            table.notes().error(Problem::context(
                table.place("webhook_ca"),
                "[alerts] webhook_ca is for a webhook over https:// alone",
                "write webhook = \"https://…\", or take webhook_ca out",
            ));
        }
        let unused_after = days(table, "unused_after", "90d");
        let key_expiry_before = days(table, "key_expiry_before", "14d");
        let certificate_expiry_before = days(table, "certificate_expiry_before", "14d");
        AlertRules {
            webhook: webhook.zip(secret).map(|(uri, secret)| Webhook { uri, secret, ca }),
            limit_percent: table.number("limit_percent", 80, 0, 100),
            error_rate_percent: table.number("error_rate_percent", 50, 0, 100),
            error_rate_requests: table.number("error_rate_requests", 20, 1, 1_000_000),
            unusual_factor: table.number("unusual_factor", 10, 0, 10_000),
            unusual_requests: table.number("unusual_requests", 100, 1, 1_000_000_000),
            unused_after,
            key_expiry_before,
            certificate_expiry_before,
        }
    })
}

/// `[audit]`.
pub(super) fn audit(root: &mut Reader<'_>) -> AuditRules {
    root.table("audit", "audit", |table| AuditRules {
        keep: days(table, "keep", "1100d"),
        lines_max: table.number("lines_max", 1_000_000, 1_000, 100_000_000),
    })
}

/// A span of days, or `never`.
fn days(table: &mut Reader<'_>, key: &'static str, default: &str) -> Option<Lifetime> {
    let read = table.word(key, span_of_days).map(Spanned::into_inner);
    read.or_else(|| Lifetime::parse(default).ok())
}

fn span_of_days(text: &str) -> Result<Lifetime, Wrong> {
    let span = match Lifetime::parse(text) {
        Ok(span) => span,
        Err(why) => return wrong(format!("\"{text}\" is not a span"), why),
    };
    let fits = |seconds| DAYS_SECONDS.contains(&seconds);
    match span.seconds.is_none_or(fits) {
        true => Ok(span),
        false => wrong(
            format!("\"{text}\" is out of bounds"),
            "write a value from \"1d\" to \"3650d\", or \"never\"",
        ),
    }
}

/// A day to ten years.
const DAYS_SECONDS: RangeInclusive<u64> = 86_400..=3_650 * 86_400;

/// `[log]`.
pub(super) fn log(root: &mut Reader<'_>, base: &Path) -> Log {
    root.table("log", "log", |table| {
        let access = table.word("access", |text| match (text, text.strip_prefix("file:")) {
            ("off", _) => Ok(AccessLog::Off),
            ("stdout", _) => Ok(AccessLog::Stdout),
            (_, Some(file)) => path(base, file).map(AccessLog::File),
            _ => wrong(
                format!("\"{text}\" is no place for access lines"),
                "choose \"stdout\", \"off\" or \"file:logs/access.log\"",
            ),
        });
        let levels = [
            ("error", tracing::Level::ERROR),
            ("warn", tracing::Level::WARN),
            ("info", tracing::Level::INFO),
            ("debug", tracing::Level::DEBUG),
            ("trace", tracing::Level::TRACE),
        ];
        Log {
            access: access.map_or(AccessLog::Stdout, Spanned::into_inner),
            queue_bytes_max: table.size("queue_bytes_max", "8MiB", ("64KiB", "1GiB")),
            level: table.choice("level", tracing::Level::INFO, &levels),
        }
    })
}

/// A path, relative to the directory of the file that names it.
pub(super) fn path(base: &Path, text: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() || text.contains('\0') {
        return wrong(
            "this is not a path",
            "write a path; a relative one begins at the directory of this file",
        );
    }
    Ok(base.join(text))
}

/// Unknown credentials of one source: five a second are no client that was set up with one wrong key, and find no key in an age.
const FAILURES: Option<Rate> = Some(Rate {
    count: 300,
    seconds: 60,
});

/// Longest path of a Unix socket, `sun_path` without its terminator.
const SOCKET_PATH_MAX: usize = 107;

/// Largest body limit that can be written; beyond it say `"unlimited"`.
pub(super) const BODY_MAX: &str = "1048576GiB";
