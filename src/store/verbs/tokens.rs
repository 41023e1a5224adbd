//! Access tokens: deny, allow again, list what is denied.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Wall;
use crate::model::denial::DENIALS_MAX;
use crate::model::denial::Denial;
use crate::model::denial::DeniedBy;
use crate::model::denial::value;
use crate::store::outcome::DenialView;
use crate::store::outcome::Failure;
use crate::store::outcome::Outcome;
use crate::store::request::TokenDenial;
use crate::store::request::TokenNames;
use crate::store::sqlite::Write;
use crate::store::verbs::Change;
use crate::store::verbs::Prepared;
use crate::store::verbs::Scene;

/// Denies tokens; from then on none of them is admitted, and those in flight end.
pub(super) fn deny(scene: &Scene<'_>, asked: &TokenDenial) -> Result<Prepared, Failure> {
    let (by, value) = named(&asked.names)?;
    let there = scene.store.denials()?;
    let live = there.iter().filter(|denial| !denial.expired(scene.now));
    if live.count() >= DENIALS_MAX {
        return Err(Failure::refused(format!(
            "{DENIALS_MAX} entries are denied already: deny a subject or a client instead of single tokens, or suspend the tenant"
        )));
    }
    // A token that may live no longer than that cannot come back when its entry ends.
    let seconds = match (asked.for_seconds, by) {
        (Some(seconds), _) => Some(seconds),
        (None, DeniedBy::Jti) => Some(longest_life(scene).as_secs()),
        (None, DeniedBy::Subject | DeniedBy::Client) => None,
    };
    let until = |seconds: u64| {
        Wall(
            scene
                .now
                .0
                .saturating_add(seconds.saturating_mul(1_000_000)),
        )
    };
    let denial = Denial {
        by,
        value,
        issuer: issuer(&asked.names)?,
        created: scene.now,
        expires: seconds.map(until),
        issued_until: asked.issued_until_now.then_some(scene.now),
        note: asked.note.clone().filter(|note| !note.is_empty()),
    };
    let view = DenialView::of(&denial);
    let ends = match &view.expires_at {
        Some(at) => format!("until {at}"),
        None => "until it is allowed again".to_owned(),
    };
    let word = by.as_str();
    let said = format!(
        "tokens of this {word} are denied {ends}; `portcullis tokens allow --{word} …` ends that sooner"
    );
    Ok(Prepared {
        writes: vec![Write::PutDenial(denial.clone())],
        outcome: Outcome::DenialChanged {
            denial: view,
            changed: true,
            said,
        },
        change: Change::Denied(denial),
    })
}

/// Takes an entry back.
pub(super) fn allow(scene: &Scene<'_>, names: &TokenNames) -> Result<Prepared, Failure> {
    let (by, value) = named(names)?;
    let issuer = issuer(names)?;
    let there = scene.store.denials()?;
    let found = there
        .into_iter()
        .find(|denial| denial.by == by && denial.value == value && denial.issuer == issuer);
    let Some(denial) = found else {
        return Err(Failure::refused(format!(
            "nothing is denied by this {}; `portcullis tokens list` shows what is",
            by.as_str()
        )));
    };
    Ok(Prepared {
        writes: vec![Write::RemoveDenial(denial.clone())],
        outcome: Outcome::DenialChanged {
            denial: DenialView::of(&denial),
            changed: true,
            said: format!("tokens of this {} are allowed again", by.as_str()),
        },
        change: Change::Allowed(denial),
    })
}

/// What is denied now, oldest first.
pub(super) fn list(scene: &Scene<'_>) -> Result<Prepared, Failure> {
    let mut denials = scene.store.denials()?;
    denials.retain(|denial| !denial.expired(scene.now));
    denials.sort_by_key(|denial| denial.created);
    Ok(Prepared::read(Outcome::Denials {
        denials: denials.iter().map(DenialView::of).collect(),
    }))
}

/// What a verb that could not be written is worth meanwhile: the tokens that it names are denied until it can be. `None` when it names none.
#[must_use]
pub fn unwritten(asked: &TokenDenial) -> Option<Denial> {
    let (by, value) = named(&asked.names).ok()?;
    Some(Denial {
        by,
        value,
        issuer: issuer(&asked.names).ok()?,
        created: Wall::default(),
        expires: None,
        issued_until: None,
        note: None,
    })
}

/// By exactly one of the three.
fn named(names: &TokenNames) -> Result<(DeniedBy, Arc<str>), Failure> {
    let given = [
        (DeniedBy::Jti, &names.jti),
        (DeniedBy::Subject, &names.subject),
        (DeniedBy::Client, &names.client),
    ];
    let mut given = given
        .into_iter()
        .filter_map(|(by, text)| Some((by, text.as_deref()?)));
    match (given.next(), given.next()) {
        (Some((by, text)), None) => Ok((by, value(text).map_err(Failure::refused)?)),
        _ => Err(Failure::Usage(
            "say which tokens are meant by one of --jti, --subject and --client".to_owned(),
        )),
    }
}

fn issuer(names: &TokenNames) -> Result<Option<Arc<str>>, Failure> {
    let named = names.issuer.as_deref().filter(|text| !text.is_empty());
    named.map(value).transpose().map_err(Failure::refused)
}

/// The longest that a token of any issuer may have left, when it is shown for the first time.
fn longest_life(scene: &Scene<'_>) -> Duration {
    let lives = scene.declared.issuers.iter();
    let lives = lives.map(|issuer| issuer.lifetime_max + issuer.leeway * 2);
    lives.max().unwrap_or(USUAL_LIFE)
}

/// Where the file names no issuer.
const USUAL_LIFE: Duration = Duration::from_secs(24 * 3_600);
