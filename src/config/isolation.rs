//! Whether what an upstream says of isolation is true of its table and of the routes that lead to it (FM13).

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Upstream;
use crate::config::UpstreamServer;
use crate::config::check::Entries;
use crate::config::entries::Placed;
use crate::config::file::Reader;
use crate::config::problem::Notes;
use crate::config::problem::Problem;
use crate::config::values::Wrong;
use crate::config::values::listed;
use crate::model::isolation::Isolation;
use crate::model::isolation::PathPrefix;
use crate::model::limit::Mode;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::model::route::bind::Bindings;
use crate::model::route::bind::Whom;
use crate::model::route::reference::Reference;

/// What the table of an upstream says must fit together.
pub(super) fn stated(table: &Reader<'_>, upstream: &Upstream) {
    let refuse = |key: &'static str, what: String, help: &str| {
        let at = table.place(key).unwrap_or_default();
        let help = help.to_owned();
        table.refuse(at, key, Wrong { what, help });
    };
    let acknowledged = upstream.every_tenant_sees_all_data;
    match upstream.isolation {
        Isolation::None if !acknowledged => refuse(
            "isolation",
            "\"none\" lets every tenant see the data of all".to_owned(),
            "state what keeps tenants apart (\"physical\", \"header\", \"path\", \"guard\"), or, if that is meant, write every_tenant_sees_all_data = true too",
        ),
        Isolation::None => {}
        _ if acknowledged => refuse(
            "every_tenant_sees_all_data",
            "this is true of isolation = \"none\" alone".to_owned(),
            "take it out",
        ),
        Isolation::Physical => {
            if !table.has("tenants") && !names_tenant(upstream) {
                refuse(
                    "isolation",
                    "\"physical\" does not say where each tenant is".to_owned(),
                    "write tenants = { acme = \"http://127.0.0.1:3001\" }, or tenants = {} if the store says it (portcullis tenants update --upstream), or path_prefix = \"/t/{tenant}\"",
                );
            }
            shared(table, upstream);
        }
        _ => {}
    }
    if table.has("tenants") && upstream.isolation != Isolation::Physical {
        refuse(
            "tenants",
            "tenants have places of their own here, and isolation does not say so".to_owned(),
            "write isolation = \"physical\"",
        );
    }
}

/// Two tenants in one place are not apart.
fn shared(table: &Reader<'_>, upstream: &Upstream) {
    let mut taken: HashMap<(&UpstreamServer, String), &str> = HashMap::new();
    for (tenant, place) in &upstream.tenants {
        let tenant = tenant.as_str();
        let path = prefix_of(place.prefix.as_ref(), tenant);
        for server in &place.servers {
            if let Some(other) = taken.insert((server, path.clone()), tenant)
                && other != tenant
            {
                let what = format!("\"{other}\" and \"{tenant}\" have the same place");
                let help = "give each a server, a port or a path of its own".to_owned();
                let at = table.place("tenants").unwrap_or_default();
                table.refuse(at, "tenants", Wrong { what, help });
            }
        }
    }
}

fn prefix_of(prefix: Option<&PathPrefix>, tenant: &str) -> String {
    prefix
        .and_then(|prefix| prefix.of(Some(tenant)))
        .unwrap_or_default()
}

fn names_tenant(upstream: &Upstream) -> bool {
    let prefix = upstream.path_prefix.as_ref();
    prefix.is_some_and(PathPrefix::names_tenant)
}

/// What the routes to each upstream must have for its isolation to be true.
pub(super) fn routes(all: &Entries, notes: &Notes) {
    for route in &all.routes {
        if let Some(upstream) = all.upstreams.get(route.value.upstream) {
            one(route, upstream, notes);
        }
    }
}

fn one(route: &Placed<Arc<Route>>, upstream: &Placed<Arc<Upstream>>, notes: &Notes) {
    let report = |what: String, help: &str| {
        let problem = Problem::context(Some(route.at.name.clone()), what, help);
        let label = "the upstream says so here";
        let at = Some(&upstream.at.isolation).filter(|at| !at.is_empty());
        notes.error(match at {
            Some(at) => problem.beside(at.clone(), label),
            None => problem,
        });
    };
    let name = &upstream.value.name;
    let bindings = route.value.bindings.as_ref();
    let apart = upstream.value.isolation == Isolation::Physical || names_tenant(&upstream.value);
    if route.value.raw_path && (apart || bindings.is_some()) {
        report(
            "[[routes]] raw_path: an ambiguous path could lead to another tenant's part".to_owned(),
            "take raw_path out, or what ties this route to its caller",
        );
    }
    if route.value.access == Access::Public {
        if bindings.is_some() {
            report(
                "[[routes]] bind: a public route has no caller".to_owned(),
                "demand a key: access = \"any-key\" or a scope; or take the binding out",
            );
        }
        let shared = !upstream.value.servers.is_empty() && !names_tenant(&upstream.value);
        if apart && !shared {
            report(
                format!(
                    "[[routes]] access: upstream \"{name}\" has nothing that belongs to no tenant"
                ),
                "demand a key, or give the upstream servers for what is public",
            );
        }
        return;
    }
    let holds = match upstream.value.isolation {
        Isolation::Path => {
            names_tenant(&upstream.value)
                || bindings.is_some_and(|bindings| bindings.names_tenant())
        }
        Isolation::Guard => guarded(&route.value),
        _ => true,
    };
    lookups(route, &upstream.value, report);
    if !holds {
        let help = match upstream.value.isolation {
            Isolation::Guard => "put the response guard on this route",
            _ => {
                "bind a part of the request to the tenant: bind = { org = \"tenant\" }, bind_query, bind_host or set_query; or give the upstream path_prefix = \"/t/{tenant}\""
            }
        };
        let isolation = upstream.value.isolation.as_str();
        report(
            format!(
                "[[routes]] path: upstream \"{name}\" has isolation \"{isolation}\", and nothing holds this route to it"
            ),
            help,
        );
    }
}

/// A lookup that finds everybody's things tells nobody's apart.
fn lookups(route: &Placed<Arc<Route>>, upstream: &Upstream, report: impl Fn(String, &str)) {
    let Some(references) = &route.value.references else {
        return;
    };
    let name = &upstream.name;
    if upstream.isolation == Isolation::None {
        return report(
            format!(
                "[[routes]] references: upstream \"{name}\" shows every tenant the data of all, so that a lookup finds everything"
            ),
            "take references out, or state what keeps tenants apart",
        );
    }
    let bindings = route.value.bindings.as_deref();
    // The host and the query go along; the path of a lookup is its own.
    let goes_along = |bindings: &Bindings| {
        let query = bindings.query.iter().chain(&bindings.set_query);
        let mut all = query.map(|bound| bound.whom).chain(bindings.host);
        all.any(|whom| whom == Whom::Tenant)
    };
    let told = names_tenant(upstream) || bindings.is_some_and(goes_along);
    let lost = |one: &&Reference| !told && !one.place.names_tenant();
    if let Some(one) = references.members.iter().find(lost)
        && upstream.isolation == Isolation::Path
    {
        report(
            format!(
                "[[routes]] references: upstream \"{name}\" tells tenants apart by the path, and that of \"{}\" names none",
                one.member
            ),
            "write {tenant} where the caller's tenant stands, such as \"/orgs/{tenant}/estates/{}\"",
        );
    }
}

/// Whether another tenant's data in the route's answers is kept from the client.
fn guarded(route: &Route) -> bool {
    let guard = route.guard.as_ref();
    guard.is_some_and(|guard| {
        guard.mode == Mode::Enforce && guard.answers.iter().any(|member| member.watch)
    })
}

/// Keyed routes that lead where nobody has said what keeps tenants apart, and declared tenants without a place.
pub(super) fn doubts(all: &Entries, notes: &Notes) {
    for (index, upstream) in all.upstreams.iter().enumerate() {
        let keyed = |route: &Placed<Arc<Route>>| {
            route.value.upstream == index && route.value.access != Access::Public
        };
        if !all.routes.iter().any(keyed) {
            continue;
        }
        let (name, at) = (&upstream.value.name, Some(upstream.at.name.clone()));
        if upstream.value.isolation == Isolation::Unstated {
            notes.warn(Problem::context(
                at,
                format!("upstream \"{name}\" does not state what keeps tenants apart"),
                "write isolation = \"header\" if the backend filters by the tenant header; else \"physical\", \"path\" or \"guard\"",
            ));
            continue;
        }
        let nowhere = |tenant: &&str| {
            upstream.value.isolation == Isolation::Physical
                && !names_tenant(&upstream.value)
                && !(upstream.value.tenants.keys()).any(|there| there.as_str() == *tenant)
        };
        let tenants = all.tenants.iter().map(|tenant| tenant.value.id.as_str());
        let without: Vec<&str> = tenants.filter(nowhere).collect();
        if !without.is_empty() {
            notes.warn(Problem::context(
                at,
                format!(
                    "upstream \"{name}\" has no place for tenant {}: its requests there get 503",
                    listed(&without)
                ),
                "add it to tenants",
            ));
        }
    }
}
