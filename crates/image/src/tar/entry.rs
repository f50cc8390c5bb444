//! What one entry of an archive says about itself.

use std::collections::BTreeMap;

use super::SparseMap;

/// Extended attributes by name. Names and values are bytes; both are bounded by [`crate::limits`].
pub type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// One entry, with GNU and PAX extensions already applied. Nothing is known about the sanity of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name as written: without NUL, at most [`crate::limits::PATH_BYTES`] long, otherwise unchecked.
    pub path: Vec<u8>,
    /// Target of a hard or symbolic link as written, else empty. Bounded like `path`.
    pub link: Vec<u8>,
    /// What the entry is.
    pub entry_type: EntryType,
    /// Permission bits, and whatever other bits the archive has.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Length of the file as it will be read, holes included. 0 for entries without data.
    pub size: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// Access time, where the archive has one.
    pub atime: Option<Timestamp>,
    /// Device number of a device node, else zeros.
    pub device: Device,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Attributes written in forms that image tools do not read.
    pub unread: Unread,
    /// Where the stored bytes belong, for a sparse file.
    pub sparse: Option<SparseMap>,
    /// Where the entry's own header block starts, in bytes from the start of the stream.
    pub offset: u64,
}

/// Attributes of an entry that are written in forms of their own, which neither containerd nor umoci reads: an image with
/// them means the same without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    /// `SCHILY.acl.*`: access control lists as text, by star and `tar --acls`.
    pub access_list: bool,
    /// `LIBARCHIVE.xattr.*` that is not there as `SCHILY.xattr.*`, too, as bsdtar writes them.
    pub attribute: bool,
    /// `RHT.security.selinux`: a label, by `tar --selinux`.
    pub label: bool,
}

/// Kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryType {
    /// Regular file, sparse or not.
    File,
    /// Another name for an earlier entry.
    HardLink,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Directory.
    Directory,
    /// Named pipe.
    Fifo,
    /// Any other type byte. Its data, if any, is read like a file's.
    Other(u8),
}

impl EntryType {
    /// Whether a data section follows the header.
    pub(super) fn has_data(self) -> bool {
        matches!(self, EntryType::File | EntryType::Other(_))
    }
}

/// Seconds since the epoch, rounded towards the past, and the nanoseconds since then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// May be negative.
    pub seconds: i64,
    /// `0..1_000_000_000`, always counted forward.
    pub nanoseconds: u32,
}

/// Device number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Device {
    /// Driver.
    pub major: u32,
    /// Unit.
    pub minor: u32,
}
