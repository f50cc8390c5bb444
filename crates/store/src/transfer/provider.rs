//! A source, opened: where documents and blobs come from.

use plywood_image::manifest::{Document, parse};
use plywood_image::{Descriptor, Manifest, Platform, limits, platform};

use super::cancel::HookGuard;
use super::error::FetchError;
use super::local::Local;
use super::registry::{Registry, Sink};
use super::{Cancel, FetchRequest, Source};
use crate::Store;
use crate::error::{OnFile as _, StateError};

/// An index of indexes of manifests is the most that anybody makes.
const MAX_INDEXES: usize = 4;

/// An opened source.
#[derive(Debug)]
pub(super) enum Provider {
    Registry(Box<Registry>),
    Local(Box<Local>),
}

/// A manifest as it came.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) bytes: Vec<u8>,
    pub(super) manifest: Manifest,
    /// What the source itself calls the image.
    pub(super) names: Vec<String>,
}

impl Provider {
    pub(super) fn open(store: &Store, request: &FetchRequest, stop: &Cancel) -> Result<Self, FetchError> {
        let spool = || store.root().path().join("blobs/ingest");
        let room = || {
            let room = request.limits.room(store.root().blobs());
            room.on_file("fstatvfs", "blobs").map_err(StateError::from)
        };
        Ok(match &request.source {
            Source::Registry { reference, options } => {
                Self::Registry(Box::new(Registry::new(reference, options, stop)?))
            }
            Source::Layout(path) => Self::Local(Box::new(Local::open_layout(path, stop)?)),
            Source::Archive(path) => {
                Self::Local(Box::new(Local::open_archive(path, &spool(), &room()?, stop)?))
            }
            Source::Stream { file, called } => {
                Self::Local(Box::new(Local::open_stream(file, called, &spool(), &room()?, stop)?))
            }
        })
    }

    /// Cuts connections when `stop` is set, as long as the guard lives.
    pub(super) fn cut_on(&self, stop: &Cancel) -> Option<HookGuard> {
        match self {
            Self::Registry(registry) => Some(registry.cut_on(stop)),
            Self::Local(_) => None,
        }
    }

    /// Finds the manifest for the platform asked for.
    pub(super) fn resolve(&mut self, request: &FetchRequest) -> Result<Resolved, FetchError> {
        let (mut bytes, mut media_type, names) = match (&mut *self, &request.source) {
            (Self::Registry(registry), Source::Registry { reference, .. }) => {
                let digest = reference.digest();
                let which = digest.map(ToString::to_string).or(reference.tag().map(str::to_owned));
                let which = which.unwrap_or_else(|| "latest".to_owned());
                let (bytes, media_type) = registry.manifest(&which, digest, limits::MANIFEST_BYTES)?;
                (bytes, media_type, Vec::new())
            }
            (Self::Local(local), _) => {
                let wanted = request.name.as_ref().map(ToString::to_string);
                let root = local.root(wanted.as_deref())?;
                (root.bytes, root.media_type, root.names)
            }
            (Self::Registry(_), _) => unreachable!("a registry provider comes from a registry source"),
        };
        let mut what = "the manifest".to_owned();
        for _ in 0..MAX_INDEXES {
            let parsed = parse(&bytes, media_type.as_deref());
            match parsed.map_err(|source| FetchError::Manifest { what: what.clone(), source })? {
                Document::Manifest(manifest) => return Ok(Resolved { bytes, manifest, names }),
                Document::Index(index) => {
                    let chosen = platform::choose(&index, &request.platform)?;
                    what = format!("manifest {}", chosen.digest);
                    bytes = self.document(chosen)?;
                    media_type = Some(chosen.media_type.clone());
                }
            }
        }
        Err(FetchError::Nesting { limit: MAX_INDEXES })
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, FetchError> {
        match self {
            Self::Registry(registry) => {
                let digest = &descriptor.digest;
                Ok(registry.manifest(&digest.to_string(), Some(digest), limits::MANIFEST_BYTES)?.0)
            }
            Self::Local(local) => Ok(local.document(descriptor)?),
        }
    }

    /// The config, proven.
    pub(super) fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, FetchError> {
        match self {
            Self::Registry(registry) => {
                let mut bytes = Memory(Vec::new());
                registry.blob(&descriptor.digest, descriptor.size, &mut bytes, |_| {})?;
                registry.check(&descriptor.digest, &bytes.0)?;
                Ok(bytes.0)
            }
            Self::Local(local) => Ok(local.small_blob(descriptor, limits::CONFIG_BYTES)?),
        }
    }
}

/// Checks the platform a config states, `None` if it fits.
pub(super) fn platform_error(wanted: &Platform, found: &Platform) -> Option<FetchError> {
    let fits = wanted.accepts(found);
    (!fits).then(|| FetchError::Platform { found: Box::new(found.clone()), wanted: Box::new(wanted.clone()) })
}

struct Memory(Vec<u8>);

impl Sink for Memory {
    fn have(&self) -> u64 {
        self.0.len() as u64
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.0.clear();
        Ok(())
    }
}
