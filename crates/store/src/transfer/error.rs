//! Why an image could not be brought in.

use plywood_image::config::ConfigError;
use plywood_image::manifest::ManifestError;
use plywood_image::platform::NoMatch;
use plywood_image::reference::ReferenceError;
use plywood_image::{Digest, Platform};

use super::local::LocalError;
use super::registry::RegistryError;
use crate::blobs::BlobError;
use crate::error::StateError;
use crate::images::ImageError;
use crate::unpack::UnpackError;

/// Why an image could not be brought in. Nothing of it is left but partial blobs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The registry.
    #[error(transparent)]
    Registry(Box<RegistryError>),
    /// The layout or archive.
    #[error(transparent)]
    Local(Box<LocalError>),
    /// The manifest or index.
    #[error("{what} cannot be used")]
    Manifest {
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// Indexes within indexes without end.
    #[error("the image's index leads through more than {limit} indexes")]
    Nesting {
        /// The limit.
        limit: usize,
    },
    /// The index has nothing for this platform.
    #[error(transparent)]
    NoMatch(Box<NoMatch>),
    /// The image is for another platform.
    #[error("the image is for {found}, not for {wanted}")]
    Platform {
        /// What the config says.
        found: Box<Platform>,
        /// What was asked for.
        wanted: Box<Platform>,
    },
    /// The config.
    #[error("config {digest} cannot be used")]
    Config {
        /// The config.
        digest: Box<Digest>,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// A layer's blob could not be kept.
    #[error("layer {layer} (blob {digest})")]
    Blob {
        /// Counted from 1, lowest first.
        layer: usize,
        /// The blob.
        digest: Box<Digest>,
        /// Why.
        #[source]
        source: BlobError,
    },
    /// A layer could not be unpacked.
    #[error("layer {layer} (blob {digest}) cannot be unpacked")]
    Unpack {
        /// Counted from 1, lowest first.
        layer: usize,
        /// The blob.
        digest: Box<Digest>,
        /// Why.
        #[source]
        source: Box<UnpackError>,
    },
    /// A layout or archive that does not say how its image is called.
    #[error("the image has no name of its own")]
    NoName,
    /// A layout or archive whose name for the image is none.
    #[error("the image is named {name:?}, which is not an image name")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        #[source]
        source: ReferenceError,
    },
    /// The store's own state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The image could not be recorded.
    #[error("cannot record the image")]
    Record(#[source] ImageError),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// Stopped from outside.
    #[error("cancelled")]
    Cancelled,
}

impl From<RegistryError> for FetchError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Cancelled => Self::Cancelled,
            error => Self::Registry(Box::new(error)),
        }
    }
}

impl From<LocalError> for FetchError {
    fn from(error: LocalError) -> Self {
        Self::Local(Box::new(error))
    }
}

impl From<NoMatch> for FetchError {
    fn from(error: NoMatch) -> Self {
        Self::NoMatch(Box::new(error))
    }
}
