//! What an explanation says of a route, its windows, a scope and what keeps tenants apart.

use serde::Deserialize;
use serde::Serialize;

use crate::clock::Wall;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::quota::WindowNumbers;
use crate::store::outcome::rfc3339;

/// What keeps tenants apart on the way of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolationView {
    /// The name of the upstream.
    pub upstream: String,
    /// `physical`, `header`, `path`, `guard`, `none` or `not stated`.
    pub level: String,
    /// The servers, with the path that stands before the request's; none where the tenant has no place.
    pub servers: Vec<String>,
    /// What each bound part of the request must say.
    pub bound: Vec<String>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// Its pattern.
    pub path: String,
    /// Its host; `None` is any.
    pub host: Option<String>,
    /// Its methods; none is every one.
    pub methods: Vec<String>,
    /// `public`, `any-key` or `scope`.
    pub access: String,
}

/// One window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowView {
    /// `key` or `tenant`: whose it is.
    pub subject: String,
    /// `quota` (fixed window) or `burst` (sliding window).
    pub window: String,
    /// `100/hour`, or `unlimited`.
    pub limit: String,
    /// Where the limit comes from: `the key`, `the tenant`, or a plan.
    pub from: String,
    /// The counts; `None` where nothing is counted, or no gateway runs.
    pub state: Option<WindowState>,
}

/// The counts of a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowState {
    /// Taken.
    pub used: u32,
    /// Left.
    pub remaining: u32,
    /// Seconds until it is full again.
    pub reset_in_seconds: u32,
    /// The same as a date, RFC 3339.
    pub reset_at: String,
}

/// A demanded scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeView {
    /// The scope.
    pub demanded: String,
    /// Whether key, tenant and plan all have it.
    pub granted: bool,
    /// Which of `key`, `tenant` and `plan` lack it.
    pub lacking: Vec<String>,
    /// Why the key has it or lacks it.
    pub key: String,
    /// The same of its tenant.
    pub tenant: String,
    /// The same of its plan.
    pub plan: String,
    /// `enforce`, or who says observe.
    pub mode: String,
}

impl RouteView {
    pub(super) fn of(route: &Route) -> RouteView {
        RouteView {
            path: route.path.clone(),
            host: route.host.clone(),
            methods: route.methods.clone(),
            access: match route.access {
                Access::Public => "public",
                Access::AnyKey => "any-key",
                Access::Scope(_) => "scope",
            }
            .to_owned(),
        }
    }
}

impl WindowState {
    pub(super) fn of(numbers: &WindowNumbers) -> WindowState {
        WindowState {
            used: numbers.rate.count.saturating_sub(numbers.remaining),
            remaining: numbers.remaining,
            reset_in_seconds: numbers.reset_in_seconds,
            reset_at: rfc3339(Wall::from_unix_seconds(numbers.reset_unix_seconds)),
        }
    }
}
