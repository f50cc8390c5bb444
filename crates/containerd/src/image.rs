//! Images in containerd: found, brought in, unpacked for a snapshotter.
//!
//! An image is taken from the session's namespace, from any other namespace of the same containerd (whose blobs it
//! shares, so that nothing is copied), or from an OCI layout directory.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use plywood_image::config::ConfigError;
use plywood_image::digest::chain_ids;
use plywood_image::manifest::ManifestError;
use plywood_image::platform::{NoMatch, choose};
use plywood_image::{
    ChainId, Descriptor, Digest, Document, ImageConfig, Manifest, Platform, Reference, config, manifest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};

use crate::client::{in_namespace, patient};
use crate::error::{CallError, Kind, unless};
use crate::proto::containerd::services::content::v1::content_client::ContentClient;
use crate::proto::containerd::services::content::v1::{ReadContentRequest, WriteAction, WriteContentRequest};
use crate::proto::containerd::services::diff::v1::ApplyRequest;
use crate::proto::containerd::services::diff::v1::diff_client::DiffClient;
use crate::proto::containerd::services::images::v1::images_client::ImagesClient;
use crate::proto::containerd::services::images::v1::{CreateImageRequest, GetImageRequest, Image as Record};
use crate::proto::containerd::services::namespaces::v1::ListNamespacesRequest;
use crate::proto::containerd::services::namespaces::v1::namespaces_client::NamespacesClient;
use crate::proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use crate::proto::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use crate::proto::containerd::types;
use crate::session::{ALIAS, Session};

/// Messages of gRPC are 4 MB at most.
const CHUNK: usize = 1 << 20;

/// Manifests and configs are read whole; none that is real is near this.
const DOCUMENT: i64 = 8 << 20;

/// How deep indexes may lie within each other: containerd's and Docker's are one deep.
const DEPTH: usize = 4;

/// Where an image's name is, containerd's own first: of the other, many have the tag alone.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An image, unpacked.
#[derive(Debug, Clone)]
pub struct Image {
    /// As containerd knows it.
    pub name: String,
    /// What to run, among other things.
    pub config: ImageConfig,
    /// Bottom layer first; the last names the snapshot that containers' snapshots are made from.
    pub chain: Vec<ChainId>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// In no namespace of this containerd.
    #[error("containerd has no image {0:?} in any namespace")]
    Missing(String),
    /// containerd refused.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A file of the layout.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The layout has several images, or none of that name.
    #[error("{} has no image {}; it has {}", layout.display(), wanted.as_deref().unwrap_or("alone"), there.join(", "))]
    Choice {
        /// The directory.
        layout: PathBuf,
        /// The name asked for.
        wanted: Option<String>,
        /// The names there are.
        there: Vec<String>,
    },
    /// For other machines.
    #[error("nothing in the image is for this machine")]
    Platform(#[source] Box<NoMatch>),
    /// A manifest or index.
    #[error("{digest} is no manifest")]
    Manifest {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<ManifestError>,
    },
    /// The config.
    #[error("{digest} is no image config")]
    Config {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<ConfigError>,
    },
    /// What was read is not what was asked for.
    #[error("the contents of {0} are others")]
    Digest(Digest),
    /// A name that is none.
    #[error("{0:?} is no digest")]
    NoDigest(String),
    /// A layer that is not the one its config states.
    #[error("layer {digest} unpacks to {found}, not {expected}")]
    Layer {
        /// Of the blob.
        digest: Digest,
        /// By containerd.
        found: String,
        /// By the config.
        expected: String,
    },
}

/// Where blobs are.
#[derive(Debug)]
enum Source<'a> {
    Layout(&'a Path),
    Namespace(MetadataValue<Ascii>),
}

impl Session {
    /// The image of that name, unpacked; if there is none, of the name that people mean by it (`debian` is
    /// `docker.io/library/debian:latest`). One that another namespace has is borrowed until the session ends.
    ///
    /// # Errors
    /// There is none, it is for another machine, damaged, or containerd does not unpack it.
    pub fn image(&self, name: &str) -> Result<Image, ImageError> {
        let full = name.parse::<Reference>().map(|full| full.to_string()).ok();
        match self.named(name) {
            Err(ImageError::Missing(_)) if full.as_deref().is_some_and(|full| full != name) => {}
            found => return found,
        }
        match self.named(&full.unwrap_or_default()) {
            Err(ImageError::Missing(_)) => Err(ImageError::Missing(name.to_owned())),
            found => found,
        }
    }

    fn named(&self, name: &str) -> Result<Image, ImageError> {
        let record = match self.record(self.namespace(), name)? {
            Some(record) => record,
            None => self.borrow_image(name)?,
        };
        let target = descriptor(record.target.unwrap_or_default())?;
        let here = Source::Namespace(self.namespace().clone());
        let (_, manifest) = self.manifest(&here, &target)?;
        let image = self.describe(name, &here, &manifest)?;
        self.unpack(&image, &manifest)?;
        Ok(image)
    }

    /// Brings an image of an OCI layout directory in until the session ends, and unpacks it. Without a name the layout
    /// must have one image only.
    ///
    /// # Errors
    /// As [`Session::image`]; or the layout has no such image.
    pub fn import(&self, layout: &Path, name: Option<&str>) -> Result<Image, ImageError> {
        let path = layout.join("index.json");
        let bytes = fs::read(&path).map_err(|source| ImageError::File { path, source })?;
        let digest = Digest::sha256(&bytes);
        let wrong = |source| ImageError::Manifest { digest, source: Box::new(source) };
        let index = match manifest::parse(&bytes, None).map_err(wrong)? {
            Document::Index(index) => index,
            Document::Manifest(_) => return Err(ImageError::NoDigest("index.json".into())),
        };
        let named = |entry: &Descriptor| NAMES.iter().find_map(|key| entry.annotations.get(*key).cloned());
        let fits = |entry: &&Descriptor| name.is_none_or(|name| named(entry).as_deref() == Some(name));
        let mut found = index.manifests.iter().filter(fits);
        let (Some(entry), None) = (found.next(), found.next()) else {
            let there = index.manifests.iter().filter_map(named).collect();
            return Err(ImageError::Choice { layout: layout.into(), wanted: name.map(str::to_owned), there });
        };
        let name = named(entry).unwrap_or_else(|| entry.digest.to_string());
        self.bring_in(&name, &Source::Layout(layout), entry)?;
        self.image(&name)
    }

    fn borrow_image(&self, name: &str) -> Result<Record, ImageError> {
        let mut client = NamespacesClient::new(self.client().channel());
        let answer = client.list(patient(ListNamespacesRequest { filter: String::new() }));
        for namespace in self.client().wait(|| "List namespaces".into(), answer)?.namespaces {
            let Ok(namespace) = namespace.name.parse() else { continue };
            if let Some(record) = self.record(&namespace, name)? {
                let target = descriptor(record.target.unwrap_or_default())?;
                return self.bring_in(name, &Source::Namespace(namespace), &target);
            }
        }
        Err(ImageError::Missing(name.to_owned()))
    }

    fn record(&self, namespace: &MetadataValue<Ascii>, name: &str) -> Result<Option<Record>, CallError> {
        let request = in_namespace(namespace, None, GetImageRequest { name: name.to_owned() });
        let mut client = ImagesClient::new(self.client().channel());
        match self.client().wait(|| format!("Get image {name:?}"), client.get(request)) {
            Ok(answer) => Ok(answer.image),
            Err(error) if error.kind() == Kind::Missing => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Blobs first, then the name.
    fn bring_in(&self, name: &str, from: &Source<'_>, target: &Descriptor) -> Result<Record, ImageError> {
        let (descriptor, manifest) = self.manifest(from, target)?;
        let layers = manifest.layers.iter().map(|layer| &layer.descriptor);
        for blob in layers.chain([&manifest.config, &descriptor]) {
            self.write_blob(from, blob)?;
        }
        let (mut labels, alias) = (self.labels(), manifest.config.digest.to_string());
        if self.record(self.namespace(), &alias)?.is_none() {
            labels.insert(ALIAS.to_owned(), alias);
        }
        let record =
            Record { name: name.to_owned(), labels, target: Some(wire(&descriptor)), ..Record::default() };
        let request = self.request(CreateImageRequest { image: Some(record.clone()) });
        let mut client = ImagesClient::new(self.client().channel());
        let answer = self.client().wait(|| format!("Create image {name:?}"), client.create(request));
        unless(&[Kind::Exists], answer.map(drop))?;
        Ok(record)
    }

    /// The manifest for this machine, through as many indexes as an image may nest.
    fn manifest(&self, from: &Source<'_>, target: &Descriptor) -> Result<(Descriptor, Manifest), ImageError> {
        let mut target = target.clone();
        for _ in 0..DEPTH {
            let bytes = self.document(from, &target)?;
            let wrong = |source| ImageError::Manifest { digest: target.digest, source: Box::new(source) };
            match manifest::parse(&bytes, Some(&target.media_type)).map_err(wrong)? {
                Document::Manifest(manifest) => return Ok((target, manifest)),
                Document::Index(index) => {
                    target = choose(&index, &Platform::host())
                        .map_err(|error| ImageError::Platform(Box::new(error)))?
                        .clone();
                }
            }
        }
        Err(ImageError::Digest(target.digest))
    }

    fn describe(&self, name: &str, from: &Source<'_>, manifest: &Manifest) -> Result<Image, ImageError> {
        let digest = manifest.config.digest;
        let bytes = self.document(from, &manifest.config)?;
        let wrong = |source| ImageError::Config { digest, source: Box::new(source) };
        let config = config::parse(&bytes).map_err(wrong)?;
        config::check_layers(manifest, &config).map_err(wrong)?;
        Ok(Image { name: name.to_owned(), chain: chain_ids(&config.diff_ids), config })
    }

    /// A small blob, whole, and proven.
    fn document(&self, from: &Source<'_>, wanted: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let bytes = match from {
            Source::Layout(layout) => {
                let path = blob(layout, &wanted.digest);
                let read = || {
                    let mut bytes = Vec::new();
                    File::open(&path)?.take(DOCUMENT.cast_unsigned()).read_to_end(&mut bytes).map(|_| bytes)
                };
                read().map_err(|source| ImageError::File { path: path.clone(), source })?
            }
            Source::Namespace(namespace) => {
                let digest = wanted.digest.to_string();
                let message =
                    ReadContentRequest { digest, offset: 0, size: DOCUMENT.min(wanted.size.cast_signed()) };
                let request = in_namespace(namespace, None, message);
                let mut client = ContentClient::new(self.client().channel());
                let answer = async {
                    let mut stream = client.read(request).await?.into_inner();
                    let mut bytes = Vec::new();
                    while let Some(part) = stream.message().await? {
                        bytes.extend(part.data);
                    }
                    Ok(tonic::Response::new(bytes))
                };
                self.client().wait(|| format!("Read {}", wanted.digest), answer)?
            }
        };
        if wanted.digest.matches(&bytes) { Ok(bytes) } else { Err(ImageError::Digest(wanted.digest)) }
    }

    /// Of a blob that any namespace has, containerd says that all is written already.
    fn write_blob(&self, from: &Source<'_>, wanted: &Descriptor) -> Result<(), ImageError> {
        let (path, mut file) = match from {
            Source::Layout(layout) => {
                let path = blob(layout, &wanted.digest);
                let file =
                    File::open(&path).map_err(|source| ImageError::File { path: path.clone(), source })?;
                (path, Some(file))
            }
            Source::Namespace(_) => (PathBuf::new(), None),
        };
        let total = wanted.size.cast_signed();
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: self.unique(&wanted.digest.to_string()),
            total,
            expected: wanted.digest.to_string(),
            ..WriteContentRequest::default()
        };
        let mut client = ContentClient::new(self.client().channel());
        let mut unreadable = None;
        let answer = async {
            let (sender, receiver) = mpsc::channel(1);
            sender.send(first.clone()).await.map_err(|_| ended())?;
            let mut answers = client.write(self.request(ReceiverStream::new(receiver))).await?.into_inner();
            let mut offset = answers.message().await?.unwrap_or_default().offset;
            while offset < total {
                let data = match file.as_mut().map(|file| chunk(file, offset)) {
                    Some(Ok(data)) if !data.is_empty() => data,
                    Some(Err(error)) => {
                        unreadable = Some(error);
                        return Err(tonic::Status::aborted("the file cannot be read"));
                    }
                    _ => {
                        return Err(tonic::Status::aborted("there is less of it than its descriptor states"));
                    }
                };
                let part =
                    WriteContentRequest { action: WriteAction::Write.into(), offset, data, ..first.clone() };
                // Sent with every message, the digest would be looked up with every message.
                sender
                    .send(WriteContentRequest { expected: String::new(), ..part })
                    .await
                    .map_err(|_| ended())?;
                offset = answers.message().await?.ok_or_else(ended)?.offset;
            }
            let last = WriteContentRequest { action: WriteAction::Commit.into(), offset, ..first };
            sender.send(last).await.map_err(|_| ended())?;
            answers.message().await?;
            Ok(tonic::Response::new(()))
        };
        let answer = self.client().wait(|| format!("Write {}", wanted.digest), answer);
        match unreadable {
            Some(source) => Err(ImageError::File { path, source }),
            None => Ok(unless(&[Kind::Exists], answer)?),
        }
    }

    /// Each layer on the one below, those that are there already left out.
    fn unpack(&self, image: &Image, manifest: &Manifest) -> Result<(), ImageError> {
        let mut parent = String::new();
        for (number, chain) in image.chain.iter().enumerate() {
            let name = chain.to_string();
            if !self.has_snapshot(&name)? {
                let layer = &manifest.layers[number].descriptor;
                let key = self.unique(&format!("unpack-{name}"));
                self.unpack_layer(layer, &image.config.diff_ids[number].to_string(), &parent, &key, &name)?;
            }
            parent = name;
        }
        Ok(())
    }

    fn unpack_layer(
        &self,
        layer: &Descriptor,
        diff_id: &str,
        parent: &str,
        key: &str,
        name: &str,
    ) -> Result<(), ImageError> {
        let snapshotter = || self.snapshotter().name.clone();
        let mut snapshots = SnapshotsClient::new(self.client().channel());
        let request = self.request(PrepareSnapshotRequest {
            snapshotter: snapshotter(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: self.labels(),
        });
        let mounts =
            self.client().wait(|| format!("Prepare snapshot {key:?}"), snapshots.prepare(request))?.mounts;
        let apply = || -> Result<(), ImageError> {
            let request = self.request(ApplyRequest { diff: Some(wire(layer)), mounts });
            let mut diff = DiffClient::new(self.client().channel());
            let applied =
                self.client().wait(|| format!("Apply {}", layer.digest), diff.apply(request))?.applied;
            let found = applied.unwrap_or_default().digest;
            if found != diff_id {
                return Err(ImageError::Layer { digest: layer.digest, found, expected: diff_id.to_owned() });
            }
            let request = self.request(CommitSnapshotRequest {
                snapshotter: snapshotter(),
                name: name.to_owned(),
                key: key.to_owned(),
                labels: self.labels(),
                parent: String::new(),
            });
            let mut snapshots = SnapshotsClient::new(self.client().channel());
            self.client().wait(|| format!("Commit snapshot {name:?}"), snapshots.commit(request))?;
            Ok(())
        };
        match apply() {
            Ok(()) => Ok(()),
            Err(error) => {
                let request =
                    self.request(RemoveSnapshotRequest { snapshotter: snapshotter(), key: key.to_owned() });
                let removed = self
                    .client()
                    .see_through(|| format!("Remove snapshot {key:?}"), snapshots.remove(request));
                match error {
                    // Somebody else has unpacked it meanwhile.
                    ImageError::Call(call) if call.kind() == Kind::Exists => Ok(removed?),
                    error => Err(error),
                }
            }
        }
    }

    fn has_snapshot(&self, key: &str) -> Result<bool, CallError> {
        let message =
            StatSnapshotRequest { snapshotter: self.snapshotter().name.clone(), key: key.to_owned() };
        let mut snapshots = SnapshotsClient::new(self.client().channel());
        match self.client().wait(|| format!("Stat snapshot {key:?}"), snapshots.stat(self.request(message))) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::Missing => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn ended() -> tonic::Status {
    tonic::Status::unavailable("the stream ended")
}

fn chunk(file: &mut File, offset: i64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset.cast_unsigned()))?;
    let mut data = Vec::with_capacity(CHUNK);
    file.take(CHUNK as u64).read_to_end(&mut data)?;
    Ok(data)
}

fn blob(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
}

fn wire(descriptor: &Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: descriptor.size.cast_signed(),
        ..types::Descriptor::default()
    }
}

fn descriptor(wire: types::Descriptor) -> Result<Descriptor, ImageError> {
    Ok(Descriptor {
        digest: wire.digest.parse().map_err(|_| ImageError::NoDigest(wire.digest.clone()))?,
        media_type: wire.media_type,
        size: wire.size.cast_unsigned(),
        platform: None,
        annotations: wire.annotations.into_iter().collect(),
    })
}
