//! Flat trees: a chain of layers merged into one directory of hard links, `flat/<id>/fs`.
//!
//! An overlay over a flat tree has one lower layer, whatever the image has. The tree is what an overlay of the
//! layers would show: whiteouts and opaque directories are resolved, directories are made anew with the metadata of
//! the topmost layer that has them, everything else is a hard link into its layer. Nothing may write to either, and
//! the link count of a file is not that of the image.
//!
//! # States
//! ```text
//! build_flat claims the chain       syncfs, one durable transaction        gc
//!   └─> building ───────────────────────────────────────────────> ready ──> doomed ──> trash/, row gone
//!          │ cancelled, failed, or the builder died                          │
//!          └─────────────────────────────────────────────────────────────> doomed
//! ```
//! There is one row a chain among all processes, so one builder. A tree is a cache: losing one costs time.

use std::fmt;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plywood_image::ChainId;
use plywood_kernel::ProcessId;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::db::{Durability, parsed, signed, unsigned};
use crate::error::StateError;
use crate::layers::LayerId;
use crate::pins::{Pins, Target};
use crate::{Store, trash};

mod copy;
mod merge;

pub use merge::MergeError;
use merge::{Job, Merged};

/// How often a waiter looks whether the other builder is done.
const WAIT_STEP: Duration = Duration::from_millis(50);

/// Number of a flat tree, and the name of its directory. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlatId(pub(crate) i64);

impl fmt::Display for FlatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A finished flat tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flat {
    /// Its number.
    pub id: FlatId,
    /// The chain it shows.
    pub chain_id: ChainId,
    /// Directories and everything else in it.
    pub entries: u64,
    /// Bytes of files that could not be linked and were copied; 0 as a rule.
    pub copied_bytes: u64,
}

/// How to build a flat tree.
#[derive(Clone, Copy, Default)]
pub struct FlatOptions<'a> {
    /// Run at the lowest priority (nice 19; the kernel derives that of I/O from it).
    pub background: bool,
    /// Wait for another builder of the same chain instead of answering [`BuildFlat::Busy`].
    pub wait: bool,
    /// Called now and then, from the threads that build, with the number of entries made so far.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
    /// Set to true to stop the work; the build then fails with [`FlatError::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
}

impl fmt::Debug for FlatOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlatOptions")
            .field("background", &self.background)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

/// The outcome of [`Store::build_flat`]. Trees returned are pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildFlat {
    /// Built now.
    Built(Flat),
    /// It was there.
    Found(Flat),
    /// Another process or thread is building it.
    Busy,
}

/// Why there is no flat tree.
#[derive(Debug, thiserror::Error)]
pub enum FlatError {
    /// The caller set its flag.
    #[error("building the flat tree was cancelled")]
    Cancelled,
    /// Merging failed; what was there is removed.
    #[error("cannot merge the layers into a flat tree")]
    Merge(#[from] MergeError),
    /// The state refused.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<rusqlite::Error> for FlatError {
    fn from(error: rusqlite::Error) -> Self {
        FlatError::State(error.into())
    }
}

enum Claim {
    Ready(Flat),
    Busy,
    Ours(FlatId),
}

impl Store {
    /// The finished flat tree of a chain. Not pinned: see [`Pins::find_flat`].
    ///
    /// # Errors
    /// The database refused.
    pub fn find_flat(&self, chain_id: &ChainId) -> Result<Option<Flat>, StateError> {
        self.db().read(|connection| find(connection, chain_id))
    }

    /// Builds the flat tree of `chain_id` from its `layers`, lowest first, unless it exists. The work is done on
    /// threads of its own, and this waits for them. `pins` keeps layers and tree.
    ///
    /// # Errors
    /// [`FlatError`]; nothing is left behind.
    pub fn build_flat(
        &self,
        pins: &Pins,
        chain_id: &ChainId,
        layers: &[LayerId],
        options: FlatOptions<'_>,
    ) -> Result<BuildFlat, FlatError> {
        let id = loop {
            match self.claim(pins, chain_id, layers)? {
                Claim::Ready(flat) => return Ok(BuildFlat::Found(flat)),
                Claim::Ours(id) => break id,
                Claim::Busy if options.wait => {
                    if options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
                        return Err(FlatError::Cancelled);
                    }
                    std::thread::sleep(WAIT_STEP);
                }
                Claim::Busy => return Ok(BuildFlat::Busy),
            }
        };
        match self.build_claimed(pins, id, chain_id, layers, options) {
            Ok(flat) => Ok(BuildFlat::Built(flat)),
            Err(error) => {
                if let Err(error) = self.discard_flat(id) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        flat = id.0,
                        "an unfinished flat tree stays until this process ends"
                    );
                }
                Err(error)
            }
        }
    }

    /// Makes this process the only builder, if nobody built or builds the tree.
    fn claim(&self, pins: &Pins, chain_id: &ChainId, layers: &[LayerId]) -> Result<Claim, StateError> {
        self.db().write(Durability::Fast, |transaction| {
            if let Some(flat) = find(transaction, chain_id)? {
                pins.add(transaction, Target::Flat(flat.id))?;
                return Ok(Claim::Ready(flat));
            }
            let other = transaction
                .prepare_cached(
                    "SELECT flats.id, process FROM flats JOIN owners ON owners.id = flats.owner
                     WHERE chain_id = ?1 AND state = 'building'",
                )?
                .query_row([chain_id.to_string()], |row| {
                    Ok((row.get::<_, i64>(0)?, parsed::<ProcessId>(row, "process")?))
                })
                .optional()?;
            if let Some((id, process)) = other {
                if process == *self.process() || process.is_alive()? {
                    return Ok(Claim::Busy);
                }
                transaction.execute("UPDATE flats SET state = 'doomed', owner = NULL WHERE id = ?1", [id])?;
            }
            for layer in layers {
                pins.add(transaction, Target::Layer(*layer))?;
            }
            let owner = self.register(transaction)?;
            transaction
                .prepare_cached("INSERT INTO flats (state, owner, chain_id) VALUES ('building', ?1, ?2)")?
                .execute(params![owner, chain_id.to_string()])?;
            Ok(Claim::Ours(FlatId(transaction.last_insert_rowid())))
        })
    }

    fn build_claimed(
        &self,
        pins: &Pins,
        id: FlatId,
        chain_id: &ChainId,
        layers: &[LayerId],
        options: FlatOptions<'_>,
    ) -> Result<Flat, FlatError> {
        let out = self.make_numbered_dir(self.root().flat(), id.0)?;
        let job = Job {
            base: self.root().layers(),
            layers: layers.iter().rev().map(|layer| PathBuf::from(format!("{layer}/fs"))).collect(),
            out: out.as_fd(),
            background: options.background,
            progress: options.progress,
            cancel: options.cancel,
        };
        let Merged { entries, copied_bytes } = merge::merge(&job)?.ok_or(FlatError::Cancelled)?;
        plywood_kernel::syncfs(&out).map_err(StateError::from)?;
        self.db().write(Durability::Full, |transaction| {
            let changed = transaction
                .prepare_cached(
                    "UPDATE flats SET state = 'ready', owner = NULL, entries = ?2, copied_bytes = ?3
                     WHERE id = ?1 AND state = 'building'",
                )?
                .execute(params![id.0, signed(entries), signed(copied_bytes)])?;
            if changed != 1 {
                return Err(rusqlite::Error::StatementChangedRows(changed).into());
            }
            pins.add(transaction, Target::Flat(id))?;
            Ok(Flat { id, chain_id: *chain_id, entries, copied_bytes })
        })
    }

    /// The row decides, not who asks: a commit that reports an error may still have taken effect.
    fn discard_flat(&self, id: FlatId) -> Result<(), StateError> {
        let doomed = self.db().write(Durability::Fast, |transaction| {
            let doom = "UPDATE flats SET state = 'doomed' WHERE id = ?1 AND state = 'building'";
            Ok::<_, StateError>(transaction.prepare_cached(doom)?.execute([id.0])?)
        })?;
        if doomed == 0 {
            return Ok(());
        }
        trash::discard(self, self.root().flat(), &id.to_string())?;
        self.db().write(Durability::Fast, |transaction| {
            transaction
                .prepare_cached("DELETE FROM flats WHERE id = ?1 AND state = 'doomed'")?
                .execute([id.0])?;
            Ok(())
        })
    }
}

pub(crate) fn find(connection: &Connection, chain_id: &ChainId) -> Result<Option<Flat>, StateError> {
    Ok(connection
        .prepare_cached("SELECT * FROM flats WHERE chain_id = ?1 AND state = 'ready'")?
        .query_row([chain_id.to_string()], from_row)
        .optional()?)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Flat> {
    Ok(Flat {
        id: FlatId(row.get("id")?),
        chain_id: parsed(row, "chain_id")?,
        entries: unsigned(row, "entries")?,
        copied_bytes: unsigned(row, "copied_bytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::DIR_FLAGS;

    /// The directory went before the row was asked, so a commit that took effect and still reported an error left a tree
    /// that launches use without its files.
    #[test]
    fn a_tree_whose_commit_took_effect_is_not_discarded() {
        let scratch = tempfile::tempdir().unwrap();
        let store = Store::open(&scratch.path().join("root")).unwrap();
        for (state, stays) in [("ready", true), ("building", false)] {
            let id = store
                .db()
                .write(Durability::Fast, |transaction| {
                    let owner = store.register(transaction)?;
                    let owner = (state == "building").then_some(owner);
                    transaction.execute(
                        "INSERT INTO flats (state, owner, chain_id, entries, copied_bytes) VALUES (?1, ?2, ?1, 0, 0)",
                        rusqlite::params![state, owner],
                    )?;
                    Ok::<_, StateError>(FlatId(transaction.last_insert_rowid()))
                })
                .unwrap();
            store.make_numbered_dir(store.root().flat(), id.0).unwrap();
            store.discard_flat(id).unwrap();
            let opened =
                rustix::fs::openat(store.root().flat(), id.to_string(), DIR_FLAGS, rustix::fs::Mode::empty());
            assert_eq!(opened.is_ok(), stays, "{state}");
        }
    }
}
