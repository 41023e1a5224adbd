//! The order of the checks that a request passes, and their proof: `Admission`.

mod admission;
mod api_key;
mod binding;
mod browser;
mod charge;
mod client;
mod credential;
mod early;
mod explain;
mod exposed;
mod found;
mod host;
mod mode;
mod permission;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod query;
mod refused;
mod resource;
mod session;
mod standing;
mod strangers;
mod style;
mod target;
#[cfg(test)]
mod tests;
mod token;

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;
use http::request::Parts;
use http::uri::PathAndQuery;

use crate::alerts::Alerts;
use crate::clock::Now;
use crate::config::Config;
use crate::gate::found::cost_of;
use crate::gate::found::environments;
use crate::gate::found::is_public;
use crate::gate::found::kinds_of;
use crate::gate::found::route_at;
use crate::gate::found::served;
use crate::gate::mode::limits_mode;
use crate::gate::mode::scopes_mode;
use crate::gate::mode::visits_mode;
use crate::gate::refused::Fault;
use crate::gate::refused::Known;
use crate::gate::strangers::discard;
use crate::gate::strangers::unknown;
use crate::gate::strangers::visit;
use crate::gate::token::Bearer;
use crate::model::credential::Kind;
use crate::model::route::Found;
use crate::model::route::Route;
use crate::quota::Quota;
use crate::quota::shared::Ask;
use crate::quota::shared::Verdict;
use crate::refusal::Refusal;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::token::Patience;
use crate::token::Tokens;

pub use admission::Admission;
pub use admission::Ended;
pub use admission::Manner;
pub use admission::Principal;
pub use binding::Foreign;
pub use browser::Cors;
pub use browser::Preflight;
pub use browser::SECRET_KEY_IN_BROWSER;
pub use browser::preflight;
pub use client::locate;
pub use client::request_id;
pub use early::Early;
pub use early::Gathering;
pub use explain::Explanation;
pub use explain::Question;
pub use explain::WindowView;
pub use explain::explain;
pub use explain::windows_of;
pub use exposed::Exposed;
pub use exposed::peek;
pub use refused::Refused;
pub use resource::metadata_asked;
pub use resource::metadata_url;
pub use style::host_name;
pub use style::is_grpc;
pub use style::style;

/// What is known of a client connection before any request on it.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// The address it reached.
    pub local: SocketAddr,
    /// Who brings its requests.
    pub via: Via,
}

/// Who brings the requests of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// The client itself, or somebody whose headers are not believed.
    #[default]
    Direct,
    /// A proxy whose `X-Forwarded-For` and `X-Request-Id` are believed.
    TrustedProxy,
    /// Such a proxy, with an `X-Forwarded-For` that cannot be read: nobody knows who asks.
    Unclear,
}

/// What the checks work with beside the view.
#[derive(Debug)]
pub struct Means<'a> {
    /// All counters.
    pub quota: &'a Quota,
    /// What is known of tokens.
    pub tokens: &'a Tokens,
    /// What operators should know at once.
    pub alerts: &'a Alerts,
    /// Whether the request has waited already.
    pub patience: Patience,
    /// What shared counters said, once they were asked.
    pub charged: Option<Verdict>,
    /// The text that is looked for already, if any is.
    pub early: Option<&'a Early>,
}

/// What can be awaited before a request is judged once more.
#[derive(Debug)]
pub enum Wanted {
    /// What is to be known of a token.
    Token(crate::token::Wanted),
    /// The verdict of shared counters.
    Charge(Ask),
}

/// Walks the checks in their order (DESIGN section 3, steps 1 to 6): sanitise, match, authenticate, standing, charge, authorise.
/// Takes every credential out of `head` and rewrites its target to the canonical path, origin-form.
///
/// Where no route matches, a key is demanded all the same and its environment is compared with the host's alone, so that a stranger
/// cannot tell which paths exist; 404 and 405 cost 1. On a public path the wrong method is 405 without a key.
///
/// # Errors
/// The first check that fails.
pub fn admit(
    snapshot: &Arc<Snapshot>,
    means: &Means<'_>,
    now: Now,
    peer: &Peer,
    head: &mut Parts,
) -> Result<Box<Admission>, Box<Refused>> {
    let mut known = Known::default();
    let mut host = match host::of(head) {
        Ok(host) => host,
        Err(fault) => return Err(known.refused(fault, None)),
    };
    match check(snapshot, means, now, peer, &mut host, head, &mut known) {
        Ok((route, target)) => Ok(Box::new(Admission {
            snapshot: Arc::clone(snapshot),
            route,
            principal: known.principal,
            numbers: known.numbers,
            host: host.into_text(),
            target,
            manner: known.manner,
            would_refuse: Cell::new(known.would_refuse),
            foreign: known.foreign,
        })),
        Err(fault) => Err(known.refused(fault, Some(host.into_name()))),
    }
}

fn check(
    snapshot: &Snapshot,
    means: &Means<'_>,
    now: Now,
    peer: &Peer,
    host: &mut host::Host,
    head: &mut Parts,
    known: &mut Known,
) -> Result<(Arc<Route>, PathAndQuery), Fault> {
    let config = &snapshot.config;
    client::check(peer)?;
    if let Some(early) = means.early {
        early.look_ahead(snapshot);
    }
    let target = target::of(head, &config.http)?;
    let found = snapshot
        .routes
        .find(host.name(), target.path(), head.method.as_str());
    if let Some(early) = means.early {
        early.look_on(snapshot, means.quota);
    }
    known.route = route_at(&found).cloned();
    let target = target.decide(known.route.as_ref().is_some_and(|route| route.raw_path))?;
    known.manner.cors = browser::cors(&head.headers, known.route.as_deref());
    let (target, in_query) = query::take(target, config.auth.query_parameter.as_deref());
    known.manner.key_in_query = in_query.is_some();
    let as_came = means.quota.shared().map(|_| charge::AsCame::of(head));
    let public = is_public(known.route.as_deref());
    let kinds = kinds_of(config, known.route.as_deref());
    let asked = token::Asked { now, peer, kinds };
    let mut memory = (!public && !kinds.are_keys_alone())
        .then(|| token::Memory::new(snapshot, means.tokens, asked));
    let cookies = match &config.sessions.cookie {
        None => session::Taken::default(),
        Some(name) => session::take(&mut head.headers, name, config.tokens.bytes_max, |text| {
            (memory.as_mut()).is_some_and(|memory| memory.knows(Kind::Session, text))
        }),
    };
    let uri = std::mem::replace(&mut head.uri, target::origin_form(target.clone()));
    if public {
        discard(snapshot, &mut head.headers, known.route.as_deref());
        let visited = visit(means.quota, peer, now, known);
        known.observe(visited, visits_mode(config, known.route.as_deref()))?;
        let route = served(found)?;
        let target = binding::placed(snapshot, &route, None, target)?;
        return Ok((route, target));
    }
    if snapshot.is_stale(now.mono) {
        return Err(Fault::new(Refusal::CredentialUnclear, "store_stale"));
    }
    let bearer = match memory {
        None => {
            let credential = credential::take(&mut head.headers, in_query, &config.auth)?;
            let (digest, key) = api_key::verify(snapshot, &credential, means.early)
                .map_err(|fault| unknown(snapshot, means.quota, now, peer, fault))?;
            Bearer::Key(digest, key)
        }
        Some(memory) => {
            let came = token::Came {
                in_query,
                in_cookie: cookies.presented,
                kept: token::Kept {
                    uri,
                    cookies: cookies.lines,
                },
                memory,
            };
            token::verify(snapshot, means, asked, head, came)?
        }
    };
    let request = Request {
        found,
        target,
        as_came,
        head,
        host,
    };
    let judged = judge(snapshot, means, asked, &bearer, request, known);
    known.principal = Some(Principal::of(bearer));
    judged
}

/// A request, once it is known who sends it.
struct Request<'a> {
    found: Found,
    target: PathAndQuery,
    as_came: Option<charge::AsCame>,
    head: &'a mut Parts,
    host: &'a mut host::Host,
}

/// The checks of who it is that asks, and of what he asks for.
fn judge(
    snapshot: &Snapshot,
    means: &Means<'_>,
    asked: token::Asked<'_>,
    bearer: &Bearer<'_>,
    request: Request<'_>,
    known: &mut Known,
) -> Result<(Arc<Route>, PathAndQuery), Fault> {
    let Request {
        found, head, host, ..
    } = request;
    let (config, now, key) = (&snapshot.config, asked.now, bearer.entry());
    let places = environments(config, host.name(), known.route.as_deref());
    standing::check(snapshot, key, places, now.wall)?;
    standing::check_address(key, asked.peer.address.ip())?;
    check_page(config, key, head, known)?;
    check_session(bearer, head, host, known)?;
    let charged = charge::charge(snapshot, means, bearer, cost_of(&found), now, known);
    let charged = charge::awaited(charged, request.as_came, head)?;
    known.observe(charged, limits_mode(snapshot, key, known.route.as_deref()))?;
    let route = served(found)?;
    let permitted = permission::check(snapshot, key, &route.access);
    known.observe(permitted, scopes_mode(snapshot, key, &route))?;
    let target = bound(
        snapshot,
        bearer,
        &route,
        &head.method,
        host,
        request.target,
        known,
    )?;
    let tenant = snapshot.tenant_of(key);
    let target = binding::placed(snapshot, &route, Some(tenant), target)?;
    Ok((route, target))
}

/// What the backend is asked for where the route is tied to its caller. Holds in observe mode too: this is about whose data it is.
fn bound(
    snapshot: &Snapshot,
    bearer: &Bearer<'_>,
    route: &Route,
    method: &Method,
    host: &mut host::Host,
    target: PathAndQuery,
    known: &mut Known,
) -> Result<PathAndQuery, Fault> {
    let Some(bindings) = &route.bindings else {
        return Ok(target);
    };
    let caller = binding::Caller {
        tenant: snapshot.tenant_of(bearer.entry()).id.as_str(),
        subject: bearer.subject(),
    };
    let asked = binding::Asked {
        method,
        host: host.name(),
        target: &target,
    };
    let errors = binding::errors_of(&snapshot.config, host.name());
    let way = binding::check(route, bindings, asked, caller, errors)?;
    if let Some(name) = way.host {
        host.rename(&name);
    }
    known.foreign = way.foreign;
    Ok(way.target)
}

/// Whom a key acts for.
fn subject_of(key: &KeyEntry) -> Option<&str> {
    key.binding.as_ref()?.subject.as_deref()
}

/// The web page that sends a request must be among the key's own, where it has any.
fn check_page(
    config: &Config,
    key: &KeyEntry,
    head: &Parts,
    known: &mut Known,
) -> Result<(), Fault> {
    browser::check(&head.headers, key, &config.auth).inspect_err(|_| {
        // The page is told no more than that it may not.
        known.manner.cors = match known.manner.cors {
            Cors::Silent => Cors::Silent,
            Cors::Denied | Cors::Allowed(_) => Cors::Denied,
        };
    })
}

/// What a session changes must come from a page that may.
fn check_session(
    bearer: &Bearer<'_>,
    head: &Parts,
    host: &host::Host,
    known: &Known,
) -> Result<(), Fault> {
    match bearer {
        Bearer::Token(token) if token.kind == Kind::Session => {
            session::check_origin(&head.method, &head.headers, host, known.route.as_deref())
        }
        Bearer::Key(..) | Bearer::Token(_) => Ok(()),
    }
}
