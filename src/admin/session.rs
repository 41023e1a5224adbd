//! Sessions of the dashboard: begun with an admin token, ended with it, kept in memory alone.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use crate::clock::Mono;
use crate::model::key::Digest;
use crate::model::key_text;

/// The name of the cookie.
pub(super) const COOKIE: &str = "portcullis_session";

/// A session that nobody uses for so long is over.
const IDLE: Duration = Duration::from_secs(30 * 60);

/// No session lasts longer.
const LONGEST: Duration = Duration::from_secs(12 * 60 * 60);

/// Sessions at once; beyond it the one that was idle longest ends.
const SESSIONS_MAX: usize = 1_000;

/// Bytes from the system's random source in the name of a session.
const NAME_BYTES: usize = 32;

/// All sessions, by the digest of what stands in the cookie.
#[derive(Debug, Default)]
pub struct Sessions {
    /// A std mutex: held for a look-up, never across an await.
    open: Mutex<HashMap<Digest, Session>>,
    /// Credentials that opened nothing: since when, and how many.
    failures: Mutex<(Mono, u32)>,
}

/// So many failures within a minute are told of.
const FAILURES: u32 = 5;

#[derive(Clone, Debug)]
struct Session {
    token_id: String,
    begun: Mono,
    used: Mono,
}

impl Session {
    fn is_over(&self, now: Mono) -> bool {
        now.since(self.used) >= IDLE || now.since(self.begun) >= LONGEST
    }
}

impl Sessions {
    /// Begins a session with this token; the text for the cookie. `None` when the system gives no random numbers.
    pub(super) fn begin(&self, token_id: &str, now: Mono) -> Option<String> {
        let mut bytes = [0; NAME_BYTES];
        getrandom::fill(&mut bytes).ok()?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut open = self.lock();
        open.retain(|_, session| !session.is_over(now));
        if open.len() >= SESSIONS_MAX {
            let idlest = open.iter().min_by_key(|(_, session)| session.used);
            if let Some(digest) = idlest.map(|(digest, _)| *digest) {
                open.remove(&digest);
            }
        }
        let session = Session {
            token_id: token_id.to_owned(),
            begun: now,
            used: now,
        };
        open.insert(key_text::digest_of(text.as_bytes()), session);
        Some(text)
    }

    /// The token that a session was begun with, which has to be asked whether it still stands.
    pub(super) fn token_of(&self, text: &str, now: Mono) -> Option<String> {
        let digest = key_text::digest_of(text.as_bytes());
        let mut open = self.lock();
        let session = open.get_mut(&digest)?;
        if session.is_over(now) {
            open.remove(&digest);
            return None;
        }
        session.used = now;
        Some(session.token_id.clone())
    }

    /// Counts a credential that opened nothing; whether there were so many within a minute that somebody should know.
    pub(super) fn fails_often(&self, now: Mono) -> bool {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(failures.0) >= Duration::from_secs(60) {
            *failures = (now, 0);
        }
        failures.1 = failures.1.saturating_add(1);
        failures.1 == FAILURES
    }

    /// Ends a session.
    pub(super) fn end(&self, text: &str) {
        let digest = key_text::digest_of(text.as_bytes());
        self.lock().remove(&digest);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Session>> {
        // A map is whole after every insert and remove, so a panic elsewhere has not broken it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Mono {
        Mono(minutes * 60_000_000)
    }

    #[test]
    fn a_session_ends_when_it_is_idle_too_old_or_told_to() {
        let sessions = Sessions::default();
        let text = sessions.begin("tok_a", at(0)).unwrap();
        assert_eq!(text.len(), 64);
        assert_eq!(sessions.token_of(&text, at(29)).as_deref(), Some("tok_a"));
        assert_eq!(sessions.token_of("other", at(29)), None);
        assert_eq!(sessions.token_of(&text, at(59)), None, "idle");
        let text = sessions.begin("tok_a", at(0)).unwrap();
        for minute in (0..720).step_by(20) {
            assert!(sessions.token_of(&text, at(minute)).is_some(), "{minute}");
        }
        assert_eq!(sessions.token_of(&text, at(720)), None, "too old");
        let text = sessions.begin("tok_a", at(0)).unwrap();
        sessions.end(&text);
        assert_eq!(sessions.token_of(&text, at(0)), None);
    }

    #[test]
    fn there_are_never_more_than_so_many() {
        let sessions = Sessions::default();
        let first = sessions.begin("tok_a", at(0)).unwrap();
        for _ in 0..SESSIONS_MAX {
            sessions.begin("tok_b", at(1)).unwrap();
        }
        assert_eq!(sessions.lock().len(), SESSIONS_MAX);
        assert_eq!(
            sessions.token_of(&first, at(1)),
            None,
            "the idlest made room"
        );
    }
}
