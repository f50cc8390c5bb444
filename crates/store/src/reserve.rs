//! Room for those who make room.
//!
//! Removing things writes first: a transaction, perhaps a directory's block. On a full disk nothing could be removed any
//! more. So the state root holds a file of allocated blocks, `ballast`, and whoever frees space and finds none gives up
//! half of what is left of it and tries again. When there is space, the next command that opens the store makes it whole.
//!
//! Only removals and records of ends may use it: pulls and launches that did would leave nothing for them.

use std::os::fd::OwnedFd;

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::Store;
use crate::containers::ContainerError;
use crate::db::Durability;
use crate::error::StateError;
use crate::images::ImageError;
use crate::root::Root;

const NAME: &str = "ballast";

/// Twice the thousand pages that the database's log grows to before it begins anew.
const MOST: u64 = 8 << 20;
/// Of a small file system, this part.
const SHARE: u64 = 16;
/// Less than this helps nobody.
const LEAST: u64 = 256 << 10;
/// It is made where so many times its size are free.
const SPARE: u64 = 4;

/// Errors that may mean that there is no space left.
pub trait DiskFull {
    /// Whether this one does.
    fn is_disk_full(&self) -> bool;
}

impl DiskFull for StateError {
    fn is_disk_full(&self) -> bool {
        StateError::is_disk_full(self)
    }
}

impl DiskFull for ImageError {
    fn is_disk_full(&self) -> bool {
        matches!(self, ImageError::State(error) if error.is_disk_full())
    }
}

impl DiskFull for ContainerError {
    fn is_disk_full(&self) -> bool {
        matches!(self, ContainerError::State(error) if error.is_disk_full())
    }
}

impl Store {
    /// Runs `work`, which frees space or records what must be; as long as it finds the disk full, gives up some of the
    /// reserve and runs it again.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn with_reserve<T, E: DiskFull>(&self, mut work: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        loop {
            match work() {
                Err(error) if error.is_disk_full() && give_up(self.root()) => {}
                result => return result,
            }
        }
    }

    /// A transaction with the reserve.
    pub(crate) fn write_with_reserve<T, E>(
        &self,
        durability: Durability,
        mut f: impl FnMut(&rusqlite::Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<rusqlite::Error> + DiskFull,
    {
        self.with_reserve(|| self.db().write(durability, &mut f))
    }
}

/// Makes the reserve, or makes it whole, if there is space. Without it everything works until the disk is full.
pub(crate) fn keep(root: &Root) {
    match try_keep(root) {
        // A file system that cannot allocate ahead (NFS, ZFS) has no reserve.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOSPC | Errno::DQUOT | Errno::ROFS) => {}
        Err(errno) => tracing::debug!(%errno, "making the reserve"),
    }
}

fn try_keep(root: &Root) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstatvfs(root.dir())?;
    let wanted = MOST.min(stat.f_blocks.saturating_mul(stat.f_frsize) / SHARE) / LEAST * LEAST;
    let file = open(root, OFlags::CREATE)?;
    let has = size(&file)?;
    if has >= wanted || stat.f_bavail.saturating_mul(stat.f_frsize) < SPARE * wanted {
        return Ok(());
    }
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, wanted)
}

/// Gives up half of what is left, all if that is little. False if there was nothing.
pub(crate) fn give_up(root: &Root) -> bool {
    let given = || {
        let file = open(root, OFlags::empty())?;
        let has = size(&file)?;
        let left = if has <= LEAST { 0 } else { has / 2 };
        rustix::fs::ftruncate(&file, left)?;
        Ok::<_, Errno>((has, left))
    };
    match given() {
        Ok((0, _)) | Err(Errno::NOENT) => false,
        Ok((has, left)) => {
            tracing::info!(
                given_bytes = has - left,
                left_bytes = left,
                "the disk is full: using the reserve"
            );
            true
        }
        Err(errno) => {
            tracing::warn!(%errno, "giving up the reserve");
            false
        }
    }
}

fn open(root: &Root, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat(root.dir(), NAME, flags, Mode::RUSR | Mode::WUSR)
}

fn size(file: &OwnedFd) -> rustix::io::Result<u64> {
    Ok(u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0))
}
