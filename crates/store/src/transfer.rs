//! Bringing images in: from a registry, an OCI image layout, or an archive.
//!
//! ```text
//! manifest ─> config ─> layers: here already? ─────────────────────────────────┐
//!                         │ no                                                 │
//!                         └─> download (parallel) ─> unpack (parallel) ─> settle (bottom up)
//!                                                                              │
//!                                          all layers, one commit ─> image, its names
//! ```
//! [`fetch_image`] is the only way in. Whatever arrives is hostile: sizes are bounded before anything is read, digests
//! and diff IDs are proven before anything counts. A fetch that fails or is cancelled leaves nothing but partial blobs,
//! which the next one resumes.

mod archive;
mod auth;
mod cancel;
mod error;
mod fetch;
mod http;
mod local;
mod pipeline;
mod provider;
mod registry;
mod retry;
mod section;
mod stoppable;
mod tls;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use plywood_image::{Digest, Platform, Reference};

pub use archive::ArchiveError;
pub use auth::{AuthError, AuthFiles, Credential, CredentialError, HelperError};
pub use cancel::Cancel;
pub use error::FetchError;
pub use fetch::{Fetched, fetch_image};
pub use http::{HttpError, HttpErrorKind, Timeouts};
pub use local::LocalError;
pub use registry::{RegistryError, RegistryOptions};
pub use retry::RetryPolicy;
pub use tls::{TlsError, TlsOptions};

use crate::unpack::{LeftOut, UnpackLimits};

/// Where an image comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A registry.
    Registry {
        /// The image, and the name it will have here.
        reference: Reference,
        /// How to talk to the registry.
        options: Box<RegistryOptions>,
    },
    /// A directory in the OCI image layout.
    Layout(PathBuf),
    /// A tar file of an OCI image layout or of `docker save`, perhaps compressed.
    Archive(PathBuf),
    /// The same, from where an open file, pipe or socket stands.
    Stream {
        /// What to read.
        file: Arc<File>,
        /// What errors call it.
        called: PathBuf,
    },
}

/// What to bring in, and how.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// From where.
    pub source: Source,
    /// The name it will have. By default the reference, or all that the layout or archive calls it. If that holds
    /// several images, the one of this name is taken.
    pub name: Option<Reference>,
    /// For which platform.
    pub platform: Platform,
    /// Blobs downloaded at once.
    pub downloads: usize,
    /// Layers unpacked at once, at most 4. Each takes a thread and a half.
    pub unpackers: usize,
    /// Bounds on what layers unpack to.
    pub limits: UnpackLimits,
}

impl FetchRequest {
    /// With the usual settings, for this machine's platform.
    pub fn new(source: Source) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            source,
            name: None,
            platform: Platform::host(),
            downloads: 4,
            unpackers: cpus.clamp(1, 4),
            limits: UnpackLimits::default(),
        }
    }
}

/// What happens during a fetch. Bytes are those of the compressed blob.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The image is known.
    Resolved {
        /// Digest of its manifest.
        manifest: Digest,
        /// Its layers, lowest first; other events name them by their place here.
        layers: Vec<LayerProgress>,
    },
    /// A layer's blob has that many bytes now. Fewer than before if a server could not resume.
    Downloaded {
        /// The layer.
        layer: usize,
        /// Bytes on disk.
        bytes: u64,
    },
    /// That many bytes of a layer's blob are unpacked.
    Unpacked {
        /// The layer.
        layer: usize,
        /// Bytes of the blob.
        bytes: u64,
    },
    /// Entries of a layer have attributes that are left out.
    LeftOut {
        /// The layer.
        layer: usize,
        /// How many.
        what: LeftOut,
    },
    /// A layer is complete.
    LayerDone {
        /// The layer.
        layer: usize,
    },
    /// All layers stand and are being made durable.
    Committing,
}

/// A layer as announced by the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// It is here already: nothing will be downloaded or unpacked.
    pub present: bool,
}

/// Receives events, from any thread.
pub type Progress<'a> = &'a (dyn Fn(Event) + Sync);
