//! `/v1/tenants`: a token of one tenant sees its own; whatever changes one is the operator's.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use crate::admin::Admin;
use crate::admin::grant::Grant;
use crate::admin::problem::Problem;
use crate::admin::rest::extract::Body;
use crate::admin::rest::extract::Id;
use crate::admin::rest::perform;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::outcome::TenantView;
use crate::store::request::TenantUpdate;

/// All tenants that the caller may see.
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
) -> Result<Response, Problem> {
    let tenants = seen(&admin, &grant).await?;
    Ok(Json(json!({ "tenants": tenants })).into_response())
}

/// One tenant.
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Id(id): Id,
) -> Result<Response, Problem> {
    Ok(Json(find(&admin, &grant, &id).await?).into_response())
}

/// What a tenant is to be. Under PATCH what is left out stays, under PUT it is as of a new one; an empty text takes a value away.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tenant {
    name: Option<String>,
    plan: Option<String>,
    scopes: Option<Vec<String>>,
    inherit: bool,
    quota: Option<String>,
    burst: Option<String>,
    upstreams: BTreeMap<String, String>,
}

/// Makes a tenant, or has one that there is be exactly so.
pub(super) async fn put(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Id(id): Id,
    asked: Body<Tenant>,
) -> Result<Response, Problem> {
    let asked = asked.value;
    let Some(plan) = asked.plan.clone() else {
        return Err(Problem::malformed("plan is missing."));
    };
    let there = seen(&admin, &grant)
        .await?
        .into_iter()
        .find(|tenant| tenant.id == id);
    let status = match there {
        Some(_) => StatusCode::OK,
        None => {
            let verb = Verb::TenantCreate {
                id: id.clone(),
                name: asked.name.clone(),
                plan,
                upstreams: asked.upstreams.clone(),
            };
            perform(&admin, verb, &grant.actor).await?;
            StatusCode::CREATED
        }
    };
    // What the call does not name, and the tenant has, is taken away.
    let mut upstreams = asked.upstreams;
    for name in there.iter().flat_map(|tenant| tenant.upstreams.keys()) {
        upstreams.entry(name.clone()).or_default();
    }
    let update = TenantUpdate {
        name: Some(asked.name.unwrap_or_else(|| id.clone())),
        plan: asked.plan,
        inherit: asked.scopes.is_none(),
        scopes: asked.scopes,
        quota: Some(asked.quota.unwrap_or_default()),
        burst: Some(asked.burst.unwrap_or_default()),
        upstreams,
        id,
    };
    changed(&admin, &grant, Verb::TenantUpdate(Box::new(update)), status).await
}

/// Changes what a tenant is.
pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Id(id): Id,
    asked: Body<Tenant>,
) -> Result<Response, Problem> {
    find(&admin, &grant, &id).await?;
    let asked = asked.value;
    let update = TenantUpdate {
        id,
        name: asked.name,
        plan: asked.plan,
        scopes: asked.scopes,
        inherit: asked.inherit,
        quota: asked.quota,
        burst: asked.burst,
        upstreams: asked.upstreams,
    };
    let verb = Verb::TenantUpdate(Box::new(update));
    changed(&admin, &grant, verb, StatusCode::OK).await
}

/// Its keys get 403.
pub(super) async fn suspend(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Id(id): Id,
) -> Result<Response, Problem> {
    find(&admin, &grant, &id).await?;
    changed(&admin, &grant, Verb::TenantSuspend { id }, StatusCode::OK).await
}

/// Its keys work again.
pub(super) async fn resume(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Id(id): Id,
) -> Result<Response, Problem> {
    find(&admin, &grant, &id).await?;
    changed(&admin, &grant, Verb::TenantResume { id }, StatusCode::OK).await
}

async fn seen(admin: &Arc<Admin>, grant: &Grant) -> Result<Vec<TenantView>, Problem> {
    match perform(admin, Verb::TenantList, &grant.actor).await? {
        Outcome::Tenants { mut tenants } => {
            tenants.retain(|tenant| grant.tenant().is_none_or(|own| own == tenant.id));
            Ok(tenants)
        }
        _ => Err(Problem::failed()),
    }
}

async fn find(admin: &Arc<Admin>, grant: &Grant, id: &str) -> Result<TenantView, Problem> {
    let seen = seen(admin, grant).await?.into_iter();
    let mut found = seen.filter(|tenant| tenant.id == id);
    found.next().ok_or_else(|| Problem::not_found("tenant"))
}

async fn changed(
    admin: &Arc<Admin>,
    grant: &Grant,
    verb: Verb,
    status: StatusCode,
) -> Result<Response, Problem> {
    match perform(admin, verb, &grant.actor).await? {
        Outcome::TenantChanged {
            tenant,
            changed,
            notes,
            ..
        } => {
            let mut whole = serde_json::to_value(tenant).unwrap_or_default();
            whole["changed"] = json!(changed);
            whole["notes"] = json!(notes);
            Ok((status, Json(whole)).into_response())
        }
        _ => Err(Problem::failed()),
    }
}
