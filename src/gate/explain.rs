//! What the gate would decide of a request, and why: the same checks, charging nothing.

use http::HeaderValue;
use http::Method;
use http::Request;
use http::header;
use http::request::Parts;
use http::uri::PathAndQuery;
use serde::Deserialize;
use serde::Serialize;

use super::binding;
use super::found::cost_of;
use super::found::environments;
use super::found::is_public;
use super::found::route_at;
use super::found::served;
use super::host;
use super::mode::limits_mode;
use super::mode::scopes_mode;
use super::permission;
use super::permission::Holders;
use super::refused::Fault;
use super::standing;
use super::target;
use crate::clock::Now;
use crate::clock::Wall;
use crate::config::LimitSubject;
use crate::model::isolation::Isolation;
use crate::model::key::KeyId;
use crate::model::key::Override;
use crate::model::limit::Limits;
use crate::model::limit::Mode;
use crate::model::limit::Rate;
use crate::model::route::Access;
use crate::model::route::Found;
use crate::model::route::Route;
use crate::model::route::bind::Whom;
use crate::model::scope::Scope;
use crate::model::scope::Scopes;
use crate::quota::Charge;
use crate::quota::Quota;
use crate::quota::WindowNumbers;
use crate::refusal::Refusal;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::snapshot::place::Place;
use crate::store::VerbError;
use crate::store::outcome::rfc3339;

/// A request that nobody sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Question {
    /// The id of its key.
    pub key: String,
    /// Its method.
    pub method: String,
    /// Its host; `None` asks for the routes that serve any host.
    pub host: Option<String>,
    /// Its path; of a query only what the route binds to the caller is looked at.
    pub path: String,
}

/// What would become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The key's id.
    pub key: String,
    /// Its tenant.
    pub tenant: String,
    /// The plan that it is under.
    pub plan: String,
    /// Who chose the plan: `key` or `tenant`.
    pub plan_of: String,
    /// The route at this path, if only for other methods.
    pub route: Option<RouteView>,
    /// The status of the refusal; `None` when it would be forwarded.
    pub refused: Option<u16>,
    /// Why it would be refused, as the log says it.
    pub reason: Option<String>,
    /// What would have refused it, were it not only observed.
    pub observed: Vec<String>,
    /// What it would take from every window; `None` when it would not be charged, however it ends.
    pub cost: Option<u32>,
    /// Whose windows are charged: `key`, `tenant` or `both`.
    pub limits_subject: String,
    /// `enforce`, or who says observe.
    pub limits_mode: String,
    /// The windows.
    pub windows: Vec<WindowView>,
    /// What the route demands, and who lacks it; `None` when it demands no scope.
    pub scope: Option<ScopeView>,
    /// Where it goes and what ties it to its caller; `None` without a route.
    #[serde(default)]
    pub isolation: Option<IsolationView>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

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

/// Judges a request that nobody sent. Without `quota` (no gateway runs) the windows have no state. The client's address and web page are
/// not known and not judged; neither is the key's text.
///
/// # Errors
/// No such key, or no such request can be.
pub fn explain(
    snapshot: &Snapshot,
    quota: Option<&Quota>,
    now: Now,
    question: &Question,
) -> Result<Explanation, VerbError> {
    let key = find_key(snapshot, &question.key)?;
    let head = head_of(question)?;
    let mut notes = notes_of(key);
    let at = place(snapshot, question, &head);
    let route = at.as_ref().ok().and_then(|(_, found, _)| route_at(found));
    let route = route.map(AsRef::as_ref);
    let windows = windows(snapshot, quota, key, now);
    let judged = judge(snapshot, key, &head.method, &at, &windows, now);
    if question.host.is_none()
        && snapshot
            .config
            .routes
            .iter()
            .any(|route| route.host.is_some())
    {
        notes.push("no host was given: routes and environments of single hosts were not looked at; add --host".to_owned());
    }
    if quota.is_none() {
        notes.push(
            "what is used and left is known to a running gateway only, and none runs".to_owned(),
        );
    }
    let plan = snapshot.plan_of(key);
    let fault = judged.fault;
    Ok(Explanation {
        key: key.id.to_string(),
        tenant: snapshot.tenant_of(key).id.as_str().to_owned(),
        plan: plan.name.clone(),
        plan_of: if key.plan == u32::MAX {
            "tenant"
        } else {
            "key"
        }
        .to_owned(),
        route: route.map(RouteView::of),
        refused: fault.as_ref().map(|fault| fault.refusal.status().as_u16()),
        reason: fault.map(|fault| fault.reason.to_owned()),
        observed: judged.observed.iter().map(ToString::to_string).collect(),
        cost: judged.cost,
        limits_subject: match snapshot.config.limits.subject {
            LimitSubject::Key => "key",
            LimitSubject::Tenant => "tenant",
            LimitSubject::Both => "both",
        }
        .to_owned(),
        limits_mode: mode(&[
            (snapshot.config.limits.mode, "[limits] mode"),
            (plan.mode, "its plan"),
            (route.map_or(Mode::Enforce, |route| route.mode), "the route"),
        ]),
        windows,
        scope: route.and_then(|route| scope_view(snapshot, key, route)),
        isolation: route.map(|route| isolation_view(snapshot, key, route)),
        notes,
    })
}

/// The windows of a key and where they stand now, whatever it asks for.
///
/// # Errors
/// There is no such key in force.
pub fn windows_of(
    snapshot: &Snapshot,
    quota: &Quota,
    now: Now,
    id: &str,
) -> Result<Vec<WindowView>, VerbError> {
    find_key(snapshot, id).map(|key| windows(snapshot, Some(quota), key, now))
}

/// The present entry of a key; a text that a regeneration let live on has another one, which ends sooner.
fn find_key<'a>(snapshot: &'a Snapshot, id: &str) -> Result<&'a KeyEntry, VerbError> {
    let id = KeyId::parse(id).map_err(VerbError::refused)?;
    let entries = snapshot.keys.iter().map(|(_, entry)| entry);
    let found = entries
        .filter(|entry| entry.id == id)
        .max_by_key(|entry| entry.expires);
    found.ok_or_else(|| VerbError::refused(format!("there is no key {id}; see `keys list --all`")))
}

fn head_of(question: &Question) -> Result<Parts, VerbError> {
    let refused = |what: &str, text: &str| VerbError::refused(format!("{text:?} is no {what}"));
    if !question.path.starts_with('/') {
        return Err(refused("path: it begins with /", &question.path));
    }
    let host = question.host.as_deref().unwrap_or("any");
    let host = HeaderValue::from_str(host).map_err(|_| refused("host", host))?;
    let request = Request::builder()
        .method(question.method.as_str())
        .uri(&question.path)
        .header(header::HOST, host)
        .body(());
    let request = request
        .map_err(|_| refused("request", &format!("{} {}", question.method, question.path)))?;
    Ok(request.into_parts().0)
}

/// The host's name, what is found there, and what is asked for; the refusal where the path or the host is none that is served.
fn place(snapshot: &Snapshot, question: &Question, head: &Parts) -> Result<At, Fault> {
    let host = host::of(head)?.into_name();
    let host = if question.host.is_some() {
        host
    } else {
        String::new()
    };
    let target = target::of(head, &snapshot.config.http)?;
    let found = snapshot
        .routes
        .find(&host, target.path(), head.method.as_str());
    let raw_path = route_at(&found).is_some_and(|route| route.raw_path);
    let target = target.decide(raw_path)?;
    Ok((host, found, target))
}

type At = (String, Found, PathAndQuery);

/// What the checks say.
#[derive(Default)]
struct Judged {
    fault: Option<Fault>,
    observed: Vec<&'static str>,
    cost: Option<u32>,
}

impl Judged {
    /// Whether the checks go on: they passed, or are only observed.
    fn passes(&mut self, checked: Result<(), Fault>, mode: Mode) -> bool {
        match (checked, mode) {
            (Ok(()), _) => true,
            (Err(fault), Mode::Observe) => {
                self.observed.push(fault.reason);
                true
            }
            (Err(fault), Mode::Enforce) => {
                self.fault = Some(fault);
                false
            }
        }
    }
}

/// The checks of `admit` in their order.
fn judge(
    snapshot: &Snapshot,
    key: &KeyEntry,
    method: &Method,
    at: &Result<At, Fault>,
    windows: &[WindowView],
    now: Now,
) -> Judged {
    let mut judged = Judged::default();
    let (host, found, target) = match at {
        Ok(at) => at,
        Err(fault) => {
            let fault = Fault::new(fault.refusal.clone(), fault.reason);
            judged.fault = Some(fault);
            return judged;
        }
    };
    let route = route_at(found).map(AsRef::as_ref);
    if is_public(route) {
        judged.fault = served(found.clone()).err();
        return judged;
    }
    let places = environments(&snapshot.config, host, route);
    let standing = standing::check(snapshot, key, places, now.wall);
    if !judged.passes(standing, Mode::Enforce) {
        return judged;
    }
    let cost = cost_of(found);
    judged.cost = Some(cost);
    let limits_mode = limits_mode(snapshot, key, route);
    if !judged.passes(room(windows, cost), limits_mode) {
        judged.cost = None;
        return judged;
    }
    match served(found.clone()) {
        Err(fault) => judged.fault = Some(fault),
        Ok(route) => {
            let permitted = permission::check(snapshot, key, &route.access);
            if judged.passes(permitted, scopes_mode(snapshot, key, &route)) {
                judged.fault = placed(snapshot, key, &route, method, host, target).err();
            }
        }
    }
    judged
}

/// Whether the request names its caller and has somewhere to go; what is another's fails, whoever writes the twin.
fn placed(
    snapshot: &Snapshot,
    key: &KeyEntry,
    route: &Route,
    method: &Method,
    host: &str,
    target: &PathAndQuery,
) -> Result<(), Fault> {
    let tenant = snapshot.tenant_of(key);
    if let Some(bindings) = &route.bindings {
        let caller = binding::Caller {
            tenant: tenant.id.as_str(),
            subject: super::subject_of(key),
        };
        let asked = binding::Asked {
            method,
            host,
            target,
        };
        let errors = binding::errors_of(&snapshot.config, host);
        let way = binding::check(route, bindings, asked, caller, errors)?;
        if let Some(foreign) = way.foreign {
            return Err(Fault::new(Refusal::NoRoute, foreign.reason));
        }
    }
    binding::placed(snapshot, route, Some(tenant), target.clone()).map(|_| ())
}

fn isolation_view(snapshot: &Snapshot, key: &KeyEntry, route: &Route) -> IsolationView {
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
    let caller = |whom: Whom| match (whom, tenant, super::subject_of(key)) {
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

fn room(windows: &[WindowView], cost: u32) -> Result<(), Fault> {
    let states = windows.iter().filter_map(|window| window.state.as_ref());
    let short = states.filter(|state| state.remaining < cost);
    match short.map(|state| state.reset_in_seconds).max() {
        None => Ok(()),
        Some(retry_after_seconds) => {
            let refusal = Refusal::LimitExceeded {
                retry_after_seconds,
            };
            Err(Fault::new(refusal, "limit_exceeded"))
        }
    }
}

fn windows(
    snapshot: &Snapshot,
    quota: Option<&Quota>,
    key: &KeyEntry,
    now: Now,
) -> Vec<WindowView> {
    let tenant = snapshot.tenant_of(key);
    let (of_key, of_tenant) = (snapshot.limits_of(key), snapshot.limits_of_tenant(tenant));
    let by_key = Charge {
        key: Some((key.id, &of_key)),
        tenant: None,
        cost: 1,
    };
    let by_tenant = Charge {
        key: None,
        tenant: Some((&tenant.id, &of_tenant)),
        cost: 1,
    };
    let subject = snapshot.config.limits.subject;
    let mut views = Vec::new();
    if subject != LimitSubject::Tenant {
        add_windows(&mut views, "key", &of_key, peek(quota, &by_key, now));
    }
    if subject != LimitSubject::Key {
        add_windows(
            &mut views,
            "tenant",
            &of_tenant,
            peek(quota, &by_tenant, now),
        );
    }
    for view in &mut views {
        view.from = origin(snapshot, key, &view.subject, &view.window);
    }
    views
}

/// The state of quota and burst; `None` where it is not known.
fn peek(quota: Option<&Quota>, charge: &Charge<'_>, now: Now) -> [Option<WindowState>; 2] {
    let numbers = quota
        .map(|quota| quota.peek(charge, now))
        .unwrap_or_default();
    [numbers.quota, numbers.burst].map(|window| window.as_ref().map(WindowState::of))
}

fn add_windows(
    views: &mut Vec<WindowView>,
    subject: &str,
    limits: &Limits,
    states: [Option<WindowState>; 2],
) {
    let rates = [("quota", limits.quota), ("burst", limits.burst)];
    for ((window, rate), state) in rates.into_iter().zip(states) {
        views.push(WindowView {
            subject: subject.to_owned(),
            window: window.to_owned(),
            limit: rate
                .as_ref()
                .map_or_else(|| "unlimited".to_owned(), Rate::to_string),
            from: String::new(),
            state,
        });
    }
}

/// Where a limit comes from, in the order of `Snapshot::limits_of`.
fn origin(snapshot: &Snapshot, key: &KeyEntry, subject: &str, window: &str) -> String {
    let tenant = snapshot.tenant_of(key);
    let said = |quota: Override, burst: Override| {
        let own = if window == "quota" { quota } else { burst };
        own != Override::Plan
    };
    let own = key.own.as_ref();
    if subject == "key" && own.is_some_and(|own| said(own.quota, own.burst)) {
        return "the key".to_owned();
    }
    if subject == "key" && key.plan != u32::MAX {
        return format!("plan {} of the key", snapshot.plan_of(key).name);
    }
    if said(tenant.own.quota, tenant.own.burst) {
        return "the tenant".to_owned();
    }
    let plan = &snapshot.plans[tenant.plan as usize];
    format!("plan {} of the tenant", plan.name)
}

fn scope_view(snapshot: &Snapshot, key: &KeyEntry, route: &Route) -> Option<ScopeView> {
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

/// `enforce`, or who says observe.
fn mode(said: &[(Mode, &str)]) -> String {
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

/// What of the key is judged by more than this request tells.
fn notes_of(key: &KeyEntry) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(binding) = &key.binding else {
        return notes;
    };
    if !binding.cidrs.is_empty() {
        notes.push("the key may be used from some networks only; no address was judged".to_owned());
    }
    if !binding.origins.is_empty() {
        notes.push("the key may be used from some web pages only; no page was judged".to_owned());
    }
    notes
}

impl RouteView {
    fn of(route: &Route) -> RouteView {
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
    fn of(numbers: &WindowNumbers) -> WindowState {
        WindowState {
            used: numbers.rate.count.saturating_sub(numbers.remaining),
            remaining: numbers.remaining,
            reset_in_seconds: numbers.reset_in_seconds,
            reset_at: rfc3339(Wall::from_unix_seconds(numbers.reset_unix_seconds)),
        }
    }
}
