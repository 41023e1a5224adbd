//! Why a call of the API was not carried out, as `application/problem+json` (RFC 9457).

use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::http::header::CONTENT_TYPE;
use axum::http::header::WWW_AUTHENTICATE;
use axum::response::IntoResponse;
use axum::response::Response;

use crate::store::VerbError;
use crate::store::error::EXIT_CONFIG;
use crate::store::error::EXIT_REFUSED;
use crate::store::error::EXIT_USAGE;

/// A refusal. Its text is for whoever wrote the call, and repeats nothing that could be a secret.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

impl Problem {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<String>,
    ) -> Problem {
        Problem {
            status,
            code,
            detail: detail.into(),
        }
    }

    /// What was sent is not what the API takes.
    pub(super) fn malformed(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// Only a token of one tenant may leave it out.
    pub(super) fn tenant_missing() -> Problem {
        let detail = "Say which tenant the key is for.";
        Problem::new(StatusCode::CONFLICT, "refused", detail)
    }

    /// There is no such thing, or the caller may not know of it: the same words.
    pub(super) fn not_found(what: &str) -> Problem {
        let detail = format!("There is no such {what}.");
        Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// No credential, or none that opens anything: the same words.
    pub(super) fn unauthorized() -> Problem {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "Send an admin token as Authorization: Bearer; `portcullis admin-tokens create` makes one.",
        )
    }

    /// The token may not do this.
    pub(super) fn forbidden(detail: &str) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// Whether a rule of the store forbids it.
    pub(super) fn is_refusal(&self) -> bool {
        self.status == StatusCode::CONFLICT
    }

    /// A bug of ours; the log has it.
    pub(super) fn failed() -> Problem {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "The gateway failed while doing this; see its log.",
        )
    }
}

impl From<VerbError> for Problem {
    fn from(error: VerbError) -> Problem {
        let (status, code) = match error.exit {
            EXIT_USAGE => (StatusCode::BAD_REQUEST, "malformed"),
            EXIT_REFUSED => (StatusCode::CONFLICT, "refused"),
            EXIT_CONFIG => (StatusCode::UNPROCESSABLE_ENTITY, "configuration"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        Problem::new(status, code, error.text)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        let headers = [
            (CONTENT_TYPE, "application/problem+json"),
            (CACHE_CONTROL, "no-store"),
        ];
        let mut answer = (self.status, headers, body.to_string()).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"portcullis-admin\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        answer
    }
}
