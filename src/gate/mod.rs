//! The order of the checks that a request passes, and their proof: `Admission`.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::Method;
use http::header;
use http::request::Parts;
use http::uri::PathAndQuery;

use crate::alerts::Alerts;
use crate::alerts::rules;
use crate::clock::Now;
use crate::config::Auth;
use crate::config::Config;
use crate::config::LimitSubject;
use crate::model::credential::Kind;
use crate::model::credential::Kinds;
use crate::model::key::Digest;
use crate::model::key::Environment;
use crate::model::key::KeyId;
use crate::model::key::KeyKind;
use crate::model::key_text;
use crate::model::limit::Mode;
use crate::model::route::Access;
use crate::model::route::Found;
use crate::model::route::Route;
use crate::model::route::host::best;
use crate::model::source::source_of;
use crate::quota::Charge;
use crate::quota::Numbers;
use crate::quota::Quota;
use crate::quota::shared::Ask;
use crate::quota::shared::Verdict;
use crate::refusal::Refusal;
use crate::refusal::Style;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::snapshot::TenantEntry;
use crate::snapshot::place::Place;
use crate::token::Patience;
use crate::token::Tokens;
use crate::token::Verified;

mod api_key;
mod binding;
mod browser;
mod charge;
mod client;
mod credential;
mod explain;
mod host;
mod permission;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod query;
mod resource;
mod session;
mod standing;
mod target;
#[cfg(test)]
mod tests;
mod token;

pub use binding::Foreign;
pub use browser::Cors;
pub use browser::Preflight;
pub use browser::SECRET_KEY_IN_BROWSER;
pub use browser::preflight;
pub use client::locate;
pub use client::request_id;
pub use explain::Explanation;
pub use explain::Question;
pub use explain::WindowView;
pub use explain::explain;
pub use explain::windows_of;
pub use resource::metadata_asked;
pub use resource::metadata_url;

use token::Bearer;

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

/// Who the credential proved to be.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Its key.
    pub key: KeyId,
    /// The key's digest, to look it up again before the answer is sent; `None` for a token.
    digest: Option<Digest>,
    /// Index into the snapshot's tenants.
    tenant: u32,
    /// Whom it acts for (FA18).
    subject: Option<Arc<str>>,
    /// The token that it was, where it was no key.
    token: Option<Arc<Verified>>,
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
}

/// What can be awaited before a request is judged once more.
#[derive(Debug)]
pub enum Wanted {
    /// What is to be known of a token.
    Token(crate::token::Wanted),
    /// The verdict of shared counters.
    Charge(Ask),
}

/// Proof that every check passed. Only this module can make one, and the forwarder demands it.
#[derive(Debug)]
pub struct Admission {
    snapshot: Arc<Snapshot>,
    route: Arc<Route>,
    principal: Option<Principal>,
    numbers: Option<Numbers>,
    host: String,
    target: PathAndQuery,
    manner: Manner,
    /// A cell, since what the body says is known later.
    would_refuse: Cell<Option<&'static str>>,
    foreign: Option<Box<Foreign>>,
}

/// What an answer says beside its own content because of how the request came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// To the browser that asked.
    pub cors: Cors,
    /// Whether a key stood in the query: then no page may pass the address on, and no shared cache may keep the answer (FF11).
    pub key_in_query: bool,
}

/// A request that did not pass, with all that the answer and the log need.
#[derive(Debug)]
pub struct Refused {
    /// The answer.
    pub refusal: Refusal,
    /// Rate numbers, when the request was authenticated and charged (or refused by a limit).
    pub numbers: Option<Numbers>,
    /// Who it was, as far as it was known (for the log only).
    pub key: Option<KeyId>,
    /// The token that it was, where it was no key (for the log only).
    pub token: Option<Arc<Verified>>,
    /// Index into the snapshot's tenants, as far as it was known (for the log only).
    pub tenant: Option<u32>,
    /// The route, as far as it was known (for log and metrics only).
    pub route: Option<Arc<Route>>,
    /// Why, in one snake_case word that never reaches the client: `key_expired`, `unknown_key`, `path_dot_segment` …
    pub reason: &'static str,
    /// The canonical name of the host without its port, when it was valid (for `style`).
    pub host: Option<String>,
    /// What the answer says because of how the request came.
    pub manner: Manner,
    /// The reason of an earlier refusal that was only observed.
    pub would_refuse: Option<&'static str>,
    /// What can be awaited; then the same head, which is as it came, may be judged once more.
    pub wanted: Option<Box<Wanted>>,
}

/// What ended a request while it was in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its key is revoked, deleted, has another text, or is gone from the file.
    Key,
    /// Its key's tenant is suspended.
    Tenant,
}

/// What the checks found out so far: the answer and the log need it, however the request ends.
#[derive(Debug, Default)]
struct Known {
    route: Option<Arc<Route>>,
    principal: Option<Principal>,
    numbers: Option<Numbers>,
    manner: Manner,
    would_refuse: Option<&'static str>,
    foreign: Option<Box<Foreign>>,
}

/// Why a check failed.
#[derive(Debug)]
struct Fault {
    refusal: Refusal,
    /// For the log; never for the client.
    reason: &'static str,
    /// What can be awaited before this is the last word.
    wanted: Option<Box<Wanted>>,
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
) -> Result<Admission, Box<Refused>> {
    let mut known = Known::default();
    let mut host = match host::of(head) {
        Ok(host) => host,
        Err(fault) => return Err(known.refused(fault, None)),
    };
    match check(snapshot, means, now, peer, &mut host, head, &mut known) {
        Ok((route, target)) => Ok(Admission {
            snapshot: Arc::clone(snapshot),
            route,
            principal: known.principal,
            numbers: known.numbers,
            host: host.into_text(),
            target,
            manner: known.manner,
            would_refuse: Cell::new(known.would_refuse),
            foreign: known.foreign,
        }),
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
    let target = target::of(head, &config.http)?;
    let found = snapshot
        .routes
        .find(host.name(), target.path(), head.method.as_str());
    known.route = route_at(&found).cloned();
    let target = target.decide(known.route.as_ref().is_some_and(|route| route.raw_path))?;
    known.manner.cors = browser::cors(&head.headers, known.route.as_deref());
    let (target, in_query) = query::take(target, config.auth.query_parameter.as_deref());
    known.manner.key_in_query = in_query.is_some();
    let kinds = kinds_of(config, known.route.as_deref());
    let sessions = config.sessions.cookie.as_deref();
    let as_came = means.quota.shared().map(|_| charge::AsCame::of(head));
    let kept = (!kinds.are_keys_alone()).then(|| token::Kept::of(head, sessions.is_some()));
    let in_cookie =
        sessions.and_then(|name| session::take(&mut head.headers, name, config.tokens.bytes_max));
    head.uri = target::origin_form(target.clone());
    if is_public(known.route.as_deref()) {
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
    let bearer = match kept {
        None => {
            let credential = credential::take(&mut head.headers, in_query, &config.auth)?;
            let (digest, key) = api_key::verify(snapshot, &credential)
                .map_err(|fault| unknown(snapshot, means.quota, now, peer, fault))?;
            Bearer::Key(digest, key)
        }
        Some(kept) => {
            let asked = token::Asked { now, peer, kinds };
            token::verify(snapshot, means, asked, head, in_query, in_cookie, kept)?
        }
    };
    known.principal = Some(Principal::of(&bearer));
    let key = bearer.entry();
    let places = environments(config, host.name(), known.route.as_deref());
    standing::check(snapshot, key, places, now.wall)?;
    standing::check_address(key, peer.address.ip())?;
    check_page(config, key, head, known)?;
    check_session(&bearer, head, host, known)?;
    let charged = charge(snapshot, means, key, cost_of(&found), now, known);
    let charged = charge::awaited(charged, as_came, head)?;
    known.observe(charged, limits_mode(snapshot, key, known.route.as_deref()))?;
    let route = served(found)?;
    let permitted = permission::check(snapshot, key, &route.access);
    known.observe(permitted, scopes_mode(snapshot, key, &route))?;
    let target = bound(snapshot, key, &route, &head.method, host, target, known)?;
    let tenant = snapshot.tenant_of(key);
    let target = binding::placed(snapshot, &route, Some(tenant), target)?;
    Ok((route, target))
}

/// What the backend is asked for where the route is tied to its caller. Holds in observe mode too: this is about whose data it is.
fn bound(
    snapshot: &Snapshot,
    key: &KeyEntry,
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
        tenant: snapshot.tenant_of(key).id.as_str(),
        subject: subject_of(key),
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

fn subject_of(key: &KeyEntry) -> Option<&str> {
    key.binding.as_ref()?.subject.as_deref()
}

/// Takes out of the headers what nobody asks for on a public route. Where the route passes `Authorization` on, it stays, unless it is a key's.
fn discard(snapshot: &Snapshot, headers: &mut HeaderMap, route: Option<&Route>) {
    let passes = route.is_some_and(|route| route.pass_authorization)
        && credential::is_for_others(headers, &snapshot.config, |text| {
            snapshot.key(&key_text::digest_of(text)).is_some()
        });
    credential::discard(headers, &snapshot.config.auth, passes);
}

/// Counts a request to a public route under the address that sends it, where the route limits that. No key is asked for here, so that none can be
/// held up; routes with keys never come by.
fn visit(quota: &Quota, peer: &Peer, now: Now, known: &mut Known) -> Result<(), Fault> {
    let Some((route, rate)) =
        (known.route.as_deref()).and_then(|route| route.address_limit.map(|rate| (route, rate)))
    else {
        return Ok(());
    };
    let source = source_of(peer.address.ip());
    let name = (route.host.as_deref(), route.path.as_str(), &*route.methods);
    match quota.visitors.charge(name, source, rate, now) {
        Ok(numbers) => {
            known.numbers = Some(numbers);
            Ok(())
        }
        Err(exhausted) => {
            known.numbers = Some(exhausted.numbers);
            let refusal = Refusal::LimitExceeded {
                retry_after_seconds: exhausted.retry_after_seconds,
            };
            Err(Fault::new(refusal, "address_limited"))
        }
    }
}

fn visits_mode(config: &Config, route: Option<&Route>) -> Mode {
    let of_route = route.map_or(Mode::Enforce, |route| route.mode);
    observed_if_any(&[config.limits.mode, of_route])
}

/// Counts a credential that is nobody's under the one who presents it; beyond `auth.failures` the answer is 429. Known keys do not come by
/// here, so that no neighbour's spray can hold them up.
fn unknown(snapshot: &Snapshot, quota: &Quota, now: Now, peer: &Peer, fault: Fault) -> Fault {
    let config = &snapshot.config;
    let source = source_of(peer.address.ip());
    let over = config
        .auth
        .failures
        .and_then(|rate| quota.strangers.failed(source, rate, now.mono));
    let Some(over) = over else {
        // Another node may know it (PB14).
        if snapshot.may_miss_keys(now.mono) && fault.reason == "unknown_key" {
            return Fault::new(Refusal::CredentialUnclear, "store_away");
        }
        return fault;
    };
    if over.begins {
        tracing::warn!(client = %source, "auth_throttled: too many unknown keys from there (auth.failures); known ones are served");
    }
    let refusal = Refusal::LimitExceeded {
        retry_after_seconds: over.retry_after_seconds,
    };
    Fault::new(refusal, "auth_throttled")
}

/// The 429 of a source from which too much came that is nobody's, without counting; `None` while it has not.
fn throttled(config: &Config, quota: &Quota, now: Now, peer: &Peer) -> Option<Fault> {
    let source = source_of(peer.address.ip());
    let rate = config.auth.failures?;
    let over = quota.strangers.over(source, rate, now.mono)?;
    let refusal = Refusal::LimitExceeded {
        retry_after_seconds: over.retry_after_seconds,
    };
    Some(Fault::new(refusal, "auth_throttled"))
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

/// Observed where the file says so for all, for the key's plan or for the route.
fn limits_mode(snapshot: &Snapshot, key: &KeyEntry, route: Option<&Route>) -> Mode {
    let of_route = route.map_or(Mode::Enforce, |route| route.mode);
    let modes = [
        snapshot.config.limits.mode,
        snapshot.plan_of(key).mode,
        of_route,
    ];
    observed_if_any(&modes)
}

fn scopes_mode(snapshot: &Snapshot, key: &KeyEntry, route: &Route) -> Mode {
    observed_if_any(&[snapshot.plan_of(key).mode, route.mode])
}

fn observed_if_any(modes: &[Mode]) -> Mode {
    match modes.contains(&Mode::Observe) {
        true => Mode::Observe,
        false => Mode::Enforce,
    }
}

/// The route that serves the path, if only by other methods.
fn route_at(found: &Found) -> Option<&Arc<Route>> {
    match found {
        Found::Route(route) | Found::OtherMethods(route, _) => Some(route),
        Found::Nothing => None,
    }
}

fn is_public(route: Option<&Route>) -> bool {
    route.is_some_and(|route| route.access == Access::Public)
}

fn served(found: Found) -> Result<Arc<Route>, Fault> {
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
fn kinds_of(config: &Config, route: Option<&Route>) -> Kinds {
    route.map_or(config.auth.credentials, |route| route.credentials)
}

/// Where the key must be at home: the host, if it has a table of its own, and the route, if there is one.
fn environments(
    config: &Config,
    host: &str,
    route: Option<&Route>,
) -> impl Iterator<Item = Environment> {
    let of_host = best(&config.hosts, |entry| &entry.name, host).map(|entry| entry.environment);
    let of_route = route.map(|route| route.environment);
    of_host.into_iter().chain(of_route)
}

fn cost_of(found: &Found) -> u32 {
    match found {
        Found::Route(route) => route.cost,
        Found::OtherMethods(..) | Found::Nothing => 1,
    }
}

fn charge(
    snapshot: &Snapshot,
    means: &Means<'_>,
    key: &KeyEntry,
    cost: u32,
    now: Now,
    known: &mut Known,
) -> Result<(), Fault> {
    let owner = snapshot.tenant_of(key);
    let of_key = snapshot.limits_of(key);
    let of_tenant = snapshot.limits_of_tenant(owner);
    let by_key = Some((key.id, &of_key));
    let by_tenant = Some((&owner.id, &of_tenant));
    let (by_key, by_tenant) = match snapshot.config.limits.subject {
        LimitSubject::Key => (by_key, None),
        LimitSubject::Tenant => (None, by_tenant),
        LimitSubject::Both => (by_key, by_tenant),
    };
    let charge = Charge {
        key: by_key,
        tenant: by_tenant,
        cost,
    };
    let charged = match means.quota.shared() {
        None => means.quota.charge(&charge, now),
        Some(shared) => charge::shared(means, shared, &charge, now)?,
    };
    match charged {
        Ok(numbers) => {
            tell_of_limits(snapshot, means.alerts, &numbers, &charge, now, known);
            known.numbers = Some(numbers);
            Ok(())
        }
        Err(exhausted) => {
            known.numbers = Some(exhausted.numbers);
            let retry_after_seconds = exhausted.retry_after_seconds;
            let refusal = Refusal::LimitExceeded {
                retry_after_seconds,
            };
            Err(Fault::new(refusal, "limit_exceeded"))
        }
    }
}

/// Tells when this request has brought a quota window to the share that operators want to know of (FF15), whatever its answer will be. Users
/// of tokens are no keys that somebody gave out: of them only their tenant's window is told.
fn tell_of_limits(
    snapshot: &Snapshot,
    alerts: &Alerts,
    numbers: &Numbers,
    charge: &Charge<'_>,
    now: Now,
    known: &Known,
) {
    let rules = &snapshot.config.alerts;
    for (window, is_tenants) in numbers.quotas() {
        if !rules::nears(rules, window, charge.cost.max(numbers.fell)) {
            continue;
        }
        let Some(principal) = &known.principal else {
            continue;
        };
        let key = (!is_tenants).then_some(principal.key);
        if key.is_some() && principal.token.is_some() {
            continue;
        }
        let tenant = snapshot.tenants.entries.get(principal.tenant as usize);
        let tenant = tenant.map_or("", |tenant| tenant.id.as_str());
        alerts.raise(rules::limit(rules, window, key, tenant, now.wall));
    }
}

/// A known key that came where it can be read on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// Which.
    pub key: KeyId,
    /// Of the text that came: a regenerated key may have several.
    pub digest: Digest,
    /// Whether it is a secret key that has not ended for good. A public key stands in web pages anyhow: whoever sends one need not be
    /// who was given it.
    pub is_revocable: bool,
}

/// The known key that stands in this head, whatever its standing, for requests that are refused unread: a key that was sent in clear is
/// burnt (FA29). Looks at the first few lines and parameters only.
#[must_use]
pub fn peek(head: &Parts, auth: &Auth, snapshot: &Snapshot) -> Option<Exposed> {
    let known = |text: &[u8]| {
        let digest = key_text::digest_of(text);
        snapshot.key(&digest).map(|key| Exposed {
            key: key.id,
            digest,
            is_revocable: key.kind == KeyKind::Secret && !key.status.is_final(),
        })
    };
    let in_headers = credential::look(&head.headers, auth)
        .take(PEEK_LINES_MAX)
        .find_map(known);
    let (Some(name), Some(query)) = (&auth.query_parameter, head.uri.query()) else {
        return in_headers;
    };
    in_headers.or_else(|| {
        query::look(query, name)
            .take(PEEK_LINES_MAX)
            .find_map(|text| known(&text))
    })
}

/// How the gateway's own answers are written for a host (canonical, without port), as `[[hosts]]` or else `[errors]` says.
#[must_use]
pub fn style<'a>(config: &'a Config, host: Option<&str>, grpc: bool) -> Style<'a> {
    let errors = host
        .and_then(|host| best(&config.hosts, |entry| &entry.name, host))
        .map_or(config.errors, |entry| entry.errors);
    Style {
        shape: errors.shape,
        name_permission: errors.name_permission,
        realm: &config.auth.realm,
        grpc,
    }
}

/// The canonical name of the host that a request is for, without port; `None` when that is not clear. For `style` where no gate is passed.
#[must_use]
pub fn host_name(head: &Parts) -> Option<String> {
    host::of(head).ok().map(host::Host::into_name)
}

/// Whether a gRPC client asks, so that it must be answered in trailers.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let Some(after) = kind.as_bytes().strip_prefix(b"application/grpc") else {
        return false;
    };
    matches!(after.first(), None | Some(b'+' | b';'))
}

/// Headers that `peek` looks at: a stranger cannot make us hash many.
const PEEK_LINES_MAX: usize = 4;

impl Known {
    fn refused(self, fault: Fault, host: Option<String>) -> Box<Refused> {
        Box::new(Refused {
            refusal: fault.refusal,
            numbers: self.numbers,
            key: (self.principal.as_ref())
                .filter(|principal| principal.token.is_none())
                .map(|principal| principal.key),
            token: (self.principal.as_ref()).and_then(|principal| principal.token.clone()),
            tenant: self.principal.as_ref().map(|principal| principal.tenant),
            route: self.route,
            reason: fault.reason,
            host,
            manner: self.manner,
            would_refuse: self.would_refuse,
            wanted: fault.wanted,
        })
    }

    /// Lets a request pass a check that is only observed, and notes the first that would have refused it. What the headers then say is
    /// what they would have said.
    fn observe(&mut self, checked: Result<(), Fault>, mode: Mode) -> Result<(), Fault> {
        match (checked, mode) {
            (Err(fault), Mode::Observe) => {
                self.would_refuse.get_or_insert(fault.reason);
                Ok(())
            }
            (checked, _) => checked,
        }
    }
}

impl Refused {
    /// Whether the answer is to be the twin of what is missing.
    #[must_use]
    pub fn is_twin(&self) -> bool {
        self.refusal == Refusal::NoRoute
            && matches!(self.reason, "foreign_tenant" | "foreign_subject")
    }
}

impl Fault {
    fn new(refusal: Refusal, reason: &'static str) -> Fault {
        Fault {
            refusal,
            reason,
            wanted: None,
        }
    }

    fn bad_request(detail: &'static str, reason: &'static str) -> Fault {
        Fault::new(Refusal::BadRequest(detail), reason)
    }
}

impl Ended {
    /// What the client is told, if it can still be told: what the same request would be told now.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        match self {
            Ended::Key => Refusal::CredentialInvalid,
            Ended::Tenant => Refusal::TenantSuspended,
        }
    }

    /// The word for the log.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Ended::Key => "revoked_meanwhile",
            Ended::Tenant => "suspended_meanwhile",
        }
    }
}

impl Principal {
    fn of(bearer: &Bearer<'_>) -> Principal {
        let key = bearer.entry();
        let (digest, token) = match bearer {
            Bearer::Key(digest, _) => (Some(*digest), None),
            Bearer::Token(token) => (None, Some(Arc::clone(token))),
        };
        Principal {
            key: key.id,
            digest,
            tenant: key.tenant,
            subject: key.binding.as_ref().and_then(|own| own.subject.clone()),
            token,
        }
    }

    /// Under what its requests are reported: its key, or the tokens of its tenant.
    #[must_use]
    pub fn reported(&self) -> KeyId {
        (self.token.as_ref()).map_or(self.key, |token| token.reported)
    }

    /// The token that it was; `None` for a key.
    #[must_use]
    pub fn token(&self) -> Option<&Arc<Verified>> {
        self.token.as_ref()
    }
}

impl Admission {
    /// The view under which it was admitted.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The route that serves it.
    #[must_use]
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Who calls; `None` on public routes.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// The caller's tenant; `None` on public routes.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantEntry> {
        self.principal
            .as_ref()
            .map(|principal| &self.snapshot.tenants.entries[principal.tenant as usize])
    }

    /// Whom the key acts for, if anybody in particular (FA18).
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.principal.as_ref()?.subject.as_deref()
    }

    /// For the rate-limit headers; `None` on public routes that do not limit addresses.
    #[must_use]
    pub fn numbers(&self) -> Option<&Numbers> {
        self.numbers.as_ref()
    }

    /// What the answer says because of how the request came.
    #[must_use]
    pub fn manner(&self) -> &Manner {
        &self.manner
    }

    /// Why it would have been refused, if a rule were not only observed.
    #[must_use]
    pub fn would_refuse(&self) -> Option<&'static str> {
        self.would_refuse.get()
    }

    /// Something was found out that would have refused it, and is only observed. The first of it counts.
    pub fn observe(&self, reason: &'static str) {
        let first = self.would_refuse.get().unwrap_or(reason);
        self.would_refuse.set(Some(first));
    }

    /// The host that the client asked for, as it is forwarded: lower case, with its port if one was given.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path that is forwarded; without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// Set where the request is for another's: then its target and host are those of something that cannot exist, and the answer is to be
    /// the 404 twin.
    #[must_use]
    pub fn foreign(&self) -> Option<&Foreign> {
        self.foreign.as_deref()
    }

    /// Where it goes.
    #[must_use]
    pub fn place(&self) -> Place<'_> {
        self.snapshot.place(self.route.upstream, self.tenant())
    }

    /// The target that is forwarded: the path that was decided on behind the prefix of its place, and the query as it came, but for what the
    /// route sets.
    #[must_use]
    pub fn target(&self) -> &PathAndQuery {
        &self.target
    }

    /// Whether a parameter of the query has this name, in any spelling that some backend takes for it.
    #[must_use]
    pub fn query_has(&self, name: &str) -> bool {
        query::sole(self.target.query(), name) != Ok(None)
    }

    /// What has ended the request since it was admitted, as a later snapshot shows it, if anything has (FA9; DESIGN section 3, step 9).
    /// Nothing ends a request without a key, nor any where `[revocation] in_flight` says that they finish.
    #[must_use]
    pub fn ended(&self, snapshot: &Arc<Snapshot>) -> Option<Ended> {
        let principal = self.principal.as_ref()?;
        if Arc::ptr_eq(snapshot, &self.snapshot) || !snapshot.config.revocation.abort_in_flight {
            return None;
        }
        if let Some(token) = &principal.token {
            return standing::token_ended(&self.snapshot, snapshot, token);
        }
        match principal.digest.and_then(|digest| snapshot.key(&digest)) {
            Some(key) => standing::ended(snapshot, key),
            // A regenerated key has another digest under the same id: the old text is unknown and ends here.
            None => Some(Ended::Key),
        }
    }
}

#[cfg(test)]
impl Admission {
    /// An admission that passed no check, so that what comes after the gate can be tested alone. `tenant` is an index into the snapshot's tenants.
    pub(crate) fn for_tests(
        snapshot: Arc<Snapshot>,
        route: Arc<Route>,
        tenant: Option<u32>,
        host: &str,
        path: &str,
    ) -> Admission {
        Admission {
            snapshot,
            route,
            principal: tenant.map(|tenant| Principal {
                key: KeyId(*b"AAAAAAAAAAAA"),
                digest: Some(Digest([0; 32])),
                tenant,
                subject: None,
                token: None,
            }),
            numbers: None,
            host: host.to_owned(),
            target: path.parse().expect("a test's path is a valid path"),
            manner: Manner::default(),
            would_refuse: Cell::default(),
            foreign: None,
        }
    }
}
