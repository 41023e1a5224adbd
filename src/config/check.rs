//! Checks across tables: what each table allows but the file as a whole does not mean.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;

use crate::config::Auth;
use crate::config::Host;
use crate::config::Sessions;
use crate::config::Upstream;
use crate::config::entries::Placed;
use crate::config::isolation;
use crate::config::issuers;
use crate::config::problem::Notes;
use crate::config::problem::Problem;
use crate::model::guard::Guard;
use crate::model::issuer::Issuer;
use crate::model::key::ApiKey;
use crate::model::key::Override;
use crate::model::limit::Rate;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::model::route::RouteTable;
use crate::model::tenant::Plan;
use crate::model::tenant::Tenant;

/// All entries of the file.
pub(super) struct Entries {
    pub(super) plans: Vec<Placed<Plan>>,
    pub(super) tenants: Vec<Placed<Tenant>>,
    pub(super) keys: Vec<Placed<ApiKey>>,
    pub(super) upstreams: Vec<Placed<Arc<Upstream>>>,
    pub(super) hosts: Vec<Placed<Host>>,
    pub(super) routes: Vec<Placed<Arc<Route>>>,
    pub(super) guards: Vec<Placed<Arc<Guard>>>,
    pub(super) issuers: Vec<Placed<Arc<Issuer>>>,
    pub(super) auth: Auth,
    pub(super) sessions: Sessions,
}

/// Runs every check over the entries.
pub(super) fn entries(all: &Entries, environments: &[String], notes: &Notes) {
    duplicates(all, notes);
    equal_routes(&all.routes, notes);
    for route in &all.routes {
        affordable(route, all, notes);
        environment_fits(route, all, environments, notes);
    }
    isolation::routes(all, notes);
    issuers::routes(all, notes);
    // What nobody uses, or nobody may use, can only be told when all of it could be read.
    if !notes.has_errors() {
        unused(all, notes);
        isolation::doubts(all, notes);
        unused_guards(all, notes);
        issuers::unused(all, notes);
        ungranted(all, notes);
    }
}

fn duplicates(all: &Entries, notes: &Notes) {
    let tenants = all.tenants.iter().map(|t| (t.value.id.clone(), &t.at.name));
    let help = "a tenant id stands for one organisation: take one out or rename it";
    once(
        tenants,
        "[[tenants]] id: this tenant is declared twice",
        help,
        notes,
    );
    let digests = all.keys.iter().map(|k| (k.value.digest, &k.at.digest));
    let help = "one key has one digest and one tenant: take one out";
    once(
        digests,
        "[[keys]] digest: this key is declared twice",
        help,
        notes,
    );
    let keys = &all.keys;
    let names = keys
        .iter()
        .map(|k| ((k.value.tenant.clone(), k.value.name.clone()), &k.at.name));
    let help = "tenant and name make the key's id: choose another name";
    once(
        names,
        "[[keys]] name: the tenant has two keys of this name",
        help,
        notes,
    );
    let hosts = all.hosts.iter().map(|h| (h.value.name.clone(), &h.at.name));
    once(
        hosts,
        "[[hosts]] name: this host is declared twice",
        "take one out",
        notes,
    );
}

fn once<'a, T: Eq + Hash>(
    entries: impl Iterator<Item = (T, &'a Range<usize>)>,
    what: &str,
    help: &str,
    notes: &Notes,
) {
    let mut seen: HashMap<T, &Range<usize>> = HashMap::new();
    for (entry, place) in entries {
        if let Some(first) = seen.get(&entry) {
            let problem = Problem::here(place.clone(), what, help);
            notes.error(problem.beside((*first).clone(), "first declared here"));
        } else {
            seen.insert(entry, place);
        }
    }
}

/// Two routes must not match the same requests: which one served would be chance.
fn equal_routes(routes: &[Placed<Arc<Route>>], notes: &Notes) {
    let mut left: Vec<&Placed<Arc<Route>>> = routes.iter().collect();
    while let Some((one, other)) = conflict(&left) {
        let (first, second) = (one.min(other), one.max(other));
        let (Some(keep), Some(gone)) = (left.get(first), left.get(second)) else {
            return;
        };
        notes.error(
            Problem::here(
                gone.at.name.clone(),
                "[[routes]] path: matches the same requests as another route",
                "change the host, path or methods of one of them, or take it out",
            )
            .beside(keep.at.name.clone(), "the other route"),
        );
        left.remove(second);
    }
}

fn conflict(routes: &[&Placed<Arc<Route>>]) -> Option<(usize, usize)> {
    let routes: Vec<Arc<Route>> = routes.iter().map(|r| Arc::clone(&r.value)).collect();
    RouteTable::build(&routes).err()
}

/// A request that costs more than a window holds would never be admitted.
fn affordable(route: &Placed<Arc<Route>>, all: &Entries, notes: &Notes) {
    let cost = route.value.cost;
    if cost == 1 || route.value.access == Access::Public {
        return;
    }
    let too_small = |rate: &Rate| rate.count < cost;
    let report = |limit: Rate, owner: String, place: &Range<usize>| {
        let what = format!("[[routes]] cost: {cost} is more than {owner} ever allows");
        let help = "lower the cost or raise the limit; else such a request could never succeed";
        let label = format!("at most {} at once", limit.count);
        notes.error(Problem::here(route.at.cost.clone(), what, help).beside(place.clone(), label));
    };
    for plan in all
        .plans
        .iter()
        .filter(|plan| may_use(&plan.value, &route.value))
    {
        let limits = plan.value.limits;
        for (limit, place) in [
            (limits.quota, &plan.at.quota),
            (limits.burst, &plan.at.burst),
        ] {
            if let Some(limit) = limit.filter(too_small) {
                let owner = format!("{limit} of plan \"{}\"", plan.value.name);
                report(limit, owner, place);
            }
        }
    }
    for tenant in &all.tenants {
        for own in [tenant.value.quota, tenant.value.burst] {
            if let Override::Rate(limit) = own
                && too_small(&limit)
                && tenant_may_use(&tenant.value, &route.value, all)
            {
                let id = tenant.value.id.as_str();
                let owner = format!("{} of tenant \"{id}\"", limit);
                report(limit, owner, &tenant.at.name);
            }
        }
    }
    for key in &all.keys {
        for own in [key.value.quota, key.value.burst] {
            if let Override::Rate(limit) = own
                && too_small(&limit)
                && key_may_use(&key.value, &route.value, all)
            {
                let owner = format!("{limit} of key \"{}\"", key.value.name);
                report(limit, owner, &key.at.name);
            }
        }
    }
}

fn may_use(plan: &Plan, route: &Route) -> bool {
    plan.api_access
        && match &route.access {
            Access::Scope(scope) => plan.scopes.iter().any(|grant| grant.grants(scope)),
            Access::AnyKey | Access::Public => true,
        }
}

fn tenant_may_use(tenant: &Tenant, route: &Route, all: &Entries) -> bool {
    let plan = all.plans.iter().find(|p| p.value.name == tenant.plan);
    let covered = match &route.access {
        Access::Scope(scope) => tenant.scopes.cover(scope),
        Access::AnyKey | Access::Public => true,
    };
    covered && plan.is_some_and(|plan| may_use(&plan.value, route))
}

fn key_may_use(key: &ApiKey, route: &Route, all: &Entries) -> bool {
    let tenant = all.tenants.iter().find(|t| t.value.id == key.tenant);
    let plan_name = key.plan.as_ref().or(tenant.map(|t| &t.value.plan));
    let plan = all.plans.iter().find(|p| Some(&p.value.name) == plan_name);
    let covered = match &route.access {
        Access::Scope(scope) => key.scopes.cover(scope),
        Access::AnyKey | Access::Public => true,
    };
    covered && plan.is_some_and(|plan| may_use(&plan.value, route))
}

/// Route, host and upstream of different environments leave no key that fits all of them.
fn environment_fits(
    route: &Placed<Arc<Route>>,
    all: &Entries,
    environments: &[String],
    notes: &Notes,
) {
    if route.value.access == Access::Public {
        return;
    }
    let name = |index: u8| {
        environments
            .get(usize::from(index))
            .map_or("", String::as_str)
    };
    let report = |owner: String, environment: u8, place: &Range<usize>| {
        let mine = name(route.value.environment.0);
        let what = format!("[[routes]] environment: no key fits a \"{mine}\" route to {owner}");
        let help = format!(
            "set environment = \"{}\" here, or \"{mine}\" there",
            name(environment)
        );
        let label = format!("is for \"{}\" keys", name(environment));
        notes.error(
            Problem::context(Some(route.at.environment.clone()), what, help)
                .beside(place.clone(), label),
        );
    };
    if let Some(upstream) = all.upstreams.get(route.value.upstream)
        && upstream.value.environment != route.value.environment
    {
        let owner = format!("upstream \"{}\"", upstream.value.name);
        report(
            owner,
            upstream.value.environment.0,
            &upstream.at.environment,
        );
    }
    let host = |host: &&Placed<Host>| Some(&host.value.name) == route.value.host.as_ref();
    if let Some(host) = all.hosts.iter().find(host)
        && host.value.environment != route.value.environment
    {
        let owner = format!("host \"{}\"", host.value.name);
        report(owner, host.value.environment.0, &host.at.environment);
    }
}

fn unused(all: &Entries, notes: &Notes) {
    if all.routes.is_empty() {
        notes.warn(Problem::context(
            None,
            "no [[routes]]: every request will be answered 404 or 401",
            "add an [upstreams.NAME] and a [[routes]] table that leads to it",
        ));
    }
    for (index, upstream) in all.upstreams.iter().enumerate() {
        if all.routes.iter().all(|route| route.value.upstream != index) {
            notes.warn(Problem::context(
                Some(upstream.at.name.clone()),
                format!("no route leads to upstream \"{}\"", upstream.value.name),
                "add a [[routes]] table, or take the upstream out",
            ));
        }
    }
}

fn unused_guards(all: &Entries, notes: &Notes) {
    for guard in &all.guards {
        let names = |route: &Placed<Arc<Route>>| route.value.guard.as_ref() == Some(&guard.value);
        if !all.routes.iter().any(names) {
            notes.warn(Problem::context(
                Some(guard.at.name.clone()),
                format!("no route is guarded by \"{}\"", guard.value.name),
                "write guard = \"…\" in the [[routes]] that it is for, or take it out",
            ));
        }
    }
}

fn ungranted(all: &Entries, notes: &Notes) {
    if all.plans.is_empty() {
        return;
    }
    for route in &all.routes {
        if let Access::Scope(scope) = &route.value.access
            && !all
                .plans
                .iter()
                .any(|plan| may_use(&plan.value, &route.value))
        {
            notes.warn(Problem::context(
                Some(route.at.name.clone()),
                format!(
                    "no plan grants scope \"{}\": every key will get 403 here",
                    scope.as_str()
                ),
                "grant it in the scopes of a plan, or correct the spelling",
            ));
        }
    }
}

/// No two listeners may claim the same address and port.
pub(super) fn listeners(addresses: &[(&'static str, Spanned<SocketAddr>)], notes: &Notes) {
    for (index, (name, address)) in addresses.iter().enumerate() {
        let clash = addresses[..index]
            .iter()
            .find(|(_, earlier)| overlap(earlier.get_ref(), address.get_ref()));
        if let Some((other, first)) = clash {
            let what = format!(
                "[listen] {name}: {} is already taken by {} of {other}",
                address.get_ref(),
                first.get_ref()
            );
            let problem =
                Problem::here(address.span(), what, "give each listener a port of its own");
            notes.error(
                match first.span() == address.span() || first.span().is_empty() {
                    true => problem,
                    false => problem.beside(first.span(), "taken here"),
                },
            );
        }
    }
}

/// Port 0 asks for any free port and so never collides. An unspecified address takes the port of all of its family.
fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && one.is_ipv4() == other.is_ipv4()
        && (any || one.ip() == other.ip())
}
