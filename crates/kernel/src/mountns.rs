//! Mount namespaces as descriptors, and a small one to start container runtimes in.
//!
//! Copying a mount namespace costs time proportional to its mounts, under the global lock. So launches do not
//! copy the host's: they copy a template, [`MountNs::minimal`], which holds a handful of mounts.
//!
//! ```text
//! launcher thread, again and again:
//!   template.enter()            setns: the thread sees the template; root and cwd are its `/`
//!   unshare_current_thread()    a copy of it, this launch's own
//!   rootfs.attach(...)          visible here only
//!   Command::spawn()            the child inherits the copy
//! ```
//!
//! **Root and working directory.** `setns` moves the thread's root and cwd to the root of the namespace it
//! enters. [`MountNs::enter`] first gives the thread root and cwd of its own (`unshare(CLONE_FS)`), so no
//! other thread is moved; but from then on relative paths on this thread mean something else, and absolute
//! ones are looked up in the entered namespace. Do this on threads of your own, and open whatever you need
//! from the host beforehand: descriptors stay valid. Threads started by such a thread inherit its view.
//! `std::process::Command` opens `/dev/null` there and looks its program up there, so keep `/dev`, `/proc` and
//! where the program lies.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::error::{self, Result, SyscallError};
use crate::sys;

mod minimal;
mod select;

pub use select::{select, visible_chain};

/// A mount namespace. It lives as long as the descriptor or a thread in it.
#[derive(Debug)]
pub struct MountNs(OwnedFd);

impl MountNs {
    /// The calling thread's.
    pub fn current() -> Result<MountNs> {
        let path = "/proc/thread-self/ns/mnt";
        File::open(path).map(|file| MountNs(file.into())).map_err(|error| {
            SyscallError::from_io(format!("openat(AT_FDCWD, {path:?}, O_RDONLY|O_CLOEXEC)"), &error)
        })
    }

    /// That of another process.
    ///
    /// # Errors
    /// ENOENT if there is no such process, EACCES without the right to trace it.
    pub fn of(pid: u32) -> Result<MountNs> {
        let path = format!("/proc/{pid}/ns/mnt");
        File::open(&path).map(|file| MountNs(file.into())).map_err(|error| {
            SyscallError::from_io(format!("openat(AT_FDCWD, {path:?}, O_RDONLY|O_CLOEXEC)"), &error)
        })
    }

    /// Moves the calling thread, and no other, into this namespace; its root and cwd become the namespace's
    /// root. Can be repeated, also from within another namespace.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN and CAP_SYS_CHROOT.
    pub fn enter(&self) -> Result<()> {
        // setns refuses a thread that shares root and cwd with others.
        unshare_working_directory()?;
        rustix::thread::move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Mount))
            .map_err(|errno| SyscallError::new(format!("setns({}, CLONE_NEWNS)", error::fd(self)), errno))
    }

    /// How many mounts are in it, without reading its table: a few microseconds and no lock, however many they are.
    /// None on kernels that do not tell (before 6.12).
    pub fn size(&self) -> Result<Option<usize>> {
        match sys::mount_namespace_size(self.as_fd()) {
            Ok(mounts) => Ok(Some(mounts as usize)),
            // EINVAL: an ioctl of a namespace descriptor, but not this one.
            Err(Errno::NOTTY | Errno::INVAL) => Ok(None),
            Err(errno) => {
                Err(SyscallError::new(format!("ioctl({}, NS_MNT_GET_INFO)", error::fd(self)), errno))
            }
        }
    }

    /// A new namespace with only the mounts needed to reach the `keep` paths: for each path the mount that
    /// covers it, and the mounts on the way to it. Mounts *below* a kept path are not kept unless named too
    /// (see [`table::points_below`](crate::table::points_below)). All mounts are private.
    ///
    /// The paths are absolute, looked up from the calling thread's root, symlinks resolved; one that does not
    /// exist counts as its deepest existing ancestor. Built on a helper thread; the caller stays where it is.
    /// On a root that cannot be pivoted away from (an initramfs), the namespace is a private copy of the
    /// caller's whole one.
    pub fn minimal(keep: &[&Path]) -> Result<MountNs> {
        minimal::build(keep)
    }
}

impl AsFd for MountNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<MountNs> for OwnedFd {
    /// For whoever closes it elsewhere: the last close of a namespace detaches all its mounts.
    fn from(namespace: MountNs) -> OwnedFd {
        namespace.0
    }
}

/// Puts the calling thread into its own copy of its mount namespace, root and cwd along with it.
///
/// Mounts that are shared stay in the peer group of the originals: follow with [`make_all_private`] unless
/// the original was private already.
pub fn unshare_current_thread() -> Result<()> {
    unshare(UnshareFlags::NEWNS, "CLONE_NEWNS")
}

/// Gives the calling thread a root, working directory and umask of its own, for good. Others no longer follow what it
/// changes of them, nor it what they change.
pub fn unshare_working_directory() -> Result<()> {
    unshare(UnshareFlags::FS, "CLONE_FS")
}

/// Cuts all propagation of the calling thread's mount namespace, in both directions.
pub fn make_all_private() -> Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| SyscallError::new("mount(NULL, \"/\", NULL, MS_REC|MS_PRIVATE, NULL)", errno))
}

fn unshare(flags: UnshareFlags, name: &str) -> Result<()> {
    // SAFETY: unshare_unsafe warns of CLONE_FILES only, which splits the descriptor table; the callers pass
    // CLONE_FS or CLONE_NEWNS.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .map_err(|errno| SyscallError::new(format!("unshare({name})"), errno))
}
