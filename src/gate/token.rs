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
use super::subject_of;
use crate::clock::Now;
use crate::model::credential::Kind;
use crate::model::credential::Kinds;
use crate::model::key::Digest;
use crate::model::key_text;
use crate::model::seat::SeatHint;
use crate::refusal::Refusal;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::snapshot::key_table::FoundKey;
use crate::token::Failure;
use crate::token::Mark;
use crate::token::Tokens;
use crate::token::Verified;
use crate::token::form;
use crate::token::form::Form;

/// Who was found: a key of the store, or somebody whom an issuer vouches for.
pub(super) enum Bearer<'a> {
    Key(Digest, FoundKey<'a>),
    Token(Arc<Verified>),
}

impl Bearer<'_> {
    /// What the checks look at.
    pub(super) fn entry(&self) -> &KeyEntry {
        match self {
            Bearer::Key(_, key) => key.entry,
            Bearer::Token(token) => &token.entry,
        }
    }

    /// Where its windows lie.
    pub(super) fn seat(&self) -> &SeatHint {
        match self {
            Bearer::Key(_, key) => key.seat,
            Bearer::Token(token) => &token.seat,
        }
    }

    /// Whom it acts for, if anybody in particular (FA18).
    pub(super) fn subject(&self) -> Option<&str> {
        match self {
            Bearer::Key(_, key) => subject_of(key.entry),
            Bearer::Token(token) => token.identity.subject.as_deref(),
        }
    }
}

/// What of a head is taken apart while it is judged, so that it can be judged once more; a token in `Authorization` is in its `Credential`.
pub(super) struct Kept {
    /// The target as it came.
    pub(super) uri: Uri,
    /// The cookies as they came, where one was a session that is not remembered.
    pub(super) cookies: Vec<HeaderValue>,
}

/// What was presented elsewhere than in `Authorization`, and what else is needed to judge it.
pub(super) struct Came<'a> {
    pub(super) in_query: Presented,
    pub(super) in_cookie: Presented,
    pub(super) kept: Kept,
    pub(super) memory: Memory<'a>,
}

impl Kept {
    fn put_back(self, head: &mut Parts, credential: Credential) {
        head.uri = self.uri;
        if credential.place() == Place::Bearer {
            let line = credential.into_value();
            head.headers.insert(header::AUTHORIZATION, line);
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

/// Looks for what is presented among the tokens that are remembered, before anything else is looked at: only what was verified is there, so that its
/// form, down to its characters, needs no second look. Opaque tokens are not looked for here: the store is asked about them first.
pub(super) struct Memory<'a> {
    snapshot: &'a Snapshot,
    tokens: &'a Tokens,
    now: Now,
    /// What is taken here.
    kinds: Kinds,
    /// What was found, as which kind it came, and whether it still stands.
    found: Option<(Kind, Result<Arc<Verified>, &'static str>)>,
}

impl<'a> Memory<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, tokens: &'a Tokens, asked: Asked<'_>) -> Memory<'a> {
        Memory {
            snapshot,
            tokens,
            now: asked.now,
            kinds: asked.kinds,
            found: None,
        }
    }

    /// Whether this is the text of a token of this kind that is remembered, be it one that does not stand any more.
    pub(super) fn knows(&mut self, kind: Kind, text: &[u8]) -> bool {
        if !self.kinds.contain(kind) || form::is_key(text, &self.snapshot.config) {
            return false;
        }
        let Some(mark) = self.tokens.mark(text) else {
            return false;
        };
        let found = match self.tokens.recall(self.snapshot, &mark, kind, self.now) {
            Ok(Some(token)) => Ok(token),
            Err(Failure::Invalid(reason)) => Err(reason),
            Ok(None) | Err(Failure::Unavailable(_) | Failure::Wanted(_)) => return false,
        };
        self.found = Some((kind, found));
        true
    }

    /// What was found, if it is the credential that counts and not only one like it elsewhere.
    fn found(self, credential: &Credential) -> Option<Result<Arc<Verified>, &'static str>> {
        let (kind, found) = self.found?;
        let here = match credential.place() {
            Place::Bearer => kind == Kind::Jwt,
            Place::Cookie => kind == Kind::Session,
            Place::Other => false,
        };
        here.then_some(found)
    }
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
    came: Came<'_>,
) -> Result<Bearer<'a>, Fault> {
    let (mut memory, kept) = (came.memory, came.kept);
    let presented = (came.in_query, came.in_cookie);
    let credential = one_of(snapshot, asked.kinds, head, presented, &mut memory)?;
    let stranger = |fault| unknown(snapshot, means.quota, asked.now, asked.peer, fault);
    match memory.found(&credential) {
        Some(Ok(token)) => return Ok(Bearer::Token(token)),
        Some(Err(reason)) => return Err(stranger(invalid(reason))),
        None => {}
    }
    let kind = kind_of(snapshot, asked.kinds, &credential);
    if !kind.is_some_and(|kind| asked.kinds.contain(kind)) {
        return Err(stranger(invalid("wrong_kind")));
    }
    let Some(kind) = kind.filter(|kind| *kind != Kind::Key) else {
        let (digest, key) = api_key::verify(snapshot, &credential, None).map_err(stranger)?;
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
            kept.put_back(head, credential);
            let mut fault = Fault::new(Refusal::CredentialUnclear, "token_pending");
            fault.wanted = Some(Box::new(Wanted::Token(wanted)));
            Err(fault)
        }
    }
}

/// The one credential that counts. A session comes by itself with every request of its browser; where it is taken, one more credential beside it
/// is one too many.
fn one_of(
    snapshot: &Snapshot,
    kinds: Kinds,
    head: &mut Parts,
    (in_query, in_cookie): (Presented, Presented),
    memory: &mut Memory<'_>,
) -> Result<Credential, Fault> {
    let config = &snapshot.config;
    let length_max = credential::LENGTH_MAX.max(config.tokens.bytes_max);
    let known = |text: &[u8]| memory.knows(Kind::Jwt, text);
    let headers = &mut head.headers;
    let presented = credential::take_up_to(length_max, headers, in_query, &config.auth, known);
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
