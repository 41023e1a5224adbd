//! Access tokens and sessions: what they are by their form, whether their issuer's signature stands, and what they say.
//!
//! Pure but for the cache and the issuers' keys, which every thread shares: nothing here waits, and nothing here calls anybody. Who needs a
//! key that is not there yet gets a `Wanted`, which can be awaited for a bounded time; the control side does the calling.
//!
//! What strangers send leaves nothing behind: only tokens that were verified are kept.

use std::sync::Arc;

use aws_lc_rs::digest;

use crate::clock::Now;
use crate::config::Config;
use crate::model::credential::Kind;
use crate::model::issuer::Issuer;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::snapshot::Snapshot;

mod cache;
mod claims;
mod entry;
pub mod form;
mod inquiry;
mod issuers;
mod json;
mod jwt;
pub mod keys;
mod mark;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod scope_sets;

pub use entry::Verified;
pub use inquiry::Answer;
pub use inquiry::Inquiries;
pub use inquiry::Inquiry;
pub use issuers::IssuerKeys;
pub use issuers::Wanted;
pub use mark::Mark;

use cache::Cache;
use claims::Claims;
use issuers::Known;
use jwt::Jwt;
use mark::Marker;
use scope_sets::ScopeSets;

/// What all threads share of tokens.
#[derive(Debug, Default)]
pub struct Tokens {
    cache: Cache,
    marker: Marker,
    scope_sets: ScopeSets,
    issuers: issuers::Issuers,
    inquiries: Inquiries,
}

/// A token that does not stand, or not yet.
#[derive(Debug)]
pub enum Failure {
    /// It is nobody's; why, in one word for the log.
    Invalid(&'static str),
    /// Whether it stands cannot be said at the moment; why, in one word for the log.
    Unavailable(&'static str),
    /// That can be said when this has been awaited.
    Wanted(Wanted),
}

/// Whether a request has waited already for what it wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Patience {
    /// It may still wait, once.
    #[default]
    Fresh,
    /// It has waited for keys.
    Waited,
    /// It has waited for what an issuer says of its token; `None` is that nothing came in time.
    Answered(Option<Answer>),
}

impl Tokens {
    /// Nothing known yet.
    #[must_use]
    pub fn new() -> Tokens {
        Tokens::default()
    }

    /// What is known of the issuers, for the control side.
    #[must_use]
    pub fn issuers(&self) -> &issuers::Issuers {
        &self.issuers
    }

    /// Who is being asked about what, for the control side.
    #[must_use]
    pub fn inquiries(&self) -> &Inquiries {
        &self.inquiries
    }

    /// What a JWT with this text is remembered under; `None` where that cannot be said, and nothing is remembered.
    #[must_use]
    pub fn mark(&self, text: &[u8]) -> Option<Mark> {
        self.marker.of_jwt(text)
    }

    /// The token with this mark, if it was verified and nothing has changed since that it depends on: its issuer and all else of the
    /// configuration, the issuer's keys, and what is denied. Costs what the lookup of a key costs.
    ///
    /// # Errors
    /// It was verified, but has expired or is denied by now.
    pub fn recall(
        &self,
        snapshot: &Snapshot,
        mark: &Mark,
        kind: Kind,
        now: Now,
    ) -> Result<Option<Arc<Verified>>, Failure> {
        let Some(found) = self.cache.get(mark) else {
            return Ok(None);
        };
        if !found.depends_on(snapshot) || found.kind != kind || found.is_stale(now.wall) {
            return Ok(None);
        }
        if found.entry.expired(now.wall) {
            self.cache.forget(mark);
            return Err(Failure::Invalid("token_expired"));
        }
        if found.is_denied(&snapshot.denials, now.wall) {
            self.cache.forget(mark);
            return Err(Failure::Invalid("token_denied"));
        }
        Ok(Some(found))
    }

    /// Verifies a JWT from its text alone, and remembers it.
    ///
    /// # Errors
    /// Why it does not stand, or what has to be awaited first.
    pub fn verify_jwt(
        &self,
        snapshot: &Snapshot,
        text: &[u8],
        kind: Kind,
        now: Now,
        patience: &Patience,
    ) -> Result<Arc<Verified>, Failure> {
        let config = &snapshot.config;
        let jwt = Jwt::read(text).map_err(Failure::Invalid)?;
        let issuer = issuer_of(config, &jwt, kind).map_err(Failure::Invalid)?;
        let algorithm = jwt.check_header(issuer).map_err(Failure::Invalid)?;
        let keys = self.issuers.of(issuer);
        let set = keys.set();
        let key = match set.find(jwt.key_id(), algorithm) {
            Ok(key) => key,
            Err("unknown_kid") => {
                return match self.unknown_key(&keys, now, patience) {
                    // Another set came between the look and the question, and may have the key.
                    Failure::Invalid(_) if keys.version() != set.version() => {
                        self.verify_jwt(snapshot, text, kind, now, patience)
                    }
                    failure => Err(failure),
                };
            }
            Err(reason) => return Err(Failure::Invalid(reason)),
        };
        if !key.verifies(algorithm, jwt.signed(), jwt.signature()) {
            return Err(Failure::Invalid("bad_signature"));
        }
        let session = (kind == Kind::Session).then_some(&config.sessions);
        let claims = Claims::check(issuer, jwt.claims(), now.wall, session);
        let claims = claims.map_err(Failure::Invalid)?;
        let origin = entry::Origin {
            kind,
            mark: self.mark(text),
            keys: Some((keys, set.version())),
            fresh_until: None,
        };
        self.remember(snapshot, issuer, claims, origin, now)
    }

    /// Has the issuer asked about a token that only it can read, and remembers what it says for as long as its table allows.
    ///
    /// # Errors
    /// It is nobody's, or the answer has to be awaited first, or there is none.
    pub fn inquire(
        &self,
        snapshot: &Snapshot,
        text: &[u8],
        digest: Digest,
        kind: Kind,
        now: Now,
        patience: &Patience,
    ) -> Result<Arc<Verified>, Failure> {
        let config = &snapshot.config;
        let asked = config.issuers.iter().find_map(|issuer| {
            let introspection = issuer.introspection.as_ref()?;
            issuer.issues(kind).then_some((issuer, introspection))
        });
        let (issuer, introspection) = asked.ok_or(Failure::Invalid("wrong_kind"))?;
        let answer = match patience {
            Patience::Fresh => {
                let answer = self.inquiries.begin(issuer, text, digest);
                let answer = answer.ok_or(Failure::Unavailable("introspection_overloaded"))?;
                let wait = issuer.timeout + issuers::GRACE;
                return Err(Failure::Wanted(Wanted::Answer(answer, wait)));
            }
            Patience::Answered(Some(answer)) => answer,
            Patience::Waited | Patience::Answered(None) => {
                return Err(Failure::Unavailable("introspection_unavailable"));
            }
        };
        let claims = answer.claims().map_err(|inactive| match inactive {
            true => Failure::Invalid("token_inactive"),
            false => Failure::Unavailable("introspection_unavailable"),
        })?;
        let session = (kind == Kind::Session).then_some(&config.sessions);
        let claims = Claims::check_told(issuer, claims, now.wall, session);
        let origin = entry::Origin {
            kind,
            mark: Some(Mark::Opaque(digest)),
            keys: None,
            fresh_until: Some(claims::later(now.wall, introspection.cached)),
        };
        self.remember(
            snapshot,
            issuer,
            claims.map_err(Failure::Invalid)?,
            origin,
            now,
        )
    }

    /// A key that is not known may be a new one, or an invention: whoever invents keys has them fetched no more often than the issuer's table says.
    fn unknown_key(&self, keys: &Arc<IssuerKeys>, now: Now, patience: &Patience) -> Failure {
        match keys.ask(now.mono) {
            Known::Soon(wanted) if *patience == Patience::Fresh => {
                self.issuers.wake();
                Failure::Wanted(wanted)
            }
            Known::Soon(_) | Known::Down => Failure::Unavailable("jwks_unavailable"),
            Known::Fresh => Failure::Invalid("unknown_kid"),
        }
    }

    /// Makes an entry of what a token says, and keeps it until it expires.
    fn remember(
        &self,
        snapshot: &Snapshot,
        issuer: &Arc<Issuer>,
        mut claims: Claims,
        origin: entry::Origin,
        now: Now,
    ) -> Result<Arc<Verified>, Failure> {
        let mark = origin.mark;
        let scopes = self.scope_sets.shared(std::mem::take(&mut claims.scopes));
        let verified = Verified::new(snapshot, issuer, claims, scopes, origin);
        let verified = Arc::new(verified.map_err(Failure::Invalid)?);
        if verified.is_denied(&snapshot.denials, now.wall) {
            return Err(Failure::Invalid("token_denied"));
        }
        if let Some(mark) = mark {
            let bound = snapshot.config.tokens.cached_max;
            self.cache.put(mark, Arc::clone(&verified), bound);
        }
        Ok(verified)
    }

    /// Forgets tokens that have expired or that were verified under what has changed since. To be called now and then.
    pub fn sweep(&self, snapshot: &Snapshot, now: Now) {
        self.cache.sweep(|token| {
            let lives = !token.entry.expired(now.wall) && !token.is_stale(now.wall);
            lives && token.depends_on(snapshot)
        });
    }

    /// Tokens that are remembered; for metrics.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.cache.len()
    }
}

/// The issuer that a token names, as far as it is trusted for this kind.
fn issuer_of<'a>(
    config: &'a Config,
    jwt: &Jwt<'_>,
    kind: Kind,
) -> Result<&'a Arc<Issuer>, &'static str> {
    let named = jwt.issuer().ok_or("iss_missing")?;
    config
        .issuers
        .iter()
        .find(|issuer| issuer.issuer == named && issuer.issues(kind) && issuer.keys.is_some())
        .ok_or("unknown_issuer")
}

/// Under whom a token is counted: its issuer, its tenant, and whom it acts for, or else its client. As long as a key's id and as hard to meet.
fn counted_under(issuer: &str, tenant: &str, whom: &str) -> KeyId {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [issuer, tenant, whom] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let sum = context.finish();
    let mut id = [0; 12];
    for (place, byte) in id.iter_mut().zip(sum.as_ref().chunks_exact(2)) {
        let value = usize::from(u16::from_be_bytes([byte[0], byte[1]]));
        *place = BASE62[value % BASE62.len()];
    }
    KeyId(id)
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
