//! The calls of steps that the kernel crate has no noun for.

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use plywood_kernel::SyscallError;
use plywood_kernel::idmap::IdMap;
use plywood_kernel::mount::MountAttrs;
use plywood_kernel::remove::empty_tree;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::StepError;

/// A bare reference to a directory: enough for overlay, and cheaper than a readable descriptor.
pub(super) fn open_path(parent: impl AsFd, name: &Path) -> Result<OwnedFd, SyscallError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|errno| {
        SyscallError::new(format!("openat({name:?}, O_PATH|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC)"), errno)
    })
}

pub(super) fn make_dir(path: &Path) -> Result<(), SyscallError> {
    rustix::fs::mkdirat(CWD, path, Mode::RWXU)
        .map_err(|errno| SyscallError::new(format!("mkdirat(AT_FDCWD, {path:?}, 0700)"), errno))
}

pub(super) fn remove_dir(path: &Path) -> Result<(), SyscallError> {
    rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)
        .map_err(|errno| SyscallError::new(format!("unlinkat(AT_FDCWD, {path:?}, AT_REMOVEDIR)"), errno))
}

pub(super) fn chdir(path: &Path) -> Result<(), SyscallError> {
    rustix::process::chdir(path).map_err(|errno| SyscallError::new(format!("chdir({path:?})"), errno))
}

pub(super) fn fchdir(dir: impl AsFd) -> Result<(), SyscallError> {
    rustix::process::fchdir(dir).map_err(|errno| SyscallError::new("fchdir()", errno))
}

/// Enters a directory on this thread alone; returns where it was.
pub(super) fn enter_dir(dir: impl AsFd) -> Result<OwnedFd, SyscallError> {
    thread_local! {
        static ALONE: Cell<bool> = const { Cell::new(false) };
    }
    if !ALONE.get() {
        plywood_kernel::mountns::unshare_working_directory()?;
        ALONE.set(true);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let home = rustix::fs::openat(CWD, c".", flags, Mode::empty())
        .map_err(|errno| SyscallError::new("openat(AT_FDCWD, \".\", O_PATH|O_DIRECTORY|O_CLOEXEC)", errno))?;
    fchdir(dir)?;
    Ok(home)
}

/// Removes everything in a directory, not the directory itself.
pub(super) fn empty(path: &Path) -> Result<(), SyscallError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|errno| {
        let flags = "O_RDONLY|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC";
        SyscallError::new(format!("openat(AT_FDCWD, {path:?}, {flags})"), errno)
    })?;
    empty_tree(&dir)
}

/// Gives `upper` the owner and mode of `like`; the owner shifted by `idmap`, if there is one.
pub(super) fn shape_upper(like: &Path, upper: &Path, idmap: Option<&IdMap>) -> Result<(), StepError> {
    let stat = rustix::fs::statat(CWD, like, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| {
        SyscallError::new(format!("newfstatat(AT_FDCWD, {like:?}, AT_SYMLINK_NOFOLLOW)"), errno)
    })?;
    let (uid, gid) = match idmap {
        None => (stat.st_uid, stat.st_gid),
        Some(map) => match (map.to_host_uid(stat.st_uid), map.to_host_gid(stat.st_gid)) {
            (Some(uid), Some(gid)) => (uid, gid),
            _ => {
                return Err(StepError::Unmapped {
                    path: like.to_owned(),
                    uid: stat.st_uid,
                    gid: stat.st_gid,
                });
            }
        },
    };
    rustix::fs::chownat(
        CWD,
        upper,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(|errno| {
        SyscallError::new(format!("fchownat(AT_FDCWD, {upper:?}, {uid}, {gid}, AT_SYMLINK_NOFOLLOW)"), errno)
    })?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    rustix::fs::chmodat(CWD, upper, mode, AtFlags::empty()).map_err(|errno| {
        SyscallError::new(format!("fchmodat(AT_FDCWD, {upper:?}, {:#o})", mode.bits()), errno)
    })?;
    Ok(())
}

/// `mount(2)` of an overlay; the caller checked that the options fit a page.
pub(super) fn mount_overlay(options: &str, path: &Path, attrs: MountAttrs) -> Result<(), SyscallError> {
    let failed = |errno| {
        SyscallError::new(format!("mount(\"overlay\", {path:?}, \"overlay\", {attrs}, {options:?})"), errno)
    };
    let data = CString::new(options).map_err(|_| failed(Errno::INVAL))?;
    rustix::mount::mount("overlay", path, "overlay", legacy(attrs), data.as_c_str()).map_err(failed)
}

/// A bind mount with attributes, for kernels that cannot clone a mount detached.
pub(super) fn bind(from: &Path, target: &Path, attrs: MountAttrs) -> Result<(), SyscallError> {
    rustix::mount::mount_bind(from, target).map_err(|errno| {
        SyscallError::new(format!("mount({from:?}, {target:?}, NULL, MS_BIND, NULL)"), errno)
    })?;
    let remounted =
        rustix::mount::mount_remount(target, MountFlags::BIND | legacy(attrs), "").map_err(|errno| {
            SyscallError::new(format!("mount(NULL, {target:?}, NULL, MS_REMOUNT|MS_BIND, {attrs})"), errno)
        });
    if remounted.is_err() {
        plywood_kernel::mount::unmount(target, plywood_kernel::mount::UnmountFlags::DETACH)?;
    }
    remounted
}

fn legacy(attrs: MountAttrs) -> MountFlags {
    [
        (MountAttrs::RDONLY, MountFlags::RDONLY),
        (MountAttrs::NOSUID, MountFlags::NOSUID),
        (MountAttrs::NODEV, MountFlags::NODEV),
        (MountAttrs::NOEXEC, MountFlags::NOEXEC),
    ]
    .into_iter()
    .filter(|(attr, _)| attrs.contains(*attr))
    .fold(MountFlags::empty(), |flags, (_, flag)| flags | flag)
}
