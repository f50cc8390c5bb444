//! What a containerd says of itself: its snapshotters.

use crate::client::{Client, patient};
use crate::error::CallError;
use crate::proto::containerd::services::introspection::v1::introspection_client::IntrospectionClient;
use crate::proto::containerd::services::introspection::v1::{Plugin, PluginsRequest};

const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";

/// What a snapshotter says that takes id mappings by labels.
const REMAP_IDS: &str = "remap-ids";

/// A snapshotter that could be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshotter {
    /// Its name: `overlayfs`.
    pub name: String,
    /// As it states them.
    pub capabilities: Vec<String>,
    /// The directory it keeps everything in, if it says so.
    pub root: Option<String>,
}

impl Snapshotter {
    /// Whether a snapshot can have an id mapping without a copy of the image. That needs containerd 2.0, and layers on a
    /// file system that can be idmapped.
    pub fn maps_ids(&self) -> bool {
        self.capabilities.iter().any(|capability| capability == REMAP_IDS)
    }
}

impl Client {
    /// The snapshotters that work; those that could not be started are left out.
    ///
    /// # Errors
    /// containerd does not answer.
    pub fn snapshotters(&self) -> Result<Vec<Snapshotter>, CallError> {
        let request = PluginsRequest { filters: vec![format!("type=={SNAPSHOTTER}")] };
        let mut client = IntrospectionClient::new(self.channel());
        let plugins = self.wait(|| "Plugins".into(), client.plugins(patient(request)))?.plugins;
        Ok(plugins.into_iter().filter(|plugin| plugin.init_err.is_none()).map(snapshotter).collect())
    }
}

fn snapshotter(mut plugin: Plugin) -> Snapshotter {
    Snapshotter { name: plugin.id, capabilities: plugin.capabilities, root: plugin.exports.remove("root") }
}
