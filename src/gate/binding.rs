//! The last check: whether the request names its caller where its route says so, and where it goes (FA18, FA20, FM7, FM9).
//!
//! What names somebody else is not refused like other requests: it gets the 404 twin, which must be the bytes that a missing thing gets. For
//! GET and HEAD the backend writes it: the request goes on as the caller's own, for an id that cannot exist.

use http::Method;
use http::uri::PathAndQuery;

use super::query;
use super::refused::Fault;
use crate::config::Config;
use crate::config::Errors;
use crate::model::route::Route;
use crate::model::route::bind::Bindings;
use crate::model::route::bind::QueryBinding;
use crate::model::route::bind::TwinSource;
use crate::model::route::bind::Whom;
use crate::model::route::host::best;
use crate::model::route::path;
use crate::refusal::Refusal;
use crate::refusal::UpstreamFailure;
use crate::snapshot::Snapshot;
use crate::snapshot::TenantEntry;
use crate::snapshot::place::Place;

/// A request for what is another's, which goes to the backend all the same, for an id that cannot exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// For the log: `foreign_tenant` or `foreign_subject`.
    pub reason: &'static str,
    /// The host that the client asked for, where another one was put in its place.
    pub host: Option<String>,
    /// Where the backend's answer repeats ids: each one that it was asked for, and the segment that the client asked for.
    pub echo: Vec<(String, String)>,
}

/// Who asks.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) tenant: &'a str,
    pub(super) subject: Option<&'a str>,
}

impl<'a> Caller<'a> {
    fn name(self, whom: Whom) -> Option<&'a str> {
        match whom {
            Whom::Tenant => Some(self.tenant),
            Whom::Subject => self.subject,
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    /// Without its port.
    pub(super) host: &'a str,
    pub(super) target: &'a PathAndQuery,
}

/// Where a request goes.
#[derive(Debug)]
pub(super) struct Way {
    /// What the backend is asked for, but for the prefix.
    pub(super) target: PathAndQuery,
    /// The name of the host instead of the client's.
    pub(super) host: Option<String>,
    /// Set where the request is for another's.
    pub(super) foreign: Option<Box<Foreign>>,
}

/// What of a request names somebody else.
#[derive(Default)]
struct Mismatch<'a> {
    segments: Vec<usize>,
    query: Vec<&'a QueryBinding>,
    set_query: bool,
    host: bool,
    /// Whether any of it is about the tenant; else all is about the subject.
    tenant: bool,
}

/// Judges a request of a route with bindings.
///
/// # Errors
/// 400 for a bound parameter of the query that is there twice or in another spelling; 403 or 404 where the backend is not asked for the
/// twin.
pub(super) fn check(
    route: &Route,
    bindings: &Bindings,
    asked: Asked<'_>,
    caller: Caller<'_>,
    errors: Errors,
) -> Result<Way, Fault> {
    let mismatch = mismatch(route, bindings, asked, caller)?;
    let Some(reason) = mismatch.reason() else {
        let target = with_set_query(asked.target.clone(), bindings, caller)?;
        return Ok(Way {
            target,
            host: None,
            foreign: None,
        });
    };
    if errors.foreign_is_forbidden {
        return Err(Fault::new(Refusal::NotYours, reason));
    }
    let is_read = matches!(*asked.method, Method::GET | Method::HEAD);
    if !is_read || bindings.twin.source == TwinSource::Gateway {
        return Err(Fault::new(Refusal::NoRoute, reason));
    }
    probe(route, bindings, asked, caller, &mismatch, reason)
}

fn mismatch<'a>(
    route: &Route,
    bindings: &'a Bindings,
    asked: Asked<'_>,
    caller: Caller<'_>,
) -> Result<Mismatch<'a>, Fault> {
    let mut found = Mismatch::default();
    for bound in &bindings.path {
        let there = segment(asked.target.path(), bound.segment);
        if !is(there, caller.name(bound.whom)) {
            found.segments.push(bound.segment);
            found.tenant |= bound.whom == Whom::Tenant;
        }
    }
    for bound in &bindings.query {
        let there = query::sole(asked.target.query(), &bound.name).map_err(|()| ambiguous())?;
        if !is(there, caller.name(bound.whom)) {
            found.query.push(bound);
            found.tenant |= bound.whom == Whom::Tenant;
        }
    }
    if let Some(whom) = bindings.host
        && !is(label(route, asked.host), caller.name(whom))
    {
        found.host = true;
        found.tenant |= whom == Whom::Tenant;
    }
    // A key without a subject is nobody's: nothing can be said for it.
    found.set_query = bindings
        .set_query
        .iter()
        .any(|set| caller.name(set.whom).is_none());
    Ok(found)
}

impl Mismatch<'_> {
    fn reason(&self) -> Option<&'static str> {
        let nothing =
            self.segments.is_empty() && self.query.is_empty() && !self.host && !self.set_query;
        match (nothing, self.tenant) {
            (true, _) => None,
            (false, true) => Some("foreign_tenant"),
            (false, false) => Some("foreign_subject"),
        }
    }
}

/// Byte for byte, once percent-encodings are decoded: neither case nor Unicode forms are folded.
fn is(there: Option<&str>, name: Option<&str>) -> bool {
    match (there, name) {
        (Some(there), Some(name)) => path::same_when_decoded(there, name),
        _ => false,
    }
}

fn segment(path: &str, place: usize) -> Option<&str> {
    path.strip_prefix('/')?.split('/').nth(place)
}

/// What `*` of the route's host stands for.
fn label<'a>(route: &Route, host: &'a str) -> Option<&'a str> {
    let suffix = route.host.as_deref()?.strip_prefix('*')?;
    host.strip_suffix(suffix)
}

/// The same request for ids that cannot exist, as the caller's own.
fn probe(
    route: &Route,
    bindings: &Bindings,
    asked: Asked<'_>,
    caller: Caller<'_>,
    mismatch: &Mismatch<'_>,
    reason: &'static str,
) -> Result<Way, Fault> {
    let unknown_id = || {
        let mut random = [0; 32];
        // Without chance there is no id that cannot exist; the gateway then writes the twin.
        getrandom::fill(&mut random).map_err(|_| Fault::new(Refusal::NoRoute, reason))?;
        Ok(bindings.twin.id.of(random))
    };
    let mut path = String::with_capacity(asked.target.as_str().len() + 64);
    let mut echo = Vec::new();
    let segments = asked.target.path().strip_prefix('/').unwrap_or_default();
    for (place, segment) in segments.split('/').enumerate() {
        path.push('/');
        if mismatch.segments.contains(&place) {
            let id = unknown_id()?;
            path.push_str(&id);
            echo.push((id, segment.to_owned()));
        } else {
            path.push_str(segment);
        }
    }
    if let Some(query) = asked.target.query() {
        path.push('?');
        path.push_str(query);
    }
    let mut target = parsed(path)?;
    for bound in &mismatch.query {
        target = parsed(query::set(&target, &bound.name, &unknown_id()?))?;
    }
    for set in &bindings.set_query {
        let value = match caller.name(set.whom) {
            Some(name) => name.to_owned(),
            None => unknown_id()?,
        };
        target = parsed(query::set(&target, &set.name, &value))?;
    }
    let suffix = route
        .host
        .as_deref()
        .and_then(|host| host.strip_prefix('*'));
    let host = match suffix.filter(|_| mismatch.host) {
        // A label is at most 63 long and holds letters, digits and hyphens: every form of id fits.
        Some(suffix) => Some(format!("{}{suffix}", unknown_id()?)),
        None => None,
    };
    if !bindings.twin.echo {
        echo.clear();
    }
    Ok(Way {
        target,
        foreign: Some(Box::new(Foreign {
            reason,
            host: host.is_some().then(|| asked.host.to_owned()),
            echo,
        })),
        host,
    })
}

fn with_set_query(
    target: PathAndQuery,
    bindings: &Bindings,
    caller: Caller<'_>,
) -> Result<PathAndQuery, Fault> {
    let mut target = target;
    for set in &bindings.set_query {
        let value = caller.name(set.whom).unwrap_or_default();
        target = parsed(query::set(&target, &set.name, value))?;
    }
    Ok(target)
}

/// Puts the prefix of the place before the path.
///
/// # Errors
/// 503 where the tenant has no place; 414 where the whole is too long to be sent.
pub(super) fn placed(
    snapshot: &Snapshot,
    route: &Route,
    tenant: Option<&TenantEntry>,
    target: PathAndQuery,
) -> Result<PathAndQuery, Fault> {
    let place = snapshot.place(route.upstream, tenant);
    if let Place::Shared(upstream) = place
        && upstream.path_prefix.is_none()
    {
        return Ok(target);
    }
    match place.prefix(tenant) {
        Some(prefix) if prefix.is_empty() => Ok(target),
        Some(prefix) => parsed(format!("{prefix}{target}")),
        None => Err(nowhere()),
    }
}

/// Nobody's fault but the operator's, and over once the tenant has a place: hence 503 and not 404, which would say that there is nothing.
fn nowhere() -> Fault {
    let refusal = Refusal::Upstream(UpstreamFailure::Unavailable);
    Fault::new(refusal, "tenant_without_upstream")
}

fn ambiguous() -> Fault {
    Fault::bad_request(
        "A query parameter is repeated or spelt in more than one way.",
        "query_parameter_ambiguous",
    )
}

fn parsed(target: String) -> Result<PathAndQuery, Fault> {
    // Parts of a valid target make one, unless they are too long together.
    PathAndQuery::try_from(target)
        .map_err(|_| Fault::new(Refusal::TargetTooLong, "target_too_long"))
}

/// The errors of a host: they say whether foreign is 404 or 403.
pub(super) fn errors_of(config: &Config, host: &str) -> Errors {
    best(&config.hosts, |entry| &entry.name, host).map_or(config.errors, |entry| entry.errors)
}
