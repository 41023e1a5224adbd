//! When there is something to tell: pure functions of counts, ends and a time.

use std::net::IpAddr;

use serde_json::json;

use crate::alerts::Alert;
use crate::alerts::Kind;
use crate::clock::Wall;
use crate::config::AlertRules;
use crate::meter::ErrorRate;
use crate::meter::RATE_SECONDS;
use crate::model::key::KeyId;
use crate::quota::WindowNumbers;
use crate::store::outcome::rfc3339;

/// Unusual is compared with the mean of a day.
pub const MEAN_HOURS: u32 = 24;

const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

/// A quota window has reached the share with this very request, which was charged `cost`: once per window, since what is used only grows
/// within one.
#[must_use]
pub fn nears(rules: &AlertRules, window: &WindowNumbers, cost: u32) -> bool {
    let limit = u64::from(window.rate.count);
    let used = limit - u64::from(window.remaining.min(window.rate.count));
    let reached = |used: u64| used * 100 >= limit * u64::from(rules.limit_percent);
    rules.limit_percent > 0 && reached(used) && !reached(used.saturating_sub(cost.into()))
}

/// What is told of a window that `nears`: of this key, or where there is none of the tenant.
#[must_use]
pub fn limit(
    rules: &AlertRules,
    window: &WindowNumbers,
    key: Option<KeyId>,
    tenant: &str,
    at: Wall,
) -> Alert {
    let used = window.rate.count - window.remaining;
    let resets_at = rfc3339(Wall::from_unix_seconds(window.reset_unix_seconds));
    let (whose, id, subject) = match key {
        Some(key) => (format!("{key} of tenant {tenant}"), key.to_string(), "key"),
        None => (
            format!("tenant {tenant}"),
            format!("tenant {tenant}"),
            "tenant",
        ),
    };
    Alert {
        kind: Kind::LimitApproaching,
        once: format!("{id} {} {}", window.rate, window.reset_unix_seconds),
        for_seconds: u64::from(window.reset_in_seconds).max(1),
        text: format!(
            "{whose} has used {used} of its {} (alerts.limit_percent = {}); the window ends at {resets_at}",
            window.rate, rules.limit_percent
        ),
        data: json!({
            "subject": subject,
            "key_id": key.map(|key| key.to_string()),
            "tenant": tenant,
            "limit": window.rate.to_string(),
            "used": used,
            "remaining": window.remaining,
            "resets_at": resets_at,
        }),
        at,
    }
}

/// Too much of what a key asked for within the last minutes failed.
#[must_use]
pub fn error_rate(rules: &AlertRules, rate: &ErrorRate, at: Wall) -> Option<Alert> {
    let &ErrorRate {
        key,
        requests,
        failed,
    } = rate;
    let over = failed * 100 >= requests * u64::from(rules.error_rate_percent);
    if rules.error_rate_percent == 0 || requests < u64::from(rules.error_rate_requests) || !over {
        return None;
    }
    let percent = failed * 100 / requests;
    Some(Alert {
        kind: Kind::ErrorRate,
        once: key.to_string(),
        for_seconds: HOUR,
        text: format!(
            "{percent} % of the requests of {key} within five minutes failed: {failed} of {requests} were answered 400 or above"
        ),
        data: json!({
            "key_id": key.to_string(),
            "requests": requests,
            "errors": failed,
            "error_rate_percent": percent,
            "window_seconds": RATE_SECONDS,
        }),
        at,
    })
}

/// A key did more than `factor` times the mean of the 24 hours before within this hour. A key that did nothing in those is new, and not judged.
#[must_use]
pub fn unusual(
    rules: &AlertRules,
    key: KeyId,
    this_hour: u64,
    day_before: u64,
    at: Wall,
) -> Option<Alert> {
    let (factor, least) = (
        u64::from(rules.unusual_factor),
        u64::from(rules.unusual_requests),
    );
    // this_hour > factor * (day_before / 24), without losing the rest of the division.
    let more = this_hour * u64::from(MEAN_HOURS) > factor * day_before;
    if factor == 0 || day_before == 0 || this_hour < least || !more {
        return None;
    }
    let mean = day_before as f64 / f64::from(MEAN_HOURS);
    Some(Alert {
        kind: Kind::UnusualActivity,
        once: format!("{key} {}", at.unix_seconds() / HOUR),
        for_seconds: HOUR,
        text: format!(
            "{key} made {this_hour} requests within this hour, more than {factor} times the {mean:.1} of an hour of the day before"
        ),
        data: json!({
            "key_id": key.to_string(),
            "requests_this_hour": this_hour,
            "mean_per_hour_of_the_day_before": mean,
            "factor": factor,
        }),
        at,
    })
}

/// A key is neither used nor made within `unused_after`.
#[must_use]
pub fn unused(key: &str, name: &str, tenant: &str, last_used: Option<&str>, at: Wall) -> Alert {
    Alert {
        kind: Kind::KeyUnused,
        once: key.to_owned(),
        for_seconds: 30 * DAY,
        text: format!(
            "{key} ({}) of tenant {tenant} is in force and nobody uses it, last used: {}; `portcullis keys revoke {key}` ends it",
            name.escape_debug(),
            last_used.unwrap_or("never")
        ),
        data: json!({ "key_id": key, "name": name, "tenant": tenant, "last_used_at": last_used }),
        at,
    }
}

/// A key ends within `key_expiry_before`.
#[must_use]
pub fn expiring(key: KeyId, tenant: &str, expires: Wall, at: Wall) -> Alert {
    let expires_at = rfc3339(expires);
    Alert {
        kind: Kind::KeyExpiring,
        once: format!("{key} {expires_at}"),
        for_seconds: 366 * DAY,
        text: format!(
            "{key} of tenant {tenant} ends at {expires_at}; `portcullis keys rotate {key}` or `keys update --expires`"
        ),
        data: json!({ "key_id": key.to_string(), "tenant": tenant, "expires_at": expires_at }),
        at,
    }
}

/// The first certificate ends within `certificate_expiry_before`; told each day.
#[must_use]
pub fn certificate(expires: Wall, at: Wall) -> Alert {
    let expires_at = rfc3339(expires);
    Alert {
        kind: Kind::CertificateExpiring,
        once: expires_at.clone(),
        for_seconds: DAY,
        text: format!(
            "a certificate of [tls] ends at {expires_at}; put a new one in its place, it is taken up at once"
        ),
        data: json!({ "expires_at": expires_at }),
        at,
    }
}

/// Somebody tries credentials at the edge, beyond `auth.failures`, or at the admin listener.
#[must_use]
pub fn failing(where_at: &str, source: IpAddr, at: Wall) -> Alert {
    Alert {
        kind: Kind::FailedAuthentication,
        once: format!("{where_at} {source}"),
        for_seconds: HOUR,
        text: format!("{source} shows credentials that open nothing to the {where_at}"),
        data: json!({ "source": source.to_string(), "at": where_at }),
        at,
    }
}

/// A known key came over plain HTTP.
#[must_use]
pub fn in_clear(key: KeyId, client: IpAddr, revoked: bool, at: Wall) -> Alert {
    let then = match revoked {
        true => "it is revoked; tell its owner, and make a new one",
        false => "it is no secret any more: regenerate it",
    };
    Alert {
        kind: Kind::KeyInClear,
        once: key.to_string(),
        for_seconds: HOUR,
        text: format!("{key} was sent in clear by {client}; {then}"),
        data: json!({ "key_id": key.to_string(), "client": client.to_string(), "revoked": revoked }),
        at,
    }
}

/// The store takes nothing.
#[must_use]
pub fn store_trouble(counters_failing: bool, not_durable: usize, at: Wall) -> Alert {
    Alert {
        kind: Kind::StoreTrouble,
        once: "store".to_owned(),
        for_seconds: HOUR,
        text: "the store cannot be written: limits hold in memory, and changes may be in force and not durable; make room or repair it".to_owned(),
        data: json!({ "counters_failing": counters_failing, "changes_not_durable": not_durable }),
        at,
    }
}

/// The store that nodes share does not answer. Each outage is told of by itself: it takes ten seconds to be one.
#[must_use]
pub fn shared_store_away(servers: &str, silence_seconds: u64, at: Wall) -> Alert {
    Alert {
        kind: Kind::StoreTrouble,
        once: format!("shared store away {}", at.unix_seconds()),
        for_seconds: HOUR,
        text: format!(
            "the shared store ({servers}) has not been heard for {silence_seconds} s: known keys go on, a revocation on another node is not known here, and limits follow store.limits_outage"
        ),
        data: json!({ "shared_store": "away", "servers": servers, "silence_seconds": silence_seconds }),
        at,
    }
}

/// And answers again.
#[must_use]
pub fn shared_store_back(servers: &str, since_unix_seconds: u64, at: Wall) -> Alert {
    let since = rfc3339(Wall::from_unix_seconds(since_unix_seconds));
    Alert {
        kind: Kind::StoreTrouble,
        once: format!("shared store back {}", at.unix_seconds()),
        for_seconds: HOUR,
        text: format!(
            "the shared store ({servers}), away since {since}, is heard again: what other nodes changed meanwhile is in force here"
        ),
        data: json!({ "shared_store": "back", "servers": servers, "away_since": since }),
        at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limit::Rate;

    const A: KeyId = KeyId(*b"aaaaaaaaaaaa");

    fn rules() -> AlertRules {
        AlertRules {
            limit_percent: 80,
            error_rate_percent: 50,
            error_rate_requests: 20,
            unusual_factor: 10,
            unusual_requests: 100,
            ..AlertRules::default()
        }
    }

    fn window(limit: u32, used: u32) -> WindowNumbers {
        WindowNumbers {
            rate: Rate {
                count: limit,
                seconds: 3_600,
            },
            remaining: limit - used,
            reset_unix_seconds: 7_200,
            reset_in_seconds: 60,
        }
    }

    /// FF15: of all requests of a window exactly one tells, whatever they cost.
    #[test]
    fn a_window_tells_once_when_it_is_nearly_used() {
        for (limit_of, cost) in [
            (100, 1),
            (10, 1),
            (7, 1),
            (100, 7),
            (100, 90),
            (3, 3),
            (1, 1),
        ] {
            let mut told = Vec::new();
            for used in (cost..=limit_of).step_by(cost as usize) {
                if nears(&rules(), &window(limit_of, used), cost) {
                    told.push(used);
                }
            }
            assert!(
                told.len() == 1 && told[0] * 100 >= limit_of * 80,
                "{limit_of} {cost}: {told:?}"
            );
        }
        let off = AlertRules {
            limit_percent: 0,
            ..rules()
        };
        assert!(!nears(&off, &window(10, 8), 1));
        // A key's window and its tenant's are told apart.
        let at = Wall::from_unix_seconds(9);
        let of = |key| limit(&rules(), &window(10, 8), key, "acme", at);
        assert_ne!(of(Some(A)).once, of(None).once);
        assert!(
            of(None)
                .text
                .starts_with("tenant acme has used 8 of its 10/hour")
        );
    }

    #[test]
    fn errors_are_told_from_their_share_on() {
        let told = |rules: &AlertRules, requests, failed| {
            let rate = ErrorRate {
                key: A,
                requests,
                failed,
            };
            error_rate(rules, &rate, Wall::from_unix_seconds(7)).is_some()
        };
        assert!(!told(&rules(), 19, 19), "too few");
        assert!(!told(&rules(), 40, 19));
        assert!(told(&rules(), 42, 21));
        let off = AlertRules {
            error_rate_percent: 0,
            ..rules()
        };
        assert!(!told(&off, 42, 42));
    }

    #[test]
    fn unusual_is_more_than_so_many_times_the_mean_of_a_day() {
        let at = Wall::from_unix_seconds(7);
        for (this_hour, day_before, told) in [
            (101, 240, true),
            (100, 240, false),
            (99, 1, false),
            (1_000_000, 0, false),
            (5_000, 24_000, false),
        ] {
            let found = unusual(&rules(), A, this_hour, day_before, at).is_some();
            assert_eq!(found, told, "{this_hour} {day_before}");
        }
    }
}
