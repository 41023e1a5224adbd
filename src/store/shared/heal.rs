//! What a failover lost: written again by whoever has it; where two histories have parted, what either of them ended has ended.

use std::collections::HashSet;

use rusqlite::Connection;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use rusqlite::params;

use crate::store::StoreError;

use super::CaughtUp;
use super::Header;
use super::Position;
use super::Shared;
use super::broken;
use super::change::Attempt;
use super::change::is_inline;
use super::copy;
use super::follow::Seen;
use super::image;
use super::image::Image;
use super::nonce;
use super::text;

impl Shared {
    /// Writes again what the shared store lost: it stands at `there`, which this copy has passed.
    pub(super) fn replay(
        &mut self,
        connection: &mut Connection,
        there: &Position,
        at: &Position,
        caught: &mut CaughtUp,
    ) -> Result<(), StoreError> {
        let lost = copy::lines_after(connection, there.seq).map_err(broken)?;
        tracing::error!(
            from = there.seq + 1,
            to = at.seq,
            "the shared store has lost changes; this node writes them again"
        );
        let mut last = there.clone();
        for (seq, name, header, rows) in lost {
            let (Some(header), Some(rows)) = (header, rows) else {
                return self.merge(connection, &last, caught);
            };
            if seq != last.seq + 1 {
                return self.merge(connection, &last, caught);
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
            match self.attempt(&last, &name, &header, &images)? {
                Attempt::Done(next) => last = next,
                // Another node does the same.
                Attempt::Behind => return Ok(()),
            }
        }
        Ok(())
    }

    /// Brings two histories together: the store's, and what this copy has beside it. What one of them ended has ended.
    pub(super) fn merge(
        &mut self,
        connection: &mut Connection,
        there: &Position,
        caught: &mut CaughtUp,
    ) -> Result<(), StoreError> {
        tracing::error!(
            seq = there.seq,
            "the shared store has another history than this node, after a failover that lost changes: what either of them ended has ended, what else was changed here meanwhile is lost"
        );
        let mut rows = HashSet::new();
        for bucket in &self.buckets()? {
            rows.extend(self.bucket(bucket)?);
        }
        let Some(header) = self.last_header()? else {
            return Err(self.unfit("it does not say how far it is"));
        };
        if !self.is_still_at(there)? {
            return Ok(());
        }
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(broken)?;
        let own = copy::header(&transaction).map_err(broken)?;
        let goes_on = copy::audit_goes_on(&transaction, &header).map_err(broken)?;
        bring_together(&transaction, &rows, caught).map_err(|why| self.unfit(&why))?;
        let revision = own.revision.max(header.revision) + 1;
        // Of two logs of administrators' acts the store's stays, unless this one begins with it.
        let kept = if goes_on { own } else { header };
        let newest = params![kept.audit_seq];
        let cut = transaction.execute("DELETE FROM audit WHERE seq > ?1", newest);
        cut.map_err(broken)?;
        copy::set_meta(&transaction, &Header { revision, ..kept }).map_err(broken)?;
        let mut images = Vec::new();
        image::all(&transaction, &mut |image| {
            if !rows.contains(&image.text) {
                images.push(image);
            }
        })
        .map_err(broken)?;
        drop(rows);
        self.publish_parts(transaction, there, &images)
    }

    /// As many changes as it takes; this copy has all of them, or none.
    fn publish_parts(
        &mut self,
        transaction: Transaction<'_>,
        there: &Position,
        images: &[Image],
    ) -> Result<(), StoreError> {
        let mut header = copy::header(&transaction).map_err(broken)?;
        let mut last = there.clone();
        // A change of nothing too: it says that this node's history is the store's from here on.
        let parts = images
            .chunks(PART_ROWS)
            .chain(images.is_empty().then_some(images));
        for part in parts {
            header.buckets = match is_inline(part) {
                true => Vec::new(),
                false => image::buckets_of(part),
            };
            match self.attempt(&last, &nonce()?, &text(&header), part)? {
                Attempt::Done(next) => last = next,
                Attempt::Behind => return Ok(()),
            }
        }
        copy::remember(&transaction, &last, None, None).map_err(broken)?;
        transaction.commit().map_err(broken)
    }
}

/// Puts the store's rows over those of the copy, and has end again what had ended in it.
fn bring_together(
    transaction: &Transaction<'_>,
    rows: &HashSet<String>,
    caught: &mut CaughtUp,
) -> Result<(), String> {
    let failed = |error: rusqlite::Error| error.to_string();
    transaction.execute_batch(ENDED_HERE).map_err(failed)?;
    let mut seen = Seen::new(caught);
    seen.caught.more = true;
    for row in rows {
        let read = image::Read::of(row)?;
        if let Some(twin) = read.twin(transaction).map_err(failed)? {
            // The same text under two ids: the store's stays, and has ended if the other has.
            let gone = "DELETE FROM api_key WHERE id = ?1";
            transaction.execute(gone, [&twin.id]).map_err(failed)?;
            let texts = "UPDATE retired_digest SET key_id = ?1 WHERE key_id = ?2";
            transaction
                .execute(texts, [&twin.of, &twin.id])
                .map_err(failed)?;
            let ended = "INSERT OR REPLACE INTO ended_key SELECT ?1, ?2 WHERE ?2 != 'active'";
            transaction
                .execute(ended, [&twin.of, &twin.status])
                .map_err(failed)?;
        }
        seen.put_read(transaction, &read)?;
    }
    transaction.execute_batch(END_AGAIN).map_err(failed)
}

/// Remembers what has ended in this copy, before the store's rows come over it.
const ENDED_HERE: &str = "
    CREATE TEMP TABLE IF NOT EXISTS ended_key (id TEXT PRIMARY KEY, status TEXT);
    CREATE TEMP TABLE IF NOT EXISTS ended_token (id TEXT PRIMARY KEY, revoked INTEGER);
    CREATE TEMP TABLE IF NOT EXISTS suspended (id TEXT PRIMARY KEY);
    CREATE TEMP TABLE IF NOT EXISTS new_text (id TEXT PRIMARY KEY, digest BLOB, prefix TEXT, last_four TEXT);
    CREATE TEMP TABLE IF NOT EXISTS ended_text (digest BLOB PRIMARY KEY, key_id TEXT, retired INTEGER, valid_until INTEGER);
    DELETE FROM ended_key; DELETE FROM ended_token; DELETE FROM suspended; DELETE FROM new_text; DELETE FROM ended_text;
    INSERT INTO ended_key SELECT id, status FROM api_key WHERE status != 'active';
    INSERT INTO ended_token SELECT id, revoked FROM admin_token WHERE revoked IS NOT NULL;
    INSERT INTO suspended SELECT id FROM tenant WHERE suspended = 1;
    INSERT INTO new_text SELECT id, digest, prefix, last_four FROM api_key WHERE id IN (SELECT key_id FROM retired_digest);
    INSERT INTO ended_text SELECT digest, key_id, retired, valid_until FROM retired_digest;";

/// And has it end again. A text that was regenerated here goes on with the new one: the old one may be in wrong hands.
const END_AGAIN: &str = "
    UPDATE api_key SET status = (SELECT status FROM ended_key WHERE ended_key.id = api_key.id)
        WHERE id IN (SELECT id FROM ended_key) AND (status = 'active'
            OR (status = 'inactive' AND id IN (SELECT id FROM ended_key WHERE status IN ('revoked', 'deleted'))));
    UPDATE admin_token SET revoked = (SELECT revoked FROM ended_token WHERE ended_token.id = admin_token.id)
        WHERE revoked IS NULL AND id IN (SELECT id FROM ended_token);
    UPDATE tenant SET suspended = 1 WHERE id IN (SELECT id FROM suspended);
    UPDATE api_key SET (digest, prefix, last_four) = (SELECT digest, prefix, last_four FROM new_text WHERE new_text.id = api_key.id)
        WHERE digest IN (SELECT digest FROM ended_text WHERE ended_text.key_id = api_key.id);
    UPDATE api_key SET status = 'revoked'
        WHERE status NOT IN ('revoked', 'deleted') AND digest IN (SELECT digest FROM ended_text);
    UPDATE retired_digest SET valid_until = (SELECT min(ended_text.valid_until, retired_digest.valid_until) FROM ended_text WHERE ended_text.digest = retired_digest.digest)
        WHERE digest IN (SELECT digest FROM ended_text);";

/// Rows of one change of many; so few in tests that there are many.
const PART_ROWS: usize = if cfg!(test) { 2 } else { 50_000 };
