//! The report of whom observed rules would have refused: the counted rows, with the names of keys and tenants.

use std::collections::HashMap;

use serde::Deserialize;
use serde::Serialize;

use crate::admin::Admin;
use crate::model::identity::TOKENS_NAME;
use crate::model::identity::tokens_of;
use crate::model::key::KeyId;
use crate::model::tenant::TenantId;
use crate::observed::Occasion;
use crate::observed::Seen;
use crate::store::KeyFilter;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::outcome::KeyView;
use crate::store::outcome::rfc3339;

/// Who would have been refused since the gateway started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The start; RFC 3339.
    pub since: String,
    /// The most frequent first.
    pub rows: Vec<Row>,
    /// Requests beside those of the rows, once there were as many rows as are kept.
    pub not_listed: u64,
}

/// One key on one route for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// `key_…`.
    pub key_id: String,
    /// What people call it; `None` when it is gone.
    pub name: Option<String>,
    /// Whose it is.
    pub tenant: Option<String>,
    /// Host, if it has one, and path of the route; `None` where there is no route.
    pub route: Option<String>,
    /// As in the access log: `limit_exceeded`, `scope_not_of_key` …
    pub reason: String,
    /// Requests.
    pub count: u64,
    /// RFC 3339.
    pub first_seen: String,
    /// RFC 3339.
    pub last_seen: String,
}

/// Builds the report; asks the store for names.
///
/// # Errors
/// The store cannot be read.
pub(super) fn report(admin: &Admin) -> Result<Report, VerbError> {
    let seen = admin.observed.rows();
    let mut ids: Vec<String> = seen.iter().map(|(row, _)| row.key.to_string()).collect();
    ids.sort_unstable();
    ids.dedup();
    let keys = keys(admin, ids)?;
    let snapshot = admin.keeper.snapshot().load_full();
    let tenants = snapshot.tenants.entries.iter().map(|tenant| &tenant.id);
    let tokens: HashMap<KeyId, &TenantId> =
        tenants.map(|tenant| (tokens_of(tenant), tenant)).collect();
    let row = |(row, seen): &(Occasion, Seen)| {
        let key_id = row.key.to_string();
        let key = keys.get(&key_id);
        let tokens = tokens.get(&row.key).copied();
        Row {
            name: key
                .map(|key| key.name.clone())
                .or(tokens.map(|_| TOKENS_NAME.to_owned())),
            tenant: (key.map(|key| key.tenant.clone()))
                .or(tokens.map(|tenant| tenant.as_str().to_owned())),
            route: row.route.as_deref().map(str::to_owned),
            reason: row.reason.to_owned(),
            count: seen.count,
            first_seen: rfc3339(seen.first),
            last_seen: rfc3339(seen.last),
            key_id,
        }
    };
    Ok(Report {
        since: rfc3339(admin.started),
        rows: seen.iter().map(row).collect(),
        not_listed: admin.observed.beyond(),
    })
}

fn keys(admin: &Admin, ids: Vec<String>) -> Result<HashMap<String, KeyView>, VerbError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let which = KeyFilter {
        keys: Some(ids),
        all: true,
        ..KeyFilter::default()
    };
    let listed = (admin.keeper).execute(&Verb::KeyList(which), admin.clock.now().wall)?;
    Ok(match listed {
        Outcome::Keys { keys } => keys.into_iter().map(|key| (key.id.clone(), key)).collect(),
        _ => HashMap::new(),
    })
}
