//! Who asks, and what he may: the socket's peer everything, over TCP what his token or session says, and nothing under a foreign name.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::Extension;
use axum::extract::Request;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::Method;
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::header::COOKIE as COOKIE_HEADER;
use axum::http::header::HOST;
use axum::http::header::ORIGIN;
use axum::middleware::Next;
use axum::response::IntoResponse;
use axum::response::Response;

use crate::admin::Admin;
use crate::admin::Caller;
use crate::admin::problem::Problem;
use crate::admin::session::COOKIE;
use crate::alerts::rules;
use crate::model::admin_token::AdminToken;
use crate::model::admin_token::Role;
use crate::model::key_text;
use crate::store::audit::Actor;

/// The header that a page of ours sends with each change: no other page can without a preflight, which is never granted.
const OWN_PAGE: &str = "x-portcullis-page";

/// Longest credential that is looked at.
const CREDENTIAL_BYTES_MAX: usize = 256;

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    /// For the audit log.
    pub(super) actor: Actor,
    /// What he may.
    pub(super) role: Role,
    /// What people call his token; the socket's peer has none.
    pub(super) name: Option<String>,
}

impl Grant {
    /// The only tenant whose keys he may see.
    pub(super) fn tenant(&self) -> Option<&str> {
        self.role.tenant().map(|tenant| tenant.as_str())
    }

    fn of_token(token: AdminToken, caller: Caller) -> Grant {
        let from = caller
            .peer
            .map_or("?".to_owned(), |peer| peer.ip().to_string());
        Grant {
            actor: Actor {
                who: format!("token:{}", token.id),
                from,
                once: None,
            },
            role: token.role,
            name: Some(token.name),
        }
    }
}

/// Lets in who may come in, and says in the request who he is.
pub(super) async fn let_in(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    match grant(&admin, caller, request.method(), request.headers()) {
        Ok(grant) => {
            let reads = matches!(*request.method(), Method::GET | Method::HEAD);
            // Whoever came in may leave.
            let leaves = request.uri().path() == "/v1/session";
            if grant.role == Role::ReadOnly && !reads && !leaves {
                return Problem::forbidden("This token may read, and change nothing.")
                    .into_response();
            }
            request.extensions_mut().insert(grant);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Turns away who is tied to one tenant: for all that is not one tenant's.
pub(super) async fn whole(
    Extension(grant): Extension<Grant>,
    request: Request,
    next: Next,
) -> Response {
    match grant.tenant() {
        None => next.run(request).await,
        Some(_) => {
            Problem::forbidden("This token is for the keys of one tenant alone.").into_response()
        }
    }
}

fn grant(
    admin: &Admin,
    caller: Caller,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Grant, Problem> {
    let Some(_) = caller.peer else {
        return Ok(Grant {
            actor: Actor::user(caller.uid, "socket"),
            role: Role::Full,
            name: None,
        });
    };
    own_name(admin, headers)?;
    let now = admin.clock.now();
    if headers.contains_key(AUTHORIZATION) {
        let token = bearer(headers).and_then(|text| {
            admin
                .keeper
                .admin_token(&key_text::digest_of(text.as_bytes()), now.wall)
        });
        return token
            .map(|token| Grant::of_token(token, caller))
            .ok_or_else(|| turned_away(admin, caller));
    }
    let Some(cookie) = session_cookie(headers) else {
        return Err(Problem::unauthorized());
    };
    if !matches!(*method, Method::GET | Method::HEAD) {
        of_own_page(headers)?;
    }
    let id = admin.sessions.token_of(cookie, now.mono);
    id.and_then(|id| admin.keeper.admin_token_by_id(&id, now.wall))
        .map(|token| Grant::of_token(token, caller))
        .ok_or_else(Problem::unauthorized)
}

/// A credential that opens nothing: told, so that somebody who tries them is seen.
pub(super) fn turned_away(admin: &Admin, caller: Caller) -> Problem {
    let client = caller.peer.map(|peer| peer.ip().to_string());
    tracing::warn!(
        client,
        "admin_auth_failed: a token that opens nothing was shown to the admin listener"
    );
    if let Some(peer) = caller.peer {
        let now = admin.clock.now();
        if admin.sessions.fails_often(now.mono) {
            let alert = rules::failing("admin listener", peer.ip(), now.wall);
            admin.alerts.raise(alert);
        }
    }
    Problem::unauthorized()
}

/// The name under which the listener is spoken to must be its own: a page of another site whose name was made to point here would speak to
/// it under that (DNS rebinding).
pub(super) fn own_name(admin: &Admin, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    let snapshot = admin.keeper.snapshot().load();
    let named = |host: &str| {
        let name = without_port(host);
        let is_local =
            name.eq_ignore_ascii_case("localhost") || is_own_address(name, admin.address);
        is_local || (snapshot.config.admin.hosts.iter()).any(|own| own.eq_ignore_ascii_case(name))
    };
    match (host, hosts.next()) {
        (Some(host), None) if named(host) => Ok(()),
        _ => Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "misdirected",
            "The admin listener answers to localhost, to its own address, and to the names in [admin] hosts.",
        )),
    }
}

fn without_port(host: &str) -> &str {
    match (host.strip_prefix('['), host.rsplit_once(':')) {
        (Some(inner), _) => inner.split(']').next().unwrap_or(""),
        (None, Some((name, _))) => name,
        (None, None) => host,
    }
}

/// An address is no name that somebody could point here: it is ours if it is loopback or what we listen on.
fn is_own_address(name: &str, listening: Option<SocketAddr>) -> bool {
    let Ok(address) = name.parse::<IpAddr>() else {
        return false;
    };
    address.is_loopback() || listening.is_some_and(|own| own.ip() == address)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let value = all.next()?.to_str().ok()?;
    let (scheme, text) = value.split_once(' ')?;
    let is_one = all.next().is_none() && scheme.eq_ignore_ascii_case("bearer");
    let text = text.trim();
    (is_one && !text.is_empty() && text.len() <= CREDENTIAL_BYTES_MAX).then_some(text)
}

/// What stands in our cookie; nothing where it stands twice.
pub(super) fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(COOKIE_HEADER).iter();
    let texts = lines.filter_map(|line| line.to_str().ok());
    let mut ours = texts
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == COOKIE)
        .map(|(_, text)| text);
    let text = ours.next()?;
    (ours.next().is_none() && text.len() <= CREDENTIAL_BYTES_MAX).then_some(text)
}

/// A change by cookie comes from a page of ours: the cookie is `SameSite=Strict`, and this holds even where a browser does not.
pub(super) fn of_own_page(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(HOST.as_str()).unwrap_or("");
    let origin = text(ORIGIN.as_str());
    let same_origin = origin.is_none_or(|origin| {
        let authority = origin
            .split_once("://")
            .map_or("", |(_, authority)| authority);
        authority.eq_ignore_ascii_case(host)
    });
    let same_site = text("sec-fetch-site").is_none_or(|site| site == "same-origin");
    match text(OWN_PAGE).is_some() && same_origin && same_site {
        true => Ok(()),
        false => Err(Problem::forbidden(
            "A session may change something from the dashboard's own page alone.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, axum::http::HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn one_bearer_credential_is_read_and_two_are_none() {
        let cases = [
            (vec![("authorization", "Bearer abc")], Some("abc")),
            (vec![("authorization", "bearer  abc ")], Some("abc")),
            (vec![("authorization", "Basic abc")], None),
            (vec![("authorization", "Bearer")], None),
            (
                vec![("authorization", "Bearer a"), ("authorization", "Bearer b")],
                None,
            ),
        ];
        for (lines, expected) in cases {
            assert_eq!(bearer(&headers(&lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn one_session_cookie_is_read_and_two_are_none() {
        let cases = [
            (
                vec![("cookie", "a=1; portcullis_session=abc; b=2")],
                Some("abc"),
            ),
            (vec![("cookie", "portcullis_session2=abc")], None),
            (
                vec![("cookie", "portcullis_session=a; portcullis_session=b")],
                None,
            ),
            (
                vec![
                    ("cookie", "portcullis_session=a"),
                    ("cookie", "portcullis_session=b"),
                ],
                None,
            ),
        ];
        for (lines, expected) in cases {
            assert_eq!(session_cookie(&headers(&lines)), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_change_by_cookie_comes_from_our_own_page() {
        let own = ("x-portcullis-page", "1");
        let host = ("host", "127.0.0.1:9600");
        let cases = [
            (vec![own, host], true),
            (
                vec![
                    own,
                    host,
                    ("origin", "http://127.0.0.1:9600"),
                    ("sec-fetch-site", "same-origin"),
                ],
                true,
            ),
            (vec![host], false),
            (vec![own, host, ("origin", "http://127.0.0.1:9601")], false),
            (vec![own, host, ("origin", "null")], false),
            (vec![own, host, ("sec-fetch-site", "same-site")], false),
            (vec![own, host, ("sec-fetch-site", "cross-site")], false),
        ];
        for (lines, fine) in cases {
            assert_eq!(of_own_page(&headers(&lines)).is_ok(), fine, "{lines:?}");
        }
    }

    #[test]
    fn only_our_own_addresses_are_names_of_ours() {
        let listening = "192.0.2.7:9600".parse().ok();
        for (host, fine) in [
            ("127.0.0.1:9600", true),
            ("127.0.0.1", true),
            ("[::1]:9600", true),
            ("192.0.2.7:9600", true),
            ("192.0.2.8:9600", false),
            ("evil.example:9600", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(
                is_own_address(without_port(host), listening),
                fine,
                "{host}"
            );
        }
    }
}
