//! The admin API, JSON over HTTP under `/v1/`: on the unix socket, and over TCP for whoever shows an admin token. `openapi.json` describes it.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::http::header::CONTENT_TYPE;
use axum::http::header::SET_COOKIE;
use axum::middleware;
use axum::response::IntoResponse;
use axum::response::Response;
use axum::routing::MethodFilter;
use axum::routing::MethodRouter;
use axum::routing::delete;
use axum::routing::get;
use axum::routing::on;
use axum::routing::post;
use serde::Deserialize;
use serde_json::json;

use crate::admin::Admin;
use crate::admin::Caller;
use crate::admin::grant;
use crate::admin::grant::Grant;
use crate::admin::problem::Problem;
use crate::admin::rest::extract::Body;
use crate::admin::rest::extract::Id;
use crate::admin::session::COOKIE;
use crate::model::key_text;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::audit::Actor;
use crate::store::audit::Once;
use crate::store::error::EXIT_USAGE;

mod denials;
mod extract;
mod keys;
mod system;
mod tenants;
mod usage;

/// Largest body but for imports.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Largest import over the API; the command line takes larger ones.
const IMPORT_BYTES_MAX: usize = 64 << 20;

/// The longest life that can be said in seconds: a hundred years.
const LIFETIME_SECONDS_MAX: u64 = 100 * 365 * 86_400;

/// The caller's name for an act that is to be done once.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

const OPENAPI: &str = include_str!("openapi.json");

/// All calls.
pub(super) fn router(admin: &Arc<Admin>) -> Router {
    let granted = middleware::from_fn_with_state(Arc::clone(admin), grant::let_in);
    let own = Router::new()
        .route("/v1/openapi.json", get(openapi))
        .route("/v1/session", get(session).delete(log_out))
        .route("/v1/keys", get(keys::list).post(keys::create))
        .route(
            "/v1/keys/{id}",
            get(keys::show)
                .patch(keys::change)
                .merge(key_act(MethodFilter::DELETE, |id| Verb::KeyDelete { id })),
        )
        .route(
            "/v1/keys/{id}/deactivate",
            key_act(MethodFilter::POST, |id| Verb::KeyDeactivate { id }),
        )
        .route(
            "/v1/keys/{id}/activate",
            key_act(MethodFilter::POST, |id| Verb::KeyActivate { id }),
        )
        .route(
            "/v1/keys/{id}/revoke",
            key_act(MethodFilter::POST, |id| Verb::KeyRevoke { id }),
        )
        .route("/v1/keys/{id}/regenerate", post(keys::regenerate))
        .route("/v1/keys/{id}/rotate", post(keys::rotate))
        .route("/v1/keys/{id}/usage", get(usage::of_key))
        .route("/v1/keys/{id}/limits", get(usage::limits))
        .route("/v1/usage", get(usage::all))
        .route("/v1/tenants", get(tenants::list));
    let whole = Router::new()
        .route("/v1/tenants/{id}/suspend", post(tenants::suspend))
        .route("/v1/tenants/{id}/resume", post(tenants::resume))
        .route("/v1/revocations", post(system::revoke_many))
        .route(
            "/v1/imports",
            post(system::import).layer(DefaultBodyLimit::max(IMPORT_BYTES_MAX)),
        )
        .route("/v1/denied-tokens", get(denials::list).post(denials::deny))
        .route("/v1/denied-tokens/{by}/{value}", delete(denials::allow))
        .route("/v1/plans", get(system::plans))
        .route("/v1/routes", get(system::routes))
        .route("/v1/upstreams", get(system::upstreams))
        .route("/v1/explain", post(system::explain))
        .route("/v1/observed", get(system::observed))
        .route("/v1/status", get(system::status))
        .route("/v1/overview", get(system::overview))
        .route("/v1/reload", post(system::reload))
        .route("/v1/alerts", get(system::alerts))
        .route("/v1/audit", get(system::audit))
        .route("/v1/audit/verify", get(system::verify))
        .route(
            "/v1/admin-tokens",
            get(system::tokens).post(system::create_token),
        )
        .route("/v1/admin-tokens/{id}", delete(system::revoke_token))
        .route_layer(middleware::from_fn(grant::whole));
    // One path, of which everybody may read his own, and only the operator change anything.
    let tenant = Router::new()
        .route(
            "/v1/tenants/{id}",
            axum::routing::put(tenants::put).patch(tenants::change),
        )
        .route_layer(middleware::from_fn(grant::whole))
        .route("/v1/tenants/{id}", get(tenants::show));
    own.merge(whole)
        .merge(tenant)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .method_not_allowed_fallback(not_allowed)
        .route_layer(granted)
        // Whoever logs in has no grant yet.
        .merge(Router::new().route("/v1/session", post(log_in)))
        .with_state(Arc::clone(admin))
        .layer(middleware::map_response(never_kept))
}

/// The call for an act that needs nothing but a key's id.
fn key_act(method: MethodFilter, verb: fn(String) -> Verb) -> MethodRouter<Arc<Admin>> {
    on(
        method,
        move |State(admin): State<Arc<Admin>>, Extension(grant): Extension<Grant>, Id(id): Id| {
            keys::act(admin, grant, id, verb)
        },
    )
}

/// For what is no call at all.
pub(super) async fn nothing_here() -> Problem {
    Problem::not_found("call")
}

async fn not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "This call has other methods.",
    )
}

/// What tells of keys is kept by nobody on the way.
async fn never_kept(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let nosniff = HeaderName::from_static("x-content-type-options");
    headers.insert(nosniff, HeaderValue::from_static("nosniff"));
    answer
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// What a session is begun with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogIn {
    token: String,
}

/// Begins a session for a browser, whose cookie no script can read.
async fn log_in(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    asked: Body<LogIn>,
) -> Result<Response, Problem> {
    grant::own_name(&admin, &headers)?;
    grant::of_own_page(&headers)?;
    let now = admin.clock.now();
    let digest = key_text::digest_of(asked.value.token.trim().as_bytes());
    let Some(token) = admin.keeper.admin_token(&digest, now.wall) else {
        return Err(grant::turned_away(&admin, caller));
    };
    let Some(session) = admin.sessions.begin(&token.id, now.mono) else {
        return Err(Problem::failed());
    };
    tracing::info!(token = token.id, "a session of the dashboard was begun");
    let cookie = format!("{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict");
    let body = Json(json!({ "role": token.role.as_str(), "name": token.name }));
    Ok(([(SET_COOKIE, cookie)], body).into_response())
}

/// Who the caller is.
async fn session(Extension(grant): Extension<Grant>) -> Response {
    Json(json!({
        "who": grant.actor.who,
        "name": grant.name,
        "role": grant.role.as_str(),
        "tenant": grant.tenant(),
    }))
    .into_response()
}

/// Ends the session.
async fn log_out(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    if let Some(cookie) = grant::session_cookie(&headers) {
        admin.sessions.end(cookie);
    }
    let gone = format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    (StatusCode::NO_CONTENT, [(SET_COOKIE, gone)]).into_response()
}

/// Carries a verb out on a thread that may wait for the disk.
async fn perform(admin: &Arc<Admin>, verb: Verb, actor: &Actor) -> Result<Outcome, Problem> {
    let (admin, actor) = (Arc::clone(admin), actor.clone());
    blocking(move || {
        let now = admin.clock.now().wall;
        admin.keeper.execute_as(&verb, &actor, now)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VerbError> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Problem::from),
        Err(_) => Err(Problem::failed()),
    }
}

/// The caller, with his name for this act where he gave one: then it is done once.
fn once(grant: &Grant, headers: &HeaderMap, act: &str, body: &Bytes) -> Result<Actor, Problem> {
    let mut actor = grant.actor.clone();
    let Some(key) = headers.get(&IDEMPOTENCY_KEY) else {
        return Ok(actor);
    };
    let key = key.to_str().unwrap_or("");
    let is_plain = key.bytes().all(|byte| byte.is_ascii_graphic());
    if !(1..=128).contains(&key.len()) || !is_plain {
        return Err(VerbError {
            text: "Idempotency-Key has 1 to 128 visible ASCII characters.".to_owned(),
            exit: EXIT_USAGE,
        }
        .into());
    }
    let asked = [act.as_bytes(), b"\n", body].concat();
    actor.once = Some(Once {
        key: key.to_owned(),
        print: key_text::digest_of(&asked).hex(),
    });
    Ok(actor)
}

/// A span until the end of a key or token.
fn lifetime(seconds: Option<u64>) -> Result<Option<u64>, Problem> {
    match seconds {
        None | Some(1..=LIFETIME_SECONDS_MAX) => Ok(seconds),
        Some(_) => Err(Problem::malformed("expires_in_seconds is 1 to 3153600000.")),
    }
}

/// Unix seconds of an RFC 3339 time.
fn seconds_of(text: &str) -> Result<u64, Problem> {
    let unix = text.parse::<jiff::Timestamp>().ok();
    // What lies before 1970 has passed like all that lies before now.
    unix.map(|unix| u64::try_from(unix.as_second()).unwrap_or(0))
        .ok_or_else(|| Problem::malformed("A time is RFC 3339, for example 2030-01-31T00:00:00Z."))
}
