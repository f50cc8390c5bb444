//! The plan of a rootfs: what will be asked of the kernel, before anything is.
//!
//! `plan` is pure. It chooses the mechanism from what the kernel was found to do, lists every kernel call in order and
//! counts what each costs. `apply` runs exactly these steps, and `explain` prints exactly these steps.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use plywood_kernel::idmap::IdMap;
use plywood_kernel::mount::MountAttrs;

use crate::capabilities::Capabilities;
use crate::lower::{LowerSource, Lowers, MAX_LOWERS};
use crate::mechanism::{Choice, Mechanism};

mod count;
mod show;
mod step;

pub use count::{LockWork, MountOps};
pub(crate) use step::StepList;
pub use step::{Op, Place, Slot, Step};

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// The lower directories.
    pub lowers: Lowers,
    /// Which mechanism.
    pub choice: Choice,
    /// The container's id mapping.
    pub idmap: IdMap,
    /// The container's writable directory; exists, empty, on the same file system as `work`.
    pub upper: PathBuf,
    /// The overlay's work directory; exists, empty.
    pub work: PathBuf,
    /// A directory of this container alone, not existing yet, for temporary mount points. Only the mechanisms that
    /// attach something temporary make it, and they remove it again.
    pub scratch: PathBuf,
    /// Where to attach the rootfs at the end; nowhere if somebody else will.
    pub attach: Option<PathBuf>,
    /// How often `common-parent` and `per-layer` do all their work, as containerd does to read the image's users
    /// first. The other mechanisms do it once whatever is asked.
    pub passes: u32,
    /// Attributes of the rootfs.
    pub attrs: MountAttrs,
    /// What becomes of the writable directory when power fails.
    pub durability: Durability,
}

/// What becomes of a container's writable directory when power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It is lost, and `fsync` inside costs nothing. An ordinary overlay writes the whole file system below back
    /// when it is unmounted; a container's writable directory is not worth that. Where the kernel cannot, as `Synced`.
    #[default]
    Volatile,
    /// `fsync` inside means what it says.
    Synced,
}

impl Request {
    /// A request with everything else at its default: automatic mechanism, one pass, `nodev`, volatile, not attached.
    pub fn new(
        lowers: Lowers,
        idmap: IdMap,
        upper: impl Into<PathBuf>,
        work: impl Into<PathBuf>,
        scratch: impl Into<PathBuf>,
    ) -> Self {
        Self {
            lowers,
            choice: Choice::Auto,
            idmap,
            upper: upper.into(),
            work: work.into(),
            scratch: scratch.into(),
            attach: None,
            passes: 1,
            // Devices come from a mount of their own at /dev; a node in an image must not open anything.
            attrs: MountAttrs::NODEV,
            durability: Durability::default(),
        }
    }
}

/// No plan can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The mechanism that was forced does not work here.
    #[error("mechanism {mechanism} does not work here: {reason}")]
    Unsupported {
        /// The mechanism.
        mechanism: Mechanism,
        /// What is missing.
        reason: String,
    },
    /// Some path is longer than the kernel takes in one parameter.
    #[error("`{}` has {length} bytes, but the kernel takes at most 255 in a mount parameter; use a shorter root directory", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// The kernel would cut the mount options, and mount something else.
    #[error(
        "the mount options for {layers} layers have {length} bytes, more than the page this kernel takes (it would \
         cut them without a word); use --lower flat, or Linux 6.7"
    )]
    OptionsTooLong {
        /// Number of lower directories.
        layers: usize,
        /// Bytes of all options.
        length: usize,
    },
    /// A path cannot be written in the syntax of mount options.
    #[error("`{}` contains one of `,:\\` or a byte outside ASCII, which overlay's mount options cannot carry; use another root directory", path.display())]
    PathSyntax {
        /// The path.
        path: PathBuf,
    },
    /// A directory is not absolute.
    #[error("`{}` is not an absolute path", path.display())]
    Relative {
        /// The path.
        path: PathBuf,
    },
    /// An extra pass would need one lower directory more than the kernel takes.
    #[error(
        "{layers} layers and more than one pass: each pass but the last has the writable directory as one more \
         lower one, and the kernel's overlay takes at most {MAX_LOWERS}; use one pass or --lower flat"
    )]
    NoRoomToLook {
        /// Number of lower directories.
        layers: usize,
    },
    /// Nothing was to be done.
    #[error("at least one pass is needed")]
    NoPass,
    /// Nothing is mapped.
    #[error("the container's id mapping does not map its root")]
    NoRoot,
}

/// How a rootfs will be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The mechanism.
    pub mechanism: Mechanism,
    /// Better mechanisms, and why each of them was passed over.
    pub passed_over: Vec<(Mechanism, String)>,
    /// What the lower directories are.
    pub source: LowerSource,
    /// How many lower directories there are.
    pub layers: usize,
    /// The id mapping of the container.
    pub idmap: IdMap,
    /// Whether the writable directory holds ids as the container sees them. A snapshot must remember this: it can
    /// only ever be used with the same mechanism again.
    pub unshifted_upper: bool,
    /// The writable directory.
    pub upper: PathBuf,
    /// The overlay's work directory.
    pub work: PathBuf,
    /// Attributes of the rootfs.
    pub attrs: MountAttrs,
    /// Where the rootfs will be attached.
    pub attach: Option<PathBuf>,
    /// Every step, in order.
    pub steps: Arc<[Step]>,
}

/// Plans the rootfs of one container.
pub fn plan(request: &Request, capabilities: &Capabilities) -> Result<Plan, PlanError> {
    check(request)?;
    let (mechanism, passed_over) = match request.choice {
        Choice::Auto => {
            let choice = capabilities.choose();
            (choice.mechanism, choice.passed_over)
        }
        Choice::Forced(mechanism) => {
            mechanism
                .requires(capabilities)
                .map_err(|reason| PlanError::Unsupported { mechanism, reason })?;
            (mechanism, Vec::new())
        }
    };
    Ok(Plan {
        mechanism,
        passed_over,
        source: request.lowers.source(),
        layers: request.lowers.count(),
        idmap: request.idmap.clone(),
        unshifted_upper: mechanism.unshifted_upper(),
        upper: request.upper.clone(),
        work: request.work.clone(),
        attrs: request.attrs,
        attach: request.attach.clone(),
        steps: mechanism.steps(request, capabilities)?.into(),
    })
}

fn check(request: &Request) -> Result<(), PlanError> {
    let paths = [&request.upper, &request.work, &request.scratch];
    if let Some(path) = paths.into_iter().chain(&request.attach).find(|path| !path.is_absolute()) {
        return Err(PlanError::Relative { path: path.clone() });
    }
    if request.passes == 0 {
        return Err(PlanError::NoPass);
    }
    if request.idmap.to_host_uid(0).is_none() || request.idmap.to_host_gid(0).is_none() {
        return Err(PlanError::NoRoot);
    }
    Ok(())
}

impl Plan {
    /// Mounts attached and detached.
    pub fn mount_ops(&self) -> MountOps {
        self.steps.iter().fold(MountOps::default(), |sum, step| sum + step.mount_ops())
    }

    /// Work under the kernel's global mount locks, from the first step to the container's end.
    pub fn lock_work(&self) -> LockWork {
        count::lock_work(&self.steps, self.layers)
    }

    /// Kernel calls made; those of copying files are not counted.
    pub fn calls(&self) -> usize {
        self.steps.iter().map(|step| step.op.calls()).sum()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show::plan(self, f)
    }
}

#[cfg(test)]
mod tests;
