//! Where a tenant's requests to an upstream go: physical isolation, from gateway.toml and the store alike.

use std::sync::Arc;

use crate::config::Destination;
use crate::config::Upstream;
use crate::model::isolation::Isolation;
use crate::model::isolation::PathPrefix;
use crate::model::tenant::Tenant;
use crate::snapshot::Snapshot;
use crate::snapshot::TenantEntry;

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// To the upstream's own servers.
    Shared(&'a Upstream),
    /// To the tenant's.
    Own(&'a Arc<Destination>),
    /// To nobody: the upstream keeps tenants apart, and this one has no place there.
    Nowhere,
}

impl Place<'_> {
    /// What stands before the path of this tenant's requests; `None` where it wants a tenant and there is none.
    #[must_use]
    pub fn prefix(&self, tenant: Option<&TenantEntry>) -> Option<String> {
        let prefix = match self {
            Place::Shared(upstream) => upstream.path_prefix.as_ref(),
            Place::Own(place) => place.prefix.as_ref(),
            Place::Nowhere => return None,
        };
        match prefix {
            None => Some(String::new()),
            Some(prefix) => prefix.of(tenant.map(|tenant| tenant.id.as_str())),
        }
    }
}

impl Snapshot {
    /// Where a request of this tenant, or of nobody, to the upstream with this index goes. Another tenant's place is never an answer.
    #[must_use]
    pub fn place<'a>(&'a self, upstream: usize, tenant: Option<&'a TenantEntry>) -> Place<'a> {
        let shared = &*self.config.upstreams[upstream];
        let (Isolation::Physical, Some(tenant)) = (shared.isolation, tenant) else {
            return Place::Shared(shared);
        };
        let own = tenant.places.iter().find(|(index, _)| *index == upstream);
        match own {
            Some((_, place)) => Place::Own(place),
            None if is_template(shared) => Place::Shared(shared),
            None => Place::Nowhere,
        }
    }
}

fn is_template(upstream: &Upstream) -> bool {
    let prefix = upstream.path_prefix.as_ref();
    prefix.is_some_and(PathPrefix::names_tenant)
}

/// A tenant's own places by index of upstream. What gateway.toml says of an upstream beats what the store says of it.
pub(super) fn places(
    tenant: &Tenant,
    upstreams: &[Arc<Upstream>],
) -> Vec<(usize, Arc<Destination>)> {
    let physical = upstreams
        .iter()
        .enumerate()
        .filter(|(_, upstream)| upstream.isolation == Isolation::Physical);
    let of = |upstream: &Upstream| {
        if let Some(place) = upstream.tenants.get(&tenant.id) {
            return Some(Arc::clone(place));
        }
        let text = tenant.upstreams.get(&upstream.name)?;
        // The store took nothing that cannot be read; should it nevertheless hold it, the tenant has no place.
        let place = Destination::parse(text).ok()?;
        let secure = upstream.tls.is_some();
        // Nor anything in clear for an upstream whose table says TLS, be it since.
        let alike = place.servers.iter().all(|server| server.tls == secure);
        alike.then(|| Arc::new(place))
    };
    physical
        .filter_map(|(index, upstream)| Some((index, of(upstream)?)))
        .collect()
}
