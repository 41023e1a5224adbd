//! Places of a tenant's own behind upstreams that keep tenants physically apart.

use crate::config::Destination;
use crate::config::Upstream;
use crate::model::isolation::Isolation;
use crate::model::tenant::Tenant;
use crate::store::outcome::Failure;
use crate::store::verbs::Scene;
use crate::store::verbs::find;

/// Gives a tenant servers of its own behind this upstream, or takes them away where the text is empty. Two tenants never share a place.
pub(super) fn set(
    scene: &Scene<'_>,
    tenant: &mut Tenant,
    upstream: &str,
    servers: &str,
) -> Result<(), Failure> {
    if servers.is_empty() {
        tenant.upstreams.remove(upstream);
        return Ok(());
    }
    let all = scene.declared.upstreams;
    let Some(there) = all.iter().find(|known| known.name == upstream) else {
        let names: Vec<&str> = all.iter().map(|known| known.name.as_str()).collect();
        return Err(Failure::refused(find::unknown(
            "upstream", upstream, &names,
        )));
    };
    if there.isolation != Isolation::Physical {
        return Err(Failure::refused(format!(
            "upstream {upstream} has no places for single tenants; write isolation = \"physical\" in [upstreams.{upstream}] of gateway.toml first"
        )));
    }
    let id = tenant.id.as_str();
    if there.tenants.contains_key(&tenant.id) {
        return Err(Failure::refused(format!(
            "gateway.toml says where tenant {id} is behind upstream {upstream}; change it there"
        )));
    }
    let place = Destination::parse(servers).map_err(Failure::refused)?;
    let secure = there.tls.is_some();
    if place.servers.iter().any(|server| server.tls != secure) {
        let (scheme, way_out) = match secure {
            true => ("https://", "make another upstream for servers in clear"),
            false => (
                "http://",
                "write tls = {} in its table of gateway.toml if all its servers speak TLS",
            ),
        };
        return Err(Failure::refused(format!(
            "the servers of upstream {upstream} are reached by {scheme} alone; {way_out}"
        )));
    }
    if let Some(other) = neighbour(scene, there, tenant, &place)? {
        return Err(Failure::refused(format!(
            "tenant {other} has that place behind upstream {upstream}; give {id} a server, a port or a path of its own"
        )));
    }
    tenant
        .upstreams
        .insert(upstream.to_owned(), place.texts().join(" "));
    Ok(())
}

/// Another tenant that has one of these servers with the same path.
fn neighbour(
    scene: &Scene<'_>,
    upstream: &Upstream,
    tenant: &Tenant,
    place: &Destination,
) -> Result<Option<String>, Failure> {
    let shares = |id: &str, theirs: &Destination| {
        let servers = &theirs.servers;
        prefix(theirs, id) == prefix(place, tenant.id.as_str())
            && servers.iter().any(|server| place.servers.contains(server))
    };
    let in_file = upstream
        .tenants
        .iter()
        .find(|(id, theirs)| shares(id.as_str(), theirs));
    if let Some((id, _)) = in_file {
        return Ok(Some(id.as_str().to_owned()));
    }
    let others = scene.stored_tenants()?.iter();
    let mut others = others.filter(|other| other.id != tenant.id);
    let found = others.find(|other| {
        let theirs = other.upstreams.get(&upstream.name);
        theirs
            .and_then(|text| Destination::parse(text).ok())
            .is_some_and(|theirs| shares(other.id.as_str(), &theirs))
    });
    Ok(found.map(|other| other.id.as_str().to_owned()))
}

fn prefix(place: &Destination, tenant: &str) -> Option<String> {
    place.prefix.as_ref()?.of(Some(tenant))
}
