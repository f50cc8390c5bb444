//! From a compressed layer blob to a directory that overlayfs can use as a layer.
//!
//! ```text
//! blob ─> [digest] ─> inflate ─> diff ID ─> tar ─> rules ─> files        unpack(): each layer by itself
//!                                                             │
//!                 layers below ─> attributes, links ─────────>┴─> layer  settle(): bottom up
//! ```
//!
//! Layers are unpacked in parallel, knowing nothing of each other; what a layer takes from those below it is added
//! afterwards, in order. The rare layer whose paths lead through a symbolic link of a lower layer is then unpacked
//! once more, knowing them.
//!
//! Everything is made by name in directories opened beneath the layer's own directory, never through a symbolic link.
//! Nothing of a layer counts before the diff ID of the whole stream is proven; until then it is staging that is
//! thrown away.
//!
//! # Policies
//! * Compression is told by the first bytes ([`Compression`]), whatever the media type says.
//! * `security.selinux` is left out where the kernel does not take it, and so are attributes in forms that image tools do
//!   not read ([`LeftOut`] counts them). Any other attribute that cannot be set is an error.
//! * What names and entries a layer may have is [`plywood_image::layer`]'s to say: no absolute names, no `..`, no name
//!   twice but a directory's, with the same attributes.
//! * A hard link repeats the attributes of its target; what its own entry says is not applied.
//! * Access times are those of the archive, else the modification time. Birth and change times are the kernel's.
//! * Implied directories (no entry of their own) are as in the layers below; where those have none: root's, mode
//!   0755, dated 1970.

mod attributes;
pub(crate) mod decompress;
mod dirs;
mod error;
mod memory;
mod redirect;
mod room;
mod settle;
mod stream;
mod verify;
mod writer;
mod zstd_frames;

use std::io::Read;
use std::os::fd::BorrowedFd;

use plywood_image::DiffId;
use plywood_image::layer::{EntryPath, classify};
use plywood_image::tar::Reader;

pub use decompress::Compression;
pub use error::UnpackError;
pub(crate) use memory::Memory;
pub use memory::MemoryError;
pub(crate) use redirect::Below;
pub(crate) use room::Room;
pub use room::{RoomError, UnpackLimits};
pub(crate) use settle::{Lower, Settled, Unpacked, root_of_nothing, root_shown_by, settle};
pub use verify::BlobMismatch;
pub(crate) use verify::Verified;
pub use writer::LeftOut;

use crate::transfer::Cancel;
use error::OnEntry as _;
use stream::Stream;
use writer::Writer;

/// Unpacks a layer into `staging`, an empty directory opened for reading. `below` only for a layer that
/// [`settle()`] sent back.
///
/// Reads `blob` to its end.
pub(crate) fn unpack(
    blob: impl Read + Send,
    diff_id: &DiffId,
    staging: BorrowedFd<'_>,
    below: Option<&Below<'_>>,
    limits: &UnpackLimits,
    memory: &Memory,
    cancel: &Cancel,
) -> Result<Unpacked, UnpackError> {
    let share = memory.share(cancel)?;
    let room = limits.room(staging).on(&EntryPath::root(), "fstatvfs(layer)")?;
    std::thread::scope(|scope| {
        let stream = Stream::start(scope, blob, diff_id.0.algorithm(), room, share.clone(), cancel.clone())
            .map_err(UnpackError::Thread)?;
        let failure = stream.failure();
        let mut reader = Reader::new(stream);
        let mut writer = Writer::new(staging, &share);
        while let Some(header) = reader.next_entry().map_err(|e| failure.or(|| UnpackError::Tar(e)))? {
            writer.leave_out(header.unread);
            let Some(mut entry) = classify(header).map_err(UnpackError::Rule)? else { continue };
            if let Some(below) = below {
                entry = below.redirect(entry, &writer)?;
            }
            writer.add(entry, &mut reader, &failure)?;
        }
        let stream = reader.finish().map_err(|e| failure.or(|| UnpackError::Tar(e)))?;
        let found = DiffId(stream.finish()?.digest);
        if found != *diff_id {
            return Err(UnpackError::DiffId { expected: Box::new(*diff_id), found: Box::new(found) });
        }
        writer.finish(below.map_or(0, |below| below.charged))
    })
}
