//! The questions, asked.

use std::error::Error;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use plywood_kernel::SyscallError;
use plywood_kernel::fscontext::FsContext;
use plywood_kernel::idmap::{IdMap, IdRange};
use plywood_kernel::mount::{MountAttrs, MountFd};
use plywood_kernel::reaper::Reaper;
use plywood_kernel::remove::remove_tree;
use plywood_kernel::userns::UserNs;
use rustix::fs::CWD;
use rustix::io::Errno;

use super::check::{CheckError, check_rootfs};
use super::{Answer, Capabilities};
use crate::apply::{ApplyError, Context, PrivateWorker, apply};
use crate::lower::{LowerRef, Lowers, LowersError};
use crate::mechanism::{Choice, Mechanism};
use crate::plan::{Durability, PlanError, Request, plan};

/// Probing could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The directories to try things in could not be made.
    #[error("cannot prepare a test of the file system at {}", path.display())]
    Scratch {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Or not removed.
    #[error("cannot clean up after a test of the file system")]
    CleanUp(#[source] SyscallError),
}

/// Host ids of the trial containers: beyond what distributions assign and what our default pool holds, so that no
/// container has them at the same time. Nothing with these owners outlives the trial.
const TRIAL: IdRange = IdRange { start: 0xfffe_0000, length: 65_536 };

pub(super) fn all(dir: &Path) -> Result<Capabilities, ProbeError> {
    let scratch = Scratch::new(dir)?;
    let mut found = Capabilities { volatile: volatile(&scratch), ..Capabilities::assumed() };
    found.mount_api = mount_api(&scratch);
    found.append_layers = append_layers(&scratch);
    let trials = Trials::new();
    // From now on, what is found is used: a trial runs as a launch here would.
    found.private = trials.run(&scratch, Mechanism::Private, &found);
    found.detached = trials.run(&scratch, Mechanism::Detached, &found);
    found.idmapped_overlay = trials.run(&scratch, Mechanism::IdmappedOverlay, &found);
    drop(trials);
    scratch.remove().map_err(ProbeError::CleanUp)?;
    Ok(found)
}

fn mount_api(scratch: &Scratch) -> Answer {
    let made = MountFd::clone_tree(CWD, &scratch.path, false)
        .and_then(|clone| clone.set_attrs(MountAttrs::NODEV, MountAttrs::NONE, false));
    answer_call(made)
}

/// Asked to the end: before 6.5 overlay takes any parameter and reads them all when it is created.
fn append_layers(scratch: &Scratch) -> Answer {
    let made = FsContext::open("overlay").and_then(|context| {
        (0..LAYERS).try_for_each(|n| context.set_string("lowerdir+", scratch.lower(n)))?;
        context.create()
    });
    answer_call(made)
}

fn volatile(scratch: &Scratch) -> Answer {
    let names = ["volatile/upper", "volatile/work"].map(|name| scratch.path.join(name));
    let [upper, work] = &names;
    let made = FsContext::open("overlay").and_then(|context| {
        context.set_string("lowerdir", scratch.lower(0))?;
        context.set_string("upperdir", upper)?;
        context.set_string("workdir", work)?;
        context.set_flag("volatile")?;
        context.create()
    });
    answer_call(made)
}

/// What all trials of mechanisms share.
struct Trials {
    shared: Result<(UserNs, Reaper), String>,
}

impl Trials {
    fn new() -> Self {
        let shared = UserNs::create(&IdMap::from_ranges(TRIAL, TRIAL))
            .and_then(|user_ns| Ok((user_ns, Reaper::start()?)))
            .map_err(|error| chain(&error));
        Self { shared }
    }

    fn run(&self, scratch: &Scratch, mechanism: Mechanism, found: &Capabilities) -> Answer {
        let (user_ns, reaper) = match &self.shared {
            Ok(shared) => shared,
            Err(message) => return Answer::Error { message: message.clone() },
        };
        let worker = match (mechanism == Mechanism::Private)
            .then(|| PrivateWorker::start(&[&scratch.path]))
            .transpose()
        {
            Ok(worker) => worker,
            Err(error) => return answer_call(Err(error)),
        };
        let context = Context { user_ns, reaper, worker: worker.as_ref() };
        match trial(scratch, mechanism, found, &context) {
            Ok(()) => Answer::Yes,
            Err(failure) => failure.answer(),
        }
    }
}

fn trial(
    scratch: &Scratch,
    mechanism: Mechanism,
    found: &Capabilities,
    context: &Context<'_>,
) -> Result<(), Failure> {
    let own = |name: &str| scratch.path.join(mechanism.name()).join(name);
    let names = (0..LAYERS).map(|n| LowerRef::new(Scratch::layer(n))).collect::<Result<_, _>>()?;
    let lowers = Lowers::layers(scratch.path.join("layers"), names)?;
    let idmap = IdMap::from_ranges(TRIAL, TRIAL);
    let mut request = Request::new(lowers, idmap, own("upper"), own("work"), own("scratch"));
    request.choice = Choice::Forced(mechanism);
    request.durability = Durability::Volatile;
    let found = Capabilities {
        volatile: found.volatile.clone(),
        append_layers: found.append_layers.clone(),
        ..Capabilities::assumed()
    };
    let plan = plan(&request, &found)?;
    let rootfs = apply(&plan, context)?;
    let checked = check_rootfs(&rootfs, Path::new("file"), &plan.idmap, &plan.upper, plan.unshifted_upper);
    drop(rootfs);
    context.reaper.drain();
    Ok(checked?)
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Lowers(#[from] LowersError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Check(#[from] CheckError),
}

impl Failure {
    fn answer(self) -> Answer {
        let no = match &self {
            Self::Apply(error) => error.errno().is_some_and(is_no),
            // A rootfs that is made but wrong is as good as none.
            Self::Check(CheckError::Owner { .. }) => true,
            Self::Check(CheckError::Call(call)) => call.errno() == Errno::ROFS || is_no(call.errno()),
            Self::Lowers(_) | Self::Plan(_) => false,
        };
        // The outermost error only says which trial this was.
        let words = match &self {
            Self::Apply(error) => error.source().map_or_else(|| error.to_string(), chain),
            other => chain(other),
        };
        if no { Answer::No { reason: words } } else { Answer::Error { message: words } }
    }
}

fn answer_call(result: Result<(), SyscallError>) -> Answer {
    match result {
        Ok(()) => Answer::Yes,
        Err(error) if is_no(error.errno()) => Answer::No { reason: chain(&error) },
        Err(error) => Answer::Error { message: chain(&error) },
    }
}

/// How kernels say that they do not know a call, a parameter or a kind of mount: 6.1 answers EOPNOTSUPP and 6.12 EBADF
/// to descriptors of layers, the others EINVAL. A file system missing altogether is ENODEV.
fn is_no(errno: Errno) -> bool {
    matches!(errno, Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP | Errno::BADF | Errno::NODEV)
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        words += &format!(": {inner}");
        source = inner.source();
    }
    words
}

/// Layers of a trial: the least that makes overlay merge something.
const LAYERS: usize = 2;

/// The directories of all trials.
struct Scratch {
    parent: File,
    name: PathBuf,
    path: PathBuf,
    removed: bool,
}

impl Scratch {
    fn new(dir: &Path) -> Result<Self, ProbeError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ProbeError::Scratch { path, source }
        };
        let name = format!(".trial-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = dir.join(&name);
        let parent = File::open(dir).map_err(failed(dir))?;
        DirBuilder::new().mode(0o700).create(&path).map_err(failed(&path))?;
        let scratch = Self { parent, name: name.into(), path, removed: false };
        let mechanisms =
            [Mechanism::Private, Mechanism::Detached, Mechanism::IdmappedOverlay].map(Mechanism::name);
        let writable = mechanisms.into_iter().chain(["volatile"]);
        let layers = (0..LAYERS).map(|n| Path::new("layers").join(Self::layer(n)));
        let upper_and_work =
            writable.flat_map(|name| [Path::new(name).join("upper"), Path::new(name).join("work")]);
        for directory in layers.chain(upper_and_work) {
            let path = scratch.path.join(directory);
            DirBuilder::new().mode(0o755).recursive(true).create(&path).map_err(failed(&path))?;
        }
        let file = scratch.lower(0).join("file");
        std::fs::write(&file, b"").map_err(failed(&file))?;
        Ok(scratch)
    }

    fn layer(n: usize) -> PathBuf {
        Path::new(&n.to_string()).join("fs")
    }

    fn lower(&self, n: usize) -> PathBuf {
        self.path.join("layers").join(Self::layer(n))
    }

    fn remove(mut self) -> Result<(), SyscallError> {
        self.removed = true;
        remove_tree(&self.parent, &self.name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = remove_tree(&self.parent, &self.name)
        {
            tracing::warn!(%error, path = %self.path.display(), "directory of a trial left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TRIAL;
    use crate::idrange::DEFAULT_POOL;

    #[test]
    fn no_default_lease_has_the_ids_of_a_trial() {
        assert!(u64::from(DEFAULT_POOL.start) + u64::from(DEFAULT_POOL.length) <= u64::from(TRIAL.start));
        // The last id is no id: it says "none".
        assert!(TRIAL.start.checked_add(TRIAL.length).is_some_and(|end| end < u32::MAX));
    }
}
