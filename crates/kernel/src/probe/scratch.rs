//! A scratch directory for one probe: two layers, an upper and a work directory.
//!
//! ```text
//! <dir>/.plywood-probe-<pid>-<n>/
//!   layers/a/file      owner 0, mode 644
//!   layers/b/          empty
//!   upper/ work/ at/
//! ```

use std::fs::{DirBuilder, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Result, SyscallError};
use crate::mountns::{make_all_private, unshare_current_thread};
use crate::remove_tree;

pub(super) struct Scratch {
    parent: OwnedFd,
    name: PathBuf,
    path: PathBuf,
}

impl Scratch {
    pub(super) fn new(dir: &Path) -> Result<Scratch> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(".plywood-probe-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let io = |call: String| move |error: std::io::Error| SyscallError::from_io(call, &error);
        let parent = File::open(dir).map_err(io(format!("openat(AT_FDCWD, {dir:?}, O_RDONLY)")))?;
        let path = dir.join(&name);
        let mkdir = |path: PathBuf, mode: u32| {
            DirBuilder::new().mode(mode).create(&path).map_err(io(format!("mkdir({path:?}, 0{mode:o})")))
        };
        mkdir(path.clone(), 0o700)?;
        // From here on Drop cleans up.
        let scratch = Scratch { parent: parent.into(), name: name.into(), path };
        for name in ["layers", "layers/a", "layers/b", "upper", "work", "at"] {
            mkdir(scratch.path(name), 0o755)?;
        }
        let file = scratch.path("layers/a/file");
        std::fs::write(&file, b"x").map_err(io(format!("openat(AT_FDCWD, {file:?}, O_CREAT)")))?;
        Ok(scratch)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(self.parent.as_fd(), &self.name) {
            tracing::warn!(%error, path = %self.path.display(), "probe directory left behind");
        }
    }
}

/// Runs a probe on a thread of its own, in a private copy of the caller's mount namespace, which goes with it.
pub(super) fn in_private_namespace<T: Send>(probe: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let helper = std::thread::Builder::new()
            .name("plywood-probe".to_owned())
            .spawn_scoped(scope, || {
                unshare_current_thread()?;
                make_all_private()?;
                probe()
            })
            .map_err(|error| SyscallError::from_io("clone(CLONE_THREAD)", &error))?;
        helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
