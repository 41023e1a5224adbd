//! Brings the copy to where the shared store is: by the log of changes, or, where that has been cut, by whole buckets.

use rusqlite::Connection;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use rusqlite::params;

use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::store::StoreError;

use super::CaughtUp;
use super::FOLLOW_BYTES;
use super::Header;
use super::Position;
use super::Shared;
use super::There;
use super::broken;
use super::copy;
use super::image;
use super::image::About;
use super::image::Image;
use super::text;

impl Shared {
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

    fn catch_up_noting(
        &mut self,
        connection: &mut Connection,
        now: Wall,
        caught: &mut CaughtUp,
    ) -> Result<(), StoreError> {
        for _ in 0..ROUNDS_MAX {
            let at = copy::position(connection).map_err(broken)?;
            let there = self.there()?;
            if let (Some(_), Some(there)) = (&at, &there) {
                self.check_which(connection, there)?;
            }
            let there = there.map(|there| there.at);
            match (at, there) {
                (Some(at), Some(there)) if at == there => {
                    copy::heard(connection, now).map_err(broken)?;
                    return Ok(());
                }
                (at, None) => self.seed(connection, at)?,
                (None, Some(there)) => self.begin_copy(connection, &there, caught)?,
                (Some(at), Some(there)) if there.seq > at.seq => {
                    self.follow(connection, &at, &there, caught)?;
                }
                (Some(at), Some(there)) => {
                    let name = copy::name_at(connection, there.seq).map_err(broken)?;
                    match name == Some(there.head.clone()) {
                        true => self.replay(connection, &there, &at, caught)?,
                        false => self.merge(connection, &there, caught)?,
                    }
                }
            }
        }
        Err(self.away("it changes faster than this node can follow"))
    }

    /// Keys of two stores are never mixed because an address was wrong.
    fn check_which(&mut self, connection: &Connection, there: &There) -> Result<(), StoreError> {
        let known = copy::store(connection).map_err(broken)?;
        match (known.as_str(), there.store.as_str()) {
            (known, there) if known == there => Ok(()),
            ("", there) => copy::note_store(connection, there).map_err(broken),
            // A node with an empty directory began it before this one could fill it.
            (known, "") => {
                let facts = self.link.name("facts");
                self.link.call(0, |connection| {
                    redis::cmd("HSETNX")
                        .arg(facts)
                        .arg("store")
                        .arg(known)
                        .query(connection)
                })
            }
            _ => Err(self.unfit(
                "it is another store than the one that the directory of [store] path is a copy of: put redis_servers and redis_prefix right, or move the directory away to join this one (a store that was emptied by mistake and begun anew: empty it again, and the nodes fill it)",
            )),
        }
    }

    /// The first copy in an empty directory.
    fn begin_copy(
        &mut self,
        connection: &mut Connection,
        there: &Position,
        caught: &mut CaughtUp,
    ) -> Result<(), StoreError> {
        if !copy::is_untouched(connection).map_err(broken)? {
            return Err(self.unfit(
                "the directory of [store] path holds keys of its own that the shared store has never seen: `portcullis store migrate --from sqlite --to redis` into an empty one, or move the directory away",
            ));
        }
        let changed = self.buckets()?;
        self.read_anew(connection, there, &changed, caught)
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
        let next = first.as_ref().filter(|(_, fields)| has_header(fields));
        if next.map(|(seq, _)| *seq) != Some(at.seq + 1) {
            // All of them: where the log says no more how this copy's last change was called, it may be of another history.
            let all = self.buckets()?;
            return self.read_anew(connection, there, &all, caught);
        }
        for (seq, fields) in first.into_iter().chain(lines) {
            if !self.take_in(connection, seq, &fields, caught)? {
                return self.merge(connection, there, caught);
            }
        }
        Ok(())
    }

    /// One change of another node; `false` where it is of another history than this copy.
    fn take_in(
        &mut self,
        connection: &mut Connection,
        seq: u64,
        fields: &[String],
        caught: &mut CaughtUp,
    ) -> Result<bool, StoreError> {
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
        if read.buckets.iter().any(|bucket| bucket == image::DENIALS) {
            seen.forget_denials(&transaction).map_err(broken)?;
        }
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
        if seen.undone {
            return Ok(false);
        }
        let inline = read.buckets.is_empty();
        let kept = kept(&transaction, rows, &read).map_err(broken)?;
        copy::set_meta(&transaction, &read).map_err(broken)?;
        let kept = inline.then(|| text(&copy::triples(&kept)));
        let header = inline.then_some(header.as_str());
        copy::remember(&transaction, &next, header, kept.as_deref()).map_err(broken)?;
        transaction.commit().map_err(broken)?;
        Ok(true)
    }

    /// Reads whole buckets. Rows of keys and tenants are only ever added to or replaced: what is missing there stays here.
    fn read_anew(
        &mut self,
        connection: &mut Connection,
        there: &Position,
        changed: &[String],
        caught: &mut CaughtUp,
    ) -> Result<(), StoreError> {
        let header = self.last_header()?;
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(broken)?;
        let mut seen = Seen::new(caught);
        seen.caught.more = true;
        // One bucket after the other: a store of a million keys is never in memory as a whole.
        for bucket in changed {
            let rows = self.bucket(bucket)?;
            if bucket == image::DENIALS {
                seen.forget_denials(&transaction).map_err(broken)?;
            }
            for row in &rows {
                seen.put(&transaction, row)
                    .map_err(|why| self.unfit(&why))?;
            }
        }
        let undone = seen.undone;
        if !self.is_still_at(there)? {
            return Ok(());
        }
        if undone {
            drop(transaction);
            return self.merge(connection, there, caught);
        }
        if let Some(header) = header {
            copy::set_meta(&transaction, &header).map_err(broken)?;
        }
        copy::remember(&transaction, there, None, None).map_err(broken)?;
        transaction.commit().map_err(broken)
    }
}

/// A line of the log with the change itself; without, it is where a store began that was filled.
fn has_header(fields: &[String]) -> bool {
    fields.get(3).is_some_and(|header| !header.is_empty())
}

/// The rows of a line of the log with their buckets, as they would be written again; before its header is put into the copy.
fn kept(
    transaction: &Transaction<'_>,
    rows: &[String],
    header: &Header,
) -> rusqlite::Result<Vec<Image>> {
    let mut images: Vec<Image> = rows
        .chunks_exact(2)
        .map(|pair| Image {
            bucket: image::bucket_of(&pair[0], &pair[1]),
            field: pair[0].clone(),
            text: pair[1].clone(),
        })
        .collect();
    let first = copy::header(transaction)?.audit_first;
    if first > 0 {
        images.extend((first..header.audit_first).map(Image::of_gone_line));
    }
    Ok(images)
}

/// Puts rows in and notes what they are about.
pub(super) struct Seen<'a> {
    pub(super) caught: &'a mut CaughtUp,
    /// Whether a row would bring back what has ended here, or has the text of another key: then the store's history is not this copy's.
    undone: bool,
}

impl Seen<'_> {
    pub(super) fn new(caught: &mut CaughtUp) -> Seen<'_> {
        caught.any = true;
        Seen {
            caught,
            undone: false,
        }
    }

    fn put(&mut self, transaction: &Transaction<'_>, row: &str) -> Result<(), String> {
        let read = image::Read::of(row)?;
        let failed = |error: rusqlite::Error| error.to_string();
        self.undone = self.undone
            || read.undoes_an_end(transaction).map_err(failed)?
            || read.twin(transaction).map_err(failed)?.is_some();
        match self.undone {
            true => Ok(()),
            false => self.put_read(transaction, &read),
        }
    }

    pub(super) fn put_read(
        &mut self,
        transaction: &Transaction<'_>,
        read: &image::Read,
    ) -> Result<(), String> {
        match image::put(transaction, read)? {
            About::Key(id) => match KeyId::parse(&id) {
                Ok(id) if self.caught.keys.contains(&id) => {}
                Ok(id) if self.caught.keys.len() < KEYS_MAX => self.caught.keys.push(id),
                _ => self.caught.more = true,
            },
            About::Tenant | About::AdminToken | About::Denial => self.caught.more = true,
            About::Audit => {}
        }
        Ok(())
    }

    fn forget_denials(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        self.caught.more = true;
        transaction.execute("DELETE FROM denied_token", [])?;
        Ok(())
    }

    /// A denial that is no more.
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

/// Keys whose entries are made anew one by one; beyond that the whole view is.
const KEYS_MAX: usize = 1_000;
/// Changes between two looks at where the store is; so few that their rows come within `redis_timeout`.
const FOLLOW_LINES: usize = 32;
/// Attempts to catch up with a store that changes meanwhile; more than its log has lines.
const ROUNDS_MAX: usize = 10_000;
