//! Keys that came where they can be read on their way.

use http::request::Parts;

use crate::config::Auth;
use crate::gate::credential;
use crate::gate::query;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyKind;
use crate::model::key_text;
use crate::snapshot::Snapshot;

/// A known key that came where it can be read on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// Which.
    pub key: KeyId,
    /// Of the text that came: a regenerated key may have several.
    pub digest: Digest,
    /// Whether it is a secret key that has not ended for good. A public key stands in web pages anyhow: whoever sends one need not be
    /// who was given it.
    pub is_revocable: bool,
}

/// The known key that stands in this head, whatever its standing, for requests that are refused unread: a key that was sent in clear is
/// burnt (FA29). Looks at the first few lines and parameters only.
#[must_use]
pub fn peek(head: &Parts, auth: &Auth, snapshot: &Snapshot) -> Option<Exposed> {
    let known = |text: &[u8]| {
        let digest = key_text::digest_of(text);
        snapshot.key(&digest).map(|key| Exposed {
            key: key.id,
            digest,
            is_revocable: key.kind == KeyKind::Secret && !key.status.is_final(),
        })
    };
    let in_headers = credential::look(&head.headers, auth)
        .take(PEEK_LINES_MAX)
        .find_map(known);
    let (Some(name), Some(query)) = (&auth.query_parameter, head.uri.query()) else {
        return in_headers;
    };
    in_headers.or_else(|| {
        query::look(query, name)
            .take(PEEK_LINES_MAX)
            .find_map(|text| known(&text))
    })
}

/// Headers that `peek` looks at: a stranger cannot make us hash many.
pub(super) const PEEK_LINES_MAX: usize = 4;
