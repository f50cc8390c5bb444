//! Copying what cannot be linked: reflinked where the file system can, else copied, holes kept.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use super::merge::times;
use crate::error::{FileError, OnFile};

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
) -> Result<u64, FileError> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).on_file("statat", path)?;
    if stat.st_nlink == 1 {
        return copy_one(from, to, name, &stat).on_file("copy", path);
    }
    // Held while copying, so that two names of one file on two threads do not become two files.
    let mut copies = copies.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(first) = copies.get(&(stat.st_dev, stat.st_ino)) {
        match rustix::fs::linkat(root, first, to, name, AtFlags::empty()) {
            Ok(()) => return Ok(0),
            Err(Errno::MLINK) => {}
            Err(errno) => return Err(FileError::new("linkat", path, errno)),
        }
    }
    let bytes = copy_one(from, to, name, &stat).on_file("copy", path)?;
    copies.insert((stat.st_dev, stat.st_ino), path.to_owned());
    Ok(bytes)
}

fn copy_one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> rustix::io::Result<u64> {
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let bytes = match file_type {
        FileType::RegularFile => copy_file(from, to, name, stat)?,
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

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> rustix::io::Result<u64> {
    let source =
        rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let target = rustix::fs::openat(
        to,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )?;
    match rustix::fs::ioctl_ficlone(&target, &source) {
        Ok(()) => return Ok(0),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::XDEV | Errno::NOSYS) => {}
        Err(errno) => return Err(errno),
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    rustix::fs::ftruncate(&target, size)?;
    let mut copied = 0;
    let mut at = 0;
    while at < size {
        // ENXIO: only a hole follows.
        let start = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let end = rustix::fs::seek(&source, SeekFrom::Hole(start))?;
        copied += copy_extent(&source, &target, start, end)?;
        at = end;
    }
    Ok(copied)
}

fn copy_extent(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> rustix::io::Result<u64> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let length = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source, Some(&mut read_at), target, Some(&mut write_at), length) {
            // Shorter than its size said.
            Ok(0) => return Err(Errno::IO),
            Ok(_) => {}
            // Between file systems of two types (5.19 and later refuse).
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                let mut buffer = vec![0; length.min(256 * 1024)];
                let read = rustix::io::pread(source, &mut buffer, read_at)?;
                if read == 0 {
                    return Err(Errno::IO);
                }
                let written = rustix::io::pwrite(target, &buffer[..read], write_at)?;
                read_at += written as u64;
                write_at += written as u64;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(end - start)
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
