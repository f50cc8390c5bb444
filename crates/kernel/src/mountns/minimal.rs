//! Building [`MountNs::minimal`].
//!
//! ```text
//! unshare(CLONE_NEWNS), everything private      one copy of the caller's table, once in a program's life
//! open_tree(OPEN_TREE_CLONE) for each mount     detached, not recursive
//! move_mount(clone of "/", onto "/")
//! fchdir(clone); pivot_root(".", ".")           the clone is the root, the old root lies on top of it
//! umount2(".", MNT_DETACH)                      all old mounts, in one call
//! move_mount(each other clone, to its place)    parents first
//! ```

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;

use super::{MountNs, make_all_private, select, unshare_current_thread};
use crate::error::{self, Result, SyscallError};
use crate::mount::{MountFd, UnmountFlags};
use crate::table;

pub(super) fn build(keep: &[&Path]) -> Result<MountNs> {
    let keep: Vec<PathBuf> = keep.iter().map(|path| resolve(path)).collect();
    let origin = MountNs::current()?;
    std::thread::scope(|scope| {
        let helper = std::thread::Builder::new()
            .name("plywood-mountns".to_owned())
            .spawn_scoped(scope, || build_here(&origin, &keep))
            .map_err(|error| SyscallError::from_io("clone(CLONE_THREAD)", &error))?;
        helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs on the helper thread, which ends in the new namespace.
fn build_here(origin: &MountNs, keep: &[PathBuf]) -> Result<MountNs> {
    let new = || {
        unshare_current_thread()?;
        make_all_private()?;
        MountNs::current()
    };
    // Opened before the mounts go: /proc may not be among those kept.
    let namespace = new()?;
    match strip(keep) {
        Ok(()) => Ok(namespace),
        Err(error) if error.errno() == Errno::INVAL && error.call().starts_with("pivot_root") => {
            tracing::debug!(%error, "root cannot be pivoted away from; launches copy the whole mount table");
            origin.enter()?;
            new()
        }
        Err(error) => Err(error),
    }
}

fn strip(keep: &[PathBuf]) -> Result<()> {
    let entries = table::list()?;
    let chosen = select(&entries, keep);
    let Some((root, rest)) = chosen.split_first() else {
        return Err(SyscallError::new("read(\"/proc/thread-self/mountinfo\"): no mount at /", Errno::NOENT));
    };
    let clone = |index: &usize| {
        let point = &entries[*index].mount_point;
        MountFd::clone_tree(CWD, point, false).map(|mount| (mount, point))
    };
    let (new_root, _) = clone(root)?;
    let rest = rest.iter().map(clone).collect::<Result<Vec<_>>>()?;

    new_root.attach(CWD, "/")?;
    rustix::process::fchdir(new_root.as_fd())
        .map_err(|errno| SyscallError::new(format!("fchdir({})", error::fd(&new_root)), errno))?;
    rustix::process::pivot_root(".", ".")
        .map_err(|errno| SyscallError::new("pivot_root(\".\", \".\")", errno))?;
    crate::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/").map_err(|errno| SyscallError::new("chdir(\"/\")", errno))?;
    for (mount, point) in &rest {
        mount.attach(CWD, point.as_path())?;
    }
    Ok(())
}

/// Without symlinks, as far as it exists.
fn resolve(path: &Path) -> PathBuf {
    path.ancestors()
        .find_map(|ancestor| std::fs::canonicalize(ancestor).ok())
        .unwrap_or_else(|| PathBuf::from("/"))
}
