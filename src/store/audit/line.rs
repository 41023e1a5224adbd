//! A line as it is stored and as it is read, and the hash that chains it to the one before.

use aws_lc_rs::digest;
use rusqlite::Row;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::clock::Wall;
use crate::store::outcome::rfc3339;

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

/// A line as it is stored.
pub(super) struct Raw {
    pub(super) seq: i64,
    pub(super) at: i64,
    pub(super) who: String,
    pub(super) origin: String,
    pub(super) act: String,
    pub(super) subject: String,
    pub(super) revision: i64,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    pub(super) once_key: Option<String>,
    pub(super) once_print: Option<String>,
    pub(super) result: Option<String>,
    pub(super) hash: [u8; 32],
}

pub(super) const COLUMNS: &str = "seq, at, who, origin, act, subject, revision, before, after, once_key, once_print, result, hash";

impl Raw {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Raw> {
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
    pub(super) fn hash_after(&self, before: &[u8; 32]) -> [u8; 32] {
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

    pub(super) fn line(&self) -> Line {
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

/// Hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
