//! What an overlay of layers would show, without mounting one.
//!
//! [`MergedTree`] looks names up in a stack of layer directories by overlayfs's rules: the topmost layer that has a
//! name decides; a whiteout (character device 0/0) hides what is below; a directory is merged with the directories
//! below it down to the first opaque one (`trusted.overlay.opaque=y`) or the first that is no directory.
//!
//! Symbolic links are resolved inside the merged tree, as a process chrooted there would: an absolute target starts
//! at its root, `..` stops at its root. No component is ever left to the kernel to follow: a file is opened with
//! `RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH`, relative to one descriptor.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::Store;
use crate::error::{FileError, OnFile};
use crate::layers::LayerId;

mod view;

use view::Node;
pub(crate) use view::{is_opaque, is_whiteout};

/// As the kernel's MAXSYMLINKS.
const MAX_SYMLINKS: usize = 40;

/// A stack of layer directories below one base directory.
#[derive(Debug)]
pub struct MergedTree {
    base: OwnedFd,
    /// Topmost first, relative to `base`.
    layers: Vec<PathBuf>,
}

/// Where a path leads.
#[derive(Debug)]
pub struct Found {
    /// The path without symbolic links, relative to the root of the tree; empty for the root.
    pub path: PathBuf,
    /// The layer that decides, counted from the lowest, which is 0.
    pub layer: usize,
    /// The file itself, opened with O_PATH.
    pub fd: OwnedFd,
    /// Its status.
    pub stat: Stat,
}

impl Found {
    /// Its type.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// Name and type of an entry of a merged directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: OsString,
    /// Its type.
    pub file_type: FileType,
}

/// Why a path could not be followed.
#[derive(Debug, thiserror::Error)]
pub enum MergedError {
    /// More than 40 of them.
    #[error("{0:?} leads through too many symbolic links")]
    TooManyLinks(PathBuf),
    /// A regular file was asked for.
    #[error("{0:?} is not a regular file")]
    NotAFile(PathBuf),
    /// Larger than the caller takes.
    #[error("{path:?} has {size} bytes, more than the {limit} that are read of it")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The caller's bound in bytes.
        limit: u64,
    },
    /// A call failed.
    #[error("cannot read the layers")]
    File(#[from] FileError),
}

impl Store {
    /// The merged view of layers, lowest first. The caller keeps them pinned.
    ///
    /// # Errors
    /// The directory of layers cannot be opened.
    pub fn merged(&self, layers: &[LayerId]) -> Result<MergedTree, FileError> {
        let base = rustix::io::fcntl_dupfd_cloexec(self.root().layers(), 0).on_file("dup", "layers")?;
        Ok(MergedTree::new(base, layers.iter().map(|id| PathBuf::from(format!("{id}/fs"))).collect()))
    }
}

impl MergedTree {
    /// The merged view of `layers`, lowest first: directories relative to `base`, themselves without symbolic
    /// links. They must not change meanwhile.
    pub fn new(base: OwnedFd, layers: Vec<PathBuf>) -> MergedTree {
        MergedTree { base, layers: layers.into_iter().rev().collect() }
    }

    /// Where `path` leads; None if nowhere. The last component is followed too.
    ///
    /// # Errors
    /// Too many symbolic links, or a call failed.
    pub fn lookup(&self, path: impl AsRef<Path>) -> Result<Option<Found>, MergedError> {
        self.walk(path.as_ref(), true)
    }

    /// The same, but a symbolic link as the last component is itself the answer.
    ///
    /// # Errors
    /// Too many symbolic links, or a call failed.
    pub fn lookup_no_follow(&self, path: impl AsRef<Path>) -> Result<Option<Found>, MergedError> {
        self.walk(path.as_ref(), false)
    }

    /// The contents of a regular file of at most `limit` bytes; None if it does not exist.
    ///
    /// # Errors
    /// Not a regular file, larger, or a call failed.
    pub fn read_file(&self, path: impl AsRef<Path>, limit: u64) -> Result<Option<Vec<u8>>, MergedError> {
        let path = path.as_ref();
        let Some(found) = self.lookup(path)? else { return Ok(None) };
        if found.file_type() != FileType::RegularFile {
            return Err(MergedError::NotAFile(path.to_owned()));
        }
        let size = u64::try_from(found.stat.st_size).unwrap_or(0);
        if size > limit {
            return Err(MergedError::TooLarge { path: path.to_owned(), size, limit });
        }
        let layer = &self.layers[self.layers.len() - 1 - found.layer];
        let fd = self.open(&layer.join(&found.path), OFlags::RDONLY).on_file("openat2", path)?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        File::from(fd).take(limit).read_to_end(&mut bytes).on_file("read", path)?;
        Ok(Some(bytes))
    }

    /// The entries of a directory, sorted by name; None if it does not exist or is none.
    ///
    /// # Errors
    /// Too many symbolic links, or a call failed.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<Option<Vec<DirEntry>>, MergedError> {
        let Some(found) = self.lookup(path)? else { return Ok(None) };
        match self.dir_at(&found.path)? {
            Some(dir) => Ok(Some(self.list(&dir)?)),
            None => Ok(None),
        }
    }

    /// How many layers there are.
    pub(crate) fn layer_count(&self) -> usize {
        self.layers.len()
    }

    /// Opens the root directory of one layer; `index` counts from the top.
    pub(crate) fn open_layer(&self, index: usize) -> Result<OwnedFd, MergedError> {
        let path = &self.layers[index];
        Ok(self.open(path, OFlags::RDONLY | OFlags::DIRECTORY).on_file("openat2", path)?)
    }

    fn walk(&self, path: &Path, follow_last: bool) -> Result<Option<Found>, MergedError> {
        let Some(root) = self.root()? else { return Ok(None) };
        let mut stack = vec![root];
        let mut pending: Vec<OsString> = steps(path);
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == ".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let dir = &stack[stack.len() - 1];
            match self.child(dir, &name)? {
                None => return Ok(None),
                Some(Node::Dir(dir)) => stack.push(dir),
                Some(Node::Leaf { layer, path: at }) => {
                    let found = self.found(layer, at)?;
                    let is_link = found.file_type() == FileType::Symlink;
                    if is_link && (follow_last || !pending.is_empty()) {
                        links += 1;
                        if links > MAX_SYMLINKS {
                            return Err(MergedError::TooManyLinks(path.to_owned()));
                        }
                        let target = rustix::fs::readlinkat(&found.fd, "", Vec::new())
                            .on_file("readlinkat", &found.path)?;
                        let target = Path::new(OsStr::from_bytes(target.as_bytes())).to_owned();
                        if target.is_absolute() {
                            stack.truncate(1);
                        }
                        pending.extend(steps(&target));
                    } else if pending.is_empty() {
                        return Ok(Some(found));
                    } else {
                        // A file used as a directory.
                        return Ok(None);
                    }
                }
            }
        }
        let dir = stack.pop().expect("the root is never popped");
        let top = dir.layers[0];
        Ok(Some(self.found(top, dir.path)?))
    }

    /// `index` counts from the top.
    fn found(&self, index: usize, path: PathBuf) -> Result<Found, MergedError> {
        let fd = self
            .open(&self.layers[index].join(&path), OFlags::PATH | OFlags::NOFOLLOW)
            .on_file("openat2", &path)?;
        let stat = rustix::fs::fstat(&fd).on_file("fstat", &path)?;
        Ok(Found { path, layer: self.layers.len() - 1 - index, fd, stat })
    }

    fn open(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat2(
            &self.base,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH,
        )
    }

    /// The status of a path in one layer, None if it does not exist there.
    fn stat(&self, index: usize, path: &Path) -> Result<Option<Stat>, FileError> {
        // A plain statat would follow links in the middle. There are none: every directory of the path was seen
        // to be one, in this layer, and layers do not change.
        match rustix::fs::statat(&self.base, self.layers[index].join(path), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(FileError::new("statat", path, errno)),
        }
    }
}

/// Components in the order of popping: last first.
fn steps(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn os_string(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}
