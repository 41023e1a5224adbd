//! When there is something to tell: pure functions of counts, ends and a time.

use std::collections::HashMap;
use std::net::IpAddr;

use foldhash::fast::RandomState;
use serde_json::json;

use crate::alerts::Alert;
use crate::alerts::Kind;
use crate::aside::give_way;
use crate::aside::step_aside;
use crate::clock::Wall;
use crate::config::AlertRules;
use crate::model::key::KeyId;
use crate::quota::WindowNumbers;
use crate::store::history::HourRow;
use crate::store::outcome::rfc3339;

/// Error rates are those of the last five minutes.
const RATE_MINUTES: u64 = 5;

/// Unusual is compared with the mean of a day.
pub const MEAN_HOURS: u32 = 24;

/// Keys of which a minute is let go before others are let run: some ten microseconds.
const ROLLED_AT_ONCE: usize = 1_024;

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

/// Requests and errors of each key within the last minutes; holds keys that did something within them alone.
#[derive(Debug, Default)]
pub struct ErrorRates {
    minute: u64,
    /// Hashed by seeds of its own: ids that the gateway made.
    keys: HashMap<KeyId, [(u32, u32); RATE_MINUTES as usize], RandomState>,
}

impl ErrorRates {
    /// Takes in what was just flushed; tells of the keys of which too much failed.
    pub fn take_in(&mut self, rules: &AlertRules, rows: &[HourRow], at: Wall) -> Vec<Alert> {
        if rules.error_rate_percent == 0 {
            self.keys.clear();
            return Vec::new();
        }
        let minute = at.unix_seconds() / 60;
        self.roll(minute);
        let place = (minute % RATE_MINUTES) as usize;
        let mut alerts = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            give_way(index);
            let (requests, failed) = (
                row.tally.requests(),
                row.tally.client_error + row.tally.server_error,
            );
            if requests == 0 {
                continue;
            }
            let minutes = self.keys.entry(row.key).or_default();
            minutes[place].0 = minutes[place].0.saturating_add(narrow(requests));
            minutes[place].1 = minutes[place].1.saturating_add(narrow(failed));
            let sum = |which: fn(&(u32, u32)) -> u32| -> u64 {
                minutes.iter().map(|minute| u64::from(which(minute))).sum()
            };
            let (requests, failed) = (sum(|minute| minute.0), sum(|minute| minute.1));
            let over = failed * 100 >= requests * u64::from(rules.error_rate_percent);
            if requests >= u64::from(rules.error_rate_requests) && over {
                alerts.push(error_rate(row.key, requests, failed, at));
            }
        }
        alerts
    }

    /// Lets go of minutes that have passed, and of keys without any left.
    fn roll(&mut self, minute: u64) {
        let passed = minute.saturating_sub(self.minute).min(RATE_MINUTES);
        if passed == 0 {
            return;
        }
        for back in 0..passed {
            let place = ((minute - back) % RATE_MINUTES) as usize;
            let mut index = 0_usize;
            self.keys.retain(|_, minutes| {
                index += 1;
                if index.is_multiple_of(ROLLED_AT_ONCE) {
                    step_aside();
                }
                minutes[place] = (0, 0);
                minutes.iter().any(|minute| minute.0 > 0)
            });
        }
        self.minute = minute;
    }
}

fn error_rate(key: KeyId, requests: u64, failed: u64, at: Wall) -> Alert {
    let percent = failed * 100 / requests;
    Alert {
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
            "window_seconds": RATE_MINUTES * 60,
        }),
        at,
    }
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

fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limit::Rate;
    use crate::store::history::Tally;

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

    fn row(success: u64, server_error: u64) -> HourRow {
        HourRow {
            key: A,
            hour: 0,
            tally: Tally {
                success,
                server_error,
                ..Tally::default()
            },
        }
    }

    #[test]
    fn errors_are_told_from_their_share_on_and_forgotten_after_five_minutes() {
        let at = |second: u64| Wall::from_unix_seconds(6_000 + second);
        let mut rates = ErrorRates::default();
        let mut told = |rows: &[HourRow], at| rates.take_in(&rules(), rows, at).len();
        assert_eq!(told(&[row(0, 19)], at(0)), 0, "too few");
        assert_eq!(told(&[row(21, 0)], at(30)), 0, "19 of 40");
        assert_eq!(told(&[row(0, 2)], at(60)), 1, "21 of 42");
        assert_eq!(
            told(&[row(0, 18)], at(359)),
            1,
            "20 of 20: the first minute has passed"
        );
        assert_eq!(told(&[row(1, 0)], at(700)), 0);
        assert_eq!(rates.keys.len(), 1);
        rates.roll(at(2_000).unix_seconds() / 60);
        assert_eq!(rates.keys.len(), 0);
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
