//! How many mounts one launch attaches and detaches: ours by mechanism, containerd's by version.
//!
//! Pure arithmetic on the number of layers. Ours are what `plan` counts (a test holds the two together) plus the attach
//! of the rootfs in the container's private namespace; containerd's were read in its source and compared with traces of
//! its client. What the OCI runtime mounts inside the container (about 30 mounts) is the same for all and left out.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mechanism::Mechanism;
use crate::plan::MountOps;

/// Who launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Launcher {
    /// Us.
    Plywood {
        /// With which mechanism.
        mechanism: Mechanism,
        /// How often the comparison mechanisms do their work.
        passes: usize,
    },
    /// containerd with its overlayfs snapshotter.
    Containerd(Release),
}

/// Generations of containerd, by what they do for a container in a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Release {
    /// 1.7: no idmapped layers; the whole image is copied and chowned once per mapping.
    V1_7,
    /// 2.0.0 to 2.0.6 and 2.1.0 to 2.1.4: every layer idmapped by itself, twice.
    LayerByLayer,
    /// 2.0.7, 2.1.5 and 2.2: the layers' common parent idmapped, twice.
    CommonParent,
    /// 2.3 and later: the common parent once; users are read from the layers directly.
    DirectRead,
}

impl Release {
    /// All of them, oldest first.
    pub const ALL: [Self; 4] = [Self::V1_7, Self::LayerByLayer, Self::CommonParent, Self::DirectRead];

    /// The versions, for people.
    pub fn versions(self) -> &'static str {
        match self {
            Self::V1_7 => "containerd 1.7",
            Self::LayerByLayer => "containerd 2.0.0-2.0.6, 2.1.0-2.1.4",
            Self::CommonParent => "containerd 2.0.7+, 2.1.5+, 2.2",
            Self::DirectRead => "containerd 2.3+",
        }
    }
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plywood { mechanism, passes: 1 } => f.pad(&format!("plywood {mechanism}")),
            Self::Plywood { mechanism, passes } => f.pad(&format!("plywood {mechanism} x {passes}")),
            Self::Containerd(release) => f.pad(release.versions()),
        }
    }
}

/// Mount operations of one container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// Who launches.
    pub launcher: Launcher,
    /// Overlay lower directories.
    pub layers: usize,
    /// To find out the image's users, before the rootfs is made.
    pub users: MountOps,
    /// To make the rootfs and attach it.
    pub rootfs: MountOps,
    /// To take it down; containerd also calls `umount` where nothing is mounted, which is counted.
    pub removal: MountOps,
}

impl Prediction {
    /// All three together.
    pub fn total(&self) -> MountOps {
        self.users + self.rootfs + self.removal
    }
}

/// Predicts one launch of an image whose overlay has `layers` lower directories.
pub fn predict(launcher: Launcher, layers: usize) -> Prediction {
    let (users, rootfs, removal) = match launcher {
        Launcher::Plywood { mechanism, passes } => ours(mechanism, layers, passes),
        Launcher::Containerd(release) => containerd(release, layers),
    };
    Prediction { launcher, layers, users, rootfs, removal }
}

fn ours(mechanism: Mechanism, layers: usize, passes: usize) -> (MountOps, MountOps, MountOps) {
    // The rootfs itself: attached in the container's namespace, gone with it.
    let (up, down) = (elsewhere(1, 0), elsewhere(0, 1));
    let temporary = match mechanism {
        Mechanism::IdmappedOverlay | Mechanism::Detached | Mechanism::Copy => {
            return (elsewhere(0, 0), up, down);
        }
        Mechanism::Private => return (elsewhere(0, 0), up + elsewhere(1, 1), down),
        Mechanism::CommonParent => 1,
        Mechanism::PerLayer => layers,
    };
    let looks = passes.saturating_sub(1) * (temporary + 1);
    (host(looks, looks), up + host(temporary, temporary), down)
}

fn containerd(release: Release, layers: usize) -> (MountOps, MountOps, MountOps) {
    let removal = host(0, 2);
    match release {
        Release::V1_7 => (host(1, 1), host(1, 0), removal),
        Release::LayerByLayer => (host(layers + 2, layers + 3), host(layers + 1, layers), removal),
        Release::CommonParent => (host(2, 4), host(2, 4), removal),
        Release::DirectRead => (host(0, 0), host(2, 2), removal),
    }
}

fn host(attach: usize, detach: usize) -> MountOps {
    MountOps { attach, detach, host_attach: attach, host_detach: detach }
}

fn elsewhere(attach: usize, detach: usize) -> MountOps {
    MountOps { attach, detach, ..MountOps::default() }
}

/// Predictions beside each other, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// One a launcher.
    pub rows: Vec<Prediction>,
}

impl Comparison {
    /// Ours as chosen (its overlay may have one lower directory however many layers the image has), the comparison
    /// mechanisms as in the incident, and every containerd.
    pub fn new(chosen: Mechanism, lowers: usize, image_layers: usize) -> Self {
        let chosen = predict(Launcher::Plywood { mechanism: chosen, passes: 1 }, lowers);
        let twice = |mechanism| predict(Launcher::Plywood { mechanism, passes: 2 }, image_layers);
        let theirs =
            Release::ALL.into_iter().map(|release| predict(Launcher::Containerd(release), image_layers));
        let rows = [chosen, twice(Mechanism::CommonParent), twice(Mechanism::PerLayer)];
        Self { rows: rows.into_iter().chain(theirs).collect() }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head =
            ["mount operations per container", "users", "rootfs", "removal", "total", "on the host's table"];
        write!(
            f,
            "{:38} {:>6} {:>7} {:>8} {:>6} {:>20}",
            head[0], head[1], head[2], head[3], head[4], head[5]
        )?;
        for row in &self.rows {
            write!(
                f,
                "\n{:38} {:>6} {:>7} {:>8} {:>6} {:>20}",
                row.launcher.to_string(),
                row.users.total(),
                row.rootfs.total(),
                row.removal.total(),
                row.total().total(),
                row.total().host()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
