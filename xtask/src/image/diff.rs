//! What changed in a directory tree between two moments, as an OCI layer tells it: entries that are new or
//! changed, and whiteouts for what is gone.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Directories whose contents never land in a layer: caches, and what a container mounts over.
const EMPTIED: &[&str] = &["dev", "proc", "sys", "tmp", "var/tmp", "var/cache/apt", "var/lib/apt/lists"];

/// Files that never land in a layer: they name the machine that built it, or only it needs them.
const DROPPED: &[&str] = &[
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "etc/hostname",
    "etc/resolv.conf",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/statoverride-old",
];

/// One entry of a tree: all that a layer can say about it, and what tells a rewritten file from an untouched one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    device: u64,
    link: Option<PathBuf>,
    xattrs: Vec<(OsString, Vec<u8>)>,
    mtime: (i64, i64),
    inode: u64,
    links: u64,
}

impl Entry {
    fn read(path: &Path, meta: &Metadata) -> Result<Entry> {
        let kind = meta.file_type();
        let letter = match kind {
            k if k.is_dir() => 'd',
            k if k.is_symlink() => 'l',
            k if k.is_fifo() => 'p',
            k if k.is_socket() => 's',
            k if k.is_block_device() => 'b',
            k if k.is_char_device() => 'c',
            _ => '-',
        };
        let link = if letter == 'l' { Some(fs::read_link(path)?) } else { None };
        // Sizes, link counts and inodes of directories say how the file system stores them, nothing else.
        let (size, inode, links) =
            if letter == 'd' { (0, 0, 0) } else { (meta.size(), meta.ino(), meta.nlink()) };
        Ok(Entry {
            kind: letter,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            size,
            device: meta.rdev(),
            link,
            xattrs: xattrs(path)?,
            mtime: (meta.mtime(), meta.mtime_nsec()),
            inode,
            links,
        })
    }

    /// What is left of an entry once it has been through a layer that clamps times to `epoch` seconds.
    fn as_unpacked(&self, epoch: i64) -> Entry {
        let mtime = (self.mtime.0.min(epoch), 0);
        Entry { mtime, inode: 0, ..self.clone() }
    }
}

fn xattrs(path: &Path) -> Result<Vec<(OsString, Vec<u8>)>> {
    let mut names = Vec::with_capacity(4096);
    rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut names))?;
    let mut found = Vec::new();
    for name in names.split(|&b| b == 0).filter(|n| !n.is_empty()) {
        let mut value = Vec::with_capacity(65536);
        rustix::fs::lgetxattr(path, OsStr::from_bytes(name), rustix::buffer::spare_capacity(&mut value))?;
        found.push((OsStr::from_bytes(name).to_os_string(), value));
    }
    found.sort();
    Ok(found)
}

/// The entries of a tree, by path relative to its root, parents before children.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    entries: BTreeMap<PathBuf, Entry>,
}

/// What a layer holds, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Entries that are new or changed, parents before children.
    pub(crate) changed: Vec<PathBuf>,
    /// Entries that are gone: the topmost of each tree.
    pub(crate) removed: Vec<PathBuf>,
}

impl Snapshot {
    /// Reads a tree, leaving out what never lands in a layer. The root itself is left out too: every layer of
    /// an image is unpacked into a directory that is already there.
    pub(crate) fn take(root: &Path) -> Result<Snapshot> {
        let mut entries = BTreeMap::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(dir) = pending.pop() {
            for found in
                fs::read_dir(root.join(&dir)).with_context(|| format!("reading {}", dir.display()))?
            {
                let found = found?;
                let path = dir.join(found.file_name());
                let meta = found.metadata()?;
                if left_out(&path, meta.is_dir()) {
                    continue;
                }
                let entry = Entry::read(&found.path(), &meta)
                    .with_context(|| format!("reading {}", found.path().display()))?;
                if meta.is_dir() {
                    pending.push(path.clone());
                }
                entries.insert(path, entry);
            }
        }
        Ok(Snapshot { entries })
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes in regular files, each inode counted once.
    pub(crate) fn bytes(&self) -> u64 {
        let files = self.entries.values().filter(|e| e.kind == '-');
        files.map(|e| (e.inode, e.size)).collect::<BTreeMap<_, _>>().values().sum()
    }

    /// What a layer must hold to turn `before` into `self`.
    pub(crate) fn since(&self, before: &Snapshot) -> Difference {
        let changed = self.entries.iter().filter(|(path, entry)| before.entries.get(*path) != Some(*entry));
        let mut removed: Vec<PathBuf> = Vec::new();
        for path in before.entries.keys().filter(|path| !self.entries.contains_key(*path)) {
            // What was below a removed directory goes with it, and what was below a directory that became
            // something else goes when that is unpacked.
            let parent_goes = path.ancestors().skip(1).any(|up| {
                removed.last().is_some_and(|last| last == up)
                    || self.entries.get(up).is_some_and(|entry| entry.kind != 'd')
            });
            if !parent_goes {
                removed.push(path.clone());
            }
        }
        Difference { changed: changed.map(|(path, _)| path.clone()).collect(), removed }
    }

    /// Paths at which an unpacked image differs from the tree it was made of, times clamped to `epoch`.
    pub(crate) fn mismatches(&self, unpacked: &Snapshot, epoch: i64) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for (path, entry) in &self.entries {
            let other = unpacked.entries.get(path).map(|e| e.as_unpacked(epoch));
            if other.as_ref() != Some(&entry.as_unpacked(epoch)) {
                paths.push(path.clone());
            }
        }
        paths.extend(unpacked.entries.keys().filter(|p| !self.entries.contains_key(*p)).cloned());
        paths
    }

    /// The entry at a path, as an error message shows it.
    pub(crate) fn describe(&self, path: &Path) -> String {
        self.entries.get(path).map_or_else(|| "nothing".to_string(), |entry| format!("{entry:?}"))
    }
}

fn left_out(path: &Path, is_dir: bool) -> bool {
    EMPTIED.iter().any(|dir| path.starts_with(dir) && path != Path::new(dir))
        || DROPPED.iter().any(|file| path == Path::new(file))
        || (path.starts_with("var/log") && !is_dir)
}

/// The whiteout that stands for a removed entry.
pub(crate) fn whiteout(path: &Path) -> PathBuf {
    let mut name = OsString::from(".wh.");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn paths(list: &[&str]) -> Vec<PathBuf> {
        list.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_difference_holds_what_is_new_changed_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["keep", "gone/deep", "becomes-file"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["keep/same", "keep/mode", "keep/text", "gone/deep/x", "gone/y", "becomes-file/z"] {
            fs::write(root.join(name), "one").unwrap();
        }
        symlink("same", root.join("keep/link")).unwrap();
        let before = Snapshot::take(root).unwrap();
        assert_eq!(before.since(&before), Difference::default());
        assert_eq!(before.since(&Snapshot::default()).changed.len(), before.len());
        assert_eq!(before.bytes(), 6 * 3);

        fs::set_permissions(root.join("keep/mode"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::write(root.join("keep/text"), "other").unwrap();
        fs::remove_file(root.join("keep/link")).unwrap();
        symlink("mode", root.join("keep/link")).unwrap();
        crate::proc::remove_dir(&root.join("gone")).unwrap();
        crate::proc::remove_dir(&root.join("becomes-file")).unwrap();
        fs::write(root.join("becomes-file"), "").unwrap();
        fs::write(root.join("new"), "").unwrap();
        let after = Snapshot::take(root).unwrap();
        let found = after.since(&before);
        assert_eq!(
            found.changed,
            paths(&["becomes-file", "keep", "keep/link", "keep/mode", "keep/text", "new"])
        );
        assert_eq!(found.removed, paths(&["gone"]));
    }

    #[test]
    fn a_new_hard_link_brings_the_file_it_shares() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "one").unwrap();
        let before = Snapshot::take(dir.path()).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        let after = Snapshot::take(dir.path()).unwrap();
        assert_eq!(after.since(&before).changed, paths(&["a", "b"]));
        assert_eq!(after.bytes(), 3);
    }

    #[test]
    fn caches_and_the_name_of_the_machine_stay_out() {
        for path in ["etc/hostname", "var/cache/apt/archives/x.deb", "var/log/dpkg.log", "dev/null"] {
            assert!(left_out(Path::new(path), false), "{path}");
        }
        for path in ["var/cache/apt", "var/log/apt", "dev", "etc", "devices"] {
            assert!(!left_out(Path::new(path), true), "{path}");
        }
    }

    #[test]
    fn a_whiteout_lies_beside_what_it_hides() {
        assert_eq!(whiteout(Path::new("usr/bin/vi")), Path::new("usr/bin/.wh.vi"));
        assert_eq!(whiteout(Path::new("vi")), Path::new(".wh.vi"));
    }

    #[test]
    fn mismatches_see_modes_links_and_extra_entries_but_not_clamped_times() {
        let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [left.path(), right.path()] {
            fs::write(dir.join("same"), "x").unwrap();
            fs::write(dir.join("mode"), "x").unwrap();
        }
        fs::set_permissions(right.path().join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(right.path().join("extra"), "x").unwrap();
        let (left, right) = (Snapshot::take(left.path()).unwrap(), Snapshot::take(right.path()).unwrap());
        assert_eq!(left.mismatches(&right, 1_000), paths(&["mode", "extra"]));
        assert!(left.describe(Path::new("mode")).contains("mode"));
        assert_eq!(left.describe(Path::new("none")), "nothing");
    }
}
