//! One step of a lookup: a name in a merged directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::{DirEntry, MergedError, MergedTree, os_string};
use crate::dirs;
use crate::error::{FileError, OnFile};

/// A directory of the merged tree.
#[derive(Clone, Debug)]
pub(super) struct Dir {
    /// Relative to the root, without symbolic links.
    pub(super) path: PathBuf,
    /// The layers merged here, counted from the top, topmost first. Never empty.
    pub(super) layers: Vec<usize>,
}

/// What a name is.
pub(super) enum Node {
    Dir(Dir),
    Leaf {
        /// Counted from the top.
        layer: usize,
        path: PathBuf,
    },
}

impl MergedTree {
    pub(super) fn root(&self) -> Result<Option<Dir>, MergedError> {
        let everywhere: Vec<usize> = (0..self.layers.len()).collect();
        let layers = self.merge(&everywhere, Path::new(""))?;
        Ok((!layers.is_empty()).then(|| Dir { path: PathBuf::new(), layers }))
    }

    pub(super) fn child(&self, dir: &Dir, name: &OsStr) -> Result<Option<Node>, MergedError> {
        let path = dir.path.join(name);
        for (position, &layer) in dir.layers.iter().enumerate() {
            let Some(stat) = self.stat(layer, &path)? else { continue };
            if is_whiteout(&stat) {
                return Ok(None);
            }
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Ok(Some(Node::Leaf { layer, path }));
            }
            let layers = self.merge(&dir.layers[position..], &path)?;
            return Ok(Some(Node::Dir(Dir { path, layers })));
        }
        Ok(None)
    }

    /// Which of `candidates`, topmost first, contribute to the directory `path`.
    fn merge(&self, candidates: &[usize], path: &Path) -> Result<Vec<usize>, MergedError> {
        let mut layers = Vec::new();
        for &layer in candidates {
            let Some(stat) = self.stat(layer, path)? else { continue };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                break;
            }
            layers.push(layer);
            let fd = self.open_dir(layer, path)?;
            if is_opaque(&fd).on_file("fgetxattr", path)? {
                break;
            }
        }
        Ok(layers)
    }

    /// The directory at a path without symbolic links.
    pub(super) fn dir_at(&self, path: &Path) -> Result<Option<Dir>, MergedError> {
        let Some(mut dir) = self.root()? else { return Ok(None) };
        for name in path {
            match self.child(&dir, name)? {
                Some(Node::Dir(child)) => dir = child,
                _ => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    pub(super) fn list(&self, dir: &Dir) -> Result<Vec<DirEntry>, MergedError> {
        let mut names: BTreeMap<Vec<u8>, Option<FileType>> = BTreeMap::new();
        for &layer in &dir.layers {
            let fd = self.open_dir(layer, &dir.path)?;
            for entry in dirs::entries(fd.as_fd(), &dir.path)? {
                let bytes = entry.name.into_bytes();
                if names.contains_key(&bytes) {
                    continue;
                }
                let stat = match entry.file_type {
                    // Only these two need a closer look.
                    FileType::CharacterDevice | FileType::Unknown => {
                        self.stat(layer, &dir.path.join(os_string(&bytes)))?
                    }
                    _ => None,
                };
                let file_type = match stat {
                    Some(stat) if is_whiteout(&stat) => None,
                    Some(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
                    None => Some(entry.file_type),
                };
                names.insert(bytes, file_type);
            }
        }
        Ok(names
            .into_iter()
            .filter_map(|(name, file_type)| Some(DirEntry { name: os_string(&name), file_type: file_type? }))
            .collect())
    }

    fn open_dir(&self, layer: usize, path: &Path) -> Result<OwnedFd, FileError> {
        self.open(&self.layers[layer].join(path), OFlags::RDONLY | OFlags::DIRECTORY).on_file("openat2", path)
    }
}

/// A character device 0/0.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a directory hides what lower layers have in it.
pub(crate) fn is_opaque(dir: impl AsFd) -> rustix::io::Result<bool> {
    let mut value = [0u8; 2];
    match rustix::fs::fgetxattr(dir, "trusted.overlay.opaque", &mut value[..]) {
        Ok(1) => Ok(value[0] == b'y'),
        // Longer than any value overlayfs knows.
        Ok(_) | Err(Errno::NODATA | Errno::RANGE | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}
