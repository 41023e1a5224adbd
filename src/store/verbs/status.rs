//! Deactivate, activate, revoke and delete: what an operator may say of a key, and what can never be taken back.

use crate::model::key::ApiKey;
use crate::model::key::KeyStatus;
use crate::model::tenant::Origin;
use crate::store::outcome::Failure;
use crate::store::outcome::Outcome;
use crate::store::outcome::rfc3339;
use crate::store::sqlite::Write;
use crate::store::verbs::Change;
use crate::store::verbs::Prepared;
use crate::store::verbs::Scene;
use crate::store::verbs::find;

/// Switches off, reversible.
pub(super) fn deactivate(scene: &Scene<'_>, id: &str) -> Result<Prepared, Failure> {
    let key = scene.key(id)?;
    match key.status {
        KeyStatus::Revoked | KeyStatus::Deleted => Err(ended(&key)),
        KeyStatus::Inactive => Ok(unchanged(scene, &key, "was inactive already")),
        KeyStatus::Active => {
            ours(&key)?;
            let said = format!(
                "is inactive: its requests get 401 from now on; `portcullis keys activate {id}` switches it on again"
            );
            changed(scene, key, KeyStatus::Inactive, &said)
        }
    }
}

/// Switches on again; never what is revoked (FA10).
pub(super) fn activate(scene: &Scene<'_>, id: &str) -> Result<Prepared, Failure> {
    let key = scene.key(id)?;
    let but = scene.expired(&key).map_or_else(String::new, |expires| {
        format!(
            ", but it expired at {}: its requests get 401",
            rfc3339(expires)
        )
    });
    match key.status {
        KeyStatus::Revoked | KeyStatus::Deleted => Err(ended(&key)),
        KeyStatus::Active => Ok(unchanged(scene, &key, &format!("was active already{but}"))),
        KeyStatus::Inactive => {
            ours(&key)?;
            changed(scene, key, KeyStatus::Active, &format!("is active{but}"))
        }
    }
}

/// Ends for good, at once (FA8). Works on keys of the file too.
pub(super) fn revoke(scene: &Scene<'_>, id: &str) -> Result<Prepared, Failure> {
    let mut key = scene.key(id)?;
    if key.status.is_final() {
        let said = format!("was {} already", key.status.as_str());
        return Ok(unchanged(scene, &key, &said));
    }
    if key.origin == Origin::Store {
        return changed(scene, key, KeyStatus::Revoked, REVOKED);
    }
    key.status = KeyStatus::Revoked;
    let said = format!("{REVOKED}; it can be removed from gateway.toml, and stays revoked");
    let outcome = told(scene, &key, true, &said);
    Ok(Prepared {
        change: Change::KeyStatus(vec![key.digest], KeyStatus::Revoked),
        writes: vec![Write::InsertKey(Box::new(key))],
        outcome,
    })
}

/// Ends for good and leaves lists; the tombstone stays.
pub(super) fn delete(scene: &Scene<'_>, id: &str) -> Result<Prepared, Failure> {
    let key = scene.key(id)?;
    if scene.declared.keys.iter().any(|file| file.id == key.id) {
        return Err(Failure::refused(format!(
            "key {id} is declared in gateway.toml: remove it there; `portcullis keys revoke {id}` ends it at once"
        )));
    }
    if key.status == KeyStatus::Deleted {
        return Ok(unchanged(scene, &key, "was deleted already"));
    }
    let said =
        "is deleted for good: its requests get 401, and neither its id nor its text can come back";
    changed(scene, key, KeyStatus::Deleted, said)
}

const REVOKED: &str =
    "is revoked for good: its requests get 401 from now on, and its text can never come back";

/// Refuses keys that only the file may change.
pub(super) fn ours(key: &ApiKey) -> Result<(), Failure> {
    match key.origin {
        Origin::Store => Ok(()),
        Origin::File => Err(Failure::refused(format!(
            "key {} is declared in gateway.toml: change it there; only `revoke` works on it from here",
            key.id
        ))),
    }
}

/// The refusal for what has ended.
pub(super) fn ended(key: &ApiKey) -> Failure {
    Failure::refused(format!(
        "key {} is {}, and that is for good; make a new one: `portcullis keys create --tenant {}`",
        key.id,
        key.status.as_str(),
        key.tenant.as_str()
    ))
}

fn changed(
    scene: &Scene<'_>,
    mut key: ApiKey,
    status: KeyStatus,
    said: &str,
) -> Result<Prepared, Failure> {
    key.status = status;
    Ok(Prepared {
        writes: vec![Write::SetStatus(key.id, status)],
        change: Change::KeyStatus(scene.digests_of(&key)?, status),
        outcome: told(scene, &key, true, said),
    })
}

fn unchanged(scene: &Scene<'_>, key: &ApiKey, said: &str) -> Prepared {
    Prepared::read(told(scene, key, false, said))
}

fn told(scene: &Scene<'_>, key: &ApiKey, changed: bool, said: &str) -> Outcome {
    Outcome::KeyChanged {
        key: Box::new(scene.view(key)),
        changed,
        said: format!("{} {said}", find::called(key)),
        notes: Vec::new(),
    }
}
