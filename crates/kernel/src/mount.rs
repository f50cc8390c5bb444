//! Mounts as descriptors: clone, map ids, set attributes, attach; and `umount`.
//!
//! A detached clone is in no mount table: nobody can walk into it, and it disappears with its last
//! descriptor. That last close costs what an `umount` costs (an expedited RCU grace period), so callers on a
//! hot path hand the descriptor to a [`Reaper`](crate::Reaper).
//!
//! Names in the last component are never followed if they are symlinks, neither what is cloned nor the target.

use std::borrow::Cow;
use std::ffi::CStr;
use std::fmt;
use std::ops::BitOr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use rustix::path::Arg;

use crate::UserNs;
use crate::error::{self, Result, SyscallError};
use crate::sys;

pub use rustix::mount::UnmountFlags;

/// A descriptor of a mount: detached, or attached somewhere.
#[derive(Debug)]
pub struct MountFd(OwnedFd);

/// Attributes of one mount (not of its filesystem).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MountAttrs(u32);

impl MountFd {
    /// A detached copy of the mount at `path` (all mounts below it too if `recursive`), rooted at `path`.
    ///
    /// `path` is relative to `dirfd`; empty, it means `dirfd` itself.
    ///
    /// # Errors
    /// EINVAL if the mount is unbindable, or `dirfd` is itself detached and the kernel older than 6.15; ENOSPC
    /// when `user.max_mnt_namespaces` is reached, each detached mount counts against it.
    pub fn clone_tree(dirfd: impl AsFd, path: impl Arg, recursive: bool) -> Result<MountFd> {
        let clone = OpenTreeFlags::OPEN_TREE_CLONE;
        let depth = if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
        open_tree(dirfd.as_fd(), path, clone | depth)
    }

    /// The attached mount at `path` itself, no copy; for [`set_attrs`](Self::set_attrs) and its friends.
    pub fn open(dirfd: impl AsFd, path: impl Arg) -> Result<MountFd> {
        open_tree(dirfd.as_fd(), path, OpenTreeFlags::empty())
    }

    /// Gives the mount the id map of `ns`.
    ///
    /// # Errors
    /// EINVAL if the filesystem cannot be idmapped; EPERM if the mount is attached or has a map already, or if
    /// `ns` is the initial user namespace; EBUSY if a file on it is open for writing.
    pub fn set_idmap(&self, ns: &UserNs) -> Result<()> {
        let userns = ns.as_fd();
        let attr = sys::MountAttr {
            attr_set: u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits()),
            userns_fd: u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&userns)).unwrap_or(u64::MAX),
            ..Default::default()
        };
        self.setattr(&attr, false, || format!("attr_set=MOUNT_ATTR_IDMAP, userns_fd={}", error::fd(userns)))
    }

    /// Sets and clears attributes, on all mounts below as well if `recursive`.
    pub fn set_attrs(&self, set: MountAttrs, clear: MountAttrs, recursive: bool) -> Result<()> {
        let attr =
            sys::MountAttr { attr_set: u64::from(set.0), attr_clr: u64::from(clear.0), ..Default::default() };
        self.setattr(&attr, recursive, || format!("attr_set={set}, attr_clr={clear}"))
    }

    fn setattr(&self, attr: &sys::MountAttr, recursive: bool, shown: impl Fn() -> String) -> Result<()> {
        let depth = if recursive { libc::AT_RECURSIVE } else { 0 };
        sys::mount_setattr(self.as_fd(), c"", libc::AT_EMPTY_PATH | depth, attr).map_err(|errno| {
            let flags = error::flags(&[(true, "AT_EMPTY_PATH"), (recursive, "AT_RECURSIVE")]);
            SyscallError::new(
                format!(
                    "mount_setattr({}, \"\", {flags}, {{{}}}, {})",
                    error::fd(self),
                    shown(),
                    size_of::<sys::MountAttr>()
                ),
                errno,
            )
        })
    }

    /// Attaches the mount at `path` relative to `dirfd`; an empty path mounts on the directory `dirfd` itself.
    ///
    /// One attach; it counts in every mount table the target's mount propagates to.
    ///
    /// # Errors
    /// EINVAL if the target is in another mount namespace; ENOTDIR if one is a directory and the other not.
    pub fn attach(&self, dirfd: impl AsFd, path: impl Arg) -> Result<()> {
        let dirfd = dirfd.as_fd();
        let path = c_path("move_mount", path)?;
        let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        if path.is_empty() {
            flags |= MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        }
        rustix::mount::move_mount(self, c"", dirfd, &*path, flags).map_err(|errno| {
            let flags = error::flags(&[
                (true, "MOVE_MOUNT_F_EMPTY_PATH"),
                (path.is_empty(), "MOVE_MOUNT_T_EMPTY_PATH"),
            ]);
            SyscallError::new(
                format!("move_mount({}, \"\", {}, {path:?}, {flags})", error::fd(self), error::fd(dirfd)),
                errno,
            )
        })
    }

    /// Opens a directory inside the mount, `path` relative to its root; empty, the root itself.
    ///
    /// The descriptor is `O_RDONLY|O_DIRECTORY`, which overlayfs takes as a layer from 6.13 (an `O_PATH` one
    /// only from 6.15). Symlinks are resolved as usual except in the last component.
    pub fn open_dir(&self, path: impl Arg) -> Result<OwnedFd> {
        let path = c_path("openat", path)?;
        let name: &CStr = if path.is_empty() { c"." } else { &path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self, name, flags, Mode::empty()).map_err(|errno| {
            SyscallError::new(
                format!("openat({}, {name:?}, O_RDONLY|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC)", error::fd(self)),
                errno,
            )
        })
    }
}

impl AsFd for MountFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes over a descriptor the caller knows to be a mount's (from `fsmount` or `open_tree`).
impl From<OwnedFd> for MountFd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<MountFd> for OwnedFd {
    fn from(mount: MountFd) -> Self {
        mount.0
    }
}

/// Unmounts what is attached at `path`; `UMOUNT_NOFOLLOW` is always added.
///
/// # Errors
/// EBUSY if it is in use and `flags` lacks `DETACH`; EINVAL if `path` is no mount point.
pub fn unmount(path: impl Arg, flags: UnmountFlags) -> Result<()> {
    let path = c_path("umount2", path)?;
    let flags = flags | UnmountFlags::NOFOLLOW;
    rustix::mount::unmount(&*path, flags).map_err(|errno| {
        let names = error::flags(&[
            (flags.contains(UnmountFlags::FORCE), "MNT_FORCE"),
            (flags.contains(UnmountFlags::DETACH), "MNT_DETACH"),
            (flags.contains(UnmountFlags::EXPIRE), "MNT_EXPIRE"),
            (true, "UMOUNT_NOFOLLOW"),
        ]);
        SyscallError::new(format!("umount2({path:?}, {names})"), errno)
    })
}

fn open_tree(dirfd: BorrowedFd<'_>, path: impl Arg, flags: OpenTreeFlags) -> Result<MountFd> {
    let path = c_path("open_tree", path)?;
    let mut flags = flags
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    rustix::mount::open_tree(dirfd, &*path, flags).map(MountFd).map_err(|errno| {
        let names = error::flags(&[
            (flags.contains(OpenTreeFlags::OPEN_TREE_CLONE), "OPEN_TREE_CLONE"),
            (true, "OPEN_TREE_CLOEXEC"),
            (flags.contains(OpenTreeFlags::AT_RECURSIVE), "AT_RECURSIVE"),
            (flags.contains(OpenTreeFlags::AT_EMPTY_PATH), "AT_EMPTY_PATH"),
            (true, "AT_SYMLINK_NOFOLLOW"),
            (true, "AT_NO_AUTOMOUNT"),
        ]);
        SyscallError::new(format!("open_tree({}, {path:?}, {names})", error::fd(dirfd)), errno)
    })
}

/// The path as the kernel takes it; a NUL inside is reported as `call` being refused with EINVAL.
pub(crate) fn c_path<'a>(call: &str, path: impl Arg + 'a) -> Result<Cow<'a, CStr>> {
    let shown = path.to_string_lossy().into_owned();
    path.into_c_str().map_err(|errno: Errno| SyscallError::new(format!("{call}({shown:?})"), errno))
}

impl MountAttrs {
    /// Nothing set.
    pub const NONE: Self = Self(0);
    /// Read-only.
    pub const RDONLY: Self = Self(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    /// Set-user-id and set-group-id bits and file capabilities are ignored.
    pub const NOSUID: Self = Self(MountAttrFlags::MOUNT_ATTR_NOSUID.bits());
    /// Device files cannot be opened.
    pub const NODEV: Self = Self(MountAttrFlags::MOUNT_ATTR_NODEV.bits());
    /// Nothing can be executed.
    pub const NOEXEC: Self = Self(MountAttrFlags::MOUNT_ATTR_NOEXEC.bits());
    /// Symlinks are not followed.
    pub const NOSYMFOLLOW: Self = Self(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW.bits());

    const NAMES: [(Self, &'static str); 5] = [
        (Self::RDONLY, "MOUNT_ATTR_RDONLY"),
        (Self::NOSUID, "MOUNT_ATTR_NOSUID"),
        (Self::NODEV, "MOUNT_ATTR_NODEV"),
        (Self::NOEXEC, "MOUNT_ATTR_NOEXEC"),
        (Self::NOSYMFOLLOW, "MOUNT_ATTR_NOSYMFOLLOW"),
    ];

    /// Whether all of `other` is set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) fn flags(self) -> MountAttrFlags {
        MountAttrFlags::from_bits_retain(self.0)
    }
}

impl BitOr for MountAttrs {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for MountAttrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&error::flags(&Self::NAMES.map(|(attr, name)| (self.contains(attr), name))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_print_as_the_kernel_names_them() {
        let attrs = MountAttrs::RDONLY | MountAttrs::NODEV;
        assert_eq!(attrs.to_string(), "MOUNT_ATTR_RDONLY|MOUNT_ATTR_NODEV");
        assert_eq!(MountAttrs::NONE.to_string(), "0");
        assert!(attrs.contains(MountAttrs::NODEV));
        assert!(!attrs.contains(MountAttrs::NODEV | MountAttrs::NOEXEC));
    }

    #[test]
    fn a_nul_in_a_path_is_reported_with_the_call() {
        let error = unmount("/a\0b", UnmountFlags::empty()).unwrap_err();
        assert_eq!(error.errno(), Errno::INVAL);
        assert_eq!(error.call(), "umount2(\"/a\\0b\")");
    }
}
