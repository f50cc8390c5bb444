//! The writable directories of a round's containers, and the mount points of their launches: in memory.
//!
//! What a disk does is no part of what this launcher measures, and would hide it: on ext4 without a journal each storm
//! was up to five times as slow as the one before, for making files next to deleted ones. Only `copy`, which writes the
//! whole image into them, has them in the store; what that costs is its own.
//!
//! ```text
//! scratch/.trial-<pid>-storm/memory/    a tmpfs, attached where the storm was started, for as long as it lasts
//!   <round>/<container>/{fs,work,points}
//! ```

use std::fs::Permissions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use plywood_engine::mechanism::Mechanism;
use plywood_kernel::{FsContext, MountAttrs, SyscallError, UnmountFlags, remove_tree, unmount};
use plywood_store::{NewSnapshot, Snapshot, SnapshotId};
use rustix::fs::CWD;

use super::{Ground, lock};
use crate::launcher::LauncherError;

const MAKING: &str = "making the containers' writable directories";
const REMOVING: &str = "removing the containers' writable directories";

/// The tmpfs. Whoever attached it detaches it.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    /// Its root. None once it is about to be detached.
    dir: Option<OwnedFd>,
    /// Made so far.
    rounds: AtomicU64,
}

/// Those of one container.
#[derive(Debug)]
pub(super) struct Directories {
    pub(super) upper: PathBuf,
    pub(super) work: PathBuf,
    /// A directory that the launch may make, for what it mounts.
    pub(super) points: PathBuf,
}

impl Memory {
    /// Attaches one to the directory, which it makes.
    pub(super) fn attach(path: PathBuf) -> Result<Self, LauncherError> {
        std::fs::create_dir_all(&path)
            .map_err(|source| LauncherError::new(format!("making {}", path.display()), source))?;
        let attach = || -> Result<OwnedFd, SyscallError> {
            let context = FsContext::open("tmpfs")?;
            context.set_string("source", "plywood-storm")?;
            context.set_string("mode", "0700")?;
            context.create()?;
            let mount = context.mount(MountAttrs::NOSUID | MountAttrs::NODEV)?;
            let dir = mount.open_dir("")?;
            mount.attach(CWD, &path)?;
            Ok(dir)
        };
        let dir = attach().map_err(LauncherError::doing("mounting a tmpfs for writable directories"))?;
        Ok(Self { path, dir: Some(dir), rounds: AtomicU64::new(0) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Detaches it; once.
    pub(super) fn detach(&mut self) {
        if self.dir.take().is_none() {
            return;
        }
        if let Err(error) = unmount(&self.path, UnmountFlags::DETACH) {
            tracing::error!(error = &error as &dyn std::error::Error, "unmounting {}", self.path.display());
        }
    }

    /// Makes a directory, owned by the caller.
    fn make(&self, name: &str) -> Result<(), LauncherError> {
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(self.path.join(name))
            .map_err(LauncherError::doing(MAKING))
    }
}

/// Where one arm has its directories.
#[derive(Debug)]
pub(super) enum Writable {
    /// In the tmpfs: these rounds' are there.
    Memory(Mutex<Vec<String>>),
    /// In the store: these are there.
    Store(Mutex<Vec<SnapshotId>>),
}

impl Writable {
    /// For a mechanism that leaves them empty, or one that fills them.
    pub(super) fn of(mechanism: Mechanism) -> Self {
        match mechanism {
            Mechanism::Copy => Self::Store(Mutex::default()),
            _ => Self::Memory(Mutex::default()),
        }
    }

    /// Makes those of a round, one for each of `new`.
    pub(super) fn make(
        &self,
        ground: &Ground,
        new: &[NewSnapshot],
    ) -> Result<Vec<Directories>, LauncherError> {
        match self {
            Self::Memory(rounds) => {
                let memory = ground.memory();
                let round = memory.rounds.fetch_add(1, Ordering::Relaxed).to_string();
                memory.make(&round)?;
                lock(rounds).push(round.clone());
                new.iter()
                    .enumerate()
                    .map(|(n, new)| in_memory(memory, &format!("{round}/{n}"), new))
                    .collect()
            }
            Self::Store(kept) => in_store(ground, &mut lock(kept), new),
        }
    }

    /// Removes those that are there. In the store, nothing may be mounted on them any more.
    pub(super) fn remove(&self, ground: &Ground) -> Result<(), LauncherError> {
        match self {
            // Launches that were given up may still mount there: what is in use goes later, or with the tmpfs.
            Self::Memory(rounds) => {
                let Some(dir) = &ground.memory().dir else { return Ok(()) };
                lock(rounds).retain(|round| {
                    remove_tree(dir, round)
                        .inspect_err(|error| {
                            tracing::debug!(error = error as &dyn std::error::Error, round, "left")
                        })
                        .is_err()
                });
                Ok(())
            }
            Self::Store(kept) => {
                let kept = std::mem::take(&mut *lock(kept));
                ground.store().remove_snapshots(&kept).map_err(LauncherError::doing(REMOVING))
            }
        }
    }
}

fn in_memory(memory: &Memory, name: &str, new: &NewSnapshot) -> Result<Directories, LauncherError> {
    let [upper, work, points] = ["fs", "work", "points"].map(|part| format!("{name}/{part}"));
    for directory in [name, &upper, &work] {
        memory.make(directory)?;
    }
    let upper = memory.path.join(upper);
    std::os::unix::fs::chown(&upper, Some(new.uid), Some(new.gid)).map_err(LauncherError::doing(MAKING))?;
    std::fs::set_permissions(&upper, Permissions::from_mode(new.mode & 0o7777))
        .map_err(LauncherError::doing(MAKING))?;
    Ok(Directories { upper, work: memory.path.join(work), points: memory.path.join(points) })
}

fn in_store(
    ground: &Ground,
    kept: &mut Vec<SnapshotId>,
    new: &[NewSnapshot],
) -> Result<Vec<Directories>, LauncherError> {
    let store = ground.store();
    let snapshots = store.record_snapshots(new).map_err(LauncherError::doing(MAKING))?;
    kept.extend(snapshots.iter().map(|snapshot| snapshot.id));
    for (snapshot, new) in snapshots.iter().zip(new) {
        store.make_snapshot(snapshot.id, new).map_err(LauncherError::doing(MAKING))?;
    }
    // What was made is not written back while something is measured.
    plywood_kernel::syncfs(store.root().dir()).map_err(LauncherError::doing(MAKING))?;
    let of = |snapshot: &Snapshot| Directories {
        upper: snapshot.upper(),
        work: snapshot.work(),
        points: ground.memory().path.join(format!("points-{}", snapshot.id)),
    };
    Ok(snapshots.iter().map(of).collect())
}
