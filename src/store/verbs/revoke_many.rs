//! Revoking many keys at once, in one transaction and one change of the view (FF19).

use std::collections::HashMap;

use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyStatus;
use crate::store::outcome::Failure;
use crate::store::outcome::Outcome;
use crate::store::outcome::Uses;
use crate::store::request::KeyFilter;
use crate::store::sqlite::Write;
use crate::store::verbs::Change;
use crate::store::verbs::Prepared;
use crate::store::verbs::Scene;
use crate::store::verbs::find;
use crate::store::verbs::select::Replaced;

/// How many entries are named in a remark.
const NAMED_MAX: usize = 20;

/// Ends all keys that a filter means. A text that its key has no more ends alone: whoever finds it somewhere has not found the key.
pub(super) fn revoke_many(scene: &Scene<'_>, which: &KeyFilter) -> Result<Prepared, Failure> {
    if !which.names_somebody() {
        return Err(Failure::refused(
            "say whose keys: a tenant, a prefix, an end user, or the keys themselves",
        ));
    }
    let last_used = match which.unused_since_seconds {
        Some(_) => (scene.last_used)(Uses::ToJudge)?,
        None => HashMap::new(),
    };
    let selected = scene.select(which, &last_used)?;
    let mut notes = unmatched_notes(&selected.unmatched);
    let mut ends = Ends::default();
    for key in selected.keys {
        if !key.status.is_final() {
            ends.key(scene, key)?;
        }
    }
    let ended_keys = ends.ids.len();
    let told = selected.replaced.iter().map(|old| ends.text(scene, old));
    let mut told: Vec<String> = told.collect();
    if let Some(more) = told.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        told.truncate(NAMED_MAX);
        told.push(format!("likewise {more} more texts of regenerated keys"));
    }
    notes.extend(told);
    let said = sentence(ended_keys, ends.texts);
    Ok(Prepared {
        writes: ends.writes,
        change: match ends.digests.is_empty() {
            true => Change::Nothing,
            false => Change::KeyStatus(ends.digests, KeyStatus::Revoked),
        },
        outcome: Outcome::KeysChanged {
            ids: ends.ids,
            said,
            notes,
        },
    })
}

/// What is to end.
#[derive(Default)]
struct Ends {
    writes: Vec<Write>,
    digests: Vec<Digest>,
    ids: Vec<String>,
    /// How many texts end whose keys live on.
    texts: usize,
}

impl Ends {
    fn key(&mut self, scene: &Scene<'_>, mut key: ApiKey) -> Result<(), Failure> {
        self.ids.push(key.id.to_string());
        self.digests.extend(scene.digests_of(&key)?);
        self.writes.push(if scene.store.key(key.id)?.is_some() {
            Write::SetStatus(key.id, KeyStatus::Revoked)
        } else {
            key.status = KeyStatus::Revoked;
            Write::InsertKey(Box::new(key))
        });
        Ok(())
    }

    /// Ends a text in its overlap; says what became of any other.
    fn text(&mut self, scene: &Scene<'_>, old: &Replaced) -> String {
        let (place, id) = (old.place, old.key.id);
        let whose = format!(
            "the text at place {place} was that of {}",
            find::called(&old.key)
        );
        if old.key.status.is_final() {
            return format!("{whose}, which is {}", old.key.status.as_str());
        }
        if self.digests.contains(&old.digest) {
            return format!("{whose}, which ends with this");
        }
        let lives = format!(
            "the key lives on with its new text, which `portcullis keys revoke {id}` would end"
        );
        if old.until.is_none_or(|until| until <= scene.now) {
            return format!("{whose} and ended at its regeneration; {lives}");
        }
        self.texts += 1;
        self.digests.push(old.digest);
        self.writes.push(Write::EndRetired(old.digest, scene.now));
        format!("{whose} before its regeneration, and its overlap ends now; {lives}")
    }
}

fn sentence(keys: usize, texts: usize) -> String {
    match (keys, texts) {
        (0, 0) => "no key that still lives fits: nothing was revoked".to_owned(),
        (0, 1) => "no key was revoked; 1 old text ends now, before its overlap".to_owned(),
        (0, texts) => {
            format!("no key was revoked; {texts} old texts end now, before their overlap")
        }
        (1, _) => "1 key is revoked for good: its requests get 401 from now on".to_owned(),
        (many, _) => {
            format!("{many} keys are revoked for good: their requests get 401 from now on")
        }
    }
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
