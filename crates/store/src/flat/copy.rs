//! Copying what cannot be linked: reflinked where the file system can, else copied, holes kept.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use plywood_kernel::SyscallError;
use plywood_kernel::copy::CopyError;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use super::merge::times;
use crate::unpack::RoomError;

/// Why a file was not copied.
#[derive(Debug)]
pub(super) enum Failure {
    /// A call failed.
    Errno(Errno),
    /// There is no room for it.
    Room(RoomError),
    /// Nobody wants the tree any more.
    Cancelled,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Errno(errno)
    }
}

impl From<SyscallError> for Failure {
    fn from(error: SyscallError) -> Failure {
        Failure::Errno(error.errno())
    }
}

/// Asked before each piece of a file, with the bytes of the file that are written then.
pub(super) type GoOn<'a> = &'a dyn Fn(u64) -> Result<(), Failure>;

/// Files with several links that were copied: device and inode of the original, path of the copy.
#[derive(Debug, Default)]
pub(super) struct Copies(Mutex<HashMap<(u64, u64), PathBuf>>);

/// Copies `name`, or links it to the copy made of the same file before. `path` is where it lies below `root`.
/// Returns the bytes written.
pub(super) fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    root: BorrowedFd<'_>,
    path: &Path,
    copies: &Copies,
    go_on: GoOn<'_>,
) -> Result<u64, Failure> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.st_nlink == 1 {
        return copy_one(from, to, name, &stat, go_on);
    }
    // Held while copying, so that two names of one file on two threads do not become two files.
    let mut copies = copies.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(first) = copies.get(&(stat.st_dev, stat.st_ino)) {
        match rustix::fs::linkat(root, first, to, name, AtFlags::empty()) {
            Ok(()) => return Ok(0),
            Err(Errno::MLINK) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let bytes = copy_one(from, to, name, &stat, go_on)?;
    copies.insert((stat.st_dev, stat.st_ino), path.to_owned());
    Ok(bytes)
}

fn copy_one(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    go_on: GoOn<'_>,
) -> Result<u64, Failure> {
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let bytes = match file_type {
        FileType::RegularFile => copy_file(from, to, name, stat, go_on)?,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(&*target, to, name)?;
            0
        }
        _ => {
            rustix::fs::mknodat(to, name, file_type, Mode::from_raw_mode(0o600), stat.st_rdev)?;
            0
        }
    };
    rustix::fs::chownat(
        to,
        name,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    copy_xattrs(from, to, name)?;
    if file_type != FileType::Symlink {
        // Made above, in a directory nobody else can enter: it is no link.
        rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(bytes)
}

fn copy_file(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    go_on: GoOn<'_>,
) -> Result<u64, Failure> {
    let source =
        rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let target = rustix::fs::openat(
        to,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )?;
    if plywood_kernel::copy::share(&source, &target)? {
        return Ok(0);
    }
    plywood_kernel::copy::data(&source, &target, stat.st_size.unsigned_abs(), go_on).map_err(|error| {
        match error {
            CopyError::Call(error) => error.into(),
            CopyError::Stopped(error) => error,
        }
    })
}

/// By path, the only way for links and devices: the kernel has no `setxattrat` before 6.13. The directory's
/// descriptor in `/proc` is no link that could be redirected, and the last component is not followed.
fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    let (from, to) = (proc_path(from, name)?, proc_path(to, name)?);
    let size = match rustix::fs::llistxattr_query(&*from) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        Ok(size) => size,
        Err(errno) => return Err(errno),
    };
    let mut list = vec![0u8; size];
    let length = rustix::fs::llistxattr(&*from, &mut list[..])?;
    for attribute in wanted(&list[..length]) {
        let mut value = vec![0u8; rustix::fs::lgetxattr_query(&*from, &*attribute)?];
        let length = rustix::fs::lgetxattr(&*from, &*attribute, &mut value[..])?;
        rustix::fs::lsetxattr(&*to, &*attribute, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

fn proc_path(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).map_err(|_| Errno::INVAL)
}

/// The attributes of an open file that belong to the image.
pub(super) fn fd_xattr_names(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    let size = match rustix::fs::flistxattr_query(fd) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(size) => size,
        Err(errno) => return Err(errno),
    };
    let mut list = vec![0u8; size];
    let length = rustix::fs::flistxattr(fd, &mut list[..])?;
    Ok(wanted(&list[..length]))
}

/// One attribute of an open file.
pub(super) fn fd_xattr(fd: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0u8; rustix::fs::fgetxattr_query(fd, name)?];
    let length = rustix::fs::fgetxattr(fd, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

/// overlayfs's own attributes say how a layer lies on others; a flat tree lies on none.
fn wanted(list: &[u8]) -> Vec<CString> {
    list.split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"trusted.overlay."))
        .filter_map(|name| CString::new(name).ok())
        .collect()
}
