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
use crate::admin::usage::PAGE_MAX;
use crate::gate;
use crate::model::key::KeyId;
use crate::usage::report::SINCE_SECONDS_MAX;

/// Keys that are named at once, at most: as many as a page of `/v1/keys` has where nothing is said.
const NAMED_MAX: usize = 100;

/// Since when, whose, and which page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Span {
    tenant: Option<String>,
    /// Ids with commas between.
    keys: Option<String>,
    since_seconds: Option<u64>,
    limit: Option<usize>,
    after: Option<String>,
}

/// Since when, of one key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeySpan {
    since_seconds: Option<u64>,
}

/// What keys did that the caller may see, by the page; `next` is the `after` of the page behind it.
pub(super) async fn all(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    extract::Asked(asked): extract::Asked<Span>,
) -> Result<Response, Problem> {
    if asked
        .limit
        .is_some_and(|limit| !(1..=PAGE_MAX).contains(&limit))
    {
        return Err(Problem::malformed("limit is 1 to 1000."));
    }
    let keys = asked
        .keys
        .map(|ids| ids.split(',').map(str::to_owned).collect::<Vec<_>>());
    if keys.as_ref().is_some_and(|keys| keys.len() > NAMED_MAX) {
        return Err(Problem::malformed("keys are at most 100."));
    }
    for id in keys.iter().flatten().chain(&asked.after) {
        KeyId::parse(id).map_err(Problem::malformed)?;
    }
    told(
        admin,
        &grant,
        Asked {
            key: None,
            keys,
            tenant: own_tenant(&grant, asked.tenant)?,
            since_seconds: asked.since_seconds,
            after: asked.after,
            limit: asked.limit,
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
        &grant,
        Asked {
            key: Some(id),
            since_seconds: asked.since_seconds,
            ..Asked::default()
        },
    )
    .await
}

async fn told(admin: Arc<Admin>, grant: &Grant, asked: Asked) -> Result<Response, Problem> {
    let since = asked.since_seconds.unwrap_or(1);
    if !(1..=SINCE_SECONDS_MAX).contains(&since) {
        return Err(Problem::malformed(
            "since_seconds is 1 to 7776000: 90 days are kept.",
        ));
    }
    let mut report = blocking(move || usage::usage(&admin, &asked)).await?;
    if grant.tenant().is_some() {
        report.report = report.report.without_names();
    }
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
