//! Reading a call: its body, its query and its path, each refused in the API's own words.

use axum::body::Bytes;
use axum::extract::FromRequest;
use axum::extract::FromRequestParts;
use axum::extract::Path;
use axum::extract::Query;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::admin::problem::Problem;

/// A JSON body.
pub(super) struct Body<T> {
    /// What it means.
    pub(super) value: T,
    /// What came, for the fingerprint of an act that is to be done once.
    pub(super) bytes: Bytes,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Problem> {
        let is_json = request.headers().get(CONTENT_TYPE).is_some_and(|kind| {
            let kind = kind.to_str().unwrap_or("").split(';').next().unwrap_or("");
            kind.trim().eq_ignore_ascii_case("application/json")
        });
        if !is_json {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "The body must be application/json.",
            ));
        }
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|rejection| {
            let status = rejection.status();
            Problem::new(
                status,
                "body_unread",
                "The body could not be read, or is too large.",
            )
        })?;
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            // serde's own words may repeat a value, and a value may be a key.
            Problem::malformed(format!(
                "The body is not what this call takes: {} at line {}, column {}.",
                match error.classify() {
                    serde_json::error::Category::Data => "an unknown member or a wrong value",
                    _ => "no JSON",
                },
                error.line(),
                error.column()
            ))
        })?;
        Ok(Body { value, bytes })
    }
}

/// A query whose every parameter is known.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked<T>, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Asked(value)),
            Err(_) => Err(Problem::malformed(
                "The query has an unknown parameter, one twice, or a wrong value.",
            )),
        }
    }
}

/// The two parameters of a path.
pub(super) struct Ids(pub(super) String, pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Ids {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Ids, Problem> {
        match Path::<(String, String)>::from_request_parts(parts, state).await {
            Ok(Path((first, second))) => Ok(Ids(first, second)),
            Err(_) => Err(Problem::malformed("The path is not UTF-8.")),
        }
    }
}

/// The one parameter of a path.
pub(super) struct Id(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Id(id)),
            Err(_) => Err(Problem::malformed("The path is not UTF-8.")),
        }
    }
}
