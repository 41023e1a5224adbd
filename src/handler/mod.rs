//! One request on one page: admit, forward, check again, answer, account.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body::Body as _;

use crate::alerts::rules;
use crate::clock::Now;
use crate::gate;
use crate::gate::Admission;
use crate::gate::Early;
use crate::gate::Ended;
use crate::gate::Exposed;
use crate::gate::Means;
use crate::gate::Peer;
use crate::gate::Refused;
use crate::gate::Wanted;
use crate::quota::Numbers;
use crate::quota::shared::Verdict;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::token::Patience;
use crate::upstream::ClientBody;
use crate::upstream::ClientRequest;
use crate::upstream::FailureKind;
use crate::upstream::Forwarded;
use crate::upstream::Unread;
use crate::upstream::drain;

use account::Account;
pub use body::Answered;
pub use body::Body;
use body::Words;
use in_flight::Carrier;
use in_flight::Flight;
use turn::turn;
pub use turn::turn_was_taken;
pub use turn::watch_turns;
use twin::Twin;
pub use worker::Burnt;
pub use worker::Shared;
pub use worker::Worker;

mod account;
mod answer;
mod body;
mod guard;
mod guard_head;
mod guarded;
pub mod in_flight;
mod meters;
mod request_id;
mod tunnel;
mod turn;
mod twin;
mod worker;

/// Serves one request of the TLS listener, from its head to an answer whose body accounts for itself when it ends. `carrier` is told to cut
/// that body when the key ends first (FA9).
pub async fn handle(
    worker: Rc<Worker>,
    peer: Peer,
    carrier: Rc<dyn Carrier>,
    request: ClientRequest,
) -> Response<Body> {
    let mut now = worker.clock.now();
    let mut snapshot = worker.snapshot.load_full();
    let ClientRequest { mut head, body } = request;
    // Before anything else is done, since what is known of its key has far to come.
    let mut early = Early::of(&head.headers);
    let gathers = early.is_some() && worker.quota.is_crowded();
    match &mut early {
        Some(early) if gathers => worker.gathering.add(early, &snapshot, &worker.quota),
        Some(early) => early.look_out(&snapshot),
        None => {}
    }
    let mut account = Account::open(Rc::clone(&worker), now, peer, &head);
    if gathers {
        // A request that ends here was never judged: it is logged as one whose client left, and charged to nobody.
        drop(snapshot);
        turn().await;
        // The view and the time of now: from here to the list of requests in flight nothing is awaited, but by `admit_later`, which takes its own.
        (now, snapshot) = (worker.clock.now(), worker.snapshot.load_full());
        worker.gathering.look(&snapshot, &worker.quota);
    }
    if let Some(preflight) = gate::preflight(&snapshot, &head) {
        leave_unread(body, &head, &snapshot);
        let answer = answer::preflight(&account, &snapshot, &preflight);
        account.preflight(preflight, answer.status());
        return answer.map(|text| Body::local(text, account));
    }
    if let Some((resource, host)) = gate::metadata_asked(&snapshot, &head) {
        leave_unread(body, &head, &snapshot);
        let answer = answer::metadata(&account, &snapshot, &resource, &host, &head);
        account.metadata(host, answer.status());
        return answer.map(|text| Body::local(text, account));
    }
    let (known, early) = (Known::default(), early.as_ref());
    let mut admitted = admit(&worker, &snapshot, now, &peer, &mut head, known, early);
    if let Err(refused) = &mut admitted
        && let Some(wanted) = refused.wanted.take()
    {
        // Boxed: only tokens that nobody has seen before come here, and charges where nodes share their limits.
        let (view, verdict) = Box::pin(admit_later(&worker, *wanted, &peer, &mut head)).await;
        (snapshot, admitted) = (view, verdict);
    }
    match admitted {
        Ok(admission) => {
            let principal = admission.principal();
            let usage = &worker.usage;
            let counted =
                principal.map(|known| usage.admitted(known.reported(), known.seat(), now.wall));
            let flight = worker.in_flight.join(admission, carrier);
            account.admitted(&flight, counted, &mut head);
            let request = ClientRequest { head, body };
            forward(&worker, account, &flight, request).await
        }
        Err(refused) => {
            leave_unread(body, &head, &snapshot);
            let mut answer = if refused.is_twin() {
                answer::refused_twin(&account, &snapshot, &refused).map(Words::from)
            } else {
                answer::refusal(
                    &account,
                    &snapshot,
                    &refused.refusal,
                    refused.numbers.as_ref(),
                    refused.host.as_deref(),
                    &refused.manner,
                )
            };
            if answer.headers().is_empty() {
                // The room of the request's fields goes back to the connection, which takes in the next request's.
                head.headers.clear();
                std::mem::swap(answer.headers_mut(), &mut head.headers);
            }
            report(&refused, &peer);
            account.refused(&snapshot, *refused, answer.status());
            answer.map(|text| Body::local(text, account))
        }
    }
}

/// Lets go of the body of a request that is answered without it.
fn leave_unread(body: ClientBody, head: &Parts, snapshot: &Snapshot) {
    if !body.is_end_stream() {
        drain(
            body,
            Unread::of(&head.headers, &snapshot.config.connections),
        );
    }
}

fn admit(
    worker: &Worker,
    snapshot: &Arc<Snapshot>,
    now: Now,
    peer: &Peer,
    head: &mut Parts,
    known: Known,
    early: Option<&Early>,
) -> Result<Box<Admission>, Box<Refused>> {
    let means = Means {
        quota: &worker.quota,
        tokens: &worker.tokens,
        alerts: &worker.alerts,
        patience: known.patience,
        charged: known.charged,
        early,
    };
    gate::admit(snapshot, &means, now, peer, head)
}

/// Waits for what the gate wanted to know, and asks it once more, with the view and the time of then: between that view and the list of
/// requests in flight nothing is awaited.
async fn admit_later(
    worker: &Worker,
    wanted: Wanted,
    peer: &Peer,
    head: &mut Parts,
) -> (Arc<Snapshot>, Result<Box<Admission>, Box<Refused>>) {
    let mut charged = None;
    let mut next = Some(wanted);
    let mut waits = 0;
    loop {
        let mut patience = Patience::Fresh;
        match next.take() {
            Some(Wanted::Token(wanted)) => patience = wanted.settle().await,
            // Charged once: the verdict is kept, whatever else is waited for.
            Some(Wanted::Charge(ask)) => {
                charged = match worker.quota.shared() {
                    Some(shared) => Some(shared.charge(ask).await),
                    None => None,
                };
            }
            None => {}
        }
        waits += 1;
        let known = Known { patience, charged };
        let snapshot = worker.snapshot.load_full();
        let mut verdict = admit(
            worker,
            &snapshot,
            worker.clock.now(),
            peer,
            head,
            known,
            None,
        );
        if let Err(refused) = &mut verdict
            && waits < WAITS_MAX
            && let Some(wanted) = refused.wanted.take()
        {
            next = Some(*wanted);
            continue;
        }
        return (snapshot, verdict);
    }
}

/// For a token, for the charge, and once more for a token that has been forgotten meanwhile.
const WAITS_MAX: u32 = 3;

/// What a request has waited for already.
#[derive(Debug, Default)]
struct Known {
    patience: Patience,
    charged: Option<Verdict>,
}

/// A secret key that stands in a web page is anybody's (FF20).
fn report(refused: &Refused, peer: &Peer) {
    if let (gate::SECRET_KEY_IN_BROWSER, Some(key)) = (refused.reason, &refused.key) {
        tracing::warn!(key_id = %key, client = %peer.address.ip(), "secret_key_in_browser: regenerate this key, and give the page a public one");
    }
}

/// Answers a request that came in clear: 403, whatever it asks for; nothing goes upstream (FA29).
pub fn refuse_plaintext(worker: &Rc<Worker>, peer: Peer, request: ClientRequest) -> Response<Body> {
    let now = worker.clock.now();
    let snapshot = worker.snapshot.load_full();
    let ClientRequest { head, body } = request;
    leave_unread(body, &head, &snapshot);
    let exposed = gate::peek(&head, &snapshot.config.auth, &snapshot);
    if let Some(exposed) = exposed {
        burn(worker, &snapshot, exposed, peer);
    }
    let mut account = Account::open(Rc::clone(worker), now, peer, &head);
    let answer = answer::plaintext(&account, &snapshot, &head);
    account.refused_in_clear(exposed.map(|exposed| exposed.key), answer.status());
    answer.map(|text| Body::local(text, account))
}

/// A key that was sent in clear is no secret any more. It is handed to whoever may revoke it; this thread waits for nobody.
fn burn(worker: &Worker, snapshot: &Snapshot, exposed: Exposed, peer: Peer) {
    let client = peer.address.ip();
    let revokes = snapshot.config.revocation.revoke_plaintext && exposed.is_revocable;
    let at = worker.clock.now().wall;
    (worker.alerts).raise(rules::in_clear(exposed.key, client, revokes, at));
    if !(snapshot.config.revocation.revoke_plaintext && exposed.is_revocable) {
        tracing::warn!(key_id = %exposed.key, %client, "key_seen_in_plaintext: regenerate this key");
        return;
    }
    if worker.burnt.try_send((exposed, client)).is_err() {
        tracing::error!(key_id = %exposed.key, %client, "key_seen_in_plaintext: too many at once to revoke this one; revoke it yourself, or it is when it comes again");
    }
}

/// What a client is told that speaks HTTP in clear on a TLS port; it is no request, and the edge counts it as a connection (S25).
pub fn tls_expected(worker: &Worker) -> Response<Bytes> {
    let request_id = worker.request_ids.next(worker.clock.now().wall);
    answer::tls_expected(&worker.snapshot.load().config, &request_id)
}

async fn forward(
    worker: &Rc<Worker>,
    mut account: Box<Account>,
    flight: &Rc<Flight>,
    mut request: ClientRequest,
) -> Response<Body> {
    let (peer, request_id) = (account.peer(), account.request_id().clone());
    let admission = flight.admission();
    if waits_for_the_disk(admission)
        && let Some((refusal, reason)) = Box::pin(unrecorded(worker, flight)).await
    {
        let ClientRequest { head, body } = request;
        leave_unread(body, &head, admission.snapshot());
        return failed(account, flight, refusal, reason, String::new());
    }
    if let Some(foreign) = admission.foreign() {
        twin::prepare(&mut request.head.headers, foreign);
    }
    let guard = guard::of(admission);
    let marked = guard.is_some_and(|guard| guard::ask(guard, &mut request.head.headers));
    let outcome = {
        // Dropped here when the request is ended: that closes the backend's connection, unless the request was not begun on it, before the client is told.
        let mut exchange = pin!(
            worker
                .pools
                .forward(admission, &peer, &request_id, true, request)
        );
        poll_fn(|cx| flight.poll_unless_ended(cx, |cx| exchange.as_mut().poll(cx))).await
    };
    account.answered(worker.clock.mono());
    if admission.route().references.is_some() {
        account.observed_meanwhile(admission);
    }
    // The answer may have come between the change and the walk over the requests in flight.
    let outcome = outcome.and_then(|outcome| match admission.ended(&worker.snapshot.load()) {
        Some(ended) => Err(ended),
        None => Ok(outcome),
    });
    match outcome {
        Err(ended) => ended_meanwhile(account, flight, ended),
        Ok(Ok(Forwarded::Answer(forwarded))) => {
            let forwarded = match admission.foreign() {
                None => forwarded,
                // Boxed: it is rare, and would make every request's future larger.
                Some(foreign) => {
                    let twin = Box::pin(twin::answer(&mut account, flight, forwarded, foreign));
                    match twin.await {
                        Twin::Backend(forwarded) => forwarded,
                        Twin::Own(answer) => return answer.map(|text| Body::local(text, account)),
                        Twin::Ended(ended) => return ended_meanwhile(account, flight, ended),
                    }
                }
            };
            account.forwarded(forwarded.server, forwarded.response.status());
            if let Some(guard) = guard {
                // Boxed: most routes have no guard, and pay nothing for those that do.
                return Box::pin(guard::pass_on(
                    guard,
                    marked,
                    forwarded.response,
                    flight,
                    account,
                ))
                .await;
            }
            flight.answers(account.ends_in_trailers());
            if forwarded.response.body().has_fields() {
                return (forwarded.response).map(|stream| Body::upstream(stream, account));
            }
            answer::pass_on(forwarded.response, admission, account, Body::upstream)
        }
        Ok(Ok(Forwarded::Switched(switched))) => {
            flight.answers(false);
            account.forwarded(Rc::clone(&switched.server), switched.head.status);
            tunnel::open(account, flight, *switched)
        }
        Ok(Err(failure)) => {
            account.server(failure.server);
            if failure.kind == FailureKind::ReferenceForeign {
                let text = twin::of_reference(&mut account, flight, failure.detail);
                return text.map(|text| Body::local(text, account));
            }
            let (refusal, reason) = (refusal_of(failure.kind), failure.kind.reason());
            failed(account, flight, refusal, reason, failure.detail)
        }
    }
}

/// Whether the backend may see this request only once what it was charged is on the disk.
fn waits_for_the_disk(admission: &Admission) -> bool {
    let charged = |numbers: &Numbers| numbers.quota.is_some() || numbers.burst.is_some();
    // What addresses ask of public routes is no key's, and stands in no store.
    admission.snapshot().config.store.strict
        && admission.principal().is_some()
        && admission.numbers().is_some_and(charged)
}

/// Waits for that; why the request cannot go on, if it cannot.
async fn unrecorded(worker: &Worker, flight: &Flight) -> Option<(Refusal, &'static str)> {
    let mut written = pin!(worker.quota.saves().wait());
    let outcome = poll_fn(|cx| flight.poll_unless_ended(cx, |cx| written.as_mut().poll(cx))).await;
    match outcome {
        Ok(true) => None,
        Ok(false) => Some((Refusal::NotRecorded, "not_recorded")),
        Err(ended) => Some((ended.refusal(), ended.reason())),
    }
}

fn ended_meanwhile(account: Box<Account>, flight: &Flight, ended: Ended) -> Response<Body> {
    failed(
        account,
        flight,
        ended.refusal(),
        ended.reason(),
        String::new(),
    )
}

/// An answer of ours after the admission: charged, with the rate headers.
fn failed(
    mut account: Box<Account>,
    flight: &Flight,
    refusal: Refusal,
    reason: &'static str,
    detail: String,
) -> Response<Body> {
    flight.refuses();
    let admission = flight.admission();
    let host = answer::without_port(admission.host());
    let answer = answer::refusal(
        &account,
        admission.snapshot(),
        &refusal,
        admission.numbers(),
        Some(host),
        admission.manner(),
    );
    account.failed(reason, detail, answer.status());
    answer.map(|text| Body::local(text, account))
}

fn refusal_of(kind: FailureKind) -> Refusal {
    match kind {
        FailureKind::Backend(failure) => Refusal::Upstream(failure),
        FailureKind::ClientStalled => Refusal::RequestTimeout,
        FailureKind::BodyTooLarge => Refusal::BodyTooLarge,
        FailureKind::BodyMalformed => Refusal::BadRequest("The request body is malformed."),
        FailureKind::BodyUnfit => Refusal::BadRequest("The request body must be one JSON object."),
        FailureKind::FormUnfit => Refusal::BadRequest(
            "The request body must be one flat JSON object of texts, whole numbers and booleans, or a form.",
        ),
        FailureKind::TypeUnfit => Refusal::UnsupportedType,
        FailureKind::ReferenceUnfit => Refusal::BadRequest(
            "The request body refers to something by no id that can be looked up.",
        ),
        FailureKind::ReferenceForeign => Refusal::NoRoute,
        FailureKind::ClientGone => Refusal::BadRequest("The request body broke off."),
    }
}
