//! Directories of the layer being written, by descriptor.
//!
//! Every directory is opened from the layer's root with `openat2`, which neither follows a symbolic link nor leaves
//! the root nor crosses a mount, so a mistake above cannot become a write elsewhere. Opening costs a walk, and tar
//! streams stay in one directory for a while: the last ones are kept open.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use plywood_image::layer::EntryPath;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::error::{OnEntry, UnpackError};

/// Directories kept open. Trees are walked depth first: the path from the root, and some.
const OPEN: usize = 32;

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// Opens directories below one root.
pub(super) struct Dirs<'a> {
    root: BorrowedFd<'a>,
    /// The latest used last.
    open: Vec<(EntryPath, Rc<OwnedFd>)>,
}

impl<'a> Dirs<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, open: Vec::with_capacity(OPEN) }
    }

    /// The directory at `path`, opened for reading.
    pub(super) fn get(&mut self, path: &EntryPath) -> Result<Rc<OwnedFd>, UnpackError> {
        if let Some(at) = self.open.iter().rposition(|(open, _)| open == path) {
            let last = self.open.len() - 1;
            self.open[at..=last].rotate_left(1);
            return Ok(self.open[last].1.clone());
        }
        let fd = Rc::new(open_dir(self.root, path).on(path, "openat2(RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS)")?);
        if self.open.len() == OPEN {
            self.open.remove(0);
        }
        self.open.push((path.clone(), fd.clone()));
        Ok(fd)
    }

    /// The directory that holds `path`, which is not the root.
    pub(super) fn parent(&mut self, path: &EntryPath) -> Result<Rc<OwnedFd>, UnpackError> {
        self.get(&path.parent().unwrap_or_else(EntryPath::root))
    }
}

/// Opens a directory below `root` without following anything.
pub(super) fn open_dir(root: impl AsFd, path: &EntryPath) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(root, path.as_path(), FLAGS, Mode::empty(), RESOLVE)
}
