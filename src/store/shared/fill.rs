//! An empty shared store, filled from a copy of it or from a node's own store; and the way back.

use std::collections::HashSet;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::TransactionBehavior;

use crate::clock::Wall;
use crate::store::StoreError;

use super::Position;
use super::Shared;
use super::broken;
use super::copy;
use super::image;
use super::image::Image;
use super::nonce;
use super::text;

impl Shared {
    /// Fills an empty store from this copy, or begins one.
    pub(super) fn seed(
        &mut self,
        connection: &mut Connection,
        at: Option<Position>,
    ) -> Result<(), StoreError> {
        if at.is_none() && !copy::is_untouched(connection).map_err(broken)? {
            return Err(self.unfit(
                "it is empty, and the directory of [store] path holds keys: `portcullis store migrate --from sqlite --to redis` brings them there",
            ));
        }
        let store = copy::store(connection).map_err(broken)?;
        let begins = at.is_none();
        self.fill(connection, &at.unwrap_or_default(), &store, begins)
    }

    /// Writes everything that the copy holds into an empty shared store, which begins at `at`. One node at a time: whoever loses its turn, since
    /// it was stopped meanwhile, writes nothing any more.
    fn fill(
        &mut self,
        connection: &mut Connection,
        at: &Position,
        store: &str,
        begins: bool,
    ) -> Result<(), StoreError> {
        let turn = nonce()?;
        if !self.take_turn(&turn)? {
            std::thread::sleep(Duration::from_millis(200));
            return match self.there()? {
                Some(_) => Ok(()),
                None => Err(self.away("it is empty, and another node fills it")),
            };
        }
        // Of one moment: a change of this copy waits.
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(broken)?;
        let header = copy::header(&transaction).map_err(broken)?;
        if at.seq > 0 {
            tracing::error!(
                seq = at.seq,
                revision = header.revision,
                "the shared store was empty; it is filled from this node's copy"
            );
        }
        let left = image::buckets(u64::try_from(header.audit_seq).unwrap_or(0));
        self.fill_some(&turn, at, "begin", &left)?;
        let mut images = Vec::new();
        image::all(&transaction, &mut |image| images.push(image)).map_err(broken)?;
        for some in images.chunks(FILL_ROWS) {
            self.fill_some(&turn, at, "rows", &words(some))?;
        }
        let end = [
            at.head.clone(),
            text(&header),
            store.to_owned(),
            nonce()?,
            i32::from(begins).to_string(),
        ];
        self.fill_some(&turn, at, "end", &end)?;
        if copy::position(&transaction).map_err(broken)?.is_none() {
            copy::remember(&transaction, at, None, None).map_err(broken)?;
        }
        transaction.commit().map_err(broken)
    }

    pub(super) fn take_turn(&mut self, turn: &str) -> Result<bool, StoreError> {
        let name = self.link.name("filling");
        let taken: Option<String> = self.link.call(0, |connection| {
            redis::cmd("SET")
                .arg(name)
                .arg(turn)
                .arg("NX")
                .arg("PX")
                .arg(FILLING_MILLIS)
                .query(connection)
        })?;
        Ok(taken.is_some())
    }

    pub(super) fn fill_some(
        &mut self,
        turn: &str,
        at: &Position,
        what: &str,
        words: &[String],
    ) -> Result<(), StoreError> {
        let keys = ["filling", "facts", "log", "changed", "", "beat"];
        let keys = keys.map(|rest| self.link.name(rest));
        let bytes = words.iter().map(String::len).sum();
        let mut ask = self.fill.prepare_invoke();
        for key in &keys {
            ask.key(key);
        }
        ask.arg(turn).arg(FILLING_MILLIS).arg(at.seq).arg(what);
        for word in words {
            ask.arg(word);
        }
        match self.link.call(bytes, |connection| ask.invoke(connection))? {
            1 => Ok(()),
            _ => Err(self.away("it was empty, and another node fills it instead of this one")),
        }
    }

    /// Everything of a store that was a node's own, into an empty shared one.
    pub(in crate::store) fn take_over(
        &mut self,
        connection: &mut Connection,
    ) -> Result<usize, StoreError> {
        if copy::position(connection).map_err(broken)?.is_some() {
            return Err(self.unfit("the directory is a copy of a shared store already"));
        }
        if self.there()?.is_some() {
            return Err(self.unfit(
                "it is not empty: choose another redis_prefix, or empty it (redis-cli --scan --pattern 'PREFIX:*' | xargs redis-cli del)",
            ));
        }
        let store = nonce()?;
        self.fill(connection, &Position::default(), &store, true)?;
        let compared = copy::note_store(connection, &store)
            .map_err(broken)
            .and_then(|()| self.compare(connection));
        compared.inspect_err(|_| {
            // Not half a move: the directory stays a store of its own. What cannot be undone now is told by the error.
            let _ = copy::detach(connection);
        })
    }

    /// This copy becomes a store of its own.
    pub(in crate::store) fn hand_over(
        &mut self,
        connection: &mut Connection,
        now: Wall,
    ) -> Result<usize, StoreError> {
        self.catch_up(connection, now)?;
        let rows = self.compare(connection)?;
        copy::detach(connection).map_err(broken)?;
        Ok(rows)
    }

    /// How many rows the shared store and the copy have, if they have the same.
    pub(super) fn compare(&mut self, connection: &Connection) -> Result<usize, StoreError> {
        let mut own = HashSet::new();
        image::all(connection, &mut |image| {
            own.insert(image.text);
        })
        .map_err(broken)?;
        let mut there = 0;
        for bucket in self.buckets()? {
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
}

fn words(images: &[Image]) -> Vec<String> {
    let mut words = Vec::with_capacity(images.len() * 3);
    for image in images {
        words.extend([
            image.bucket.clone(),
            image.field.clone(),
            image.text.clone(),
        ]);
    }
    words
}

/// Rows written at once into an empty store.
const FILL_ROWS: usize = 1_000;
/// How long the others wait for a node that fills an empty store, after the last rows that it wrote.
const FILLING_MILLIS: u32 = 60_000;
