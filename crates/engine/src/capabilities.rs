//! What this kernel can do on this file system, asked with the real thing.
//!
//! Every mechanism is tried: a rootfs of two small layers is assembled by the very code that will assemble containers,
//! an owner is looked at and a file is written through. An answer is *yes*, *no* with the kernel's own words, or *error*
//! where it could not be asked; these never merge.
//!
//! A set of answers holds for one kernel, one boot and one file system.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::mechanism::Mechanism;

mod check;
mod probe;

pub use check::{CheckError, check_rootfs};
pub use probe::ProbeError;

/// The answer to one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It works.
    Yes,
    /// It does not.
    No {
        /// What the kernel said.
        reason: String,
    },
    /// It could not be found out.
    Error {
        /// What went wrong.
        message: String,
    },
}

impl Answer {
    /// Whether it works for certain.
    pub fn is_yes(&self) -> bool {
        *self == Self::Yes
    }

    /// `Ok` if it works, otherwise a sentence: `needed` is missing, because.
    pub(crate) fn demand(&self, needed: &str) -> Result<(), String> {
        match self {
            Self::Yes => Ok(()),
            Self::No { reason } => Err(format!("it needs {needed}; {reason}")),
            Self::Error { message } => Err(format!("it needs {needed}, which could not be tried: {message}")),
        }
    }
}

/// What works here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Detached clones of mounts that take attributes (5.12).
    pub mount_api: Answer,
    /// Overlay takes layers by name one at a time (`lowerdir+`, 6.7); otherwise all in one page.
    pub append_layers: Answer,
    /// Overlays that do not write back what a container leaves (5.10).
    pub volatile: Answer,
    /// Mechanism `private`, and with it `common-parent` and `per-layer`: idmapped layers (5.19).
    pub private: Answer,
    /// Mechanism `detached`: layers as descriptors on a detached mount (6.15).
    pub detached: Answer,
    /// Mechanism `idmapped-overlay` (7.3).
    pub idmapped_overlay: Answer,
}

/// The mechanism to use, and why none of the better ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// What is used when nobody forces anything.
    pub mechanism: Mechanism,
    /// What would be better, and what it lacks.
    pub passed_over: Vec<(Mechanism, String)>,
}

impl Capabilities {
    /// Asks everything, on the file system of `dir`, a directory that root may write in. Nothing stays there.
    pub fn probe(dir: &Path) -> Result<Self, ProbeError> {
        probe::all(dir)
    }

    /// Everything works: for plans that are only shown, and to try a mechanism without asking first.
    pub fn assumed() -> Self {
        Self {
            mount_api: Answer::Yes,
            append_layers: Answer::Yes,
            volatile: Answer::Yes,
            private: Answer::Yes,
            detached: Answer::Yes,
            idmapped_overlay: Answer::Yes,
        }
    }

    /// The best mechanism that works.
    pub fn choose(&self) -> Chosen {
        let mut passed_over = Vec::new();
        for mechanism in Mechanism::AUTOMATIC {
            match mechanism.requires(self) {
                Ok(()) => return Chosen { mechanism, passed_over },
                Err(reason) => passed_over.push((mechanism, reason)),
            }
        }
        Chosen { mechanism: Mechanism::Copy, passed_over }
    }
}
