//! Alerts: what an operator should know at once, told once in the log and, where there is one, to a webhook.
//!
//! `rules` says when there is something to tell, `webhook` signs and sends, `unwritten` holds what the disk does not take. What happens on the data path is only put into a bounded queue.

pub mod rules;
pub mod unwritten;
pub mod webhook;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use serde_json::Value;
use tokio::sync::mpsc;

use crate::clock::Wall;

/// Alerts that may wait to be looked at; beyond it they are dropped and counted. Strangers raise at most one each minute and source.
const QUEUE_MAX: usize = 4_096;

/// What an alert is about; `as_str` is the `type` that receivers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A quota window has reached `limit_percent`.
    LimitApproaching,
    /// Too many of a key's requests fail.
    ErrorRate,
    /// A key does far more than it used to.
    UnusualActivity,
    /// A key is neither used nor new.
    KeyUnused,
    /// A key soon ends.
    KeyExpiring,
    /// A certificate soon ends.
    CertificateExpiring,
    /// Somebody tries credentials.
    FailedAuthentication,
    /// A key was sent where it can be read.
    KeyInClear,
    /// The store cannot be written, or the one that nodes share does not answer; or does again.
    StoreTrouble,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::LimitApproaching => "limit.approaching",
            Kind::ErrorRate => "key.error_rate",
            Kind::UnusualActivity => "key.unusual_activity",
            Kind::KeyUnused => "key.unused",
            Kind::KeyExpiring => "key.expiring",
            Kind::CertificateExpiring => "certificate.expiring",
            Kind::FailedAuthentication => "authentication.failing",
            Kind::KeyInClear => "key.seen_in_clear",
            Kind::StoreTrouble => "store.trouble",
        }
    }
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// What it is about.
    pub kind: Kind,
    /// What makes it the same as another of its kind: whom it concerns, and which window.
    pub once: String,
    /// For so many seconds it is the same, and not told again.
    pub for_seconds: u64,
    /// One sentence for people; no secret in it.
    pub text: String,
    /// The same for programs.
    pub data: Value,
    /// When.
    pub at: Wall,
}

/// Where alerts are raised: never waits, and costs nothing where there is nothing to tell.
#[derive(Clone, Debug)]
pub struct Alerts {
    queue: mpsc::Sender<Alert>,
    dropped: Arc<AtomicU64>,
}

impl Alerts {
    /// A queue, and its other end.
    #[must_use]
    pub fn queue() -> (Alerts, mpsc::Receiver<Alert>) {
        let (queue, raised) = mpsc::channel(QUEUE_MAX);
        let alerts = Alerts {
            queue,
            dropped: Arc::default(),
        };
        (alerts, raised)
    }

    /// Has it told, unless the queue is full.
    pub fn raise(&self, alert: Alert) {
        if self.queue.try_send(alert).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many found no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
