//! Making key texts: create, regenerate and rotate.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use crate::clock::Wall;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyKind;
use crate::model::key::KeyStatus;
use crate::model::key::Override;
use crate::model::key_text;
use crate::model::limit::Rate;
use crate::model::route::Access;
use crate::model::scope::Scope;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::model::tenant::Tenant;
use crate::store::NewKey;
use crate::store::outcome::Failure;
use crate::store::outcome::KeyText;
use crate::store::outcome::Outcome;
use crate::store::outcome::rfc3339;
use crate::store::sqlite::DigestUse;
use crate::store::sqlite::Write;
use crate::store::verbs::Change;
use crate::store::verbs::Declared;
use crate::store::verbs::Prepared;
use crate::store::verbs::Scene;
use crate::store::verbs::find;
use crate::store::verbs::rules;
use crate::store::verbs::status;

/// Makes a key (FA3, FM2 to FM4). Its text is in the outcome and nowhere else (FA4).
pub(super) fn create(scene: &Scene<'_>, new: &NewKey) -> Result<Prepared, Failure> {
    let tenant = scene.tenant(&new.tenant)?;
    let kind = KeyKind::parse(&new.kind).map_err(Failure::refused)?;
    let environment = scene.environment(new.environment.as_deref())?;
    let expires = rules::expiry(scene, rules::asked(new)?)?;
    let (text, issued) = issue(scene, kind, &environment)?;
    let key = record(scene, new, issued, expires)?;
    let outcome = Outcome::KeyIssued {
        key: Box::new(scene.view(&key)),
        text,
        notes: notes(scene.declared, &key, &tenant),
    };
    Ok(Prepared {
        change: Change::Keys {
            put: vec![key.clone()],
            gone: Vec::new(),
        },
        writes: vec![Write::InsertKey(Box::new(key))],
        outcome,
    })
}

/// What is kept of a new key, issued here or elsewhere.
pub(super) fn record(
    scene: &Scene<'_>,
    new: &NewKey,
    issued: Issued,
    expires: Option<Wall>,
) -> Result<ApiKey, Failure> {
    let tenant = scene.tenant(&new.tenant)?;
    let kind = KeyKind::parse(&new.kind).map_err(Failure::refused)?;
    let environment = scene.environment(new.environment.as_deref())?;
    let plan = scene.plan(new.plan.as_deref().unwrap_or(&tenant.plan))?;
    Ok(ApiKey {
        id: fresh_id(scene)?,
        digest: issued.digest,
        name: find::display_name(&new.name)?,
        kind,
        scopes: rules::scopes(scene, new, kind, &environment, plan)?,
        environment,
        tenant: tenant.id.clone(),
        plan: new.plan.clone(),
        quota: Override::parse(new.quota.as_deref()).map_err(Failure::refused)?,
        burst: Override::parse(new.burst.as_deref()).map_err(Failure::refused)?,
        created: scene.now,
        expires,
        status: KeyStatus::Active,
        prefix: issued.prefix,
        last_four: issued.last_four,
        binding: rules::binding(new.subject.as_deref(), &new.origins, &new.cidrs)?,
        note: rules::note(new.note.as_deref())?,
        origin: Origin::Store,
    })
}

/// A new text for the same id (FF6). The old one, and those before it, end at once, or with the overlap (C-19).
pub(super) fn regenerate(
    scene: &Scene<'_>,
    id: &str,
    overlap_seconds: u64,
) -> Result<Prepared, Failure> {
    let before = renewable(scene, id, "a regenerated key keeps its expiry")?;
    let (text, issued) = issue(scene, before.kind, &before.environment)?;
    let until = (overlap_seconds > 0).then(|| rules::after(scene.now, overlap_seconds));
    let key = ApiKey {
        digest: issued.digest,
        prefix: issued.prefix,
        last_four: issued.last_four,
        ..before.clone()
    };
    let mut put = vec![key.clone()];
    let mut gone = Vec::new();
    match until {
        Some(until) => {
            let entries = scene.entries_of(&before)?.into_iter();
            put.extend(entries.map(|old| capped(old, until)));
        }
        None => gone = scene.digests_of(&before)?,
    }
    let mut notes = vec![match until {
        Some(until) => format!("the old text works until {}", rfc3339(until)),
        None => "the old text is refused from now on".to_owned(),
    }];
    if key.status == KeyStatus::Inactive {
        notes.push(format!(
            "the key is still inactive: `portcullis keys activate {id}`"
        ));
    }
    Ok(Prepared {
        writes: vec![Write::ReplaceDigest {
            id: key.id,
            old: before.digest,
            new: key.digest,
            prefix: key.prefix.clone(),
            last_four: key.last_four.clone(),
            now: scene.now,
            until,
        }],
        outcome: Outcome::KeyIssued {
            key: Box::new(scene.view(&key)),
            text,
            notes,
        },
        change: Change::Keys { put, gone },
    })
}

/// A second key like the first one, its end included; the first one ends after the overlap at the latest (FA12).
pub(super) fn rotate(
    scene: &Scene<'_>,
    id: &str,
    overlap_seconds: u64,
) -> Result<Prepared, Failure> {
    let before = renewable(scene, id, "rotation keeps the expiry")?;
    if before.status == KeyStatus::Inactive {
        return Err(Failure::refused(format!(
            "key {id} is inactive; `portcullis keys activate {id}` first, or make a new key"
        )));
    }
    let (text, issued) = issue(scene, before.kind, &before.environment)?;
    let key = ApiKey {
        id: fresh_id(scene)?,
        digest: issued.digest,
        prefix: issued.prefix,
        last_four: issued.last_four,
        created: scene.now,
        ..before.clone()
    };
    let old = capped(before, rules::after(scene.now, overlap_seconds));
    let mut put = scene.entries_of(&old)?;
    put.push(key.clone());
    let mut notes = vec![format!(
        "both work until {0}, then only the new one; `portcullis keys revoke {id}` ends the old one sooner",
        rfc3339(old.expires.unwrap_or(scene.now))
    )];
    notes.extend(key.expires.map(|expires| {
        format!(
            "the new key ends at {}, as the old one would have",
            rfc3339(expires)
        )
    }));
    Ok(Prepared {
        outcome: Outcome::KeyRotated {
            key: Box::new(scene.view(&key)),
            text,
            old: Box::new(scene.view(&old)),
            notes,
        },
        writes: vec![
            Write::InsertKey(Box::new(key)),
            Write::UpdateKey(Box::new(old)),
        ],
        change: Change::Keys {
            put,
            gone: Vec::new(),
        },
    })
}

/// A key of the store that lives and has not expired.
fn renewable(scene: &Scene<'_>, id: &str, why: &str) -> Result<ApiKey, Failure> {
    let key = scene.key(id)?;
    if key.status.is_final() {
        return Err(status::ended(&key));
    }
    status::ours(&key)?;
    if let Some(expires) = scene.expired(&key) {
        return Err(Failure::refused(format!(
            "key {id} expired at {}, and {why}; make a new one: `portcullis keys create --tenant {}`",
            rfc3339(expires),
            key.tenant.as_str()
        )));
    }
    scene.environment(Some(&key.environment))?;
    Ok(key)
}

/// The key, ending at `latest` unless it ends sooner.
pub(super) fn capped(mut key: ApiKey, latest: Wall) -> ApiKey {
    key.expires = Some(key.expires.map_or(latest, |expires| expires.min(latest)));
    key
}

/// What is kept of a key text.
pub(super) struct Issued {
    pub(super) digest: Digest,
    pub(super) prefix: String,
    pub(super) last_four: String,
}

fn issue(
    scene: &Scene<'_>,
    kind: KeyKind,
    environment: &str,
) -> Result<(KeyText, Issued), Failure> {
    let word = match kind {
        KeyKind::Secret => &scene.declared.format.secret_prefix,
        KeyKind::Public => &scene.declared.format.public_prefix,
    };
    let random = Zeroizing::new(random_base62::<{ key_text::RANDOM_LENGTH }>()?);
    let text = KeyText::new(key_text::make(word, environment, &random));
    let digest = key_text::digest_of(text.reveal().as_bytes());
    if scene.store.digest_use(&digest)? != DigestUse::Free
        || scene.declared.keys.iter().any(|key| key.digest == digest)
    {
        return Err(Failure::refused(
            "the system's random numbers repeat themselves: no key was made",
        ));
    }
    let issued = Issued {
        digest,
        prefix: format!("{word}_{environment}_"),
        last_four: text.reveal()[text.reveal().len() - 4..].to_owned(),
    };
    Ok((text, issued))
}

/// An id that nothing, tombstones included, ever had.
pub(super) fn fresh_id(scene: &Scene<'_>) -> Result<KeyId, Failure> {
    loop {
        let id = KeyId(random_base62()?);
        let declared = scene.declared.keys.iter().any(|key| key.id == id);
        if !declared && scene.store.key(id)?.is_none() {
            return Ok(id);
        }
    }
}

/// Characters from the system's random source, each equally likely.
pub(super) fn random_base62<const LENGTH: usize>() -> Result<[u8; LENGTH], Failure> {
    let mut characters = [0; LENGTH];
    let mut filled = 0;
    while filled < LENGTH {
        let mut bytes = Zeroizing::new([0; 64]);
        getrandom::fill(&mut *bytes).map_err(|error| {
            Failure::refused(format!("the system gives no random numbers: {error}"))
        })?;
        let drawn = bytes.iter().copied().filter_map(key_text::random_character);
        for character in drawn.take(LENGTH - filled) {
            characters[filled] = character;
            filled += 1;
        }
    }
    Ok(characters)
}

/// What is allowed, but most likely not what was meant.
fn notes(declared: &Declared<'_>, key: &ApiKey, tenant: &Tenant) -> Vec<String> {
    let mut notes = Vec::new();
    if tenant.suspended {
        notes.push(format!(
            "tenant {} is suspended: requests with this key get 403",
            tenant.id.as_str()
        ));
    }
    let first = declared.environments.first();
    if declared.rules.warn_never && key.expires.is_none() && first == Some(&key.environment) {
        notes.push("this key never ends: rotate it now and then, `portcullis keys rotate`, or give it an end with --expires (key_rules.warn_never)".to_owned());
    }
    let name = key.plan.as_deref().unwrap_or(&tenant.plan);
    let plan = declared.plans.iter().find(|plan| plan.name == name);
    if let Some(plan) = plan {
        if !plan.api_access {
            notes.push(format!(
                "plan {name} has no API access: requests with this key get 403"
            ));
        }
        cost_notes(declared, key.quota.over(plan.limits.quota), &mut notes);
        cost_notes(declared, key.burst.over(plan.limits.burst), &mut notes);
    }
    if let Scopes::Listed(listed) = &key.scopes {
        for scope in listed.iter() {
            if plan.is_some_and(|plan| !plan.scopes.iter().any(|grant| grant.grants(scope))) {
                notes.push(format!("plan {name} does not grant {}", scope.as_str()));
            }
            if !tenant.scopes.cover(scope) {
                notes.push(format!(
                    "tenant {} itself may not do {}",
                    tenant.id.as_str(),
                    scope.as_str()
                ));
            }
            notes.extend(unknown_scope(declared, scope));
        }
    }
    notes
}

fn cost_notes(declared: &Declared<'_>, limit: Option<Rate>, notes: &mut Vec<String>) {
    let Some(limit) = limit else { return };
    for route in declared
        .routes
        .iter()
        .filter(|route| route.cost > limit.count)
    {
        notes.push(format!(
            "route {} costs {}, more than {limit}: this key can never use it",
            route.path, route.cost
        ));
    }
}

fn unknown_scope(declared: &Declared<'_>, scope: &Scope) -> Option<String> {
    let demanded: BTreeSet<&str> = declared
        .routes
        .iter()
        .filter_map(|route| match &route.access {
            Access::Scope(demanded) => Some(demanded.as_str()),
            Access::Public | Access::AnyKey => None,
        })
        .collect();
    if demanded.is_empty() || demanded.contains(scope.as_str()) {
        return None;
    }
    let there: Vec<&str> = demanded.into_iter().collect();
    let near = find::nearest(scope.as_str(), &there)
        .map_or_else(String::new, |near| format!(", did you mean {near}?"));
    Some(format!("no route demands {}{near}", scope.as_str()))
}
