//! `keys.db`: opening, migrating, reading, and one transaction for each change.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::OpenFlags;
use rusqlite::OptionalExtension;
use rusqlite::Params;
use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use rusqlite::params;

use crate::clock::Wall;
use crate::config::Redis;
use crate::config::StoreConfig;
use crate::model::admin_token::AdminToken;
use crate::model::denial::Denial;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::tenant::Tenant;
use crate::store::Contents;
use crate::store::Retired;
use crate::store::audit;
use crate::store::audit::Act;
use crate::store::audit::Done;
use crate::store::audit::Keep;
use crate::store::audit::Once;
use crate::store::audit::Pruned;
use crate::store::audit::Written;
use crate::store::error::StoreError;
use crate::store::lock::DirectoryLock;
use crate::store::lock::own_like_directory;
use crate::store::rows;
use crate::store::shared;
use crate::store::shared::CaughtUp;
use crate::store::shared::Position;
use crate::store::shared::Shared;
use crate::store::whole;

/// The open store. While it exists, no other process can open it.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    file: PathBuf,
    connection: Connection,
    /// What it is a copy of, where several nodes share a store.
    shared: Option<Shared>,
    /// Held for as long as the store is open; last, so that the database is closed first.
    _lock: DirectoryLock,
}

/// One change of rows, made by `verbs::prepare` after every rule was checked.
#[derive(Clone, Debug)]
pub enum Write {
    /// A new key, or the tombstone of a key that the file declares.
    InsertKey(Box<ApiKey>),
    /// A new status.
    SetStatus(KeyId, KeyStatus),
    /// Everything that may change of a key but its digest and its status.
    UpdateKey(Box<ApiKey>),
    /// A new digest for the same id; the old one is retired for good, those before it too, at the same time at the latest.
    ReplaceDigest {
        /// Whose.
        id: KeyId,
        /// The one that ends.
        old: Digest,
        /// The one that begins.
        new: Digest,
        /// For lists.
        prefix: String,
        /// For lists.
        last_four: String,
        /// When.
        now: Wall,
        /// Until then the old one still works; `None` is not at all.
        until: Option<Wall>,
    },
    /// The end, now, of a digest that was retired and still works.
    EndRetired(Digest, Wall),
    /// A new tenant.
    InsertTenant(Tenant, Wall),
    /// Everything of a tenant but its id.
    UpdateTenant(Tenant),
    /// A new token of the admin plane.
    InsertAdminToken(Box<AdminToken>),
    /// The end of a token of the admin plane, now.
    RevokeAdminToken(String, Wall),
    /// Tokens that are denied, instead of what was said of the same; what has expired by then is removed.
    PutDenial(Denial),
    /// What is denied no more.
    RemoveDenial(Denial),
}

/// How a digest stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestUse {
    /// Nobody ever had it.
    Free,
    /// It is this key's.
    Key(KeyId, KeyStatus),
    /// It was this key's until it was regenerated; until then, if that is said, it is still taken for it (C-19).
    Retired(KeyId, Option<Wall>),
}

/// What brings `keys.db` from version N to N + 1; version 1 makes it.
const MIGRATIONS: [&str; 7] = [
    include_str!("schema.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
    include_str!("schema_6.sql"),
    include_str!("schema_7.sql"),
];

/// The version of the schema that this build writes.
pub(super) const VERSION: usize = MIGRATIONS.len();

const RETIRED: &str = "SELECT digest, key_id, valid_until FROM retired_digest";

impl Store {
    /// Opens the store in `directory`, making both when they are missing (0700, files 0600), and locks it.
    ///
    /// # Errors
    /// In use, not permitted, from a later version, damaged: see `StoreError`. A file that cannot be used is never changed.
    pub fn open(directory: &Path) -> Result<Store, StoreError> {
        let lock = DirectoryLock::take(directory)?;
        let file = directory.join("keys.db");
        let exists = file
            .try_exists()
            .map_err(|error| StoreError::from_io(&file, error))?;
        if !exists {
            create(directory, &file)?;
        }
        let failed = |error| StoreError::from_sqlite(&file, error);
        let mut connection = connect(&file).map_err(failed)?;
        whole::leave_alone(&connection, true).map_err(failed)?;
        check_version(&connection, &file)?;
        if let Some(what) = whole::damage(&connection).map_err(failed)? {
            return Err(StoreError::Damaged { path: file, what });
        }
        whole::leave_alone(&connection, false).map_err(failed)?;
        settings(&connection).map_err(failed)?;
        migrate(&mut connection).map_err(failed)?;
        Ok(Store {
            directory: directory.to_owned(),
            connection,
            file,
            shared: None,
            _lock: lock,
        })
    }

    /// Opens what `[store]` says. A shared store need not answer: the copy of it in the directory is opened alone.
    ///
    /// # Errors
    /// As `open`; and `Unfit` where the directory is a copy of a shared store and `[store]` says that there is none.
    pub fn open_for(settings: &StoreConfig) -> Result<Store, StoreError> {
        let mut store = Store::open(&settings.path)?;
        if settings.shared {
            store.shared = Some(Shared::new(&settings.redis));
        } else if store.position()?.is_some() {
            return Err(StoreError::Unfit {
                server: settings.path.display().to_string(),
                what: "the directory is a copy of a store that nodes share, and [store] kind is \"sqlite\": write kind = \"redis\", or `portcullis store migrate --from redis --to sqlite`".to_owned(),
            });
        }
        Ok(store)
    }

    /// How far this copy of a shared store is; `None` where it is none.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn position(&self) -> Result<Option<Position>, StoreError> {
        self.read(shared::position)
    }

    /// What the other nodes call this one.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn node_id(&self) -> Result<String, StoreError> {
        self.read(shared::node_id)
    }

    /// When the shared store was last heard, as far as the copy says.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn last_heard(&self) -> Result<Wall, StoreError> {
        self.read(shared::last_heard)
    }

    /// How many nodes shared the store when it was last heard; 0 is not known.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn peers(&self) -> Result<usize, StoreError> {
        self.read(shared::peers)
    }

    /// So many share it now; for a start without the shared store.
    ///
    /// # Errors
    /// It could not be written.
    pub fn note_peers(&mut self, peers: usize) -> Result<(), StoreError> {
        self.read(|connection| shared::note_peers(connection, peers))
    }

    /// Whether the shared store is asked on this run of the server; if not, the primary is looked for anew before the next question.
    pub fn is_asked_on(&mut self, run_id: &str) -> bool {
        let Some(shared) = &mut self.shared else {
            return true;
        };
        let same = shared.link().run_id() == run_id;
        if !same {
            shared.link().forget();
        }
        same
    }

    /// Moves everything into an empty shared store, of which this directory is a copy from then on; every row is read back and compared. Gives
    /// how many.
    ///
    /// # Errors
    /// There is something in it already, or it is away, or does not give back what it was given; this store is then as it was.
    pub fn migrate_to_shared(&mut self, settings: &Redis) -> Result<usize, StoreError> {
        Shared::new(settings).take_over(&mut self.connection)
    }

    /// Makes a store of its own of this copy, which has all that the shared store has, and says how many rows that are.
    ///
    /// # Errors
    /// The shared store is away, or the two differ.
    pub fn migrate_from_shared(&mut self, now: Wall) -> Result<usize, StoreError> {
        match &mut self.shared {
            None => Ok(0),
            Some(shared) => shared.hand_over(&mut self.connection, now),
        }
    }

    /// Whether several nodes share it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Brings the copy to where the shared store is; nothing to do where there is none.
    ///
    /// # Errors
    /// The shared store is away, or holds what cannot be.
    pub fn catch_up(&mut self, now: Wall) -> Result<(), StoreError> {
        match &mut self.shared {
            None => Ok(()),
            Some(shared) => shared.catch_up(&mut self.connection, now),
        }
    }

    /// Catches up for a start. Without the shared store it begins with the copy, if there is one. Says whether it caught up.
    ///
    /// # Errors
    /// There is neither, or the shared store cannot be used.
    pub fn begin(&mut self, now: Wall) -> Result<bool, StoreError> {
        match self.catch_up(now) {
            Err(StoreError::Away { server, what }) => match self.position()? {
                Some(_) => {
                    tracing::error!(
                        server,
                        "the shared store is away ({what}); this node begins with its copy"
                    );
                    Ok(false)
                }
                None => Err(StoreError::Away {
                    server,
                    what: format!("{what}; and this node has no copy of it yet to begin with"),
                }),
            },
            caught_up => caught_up.map(|()| true),
        }
    }

    /// Asks whether the shared store can be used, and changes nothing.
    ///
    /// # Errors
    /// It is away, or cannot be used.
    pub fn look(&mut self) -> Result<(), StoreError> {
        self.shared.as_mut().map_or(Ok(()), Shared::look)
    }

    /// What came in from other nodes since this was last asked.
    pub fn take_caught(&mut self) -> CaughtUp {
        let shared = self.shared.as_mut();
        shared.map(Shared::take_caught).unwrap_or_default()
    }

    /// Where the store lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Everything in it.
    ///
    /// # Errors
    /// The database cannot be read, or a row makes no sense.
    pub fn load(&self) -> Result<Contents, StoreError> {
        self.stream(|contents| contents, |contents, key| contents.keys.push(key))
    }

    /// Everything in it, without keeping the keys: all else goes to `begin` first, then each key to `each`.
    ///
    /// # Errors
    /// The database cannot be read, or a row makes no sense; what was made of it so far is thrown away.
    pub fn stream<T>(
        &self,
        begin: impl FnOnce(Contents) -> T,
        mut each: impl FnMut(&mut T, ApiKey),
    ) -> Result<T, StoreError> {
        self.read(|connection| {
            // One transaction, so that all of it is of one revision.
            let reading = connection.unchecked_transaction()?;
            let mut made = begin(Contents {
                revision: revision_of(&reading)?,
                keys: Vec::new(),
                tenants: all(&reading, &tenant_query(""), [], rows::tenant)?,
                retired: all(&reading, RETIRED, [], rows::retired)?,
                denials: all(&reading, &denial_query(), [], rows::denial)?,
            });
            let mut statement = reading.prepare(&key_query(""))?;
            for key in statement.query_map([], rows::key)? {
                each(&mut made, key?);
            }
            drop(statement);
            Ok(made)
        })
    }

    /// The revision that the store stands at.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn revision(&self) -> Result<u64, StoreError> {
        self.read(revision_of)
    }

    /// The key with this id, tombstones included.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&key_query("WHERE id = ?1"))?
                .query_row([id.to_string()], rows::key)
                .optional()
        })
    }

    /// The key that has this digest now, tombstones included.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn key_of_digest(&self, digest: &Digest) -> Result<Option<ApiKey>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&key_query("WHERE digest = ?1"))?
                .query_row([digest.0.as_slice()], rows::key)
                .optional()
        })
    }

    /// Keys of this tenant, this end user and this beginning of their text, as far as they are given; tombstones included.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn keys(
        &self,
        tenant: Option<&str>,
        subject: Option<&str>,
        prefix: Option<&str>,
    ) -> Result<Vec<ApiKey>, StoreError> {
        let query = key_query(
            "WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR subject = ?2)
             AND (?3 IS NULL OR substr(prefix, 1, length(?3)) = ?3)",
        );
        self.read(|connection| {
            all(
                connection,
                &query,
                params![tenant, subject, prefix],
                rows::key,
            )
        })
    }

    /// Keys as they came into the store, of this tenant or all, from behind this one on, until `each` has seen enough; tombstones included.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn keys_after(
        &self,
        tenant: Option<&str>,
        after: Option<KeyId>,
        mut each: impl FnMut(ApiKey) -> bool,
    ) -> Result<(), StoreError> {
        // Rows are never removed, so their own numbers are the order in which they came; the index of tenants has them too.
        let behind = "rowid > coalesce((SELECT rowid FROM api_key WHERE id = ?1), 0)";
        let of_tenant = if tenant.is_some() {
            "tenant = ?2"
        } else {
            "?2 IS NULL"
        };
        let query = key_query(&format!("WHERE {behind} AND {of_tenant} ORDER BY rowid"));
        let after = after.map(|id| id.to_string());
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&query)?;
            let mut found = statement.query_map(params![after, tenant], rows::key)?;
            while let Some(key) = found.next().transpose()? {
                if !each(key) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Whose this digest is or was (FA10).
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn digest_use(&self, digest: &Digest) -> Result<DigestUse, StoreError> {
        self.read(|connection| {
            let key = connection
                .prepare_cached(&key_query("WHERE digest = ?1"))?
                .query_row([digest.0.as_slice()], rows::key)
                .optional()?;
            if let Some(key) = key {
                return Ok(DigestUse::Key(key.id, key.status));
            }
            let retired = connection
                .prepare_cached(&format!("{RETIRED} WHERE digest = ?1"))?
                .query_row([digest.0.as_slice()], rows::retired)
                .optional()?;
            Ok(retired.map_or(DigestUse::Free, |old| {
                DigestUse::Retired(old.key, old.until)
            }))
        })
    }

    /// Digests that this key had before.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn retired_of(&self, id: KeyId) -> Result<Vec<Retired>, StoreError> {
        let query = format!("{RETIRED} WHERE key_id = ?1");
        self.read(|connection| all(connection, &query, [id.to_string()], rows::retired))
    }

    /// All tenants, by id.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.read(|connection| all(connection, &tenant_query("ORDER BY id"), [], rows::tenant))
    }

    /// All tokens of the admin plane, oldest first, those that have ended included.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn admin_tokens(&self) -> Result<Vec<AdminToken>, StoreError> {
        let columns = rows::ADMIN_TOKEN_COLUMNS;
        let query = format!("SELECT {columns} FROM admin_token ORDER BY created, id");
        self.read(|connection| all(connection, &query, [], rows::admin_token))
    }

    /// What this one did under this name, not before `since`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn done(&self, who: &str, once: &Once, since: Wall) -> Result<Option<Done>, StoreError> {
        self.read(|connection| audit::done(connection, who, &once.key, since))
    }

    /// Access tokens that are denied, expired entries included.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn denials(&self) -> Result<Vec<Denial>, StoreError> {
        self.read(|connection| all(connection, &denial_query(), [], rows::denial))
    }

    /// Makes one change durable, as one transaction and one revision; gives the new revision. Nobody is told who did it: for tools and
    /// tests.
    ///
    /// # Errors
    /// Nothing was changed: the disk is full, a row is gone, or a digest or id is taken.
    pub fn commit(&mut self, writes: &[Write]) -> Result<u64, StoreError> {
        self.change(writes, None).map(|(revision, _)| revision)
    }

    fn change(
        &mut self,
        writes: &[Write],
        act: Option<&Act>,
    ) -> Result<(u64, Option<Written>), StoreError> {
        if let Some(shared) = &mut self.shared {
            let changed = shared.commit(&mut self.connection, writes, act)?;
            empty_log(&self.connection);
            return Ok(changed);
        }
        let file = self.file.clone();
        commit(&mut self.connection, writes, act)
            .map_err(|error| StoreError::from_sqlite(&file, error))
    }

    /// The same with its line in the audit log: both, or neither.
    ///
    /// # Errors
    /// As `commit`.
    pub fn commit_act(
        &mut self,
        writes: &[Write],
        act: &Act,
    ) -> Result<(u64, Option<Written>), StoreError> {
        self.change(writes, Some(act))
    }

    /// Writes down an act that changes nothing in the store.
    ///
    /// # Errors
    /// It could not be written.
    pub fn record(&mut self, act: &Act) -> Result<Option<Written>, StoreError> {
        self.change(&[], Some(act)).map(|(_, written)| written)
    }

    /// The same store, shared through this server from now on.
    #[cfg(test)]
    pub(crate) fn share_for_test(&mut self, settings: &Redis) {
        self.shared = Some(Shared::new(settings));
    }

    /// Lets go of the oldest lines of the audit log; see there. Where nodes share it, for all of them.
    ///
    /// # Errors
    /// It could not be read or written, and nothing is gone; `Behind` as for any other change.
    pub fn prune_audit(&mut self, keep: Keep, now: Wall) -> Result<Pruned, StoreError> {
        if let Some(shared) = &mut self.shared {
            let pruned = shared.prune_audit(&mut self.connection, keep, now)?;
            empty_log(&self.connection);
            return Ok(pruned);
        }
        let file = self.file.clone();
        prune_audit(&mut self.connection, keep, now)
            .map_err(|error| StoreError::from_sqlite(&file, error))
    }

    /// Writes down many acts at once.
    #[cfg(test)]
    pub(crate) fn record_all(&mut self, acts: impl Iterator<Item = Act>) -> Result<(), StoreError> {
        let transaction = self.connection.transaction().unwrap();
        for act in acts {
            audit::append(&transaction, &act, 0).unwrap();
        }
        let committed = transaction.commit();
        committed.map_err(|error| StoreError::from_sqlite(&self.file, error))
    }

    /// Makes every later write fail, as a full disk would.
    #[cfg(test)]
    pub(crate) fn refuse_writes(&self, refuse: bool) {
        self.connection
            .pragma_update(None, "query_only", refuse)
            .unwrap();
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        query(&self.connection).map_err(|error| StoreError::from_sqlite(&self.file, error))
    }
}

fn prune_audit(connection: &mut Connection, keep: Keep, now: Wall) -> rusqlite::Result<Pruned> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let revision = revision_of(&transaction)?;
    let pruned = audit::prune(&transaction, keep, now, revision)?;
    transaction.commit()?;
    if matches!(pruned, Pruned::Gone(..)) {
        empty_log(connection);
    }
    Ok(pruned)
}

fn commit(
    connection: &mut Connection,
    writes: &[Write],
    act: Option<&Act>,
) -> rusqlite::Result<(u64, Option<Written>)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let changed = apply_all(&transaction, writes, act)?;
    transaction.commit()?;
    empty_log(connection);
    Ok(changed)
}

/// All of these, a new revision where there are any, and the line of the audit log.
pub(super) fn apply_all(
    transaction: &Transaction<'_>,
    writes: &[Write],
    act: Option<&Act>,
) -> rusqlite::Result<(u64, Option<Written>)> {
    for write in writes {
        let changed = apply(transaction, write)?;
        if changed != 1 {
            return Err(rusqlite::Error::StatementChangedRows(changed));
        }
    }
    if !writes.is_empty() {
        transaction.execute("UPDATE meta SET revision = revision + 1", [])?;
    }
    let revision = revision_of(transaction)?;
    let written = act
        .map(|act| audit::append(transaction, act, revision))
        .transpose()?;
    Ok((revision, written))
}

fn empty_log(connection: &Connection) {
    // The log is emptied at once, so that `keys.db` alone is the whole truth: a lost or broken log brings no revoked key back, and a copy
    // of the one file is a backup. It stays until the next change where somebody reads along; the change is durable either way.
    let _emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_row| Ok(()));
}

fn apply(transaction: &Transaction<'_>, write: &Write) -> rusqlite::Result<usize> {
    match write {
        Write::InsertKey(key) => rows::insert_key(transaction, key),
        // A final status stays, whatever a caller asks for (FA10).
        Write::SetStatus(id, status) => transaction
            .prepare_cached(
                "UPDATE api_key SET status = ?2
                 WHERE id = ?1 AND (status IN ('active', 'inactive') OR ?2 IN ('revoked', 'deleted'))",
            )?
            .execute(params![id.to_string(), status.as_str()]),
        Write::UpdateKey(key) => rows::update_key(transaction, key),
        Write::ReplaceDigest {
            id,
            old,
            new,
            prefix,
            last_four,
            now,
            until,
        } => {
            let until = until.map(rows::micros);
            transaction.execute(
                "UPDATE retired_digest SET valid_until = min(valid_until, ?2) WHERE key_id = ?1",
                params![id.to_string(), until],
            )?;
            transaction.execute(
                "INSERT INTO retired_digest (digest, key_id, retired, valid_until) VALUES (?1, ?2, ?3, ?4)",
                params![old.0, id.to_string(), rows::micros(*now), until],
            )?;
            transaction.execute(
                "UPDATE api_key SET digest = ?3, prefix = ?4, last_four = ?5
                 WHERE id = ?1 AND digest = ?2 AND status IN ('active', 'inactive')",
                params![id.to_string(), old.0, new.0, prefix, last_four],
            )
        }
        Write::EndRetired(digest, now) => transaction.execute(
            "UPDATE retired_digest SET valid_until = min(valid_until, ?2) WHERE digest = ?1",
            params![digest.0, rows::micros(*now)],
        ),
        Write::InsertTenant(tenant, created) => rows::insert_tenant(transaction, tenant, *created),
        Write::UpdateTenant(tenant) => rows::update_tenant(transaction, tenant),
        Write::InsertAdminToken(token) => rows::insert_admin_token(transaction, token),
        Write::RevokeAdminToken(id, now) => transaction.execute(
            "UPDATE admin_token SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL",
            params![id, rows::micros(*now)],
        ),
        Write::PutDenial(denial) => rows::put_denial(transaction, denial),
        Write::RemoveDenial(denial) => rows::remove_denial(transaction, denial),
    }
}

/// Makes `keys.db` under another name and moves it there whole: an empty or half-made `keys.db` is then always damage, never a new store.
fn create(directory: &Path, file: &Path) -> Result<(), StoreError> {
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

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    // The lock keeps other writers out; a reader such as the sqlite3 shell may still stand in the way for a moment.
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

fn settings(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_row| Ok(()))?;
    // FULL: a revocation that was answered is on the disk, not only on its way there.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "trusted_schema", false)
}

fn check_version(connection: &Connection, file: &Path) -> Result<(), StoreError> {
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

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
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

fn version_of(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn revision_of(connection: &Connection) -> rusqlite::Result<u64> {
    let revision: i64 = connection.query_row("SELECT revision FROM meta", [], |row| row.get(0))?;
    Ok(u64::try_from(revision).unwrap_or(0))
}

fn key_query(rest: &str) -> String {
    format!("SELECT {} FROM api_key {rest}", rows::KEY_COLUMNS)
}

fn tenant_query(rest: &str) -> String {
    format!("SELECT {} FROM tenant {rest}", rows::TENANT_COLUMNS)
}

fn denial_query() -> String {
    format!("SELECT {} FROM denied_token", rows::DENIAL_COLUMNS)
}

fn all<T>(
    connection: &Connection,
    sql: &str,
    given: impl Params,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map(given, read)?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::model::scope::Scopes;
    use crate::model::tenant::Origin;

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
}
