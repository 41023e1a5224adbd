//! The store that several nodes share, in Redis or Valkey. `keys.db` is this node's whole copy of it, which a change enters only once the
//! shared store has taken it; changes are numbered without gaps, so that a copy knows what it lacks.

use std::time::Duration;

use redis::Script;
use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;

use crate::clock::Wall;
use crate::config::Redis;
use crate::model::key::KeyId;
use crate::store::StoreError;
use crate::store::audit;
use crate::store::audit::Act;
use crate::store::audit::Written;
use crate::store::rows::micros;
use crate::store::sqlite;
use crate::store::sqlite::Write;

mod image;
pub mod link;
pub mod nodes;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use image::About;
use image::Image;
use link::Link;

/// The shared end of a store.
#[derive(Debug)]
pub struct Shared {
    link: Link,
    commit: Script,
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

/// What stands beside the rows of a change.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// The schema that its rows are of.
    version: usize,
    /// `meta` once it is in.
    revision: u64,
    audit_seq: i64,
    audit_hash: String,
    /// Buckets to be read anew, where the rows are too many for the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    buckets: Vec<String>,
}

/// What became of an attempt.
enum Attempt {
    Done(Position),
    Behind,
}

impl Shared {
    /// Connects when it is needed.
    #[must_use]
    pub fn new(settings: &Redis) -> Shared {
        Shared {
            link: Link::new(settings),
            commit: Script::new(include_str!("commit.lua")),
            caught: CaughtUp::default(),
        }
    }

    /// The connection, for what is not about the copy.
    pub fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Makes one change in the shared store and in the copy. `Behind` when another node was first: catch up, judge anew, try again.
    ///
    /// # Errors
    /// Nothing was changed in the copy; after `Away` nobody knows what became of it in the shared store, until that is heard again.
    pub(super) fn commit(
        &mut self,
        connection: &mut Connection,
        writes: &[Write],
        act: Option<&Act>,
    ) -> Result<(u64, Option<Written>), StoreError> {
        let at = position(connection)
            .map_err(broken)?
            .ok_or_else(|| self.unfit("this node has never heard it"))?;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(broken)?;
        let before = denials_before(&transaction, writes).map_err(broken)?;
        let (revision, written) = sqlite::apply_all(&transaction, writes, act).map_err(broken)?;
        let seq = written.as_ref().map(|written| written.seq);
        let mut images = image::touched(&transaction, writes, seq).map_err(broken)?;
        if let Some(before) = before {
            let after = image::denials(&transaction).map_err(broken)?;
            images.extend(difference(before, after));
        }
        self.publish(transaction, &at, &images)?;
        Ok((revision, written))
    }

    /// The images of one change to the shared store, and then the copy's transaction to the disk.
    fn publish(
        &mut self,
        transaction: Transaction<'_>,
        at: &Position,
        images: &[Image],
    ) -> Result<(), StoreError> {
        let mut header = header(&transaction).map_err(broken)?;
        let inline = images.len() <= INLINE_ROWS_MAX;
        if !inline {
            header.buckets = images.iter().map(|image| image.bucket.clone()).collect();
            header.buckets.sort_unstable();
            header.buckets.dedup();
        }
        let header = text(&header);
        let name = nonce()?;
        let next = match self.attempt(at, &name, &header, inline, images)? {
            Attempt::Behind => return Err(StoreError::Behind),
            Attempt::Done(next) => next,
        };
        let rows = text(&triples(images));
        remember(&transaction, &next, Some(&header), Some(&rows)).map_err(broken)?;
        transaction.commit().map_err(broken)
    }

    /// Twice at most: the second time finds out what became of the first.
    fn attempt(
        &mut self,
        at: &Position,
        name: &str,
        header: &str,
        inline: bool,
        images: &[Image],
    ) -> Result<Attempt, StoreError> {
        match self.attempt_once(at, name, header, inline, images) {
            Err(StoreError::Away { .. }) => self.attempt_once(at, name, header, inline, images),
            known => known,
        }
    }

    fn attempt_once(
        &mut self,
        at: &Position,
        name: &str,
        header: &str,
        inline: bool,
        images: &[Image],
    ) -> Result<Attempt, StoreError> {
        let keys = ["facts", "log", "changed", ""].map(|rest| self.link.name(rest));
        let sizes = images
            .iter()
            .map(|image| image.text.len() + image.field.len());
        let bytes = header.len() + sizes.sum::<usize>();
        let mut ask = self.commit.prepare_invoke();
        for key in &keys {
            ask.key(key);
        }
        ask.arg(at.seq)
            .arg(&at.head)
            .arg(name)
            .arg(header)
            .arg(i32::from(inline));
        for image in images {
            ask.arg(&image.bucket).arg(&image.field).arg(&image.text);
        }
        let (word, seq, head): (String, u64, String) =
            self.link.call(bytes, |connection| ask.invoke(connection))?;
        Ok(match word.as_str() {
            "done" => Attempt::Done(Position { seq, head }),
            _ => Attempt::Behind,
        })
    }

    /// Brings the copy to where the shared store is; heals the store where that lost what the copy still has.
    ///
    /// # Errors
    /// The store is away, or holds what cannot be; the copy is then as it was, or further.
    pub(in crate::store) fn catch_up(
        &mut self,
        connection: &mut Connection,
        now: Wall,
    ) -> Result<(), StoreError> {
        // Kept however this ends: what is in the copy has to come into force.
        let mut caught = std::mem::take(&mut self.caught);
        let ended = self.catch_up_noting(connection, now, &mut caught);
        self.caught = caught;
        ended
    }

    /// What came in since this was last asked.
    pub(super) fn take_caught(&mut self) -> CaughtUp {
        std::mem::take(&mut self.caught)
    }

    fn catch_up_noting(
        &mut self,
        connection: &mut Connection,
        now: Wall,
        caught: &mut CaughtUp,
    ) -> Result<(), StoreError> {
        for _ in 0..ROUNDS_MAX {
            let at = position(connection).map_err(broken)?;
            let there = self.there()?;
            match (at, there) {
                (Some(at), Some(there)) if at == there => {
                    heard(connection, now).map_err(broken)?;
                    return Ok(());
                }
                (at, None) => self.seed(connection, at)?,
                (None, Some(there)) => {
                    if !is_untouched(connection).map_err(broken)? {
                        return Err(self.unfit(
                            "the directory of [store] path holds keys of its own that the shared store has never seen: `portcullis store migrate --from sqlite --to redis` into an empty one, or move the directory away",
                        ));
                    }
                    let changed = self.link_buckets(None)?;
                    self.read_anew(connection, &there, &changed, caught)?;
                }
                (Some(at), Some(there)) if there.seq > at.seq => {
                    self.follow(connection, &at, &there, caught)?;
                }
                (Some(at), Some(there)) => match name_at(connection, there.seq).map_err(broken)? {
                    Some(name) if name == there.head => {
                        self.replay(connection, &there, &at, caught)?
                    }
                    _ => self.merge(connection, &there, caught)?,
                },
            }
        }
        Err(self.unfit("it changes faster than this node can follow"))
    }

    /// Asks whether it can be used, and changes nothing.
    pub(super) fn look(&mut self) -> Result<(), StoreError> {
        self.there().map(|_| ())
    }

    fn there(&mut self) -> Result<Option<Position>, StoreError> {
        let facts = self.link.name("facts");
        let (seq, head): (Option<u64>, Option<String>) = self.link.call(0, |connection| {
            redis::cmd("HMGET")
                .arg(facts)
                .arg("seq")
                .arg("head")
                .query(connection)
        })?;
        Ok(seq.zip(head).map(|(seq, head)| Position { seq, head }))
    }

    /// Takes in what the log has after `at`; where it has been cut, whole buckets.
    fn follow(
        &mut self,
        connection: &mut Connection,
        at: &Position,
        there: &Position,
        caught: &mut CaughtUp,
    ) -> Result<(), StoreError> {
        let log = self.link.name("log");
        let from = format!("{}-0", at.seq);
        let lines: Vec<(String, Vec<String>)> = self.link.call(FOLLOW_BYTES, |connection| {
            redis::cmd("XRANGE")
                .arg(log)
                .arg(from)
                .arg("+")
                .arg("COUNT")
                .arg(FOLLOW_LINES)
                .query(connection)
        })?;
        let mut lines = lines.into_iter().map(|(id, fields)| {
            let seq = id.split('-').next().and_then(|seq| seq.parse().ok());
            (seq.unwrap_or(0), fields)
        });
        let mut first = lines.next();
        if let Some((seq, fields)) = &first
            && *seq == at.seq
        {
            if fields.get(1) != Some(&at.head) {
                return self.merge(connection, there, caught);
            }
            first = lines.next();
        }
        if first.as_ref().map(|(seq, _)| *seq) != Some(at.seq + 1) {
            let changed = self.link_buckets(Some(at.seq))?;
            return self.read_anew(connection, there, &changed, caught);
        }
        for (seq, fields) in first.into_iter().chain(lines) {
            self.take_in(connection, seq, &fields, caught)?;
        }
        Ok(())
    }

    /// One change of another node.
    fn take_in(
        &mut self,
        connection: &mut Connection,
        seq: u64,
        fields: &[String],
        caught: &mut CaughtUp,
    ) -> Result<(), StoreError> {
        let [_, name, _, header, rows @ ..] = fields else {
            return Err(self.unfit(&format!("change {seq} is no change of portcullis")));
        };
        let read: Header = self.understood(header)?;
        let next = Position {
            seq,
            head: name.clone(),
        };
        let mut more = Vec::new();
        for bucket in &read.buckets {
            more.extend(self.bucket(bucket)?);
        }
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(broken)?;
        let mut seen = Seen::new(caught);
        for pair in rows.chunks_exact(2) {
            match pair[1].as_str() {
                "" => seen.gone(&transaction, &pair[0]).map_err(broken)?,
                row => seen
                    .put(&transaction, row)
                    .map_err(|why| self.unfit(&why))?,
            }
        }
        for row in &more {
            seen.put(&transaction, row)
                .map_err(|why| self.unfit(&why))?;
        }
        set_meta(&transaction, &read).map_err(broken)?;
        let kept = read.buckets.is_empty().then(|| text(&kept(rows)));
        let header = kept.is_some().then_some(header.as_str());
        remember(&transaction, &next, header, kept.as_deref()).map_err(broken)?;
        transaction.commit().map_err(broken)
    }

    /// The buckets that changed after `seq`, or all.
    fn link_buckets(&mut self, seq: Option<u64>) -> Result<Vec<String>, StoreError> {
        let name = self.link.name("changed");
        let changed: Vec<(String, u64)> = self.link.call(FOLLOW_BYTES, |connection| {
            redis::cmd("HGETALL").arg(name).query(connection)
        })?;
        let later = changed
            .into_iter()
            .filter(|(_, at)| seq.is_none_or(|seq| *at > seq));
        Ok(later.map(|(bucket, _)| bucket).collect())
    }

    fn bucket(&mut self, bucket: &str) -> Result<Vec<String>, StoreError> {
        let name = self.link.name(bucket);
        self.link.call(BUCKET_BYTES, |connection| {
            redis::cmd("HVALS").arg(name).query(connection)
        })
    }

    /// Reads whole buckets. Rows of keys and tenants are only ever added to or replaced: what is missing there stays here.
    fn read_anew(
        &mut self,
        connection: &mut Connection,
        there: &Position,
        changed: &[String],
        caught: &mut CaughtUp,
    ) -> Result<(), StoreError> {
        let facts = self.link.name("facts");
        let header: Option<String> = self.link.call(0, |connection| {
            redis::cmd("HGET")
                .arg(facts)
                .arg("header")
                .query(connection)
        })?;
        let mut rows = Vec::new();
        for bucket in changed {
            rows.extend(self.bucket(bucket)?);
        }
        // What was read is of one moment only if nothing changed meanwhile.
        if self.there()?.as_ref() != Some(there) {
            return Ok(());
        }
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(broken)?;
        let mut seen = Seen::new(caught);
        seen.caught.more = true;
        if changed.iter().any(|bucket| bucket == "d") {
            let emptied = transaction.execute("DELETE FROM denied_token", []);
            emptied.map_err(broken)?;
        }
        for row in &rows {
            seen.put(&transaction, row)
                .map_err(|why| self.unfit(&why))?;
        }
        if let Some(header) = header.filter(|header| !header.is_empty()) {
            let read: Header = self.understood(&header)?;
            set_meta(&transaction, &read).map_err(broken)?;
        }
        remember(&transaction, there, None, None).map_err(broken)?;
        transaction.commit().map_err(broken)
    }

    /// Writes again what the shared store lost: it stands at `there`, which this copy has passed.
    fn replay(
        &mut self,
        connection: &mut Connection,
        there: &Position,
        at: &Position,
        caught: &mut CaughtUp,
    ) -> Result<(), StoreError> {
        let lost = lines_after(connection, there.seq).map_err(broken)?;
        tracing::error!(
            from = there.seq + 1,
            to = at.seq,
            "the shared store has lost changes; this node writes them again"
        );
        let mut last = there.clone();
        for (seq, name, header, rows) in lost {
            let (Some(header), Some(rows)) = (header, rows) else {
                return self.merge(connection, there, caught);
            };
            if seq != last.seq + 1 {
                return self.merge(connection, there, caught);
            }
            let images: Vec<Image> = serde_json::from_str::<Vec<(String, String, String)>>(&rows)
                .map_err(|error| self.unfit(&error.to_string()))?
                .into_iter()
                .map(|(bucket, field, text)| Image {
                    bucket,
                    field,
                    text,
                })
                .collect();
            let inline = images.len() <= INLINE_ROWS_MAX;
            match self.attempt(&last, &name, &header, inline, &images)? {
                Attempt::Done(next) => last = next,
                // Another node does the same.
                Attempt::Behind => return Ok(()),
            }
        }
        Ok(())
    }

    /// Brings two histories together: the store's, and what this copy has beside it. What one of them ended has ended.
    fn merge(
        &mut self,
        connection: &mut Connection,
        there: &Position,
        caught: &mut CaughtUp,
    ) -> Result<(), StoreError> {
        tracing::error!(
            seq = there.seq,
            "the shared store has another history than this node, after a failover that lost changes: what either of them ended has ended, what else was changed here meanwhile is lost"
        );
        let changed = self.link_buckets(None)?;
        let mut rows = Vec::new();
        for bucket in &changed {
            rows.extend(self.bucket(bucket)?);
        }
        if self.there()?.as_ref() != Some(there) {
            return Ok(());
        }
        let facts = self.link.name("facts");
        let header: String = self.link.call(0, |connection| {
            redis::cmd("HGET")
                .arg(facts)
                .arg("header")
                .query(connection)
        })?;
        let header: Header = self.understood(&header)?;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(broken)?;
        transaction.execute_batch(ENDED_HERE).map_err(broken)?;
        let mut seen = Seen::new(caught);
        seen.caught.more = true;
        for row in &rows {
            seen.put(&transaction, row)
                .map_err(|why| self.unfit(&why))?;
        }
        transaction.execute_batch(END_AGAIN).map_err(broken)?;
        let newest = params![header.audit_seq];
        let cut = transaction.execute("DELETE FROM audit WHERE seq > ?1", newest);
        cut.map_err(broken)?;
        let revision = revision(&transaction).map_err(broken)?.max(header.revision);
        let merged = Header {
            revision: revision + 1,
            ..header
        };
        set_meta(&transaction, &merged).map_err(broken)?;
        let known: std::collections::HashSet<String> = rows.into_iter().collect();
        let mut images = Vec::new();
        image::all(&transaction, &mut |image| {
            if !known.contains(&image.text) {
                images.push(image);
            }
        })
        .map_err(broken)?;
        match self.publish(transaction, there, &images) {
            Err(StoreError::Behind) => Ok(()),
            done => done,
        }
    }

    /// Fills an empty store from this copy, or begins one.
    fn seed(
        &mut self,
        connection: &mut Connection,
        at: Option<Position>,
    ) -> Result<(), StoreError> {
        if at.is_none() && !is_untouched(connection).map_err(broken)? {
            return Err(self.unfit(
                "it is empty, and the directory of [store] path holds keys: `portcullis store migrate --from sqlite --to redis` brings them there",
            ));
        }
        self.fill(connection, at.unwrap_or_default())
    }

    /// Writes everything that the copy holds into an empty shared store, which begins at `at`.
    pub(super) fn fill(
        &mut self,
        connection: &mut Connection,
        at: Position,
    ) -> Result<(), StoreError> {
        let (turn, facts, changed) = (
            self.link.name("filling"),
            self.link.name("facts"),
            self.link.name("changed"),
        );
        let mine: Option<String> = self.link.call(0, |connection| {
            redis::cmd("SET")
                .arg(&turn)
                .arg(1)
                .arg("NX")
                .arg("PX")
                .arg(FILLING_MILLIS)
                .query(connection)
        })?;
        if mine.is_none() {
            std::thread::sleep(Duration::from_millis(200));
            return match self.there()? {
                Some(_) => Ok(()),
                None => Err(StoreError::away(
                    self.link.settings().servers.join(", "),
                    "it is empty, and another node fills it",
                )),
            };
        }
        let mut images = Vec::new();
        image::all(connection, &mut |image| images.push(image)).map_err(broken)?;
        let header = header(connection).map_err(broken)?;
        if at.seq > 0 {
            tracing::error!(
                seq = at.seq,
                revision = header.revision,
                rows = images.len(),
                "the shared store was empty; it is filled from this node's copy"
            );
        }
        let audit_lines = u64::try_from(header.audit_seq).unwrap_or(0);
        let mut left: Vec<String> = image::buckets(audit_lines)
            .iter()
            .map(|bucket| self.link.name(bucket))
            .collect();
        left.extend([changed.clone(), self.link.name("log")]);
        self.link.call(0, |connection| {
            redis::cmd("DEL").arg(&left).query::<()>(connection)
        })?;
        for some in images.chunks(FILL_ROWS) {
            let mut pipe = redis::pipe();
            let mut bytes = 0;
            for image in some {
                bytes += image.text.len();
                pipe.hset(self.link.name(&image.bucket), &image.field, &image.text)
                    .ignore();
                pipe.hset(&changed, &image.bucket, at.seq).ignore();
            }
            self.link
                .call(bytes, |connection| pipe.query::<()>(connection))?;
        }
        let mut pipe = redis::pipe();
        pipe.atomic()
            .hset_multiple(
                &facts,
                &[
                    ("seq", at.seq.to_string()),
                    ("head", at.head.clone()),
                    ("header", text(&header)),
                ],
            )
            .ignore()
            .del(&turn)
            .ignore();
        self.link
            .call(0, |connection| pipe.query::<()>(connection))?;
        let transaction = connection.transaction().map_err(broken)?;
        remember(&transaction, &at, None, None).map_err(broken)?;
        transaction.commit().map_err(broken)
    }

    /// Everything of a store that was a node's own, into an empty shared one.
    pub(super) fn take_over(&mut self, connection: &mut Connection) -> Result<usize, StoreError> {
        if position(connection).map_err(broken)?.is_some() {
            return Err(self.unfit("the directory is a copy of a shared store already"));
        }
        if self.there()?.is_some() {
            return Err(self.unfit(
                "it is not empty: choose another redis_prefix, or empty it (redis-cli --scan --pattern 'PREFIX:*' | xargs redis-cli del)",
            ));
        }
        self.fill(connection, Position::default())?;
        self.compare(connection).inspect_err(|_| {
            // Not half a move: the directory stays a store of its own. What cannot be undone now is told by the error.
            let _ = detach(connection);
        })
    }

    /// This copy becomes a store of its own.
    pub(super) fn hand_over(
        &mut self,
        connection: &mut Connection,
        now: Wall,
    ) -> Result<usize, StoreError> {
        self.catch_up(connection, now)?;
        let rows = self.compare(connection)?;
        detach(connection).map_err(broken)?;
        Ok(rows)
    }

    /// How many rows the shared store and the copy have, if they have the same.
    fn compare(&mut self, connection: &Connection) -> Result<usize, StoreError> {
        let mut own = std::collections::HashSet::new();
        image::all(connection, &mut |image| {
            own.insert(image.text);
        })
        .map_err(broken)?;
        let mut there = 0;
        for bucket in self.link_buckets(None)? {
            for row in self.bucket(&bucket)? {
                there += 1;
                if !own.contains(&row) {
                    return Err(self.unfit("it holds a row that this directory has not"));
                }
            }
        }
        match there == own.len() {
            true => Ok(there),
            false => Err(self.unfit(&format!(
                "it holds {there} rows, and this directory {}",
                own.len()
            ))),
        }
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
}

/// Puts rows in and notes what they are about.
struct Seen<'a> {
    caught: &'a mut CaughtUp,
}

impl Seen<'_> {
    fn new(caught: &mut CaughtUp) -> Seen<'_> {
        caught.any = true;
        Seen { caught }
    }

    fn put(&mut self, transaction: &Transaction<'_>, row: &str) -> Result<(), String> {
        match image::put(transaction, row)? {
            About::Key(id) => match KeyId::parse(&id) {
                Ok(id) if !self.caught.keys.contains(&id) && self.caught.keys.len() < KEYS_MAX => {
                    self.caught.keys.push(id);
                }
                Ok(id) if self.caught.keys.contains(&id) => {}
                _ => self.caught.more = true,
            },
            About::Tenant | About::AdminToken | About::Denial => self.caught.more = true,
            About::Audit => {}
        }
        Ok(())
    }

    /// Only denials ever go.
    fn gone(&mut self, transaction: &Transaction<'_>, field: &str) -> rusqlite::Result<()> {
        self.caught.more = true;
        let parts: Vec<String> = serde_json::from_str(field).unwrap_or_default();
        if let [by, value, issuer] = parts.as_slice() {
            transaction.execute(
                "DELETE FROM denied_token WHERE denied_by = ?1 AND value = ?2 AND issuer = ?3",
                params![by, value, issuer],
            )?;
        }
        Ok(())
    }
}

/// How far the copy is; `None` for a file that never was one.
pub(super) fn position(connection: &Connection) -> rusqlite::Result<Option<Position>> {
    connection.query_row("SELECT seq, head FROM shared", [], |row| {
        let (seq, head): (Option<u64>, Option<String>) = (row.get(0)?, row.get(1)?);
        Ok(seq.map(|seq| Position {
            seq,
            head: head.unwrap_or_default(),
        }))
    })
}

/// What this node is called by the others.
pub(super) fn node_id(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("SELECT node FROM shared", [], |row| row.get(0))
}

/// When the shared store was last heard, as far as the file says.
pub(super) fn last_heard(connection: &Connection) -> rusqlite::Result<Wall> {
    let micros: i64 = connection.query_row("SELECT heard FROM shared", [], |row| row.get(0))?;
    Ok(Wall(u64::try_from(micros).unwrap_or(0)))
}

/// The file is no copy any more, but a store of its own.
fn detach(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("UPDATE shared SET seq = NULL, head = NULL; DELETE FROM shared_log")
}

fn heard(connection: &Connection, now: Wall) -> rusqlite::Result<()> {
    let before = last_heard(connection)?;
    if now.0 >= before.0.saturating_add(HEARD_MICROS) || now < before {
        connection.execute("UPDATE shared SET heard = ?1", [micros(now)])?;
    }
    Ok(())
}

fn is_untouched(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT revision = 0 FROM meta", [], |row| row.get(0))
}

fn revision(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT revision FROM meta", [], |row| row.get(0))
}

fn header(connection: &Connection) -> rusqlite::Result<Header> {
    connection.query_row(
        "SELECT revision, audit_seq, lower(hex(audit_hash)) FROM meta",
        [],
        |row| {
            Ok(Header {
                version: sqlite::VERSION,
                revision: row.get(0)?,
                audit_seq: row.get(1)?,
                audit_hash: row.get(2)?,
                buckets: Vec::new(),
            })
        },
    )
}

fn set_meta(connection: &Connection, header: &Header) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE meta SET revision = ?1, audit_seq = ?2, audit_hash = unhex(?3)",
        params![header.revision, header.audit_seq, header.audit_hash],
    )?;
    Ok(())
}

/// The copy is at `next` now.
fn remember(
    connection: &Connection,
    next: &Position,
    header: Option<&str>,
    rows: Option<&str>,
) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE shared SET seq = ?1, head = ?2",
        params![next.seq, next.head],
    )?;
    connection.execute(
        "INSERT OR REPLACE INTO shared_log (seq, head, header, rows) VALUES (?1, ?2, ?3, ?4)",
        params![next.seq, next.head, header, rows],
    )?;
    connection.execute(
        "DELETE FROM shared_log WHERE seq > ?1 OR seq + ?2 < ?1",
        params![next.seq, LOG_LINES_KEPT],
    )?;
    Ok(())
}

fn name_at(connection: &Connection, seq: u64) -> rusqlite::Result<Option<String>> {
    connection
        .query_row("SELECT head FROM shared_log WHERE seq = ?1", [seq], |row| {
            row.get(0)
        })
        .optional()
}

type Line = (u64, String, Option<String>, Option<String>);

fn lines_after(connection: &Connection, seq: u64) -> rusqlite::Result<Vec<Line>> {
    let mut statement = connection
        .prepare("SELECT seq, head, header, rows FROM shared_log WHERE seq > ?1 ORDER BY seq")?;
    let lines = statement.query_map([seq], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    lines.collect()
}

fn denials_before(
    transaction: &Transaction<'_>,
    writes: &[Write],
) -> rusqlite::Result<Option<Vec<Image>>> {
    match image::denials_changed(writes) {
        true => image::denials(transaction).map(Some),
        false => Ok(None),
    }
}

/// What came, and what went.
fn difference(before: Vec<Image>, after: Vec<Image>) -> Vec<Image> {
    let gone = before.iter().filter(|old| {
        let same = |new: &Image| new.field == old.field;
        !after.iter().any(same)
    });
    let gone: Vec<Image> = gone
        .map(|old| Image {
            text: String::new(),
            ..old.clone()
        })
        .collect();
    let new = after.into_iter().filter(|new| !before.contains(new));
    new.chain(gone).collect()
}

fn triples(images: &[Image]) -> Vec<(&str, &str, &str)> {
    let mut triples = Vec::with_capacity(images.len());
    for image in images {
        triples.push((
            image.bucket.as_str(),
            image.field.as_str(),
            image.text.as_str(),
        ));
    }
    triples
}

/// The rows of a line of the log with their buckets, as they would be written again.
fn kept(rows: &[String]) -> Vec<(String, String, String)> {
    let pairs = rows.chunks_exact(2);
    let with_bucket = pairs.map(|pair| {
        let bucket = image::bucket_of(&pair[0], &pair[1]);
        (bucket, pair[0].clone(), pair[1].clone())
    });
    with_bucket.collect()
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

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

/// Remembers what has ended in this copy, before the store's rows come over it.
const ENDED_HERE: &str = "
    CREATE TEMP TABLE IF NOT EXISTS ended_key (id TEXT PRIMARY KEY, status TEXT);
    CREATE TEMP TABLE IF NOT EXISTS ended_token (id TEXT PRIMARY KEY, revoked INTEGER);
    CREATE TEMP TABLE IF NOT EXISTS suspended (id TEXT PRIMARY KEY);
    DELETE FROM ended_key; DELETE FROM ended_token; DELETE FROM suspended;
    INSERT INTO ended_key SELECT id, status FROM api_key WHERE status != 'active';
    INSERT INTO ended_token SELECT id, revoked FROM admin_token WHERE revoked IS NOT NULL;
    INSERT INTO suspended SELECT id FROM tenant WHERE suspended = 1;";

/// And has it end again.
const END_AGAIN: &str = "
    UPDATE api_key SET status = (SELECT status FROM ended_key WHERE ended_key.id = api_key.id)
        WHERE id IN (SELECT id FROM ended_key) AND (status = 'active'
            OR (status = 'inactive' AND id IN (SELECT id FROM ended_key WHERE status IN ('revoked', 'deleted'))));
    UPDATE admin_token SET revoked = (SELECT revoked FROM ended_token WHERE ended_token.id = admin_token.id)
        WHERE revoked IS NULL AND id IN (SELECT id FROM ended_token);
    UPDATE tenant SET suspended = 1 WHERE id IN (SELECT id FROM suspended);";

/// Rows of one change that the log carries itself: Lua hands over no more than some thousands at once.
const INLINE_ROWS_MAX: usize = 1_000;
/// Keys whose entries are made anew one by one; beyond that the whole view is.
const KEYS_MAX: usize = 1_000;
/// Changes between two looks at where the store is.
const FOLLOW_LINES: usize = 256;
/// What an answer with so many may have.
const FOLLOW_BYTES: usize = 8 << 20;
const BUCKET_BYTES: usize = 4 << 20;
/// Rows written at once into an empty store.
const FILL_ROWS: usize = 1_000;
/// How long the others wait for a node that fills an empty store.
const FILLING_MILLIS: u32 = 60_000;
/// Changes that a copy can write again.
const LOG_LINES_KEPT: u64 = 10_000;
/// Attempts to catch up with a store that changes meanwhile.
const ROUNDS_MAX: usize = 1_000;
/// How exactly the file knows when the store was last heard.
const HEARD_MICROS: u64 = 60_000_000;
