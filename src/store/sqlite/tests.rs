//! A store in a directory of its own: new, old, damaged, in use.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;

use super::Store;
use super::Write;
use super::file::MIGRATIONS;
use super::file::version_of;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::store::error::StoreError;

fn sql(directory: &Path, statement: &str) {
    let connection = Connection::open(directory.join("keys.db")).unwrap();
    connection.execute_batch(statement).unwrap();
}

#[test]
fn a_new_store_is_empty_and_for_its_owner_alone() {
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("state");
    let store = Store::open(&directory).unwrap();
    let contents = store.load().unwrap();
    assert_eq!(contents.revision, 0);
    assert!(contents.keys.is_empty() && contents.tenants.is_empty());
    for entry in fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
    let mode: String = store
        .connection
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
    let synchronous: i64 = store
        .connection
        .pragma_query_value(None, "synchronous", |row| row.get(0))
        .unwrap();
    assert_eq!(synchronous, 2, "FULL");
}

#[test]
fn a_second_open_is_refused_while_the_first_lives() {
    let base = tempfile::tempdir().unwrap();
    let first = Store::open(base.path()).unwrap();
    let error = Store::open(base.path()).unwrap_err();
    assert!(error.is_in_use(), "{error}");
    drop(first);
    Store::open(base.path()).unwrap();
}

#[test]
fn a_store_of_a_later_version_is_refused_naming_both_versions() {
    let base = tempfile::tempdir().unwrap();
    drop(Store::open(base.path()).unwrap());
    let later = MIGRATIONS.len() + 1;
    sql(base.path(), &format!("PRAGMA user_version = {later}"));
    let error = Store::open(base.path()).unwrap_err();
    assert_eq!(error.exit_code(), 78);
    let text = error.to_string();
    assert!(
        text.contains(&format!("version {later}"))
            && text.contains(&format!("up to {}", MIGRATIONS.len())),
        "{text}"
    );
}

// ASKS 27: what cannot be read is never written over.
#[test]
fn what_is_no_store_is_named_and_kept() {
    let header = [b"SQLite format 3\0".as_slice(), &[0xff; 200]].concat();
    let cases: [&[u8]; 3] = [b"", b"this is no database, by far", &header];
    for bytes in cases {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("keys.db");
        fs::write(&file, bytes).unwrap();
        let error = Store::open(base.path()).unwrap_err();
        assert_eq!(error.exit_code(), 78, "{error}");
        assert!(error.to_string().contains("keys.db"), "{error}");
        assert_eq!(fs::read(&file).unwrap(), bytes);
    }
}

#[test]
fn a_store_of_version_1_is_brought_up_to_date() {
    let base = tempfile::tempdir().unwrap();
    drop(Store::open(base.path()).unwrap());
    fs::remove_file(base.path().join("keys.db")).unwrap();
    let first = Connection::open(base.path().join("keys.db")).unwrap();
    first.execute_batch(MIGRATIONS[0]).unwrap();
    first.pragma_update(None, "user_version", 1).unwrap();
    first
        .execute_batch(
            "UPDATE meta SET revision = 7;
             INSERT INTO tenant VALUES ('acme', 'Acme', 'free', 1, 5);
             INSERT INTO api_key VALUES ('key_AAAAAAAAAAAA', zeroblob(32), 1, 'CI', 'secret',
                 'live', 'acme', NULL, '7/hour', NULL, 'leases:read', 5, 9, 'active',
                 'fp_live_', '9xYz', 'store');
             INSERT INTO api_key VALUES ('key_BBBBBBBBBBBB', randomblob(32), 1, 'gone', 'public',
                 'live', 'acme', 'pro', NULL, 'unlimited', NULL, 5, NULL, 'revoked', '', '', 'file');
             INSERT INTO retired_digest VALUES (randomblob(32), 'key_AAAAAAAAAAAA', 6);",
        )
        .unwrap();
    drop(first);
    for _ in 0..2 {
        let store = Store::open(base.path()).unwrap();
        let contents = store.load().unwrap();
        assert_eq!(contents.revision, 7);
        let (key, tenant) = (&contents.keys[0], &contents.tenants[0]);
        assert_eq!((key.name.as_str(), key.last_four.as_str()), ("CI", "9xYz"));
        assert_eq!(key.quota.text().as_deref(), Some("7/hour"));
        assert!(key.binding.is_empty() && key.note.is_none());
        let tombstone = &contents.keys[1];
        assert_eq!(
            (tombstone.origin, tombstone.status),
            (Origin::File, KeyStatus::Revoked)
        );
        assert_eq!(
            contents.retired[0].until, None,
            "ended at once, then and now"
        );
        assert_eq!((tenant.suspended, &tenant.scopes), (true, &Scopes::Inherit));
        assert_eq!(contents.retired.len(), 1);
        assert_eq!(
            version_of(&store.connection).unwrap(),
            MIGRATIONS.len() as i64
        );
    }
}

#[test]
fn a_damaged_row_is_an_error_and_no_key() {
    let base = tempfile::tempdir().unwrap();
    drop(Store::open(base.path()).unwrap());
    sql(
        base.path(),
        "INSERT INTO tenant (id, name, plan, suspended, created) VALUES ('not an id', 'x', 'free', 0, 0)",
    );
    let error = Store::open(base.path()).unwrap().load().unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn a_half_made_store_is_made_anew() {
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("keys.db.new"), "half").unwrap();
    Store::open(base.path()).unwrap().load().unwrap();
    assert!(!base.path().join("keys.db.new").exists());
}

#[test]
fn a_failed_write_changes_nothing() {
    let base = tempfile::tempdir().unwrap();
    let mut store = Store::open(base.path()).unwrap();
    let write = Write::SetStatus(KeyId([b'a'; 12]), KeyStatus::Revoked);
    assert!(
        store.commit(std::slice::from_ref(&write)).is_err(),
        "no such row"
    );
    assert_eq!(store.revision().unwrap(), 0);
    store.refuse_writes(true);
    assert!(store.commit(std::slice::from_ref(&write)).is_err());
}

#[test]
fn errors_of_the_file_system_have_their_exit_codes() {
    let path = Path::new("/state");
    let cases = [
        (std::io::ErrorKind::PermissionDenied, 77),
        (std::io::ErrorKind::ReadOnlyFilesystem, 77),
        (std::io::ErrorKind::StorageFull, 69),
    ];
    for (kind, code) in cases {
        let error = StoreError::from_io(path, kind.into());
        assert_eq!(error.exit_code(), code, "{error}");
        assert!(error.to_string().contains("/state"));
    }
}
