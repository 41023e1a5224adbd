//! Usage and limits over the API; a token of one tenant sees its own.

use std::sync::Arc;

use axum::Json;
use axum::extract::Extension;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use crate::admin::Admin;
use crate::admin::grant::Grant;
use crate::admin::problem::Problem;
use crate::admin::rest::blocking;
use crate::admin::rest::extract;
use crate::admin::rest::extract::Id;
use crate::admin::rest::keys::own_key;
use crate::admin::rest::keys::own_tenant;
use crate::admin::usage;
use crate::admin::usage::Asked;
use crate::gate;
use crate::usage::report::SINCE_SECONDS_MAX;

/// Since when.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Span {
    tenant: Option<String>,
    since_seconds: Option<u64>,
}

/// Since when, of one key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeySpan {
    since_seconds: Option<u64>,
}

/// What all keys did that the caller may see, or those of one tenant.
pub(super) async fn all(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    extract::Asked(asked): extract::Asked<Span>,
) -> Result<Response, Problem> {
    told(
        admin,
        Asked {
            key: None,
            tenant: own_tenant(&grant, asked.tenant)?,
            since_seconds: asked.since_seconds,
        },
    )
    .await
}

/// What one key did.
pub(super) async fn of_key(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Id(id): Id,
    extract::Asked(asked): extract::Asked<KeySpan>,
) -> Result<Response, Problem> {
    own_key(&admin, &grant, &id).await?;
    told(
        admin,
        Asked {
            key: Some(id),
            tenant: None,
            since_seconds: asked.since_seconds,
        },
    )
    .await
}

async fn told(admin: Arc<Admin>, asked: Asked) -> Result<Response, Problem> {
    let since = asked.since_seconds.unwrap_or(1);
    if !(1..=SINCE_SECONDS_MAX).contains(&since) {
        return Err(Problem::malformed(
            "since_seconds is 1 to 7776000: 90 days are kept.",
        ));
    }
    let report = blocking(move || usage::usage(&admin, &asked)).await?;
    Ok(Json(report).into_response())
}

/// The windows of a key and where they stand.
pub(super) async fn limits(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Id(id): Id,
) -> Result<Response, Problem> {
    own_key(&admin, &grant, &id).await?;
    let work = move || {
        let snapshot = admin.keeper.snapshot().load_full();
        // A key that has ended for good has none.
        let windows = gate::windows_of(&snapshot, &admin.quota, admin.clock.now(), &id);
        Ok(windows.unwrap_or_default())
    };
    let windows = blocking(work).await?;
    Ok(Json(json!({ "windows": windows })).into_response())
}
