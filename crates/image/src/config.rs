//! Image configs: what to run and which layers it runs on.
//!
//! Reads the OCI image configuration and Docker's older dialect of it. Tolerated as Docker tolerates it: `null` for any
//! list or object, keys of the inner `config` in lower case, a plain string for `Entrypoint` and `Cmd`. An environment
//! entry without `=` means an unset variable and is left out; of two entries for one variable the last wins, in the place
//! of the first.

mod wire;

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::{DiffId, DigestError};
use crate::limits;
use crate::manifest::Manifest;
use crate::platform::Platform;

/// An image's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// What the image was made for.
    pub platform: Platform,
    /// When, as the image states it (RFC 3339).
    pub created: Option<String>,
    /// Layers, bottom first.
    pub diff_ids: Vec<DiffId>,
    /// How the image was made.
    pub history: Vec<History>,
    /// `NAME=value`, names not empty and each once.
    pub env: Vec<String>,
    /// Leading arguments, which `run` keeps. Empty if the image has none.
    pub entrypoint: Vec<String>,
    /// Default arguments, which `run` replaces. Empty if the image has none.
    pub cmd: Vec<String>,
    /// Where to start, `None` for the root.
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers, `None` for root.
    pub user: Option<String>,
    /// Directories meant to outlive a container.
    pub volumes: BTreeSet<String>,
    /// `port/protocol`.
    pub exposed_ports: BTreeSet<String>,
    /// Signal that asks the process to stop, by name or number.
    pub stop_signal: Option<String>,
    /// Free-form labels.
    pub labels: BTreeMap<String, String>,
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// When (RFC 3339).
    pub created: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// A remark.
    pub comment: Option<String>,
    /// Whether this step made no layer.
    pub empty_layer: bool,
}

/// Why a document is no usable image config.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Too many bytes.
    #[error("the image config has {actual} bytes, the limit is {}", limits::CONFIG_BYTES)]
    TooLarge {
        /// How many.
        actual: usize,
    },
    /// No JSON, or JSON of another shape.
    #[error("the image config cannot be parsed")]
    Json(#[source] serde_json::Error),
    /// A required part is missing.
    #[error("the image config has no {0}")]
    Missing(&'static str),
    /// `rootfs.type` is not `layers`.
    #[error("the image config has a root filesystem of type {0:?}; only \"layers\" is supported")]
    RootfsType(String),
    /// A diff ID that is no digest.
    #[error("diff ID {index} of the image config is wrong")]
    DiffId {
        /// Counted from 0, bottom first.
        index: usize,
        /// Why.
        #[source]
        source: DigestError,
    },
    /// More layers than overlayfs, and so plywood, takes.
    #[error("the image config lists {actual} layers, the limit is {}", limits::LAYERS)]
    TooManyLayers {
        /// How many.
        actual: usize,
    },
    /// A string that no process can be given.
    #[error("{field} of the image config contains {problem}")]
    Text {
        /// Where.
        field: &'static str,
        /// What.
        problem: &'static str,
    },
    /// Manifest and config are about different layers.
    #[error("the manifest lists {manifest} layers, the image config {config}")]
    LayerCount {
        /// In the manifest.
        manifest: usize,
        /// In the config.
        config: usize,
    },
}

/// Parses an image config.
pub fn parse(bytes: &[u8]) -> Result<ImageConfig, ConfigError> {
    if bytes.len() as u64 > limits::CONFIG_BYTES {
        return Err(ConfigError::TooLarge { actual: bytes.len() });
    }
    let wire: wire::Document = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
    // A config of before 2013 may lack the system: all images were for Linux then.
    let os = text(wire.os).unwrap_or_else(|| "linux".to_owned());
    let architecture = text(wire.architecture).ok_or(ConfigError::Missing("architecture"))?;
    let rootfs = wire.rootfs.ok_or(ConfigError::Missing("rootfs"))?;
    match rootfs.kind.as_deref() {
        None | Some("layers") => {}
        Some(other) => return Err(ConfigError::RootfsType(other.to_owned())),
    }
    let diff_ids = rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() > limits::LAYERS {
        return Err(ConfigError::TooManyLayers { actual: diff_ids.len() });
    }
    let inner = wire.config.unwrap_or_default();
    let config = ImageConfig {
        platform: Platform::new(&os, &architecture, wire.variant.as_deref()),
        created: text(wire.created),
        diff_ids: diff_ids
            .iter()
            .enumerate()
            .map(|(index, id)| id.parse().map_err(|source| ConfigError::DiffId { index, source }))
            .collect::<Result<_, _>>()?,
        history: wire.history.unwrap_or_default().into_iter().map(History::from).collect(),
        env: environment(inner.env.unwrap_or_default())?,
        entrypoint: inner.entrypoint.map(wire::Args::into_vec).unwrap_or_default(),
        cmd: inner.cmd.map(wire::Args::into_vec).unwrap_or_default(),
        working_dir: text(inner.working_dir),
        user: text(inner.user),
        volumes: keys(inner.volumes),
        exposed_ports: keys(inner.exposed_ports),
        stop_signal: text(inner.stop_signal),
        labels: inner.labels.unwrap_or_default(),
    };
    no_nul("Env", &config.env)?;
    no_nul("Entrypoint", &config.entrypoint)?;
    no_nul("Cmd", &config.cmd)?;
    no_nul("WorkingDir", &config.working_dir)?;
    no_nul("User", &config.user)?;
    no_nul("Volumes", &config.volumes)?;
    Ok(config)
}

/// Checks that `manifest` and `config` are about the same layers, as far as their number tells.
pub fn check_layers(manifest: &Manifest, config: &ImageConfig) -> Result<(), ConfigError> {
    match (manifest.layers.len(), config.diff_ids.len()) {
        (manifest, config) if manifest != config => Err(ConfigError::LayerCount { manifest, config }),
        _ => Ok(()),
    }
}

fn environment(entries: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut env: Vec<String> = Vec::with_capacity(entries.len());
    for entry in entries {
        match entry.split_once('=') {
            None => {}
            Some(("", _)) => {
                return Err(ConfigError::Text { field: "Env", problem: "a variable without a name" });
            }
            Some((name, _)) => match places.get(name) {
                Some(place) => env[*place] = entry,
                None => {
                    places.insert(name.to_owned(), env.len());
                    env.push(entry);
                }
            },
        }
    }
    Ok(env)
}

/// What ends up in a system call cannot hold a NUL.
fn no_nul<'a>(field: &'static str, texts: impl IntoIterator<Item = &'a String>) -> Result<(), ConfigError> {
    match texts.into_iter().any(|text| text.contains('\0')) {
        true => Err(ConfigError::Text { field, problem: "a NUL byte" }),
        false => Ok(()),
    }
}

/// Empty means absent, as everywhere in Go's JSON.
fn text(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn keys<T>(map: Option<BTreeMap<String, T>>) -> BTreeSet<String> {
    map.unwrap_or_default().into_keys().collect()
}

#[cfg(test)]
mod tests;
