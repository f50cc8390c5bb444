//! Images on this machine: an OCI image layout, as a directory or in a tar file, and what `docker save` writes.
//!
//! Files are found by the digests that name them, so no path of the layout's making is ever followed. An image saved
//! by docker has no manifest of the registry's kind: one is made for it, of the config and layers it has.

mod docker;
mod select;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use plywood_image::manifest::{Document, ManifestError};
use plywood_image::{Descriptor, Digest, Reference, limits, printable};
use rustix::fs::{CWD, Mode, OFlags};

use super::Cancel;
use super::archive::{Archive, ArchiveError};
use super::section::{Section, open_regular};
use crate::unpack::Room;
use docker::DockerArchive;
use select::Choice;

/// Why a local image cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The directory cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The layout.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// A file of it cannot be read.
    #[error("cannot read {} of {}", printable(name), path.display())]
    File {
        /// The layout or archive.
        path: PathBuf,
        /// The file in it.
        name: String,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The archive as a whole.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Neither of the formats.
    #[error("{} is no OCI image layout and no archive of docker save: it has no index.json and no manifest.json", path.display())]
    Format {
        /// The layout or archive.
        path: PathBuf,
    },
    /// A blob the image refers to is not there.
    #[error("{} has no blob {digest}", path.display())]
    Missing {
        /// The layout or archive.
        path: PathBuf,
        /// The blob.
        digest: Box<Digest>,
    },
    /// A blob of another length than its descriptor says.
    #[error("blob {digest} of {} has {found} bytes, its descriptor says {expected}", path.display())]
    Size {
        /// The layout or archive.
        path: PathBuf,
        /// The blob.
        digest: Box<Digest>,
        /// Its length.
        found: u64,
        /// What the descriptor says.
        expected: u64,
    },
    /// A blob whose bytes are not those its name promises.
    #[error("blob {digest} of {} has digest {found}", path.display())]
    Digest {
        /// The layout or archive.
        path: PathBuf,
        /// The blob.
        digest: Box<Digest>,
        /// What its bytes hash to.
        found: Box<Digest>,
    },
    /// Larger than accepted.
    #[error("{} of {} has more than {limit} bytes, the largest accepted", printable(name), path.display())]
    TooLarge {
        /// The layout or archive.
        path: PathBuf,
        /// The file in it.
        name: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// `index.json` cannot be used.
    #[error("index.json of {} cannot be used", path.display())]
    Index {
        /// The layout or archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// Docker's `manifest.json` cannot be used.
    #[error("manifest.json of {} cannot be used: {reason}", path.display())]
    Docker {
        /// The archive.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Several images, and none chosen.
    #[error("{} holds several images: {}", path.display(), printable(&names.join(", ")))]
    Several {
        /// The layout or archive.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// The image asked for is not among them.
    #[error("{} has no image {wanted:?}; it has: {}", path.display(), printable(&names.join(", ")))]
    NoSuchImage {
        /// The layout or archive.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What there is.
        names: Vec<String>,
    },
    /// It holds no image at all.
    #[error("{} holds no image", path.display())]
    Empty {
        /// The layout or archive.
        path: PathBuf,
    },
}

/// An opened layout or archive.
#[derive(Debug)]
pub(super) struct Local {
    path: PathBuf,
    files: Files,
    /// For what `docker save` of old wrote: where the blobs of the chosen image are.
    docker: Option<DockerArchive>,
    stop: Cancel,
}

#[derive(Debug)]
enum Files {
    Dir(OwnedFd),
    Archive(Archive),
}

/// Where to begin: an image, or an index of one image's platforms.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) bytes: Vec<u8>,
    pub(super) media_type: Option<String>,
    /// The names the layout or archive gives it.
    pub(super) names: Vec<String>,
}

impl Local {
    pub(super) fn open_layout(path: &Path, stop: &Cancel) -> Result<Self, LocalError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|e| LocalError::Open { path: path.to_owned(), source: e.into() })?;
        Ok(Self { path: path.to_owned(), files: Files::Dir(dir), docker: None, stop: stop.clone() })
    }

    /// `spool` and `room` as in [`Archive::open`].
    pub(super) fn open_archive(
        path: &Path,
        spool: &Path,
        room: &Room<'_>,
        stop: &Cancel,
    ) -> Result<Self, LocalError> {
        let files = Files::Archive(Archive::open(path, spool, room, stop)?);
        Ok(Self { path: path.to_owned(), files, docker: None, stop: stop.clone() })
    }

    /// An archive read from where `file` stands. `spool` and `room` as in [`Archive::of`].
    pub(super) fn open_stream(
        file: &File,
        called: &Path,
        spool: &Path,
        room: &Room<'_>,
        stop: &Cancel,
    ) -> Result<Self, LocalError> {
        let file =
            file.try_clone().map_err(|source| ArchiveError::Read { path: called.to_owned(), source })?;
        let files = Files::Archive(Archive::of(file, called, spool, room, stop)?);
        Ok(Self { path: called.to_owned(), files, docker: None, stop: stop.clone() })
    }

    /// The image to import. `wanted` is a name it may have; it counts only if there are several.
    pub(super) fn root(&mut self, wanted: Option<&str>) -> Result<Root, LocalError> {
        if let Some(index) = self.small_file("index.json", limits::MANIFEST_BYTES)? {
            return self.oci_root(&index, wanted);
        }
        let Some(manifest) = self.small_file("manifest.json", limits::MANIFEST_BYTES)? else {
            return Err(LocalError::Format { path: self.path.clone() });
        };
        let docker = DockerArchive::new(self, &manifest, wanted)?;
        let root = Root { bytes: docker.manifest.clone(), media_type: None, names: docker.names.clone() };
        self.docker = Some(docker);
        Ok(root)
    }

    fn oci_root(&self, index: &[u8], wanted: Option<&str>) -> Result<Root, LocalError> {
        let index_failed = |source| LocalError::Index { path: self.path.clone(), source };
        let index = match plywood_image::manifest::parse(index, None).map_err(index_failed)? {
            Document::Index(index) => index,
            Document::Manifest(_) => {
                return Err(index_failed(ManifestError::Missing("manifests")));
            }
        };
        let Choice { entries, names } =
            select::choose(&index.manifests, wanted).map_err(|e| e.at(&self.path))?;
        Ok(match entries.as_slice() {
            [descriptor] => Root {
                bytes: self.document(descriptor)?,
                media_type: Some(descriptor.media_type.clone()),
                names,
            },
            // One image, its platforms listed in index.json itself.
            several => Root { bytes: select::as_index(several), media_type: None, names },
        })
    }

    /// A manifest or index.
    pub(super) fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LocalError> {
        self.small_blob(descriptor, limits::MANIFEST_BYTES)
    }

    /// A blob to be held in memory, checked.
    pub(super) fn small_blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, LocalError> {
        let Descriptor { digest, size, .. } = descriptor;
        let name = blob_name(digest);
        if *size > limit {
            return Err(LocalError::TooLarge { path: self.path.clone(), name, limit });
        }
        let mut bytes = Vec::new();
        self.blob(digest, *size)?.read_to_end(&mut bytes).map_err(|source| LocalError::File {
            path: self.path.clone(),
            name,
            source,
        })?;
        if !digest.matches(&bytes) {
            let found = Digest::of(digest.algorithm(), &bytes);
            return Err(LocalError::Digest {
                path: self.path.clone(),
                digest: Box::new(*digest),
                found: Box::new(found),
            });
        }
        Ok(bytes)
    }

    /// A blob of that size. Its bytes are not checked.
    pub(super) fn blob(&self, digest: &Digest, size: u64) -> Result<Section, LocalError> {
        let name = match &self.docker {
            Some(docker) => docker.member(digest).map(str::to_owned),
            None => Some(blob_name(digest)),
        };
        let missing = || LocalError::Missing { path: self.path.clone(), digest: Box::new(*digest) };
        let section = self.file(&name.ok_or_else(missing)?)?.ok_or_else(missing)?;
        if section.len() != size {
            let (path, found) = (self.path.clone(), section.len());
            return Err(LocalError::Size { path, digest: Box::new(*digest), found, expected: size });
        }
        Ok(section)
    }

    fn file(&self, name: &str) -> Result<Option<Section>, LocalError> {
        match &self.files {
            Files::Archive(archive) => Ok(archive.member(name.as_bytes())),
            Files::Dir(dir) => match open_regular(dir, Path::new(name)) {
                Ok((file, size)) => Ok(Some(Section::whole(file, size))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => {
                    Err(LocalError::File { path: self.path.clone(), name: name.to_owned(), source })
                }
            },
        }
    }

    fn small_file(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, LocalError> {
        let Some(mut section) = self.file(name)? else { return Ok(None) };
        if section.len() > limit {
            return Err(LocalError::TooLarge { path: self.path.clone(), name: name.to_owned(), limit });
        }
        let mut bytes = Vec::new();
        match section.read_to_end(&mut bytes) {
            Ok(_) => Ok(Some(bytes)),
            Err(source) => Err(LocalError::File { path: self.path.clone(), name: name.to_owned(), source }),
        }
    }
}

/// Relative to the layout.
fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Whether a name in a layout or archive is the one asked for: the same text, or the same reference.
fn is_named(name: &str, wanted: &str) -> bool {
    match (name.parse::<Reference>(), wanted.parse::<Reference>()) {
        _ if name == wanted => true,
        (Ok(name), Ok(wanted)) => name == wanted,
        _ => false,
    }
}
