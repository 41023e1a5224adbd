//! The file itself: made whole, opened only when it is whole, brought to the schema that this build writes.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::OpenFlags;
use rusqlite::TransactionBehavior;

use crate::store::error::StoreError;
use crate::store::lock::own_like_directory;

/// What brings `keys.db` from version N to N + 1; version 1 makes it.
pub(super) const MIGRATIONS: [&str; 7] = [
    include_str!("schema.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
    include_str!("schema_6.sql"),
    include_str!("schema_7.sql"),
];

/// The version of the schema that this build writes.
pub(in crate::store) const VERSION: usize = MIGRATIONS.len();

/// Makes `keys.db` under another name and moves it there whole: an empty or half-made `keys.db` is then always damage, never a new store.
pub(super) fn create(directory: &Path, file: &Path) -> Result<(), StoreError> {
    let fresh = directory.join("keys.db.new");
    let io = |error| StoreError::from_io(&fresh, error);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(io)?;
    own_like_directory(directory, &fresh).map_err(io)?;
    let sqlite = |error| StoreError::from_sqlite(&fresh, error);
    let mut connection = connect(&fresh).map_err(sqlite)?;
    migrate(&mut connection).map_err(sqlite)?;
    connection
        .close()
        .map_err(|(_connection, error)| sqlite(error))?;
    fs::rename(&fresh, file).map_err(io)?;
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|error| StoreError::from_io(directory, error))
}

pub(super) fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    // The lock keeps other writers out; a reader such as the sqlite3 shell may still stand in the way for a moment.
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

pub(super) fn settings(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_row| Ok(()))?;
    // FULL: a revocation that was answered is on the disk, not only on its way there.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "trusted_schema", false)
}

pub(super) fn check_version(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    let found = version_of(connection).map_err(|error| StoreError::from_sqlite(file, error))?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::Newer {
            path: file.to_owned(),
            found,
            known,
        });
    }
    if found < 1 {
        return Err(StoreError::Damaged {
            path: file.to_owned(),
            what: "it holds no schema version".to_owned(),
        });
    }
    Ok(())
}

pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let found = version_of(connection)?;
    for (done, migration) in MIGRATIONS.iter().enumerate() {
        let version = done as i64 + 1;
        if version > found {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()?;
        }
    }
    Ok(())
}

pub(super) fn version_of(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}
