//! Entries to files.
//!
//! What stands where is decided by [`Tracker`]; this makes it, and never removes anything: no name comes twice. What is
//! kept until the end of the layer is claimed of its [`Share`]. Directories get their owner, mode, attributes and times
//! when everything below them stands: until then they are plain, so that neither a set-group-id bit nor a
//! default ACL of the image changes what is made inside, and making it does not change their times.

use std::fmt;
use std::io::{self, BufRead as _, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};

use plywood_image::layer::{DiffEntry, EntryPath, Node, NodeKind, Step, Tracker};
use plywood_image::tar::{Data, Device, Reader, SparseMap, Timestamp, Unread};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::attributes;
use super::dirs::Dirs;
use super::error::{OnEntry, UnpackError};
use super::memory::Share;
use super::settle::Unpacked;
use super::stream::Failure;

pub(super) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Writes one layer.
pub(super) struct Writer<'a> {
    dirs: Dirs<'a>,
    tracker: Tracker,
    links: Vec<LowerLink>,
    counts: Counts,
    share: &'a Share,
    /// Bytes of `links`.
    link_bytes: usize,
    /// Bytes claimed so far.
    claimed: usize,
}

/// Memory is claimed in pieces of this size.
const CLAIM: usize = 1 << 20;

/// A hard link into lower layers beside its names: a vector may be half empty, names are allocated apart, and settling
/// notes where the file of a removed target went.
const LINK: usize = 2 * size_of::<LowerLink>() + 32 + 4 * size_of::<&EntryPath>();
/// A name left for settling beside its bytes.
const MARK: usize = 2 * size_of::<EntryPath>() + 16;

/// A hard link into the layers below: made when those are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LowerLink {
    pub(crate) path: EntryPath,
    pub(crate) target: EntryPath,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) size_bytes: u64,
    pub(crate) entries: u64,
    pub(crate) max_uid: u32,
    pub(crate) max_gid: u32,
    pub(crate) left_out: LeftOut,
}

/// How many entries of a layer had attributes that are left out: what [`Unread`] says, labels of SELinux that the
/// kernel does not take, and times that the file system does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Access control lists as text (`SCHILY.acl.*`).
    pub access_lists: u64,
    /// Extended attributes in libarchive's form alone (`LIBARCHIVE.xattr.*`).
    pub attributes: u64,
    /// Labels of SELinux (`RHT.security.selinux`; `security.selinux` where the kernel refuses it).
    pub labels: u64,
    /// Modification times that the state root's file system does not have; the nearest it has is there.
    pub times: u64,
}

impl LeftOut {
    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        *self == LeftOut::default()
    }

    /// Compares the time asked for with what came of it.
    pub(super) fn note_time(&mut self, asked: Timestamp, has: &Stat) {
        self.times += u64::from(has.st_mtime != asked.seconds);
    }

    pub(super) fn note(&mut self, unread: Unread) {
        self.access_lists += u64::from(unread.access_list);
        self.attributes += u64::from(unread.attribute);
        self.labels += u64::from(unread.label);
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.access_lists, "access lists (SCHILY.acl)"),
            (self.attributes, "extended attributes (LIBARCHIVE.xattr)"),
            (self.labels, "labels (SELinux)"),
            (self.times, "times beyond those of the file system"),
        ];
        let mut separator = "";
        for (count, what) in kinds.into_iter().filter(|(count, _)| *count > 0) {
            let entries = if count == 1 { "entry" } else { "entries" };
            write!(f, "{separator}{what} of {count} {entries}")?;
            separator = ", ";
        }
        Ok(())
    }
}

impl Counts {
    pub(crate) fn owner(&mut self, uid: u32, gid: u32) {
        self.max_uid = self.max_uid.max(uid);
        self.max_gid = self.max_gid.max(gid);
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, share: &'a Share) -> Self {
        Self {
            dirs: Dirs::new(root),
            tracker: Tracker::new(),
            links: Vec::new(),
            counts: Counts::default(),
            share,
            link_bytes: 0,
            claimed: 0,
        }
    }

    /// Claims what the layer's entries took since the last time.
    fn claim(&mut self) -> Result<(), UnpackError> {
        let used = self.tracker.memory() + self.link_bytes;
        if used > self.claimed {
            let piece = (used - self.claimed).next_multiple_of(CLAIM);
            self.share.claim(piece)?;
            self.claimed += piece;
        }
        Ok(())
    }

    /// Counts what is not read of an entry.
    pub(super) fn leave_out(&mut self, unread: Unread) {
        self.counts.left_out.note(unread);
    }

    /// Whether this layer has made something at `path`.
    pub(super) fn contains(&self, path: &EntryPath) -> bool {
        self.tracker.contains(path)
    }

    /// Takes the next entry; a file's data comes from `reader`.
    pub(super) fn add<R: Read>(
        &mut self,
        mut entry: DiffEntry,
        reader: &mut Reader<R>,
        failure: &Failure,
    ) -> Result<(), UnpackError> {
        if let DiffEntry::Node(node) = &mut entry
            && let NodeKind::HardLink { target } = &node.kind
            && !self.tracker.contains(target)
        {
            let target = target.clone();
            self.link_below(node, target)?;
            return self.claim();
        }
        let step = self.tracker.add(&entry).map_err(UnpackError::Rule)?;
        self.claim()?;
        let DiffEntry::Node(node) = entry else { return Ok(()) };
        self.counts.owner(node.meta.uid, node.meta.gid);
        // Only a directory stands already.
        let Step::Create { parents } = step else { return Ok(()) };
        self.make_parents(&parents)?;
        self.counts.entries += 1;
        match node.kind {
            NodeKind::Directory => self.make_directory(&node.path),
            NodeKind::File { size, ref sparse } => {
                self.make_file(&node, size, sparse.as_ref(), reader.data(), failure)
            }
            NodeKind::HardLink { ref target } => self.link(&node.path, target),
            _ => self.make_special(&node),
        }
    }

    fn make_parents(&mut self, parents: &[EntryPath]) -> Result<(), UnpackError> {
        for parent in parents {
            self.make_directory(parent)?;
        }
        self.counts.entries += parents.len() as u64;
        Ok(())
    }

    fn make_directory(&mut self, path: &EntryPath) -> Result<(), UnpackError> {
        let dir = self.dirs.parent(path)?;
        let name = path.file_name().unwrap_or_default();
        rustix::fs::mkdirat(&dir, name, Mode::RWXU).on(path, format_args!("mkdirat(dir, {name:?})"))
    }

    fn make_file<R: Read>(
        &mut self,
        node: &Node,
        size: u64,
        sparse: Option<&SparseMap>,
        mut data: Data<'_, R>,
        failure: &Failure,
    ) -> Result<(), UnpackError> {
        let Node { path, meta, .. } = node;
        let dir = self.dirs.parent(path)?;
        let name = path.file_name().unwrap_or_default();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, name, flags, attributes::mode(meta.mode & 0o777))
            .on(path, format_args!("openat(dir, {name:?}, O_CREAT|O_EXCL)"))?;
        let mut file = std::fs::File::from(fd);
        match sparse {
            None => copy(&mut data, &mut file, u64::MAX, path, failure)?,
            Some(map) => {
                for segment in map.segments() {
                    file.seek(SeekFrom::Start(segment.offset)).on(path, "lseek(fd)")?;
                    copy(&mut data, &mut file, segment.length, path, failure)?;
                }
                file.set_len(size).on(path, format_args!("ftruncate(fd, {size})"))?;
            }
        }
        // Sparse files may be of any size the file system knows, and there may be many of them.
        self.counts.size_bytes = self.counts.size_bytes.saturating_add(size);
        attributes::apply(&file, path, meta, &mut self.counts.left_out)
    }

    fn make_special(&mut self, node: &Node) -> Result<(), UnpackError> {
        let Node { path, kind, meta } = node;
        let dir = self.dirs.parent(path)?;
        let name = path.file_name().unwrap_or_default();
        let mode = attributes::mode(meta.mode & 0o777);
        let make = |file_type, device: Device| {
            let device = rustix::fs::makedev(device.major, device.minor);
            rustix::fs::mknodat(&dir, name, file_type, mode, device)
                .on(path, format_args!("mknodat(dir, {name:?}, {file_type:?})"))
        };
        match kind {
            NodeKind::Symlink { target } => rustix::fs::symlinkat(target.as_slice(), &dir, name)
                .on(path, format_args!("symlinkat(\"{}\", dir, {name:?})", target.escape_ascii()))?,
            NodeKind::CharDevice(device) => make(FileType::CharacterDevice, *device)?,
            NodeKind::BlockDevice(device) => make(FileType::BlockDevice, *device)?,
            NodeKind::Fifo => make(FileType::Fifo, Device::default())?,
            NodeKind::Directory | NodeKind::File { .. } | NodeKind::HardLink { .. } => {}
        }
        let is_link = matches!(kind, NodeKind::Symlink { .. });
        attributes::apply_at(&dir, name, path, meta, is_link, &mut self.counts.left_out)
    }

    fn link(&mut self, path: &EntryPath, target: &EntryPath) -> Result<(), UnpackError> {
        // The target, or what it is itself a link to, is in the layers below.
        if self.tracker.is_lower_target(target) || !hard_link(&mut self.dirs, path, target)? {
            self.link_later(path.clone(), target.clone());
            self.claim()?;
        }
        Ok(())
    }

    /// A hard link whose target this layer does not have. The image specification speaks only of links within a
    /// layer, but builders exist that make others, and containerd and umoci take them. Like them, and like
    /// overlayfs, both names end up in this layer, as one file, unless the layer removes the target afterwards.
    fn link_below(&mut self, node: &Node, target: EntryPath) -> Result<(), UnpackError> {
        let parents = self.tracker.add_lower_link(&node.path, &target).map_err(UnpackError::Rule)?;
        self.make_parents(&parents)?;
        self.counts.entries += 1;
        self.link_later(node.path.clone(), target);
        Ok(())
    }

    fn link_later(&mut self, path: EntryPath, target: EntryPath) {
        self.link_bytes += LINK + path.as_bytes().len() + target.as_bytes().len();
        self.links.push(LowerLink { path, target });
    }

    /// The archive is complete: whiteouts, opaque marks, and the attributes of directories. `charged` bytes of the image's
    /// memory are this layer's already, from when it was unpacked before.
    pub(super) fn finish(mut self, charged: usize) -> Result<Unpacked, UnpackError> {
        let mut marks = std::mem::take(&mut self.tracker).finish().map_err(UnpackError::Rule)?;
        // Made, and among those that are implied.
        self.make_parents(&std::mem::take(&mut marks.parents))?;
        let lists =
            [&marks.whiteouts, &marks.opaque, &marks.replaced, &marks.implied, &marks.removed_targets];
        // Of opaque directories a set is made.
        let names = lists.into_iter().chain([&marks.opaque]).flatten();
        let bytes: usize = names.map(|path| MARK + path.as_bytes().len()).sum();
        let kept = bytes + self.link_bytes;
        self.share.keep(kept.saturating_sub(charged))?;
        for path in &marks.whiteouts {
            whiteout(&mut self.dirs, path)?;
        }
        for path in marks.opaque.iter().filter(|path| !path.is_root()) {
            let dir = self.dirs.get(path)?;
            opaque(&dir, path)?;
        }
        self.counts.entries += marks.whiteouts.len() as u64;
        // Not kept until the layers below are known.
        for (path, meta) in std::mem::take(&mut marks.directories) {
            let dir = self.dirs.get(&path)?;
            attributes::apply(&dir, &path, &meta, &mut self.counts.left_out)?;
        }
        Ok(Unpacked { marks, links: self.links, counts: self.counts, charged: kept.max(charged) })
    }
}

/// Links `path` to `target`, another entry of this layer. False if that is not there.
pub(super) fn hard_link(
    dirs: &mut Dirs<'_>,
    path: &EntryPath,
    target: &EntryPath,
) -> Result<bool, UnpackError> {
    let from = dirs.parent(target)?;
    let to = dirs.parent(path)?;
    let (from_name, to_name) = (target.file_name().unwrap_or_default(), path.file_name().unwrap_or_default());
    // Without AT_SYMLINK_FOLLOW: a link to a symbolic link is another name of that.
    match rustix::fs::linkat(&from, from_name, &to, to_name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).on(path, format_args!("linkat(dir, {from_name:?}, dir, {to_name:?})")),
    }
}

/// Makes overlayfs's mark of a removed name.
pub(super) fn whiteout(dirs: &mut Dirs<'_>, path: &EntryPath) -> Result<(), UnpackError> {
    let dir = dirs.parent(path)?;
    let name = path.file_name().unwrap_or_default();
    rustix::fs::mknodat(dir.as_fd(), name, FileType::CharacterDevice, Mode::empty(), 0)
        .on(path, format_args!("mknodat(dir, {name:?}, S_IFCHR, makedev(0, 0))"))
}

/// Makes overlayfs's mark of a directory that hides those below.
pub(super) fn opaque(dir: impl std::os::fd::AsFd, path: &EntryPath) -> Result<(), UnpackError> {
    rustix::fs::fsetxattr(dir, OPAQUE_XATTR, b"y", XattrFlags::empty())
        .on(path, format_args!("fsetxattr(fd, {OPAQUE_XATTR:?}, \"y\")"))
}

/// Up to `limit` bytes of an entry's data, straight from the reader's buffer.
fn copy<R: Read>(
    data: &mut Data<'_, R>,
    file: &mut std::fs::File,
    limit: u64,
    path: &EntryPath,
    failure: &Failure,
) -> Result<(), UnpackError> {
    let mut left = limit;
    while left > 0 {
        let bytes = data.fill_buf().map_err(|error| from_data(error, failure))?;
        let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 {
            break;
        }
        file.write_all(&bytes[..count]).on(path, format_args!("write(fd, {count} bytes)"))?;
        data.consume(count);
        left -= count as u64;
    }
    Ok(())
}

fn from_data(error: io::Error, failure: &Failure) -> UnpackError {
    failure.or(|| match error.downcast() {
        Ok(error) => UnpackError::Tar(error),
        Err(error) => UnpackError::Stream(error),
    })
}
