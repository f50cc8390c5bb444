//! Carries a plan out, step by step, and takes everything back when a step fails.
//!
//! One interpreter runs the steps of every mechanism. What it holds besides descriptors (mounts attached,
//! directories made, files copied) is on an undo stack; descriptors undo themselves by being closed.
//!
//! Invariant: when `apply` fails, no mount, directory or file of its making is left, except what the error names.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plywood_kernel::mount::{MountAttrs, MountFd};
use plywood_kernel::reaper::Reaper;
use plywood_kernel::userns::UserNs;
use plywood_kernel::{Kind, SyscallError};

use crate::mechanism::Mechanism;
use crate::plan::{MountOps, Place, Plan, Step};

mod calls;
mod machine;
mod undo;
mod worker;

pub use crate::mechanism::copy::{CopyError, CopyStats};
pub use worker::PrivateWorker;

use machine::{Around, Held, Machine};

/// What the steps need besides the plan.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The user namespace with the plan's id mapping.
    pub user_ns: &'a UserNs,
    /// Closes what is slow to close.
    pub reaper: &'a Reaper,
    /// Runs the steps of `private`; the other mechanisms need none.
    pub worker: Option<&'a PrivateWorker>,
}

/// The root file system of one container.
#[derive(Debug)]
pub struct Rootfs {
    tree: Tree,
    /// Where the plan had it attached.
    pub attached: Option<PathBuf>,
    /// Whether the writable directory holds ids as the container sees them.
    pub unshifted_upper: bool,
    /// What was done to make it.
    pub done: Done,
}

#[derive(Debug)]
enum Tree {
    Mount(MountFd),
    /// A kernel without detached clones: the copied directory itself, to be bound somewhere.
    Directory {
        fd: OwnedFd,
        path: PathBuf,
        attrs: MountAttrs,
    },
}

/// What `apply` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// Kernel calls, those of copying files excepted.
    pub calls: usize,
    /// Mounts attached and detached.
    pub mounts: MountOps,
    /// What was copied.
    pub copied: CopyStats,
    /// How long it took.
    pub elapsed: Duration,
}

/// A rootfs could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A step failed.
    #[error(
        "cannot assemble the root file system ({mechanism}, step {step} of {steps}){}",
        left_behind(left)
    )]
    Step {
        /// The mechanism.
        mechanism: Mechanism,
        /// Number of the step that failed, from 1.
        step: usize,
        /// How many steps there are.
        steps: usize,
        /// The call that failed.
        source: Box<StepError>,
        /// What could not be undone.
        left: Vec<SyscallError>,
    },
    /// A plan of `private` without a worker to run it.
    #[error("mechanism {mechanism} needs a worker with a private mount namespace, and none was started")]
    NoWorker {
        /// The mechanism.
        mechanism: Mechanism,
    },
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The kernel refused a call.
    #[error(transparent)]
    Call(#[from] SyscallError),
    /// The lower directories could not be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The image's root directory belongs to an id the container's range does not reach.
    #[error("`{}` belongs to {uid}:{gid}, which the container's id range does not hold; use a longer range", path.display())]
    Unmapped {
        /// The directory.
        path: PathBuf,
        /// Its owner in the image.
        uid: u32,
        /// Its group in the image.
        gid: u32,
    },
    /// The worker thread is gone.
    #[error("the worker thread of mechanism private has ended")]
    WorkerGone,
    /// Steps out of order: a bug of ours.
    #[error("no {0} to work on")]
    NoSlot(String),
}

impl ApplyError {
    /// What kind of failure it was.
    pub fn kind(&self) -> Kind {
        match self.step_error() {
            Some(StepError::Call(call)) => call.kind(),
            Some(StepError::Copy(copy)) => copy.kind(),
            _ => Kind::Failed,
        }
    }

    /// The kernel's error number, where the kernel refused a call.
    pub fn errno(&self) -> Option<rustix::io::Errno> {
        match self.step_error() {
            Some(StepError::Call(call)) => Some(call.errno()),
            _ => None,
        }
    }

    fn step_error(&self) -> Option<&StepError> {
        match self {
            Self::Step { source, .. } => Some(source),
            Self::NoWorker { .. } => None,
        }
    }
}

fn left_behind(left: &[SyscallError]) -> String {
    left.iter().map(|error| format!("; could not be undone: {error}")).collect()
}

/// Makes the rootfs.
///
/// The calling thread may get a working directory of its own for good (`unshare(CLONE_FS)`), because layers are named
/// from a working directory; where it points is the same afterwards.
pub fn apply(plan: &Plan, context: &Context<'_>) -> Result<Rootfs, ApplyError> {
    let start = Instant::now();
    let failed = |step: usize, source: StepError, machine: Machine| ApplyError::Step {
        mechanism: plan.mechanism,
        step,
        steps: plan.steps.len(),
        source: Box::new(source),
        left: undo::unwind(machine, plan, context.worker),
    };
    let mut machine = Machine::new();
    if plan.steps.iter().any(|step| step.place == Place::Worker) && context.worker.is_none() {
        return Err(ApplyError::NoWorker { mechanism: plan.mechanism });
    }
    let around = Around { context, idmap: &plan.idmap };
    let mut at = 0;
    while at < plan.steps.len() {
        let run = at + run_length(&plan.steps[at..]);
        let result;
        (machine, result) = match (plan.steps[at].place, context.worker) {
            (Place::Worker, Some(worker)) => worker.run(machine, Arc::clone(&plan.steps), at..run),
            _ => machine.run(&plan.steps, at..run, Some(around)),
        };
        if let Err((step, source)) = result {
            return Err(failed(step + 1, source, machine));
        }
        at = run;
    }
    let mut done = machine.done;
    let tree = match machine.take_rootfs() {
        Some(Held::Mount(mount)) => Tree::Mount(mount),
        Some(Held::Fd(fd)) => Tree::Directory { fd, path: plan.upper.clone(), attrs: plan.attrs },
        Some(Held::Context(_)) | None => {
            return Err(failed(plan.steps.len(), StepError::NoSlot("rootfs".to_owned()), machine));
        }
    };
    done.elapsed = start.elapsed();
    Ok(Rootfs { tree, attached: plan.attach.clone(), unshifted_upper: plan.unshifted_upper, done })
}

/// How many steps from the first on are taken by the same thread; reaper steps are handed over by the caller.
fn run_length(steps: &[Step]) -> usize {
    let worker = |step: &Step| step.place == Place::Worker;
    steps.iter().take_while(|step| worker(step) == worker(&steps[0])).count()
}

impl Rootfs {
    /// Attaches it in the calling thread's mount namespace: on `path` below `dirfd`, or on the directory `dirfd`
    /// itself where `path` is empty.
    pub fn attach(&self, dirfd: impl AsFd, path: &Path) -> Result<(), SyscallError> {
        match &self.tree {
            Tree::Mount(mount) => mount.attach(dirfd, path),
            Tree::Directory { path: from, attrs, .. } => {
                // The legacy call knows no descriptors; the target is reached through the one given.
                use std::os::fd::AsRawFd;
                let dir = dirfd.as_fd().as_raw_fd();
                let target = if path.is_absolute() || dir == rustix::fs::CWD.as_raw_fd() {
                    path.to_owned()
                } else {
                    Path::new("/proc/self/fd").join(dir.to_string()).join(path)
                };
                calls::bind(from, &target, *attrs)
            }
        }
    }

    /// The mount; none on a kernel without detached clones, where [`Rootfs::attach`] binds a directory.
    pub fn mount(&self) -> Option<&MountFd> {
        match &self.tree {
            Tree::Mount(mount) => Some(mount),
            Tree::Directory { .. } => None,
        }
    }

    /// The descriptor, for instance to hand to another thread or process.
    pub fn into_fd(self) -> OwnedFd {
        match self.tree {
            Tree::Mount(mount) => mount.into(),
            Tree::Directory { fd, .. } => fd,
        }
    }
}

impl AsFd for Rootfs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.tree {
            Tree::Mount(mount) => mount.as_fd(),
            Tree::Directory { fd, .. } => fd.as_fd(),
        }
    }
}
