//! Images of a storm: one of the store, or a generated one; with as many layers as an arm has.
//!
//! ```text
//! reference ──────────> image of the store ─┬─> the whole image: as it is
//! parameters ─> layout ─> store's import ───┘   its first L layers: recorded as an image of its own, sharing them
//! ```
//! Names of storm images begin with [`PREFIX`] and say what they are made of, so that the same image has the same name
//! everywhere. They are lent by the store: what a storm has recorded it removes at its end, and where it was killed the
//! next command does, unless it is to be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use plywood_engine::lower::{LowerRef, LowerSource, Lowers};
use plywood_image::{ChainId, Digest, config, digest, manifest};
use plywood_kernel::{Kind, remove_tree};
use plywood_store::transfer::{FetchRequest, Source, fetch_image};
use plywood_store::{Cancel, FlatOptions, Image, ImageError, NewImage, Pins, Store};
use serde_json::Value;

pub mod generate;
pub mod program;
mod tar;

use generate::Parameters;

/// Registry part of the names of images that storms make: one that no registry has.
pub const PREFIX: &str = "plywood.storm";

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum StormImageError {
    /// The store's refusal.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store's refusal.
    #[error(transparent)]
    State(#[from] plywood_store::StateError),
    /// Parameters nobody can mean.
    #[error(transparent)]
    Generate(#[from] generate::GenerateError),
    /// The layout could not be written.
    #[error("writing the generated image to {}", path.display())]
    Layout {
        /// Where.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: std::io::Error,
    },
    /// The store refuses a generated image.
    #[error("importing the generated image")]
    Import(#[from] plywood_store::FetchError),
    /// The flat tree could not be built.
    #[error("building the flat tree of {layers} layers")]
    Flat {
        /// Of how many layers.
        layers: usize,
        /// Why.
        #[source]
        source: plywood_store::FlatError,
    },
    /// An image without layers, which no overlay can be made of.
    #[error("image {0} has no layers")]
    NoLayers(String),
    /// What the store has of the image cannot be read any more.
    #[error("reading the image's manifest and configuration")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The lower directories make no overlay.
    #[error(transparent)]
    Lowers(#[from] plywood_engine::lower::LowersError),
}

/// The image of a storm, pinned while this lives.
#[derive(Debug)]
pub struct StormImage {
    store: Store,
    pins: Pins,
    image: Image,
    /// What people know it by.
    pub name: String,
    /// How it was generated, if it was.
    pub generated: Option<Parameters>,
    layout: Option<Layout>,
    /// Names of the first so many layers that were recorded.
    named: BTreeMap<usize, String>,
    /// Names to take back.
    lent: BTreeSet<String>,
    keep: bool,
    /// Whether garbage is ours to collect.
    made: bool,
}

impl StormImage {
    /// One that is in the store.
    ///
    /// # Errors
    /// It is not, or has no layers.
    pub fn of_store(store: &Store, name: &str) -> Result<Self, StormImageError> {
        let pins = store.pins()?;
        let image = store.use_image(&pins, name)?;
        Self::new(store, pins, image, name.to_owned(), None)
    }

    /// A generated one: written as a layout below the state root and imported, unless the store has it already.
    ///
    /// # Errors
    /// The parameters make no sense, or the state root has no room.
    pub fn generate(
        store: &Store,
        parameters: Parameters,
        keep: bool,
        cancel: &Cancel,
    ) -> Result<Self, StormImageError> {
        parameters.check()?;
        let pins = store.pins()?;
        let name = parameters.name();
        let layout = Layout { store: store.clone(), path: place(store) };
        generate::write(&parameters, &layout.path)
            .map_err(|source| StormImageError::Layout { path: layout.path.clone(), source })?;
        let request = FetchRequest::new(Source::Layout(layout.path.clone()));
        let ours = if keep {
            store.keep_name(&name)?;
            false
        } else {
            store.lend_name(&name)?
        };
        let fetched = fetch_image(store, &pins, &request, &|_| {}, cancel);
        if fetched.is_err() && ours {
            store.take_back_names([name.as_str()])?;
        }
        let fetched = fetched?;
        let mut made = Self::new(store, pins, fetched.image, name.clone(), Some(parameters))?;
        made.layout = Some(layout);
        made.keep = !ours;
        if ours {
            made.lent.insert(name);
            made.made = true;
        }
        Ok(made)
    }

    fn new(
        store: &Store,
        pins: Pins,
        image: Image,
        name: String,
        generated: Option<Parameters>,
    ) -> Result<Self, StormImageError> {
        if image.layers.is_empty() {
            return Err(StormImageError::NoLayers(name));
        }
        let store = store.clone();
        let (named, lent, layout) = (BTreeMap::new(), BTreeSet::new(), None);
        Ok(Self { store, pins, image, name, generated, layout, named, lent, keep: false, made: false })
    }

    /// For the record.
    pub fn described(&self) -> String {
        match &self.generated {
            Some(parameters) => format!("generated: {parameters}"),
            None => self.name.clone(),
        }
    }

    /// Directory in the OCI image layout, as long as this lives; of generated images only.
    pub fn layout(&self) -> Option<&Path> {
        self.layout.as_ref().map(|layout| layout.path.as_path())
    }

    /// How many layers it has.
    pub fn layers(&self) -> usize {
        self.image.layers.len()
    }

    /// Highest owning user or group id of its files.
    pub fn highest_id(&self) -> u32 {
        let (uid, gid) = self.image.max_ids();
        uid.max(gid)
    }

    /// The lower directories of its first `layers` layers. For `flat`, the tree is built now if it is missing.
    ///
    /// # Errors
    /// The tree cannot be built, or the kernel takes fewer layers.
    pub fn lowers(
        &mut self,
        layers: usize,
        source: LowerSource,
        cancel: &AtomicBool,
    ) -> Result<Lowers, StormImageError> {
        let root = self.store.root().path().to_owned();
        let name = |id: &dyn std::fmt::Display| LowerRef::new(format!("{id}/fs"));
        let ids = self.ids(layers);
        match source {
            LowerSource::Layers => {
                let names = ids.iter().rev().map(|id| name(id)).collect::<Result<_, _>>()?;
                Ok(Lowers::layers(root.join("layers"), names)?)
            }
            LowerSource::Flat => {
                let chain_id = self.chain_id(layers)?;
                let flat = |source| StormImageError::Flat { layers, source };
                if layers < self.layers() && self.store.find_flat(&chain_id)?.is_none() {
                    // Nothing is given that name, but what is noted by it goes whatever becomes of this process.
                    self.lend(layers)?;
                }
                let options = FlatOptions { wait: true, cancel: Some(cancel), ..FlatOptions::default() };
                self.store.build_flat(&self.pins, &chain_id, &ids, options).map_err(flat)?;
                let flat = self
                    .pins
                    .find_flat(&chain_id)?
                    .ok_or_else(|| StormImageError::NoLayers(self.name.clone()))?;
                Ok(Lowers::flat(root.join("flat"), name(&flat.id)?)?)
            }
        }
    }

    /// A name by which `plywood run` finds the image of the first `layers` layers. Recorded now if it is not the whole
    /// image.
    ///
    /// # Errors
    /// The store refuses it.
    pub fn name_of(&mut self, layers: usize) -> Result<String, StormImageError> {
        if layers >= self.layers() {
            return Ok(self.name.clone());
        }
        if let Some(name) = self.named.get(&layers) {
            return Ok(name.clone());
        }
        let new = self.first(layers)?;
        let name = self.lend(layers)?;
        self.store.record_image(&self.pins, &new, std::slice::from_ref(&name))?;
        self.named.insert(layers, name.clone());
        Ok(name)
    }

    /// The layout, and the name in it of the image of the first `layers` layers, for those who import it elsewhere; none
    /// of an image that was not generated, because the store keeps no layers as they were pulled.
    ///
    /// # Errors
    /// The layout cannot be written.
    pub fn in_layout(&mut self, layers: usize) -> Result<Option<(PathBuf, String)>, StormImageError> {
        let Some(layout) = &self.layout else { return Ok(None) };
        let dir = layout.path.clone();
        if layers >= self.layers() {
            return Ok(Some((dir, self.name.clone())));
        }
        let (first, name) = (self.first(layers)?, self.first_name(layers));
        generate::add(&dir, &name, &first.manifest, &first.config)
            .map_err(|source| StormImageError::Layout { path: dir.clone(), source })?;
        Ok(Some((dir, name)))
    }

    /// The name of the first layers, which is to go at the end; and with it what was made of them.
    fn lend(&mut self, layers: usize) -> Result<String, StormImageError> {
        let name = self.first_name(layers);
        if self.store.lend_name(&name)? {
            self.lent.insert(name.clone());
        }
        self.made = true;
        Ok(name)
    }

    fn first_name(&self, layers: usize) -> String {
        format!("{PREFIX}/first-{layers}-of:{}", &self.image.manifest_digest.hex()[..12])
    }

    /// Forgets the names and whatever nothing else uses, and removes the layout.
    ///
    /// # Errors
    /// The store refuses; what is left is listed by `plywood images`.
    pub fn close(self) -> Result<(), StormImageError> {
        self.pins.release()?;
        self.store.take_back_names(self.lent.iter().map(String::as_str))?;
        if self.made && !self.keep {
            self.store.collect_garbage()?;
        }
        Ok(())
    }

    /// Numbers of the first layers, lowest first, each once.
    fn ids(&self, layers: usize) -> Vec<plywood_store::LayerId> {
        let mut part = self.image.clone();
        part.layers.truncate(layers);
        part.layer_ids()
    }

    fn diff_ids(&self, layers: usize) -> Result<Vec<plywood_image::DiffId>, StormImageError> {
        let parsed =
            config::parse(&self.image.config).map_err(|error| StormImageError::Read(error.into()))?;
        Ok(parsed.diff_ids.into_iter().take(layers).collect())
    }

    fn chain_id(&self, layers: usize) -> Result<ChainId, StormImageError> {
        let chain = digest::chain_ids(&self.diff_ids(layers)?);
        chain.last().copied().ok_or_else(|| StormImageError::NoLayers(self.name.clone()))
    }

    /// The image cut off above a layer: manifest and configuration with as many entries, everything else the same.
    fn first(&self, layers: usize) -> Result<NewImage, StormImageError> {
        let read = |bytes: &[u8]| {
            serde_json::from_slice::<Value>(bytes).map_err(|error| StormImageError::Read(error.into()))
        };
        let mut config = read(&self.image.config)?;
        cut(&mut config, "/rootfs/diff_ids", layers);
        // It tells of layers that are not there.
        if let Some(object) = config.as_object_mut() {
            object.remove("history");
        }
        let config = config.to_string().into_bytes();
        let mut manifest = read(&self.image.manifest)?;
        cut(&mut manifest, "/layers", layers);
        let digest = Digest::sha256(&config);
        manifest["config"]["digest"] = digest.to_string().into();
        manifest["config"]["size"] = config.len().into();
        let bytes = manifest.to_string().into_bytes();
        manifest::parse(&bytes, Some(&self.image.media_type))
            .map_err(|error| StormImageError::Read(error.into()))?;
        Ok(NewImage {
            manifest_digest: Digest::sha256(&bytes),
            media_type: self.image.media_type.clone(),
            manifest: bytes,
            config_digest: digest,
            config,
            platform: self.image.platform.clone(),
            layers: self.image.layers.iter().take(layers).map(|layer| layer.id).collect(),
            chain_id: Some(self.chain_id(layers)?),
        })
    }
}

fn cut(document: &mut Value, list: &str, length: usize) {
    if let Some(entries) = document.pointer_mut(list).and_then(Value::as_array_mut) {
        entries.truncate(length);
    }
}

/// Below the state root, where the store's recovery finds it once this process is dead.
fn place(store: &Store) -> PathBuf {
    store.root().path().join("scratch").join(place_name())
}

fn place_name() -> String {
    format!(".trial-{}-layout", std::process::id())
}

/// A layout on disk. Dropped, it goes.
#[derive(Debug)]
struct Layout {
    store: Store,
    path: PathBuf,
}

impl Drop for Layout {
    fn drop(&mut self) {
        match remove_tree(self.store.root().scratch(), Path::new(&place_name())) {
            Err(error) if error.kind() != Kind::Missing => {
                tracing::error!(error = &error as &dyn std::error::Error, "removing {}", self.path.display());
            }
            _ => {}
        }
    }
}
