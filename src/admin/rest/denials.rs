//! `/v1/denied-tokens`: access tokens that are denied before their time, by the same fence as the revocation of a key.

use std::sync::Arc;

use axum::Json;
use axum::extract::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::response::Response;
use serde::Deserialize;
use serde::Deserializer;
use serde_json::json;

use crate::admin::Admin;
use crate::admin::grant::Grant;
use crate::admin::problem::Problem;
use crate::admin::rest::extract::Asked;
use crate::admin::rest::extract::Body;
use crate::admin::rest::extract::Ids;
use crate::admin::rest::lifetime;
use crate::admin::rest::perform;
use crate::model::denial::DeniedBy;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::request::TokenDenial;
use crate::store::request::TokenNames;

/// What is denied now.
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
) -> Result<Response, Problem> {
    match perform(&admin, Verb::TokenDenials, &grant.actor).await? {
        Outcome::Denials { denials } => {
            Ok(Json(json!({ "denied_tokens": denials })).into_response())
        }
        _ => Err(Problem::failed()),
    }
}

/// Which tokens are to be denied, by one of the first three, and how.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Denied {
    #[serde(deserialize_with = "given")]
    jti: Option<String>,
    #[serde(deserialize_with = "given")]
    subject: Option<String>,
    #[serde(deserialize_with = "given")]
    client: Option<String>,
    #[serde(deserialize_with = "given")]
    issuer: Option<String>,
    #[serde(deserialize_with = "given")]
    for_seconds: Option<u64>,
    issued_until_now: bool,
    #[serde(deserialize_with = "given")]
    note: Option<String>,
}

/// Denies tokens: when this is answered, none of them is admitted any more. What is said of the same tokens twice counts as it was said last.
pub(super) async fn deny(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    asked: Body<Denied>,
) -> Result<Response, Problem> {
    let asked = asked.value;
    if (asked.for_seconds).is_some_and(|seconds| lifetime(Some(seconds)).is_err()) {
        return Err(Problem::malformed("for_seconds is 1 to 3153600000."));
    }
    named(asked.issuer.as_deref())?;
    let said = [&asked.jti, &asked.subject, &asked.client];
    if said.into_iter().flatten().count() != 1 {
        return Err(Problem::malformed(
            "Say which tokens are meant by one of jti, subject and client.",
        ));
    }
    let denial = TokenDenial {
        names: TokenNames {
            jti: asked.jti,
            subject: asked.subject,
            client: asked.client,
            issuer: asked.issuer,
        },
        for_seconds: asked.for_seconds,
        issued_until_now: asked.issued_until_now,
        note: asked.note,
    };
    match perform(&admin, Verb::TokenDeny(Box::new(denial)), &grant.actor).await? {
        Outcome::DenialChanged { denial, .. } => {
            Ok((StatusCode::CREATED, Json(denial)).into_response())
        }
        _ => Err(Problem::failed()),
    }
}

/// Of which issuer alone.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Allowed {
    issuer: Option<String>,
}

/// Takes an entry back, which is named as it was when it was made.
pub(super) async fn allow(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Ids(by, value): Ids,
    Asked(asked): Asked<Allowed>,
) -> Result<Response, Problem> {
    named(asked.issuer.as_deref())?;
    let mut names = TokenNames {
        issuer: asked.issuer,
        ..TokenNames::default()
    };
    match DeniedBy::parse(&by) {
        Ok(DeniedBy::Jti) => names.jti = Some(value),
        Ok(DeniedBy::Subject) => names.subject = Some(value),
        Ok(DeniedBy::Client) => names.client = Some(value),
        Err(_) => return Err(Problem::not_found("denied token")),
    }
    match perform(&admin, Verb::TokenAllow(names), &grant.actor).await {
        Ok(Outcome::DenialChanged { denial, .. }) => Ok(Json(denial).into_response()),
        Err(problem) if problem.is_refusal() => Err(Problem::not_found("denied token")),
        Err(problem) => Err(problem),
        Ok(_) => Err(Problem::failed()),
    }
}

/// An issuer that is named has a name.
fn named(issuer: Option<&str>) -> Result<(), Problem> {
    match issuer {
        Some("") => Err(Problem::malformed("issuer is empty; leave it out for any.")),
        _ => Ok(()),
    }
}

/// `null` is no value of these members.
fn given<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(from).map(Some)
}
