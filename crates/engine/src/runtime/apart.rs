//! Calling runtimes without a trace in the caller's mount table.
//!
//! crun guards its own file against the containers it starts: whatever it is asked, `--version` included, it first mounts
//! itself read-only for a moment, where it was called. That is one mount up and one down in the host's table, and a turn
//! with the locks all launches take. runc (before 1.2) does so when it starts a process in a container.

use std::io;

use plywood_kernel::mountns::{make_all_private, unshare_current_thread};

use super::{Family, Runtime};

impl Runtime {
    /// Runs `work`, which asks this runtime something, where what the runtime mounts for itself is not seen.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn apart<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        match self.family {
            Family::Crun => apart(work),
            Family::Runc => Ok(work()),
        }
    }

    /// The same for `work` that has this runtime start a process in a container.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start_apart<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        apart(work)
    }
}

/// Runs `work` on a thread of its own in a private copy of the mount namespace. What it spawns stays there.
pub(super) fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("plywood-ask".to_owned());
        let thread = thread.spawn_scoped(scope, || {
            // Who may not do this may not mount either.
            if let Err(error) = unshare_current_thread().and_then(|()| make_all_private()) {
                tracing::debug!(%error, "a runtime is asked in the caller's mount namespace");
            }
            work()
        })?;
        thread.join().map_err(|_| io::Error::other("the thread that asks a runtime panicked"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use plywood_kernel::testing::{in_shared_mount_ns, require_root};
    use plywood_kernel::{FsContext, MountAttrs, MountWatch};
    use rustix::fs::CWD;

    #[test]
    fn root_what_is_mounted_apart_is_not_mounted_here() {
        require_root();
        // Where a copy of the namespace is no place of one's own yet.
        in_shared_mount_ns(|| {
            let mut watch = MountWatch::start().unwrap();
            let place = tempfile::tempdir().unwrap();
            apart(|| {
                let tmpfs = FsContext::open("tmpfs").unwrap();
                tmpfs.create().unwrap();
                tmpfs.mount(MountAttrs::NONE).unwrap().attach(CWD, place.path()).unwrap();
            })
            .unwrap();
            assert_eq!(watch.counts().unwrap().total(), 0);
        });
    }
}
