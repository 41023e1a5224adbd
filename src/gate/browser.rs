//! What browsers are told: preflights answered from the route's origins, and which web pages may use which keys (FF2, C-14).

use std::sync::Arc;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header;
use http::header::ACCESS_CONTROL_REQUEST_HEADERS;
use http::header::ACCESS_CONTROL_REQUEST_METHOD;
use http::request::Parts;

use super::host;
use super::refused::Fault;
use super::target;
use crate::config::Auth;
use crate::model::key::KeyKind;
use crate::model::route::Found;
use crate::model::route::Route;
use crate::model::web_origin;
use crate::refusal::Refusal;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// What an answer says to the browser that asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cors {
    /// The route serves no other origin: nothing is said.
    #[default]
    Silent,
    /// The route serves some origins, but not this one: only that the answer depends on it.
    Denied,
    /// The page at this origin may read the answer.
    Allowed(HeaderValue),
}

/// A preflight that the route's origins allow.
#[derive(Debug)]
pub struct Preflight {
    /// The page's origin.
    pub origin: HeaderValue,
    /// The methods that are served, for `Access-Control-Allow-Methods`.
    pub methods: String,
    /// The headers that the page asked to send.
    pub headers: Option<HeaderValue>,
    /// The route.
    pub route: Arc<Route>,
    /// The canonical name of the host.
    pub host: String,
}

/// Recognises a preflight that is to be answered without a key. Every other one is judged like any request: browsers send no credential with
/// it, so it is refused (CW10).
#[must_use]
pub fn preflight(snapshot: &Snapshot, head: &Parts) -> Option<Preflight> {
    if head.method != Method::OPTIONS {
        return None;
    }
    let wanted = head
        .headers
        .get(ACCESS_CONTROL_REQUEST_METHOD)?
        .to_str()
        .ok()?;
    let origin = single(&head.headers, &header::ORIGIN)?;
    let host = host::of(head).ok()?;
    let target = target::of(head, &snapshot.config.http).ok()?;
    let found = snapshot.routes.find(host.name(), target.path(), wanted);
    let (route, methods) = match found {
        Found::Route(route) => (route, wanted.to_owned()),
        Found::OtherMethods(route, allow) => (route, allow),
        Found::Nothing => return None,
    };
    target.decide(route.raw_path).ok()?;
    web_origin::allowed(&route.origins, origin.as_bytes()).then(|| Preflight {
        origin: origin.clone(),
        methods,
        headers: head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
        route,
        host: host.into_name(),
    })
}

/// What the answer of a route is to say to the page that asks, if one does.
pub(super) fn cors(headers: &HeaderMap, route: Option<&Route>) -> Cors {
    let Some(route) = route.filter(|route| !route.origins.is_empty()) else {
        return Cors::Silent;
    };
    match single(headers, &header::ORIGIN) {
        Some(origin) if web_origin::allowed(&route.origins, origin.as_bytes()) => {
            Cors::Allowed(origin.clone())
        }
        _ => Cors::Denied,
    }
}

/// Whether this key may be used from where the request says it comes. What says nothing of an origin comes from no page.
///
/// # Errors
/// 403: an origin that is not among the key's own (FF2), or a secret key in a browser where those are refused (FF20).
pub(super) fn check(headers: &HeaderMap, key: &KeyEntry, auth: &Auth) -> Result<(), Fault> {
    let refused = |reason| Fault::new(Refusal::OriginNotAllowed, reason);
    if key.kind == KeyKind::Secret
        && auth.refuse_secret_keys_in_browsers
        && (headers.contains_key(header::ORIGIN) || headers.contains_key(SEC_FETCH_MODE))
    {
        return Err(refused(SECRET_KEY_IN_BROWSER));
    }
    let origins = match &key.binding {
        Some(binding) if !binding.origins.is_empty() => &binding.origins,
        _ => return Ok(()),
    };
    let mut lines = headers.get_all(header::ORIGIN).iter();
    match lines.all(|line| web_origin::allowed(origins, line.as_bytes())) {
        true => Ok(()),
        false => Err(refused("origin_not_of_key")),
    }
}

/// The reason of a refusal that an operator must hear of: the key is published.
pub const SECRET_KEY_IN_BROWSER: &str = "secret_key_in_browser";

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}
