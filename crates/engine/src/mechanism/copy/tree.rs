//! The copy of a whole merged tree.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use plywood_kernel::idmap::IdMap;
use plywood_kernel::{Kind, SyscallError};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::merge::{self, MergedKind};
use super::node::{self, Times};

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyStats {
    /// Directories, files, links, devices.
    pub entries: u64,
    /// Bytes of file contents, holes not counted.
    pub bytes: u64,
    /// Files that share their contents with the layer's.
    pub reflinked: u64,
}

/// A merged tree could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A call failed.
    #[error("cannot copy `{}`", path.display())]
    Call {
        /// The entry, from the image's root.
        path: PathBuf,
        /// The call.
        source: SyscallError,
    },
    /// An owner outside the container's range.
    #[error("`{}` belongs to {uid}:{gid}, which the container's id range does not hold; use a longer range", path.display())]
    Unmapped {
        /// The entry, from the image's root.
        path: PathBuf,
        /// Its owner in the image.
        uid: u32,
        /// Its group in the image.
        gid: u32,
    },
    /// An extended attribute that cannot be shifted.
    #[error("attribute {name} of `{}` has a form nobody defined", path.display())]
    Attribute {
        /// The entry, from the image's root.
        path: PathBuf,
        /// The attribute.
        name: String,
    },
}

impl CopyError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Call { source, .. } => source.kind(),
            Self::Unmapped { .. } | Self::Attribute { .. } => Kind::Failed,
        }
    }
}

/// Adds the path to a call's error.
pub(super) fn at(path: &Path, call: &str) -> impl Fn(Errno) -> CopyError {
    move |errno| CopyError::Call { path: path.to_owned(), source: SyscallError::new(call, errno) }
}

/// Everything a copy needs to know while it goes.
#[derive(Debug)]
pub(super) struct Copy<'a> {
    pub(super) idmap: &'a IdMap,
    pub(super) stats: CopyStats,
    /// Where a file with more names was copied to first: by layer and inode.
    pub(super) links: HashMap<(usize, u64), PathBuf>,
    /// Set once the file system said it shares no contents between files.
    pub(super) no_reflinks: bool,
}

/// Directories yet to be entered, and those whose times are set once nothing changes in them any more.
enum Work {
    Enter { path: PathBuf, layers: Vec<usize> },
    Leave { path: PathBuf, layer: usize, times: Times },
}

/// Copies the merge of the directories `names` below `parent`, topmost first, into the empty directory `upper`.
///
/// Only the root directory of each layer stays open; everything else is found from there without following links
/// or leaving the layer, so depth and number of layers do not add up to descriptors.
pub(crate) fn copy_tree(
    parent: &Path,
    names: &[PathBuf],
    upper: &Path,
    idmap: &IdMap,
) -> Result<CopyStats, CopyError> {
    let root = Path::new("");
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(at(path, "openat"))
    };
    let layers = names.iter().map(|name| open(&parent.join(name))).collect::<Result<Vec<_>, _>>()?;
    let upper = open(upper)?;
    let mut copy = Copy { idmap, stats: CopyStats::default(), links: HashMap::new(), no_reflinks: false };
    let times = node::root_attributes(&mut copy, &layers[0], &upper)?;
    let mut work = vec![
        Work::Leave { path: root.to_owned(), layer: 0, times },
        Work::Enter { path: root.to_owned(), layers: (0..layers.len()).collect() },
    ];
    while let Some(next) = work.pop() {
        match next {
            Work::Leave { path, layer, times } => {
                let from = open_below(&layers[layer], &path)?;
                node::finish_dir(&mut copy, &from, &open_below(&upper, &path)?, &path, &times)?;
            }
            Work::Enter { path, layers: below } => {
                let into = open_below(&upper, &path)?;
                for entry in merge::read(&layers, &below, &path)? {
                    let name = path.join(&entry.name);
                    let from = open_below(&layers[entry.layer], &path)?;
                    match entry.kind {
                        MergedKind::Dir { layers } => {
                            let times = node::make_dir(&mut copy, &from, &into, &entry.name, &name)?;
                            work.push(Work::Leave { path: name.clone(), layer: entry.layer, times });
                            work.push(Work::Enter { path: name, layers });
                        }
                        MergedKind::Other => {
                            node::copy(&mut copy, entry.layer, &from, &upper, &into, &entry.name, &name)?;
                        }
                    }
                }
            }
        }
    }
    Ok(copy.stats)
}

/// A directory below a root of ours: no links followed, nothing outside, no other mount.
pub(super) fn open_below(root: impl AsFd, path: &Path) -> Result<OwnedFd, CopyError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    rustix::fs::openat2(root, name, flags, Mode::empty(), resolve).map_err(at(path, "openat2"))
}

/// The name extended attributes are reached by, whatever kind of file it is: links cannot be opened for them.
pub(super) fn proc_name(dir: &OwnedFd, name: &Path) -> PathBuf {
    use std::os::fd::AsRawFd;
    let dir = dir.as_raw_fd().to_string();
    Path::new("/proc/self/fd").join(dir).join(name)
}

/// Metadata without following a link.
pub(super) fn stat(dir: &OwnedFd, name: &Path, path: &Path) -> Result<rustix::fs::Stat, CopyError> {
    rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).map_err(at(path, "newfstatat"))
}

/// A descriptor as a file.
pub(super) fn file(fd: OwnedFd) -> fs::File {
    fs::File::from(fd)
}
