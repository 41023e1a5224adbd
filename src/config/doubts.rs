//! What a file says that can never matter: scopes that nothing demands, routes and defaults that others hide.

use crate::config::KeyDefault;
use crate::config::check::Entries;
use crate::config::problem::Notes;
use crate::config::problem::Problem;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::model::route::host::covers;
use crate::model::route::pattern::Pattern;
use crate::model::scope::Scope;
use crate::model::scope::ScopeRules;
use crate::model::scope::Scopes;

/// Warns of all of it. Meant for a file without mistakes.
pub(super) fn warn(all: &Entries, rules: &ScopeRules, defaults: &[KeyDefault], notes: &Notes) {
    hidden_defaults(defaults, notes);
    overlapping_routes(all, notes);
    if !all.routes.is_empty() {
        undemanded(all, rules, notes);
    }
}

/// Grants, and scopes of tenants and keys, that no route demands and that carry nothing else.
fn undemanded(all: &Entries, rules: &ScopeRules, notes: &Notes) {
    let demanded: Vec<&Scope> = (all.routes.iter())
        .filter_map(|route| match &route.value.access {
            Access::Scope(scope) => Some(scope),
            Access::AnyKey | Access::Public => None,
        })
        .collect();
    let report = |at: &std::ops::Range<usize>, scope: &str, owner: String| {
        notes.warn(Problem::context(
            Some(at.clone()),
            format!("no route demands scope \"{scope}\" of {owner}"),
            "correct the spelling, add the route, or take the scope out",
        ));
    };
    for plan in &all.plans {
        for pattern in &plan.value.scopes {
            if pattern.as_str() != "*" && !demanded.iter().any(|scope| pattern.grants(scope)) {
                let owner = format!("plan \"{}\"", plan.value.name);
                report(&plan.at.name, pattern.as_str(), owner);
            }
        }
    }
    let idle = |scope: &&Scope| {
        let carries = rules.superuser.contains(scope) || rules.implies.contains_key(*scope);
        !carries && !demanded.contains(scope)
    };
    for tenant in &all.tenants {
        for scope in listed(&tenant.value.scopes).iter().filter(idle) {
            let owner = format!("tenant \"{}\"", tenant.value.id.as_str());
            report(&tenant.at.name, scope.as_str(), owner);
        }
    }
    for key in &all.keys {
        for scope in listed(&key.value.scopes).iter().filter(idle) {
            let owner = format!("key \"{}\"", key.value.name);
            report(&key.at.name, scope.as_str(), owner);
        }
    }
}

fn listed(scopes: &Scopes) -> &[Scope] {
    match scopes {
        Scopes::Inherit => &[],
        Scopes::Listed(listed) => listed,
    }
}

/// The same path for a host and for a wider name of it: at that host the narrower one decides alone, also about methods.
fn overlapping_routes(all: &Entries, notes: &Notes) {
    for narrow in &all.routes {
        let wide = all
            .routes
            .iter()
            .find(|wide| hides(&narrow.value, &wide.value));
        let (Some(host), Some(wide)) = (&narrow.value.host, wide) else {
            continue;
        };
        let of = wide.value.host.as_deref().unwrap_or("any host");
        let what = format!(
            "at \"{host}\" this route hides {} of {of}, for every method",
            wide.value.path
        );
        let help = format!("if {host} is to have those methods too, declare them for it");
        notes.warn(
            Problem::context(Some(narrow.at.name.clone()), what, help)
                .beside(wide.at.name.clone(), "hidden there"),
        );
    }
}

fn hides(narrow: &Route, wide: &Route) -> bool {
    let Some(host) = &narrow.host else {
        return false;
    };
    let wider = match &wide.host {
        None => true,
        Some(name) => name != host && covers(name, host),
    };
    wider && Pattern::parse(&narrow.path) == Pattern::parse(&wide.path)
}

/// The first default that fits counts, so that one behind another that fits all of its keys never does.
fn hidden_defaults(defaults: &[KeyDefault], notes: &Notes) {
    for (index, later) in defaults.iter().enumerate() {
        let fits = |earlier: &&KeyDefault| {
            (earlier.kind.is_none() || earlier.kind == later.kind)
                && (earlier.environment.is_none() || earlier.environment == later.environment)
        };
        if let Some(earlier) = defaults[..index].iter().position(|one| fits(&one)) {
            notes.warn(Problem::context(
                None,
                format!(
                    "[[key_defaults]] number {} never counts: number {} fits all of its keys",
                    index + 1,
                    earlier + 1
                ),
                "put the narrower one first",
            ));
        }
    }
}
