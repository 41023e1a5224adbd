//! Tokens that only their issuer can read: who asks about which, each asked about once at a time, and what was answered (RFC 7662).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::sync::mpsc;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::model::issuer::Issuer;
use crate::model::key::Digest;
use crate::token::json::Value;

/// What an issuer said of a token.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer(Said);

#[derive(Clone, Debug, PartialEq)]
enum Said {
    /// These are its claims.
    Active(Arc<Value>),
    /// It is nobody's.
    Inactive,
    /// Nothing that can be understood, or nothing at all.
    Nothing,
}

/// A token to ask about.
pub struct Inquiry {
    /// Who is asked.
    pub issuer: Arc<Issuer>,
    /// The token; wiped when dropped.
    pub token: Zeroizing<Vec<u8>>,
    digest: Digest,
    answered: watch::Sender<Option<Answer>>,
}

impl fmt::Debug for Inquiry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Inquiry({})", self.issuer.name)
    }
}

/// Inquiries under way. Bounded: beyond that nobody is asked.
#[derive(Debug)]
pub struct Inquiries {
    /// A std mutex: held for a lookup. Only tokens that are not remembered come here.
    under_way: Mutex<HashMap<Digest, watch::Receiver<Option<Answer>>>>,
    jobs: mpsc::Sender<Inquiry>,
    /// Until the control side takes it.
    inbox: Mutex<Option<mpsc::Receiver<Inquiry>>>,
}

/// Calls to issuers at once, all together.
const UNDER_WAY_MAX: usize = 256;

impl Default for Inquiries {
    fn default() -> Inquiries {
        let (jobs, inbox) = mpsc::channel(UNDER_WAY_MAX);
        Inquiries {
            under_way: Mutex::default(),
            jobs,
            inbox: Mutex::new(Some(inbox)),
        }
    }
}

impl Inquiries {
    /// Has the issuer asked about a token, unless it is being asked already; gives where the answer will be. `None` when too many are asked about.
    pub(super) fn begin(
        &self,
        issuer: &Arc<Issuer>,
        text: &[u8],
        digest: Digest,
    ) -> Option<watch::Receiver<Option<Answer>>> {
        let mut under_way = lock(&self.under_way);
        if let Some(there) = under_way.get(&digest) {
            return Some(there.clone());
        }
        if under_way.len() >= UNDER_WAY_MAX {
            return None;
        }
        let (answered, answer) = watch::channel(None);
        let inquiry = Inquiry {
            issuer: Arc::clone(issuer),
            token: Zeroizing::new(text.to_vec()),
            digest,
            answered,
        };
        self.jobs.try_send(inquiry).ok()?;
        under_way.insert(digest, answer.clone());
        Some(answer)
    }

    /// The inquiries to make; once.
    #[must_use]
    pub fn inbox(&self) -> Option<mpsc::Receiver<Inquiry>> {
        lock(&self.inbox).take()
    }

    /// Ends an inquiry with the text of the answer, or without one. Whether it could be understood.
    pub fn end(&self, inquiry: &Inquiry, text: Option<&[u8]>) -> bool {
        let answer = Answer::read(text);
        let understood = answer.0 != Said::Nothing;
        // Before it is told: who comes later asks anew.
        lock(&self.under_way).remove(&inquiry.digest);
        inquiry.answered.send_replace(Some(answer));
        understood
    }
}

impl Answer {
    fn read(text: Option<&[u8]>) -> Answer {
        let said = text.and_then(Value::read).filter(Value::is_object);
        let Some(said) = said else {
            return Answer(Said::Nothing);
        };
        Answer(match said.get("active") {
            Some(Value::Bool(true)) => Said::Active(Arc::new(said)),
            Some(Value::Bool(false)) => Said::Inactive,
            _ => Said::Nothing,
        })
    }

    /// Its claims.
    ///
    /// # Errors
    /// `true` when it is nobody's, `false` when nobody knows.
    pub(super) fn claims(&self) -> Result<&Value, bool> {
        match &self.0 {
            Said::Active(claims) => Ok(claims),
            Said::Inactive => Err(true),
            Said::Nothing => Err(false),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A map is whole after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
