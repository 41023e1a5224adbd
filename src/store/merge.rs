//! The keys of gateway.toml beside those of the store: tombstones beat the file, live duplicates are refused.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;

use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;

/// A key of the file and a key of the store are the same id or the same digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// The file's key.
    pub file: (KeyId, String),
    /// The store's key.
    pub store: (KeyId, String),
}

impl fmt::Display for Duplicate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((file_id, file_name), (store_id, store_name)) = (&self.file, &self.store);
        write!(
            out,
            "the key {file_id} ({file_name:?}) of gateway.toml is the same key as {store_id} ({store_name:?}) of the store; remove it from gateway.toml, or `portcullis keys revoke {store_id}`"
        )
    }
}

impl std::error::Error for Duplicate {}

/// The file's keys as they stand beside the store's: one whose digest or id has a tombstone is revoked for good (FA10),
/// one whose id has a row of the store is left out, since that row is listed.
///
/// # Errors
/// A live key of the store has the same id or digest.
pub fn declared_keys(
    declared: &[ApiKey],
    stored: &[ApiKey],
    retired: &[Digest],
) -> Result<Vec<ApiKey>, Duplicate> {
    if declared.is_empty() {
        return Ok(Vec::new());
    }
    let by_id: HashMap<KeyId, &ApiKey> = declared.iter().map(|key| (key.id, key)).collect();
    let by_digest: HashMap<Digest, &ApiKey> =
        declared.iter().map(|key| (key.digest, key)).collect();
    let mut ended: HashSet<KeyId> = retired
        .iter()
        .filter_map(|digest| by_digest.get(digest).map(|key| key.id))
        .collect();
    let mut listed = HashSet::new();
    for key in stored {
        let same_id = by_id.get(&key.id);
        let same_digest = by_digest.get(&key.digest);
        for file in same_id.iter().chain(&same_digest) {
            if !key.status.is_final() {
                return Err(Duplicate {
                    file: (file.id, file.name.clone()),
                    store: (key.id, key.name.clone()),
                });
            }
            ended.insert(file.id);
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
        if ended.contains(&key.id) {
            key.status = KeyStatus::Revoked;
        }
    }
    Ok(keys)
}
