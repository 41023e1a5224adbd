//! The keys of gateway.toml beside those of the store: tombstones beat the file, live duplicates are refused.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;

use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::store::Retired;

/// A key of the file that cannot stand beside one of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The file's key.
    pub file: (KeyId, String),
    /// The store's key.
    pub store: (KeyId, String),
    /// Whether the store's key still lives: the two are one key. Otherwise the file gives a new digest to an id that has
    /// ended for good.
    pub live: bool,
}

impl fmt::Display for Clash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((file_id, file_name), (store_id, store_name)) = (&self.file, &self.store);
        if self.live {
            write!(
                out,
                "the key {file_name:?} ({file_id}) of gateway.toml is the same key as {store_name:?} ({store_id}) of the store; remove it from gateway.toml, or `portcullis keys revoke {store_id}`"
            )
        } else {
            write!(
                out,
                "the key {file_name:?} of gateway.toml was revoked for good, and its id {file_id} with it; declare the new key under another name"
            )
        }
    }
}

impl std::error::Error for Clash {}

/// The file's keys as they stand beside the store's: one whose digest has a tombstone is revoked for good (FA10), one whose
/// id has a row of the store is left out, since that row is listed.
///
/// # Errors
/// A live key of the store has the same id or digest; or the id has ended with another digest.
pub fn declared_keys(
    declared: &[ApiKey],
    stored: &[ApiKey],
    retired: &[Retired],
) -> Result<Vec<ApiKey>, Clash> {
    if declared.is_empty() {
        return Ok(Vec::new());
    }
    let by_id: HashMap<KeyId, &ApiKey> = declared.iter().map(|key| (key.id, key)).collect();
    let by_digest: HashMap<Digest, &ApiKey> =
        declared.iter().map(|key| (key.digest, key)).collect();
    let mut ended: HashSet<Digest> = retired.iter().map(|old| old.digest).collect();
    let mut listed = HashSet::new();
    for key in stored {
        let same_id = by_id.get(&key.id).copied();
        let same_digest = by_digest.get(&key.digest).copied();
        let live = !key.status.is_final();
        for file in same_id.iter().chain(&same_digest) {
            if live || (file.id == key.id && file.digest != key.digest) {
                return Err(Clash {
                    file: (file.id, file.name.clone()),
                    store: (key.id, key.name.clone()),
                    live,
                });
            }
            ended.insert(file.digest);
        }
        if same_id.is_some() {
            listed.insert(key.id);
        }
    }
    let mut keys: Vec<ApiKey> = declared
        .iter()
        .filter(|key| !listed.contains(&key.id))
        .cloned()
        .collect();
    for key in &mut keys {
        if ended.contains(&key.digest) {
            key.status = KeyStatus::Revoked;
        }
    }
    Ok(keys)
}
