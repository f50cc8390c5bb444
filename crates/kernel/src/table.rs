//! The mount table of the calling thread's mount namespace, as far as its root reaches.
//!
//! Read with `listmount` and `statmount` (6.8) where the kernel tells everything an entry holds (6.15), else
//! from `/proc/thread-self/mountinfo`. Reading either takes the namespace semaphore: on a host in trouble this is
//! where one waits.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{self, Result, SyscallError};

mod mountinfo;
mod statmount;

pub use mountinfo::{ParseError, parse as parse_mountinfo};

/// One mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountEntry {
    /// The number `mountinfo` shows; the kernel reuses it after an umount.
    pub id: u64,
    /// The id of the mount it is attached to; for the topmost one this is no entry of the table, or itself.
    pub parent_id: u64,
    /// The number never used again; None where the kernel does not tell (mountinfo).
    pub unique_id: Option<u64>,
    /// Device number of the filesystem, major and minor.
    pub device: (u32, u32),
    /// The directory of the filesystem that is mounted.
    pub root: PathBuf,
    /// Where, seen from the root of the reading thread.
    pub mount_point: PathBuf,
    /// Filesystem type with its subtype: `ext4`, `fuse.sshfs`.
    pub fs_type: String,
    /// Device or whatever the mounter called it; `none` if it gave nothing.
    pub source: String,
    /// Attributes of the mount, comma-separated: `rw,nosuid,idmapped`. Order and completeness may differ
    /// between the two ways of reading.
    pub options: String,
    /// Options of the filesystem as it shows them, without `ro` and `rw`.
    pub fs_options: String,
    /// Whether mounts on it are seen by others (a peer group) or arrive from others (a master).
    pub propagates: bool,
}

impl MountEntry {
    /// Whether the mount translates ids.
    pub fn is_idmapped(&self) -> bool {
        self.options.split(',').any(|option| option == "idmapped")
    }
}

/// All mounts, in the order the kernel lists them.
pub fn list() -> Result<Vec<MountEntry>> {
    match statmount::list()? {
        Some(entries) => Ok(entries),
        None => list_mountinfo(),
    }
}

/// The same from mountinfo, on any kernel.
pub fn list_mountinfo() -> Result<Vec<MountEntry>> {
    let path = "/proc/thread-self/mountinfo";
    let bytes =
        std::fs::read(path).map_err(|error| SyscallError::from_io(format!("read({path:?})"), &error))?;
    parse_mountinfo(&bytes)
        .map_err(|error| SyscallError::new(format!("read({path:?}): {error}"), Errno::BADMSG))
}

/// How many mounts there are.
pub fn count() -> Result<usize> {
    match statmount::ids()? {
        Some(ids) => Ok(ids.len()),
        None => list_mountinfo().map(|entries| entries.len()),
    }
}

/// The never-reused ids of all mounts; None on kernels without `listmount`.
pub fn unique_ids() -> Result<Option<BTreeSet<u64>>> {
    Ok(statmount::ids()?.map(BTreeSet::from_iter))
}

/// The mount `path` lies on: absolute, without symlinks. None only for a table without a root.
pub fn covering<'a>(entries: &'a [MountEntry], path: &Path) -> Option<&'a MountEntry> {
    crate::mountns::visible_chain(entries, path).last().and_then(|index| entries.get(*index))
}

/// The mount points at and below `path`, parents first; what to keep to keep a whole tree of mounts.
pub fn points_below<'a>(entries: &'a [MountEntry], path: &Path) -> Vec<&'a Path> {
    let mut points: Vec<&Path> = entries
        .iter()
        .map(|entry| entry.mount_point.as_path())
        .filter(|point| point.starts_with(path))
        .collect();
    points.sort();
    points.dedup();
    points
}

/// Whether `fd` lies on a mount of this namespace that translates no ids.
///
/// False for an idmapped mount and for one that is in no table (detached) and so cannot be judged.
pub fn is_plain_mount(fd: impl AsFd) -> Result<bool> {
    let fd = fd.as_fd();
    if let Some(answer) = statmount::is_plain(fd)? {
        return Ok(answer);
    }
    let id = statmount::mount_id(fd, false)?;
    Ok(list_mountinfo()?.iter().any(|entry| entry.id == id && !entry.is_idmapped()))
}

fn statx_error(fd: std::os::fd::BorrowedFd<'_>, mask: &str, errno: Errno) -> SyscallError {
    SyscallError::new(format!("statx({}, \"\", AT_EMPTY_PATH, {mask})", error::fd(fd)), errno)
}
