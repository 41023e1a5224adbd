//! A guarded answer on its way out: refused while that is possible, else passed on through the filter (FM6, FM8).

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use http::Response;

use crate::gate::Admission;
use crate::guard::Coding;
use crate::guard::Fault;
use crate::guard::Form;
use crate::model::guard::Foreign;
use crate::model::guard::Guard;
use crate::model::limit::Mode;
use crate::refusal::Refusal;
use crate::refusal::UpstreamFailure;
use crate::upstream::BodyFault;
use crate::upstream::ResponseBody;

use super::account::Account;
use super::account::Deed;
use super::answer;
use super::body::Body;
use super::failed;
use super::guard_head;
use super::guard_head::Reading;
use super::guarded::Guarded;
use super::guarded::Stop;
use super::in_flight::Flight;
use super::twin;

/// The guard of the request's route, if it has one that reads answers.
pub(crate) fn of(admission: &Admission) -> Option<&Arc<Guard>> {
    let guard = admission.route().guard.as_ref();
    guard.filter(|guard| !guard.answers.is_empty() || !guard.remove_headers.is_empty())
}

/// Asks the backend for what can be judged. Says whether the client asks about something that a guard has marked.
pub(crate) fn ask(guard: &Guard, headers: &mut HeaderMap) -> bool {
    // Observing changes nothing, so that what is seen is what clients get.
    enforces(guard) && !guard.answers.is_empty() && guard_head::ask(headers)
}

/// Judges an answer as far as it is held, and passes on what may go on.
pub(crate) async fn pass_on(
    guard: &Arc<Guard>,
    marked: bool,
    response: Response<Box<ResponseBody>>,
    flight: &Rc<Flight>,
    mut account: Box<Account>,
) -> Response<Body> {
    let (mut head, stream) = response.into_parts();
    let has_body = !http_body::Body::is_end_stream(&stream);
    if enforces(guard) {
        for name in &guard.remove_headers {
            head.headers.remove(name);
        }
    }
    let reading = match guard.answers.is_empty() {
        true => Reading::Not,
        false => guard_head::reading(&head, has_body, marked),
    };
    if enforces(guard) && matches!(reading, Reading::Head | Reading::Body(..)) {
        guard_head::restate(&mut head.headers);
    }
    match reading {
        Reading::Not | Reading::Head => plain(Response::from_parts(head, stream), flight, account),
        Reading::Impossible(why) => {
            let fault = Fault::Undecodable(why);
            if enforces(guard) {
                return refuse(guard, fault, flight, account);
            }
            account.guard_found(guard, fault, Deed::Observed);
            plain(Response::from_parts(head, stream), flight, account)
        }
        Reading::Body(form, coding) => match held(guard, stream, flight, form, coding).await {
            Ok(body) => {
                flight.answers(account.ends_in_trailers());
                let answer = Response::from_parts(head, body);
                answer::pass_on(answer, flight.admission(), account, Body::guarded)
            }
            Err(Refused::Guard(fault)) => refuse(guard, fault, flight, account),
            Err(Refused::Other(refusal, reason)) => {
                failed(account, flight, refusal, reason, String::new())
            }
        },
    }
}

/// Why nothing of an answer is sent.
enum Refused {
    Guard(Fault),
    Other(Refusal, &'static str),
}

/// The body under guard, of which as much as the guard may hold has been judged.
async fn held(
    guard: &Arc<Guard>,
    stream: Box<ResponseBody>,
    flight: &Flight,
    form: Form,
    coding: Coding,
) -> Result<Box<Guarded>, Refused> {
    let body = Guarded::new(stream, guard, flight.admission(), form, coding);
    let mut body = Box::new(body.map_err(Refused::Guard)?);
    let bytes = Guarded::bytes_to_hold(guard, form);
    let outcome = poll_fn(|cx| flight.poll_unless_ended(cx, |cx| body.poll_hold(cx, bytes))).await;
    match outcome {
        Ok(Ok(())) => Ok(body),
        Ok(Err(Stop::Guard(fault))) => Err(Refused::Guard(fault)),
        Ok(Err(Stop::Body(fault))) => Err(broke_off(fault)),
        Err(ended) => Err(Refused::Other(ended.refusal(), ended.reason())),
    }
}

fn plain(
    answer: Response<Box<ResponseBody>>,
    flight: &Flight,
    account: Box<Account>,
) -> Response<Body> {
    flight.answers(account.ends_in_trailers());
    answer::pass_on(answer, flight.admission(), account, Body::upstream)
}

fn refuse(
    guard: &Guard,
    fault: Fault,
    flight: &Flight,
    mut account: Box<Account>,
) -> Response<Body> {
    account.guard_found(guard, fault, Deed::Refused);
    let (refusal, reason) = match (fault, guard.foreign) {
        // What a client is told of another tenant's resource: the same as of nothing.
        (Fault::Foreign(_), Foreign::NotFound) => {
            let text = twin::instead(&mut account, flight, "guard_foreign");
            return text.map(|text| Body::local(text, account));
        }
        (Fault::Foreign(_), _) => (bad_gateway(), "guard_foreign"),
        (Fault::Broken(_), _) => (bad_gateway(), "guard_broken"),
        (Fault::Undecodable(_), _) => (bad_gateway(), "guard_undecodable"),
        (Fault::Bomb, _) => (bad_gateway(), "guard_bomb"),
    };
    failed(account, flight, refusal, reason, String::new())
}

fn bad_gateway() -> Refusal {
    Refusal::Upstream(UpstreamFailure::ProtocolError)
}

/// An answer that broke off while it was held can still be answered in words.
fn broke_off(fault: BodyFault) -> Refused {
    let failure = match fault {
        BodyFault::ClientStalled => {
            return Refused::Other(Refusal::RequestTimeout, "client_stalled");
        }
        BodyFault::TooLarge => return Refused::Other(Refusal::BodyTooLarge, "body_too_large"),
        BodyFault::Malformed | BodyFault::Unfit | BodyFault::ClientGone => {
            let refusal = Refusal::BadRequest("The request body is malformed.");
            return Refused::Other(refusal, "body_malformed");
        }
        BodyFault::UpstreamSilent => UpstreamFailure::ResponseTimeout,
        BodyFault::UpstreamBroke | BodyFault::GuardCut => UpstreamFailure::ConnectionTerminated,
    };
    Refused::Other(Refusal::Upstream(failure), failure.error_type())
}

fn enforces(guard: &Guard) -> bool {
    guard.mode == Mode::Enforce
}
