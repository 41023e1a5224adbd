//! Verifies what is presented where a route takes more than keys: by its place and its form alone it is a key, a JWT, a session or neither, and
//! each kind is looked at in its own way (PB2, PB7, PB11). Routes that take keys alone do not come here.

use std::sync::Arc;

use http::HeaderValue;
use http::Uri;
use http::header;
use http::request::Parts;

use super::Means;
use super::Peer;
use super::Wanted;
use super::api_key;
use super::credential;
use super::credential::Credential;
use super::credential::Place;
use super::query::Presented;
use super::refused::Fault;
use super::strangers::throttled;
use super::strangers::unknown;
use crate::clock::Now;
use crate::model::credential::Kind;
use crate::model::credential::Kinds;
use crate::model::key::Digest;
use crate::model::key_text;
use crate::refusal::Refusal;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::token::Failure;
use crate::token::Mark;
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

/// What of a head is taken apart while it is judged, so that it can be judged once more.
pub(super) struct Kept {
    uri: Uri,
    authorization: Option<HeaderValue>,
    cookies: Vec<HeaderValue>,
}

impl Kept {
    /// The head as it came; copies counts, not bytes.
    pub(super) fn of(head: &Parts, sessions: bool) -> Kept {
        let cookies = head.headers.get_all(header::COOKIE).iter();
        Kept {
            uri: head.uri.clone(),
            authorization: head.headers.get(header::AUTHORIZATION).cloned(),
            cookies: cookies.filter(|_| sessions).cloned().collect(),
        }
    }

    fn put_back(self, head: &mut Parts) {
        head.uri = self.uri;
        if let Some(authorization) = self.authorization {
            head.headers.insert(header::AUTHORIZATION, authorization);
        }
        if !self.cookies.is_empty() {
            head.headers.remove(header::COOKIE);
        }
        for cookie in self.cookies {
            head.headers.append(header::COOKIE, cookie);
        }
    }
}

/// Who asks, where it is judged what he shows.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) now: Now,
    pub(super) peer: &'a Peer,
    /// What is taken here.
    pub(super) kinds: Kinds,
}

/// Finds out who presents what stands in this head, in the query or in the cookie, where these kinds are taken. When that has to be awaited, the
/// head is put back as it came.
///
/// # Errors
/// The uniform 401 for what does not stand or is of a kind that is not taken here; 503 when nobody can say whether it stands; 429 when too
/// much came from there that did not stand.
pub(super) fn verify<'a>(
    snapshot: &'a Snapshot,
    means: &Means<'_>,
    asked: Asked<'_>,
    head: &mut Parts,
    in_query: Presented,
    in_cookie: Presented,
    kept: Kept,
) -> Result<Bearer<'a>, Fault> {
    let credential = one_of(snapshot, asked.kinds, head, in_query, in_cookie)?;
    let stranger = |fault| unknown(snapshot, means.quota, asked.now, asked.peer, fault);
    match remembered(snapshot, means, asked, &credential) {
        Ok(Some(token)) => return Ok(Bearer::Token(token)),
        Ok(None) => {}
        Err(reason) => return Err(stranger(invalid(reason))),
    }
    let kind = kind_of(snapshot, asked.kinds, &credential);
    if !kind.is_some_and(|kind| asked.kinds.contain(kind)) {
        return Err(stranger(invalid("wrong_kind")));
    }
    let Some(kind) = kind.filter(|kind| *kind != Kind::Key) else {
        let (digest, key) = api_key::verify(snapshot, &credential).map_err(stranger)?;
        return Ok(Bearer::Key(digest, key));
    };
    if credential.place() == Place::Other {
        return Err(stranger(invalid("token_misplaced")));
    }
    match token(snapshot, means, asked, kind, credential.text()) {
        Ok(token) => Ok(Bearer::Token(token)),
        Err(Failed::Fault(fault)) => Err(fault),
        Err(Failed::Token(Failure::Invalid(reason))) => Err(stranger(invalid(reason))),
        Err(Failed::Token(Failure::Unavailable(reason))) => {
            Err(Fault::new(Refusal::CredentialUnclear, reason))
        }
        Err(Failed::Token(Failure::Wanted(wanted))) => {
            kept.put_back(head);
            let mut fault = Fault::new(Refusal::CredentialUnclear, "token_pending");
            fault.wanted = Some(Box::new(Wanted::Token(wanted)));
            Err(fault)
        }
    }
}

/// The token that this is, if it is remembered: then its form needs no looking at, since only what had the right one was verified. Opaque tokens are
/// not looked for here: the store is asked about them first.
///
/// # Errors
/// It was verified, and does not stand any more; why, for the log.
fn remembered(
    snapshot: &Snapshot,
    means: &Means<'_>,
    asked: Asked<'_>,
    credential: &Credential,
) -> Result<Option<Arc<Verified>>, &'static str> {
    let kind = match credential.place() {
        Place::Bearer => Kind::Jwt,
        Place::Cookie => Kind::Session,
        Place::Other => return Ok(None),
    };
    let text = credential.text();
    if !asked.kinds.contain(kind) || form::is_key(text, &snapshot.config) {
        return Ok(None);
    }
    let Some(mark) = means.tokens.mark(text) else {
        return Ok(None);
    };
    match means.tokens.recall(snapshot, &mark, kind, asked.now) {
        Ok(found) => Ok(found),
        Err(Failure::Invalid(reason)) => Err(reason),
        Err(Failure::Unavailable(_) | Failure::Wanted(_)) => Ok(None),
    }
}

/// The one credential that counts. A session comes by itself with every request of its browser; where it is taken, one more credential beside it
/// is one too many.
fn one_of(
    snapshot: &Snapshot,
    kinds: Kinds,
    head: &mut Parts,
    in_query: Presented,
    in_cookie: Presented,
) -> Result<Credential, Fault> {
    let config = &snapshot.config;
    let length_max = credential::LENGTH_MAX.max(config.tokens.bytes_max);
    let presented = credential::take_up_to(length_max, &mut head.headers, in_query, &config.auth);
    let Some(session) = in_cookie.filter(|_| kinds.contain(Kind::Session)) else {
        return presented;
    };
    match presented {
        Err(fault) if fault.refusal == Refusal::CredentialMissing => session,
        Err(fault) => Err(fault),
        Ok(_) => Err(Fault::new(
            Refusal::CredentialAmbiguous,
            "credentials_differ",
        )),
    }
}

/// What this is; `None` is nothing that could be taken anywhere.
fn kind_of(snapshot: &Snapshot, kinds: Kinds, credential: &Credential) -> Option<Kind> {
    let form = form::of(credential.text(), &snapshot.config);
    match (credential.place(), form) {
        (Place::Cookie, Form::Jwt) => Some(Kind::Session),
        (Place::Cookie, Form::Other) => Some(Kind::Session),
        (Place::Cookie, Form::Key) => None,
        (Place::Bearer, Form::Other) if kinds.contain(Kind::Opaque) => {
            // A key that was issued elsewhere may look like anything: the store is asked before anybody else is.
            let known = || snapshot.key(&key_text::digest_of(credential.text()));
            let key = kinds.contain(Kind::Key) && known().is_some();
            Some(if key { Kind::Key } else { Kind::Opaque })
        }
        (_, Form::Jwt) => Some(Kind::Jwt),
        (_, Form::Key | Form::Other) => Some(Kind::Key),
    }
}

enum Failed {
    Fault(Fault),
    Token(Failure),
}

/// A token that is not remembered has to be verified, which nobody may have us do without end: where too much came that did not stand, new tokens
/// wait. JWTs that are remembered have been found before; what is opaque is looked for here.
fn token(
    snapshot: &Snapshot,
    means: &Means<'_>,
    asked: Asked<'_>,
    kind: Kind,
    text: &[u8],
) -> Result<Arc<Verified>, Failed> {
    let opaque = match form::of(text, &snapshot.config) {
        Form::Jwt => None,
        Form::Key | Form::Other => Some(key_text::digest_of(text)),
    };
    if let Some(digest) = opaque {
        let mark = Mark::Opaque(digest);
        let found = means.tokens.recall(snapshot, &mark, kind, asked.now);
        if let Some(token) = found.map_err(Failed::Token)? {
            return Ok(token);
        }
    }
    if let Some(fault) = throttled(&snapshot.config, means.quota, asked.now, asked.peer) {
        return Err(Failed::Fault(fault));
    }
    let (tokens, patience) = (means.tokens, &means.patience);
    let verified = match opaque {
        None => tokens.verify_jwt(snapshot, text, kind, asked.now, patience),
        Some(digest) => tokens.inquire(snapshot, text, digest, kind, asked.now, patience),
    };
    verified.map_err(Failed::Token)
}

fn invalid(reason: &'static str) -> Fault {
    Fault::new(Refusal::CredentialInvalid, reason)
}
