//! What a request takes from the windows of its caller. Where other nodes share those, the gate asks for it and is asked again once it is answered.

use http::HeaderName;
use http::HeaderValue;
use http::Uri;
use http::header;
use http::request::Parts;

use crate::alerts::Alerts;
use crate::alerts::rules;
use crate::clock::Now;
use crate::config::LimitSubject;
use crate::gate::Means;
use crate::gate::Wanted;
use crate::gate::refused::Fault;
use crate::gate::refused::Known;
use crate::gate::token::Bearer;
use crate::quota::Charge;
use crate::quota::Exhausted;
use crate::quota::Hints;
use crate::quota::Numbers;
use crate::quota::shared::Ask;
use crate::quota::shared::SharedCounters;
use crate::quota::shared::Verdict;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;

/// Charges the request to the windows of its key, of its tenant or of both, as `[limits] subject` says.
pub(super) fn charge(
    snapshot: &Snapshot,
    means: &Means<'_>,
    bearer: &Bearer<'_>,
    cost: u32,
    now: Now,
    known: &mut Known,
) -> Result<(), Fault> {
    let key = bearer.entry();
    let owner = snapshot.tenant_of(key);
    let of_key = snapshot.limits_of(key);
    let of_tenant = snapshot.limits_of_tenant(owner);
    let by_key = Some((key.id, &of_key));
    let by_tenant = Some((&owner.id, &of_tenant));
    let (by_key, by_tenant) = match snapshot.config.limits.subject {
        LimitSubject::Key => (by_key, None),
        LimitSubject::Tenant => (None, by_tenant),
        LimitSubject::Both => (by_key, by_tenant),
    };
    let charge = Charge {
        key: by_key,
        tenant: by_tenant,
        cost,
    };
    let hints = Hints {
        key: bearer.seat(),
        tenant: &owner.seat,
    };
    let charged = match means.quota.shared() {
        None => means.quota.charge_at(&charge, hints, now),
        Some(counters) => shared(means, counters, &charge, now)?,
    };
    match charged {
        Ok(numbers) => {
            tell_of_limits(snapshot, means.alerts, &numbers, &charge, now, bearer);
            known.numbers = Some(numbers);
            Ok(())
        }
        Err(exhausted) => {
            known.numbers = Some(exhausted.numbers);
            let retry_after_seconds = exhausted.retry_after_seconds;
            let refusal = Refusal::LimitExceeded {
                retry_after_seconds,
            };
            Err(Fault::new(refusal, "limit_exceeded"))
        }
    }
}

/// Tells when this request has brought a quota window to the share that operators want to know of (FF15), whatever its answer will be. Users
/// of tokens are no keys that somebody gave out: of them only their tenant's window is told.
fn tell_of_limits(
    snapshot: &Snapshot,
    alerts: &Alerts,
    numbers: &Numbers,
    charge: &Charge<'_>,
    now: Now,
    bearer: &Bearer<'_>,
) {
    let rules = &snapshot.config.alerts;
    for (window, is_tenants) in numbers.quotas() {
        if !rules::nears(rules, window, charge.cost.max(numbers.fell)) {
            continue;
        }
        let key = (!is_tenants).then_some(bearer.entry().id);
        if key.is_some() && matches!(bearer, Bearer::Token(_)) {
            continue;
        }
        let tenant = snapshot.tenant_of(bearer.entry()).id.as_str();
        alerts.raise(rules::limit(rules, window, key, tenant, now.wall));
    }
}

/// What shared counters said; what this node holds of them is taken at once, and else they are asked where they have not been yet.
fn shared(
    means: &Means<'_>,
    counters: &SharedCounters,
    charge: &Charge<'_>,
    now: Now,
) -> Result<Result<Numbers, Exhausted>, Fault> {
    let verdict = means.charged.or_else(|| counters.take(charge, now));
    match verdict {
        Some(Verdict::Admitted(numbers)) => return Ok(Ok(numbers)),
        Some(Verdict::Refused(exhausted)) => return Ok(Err(exhausted)),
        Some(Verdict::Unknown) => return Err(Fault::new(Refusal::NotRecorded, "not_recorded")),
        None => {}
    }
    let Some(ask) = Ask::of(charge) else {
        return Ok(Ok(Numbers::default()));
    };
    let mut fault = Fault::new(Refusal::NotRecorded, "charge_pending");
    fault.wanted = Some(Box::new(Wanted::Charge(ask)));
    Err(fault)
}

/// What has to be awaited is no verdict, which a rule in observe mode could wave through.
pub(super) fn awaited(
    charged: Result<(), Fault>,
    as_came: Option<AsCame>,
    head: &mut Parts,
) -> Result<Result<(), Fault>, Fault> {
    match (charged, as_came) {
        (Err(fault), Some(as_came)) if fault.wanted.is_some() => {
            as_came.put_back(head);
            Err(fault)
        }
        (charged, _) => Ok(charged),
    }
}

/// The parts of a head that the gate takes out or rewrites, so that the same request can be judged once more. Copies counts, not bytes.
pub(super) struct AsCame {
    uri: Uri,
    lines: Vec<(HeaderName, HeaderValue)>,
}

impl AsCame {
    pub(super) fn of(head: &Parts) -> AsCame {
        let lines = TAKEN.iter().flat_map(|name| {
            let lines = head.headers.get_all(name).iter();
            lines.map(|line| (name.clone(), line.clone()))
        });
        AsCame {
            uri: head.uri.clone(),
            lines: lines.collect(),
        }
    }

    fn put_back(self, head: &mut Parts) {
        head.uri = self.uri;
        for name in &TAKEN {
            head.headers.remove(name);
        }
        for (name, line) in self.lines {
            head.headers.append(name, line);
        }
    }
}

/// Where credentials stand.
static TAKEN: [HeaderName; 3] = [
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    header::COOKIE,
];
