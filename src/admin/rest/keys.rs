//! `/v1/keys`: what a token of one tenant may do too, with that tenant's keys alone.

use std::sync::Arc;

use axum::Json;
use axum::extract::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::IntoResponse;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::admin::Admin;
use crate::admin::grant::Grant;
use crate::admin::problem::Problem;
use crate::admin::rest::extract::Asked;
use crate::admin::rest::extract::Body;
use crate::admin::rest::extract::Id;
use crate::admin::rest::lifetime;
use crate::admin::rest::once;
use crate::admin::rest::perform;
use crate::admin::rest::seconds_of;
use crate::model::key::KeyId;
use crate::store::KeyFilter;
use crate::store::NewKey;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::audit::Actor;
use crate::store::outcome::KeyView;
use crate::store::request::Expiry;
use crate::store::request::KeyUpdate;

/// Keys of one page where nothing is said, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;

/// Tells that the answer is that of an earlier call under the same name, without the text.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Which keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListKeys {
    tenant: Option<String>,
    prefix: Option<String>,
    subject: Option<String>,
    status: Option<String>,
    older_than_seconds: Option<u64>,
    unused_since_seconds: Option<u64>,
    all: Option<bool>,
    limit: Option<usize>,
    after: Option<String>,
}

/// A page of keys, oldest first, those that gateway.toml declares before all; `next` is the `after` of the page behind it.
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Asked(asked): Asked<ListKeys>,
) -> Result<Response, Problem> {
    let limit = asked.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::malformed("limit is 1 to 1000."));
    }
    if let Some(after) = &asked.after {
        KeyId::parse(after).map_err(Problem::malformed)?;
    }
    let which = KeyFilter {
        tenant: own_tenant(&grant, asked.tenant)?,
        prefix: asked.prefix,
        subject: asked.subject,
        status: asked.status,
        older_than_seconds: asked.older_than_seconds,
        unused_since_seconds: asked.unused_since_seconds,
        all: asked.all.unwrap_or(false),
        keys: None,
    };
    let verb = Verb::KeyPage {
        which,
        after: asked.after,
        // One more than is shown tells whether there are more.
        limit: limit + 1,
    };
    let found = perform(&admin, verb, &grant.actor).await?;
    let Outcome::Keys { mut keys } = found else {
        return Err(Problem::failed());
    };
    let more = keys.len() > limit;
    keys.truncate(limit);
    let next = keys.last().filter(|_| more).map(|key| key.id.clone());
    Ok(Json(json!({ "keys": keys, "next": next })).into_response())
}

/// What a new key is to be.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CreateKey {
    tenant: Option<String>,
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    environment: Option<String>,
    plan: Option<String>,
    quota: Option<String>,
    burst: Option<String>,
    scopes: Option<Vec<String>>,
    inherit: bool,
    expires_in_seconds: Option<u64>,
    expires_at: Option<String>,
    subject: Option<String>,
    origins: Vec<String>,
    cidrs: Vec<String>,
    note: Option<String>,
}

impl CreateKey {
    /// The store's words for it, for this caller.
    pub(super) fn new_key(self, grant: &Grant) -> Result<NewKey, Problem> {
        of_operator(
            grant,
            self.plan.is_some() || self.quota.is_some() || self.burst.is_some(),
        )?;
        if self.inherit && self.scopes.is_some() {
            return Err(Problem::malformed("Say scopes or inherit, not both."));
        }
        if self.expires_in_seconds.is_some() && self.expires_at.is_some() {
            return Err(Problem::malformed(
                "Say expires_in_seconds or expires_at, not both.",
            ));
        }
        let tenant = own_tenant(grant, self.tenant)?;
        Ok(NewKey {
            tenant: tenant.ok_or_else(Problem::tenant_missing)?,
            name: self.name,
            kind: self.kind.unwrap_or_else(|| "secret".to_owned()),
            environment: self.environment,
            plan: self.plan,
            quota: self.quota,
            burst: self.burst,
            default_scopes: self.scopes.is_none() && !self.inherit,
            scopes: self.scopes,
            expires_in_seconds: lifetime(self.expires_in_seconds)?,
            expires_at_unix_seconds: self.expires_at.as_deref().map(seconds_of).transpose()?,
            subject: self.subject,
            origins: self.origins,
            cidrs: self.cidrs,
            note: self.note,
        })
    }
}

/// Makes a key; its text is in this answer and in no other.
pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    headers: HeaderMap,
    asked: Body<CreateKey>,
) -> Result<Response, Problem> {
    let actor = once(&grant, &headers, "key-create", &asked.bytes)?;
    let verb = Verb::KeyCreate(asked.value.new_key(&grant)?);
    issued(&admin, &grant, verb, &actor, StatusCode::CREATED).await
}

/// One key.
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Id(id): Id,
) -> Result<Response, Problem> {
    Ok(Json(own_key(&admin, &grant, &id).await?).into_response())
}

/// What is to change; what is left out stays, an empty text takes a value away.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ChangeKey {
    name: Option<String>,
    scopes: Option<Vec<String>>,
    add_scopes: Vec<String>,
    remove_scopes: Vec<String>,
    inherit: bool,
    plan: Option<String>,
    quota: Option<String>,
    burst: Option<String>,
    never_expires: bool,
    expires_in_seconds: Option<u64>,
    expires_at: Option<String>,
    subject: Option<String>,
    origins: Option<Vec<String>>,
    cidrs: Option<Vec<String>>,
    note: Option<String>,
}

/// Changes what a key is.
pub(super) async fn change(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Id(id): Id,
    asked: Body<ChangeKey>,
) -> Result<Response, Problem> {
    own_key(&admin, &grant, &id).await?;
    let asked = asked.value;
    of_operator(
        &grant,
        asked.plan.is_some() || asked.quota.is_some() || asked.burst.is_some(),
    )?;
    let span = lifetime(asked.expires_in_seconds)?;
    let expires = match (asked.never_expires, span, asked.expires_at) {
        (false, None, None) => None,
        (true, None, None) => Some(Expiry::Never),
        (false, Some(seconds), None) => Some(Expiry::InSeconds(seconds)),
        (false, None, Some(at)) => Some(Expiry::AtUnixSeconds(seconds_of(&at)?)),
        _ => {
            return Err(Problem::malformed(
                "Say one of never_expires, expires_in_seconds and expires_at.",
            ));
        }
    };
    let update = KeyUpdate {
        id,
        name: asked.name,
        scopes: asked.scopes,
        add_scopes: asked.add_scopes,
        remove_scopes: asked.remove_scopes,
        inherit: asked.inherit,
        plan: asked.plan,
        quota: asked.quota,
        burst: asked.burst,
        expires,
        subject: asked.subject,
        origins: asked.origins,
        cidrs: asked.cidrs,
        note: asked.note,
    };
    changed(&admin, Verb::KeyUpdate(Box::new(update)), &grant.actor).await
}

/// Does to a key what needs nothing but its id: switches it off or on, ends it for good, or takes it off the lists too.
pub(super) async fn act(
    admin: Arc<Admin>,
    grant: Grant,
    id: String,
    verb: fn(String) -> Verb,
) -> Result<Response, Problem> {
    own_key(&admin, &grant, &id).await?;
    changed(&admin, verb(id), &grant.actor).await
}

/// How long the old text works on.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Overlap {
    overlap_seconds: Option<u64>,
}

/// The longest overlap: a year.
const OVERLAP_SECONDS_MAX: u64 = 366 * 86_400;

impl Overlap {
    fn seconds(&self, default: u64) -> Result<u64, Problem> {
        match self.overlap_seconds.unwrap_or(default) {
            seconds @ 0..=OVERLAP_SECONDS_MAX => Ok(seconds),
            _ => Err(Problem::malformed("overlap_seconds is at most 31622400.")),
        }
    }
}

/// A new text for the same key.
pub(super) async fn regenerate(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Id(id): Id,
    headers: HeaderMap,
    asked: Body<Overlap>,
) -> Result<Response, Problem> {
    own_key(&admin, &grant, &id).await?;
    let actor = once(
        &grant,
        &headers,
        &format!("key-regenerate {id}"),
        &asked.bytes,
    )?;
    let verb = Verb::KeyRegenerate {
        id,
        overlap_seconds: asked.value.seconds(0)?,
    };
    issued(&admin, &grant, verb, &actor, StatusCode::OK).await
}

/// A second key like the first.
pub(super) async fn rotate(
    State(admin): State<Arc<Admin>>,
    Extension(grant): Extension<Grant>,
    Id(id): Id,
    headers: HeaderMap,
    asked: Body<Overlap>,
) -> Result<Response, Problem> {
    own_key(&admin, &grant, &id).await?;
    let actor = once(&grant, &headers, &format!("key-rotate {id}"), &asked.bytes)?;
    let verb = Verb::KeyRotate {
        id,
        overlap_seconds: asked.value.seconds(86_400)?,
    };
    issued(&admin, &grant, verb, &actor, StatusCode::CREATED).await
}

/// The key with this id, if the caller may know of it.
pub(super) async fn own_key(
    admin: &Arc<Admin>,
    grant: &Grant,
    id: &str,
) -> Result<KeyView, Problem> {
    if KeyId::parse(id).is_err() {
        return Err(Problem::not_found("key"));
    }
    let verb = Verb::KeyShow { id: id.to_owned() };
    let found = perform(admin, verb, &grant.actor).await;
    match found {
        Ok(Outcome::Key { key }) if grant.tenant().is_none_or(|own| own == key.tenant) => Ok(*key),
        Ok(_) => Err(Problem::not_found("key")),
        Err(problem) if problem.is_refusal() => Err(Problem::not_found("key")),
        Err(problem) => Err(problem),
    }
}

/// The tenant that is meant: what was said, or for a token of one tenant that one and no other.
pub(super) fn own_tenant(grant: &Grant, said: Option<String>) -> Result<Option<String>, Problem> {
    match (grant.tenant(), said) {
        (None, said) => Ok(said),
        (Some(own), None) => Ok(Some(own.to_owned())),
        (Some(own), Some(said)) if said == own => Ok(Some(said)),
        (Some(_), Some(_)) => Err(Problem::forbidden(
            "This token is for the keys of one tenant alone.",
        )),
    }
}

/// What a tenant has bought is the operator's to say: its own token cannot raise it.
fn of_operator(grant: &Grant, says_limits: bool) -> Result<(), Problem> {
    match grant.tenant().is_some() && says_limits {
        true => Err(Problem::forbidden(
            "A token of one tenant does not say plan, quota or burst of its keys.",
        )),
        false => Ok(()),
    }
}

async fn changed(admin: &Arc<Admin>, verb: Verb, actor: &Actor) -> Result<Response, Problem> {
    match perform(admin, verb, actor).await? {
        Outcome::KeyChanged {
            key,
            changed,
            notes,
            ..
        } => Ok(Json(with(*key, json!({ "changed": changed, "notes": notes }))).into_response()),
        _ => Err(Problem::failed()),
    }
}

async fn issued(
    admin: &Arc<Admin>,
    grant: &Grant,
    verb: Verb,
    actor: &Actor,
    status: StatusCode,
) -> Result<Response, Problem> {
    let place = |key: &KeyView| (LOCATION, format!("/v1/keys/{}", key.id));
    Ok(match perform(admin, verb, actor).await? {
        Outcome::KeyIssued { key, text, notes } => {
            let place = place(&key);
            let body = with(*key, json!({ "text": text.reveal(), "notes": notes }));
            (status, [place], Json(body)).into_response()
        }
        Outcome::KeyRotated {
            key,
            text,
            old,
            notes,
        } => {
            let place = place(&key);
            let body = with(
                *key,
                json!({ "text": text.reveal(), "notes": notes, "old": old }),
            );
            (status, [place], Json(body)).into_response()
        }
        // Its text was shown once and is kept nowhere: who lost that answer regenerates the key.
        Outcome::Replayed { id } => {
            let key = own_key(admin, grant, &id).await?;
            let place = place(&key);
            let note = "This was done before under the same Idempotency-Key; the text was shown then. If it was lost, regenerate the key.";
            let body = with(key, json!({ "text": null, "notes": [note] }));
            let replayed = (REPLAYED, "true".to_owned());
            (StatusCode::OK, [place, replayed], Json(body)).into_response()
        }
        _ => return Err(Problem::failed()),
    })
}

fn with(key: KeyView, more: Value) -> Value {
    let mut whole = serde_json::to_value(key).unwrap_or_default();
    if let (Value::Object(whole), Value::Object(more)) = (&mut whole, more) {
        whole.extend(more);
    }
    whole
}
