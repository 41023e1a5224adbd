//! A charge to counters that other nodes share: the gate asks for it and is asked again once it is answered.

use http::HeaderName;
use http::HeaderValue;
use http::Uri;
use http::header;
use http::request::Parts;

use crate::clock::Now;
use crate::gate::Fault;
use crate::gate::Means;
use crate::gate::Wanted;
use crate::quota::Charge;
use crate::quota::Exhausted;
use crate::quota::Numbers;
use crate::quota::shared::Ask;
use crate::quota::shared::SharedCounters;
use crate::quota::shared::Verdict;
use crate::refusal::Refusal;

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

/// What shared counters said; what this node holds of them is taken at once, and else they are asked where they have not been yet.
pub(super) fn shared(
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
