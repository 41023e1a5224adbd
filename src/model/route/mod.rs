//! A route (what it matches and what it demands) and the table that finds it by host, path and method.

use std::sync::Arc;
use std::time::Duration;

use crate::model::credential::Kinds;
use crate::model::guard::Guard;
use crate::model::key::Environment;
use crate::model::limit::Mode;
use crate::model::limit::Rate;
use crate::model::route::bind::Bindings;
use crate::model::route::reference::References;
use crate::model::scope::Scope;

pub mod bind;
pub mod host;
pub mod path;
pub mod pattern;
pub mod reference;
mod table;

/// What a route demands of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// No key is asked for; none is looked at.
    Public,
    /// Any key in good standing.
    AnyKey,
    /// A key whose effective scopes cover this one.
    Scope(Scope),
}

/// One `[[routes]]` table, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The pattern as written; also the metrics label.
    pub path: String,
    /// Exact host, `*.` wildcard host, or `None` for any; lower case, without port.
    pub host: Option<String>,
    /// Upper-case methods; empty means every method.
    pub methods: Vec<String>,
    /// What it demands.
    pub access: Access,
    /// What kinds of credentials it takes; without meaning where it is public.
    pub credentials: Kinds,
    /// Index into `Config::upstreams`.
    pub upstream: usize,
    /// What one request takes from every window; at least 1.
    pub cost: u32,
    /// Which keys may use it.
    pub environment: Environment,
    /// Largest request body in bytes; `None` is the global `http.body_bytes_max`.
    pub body_bytes_max: Option<u64>,
    /// Longest life of one exchange; `None` is the upstream's.
    pub total_timeout: Option<Duration>,
    /// Whether an ambiguous path (`%2f`, `;`, `//`, dot segments …) is passed on as it came instead of refused.
    pub raw_path: bool,
    /// Web pages that may call it, as browsers write origins (`https://app.example`), or `*` for all; empty means no browser access
    /// across origins (C-14).
    pub origins: Vec<String>,
    /// Whether limits and scope hold here or are only observed.
    pub mode: Mode,
    /// What ties its requests to their caller; `None` is nothing.
    pub bindings: Option<Box<Bindings>>,
    /// What is done with its JSON; `None` is nothing, and costs nothing.
    pub guard: Option<Arc<Guard>>,
    /// What its writes refer to and is looked up first; `None` is nothing, and costs nothing.
    pub references: Option<Box<References>>,
    /// What one client address may ask of it, where it is public; `None` is any number, and costs nothing.
    pub address_limit: Option<Rate>,
    /// Whether a client's `Authorization` goes on to the backend, where it is public.
    pub pass_authorization: bool,
    /// Whether a flat JSON object goes on as a form (PB6, C-24).
    pub json_as_form: bool,
}

#[cfg(any(test, fuzzing))]
impl Route {
    /// Any key's, by any method, at this path; every other key at its default.
    pub(crate) fn for_tests(path: &str) -> Route {
        Route {
            path: path.to_owned(),
            host: None,
            methods: Vec::new(),
            access: Access::AnyKey,
            credentials: Kinds::KEYS,
            upstream: 0,
            cost: 1,
            environment: Environment(0),
            body_bytes_max: None,
            total_timeout: None,
            raw_path: false,
            origins: Vec::new(),
            mode: Mode::Enforce,
            bindings: None,
            guard: None,
            references: None,
            address_limit: None,
            pass_authorization: false,
            json_as_form: false,
        }
    }
}

/// What the table says of a request.
#[derive(Clone, Debug)]
pub enum Found {
    /// This route serves it.
    Route(Arc<Route>),
    /// The path is served, but not by this method; the methods that are, for `Allow`, sorted, `HEAD` included where `GET` is. The
    /// route is one of those at this path, one that is not public if there is any.
    OtherMethods(Arc<Route>, String),
    /// Nothing is here.
    Nothing,
}

/// All routes of one configuration, ordered for lookup.
#[derive(Debug, Default)]
pub struct RouteTable(table::Table);

impl RouteTable {
    /// Builds the table.
    ///
    /// # Errors
    /// The indexes of two routes that match the same host, path shape and method (parameter names do not tell paths apart, and
    /// GET implies HEAD); the same index twice for a route whose path is no `Pattern`.
    pub fn build(routes: &[Arc<Route>]) -> Result<RouteTable, (usize, usize)> {
        table::Table::build(routes).map(RouteTable)
    }

    /// Finds what serves this request, without allocating unless the method is refused. `host` is lower case and without port;
    /// `path` is canonical.
    ///
    /// Exact host beats wildcard host (the longest first) beats none: a host with routes of its own still reaches the routes of the
    /// tiers below it for paths that its own do not serve. Then, segment by segment, static beats `{param}` beats `{*rest}`; file
    /// order never counts. The most specific path decides alone: when it lacks the method, no other path is asked. GET implies HEAD.
    ///
    /// A segment that is an encoded spelling of a static one (`/jobs%3Arun` beside a route `/jobs:run`) is neither that segment nor
    /// a parameter: backends disagree about which it is, so nothing is found.
    #[must_use]
    pub fn find(&self, host: &str, path: &str, method: &str) -> Found {
        self.0.find(host, path, method)
    }
}
