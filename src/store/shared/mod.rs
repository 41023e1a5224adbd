//! The store that several nodes share, in Redis or Valkey. `keys.db` is this node's whole copy of it, which a change enters only once the
//! shared store has taken it; changes are numbered without gaps, so that a copy knows what it lacks.

use redis::Script;
use serde::Deserialize;
use serde::Serialize;

use crate::config::Redis;
use crate::model::key::KeyId;
use crate::store::StoreError;
use crate::store::audit;
use crate::store::sqlite;

mod change;
mod copy;
mod fill;
mod follow;
mod heal;
mod image;
pub mod link;
pub mod nodes;
mod packed;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod usage;

use link::Link;

pub(super) use copy::last_heard;
pub(super) use copy::node_id;
pub(super) use copy::note_peers;
pub(super) use copy::peers;
pub(super) use copy::position;
pub(super) use copy::take_new_id;

/// The shared end of a store.
#[derive(Debug)]
pub struct Shared {
    link: Link,
    commit: Script,
    fill: Script,
    /// What came in and is not in the view of requests yet.
    caught: CaughtUp,
}

/// How far a copy has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Changes since the beginning.
    pub seq: u64,
    /// The name of the last one.
    pub head: String,
}

/// What came in from other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaughtUp {
    /// Keys that may be other than they were.
    pub keys: Vec<KeyId>,
    /// Whether more than keys may be.
    pub more: bool,
    /// Whether anything came at all.
    pub any: bool,
}

/// What the shared store says of itself.
#[derive(Clone, Debug)]
struct There {
    at: Position,
    /// Which store it is, however often it was emptied and filled again; empty until its first change.
    store: String,
}

/// What stands beside the rows of a change.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// The schema that its rows are of.
    version: usize,
    /// `meta` once it is in.
    revision: u64,
    audit_seq: i64,
    audit_hash: String,
    /// The first line of the audit log that is kept; 0 for none.
    #[serde(default)]
    audit_first: i64,
    /// Buckets to be read anew, where the rows are too many for the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    buckets: Vec<String>,
}

impl Shared {
    /// Connects when it is needed.
    #[must_use]
    pub fn new(settings: &Redis) -> Shared {
        Shared {
            link: Link::new(settings),
            commit: Script::new(include_str!("commit.lua")),
            fill: Script::new(include_str!("fill.lua")),
            caught: CaughtUp::default(),
        }
    }

    /// The connection, for what is not about the copy.
    pub fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// What came in since this was last asked.
    pub(super) fn take_caught(&mut self) -> CaughtUp {
        std::mem::take(&mut self.caught)
    }

    /// Asks whether it can be used, and changes nothing.
    pub(super) fn look(&mut self) -> Result<(), StoreError> {
        self.there().map(|_| ())
    }

    /// Where it stands; `None` for an empty one.
    fn there(&mut self) -> Result<Option<There>, StoreError> {
        type Facts = (Option<u64>, Option<String>, Option<String>);
        let facts = self.link.name("facts");
        let (seq, head, store): Facts = self.link.call(0, |connection| {
            redis::cmd("HMGET")
                .arg(facts)
                .arg("seq")
                .arg("head")
                .arg("store")
                .query(connection)
        })?;
        Ok(seq.zip(head).map(|(seq, head)| There {
            at: Position { seq, head },
            store: store.unwrap_or_default(),
        }))
    }

    /// Whether it stands there still: what was read meanwhile is of one moment only then.
    fn is_still_at(&mut self, at: &Position) -> Result<bool, StoreError> {
        Ok(self.there()?.is_some_and(|there| there.at == *at))
    }

    /// The header of the last change; `None` where the store began with no change.
    fn last_header(&mut self) -> Result<Option<Header>, StoreError> {
        let facts = self.link.name("facts");
        let header: Option<String> = self.link.call(0, |connection| {
            redis::cmd("HGET")
                .arg(facts)
                .arg("header")
                .query(connection)
        })?;
        let header = header.filter(|header| !header.is_empty());
        header.map(|header| self.understood(&header)).transpose()
    }

    /// All buckets that ever had rows.
    fn buckets(&mut self) -> Result<Vec<String>, StoreError> {
        let name = self.link.name("changed");
        self.link.call(FOLLOW_BYTES, |connection| {
            redis::cmd("HKEYS").arg(name).query(connection)
        })
    }

    fn bucket(&mut self, bucket: &str) -> Result<Vec<String>, StoreError> {
        let name = self.link.name(bucket);
        self.link.call(BUCKET_BYTES, |connection| {
            redis::cmd("HVALS").arg(name).query(connection)
        })
    }

    fn understood(&self, header: &str) -> Result<Header, StoreError> {
        let read: Header =
            serde_json::from_str(header).map_err(|error| self.unfit(&error.to_string()))?;
        match read.version > sqlite::VERSION {
            true => Err(self.unfit(&format!(
                "its rows are of schema version {}, and this portcullis knows versions up to {}: it was written by a later portcullis; run that one",
                read.version,
                sqlite::VERSION
            ))),
            false => Ok(read),
        }
    }

    fn unfit(&self, what: &str) -> StoreError {
        StoreError::Unfit {
            server: self.link.settings().servers.join(", "),
            what: what.to_owned(),
        }
    }

    fn away(&self, what: &str) -> StoreError {
        StoreError::away(self.link.settings().servers.join(", "), what)
    }
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A name that nobody drew before.
fn nonce() -> Result<String, StoreError> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).map_err(|error| {
        StoreError::away(
            "this machine".to_owned(),
            &format!("no randomness: {error}"),
        )
    })?;
    Ok(audit::hex(&bytes))
}

fn broken(source: rusqlite::Error) -> StoreError {
    StoreError::from_sqlite(std::path::Path::new("keys.db"), source)
}

/// What an answer with some changes may have.
const FOLLOW_BYTES: usize = 8 << 20;
const BUCKET_BYTES: usize = 4 << 20;
