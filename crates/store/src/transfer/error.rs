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
    #[error("the image is for {found}, not for {wanted}; choose it by --platform {found} if you mean it")]
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
    #[error("the image has no name of its own; give it one by --name")]
    NoName,
    /// A layout or archive whose name for the image is none.
    #[error("the image is named {name:?}, which is not an image name; give it one by --name")]
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

impl FetchError {
    /// What the user can do about it, where the message itself does not say.
    pub fn advice(&self) -> Option<String> {
        let Self::Registry(error) = self else { return None };
        match &**error {
            RegistryError::Denied { registry, anonymous: true, .. } => Some(format!(
                "if the image is private, log in first: skopeo login {registry} (or podman login, docker login)"
            )),
            RegistryError::Denied { registry, .. } => {
                Some(format!("check that the account you logged in to {registry} with may pull it"))
            }
            RegistryError::NotFound { registry, .. } => {
                Some(format!("check the name and tag; a private image may need: skopeo login {registry}"))
            }
            RegistryError::Http { source, .. } if is_refused(source) => Some(
                "check the registry's name and port, and that it runs".to_owned(),
            ),
            RegistryError::Http { source, .. } if is_tls(source) => Some(
                "if the registry's certificate comes from a CA of your own, name it by --tls-ca FILE; if the registry \
                 speaks plain HTTP, use --plain-http"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

fn is_refused(error: &super::http::HttpError) -> bool {
    let super::http::HttpError::Transport { source, .. } = error else { return false };
    matches!(&**source, ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused)
}

fn is_tls(error: &super::http::HttpError) -> bool {
    match error {
        super::http::HttpError::Transport { source, .. } => {
            matches!(**source, ureq::Error::Rustls(_) | ureq::Error::Tls(_))
                || matches!(&**source, ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData)
        }
        super::http::HttpError::Redirect { .. } => false,
    }
}
