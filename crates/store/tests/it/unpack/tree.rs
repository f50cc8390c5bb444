//! A directory tree with everything that can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use plywood_image::Digest;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) rdev: u64,
    pub(crate) size: u64,
    /// Digest of a file, target of a link.
    pub(crate) content: String,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path with this inode.
    pub(crate) first: PathBuf,
}

/// Entries by path relative to the root, which is the empty path.
#[derive(Debug)]
pub(crate) struct Tree(BTreeMap<PathBuf, Entry>);

impl Tree {
    pub(crate) fn read(root: &Path) -> Tree {
        let mut paths = vec![PathBuf::new()];
        let mut entries = BTreeMap::new();
        while let Some(path) = paths.pop() {
            let at = root.join(&path);
            if fs::symlink_metadata(&at).unwrap().is_dir() {
                paths.extend(fs::read_dir(&at).unwrap().map(|e| path.join(e.unwrap().file_name())));
            }
            entries.insert(path, at);
        }
        let mut inodes: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
        Tree(
            entries
                .into_iter()
                .map(|(path, at)| {
                    let entry = read(&at, &path, &mut inodes);
                    (path, entry)
                })
                .collect(),
        )
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Entry> {
        self.0.get(Path::new(path))
    }

    /// umoci leaves the root, and directories without an entry, with the time of unpacking. We date those of which no
    /// layer says anything 1970. Takes over `ours` for the root and for directories that `ours` has so.
    pub(crate) fn overlook_undated(&mut self, ours: &Tree) {
        for (path, entry) in &mut self.0 {
            let Some(ours) = ours.0.get(path) else { continue };
            let is_dir = entry.mode & 0o170_000 == 0o040_000;
            if path.as_os_str().is_empty() || is_dir && ours.mtime == (0, 0) {
                entry.mtime = ours.mtime;
            }
        }
    }

    /// What differs, a line each.
    pub(crate) fn differences(&self, other: &Tree) -> Vec<String> {
        let all: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        all.into_iter()
            .filter(|path| self.0.get(*path) != other.0.get(*path))
            .map(|path| format!("{}: {:?} but {:?}", path.display(), self.0.get(path), other.0.get(path)))
            .collect()
    }
}

fn read(at: &Path, path: &Path, inodes: &mut BTreeMap<(u64, u64), PathBuf>) -> Entry {
    let meta = fs::symlink_metadata(at).unwrap();
    let content = if meta.is_file() {
        Digest::sha256(&fs::read(at).unwrap()).to_string()
    } else if meta.is_symlink() {
        fs::read_link(at).unwrap().to_str().unwrap().to_owned()
    } else {
        String::new()
    };
    let mut names = vec![0u8; 64 << 10];
    let length = rustix::fs::llistxattr(at, &mut names[..]).unwrap();
    let xattrs = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let name = std::ffi::OsStr::from_bytes(name);
            let mut value = vec![0u8; 64 << 10];
            let length = rustix::fs::lgetxattr(at, name, &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_str().unwrap().to_owned(), value)
        })
        .collect();
    Entry {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        rdev: meta.rdev(),
        size: if meta.is_dir() { 0 } else { meta.size() },
        content,
        xattrs,
        first: match meta.is_dir() {
            true => path.to_owned(),
            false => inodes.entry((meta.dev(), meta.ino())).or_insert_with(|| path.to_owned()).clone(),
        },
    }
}
