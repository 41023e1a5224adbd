//! How an answer of the gateway's own is written: for which host, and for whom.

use http::HeaderMap;
use http::header;
use http::request::Parts;

use crate::config::Config;
use crate::gate::host;
use crate::model::route::host::best;
use crate::refusal::Style;

/// How the gateway's own answers are written for a host (canonical, without port), as `[[hosts]]` or else `[errors]` says.
#[must_use]
pub fn style<'a>(config: &'a Config, host: Option<&str>, grpc: bool) -> Style<'a> {
    let errors = host
        .and_then(|host| best(&config.hosts, |entry| &entry.name, host))
        .map_or(config.errors, |entry| entry.errors);
    Style {
        shape: errors.shape,
        name_permission: errors.name_permission,
        realm: &config.auth.realm,
        grpc,
        metadata: None,
    }
}

/// The canonical name of the host that a request is for, without port; `None` when that is not clear. For `style` where no gate is passed.
#[must_use]
pub fn host_name(head: &Parts) -> Option<String> {
    host::of(head).ok().map(host::Host::into_name)
}

/// Whether a gRPC client asks, so that it must be answered in trailers.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let Some(after) = kind.as_bytes().strip_prefix(b"application/grpc") else {
        return false;
    };
    matches!(after.first(), None | Some(b'+' | b';'))
}
