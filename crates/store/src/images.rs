//! Images: manifest, config, layers, and the names that point to them.
//!
//! An image is one platform's manifest. It lives as long as a name, a container or a pin refers to it; taking the
//! last name away leaves it to [`crate::gc`]. Manifest and config are kept byte for byte.
//!
//! The digest of the config is what people know as an image's id. Manifests that differ in how they pack the same
//! layers share it; each is an image here, and the id stands for all of them.

mod find;

use std::collections::BTreeSet;

use plywood_image::{ChainId, Digest};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::Store;
use crate::db::{Durability, now_ms, parsed, unsigned};
use crate::error::StateError;
use crate::layers::{self, Layer, LayerId};
use crate::pins::{Pins, Target};

/// An image to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImage {
    /// Digest of `manifest`: the image's identity here.
    pub manifest_digest: Digest,
    /// Media type of `manifest`.
    pub media_type: String,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Digest of `config`.
    pub config_digest: Digest,
    /// The config's bytes.
    pub config: Vec<u8>,
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// Committed layers, lowest first.
    pub layers: Vec<LayerId>,
    /// Of all layers; None for an image without any.
    pub chain_id: Option<ChainId>,
}

/// A recorded image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of the manifest, the image's identity here.
    pub manifest_digest: Digest,
    /// Digest of the config, what other tools show as the image's id.
    pub config_digest: Digest,
    /// Media type of the manifest.
    pub media_type: String,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The config's bytes.
    pub config: Vec<u8>,
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// Of all layers; None for an image without any.
    pub chain_id: Option<ChainId>,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// Names that point to it, sorted.
    pub names: Vec<String>,
    /// When it was recorded, in milliseconds since the epoch.
    pub recorded_ms: u64,
}

impl Image {
    /// Sum of the sizes of the files of all its layers, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.info.size_bytes))
    }

    /// Highest owning user and group id of all its layers, unshifted: a range must be longer than both.
    pub fn max_ids(&self) -> (u32, u32) {
        let infos = || self.layers.iter().map(|layer| &layer.info);
        (
            infos().map(|info| info.max_uid).max().unwrap_or(0),
            infos().map(|info| info.max_gid).max().unwrap_or(0),
        )
    }

    /// Numbers of its layers, lowest first, each once: overlayfs refuses one directory as two layers, and what a
    /// layer does at its highest place makes its lower places irrelevant.
    pub fn layer_ids(&self) -> Vec<LayerId> {
        let mut seen = BTreeSet::new();
        let mut ids: Vec<LayerId> =
            self.layers.iter().rev().map(|layer| layer.id).filter(|id| seen.insert(*id)).collect();
        ids.reverse();
        ids
    }
}

/// What can go wrong with one image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Neither a name nor a digest nor a prefix of one.
    #[error("no image {0:?} here; `plywood images` lists what there is, `plywood pull` fetches more")]
    NotFound(String),
    /// A prefix of several.
    #[error("{prefix:?} could be any of {}; give more digits, or a name", .candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The digests it begins, abbreviated, with the names of their images.
        candidates: Vec<String>,
    },
    /// Its containers would lose their name for it.
    #[error("image {name:?} is used by {}; remove them first, or force", users_named(.containers))]
    InUse {
        /// The image.
        name: String,
        /// Ids of the containers.
        containers: Vec<String>,
    },
    /// The state refused.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<rusqlite::Error> for ImageError {
    fn from(error: rusqlite::Error) -> Self {
        ImageError::State(error.into())
    }
}

fn users_named(ids: &[String]) -> String {
    let short: Vec<&str> = ids.iter().take(3).map(|id| id.get(..12).unwrap_or(id)).collect();
    match ids.len() {
        1 => format!("container {}", short.join(", ")),
        count @ 2..=3 => format!("{count} containers ({})", short.join(", ")),
        count => format!("{count} containers ({}, ...)", short.join(", ")),
    }
}

/// What [`Store::remove_image_name`] took away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untagged {
    /// Names that no longer exist.
    pub names: Vec<String>,
    /// Whether nothing refers now to the images they pointed to, so that [`Store::collect_garbage`] will remove them.
    pub unused: bool,
}

impl Store {
    /// Records an image, durably, and points `names` (canonical references) to it, away from any other. The image
    /// is pinned by `pins`.
    ///
    /// # Errors
    /// A layer is not committed, or the database refused.
    pub fn record_image(&self, pins: &Pins, new: &NewImage, names: &[String]) -> Result<Image, ImageError> {
        self.db().write(Durability::Full, |transaction| {
            let digest = new.manifest_digest.to_string();
            let inserted = transaction
                .prepare_cached(
                    "INSERT OR IGNORE INTO images (manifest_digest, config_digest, media_type, manifest, config,
                     platform, chain_id, recorded_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    digest,
                    new.config_digest.to_string(),
                    new.media_type,
                    new.manifest,
                    new.config,
                    new.platform,
                    new.chain_id.map(|id| id.to_string()),
                    now_ms(),
                ])?;
            // The same manifest has the same layers, and the image that is here keeps them.
            if inserted == 1 {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO image_layers (image, position, layer)
                     SELECT ?1, ?2, id FROM layers WHERE id = ?3 AND state = 'committed'",
                )?;
                for (position, layer) in (0i64..).zip(&new.layers) {
                    let changed = insert.execute(params![digest, position, layer.0])?;
                    if changed != 1 {
                        return Err(rusqlite::Error::StatementChangedRows(changed).into());
                    }
                }
            }
            let mut name_it = transaction.prepare_cached(
                "INSERT INTO image_names (name, image) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET image = excluded.image",
            )?;
            for name in names {
                name_it.execute(params![name, digest])?;
            }
            pins.add(transaction, Target::Image(&new.manifest_digest))?;
            get(transaction, &new.manifest_digest)?
                .ok_or_else(|| rusqlite::Error::QueryReturnedNoRows.into())
        })
    }

    /// All images, latest first.
    ///
    /// # Errors
    /// The database refused.
    pub fn images(&self) -> Result<Vec<Image>, StateError> {
        self.db().read(|connection| {
            let digests = connection
                .prepare_cached(
                    "SELECT manifest_digest FROM images ORDER BY recorded_ms DESC, manifest_digest",
                )?
                .query_map([], |row| parsed::<Digest>(row, "manifest_digest"))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            digests.iter().filter_map(|digest| get(connection, digest).transpose()).collect()
        })
    }

    /// The image of that manifest digest, if it is here.
    ///
    /// # Errors
    /// The database refused.
    pub fn image_by_digest(&self, manifest_digest: &Digest) -> Result<Option<Image>, StateError> {
        self.db().read(|connection| get(connection, manifest_digest))
    }

    /// The image that `text` names: a reference (short names as docker and podman read them), an abbreviated one by
    /// digest, the digest of a manifest or config, or at least four digits of one that no other image shares. Of several
    /// images with one config, the latest.
    ///
    /// # Errors
    /// None, or several, or the database refused.
    pub fn find_image(&self, text: &str) -> Result<Image, ImageError> {
        self.db().read(|connection| find::resolve(connection, text).map(|found| found.first))
    }

    /// The same, but all images if it is the id of several.
    ///
    /// # Errors
    /// As [`Store::find_image`].
    pub fn find_images(&self, text: &str) -> Result<Vec<Image>, ImageError> {
        self.db().read(|connection| Ok(find::resolve(connection, text)?.into_images()))
    }

    /// The same as [`Store::find_image`], pinned: it, its layers and its flat tree stay while `pins` lives.
    ///
    /// # Errors
    /// As [`Store::find_image`].
    pub fn use_image(&self, pins: &Pins, text: &str) -> Result<Image, ImageError> {
        self.db().write(Durability::Fast, |transaction| {
            let image = find::resolve(transaction, text)?.first;
            pins.add(transaction, Target::Image(&image.manifest_digest))?;
            Ok(image)
        })
    }

    /// Takes a name away from its image; a digest or prefix takes all names away, of all images whose id it is.
    ///
    /// An image itself stays while containers, other names or pins refer to it; afterwards garbage collection
    /// takes it.
    ///
    /// # Errors
    /// No such image; the last name of an image with containers, unless `force`; or the database refused.
    pub fn remove_image_name(&self, text: &str, force: bool) -> Result<Untagged, ImageError> {
        // Durable because what the caller does next is collect.
        self.write_with_reserve(Durability::Full, |transaction| {
            let found = find::resolve(transaction, text)?;
            let name = found.name.clone();
            let mut untagged = Untagged { names: Vec::new(), unused: true };
            let mut users = Vec::new();
            for image in found.into_images() {
                let last = name.is_none() || image.names.len() == 1;
                let using = users_of(transaction, &image.manifest_digest)?;
                let pinned = Target::Image(&image.manifest_digest).is_pinned(transaction)?;
                untagged.unused &= last && using.is_empty() && !pinned;
                untagged.names.extend(name.clone().map_or(image.names, |name| vec![name]));
                users.extend(using.into_iter().filter(|_| last));
            }
            if !users.is_empty() && !force {
                return Err(ImageError::InUse { name: text.to_owned(), containers: users });
            }
            let mut delete = transaction.prepare_cached("DELETE FROM image_names WHERE name = ?1")?;
            for name in &untagged.names {
                delete.execute([name])?;
            }
            Ok(untagged)
        })
    }
}

fn get(connection: &Connection, digest: &Digest) -> Result<Option<Image>, StateError> {
    let text = digest.to_string();
    let image = connection
        .prepare_cached("SELECT * FROM images WHERE manifest_digest = ?1")?
        .query_row([&text], from_row)
        .optional()?;
    let Some(mut image) = image else { return Ok(None) };
    image.layers = connection
        .prepare_cached(
            "SELECT layers.* FROM image_layers JOIN layers ON layers.id = image_layers.layer
             WHERE image = ?1 ORDER BY position",
        )?
        .query_map([&text], layers::from_row)?
        .collect::<rusqlite::Result<_>>()?;
    image.names = connection
        .prepare_cached("SELECT name FROM image_names WHERE image = ?1 ORDER BY name")?
        .query_map([&text], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(image))
}

fn users_of(transaction: &Transaction<'_>, digest: &Digest) -> rusqlite::Result<Vec<String>> {
    transaction
        .prepare_cached("SELECT id FROM containers WHERE image = ?1 ORDER BY created_ms")?
        .query_map([digest.to_string()], |row| row.get(0))?
        .collect()
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Image> {
    let chain_id = match row.get::<_, Option<String>>("chain_id")? {
        Some(_) => Some(parsed(row, "chain_id")?),
        None => None,
    };
    Ok(Image {
        manifest_digest: parsed(row, "manifest_digest")?,
        config_digest: parsed(row, "config_digest")?,
        media_type: row.get("media_type")?,
        manifest: row.get("manifest")?,
        config: row.get("config")?,
        platform: row.get("platform")?,
        chain_id,
        layers: Vec::new(),
        names: Vec::new(),
        recorded_ms: unsigned(row, "recorded_ms")?,
    })
}
