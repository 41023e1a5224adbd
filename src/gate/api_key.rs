//! Verifies an API key: from what was presented to the key that has this digest.

use super::credential::Credential;
use super::early::Early;
use super::refused::Fault;
use crate::model::key::Digest;
use crate::model::key_text;
use crate::model::key_text::Shape;
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;
use crate::snapshot::key_table::FoundKey;

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
            let digest = early.map_or_else(|| key_text::digest_of(text), Early::digest);
            let unknown = || Fault::new(Refusal::CredentialInvalid, "unknown_key");
            Ok((digest, snapshot.find_key(&digest).ok_or_else(unknown)?))
        }
    }
}
