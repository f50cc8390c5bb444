//! One tar entry at a time: is it acceptable, and what does it mean?

use std::fmt;
use std::mem;
use std::os::unix::ffi::OsStrExt as _;

use super::path::{EntryPath, PathError};
use crate::limits;
use crate::tar::{Device, EntryType, Header, SparseMap, Timestamp, Xattrs};

const WHITEOUT: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The kernel's field widths (`MKDEV`): 12 bits of major, 20 of minor number.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// What one entry of a layer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiffEntry {
    /// Removes what lower layers have at `path`.
    Whiteout {
        /// The name removed, not that of the marker. Never the root.
        path: EntryPath,
    },
    /// Hides everything lower layers have in a directory.
    Opaque {
        /// The directory.
        dir: EntryPath,
    },
    /// Is there itself.
    Node(Node),
}

/// Something that stands in the layer's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where. The root only for a directory.
    pub path: EntryPath,
    /// What.
    pub kind: NodeKind,
    /// Its attributes. For a hard link they repeat those of its target and need not be applied.
    pub meta: Meta,
}

/// The kinds of node a layer can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// Directory.
    Directory,
    /// Regular file; its data follows in the archive.
    File {
        /// Length in bytes, holes included.
        size: u64,
        /// Where the stored bytes belong, if not all in one piece from the start.
        sparse: Option<SparseMap>,
    },
    /// Symbolic link.
    Symlink {
        /// Any text the kernel takes: not empty, without NUL, shorter than `PATH_MAX`.
        target: Vec<u8>,
    },
    /// Another name of a node that stands earlier in this layer.
    HardLink {
        /// That node: never the root and never `path` itself.
        target: EntryPath,
    },
    /// Character device, never 0/0.
    CharDevice(Device),
    /// Block device.
    BlockDevice(Device),
    /// Named pipe.
    Fifo,
}

impl NodeKind {
    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            NodeKind::Directory => "directory",
            NodeKind::File { .. } => "file",
            NodeKind::Symlink { .. } => "symbolic link",
            NodeKind::HardLink { .. } => "hard link",
            NodeKind::CharDevice(_) => "character device",
            NodeKind::BlockDevice(_) => "block device",
            NodeKind::Fifo => "fifo",
        }
    }
}

/// Attributes of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Owner inside the container; a valid Linux id.
    pub uid: u32,
    /// Group inside the container; a valid Linux id.
    pub gid: u32,
    /// Permission bits, `0..=0o7777`.
    pub mode: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Access time, where the archive has one.
    pub atime: Option<Timestamp>,
    /// Extended attributes, none of them overlayfs's own.
    pub xattrs: Xattrs,
}

/// A layer that breaks a rule, and the entry that does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerError {
    path: Vec<u8>,
    kind: LayerErrorKind,
}

/// The rule broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerErrorKind {
    /// The entry's own name.
    #[error("{0}")]
    Path(PathError),
    /// The root of a layer as something else than a directory, or whited out.
    #[error("the root of a layer can only be a directory")]
    Root,
    /// A reserved `.wh.` name that means nothing.
    #[error("the name is reserved for whiteouts")]
    ReservedName,
    /// A whiteout of ``, `.` or `..`.
    #[error("the whiteout names nothing that could be removed")]
    WhiteoutName,
    /// A marker that is neither file nor link.
    #[error("a whiteout must be a file")]
    WhiteoutType,
    /// A hard link's target is no path in the layer.
    #[error("hard link target \"{}\": {problem}", target.escape_ascii())]
    LinkPath {
        /// As written in the archive.
        target: Vec<u8>,
        /// What is wrong with it.
        problem: PathError,
    },
    /// A hard link's target is not among the earlier entries of this layer.
    #[error("hard link target \"{target}\" is not an earlier entry of this layer")]
    LinkTarget {
        /// The target.
        target: EntryPath,
    },
    /// A hard link's target is a file of the layers below that an earlier entry of this layer removes.
    #[error("hard link target \"{target}\" is removed by an earlier entry of this layer")]
    LinkRemoved {
        /// The target.
        target: EntryPath,
    },
    /// A hard link to a directory, or to itself.
    #[error("hard link target \"{target}\" is {what}")]
    LinkKind {
        /// The target.
        target: EntryPath,
        /// What it is instead.
        what: &'static str,
    },
    /// A symbolic link's target is empty, too long or contains a NUL.
    #[error("the symbolic link has an impossible target")]
    SymlinkTarget,
    /// An owner or group that is no Linux id.
    #[error("{what} {value} is not a usable id (0 to 4294967294)")]
    Owner {
        /// `uid` or `gid`.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// A device number Linux does not have.
    #[error("device number {major}:{minor} does not exist")]
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A character device 0/0.
    #[error(
        "a character device 0:0 would act as an overlayfs whiteout; layers remove files with .wh. entries"
    )]
    OverlayWhiteout,
    /// An extended attribute of overlayfs.
    #[error("extended attribute {0:?} is overlayfs's own and cannot come from an image")]
    OverlayXattr(String),
    /// Some other type of entry.
    #[error("entries of type {:?} are not supported: only files, links, directories, devices and fifos are", char::from(*.0))]
    Unsupported(u8),
    /// An entry below a non-directory of the same layer.
    #[error("it lies below \"{parent}\", which this layer made a {kind}")]
    BelowNonDirectory {
        /// The non-directory.
        parent: EntryPath,
        /// What it is.
        kind: &'static str,
    },
    /// A non-directory in place of a directory with entries.
    #[error("it replaces a directory that has entries in this layer")]
    ReplacesDirectory,
    /// A second entry of one name.
    #[error("the layer has an earlier entry of this name ({earlier})")]
    Duplicate {
        /// What the earlier one is.
        earlier: &'static str,
    },
    /// A second entry of one directory that contradicts the first.
    #[error("the layer has an earlier entry of this directory, with other attributes")]
    OtherAttributes,
    /// Beyond a limit on the whole layer.
    #[error(
        "the layer has more names, directories, marks and attributes of directories than {} MiB hold",
        limits::LAYER_MEMORY_BYTES >> 20
    )]
    TooMuch,
}

impl LayerError {
    pub(super) fn new(path: impl Into<Vec<u8>>, kind: LayerErrorKind) -> LayerError {
        LayerError { path: path.into(), kind }
    }

    /// The rule broken.
    pub fn kind(&self) -> &LayerErrorKind {
        &self.kind
    }

    /// Name of the entry, as the archive has it or normalised.
    pub fn path(&self) -> &[u8] {
        &self.path
    }
}

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer entry \"{}\": {}", self.path.escape_ascii(), self.kind)
    }
}

impl std::error::Error for LayerError {}

/// What `header` means. `None` for entries that mean nothing: AUFS's bookkeeping.
pub fn classify(mut header: Header) -> Result<Option<DiffEntry>, LayerError> {
    classify_inner(&mut header).map_err(|kind| LayerError::new(header.path, kind))
}

/// Takes what it needs out of `header`, except the path.
fn classify_inner(header: &mut Header) -> Result<Option<DiffEntry>, LayerErrorKind> {
    let path = EntryPath::new(&header.path).map_err(LayerErrorKind::Path)?;
    let Some((dir, name)) = path.split() else {
        if header.entry_type != EntryType::Directory {
            return Err(LayerErrorKind::Root);
        }
        return node(header, path).map(Some);
    };

    let first = path.components().next().unwrap_or_default().as_bytes();
    if first.starts_with(META) && first != OPAQUE {
        return match &first[META.len()..] {
            b"aufs" | b"plnk" | b"orph" => Ok(None),
            _ => Err(LayerErrorKind::ReservedName),
        };
    }
    if has_reserved(dir) {
        return Err(LayerErrorKind::ReservedName);
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT) else {
        return node(header, path).map(Some);
    };
    // AUFS itself made whiteouts as hard links to .wh..wh.aufs, and old images have them so.
    if !matches!(header.entry_type, EntryType::File | EntryType::HardLink) {
        return Err(LayerErrorKind::WhiteoutType);
    }
    let dir = EntryPath::from_normalised(dir);
    if name == OPAQUE {
        return Ok(Some(DiffEntry::Opaque { dir }));
    }
    match hidden {
        b"" | b"." | b".." => Err(LayerErrorKind::WhiteoutName),
        _ if hidden.starts_with(WHITEOUT) => Err(LayerErrorKind::ReservedName),
        _ => Ok(Some(DiffEntry::Whiteout { path: dir.child(hidden) })),
    }
}

/// Name of the marker that whites out `path`.
pub(super) fn whiteout_of(path: &EntryPath) -> EntryPath {
    let (dir, name) = path.split().unwrap_or_default();
    EntryPath::from_normalised(dir).child(&[WHITEOUT, name].concat())
}

/// Name of the marker that makes `dir` opaque.
pub(super) fn opaque_mark_of(dir: &EntryPath) -> EntryPath {
    dir.child(OPAQUE)
}

/// Whether any component of a normalised path is a marker's name.
fn has_reserved(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|component| component.starts_with(WHITEOUT))
}

fn node(header: &mut Header, path: EntryPath) -> Result<DiffEntry, LayerErrorKind> {
    let kind = match header.entry_type {
        EntryType::Directory => NodeKind::Directory,
        EntryType::File => NodeKind::File { size: header.size, sparse: header.sparse.take() },
        EntryType::Symlink => {
            let impossible =
                header.link.is_empty() || header.link.contains(&0) || header.link.len() >= limits::PATH_BYTES;
            if impossible {
                return Err(LayerErrorKind::SymlinkTarget);
            }
            NodeKind::Symlink { target: mem::take(&mut header.link) }
        }
        EntryType::HardLink => {
            NodeKind::HardLink { target: link_target(mem::take(&mut header.link), &path)? }
        }
        EntryType::CharDevice if header.device == Device::default() => {
            return Err(LayerErrorKind::OverlayWhiteout);
        }
        EntryType::CharDevice => NodeKind::CharDevice(device(header.device)?),
        EntryType::BlockDevice => NodeKind::BlockDevice(device(header.device)?),
        EntryType::Fifo => NodeKind::Fifo,
        EntryType::Other(flag) => return Err(LayerErrorKind::Unsupported(flag)),
    };
    if let Some(name) = header.xattrs.keys().find(|name| name.starts_with(b"trusted.overlay.")) {
        return Err(LayerErrorKind::OverlayXattr(name.escape_ascii().to_string()));
    }
    let meta = Meta {
        uid: id("uid", header.uid)?,
        gid: id("gid", header.gid)?,
        mode: header.mode & 0o7777,
        mtime: header.mtime,
        atime: header.atime,
        xattrs: mem::take(&mut header.xattrs),
    };
    Ok(DiffEntry::Node(Node { path, kind, meta }))
}

/// A target is looked up among the entries of the image and nowhere else, so one that begins with a slash, as kaniko
/// writes them all, is as good as one without.
fn link_target(link: Vec<u8>, path: &EntryPath) -> Result<EntryPath, LayerErrorKind> {
    let target = match EntryPath::new(link.strip_prefix(b"/").unwrap_or(&link)) {
        Ok(target) => target,
        Err(problem) => return Err(LayerErrorKind::LinkPath { target: link, problem }),
    };
    if target.is_root() {
        return Err(LayerErrorKind::LinkKind { target, what: "a directory" });
    }
    if has_reserved(target.as_bytes()) {
        return Err(LayerErrorKind::LinkTarget { target });
    }
    if target == *path {
        return Err(LayerErrorKind::LinkKind { target, what: "the link itself" });
    }
    Ok(target)
}

/// `u32::MAX` is the kernel's "no id" and cannot own anything.
fn id(what: &'static str, value: u64) -> Result<u32, LayerErrorKind> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(LayerErrorKind::Owner { what, value }),
    }
}

fn device(device: Device) -> Result<Device, LayerErrorKind> {
    let Device { major, minor } = device;
    if major > MAX_MAJOR || minor > MAX_MINOR {
        return Err(LayerErrorKind::Device { major, minor });
    }
    Ok(device)
}
