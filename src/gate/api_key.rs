//! Verifies an API key: from what was presented to the key that has this digest.

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;

use super::credential::Credential;
use super::credential::X_API_KEY;
use super::refused::Fault;
use crate::model::key::Digest;
use crate::model::key_text;
use crate::model::key_text::Shape;
use crate::quota::Quota;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::key_table::FoundKey;

/// A text that is perhaps the key of a request, and its digest, made before anybody else looks at it. What is known of it is far away where keys are many,
/// and comes in three steps while the request is looked at. Nothing of this says whether the text counts, or is a key at all.
#[derive(Debug)]
pub struct Early {
    text: [u8; EARLY_BYTES_MAX],
    length: usize,
    digest: Digest,
}

impl Early {
    /// The first text that may be one. Begins to look for it.
    #[must_use]
    pub fn of(snapshot: &Snapshot, headers: &HeaderMap) -> Option<Early> {
        let may_be_key = |(name, _): &(&HeaderName, &HeaderValue)| {
            *name == header::AUTHORIZATION || *name == X_API_KEY
        };
        let (_, value) = headers.iter().find(may_be_key)?;
        let value = value.as_bytes();
        let key = value.strip_prefix(b"Bearer ").unwrap_or(value);
        let mut text = [0; EARLY_BYTES_MAX];
        text.get_mut(..key.len())?.copy_from_slice(key);
        let digest = key_text::digest_of(key);
        snapshot.keys.look_out(&digest);
        Some(Early {
            text,
            length: key.len(),
            digest,
        })
    }

    /// Goes on: what says where to look is brought.
    pub(super) fn look_ahead(&self, snapshot: &Snapshot) {
        snapshot.keys.look_ahead(&self.digest);
    }

    /// Goes on: what is known of the key and of what it did is brought, as far as it is known where that lies.
    pub(super) fn look_on(&self, snapshot: &Snapshot, quota: &Quota) {
        quota.look_ahead(snapshot.keys.look_on(&self.digest));
    }

    /// Whether this is the text that was looked for.
    fn is_of(&self, text: &[u8]) -> bool {
        self.text[..self.length] == *text
    }
}

/// The key with exactly this text, whatever its standing. Nothing here depends on the bytes of other keys: the lookup is by digest (S13, S14).
///
/// # Errors
/// The uniform 401: a text of our shape with a wrong checksum, whatever the early look found, or one that is no key's.
pub(super) fn verify<'a>(
    snapshot: &'a Snapshot,
    credential: &Credential,
    early: Option<&Early>,
) -> Result<(Digest, FoundKey<'a>), Fault> {
    let config = &snapshot.config;
    let prefixes = [
        config.keys.secret_prefix.as_str(),
        config.keys.public_prefix.as_str(),
    ];
    let text = credential.text();
    match key_text::shape(text, &prefixes, &config.environments) {
        Shape::OursBadChecksum => Err(Fault::new(Refusal::CredentialInvalid, "bad_checksum")),
        Shape::Ours | Shape::Foreign => {
            let early = early.filter(|early| early.is_of(text));
            let digest = early.map_or_else(|| key_text::digest_of(text), |early| early.digest);
            let unknown = || Fault::new(Refusal::CredentialInvalid, "unknown_key");
            Ok((digest, snapshot.find_key(&digest).ok_or_else(unknown)?))
        }
    }
}

/// Of a text that is looked for early; keys that we make are shorter.
const EARLY_BYTES_MAX: usize = 64;
