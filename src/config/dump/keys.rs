//! `[[keys]]`, and what tenants and defaults say in the same words.

use crate::config::dump::writer::Writer;
use crate::model::key::ApiKey;
use crate::model::key::KeyKind;
use crate::model::key::Override;
use crate::model::scope::Scopes;

pub(super) fn dump_key(out: &mut Writer, key: &ApiKey) {
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

pub(super) fn dump_scopes(out: &mut Writer, scopes: &Scopes) {
    match scopes {
        Scopes::Inherit => out.text("scopes", "inherit"),
        Scopes::Listed(scopes) => out.list("scopes", scopes.iter().map(|scope| scope.as_str())),
    }
}

pub(super) fn dump_own_limits(out: &mut Writer, quota: Override, burst: Override) {
    for (name, own) in [("quota", quota), ("burst", burst)] {
        match own {
            Override::Plan => {}
            Override::Unlimited => out.text(name, "unlimited"),
            Override::Rate(limit) => out.text(name, &limit.to_string()),
        }
    }
}
