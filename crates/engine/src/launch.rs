//! Starting containers: many at once, each in a mount namespace of its own, without touching the host's.
//!
//! ```text
//! submit() ─> queue ─> launcher threads (few)            supervisor (one thread)
//!                        prepare: rootfs and volumes       pid file appears ──> Started, slot free
//!                        as descriptors, bundle written    runtime exits ─────> Exited or Failed
//!                        wait for a slot                   (detached: first process exits,
//!                        enter template, unshare           runtime delete, then Exited)
//!                        attach rootfs and volumes
//!                        spawn the OCI runtime ──────────> pidfd in epoll
//!                        back to the caller's namespace
//! ```
//!
//! A container's life, and the event each end of it sends:
//!
//! ```text
//! queued ──> preparing ──> starting ──> running ──> (deleting) ──> Exited
//!    │           │             │  Started
//!    │ cancel    │ error       │ the runtime fails
//!    v           v             v
//! Cancelled    Failed    (deleting) ──> Failed
//! ```
//!
//! Invariants: every submitted launch ends in exactly one of Exited, Failed and Cancelled; none of them is sent before
//! the runtime has let go of the container; at most [`LauncherConfig::starting`] runtimes are between their start and a
//! running container; nothing is ever attached to the mount namespace of the caller.

mod directories;
mod inbox;
mod queue;
mod supervisor;
mod template;
mod volume;
mod worker;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use plywood_kernel::{MountFd, SyscallError};
use rustix::fs::CWD;

use crate::apply::Rootfs;
use crate::cgroup::{CgroupError, Cgroups, InUse};
use crate::runtime::{Failure, RunMode, Runtime};

use queue::Shared;

pub use directories::{RunDirectories, remove_bundle};
pub use template::Template;
pub use volume::{MAX_VOLUMES, VolumeClone, VolumeCloneError, clone_volume};

/// Where launches happen and how many at a time.
#[derive(Clone, Debug)]
pub struct LauncherConfig {
    /// The OCI runtime.
    pub runtime: Runtime,
    /// Our directories below `/run`.
    pub directories: RunDirectories,
    /// Whether the runtime stays with each container.
    pub mode: RunMode,
    /// Launcher threads.
    pub threads: usize,
    /// Runtimes between their start and a running container, at most.
    pub starting: usize,
    /// How long a runtime may take until its container runs, and again to delete it; then it is killed. An image can make
    /// one wait for ever: it opens files of the image.
    pub start_timeout: Duration,
    /// More paths the runtime must find. The state root on kernels where a root file system is a directory to bind;
    /// elsewhere nothing.
    pub keep: Vec<PathBuf>,
}

/// One container to launch.
pub struct Launch {
    /// Its id: unique, `[A-Za-z0-9][A-Za-z0-9_.-]*`.
    pub id: String,
    /// Makes its root file system and bundle. Called once, on a launcher thread in the mount namespace the launcher
    /// was started from.
    pub prepare: Box<dyn FnOnce() -> Result<Prepared, PrepareError> + Send>,
}

/// What [`Launch::prepare`] may fail with.
pub type PrepareError = Box<dyn std::error::Error + Send + Sync>;

/// A container ready to start.
#[derive(Debug)]
pub struct Prepared {
    /// Its root file system, attached nowhere.
    pub rootfs: Root,
    /// Its volumes, detached.
    pub volumes: Vec<VolumeClone>,
    /// Its bundle directory, written.
    pub bundle: PathBuf,
    /// Its standard streams.
    pub stdio: Stdio,
}

/// A root file system to attach.
#[derive(Debug)]
pub enum Root {
    /// What [`apply`](crate::apply::apply) made.
    Assembled(Rootfs),
    /// Any detached mount.
    Mount(MountFd),
}

/// Standard streams of a container.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Stream,
    /// Standard output.
    pub stdout: Stream,
    /// Standard error.
    pub stderr: Stream,
}

/// One standard stream.
#[derive(Debug, Default)]
pub enum Stream {
    /// `/dev/null`.
    #[default]
    Null,
    /// The caller's own.
    Inherit,
    /// A file or pipe.
    Fd(OwnedFd),
}

/// What happened to a container.
#[derive(Debug)]
pub enum Event {
    /// Its command runs.
    Started {
        /// Which container.
        id: String,
        /// Process id of its first process.
        pid: i32,
        /// What the launch took.
        timing: Timing,
    },
    /// It ran and ended, and the runtime has deleted it.
    Exited {
        /// Which container.
        id: String,
        /// Its exit code; 128 and the signal's number if a signal ended it.
        code: i32,
    },
    /// It never ran, and nothing of it is left.
    Failed {
        /// Which container.
        id: String,
        /// Why.
        error: LaunchError,
    },
    /// The launcher was cancelled before it was its turn.
    Cancelled {
        /// Which container.
        id: String,
    },
}

impl Event {
    /// Which container it is about.
    pub fn id(&self) -> &str {
        match self {
            Self::Started { id, .. }
            | Self::Exited { id, .. }
            | Self::Failed { id, .. }
            | Self::Cancelled { id } => id,
        }
    }
}

/// What a launch took, step by step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// From [`Launcher::submit`] to a launcher thread.
    pub queued: Duration,
    /// [`Launch::prepare`].
    pub prepare: Duration,
    /// Waiting until fewer than [`LauncherConfig::starting`] runtimes were starting.
    pub slot: Duration,
    /// Entering the template, copying it, attaching.
    pub attach: Duration,
    /// Starting the runtime's process.
    pub spawn: Duration,
    /// The runtime's own time until the command ran.
    pub runtime: Duration,
}

impl Timing {
    /// The work of the launch, without waiting its turn.
    pub fn launch(&self) -> Duration {
        self.prepare + self.attach + self.spawn + self.runtime
    }

    /// From submission to the running command.
    pub fn total(&self) -> Duration {
        self.launch() + self.queued + self.slot
    }
}

/// Why a container did not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Its root file system or bundle could not be made.
    #[error("preparing the container")]
    Prepare(#[source] PrepareError),
    /// Its root file system could not be attached.
    #[error("attaching the container's root file system")]
    Mount(#[from] SyscallError),
    /// The runtime's process could not be started.
    #[error("`{command}` cannot be run")]
    Spawn {
        /// The command line.
        command: String,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// The runtime failed to start it, and has said why on the container's standard error, too.
    #[error("{0}")]
    Runtime(Failure),
    /// The runtime failed to start it without a word.
    #[error("{0} and left no message")]
    Silent(String),
    /// The runtime did not start it in time, and was killed.
    #[error("{runtime} had not started it after {} s, and was killed", .after.as_secs_f64())]
    Overdue {
        /// The runtime's name.
        runtime: String,
        /// How long it was given.
        after: Duration,
    },
    /// No launcher thread is left in the namespace to prepare in.
    #[error("every launcher thread failed to leave an earlier container's mount namespace")]
    Stranded,
    /// Cancelled while it started.
    #[error("cancelled while it started")]
    Cancelled,
}

impl Root {
    fn attach(&self, path: &Path) -> Result<(), SyscallError> {
        match self {
            Self::Assembled(rootfs) => rootfs.attach(CWD, path),
            Self::Mount(mount) => mount.attach(CWD, path),
        }
    }

    fn into_fd(self) -> OwnedFd {
        match self {
            Self::Assembled(rootfs) => rootfs.into_fd(),
            Self::Mount(mount) => mount.into(),
        }
    }
}

impl From<Rootfs> for Root {
    fn from(rootfs: Rootfs) -> Root {
        Root::Assembled(rootfs)
    }
}

impl From<MountFd> for Root {
    fn from(mount: MountFd) -> Root {
        Root::Mount(mount)
    }
}

impl LaunchError {
    /// The exit code that stands for this error: 127 if the command is not in the image, 126 if it cannot be
    /// executed, 130 if cancelled, else 125.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Runtime(failure) => failure.exit_code(),
            Self::Cancelled => 130,
            Self::Prepare(_)
            | Self::Mount(_)
            | Self::Spawn { .. }
            | Self::Silent(_)
            | Self::Overdue { .. }
            | Self::Stranded => 125,
        }
    }
}

/// Why a launcher could not start or finish.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// A directory of ours.
    #[error("{doing} {path}")]
    Directory {
        /// What was tried.
        doing: &'static str,
        /// Which one.
        path: PathBuf,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// A directory every container is reached through is somebody else's.
    #[error(
        "{path} {what}, but every container is reached through it; remove it when no container runs on this machine, \
         for the register of their ids may lie in it, and it will be made again"
    )]
    NotOurs {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A directory above them lets nobody but its owner through.
    #[error(
        "{path} has mode {mode:04o}, and every container is reached through it with ids of its own; \
         let others pass: chmod o+x {path}"
    )]
    Closed {
        /// Which one.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The template mount namespace.
    #[error("making the mount namespace containers are started in")]
    Template(#[from] SyscallError),
    /// Control groups.
    #[error("control groups")]
    Cgroups(#[from] CgroupError),
    /// Threads, timers, watches.
    #[error("{doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// How it failed.
        #[source]
        source: io::Error,
    },
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Launches containers. Its threads live until [`finish`](Self::finish).
#[derive(Debug)]
pub struct Launcher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    cgroups: Cgroups,
    /// Until it has finished.
    in_use: Option<InUse>,
}

/// Cancels a launcher, from any thread.
#[derive(Clone, Debug)]
pub struct CancelHandle(Arc<Shared>);

impl CancelHandle {
    /// Starts nothing more and kills whatever runs; every launch still ends in its event. Idempotent.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl LauncherConfig {
    /// The default of [`start_timeout`](Self::start_timeout). A launch takes milliseconds, on a machine that is fully
    /// loaded seconds.
    pub const START_TIMEOUT: Duration = Duration::from_secs(300);

    /// The measured defaults: as many launcher threads as processors, two to eight, and eight runtimes starting for
    /// each processor. More of either made no burst shorter (`benches/launch.rs`, two processors); more runtimes at
    /// once only make every single launch slower.
    pub fn new(runtime: Runtime, directories: RunDirectories, mode: RunMode) -> LauncherConfig {
        let threads = processors().clamp(2, 8);
        let starting = Self::default_starting();
        let start_timeout = Self::START_TIMEOUT;
        LauncherConfig { runtime, directories, mode, threads, starting, start_timeout, keep: Vec::new() }
    }

    /// The default of [`starting`](Self::starting).
    pub fn default_starting() -> usize {
        8 * processors()
    }
}

impl Launcher {
    /// Makes the directories, the template namespace and the threads. Events come from the receiver, which ends when
    /// the launcher does.
    ///
    /// In [`RunMode::Detached`] the calling process becomes a child subreaper: orphans of the containers' runtimes
    /// become its children.
    ///
    /// Another program that tidies the control groups is waited for, until `give_up` says not to.
    pub fn start(
        config: LauncherConfig,
        give_up: &dyn Fn() -> bool,
    ) -> Result<(Launcher, Receiver<Event>), LauncherError> {
        let cgroups = Cgroups::detect()?;
        config.directories.create()?;
        let in_use = cgroups.in_use(give_up)?;
        let template = Template::new(&config.runtime, &config.directories, &config.keep)?;
        if config.mode == RunMode::Detached {
            plywood_kernel::set_child_subreaper()?;
        }
        let config = Arc::new(config);
        let (events, receiver) = mpsc::channel();
        let shared = Arc::new(Shared::new(config.starting)?);
        // Threads that did start end by themselves when the others cannot: the queue is closed when it is dropped.
        let mut launcher = Launcher {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
            cgroups: cgroups.clone(),
            in_use: Some(in_use),
        };
        let supervisor =
            supervisor::Supervisor::new(Arc::clone(&config), Arc::clone(&shared), events.clone(), cgroups)?;
        launcher.spawn("plywood-wait", move || supervisor.run())?;
        let template = Arc::new(template);
        for _ in 0..config.threads.max(1) {
            let worker = worker::Worker::new(
                Arc::clone(&config),
                Arc::clone(&shared),
                events.clone(),
                Arc::clone(&template),
            )?;
            launcher.spawn("plywood-launch", move || worker.run())?;
        }
        Ok((launcher, receiver))
    }

    /// Queues one container.
    pub fn submit(&self, launch: Launch) {
        self.shared.submit(launch);
    }

    /// For cancelling from a signal's thread.
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle(Arc::clone(&self.shared))
    }

    /// No more submissions: the receiver ends after the last container.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Waits until every container has ended, then ends the threads and removes our parent control group if no other
    /// launcher needs it.
    pub fn finish(mut self) -> Result<(), LauncherError> {
        self.shared.close();
        self.join();
        match self.in_use.take() {
            Some(in_use) => Ok(self.cgroups.remove_parent(in_use)?),
            None => Ok(()),
        }
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), LauncherError> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map_err(|source| LauncherError::Io { doing: "starting a launcher thread", source })?;
        self.threads.push(thread);
        Ok(())
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a launcher thread panicked");
            }
        }
    }
}

impl Drop for Launcher {
    /// A launcher dropped early kills what it started.
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.shared.cancel();
            self.shared.close();
            self.join();
        }
    }
}
