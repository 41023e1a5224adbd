//! One row for each key and each hour in which it did something.

use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params;

use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::store::counters::key_text;
use crate::store::counters::parse_key;
use crate::store::counters::tables::signed;
use crate::store::history::HOURS_KEPT;
use crate::store::history::HourRow;
use crate::store::history::LATENCY_BUCKETS;
use crate::store::history::Tally;
use crate::store::history::hour_of;

/// A key's 2,160 hours take some 150 KiB when it was used in each.
pub(in crate::store) const SCHEMA: &str = "
CREATE TABLE usage_hour(
  hour INTEGER NOT NULL,
  key_id TEXT NOT NULL,
  last_used_unix INTEGER NOT NULL,
  success INTEGER NOT NULL,
  client_error INTEGER NOT NULL,
  server_error INTEGER NOT NULL,
  refused INTEGER NOT NULL,
  received_bytes INTEGER NOT NULL,
  sent_bytes INTEGER NOT NULL,
  latency_0 INTEGER NOT NULL,
  latency_1 INTEGER NOT NULL,
  latency_2 INTEGER NOT NULL,
  latency_3 INTEGER NOT NULL,
  latency_4 INTEGER NOT NULL,
  latency_5 INTEGER NOT NULL,
  PRIMARY KEY(hour, key_id)
) STRICT, WITHOUT ROWID;
";

pub(super) const SUMS: &str = "max(last_used_unix), sum(success), sum(client_error), sum(server_error), sum(refused), \
     sum(received_bytes), sum(sent_bytes), sum(latency_0), sum(latency_1), sum(latency_2), sum(latency_3), \
     sum(latency_4), sum(latency_5)";

/// Adds what was done.
pub(in crate::store) fn add(
    transaction: &Transaction<'_>,
    rows: &[HourRow],
) -> rusqlite::Result<()> {
    let mut add = transaction.prepare_cached(
        "INSERT INTO usage_hour VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT(hour, key_id) DO UPDATE SET
           last_used_unix = max(last_used_unix, excluded.last_used_unix),
           success = success + excluded.success,
           client_error = client_error + excluded.client_error,
           server_error = server_error + excluded.server_error,
           refused = refused + excluded.refused,
           received_bytes = received_bytes + excluded.received_bytes,
           sent_bytes = sent_bytes + excluded.sent_bytes,
           latency_0 = latency_0 + excluded.latency_0,
           latency_1 = latency_1 + excluded.latency_1,
           latency_2 = latency_2 + excluded.latency_2,
           latency_3 = latency_3 + excluded.latency_3,
           latency_4 = latency_4 + excluded.latency_4,
           latency_5 = latency_5 + excluded.latency_5",
    )?;
    for row in rows {
        let tally = &row.tally;
        let [l0, l1, l2, l3, l4, l5] = tally.latency.map(signed);
        add.execute(params![
            row.hour,
            key_text(row.key),
            signed(tally.last_used_unix_seconds),
            signed(tally.success),
            signed(tally.client_error),
            signed(tally.server_error),
            signed(tally.refused),
            signed(tally.received_bytes),
            signed(tally.sent_bytes),
            l0,
            l1,
            l2,
            l3,
            l4,
            l5,
        ])?;
    }
    Ok(())
}

/// Lets go of one hour that is too old, where there is one.
pub(in crate::store) fn let_go(transaction: &Transaction<'_>, now: Wall) -> rusqlite::Result<()> {
    let oldest_kept = hour_of(now).saturating_sub(HOURS_KEPT);
    // One hour at a time: a gateway that was off for long catches up in as many saves, and none of them takes long.
    transaction
        .prepare_cached(
            "DELETE FROM usage_hour WHERE hour < ?1 AND hour = (SELECT min(hour) FROM usage_hour)",
        )?
        .execute([oldest_kept])?;
    Ok(())
}

pub(super) fn key_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<KeyId>> {
    Ok(parse_key(row.get_ref(column)?.as_str()?))
}

pub(super) fn tally(row: &Row<'_>, first: usize) -> rusqlite::Result<Tally> {
    let number = |place: usize| -> rusqlite::Result<u64> {
        let number: i64 = row.get(first + place)?;
        Ok(u64::try_from(number).unwrap_or(0))
    };
    let mut latency = [0; LATENCY_BUCKETS];
    for (bucket, count) in latency.iter_mut().enumerate() {
        *count = number(7 + bucket)?;
    }
    Ok(Tally {
        last_used_unix_seconds: number(0)?,
        success: number(1)?,
        client_error: number(2)?,
        server_error: number(3)?,
        refused: number(4)?,
        received_bytes: number(5)?,
        sent_bytes: number(6)?,
        latency,
    })
}
