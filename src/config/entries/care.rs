//! What an upstream does about servers that fail: `ejection`, `health` and `retry_budget`.

use toml::Spanned;

use crate::config::Ejection;
use crate::config::HealthCheck;
use crate::config::RetryBudget;
use crate::config::addresses;
use crate::config::entries::inner;
use crate::config::file::Reader;
use crate::config::names;
use crate::config::problem::Problem;
use crate::config::values::Wrong;
use crate::config::values::digits_only;
use crate::config::values::wrong;

/// `[upstreams.NAME.retry_budget]`.
pub(super) fn retry_budget(table: &mut Reader<'_>) -> RetryBudget {
    table.own_table("retry_budget", "upstreams.retry_budget", |table| {
        RetryBudget {
            share: table.number("share", 20, 0, 100),
            free_per_second: table.number("free_per_second", 10, 0, 10_000),
        }
    })
}

/// `[upstreams.NAME.ejection]`.
pub(super) fn ejection(table: &mut Reader<'_>) -> Ejection {
    table.own_table("ejection", "upstreams.ejection", |table| {
        let ejection = Ejection {
            failures: table.number("failures", 5, 0, 1_000),
            statuses: inner(table.list("statuses", failing_status)),
            time: table.duration("time", "10s", ("100ms", "1h")),
            time_max: table.duration("time_max", "5min", ("100ms", "24h")),
            share_max: table.number("share_max", 50, 0, 100),
        };
        if ejection.time > ejection.time_max {
            table.notes().error(Problem::context(
                table.place("time"),
                format!("{} time is longer than time_max", table.title()),
                "write a time_max that is at least as long",
            ));
        }
        ejection
    })
}

/// `[upstreams.NAME.health]`; nothing is checked without a path.
pub(super) fn health(table: &mut Reader<'_>) -> Option<HealthCheck> {
    table.own_table("health", "upstreams.health", |table| {
        let path = table.word("path", |text| match text {
            "" => Ok(None),
            text => names::check_path(text).map(Some),
        });
        let host = table.word("host", |text| match text {
            "" => Ok(None),
            text => addresses::fixed_host(text).map(Some),
        });
        let interval = table.duration("interval", "5s", ("100ms", "1h"));
        let timeout = table.duration("timeout", "2s", ("10ms", "5min"));
        let healthy = table.number("healthy", 2, 1, 100);
        let unhealthy = table.number("unhealthy", 3, 1, 100);
        let status = table.word("status", status_range);
        if path.is_none() && table.header().is_some() && !table.has("path") {
            table.missing("path", "write path = \"/healthz\", or take health out");
        }
        Some(HealthCheck {
            path: path.and_then(Spanned::into_inner)?,
            host: host.and_then(Spanned::into_inner),
            interval,
            timeout,
            healthy,
            unhealthy,
            status: status.map_or((200, 299), Spanned::into_inner),
        })
    })
}

fn failing_status(text: &str) -> Result<u16, Wrong> {
    match status(text) {
        Some(status @ 500..=599) => Ok(status),
        _ => wrong(
            format!("\"{text}\" is no status that a server fails with"),
            "write statuses from \"500\" to \"599\", for example [\"502\", \"503\", \"504\"]",
        ),
    }
}

/// `200` or `200-399`.
fn status_range(text: &str) -> Result<(u16, u16), Wrong> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (status(low), status(high)) {
        (Some(low), Some(high)) if (200..=high).contains(&low) && high < 600 => Ok((low, high)),
        _ => wrong(
            format!("\"{text}\" is neither a status nor a range of them"),
            "write \"200\" or \"200-399\"",
        ),
    }
}

fn status(text: &str) -> Option<u16> {
    let plain = text.len() == 3 && digits_only(text);
    plain.then(|| text.parse().ok()).flatten()
}
