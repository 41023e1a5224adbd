//! What `[key_rules]`, `[[key_defaults]]` and plans say of a key that is made or changed.

use std::collections::BTreeSet;

use crate::clock::Wall;
use crate::model::binding;
use crate::model::binding::Binding;
use crate::model::binding::WebOrigin;
use crate::model::display;
use crate::model::key::KeyKind;
use crate::model::scope::Scope;
use crate::model::scope::Scopes;
use crate::model::tenant::Plan;
use crate::store::NewKey;
use crate::store::outcome::Failure;
use crate::store::outcome::rfc3339;
use crate::store::request::Expiry;
use crate::store::verbs::Scene;

/// The end that a key gets (FA6): counted from now to the microsecond, and one that the rules allow (FA3, C-8).
pub(super) fn expiry(scene: &Scene<'_>, asked: Expiry) -> Result<Option<Wall>, Failure> {
    let expires = end(asked, scene.now)?;
    let allowed = &scene.declared.rules.allowed_expirations;
    let listed = allowed.iter().any(|lifetime| match asked {
        Expiry::Never => lifetime.seconds.is_none(),
        Expiry::InSeconds(seconds) => lifetime.seconds == Some(seconds),
        Expiry::AtUnixSeconds(_) => false,
    });
    if !allowed.is_empty() && !listed {
        let choices: Vec<&str> = allowed
            .iter()
            .map(|lifetime| lifetime.text.as_str())
            .collect();
        return Err(Failure::refused(format!(
            "a key here lasts one of: {}; choose with --expires",
            choices.join(", ")
        )));
    }
    let longest = scene.declared.rules.max_ttl.as_ref();
    if let Some((longest, seconds)) = longest.and_then(|longest| Some((longest, longest.seconds?)))
    {
        let latest = after(scene.now, seconds);
        if expires.is_none_or(|expires| expires > latest) {
            return Err(Failure::refused(format!(
                "a key here lasts at most {}; choose with --expires",
                longest.text
            )));
        }
    }
    Ok(expires)
}

/// The end that was asked for, whatever the rules say; it must lie in the future.
pub(super) fn end(asked: Expiry, now: Wall) -> Result<Option<Wall>, Failure> {
    let expires = match asked {
        Expiry::Never => return Ok(None),
        Expiry::InSeconds(seconds) => after(now, seconds),
        Expiry::AtUnixSeconds(unix) => Wall::from_unix_seconds(unix),
    };
    if expires <= now {
        return Err(Failure::refused(format!(
            "the expiry {} does not lie in the future",
            rfc3339(expires)
        )));
    }
    Ok(Some(expires))
}

/// What a new key asks for.
pub(super) fn asked(new: &NewKey) -> Result<Expiry, Failure> {
    match (new.expires_in_seconds, new.expires_at_unix_seconds) {
        (None, None) => Ok(Expiry::Never),
        (Some(seconds), None) => Ok(Expiry::InSeconds(seconds)),
        (None, Some(unix)) => Ok(Expiry::AtUnixSeconds(unix)),
        (Some(_), Some(_)) => Err(Failure::refused(
            "a key expires after a span or at a date, not both",
        )),
    }
}

/// So many seconds after a point of the wall clock.
pub(super) fn after(now: Wall, seconds: u64) -> Wall {
    Wall(now.0.saturating_add(seconds.saturating_mul(1_000_000)))
}

/// What a new key may do: as asked, or as the defaults say.
pub(super) fn scopes(
    scene: &Scene<'_>,
    new: &NewKey,
    kind: KeyKind,
    environment: &str,
    plan: &Plan,
) -> Result<Scopes, Failure> {
    if !new.default_scopes {
        let Some(listed) = &new.scopes else {
            return Ok(Scopes::Inherit);
        };
        let listed = listed_scopes(listed)?;
        may_list(scene, &listed, plan)?;
        return Ok(Scopes::Listed(listed.into_iter().collect()));
    }
    let fits = scene.declared.defaults.iter().find(|default| {
        default.kind.is_none_or(|only| only == kind)
            && (default.environment.as_ref()).is_none_or(|only| only == environment)
    });
    match fits {
        Some(default) => Ok(default.scopes.clone()),
        // Never a public key: it stands in web pages, and is not to do all that the plan sells because nobody said less (FF1).
        None if !plan.granular_scopes && kind == KeyKind::Secret => Ok(Scopes::Inherit),
        None => Err(Failure::Usage(
            "say what the key may do: --scope SCOPE…, or --inherit for all that its tenant may; [[key_defaults]] of gateway.toml can say it for all".to_owned(),
        )),
    }
}

/// Whether a key under this plan may list these (FF10, CW7).
pub(super) fn may_list(
    scene: &Scene<'_>,
    listed: &BTreeSet<Scope>,
    plan: &Plan,
) -> Result<(), Failure> {
    if !plan.granular_scopes {
        return Err(Failure::refused(format!(
            "plan {} has no scopes for single keys (granular_scopes = false): leave --scope out",
            plan.name
        )));
    }
    let refused: Vec<&str> = listed
        .iter()
        .filter(|scope| !plan.scopes.iter().any(|grant| grant.grants(scope)))
        .map(Scope::as_str)
        .collect();
    if refused.is_empty() || scene.declared.rules.allow_ungranted {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "plan {} does not grant {}; give the tenant a plan that does, or leave it out (key_rules.ungranted_scopes = \"allow\" takes it without effect)",
        plan.name,
        refused.join(", ")
    )))
}

/// Scopes as typed, in order, each once.
pub(super) fn listed_scopes(listed: &[String]) -> Result<BTreeSet<Scope>, Failure> {
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
    Ok(sorted)
}

/// What ties a key down; an empty text is nothing.
pub(super) fn binding(
    subject: Option<&str>,
    origins: &[String],
    cidrs: &[String],
) -> Result<Binding, Failure> {
    let subject = subject.filter(|text| !text.is_empty());
    let subject = subject.map(binding::subject).transpose();
    Ok(Binding {
        subject: subject.map_err(Failure::refused)?,
        origins: each(origins, "origin", WebOrigin::parse)?,
        cidrs: each(cidrs, "network", binding::network)?,
    })
}

fn each<T: PartialEq>(
    texts: &[String],
    what: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Vec<T>, Failure> {
    let mut list = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let value = parse(text).map_err(|why| {
            Failure::refused(format!("{what} \"{}\": {why}", text.escape_debug()))
        })?;
        if !list.contains(&value) {
            list.push(value);
        }
    }
    Ok(list)
}

/// A remark of the operator, up to 1,000 characters on one line, all of which can be seen (S27); an empty one is none.
pub(super) fn note(text: Option<&str>) -> Result<Option<String>, Failure> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    display::check("a note", text, 1_000).map_err(Failure::refused)?;
    Ok(Some(text.to_owned()))
}
