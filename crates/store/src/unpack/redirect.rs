//! Paths that lead through a symbolic link of the layers below.
//!
//! A layer built on a merged `/usr` may list `bin/tool` and no `bin`: below, `bin` is a link to `usr/bin`, and that is
//! where the file belongs, as containerd and umoci put it. Only lower links are followed, and only inside the image's
//! own root, in the order of the entries: what this layer has made itself hides what is below it.

use std::collections::{HashSet, VecDeque};
use std::os::unix::ffi::OsStrExt as _;

use plywood_image::layer::{DiffEntry, EntryPath, NodeKind};
use rustix::fs::FileType;

use super::error::{OnEntry, UnpackError};
use super::settle::hidden;
use super::writer::Writer;
use crate::merged::{MergedError, MergedTree};

/// As the kernel's MAXSYMLINKS.
const MAX_LINKS: usize = 40;

/// The layers below, and what this layer hides of them.
#[derive(Debug)]
pub(crate) struct Below<'a> {
    pub(crate) tree: &'a MergedTree,
    pub(crate) opaque: HashSet<EntryPath>,
    /// What the layer claimed of the image's memory when it was unpacked without knowing them.
    pub(crate) charged: usize,
}

impl Below<'_> {
    /// The entry with its paths free of lower symbolic links.
    pub(super) fn redirect(&self, entry: DiffEntry, written: &Writer<'_>) -> Result<DiffEntry, UnpackError> {
        Ok(match entry {
            DiffEntry::Whiteout { path } => DiffEntry::Whiteout { path: self.parent_of(&path, written)? },
            DiffEntry::Opaque { dir } => DiffEntry::Opaque { dir: self.whole(&dir, &dir, written)? },
            DiffEntry::Node(mut node) => {
                node.path = self.parent_of(&node.path, written)?;
                if let NodeKind::HardLink { target } = &mut node.kind {
                    *target = self.parent_of(target, written)?;
                }
                DiffEntry::Node(node)
            }
        })
    }

    /// Everything but the last component.
    fn parent_of(&self, path: &EntryPath, written: &Writer<'_>) -> Result<EntryPath, UnpackError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path.clone()) };
        let parent = self.whole(&parent, path, written)?;
        join(&parent, name.as_bytes(), path)
    }

    fn whole(
        &self,
        path: &EntryPath,
        entry: &EntryPath,
        written: &Writer<'_>,
    ) -> Result<EntryPath, UnpackError> {
        let mut pending: VecDeque<Vec<u8>> = path.components().map(|name| name.as_bytes().to_vec()).collect();
        let mut at = EntryPath::root();
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == b".." {
                // At the root it stays there, as in a chroot.
                at = at.parent().unwrap_or_else(EntryPath::root);
                continue;
            }
            let next = join(&at, &name, entry)?;
            let Some(target) = self.lower_link(&next, written)? else {
                at = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(UnpackError::Below(MergedError::TooManyLinks(entry.as_path().to_owned())));
            }
            if target.starts_with(b"/") {
                at = EntryPath::root();
            }
            let steps = target.split(|byte| *byte == b'/').filter(|step| !step.is_empty() && *step != b".");
            for step in steps.rev().map(<[u8]>::to_vec).collect::<Vec<_>>() {
                pending.push_front(step);
            }
        }
        Ok(at)
    }

    /// The target of a symbolic link that the layers below have at `path` and this layer lets through.
    fn lower_link(&self, path: &EntryPath, written: &Writer<'_>) -> Result<Option<Vec<u8>>, UnpackError> {
        if written.contains(path) || hidden(&self.opaque, path) {
            return Ok(None);
        }
        let found = self.tree.lookup_no_follow(path.as_path()).map_err(UnpackError::Below)?;
        let Some(found) = found.filter(|f| f.file_type() == FileType::Symlink && f.path == path.as_path())
        else {
            return Ok(None);
        };
        let target = rustix::fs::readlinkat(&found.fd, "", Vec::new()).on(path, "readlinkat(lower link)")?;
        Ok(Some(target.into_bytes()))
    }
}

fn join(dir: &EntryPath, name: &[u8], entry: &EntryPath) -> Result<EntryPath, UnpackError> {
    let joined = if dir.is_root() { name.to_vec() } else { [dir.as_bytes(), b"/", name].concat() };
    EntryPath::new(&joined).map_err(|e| UnpackError::Entry {
        path: entry.clone(),
        call: "following a symbolic link of the layers below".to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidFilename, e),
    })
}
