//! What a store has to say where it is this node's copy of one that nodes share.

use std::fs;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::os::unix::fs::MetadataExt;

use crate::clock::Wall;
use crate::config::Redis;
use crate::store::error::StoreError;
use crate::store::shared;
use crate::store::shared::CaughtUp;
use crate::store::shared::Position;
use crate::store::shared::Shared;
use crate::store::sqlite::Store;

impl Store {
    /// Whether several nodes share it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
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

    /// Has the others call this node something else: its directory is a copy of another's.
    ///
    /// # Errors
    /// It could not be written.
    pub fn take_new_id(&mut self) -> Result<(), StoreError> {
        self.read(shared::take_new_id)
    }

    /// Tells this directory from any other that is in use, in eight letters: which start of which machine, and which directory there.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn place(&self) -> Result<String, StoreError> {
        let about = fs::metadata(&self.directory)
            .map_err(|error| StoreError::from_io(&self.directory, error))?;
        // Without /proc two machines may look alike: then a twin is taken for an earlier run.
        let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        (boot, about.dev(), about.ino()).hash(&mut hasher);
        Ok(format!("{:08x}", hasher.finish() as u32))
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
}
