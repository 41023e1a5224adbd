//! What the audit log is told of a verb: whom it is about, how that was, and how it is now. Never a secret.

use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::clock::Wall;
use crate::store::Store;
use crate::store::Verb;
use crate::store::audit::Act;
use crate::store::audit::Actor;
use crate::store::outcome::Failure;
use crate::store::outcome::Outcome;
use crate::store::outcome::TenantView;
use crate::store::verbs::Declared;
use crate::store::verbs::Scene;

/// How many ids of a change of many keys stand in its line; all of them are counted.
const IDS_MAX: usize = 1_000;

/// The line for a verb that was prepared and not yet written.
///
/// # Errors
/// The store cannot be read.
pub fn act_of(
    store: &Store,
    declared: &Declared<'_>,
    verb: &Verb,
    outcome: &Outcome,
    actor: &Actor,
    now: Wall,
) -> Result<Act, Failure> {
    let scene = Scene::new(store, declared, now, &|_| {
        Ok(std::collections::HashMap::new())
    });
    let before = before(&scene, verb)?;
    let (act, subject) = verb.label();
    let (after, result) = after(outcome);
    let made = matches!(
        verb,
        Verb::KeyCreate(_) | Verb::TenantCreate { .. } | Verb::AdminTokenCreate(_)
    );
    Ok(Act {
        actor: actor.clone(),
        act: act.to_owned(),
        subject: match &result {
            Some(id) if made => id.clone(),
            _ => subject.to_owned(),
        },
        before,
        after,
        result,
        at: now,
    })
}

fn before(scene: &Scene<'_>, verb: &Verb) -> Result<Option<Value>, Failure> {
    Ok(match verb {
        Verb::KeyDeactivate { id }
        | Verb::KeyActivate { id }
        | Verb::KeyRegenerate { id, .. }
        | Verb::KeyRotate { id, .. }
        | Verb::KeyRevoke { id }
        | Verb::KeyDelete { id } => value(&scene.view(&scene.key(id)?)),
        Verb::KeyUpdate(update) => value(&scene.view(&scene.key(&update.id)?)),
        Verb::TenantUpdate(update) => value(&TenantView::of(&scene.tenant(&update.id)?)),
        Verb::TenantSuspend { id } | Verb::TenantResume { id } => {
            value(&TenantView::of(&scene.tenant(id)?))
        }
        Verb::KeyCreate(_)
        | Verb::KeyImport { .. }
        | Verb::KeyRevokeMany(_)
        | Verb::TenantCreate { .. }
        | Verb::AdminTokenCreate(_)
        | Verb::AdminTokenRevoke { .. }
        | Verb::AdminTokenList
        | Verb::KeyList(_)
        | Verb::KeyPage { .. }
        | Verb::KeyShow { .. }
        | Verb::TenantList
        | Verb::TokenDeny(_)
        | Verb::TokenAllow(_)
        | Verb::TokenDenials => None,
    })
}

/// How it is now, and the id of what was made or changed.
fn after(outcome: &Outcome) -> (Option<Value>, Option<String>) {
    match outcome {
        Outcome::KeyIssued { key, .. } | Outcome::KeyChanged { key, .. } => {
            (value(key), Some(key.id.clone()))
        }
        Outcome::KeyRotated { key, old, .. } => (
            Some(json!({ "new": value(key), "old": value(old) })),
            Some(key.id.clone()),
        ),
        Outcome::KeysChanged { ids, .. } => {
            let named = &ids[..ids.len().min(IDS_MAX)];
            (Some(json!({ "count": ids.len(), "ids": named })), None)
        }
        Outcome::TenantChanged { tenant, .. } => (value(tenant), Some(tenant.id.clone())),
        Outcome::AdminTokenIssued { token, .. } | Outcome::AdminTokenChanged { token, .. } => {
            (value(token), Some(token.id.clone()))
        }
        Outcome::DenialChanged { denial, .. } => (value(denial), Some(denial.value.clone())),
        Outcome::Keys { .. }
        | Outcome::Denials { .. }
        | Outcome::Key { .. }
        | Outcome::Tenants { .. }
        | Outcome::AdminTokens { .. }
        | Outcome::Replayed { .. } => (None, None),
    }
}

fn value(view: &impl Serialize) -> Option<Value> {
    serde_json::to_value(view).ok()
}
