//! Owner, mode, extended attributes and times.
//!
//! The order matters: changing the owner clears set-user-id bits and file capabilities, so it comes first; the
//! times come last.
//!
//! Policy: `security.selinux` is dropped where the kernel does not take it (no SELinux, or labels managed by the
//! mount); every other attribute that cannot be set is an error. One that is too large for the file system is told from
//! a full disk, though the kernel answers ENOSPC to both.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;

use plywood_image::layer::{EntryPath, Meta};
use plywood_image::tar::Timestamp;
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::error::{OnEntry, UnpackError};

const SELINUX: &str = "security.selinux";

/// With more than this free, an attribute of at most 64 KiB was not refused for want of space.
const FREE_FOR_ATTRIBUTES: u64 = 1 << 20;

/// What a new file of this process looks like before anything is changed: spares needless calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) umask: u32,
}

impl Defaults {
    pub(super) fn of_this_process() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: umask().unwrap_or(0o777),
        }
    }

    pub(super) fn owns(self, meta: &Meta) -> bool {
        (self.uid, self.gid) == (meta.uid, meta.gid)
    }

    /// Whether `open` or `mknod` with this mode gives exactly this mode.
    pub(super) fn keeps_mode(self, mode: u32) -> bool {
        mode & !0o777 == 0 && mode & self.umask == 0
    }
}

/// Read, not `umask(2)`: that would change it for other threads meanwhile. None where it cannot be known.
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

/// Gives an open file or directory all its attributes. `fresh`: just made with `meta.mode` by this process.
pub(super) fn apply(
    fd: impl AsFd,
    path: &EntryPath,
    meta: &Meta,
    fresh: Option<Defaults>,
) -> Result<(), UnpackError> {
    let fd = fd.as_fd();
    let owned = fresh.is_some_and(|defaults| defaults.owns(meta));
    if !owned {
        rustix::fs::fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
            .on(path, format_args!("fchown(fd, {}, {})", meta.uid, meta.gid))?;
    }
    // chown takes set-user-id and set-group-id away, but those never count as kept.
    if !fresh.is_some_and(|defaults| defaults.keeps_mode(meta.mode)) {
        rustix::fs::fchmod(fd, mode(meta.mode)).on(path, format_args!("fchmod(fd, {:04o})", meta.mode))?;
    }
    for (name, value) in &meta.xattrs {
        let name = OsStr::from_bytes(name);
        let result = rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty());
        allowed(name, result).map_err(|errno| {
            refused(fd, path, format!("fsetxattr(fd, {name:?}, {} bytes)", value.len()), errno)
        })?;
    }
    rustix::fs::futimens(fd, &timestamps(meta)).on(path, "futimens(fd)")
}

/// The same for what cannot be opened: symbolic links, devices, fifos. `name` in the directory `dir`.
pub(super) fn apply_at(
    dir: impl AsFd,
    name: &OsStr,
    path: &EntryPath,
    meta: &Meta,
    is_link: bool,
    fresh: Defaults,
) -> Result<(), UnpackError> {
    let dir = dir.as_fd();
    if !fresh.owns(meta) {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .on(path, format_args!("fchownat(dir, {name:?}, {}, {})", meta.uid, meta.gid))?;
    }
    // A symbolic link has no mode. What stands at the name otherwise was made here a moment ago and is no link,
    // and nobody else can enter the directory.
    if !is_link && !fresh.keeps_mode(meta.mode) {
        rustix::fs::chmodat(dir, name, mode(meta.mode), AtFlags::empty())
            .on(path, format_args!("fchmodat(dir, {name:?}, {:04o})", meta.mode))?;
    }
    if !meta.xattrs.is_empty() {
        let mut node = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        node.extend_from_slice(name.as_bytes());
        for (name, value) in &meta.xattrs {
            let name = OsStr::from_bytes(name);
            let result = rustix::fs::lsetxattr(OsStr::from_bytes(&node), name, value, XattrFlags::empty());
            allowed(name, result).map_err(|errno| {
                refused(dir, path, format!("lsetxattr(path, {name:?}, {} bytes)", value.len()), errno)
            })?;
        }
    }
    rustix::fs::utimensat(dir, name, &timestamps(meta), AtFlags::SYMLINK_NOFOLLOW)
        .on(path, format_args!("utimensat(dir, {name:?})"))
}

fn allowed(name: &OsStr, result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP) if name == SELINUX => {
            tracing::debug!("security.selinux dropped: not supported here");
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
