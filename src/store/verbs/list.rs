//! The verbs that only read.

use std::collections::HashMap;

use crate::clock::Wall;
use crate::model::key::ApiKey;
use crate::model::key::KeyId;
use crate::store::KeyFilter;
use crate::store::outcome::Failure;
use crate::store::outcome::KeyView;
use crate::store::outcome::Outcome;
use crate::store::outcome::TenantView;
use crate::store::outcome::Uses;
use crate::store::verbs::Prepared;
use crate::store::verbs::Scene;

/// The keys that are meant, oldest first (FA5, FA7). Where they are named, it costs what those do.
pub(super) fn keys(scene: &Scene<'_>, which: &KeyFilter) -> Result<Prepared, Failure> {
    let of_all = which.keys.is_none() || which.unused_since_seconds.is_some();
    let mut last_used = match of_all {
        true if which.unused_since_seconds.is_some() => (scene.last_used)(Uses::ToJudge)?,
        true => (scene.last_used)(Uses::OfAll)?,
        false => HashMap::new(),
    };
    let mut keys = scene.select(which, &last_used)?.keys;
    keys.sort_by_key(|key| (key.created, key.id));
    if !of_all {
        let ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
        last_used = (scene.last_used)(Uses::Of(&ids))?;
    }
    Ok(Prepared::read(Outcome::Keys {
        keys: views(scene, &keys, &last_used),
    }))
}

/// One page of them, in the order in which they came into the store, those of the file before; it costs what it shows and what the filter
/// passes over on its way, not what there is.
pub(super) fn page(
    scene: &Scene<'_>,
    which: &KeyFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<Prepared, Failure> {
    let used = match which.unused_since_seconds {
        Some(_) => (scene.last_used)(Uses::ToJudge)?,
        None => HashMap::new(),
    };
    let keys = scene.select_after(which, after, limit, &used)?;
    let ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
    let last_used = (scene.last_used)(Uses::Of(&ids))?;
    Ok(Prepared::read(Outcome::Keys {
        keys: views(scene, &keys, &last_used),
    }))
}

fn views(scene: &Scene<'_>, keys: &[ApiKey], last_used: &HashMap<KeyId, Wall>) -> Vec<KeyView> {
    let view = |key: &ApiKey| {
        let last_used = last_used.get(&key.id).copied();
        KeyView::of(key, scene.now, last_used, scene.declared.labels)
    };
    keys.iter().map(view).collect()
}

/// One key.
pub(super) fn key(scene: &Scene<'_>, id: &str) -> Result<Prepared, Failure> {
    let key = scene.key(id)?;
    let last_used = (scene.last_used)(Uses::Of(&[key.id]))?;
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
