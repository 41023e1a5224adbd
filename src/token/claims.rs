//! What a token says once its issuer's word stands for it: for whom it is, until when, whose, and what for (RFC 9068 section 4, RFC 8725).

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Wall;
use crate::config::Sessions;
use crate::model::identity::Identity;
use crate::model::issuer::ClaimPath;
use crate::model::issuer::Issuer;
use crate::model::issuer::TenantOf;
use crate::model::scope::Scope;
use crate::model::tenant::TenantId;
use crate::token::json::Value;

/// What a token says, checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claims {
    /// Who it is of.
    pub(super) identity: Identity,
    /// Whose it is; `None` where the issuer's table says that of all.
    pub(super) tenant: Option<TenantId>,
    /// What it may do. Words that can be no scope of ours are left out: no route demands them.
    pub(super) scopes: Vec<Scope>,
    /// From then on it is expired, the leeway included.
    pub(super) expires: Wall,
}

impl Claims {
    /// Checks what a token of this issuer says.
    ///
    /// # Errors
    /// The first thing that is wrong, in one word.
    pub(super) fn check(
        issuer: &Issuer,
        claims: &Value,
        wall: Wall,
        session: Option<&Sessions>,
    ) -> Result<Claims, &'static str> {
        for_us(issuer, claims)?;
        Claims::read(issuer, claims, wall, session)
    }

    /// The same of what an issuer says of a token when it is asked: whom it is for need not be said then, but must not be somebody else.
    ///
    /// # Errors
    /// As `check`.
    pub(super) fn check_told(
        issuer: &Issuer,
        claims: &Value,
        wall: Wall,
        session: Option<&Sessions>,
    ) -> Result<Claims, &'static str> {
        if claims.get("aud").is_some() {
            for_us(issuer, claims)?;
        }
        let named = claims.get("iss").map(Value::text);
        if named.is_some_and(|named| named != Some(&issuer.issuer)) {
            return Err("unknown_issuer");
        }
        Claims::read(issuer, claims, wall, session)
    }

    fn read(
        issuer: &Issuer,
        claims: &Value,
        wall: Wall,
        session: Option<&Sessions>,
    ) -> Result<Claims, &'static str> {
        let mut expires = in_its_time(issuer, claims, wall)?;
        if let Some(session) = session {
            expires = expires.min(session_ends(session, claims, wall)?);
        }
        for path in &issuer.required {
            if claims.at(path).is_none_or(|claim| *claim == Value::Null) {
                return Err("claim_missing");
            }
        }
        let identity = Identity {
            issuer: Arc::from(issuer.issuer.as_str()),
            subject: name_at(claims, &issuer.subject)?,
            client: name_at(claims, &issuer.client)?,
            jti: name(claims.get("jti"))?,
            issued: date(claims, "iat", "malformed_iat")?,
        };
        let tenant = match &issuer.tenant {
            TenantOf::Fixed(_) => None,
            TenantOf::Claim(path) => {
                let named = claims.at(path).ok_or("tenant_missing")?;
                let named = named.text().ok_or("malformed_tenant")?;
                Some(TenantId::new(named).map_err(|_| "malformed_tenant")?)
            }
        };
        Ok(Claims {
            identity,
            tenant,
            scopes: scopes(claims.at(&issuer.scope))?,
            expires,
        })
    }
}

/// RFC 7519 section 4.1.3: a text, or a list of texts.
fn for_us(issuer: &Issuer, claims: &Value) -> Result<(), &'static str> {
    let audience = claims.get("aud").ok_or("aud_missing")?;
    let audience = audience.texts().ok_or("malformed_aud")?;
    let ours = |named: &&str| issuer.audience.iter().any(|own| own == named);
    audience.iter().any(ours).then_some(()).ok_or("wrong_aud")
}

/// When it ends for us; it must have begun and not ended, and must not live longer than anything that its issuer may issue.
fn in_its_time(issuer: &Issuer, claims: &Value, wall: Wall) -> Result<Wall, &'static str> {
    let ends = date(claims, "exp", "malformed_exp")?.ok_or("exp_missing")?;
    let expires = later(ends, issuer.leeway);
    if wall >= expires {
        return Err("token_expired");
    }
    if ends > later(wall, issuer.lifetime_max + issuer.leeway) {
        return Err("token_lives_too_long");
    }
    let near = later(wall, issuer.leeway);
    if date(claims, "nbf", "malformed_nbf")?.is_some_and(|begins| begins > near) {
        return Err("token_not_yet_valid");
    }
    if date(claims, "iat", "malformed_iat")?.is_some_and(|issued| issued > near) {
        return Err("token_from_the_future");
    }
    Ok(expires)
}

/// A session has an absolute end, counted from its beginning, however it was prolonged (PB11).
fn session_ends(session: &Sessions, claims: &Value, wall: Wall) -> Result<Wall, &'static str> {
    let begins = claims.at(&session.begins).ok_or("session_without_begin")?;
    let begins = seconds(begins).ok_or("session_without_begin")?;
    let ends = later(begins, session.age_max);
    match wall < ends {
        true => Ok(ends),
        false => Err("session_too_old"),
    }
}

/// A NumericDate: a number of seconds, perhaps with a fraction. A text is none.
fn date(claims: &Value, name: &str, malformed: &'static str) -> Result<Option<Wall>, &'static str> {
    let Some(claim) = claims.get(name) else {
        return Ok(None);
    };
    seconds(claim).map(Some).ok_or(malformed)
}

fn seconds(claim: &Value) -> Option<Wall> {
    let seconds = claim.number().filter(|seconds| *seconds >= 0.0)?;
    // Saturates: what is too far away is only far away.
    Some(Wall((seconds * 1_000_000.0) as u64))
}

pub(super) fn later(wall: Wall, span: Duration) -> Wall {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    Wall(wall.0.saturating_add(micros))
}

fn name_at(claims: &Value, path: &ClaimPath) -> Result<Option<Arc<str>>, &'static str> {
    name(claims.at(path))
}

/// Somebody's name: it stands in a header to the backend, in the log and in what is denied.
fn name(claim: Option<&Value>) -> Result<Option<Arc<str>>, &'static str> {
    let Some(claim) = claim.filter(|claim| **claim != Value::Null) else {
        return Ok(None);
    };
    let text = claim.text().ok_or("malformed_name")?;
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    match plain && (1..=NAME_BYTES_MAX).contains(&text.len()) {
        true => Ok(Some(Arc::from(text))),
        false => Err("malformed_name"),
    }
}

/// RFC 8693 section 4.2, or a list of texts. Nothing said is nothing granted.
fn scopes(claim: Option<&Value>) -> Result<Vec<Scope>, &'static str> {
    let texts = match claim {
        None | Some(Value::Null) => Vec::new(),
        Some(claim) => claim.texts().ok_or("malformed_scope")?,
    };
    let words = texts.iter().flat_map(|text| text.split(' '));
    let mut scopes: Vec<Scope> = words.filter_map(|word| Scope::new(word).ok()).collect();
    scopes.sort_unstable();
    scopes.dedup();
    Ok(scopes)
}

/// Bytes of a subject, a client or a `jti`.
const NAME_BYTES_MAX: usize = 255;
