//! Keys, tenants, tokens and what is denied, as lists show them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde::Serialize;

use crate::clock::Wall;
use crate::config::KeyLabels;
use crate::model::admin_token::AdminToken;
use crate::model::denial::Denial;
use crate::model::display;
use crate::model::key::ApiKey;
use crate::model::key::KeyStatus;
use crate::model::scope::Scope;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::model::tenant::Tenant;

/// A token of the admin plane as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminTokenView {
    /// `tok_…`.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// `full`, `read-only` or `tenant`.
    pub role: String,
    /// The one tenant that it is tied to.
    pub tenant: Option<String>,
    /// The last four characters of its text.
    pub last_four: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339; `None` is never.
    pub expires_at: Option<String>,
    /// `active`, `expired` or `revoked`.
    pub status: String,
}

impl AdminTokenView {
    /// How a token looks at this point of the wall clock.
    #[must_use]
    pub fn of(token: &AdminToken, now: Wall) -> AdminTokenView {
        AdminTokenView {
            id: token.id.clone(),
            name: display::shown(&token.name).into_owned(),
            role: token.role.as_str().to_owned(),
            tenant: token.role.tenant().map(|tenant| tenant.as_str().to_owned()),
            last_four: token.last_four.clone(),
            created_at: rfc3339(token.created),
            expires_at: token.expires.map(rfc3339),
            status: match (token.revoked, token.stands(now)) {
                (Some(_), _) => "revoked",
                (None, false) => "expired",
                (None, true) => "active",
            }
            .to_owned(),
        }
    }
}

/// A key as lists show it: never its text, never its digest (FA7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// `key_…`.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// `secret` or `public`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `live`, `test`, …
    pub environment: String,
    /// Whose.
    pub tenant: String,
    /// First word and last four characters, for example `fp_live_…9xYz`; `None` for keys of the file.
    pub key: Option<String>,
    /// Its own plan; `None` is the tenant's.
    pub plan: Option<String>,
    /// Its own quota.
    pub quota: Option<String>,
    /// Its own burst.
    pub burst: Option<String>,
    /// What it may do; `None` inherits.
    pub scopes: Option<Vec<String>>,
    /// RFC 3339, UTC, to the second; `None` for keys of the file.
    pub created_at: Option<String>,
    /// RFC 3339, UTC, to the second; `None` is never.
    pub expires_at: Option<String>,
    /// RFC 3339, UTC, to the second; `None` is never, or not known.
    pub last_used_at: Option<String>,
    /// `active`, `inactive`, `expired`, `revoked` (FA11), or `deleted`.
    pub status: String,
    /// What `[key_labels]` calls that (C-17).
    #[serde(default)]
    pub status_label: String,
    /// The end user that it acts for.
    #[serde(default)]
    pub subject: Option<String>,
    /// Browser origins it may be used from.
    #[serde(default)]
    pub origins: Vec<String>,
    /// Networks it may be used from; none is any.
    #[serde(default)]
    pub cidrs: Vec<String>,
    /// What the operator wrote beside it.
    #[serde(default)]
    pub note: Option<String>,
    /// `store` or `file`.
    pub declared_in: String,
}

/// The status of a key as people see it; expiry follows from the clock (FA11).
#[must_use]
pub fn status_word(key: &ApiKey, now: Wall) -> &'static str {
    match key.status {
        KeyStatus::Active if key.expires.is_some_and(|expires| now >= expires) => "expired",
        status => status.as_str(),
    }
}

impl KeyView {
    /// How a key looks at this point of the wall clock.
    #[must_use]
    pub fn of(key: &ApiKey, now: Wall, last_used: Option<Wall>, labels: &KeyLabels) -> KeyView {
        let status = status_word(key, now);
        KeyView {
            id: key.id.to_string(),
            name: display::shown(&key.name).into_owned(),
            kind: key.kind.as_str().to_owned(),
            environment: key.environment.clone(),
            tenant: key.tenant.as_str().to_owned(),
            key: (!key.last_four.is_empty()).then(|| format!("{}…{}", key.prefix, key.last_four)),
            plan: key.plan.clone(),
            quota: key.quota.text(),
            burst: key.burst.text(),
            scopes: scope_texts(&key.scopes),
            created_at: (key.created != Wall::default()).then(|| rfc3339(key.created)),
            expires_at: key.expires.map(rfc3339),
            last_used_at: last_used.map(rfc3339),
            status: status.to_owned(),
            status_label: labels.of(status).to_owned(),
            subject: key.binding.subject.as_deref().map(str::to_owned),
            origins: (key.binding.origins.iter())
                .map(ToString::to_string)
                .collect(),
            cidrs: key.binding.cidrs.iter().map(ToString::to_string).collect(),
            note: (key.note.as_deref()).map(|note| display::shown(note).into_owned()),
            declared_in: origin_word(key.origin).to_owned(),
        }
    }
}

/// A tenant as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantView {
    /// Who it is.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Its plan.
    pub plan: String,
    /// What its keys may do at most; `None` is all that its plan grants.
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
    /// Its own quota.
    #[serde(default)]
    pub quota: Option<String>,
    /// Its own burst.
    #[serde(default)]
    pub burst: Option<String>,
    /// Its own servers by name of the upstream.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub upstreams: BTreeMap<String, String>,
    /// `active` or `suspended`.
    pub status: String,
    /// `store` or `file`.
    pub declared_in: String,
}

impl TenantView {
    /// How a tenant looks.
    #[must_use]
    pub fn of(tenant: &Tenant) -> TenantView {
        TenantView {
            id: tenant.id.as_str().to_owned(),
            name: display::shown(&tenant.name).into_owned(),
            plan: tenant.plan.clone(),
            scopes: scope_texts(&tenant.scopes),
            quota: tenant.quota.text(),
            burst: tenant.burst.text(),
            upstreams: tenant.upstreams.clone(),
            status: if tenant.suspended {
                "suspended"
            } else {
                "active"
            }
            .to_owned(),
            declared_in: origin_word(tenant.origin).to_owned(),
        }
    }
}

/// An entry of what is denied, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialView {
    /// `jti`, `subject` or `client`.
    pub denied_by: String,
    /// Which.
    pub value: String,
    /// Of this issuer alone; `None` is of any.
    pub issuer: Option<String>,
    /// RFC 3339, UTC, to the second.
    pub created_at: String,
    /// RFC 3339, UTC, to the second; `None` is until it is taken back.
    pub expires_at: Option<String>,
    /// RFC 3339, UTC, to the second: only tokens issued until then; `None` is all.
    pub issued_until: Option<String>,
    /// What the operator wrote beside it.
    pub note: Option<String>,
}

impl DenialView {
    /// How an entry looks.
    #[must_use]
    pub fn of(denial: &Denial) -> DenialView {
        DenialView {
            denied_by: denial.by.as_str().to_owned(),
            value: denial.value.as_ref().to_owned(),
            issuer: denial.issuer.as_deref().map(str::to_owned),
            created_at: rfc3339(denial.created),
            expires_at: denial.expires.map(rfc3339),
            issued_until: denial.issued_until.map(rfc3339),
            note: denial.note.clone(),
        }
    }
}

/// A point of the wall clock as RFC 3339 in UTC, to the second.
#[must_use]
pub fn rfc3339(wall: Wall) -> String {
    let seconds = i64::try_from(wall.unix_seconds()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds)
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

fn scope_texts(scopes: &Scopes) -> Option<Vec<String>> {
    match scopes {
        Scopes::Inherit => None,
        Scopes::Listed(listed) => {
            let text = |scope: &Scope| scope.as_str().to_owned();
            Some(listed.iter().map(text).collect())
        }
    }
}

fn origin_word(origin: Origin) -> &'static str {
    match origin {
        Origin::File => "file",
        Origin::Store => "store",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc_to_the_second() {
        assert_eq!(rfc3339(Wall(1_770_000_000_900_000)), "2026-02-02T02:40:00Z");
        assert!(rfc3339(Wall(u64::MAX)).starts_with("9999-12-3"));
    }
}
