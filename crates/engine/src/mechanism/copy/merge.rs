//! What a directory of an overlay shows, from its lower directories: the rules of overlayfs.
//!
//! The topmost entry of a name wins. A 0/0 character device hides the name below it. Directories of one name merge
//! downwards, until one is opaque (`trusted.overlay.opaque` is `y`) or something else has the name.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, FileType};
use rustix::io::Errno;

use super::tree::{CopyError, at, open_below, proc_name, stat};

/// An entry of a merged directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) name: OsString,
    /// Index of the layer it comes from.
    pub(super) layer: usize,
    pub(super) kind: MergedKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum MergedKind {
    /// A directory, and the layers whose contents it shows, topmost first.
    Dir {
        layers: Vec<usize>,
    },
    Other,
}

enum Seen {
    Hidden,
    Other { layer: usize },
    Dir { layers: Vec<usize>, open: bool },
}

/// Reads directory `path` as merged from `layers` (indices into `roots`, topmost first).
pub(super) fn read(roots: &[OwnedFd], layers: &[usize], path: &Path) -> Result<Vec<Merged>, CopyError> {
    let mut seen: BTreeMap<OsString, Seen> = BTreeMap::new();
    for &layer in layers {
        let dir = open_below(&roots[layer], path)?;
        for entry in Dir::read_from(&dir).map_err(at(path, "getdents64"))? {
            let entry = entry.map_err(at(path, "getdents64"))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            note(&mut seen, &dir, name, layer, path)?;
        }
    }
    let shown = seen.into_iter().filter_map(|(name, seen)| match seen {
        Seen::Hidden => None,
        Seen::Other { layer } => Some(Merged { name, layer, kind: MergedKind::Other }),
        Seen::Dir { layers, .. } => Some(Merged { name, layer: layers[0], kind: MergedKind::Dir { layers } }),
    });
    Ok(shown.collect())
}

fn note(
    seen: &mut BTreeMap<OsString, Seen>,
    dir: &OwnedFd,
    name: &OsStr,
    layer: usize,
    path: &Path,
) -> Result<(), CopyError> {
    let whole = path.join(name);
    let stat = stat(dir, Path::new(name), &whole)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    match seen.entry(name.to_owned()) {
        Entry::Vacant(vacant) => {
            vacant.insert(match kind {
                FileType::CharacterDevice if stat.st_rdev == 0 => Seen::Hidden,
                FileType::Directory => {
                    Seen::Dir { layers: vec![layer], open: !is_opaque(dir, name, &whole)? }
                }
                _ => Seen::Other { layer },
            });
        }
        Entry::Occupied(mut occupied) => {
            if let Seen::Dir { layers, open } = occupied.get_mut()
                && *open
            {
                *open = kind == FileType::Directory && !is_opaque(dir, name, &whole)?;
                if kind == FileType::Directory {
                    layers.push(layer);
                }
            }
        }
    }
    Ok(())
}

fn is_opaque(dir: &OwnedFd, name: &OsStr, path: &Path) -> Result<bool, CopyError> {
    let mut value = [0u8; 2];
    let found =
        rustix::fs::lgetxattr(proc_name(dir, Path::new(name)), "trusted.overlay.opaque", &mut value[..]);
    match found {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(at(path, "lgetxattr")(errno)),
    }
}
