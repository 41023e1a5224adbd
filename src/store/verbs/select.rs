//! Which keys a filter means: for lists (FA13, FA32) and for revoking many at once (FF19).

use crate::clock::Wall;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::store::outcome::Failure;
use crate::store::outcome::Outcome;
use crate::store::outcome::status_word;
use crate::store::request::KeyFilter;
use crate::store::sqlite::DigestUse;
use crate::store::sqlite::Write;
use crate::store::verbs::Change;
use crate::store::verbs::Prepared;
use crate::store::verbs::Scene;

use std::collections::HashMap;
use std::collections::HashSet;

/// The words of `--status`.
const STATUS_WORDS: [&str; 5] = ["active", "inactive", "expired", "revoked", "deleted"];

/// How many unknown entries are named.
const NAMED_MAX: usize = 20;

/// What a filter found.
pub(super) struct Selected {
    /// In no order.
    pub(super) keys: Vec<ApiKey>,
    /// Entries of `KeyFilter::keys` that are no key's, by their place from 1.
    pub(super) unmatched: Vec<usize>,
}

impl Scene<'_> {
    /// The keys that a filter means, each once.
    pub(super) fn select(
        &self,
        which: &KeyFilter,
        last_used: &HashMap<KeyId, Wall>,
    ) -> Result<Selected, Failure> {
        if let Some(tenant) = &which.tenant {
            self.tenant(tenant)?;
        }
        if let Some(word) = which
            .status
            .as_deref()
            .filter(|word| !STATUS_WORDS.contains(word))
        {
            return Err(Failure::refused(super::find::unknown(
                "status",
                word,
                &STATUS_WORDS,
            )));
        }
        let mut unmatched = Vec::new();
        let mut keys = match &which.keys {
            Some(entries) => self.named(entries, &mut unmatched)?,
            None => self.all(which)?,
        };
        keys.retain(|key| self.fits(key, which, last_used.get(&key.id).copied()));
        Ok(Selected { keys, unmatched })
    }

    fn all(&self, which: &KeyFilter) -> Result<Vec<ApiKey>, Failure> {
        let (tenant, subject) = (which.tenant.as_deref(), which.subject.as_deref());
        let mut keys = self.store.keys(tenant, subject, which.prefix.as_deref())?;
        for declared in self.declared.keys {
            if self.store.key(declared.id)?.is_none() {
                keys.push(self.key(&declared.id.to_string())?);
            }
        }
        Ok(keys)
    }

    fn named(
        &self,
        entries: &[String],
        unmatched: &mut Vec<usize>,
    ) -> Result<Vec<ApiKey>, Failure> {
        let mut keys: Vec<ApiKey> = Vec::new();
        let mut seen = HashSet::new();
        for (index, entry) in entries.iter().enumerate() {
            match self.find(entry)? {
                Some(key) if seen.insert(key.id) => keys.push(key),
                Some(_) => {}
                None => unmatched.push(index + 1),
            }
        }
        Ok(keys)
    }

    fn find(&self, entry: &str) -> Result<Option<ApiKey>, Failure> {
        let Some(hex) = entry.strip_prefix("sha256:") else {
            let id = KeyId::parse(entry).map_err(Failure::refused)?;
            let known = self.declared.keys.iter().any(|key| key.id == id);
            return match known || self.store.key(id)?.is_some() {
                true => self.key(entry).map(Some),
                false => Ok(None),
            };
        };
        let digest = Digest::from_hex(hex).map_err(Failure::refused)?;
        let declared = self.declared.keys.iter().find(|key| key.digest == digest);
        if let Some(key) = declared {
            return self.key(&key.id.to_string()).map(Some);
        }
        match self.store.digest_use(&digest)? {
            DigestUse::Free => Ok(None),
            DigestUse::Key(id, _) | DigestUse::Retired(id) => Ok(self.store.key(id)?),
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

/// Ends all keys that a filter means: one transaction, one change of the view (FF19).
pub(super) fn revoke_many(scene: &Scene<'_>, which: &KeyFilter) -> Result<Prepared, Failure> {
    if !which.names_somebody() {
        return Err(Failure::refused(
            "say whose keys: a tenant, a prefix, an end user, or the keys themselves",
        ));
    }
    let last_used = match which.unused_since_seconds {
        Some(_) => (scene.last_used)(),
        None => HashMap::new(),
    };
    let selected = scene.select(which, &last_used)?;
    let notes = unmatched_notes(&selected.unmatched);
    let (mut writes, mut digests, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for mut key in selected.keys {
        if key.status.is_final() {
            continue;
        }
        ids.push(key.id.to_string());
        digests.extend(scene.digests_of(&key)?);
        writes.push(if scene.store.key(key.id)?.is_some() {
            Write::SetStatus(key.id, KeyStatus::Revoked)
        } else {
            key.status = KeyStatus::Revoked;
            Write::InsertKey(Box::new(key))
        });
    }
    let said = match ids.len() {
        0 => "no key that still lives fits: nothing was revoked".to_owned(),
        1 => "1 key is revoked for good: its requests get 401 from now on".to_owned(),
        many => format!("{many} keys are revoked for good: their requests get 401 from now on"),
    };
    Ok(Prepared {
        writes,
        change: match digests.is_empty() {
            true => Change::Nothing,
            false => Change::KeyStatus(digests, KeyStatus::Revoked),
        },
        outcome: Outcome::KeysChanged { ids, said, notes },
    })
}

fn unmatched_notes(unmatched: &[usize]) -> Vec<String> {
    if unmatched.is_empty() {
        return Vec::new();
    }
    let named: Vec<String> = unmatched
        .iter()
        .take(NAMED_MAX)
        .map(usize::to_string)
        .collect();
    let more = match unmatched.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    vec![format!(
        "no key was ever known by what stands at place {}{more}",
        named.join(", ")
    )]
}
