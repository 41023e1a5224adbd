//! One request on one page: admit, forward, check again, answer, account.

use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::Request;
use http::Response;
use http::header::EXPECT;
use http::request::Parts;
use hyper::body::Incoming;

use crate::access_log;
use crate::clock::Clock;
use crate::gate;
use crate::gate::Admission;
use crate::gate::Peer;
use crate::gate::Refused;
use crate::metrics::Metrics;
use crate::quota::Quota;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::upstream::FailureKind;
use crate::upstream::Pools;
use crate::upstream::drain;
use crate::usage::Usage;

use account::Account;
pub use body::Body;
use meters::Meters;
use request_id::RequestIds;

mod account;
mod answer;
mod body;
mod meters;
mod request_id;

/// What one data thread works with. Only the snapshot, the counters and the metrics are shared with other threads.
#[derive(Debug)]
pub struct Worker {
    /// The view in force; a request takes it once, at its start.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where the time comes from.
    pub clock: Clock,
    /// All counters of this node.
    pub quota: Arc<Quota>,
    /// When each key was last used.
    pub usage: Arc<Usage>,
    /// This thread's connections to backends.
    pub pools: Pools,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// This thread's end of the access log.
    pub log: access_log::Sink,
    meters: Meters,
    request_ids: RequestIds,
}

impl Worker {
    /// A data thread's tools.
    #[must_use]
    pub fn new(shared: Shared, pools: Pools, log: access_log::Sink) -> Worker {
        Worker {
            snapshot: shared.snapshot,
            clock: shared.clock,
            quota: shared.quota,
            usage: shared.usage,
            pools,
            meters: Meters::new(Arc::clone(&shared.metrics)),
            metrics: shared.metrics,
            log,
            request_ids: RequestIds::default(),
        }
    }
}

/// What all data threads share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The view in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where the time comes from.
    pub clock: Clock,
    /// All counters.
    pub quota: Arc<Quota>,
    /// When each key was last used.
    pub usage: Arc<Usage>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
}

/// Serves one request of the TLS listener, from its head to an answer whose body accounts for itself when it ends.
pub async fn handle(worker: Rc<Worker>, peer: Peer, request: Request<Incoming>) -> Response<Body> {
    let now = worker.clock.now();
    let snapshot = worker.snapshot.load_full();
    let (mut head, body) = request.into_parts();
    let mut account = Account::open(Rc::clone(&worker), now, peer, &head);
    if let Some(preflight) = gate::preflight(&snapshot, &head) {
        drain(body, head.headers.contains_key(EXPECT));
        let answer = answer::preflight(&account, &snapshot, &preflight);
        account.preflight(preflight, answer.status());
        return answer.map(|text| Body::local(text, account));
    }
    match gate::admit(&snapshot, &worker.quota, now, &peer, &mut head) {
        Ok(admission) => {
            if let Some(principal) = admission.principal() {
                worker.usage.count(principal.key, now.wall);
            }
            account.admitted(admission, &head);
            forward(&worker, account, head, body).await
        }
        Err(refused) => {
            drain(body, head.headers.contains_key(EXPECT));
            let answer = answer::refusal(
                &account,
                &snapshot,
                &refused.refusal,
                refused.numbers.as_ref(),
                refused.host.as_deref(),
                &refused.manner,
            );
            report(&refused, &peer);
            account.refused(&snapshot, *refused, answer.status());
            answer.map(|text| Body::local(text, account))
        }
    }
}

/// A secret key that stands in a web page is anybody's (FF20).
fn report(refused: &Refused, peer: &Peer) {
    if let (gate::SECRET_KEY_IN_BROWSER, Some(key)) = (refused.reason, &refused.key) {
        tracing::warn!(key_id = %key, client = %peer.address.ip(), "secret_key_in_browser: regenerate this key, and give the page a public one");
    }
}

/// Answers a request that came in clear: 403, whatever it asks for; nothing goes upstream (FA29).
pub fn refuse_plaintext(
    worker: &Rc<Worker>,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Body> {
    let now = worker.clock.now();
    let snapshot = worker.snapshot.load_full();
    let (head, unread) = request.into_parts();
    drain(unread, head.headers.contains_key(EXPECT));
    let exposed = gate::peek(&head, &snapshot.config.auth, &snapshot);
    if let Some(key) = exposed {
        tracing::warn!(key_id = %key, client = %peer.address.ip(), "key_seen_in_plaintext: regenerate this key");
    }
    let mut account = Account::open(Rc::clone(worker), now, peer, &head);
    let answer = answer::plaintext(&account, &snapshot, &head);
    account.refused_in_clear(exposed, answer.status());
    answer.map(|text| Body::local(text, account))
}

async fn forward(
    worker: &Rc<Worker>,
    mut account: Account,
    head: Parts,
    body: Incoming,
) -> Response<Body> {
    let Some(admission) = account.admission() else {
        // The account was told of the admission one line before the only call.
        return failed(account, Refusal::Internal, "no_admission", String::new());
    };
    let (peer, request_id) = (account.peer(), account.request_id().clone());
    let outcome = worker
        .pools
        .forward(&admission, &peer, &request_id, head, body)
        .await;
    let now = worker.clock.now();
    account.answered(now);
    if !admission.still_stands(&worker.snapshot.load_full(), now) {
        return failed(
            account,
            Refusal::CredentialInvalid,
            "revoked_meanwhile",
            String::new(),
        );
    }
    match outcome {
        Ok(forwarded) => {
            account.forwarded(forwarded.server, forwarded.response.status());
            answer::pass_on(forwarded.response, &admission, account)
        }
        Err(failure) => {
            account.server(failure.server);
            let (refusal, reason) = refusal_of(failure.kind);
            failed(account, refusal, reason, failure.detail)
        }
    }
}

/// An answer of ours after the admission: charged, with the rate headers.
fn failed(
    mut account: Account,
    refusal: Refusal,
    reason: &'static str,
    detail: String,
) -> Response<Body> {
    let admission: Option<Rc<Admission>> = account.admission();
    let snapshot = match &admission {
        Some(admission) => Arc::clone(admission.snapshot()),
        None => account.worker().snapshot.load_full(),
    };
    let numbers = admission.as_ref().and_then(|admission| admission.numbers());
    let host = admission
        .as_ref()
        .map(|admission| answer::without_port(admission.host()));
    let manner = admission
        .as_ref()
        .map(|admission| admission.manner().clone());
    let manner = manner.unwrap_or_default();
    let answer = answer::refusal(&account, &snapshot, &refusal, numbers, host, &manner);
    account.failed(reason, detail, answer.status());
    answer.map(|text| Body::local(text, account))
}

fn refusal_of(kind: FailureKind) -> (Refusal, &'static str) {
    match kind {
        FailureKind::Backend(failure) => (Refusal::Upstream(failure), failure.error_type()),
        FailureKind::ClientStalled => (Refusal::RequestTimeout, "client_stalled"),
        FailureKind::BodyTooLarge => (Refusal::BodyTooLarge, "body_too_large"),
        FailureKind::BodyMalformed => (
            Refusal::BadRequest("The request body is malformed."),
            "body_malformed",
        ),
        FailureKind::ClientGone => (
            Refusal::BadRequest("The request body broke off."),
            "client_gone",
        ),
    }
}
