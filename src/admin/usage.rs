//! Reports of usage: what is flushed, read beside the flushes, with the names of keys and the windows of one.

use serde::Deserialize;
use serde::Serialize;

use crate::admin::Admin;
use crate::gate;
use crate::gate::WindowView;
use crate::model::tenant::TenantId;
use crate::store::KeyFilter;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::error::EXIT_UNAVAILABLE;
use crate::store::history::History;
use crate::store::outcome::KeyView;
use crate::usage::report;
use crate::usage::report::Report;
use crate::usage::report::Whose;

/// Whose usage, and since when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// One key's; its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// One tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// How far back, in seconds; whole hours are told. At most 90 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_seconds: Option<u64>,
}

impl Asked {
    /// The verb that finds the keys that are meant.
    #[must_use]
    pub fn keys(&self) -> (Whose, Verb) {
        match &self.key {
            Some(id) => (Whose::One, Verb::KeyShow { id: id.clone() }),
            None => {
                let whose = match self.tenant {
                    Some(_) => Whose::These,
                    None => Whose::All,
                };
                let which = KeyFilter {
                    tenant: self.tenant.clone(),
                    all: true,
                    ..KeyFilter::default()
                };
                (whose, Verb::KeyList(which))
            }
        }
    }

    /// Makes the report, once the keys are found. `tenants` are all there are; their tokens are named by them.
    ///
    /// # Errors
    /// `counters.db` cannot be read.
    pub fn report(
        &self,
        directory: &std::path::Path,
        whose: &Whose,
        found: &Outcome,
        tenants: &[TenantId],
        now: crate::clock::Wall,
    ) -> Result<Report, VerbError> {
        let keys: &[KeyView] = match found {
            Outcome::Keys { keys } => keys,
            Outcome::Key { key } => std::slice::from_ref(key),
            _ => &[],
        };
        let tenants: Vec<TenantId> = match (&self.key, &self.tenant) {
            (Some(_), _) => Vec::new(),
            (None, Some(tenant)) => TenantId::new(tenant).into_iter().collect(),
            (None, None) => tenants.to_vec(),
        };
        let since = self.since_seconds.unwrap_or(report::SINCE_SECONDS);
        let history = History::open(directory);
        history
            .and_then(|history| report::report(history.as_ref(), whose, keys, &tenants, since, now))
            .map_err(|error| VerbError {
                text: error.to_string(),
                exit: EXIT_UNAVAILABLE,
            })
    }
}

/// A report with what only a running gateway knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// The report.
    #[serde(flatten)]
    pub report: Report,
    /// Of one key: its windows now.
    #[serde(default)]
    pub windows: Vec<WindowView>,
}

/// What was done, up to now. Blocks on the disk.
///
/// # Errors
/// There is no such key or tenant, or the store cannot be read.
pub(super) fn usage(admin: &Admin, asked: &Asked) -> Result<Usage, VerbError> {
    (admin.flush)();
    let now = admin.clock.now();
    let (whose, verb) = asked.keys();
    let found = admin.keeper.execute(&verb, now.wall)?;
    let snapshot = admin.keeper.snapshot().load_full();
    let tenants: Vec<TenantId> = (snapshot.tenants.entries.iter())
        .map(|tenant| tenant.id.clone())
        .collect();
    let report = asked.report(&admin.store, &whose, &found, &tenants, now.wall)?;
    let windows = match &asked.key {
        // One that has ended for good has none.
        Some(id) => gate::windows_of(&snapshot, &admin.quota, now, id).unwrap_or_default(),
        None => Vec::new(),
    };
    Ok(Usage { report, windows })
}
