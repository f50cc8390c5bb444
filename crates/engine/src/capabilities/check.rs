//! Whether a rootfs does what it is for.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use plywood_kernel::SyscallError;
use plywood_kernel::idmap::IdMap;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// A rootfs does not do what it is for.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// An owner is not the one asked for.
    #[error("`{}` {place} belongs to {found_uid}:{found_gid} instead of {uid}:{gid}", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Where it was looked at.
        place: &'static str,
        /// Its owner.
        found_uid: u32,
        /// Its group.
        found_gid: u32,
        /// What the owner should be.
        uid: u32,
        /// What the group should be.
        gid: u32,
    },
    /// A call failed.
    #[error(transparent)]
    Call(#[from] SyscallError),
}

/// Looks at an owner and writes through: `file` must be a regular file of an unmapped 0:0 owner in the image.
///
/// The container's root must own it as seen through the rootfs, it must take bytes (overlay turns read-only without
/// a word when it dislikes its upper directory), and the copy in `upper` must have the right owner on disk.
pub fn check_rootfs(
    rootfs: impl AsFd,
    file: &Path,
    idmap: &IdMap,
    upper: &Path,
    unshifted_upper: bool,
) -> Result<(), CheckError> {
    let root = (idmap.to_host_uid(0).unwrap_or(u32::MAX), idmap.to_host_gid(0).unwrap_or(u32::MAX));
    owner(&rootfs, file, "in the container", root)?;
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |call: &str, errno| SyscallError::new(format!("{call}({file:?})"), errno);
    let opened =
        rustix::fs::openat(&rootfs, file, flags, Mode::empty()).map_err(|errno| failed("openat", errno))?;
    std::fs::File::from(opened)
        .write_all(b"written through\n")
        .map_err(|error| failed("write", Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    owner(&rootfs, file, "in the container, once written,", root)?;
    let stored = if unshifted_upper { (0, 0) } else { root };
    owner(CWD, &upper.join(file), "on disk", stored)
}

fn owner(dir: impl AsFd, path: &Path, place: &'static str, (uid, gid): (u32, u32)) -> Result<(), CheckError> {
    let stat = rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| SyscallError::new(format!("newfstatat({path:?}, AT_SYMLINK_NOFOLLOW)"), errno))?;
    if (stat.st_uid, stat.st_gid) == (uid, gid) {
        return Ok(());
    }
    let (found_uid, found_gid) = (stat.st_uid, stat.st_gid);
    Err(CheckError::Owner { path: path.to_owned(), place, found_uid, found_gid, uid, gid })
}
