//! Removal in two steps: a rename into `trash/`, which is atomic and quick, then the slow removal.
//!
//! A name in `trash/` ends in the process that put it there; what a dead process left, the next one to recover
//! removes. Removal itself is [`plywood_kernel::remove_tree`], which never crosses a mount.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use plywood_kernel::{Kind, ProcessId};
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use crate::Store;
use crate::error::{FileError, StateError};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Moves `name` in `parent` to the trash and removes it there. Nothing there is fine.
pub(crate) fn discard(store: &Store, parent: BorrowedFd<'_>, name: &str) -> Result<(), StateError> {
    match set_aside(store, parent, name)? {
        Some(aside) => remove(store, &aside),
        None => Ok(()),
    }
}

/// The first step alone; None if there is no such name.
pub(crate) fn set_aside(
    store: &Store,
    parent: BorrowedFd<'_>,
    name: &str,
) -> Result<Option<String>, StateError> {
    loop {
        let aside = format!("{}.{}", NEXT.fetch_add(1, Ordering::Relaxed), store.process());
        match rustix::fs::renameat_with(parent, name, store.root().trash(), &aside, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(Some(aside)),
            Err(Errno::NOENT) => return Ok(None),
            // execve keeps pid and start time but starts the count anew.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(FileError::new("renameat2", name, errno).into()),
        }
    }
}

/// The second step.
pub(crate) fn remove(store: &Store, aside: &str) -> Result<(), StateError> {
    match rustix::fs::unlinkat(store.root().trash(), aside, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(FileError::new("unlinkat", aside, errno).into()),
    }
    match plywood_kernel::remove_tree(store.root().trash().as_fd(), Path::new(aside)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == Kind::Missing => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Names in the trash that no living process is removing.
pub(crate) fn left_by_the_dead(store: &Store) -> Result<Vec<String>, StateError> {
    let mut left = Vec::new();
    for name in crate::dirs::names(store.root().trash(), "trash")? {
        let name = String::from_utf8_lossy(name.to_bytes()).into_owned();
        let owner = name.split_once('.').and_then(|(_, process)| process.parse::<ProcessId>().ok());
        let alive = match &owner {
            Some(process) => process == store.process() || process.is_alive()?,
            None => false,
        };
        if !alive {
            left.push(name);
        }
    }
    Ok(left)
}
