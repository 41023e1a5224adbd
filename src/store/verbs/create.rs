//! Making key texts: create and regenerate.

use std::collections::BTreeSet;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::clock::Wall;
use crate::model::binding;
use crate::model::binding::Binding;
use crate::model::binding::WebOrigin;
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
use crate::store::verbs::status;

/// Makes a key (FA3, FM2 to FM4). Its text is in the outcome and nowhere else (FA4).
pub(super) fn create(scene: &Scene<'_>, new: &NewKey) -> Result<Prepared, Failure> {
    let tenant = scene.tenant(&new.tenant)?;
    let kind = KeyKind::parse(&new.kind).map_err(Failure::refused)?;
    let environment = scene.environment(new.environment.as_deref())?;
    if let Some(plan) = &new.plan {
        scene.plan(plan)?;
    }
    let issued = issue(scene, kind, &environment)?;
    let key = ApiKey {
        id: fresh_id(scene)?,
        digest: issued.digest,
        name: find::display_name(&new.name)?,
        kind,
        environment,
        tenant: tenant.id.clone(),
        plan: new.plan.clone(),
        quota: Override::parse(new.quota.as_deref()).map_err(Failure::refused)?,
        burst: Override::parse(new.burst.as_deref()).map_err(Failure::refused)?,
        scopes: scopes(new.scopes.as_deref())?,
        created: scene.now,
        expires: expiry(new, scene.now)?,
        status: KeyStatus::Active,
        prefix: issued.prefix,
        last_four: issued.last_four,
        binding: binding(new)?,
        note: new.note.as_deref().map(note).transpose()?,
        origin: Origin::Store,
    };
    let outcome = Outcome::KeyIssued {
        key: Box::new(scene.view(&key)),
        text: issued.text,
        notes: notes(scene.declared, &key, &tenant),
    };
    Ok(Prepared {
        change: Change::KeyAdded(Box::new(key.clone())),
        write: Some(Write::InsertKey(Box::new(key))),
        outcome,
    })
}

/// A new text for the same id; the old one ends at once and for good.
pub(super) fn regenerate(scene: &Scene<'_>, id: &str) -> Result<Prepared, Failure> {
    let mut key = scene.key(id)?;
    if key.status.is_final() {
        return Err(status::ended(&key));
    }
    status::ours(&key)?;
    if let Some(expires) = scene.expired(&key) {
        return Err(Failure::refused(format!(
            "key {id} expired at {}, and a regenerated key keeps its expiry; make a new one: `portcullis keys create --tenant {}`",
            rfc3339(expires),
            key.tenant.as_str()
        )));
    }
    scene.environment(Some(&key.environment))?;
    let old = key.digest;
    let issued = issue(scene, key.kind, &key.environment)?;
    key.digest = issued.digest;
    key.prefix = issued.prefix;
    key.last_four = issued.last_four;
    let mut notes = vec!["the old text is refused from now on".to_owned()];
    if key.status == KeyStatus::Inactive {
        notes.push(format!(
            "the key is still inactive: `portcullis keys activate {id}`"
        ));
    }
    Ok(Prepared {
        change: Change::KeyMoved(old, key.digest),
        outcome: Outcome::KeyIssued {
            key: Box::new(scene.view(&key)),
            text: issued.text,
            notes,
        },
        write: Some(Write::ReplaceDigest {
            id: key.id,
            old,
            new: key.digest,
            prefix: key.prefix,
            last_four: key.last_four,
            now: scene.now,
        }),
    })
}

/// A key text just made, and what is kept of it.
struct Issued {
    text: KeyText,
    digest: Digest,
    prefix: String,
    last_four: String,
}

fn issue(scene: &Scene<'_>, kind: KeyKind, environment: &str) -> Result<Issued, Failure> {
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
    Ok(Issued {
        digest,
        prefix: format!("{word}_{environment}_"),
        last_four: text.reveal()[text.reveal().len() - 4..].to_owned(),
        text,
    })
}

/// An id that nothing, tombstones included, ever had.
fn fresh_id(scene: &Scene<'_>) -> Result<KeyId, Failure> {
    loop {
        let id = KeyId(random_base62()?);
        let declared = scene.declared.keys.iter().any(|key| key.id == id);
        if !declared && scene.store.key(id)?.is_none() {
            return Ok(id);
        }
    }
}

/// Characters from the system's random source, each equally likely.
fn random_base62<const LENGTH: usize>() -> Result<[u8; LENGTH], Failure> {
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

fn scopes(listed: Option<&[String]>) -> Result<Scopes, Failure> {
    let Some(listed) = listed else {
        return Ok(Scopes::Inherit);
    };
    let parse = |text: &String| {
        Scope::new(text)
            .map_err(|why| Failure::refused(format!("scope \"{}\": {why}", text.escape_debug())))
    };
    let sorted: BTreeSet<Scope> = listed.iter().map(parse).collect::<Result<_, _>>()?;
    if sorted.is_empty() {
        return Err(Failure::refused(
            "a key without scopes could do nothing; give --scope or --inherit",
        ));
    }
    Ok(Scopes::Listed(sorted.into_iter().collect()))
}

/// What ties the key down.
fn binding(new: &NewKey) -> Result<Binding, Failure> {
    let subject = new.subject.as_deref().map(binding::subject).transpose();
    Ok(Binding {
        subject: subject.map_err(Failure::refused)?,
        origins: each(&new.origins, "origin", WebOrigin::parse)?,
        cidrs: each(&new.cidrs, "network", binding::network)?,
    })
}

fn each<T: PartialEq>(
    texts: &[String],
    what: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, Failure> {
    let mut list = Vec::new();
    for text in texts {
        let shown = text.escape_debug();
        let value =
            parse(text).map_err(|why| Failure::refused(format!("{what} \"{shown}\": {why}")))?;
        if !list.contains(&value) {
            list.push(value);
        }
    }
    Ok(list)
}

/// A remark of the operator: up to 1,000 characters on one line.
fn note(text: &str) -> Result<String, Failure> {
    if text.chars().count() > 1_000 || text.chars().any(char::is_control) {
        return Err(Failure::refused(
            "a note has at most 1000 characters and no control characters",
        ));
    }
    Ok(text.to_owned())
}

/// The end, counted from creation (FA6), to the microsecond.
fn expiry(new: &NewKey, now: Wall) -> Result<Option<Wall>, Failure> {
    let expires = match (new.expires_in_seconds, new.expires_at_unix_seconds) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(Failure::refused(
                "a key expires after a span or at a date, not both",
            ));
        }
        (Some(seconds), None) => {
            let micros = u64::try_from(Duration::from_secs(seconds).as_micros());
            Wall(now.0.saturating_add(micros.unwrap_or(u64::MAX)))
        }
        (None, Some(unix)) => Wall::from_unix_seconds(unix),
    };
    if expires <= now {
        return Err(Failure::refused(format!(
            "the expiry {} does not lie in the future",
            rfc3339(expires)
        )));
    }
    Ok(Some(expires))
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
