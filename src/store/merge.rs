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

/// The file's keys as they stand beside the store's, which pass by one after the other: one whose digest has a tombstone is revoked for
/// good (FA10), one whose id has a row of the store is left out, since that row is listed.
#[derive(Debug)]
pub struct Merge<'a> {
    declared: &'a [ApiKey],
    by_id: HashMap<KeyId, &'a ApiKey>,
    by_digest: HashMap<Digest, &'a ApiKey>,
    /// Digests that have ended for good; asked of those of the file alone.
    ended: HashSet<Digest>,
    listed: HashSet<KeyId>,
}

impl<'a> Merge<'a> {
    /// Nothing of the store has passed by yet but what was retired.
    #[must_use]
    pub fn new(declared: &'a [ApiKey], retired: &[Retired]) -> Merge<'a> {
        let by_digest: HashMap<Digest, &ApiKey> =
            declared.iter().map(|key| (key.digest, key)).collect();
        let retired = retired.iter().map(|old| old.digest);
        Merge {
            declared,
            by_id: declared.iter().map(|key| (key.id, key)).collect(),
            ended: retired
                .filter(|digest| by_digest.contains_key(digest))
                .collect(),
            by_digest,
            listed: HashSet::new(),
        }
    }

    /// A key of the store passes by.
    ///
    /// # Errors
    /// It lives and has the id or digest of one of the file's; or that id has ended with another digest.
    pub fn beside(&mut self, key: &ApiKey) -> Result<(), Clash> {
        let same_id = self.by_id.get(&key.id).copied();
        let same_digest = self.by_digest.get(&key.digest).copied();
        let live = !key.status.is_final();
        for file in same_id.iter().chain(&same_digest) {
            if live || (file.id == key.id && file.digest != key.digest) {
                return Err(Clash {
                    file: (file.id, file.name.clone()),
                    store: (key.id, key.name.clone()),
                    live,
                });
            }
            self.ended.insert(file.digest);
        }
        if same_id.is_some() {
            self.listed.insert(key.id);
        }
        Ok(())
    }

    /// The file's keys that are to stand beside all that passed by.
    #[must_use]
    pub fn into_keys(self) -> Vec<ApiKey> {
        let unlisted = |key: &&ApiKey| !self.listed.contains(&key.id);
        let mut keys: Vec<ApiKey> = self.declared.iter().filter(unlisted).cloned().collect();
        for key in &mut keys {
            if self.ended.contains(&key.digest) {
                key.status = KeyStatus::Revoked;
            }
        }
        keys
    }
}
