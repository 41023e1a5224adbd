//! What keys and tenants did within some time, as reports show it.

use std::collections::HashMap;
use std::collections::HashSet;

use serde::Deserialize;
use serde::Serialize;

use crate::clock::Wall;
use crate::model::identity::TOKENS_NAME;
use crate::model::identity::tokens_of;
use crate::model::key::KeyId;
use crate::model::tenant::TenantId;
use crate::store::history::HOURS_KEPT;
use crate::store::history::LATENCY_BOUNDS;
use crate::store::history::Tally;
use crate::store::history::hour_of;
use crate::store::history::start_of;
use crate::store::outcome::KeyView;
use crate::store::outcome::rfc3339;

/// The span of a report where none is asked for: a day.
pub const SINCE_SECONDS: u64 = 86_400;

/// The longest span: what is kept.
pub const SINCE_SECONDS_MAX: u64 = HOURS_KEPT as u64 * 3_600;

/// The hours that a report is about.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Its first hour.
    pub since: u32,
    /// Its last.
    pub until: u32,
    now: Wall,
}

impl Span {
    /// So far back from now.
    #[must_use]
    pub fn back(seconds: u64, now: Wall) -> Span {
        let micros = seconds.min(SINCE_SECONDS_MAX).saturating_mul(1_000_000);
        Span {
            since: hour_of(Wall(now.0.saturating_sub(micros))),
            until: hour_of(now),
            now,
        }
    }
}

/// What was found out for a report.
#[derive(Debug, Default)]
pub struct Found {
    /// By key.
    pub keys: Vec<(KeyId, Tally)>,
    /// By hour, of all that is asked about; `None` behind the first page.
    pub hours: Option<Vec<(u32, Tally)>>,
    /// Where the next page begins.
    pub next: Option<KeyId>,
}

/// A report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The beginning of the first hour in it; RFC 3339.
    pub since: String,
    /// When it was made.
    pub until: String,
    /// Upper bounds of all latency buckets but the last, in seconds, bounds included.
    pub latency_bounds_seconds: Vec<f64>,
    /// All of it together, whatever the page shows; `None` behind the first page.
    pub total: Option<Figures>,
    /// By key; those that did nothing are left out.
    pub keys: Vec<KeyFigures>,
    /// By hour, all of it together; those in which nothing was done are left out. Empty behind the first page.
    pub hours: Vec<HourFigures>,
    /// What the page behind this one is asked for `after`; `None` is that there is none.
    pub next: Option<String>,
    /// The nodes whose part is in it, this one first; none on a node alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Reporting>,
    /// Why the part of other nodes is not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others_missing: Option<String>,
}

/// A node whose part is in a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reporting {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: Option<String>,
    /// When it told last; RFC 3339. What it did since is not in the report.
    pub told_at: String,
    /// Whether it has been silent for so long that something may be missing.
    pub may_lack: bool,
}

impl Report {
    /// The same, with who told it and why others did not.
    #[must_use]
    pub fn of_nodes(mut self, (nodes, missing): (Vec<Reporting>, Option<String>)) -> Report {
        (self.nodes, self.others_missing) = (nodes, missing);
        self
    }

    /// For who is no operator: what may be missing is said, and not which node or server there is.
    #[must_use]
    pub fn without_names(mut self) -> Report {
        for node in &mut self.nodes {
            (node.id, node.name) = (String::new(), None);
        }
        if let Some(why) = &mut self.others_missing {
            "the shared store is away".clone_into(why);
        }
        self
    }
}

/// One key's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyFigures {
    /// `key_…`; of all tokens of a tenant together, one that no key has.
    pub key_id: String,
    /// What people call it; `None` when it is gone from the file that declared it.
    pub name: Option<String>,
    /// Whose it is.
    pub tenant: Option<String>,
    /// What it did.
    #[serde(flatten)]
    pub figures: Figures,
}

/// One hour's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HourFigures {
    /// When it began; RFC 3339.
    pub hour: String,
    /// What was done.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What was done. Requests are those that were admitted and have ended; each counts in the hour in which it began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Admitted requests: the three below together.
    pub requests: u64,
    /// Answered below 400.
    pub success: u64,
    /// Answered 400 to 499.
    pub client_error: u64,
    /// Answered 500 or more.
    pub server_error: u64,
    /// Refused by the gateway, and in none of the above: 401, 403, 404, 429 of its own.
    pub refused: u64,
    /// `success` of `requests`, in percent; `None` without requests.
    pub success_rate_percent: Option<f64>,
    /// The rest.
    pub error_rate_percent: Option<f64>,
    /// Bytes of request bodies.
    pub received_bytes: u64,
    /// Bytes of answer bodies.
    pub sent_bytes: u64,
    /// Requests by how long they took, to the end of their answer.
    pub latency: Vec<u64>,
    /// RFC 3339; `None` is not within this time.
    pub last_used_at: Option<String>,
}

impl Figures {
    /// A tally as reports show it.
    #[must_use]
    pub fn of(tally: &Tally) -> Figures {
        let requests = tally.requests();
        let percent = |part: u64| {
            // Two digits: 99.99 % is told from 100 %.
            (requests > 0).then(|| (part as f64 * 10_000.0 / requests as f64).round() / 100.0)
        };
        let last_used = (tally.last_used_unix_seconds > 0)
            .then(|| rfc3339(Wall::from_unix_seconds(tally.last_used_unix_seconds)));
        Figures {
            requests,
            success: tally.success,
            client_error: tally.client_error,
            server_error: tally.server_error,
            refused: tally.refused,
            success_rate_percent: percent(tally.success),
            error_rate_percent: percent(tally.client_error + tally.server_error),
            received_bytes: tally.received_bytes,
            sent_bytes: tally.sent_bytes,
            latency: tally.latency.to_vec(),
            last_used_at: last_used,
        }
    }
}

/// Makes a report of what was found. `known` and `tenants`, whose tokens count too, name it.
#[must_use]
pub fn report(span: &Span, found: Found, known: &[KeyView], tenants: &[TenantId]) -> Report {
    let hours = found.hours.as_deref();
    Report {
        since: rfc3339(start_of(span.since)),
        until: rfc3339(span.now),
        latency_bounds_seconds: LATENCY_BOUNDS.map(|bound| bound as f64 / 1e6).to_vec(),
        total: hours.map(|hours| Figures::of(&sum(hours))),
        keys: with_names(&found.keys, known, tenants),
        hours: (hours.unwrap_or_default().iter())
            .map(|(hour, tally)| HourFigures {
                hour: rfc3339(start_of(*hour)),
                figures: Figures::of(tally),
            })
            .collect(),
        next: found.next.map(|key| key.to_string()),
        nodes: Vec::new(),
        others_missing: None,
    }
}

/// Hours together.
#[must_use]
pub fn sum(hours: &[(u32, Tally)]) -> Tally {
    let tallies = hours.iter().map(|(_, tally)| tally);
    tallies.fold(Tally::default(), |sum, tally| sum.and(tally))
}

fn with_names(keys: &[(KeyId, Tally)], known: &[KeyView], tenants: &[TenantId]) -> Vec<KeyFigures> {
    let shown: HashSet<KeyId> = keys.iter().map(|(key, _)| *key).collect();
    let names = known.iter().filter_map(|key| {
        let id = KeyId::parse(&key.id).ok()?;
        Some((id, (key.name.as_str(), key.tenant.as_str())))
    });
    let tokens = (tenants.iter()).map(|tenant| (tokens_of(tenant), (TOKENS_NAME, tenant.as_str())));
    let names = names.chain(tokens).filter(|(id, _)| shown.contains(id));
    let names: HashMap<KeyId, (&str, &str)> = names.collect();
    let figures = |(key, tally): &(KeyId, Tally)| {
        let named = names.get(key);
        KeyFigures {
            key_id: key.to_string(),
            name: named.map(|(name, _)| (*name).to_owned()),
            tenant: named.map(|(_, tenant)| (*tenant).to_owned()),
            figures: Figures::of(tally),
        }
    };
    keys.iter().map(figures).collect()
}
