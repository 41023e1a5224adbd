//! Tokens of the admin plane: make, list, revoke.

use zeroize::Zeroizing;

use crate::model::admin_token::AdminToken;
use crate::model::admin_token::Role;
use crate::model::display;
use crate::model::key_text;
use crate::store::NewAdminToken;
use crate::store::outcome::AdminTokenView;
use crate::store::outcome::Failure;
use crate::store::outcome::KeyText;
use crate::store::outcome::Outcome;
use crate::store::sqlite::Write;
use crate::store::verbs::Change;
use crate::store::verbs::Prepared;
use crate::store::verbs::Scene;
use crate::store::verbs::create;
use crate::store::verbs::find;
use crate::store::verbs::rules;

/// First word of every token's text.
const PREFIX: &str = "adm";

/// Tokens that stand at once: each is looked at for each request of the admin plane.
const STANDING_MAX: usize = 1_000;

/// Makes a token. Its text is in the outcome and nowhere else.
pub(super) fn create(scene: &Scene<'_>, new: &NewAdminToken) -> Result<Prepared, Failure> {
    let role = Role::parse(&new.role, new.tenant.as_deref()).map_err(Failure::refused)?;
    if let Some(tenant) = role.tenant() {
        scene.tenant(tenant.as_str())?;
    }
    let mut tokens = scene.store.admin_tokens()?;
    let standing = tokens
        .iter()
        .filter(|token| token.stands(scene.now))
        .count();
    if standing >= STANDING_MAX {
        return Err(Failure::refused(format!(
            "there are {standing} admin tokens in force: revoke those that nobody uses"
        )));
    }
    let random = Zeroizing::new(create::random_base62::<{ key_text::RANDOM_LENGTH }>()?);
    let word = role.as_str().replace('-', "");
    let text = KeyText::new(key_text::make(PREFIX, &word, &random));
    let token = AdminToken {
        id: AdminToken::id_of(create::random_base62()?),
        digest: key_text::digest_of(text.reveal().as_bytes()),
        name: find::display_name(&new.name)?,
        role,
        last_four: text.reveal()[text.reveal().len() - 4..].to_owned(),
        created: scene.now,
        expires: new
            .expires_in_seconds
            .map(|seconds| rules::after(scene.now, seconds)),
        revoked: None,
    };
    tokens.push(token.clone());
    Ok(Prepared {
        outcome: Outcome::AdminTokenIssued {
            token: AdminTokenView::of(&token, scene.now),
            text,
        },
        change: Change::AdminTokens(tokens),
        writes: vec![Write::InsertAdminToken(Box::new(token))],
    })
}

/// All of them, those that have ended included.
pub(super) fn list(scene: &Scene<'_>) -> Result<Prepared, Failure> {
    let tokens = scene.store.admin_tokens()?;
    let view = |token: &AdminToken| AdminTokenView::of(token, scene.now);
    Ok(Prepared::read(Outcome::AdminTokens {
        tokens: tokens.iter().map(view).collect(),
    }))
}

/// Ends a token at once, and every session that was begun with it.
pub(super) fn revoke(scene: &Scene<'_>, id: &str) -> Result<Prepared, Failure> {
    let id = AdminToken::parse_id(id).map_err(Failure::refused)?;
    let mut tokens = scene.store.admin_tokens()?;
    let Some(token) = tokens.iter_mut().find(|token| token.id == id) else {
        return Err(Failure::refused(format!(
            "no admin token has the id {id}; `portcullis admin-tokens list` shows those there are"
        )));
    };
    let changed = token.revoked.is_none();
    let name = display::shown(&token.name).into_owned();
    token.revoked = token.revoked.or(Some(scene.now));
    let outcome = Outcome::AdminTokenChanged {
        token: AdminTokenView::of(token, scene.now),
        changed,
        said: match changed {
            true => format!("admin token {id} ({name}) is revoked: it opens nothing from now on"),
            false => format!("admin token {id} ({name}) was revoked already"),
        },
    };
    if !changed {
        return Ok(Prepared::read(outcome));
    }
    Ok(Prepared {
        outcome,
        writes: vec![Write::RevokeAdminToken(id.to_owned(), scene.now)],
        change: Change::AdminTokens(tokens),
    })
}
