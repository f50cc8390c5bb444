//! Removing a directory tree of our own, and nothing else.
//!
//! Every directory is opened by one name from its parent's descriptor with `openat2`
//! (`RESOLVE_NO_XDEV|RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS`): a symlink is removed, never followed, and a mount
//! in the tree, whatever it is, ends the removal with EXDEV before anything behind it is touched. A tree that
//! lies on an idmapped or a detached mount is refused at the start.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, StatxAttributes, StatxFlags,
};
use rustix::io::Errno;

use crate::error::{self, Result, SyscallError};
use crate::table;

/// Open descriptors at one time; a directory deeper than this is first moved up to the tree's top.
const MAX_OPEN: usize = 32;

/// Removes the directory `name` of `parent` and everything in it.
///
/// `name` is one component. Needs openat2 (5.6), and `parent` opened in the mount namespace of the calling
/// thread.
///
/// # Errors
/// Kind `Missing` if it does not exist; ENOTDIR or ELOOP if it is no directory; EXDEV if it is, lies behind,
/// or contains a mount; EXDEV if it lies on an idmapped mount or one that is not in the calling thread's mount
/// table. What was removed before stays so.
pub fn remove_tree(parent: impl AsFd, name: impl AsRef<Path>) -> Result<()> {
    let parent = parent.as_fd();
    let name = single_component(name.as_ref())?;
    let top = open_child(parent, &name)?;
    if !table::is_plain_mount(&top)? {
        let call = format!("remove_tree({}, {name:?}): on an idmapped or detached mount", error::fd(parent));
        return Err(SyscallError::new(call, Errno::XDEV));
    }
    let removal = Removal::of(top.as_fd());
    loop {
        removal.empty_top()?;
        match rustix::fs::unlinkat(parent, &*name, AtFlags::REMOVEDIR) {
            Ok(()) => return Ok(()),
            Err(Errno::NOTEMPTY) if removal.moved.replace(false) => {}
            Err(errno) => return Err(unlink_error(parent, &name, true, errno)),
        }
    }
}

/// Removes everything in a directory, not the directory itself.
///
/// `dir` is opened for reading, in the mount namespace of the calling thread.
///
/// # Errors
/// EXDEV, before anything is removed, if it is the root of a mount, lies on an idmapped mount, or on one that is not in
/// the calling thread's mount table; EXDEV or EBUSY if it contains a mount; ENOTDIR if it is no directory. What was
/// removed before stays so.
pub fn empty_tree(dir: impl AsFd) -> Result<()> {
    let dir = dir.as_fd();
    let refused =
        |why: &str| SyscallError::new(format!("empty_tree({}): {why}", error::fd(dir)), Errno::XDEV);
    if !table::is_plain_mount(dir)? {
        return Err(refused("on an idmapped or detached mount"));
    }
    // Linux 5.8. What a path led to may have been covered by a mount; beneath another descriptor, openat2 says so itself.
    let stat = rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE).map_err(|errno| {
        SyscallError::new(format!("statx({}, \"\", AT_EMPTY_PATH, STATX_TYPE)", error::fd(dir)), errno)
    })?;
    if !stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
        || stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    {
        return Err(refused("not known to be beneath the root of a mount"));
    }
    let removal = Removal::of(dir);
    loop {
        removal.empty_top()?;
        if !removal.moved.replace(false) {
            return Ok(());
        }
    }
}

/// One removal under way.
struct Removal<'a> {
    top: BorrowedFd<'a>,
    /// How many names for moved directories have been used, in all rounds.
    names: Cell<u64>,
    /// Whether this round has moved directories up; they wait for the next one.
    moved: Cell<bool>,
}

fn single_component(name: &Path) -> Result<CString> {
    let mut components = name.components();
    if let (Some(Component::Normal(only)), None) = (components.next(), components.next())
        && let Ok(name) = CString::new(only.as_bytes())
    {
        return Ok(name);
    }
    Err(SyscallError::new(format!("remove_tree({name:?}): not a single name"), Errno::INVAL))
}

fn open_child(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve).map_err(|errno| {
        SyscallError::new(
            format!(
                "openat2({}, {name:?}, {{flags=O_RDONLY|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC, \
                 resolve=RESOLVE_NO_XDEV|RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS}})",
                error::fd(parent)
            ),
            errno,
        )
    })
}

impl<'a> Removal<'a> {
    fn of(top: BorrowedFd<'a>) -> Self {
        Self { top, names: Cell::new(0), moved: Cell::new(false) }
    }

    /// One round; directories moved up for their depth make another one.
    fn empty_top(&self) -> Result<()> {
        self.empty(self.top, 1)
    }

    /// Removes what is in `dir`; `depth` descriptors are open.
    fn empty(&self, dir: BorrowedFd<'_>, depth: usize) -> Result<()> {
        // Removing while reading may make a filesystem skip entries: read again until there are none.
        loop {
            let mut removed = false;
            rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0)).map_err(|errno| {
                SyscallError::new(format!("lseek({}, 0, SEEK_SET)", error::fd(dir)), errno)
            })?;
            let mut buffer = [MaybeUninit::uninit(); 8192];
            let mut entries = RawDir::new(dir, &mut buffer);
            while let Some(entry) = entries.next() {
                let entry = entry
                    .map_err(|errno| SyscallError::new(format!("getdents64({})", error::fd(dir)), errno))?;
                let name = entry.file_name();
                if name == c"." || name == c".." || (depth == 1 && self.moved.get() && is_moved(name)) {
                    continue;
                }
                self.remove_entry(dir, name, entry.file_type(), depth)?;
                removed = true;
            }
            if !removed {
                return Ok(());
            }
        }
    }

    fn remove_entry(&self, dir: BorrowedFd<'_>, name: &CStr, kind: FileType, depth: usize) -> Result<()> {
        // Where the filesystem does not give types, unlink finds out: a directory answers EISDIR.
        if kind != FileType::Directory {
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::ISDIR) if kind == FileType::Unknown => {}
                Err(errno) => return Err(unlink_error(dir, name, false, errno)),
            }
        }
        if depth >= MAX_OPEN {
            return self.move_up(dir, name);
        }
        let child = open_child(dir, name)?;
        self.empty(child.as_fd(), depth + 1)?;
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(unlink_error(dir, name, true, errno)),
        }
    }

    /// A rename never crosses a mount, and a mount point cannot be renamed (EBUSY).
    fn move_up(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        self.moved.set(true);
        loop {
            let target = format!("{MOVED_PREFIX}{}", self.names.replace(self.names.get() + 1));
            match rustix::fs::renameat_with(dir, name, self.top, &target, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(()),
                // A name the tree came with.
                Err(Errno::EXIST) => {}
                Err(errno) => {
                    let call = format!(
                        "renameat2({}, {name:?}, {}, {target:?}, RENAME_NOREPLACE)",
                        error::fd(dir),
                        error::fd(self.top)
                    );
                    return Err(SyscallError::new(call, errno));
                }
            }
        }
    }
}

const MOVED_PREFIX: &str = ".plywood-removing-";

fn is_moved(name: &CStr) -> bool {
    name.to_bytes().starts_with(MOVED_PREFIX.as_bytes())
}

fn unlink_error(dir: BorrowedFd<'_>, name: &CStr, directory: bool, errno: Errno) -> SyscallError {
    let flags = if directory { "AT_REMOVEDIR" } else { "0" };
    SyscallError::new(format!("unlinkat({}, {name:?}, {flags})", error::fd(dir)), errno)
}
