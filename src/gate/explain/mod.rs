//! What the gate would decide of a request, and why: the same checks, charging nothing.

mod rights;
mod views;
mod windows;

use http::HeaderValue;
use http::Method;
use http::Request;
use http::header;
use http::request::Parts;
use http::uri::PathAndQuery;
use serde::Deserialize;
use serde::Serialize;

use crate::clock::Now;
use crate::config::LimitSubject;
use crate::gate::binding;
use crate::gate::explain::rights::isolation_view;
use crate::gate::explain::rights::mode;
use crate::gate::explain::rights::scope_view;
use crate::gate::explain::views::IsolationView;
use crate::gate::explain::views::RouteView;
use crate::gate::explain::views::ScopeView;
use crate::gate::explain::windows::room;
use crate::gate::explain::windows::windows;
use crate::gate::found::cost_of;
use crate::gate::found::environments;
use crate::gate::found::is_public;
use crate::gate::found::route_at;
use crate::gate::found::served;
use crate::gate::host;
use crate::gate::mode::limits_mode;
use crate::gate::mode::scopes_mode;
use crate::gate::permission;
use crate::gate::refused::Fault;
use crate::gate::standing;
use crate::gate::subject_of;
use crate::gate::target;
use crate::model::key::KeyId;
use crate::model::limit::Mode;
use crate::model::route::Found;
use crate::model::route::Route;
use crate::quota::Quota;
use crate::refusal::Refusal;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::store::VerbError;

pub use views::WindowView;
pub use windows::windows_of;

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
            subject: subject_of(key),
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
