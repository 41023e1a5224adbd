//! A change of the shared store: one script that takes it whole, or says that another node was first.

use std::collections::HashMap;

use rusqlite::Connection;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;

use crate::clock::Wall;
use crate::store::StoreError;
use crate::store::audit;
use crate::store::audit::Act;
use crate::store::audit::Keep;
use crate::store::audit::Pruned;
use crate::store::audit::Written;
use crate::store::sqlite;
use crate::store::sqlite::Write;

use super::Position;
use super::Shared;
use super::broken;
use super::copy;
use super::image;
use super::image::Image;
use super::nonce;
use super::text;

/// What became of an attempt.
pub(super) enum Attempt {
    Done(Position),
    Behind,
}

impl Shared {
    /// Makes one change in the shared store and in the copy. `Behind` when another node was first: catch up, judge anew, try again.
    ///
    /// # Errors
    /// Nothing was changed in the copy; after `Away` nobody knows what became of it in the shared store, until that is heard again.
    pub(in crate::store) fn commit(
        &mut self,
        connection: &mut Connection,
        writes: &[Write],
        act: Option<&Act>,
    ) -> Result<(u64, Option<Written>), StoreError> {
        let at = self.own_position(connection)?;
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

    /// Lets go of the oldest lines of the audit log, for all nodes. By the store's clock too: a node whose own runs ahead finds nothing old
    /// that is young.
    ///
    /// # Errors
    /// As `commit`.
    pub(in crate::store) fn prune_audit(
        &mut self,
        connection: &mut Connection,
        keep: Keep,
        now: Wall,
    ) -> Result<Pruned, StoreError> {
        let at = self.own_position(connection)?;
        let (seconds, micros): (u64, u64) = self
            .link
            .call(0, |connection| redis::cmd("TIME").query(connection))?;
        let now = now.min(Wall(
            seconds.saturating_mul(1_000_000).saturating_add(micros),
        ));
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(broken)?;
        let revision = copy::revision(&transaction).map_err(broken)?;
        let first = copy::header(&transaction).map_err(broken)?.audit_first;
        let pruned = audit::prune(&transaction, keep, now, revision).map_err(broken)?;
        let Pruned::Gone(_, written) = &pruned else {
            return Ok(pruned);
        };
        let mut images = image::touched(&transaction, &[], Some(written.seq)).map_err(broken)?;
        let kept = copy::header(&transaction).map_err(broken)?.audit_first;
        images.extend((first..kept).map(Image::of_gone_line));
        self.publish(transaction, &at, &images)?;
        Ok(pruned)
    }

    fn own_position(&self, connection: &Connection) -> Result<Position, StoreError> {
        copy::position(connection)
            .map_err(broken)?
            .ok_or_else(|| self.unfit("this node has never heard it"))
    }

    /// The images of one change to the shared store, and then the copy's transaction to the disk.
    pub(super) fn publish(
        &mut self,
        transaction: Transaction<'_>,
        at: &Position,
        images: &[Image],
    ) -> Result<(), StoreError> {
        if images.len() > CHANGE_ROWS_MAX {
            return Err(self.unfit(&format!(
                "one change of {} rows would hold up all nodes: {CHANGE_ROWS_MAX} are allowed at once; do it in parts",
                images.len()
            )));
        }
        let mut header = copy::header(&transaction).map_err(broken)?;
        let inline = is_inline(images);
        if !inline {
            header.buckets = image::buckets_of(images);
        }
        let header = text(&header);
        let name = nonce()?;
        let next = match self.attempt(at, &name, &header, images)? {
            Attempt::Behind => return Err(StoreError::Behind),
            Attempt::Done(next) => next,
        };
        // What is too much for the log is too much here: where that is lost, histories are brought together instead.
        let rows = inline.then(|| text(&copy::triples(images)));
        let header = rows.is_some().then_some(header.as_str());
        copy::remember(&transaction, &next, header, rows.as_deref()).map_err(broken)?;
        if at.seq == 0 && copy::store(&transaction).map_err(broken)?.is_empty() {
            copy::note_store(&transaction, &name).map_err(broken)?;
        }
        transaction.commit().map_err(broken)
    }

    /// Twice at most: the second time finds out what became of the first.
    pub(super) fn attempt(
        &mut self,
        at: &Position,
        name: &str,
        header: &str,
        images: &[Image],
    ) -> Result<Attempt, StoreError> {
        match self.attempt_once(at, name, header, images) {
            Err(StoreError::Away { .. }) => self.attempt_once(at, name, header, images),
            known => known,
        }
    }

    fn attempt_once(
        &mut self,
        at: &Position,
        name: &str,
        header: &str,
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
            .arg(i32::from(is_inline(images)));
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
}

/// Whether the log carries the rows itself. Lines of the audit log that go it never does: the header says which are kept.
pub(super) fn is_inline(images: &[Image]) -> bool {
    let carried = images.iter().filter(|image| !image.is_gone_line());
    carried.count() <= INLINE_ROWS_MAX
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

/// What came, and what went. There may be a hundred thousand of each.
fn difference(before: Vec<Image>, after: Vec<Image>) -> Vec<Image> {
    let mut old: HashMap<String, Image> = HashMap::with_capacity(before.len());
    for image in before {
        old.insert(image.field.clone(), image);
    }
    let mut changed = Vec::new();
    for image in after {
        if old.remove(&image.field).as_ref() != Some(&image) {
            changed.push(image);
        }
    }
    let gone = old.into_values().map(|image| Image {
        text: String::new(),
        ..image
    });
    changed.extend(gone);
    changed
}

/// Rows of one change that the log carries itself: the log is read a few changes at a time, and kept for thousands.
const INLINE_ROWS_MAX: usize = 250;
/// Rows of one change; Redis does nothing else while it takes them, some 2 us each.
const CHANGE_ROWS_MAX: usize = 200_000;
