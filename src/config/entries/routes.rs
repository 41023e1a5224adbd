//! `[[hosts]]` and `[[routes]]`: what is served, to whom.

use std::sync::Arc;

use toml::Spanned;

use crate::config::Errors;
use crate::config::Host;
use crate::config::addresses;
use crate::config::entries::Declared;
use crate::config::entries::Placed;
use crate::config::entries::Places;
use crate::config::entries::TOTAL;
use crate::config::entries::bindings;
use crate::config::entries::inner;
use crate::config::entries::listed_kinds;
use crate::config::entries::references;
use crate::config::entries::scope_word;
use crate::config::file::Reader;
use crate::config::names;
use crate::config::problem::Problem;
use crate::config::settings;
use crate::config::values;
use crate::config::values::Wrong;
use crate::config::values::wrong;
use crate::model::credential::Kinds;
use crate::model::guard::Guard;
use crate::model::limit::Rate;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::model::route::bind::Bindings;
use crate::model::route::reference::References;
use crate::model::scope::Scope;

/// `[[hosts]]`. What a host leaves out is as in `[errors]`.
pub(in crate::config) fn hosts(
    root: &mut Reader<'_>,
    declared: &Declared<'_>,
    errors: Errors,
) -> Vec<Placed<Host>> {
    let read = root.each("hosts", "hosts", |table| {
        let help = "write name = \"api.example.com\"";
        let name = table.required("name", help, addresses::host_pattern);
        let errors = settings::errors(table, "hosts.errors", errors);
        let place = table.place("environment").unwrap_or_default();
        let environment = declared.environment(table);
        let name = name?;
        Some(Placed {
            at: Places {
                name: name.span(),
                environment: place,
                ..Places::default()
            },
            value: Host {
                name: name.into_inner(),
                errors,
                environment,
            },
        })
    });
    read.into_iter().flatten().collect()
}

/// `[[routes]]`.
pub(in crate::config) fn routes(
    root: &mut Reader<'_>,
    declared: &Declared<'_>,
    guards: &[Placed<Arc<Guard>>],
) -> Vec<Placed<Arc<Route>>> {
    let read = root.each("routes", "routes", |table| route(table, declared, guards));
    read.into_iter().flatten().collect()
}

fn route(
    table: &mut Reader<'_>,
    declared: &Declared<'_>,
    guards: &[Placed<Arc<Guard>>],
) -> Option<Placed<Arc<Route>>> {
    let path = table.required(
        "path",
        "write path = \"/leases/{*rest}\"",
        names::route_path,
    );
    let host = table.word("host", addresses::host_pattern);
    let methods = table.list("methods", names::method);
    let access = access(table);
    let credentials = credentials(table, access.as_ref());
    if !table.has("upstream") {
        table.missing(
            "upstream",
            "write upstream = \"…\", the name of a table [upstreams.NAME]",
        );
    }
    let upstream = table.reference("upstream", &declared.upstreams);
    let position = upstream.and_then(|name| {
        declared
            .upstreams
            .all
            .iter()
            .position(|known| *known == name)
    });
    let mut at = Places {
        cost: table.place("cost").unwrap_or_default(),
        environment: table.place("environment").unwrap_or_default(),
        credentials: table.place("credentials").unwrap_or_default(),
        ..Places::default()
    };
    let cost = table.number("cost", 1, 1, 1_000_000);
    let environment = declared.environment(table);
    let body_bytes_max = table.size_or_unlimited("body_bytes_max", settings::BODY_MAX);
    let total_timeout = table.word("total_timeout", |text| {
        values::bounded(text, TOTAL, values::duration)
    });
    let raw_path = table.flag("raw_path", false);
    let origins = inner(table.list("origins", names::web_origin));
    let mode = settings::mode(table);
    let bindings = bindings::bindings(
        table,
        path.as_ref().map(|path| path.get_ref().as_str()),
        host.as_ref().map(|host| host.get_ref().as_str()),
    );
    let guard = guard(
        table,
        declared,
        guards,
        access.as_ref(),
        bindings.as_deref(),
    );
    let references =
        references::references(table, methods.as_deref(), access.as_ref(), guard.as_deref());
    let address_limit = address_limit(table, access.as_ref());
    let pass_authorization = pass_authorization(table, access.as_ref());
    let json_as_form = json_as_form(table, guard.as_deref(), references.as_deref());
    let path = path?;
    at.name = path.span();
    Some(Placed {
        at,
        value: Arc::new(Route {
            path: path.into_inner(),
            host: host.map(Spanned::into_inner),
            methods: inner(methods),
            access: access?,
            credentials: credentials.unwrap_or(declared.credentials),
            upstream: position.unwrap_or(0),
            cost,
            environment,
            body_bytes_max,
            total_timeout: total_timeout.map(Spanned::into_inner),
            raw_path,
            origins,
            mode,
            bindings,
            guard,
            references,
            address_limit,
            pass_authorization,
            json_as_form,
        }),
    })
}

/// What is taken here; `None` where that is not said.
fn credentials(table: &mut Reader<'_>, access: Option<&Access>) -> Option<Kinds> {
    let kinds = listed_kinds(table, "credentials");
    if table.has("credentials") && access == Some(&Access::Public) {
        let wrong = Wrong {
            what: "a public route asks for none".to_owned(),
            help: "take credentials out, or access = \"public\"".to_owned(),
        };
        let at = table.place("credentials").unwrap_or_default();
        table.refuse(at, "credentials", wrong);
    }
    kinds
}

/// What each client address may ask of a public route; others count keys.
fn address_limit(table: &mut Reader<'_>, access: Option<&Access>) -> Option<Rate> {
    let limit = table.rate_or_unlimited("address_limit");
    public_alone(
        table,
        "address_limit",
        access,
        "a route with keys counts those",
        "take address_limit out: plans say what keys may ask, auth.failures what strangers may",
    );
    limit.flatten()
}

/// What becomes of a client's own `Authorization` on a public route; elsewhere it is a credential.
fn pass_authorization(table: &mut Reader<'_>, access: Option<&Access>) -> bool {
    let words = [("remove", false), ("pass", true)];
    let passes = table.choice("authorization", false, &words);
    public_alone(
        table,
        "authorization",
        access,
        "a route with keys takes it for a credential",
        "take authorization out; [auth] foreign_authorization says what becomes of other schemes",
    );
    passes
}

fn public_alone(
    table: &mut Reader<'_>,
    key: &'static str,
    access: Option<&Access>,
    what: &str,
    help: &str,
) {
    let place = table.place(key).filter(|_| table.has(key));
    if let (Some(at), Some(access)) = (place, access)
        && *access != Access::Public
    {
        let wrong = Wrong {
            what: what.to_owned(),
            help: help.to_owned(),
        };
        table.refuse(at, key, wrong);
    }
}

/// Whether JSON goes on as a form; then nothing else reads or changes it.
fn json_as_form(
    table: &mut Reader<'_>,
    guard: Option<&Guard>,
    references: Option<&References>,
) -> bool {
    let turns = table.flag("json_as_form", false);
    let other = match (guard, references) {
        (Some(guard), _) if guard.changes_requests() => "the route's guard changes the same body",
        (_, Some(_)) => "the route looks references up in the same body",
        _ => return turns,
    };
    if turns {
        let wrong = Wrong {
            what: other.to_owned(),
            help: "take one of the two out".to_owned(),
        };
        let at = table.place("json_as_form").unwrap_or_default();
        table.refuse(at, "json_as_form", wrong);
    }
    turns
}

fn guard(
    table: &mut Reader<'_>,
    declared: &Declared<'_>,
    guards: &[Placed<Arc<Guard>>],
    access: Option<&Access>,
    bindings: Option<&Bindings>,
) -> Option<Arc<Guard>> {
    let name = table.reference("guard", &declared.guards)?;
    let guard = guards.iter().find(|guard| guard.value.name == name)?;
    if !guard.value.set.is_empty() && access == Some(&Access::Public) {
        let place = table.place("guard").unwrap_or_default();
        let wrong = Wrong {
            what: format!(
                "\"{name}\" sets a member to the caller's tenant, and a public route has no caller"
            ),
            help: "ask for a key here, or name a guard without request_set".to_owned(),
        };
        table.refuse(place, "guard", wrong);
    }
    let echoes = bindings.is_some_and(|bindings| bindings.twin.echo);
    if echoes && !guard.value.answers.is_empty() {
        let place = table.place("twin_echo").unwrap_or_default();
        let wrong = Wrong {
            what: "a 404 in which an id is put right passes no guard".to_owned(),
            help: "take twin_echo out, or let another guard, without remove and watch, look after this route".to_owned(),
        };
        table.refuse(place, "twin_echo", wrong);
    }
    Some(Arc::clone(&guard.value))
}

/// Who may use a route must be said, by exactly one of `scope` and `access`.
fn access(table: &mut Reader<'_>) -> Option<Access> {
    let scope = table.word("scope", |text| scope_word(Scope::new(text), text));
    let access = table.word("access", |text| match text {
        "any-key" => Ok(Access::AnyKey),
        "public" => Ok(Access::Public),
        _ => wrong(
            format!("\"{text}\" is no kind of access"),
            "choose \"any-key\" or \"public\", or demand a scope instead: scope = \"leases:read\"",
        ),
    });
    let what = match (table.has("scope"), table.has("access")) {
        (false, false) => "does not say who may use it",
        (true, true) => "says twice who may use it",
        _ => {
            return access
                .map(Spanned::into_inner)
                .or(scope.map(|scope| Access::Scope(scope.into_inner())));
        }
    };
    table.notes().error(Problem::context(
        table.header(),
        format!("{} {what}", table.title()),
        "write one of: scope = \"leases:read\", access = \"any-key\", access = \"public\"",
    ));
    Some(Access::AnyKey)
}
