//! Verifies an API key: from what was presented to the key that has this digest.

use super::credential::Credential;
use super::refused::Fault;
use crate::model::key::Digest;
use crate::model::key_text;
use crate::model::key_text::Shape;
use crate::refusal::Refusal;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;

/// The key with exactly this text, whatever its standing. Nothing here depends on the bytes of other keys: the lookup is by digest (S13, S14).
///
/// # Errors
/// The uniform 401: a text of our shape with a wrong checksum, or one that is no key's.
pub(super) fn verify<'a>(
    snapshot: &'a Snapshot,
    credential: &Credential,
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
            let digest = key_text::digest_of(text);
            let key = snapshot
                .key(&digest)
                .ok_or_else(|| Fault::new(Refusal::CredentialInvalid, "unknown_key"))?;
            Ok((digest, key))
        }
    }
}
