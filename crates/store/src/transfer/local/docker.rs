//! What `docker save` (before version 25) and `skopeo copy docker-archive:` write: `manifest.json`, configs, layer tars.

use std::collections::HashMap;
use std::io::{self, Read as _};

use plywood_image::digest::{Algorithm, Hasher};
use plywood_image::{Digest, config, limits};
use serde::Deserialize;

use super::{Local, LocalError, is_named};
use crate::transfer::Cancel;
use crate::transfer::section::Section;
use crate::transfer::stoppable::Stoppable;
use crate::unpack::Compression;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// The chosen image, with a manifest made for it.
#[derive(Debug)]
pub(super) struct DockerArchive {
    pub(super) manifest: Vec<u8>,
    /// All of its own.
    pub(super) names: Vec<String>,
    members: HashMap<Digest, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Entry {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

impl DockerArchive {
    pub(super) fn new(local: &Local, manifest: &[u8], wanted: Option<&str>) -> Result<Self, LocalError> {
        let failed = |reason: String| LocalError::Docker { path: local.path.clone(), reason };
        let entries: Vec<Entry> = serde_json::from_slice(manifest).map_err(|e| failed(e.to_string()))?;
        let entry = choose(local, entries, wanted)?;
        let config_bytes = local
            .small_file(&entry.config, limits::CONFIG_BYTES)?
            .ok_or_else(|| failed(format!("the config {:?} is missing", entry.config)))?;
        let parsed = config::parse(&config_bytes)
            .map_err(|e| failed(format!("the config {:?}: {e}", entry.config)))?;
        let layers = entry.layers.as_deref().unwrap_or_default();
        if layers.len() != parsed.diff_ids.len() {
            return Err(failed(format!(
                "{} layers, but {} in the config",
                layers.len(),
                parsed.diff_ids.len()
            )));
        }
        let config_digest = Digest::sha256(&config_bytes);
        let mut members = HashMap::from([(config_digest, entry.config.clone())]);
        let mut descriptors = Vec::with_capacity(layers.len());
        for (member, diff_id) in layers.iter().zip(&parsed.diff_ids) {
            let read_failed =
                |source| LocalError::File { path: local.path.clone(), name: member.clone(), source };
            let section =
                local.file(member)?.ok_or_else(|| failed(format!("the layer {member:?} is missing")))?;
            let size = section.len();
            let (digest, suffix) = match compression(&section).map_err(read_failed)? {
                // Proven to be so when it is unpacked.
                Compression::None => (diff_id.0, ""),
                Compression::Gzip => (hash(section, &local.stop).map_err(read_failed)?, ".gzip"),
                Compression::Zstd => (hash(section, &local.stop).map_err(read_failed)?, ".zstd"),
            };
            members.insert(digest, member.clone());
            descriptors.push(serde_json::json!({
                "mediaType": format!("{LAYER}{suffix}"), "size": size, "digest": digest,
            }));
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "size": config_bytes.len(), "digest": config_digest},
            "layers": descriptors,
        });
        Ok(Self { manifest: manifest.to_string().into_bytes(), names: entry.tags().to_vec(), members })
    }

    /// Where a blob is.
    pub(super) fn member(&self, digest: &Digest) -> Option<&str> {
        self.members.get(digest).map(String::as_str)
    }
}

/// The entry asked for, or the only one.
fn choose(local: &Local, mut entries: Vec<Entry>, wanted: Option<&str>) -> Result<Entry, LocalError> {
    let named =
        |entry: &Entry| wanted.is_some_and(|wanted| entry.tags().iter().any(|tag| is_named(tag, wanted)));
    let chosen = if entries.len() == 1 { Some(0) } else { entries.iter().position(named) };
    if let Some(chosen) = chosen {
        return Ok(entries.swap_remove(chosen));
    }
    let path = local.path.clone();
    let names: Vec<String> = entries.iter().flat_map(Entry::tags).cloned().collect();
    Err(match wanted {
        _ if names.is_empty() => LocalError::Empty { path },
        Some(wanted) => LocalError::NoSuchImage { path, wanted: wanted.to_owned(), names },
        None => LocalError::Several { path, names },
    })
}

fn compression(section: &Section) -> io::Result<Compression> {
    let mut start = Vec::with_capacity(4);
    section.clone().take(4).read_to_end(&mut start)?;
    Ok(Compression::of(&start))
}

fn hash(section: Section, stop: &Cancel) -> io::Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    io::copy(&mut Stoppable::new(section, stop), &mut hasher)?;
    Ok(hasher.finish())
}
