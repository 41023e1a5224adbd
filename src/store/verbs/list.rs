//! The verbs that only read.

use crate::model::key::ApiKey;
use crate::store::KeyFilter;
use crate::store::outcome::Failure;
use crate::store::outcome::KeyView;
use crate::store::outcome::Outcome;
use crate::store::outcome::TenantView;
use crate::store::verbs::Prepared;
use crate::store::verbs::Scene;

/// The keys that are meant, oldest first (FA5, FA7).
pub(super) fn keys(scene: &Scene<'_>, which: &KeyFilter) -> Result<Prepared, Failure> {
    let last_used = (scene.last_used)();
    let mut keys = scene.select(which, &last_used)?.keys;
    keys.sort_by_key(|key| (key.created, key.id));
    let view = |key: &ApiKey| {
        let last_used = last_used.get(&key.id).copied();
        KeyView::of(key, scene.now, last_used, scene.declared.labels)
    };
    Ok(Prepared::read(Outcome::Keys {
        keys: keys.iter().map(view).collect(),
    }))
}

/// One key.
pub(super) fn key(scene: &Scene<'_>, id: &str) -> Result<Prepared, Failure> {
    let key = scene.key(id)?;
    let last_used = (scene.last_used)();
    let last_used = last_used.get(&key.id).copied();
    let view = KeyView::of(&key, scene.now, last_used, scene.declared.labels);
    let key = Box::new(view);
    Ok(Prepared::read(Outcome::Key { key }))
}

/// All tenants, by id; the file's beats the store's.
pub(super) fn tenants(scene: &Scene<'_>) -> Result<Prepared, Failure> {
    let mut tenants = scene.store.tenants()?;
    tenants.retain(|tenant| !scene.is_declared_tenant(&tenant.id));
    tenants.extend_from_slice(scene.declared.tenants);
    tenants.sort_by(|left, right| left.id.cmp(&right.id));
    Ok(Prepared::read(Outcome::Tenants {
        tenants: tenants.iter().map(TenantView::of).collect(),
    }))
}
