//! The tables that stand once: what each means, and how it is read, each key with its default and bounds.

pub(super) mod answers;
pub(super) mod connections;
pub(super) mod credentials;
pub(super) mod headers;
pub(super) mod keys;
pub(super) mod listen;
pub(super) mod records;
pub(super) mod store;
pub(super) mod tls;

pub(super) use answers::errors;
pub(super) use answers::limits;
pub(super) use answers::mode;
pub(super) use answers::revocation;
pub(super) use connections::BODY_MAX;
pub(super) use connections::connections;
pub(super) use connections::http;
pub(super) use connections::server;
pub(super) use connections::trusted_proxies;
pub(super) use credentials::auth;
pub(super) use credentials::sessions;
pub(super) use credentials::tokens;
pub(super) use headers::headers;
pub(super) use keys::key_format;
pub(super) use keys::key_labels;
pub(super) use keys::key_rules;
pub(super) use keys::scopes;
pub(super) use listen::admin_names;
pub(super) use listen::listen;
pub(super) use records::alerts;
pub(super) use records::audit;
pub(super) use records::log;
pub(super) use store::store;
pub(super) use tls::tls;

use std::path::Path;
use std::path::PathBuf;

use toml::Spanned;

use crate::config::file::Reader;
use crate::config::names;
use crate::config::problem::Problem;
use crate::config::values::Wrong;
use crate::config::values::wrong;

/// `environments`: 1 to 16 names; the first is the default of hosts, routes, upstreams and keys.
pub(super) fn environments(root: &mut Reader<'_>) -> Vec<String> {
    let place = root.place("environments");
    let Some(names) = root.list("environments", names::key_word) else {
        return vec!["live".into(), "test".into()];
    };
    if !(1..=16).contains(&names.len()) {
        root.notes().error(Problem::context(
            place,
            format!("environments: {} names", names.len()),
            "1 to 16 names; leave it out for [\"live\", \"test\"]",
        ));
        return vec!["live".into()];
    }
    names.into_iter().map(Spanned::into_inner).collect()
}

/// A path, relative to the directory of the file that names it.
pub(super) fn path(base: &Path, text: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() || text.contains('\0') {
        return wrong(
            "this is not a path",
            "write a path; a relative one begins at the directory of this file",
        );
    }
    Ok(base.join(text))
}
