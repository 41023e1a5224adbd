//! What administrators did: a log in `keys.db` whose lines are chained by hashes, written with the change itself.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest;
use rusqlite::Connection;
use rusqlite::OpenFlags;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::clock::Wall;
use crate::store::error::StoreError;
use crate::store::outcome::rfc3339;
use crate::store::rows::micros;

mod chain;
mod prune;

pub use chain::Verdict;
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

/// A line as it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When; RFC 3339.
    pub at: String,
    /// Who.
    pub who: String,
    /// From where.
    pub from: String,
    /// What.
    pub act: String,
    /// Whom it is about.
    pub subject: String,
    /// The store's revision once it was done.
    pub revision: u64,
    /// How it was.
    pub before: Option<Value>,
    /// How it is.
    pub after: Option<Value>,
    /// 64 hexadecimal digits.
    pub hash: String,
}

/// Which lines are asked for; what is left out does not narrow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Which {
    /// About this key, tenant or token.
    pub subject: Option<String>,
    /// By this one.
    pub who: Option<String>,
    /// Not older, in seconds.
    pub since_seconds: Option<u64>,
    /// Before this line: how a reader goes on where the last answer ended.
    pub before: Option<u64>,
    /// At most so many; 1 to 1000, 100 when left out.
    pub limit: Option<u32>,
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

/// A line as it is stored.
struct Raw {
    seq: i64,
    at: i64,
    who: String,
    origin: String,
    act: String,
    subject: String,
    revision: i64,
    before: Option<String>,
    after: Option<String>,
    once_key: Option<String>,
    once_print: Option<String>,
    result: Option<String>,
    hash: [u8; 32],
}

const COLUMNS: &str = "seq, at, who, origin, act, subject, revision, before, after, once_key, once_print, result, hash";

impl Raw {
    fn read(row: &Row<'_>) -> rusqlite::Result<Raw> {
        Ok(Raw {
            seq: row.get(0)?,
            at: row.get(1)?,
            who: row.get(2)?,
            origin: row.get(3)?,
            act: row.get(4)?,
            subject: row.get(5)?,
            revision: row.get(6)?,
            before: row.get(7)?,
            after: row.get(8)?,
            once_key: row.get(9)?,
            once_print: row.get(10)?,
            result: row.get(11)?,
            hash: row.get(12)?,
        })
    }

    /// SHA-256 over the hash before and all columns, each text with its length before it, so that no two lines read the same.
    fn hash_after(&self, before: &[u8; 32]) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(before);
        for number in [self.seq, self.at, self.revision] {
            context.update(&number.to_be_bytes());
        }
        let texts = [
            Some(&self.who),
            Some(&self.origin),
            Some(&self.act),
            Some(&self.subject),
            self.before.as_ref(),
            self.after.as_ref(),
            self.once_key.as_ref(),
            self.once_print.as_ref(),
            self.result.as_ref(),
        ];
        for text in texts {
            match text {
                None => context.update(&u64::MAX.to_be_bytes()),
                Some(text) => {
                    context.update(&(text.len() as u64).to_be_bytes());
                    context.update(text.as_bytes());
                }
            }
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        hash
    }

    fn line(&self) -> Line {
        let json = |text: &Option<String>| {
            let text = text.as_ref()?;
            // What is no JSON was written by another hand; it is shown as it stands.
            Some(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone())))
        };
        Line {
            seq: u64::try_from(self.seq).unwrap_or(0),
            at: rfc3339(Wall(u64::try_from(self.at).unwrap_or(0))),
            who: self.who.clone(),
            from: self.origin.clone(),
            act: self.act.clone(),
            subject: self.subject.clone(),
            revision: u64::try_from(self.revision).unwrap_or(0),
            before: json(&self.before),
            after: json(&self.after),
            hash: hex(&self.hash),
        }
    }
}

/// The log as readers see it, beside the one writer and without holding it up.
#[derive(Debug)]
pub struct Log {
    connection: Connection,
    path: PathBuf,
}

impl Log {
    /// Opens it to read only. `None` where there is no store yet, or one that an older version wrote last.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(directory: &Path) -> Result<Option<Log>, StoreError> {
        let path = directory.join("keys.db");
        let exists = path.try_exists();
        if !exists.map_err(|error| StoreError::from_io(&path, error))? {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags).and_then(|connection| {
            connection.busy_timeout(BUSY)?;
            let sql = "SELECT count(*) = 1 FROM sqlite_schema WHERE name = 'audit'";
            let there: bool = connection.query_row(sql, [], |row| row.get(0))?;
            Ok(there.then_some(connection))
        });
        match opened {
            Ok(connection) => Ok(connection.map(|connection| Log { connection, path })),
            Err(error) => Err(StoreError::from_sqlite(&path, error)),
        }
    }

    /// Lines, the latest first.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn lines(&self, which: &Which, now: Wall) -> Result<Vec<Line>, StoreError> {
        let since = which.since_seconds.map_or(0, |seconds| {
            let since = now.0.saturating_sub(seconds.saturating_mul(1_000_000));
            micros(Wall(since))
        });
        let before = which
            .before
            .map(|seq| i64::try_from(seq).unwrap_or(i64::MAX));
        let limit = which.limit.unwrap_or(100).clamp(1, LINES_MAX);
        self.read(|connection| {
            let mut statement = connection.prepare(&format!(
                "SELECT {COLUMNS} FROM audit WHERE at >= ?1 AND (?2 IS NULL OR seq < ?2)
                 AND (?3 IS NULL OR subject = ?3 OR result = ?3) AND (?4 IS NULL OR who = ?4)
                 ORDER BY seq DESC LIMIT ?5"
            ))?;
            let found = statement.query_map(
                params![since, before, which.subject, which.who, limit],
                |row| Raw::read(row).map(|raw| raw.line()),
            )?;
            found.collect()
        })
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        query(&self.connection).map_err(|error| StoreError::from_sqlite(&self.path, error))
    }
}

/// Hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Most lines of one answer.
const LINES_MAX: u32 = 1_000;

/// The one writer is soon done.
const BUSY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn act(subject: &str) -> Act {
        Act {
            actor: Actor::user(Some(7), "socket"),
            act: "key-revoke".to_owned(),
            subject: subject.to_owned(),
            before: Some(serde_json::json!({ "status": "active" })),
            after: Some(serde_json::json!({ "status": "revoked" })),
            result: None,
            at: Wall::from_unix_seconds(1_700_000_000),
        }
    }

    fn five(directory: &Path) -> Vec<Written> {
        let mut store = Store::open(directory).unwrap();
        let written =
            ["a", "b", "c", "d", "e"].map(|name| store.record(&act(name)).unwrap().unwrap());
        written.to_vec()
    }

    fn verdict(directory: &Path, expected: Option<(u64, &str)>) -> Verdict {
        let log = Log::open(directory).unwrap().unwrap();
        log.verify(expected).unwrap()
    }

    #[test]
    fn lines_are_read_back_the_latest_first() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Log::open(directory.path()).unwrap().is_none());
        five(directory.path());
        let log = Log::open(directory.path()).unwrap().unwrap();
        let which = Which {
            limit: Some(2),
            before: Some(5),
            ..Which::default()
        };
        let lines = log.lines(&which, Wall(u64::MAX)).unwrap();
        let seen: Vec<_> = lines
            .iter()
            .map(|line| (line.seq, line.subject.as_str()))
            .collect();
        assert_eq!(seen, [(4, "d"), (3, "c")]);
        assert_eq!(lines[0].before.as_ref().unwrap()["status"], "active");
        let which = Which {
            subject: Some("b".to_owned()),
            ..Which::default()
        };
        assert_eq!(log.lines(&which, Wall(u64::MAX)).unwrap().len(), 1);
    }

    /// What another hand did to the file, one thing at a time, is found and named.
    #[test]
    fn a_changed_missing_or_moved_line_is_found() {
        let cases = [
            (
                "UPDATE audit SET who = 'uid:8' WHERE seq = 3",
                "line 3 was changed",
            ),
            (
                "UPDATE audit SET after = NULL WHERE seq = 5",
                "line 5 was changed",
            ),
            (
                "UPDATE audit SET at = at + 1 WHERE seq = 1",
                "line 1 was changed",
            ),
            (
                "UPDATE audit SET once_key = '' WHERE seq = 2",
                "line 2 was changed",
            ),
            (
                "UPDATE audit SET hash = randomblob(32) WHERE seq = 2",
                "line 2 was changed",
            ),
            ("DELETE FROM audit WHERE seq = 1", "line 1 is missing"),
            ("DELETE FROM audit WHERE seq = 4", "line 4 is missing"),
            (
                "DELETE FROM audit WHERE seq = 5",
                "it ends with line 4, but 5 were written",
            ),
            (
                "DELETE FROM audit",
                "it ends with line 0, but 5 were written",
            ),
            (
                "UPDATE audit SET seq = 99 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 99",
                "line 2 was changed, or stands where another did",
            ),
            (
                "DELETE FROM audit WHERE seq = 5; UPDATE meta SET audit_seq = 4",
                "line 4 is not the one that was written last",
            ),
        ];
        for (sql, fault) in cases {
            let directory = tempfile::tempdir().unwrap();
            five(directory.path());
            assert!(verdict(directory.path(), None).whole);
            let file = Connection::open(directory.path().join("keys.db")).unwrap();
            file.execute_batch(sql).unwrap();
            let found = verdict(directory.path(), None);
            assert!(!found.whole, "{sql}");
            assert!(
                found.fault.as_ref().unwrap().contains(fault),
                "{sql}: {found:?}"
            );
        }
    }

    /// Whoever may write the file can chain it anew; a hash that was written down elsewhere shows it.
    #[test]
    fn a_log_that_was_written_anew_does_not_fit_a_hash_from_before() {
        let directory = tempfile::tempdir().unwrap();
        let written = five(directory.path());
        let third = written[2].hash.clone();
        let found = verdict(directory.path(), Some((3, &third)));
        assert_eq!((found.whole, found.lines), (true, 5));
        assert_eq!(found.head, written[4].hash);
        assert!(!verdict(directory.path(), Some((2, &third))).whole);
        assert!(!verdict(directory.path(), Some((6, &third))).whole);
    }
}
