//! Launcher `assembly`: the engine alone. Root file systems are made and attached as a launch does, no process starts.
//!
//! ```text
//! before    host ids leased for the whole machine, user namespaces made, writable directories made and written back
//! measured  plan, apply (as many passes as the arm says), attach in a copy of a small private mount namespace
//! after     the namespace and the root file system closed, and waited for
//! ```
//! The default mechanisms therefore show at most one attach a container in any mount namespace and none in the host's;
//! the comparison mechanisms attach and detach in the caller's own, which is the incident.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use plywood_engine::apply::{self, ApplyError, Rootfs};
use plywood_engine::lower::Lowers;
use plywood_engine::mechanism::{Choice, Mechanism};
use plywood_engine::plan::{self, PlanError, Request};
use plywood_kernel::mountns::unshare_current_thread;
use plywood_kernel::{MountNs, SyscallError};
use plywood_store::NewSnapshot;
use rustix::fs::CWD;

use super::{LaunchFailure, Launched, Launcher, LauncherError, Round};
use crate::admission::Admission;

mod ground;
mod writable;

use ground::Tenant;
use writable::{Directories, Writable};

pub use ground::{Ground, GroundConfig};

/// One arm.
#[derive(Debug)]
pub struct Config {
    /// Shared by all arms.
    pub ground: Arc<Ground>,
    /// The lower directories.
    pub lowers: Lowers,
    /// How root file systems are made.
    pub mechanism: Mechanism,
    /// How often.
    pub passes: u32,
    /// Around plan, apply and attach.
    pub admission: Admission,
}

/// Launches root file systems.
#[derive(Debug)]
pub struct Assembly {
    config: Config,
    round: Mutex<Vec<Arc<Container>>>,
    writable: Writable,
}

/// One container of the round.
#[derive(Debug)]
struct Container {
    tenant: Tenant,
    directories: Directories,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Fresh,
    Launching,
    Running(Running),
    /// The round is over: what a late launch has made it takes back itself.
    Over,
}

/// A root file system, attached where nobody else sees it.
#[derive(Debug)]
struct Running {
    rootfs: Rootfs,
    namespace: MountNs,
    there: Instant,
}

#[derive(Debug, thiserror::Error)]
enum AssembleError {
    #[error("planning the root file system")]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("attaching the root file system")]
    Attach(#[source] SyscallError),
    #[error("returning from the container's mount namespace")]
    Return(#[source] SyscallError),
    #[error("this thread did not return from an earlier container's mount namespace")]
    Lost,
}

thread_local! {
    /// The thread is in a container's mount namespace, where nothing must be made.
    static LOST: Cell<bool> = const { Cell::new(false) };
}

/// Opens the launcher of one arm.
///
/// # Errors
/// The arm's mechanism needs something that cannot be started.
pub fn open(config: Config) -> Result<Assembly, LauncherError> {
    if config.mechanism == Mechanism::Private {
        config
            .ground
            .start_worker()
            .map_err(LauncherError::doing("starting the worker with a private mount namespace"))?;
    }
    let writable = Writable::of(config.mechanism);
    Ok(Assembly { config, round: Mutex::default(), writable })
}

impl Launcher for Assembly {
    fn prepare(&self, round: Round) -> Result<(), LauncherError> {
        let ground = &self.config.ground;
        let root = rustix::fs::stat(self.config.lowers.topmost())
            .map_err(LauncherError::doing("looking at the image's root directory"))?;
        let unshifted = self.config.mechanism.unshifted_upper();
        let tenants: Vec<Tenant> =
            (0..round.containers).map(|n| ground.tenant(n)).collect::<Option<_>>().ok_or_else(|| {
                LauncherError::new("giving each container its ids", "fewer were leased than are needed")
            })?;
        let new: Vec<NewSnapshot> = tenants
            .iter()
            .map(|tenant| {
                let shift =
                    |mapped: Option<u32>, plain: u32| if unshifted { plain } else { mapped.unwrap_or(plain) };
                NewSnapshot {
                    container: None,
                    uid: shift(tenant.map.to_host_uid(root.st_uid), root.st_uid),
                    gid: shift(tenant.map.to_host_gid(root.st_gid), root.st_gid),
                    mode: root.st_mode & 0o7777,
                    unshifted,
                }
            })
            .collect();
        let directories = self.writable.make(ground, &new)?;
        let containers = tenants.into_iter().zip(directories).map(|(tenant, directories)| {
            Arc::new(Container { tenant, directories, state: Mutex::new(State::Fresh) })
        });
        *lock(&self.round) = containers.collect();
        Ok(())
    }

    fn launch(&self, container: usize) -> Result<Launched, LaunchFailure> {
        let found = lock(&self.round).get(container).map(Arc::clone);
        let Some(container) = found else { return Err(LaunchFailure::new("the round is over")) };
        *lock(&container.state) = State::Launching;
        let job = {
            let (ground, container) = (Arc::clone(&self.config.ground), Arc::clone(&container));
            let request = self.request(&container);
            move || assemble(&ground, &container, &request)
        };
        let (assembled, waited) = self.config.admission.run(job).map_err(|gone| LaunchFailure::of(&gone))?;
        let running = assembled.map_err(|error| LaunchFailure::of(&error))?;
        let there = running.there;
        let mut state = lock(&container.state);
        if matches!(*state, State::Over) {
            self.close_one(running);
        } else {
            *state = State::Running(running);
        }
        Ok(Launched { there, waited, turn: None })
    }

    fn remove(&self) -> Result<(), LauncherError> {
        let containers = std::mem::take(&mut *lock(&self.round));
        for container in &containers {
            match std::mem::replace(&mut *lock(&container.state), State::Over) {
                State::Running(running) => self.close_one(running),
                State::Launching | State::Fresh | State::Over => {}
            }
        }
        self.config.ground.drain();
        self.writable.remove(&self.config.ground)
    }

    fn close(&self) -> Result<(), LauncherError> {
        self.remove()
    }
}

impl Assembly {
    fn request(&self, container: &Container) -> Request {
        let Directories { upper, work, points } = &container.directories;
        let mut request =
            Request::new(self.config.lowers.clone(), container.tenant.map.clone(), upper, work, points);
        request.choice = Choice::Forced(self.config.mechanism);
        request.passes = self.config.passes;
        request
    }

    /// As at a container's end: its namespace goes, then its root file system.
    fn close_one(&self, running: Running) {
        self.config.ground.reap(running.namespace, running.rootfs);
    }
}

/// What is measured.
fn assemble(ground: &Ground, container: &Container, request: &Request) -> Result<Running, AssembleError> {
    if LOST.get() {
        return Err(AssembleError::Lost);
    }
    let plan = plan::plan(request, ground.capabilities())?;
    let worker = ground.worker();
    let context = apply::Context {
        user_ns: &container.tenant.user_ns,
        reaper: ground.reaper(),
        worker: worker.as_deref(),
    };
    let rootfs = apply::apply(&plan, &context)?;
    let attach = || {
        ground.template().enter()?;
        unshare_current_thread()?;
        rootfs.attach(CWD, ground.rootfs())?;
        let there = Instant::now();
        Ok((MountNs::current()?, there))
    };
    let attached = attach();
    ground.home().enter().map_err(|error| {
        LOST.set(true);
        AssembleError::Return(error)
    })?;
    let (namespace, there) = attached.map_err(AssembleError::Attach)?;
    Ok(Running { rootfs, namespace, there })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
