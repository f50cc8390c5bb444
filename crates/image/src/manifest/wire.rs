//! The documents as they are written: every list may be missing or `null`, numbers may be anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::platform::Platform;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) schema_version: Option<serde_json::Number>,
    pub(super) media_type: Option<String>,
    pub(super) artifact_type: Option<String>,
    pub(super) config: Option<Descriptor>,
    #[serde(default, deserialize_with = "present")]
    pub(super) layers: Option<List>,
    #[serde(default, deserialize_with = "present")]
    pub(super) manifests: Option<List>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

/// A list in which Go's `null` for an empty one has become empty.
#[derive(Debug)]
pub(super) struct List(pub(super) Vec<Descriptor>);

/// Keeps "absent" apart from `null`: only the former is `None`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<List>, D::Error> {
    let list = Option::<Vec<Descriptor>>::deserialize(deserializer)?;
    Ok(Some(List(list.unwrap_or_default())))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: serde_json::Number,
    pub(super) urls: Option<Vec<String>>,
    pub(super) platform: Option<WirePlatform>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WirePlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl From<WirePlatform> for Platform {
    fn from(wire: WirePlatform) -> Platform {
        Platform::new(&wire.os, &wire.architecture, wire.variant.as_deref())
    }
}
