//! The mechanisms: six ways to make a rootfs whose owners are shifted into a container's id range.
//!
//! Each module has the same two functions: `requires` says what the kernel lacks for it, `steps` lists its kernel
//! calls. Both are pure; `apply` runs the steps of all of them with one interpreter, so a comparison
//! compares mechanisms and nothing else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::capabilities::Capabilities;
use crate::lower::UnknownName;
use crate::plan::{PlanError, Request, Step};

mod common_parent;
pub(crate) mod copy;
mod detached;
mod idmapped_overlay;
mod overlay;
mod per_layer;
mod private;

/// A way to make a rootfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// The overlay mount itself is idmapped (Linux 7.3).
    IdmappedOverlay,
    /// One detached idmapped clone of the layers' common parent (6.15).
    Detached,
    /// The clone is attached in a worker's private mount namespace (5.19).
    Private,
    /// The clone is attached in the caller's mount namespace: containerd's way today.
    CommonParent,
    /// One clone a layer, each attached in the caller's mount namespace: containerd's way before its fix.
    PerLayer,
    /// Every file is copied with its owner shifted.
    Copy,
}

impl Mechanism {
    /// All of them, in the order of the ladder.
    pub const ALL: [Self; 6] = [
        Self::IdmappedOverlay,
        Self::Detached,
        Self::Private,
        Self::CommonParent,
        Self::PerLayer,
        Self::Copy,
    ];

    /// What may be chosen when nobody forces one, best first. The others exist to be compared with.
    pub const AUTOMATIC: [Self; 4] = [Self::IdmappedOverlay, Self::Detached, Self::Private, Self::Copy];

    /// The name people type.
    pub fn name(self) -> &'static str {
        match self {
            Self::IdmappedOverlay => "idmapped-overlay",
            Self::Detached => "detached",
            Self::Private => "private",
            Self::CommonParent => "common-parent",
            Self::PerLayer => "per-layer",
            Self::Copy => "copy",
        }
    }

    /// What this machine lacks for it, in a sentence; nothing if it works here.
    pub fn requires(self, capabilities: &Capabilities) -> Result<(), String> {
        match self {
            Self::IdmappedOverlay => idmapped_overlay::requires(capabilities),
            Self::Detached => detached::requires(capabilities),
            Self::Private => private::requires(capabilities),
            Self::CommonParent => common_parent::requires(capabilities),
            Self::PerLayer => per_layer::requires(capabilities),
            Self::Copy => copy::requires(capabilities),
        }
    }

    /// Whether files written by the container are stored with the ids it sees, not with its host ids.
    pub fn unshifted_upper(self) -> bool {
        self == Self::IdmappedOverlay
    }

    pub(crate) fn steps(
        self,
        request: &Request,
        capabilities: &Capabilities,
    ) -> Result<Vec<Step>, PlanError> {
        match self {
            Self::IdmappedOverlay => idmapped_overlay::steps(request, capabilities),
            Self::Detached => detached::steps(request, capabilities),
            Self::Private => private::steps(request, capabilities),
            Self::CommonParent => common_parent::steps(request, capabilities),
            Self::PerLayer => per_layer::steps(request, capabilities),
            Self::Copy => copy::steps(request, capabilities),
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mechanism {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        Self::ALL
            .into_iter()
            .find(|mechanism| mechanism.name() == name)
            .ok_or_else(|| UnknownName { name: name.to_owned(), known: Self::ALL.map(Self::name).join(", ") })
    }
}

/// Who chooses the mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The best that works here.
    #[default]
    Auto,
    /// This one or none.
    Forced(Mechanism),
}
