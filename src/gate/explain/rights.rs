//! Who has the scope that a route demands, and what ties a request to its caller.

use crate::gate::explain::views::IsolationView;
use crate::gate::explain::views::ScopeView;
use crate::gate::permission;
use crate::gate::permission::Holders;
use crate::gate::subject_of;
use crate::model::isolation::Isolation;
use crate::model::limit::Mode;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::model::route::bind::Whom;
use crate::model::scope::Scope;
use crate::model::scope::Scopes;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::snapshot::place::Place;

pub(super) fn scope_view(snapshot: &Snapshot, key: &KeyEntry, route: &Route) -> Option<ScopeView> {
    let Access::Scope(scope) = &route.access else {
        return None;
    };
    let holders = permission::holders(snapshot, key, scope);
    let plan = snapshot.plan_of(key);
    let parts = [
        ("key", holders.key),
        ("tenant", holders.tenant),
        ("plan", holders.plan),
    ];
    let lacking: Vec<String> = parts
        .iter()
        .filter(|(_, has)| !has)
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let listed: Vec<&str> = plan.scopes.iter().map(|pattern| pattern.as_str()).collect();
    let tenant = &snapshot.tenant_of(key).scopes;
    Some(ScopeView {
        demanded: scope.as_str().to_owned(),
        granted: lacking.is_empty(),
        lacking,
        key: of_key(&holders, key, scope),
        tenant: held(
            tenant,
            holders.tenant,
            scope,
            "has all that its plan grants",
        ),
        plan: match plan.scopes.iter().find(|pattern| pattern.grants(scope)) {
            Some(pattern) => format!("grants {}", pattern.as_str()),
            None => format!("lacks it, grants: {}", listed.join(" ")),
        },
        mode: mode(&[(plan.mode, "its plan"), (route.mode, "the route")]),
    })
}

fn of_key(holders: &Holders, key: &KeyEntry, scope: &Scope) -> String {
    match holders.whole {
        true => "counts whole: its plan has granular_scopes = false".to_owned(),
        false => held(
            &key.scopes,
            holders.key,
            scope,
            "has all that its tenant has",
        ),
    }
}

fn held(scopes: &Scopes, has: bool, scope: &Scope, inherits: &str) -> String {
    let Scopes::Listed(listed) = scopes else {
        return inherits.to_owned();
    };
    let names: Vec<&str> = listed.iter().map(Scope::as_str).collect();
    match (has, listed.contains(scope)) {
        (_, true) => "lists it".to_owned(),
        (true, false) => format!("has it by [scopes], lists: {}", names.join(" ")),
        (false, false) => format!("lacks it, lists: {}", names.join(" ")),
    }
}

pub(super) fn isolation_view(snapshot: &Snapshot, key: &KeyEntry, route: &Route) -> IsolationView {
    let tenant = snapshot.tenant_of(key);
    let upstream = &snapshot.config.upstreams[route.upstream];
    let tenant = (route.access != Access::Public).then_some(tenant);
    let place = snapshot.place(route.upstream, tenant);
    let prefix = place.prefix(tenant).unwrap_or_default();
    let servers = match place {
        Place::Shared(upstream) => upstream.servers.as_slice(),
        Place::Own(own) => own.servers.as_slice(),
        Place::Nowhere => &[],
    };
    let level = match upstream.isolation {
        Isolation::Unstated => "not stated",
        stated => stated.as_str(),
    };
    let caller = |whom: Whom| match (whom, tenant, subject_of(key)) {
        (Whom::Tenant, Some(tenant), _) => format!("the tenant, {}", tenant.id.as_str()),
        (Whom::Subject, _, Some(subject)) => format!("the key's subject, {subject}"),
        (Whom::Tenant, None, _) | (Whom::Subject, _, None) => {
            "nobody: the key has no subject".to_owned()
        }
    };
    let bindings = route.bindings.iter();
    let bound = bindings.flat_map(|bound| {
        let path = (bound.path.iter())
            .map(|part| format!("{{{}}} of the path is {}", part.name, caller(part.whom)));
        let query =
            (bound.query.iter()).map(|part| format!("?{}= is {}", part.name, caller(part.whom)));
        let host = (bound.host.iter()).map(|whom| format!("* of the host is {}", caller(*whom)));
        let set = (bound.set_query.iter())
            .map(|part| format!("?{}= is set to {}", part.name, caller(part.whom)));
        path.chain(query).chain(host).chain(set).collect::<Vec<_>>()
    });
    let references = route.references.iter();
    let looked_up = references.flat_map(|references| {
        let watched = match references.mode {
            Mode::Enforce => "",
            Mode::Observe => ", and only observed",
        };
        let members = references.members.iter();
        members.map(move |one| {
            let place = one.place.text();
            format!(
                "{} of a body must be the caller's: GET {place} is asked first{watched}",
                one.member
            )
        })
    });
    IsolationView {
        upstream: upstream.name.clone(),
        level: level.to_owned(),
        servers: servers
            .iter()
            .map(|server| format!("{}:{}{prefix}", server.host, server.port))
            .collect(),
        bound: bound.chain(looked_up).collect(),
    }
}

/// `enforce`, or who says observe.
pub(super) fn mode(said: &[(Mode, &str)]) -> String {
    let observing: Vec<&str> = said
        .iter()
        .filter(|(mode, _)| *mode == Mode::Observe)
        .map(|(_, who)| *who)
        .collect();
    match observing.is_empty() {
        true => "enforce".to_owned(),
        false => format!("observe, says {}", observing.join(" and ")),
    }
}
