//! `[alerts]`, `[audit]` and `[log]`: what operators are told, and what is kept of it.

use std::ops::RangeInclusive;
use std::path::Path;
use std::path::PathBuf;

use http::Uri;
use toml::Spanned;

use crate::config::addresses;
use crate::config::file::Reader;
use crate::config::problem::Problem;
use crate::config::settings::path;
use crate::config::values::Wrong;
use crate::config::values::wrong;
use crate::model::key::Lifetime;

/// `[alerts]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertRules {
    /// Where alerts are sent; `None` for the log alone.
    pub webhook: Option<Webhook>,
    /// The share of a quota window that is told of, in percent; 0 is none. 0 to 100.
    pub limit_percent: u32,
    /// The share of a key's requests that may fail within five minutes, in percent; 0 is off. 0 to 100.
    pub error_rate_percent: u32,
    /// Fewer requests than this say nothing. 1 to 1,000,000.
    pub error_rate_requests: u32,
    /// How many times the mean hour of the day before is unusual; 0 is off. 0 to 10,000.
    pub unusual_factor: u32,
    /// Fewer requests within the hour than this are never unusual. 1 to 1,000,000,000.
    pub unusual_requests: u32,
    /// After how long a key that nobody uses is told of; `never` is off.
    pub unused_after: Option<Lifetime>,
    /// How long before its end a key is told of.
    pub key_expiry_before: Option<Lifetime>,
    /// How long before its end a certificate is told of.
    pub certificate_expiry_before: Option<Lifetime>,
}

/// A receiver of alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its address.
    pub uri: Uri,
    /// The file of the secret that signs them.
    pub secret: PathBuf,
    /// The file of the authorities that its certificate comes from; `None` is those of the system.
    pub ca: Option<PathBuf>,
}

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRules {
    /// How old a line becomes; `never` (no number of seconds) is for ever.
    pub keep: Option<Lifetime>,
    /// How many lines there are at most. 1,000 to 100,000,000.
    pub lines_max: u32,
}

/// `[log]`; `access` and `queue_bytes_max` need a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Where access lines go.
    pub access: AccessLog,
    /// Access lines, bytes, that may wait for the disk; beyond it lines are lost and counted, requests never wait. 64KiB to 1GiB.
    pub queue_bytes_max: usize,
    /// Least level of operator events on stderr.
    pub level: tracing::Level,
}

/// Where access lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// This file, appended to, reopened on USR1.
    File(PathBuf),
}

/// `[alerts]`.
pub(in crate::config) fn alerts(root: &mut Reader<'_>, base: &Path) -> AlertRules {
    root.table("alerts", "alerts", |table| {
        let webhook = table.word("webhook", |text| match text {
            "" => Ok(None),
            text => addresses::webhook(text).map(Some),
        });
        let mut file = |key| {
            let read = table.word(key, |text| match text {
                "" => Ok(None),
                text => path(base, text).map(Some),
            });
            read.and_then(Spanned::into_inner)
        };
        let (secret, ca) = (file("webhook_secret"), file("webhook_ca"));
        let place = table.place("webhook").or_else(|| table.place("webhook_secret"));
        let webhook = webhook.and_then(Spanned::into_inner);
        if webhook.is_some() != secret.is_some() {
            table.notes().error(Problem::context(
                place,
                "[alerts] webhook and webhook_secret go together",
                "write both, the secret being a file: echo whsec_$(openssl rand -base64 32) > webhook.secret; or neither",
            ));
        }
        let is_https = (webhook.as_ref()).is_some_and(|uri: &Uri| uri.scheme_str() == Some("https"));
        if ca.is_some() && !is_https {
            table.notes().error(Problem::context(
                table.place("webhook_ca"),
                "[alerts] webhook_ca is for a webhook over https:// alone",
                "write webhook = \"https://…\", or take webhook_ca out",
            ));
        }
        let unused_after = days(table, "unused_after", "90d");
        let key_expiry_before = days(table, "key_expiry_before", "14d");
        let certificate_expiry_before = days(table, "certificate_expiry_before", "14d");
        AlertRules {
            webhook: webhook.zip(secret).map(|(uri, secret)| Webhook { uri, secret, ca }),
            limit_percent: table.number("limit_percent", 80, 0, 100),
            error_rate_percent: table.number("error_rate_percent", 50, 0, 100),
            error_rate_requests: table.number("error_rate_requests", 20, 1, 1_000_000),
            unusual_factor: table.number("unusual_factor", 10, 0, 10_000),
            unusual_requests: table.number("unusual_requests", 100, 1, 1_000_000_000),
            unused_after,
            key_expiry_before,
            certificate_expiry_before,
        }
    })
}

/// `[audit]`.
pub(in crate::config) fn audit(root: &mut Reader<'_>) -> AuditRules {
    root.table("audit", "audit", |table| AuditRules {
        keep: days(table, "keep", "1100d"),
        lines_max: table.number("lines_max", 1_000_000, 1_000, 100_000_000),
    })
}

/// A span of days, or `never`.
fn days(table: &mut Reader<'_>, key: &'static str, default: &str) -> Option<Lifetime> {
    let read = table.word(key, span_of_days).map(Spanned::into_inner);
    read.or_else(|| Lifetime::parse(default).ok())
}

fn span_of_days(text: &str) -> Result<Lifetime, Wrong> {
    let span = match Lifetime::parse(text) {
        Ok(span) => span,
        Err(why) => return wrong(format!("\"{text}\" is not a span"), why),
    };
    let fits = |seconds| DAYS_SECONDS.contains(&seconds);
    match span.seconds.is_none_or(fits) {
        true => Ok(span),
        false => wrong(
            format!("\"{text}\" is out of bounds"),
            "write a value from \"1d\" to \"3650d\", or \"never\"",
        ),
    }
}

/// A day to ten years.
const DAYS_SECONDS: RangeInclusive<u64> = 86_400..=3_650 * 86_400;

/// `[log]`.
pub(in crate::config) fn log(root: &mut Reader<'_>, base: &Path) -> Log {
    root.table("log", "log", |table| {
        let access = table.word("access", |text| match (text, text.strip_prefix("file:")) {
            ("off", _) => Ok(AccessLog::Off),
            ("stdout", _) => Ok(AccessLog::Stdout),
            (_, Some(file)) => path(base, file).map(AccessLog::File),
            _ => wrong(
                format!("\"{text}\" is no place for access lines"),
                "choose \"stdout\", \"off\" or \"file:logs/access.log\"",
            ),
        });
        let levels = [
            ("error", tracing::Level::ERROR),
            ("warn", tracing::Level::WARN),
            ("info", tracing::Level::INFO),
            ("debug", tracing::Level::DEBUG),
            ("trace", tracing::Level::TRACE),
        ];
        Log {
            access: access.map_or(AccessLog::Stdout, Spanned::into_inner),
            queue_bytes_max: table.size("queue_bytes_max", "8MiB", ("64KiB", "1GiB")),
            level: table.choice("level", tracing::Level::INFO, &levels),
        }
    })
}
