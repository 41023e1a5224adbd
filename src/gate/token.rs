//! Verifies what is presented where a route takes more than keys: by its form alone it is a key, a JWT or neither, and each kind is looked at
//! in its own way (PB2, PB7). Routes that take keys alone do not come here.

use std::sync::Arc;

use http::HeaderMap;
use http::header;

use super::Fault;
use super::Means;
use super::Peer;
use super::api_key;
use super::credential::Credential;
use super::throttled;
use super::unknown;
use crate::clock::Now;
use crate::model::credential::Kind;
use crate::model::credential::Kinds;
use crate::model::key::Digest;
use crate::model::key_text;
use crate::refusal::Refusal;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::token::Failure;
use crate::token::Verified;
use crate::token::form;
use crate::token::form::Form;

/// Who was found: a key of the store, or somebody whom an issuer vouches for.
pub(super) enum Bearer<'a> {
    Key(Digest, &'a KeyEntry),
    Token(Arc<Verified>),
}

impl Bearer<'_> {
    /// What the checks look at.
    pub(super) fn entry(&self) -> &KeyEntry {
        match self {
            Bearer::Key(_, key) => key,
            Bearer::Token(token) => &token.entry,
        }
    }
}

/// Finds out who presents this, where these kinds are taken. A token that has to be awaited goes back where it came from.
///
/// # Errors
/// The uniform 401 for what does not stand or is of a kind that is not taken here; 503 when nobody can say whether it stands; 429 when too
/// much came from there that did not stand.
pub(super) fn verify<'a>(
    snapshot: &'a Snapshot,
    means: &Means<'_>,
    now: Now,
    peer: &Peer,
    kinds: Kinds,
    credential: Credential,
    headers: &mut HeaderMap,
) -> Result<Bearer<'a>, Fault> {
    let stranger = |fault| unknown(&snapshot.config, means.quota, now, peer, fault);
    let kind = match form::of(credential.text(), &snapshot.config) {
        Form::Jwt => Kind::Jwt,
        Form::Key | Form::Other => Kind::Key,
    };
    if !kinds.contain(kind) {
        return Err(stranger(invalid("wrong_kind")));
    }
    if kind == Kind::Key {
        let (digest, key) = api_key::verify(snapshot, &credential).map_err(stranger)?;
        return Ok(Bearer::Key(digest, key));
    }
    if !credential.is_bearer() {
        return Err(stranger(invalid("token_misplaced")));
    }
    match token(snapshot, means, now, peer, kind, credential.text()) {
        Ok(token) => Ok(Bearer::Token(token)),
        Err(Failed::Fault(fault)) => Err(fault),
        Err(Failed::Token(Failure::Invalid(reason))) => Err(stranger(invalid(reason))),
        Err(Failed::Token(Failure::Unavailable(reason))) => {
            Err(Fault::new(Refusal::CredentialUnclear, reason))
        }
        Err(Failed::Token(Failure::Wanted(wanted))) => {
            headers.insert(header::AUTHORIZATION, credential.into_value());
            let mut fault = Fault::new(Refusal::CredentialUnclear, "token_pending");
            fault.wanted = Some(Box::new(wanted));
            Err(fault)
        }
    }
}

enum Failed {
    Fault(Fault),
    Token(Failure),
}

/// A token that is remembered costs a lookup. One that is not has to be verified, which nobody may have us do without end: where too much came
/// that did not stand, new tokens wait.
fn token(
    snapshot: &Snapshot,
    means: &Means<'_>,
    now: Now,
    peer: &Peer,
    kind: Kind,
    text: &[u8],
) -> Result<Arc<Verified>, Failed> {
    let digest = key_text::digest_of(text);
    let found = means.tokens.recall(snapshot, &digest, kind, now);
    if let Some(token) = found.map_err(Failed::Token)? {
        return Ok(token);
    }
    if let Some(fault) = throttled(&snapshot.config, means.quota, now, peer) {
        return Err(Failed::Fault(fault));
    }
    let patience = &means.patience;
    (means.tokens)
        .verify_jwt(snapshot, text, digest, kind, now, patience)
        .map_err(Failed::Token)
}

fn invalid(reason: &'static str) -> Fault {
    Fault::new(Refusal::CredentialInvalid, reason)
}
