//! What a file says that can never matter: scopes that nothing demands, routes and defaults that others hide.

use std::sync::Arc;

use crate::config::KeyDefault;
use crate::config::check::Entries;
use crate::config::problem::Notes;
use crate::config::problem::Problem;
use crate::model::route::Access;
use crate::model::route::Found;
use crate::model::route::Route;
use crate::model::route::RouteTable;
use crate::model::route::host::covers;
use crate::model::route::pattern::Pattern;
use crate::model::route::pattern::Segment;
use crate::model::scope::Scope;
use crate::model::scope::ScopeRules;
use crate::model::scope::Scopes;

/// Warns of all of it. Meant for a file without mistakes.
pub(super) fn warn(all: &Entries, rules: &ScopeRules, defaults: &[KeyDefault], notes: &Notes) {
    hidden_defaults(defaults, notes);
    overlapping_routes(all, notes);
    looser_neighbours(all, notes);
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

/// Spellings that many backends take for a route's path, and that go through another route, to the same backend, which asks for less: `/ADMIN`
/// and `/admin/` beside `/{*rest}`. Here paths are compared byte for byte; whether it matters the backend alone knows.
fn looser_neighbours(all: &Entries, notes: &Notes) {
    let routes: Vec<Arc<Route>> = (all.routes.iter())
        .map(|route| Arc::clone(&route.value))
        .collect();
    let Ok(table) = RouteTable::build(&routes) else {
        return;
    };
    for strict in &all.routes {
        let mut told: Vec<String> = Vec::new();
        let mut through: Option<Arc<Route>> = None;
        for spelling in spellings(&strict.value.path) {
            let found = neighbour(&table, &strict.value, &spelling);
            let Some(found) = found.filter(|found| asks_for_less(found, &strict.value)) else {
                continue;
            };
            if Arc::ptr_eq(through.get_or_insert_with(|| Arc::clone(&found)), &found) {
                told.push(format!("\"{spelling}\""));
            }
        }
        let Some(through) = through else {
            continue;
        };
        let (spelled, goes) = match told.len() {
            1 => (told.concat(), "goes"),
            _ => (told.join(" and "), "go"),
        };
        notes.warn(Problem::context(
            Some(strict.at.name.clone()),
            format!(
                "{spelled} {goes} through {}, which asks for less; a backend that takes such spellings for {} answers them there",
                through.path, strict.value.path
            ),
            "make sure that the backend tells them apart, or give the wider route an upstream or a demand that holds for both",
        ));
    }
}

/// The path as a lenient backend may take it too: in another case, and with a slash at its end. Parameters stand for a word.
fn spellings(path: &str) -> Vec<String> {
    let Ok(pattern) = Pattern::parse(path) else {
        return Vec::new();
    };
    let text = |change: fn(&str) -> String| -> String {
        let words = pattern.segments.iter().map(|segment| match segment {
            Segment::Static(word) => format!("/{}", change(word)),
            Segment::Param => "/1".to_owned(),
        });
        words.collect()
    };
    let plain = text(str::to_owned);
    let swapped = text(
        |word| match word.bytes().any(|byte| byte.is_ascii_lowercase()) {
            true => word.to_ascii_uppercase(),
            false => word.to_ascii_lowercase(),
        },
    );
    let mut all = Vec::new();
    if swapped != plain {
        all.push(swapped);
    }
    if !pattern.rest && !plain.ends_with('/') {
        all.push(format!("{plain}/"));
    }
    all
}

fn neighbour(table: &RouteTable, of: &Route, path: &str) -> Option<Arc<Route>> {
    let host = match of.host.as_deref() {
        Some(host) => host.replacen('*', "any", 1),
        None => "any.invalid".to_owned(),
    };
    let method = of.methods.first().map_or("GET", String::as_str);
    match table.find(&host, path, method) {
        Found::Route(route) => Some(route),
        Found::OtherMethods(..) | Found::Nothing => None,
    }
}

/// Whether whoever may use `wide` need not be able to use `strict`, behind which the same backend stands.
fn asks_for_less(wide: &Route, strict: &Route) -> bool {
    let bound = |route: &Route| route.bindings.as_ref().is_some_and(|bound| bound.demand());
    let access = match (&wide.access, &strict.access) {
        (Access::Public, Access::AnyKey | Access::Scope(_)) => true,
        (Access::AnyKey, Access::Scope(_)) => true,
        (Access::Scope(one), Access::Scope(other)) => one != other,
        _ => false,
    };
    let guarded = wide.guard.is_none() && strict.guard.is_some();
    wide.upstream == strict.upstream && (access || guarded || bound(strict) && !bound(wide))
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
