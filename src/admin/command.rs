//! What the command line asks of the running gateway: verbs, reload, status, explain, observed, usage, audit. Only on the unix socket.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use axum::response::Response;
use axum::routing::get;
use axum::routing::post;
use serde::Serialize;

use crate::admin::Admin;
use crate::admin::Asked;
use crate::admin::AuditAsked;
use crate::admin::Caller;
use crate::admin::observed;
use crate::admin::usage;
use crate::gate;
use crate::gate::Question;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::audit::Actor;
use crate::store::error::EXIT_CONFIG;
use crate::store::error::EXIT_REFUSED;
use crate::store::error::EXIT_UNAVAILABLE;
use crate::store::error::EXIT_USAGE;

/// Largest verb: the import of a file as large as `keys import` reads, quotes and names of fields included.
const VERB_BYTES_MAX: usize = 1 << 30;

/// The calls.
pub(super) fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route(
            "/cli/verbs",
            post(verbs).layer(DefaultBodyLimit::max(VERB_BYTES_MAX)),
        )
        .route("/cli/reload", post(reload))
        .route("/cli/status", get(status))
        .route("/cli/explain", post(explain))
        .route("/cli/observed", get(report))
        .route("/cli/usage", post(usage))
        .route("/cli/audit", post(audit))
        .with_state(admin)
}

async fn verbs(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let verb: Verb = match serde_json::from_slice(&body) {
        Ok(verb) => verb,
        Err(error) => return refuse(not_a_verb(&error)),
    };
    let (act, subject) = verb.label();
    let log = LogLine {
        act,
        subject: subject.to_owned(),
        caller,
    };
    let actor = Actor::user(caller.uid, "socket");
    let work = move || (admin.keeper).execute_as(&verb, &actor, admin.clock.now().wall);
    // A panic there is a bug of ours; the answer says no more than that nothing can be promised.
    let result = tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(VerbError {
            text: "the gateway failed while doing this; see its log".to_owned(),
            exit: EXIT_UNAVAILABLE,
        })
    });
    log.write(&result);
    match result {
        Ok(outcome) => answer(StatusCode::OK, &outcome),
        Err(error) => refuse(error),
    }
}

async fn reload(State(admin): State<Arc<Admin>>, Extension(caller): Extension<Caller>) -> Response {
    tracing::info!(uid = caller.uid, "reload asked for");
    let actor = Actor::user(caller.uid, "socket");
    let verdict = tokio::task::spawn_blocking(move || (admin.reload)(&actor)).await;
    match verdict {
        Ok(Ok(report)) => answer(StatusCode::OK, &serde_json::json!({ "report": report })),
        Ok(Err(text)) => refuse(VerbError {
            text,
            exit: EXIT_CONFIG,
        }),
        Err(_) => refuse(VerbError {
            text: "the gateway failed while reloading; see its log".to_owned(),
            exit: EXIT_UNAVAILABLE,
        }),
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> Response {
    answer(StatusCode::OK, &(admin.status)())
}

async fn explain(State(admin): State<Arc<Admin>>, body: Bytes) -> Response {
    let question: Question = match serde_json::from_slice(&body) {
        Ok(question) => question,
        Err(error) => return refuse(not_a_verb(&error)),
    };
    // Finding a key by its id walks all of them.
    let work = move || {
        let snapshot = admin.keeper.snapshot().load_full();
        gate::explain(&snapshot, Some(&admin.quota), admin.clock.now(), &question)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(explanation)) => answer(StatusCode::OK, &explanation),
        Ok(Err(error)) => refuse(error),
        Err(_) => refuse(VerbError {
            text: "the gateway failed while explaining; see its log".to_owned(),
            exit: EXIT_UNAVAILABLE,
        }),
    }
}

async fn report(State(admin): State<Arc<Admin>>) -> Response {
    let report = tokio::task::spawn_blocking(move || observed::report(&admin)).await;
    match report {
        Ok(Ok(report)) => answer(StatusCode::OK, &report),
        Ok(Err(error)) => refuse(error),
        Err(_) => refuse(VerbError {
            text: "the gateway failed while reporting; see its log".to_owned(),
            exit: EXIT_UNAVAILABLE,
        }),
    }
}

async fn usage(State(admin): State<Arc<Admin>>, body: Bytes) -> Response {
    let asked: Asked = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => return refuse(not_a_verb(&error)),
    };
    match tokio::task::spawn_blocking(move || usage::usage(&admin, &asked)).await {
        Ok(Ok(usage)) => answer(StatusCode::OK, &usage),
        Ok(Err(error)) => refuse(error),
        Err(_) => refuse(VerbError {
            text: "the gateway failed while reporting; see its log".to_owned(),
            exit: EXIT_UNAVAILABLE,
        }),
    }
}

async fn audit(State(admin): State<Arc<Admin>>, body: Bytes) -> Response {
    let asked: AuditAsked = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => return refuse(not_a_verb(&error)),
    };
    let work = move || asked.answer(&admin.store, admin.clock.now().wall);
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(found)) => answer(StatusCode::OK, &found),
        Ok(Err(error)) => refuse(error),
        Err(_) => refuse(VerbError {
            text: "the gateway failed while reading; see its log".to_owned(),
            exit: EXIT_UNAVAILABLE,
        }),
    }
}

fn not_a_verb(error: &serde_json::Error) -> VerbError {
    VerbError {
        text: format!(
            "the gateway does not know this command, is it of another version? ({:?} error at column {})",
            error.classify(),
            error.column()
        ),
        exit: EXIT_USAGE,
    }
}

fn refuse(error: VerbError) -> Response {
    let status = match error.exit {
        EXIT_USAGE => StatusCode::BAD_REQUEST,
        EXIT_REFUSED => StatusCode::CONFLICT,
        EXIT_CONFIG => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(status, &error)
}

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    (status, [(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// One line for each act that failed: what, whose, by whom, and why. Never a key.
struct LogLine {
    act: &'static str,
    subject: String,
    caller: Caller,
}

impl LogLine {
    fn write(&self, result: &Result<Outcome, VerbError>) {
        let (act, subject, uid) = (self.act, &self.subject, self.caller.uid);
        match result {
            // What changed anything has been told with its place in the audit log.
            Ok(_) => tracing::debug!(act, subject, uid, "administrative act"),
            Err(error) if error.exit == EXIT_UNAVAILABLE => {
                tracing::error!(act, subject, uid, %error, "administrative act failed");
            }
            Err(error) => tracing::info!(act, subject, uid, %error, "administrative act refused"),
        }
    }
}
