//! What can go wrong with one layer.

use std::fmt;
use std::io;

use plywood_image::DiffId;
use plywood_image::layer::{EntryPath, LayerError};
use plywood_image::tar::TarError;

use super::memory::MemoryError;
use super::room::RoomError;
use crate::merged::MergedError;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The blob cannot be read or decompressed, or is not the one announced.
    #[error("cannot read the layer")]
    Stream(#[source] io::Error),
    /// Not a tar archive, or a damaged one.
    #[error("the layer is not a sound tar archive")]
    Tar(#[source] TarError),
    /// More than is accepted, or than there is room for.
    #[error("the layer is too large")]
    Room(#[source] RoomError),
    /// More than is kept in memory of a layer.
    #[error("the layer needs too much memory")]
    Memory(#[source] MemoryError),
    /// An entry that must not be in a layer.
    #[error("the layer cannot be accepted")]
    Rule(#[source] LayerError),
    /// Another content than the config says.
    #[error("the layer's diff ID is {found}, the image's config says {expected}")]
    DiffId {
        /// From the config.
        expected: Box<DiffId>,
        /// Of what was unpacked.
        found: Box<DiffId>,
    },
    /// The entry could not be made.
    #[error("layer entry \"{path}\": {call}")]
    Entry {
        /// The entry.
        path: EntryPath,
        /// The call that failed, as strace names it.
        call: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// An extended attribute larger than the file system holds.
    #[error("layer entry \"{path}\": {call}: the state root's file system cannot hold the attribute")]
    Attribute {
        /// The entry.
        path: EntryPath,
        /// The call that failed, as strace names it.
        call: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A hard link to nothing.
    #[error(
        "layer entry \"{path}\": hard link target \"{target}\" is neither in this layer nor in those below"
    )]
    LinkTarget {
        /// The link.
        path: EntryPath,
        /// Its target.
        target: EntryPath,
    },
    /// A hard link to a directory.
    #[error("layer entry \"{path}\": hard link target \"{target}\" is a directory of the layers below")]
    LinkDirectory {
        /// The link.
        path: EntryPath,
        /// Its target.
        target: EntryPath,
    },
    /// A parent directory that the layers below have as something else.
    #[error("layer entry below \"{path}\": the layers below have a {kind} there")]
    BelowNonDirectory {
        /// The parent.
        path: EntryPath,
        /// What it is.
        kind: &'static str,
    },
    /// The layers below cannot be read.
    #[error("cannot look into the layers below")]
    Below(#[source] MergedError),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// Stopped from outside.
    #[error("cancelled")]
    Cancelled,
}

impl UnpackError {
    /// Whether the fault may lie in the blob's bytes rather than in this machine.
    pub(crate) fn blames_blob(&self) -> bool {
        matches!(
            self,
            Self::Stream(_)
                | Self::Room(_)
                | Self::Memory(_)
                | Self::Tar(_)
                | Self::Rule(_)
                | Self::DiffId { .. }
        )
    }
}

impl From<MemoryError> for UnpackError {
    fn from(error: MemoryError) -> UnpackError {
        match error {
            MemoryError::Cancelled => UnpackError::Cancelled,
            error => UnpackError::Memory(error),
        }
    }
}

/// Names the call and the entry of a failed system call.
pub(super) trait OnEntry<T> {
    fn on(self, path: &EntryPath, call: impl fmt::Display) -> Result<T, UnpackError>;
}

impl<T, E: Into<io::Error>> OnEntry<T> for Result<T, E> {
    fn on(self, path: &EntryPath, call: impl fmt::Display) -> Result<T, UnpackError> {
        self.map_err(|e| UnpackError::Entry { path: path.clone(), call: call.to_string(), source: e.into() })
    }
}
