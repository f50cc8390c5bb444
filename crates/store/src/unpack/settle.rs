//! What a layer takes from the layers below it.
//!
//! A tar stream says nothing about a directory it does not list: that is the one of the layers below, and since
//! overlayfs shows the attributes of the topmost, they are copied here. Hard links into lower layers are made here,
//! as overlayfs would have made them: the file is copied up, then linked. Whiteouts that hide nothing go, because
//! overlayfs lists a whiteout in a directory that only one layer has.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use plywood_image::Digest;
use plywood_image::layer::{EntryPath, Marks, Meta};
use plywood_image::tar::{Timestamp, Xattrs};
use plywood_kernel::SyscallError;
use plywood_kernel::copy::CopyError;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::attributes;
use super::dirs::Dirs;
use super::error::{OnEntry, UnpackError};
use super::room::{Room, UnpackLimits};
use super::writer::{self, Counts, LowerLink, OPAQUE_XATTR};
use crate::layers::Basis;
use crate::merged::{Found, MergedTree};
use crate::transfer::Cancel;

/// Longest list of extended attribute names the kernel gives.
const XATTR_LIST_MAX: usize = 64 << 10;

/// A layer whose own entries stand, not yet fitted to the layers below.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) marks: Marks,
    pub(crate) links: Vec<LowerLink>,
    pub(crate) counts: Counts,
    /// Bytes of the image's memory that were claimed for all this.
    pub(crate) charged: usize,
}

/// How fitting ended.
#[derive(Debug)]
pub(crate) enum Settled {
    /// The layer is complete.
    Done {
        /// What it took from the layers below.
        basis: Basis,
        /// With what came from below.
        counts: Counts,
    },
    /// A path of the layer leads through a symbolic link of the layers below: unpack it again, knowing them.
    Redirected {
        /// The layer's opaque directories.
        opaque: HashSet<EntryPath>,
        /// The parent directory that is a link below.
        path: EntryPath,
    },
}

/// The layers below.
#[derive(Debug)]
pub(crate) struct Lower {
    /// All of them.
    pub(crate) tree: MergedTree,
    /// The directory of the topmost. Its attributes are those of the merged root, because every settled layer has them.
    pub(crate) top: OwnedFd,
}

/// Fits a layer to those below it; `None` for the lowest.
pub(crate) fn settle(
    unpacked: &Unpacked,
    staging: BorrowedFd<'_>,
    below: Option<&Lower>,
    limits: &UnpackLimits,
    cancel: &Cancel,
) -> Result<Settled, UnpackError> {
    let Unpacked { marks, links, counts, charged: _ } = unpacked;
    let opaque: HashSet<EntryPath> = marks.opaque.iter().cloned().collect();
    let mut settling = Settling {
        dirs: Dirs::new(staging),
        below,
        opaque: &opaque,
        counts: *counts,
        room: limits.room(staging).on(&EntryPath::root(), "fstatvfs(layer)")?,
        copied: 0,
        cancel,
    };
    let replaced: HashSet<&EntryPath> = marks.replaced.iter().collect();
    let implied =
        |settling: &Settling<'_>, path: &EntryPath| match opaque.contains(path) && !replaced.contains(path) {
            true => settling.look_beside_mark(path),
            false => settling.look(path),
        };
    for path in &marks.implied {
        settling.unless_cancelled()?;
        match implied(&settling, path)? {
            Some(dir) if dir.file_type() == FileType::Symlink => {
                return Ok(Settled::Redirected { opaque, path: path.clone() });
            }
            Some(dir) if dir.file_type() != FileType::Directory => {
                let kind = kind_name(dir.file_type());
                return Err(UnpackError::BelowNonDirectory { path: path.clone(), kind });
            }
            // Neither kept open, there may be more of them than descriptors, nor its attributes kept, which may be large.
            Some(_) | None => {}
        }
    }
    for target in &marks.removed_targets {
        settling.unless_cancelled()?;
        if let Some(path) = settling.link_above(target)? {
            return Ok(Settled::Redirected { opaque, path });
        }
    }
    for path in &marks.whiteouts {
        settling.unless_cancelled()?;
        settling.keep_whiteout_if_needed(path)?;
    }
    if opaque.contains(&EntryPath::root()) {
        settling.empty_root()?;
    }
    let mut places = HashMap::new();
    for link in links {
        settling.unless_cancelled()?;
        match marks.removed_targets.binary_search(&link.target) {
            Ok(_) => settling.link_removed(link, &mut places)?,
            Err(_) => settling.link(link)?,
        }
    }
    // Last, because all of the above changes their times.
    let mut root = None;
    for path in &marks.implied {
        settling.unless_cancelled()?;
        let meta = match implied(&settling, path)? {
            Some(dir) => meta_of(&dir, path)?,
            None => default_directory(),
        };
        if path.is_root() {
            root = Some(root_digest(&meta));
        }
        settling.counts.owner(meta.uid, meta.gid);
        let fd = settling.dirs.get(path)?;
        attributes::apply(&fd, path, &meta, &mut settling.counts.left_out)?;
    }
    let only_root_implied = marks.implied.iter().all(EntryPath::is_root);
    let by_itself = only_root_implied
        && marks.whiteouts.is_empty()
        && links.is_empty()
        && !opaque.contains(&EntryPath::root());
    let basis = match (by_itself, root) {
        (false, _) => Basis::Chain,
        (true, Some(root)) => Basis::Root(root),
        (true, None) => Basis::Nothing,
    };
    Ok(Settled::Done { basis, counts: settling.counts })
}

/// Stands for the root directory that a layer and all below it show: what a layer above takes that does not list its own.
pub(crate) fn root_shown_by(layer: &OwnedFd) -> Result<Digest, UnpackError> {
    let root = EntryPath::root();
    Ok(root_digest(&meta_of(&root_of(layer, &root)?, &root)?))
}

/// The same for the lowest layer, which has none below.
pub(crate) fn root_of_nothing() -> Digest {
    root_digest(&default_directory())
}

fn root_digest(meta: &Meta) -> Digest {
    let Meta { uid, gid, mode, mtime, atime: _, xattrs } = meta;
    let mut text = format!("{uid} {gid} {mode:o} {} {}", mtime.seconds, mtime.nanoseconds).into_bytes();
    for (name, value) in xattrs {
        text.extend_from_slice(format!(" {} {} ", name.len(), value.len()).as_bytes());
        text.extend_from_slice(name);
        text.extend_from_slice(value);
    }
    Digest::sha256(&text)
}

struct Settling<'a> {
    dirs: Dirs<'a>,
    below: Option<&'a Lower>,
    opaque: &'a HashSet<EntryPath>,
    counts: Counts,
    /// For what is copied from below: an archive of a few bytes can ask for any amount of it.
    room: Room<'a>,
    /// Bytes copied so far.
    copied: u64,
    cancel: &'a Cancel,
}

impl Settling<'_> {
    fn unless_cancelled(&self) -> Result<(), UnpackError> {
        if self.cancel.is_cancelled() { Err(UnpackError::Cancelled) } else { Ok(()) }
    }

    /// What the layers below have at exactly `path`, as far as this layer lets it through.
    fn look(&self, path: &EntryPath) -> Result<Option<Found>, UnpackError> {
        let Some(below) = self.below else { return Ok(None) };
        if path.is_root() {
            // Asked by almost every layer: spares a look into all layers below.
            return root_of(&below.top, path).map(Some);
        }
        if hidden(self.opaque, path) {
            return Ok(None);
        }
        Self::at(below, path)
    }

    /// The lower directory of one that this layer marks opaque: the mark hides what is in it, not its owner and mode.
    fn look_beside_mark(&self, path: &EntryPath) -> Result<Option<Found>, UnpackError> {
        let (Some(below), Some(parent)) = (self.below, path.parent()) else { return self.look(path) };
        if hidden(self.opaque, &parent) {
            return Ok(None);
        }
        // Anything but a directory is hidden whole.
        Ok(Self::at(below, path)?.filter(|found| found.file_type() == FileType::Directory))
    }

    fn at(below: &Lower, path: &EntryPath) -> Result<Option<Found>, UnpackError> {
        let found = below.tree.lookup_no_follow(path.as_path()).map_err(UnpackError::Below)?;
        // A lower symbolic link on the way is hidden by a directory of this layer.
        Ok(found.filter(|found| found.path.as_os_str().as_bytes() == path.as_bytes()))
    }

    fn keep_whiteout_if_needed(&mut self, path: &EntryPath) -> Result<(), UnpackError> {
        // Below an opaque directory there is nothing to hide.
        if self.look(path)?.is_some() {
            return Ok(());
        }
        let dir = self.dirs.parent(path)?;
        let name = path.file_name().unwrap_or_default();
        self.counts.entries = self.counts.entries.saturating_sub(1);
        keeping_times(&dir, path, || {
            rustix::fs::unlinkat(&dir, name, AtFlags::empty())
                .on(path, format_args!("unlinkat(dir, {name:?})"))
        })
    }

    /// overlayfs merges the roots of all layers whatever their marks, so an opaque root becomes a whiteout or an
    /// opaque directory for each name below.
    fn empty_root(&mut self) -> Result<(), UnpackError> {
        let root = EntryPath::root();
        let Some(below) = self.below else { return Ok(()) };
        let dir = self.dirs.get(&root)?;
        // Name by name: there may be millions of them.
        for layer in 0..below.tree.layer_count() {
            let layer = below.tree.open_layer(layer).map_err(UnpackError::Below)?;
            let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
            let mut names = RawDir::new(&layer, &mut buffer);
            while let Some(entry) = names.next() {
                let entry = entry.on(&root, "getdents64(lower root)")?;
                // Neither "." nor ".." is one.
                let Ok(path) = EntryPath::new(entry.file_name().to_bytes()) else { continue };
                if !path.is_root() {
                    self.hide(below, &dir, &path)?;
                }
            }
        }
        Ok(())
    }

    /// Hides what the layers below have at a name in the root.
    fn hide(&mut self, below: &Lower, dir: &OwnedFd, path: &EntryPath) -> Result<(), UnpackError> {
        let name = path.file_name().unwrap_or_default();
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                if Self::at(below, path)?.is_some() {
                    keeping_times(dir, &EntryPath::root(), || writer::whiteout(&mut self.dirs, path))?;
                    self.counts.entries += 1;
                }
                Ok(())
            }
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                writer::opaque(self.dirs.get(path)?, path)
            }
            Ok(_) => Ok(()),
            Err(errno) => Err(errno).on(path, format_args!("fstatat(dir, {name:?})")),
        }
    }

    /// A directory above `path` that is a symbolic link below. This layer removes what is there, so neither is it implied.
    fn link_above(&self, path: &EntryPath) -> Result<Option<EntryPath>, UnpackError> {
        let Some(below) = self.below else { return Ok(None) };
        let mut above = path.parent();
        while let Some(at) = above.filter(|at| !at.is_root()) {
            match Self::at(below, &at)? {
                Some(found) if found.file_type() == FileType::Symlink => return Ok(Some(at)),
                _ => above = at.parent(),
            }
        }
        Ok(None)
    }

    fn link(&mut self, link: &LowerLink) -> Result<(), UnpackError> {
        let LowerLink { path, target } = link;
        let from = self.dirs.parent(target)?;
        if !exists(&from, target)? {
            let found = self.look(target)?;
            self.take(link, found, target)?;
            self.counts.entries += 1;
        }
        self.link_here(path, target)
    }

    /// A link to what this layer removes afterwards: the file of the layers below moves to the first such link, and the
    /// others are links to that one.
    fn link_removed<'b>(
        &mut self,
        link: &'b LowerLink,
        places: &mut HashMap<&'b EntryPath, &'b EntryPath>,
    ) -> Result<(), UnpackError> {
        let LowerLink { path, target } = link;
        if let Some(place) = places.get(target) {
            return self.link_here(path, place);
        }
        let found = match self.below {
            Some(below) => Self::at(below, target)?,
            None => None,
        };
        places.insert(target, path);
        self.take(link, found, path)
    }

    fn link_here(&mut self, path: &EntryPath, target: &EntryPath) -> Result<(), UnpackError> {
        let dir = self.dirs.parent(path)?;
        match keeping_times(&dir, path, || writer::hard_link(&mut self.dirs, path, target))? {
            true => Ok(()),
            false => Err(UnpackError::LinkTarget { path: path.clone(), target: target.clone() }),
        }
    }

    /// Copies the target of a link from the layers below to `place`.
    fn take(&mut self, link: &LowerLink, found: Option<Found>, place: &EntryPath) -> Result<(), UnpackError> {
        let LowerLink { path, target } = link;
        let found =
            found.ok_or_else(|| UnpackError::LinkTarget { path: path.clone(), target: target.clone() })?;
        if found.file_type() == FileType::Directory {
            return Err(UnpackError::LinkDirectory { path: path.clone(), target: target.clone() });
        }
        let meta = meta_of(&found, target)?;
        self.counts.owner(meta.uid, meta.gid);
        let size = u64::try_from(found.stat.st_size).unwrap_or(0);
        self.counts.size_bytes = self.counts.size_bytes.saturating_add(size);
        let dir = self.dirs.parent(place)?;
        keeping_times(&dir, place, || self.copy_up(&found, &dir, place, &meta))
    }

    /// A non-directory of the layers below as an entry of this one.
    fn copy_up(
        &mut self,
        found: &Found,
        dir: &OwnedFd,
        path: &EntryPath,
        meta: &Meta,
    ) -> Result<(), UnpackError> {
        let name = path.file_name().unwrap_or_default();
        let mode = attributes::mode(meta.mode & 0o777);
        match found.file_type() {
            FileType::RegularFile => {
                // Opened anew by its descriptor: O_PATH cannot be read. Leads nowhere else.
                let source = format!("/proc/self/fd/{}", found.fd.as_raw_fd());
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
                let source =
                    rustix::fs::openat(CWD, source, flags, Mode::empty()).on(path, "open(lower file)")?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let copy = rustix::fs::openat(dir, name, flags, mode)
                    .on(path, format_args!("openat(dir, {name:?}, O_CREAT|O_EXCL)"))?;
                // This layer's directories are finished, and one may have a default access list.
                attributes::drop_inherited(dir, name, path)?;
                self.copy_contents(&source, &copy, path, u64::try_from(found.stat.st_size).unwrap_or(0))?;
                attributes::apply(&copy, path, meta, &mut self.counts.left_out)
            }
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(&found.fd, "", Vec::new()).on(path, "readlinkat(lower link)")?;
                rustix::fs::symlinkat(&target, dir, name)
                    .on(path, format_args!("symlinkat({target:?}, dir, {name:?})"))?;
                attributes::apply_at(dir, name, path, meta, true, &mut self.counts.left_out)
            }
            file_type => {
                rustix::fs::mknodat(dir, name, file_type, mode, found.stat.st_rdev)
                    .on(path, format_args!("mknodat(dir, {name:?}, {file_type:?})"))?;
                attributes::drop_inherited(dir, name, path)?;
                attributes::apply_at(dir, name, path, meta, false, &mut self.counts.left_out)
            }
        }
    }

    fn copy_contents(
        &mut self,
        source: &OwnedFd,
        copy: &OwnedFd,
        path: &EntryPath,
        size: u64,
    ) -> Result<(), UnpackError> {
        let failed = |error: SyscallError| UnpackError::Entry {
            path: path.clone(),
            call: error.call().to_owned(),
            source: error.errno().into(),
        };
        if plywood_kernel::copy::share(source, copy).map_err(failed)? {
            return Ok(());
        }
        let (room, cancel, before) = (&self.room, self.cancel, self.copied);
        let copied = plywood_kernel::copy::data(source, copy, size, |bytes| {
            if cancel.is_cancelled() {
                return Err(UnpackError::Cancelled);
            }
            room.check(before.saturating_add(bytes)).map_err(UnpackError::Room)
        });
        self.copied += copied.map_err(|error| match error {
            CopyError::Call(error) => failed(error),
            CopyError::Stopped(error) => error,
        })?;
        Ok(())
    }
}

/// Whether an opaque directory of this layer lies at or above `path`.
pub(super) fn hidden(opaque: &HashSet<EntryPath>, path: &EntryPath) -> bool {
    if opaque.is_empty() {
        return false;
    }
    let mut at = Some(path.clone());
    while let Some(path) = at {
        if opaque.contains(&path) {
            return true;
        }
        at = path.parent();
    }
    false
}

fn root_of(top: &OwnedFd, path: &EntryPath) -> Result<Found, UnpackError> {
    let fd = top.try_clone().on(path, "dup(dir)")?;
    let stat = rustix::fs::fstat(&fd).on(path, "fstat(dir)")?;
    Ok(Found { path: PathBuf::new(), layer: 0, fd, stat })
}

fn default_directory() -> Meta {
    Meta { mode: 0o755, ..Meta::default() }
}

fn exists(dir: &OwnedFd, path: &EntryPath) -> Result<bool, UnpackError> {
    let name = path.file_name().unwrap_or_default();
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).on(path, format_args!("fstatat(dir, {name:?})")),
    }
}

/// Changes the contents of a directory whose attributes are final.
fn keeping_times<T>(
    dir: &OwnedFd,
    path: &EntryPath,
    change: impl FnOnce() -> Result<T, UnpackError>,
) -> Result<T, UnpackError> {
    let before = rustix::fs::fstat(dir).on(path, "fstat(dir)")?;
    let result = change()?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: before.st_atime, tv_nsec: before.st_atime_nsec.cast_signed() },
        last_modification: Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec.cast_signed() },
    };
    rustix::fs::futimens(dir, &times).on(path, "futimens(dir)")?;
    Ok(result)
}

/// The attributes of what the layers below have.
fn meta_of(found: &Found, path: &EntryPath) -> Result<Meta, UnpackError> {
    let Stat { st_uid, st_gid, st_mode, st_mtime, st_mtime_nsec, .. } = found.stat;
    let nanoseconds = u32::try_from(st_mtime_nsec).unwrap_or(0);
    Ok(Meta {
        uid: st_uid,
        gid: st_gid,
        mode: st_mode & 0o7777,
        mtime: Timestamp { seconds: st_mtime, nanoseconds },
        atime: None,
        xattrs: xattrs_of(found, path)?,
    })
}

/// By way of /proc, because an O_PATH descriptor itself does not give them. The magic link leads to the file itself,
/// a symbolic link included.
fn xattrs_of(found: &Found, path: &EntryPath) -> Result<Xattrs, UnpackError> {
    let node = format!("/proc/self/fd/{}", found.fd.as_raw_fd());
    let mut names = vec![0u8; XATTR_LIST_MAX];
    let length = match rustix::fs::listxattr(&node, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno).on(path, "listxattr(fd)"),
    };
    let mut xattrs = Xattrs::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // overlayfs's own marks belong to the layer that has them.
        if name.starts_with(OPAQUE_XATTR.rsplit_once('.').map_or(b"", |(prefix, _)| prefix.as_bytes())) {
            continue;
        }
        let shown = OsStr::from_bytes(name);
        let mut value = vec![0u8; XATTR_LIST_MAX];
        let length = rustix::fs::getxattr(&node, shown, &mut value[..])
            .on(path, format_args!("getxattr(fd, {shown:?})"))?;
        value.truncate(length);
        xattrs.insert(name.into(), value.into());
    }
    Ok(xattrs)
}

fn kind_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::RegularFile => "file",
        FileType::Symlink => "symbolic link",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        _ => "non-directory",
    }
}
