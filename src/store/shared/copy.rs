//! What this node's file says of itself as a copy: how far it is, of which store, and the last changes, to write them again.

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::params;

use crate::clock::Wall;
use crate::store::rows::micros;
use crate::store::sqlite;

use super::Header;
use super::Position;
use super::image::Image;

/// How far the copy is; `None` for a file that never was one.
pub(in crate::store) fn position(connection: &Connection) -> rusqlite::Result<Option<Position>> {
    connection.query_row("SELECT seq, head FROM shared", [], |row| {
        let (seq, head): (Option<u64>, Option<String>) = (row.get(0)?, row.get(1)?);
        Ok(seq.map(|seq| Position {
            seq,
            head: head.unwrap_or_default(),
        }))
    })
}

/// What this node is called by the others.
pub(in crate::store) fn node_id(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("SELECT node FROM shared", [], |row| row.get(0))
}

/// From now on it is called something else: the file is a copy of another node's.
pub(in crate::store) fn take_new_id(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE shared SET node = lower(hex(randomblob(6)))", [])?;
    Ok(())
}

/// When the shared store was last heard, as far as the file says.
pub(in crate::store) fn last_heard(connection: &Connection) -> rusqlite::Result<Wall> {
    let micros: i64 = connection.query_row("SELECT heard FROM shared", [], |row| row.get(0))?;
    Ok(Wall(u64::try_from(micros).unwrap_or(0)))
}

/// How many nodes shared the store when it was last heard; 0 is not known.
pub(in crate::store) fn peers(connection: &Connection) -> rusqlite::Result<usize> {
    connection.query_row("SELECT peers FROM shared", [], |row| row.get(0))
}

/// So many do now.
pub(in crate::store) fn note_peers(connection: &Connection, peers: usize) -> rusqlite::Result<()> {
    connection.execute("UPDATE shared SET peers = ?1", [peers])?;
    Ok(())
}

/// Which store it is a copy of; empty where that is not known yet.
pub(super) fn store(connection: &Connection) -> rusqlite::Result<String> {
    let name: Option<String> =
        connection.query_row("SELECT store FROM shared", [], |row| row.get(0))?;
    Ok(name.unwrap_or_default())
}

/// It is a copy of this one.
pub(super) fn note_store(connection: &Connection, store: &str) -> rusqlite::Result<()> {
    connection.execute("UPDATE shared SET store = ?1", [store])?;
    Ok(())
}

/// The file is no copy any more, but a store of its own.
pub(super) fn detach(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "UPDATE shared SET seq = NULL, head = NULL, store = NULL, peers = 0; DELETE FROM shared_log",
    )
}

/// The shared store was heard now; written once a minute.
pub(super) fn heard(connection: &Connection, now: Wall) -> rusqlite::Result<()> {
    let before = last_heard(connection)?;
    if now.0 >= before.0.saturating_add(HEARD_MICROS) || now < before {
        connection.execute("UPDATE shared SET heard = ?1", [micros(now)])?;
    }
    Ok(())
}

pub(super) fn is_untouched(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT revision = 0 FROM meta", [], |row| row.get(0))
}

pub(super) fn revision(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT revision FROM meta", [], |row| row.get(0))
}

/// What stands in `meta`, as it stands beside the rows of a change.
pub(super) fn header(connection: &Connection) -> rusqlite::Result<Header> {
    connection.query_row(
        "SELECT revision, audit_seq, lower(hex(audit_hash)), (SELECT coalesce(min(seq), 0) FROM audit) FROM meta",
        [],
        |row| {
            Ok(Header {
                version: sqlite::VERSION,
                revision: row.get(0)?,
                audit_seq: row.get(1)?,
                audit_hash: row.get(2)?,
                audit_first: row.get(3)?,
                buckets: Vec::new(),
            })
        },
    )
}

/// And the other way; lines of the audit log that are kept no more go.
pub(super) fn set_meta(connection: &Connection, header: &Header) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE meta SET revision = ?1, audit_seq = ?2, audit_hash = unhex(?3)",
        params![header.revision, header.audit_seq, header.audit_hash],
    )?;
    connection.execute("DELETE FROM audit WHERE seq < ?1", [header.audit_first])?;
    Ok(())
}

/// Whether the audit log of the copy begins with the one that this header ends.
pub(super) fn audit_goes_on(connection: &Connection, header: &Header) -> rusqlite::Result<bool> {
    let sql = "SELECT lower(hex(hash)) FROM audit WHERE seq = ?1";
    let hash: Option<String> = connection
        .query_row(sql, [header.audit_seq], |row| row.get(0))
        .optional()?;
    Ok(header.audit_seq == 0 || hash.as_deref() == Some(header.audit_hash.as_str()))
}

/// The copy is at `next` now.
pub(super) fn remember(
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

/// The name of change `seq`, as far back as the file remembers.
pub(super) fn name_at(connection: &Connection, seq: u64) -> rusqlite::Result<Option<String>> {
    connection
        .query_row("SELECT head FROM shared_log WHERE seq = ?1", [seq], |row| {
            row.get(0)
        })
        .optional()
}

/// A change: its number, its name, its header and its rows, where those were seen.
pub(super) type Line = (u64, String, Option<String>, Option<String>);

pub(super) fn lines_after(connection: &Connection, seq: u64) -> rusqlite::Result<Vec<Line>> {
    let mut statement = connection
        .prepare("SELECT seq, head, header, rows FROM shared_log WHERE seq > ?1 ORDER BY seq")?;
    let lines = statement.query_map([seq], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    lines.collect()
}

/// Rows as `shared_log` keeps them: each with its bucket and its field.
pub(super) fn triples(images: &[Image]) -> Vec<(&str, &str, &str)> {
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

/// Changes that a copy can write again.
const LOG_LINES_KEPT: u64 = 10_000;
/// How exactly the file knows when the store was last heard.
const HEARD_MICROS: u64 = 60_000_000;
