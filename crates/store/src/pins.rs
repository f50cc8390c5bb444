//! Pins: what a running command uses and garbage collection in any process must leave alone.
//!
//! A pin is taken in the transaction that finds the thing, so there is no moment in which it is found but can be
//! collected. Pins die with their [`Pins`] value, or with the process.

use plywood_image::{ChainId, DiffId, Digest};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::Store;
use crate::db::Durability;
use crate::error::StateError;
use crate::flat::{Flat, FlatId};
use crate::layers::{self, Layer, LayerId};

/// A group of pins of this process. Dropping it releases them all.
#[derive(Debug)]
pub struct Pins {
    store: Store,
    group: i64,
    released: bool,
}

/// What a pin protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Layer(LayerId),
    Flat(FlatId),
    /// By manifest digest.
    Image(&'a Digest),
    Blob(&'a Digest),
}

impl Store {
    /// Opens an empty group of pins.
    ///
    /// # Errors
    /// The database refused.
    pub fn pins(&self) -> Result<Pins, StateError> {
        let group = self.db().write(Durability::Fast, |transaction| {
            let owner = self.register(transaction)?;
            transaction.prepare_cached("INSERT INTO pin_groups (owner) VALUES (?1)")?.execute([owner])?;
            Ok::<_, StateError>(transaction.last_insert_rowid())
        })?;
        Ok(Pins { store: self.clone(), group, released: false })
    }
}

impl Pins {
    /// The committed layer that can serve as the top of `chain_id`, pinned: one of this diff ID that needs nothing of the
    /// layers below or only the root they show, or one unpacked on exactly these layers. `root` stands for that root
    /// ([`Basis::Root`]); `None` where the layers below are not here yet.
    ///
    /// [`Basis::Root`]: crate::layers::Basis::Root
    ///
    /// # Errors
    /// The database refused.
    pub fn find_layer(
        &self,
        diff_id: &DiffId,
        chain_id: &ChainId,
        root: Option<&Digest>,
    ) -> Result<Option<Layer>, StateError> {
        self.store.db().write(Durability::Fast, |transaction| {
            let layer = layers::find(transaction, diff_id, chain_id, root)?;
            if let Some(layer) = &layer {
                self.add(transaction, Target::Layer(layer.id))?;
            }
            Ok(layer)
        })
    }

    /// The finished flat tree of `chain_id`, pinned.
    ///
    /// # Errors
    /// The database refused.
    pub fn find_flat(&self, chain_id: &ChainId) -> Result<Option<Flat>, StateError> {
        self.store.db().write(Durability::Fast, |transaction| {
            let flat = crate::flat::find(transaction, chain_id)?;
            if let Some(flat) = &flat {
                self.add(transaction, Target::Flat(flat.id))?;
            }
            Ok(flat)
        })
    }

    /// Keeps the blob `digest`, whether it is there yet or not.
    ///
    /// # Errors
    /// The database refused.
    pub fn blob(&self, digest: &Digest) -> Result<(), StateError> {
        self.store
            .db()
            .write(Durability::Fast, |transaction| Ok(self.add(transaction, Target::Blob(digest))?))
    }

    /// Releases the pins and says whether that worked. Dropping does the same and logs a failure.
    ///
    /// # Errors
    /// The database refused; the pins then last until the process ends.
    pub fn release(mut self) -> Result<(), StateError> {
        self.released = true;
        self.delete()
    }

    pub(crate) fn add(&self, transaction: &Transaction<'_>, target: Target<'_>) -> rusqlite::Result<()> {
        let (kind, target) = target.columns();
        transaction
            .prepare_cached("INSERT OR IGNORE INTO pins (pin_group, kind, target) VALUES (?1, ?2, ?3)")?
            .execute(params![self.group, kind, target])?;
        Ok(())
    }

    fn delete(&self) -> Result<(), StateError> {
        self.store.db().write(Durability::Fast, |transaction| {
            transaction.prepare_cached("DELETE FROM pin_groups WHERE id = ?1")?.execute([self.group])?;
            Ok(())
        })
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        if let Err(error) = self.delete() {
            tracing::warn!(error = &error as &dyn std::error::Error, "pins stay until this process ends");
        }
    }
}

impl Target<'_> {
    fn columns(self) -> (&'static str, String) {
        match self {
            Target::Layer(id) => ("layer", id.to_string()),
            Target::Flat(id) => ("flat", id.to_string()),
            Target::Image(digest) => ("image", digest.to_string()),
            Target::Blob(digest) => ("blob", digest.to_string()),
        }
    }

    /// Whether any process has a pin on it.
    pub(crate) fn is_pinned(self, transaction: &Transaction<'_>) -> rusqlite::Result<bool> {
        let (kind, target) = self.columns();
        transaction
            .prepare_cached("SELECT 1 FROM pins WHERE kind = ?1 AND target = ?2 LIMIT 1")?
            .query_row(params![kind, target], |_| Ok(()))
            .optional()
            .map(|row| row.is_some())
    }
}
