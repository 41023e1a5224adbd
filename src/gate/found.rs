//! What stands at a path, and what it asks of a request.

use std::sync::Arc;

use crate::config::Config;
use crate::gate::refused::Fault;
use crate::model::credential::Kinds;
use crate::model::key::Environment;
use crate::model::route::Access;
use crate::model::route::Found;
use crate::model::route::Route;
use crate::model::route::host::best;
use crate::refusal::Refusal;

/// The route that serves the path, if only by other methods.
pub(super) fn route_at(found: &Found) -> Option<&Arc<Route>> {
    match found {
        Found::Route(route) | Found::OtherMethods(route, _) => Some(route),
        Found::Nothing => None,
    }
}

pub(super) fn is_public(route: Option<&Route>) -> bool {
    route.is_some_and(|route| route.access == Access::Public)
}

pub(super) fn served(found: Found) -> Result<Arc<Route>, Fault> {
    match found {
        Found::Route(route) => Ok(route),
        Found::OtherMethods(_, allow) => Err(Fault::new(
            Refusal::MethodNotAllowed(allow),
            "method_not_allowed",
        )),
        Found::Nothing => Err(Fault::new(Refusal::NoRoute, "no_route")),
    }
}

/// What is taken here; where no route is, what routes take that do not say.
pub(super) fn kinds_of(config: &Config, route: Option<&Route>) -> Kinds {
    route.map_or(config.auth.credentials, |route| route.credentials)
}

/// Where the key must be at home: the host, if it has a table of its own, and the route, if there is one.
pub(super) fn environments(
    config: &Config,
    host: &str,
    route: Option<&Route>,
) -> impl Iterator<Item = Environment> {
    let of_host = best(&config.hosts, |entry| &entry.name, host).map(|entry| entry.environment);
    let of_route = route.map(|route| route.environment);
    of_host.into_iter().chain(of_route)
}

pub(super) fn cost_of(found: &Found) -> u32 {
    match found {
        Found::Route(route) => route.cost,
        Found::OtherMethods(..) | Found::Nothing => 1,
    }
}
