//! The tables that operators add: plans, tenants, keys, upstreams, hosts, routes; one function per kind.

use std::ops::Range;
use std::sync::Arc;

use aws_lc_rs::digest;
use toml::Spanned;

use crate::clock::Wall;
use crate::config::Errors;
use crate::config::Host;
use crate::config::HostHeader;
use crate::config::KeyDefault;
use crate::config::Upstream;
use crate::config::file::Names;
use crate::config::file::Reader;
use crate::config::names;
use crate::config::problem::Problem;
use crate::config::settings;
use crate::config::values;
use crate::config::values::Wrong;
use crate::config::values::wrong;
use crate::model::binding;
use crate::model::binding::Binding;
use crate::model::binding::WebOrigin;
use crate::model::key::ApiKey;
use crate::model::key::Environment;
use crate::model::key::KeyId;
use crate::model::key::KeyKind;
use crate::model::key::KeyStatus;
use crate::model::key::Override;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::model::scope::Scope;
use crate::model::scope::ScopePattern;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::model::tenant::Plan;
use crate::model::tenant::Tenant;
use crate::model::tenant::TenantId;

/// Something read, with the places that later checks point at.
pub(super) struct Placed<T> {
    /// What was read.
    pub(super) value: T,
    /// Where its parts stand.
    pub(super) at: Places,
}

/// Where the parts of an entry stand; empty for parts that it does not have, the table's header for those left out.
#[derive(Default)]
pub(super) struct Places {
    /// Its name, id or path.
    pub(super) name: Range<usize>,
    /// `quota` of a plan.
    pub(super) quota: Range<usize>,
    /// `burst` of a plan.
    pub(super) burst: Range<usize>,
    /// `digest` of a key.
    pub(super) digest: Range<usize>,
    /// `cost` of a route.
    pub(super) cost: Range<usize>,
    /// `environment` of an upstream, host or route.
    pub(super) environment: Range<usize>,
}

/// What the entries may refer to.
pub(super) struct Declared<'a> {
    /// Names of environments.
    pub(super) environments: Names<'a>,
    /// The same, in the order of the file.
    pub(super) environment_order: &'a [String],
    /// Names of plans.
    pub(super) plans: Names<'a>,
    /// Ids of tenants.
    pub(super) tenants: Names<'a>,
    /// Names of upstreams, sorted, so that a position is an index into `Config::upstreams`.
    pub(super) upstreams: Names<'a>,
}

impl Declared<'_> {
    fn environment(&self, table: &mut Reader<'_>) -> Environment {
        let name = table.reference("environment", &self.environments);
        let order = self.environment_order;
        let position = name.and_then(|name| order.iter().position(|known| *known == name));
        Environment(u8::try_from(position.unwrap_or(0)).unwrap_or(0))
    }
}

/// `[plans.NAME]`.
pub(super) fn plans(root: &mut Reader<'_>) -> Vec<Placed<Plan>> {
    root.named("plans", |table, name| {
        label(table, &name);
        let at = Places {
            name: name.span(),
            quota: table.place("quota").unwrap_or_default(),
            burst: table.place("burst").unwrap_or_default(),
            ..Places::default()
        };
        let limits = Limits {
            quota: limit(table, "quota", "100/hour"),
            burst: limit(table, "burst", "20/min"),
        };
        if !table.has("scopes") {
            table.missing(
                "scopes",
                "write what keys of this plan may do: scopes = [\"leases:read\", \"reports:*\"], or [\"*\"] for everything",
            );
        }
        let scopes = table.list("scopes", |text| scope_word(ScopePattern::new(text), text));
        let plan = Plan {
            name: (*name.get_ref()).to_owned(),
            limits,
            scopes: inner(scopes),
            api_access: table.flag("api_access", true),
            mode: settings::mode(table),
            granular_scopes: table.flag("granular_scopes", true),
        };
        Placed { value: plan, at }
    })
}

fn limit(table: &mut Reader<'_>, key: &'static str, example: &str) -> Option<Rate> {
    if !table.has(key) {
        table.missing(
            key,
            &format!("write {key} = \"{example}\", or {key} = \"unlimited\" if you mean no limit"),
        );
    }
    table.rate_or_unlimited(key).flatten()
}

/// `[[tenants]]`.
pub(super) fn tenants(root: &mut Reader<'_>, declared: &Declared<'_>) -> Vec<Placed<Tenant>> {
    let read = root.each("tenants", "tenants", |table| {
        let id = table.required("id", "write id = \"acme\"", |text| {
            tenant_word(TenantId::new(text), text)
        });
        let name = table.word("name", names::display_name);
        if !table.has("plan") {
            table.missing(
                "plan",
                "write plan = \"…\", the name of a table [plans.NAME]",
            );
        }
        let plan = table.reference("plan", &declared.plans);
        let suspended = table.flag("suspended", false);
        let scopes = match table.has("scopes") {
            true => listed_scopes(table),
            false => Scopes::Inherit,
        };
        let (quota, burst) = (own_limit(table, "quota"), own_limit(table, "burst"));
        let id = id?;
        let at = Places {
            name: id.span(),
            ..Places::default()
        };
        let id = id.into_inner();
        Some(Placed {
            value: Tenant {
                name: name.map_or_else(|| id.as_str().to_owned(), Spanned::into_inner),
                id,
                plan: plan.unwrap_or_default(),
                scopes,
                quota,
                burst,
                suspended,
                origin: Origin::File,
            },
            at,
        })
    });
    read.into_iter().flatten().collect()
}

/// `[[keys]]`.
pub(super) fn keys(root: &mut Reader<'_>, declared: &Declared<'_>) -> Vec<Placed<ApiKey>> {
    let read = root.each("keys", "keys", |table| key(table, declared));
    read.into_iter().flatten().collect()
}

fn key(table: &mut Reader<'_>, declared: &Declared<'_>) -> Option<Placed<ApiKey>> {
    if let Some(place) = table.place("digest").filter(|_| table.has("digest")) {
        table.notes().hide(place);
    }
    let digest = table.required(
        "digest",
        "write digest = \"sha256:…\": printf %s \"$KEY\" | sha256sum",
        values::digest,
    );
    if !table.has("tenant") {
        table.missing(
            "tenant",
            "write tenant = \"…\": a key belongs to exactly one tenant",
        );
    }
    let tenant = table.reference("tenant", &declared.tenants);
    let name = table.required(
        "name",
        "write name = \"…\", unique within the tenant",
        names::display_name,
    );
    let scopes = key_scopes(table);
    let plan = table.reference("plan", &declared.plans);
    let (quota, burst) = (own_limit(table, "quota"), own_limit(table, "burst"));
    let environment = declared.environment(table);
    let kinds = [("secret", KeyKind::Secret), ("public", KeyKind::Public)];
    let kind = table.choice("kind", KeyKind::Secret, &kinds);
    let expires = table.word("expires", values::expiry);
    let binding = binding(table);
    let note = table.word("note", |text| Ok(text.to_owned()));
    let (digest, name) = (digest?, name?);
    let tenant = TenantId::new(&tenant?).ok()?;
    Some(Placed {
        at: Places {
            name: name.span(),
            digest: digest.span(),
            ..Places::default()
        },
        value: ApiKey {
            id: key_id(&tenant, name.get_ref()),
            digest: digest.into_inner(),
            name: name.into_inner(),
            kind,
            environment: declared.environment_order[usize::from(environment.0)].clone(),
            tenant,
            plan,
            quota,
            burst,
            scopes,
            created: Wall::default(),
            expires: expires.and_then(Spanned::into_inner),
            status: KeyStatus::Active,
            prefix: String::new(),
            last_four: String::new(),
            binding,
            note: note.map(Spanned::into_inner),
            origin: Origin::File,
        },
    })
}

/// `[[key_defaults]]`.
pub(super) fn key_defaults(root: &mut Reader<'_>, declared: &Declared<'_>) -> Vec<KeyDefault> {
    root.each("key_defaults", "key_defaults", |table| {
        let kinds = [
            ("secret", Some(KeyKind::Secret)),
            ("public", Some(KeyKind::Public)),
        ];
        KeyDefault {
            kind: table.choice("kind", None, &kinds),
            environment: table.reference("environment", &declared.environments),
            scopes: key_scopes(table),
        }
    })
}

/// The id of a declared key follows from its tenant and name, not from its digest: it says nothing of the key, and a new
/// digest under the same name keeps id, counters and usage.
fn key_id(tenant: &TenantId, name: &str) -> KeyId {
    const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let text = format!("portcullis declared key\0{}\0{name}", tenant.as_str());
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut id = [b'0'; 12];
    for (place, byte) in id.iter_mut().zip(hash.as_ref()) {
        *place = BASE62[usize::from(*byte) % 62];
    }
    KeyId(id)
}

fn key_scopes(table: &mut Reader<'_>) -> Scopes {
    if !table.has("scopes") {
        table.missing("scopes", SCOPES_HELP);
    }
    listed_scopes(table)
}

fn listed_scopes(table: &mut Reader<'_>) -> Scopes {
    if table.is_text("scopes") {
        table.word("scopes", |text| match text {
            "inherit" => Ok(()),
            _ => wrong(format!("\"{text}\" is no list of scopes"), SCOPES_HELP),
        });
        return Scopes::Inherit;
    }
    let listed = table.list("scopes", |text| scope_word(Scope::new(text), text));
    Scopes::Listed(inner(listed).into())
}

fn binding(table: &mut Reader<'_>) -> Binding {
    let subject = table.word("subject", |text| {
        binding::subject(text).or_else(|why| wrong(format!("\"{text}\" is not a subject"), why))
    });
    let origins = table.list("origins", |text| {
        WebOrigin::parse(text).or_else(|why| wrong(format!("\"{text}\" is not an origin"), why))
    });
    let cidrs = table.list("cidrs", |text| {
        binding::network(text).or_else(|why| wrong(format!("\"{text}\" is not a network"), why))
    });
    Binding {
        subject: subject.map(Spanned::into_inner),
        origins: inner(origins),
        cidrs: inner(cidrs),
    }
}

fn own_limit(table: &mut Reader<'_>, key: &'static str) -> Override {
    match table.rate_or_unlimited(key) {
        None => Override::Plan,
        Some(None) => Override::Unlimited,
        Some(Some(rate)) => Override::Rate(rate),
    }
}

/// `[upstreams.NAME]`.
pub(super) fn upstreams(
    root: &mut Reader<'_>,
    declared: &Declared<'_>,
) -> Vec<Placed<Arc<Upstream>>> {
    root.named("upstreams", |table, name| {
        label(table, &name);
        let servers = inner(table.list("servers", names::server));
        if servers.is_empty() && table.list_is_empty("servers") {
            table.missing("servers", "write servers = [\"http://127.0.0.1:3000\"]");
        }
        let at = Places {
            name: name.span(),
            environment: table.place("environment").unwrap_or_default(),
            ..Places::default()
        };
        let host_header = table.word("host_header", names::host_header);
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
        };
        Placed {
            value: Arc::new(upstream),
            at,
        }
    })
}

/// `[[hosts]]`. What a host leaves out is as in `[errors]`.
pub(super) fn hosts(
    root: &mut Reader<'_>,
    declared: &Declared<'_>,
    errors: Errors,
) -> Vec<Placed<Host>> {
    let read = root.each("hosts", "hosts", |table| {
        let help = "write name = \"api.example.com\"";
        let name = table.required("name", help, names::host_pattern);
        let errors = settings::errors(table, "hosts.errors", errors);
        let place = table.place("environment").unwrap_or_default();
        let environment = declared.environment(table);
        let name = name?;
        Some(Placed {
            at: Places {
                name: name.span(),
                environment: place,
                ..Places::default()
            },
            value: Host {
                name: name.into_inner(),
                errors,
                environment,
            },
        })
    });
    read.into_iter().flatten().collect()
}

/// `[[routes]]`.
pub(super) fn routes(root: &mut Reader<'_>, declared: &Declared<'_>) -> Vec<Placed<Arc<Route>>> {
    let read = root.each("routes", "routes", |table| route(table, declared));
    read.into_iter().flatten().collect()
}

fn route(table: &mut Reader<'_>, declared: &Declared<'_>) -> Option<Placed<Arc<Route>>> {
    let path = table.required(
        "path",
        "write path = \"/leases/{*rest}\"",
        names::route_path,
    );
    let host = table.word("host", names::host_pattern);
    let methods = table.list("methods", names::method);
    let access = access(table);
    if !table.has("upstream") {
        table.missing(
            "upstream",
            "write upstream = \"…\", the name of a table [upstreams.NAME]",
        );
    }
    let upstream = table.reference("upstream", &declared.upstreams);
    let position = upstream.and_then(|name| {
        declared
            .upstreams
            .all
            .iter()
            .position(|known| *known == name)
    });
    let mut at = Places {
        cost: table.place("cost").unwrap_or_default(),
        environment: table.place("environment").unwrap_or_default(),
        ..Places::default()
    };
    let cost = table.number("cost", 1, 1, 1_000_000);
    let environment = declared.environment(table);
    let body_bytes_max = table.size_or_unlimited("body_bytes_max", settings::BODY_MAX);
    let total_timeout = table.word("total_timeout", |text| {
        values::bounded(text, TOTAL, values::duration)
    });
    let raw_path = table.flag("raw_path", false);
    let origins = inner(table.list("origins", names::web_origin));
    let mode = settings::mode(table);
    let path = path?;
    at.name = path.span();
    Some(Placed {
        at,
        value: Arc::new(Route {
            path: path.into_inner(),
            host: host.map(Spanned::into_inner),
            methods: inner(methods),
            access: access?,
            upstream: position.unwrap_or(0),
            cost,
            environment,
            body_bytes_max,
            total_timeout: total_timeout.map(Spanned::into_inner),
            raw_path,
            origins,
            mode,
        }),
    })
}

/// Who may use a route must be said, by exactly one of `scope` and `access`.
fn access(table: &mut Reader<'_>) -> Option<Access> {
    let scope = table.word("scope", |text| scope_word(Scope::new(text), text));
    let access = table.word("access", |text| match text {
        "any-key" => Ok(Access::AnyKey),
        "public" => Ok(Access::Public),
        _ => wrong(
            format!("\"{text}\" is no kind of access"),
            "choose \"any-key\" or \"public\", or demand a scope instead: scope = \"leases:read\"",
        ),
    });
    let what = match (table.has("scope"), table.has("access")) {
        (false, false) => "does not say who may use it",
        (true, true) => "says twice who may use it",
        _ => {
            return access
                .map(Spanned::into_inner)
                .or(scope.map(|scope| Access::Scope(scope.into_inner())));
        }
    };
    table.notes().error(Problem::context(
        table.header(),
        format!("{} {what}", table.title()),
        "write one of: scope = \"leases:read\", access = \"any-key\", access = \"public\"",
    ));
    Some(Access::AnyKey)
}

fn label(table: &Reader<'_>, name: &Spanned<&str>) {
    if let Err(wrong) = names::label(name.get_ref()) {
        table.refuse(name.span(), "name", wrong);
    }
}

fn scope_word<T>(read: Result<T, &'static str>, text: &str) -> Result<T, Wrong> {
    read.or_else(|why| wrong(format!("\"{text}\" is not a scope"), why))
}

fn tenant_word<T>(read: Result<T, &'static str>, text: &str) -> Result<T, Wrong> {
    read.or_else(|why| wrong(format!("\"{text}\" is not a tenant id"), why))
}

fn inner<T>(list: Option<Vec<Spanned<T>>>) -> Vec<T> {
    list.into_iter()
        .flatten()
        .map(Spanned::into_inner)
        .collect()
}

const SCOPES_HELP: &str =
    "write scopes = [\"leases:read\"], or scopes = \"inherit\" for all that tenant and plan grant";

/// Bounds of `total_timeout`, in upstreams and routes.
const TOTAL: (&str, &str) = ("10ms", "24h");
