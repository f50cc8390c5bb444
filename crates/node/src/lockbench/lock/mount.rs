//! The kernel's own: a directory is cloned, attached and detached, while every other thread walks a path.
//!
//! ```text
//! one half, measured:  open_tree(OPEN_TREE_CLONE), move_mount, close, umount2(MNT_DETACH)
//! the other, beside:   stat of a path seven directories deep
//! ```
//!
//! All threads are in one mount namespace of their own that holds a tmpfs and little else; nobody else sees what they
//! mount, and all of it goes with the last of them, however they end. The locks are the whole machine's all the same.

use std::ffi::CString;
use std::os::fd::AsFd as _;

use plywood_kernel::mount::{MountFd, UnmountFlags, unmount};
use plywood_kernel::{FsContext, MountAttrs, MountNs, SyscallError};
use rustix::fs::{CWD, Mode};

use super::Lock;
use crate::lockbench::roles::Roles;
use crate::lockbench::section::Section;

const WALKED: &str = "a/b/c/d/e/f/g";
const SOURCE: &str = "source";

pub(in crate::lockbench) struct Mount {
    namespace: MountNs,
    /// Of the tmpfs.
    root: MountFd,
    /// The mount point of each thread, relative to the root.
    points: Vec<CString>,
    roles: Roles,
}

impl Lock for Mount {
    fn new(roles: &Roles) -> Result<Self, SyscallError> {
        let namespace = MountNs::minimal(&[])?;
        let points: Vec<CString> =
            (0..roles.threads()).filter_map(|me| CString::new(format!("point-{me}")).ok()).collect();
        // Entering moves a thread for good, so the caller does not.
        let root = std::thread::scope(|scope| {
            let made = scope.spawn(|| make_root(&namespace, &points)).join();
            made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok(Self { namespace, root, points, roles: roles.clone() })
    }

    fn join(&self) -> Result<(), SyscallError> {
        self.namespace.enter()?;
        rustix::process::fchdir(self.root.as_fd()).map_err(|errno| SyscallError::new("fchdir(tmpfs)", errno))
    }

    /// The kernel's critical section is its own.
    fn operate(&self, me: usize, _section: &Section) -> Result<(), SyscallError> {
        if !self.roles.contends(me) {
            return match rustix::fs::stat(WALKED) {
                Ok(_) => Ok(()),
                Err(errno) => Err(SyscallError::new(format!("stat({WALKED:?})"), errno)),
            };
        }
        let point = self.points[me].as_c_str();
        MountFd::clone_tree(&self.root, SOURCE, false)?.attach(&self.root, point)?;
        // Relative to the working directory, which is the root.
        unmount(point, UnmountFlags::DETACH)
    }
}

fn make_root(namespace: &MountNs, points: &[CString]) -> Result<MountFd, SyscallError> {
    namespace.enter()?;
    let context = FsContext::open("tmpfs")?;
    context.create()?;
    let root = context.mount(MountAttrs::NONE)?;
    root.attach(CWD, "/")?;
    let make = |path: &str| {
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(&root, path, mode)
            .map_err(|errno| SyscallError::new(format!("mkdirat(tmpfs, {path:?}, 0755)"), errno))
    };
    make(SOURCE)?;
    points.iter().try_for_each(|point| make(&point.to_string_lossy()))?;
    let ends = WALKED.match_indices('/').map(|(at, _)| at).chain([WALKED.len()]);
    ends.map(|end| &WALKED[..end]).try_for_each(make)?;
    Ok(root)
}
