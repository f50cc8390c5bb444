//! Owner, mode, extended attributes and times.
//!
//! The order matters: changing the owner clears set-user-id bits and file capabilities, so it comes first; the
//! times come last.
//!
//! Policy: `security.selinux` is left out, and counted, where the kernel does not take it (labels managed by the
//! mount); so is a time beyond those of the file system, which then takes its last. Every other attribute that cannot be
//! set is an error. One that is too large for the file system is told from
//! a full disk, though the kernel answers ENOSPC to both.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use plywood_image::layer::{EntryPath, Meta};
use plywood_image::tar::Timestamp;
use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::error::{OnEntry, UnpackError};
use super::writer::LeftOut;

const SELINUX: &str = "security.selinux";
const ACCESS_LIST: &str = "system.posix_acl_access";

/// With more than this free, an attribute of at most 64 KiB was not refused for want of space.
const FREE_FOR_ATTRIBUTES: u64 = 1 << 20;

/// Gives an open file or directory all its attributes.
///
/// What it has is asked for, not assumed: the group of a new file is that of the process or of the directory, as the mount
/// (`grpid`) and the directory's set-group-id bit have it, and its mode is cut by the umask or a default ACL. Most files
/// need no change, and asking is cheaper than changing.
pub(super) fn apply(
    fd: impl AsFd,
    path: &EntryPath,
    meta: &Meta,
    left_out: &mut LeftOut,
) -> Result<(), UnpackError> {
    let fd = fd.as_fd();
    let needs = Needs::of(&rustix::fs::fstat(fd).on(path, "fstat(fd)")?, meta);
    if needs.owner {
        rustix::fs::fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
            .on(path, format_args!("fchown(fd, {}, {})", meta.uid, meta.gid))?;
    }
    if needs.mode {
        rustix::fs::fchmod(fd, mode(meta.mode)).on(path, format_args!("fchmod(fd, {:04o})", meta.mode))?;
    }
    for (name, value) in &meta.xattrs {
        let name = OsStr::from_bytes(name);
        let result = rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty());
        allowed(name, result, left_out).map_err(|errno| {
            refused(fd, path, format!("fsetxattr(fd, {name:?}, {} bytes)", value.len()), errno)
        })?;
    }
    rustix::fs::futimens(fd, &timestamps(meta)).on(path, "futimens(fd)")?;
    if may_be_beyond(meta.mtime) {
        left_out.note_time(meta.mtime, &rustix::fs::fstat(fd).on(path, "fstat(fd)")?);
    }
    Ok(())
}

/// The same for what cannot be opened: symbolic links, devices, fifos. `name` in the directory `dir`.
pub(super) fn apply_at(
    dir: impl AsFd,
    name: &OsStr,
    path: &EntryPath,
    meta: &Meta,
    is_link: bool,
    left_out: &mut LeftOut,
) -> Result<(), UnpackError> {
    let dir = dir.as_fd();
    let has = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    let needs = Needs::of(&has.on(path, format_args!("fstatat(dir, {name:?})"))?, meta);
    if needs.owner {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .on(path, format_args!("fchownat(dir, {name:?}, {}, {})", meta.uid, meta.gid))?;
    }
    // A symbolic link has no mode. What stands at the name otherwise was made here a moment ago and is no link,
    // and nobody else can enter the directory.
    if !is_link && needs.mode {
        rustix::fs::chmodat(dir, name, mode(meta.mode), AtFlags::empty())
            .on(path, format_args!("fchmodat(dir, {name:?}, {:04o})", meta.mode))?;
    }
    if !meta.xattrs.is_empty() {
        let node = proc_path(dir, name);
        for (name, value) in &meta.xattrs {
            let name = OsStr::from_bytes(name);
            let result = rustix::fs::lsetxattr(&node, name, value, XattrFlags::empty());
            allowed(name, result, left_out).map_err(|errno| {
                refused(dir, path, format!("lsetxattr(path, {name:?}, {} bytes)", value.len()), errno)
            })?;
        }
    }
    rustix::fs::utimensat(dir, name, &timestamps(meta), AtFlags::SYMLINK_NOFOLLOW)
        .on(path, format_args!("utimensat(dir, {name:?})"))?;
    if may_be_beyond(meta.mtime) {
        let has = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        left_out.note_time(meta.mtime, &has.on(path, format_args!("fstatat(dir, {name:?})"))?);
    }
    Ok(())
}

/// Whether some file system has no such time: the kernel then takes the nearest and says nothing. All have those of 32 bits.
fn may_be_beyond(time: Timestamp) -> bool {
    i32::try_from(time.seconds).is_err()
}

/// What is to be changed of a file.
struct Needs {
    owner: bool,
    mode: bool,
}

impl Needs {
    fn of(has: &Stat, meta: &Meta) -> Needs {
        let owner = (has.st_uid, has.st_gid) != (meta.uid, meta.gid);
        // A change of owner takes set-user-id and set-group-id away.
        let mode = has.st_mode & 0o7777 != meta.mode || owner && meta.mode & 0o6000 != 0;
        Needs { owner, mode }
    }
}

/// Takes away the access list that a file just made in a directory with a default one has inherited.
pub(super) fn drop_inherited(dir: impl AsFd, name: &OsStr, path: &EntryPath) -> Result<(), UnpackError> {
    match rustix::fs::lremovexattr(proc_path(dir.as_fd(), name), ACCESS_LIST) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno).on(path, format_args!("lremovexattr(path, {ACCESS_LIST:?})")),
    }
}

/// For calls that take no descriptor. The directory's magic link leads to itself, and the name is not followed.
fn proc_path(dir: BorrowedFd<'_>, name: &OsStr) -> OsString {
    let mut path = OsString::from(format!("/proc/self/fd/{}/", dir.as_raw_fd()));
    path.push(name);
    path
}

fn allowed(name: &OsStr, result: rustix::io::Result<()>, left_out: &mut LeftOut) -> rustix::io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP) if name == SELINUX => {
            left_out.labels += 1;
            Ok(())
        }
        other => other,
    }
}

/// Why an attribute could not be set. ext4 without `ea_inode` answers ENOSPC to what does not fit in one block, tmpfs to
/// what goes beyond its own limit, others E2BIG; only a disk that is full is a matter of free space.
fn refused(on: impl AsFd, path: &EntryPath, call: String, errno: Errno) -> UnpackError {
    let has_room = || {
        let stat = rustix::fs::fstatvfs(on);
        stat.is_ok_and(|stat| stat.f_bfree.saturating_mul(stat.f_frsize) > FREE_FOR_ATTRIBUTES)
    };
    let (path, source) = (path.clone(), errno.into());
    match errno {
        Errno::TOOBIG => UnpackError::Attribute { path, call, source },
        Errno::NOSPC if has_room() => UnpackError::Attribute { path, call, source },
        _ => UnpackError::Entry { path, call, source },
    }
}

/// Permission bits as the kernel's type.
pub(super) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o7777)
}

fn timestamps(meta: &Meta) -> Timestamps {
    Timestamps {
        last_access: timespec(meta.atime.unwrap_or(meta.mtime)),
        last_modification: timespec(meta.mtime),
    }
}

fn timespec(time: Timestamp) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No file system refuses labels and takes all else on a kernel without SELinux, so the answer is made up.
    #[test]
    fn labels_alone_are_left_out_and_counted() {
        let mut left_out = LeftOut::default();
        let refused = Err(Errno::OPNOTSUPP);
        assert_eq!(allowed(OsStr::new("user.note"), refused, &mut left_out), refused);
        assert_eq!(allowed(OsStr::new(SELINUX), Err(Errno::PERM), &mut left_out), Err(Errno::PERM));
        assert!(left_out.is_empty());
        assert_eq!(allowed(OsStr::new(SELINUX), refused, &mut left_out), Ok(()));
        assert_eq!(left_out.to_string(), "labels (SELinux) of 1 entry");
    }
}
