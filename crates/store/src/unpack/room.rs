//! How much may be unpacked: so many bytes a layer, and never the last ones of the file system.
//!
//! A small blob can unpack into anything. What does not fit is refused on the way, before the disk is full for
//! everybody. Room is asked for again with each piece, because layers are unpacked side by side, and others write too.

use std::io;
use std::os::fd::BorrowedFd;

/// Most that is kept free where nobody says otherwise.
const KEPT_BYTES: u64 = 256 << 20;
/// Of a small file system, a twentieth is.
const KEPT_SHARE: u64 = 20;

/// Bounds on one layer, beside those of [`plywood_image::limits`].
#[derive(Debug, Clone)]
pub struct UnpackLimits {
    /// Most bytes of the uncompressed tar stream, and of what the layer copies from layers below.
    pub layer_bytes: u64,
    /// Bytes of the file system that unpacking leaves free. By default 256 MiB, or a twentieth of a file system smaller
    /// than 5 GiB.
    pub keep_free_bytes: Option<u64>,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self { layer_bytes: 256 << 30, keep_free_bytes: None }
    }
}

/// What does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RoomError {
    /// More than is accepted at all.
    #[error("it has more than {limit} bytes when unpacked, the most that is accepted")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The file system is full, or nearly so.
    #[error(
        "the state root's file system has {free} bytes free, and {kept} are kept free: no room for {wanted} bytes"
    )]
    DiskFull {
        /// Bytes free, what is unpacked so far not counted.
        free: u64,
        /// Bytes that stay so.
        kept: u64,
        /// Bytes there should be room for, of what came so far.
        wanted: u64,
    },
}

/// The room for one stream on the file system of a directory.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    dir: BorrowedFd<'a>,
    layer_bytes: u64,
    kept: u64,
    /// At the start.
    free: u64,
}

impl UnpackLimits {
    pub(crate) fn room<'a>(&self, dir: BorrowedFd<'a>) -> io::Result<Room<'a>> {
        let stat = rustix::fs::fstatvfs(dir)?;
        let size = stat.f_blocks.saturating_mul(stat.f_frsize);
        let kept = self.keep_free_bytes.unwrap_or(KEPT_BYTES.min(size / KEPT_SHARE));
        Ok(Room { dir, layer_bytes: self.layer_bytes, kept, free: free(&stat) })
    }
}

impl Room<'_> {
    /// Whether a stream may have `total` bytes, all but the latest of which are written.
    pub(crate) fn check(&self, total: u64) -> Result<(), RoomError> {
        let full = |free| RoomError::DiskFull { free, kept: self.kept, wanted: total };
        if total > self.layer_bytes {
            return Err(RoomError::TooLarge { limit: self.layer_bytes });
        }
        if total > self.free.saturating_sub(self.kept) {
            return Err(full(self.free));
        }
        match rustix::fs::fstatvfs(self.dir) {
            Ok(stat) if free(&stat) < self.kept => Err(full(free(&stat))),
            Ok(_) => Ok(()),
            Err(errno) => {
                // It answered at the start. Writing will say what is wrong.
                tracing::debug!(%errno, "fstatvfs");
                Ok(())
            }
        }
    }
}

fn free(stat: &rustix::fs::StatVfs) -> u64 {
    stat.f_bavail.saturating_mul(stat.f_frsize)
}
