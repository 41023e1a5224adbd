//! Which keys a filter means: for lists (FA13, FA32) and for revoking many at once (FF19).

use crate::clock::Wall;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::store::outcome::Failure;
use crate::store::outcome::status_word;
use crate::store::request::KeyFilter;
use crate::store::sqlite::DigestUse;
use crate::store::verbs::Scene;

use std::collections::HashMap;
use std::collections::HashSet;

/// The words of `--status`.
const STATUS_WORDS: [&str; 5] = ["active", "inactive", "expired", "revoked", "deleted"];

fn nobody(id: KeyId) -> Failure {
    Failure::Refused(format!(
        "after: no key of this list has the id {id}; begin again without it"
    ))
}

/// What a filter found.
pub(super) struct Selected {
    /// In no order.
    pub(super) keys: Vec<ApiKey>,
    /// Entries of `KeyFilter::keys` that are no key's, by their place from 1.
    pub(super) unmatched: Vec<usize>,
    /// Entries of `KeyFilter::keys` that are texts which their keys have no more: the keys are not meant.
    pub(super) replaced: Vec<Replaced>,
}

/// A text that a key had until it was regenerated.
pub(super) struct Replaced {
    /// Its place in `KeyFilter::keys`, from 1.
    pub(super) place: usize,
    /// The text's digest.
    pub(super) digest: Digest,
    /// Until then it is still taken for its key; `None` is not at all.
    pub(super) until: Option<Wall>,
    /// The key, which has another text now.
    pub(super) key: ApiKey,
}

/// What an entry of `KeyFilter::keys` is.
enum Named {
    Key(ApiKey),
    Replaced(Digest, Option<Wall>, ApiKey),
    Nobody,
}

impl Scene<'_> {
    /// The keys that a filter means, each once.
    pub(super) fn select(
        &self,
        which: &KeyFilter,
        last_used: &HashMap<KeyId, Wall>,
    ) -> Result<Selected, Failure> {
        self.check_words(which)?;
        let mut selected = match &which.keys {
            Some(entries) => self.named(entries)?,
            None => Selected {
                keys: self.all(which)?,
                unmatched: Vec::new(),
                replaced: Vec::new(),
            },
        };
        let fits = |key: &ApiKey| self.fits(key, which, last_used.get(&key.id).copied());
        selected.keys.retain(fits);
        selected.replaced.retain(|old| fits(&old.key));
        Ok(selected)
    }

    /// The first of them after this one, at most so many: those of the file, by id, and then those of the store as they came into it.
    pub(super) fn select_after(
        &self,
        which: &KeyFilter,
        after: Option<&str>,
        most: usize,
        last_used: &HashMap<KeyId, Wall>,
    ) -> Result<Vec<ApiKey>, Failure> {
        self.check_words(which)?;
        let after = after.map(KeyId::parse).transpose();
        let after = after.map_err(Failure::refused)?;
        let fits = |key: &ApiKey| self.fits(key, which, last_used.get(&key.id).copied());
        // Another tenant's key is as unknown here as one that is nobody's.
        let is_own = |key: &ApiKey| {
            let tenant = which.tenant.as_ref();
            tenant.is_none_or(|own| own == key.tenant.as_str())
        };
        let stored = match after {
            Some(after) => self.store.key(after)?,
            None => None,
        };
        let mut keys = Vec::new();
        if stored.is_none() {
            keys = self.declared()?;
            keys.sort_by_key(|key| key.id);
            let is_known = |after| keys.iter().any(|key| key.id == after && is_own(key));
            if let Some(after) = after.filter(|after| !is_known(*after)) {
                return Err(nobody(after));
            }
            keys.retain(|key| after.is_none_or(|after| key.id > after) && fits(key));
        }
        if let Some(key) = stored.as_ref().filter(|key| !is_own(key)) {
            return Err(nobody(key.id));
        }
        let after = stored.map(|key| key.id);
        (self.store).keys_after(which.tenant.as_deref(), after, |key| {
            if keys.len() < most && fits(&key) {
                keys.push(key);
            }
            keys.len() < most
        })?;
        keys.truncate(most);
        Ok(keys)
    }

    fn check_words(&self, which: &KeyFilter) -> Result<(), Failure> {
        if let Some(tenant) = &which.tenant {
            self.tenant(tenant)?;
        }
        let word = which.status.as_deref();
        match word.filter(|word| !STATUS_WORDS.contains(word)) {
            Some(word) => Err(Failure::refused(super::find::unknown(
                "status",
                word,
                &STATUS_WORDS,
            ))),
            None => Ok(()),
        }
    }

    fn all(&self, which: &KeyFilter) -> Result<Vec<ApiKey>, Failure> {
        let (tenant, subject) = (which.tenant.as_deref(), which.subject.as_deref());
        let mut keys = self.store.keys(tenant, subject, which.prefix.as_deref())?;
        keys.append(&mut self.declared()?);
        Ok(keys)
    }

    /// Keys of the file, as they stand now, that have no tombstone under their own id.
    fn declared(&self) -> Result<Vec<ApiKey>, Failure> {
        let mut keys = Vec::new();
        for declared in self.declared.keys {
            if self.store.key(declared.id)?.is_none() {
                keys.push(self.key(&declared.id.to_string())?);
            }
        }
        Ok(keys)
    }

    fn named(&self, entries: &[String]) -> Result<Selected, Failure> {
        let (mut keys, mut unmatched, mut replaced) = (Vec::new(), Vec::new(), Vec::new());
        let (mut seen, mut seen_replaced) = (HashSet::new(), HashSet::new());
        for (index, entry) in entries.iter().enumerate() {
            let place = index + 1;
            match self.find(entry)? {
                Named::Key(key) if seen.insert(key.id) => keys.push(key),
                Named::Replaced(digest, until, key) if seen_replaced.insert(digest) => {
                    replaced.push(Replaced {
                        place,
                        digest,
                        until,
                        key,
                    });
                }
                Named::Key(_) | Named::Replaced(..) => {}
                Named::Nobody => unmatched.push(place),
            }
        }
        Ok(Selected {
            keys,
            unmatched,
            replaced,
        })
    }

    fn find(&self, entry: &str) -> Result<Named, Failure> {
        let or_nobody = |key: Option<ApiKey>| key.map_or(Named::Nobody, Named::Key);
        let Some(hex) = entry.strip_prefix("sha256:") else {
            let id = KeyId::parse(entry).map_err(Failure::refused)?;
            let known = self.declared.keys.iter().any(|key| key.id == id);
            return match known || self.store.key(id)?.is_some() {
                true => self.key(entry).map(Named::Key),
                false => Ok(Named::Nobody),
            };
        };
        let digest = Digest::from_hex(hex).map_err(Failure::refused)?;
        let declared = self.declared.keys.iter().find(|key| key.digest == digest);
        if let Some(key) = declared {
            return self.key(&key.id.to_string()).map(Named::Key);
        }
        match self.store.digest_use(&digest)? {
            DigestUse::Free => Ok(Named::Nobody),
            DigestUse::Key(id, _) => Ok(or_nobody(self.store.key(id)?)),
            DigestUse::Retired(id, until) => Ok(match self.store.key(id)? {
                Some(key) => Named::Replaced(digest, until, key),
                None => Named::Nobody,
            }),
        }
    }

    fn fits(&self, key: &ApiKey, which: &KeyFilter, last_used: Option<Wall>) -> bool {
        let status = status_word(key, self.now);
        let by_age = which.older_than_seconds.is_some() || which.unused_since_seconds.is_some();
        let status_fits = match &which.status {
            Some(word) => word == status,
            // What has ended needs no rotation and no clearing away.
            None if by_age => matches!(status, "active" | "inactive"),
            None => which.all || key.status != KeyStatus::Deleted,
        };
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == found
        };
        // A key that the file declares has no known beginning: it counts as old.
        let age = |since: Wall| self.now.0.saturating_sub(since.0) / 1_000_000;
        let touched = last_used.map_or(key.created, |used| used.max(key.created));
        status_fits
            && is(&which.tenant, Some(key.tenant.as_str()))
            && is(&which.subject, key.binding.subject.as_deref())
            && (which.prefix.as_ref()).is_none_or(|prefix| key.prefix.starts_with(prefix.as_str()))
            && which
                .older_than_seconds
                .is_none_or(|least| age(key.created) >= least)
            && which
                .unused_since_seconds
                .is_none_or(|least| age(touched) >= least)
    }
}
