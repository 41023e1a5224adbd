//! What is the operator's as a whole: the gateway's state, its configuration, reload, audit, tokens, changes of many keys.

use std::sync::Arc;

use axum::Json;
use axum::extract::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use crate::admin::Admin;
use crate::admin::audit::AuditAsked;
use crate::admin::grant::Grant;
use crate::admin::observed;
use crate::admin::problem::Problem;
use crate::admin::rest::blocking;
use crate::admin::rest::extract::Asked;
use crate::admin::rest::extract::Body;
use crate::admin::rest::extract::Id;
use crate::admin::rest::keys::CreateKey;
use crate::admin::rest::lifetime;
use crate::admin::rest::once;
use crate::admin::rest::perform;
use crate::config::Config;
use crate::config::UpstreamProtocol;
use crate::gate;
use crate::gate::Question;
use crate::model::admin_token::AdminToken;
use crate::model::route::Access;
use crate::store::KeyFilter;
use crate::store::NewAdminToken;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::alerts::AlertView;
use crate::store::audit::Which;
use crate::store::error::EXIT_CONFIG;
use crate::store::error::EXIT_UNAVAILABLE;
use crate::store::history::History;
use crate::store::outcome::KeyText;
use crate::store::request::ImportedKey;
use crate::upstream::UpstreamReport;

/// What the gateway is doing, as `portcullis status` shows it.
pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Response {
    Json((admin.status)()).into_response()
}

/// Counts since the start: what a page that is looked at asks for again and again.
pub(super) async fn overview(State(admin): State<Arc<Admin>>) -> Response {
    Json((admin.overview)()).into_response()
}

/// Reads gateway.toml again.
pub(super) async fn reload(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
) -> Result<Response, Problem> {
    let work = move || {
        (admin.reload)(&grant.actor).map_err(|text| VerbError {
            text,
            exit: EXIT_CONFIG,
        })
    };
    let report = blocking(work).await?;
    Ok(Json(json!({ "report": report })).into_response())
}

/// Plans of the file.
pub(super) async fn plans(State(admin): State<Arc<Admin>>) -> Response {
    let config = &admin.keeper.snapshot().load().config;
    let rate = |rate: Option<crate::model::limit::Rate>| {
        rate.map_or_else(|| "unlimited".to_owned(), |rate| rate.to_string())
    };
    let plan = |plan: &crate::model::tenant::Plan| {
        json!({
            "name": plan.name,
            "quota": rate(plan.limits.quota),
            "burst": rate(plan.limits.burst),
            "scopes": plan.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>(),
            "api_access": plan.api_access,
            "granular_scopes": plan.granular_scopes,
        })
    };
    let plans: Vec<_> = config.plans.iter().map(plan).collect();
    Json(json!({ "plans": plans })).into_response()
}

/// Routes of the file.
pub(super) async fn routes(State(admin): State<Arc<Admin>>) -> Response {
    let config = &admin.keeper.snapshot().load().config;
    let routes: Vec<_> = (config.routes.iter())
        .map(|route| {
            let (access, scope) = match &route.access {
                Access::Public => ("public", None),
                Access::AnyKey => ("any-key", None),
                Access::Scope(scope) => ("scope", Some(scope.as_str())),
            };
            json!({
                "path": route.path,
                "host": route.host,
                "methods": route.methods,
                "access": access,
                "scope": scope,
                "cost": route.cost,
                "upstream": config.upstreams[route.upstream].name,
                "environment": config.environments.get(usize::from(route.environment.0)),
            })
        })
        .collect();
    Json(json!({ "routes": routes })).into_response()
}

/// Upstreams of the file, and how their servers stand.
pub(super) async fn upstreams(State(admin): State<Arc<Admin>>) -> Response {
    let snapshot = admin.keeper.snapshot().load_full();
    let upstreams = upstreams_of(&snapshot.config, (admin.upstreams)());
    Json(json!({ "upstreams": upstreams })).into_response()
}

fn upstreams_of(config: &Config, reports: Vec<UpstreamReport>) -> Vec<serde_json::Value> {
    let mut told = Vec::new();
    for report in reports {
        // A reload between the two views may have taken it away.
        let mut named = config.upstreams.iter().enumerate();
        let Some((index, upstream)) = named.find(|(_, known)| known.name == report.upstream) else {
            continue;
        };
        let routes = config.routes.iter().filter(|route| route.upstream == index);
        let is_tls = upstream.servers.iter().any(|server| server.tls);
        told.push(json!({
            "name": report.upstream,
            "scheme": if is_tls { "https" } else { "http" },
            "protocol": match upstream.protocol {
                UpstreamProtocol::Http1 => "http1",
                UpstreamProtocol::Http2 => "http2",
            },
            "environment": config.environments.get(usize::from(upstream.environment.0)),
            "tenants_with_places": upstream.tenants.len(),
            "routes": routes.count(),
            "in_flight": report.in_flight,
            "queued": report.queued,
            "queue_refusals": report.queue_refusals,
            "retries": report.retries,
            "retries_refused": report.retries_refused,
            "servers": report.servers,
        }));
    }
    told
}

/// What would become of a request.
pub(super) async fn explain(
    State(admin): State<Arc<Admin>>,
    asked: Body<Question>,
) -> Result<Response, Problem> {
    let work = move || {
        let snapshot = admin.keeper.snapshot().load_full();
        gate::explain(
            &snapshot,
            Some(&admin.quota),
            admin.clock.now(),
            &asked.value,
        )
    };
    Ok(Json(blocking(work).await?).into_response())
}

/// Whom observed rules would have refused.
pub(super) async fn observed(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    let report = blocking(move || observed::report(&admin)).await?;
    Ok(Json(report).into_response())
}

/// What administrators did, the latest first.
pub(super) async fn audit(
    State(admin): State<Arc<Admin>>,
    Asked(which): Asked<Which>,
) -> Result<Response, Problem> {
    if which
        .limit
        .is_some_and(|limit| !(1..=1_000).contains(&limit))
    {
        return Err(Problem::malformed("limit is 1 to 1000."));
    }
    let asked = AuditAsked::List(which);
    let work = move || asked.answer(&admin.store, admin.clock.now().wall);
    let answer = blocking(work).await?;
    Ok(Json(json!({ "lines": answer.lines })).into_response())
}

/// Whether the log of that is whole.
pub(super) async fn verify(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    let asked = AuditAsked::Verify { expect: None };
    let work = move || asked.answer(&admin.store, admin.clock.now().wall);
    let answer = blocking(work).await?;
    let verdict = answer.verdict.ok_or_else(Problem::failed)?;
    Ok(Json(verdict).into_response())
}

/// How many alerts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListAlerts {
    limit: Option<u32>,
}

/// What was to be told at once, the latest first; before all what could not be written down yet.
pub(super) async fn alerts(
    State(admin): State<Arc<Admin>>,
    Asked(asked): Asked<ListAlerts>,
) -> Result<Response, Problem> {
    let limit = asked.limit.unwrap_or(100);
    if !(1..=1_000).contains(&limit) {
        return Err(Problem::malformed("limit is 1 to 1000."));
    }
    let work = move || {
        let held = admin.unwritten.list();
        let history = History::open(&admin.store);
        let written = history.and_then(|history| {
            history.map_or_else(|| Ok(Vec::new()), |history| history.alerts(limit))
        });
        match written {
            Ok(written) => Ok(latest(held, written, limit as usize)),
            Err(error) => Err(VerbError {
                text: error.to_string(),
                exit: EXIT_UNAVAILABLE,
            }),
        }
    };
    let alerts = blocking(work).await?;
    Ok(Json(json!({ "alerts": alerts })).into_response())
}

/// Both together; one may have been written down between the two looks.
fn latest(mut held: Vec<AlertView>, mut written: Vec<AlertView>, limit: usize) -> Vec<AlertView> {
    written.retain(|one| held.iter().all(|other| other.id != one.id));
    held.append(&mut written);
    held.truncate(limit);
    held
}

/// All tokens of the admin plane.
pub(super) async fn tokens(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
) -> Result<Response, Problem> {
    match perform(&admin, Verb::AdminTokenList, &grant.actor).await? {
        Outcome::AdminTokens { tokens } => {
            Ok(Json(json!({ "admin_tokens": tokens })).into_response())
        }
        _ => Err(Problem::failed()),
    }
}

/// Makes a token; its text is in this answer and in no other.
pub(super) async fn create_token(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    headers: HeaderMap,
    asked: Body<NewAdminToken>,
) -> Result<Response, Problem> {
    let actor = once(&grant, &headers, "admin-token-create", &asked.bytes)?;
    lifetime(asked.value.expires_in_seconds)?;
    let verb = Verb::AdminTokenCreate(asked.value);
    match perform(&admin, verb, &actor).await? {
        Outcome::AdminTokenIssued { token, text } => {
            let mut body = serde_json::to_value(token).unwrap_or_default();
            body["text"] = json!(text.reveal());
            Ok((StatusCode::CREATED, Json(body)).into_response())
        }
        Outcome::Replayed { .. } => Err(Problem::new(
            StatusCode::CONFLICT,
            "refused",
            "This token was made before under the same Idempotency-Key, and its text was shown then; revoke it and make another.",
        )),
        _ => Err(Problem::failed()),
    }
}

/// Ends a token.
pub(super) async fn revoke_token(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Id(id): Id,
) -> Result<Response, Problem> {
    if AdminToken::parse_id(&id).is_err() {
        return Err(Problem::not_found("admin token"));
    }
    match perform(&admin, Verb::AdminTokenRevoke { id }, &grant.actor).await {
        Ok(Outcome::AdminTokenChanged { token, .. }) => Ok(Json(token).into_response()),
        Err(problem) if problem.is_refusal() => Err(Problem::not_found("admin token")),
        Err(problem) => Err(problem),
        Ok(_) => Err(Problem::failed()),
    }
}

/// Which keys are to end; at least one of them must be said.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Many {
    tenant: Option<String>,
    prefix: Option<String>,
    subject: Option<String>,
    keys: Option<Vec<String>>,
    unused_since_seconds: Option<u64>,
    older_than_seconds: Option<u64>,
}

/// Ends many keys for good, in one change.
pub(super) async fn revoke_many(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    asked: Body<Many>,
) -> Result<Response, Problem> {
    let asked = asked.value;
    let verb = Verb::KeyRevokeMany(KeyFilter {
        tenant: asked.tenant,
        prefix: asked.prefix,
        subject: asked.subject,
        keys: asked.keys,
        unused_since_seconds: asked.unused_since_seconds,
        older_than_seconds: asked.older_than_seconds,
        ..KeyFilter::default()
    });
    many(&admin, verb, &grant).await
}

/// A key that was issued elsewhere, by value or by digest.
#[derive(Debug, Deserialize)]
pub(super) struct Import {
    value: Option<String>,
    sha256: Option<String>,
    #[serde(flatten)]
    key: CreateKey,
}

/// Keys that were issued elsewhere.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Imports {
    keys: Vec<Import>,
}

/// Takes over keys that were issued elsewhere: all of them, or none.
pub(super) async fn import(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    asked: Body<Imports>,
) -> Result<Response, Problem> {
    let mut keys = Vec::new();
    for (line, import) in (1..).zip(asked.value.keys) {
        keys.push(ImportedKey {
            line,
            value: import.value.map(KeyText::new),
            sha256: import.sha256,
            key: import.key.new_key(&grant)?,
        });
    }
    let verb = Verb::KeyImport {
        file: "keys".to_owned(),
        keys,
    };
    many(&admin, verb, &grant).await
}

async fn many(admin: &Arc<Admin>, verb: Verb, grant: &Grant) -> Result<Response, Problem> {
    match perform(admin, verb, &grant.actor).await? {
        Outcome::KeysChanged { ids, notes, .. } => {
            let body = json!({ "count": ids.len(), "ids": ids, "notes": notes });
            Ok(Json(body).into_response())
        }
        _ => Err(Problem::failed()),
    }
}
