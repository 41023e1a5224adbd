//! Tenants and the plans that say what they may do.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::key::Override;
use crate::model::limit::Limits;
use crate::model::limit::Mode;
use crate::model::scope::ScopePattern;
use crate::model::scope::Scopes;

/// The public name of one organisation, sent to backends in the tenant header: 1 to 64 of `A-Z a-z 0-9 . _ -`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Checks and takes an id.
    ///
    /// # Errors
    /// A sentence fragment saying what is wrong.
    pub fn new(text: &str) -> Result<TenantId, &'static str> {
        let first_is_plain = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest_is_plain = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if text.is_empty() || text.len() > 64 {
            return Err("a tenant id has 1 to 64 characters");
        }
        if !first_is_plain || !rest_is_plain {
            return Err(
                "a tenant id begins with a letter or digit and holds only letters, digits and . _ -",
            );
        }
        Ok(TenantId(Arc::from(text)))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Who it is.
    pub id: TenantId,
    /// Display name; defaults to the id.
    pub name: String,
    /// Name of its plan, a table `[plans.NAME]` of gateway.toml.
    pub plan: String,
    /// What its keys may do at most (FA15); `Inherit` is all that the plan grants.
    pub scopes: Scopes,
    /// Its own quota instead of its plan's.
    pub quota: Override,
    /// Its own burst instead of its plan's.
    pub burst: Override,
    /// A suspended tenant's keys get 403.
    pub suspended: bool,
    /// Its own places by name of the upstream: one or more `http://host:port[/path]`, separated by spaces. Of the store alone; those of
    /// gateway.toml stand with the upstream.
    pub upstreams: BTreeMap<String, String>,
    /// Where it is declared.
    pub origin: Origin,
}

/// Where a tenant or key is declared: the place that may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// gateway.toml; the command line refuses to change it (revoking a key excepted).
    File,
    /// The store.
    Store,
}

/// What a tenant has bought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The table's name in gateway.toml.
    pub name: String,
    /// Quota and burst for each subject.
    pub limits: Limits,
    /// Scopes that the plan lets a key use.
    pub scopes: Vec<ScopePattern>,
    /// Whether keys may call the API at all; `false` answers 403 to valid keys (CW3).
    pub api_access: bool,
    /// Whether its limits and scopes hold for its keys or are only observed.
    pub mode: Mode,
    /// Whether keys may list scopes of their own (FF10); `false` refuses that when a key is made.
    pub granular_scopes: bool,
}
