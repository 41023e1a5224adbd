//! Whether a database file is whole, found out before a byte of it is written.

use rusqlite::Connection;
use rusqlite::config::DbConfig;

/// Looks at every page of the file; what is wrong, if anything is. A million keys take a few tenths of a second. SQLite alone finds a
/// broken page only when it needs it: an index long after the start, in the middle of a revocation.
///
/// # Errors
/// The file cannot be read at all.
pub(super) fn damage(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((verdict != "ok").then(|| verdict.replace('\n', " ")))
}

/// Says whether closing the file may still write what its log holds: not to one that is not known to be whole.
///
/// # Errors
/// SQLite refuses, which it does not.
pub(super) fn leave_alone(connection: &Connection, alone: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, alone)?;
    Ok(())
}
