//! A streaming reader of tar archives that does not trust them.
//!
//! Reads v7, ustar, GNU (long names, base-256 numbers, sparse files) and POSIX PAX archives, among them all three of
//! GNU tar's sparse formats in PAX. It interprets the container format only; what a layer makes of an entry, and which
//! names are acceptable, is decided in [`crate::layer`].
//!
//! ```text
//! Reader::next_entry ─► Header (path, kind, numbers, xattrs, sparse map)
//! Reader::data ───────► the entry's stored bytes, as Read and BufRead
//! ```
//!
//! Decisions where implementations differ:
//!
//! * The archive ends at two zero blocks, or at a clean end of the stream on a block boundary (GNU tar and Go accept
//!   that too; the diff ID covers the stream anyway). A single zero block followed by anything else is an error: readers
//!   disagree on whether what follows exists. What follows the end is ignored; [`Reader::finish`] drains it.
//! * Directories, links, devices and fifos have no data. One with a size other than 0 is refused: some readers take what
//!   follows for its data, others for the next entry, and an archive could show each of them other files.
//! * A name that ends in `/` makes a directory of an entry of v7's only type, as everywhere. A file of that name is refused:
//!   it is a file to some readers and a directory to others.
//! * PAX: the last of several records of one key wins, an empty value unsets it.
//! * A global header is ignored, as Go ignores it, with which images are read; one that sets anything that would count
//!   (a name, a size, an owner, a time, a sparse map, an extended attribute) is refused, because others apply it.
//! * An entry named both by a GNU long name and by PAX is refused: readers disagree on which one counts.
//! * Access lists as `SCHILY.acl.*`, extended attributes as `LIBARCHIVE.xattr.*` and labels as `RHT.security.selinux` are not
//!   read, as the image tools do not read them, but told ([`Unread`]).
//! * `uname`, `gname`, `hdrcharset`, `comment` and unknown keys are ignored. Numeric owners are what counts in an image.
//! * Names are bytes. Their charset is nobody's business.
//!
//! Invariant: memory stays below the bounds of [`crate::limits`] for any input, and no input panics.

mod entry;
mod error;
mod field;
mod input;
mod pax;
mod reader;
mod sparse;

pub use entry::{Device, EntryType, Header, Timestamp, Unread, Xattrs};
pub use error::{TarError, TarErrorKind};
pub use reader::{Data, Reader};
pub use sparse::{Segment, SparseMap};

/// Size of a tar block.
pub const BLOCK: usize = 512;
