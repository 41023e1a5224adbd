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
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;

/// A text that is perhaps the key of a request, and its digest, made before anybody else looks at it. What is known of it is far away where keys are many,
/// and comes in three steps while the request is looked at. Nothing of this says whether the text counts, or is a key at all.
pub(super) struct Early<'a> {
    text: [u8; EARLY_BYTES_MAX],
    length: usize,
    digest: Digest,
    /// Whose digest this is.
    key: Option<&'a KeyEntry>,
}

impl<'a> Early<'a> {
    /// The first text that may be one. Begins to look for it.
    pub(super) fn of(snapshot: &Snapshot, headers: &HeaderMap) -> Option<Early<'a>> {
        let may_be_key = |(name, _): &(&HeaderName, &HeaderValue)| {
            *name == header::AUTHORIZATION || *name == X_API_KEY
        };
        let (_, value) = headers.iter().find(may_be_key)?;
        let value = value.as_bytes();
        let key = value.strip_prefix(b"Bearer ").unwrap_or(value);
        let mut text = [0; EARLY_BYTES_MAX];
        text.get_mut(..key.len())?.copy_from_slice(key);
        let digest = key_text::digest_of(key);
        snapshot.keys.look_ahead(&digest);
        Some(Early {
            text,
            length: key.len(),
            digest,
            key: None,
        })
    }

    /// Goes on.
    pub(super) fn look_on(&self, snapshot: &Snapshot) {
        snapshot.keys.look_on(&self.digest);
    }

    /// Finds whose it is, and has his counters brought.
    pub(super) fn find(&mut self, snapshot: &'a Snapshot, quota: &Quota) {
        self.key = snapshot.key(&self.digest);
        if let Some(key) = self.key {
            quota.look_ahead(&key.seat);
        }
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
    early: Option<Early<'a>>,
) -> Result<(Digest, &'a KeyEntry), Fault> {
    let config = &snapshot.config;
    let prefixes = [
        config.keys.secret_prefix.as_str(),
        config.keys.public_prefix.as_str(),
    ];
    let text = credential.text();
    match key_text::shape(text, &prefixes, &config.environments) {
        Shape::OursBadChecksum => Err(Fault::new(Refusal::CredentialInvalid, "bad_checksum")),
        Shape::Ours | Shape::Foreign => {
            let (digest, key) = match early.filter(|early| early.is_of(text)) {
                Some(early) => (early.digest, early.key),
                None => {
                    let digest = key_text::digest_of(text);
                    (digest, snapshot.key(&digest))
                }
            };
            let unknown = || Fault::new(Refusal::CredentialInvalid, "unknown_key");
            Ok((digest, key.ok_or_else(unknown)?))
        }
    }
}

/// Of a text that is looked for early; keys that we make are shorter.
const EARLY_BYTES_MAX: usize = 64;
