//! `[plans]`, `[[tenants]]`, `[[keys]]` and `[[key_defaults]]`: who may come in, and what for.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use toml::Spanned;

use crate::clock::Wall;
use crate::config::KeyDefault;
use crate::config::entries::Declared;
use crate::config::entries::Placed;
use crate::config::entries::Places;
use crate::config::entries::inner;
use crate::config::entries::label;
use crate::config::entries::scope_word;
use crate::config::entries::tenant_word;
use crate::config::file::Reader;
use crate::config::names;
use crate::config::settings;
use crate::config::values;
use crate::config::values::wrong;
use crate::model::binding;
use crate::model::binding::Binding;
use crate::model::binding::WebOrigin;
use crate::model::key::ApiKey;
use crate::model::key::KeyId;
use crate::model::key::KeyKind;
use crate::model::key::KeyStatus;
use crate::model::key::Override;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::model::scope::Scope;
use crate::model::scope::ScopePattern;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::model::tenant::Plan;
use crate::model::tenant::Tenant;
use crate::model::tenant::TenantId;

/// `[plans.NAME]`.
pub(in crate::config) fn plans(root: &mut Reader<'_>) -> Vec<Placed<Plan>> {
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
pub(in crate::config) fn tenants(
    root: &mut Reader<'_>,
    declared: &Declared<'_>,
) -> Vec<Placed<Tenant>> {
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
                upstreams: BTreeMap::new(),
                origin: Origin::File,
            },
            at,
        })
    });
    read.into_iter().flatten().collect()
}

/// `[[keys]]`.
pub(in crate::config) fn keys(
    root: &mut Reader<'_>,
    declared: &Declared<'_>,
) -> Vec<Placed<ApiKey>> {
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
pub(in crate::config) fn key_defaults(
    root: &mut Reader<'_>,
    declared: &Declared<'_>,
) -> Vec<KeyDefault> {
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

const SCOPES_HELP: &str =
    "write scopes = [\"leases:read\"], or scopes = \"inherit\" for all that tenant and plan grant";
