//! `usage …` as it is typed.

use clap::Args;

use crate::admin;
use crate::cli::expires;

#[derive(Debug, Args)]
#[command(after_help = USAGE)]
pub(in crate::cli) struct Usage {
    /// One key, by its id; all keys when left out
    #[arg(value_name = "KEY_ID")]
    id: Option<String>,
    /// All keys of this tenant
    #[arg(long, value_name = "ID", conflicts_with = "id")]
    tenant: Option<String>,
    /// How far back; whole hours are told, at most 90d are kept
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = expires::span)]
    since: u64,
    /// By the hour, instead of by key; what one key did is told by the hour in any case
    #[arg(long)]
    pub(in crate::cli) hours: bool,
    /// Lines of comma-separated values under a line of names
    #[arg(long)]
    pub(in crate::cli) csv: bool,
}

impl Usage {
    /// What the gateway is asked.
    pub(in crate::cli) fn asked(&self) -> admin::Asked {
        admin::Asked {
            key: self.id.clone(),
            tenant: self.tenant.clone(),
            since_seconds: Some(self.since),
            limit: Some(admin::PAGE_MAX),
            ..admin::Asked::default()
        }
    }

    /// Whether hours are to be shown.
    pub(in crate::cli) fn by_hour(&self) -> bool {
        self.hours || self.id.is_some()
    }
}

const USAGE: &str = "\
REQUESTS are those that were admitted and have ended: SUCCESS was answered below 400, CLIENT ERR 400 to 499, SERVER ERR 500 or more. REFUSED are
those that the gateway answered itself (401, 403, 404, 429), apart from them. A request counts in the hour in which it began. Counts survive a
restart; a kill -9 forgets those of the last store.flush_interval at most.";
