//! Changing what a key or a tenant is; the next request sees it (FA33).

use std::collections::BTreeSet;

use crate::model::key::ApiKey;
use crate::model::key::KeyKind;
use crate::model::key::Override;
use crate::model::scope::Scope;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::model::tenant::Tenant;
use crate::store::outcome::Failure;
use crate::store::outcome::Outcome;
use crate::store::outcome::TenantView;
use crate::store::outcome::rfc3339;
use crate::store::request::KeyUpdate;
use crate::store::request::TenantUpdate;
use crate::store::sqlite::Write;
use crate::store::verbs::Change;
use crate::store::verbs::Prepared;
use crate::store::verbs::Scene;
use crate::store::verbs::find;
use crate::store::verbs::place;
use crate::store::verbs::rules;
use crate::store::verbs::status;
use crate::store::verbs::tenant;

/// Changes a key of the store.
pub(super) fn key(scene: &Scene<'_>, update: &KeyUpdate) -> Result<Prepared, Failure> {
    let before = scene.key(&update.id)?;
    if before.status.is_final() {
        return Err(status::ended(&before));
    }
    status::ours(&before)?;
    let mut key = before.clone();
    words(&mut key, update)?;
    if let Some(plan) = &update.plan {
        key.plan = Some(plan.clone()).filter(|plan| !plan.is_empty());
    }
    scopes(scene, &mut key, update)?;
    if let Some(asked) = update.expires {
        if let Some(expired) = scene.expired(&before) {
            return Err(Failure::refused(format!(
                "key {} expired at {}, and what has expired stays so; make a new one: `portcullis keys create --tenant {}`",
                key.id,
                rfc3339(expired),
                key.tenant.as_str()
            )));
        }
        key.expires = rules::expiry(scene, asked)?;
    }
    let changed = key != before;
    let said = match changed {
        true => "is changed; the next request sees it",
        false => "was so already",
    };
    let outcome = Outcome::KeyChanged {
        key: Box::new(scene.view(&key)),
        changed,
        said: format!("{} {said}", find::called(&key)),
        notes: widened_key(scene, &before, &key)?.into_iter().collect(),
    };
    if !changed {
        return Ok(Prepared::read(outcome));
    }
    Ok(Prepared {
        change: Change::Keys {
            put: scene.entries_of(&key)?,
            gone: Vec::new(),
        },
        writes: vec![Write::UpdateKey(Box::new(key))],
        outcome,
    })
}

/// FF10: a key that comes under a plan which knows whole keys only may do more than it lists.
fn widened_key(
    scene: &Scene<'_>,
    before: &ApiKey,
    after: &ApiKey,
) -> Result<Option<String>, Failure> {
    let tenant = scene.tenant(after.tenant.as_str())?;
    let whole = |key: &ApiKey| is_whole(scene, key.plan.as_deref().unwrap_or(&tenant.plan));
    let widens = lists_scopes(after) && whole(after) && !(lists_scopes(before) && whole(before));
    Ok(widens.then(|| {
        "the key may do all that its tenant may, whatever scopes it lists: its plan has granular_scopes = false".to_owned()
    }))
}

/// The same for all keys that are under the plan of their tenant.
fn widened_keys(
    scene: &Scene<'_>,
    before: &Tenant,
    after: &Tenant,
) -> Result<Option<String>, Failure> {
    if is_whole(scene, &before.plan) || !is_whole(scene, &after.plan) {
        return Ok(None);
    }
    let keys = scene.store.keys(Some(after.id.as_str()), None, None)?;
    let widened = |key: &&ApiKey| key.plan.is_none() && !key.status.is_final() && lists_scopes(key);
    let count = keys.iter().filter(widened).count();
    Ok((count > 0).then(|| {
        format!(
            "{count} of its secret keys list scopes of their own and may now do all that the tenant may: plan {} has granular_scopes = false",
            after.plan
        )
    }))
}

/// Whether a plan knows whole keys only; one that the file does not have any more knows nothing.
fn is_whole(scene: &Scene<'_>, plan: &str) -> bool {
    scene.plan(plan).is_ok_and(|plan| !plan.granular_scopes)
}

/// A secret key whose scopes are its own; a public one never gets more than it lists.
fn lists_scopes(key: &ApiKey) -> bool {
    key.kind == KeyKind::Secret && matches!(key.scopes, Scopes::Listed(_))
}

fn words(key: &mut ApiKey, update: &KeyUpdate) -> Result<(), Failure> {
    if let Some(name) = &update.name {
        key.name = find::display_name(name)?;
    }
    if let Some(quota) = &update.quota {
        key.quota = limit(quota)?;
    }
    if let Some(burst) = &update.burst {
        key.burst = limit(burst)?;
    }
    let bound = rules::binding(
        update.subject.as_deref(),
        update.origins.as_deref().unwrap_or_default(),
        update.cidrs.as_deref().unwrap_or_default(),
    )?;
    if update.subject.is_some() {
        key.binding.subject = bound.subject;
    }
    if update.origins.is_some() {
        key.binding.origins = bound.origins;
    }
    if update.cidrs.is_some() {
        key.binding.cidrs = bound.cidrs;
    }
    if let Some(note) = &update.note {
        key.note = rules::note(Some(note))?;
    }
    Ok(())
}

fn limit(text: &str) -> Result<Override, Failure> {
    let given = Some(text).filter(|text| !text.is_empty());
    Override::parse(given).map_err(Failure::refused)
}

/// The scopes that were asked for, where any were; they must fit the plan that the key is under from now on.
fn scopes(scene: &Scene<'_>, key: &mut ApiKey, update: &KeyUpdate) -> Result<(), Failure> {
    let tenant = scene.tenant(key.tenant.as_str())?;
    let plan = scene.plan(key.plan.as_deref().unwrap_or(&tenant.plan))?;
    let edits = !update.add_scopes.is_empty() || !update.remove_scopes.is_empty();
    if usize::from(update.inherit) + usize::from(update.scopes.is_some()) + usize::from(edits) > 1 {
        return Err(Failure::refused(
            "choose one of: --inherit, --scope, or --add-scope and --remove-scope",
        ));
    }
    if update.inherit {
        key.scopes = Scopes::Inherit;
        return Ok(());
    }
    let added: BTreeSet<Scope>;
    let listed = if let Some(listed) = &update.scopes {
        added = rules::listed_scopes(listed)?;
        added.clone()
    } else if edits {
        let Scopes::Listed(present) = &key.scopes else {
            return Err(Failure::refused(format!(
                "key {} inherits all that its tenant may do: list what it keeps with --scope",
                key.id
            )));
        };
        added = match update.add_scopes.as_slice() {
            [] => BTreeSet::new(),
            listed => rules::listed_scopes(listed)?,
        };
        edited(key, present, &added, &update.remove_scopes)?
    } else {
        return Ok(());
    };
    rules::may_list(scene, &added, plan)?;
    key.scopes = Scopes::Listed(listed.into_iter().collect());
    Ok(())
}

fn edited(
    key: &ApiKey,
    present: &[Scope],
    added: &BTreeSet<Scope>,
    removed: &[String],
) -> Result<BTreeSet<Scope>, Failure> {
    let mut listed: BTreeSet<Scope> = present.iter().chain(added).cloned().collect();
    for text in removed {
        let before = listed.len();
        listed.retain(|scope| scope.as_str() != text);
        if listed.len() == before {
            let there: Vec<&str> = present.iter().map(Scope::as_str).collect();
            return Err(Failure::refused(find::unknown(
                "scope of the key",
                text,
                &there,
            )));
        }
    }
    if listed.is_empty() {
        return Err(Failure::refused(format!(
            "key {0} would have no scope left and could do nothing; `portcullis keys deactivate {0}` switches it off",
            key.id
        )));
    }
    Ok(listed)
}

/// Changes a tenant of the store. What its keys have used stays used (FF18).
pub(super) fn of_tenant(scene: &Scene<'_>, update: &TenantUpdate) -> Result<Prepared, Failure> {
    let before = scene.tenant(&update.id)?;
    if before.origin == Origin::File {
        return Err(tenant::declared(&update.id));
    }
    let mut tenant = before.clone();
    if let Some(name) = &update.name {
        tenant.name = find::display_name(name)?;
    }
    if let Some(plan) = &update.plan {
        tenant.plan = scene.plan(plan)?.name.clone();
    }
    match (&update.scopes, update.inherit) {
        (Some(_), true) => return Err(Failure::refused("choose one of: --inherit, --scope")),
        (Some(listed), false) => {
            let listed = rules::listed_scopes(listed)?;
            tenant.scopes = Scopes::Listed(listed.into_iter().collect());
        }
        (None, true) => tenant.scopes = Scopes::Inherit,
        (None, false) => {}
    }
    if let Some(quota) = &update.quota {
        tenant.quota = limit(quota)?;
    }
    if let Some(burst) = &update.burst {
        tenant.burst = limit(burst)?;
    }
    for (upstream, servers) in &update.upstreams {
        place::set(scene, &mut tenant, upstream, servers)?;
    }
    let changed = tenant != before;
    let id = tenant.id.as_str();
    let said = match changed {
        true => format!(
            "tenant {id} is changed; the next request of its keys sees it, and what they have used stays used"
        ),
        false => format!("tenant {id} was so already"),
    };
    let outcome = Outcome::TenantChanged {
        tenant: TenantView::of(&tenant),
        changed,
        said,
        notes: widened_keys(scene, &before, &tenant)?.into_iter().collect(),
    };
    if !changed {
        return Ok(Prepared::read(outcome));
    }
    Ok(Prepared {
        writes: vec![Write::UpdateTenant(tenant.clone())],
        change: Change::Tenant(tenant),
        outcome,
    })
}
