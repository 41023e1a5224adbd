//! What a write refers to in its JSON is looked up first, as its caller: what the caller has not is not written about (FM10).
//!
//! The body is held, its references are found, and each is asked for by GET: HEAD would do, but many backends do not know it, and what they
//! say of it is no answer. One after the other: a write seldom has more than two, and the first that is not the caller's ends it.
//!
//! `said` reads what the body says of its members, `found` makes of it what is to be asked for, `look_up` asks.

mod found;
mod look_up;
#[cfg(any(test, fuzzing))]
pub(super) mod properties;
mod said;

use http::Method;
use http_body::Body;

use crate::gate::Admission;
use crate::model::limit::Mode;
use crate::model::route::reference::References;
use crate::upstream::Failure;
use crate::upstream::FailureKind;
use crate::upstream::body::BodyFault;
use crate::upstream::forward::Exchange;
use crate::upstream::hold::hold;
use crate::upstream::inject;
use crate::upstream::prepared::Prepared;
use crate::upstream::references::found::LOOKUPS_MAX;
use crate::upstream::references::found::lookups;
use crate::upstream::references::look_up::look_up;

/// What the request's route looks up, if it does for this method.
pub(super) fn of<'a>(admission: &'a Admission, method: &Method) -> Option<&'a References> {
    let references = admission.route().references.as_deref();
    references.filter(|_| !method.is_safe())
}

/// Lets a write pass whose references are all its caller's. Its body is whole then, and its length stated.
///
/// # Errors
/// Why it does not pass; nothing of it has been sent. Where that is only observed, the client's own faults alone.
pub(super) async fn check(
    exchange: &Exchange<'_>,
    rules: &References,
    request: &mut Prepared,
) -> Result<(), Failure> {
    let Err(failure) = look_up_all(exchange, rules, request).await else {
        return Ok(());
    };
    if rules.mode == Mode::Enforce || exchange.upload.fault().is_some() {
        return Err(failure);
    }
    exchange.admission.observe(failure.kind.reason());
    Ok(())
}

async fn look_up_all(
    exchange: &Exchange<'_>,
    rules: &References,
    request: &mut Prepared,
) -> Result<(), Failure> {
    // Frameworks mix both: what stands in the query too, or instead, is nothing that can be told.
    let in_query = |name: &str| exchange.admission.query_has(name);
    let mut members = rules.members.iter();
    if let Some(member) = members.position(|one| in_query(&one.member)) {
        return Err(Unfit::Member(member, "it stands in the query").failure(exchange, rules));
    }
    if request.body.is_end_stream() {
        return Ok(());
    }
    if !inject::is_json(&request.head.headers) || inject::is_encoded(&request.head.headers) {
        return Err(exchange.type_unfit());
    }
    let body = hold(exchange, rules.body_bytes_max, request).await?;
    let lookups = lookups(&body, rules, exchange.admission);
    request.body.begin_again(body);
    let lookups = lookups.map_err(|unfit| unfit.failure(exchange, rules))?;
    for lookup in lookups {
        let member = &rules.members[lookup.member].member;
        let found = look_up(exchange, &request.head.headers, lookup.target).await;
        found.map_err(|failure| Failure {
            detail: format!("reference {member:?}: {}", failure.detail),
            ..failure
        })?;
    }
    Ok(())
}

/// Why nothing can be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfit {
    /// The body is not one JSON object.
    Body,
    /// This member says nothing that can be looked up; says why.
    Member(usize, &'static str),
    /// There is too much to look up.
    TooMany,
}

impl Unfit {
    fn failure(self, exchange: &Exchange<'_>, rules: &References) -> Failure {
        let detail = match self {
            Unfit::Body => return exchange.client_failed(BodyFault::Unfit, None),
            Unfit::Member(index, why) => {
                format!("reference {:?}: {why}", rules.members[index].member)
            }
            Unfit::TooMany => format!("more than {LOOKUPS_MAX} references"),
        };
        Failure {
            kind: FailureKind::ReferenceUnfit,
            server: None,
            detail,
        }
    }
}
