//! Requests of which no key is known: what is let through, counted and held up under the address that they come from.

use http::HeaderMap;

use crate::clock::Now;
use crate::config::Config;
use crate::gate::Peer;
use crate::gate::credential;
use crate::gate::refused::Fault;
use crate::gate::refused::Known;
use crate::model::key_text;
use crate::model::route::Route;
use crate::model::source::source_of;
use crate::quota::Quota;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;

/// Takes out of the headers what nobody asks for on a public route. Where the route passes `Authorization` on, it stays, unless it is a key's.
pub(super) fn discard(snapshot: &Snapshot, headers: &mut HeaderMap, route: Option<&Route>) {
    let passes = route.is_some_and(|route| route.pass_authorization)
        && credential::is_for_others(headers, &snapshot.config, |text| {
            snapshot.key(&key_text::digest_of(text)).is_some()
        });
    credential::discard(headers, &snapshot.config.auth, passes);
}

/// Counts a request to a public route under the address that sends it, where the route limits that. No key is asked for here, so that none can be
/// held up; routes with keys never come by.
pub(super) fn visit(quota: &Quota, peer: &Peer, now: Now, known: &mut Known) -> Result<(), Fault> {
    let Some((route, rate)) =
        (known.route.as_deref()).and_then(|route| route.address_limit.map(|rate| (route, rate)))
    else {
        return Ok(());
    };
    let source = source_of(peer.address.ip());
    let name = (route.host.as_deref(), route.path.as_str(), &*route.methods);
    match quota.visitors.charge(name, source, rate, now) {
        Ok(numbers) => {
            known.numbers = Some(numbers);
            Ok(())
        }
        Err(exhausted) => {
            known.numbers = Some(exhausted.numbers);
            let refusal = Refusal::LimitExceeded {
                retry_after_seconds: exhausted.retry_after_seconds,
            };
            Err(Fault::new(refusal, "address_limited"))
        }
    }
}

/// Counts a credential that is nobody's under the one who presents it; beyond `auth.failures` the answer is 429. Known keys do not come by
/// here, so that no neighbour's spray can hold them up.
pub(super) fn unknown(
    snapshot: &Snapshot,
    quota: &Quota,
    now: Now,
    peer: &Peer,
    fault: Fault,
) -> Fault {
    let config = &snapshot.config;
    let source = source_of(peer.address.ip());
    let over = config
        .auth
        .failures
        .and_then(|rate| quota.strangers.failed(source, rate, now.mono));
    let Some(over) = over else {
        // Another node may know it (PB14).
        if snapshot.may_miss_keys(now.mono) && fault.reason == "unknown_key" {
            return Fault::new(Refusal::CredentialUnclear, "store_away");
        }
        return fault;
    };
    if over.begins {
        tracing::warn!(client = %source, "auth_throttled: too many unknown keys from there (auth.failures); known ones are served");
    }
    let refusal = Refusal::LimitExceeded {
        retry_after_seconds: over.retry_after_seconds,
    };
    Fault::new(refusal, "auth_throttled")
}

/// The 429 of a source from which too much came that is nobody's, without counting; `None` while it has not.
pub(super) fn throttled(config: &Config, quota: &Quota, now: Now, peer: &Peer) -> Option<Fault> {
    let source = source_of(peer.address.ip());
    let rate = config.auth.failures?;
    let over = quota.strangers.over(source, rate, now.mono)?;
    let refusal = Refusal::LimitExceeded {
        retry_after_seconds: over.retry_after_seconds,
    };
    Some(Fault::new(refusal, "auth_throttled"))
}
