//! Metadata of protected resources (RFC 9728): what is asked for where they stand, and what a refusal points at.

use std::sync::Arc;

use http::request::Parts;

use super::host;
use crate::config::Config;
use crate::model::resource::Resource;
use crate::model::resource::WELL_KNOWN;
use crate::model::resource::covering;
use crate::snapshot::Snapshot;

/// The resource whose metadata this request is for, and the canonical name of the host. It is nobody's secret: no credential is asked for.
#[must_use]
pub fn metadata_asked(snapshot: &Snapshot, head: &Parts) -> Option<(Arc<Resource>, String)> {
    let resources = &snapshot.config.resources;
    if resources.is_empty() {
        return None;
    }
    let path = head.uri.path().strip_prefix(WELL_KNOWN)?;
    let host = host::of(head).ok()?.into_name();
    let mut all = resources.iter();
    let found = all.find(|one| one.host == host && one.path == path)?;
    Some((Arc::clone(found), host))
}

/// Where a client that is refused here learns whose token it needs. Whether a route is there makes no difference, so that nobody can tell.
#[must_use]
pub fn metadata_url(config: &Config, host: Option<&str>, path: &str) -> Option<String> {
    let all = &config.resources;
    let found = (host.filter(|_| !all.is_empty())).and_then(|host| covering(all, host, path));
    found.map(|resource| resource.metadata_url())
}
