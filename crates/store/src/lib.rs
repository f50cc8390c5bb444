//! The image store: what plywood keeps on disk.
//!
//! One directory, the state root, holds blobs, unpacked layers, flat trees and snapshots; one SQLite database in it
//! says what they are. Any number of processes use both at once. The layout and the life of each thing are drawn
//! in `docs/state.md` and in the modules.
//!
//! The store mounts nothing, unmounts only what killed launches left in `scratch/`, and starts no container. It refuses to remove anything except by descriptors inside
//! the root, never through a mount.
//!
//! Invariants: a committed layer never changes; a crash at any instruction leaves a state that the next
//! [`Store::open`] mends; live id ranges never overlap.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plywood_kernel::ProcessId;
use rusqlite::Transaction;

pub mod blobs;
pub mod containers;
pub mod db;
mod dirs;
pub mod error;
pub mod flat;
pub mod gc;
pub mod images;
pub mod layers;
pub mod leases;
mod lent;
pub mod merged;
mod owners;
pub mod pins;
pub mod recover;
pub mod reserve;
pub mod root;
mod scratch;
pub mod snapshots;
pub mod transfer;
mod trash;
pub mod unpack;

pub use blobs::{BlobError, BlobWriter, Ingest};
pub use containers::{Container, ContainerError, ContainerId, ContainerState, NewContainer};
pub use error::{Kind, StateError};
pub use flat::{BuildFlat, Flat, FlatError, FlatId, FlatOptions};
pub use gc::{GcReport, Removed};
pub use images::{Image, ImageError, NewImage, Untagged};
pub use layers::{Basis, Layer, LayerId, LayerInfo, LayerStaging};
pub use leases::{Lease, LeaseError, LeaseId, LiveLease, NewLease};
pub use merged::{Found, MergedError, MergedTree};
pub use pins::Pins;
pub use recover::Recovered;
pub use reserve::DiskFull;
pub use root::Root;
pub use snapshots::{NewSnapshot, Snapshot, SnapshotId};
pub use transfer::{Cancel, Event, FetchError, FetchRequest, Fetched, Source, fetch_image};

use db::{Db, Durability, OpenDbError};
use root::RootError;

/// A handle on the store. Cloning is cheap; clones share one database connection.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: Root,
    db: Db,
    process: ProcessId,
    /// Whether this handle has written the owner row of the process.
    registered: AtomicBool,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The database.
    #[error(transparent)]
    Db(#[from] OpenDbError),
    /// What an interrupted command left cannot be taken away.
    #[error("cannot recover what an interrupted command left")]
    Recover(#[source] StateError),
}

impl Store {
    /// Opens the store at `root`, makes it if it does not exist, and mends what interrupted processes left, as far as
    /// the disk has room for that.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(root: &Path) -> Result<Store, OpenError> {
        Store::open_until(root, Arc::default())
    }

    /// The same; other processes that hold the database are waited for, now and later, only until `cancel` is set.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open_until(root: &Path, cancel: Arc<AtomicBool>) -> Result<Store, OpenError> {
        let root = Root::open(root)?;
        let db = loop {
            match Db::open(&root.path().join("plywood.db"), Arc::clone(&cancel)) {
                Err(OpenDbError::Db { source, .. }) if source.is_disk_full() && reserve::give_up(&root) => {}
                db => break db?,
            }
        };
        let process = ProcessId::current().map_err(|error| OpenError::Recover(error.into()))?;
        let store = Store(Arc::new(Inner { root, db, process, registered: AtomicBool::new(false) }));
        match store.recover() {
            Ok(recovered) if recovered == Recovered::default() => {}
            Ok(recovered) => {
                tracing::info!(?recovered, "mended what interrupted commands left");
                if recovered.names > 0
                    && let Err(error) = store.collect_garbage()
                {
                    // `prune` tries again.
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "what a killed command's images kept stays for now");
                }
            }
            // Who only reads can go on, and who frees space must. Others fail at what they cannot write themselves.
            Err(error) if error.is_disk_full() => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the disk is full: what interrupted commands left stays for now");
            }
            Err(error) => return Err(OpenError::Recover(error)),
        }
        reserve::keep(store.root());
        Ok(store)
    }

    /// The state root.
    pub fn root(&self) -> &Root {
        &self.0.root
    }

    pub(crate) fn db(&self) -> &Db {
        &self.0.db
    }

    /// The owner row of this process.
    pub(crate) fn register(&self, transaction: &Transaction<'_>) -> rusqlite::Result<i64> {
        self.0.registered.store(true, Ordering::Relaxed);
        owners::register(transaction, self.process())
    }

    /// This process, as owner.
    pub(crate) fn process(&self) -> &ProcessId {
        &self.0.process
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !*self.registered.get_mut() {
            return;
        }
        let retired = self.db.write(Durability::Fast, |transaction| {
            owners::retire(transaction, &self.process).map_err(StateError::from)
        });
        if let Err(error) = retired {
            tracing::debug!(error = &error as &dyn std::error::Error, "owner row left to the next recovery");
        }
    }
}
