//! Manifests and indexes: OCI image specification and Docker image manifest version 2, schema 2.
//!
//! [`parse`] decides what a document is from the media type it was served with, the one it states and its shape. These
//! must agree: a document that could be read as an index by one program and as a manifest by another would let an image
//! pass a check and then run as something else (CVE-2021-41190).

mod wire;

use std::collections::BTreeMap;
use std::fmt;

use crate::digest::{Digest, DigestError};
use crate::limits;
use crate::platform::Platform;

/// A parsed document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A choice of images, usually by platform.
    Index(Index),
}

/// One image: a config and its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type, stated or inferred.
    pub media_type: MediaType,
    /// Where the config is.
    pub config: Descriptor,
    /// Bottom layer first; at most [`limits::LAYERS`].
    pub layers: Vec<Layer>,
    /// Free-form annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A choice of manifests and further indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its media type, stated or inferred.
    pub media_type: MediaType,
    /// In the index's order; see [`crate::platform::choose`].
    pub manifests: Vec<Descriptor>,
    /// Free-form annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A layer's blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Where the blob is.
    pub descriptor: Descriptor,
    /// How it is compressed.
    pub compression: Compression,
}

/// Names a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// As stated.
    pub media_type: String,
    /// Of the blob as stored.
    pub digest: Digest,
    /// Of the blob as stored, in bytes; within the limits of its kind.
    pub size: u64,
    /// In an index: what the manifest is for.
    pub platform: Option<Platform>,
    /// Free-form annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The kind of document or blob named, if it is one of those plywood knows.
    pub fn kind(&self) -> Option<MediaType> {
        MediaType::parse(&self.media_type)
    }
}

/// Media types of manifests and indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MediaType {
    /// `application/vnd.oci.image.manifest.v1+json`
    OciManifest,
    /// `application/vnd.oci.image.index.v1+json`
    OciIndex,
    /// `application/vnd.docker.distribution.manifest.v2+json`
    DockerManifest,
    /// `application/vnd.docker.distribution.manifest.list.v2+json`
    DockerList,
}

impl MediaType {
    /// All of them, in the order in which to accept them from a registry.
    pub const ALL: [MediaType; 4] =
        [MediaType::OciIndex, MediaType::DockerList, MediaType::OciManifest, MediaType::DockerManifest];

    /// The full name.
    pub fn as_str(self) -> &'static str {
        match self {
            MediaType::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            MediaType::OciIndex => "application/vnd.oci.image.index.v1+json",
            MediaType::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
            MediaType::DockerList => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// By its full name; parameters such as `; charset=utf-8` are ignored.
    pub fn parse(name: &str) -> Option<MediaType> {
        let name = essence(name);
        MediaType::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(name))
    }

    /// Whether documents of this type are indexes.
    pub fn is_index(self) -> bool {
        matches!(self, MediaType::OciIndex | MediaType::DockerList)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a layer's tar stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, possibly of several members.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Why a document is no usable manifest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Beyond a limit.
    #[error("{what} has {actual}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size and unit.
        actual: String,
        /// The limit in the same unit.
        limit: u64,
    },
    /// No JSON, or JSON of another shape.
    #[error("the manifest cannot be parsed")]
    Json(#[source] serde_json::Error),
    /// A media type that is no image's.
    #[error("media type {0:?} is neither an image manifest nor an index")]
    MediaType(String),
    /// Served as one thing, stating to be another.
    #[error("the manifest was served as {served} but says it is {stated}")]
    Disagreement {
        /// By the server or the descriptor.
        served: String,
        /// In the document.
        stated: String,
    },
    /// Looks like two things at once, or like another than its type.
    #[error("the manifest is ambiguous: {0}")]
    Ambiguous(&'static str),
    /// Docker's format of before 2016.
    #[error("Docker schema 1 manifests are not supported")]
    Schema1,
    /// Some other version.
    #[error("unsupported manifest schema version {0}")]
    SchemaVersion(String),
    /// Something stored in a registry that is no image: a Helm chart, a signature, an SBOM.
    #[error("this is no container image: its config is {0:?}")]
    Artifact(String),
    /// A layer of unknown type.
    #[error("layer {index} has unsupported media type {media_type:?}")]
    LayerType {
        /// Counted from 0, bottom first.
        index: usize,
        /// As stated.
        media_type: String,
    },
    /// A layer that is to be fetched from elsewhere than the registry.
    #[error(
        "layer {index} is a foreign (non-distributable) layer, kept outside the registry; such layers are not supported"
    )]
    ForeignLayer {
        /// Counted from 0, bottom first.
        index: usize,
    },
    /// More layers than overlayfs, and so plywood, takes.
    #[error("the image has {actual} layers, the limit is {} (the most overlayfs takes)", limits::LAYERS)]
    TooManyLayers {
        /// How many.
        actual: usize,
    },
    /// A required part is missing.
    #[error("the manifest has no {0}")]
    Missing(&'static str),
    /// A digest that is none.
    #[error("the descriptor of {of} is wrong")]
    Digest {
        /// Whose.
        of: String,
        /// Why.
        #[source]
        source: DigestError,
    },
    /// A size that is negative, fractional or beyond the limit of its kind.
    #[error("the descriptor of {of} gives a size of {size}; 0 to {limit} is allowed")]
    Size {
        /// Whose.
        of: String,
        /// As stated.
        size: String,
        /// Largest size allowed.
        limit: u64,
    },
}

/// Parses a manifest or index. `media_type` is that of the HTTP answer or of the descriptor that led here, if any;
/// generic types such as `application/json` count as none.
pub fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Document, ManifestError> {
    if bytes.len() as u64 > limits::MANIFEST_BYTES {
        return Err(ManifestError::TooLarge {
            what: "the manifest",
            actual: format!("{} bytes", bytes.len()),
            limit: limits::MANIFEST_BYTES,
        });
    }
    let wire: wire::Document = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    let served = media_type.map(essence).filter(|name| !is_generic(name));
    if [served, wire.media_type.as_deref()].into_iter().flatten().any(is_schema1) {
        return Err(ManifestError::Schema1);
    }
    match wire.schema_version.as_ref().map(ToString::to_string).as_deref() {
        Some("2") => {}
        Some("1") => return Err(ManifestError::Schema1),
        Some(other) => return Err(ManifestError::SchemaVersion(other.to_owned())),
        None => return Err(ManifestError::Missing("schemaVersion")),
    }

    let known = |name: &str| MediaType::parse(name).ok_or_else(|| ManifestError::MediaType(name.to_owned()));
    let served = served.map(known).transpose()?;
    let stated = wire.media_type.as_deref().filter(|name| !name.is_empty()).map(known).transpose()?;
    let media_type = match (served, stated) {
        (Some(served), Some(stated)) if served != stated => {
            return Err(ManifestError::Disagreement {
                served: served.to_string(),
                stated: stated.to_string(),
            });
        }
        (Some(kind), _) | (None, Some(kind)) => Some(kind),
        (None, None) => None,
    };
    let has_index = wire.manifests.is_some();
    let has_manifest = wire.config.is_some() || wire.layers.is_some();
    match (media_type.map(MediaType::is_index), has_index, has_manifest) {
        (_, true, true) => Err(ManifestError::Ambiguous("it has both manifests and layers")),
        (Some(true), _, true) => Err(ManifestError::Ambiguous("an index with a config or layers")),
        (Some(false), true, _) => Err(ManifestError::Ambiguous("an image manifest with a list of manifests")),
        (Some(true), ..) | (None, true, false) => {
            index(wire, media_type.unwrap_or(MediaType::OciIndex)).map(Document::Index)
        }
        (Some(false), ..) | (None, false, true) => {
            manifest(wire, media_type.unwrap_or(MediaType::OciManifest)).map(Document::Manifest)
        }
        (None, false, false) => Err(ManifestError::Missing("config, layers or manifests")),
    }
}

fn manifest(wire: wire::Document, media_type: MediaType) -> Result<Manifest, ManifestError> {
    let config = wire.config.ok_or(ManifestError::Missing("config"))?;
    if let Some(artifact) = wire.artifact_type.filter(|kind| !kind.is_empty()) {
        return Err(ManifestError::Artifact(artifact));
    }
    if !is_image_config(&config.media_type) {
        return Err(ManifestError::Artifact(config.media_type));
    }
    let layers = wire.layers.ok_or(ManifestError::Missing("layers"))?.0;
    if layers.len() > limits::LAYERS {
        return Err(ManifestError::TooManyLayers { actual: layers.len() });
    }
    Ok(Manifest {
        media_type,
        config: descriptor(config, limits::CONFIG_BYTES, || "the config".to_owned())?,
        layers: layers.into_iter().enumerate().map(|(i, wire)| layer(i, wire)).collect::<Result<_, _>>()?,
        annotations: wire.annotations.unwrap_or_default(),
    })
}

fn layer(index: usize, wire: wire::Descriptor) -> Result<Layer, ManifestError> {
    let foreign = wire.urls.as_ref().is_some_and(|urls| !urls.is_empty());
    let compression = match (layer_type(&wire.media_type), foreign) {
        (Some(LayerType::Foreign), _) | (Some(_), true) => return Err(ManifestError::ForeignLayer { index }),
        (Some(LayerType::Tar(compression)), false) => compression,
        (None, _) => return Err(ManifestError::LayerType { index, media_type: wire.media_type }),
    };
    let descriptor = descriptor(wire, limits::LAYER_BLOB_BYTES, || format!("layer {index}"))?;
    Ok(Layer { descriptor, compression })
}

fn index(wire: wire::Document, media_type: MediaType) -> Result<Index, ManifestError> {
    let manifests = wire.manifests.ok_or(ManifestError::Missing("manifests"))?.0;
    if manifests.len() > limits::INDEX_ENTRIES {
        return Err(ManifestError::TooLarge {
            what: "the index",
            actual: format!("{} entries", manifests.len()),
            limit: limits::INDEX_ENTRIES as u64,
        });
    }
    let entry = |(i, wire): (usize, wire::Descriptor)| {
        // Other things than manifests may be listed and are passed over later, however large.
        let limit = match MediaType::parse(&wire.media_type) {
            Some(_) => limits::MANIFEST_BYTES,
            None => limits::LAYER_BLOB_BYTES,
        };
        descriptor(wire, limit, || format!("manifest {i} of the index"))
    };
    Ok(Index {
        media_type,
        manifests: manifests.into_iter().enumerate().map(entry).collect::<Result<_, _>>()?,
        annotations: wire.annotations.unwrap_or_default(),
    })
}

fn descriptor(
    wire: wire::Descriptor,
    limit: u64,
    of: impl Fn() -> String,
) -> Result<Descriptor, ManifestError> {
    let size = match wire.size.as_u64() {
        Some(size) if size <= limit => size,
        _ => return Err(ManifestError::Size { of: of(), size: wire.size.to_string(), limit }),
    };
    Ok(Descriptor {
        digest: wire.digest.parse().map_err(|source| ManifestError::Digest { of: of(), source })?,
        media_type: wire.media_type,
        size,
        platform: wire.platform.map(Platform::from),
        annotations: wire.annotations.unwrap_or_default(),
    })
}

enum LayerType {
    Tar(Compression),
    Foreign,
}

fn layer_type(media_type: &str) -> Option<LayerType> {
    if media_type.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar")
    {
        return Some(LayerType::Foreign);
    }
    Some(LayerType::Tar(match media_type {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Compression::None
        }
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Compression::Gzip,
        // containerd and buildkit name zstd in Docker's style too, though Docker never specified it.
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        _ => return None,
    }))
}

fn is_image_config(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    )
}

fn is_schema1(name: &str) -> bool {
    name.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

/// Types that servers send when they do not know.
fn is_generic(name: &str) -> bool {
    ["", "application/json", "application/octet-stream", "text/plain", "binary/octet-stream"]
        .iter()
        .any(|generic| generic.eq_ignore_ascii_case(name))
}

/// A media type without its parameters.
fn essence(name: &str) -> &str {
    name.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests;
