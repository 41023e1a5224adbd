//! The tables that operators add: plans, tenants, keys, upstreams, hosts, routes; one function per kind.

use std::ops::Range;

use toml::Spanned;

use crate::config::file::Names;
use crate::config::file::Reader;
use crate::config::names;
use crate::config::values::Wrong;
use crate::config::values::wrong;
use crate::model::credential::Kinds;
use crate::model::key::Environment;

mod bindings;
mod care;
mod guards;
mod issuers;
mod references;
mod resources;
mod routes;
mod tenancy;
mod upstreams;

pub(super) use bindings::destination;
pub(super) use guards::guards;
pub(super) use guards::words as guard_words;
pub(super) use issuers::claim;
pub(super) use issuers::issuers;
pub(super) use issuers::listed_kinds;
pub(super) use resources::resources;
pub(super) use routes::hosts;
pub(super) use routes::routes;
pub(super) use tenancy::key_defaults;
pub(super) use tenancy::keys;
pub(super) use tenancy::plans;
pub(super) use tenancy::tenants;
pub(super) use upstreams::upstreams;

/// Something read, with the places that later checks point at.
pub(in crate::config) struct Placed<T> {
    /// What was read.
    pub(in crate::config) value: T,
    /// Where its parts stand.
    pub(in crate::config) at: Places,
}

/// Where the parts of an entry stand; empty for parts that it does not have, the table's header for those left out.
#[derive(Default)]
pub(in crate::config) struct Places {
    /// Its name, id or path.
    pub(in crate::config) name: Range<usize>,
    /// `quota` of a plan.
    pub(in crate::config) quota: Range<usize>,
    /// `burst` of a plan.
    pub(in crate::config) burst: Range<usize>,
    /// `digest` of a key.
    pub(in crate::config) digest: Range<usize>,
    /// `cost` of a route.
    pub(in crate::config) cost: Range<usize>,
    /// `environment` of an upstream, host or route.
    pub(in crate::config) environment: Range<usize>,
    /// `isolation` of an upstream.
    pub(in crate::config) isolation: Range<usize>,
    /// `credentials` of a route.
    pub(in crate::config) credentials: Range<usize>,
}

/// What the entries may refer to.
pub(in crate::config) struct Declared<'a> {
    /// Names of environments.
    pub(in crate::config) environments: Names<'a>,
    /// The same, in the order of the file.
    pub(in crate::config) environment_order: &'a [String],
    /// Names of plans.
    pub(in crate::config) plans: Names<'a>,
    /// Ids of tenants.
    pub(in crate::config) tenants: Names<'a>,
    /// Names of guards.
    pub(in crate::config) guards: Names<'a>,
    /// Names of upstreams, sorted, so that a position is an index into `Config::upstreams`.
    pub(in crate::config) upstreams: Names<'a>,
    /// What routes take that say nothing of credentials.
    pub(in crate::config) credentials: Kinds,
}

impl Declared<'_> {
    fn environment(&self, table: &mut Reader<'_>) -> Environment {
        let name = table.reference("environment", &self.environments);
        let order = self.environment_order;
        let position = name.and_then(|name| order.iter().position(|known| *known == name));
        Environment(u8::try_from(position.unwrap_or(0)).unwrap_or(0))
    }
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

/// Bounds of `total_timeout`, in upstreams and routes.
const TOTAL: (&str, &str) = ("10ms", "24h");
