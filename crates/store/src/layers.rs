//! Unpacked layers: `layers/<id>/fs`, immutable once committed.
//!
//! # States
//! ```text
//! new_layer_staging        commit_layers                 gc
//!   └─> staging ── syncfs, one durable ──> committed ──> doomed ──> moved to trash/, row gone
//!          │        transaction for all        │
//!          │ owner gives up or dies            │ another process was first with the same layer:
//!          └─────────> trash/                  └─ the staged one goes to trash/, the first one is returned
//! ```
//! The row comes before the directory and goes after it, so whatever a crash leaves is named by a row.
//!
//! # Identity
//! What a layer's directory looks like may depend on the layers below: a directory the tar does not list takes its
//! metadata from them, a hard link may point into them, a path may lead through one of their symbolic links. The
//! unpacker says what it took ([`Basis`]). Most layers list all they have but their root, and are shared by diff ID between
//! all chains that show the same root there; those that list their root, too, between all chains; any other only between
//! images that agree on every layer below (by chain ID).

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use plywood_image::{ChainId, DiffId, Digest};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use rustix::fs::Mode;

use crate::db::{Durability, parsed, signed, unsigned};
use crate::error::{OnFile, StateError};
use crate::pins::{Pins, Target};
use crate::root::DIR_FLAGS;
use crate::{Store, trash};

/// Number of a layer, and the name of its directory. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub(crate) i64);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A committed layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its number.
    pub id: LayerId,
    /// What the unpacker found.
    pub info: LayerInfo,
}

/// What a layer's directory depends on, of the layers below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// On nothing: it would look the same on any layers.
    Nothing,
    /// On their root directory, which the layer does not list: it would look the same on all layers that show a root with
    /// these attributes (owner, mode, times, extended attributes).
    Root(Digest),
    /// On all of them.
    Chain,
}

impl Basis {
    /// The columns `standalone` and `root`.
    fn columns(&self) -> (bool, Option<String>) {
        match self {
            Basis::Nothing => (true, Some(OWN_ROOT.to_owned())),
            Basis::Root(digest) => (true, Some(digest.to_string())),
            Basis::Chain => (false, None),
        }
    }
}

/// What column `root` says of a layer that lists its root.
const OWN_ROOT: &str = "";

/// What is known of a layer once it is unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// The layer and everything below it, as it was unpacked.
    pub chain_id: ChainId,
    /// What it took from the layers below.
    pub basis: Basis,
    /// Sum of the sizes of its files, in bytes.
    pub size_bytes: u64,
    /// Directories, files, links, devices and whiteouts.
    pub entries: u64,
    /// Highest owning user id, unshifted.
    pub max_uid: u32,
    /// Highest owning group id, unshifted.
    pub max_gid: u32,
    /// Digest of the blob it came from.
    pub compressed: Digest,
}

/// A layer being unpacked. Dropping it uncommitted removes what is there.
#[derive(Debug)]
pub struct LayerStaging {
    store: Store,
    id: LayerId,
    path: PathBuf,
    dir: OwnedFd,
    finished: bool,
}

impl LayerStaging {
    /// The number it will have as a layer.
    pub fn id(&self) -> LayerId {
        self.id
    }

    /// Absolute path of the directory to unpack into: `<root>/layers/<id>/fs`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for LayerStaging {
    /// The directory to unpack into, opened for reading, not O_PATH. Mode 0755, owned by the caller.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for LayerStaging {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Err(error) = self.store.discard_layer(self.id) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                layer = self.id.0,
                "an unfinished layer stays until this process ends"
            );
        }
    }
}

impl Store {
    /// A fresh directory to unpack a layer into.
    ///
    /// # Errors
    /// The database or the file system refused.
    pub fn new_layer_staging(&self) -> Result<LayerStaging, StateError> {
        let id = self.db().write(Durability::Fast, |transaction| {
            let owner = self.register(transaction)?;
            transaction
                .prepare_cached("INSERT INTO layers (state, owner) VALUES ('staging', ?1)")?
                .execute([owner])?;
            Ok::<_, StateError>(LayerId(transaction.last_insert_rowid()))
        })?;
        let dir = self.make_numbered_dir(self.root().layers(), id.0)?;
        Ok(LayerStaging { store: self.clone(), id, path: self.layer_path(id), dir, finished: false })
    }

    /// Commits unpacked layers together: one `syncfs`, then one durable transaction. When this returns they
    /// survive a power cut. They are pinned by `pins` until an image refers to them.
    ///
    /// A layer that another process committed in the meantime is returned in place of the staged one.
    ///
    /// # Errors
    /// The database or the file system refused; then none is committed and all staged directories are removed.
    pub fn commit_layers(
        &self,
        pins: &Pins,
        staged: Vec<(LayerStaging, LayerInfo)>,
    ) -> Result<Vec<Layer>, StateError> {
        if staged.is_empty() {
            return Ok(Vec::new());
        }
        plywood_kernel::syncfs(self.root().dir())?;
        let layers = self.db().write(Durability::Full, |transaction| {
            staged
                .iter()
                .map(|(staging, info)| {
                    let layer = commit(transaction, staging.id, info)?;
                    pins.add(transaction, Target::Layer(layer.id))?;
                    Ok(layer)
                })
                .collect::<Result<Vec<Layer>, StateError>>()
        })?;
        for ((mut staging, _), layer) in staged.into_iter().zip(&layers) {
            // One that lost against another process is removed as it drops.
            staging.finished = staging.id == layer.id;
        }
        Ok(layers)
    }

    /// Absolute path of a layer's directory.
    pub fn layer_path(&self, id: LayerId) -> PathBuf {
        self.root().path().join(format!("layers/{id}/fs"))
    }

    /// Opens a layer's directory.
    ///
    /// # Errors
    /// It does not exist or cannot be opened.
    pub fn open_layer(&self, id: LayerId) -> Result<OwnedFd, StateError> {
        let name = format!("{id}/fs");
        Ok(rustix::fs::openat(self.root().layers(), &name, DIR_FLAGS, Mode::empty())
            .on_file("openat", Path::new("layers").join(&name))?)
    }

    /// The row decides, not who asks: a commit that reports an error may still have taken effect.
    fn discard_layer(&self, id: LayerId) -> Result<(), StateError> {
        let doomed = self.db().write(Durability::Fast, |transaction| {
            let doom = "UPDATE layers SET state = 'doomed' WHERE id = ?1 AND state = 'staging'";
            Ok::<_, StateError>(transaction.prepare_cached(doom)?.execute([id.0])?)
        })?;
        if doomed == 0 {
            return Ok(());
        }
        trash::discard(self, self.root().layers(), &id.to_string())?;
        self.db().write(Durability::Fast, |transaction| {
            transaction
                .prepare_cached("DELETE FROM layers WHERE id = ?1 AND state = 'doomed'")?
                .execute([id.0])?;
            Ok(())
        })
    }

    /// `<n>/fs` below `parent`. A number is never used twice, so a directory of that name can only be what a
    /// power cut left without its row.
    pub(crate) fn make_numbered_dir(&self, parent: BorrowedFd<'_>, n: i64) -> Result<OwnedFd, StateError> {
        let name = n.to_string();
        if let Err(errno) = rustix::fs::mkdirat(parent, &name, Mode::RWXU) {
            if errno != rustix::io::Errno::EXIST {
                return Err(errno).on_file("mkdirat", &name).map_err(Into::into);
            }
            trash::discard(self, parent, &name)?;
            rustix::fs::mkdirat(parent, &name, Mode::RWXU).on_file("mkdirat", &name)?;
        }
        let fs = format!("{name}/fs");
        rustix::fs::mkdirat(parent, &fs, Mode::RWXU).on_file("mkdirat", &fs)?;
        let dir = rustix::fs::openat(parent, &fs, DIR_FLAGS, Mode::empty()).on_file("openat", &fs)?;
        // Not by mkdir, whose mode the umask cuts.
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755)).on_file("fchmod", &fs)?;
        Ok(dir)
    }
}

fn commit(transaction: &Transaction<'_>, id: LayerId, info: &LayerInfo) -> Result<Layer, StateError> {
    let first = match &info.basis {
        Basis::Nothing => find_standalone(transaction, &info.diff_id, None)?,
        Basis::Root(root) => find_standalone(transaction, &info.diff_id, Some(root))?,
        Basis::Chain => find_in_chain(transaction, &info.chain_id)?,
    };
    if let Some(first) = first {
        return Ok(first);
    }
    let (standalone, root) = info.basis.columns();
    let changed = transaction
        .prepare_cached(
            "UPDATE layers SET state = 'committed', owner = NULL, diff_id = ?2, chain_id = ?3, standalone = ?4,
             root = ?5, size_bytes = ?6, entries = ?7, max_uid = ?8, max_gid = ?9, compressed = ?10
             WHERE id = ?1 AND state = 'staging'",
        )?
        .execute(params![
            id.0,
            info.diff_id.to_string(),
            info.chain_id.to_string(),
            standalone,
            root,
            signed(info.size_bytes),
            signed(info.entries),
            info.max_uid,
            info.max_gid,
            info.compressed.to_string(),
        ])?;
    if changed != 1 {
        return Err(rusqlite::Error::StatementChangedRows(changed).into());
    }
    Ok(Layer { id, info: info.clone() })
}

pub(crate) fn find(
    connection: &Connection,
    diff_id: &DiffId,
    chain_id: &ChainId,
    root: Option<&Digest>,
) -> Result<Option<Layer>, StateError> {
    match find_standalone(connection, diff_id, root)? {
        Some(layer) => Ok(Some(layer)),
        None => find_in_chain(connection, chain_id),
    }
}

/// One that lists its root, or took one of these attributes.
fn find_standalone(
    connection: &Connection,
    diff_id: &DiffId,
    root: Option<&Digest>,
) -> Result<Option<Layer>, StateError> {
    Ok(connection
        .prepare_cached(
            "SELECT * FROM layers WHERE state = 'committed' AND standalone = 1 AND diff_id = ?1
             AND root IN (?2, ?3)",
        )?
        .query_row(params![diff_id.to_string(), OWN_ROOT, root.map(Digest::to_string)], from_row)
        .optional()?)
}

fn find_in_chain(connection: &Connection, chain_id: &ChainId) -> Result<Option<Layer>, StateError> {
    Ok(connection
        .prepare_cached(
            "SELECT * FROM layers WHERE state = 'committed' AND standalone = 0 AND chain_id = ?1",
        )?
        .query_row([chain_id.to_string()], from_row)
        .optional()?)
}

pub(crate) fn from_row(row: &Row<'_>) -> rusqlite::Result<Layer> {
    Ok(Layer {
        id: LayerId(row.get("id")?),
        info: LayerInfo {
            diff_id: parsed(row, "diff_id")?,
            chain_id: parsed(row, "chain_id")?,
            basis: match (row.get("standalone")?, row.get::<_, Option<String>>("root")?) {
                (false, _) | (true, None) => Basis::Chain,
                (true, Some(root)) if root == OWN_ROOT => Basis::Nothing,
                (true, Some(_)) => Basis::Root(parsed(row, "root")?),
            },
            size_bytes: unsigned(row, "size_bytes")?,
            entries: unsigned(row, "entries")?,
            max_uid: row.get("max_uid")?,
            max_gid: row.get("max_gid")?,
            compressed: parsed(row, "compressed")?,
        },
    })
}
