//! What administrators did: a log in `keys.db` whose lines are chained by hashes, written with the change itself.
//!
//! `line` is a line as it is stored, `chain` says whether all are whole, `log` reads them, `prune` lets go of the oldest.

mod chain;
mod line;
mod log;
mod prune;
#[cfg(test)]
mod tests;

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::params;
use serde_json::Value;

use crate::clock::Wall;
use crate::store::audit::line::Raw;
use crate::store::rows::micros;

pub use chain::Verdict;
pub use line::Line;
pub use line::hex;
pub use log::Log;
pub use log::Which;
pub use prune::Keep;
pub use prune::Pruned;

pub(super) use prune::prune;

/// How long an act that was given a name is not done again under it: a day.
pub const ONCE_SECONDS: u64 = 86_400;

/// Who does an administrative act, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `uid:1000`, `token:tok_…`, or `gateway` for what it does by itself.
    pub who: String,
    /// `socket`, `offline` (a command without a gateway), an address, or why the gateway did it.
    pub from: String,
    /// So that it is done once, however often it is asked for.
    pub once: Option<Once>,
}

/// The caller's name for one act, and what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// The name.
    pub key: String,
    /// SHA-256 of what was asked, in hexadecimal digits.
    pub print: String,
}

impl Actor {
    /// The gateway itself.
    #[must_use]
    pub fn gateway(from: impl Into<String>) -> Actor {
        Actor {
            who: "gateway".to_owned(),
            from: from.into(),
            once: None,
        }
    }

    /// The user with this id, as the kernel says it.
    #[must_use]
    pub fn user(uid: Option<u32>, from: &str) -> Actor {
        Actor {
            who: uid.map_or("uid:unknown".to_owned(), |uid| format!("uid:{uid}")),
            from: from.to_owned(),
            once: None,
        }
    }
}

/// An act that is about to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Who does it.
    pub actor: Actor,
    /// `key-revoke` …
    pub act: String,
    /// Whom it is about.
    pub subject: String,
    /// How that was before.
    pub before: Option<Value>,
    /// How it is now.
    pub after: Option<Value>,
    /// Whom it made or changed; what a repetition is told.
    pub result: Option<String>,
    /// When.
    pub at: Wall,
}

/// Where a line stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its number, from 1.
    pub seq: u64,
    /// Its hash, hexadecimal digits.
    pub hash: String,
}

/// An act that was given a name, as it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What was asked then.
    pub print: String,
    /// Whom it made or changed.
    pub result: Option<String>,
}

/// Adds a line, in the transaction of the act itself.
pub(super) fn append(
    transaction: &Transaction<'_>,
    act: &Act,
    revision: u64,
) -> rusqlite::Result<Written> {
    let (last, before) = head(transaction)?;
    let seq = last + 1;
    let text = |value: &Option<Value>| value.as_ref().map(Value::to_string);
    let once = act.actor.once.as_ref();
    let line = Raw {
        seq,
        at: micros(act.at),
        who: act.actor.who.clone(),
        origin: act.actor.from.clone(),
        act: act.act.clone(),
        subject: act.subject.clone(),
        revision: i64::try_from(revision).unwrap_or(i64::MAX),
        before: text(&act.before),
        after: text(&act.after),
        once_key: once.map(|once| once.key.clone()),
        once_print: once.map(|once| once.print.clone()),
        result: act.result.clone(),
        hash: [0; 32],
    };
    let hash = line.hash_after(&before);
    transaction
        .prepare_cached(
            "INSERT INTO audit (seq, at, who, origin, act, subject, revision, before, after, once_key, once_print, result, hash)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute(params![
            line.seq,
            line.at,
            line.who,
            line.origin,
            line.act,
            line.subject,
            line.revision,
            line.before,
            line.after,
            line.once_key,
            line.once_print,
            line.result,
            hash,
        ])?;
    transaction.execute(
        "UPDATE meta SET audit_seq = ?1, audit_hash = ?2",
        params![seq, hash],
    )?;
    Ok(Written {
        seq: u64::try_from(seq).unwrap_or(0),
        hash: hex(&hash),
    })
}

/// What this one did under this name, not before `since`.
pub(super) fn done(
    connection: &Connection,
    who: &str,
    once_key: &str,
    since: Wall,
) -> rusqlite::Result<Option<Done>> {
    connection
        .prepare_cached(
            "SELECT once_print, result FROM audit WHERE who = ?1 AND once_key = ?2 AND at >= ?3 ORDER BY seq DESC LIMIT 1",
        )?
        .query_row(params![who, once_key, micros(since)], |row| {
            Ok(Done {
                print: row.get(0)?,
                result: row.get(1)?,
            })
        })
        .optional()
}

fn head(connection: &Connection) -> rusqlite::Result<(i64, [u8; 32])> {
    connection.query_row("SELECT audit_seq, audit_hash FROM meta", [], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}
