//! `keys.db`: one file, one process that writes it, one transaction for each change.
//!
//! `file` makes it, opens it and brings it up to date; `read` asks it and `write` changes it; `copy` is what a store has to say where it is this
//! node's copy of one that nodes share.

mod copy;
mod file;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub(super) use file::VERSION;
pub use read::DigestUse;
pub use write::Write;
pub(super) use write::apply_all;

use std::path::Path;
use std::path::PathBuf;

use rusqlite::Connection;

use crate::clock::Wall;
use crate::config::StoreConfig;
use crate::store::audit::Act;
use crate::store::audit::Keep;
use crate::store::audit::Pruned;
use crate::store::audit::Written;
use crate::store::error::StoreError;
use crate::store::lock::DirectoryLock;
use crate::store::shared::Shared;
use crate::store::sqlite::file::check_version;
use crate::store::sqlite::file::connect;
use crate::store::sqlite::file::create;
use crate::store::sqlite::file::migrate;
use crate::store::sqlite::file::settings;
use crate::store::sqlite::write::commit;
use crate::store::sqlite::write::empty_log;
use crate::store::sqlite::write::prune_audit;
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

    /// Where the store lies.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes one change durable, as one transaction and one revision; gives the new revision. Nobody is told who did it: for tools and
    /// tests.
    ///
    /// # Errors
    /// Nothing was changed: the disk is full, a row is gone, or a digest or id is taken.
    pub fn commit(&mut self, writes: &[Write]) -> Result<u64, StoreError> {
        self.change(writes, None).map(|(revision, _)| revision)
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

    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        query(&self.connection).map_err(|error| StoreError::from_sqlite(&self.file, error))
    }

    /// The same store, shared through this server from now on.
    #[cfg(test)]
    pub(crate) fn share_for_test(&mut self, settings: &crate::config::Redis) {
        self.shared = Some(Shared::new(settings));
    }

    /// Writes down many acts at once.
    #[cfg(test)]
    pub(crate) fn record_all(&mut self, acts: impl Iterator<Item = Act>) -> Result<(), StoreError> {
        let transaction = self.connection.transaction().unwrap();
        for act in acts {
            crate::store::audit::append(&transaction, &act, 0).unwrap();
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
}
