//! Snapshots: the writable directories of containers, `snapshots/<id>/{fs,work}`.
//!
//! A snapshot belongs to its container, or until there is one to the process that made it. When neither is left,
//! recovery removes it. Its contents are never synced: a container's writes live as long as the host.

use std::fmt;
use std::path::PathBuf;

use rusqlite::{Row, params};
use rustix::fs::{Gid, Mode, Uid};

use crate::containers::ContainerId;
use crate::db::{Durability, parsed};
use crate::error::{OnFile, StateError};
use crate::{Store, trash};

/// Number of a snapshot, and the name of its directory. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub(crate) i64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A snapshot to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSnapshot {
    /// The recorded container it is for, if there is one yet.
    pub container: Option<ContainerId>,
    /// Host user id that owns the upper directory: what the container's root is mapped to, or 0 if `unshifted`.
    pub uid: u32,
    /// Host group id, likewise.
    pub gid: u32,
    /// Permission bits of the upper directory: those of the image's root directory.
    pub mode: u32,
    /// Whether the upper directory will hold ids as the container sees them, because the overlay mount itself is
    /// idmapped. Such a snapshot can be mounted in no other way.
    pub unshifted: bool,
}

/// A snapshot on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number.
    pub id: SnapshotId,
    /// The container it is for.
    pub container: Option<ContainerId>,
    /// Whether the upper directory holds ids as the container sees them.
    pub unshifted: bool,
    /// Absolute path of the directory that holds `fs` and `work`.
    pub path: PathBuf,
}

impl Snapshot {
    /// Absolute path of the upper directory.
    pub fn upper(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// Absolute path of the work directory.
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }
}

impl Store {
    /// Gives snapshots their numbers, in order, in one transaction. For each, [`make_snapshot`](Self::make_snapshot)
    /// follows, on whatever thread needs it.
    ///
    /// # Errors
    /// The database refused.
    pub fn record_snapshots(&self, new: &[NewSnapshot]) -> Result<Vec<Snapshot>, StateError> {
        self.db().write(Durability::Fast, |transaction| {
            let owner = self.register(transaction)?;
            let mut insert = transaction
                .prepare_cached("INSERT INTO snapshots (owner, container, unshifted) VALUES (?1, ?2, ?3)")?;
            new.iter()
                .map(|new| {
                    let container = new.container.as_ref().map(ContainerId::as_str);
                    insert.execute(params![owner, container, new.unshifted])?;
                    let id = SnapshotId(transaction.last_insert_rowid());
                    Ok(Snapshot {
                        id,
                        container: new.container.clone(),
                        unshifted: new.unshifted,
                        path: self.snapshot_path(id),
                    })
                })
                .collect::<Result<Vec<_>, StateError>>()
        })
    }

    /// The snapshots of a container.
    ///
    /// # Errors
    /// The database refused.
    pub fn snapshots_of(&self, container: &ContainerId) -> Result<Vec<Snapshot>, StateError> {
        self.db().read(|connection| {
            Ok(connection
                .prepare_cached("SELECT * FROM snapshots WHERE container = ?1 ORDER BY id")?
                .query_map([container.as_str()], |row| self.snapshot_from_row(row))?
                .collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Removes snapshots with everything in them. Nothing may be mounted on top of or inside them any more. Those
    /// that are gone already are fine.
    ///
    /// # Errors
    /// The database or the file system refused, or a mount is in the way; what is left belongs to this process
    /// and goes with it.
    pub fn remove_snapshots(&self, ids: &[SnapshotId]) -> Result<(), StateError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.db().write(Durability::Fast, |transaction| {
            let owner = self.register(transaction)?;
            let mut disown = transaction
                .prepare_cached("UPDATE snapshots SET container = NULL, owner = ?2 WHERE id = ?1")?;
            for id in ids {
                disown.execute([id.0, owner])?;
            }
            Ok::<_, StateError>(())
        })?;
        self.discard_snapshots(ids)
    }

    /// Removes snapshots that belong to this process and to no container, then their rows.
    pub(crate) fn discard_snapshots(&self, ids: &[SnapshotId]) -> Result<(), StateError> {
        for id in ids {
            trash::discard(self, self.root().snapshots(), &id.to_string())?;
        }
        self.db().write(Durability::Fast, |transaction| {
            let mut delete = transaction.prepare_cached("DELETE FROM snapshots WHERE id = ?1")?;
            for id in ids {
                delete.execute([id.0])?;
            }
            Ok(())
        })
    }

    /// Absolute path of the directory that holds a snapshot's `fs` and `work`.
    pub fn snapshot_path(&self, id: SnapshotId) -> PathBuf {
        self.root().path().join(format!("snapshots/{id}"))
    }

    /// Makes the directories of a recorded snapshot, empty.
    ///
    /// # Errors
    /// The file system refused.
    pub fn make_snapshot(&self, id: SnapshotId, new: &NewSnapshot) -> Result<(), StateError> {
        let fs = self.make_numbered_dir(self.root().snapshots(), id.0)?;
        let name = format!("snapshots/{id}/fs");
        rustix::fs::fchown(&fs, Some(Uid::from_raw(new.uid)), Some(Gid::from_raw(new.gid)))
            .on_file("fchown", &name)?;
        rustix::fs::fchmod(&fs, Mode::from_raw_mode(new.mode & 0o7777)).on_file("fchmod", &name)?;
        let work = format!("{id}/work");
        rustix::fs::mkdirat(self.root().snapshots(), &work, Mode::RWXU).on_file("mkdirat", &work)?;
        Ok(())
    }

    fn snapshot_from_row(&self, row: &Row<'_>) -> rusqlite::Result<Snapshot> {
        let id = SnapshotId(row.get("id")?);
        let container = match row.get::<_, Option<String>>("container")? {
            Some(_) => Some(parsed(row, "container")?),
            None => None,
        };
        Ok(Snapshot { id, container, unshifted: row.get("unshifted")?, path: self.snapshot_path(id) })
    }
}
