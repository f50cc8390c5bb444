//! What the container commands share: the runtime of a container, ending it, taking away what is left of it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use plywood_engine::cgroup::{CgroupError, Cgroups};
use plywood_engine::launch::{LauncherConfig, remove_bundle};
use plywood_engine::runtime::{self, Runtime};
use plywood_image::signal;
use plywood_store::containers::ContainerError;
use plywood_store::{Container, ContainerId, ContainerState, Snapshot, Store};
use rustix::process::Signal;

use crate::context::Context;
use crate::output;
use crate::remedy::{Failures, Interrupted};

/// How often the end of a container is looked for.
const POLL: Duration = Duration::from_millis(20);
/// Containers ended at once. They mostly wait: for their runtime, then for their process.
const ENDERS: usize = 64;
/// How long its supervisor may take to record the end of a container.
const RECORDING: Duration = Duration::from_secs(10);

/// The file a detached container writes to.
pub fn log_path(snapshot: &Snapshot) -> PathBuf {
    snapshot.path.join("output.log")
}

/// The runtime that runs this container.
pub fn runtime_of(context: &Context, container: &Container) -> anyhow::Result<Runtime> {
    let layout = Cgroups::detect()?.layout();
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(runtime::find(Some(&container.runtime), &path, layout, &context.directories().run)?)
}

/// Whether its first process still runs.
pub fn is_alive(container: &Container) -> bool {
    container.process.as_ref().is_some_and(|process| process.is_alive().unwrap_or(false))
}

/// How a container is ended.
#[derive(Debug)]
pub struct Ending<'a> {
    /// What it is sent once it runs.
    pub signal: &'a str,
    /// How long it may take to end; then it is sent KILL.
    pub patience: Duration,
    /// How long one that is being launched may take to run; then it is taken down as far as it has come.
    pub until_it_runs: Duration,
}

impl<'a> Ending<'a> {
    /// As it asks for. It can be asked once it runs, which every launch does in time, or fails.
    pub fn stop(signal: &'a str, patience: Duration) -> Self {
        Self { signal, patience, until_it_runs: LauncherConfig::START_TIMEOUT + RECORDING }
    }

    /// At once.
    pub fn kill() -> Self {
        Self { signal: "KILL", patience: Duration::ZERO, until_it_runs: RECORDING }
    }
}

/// Ends a container. Its supervisor records the end; without one, we do. A request to stop ends the wait, not the container.
pub fn end(context: &Context, store: &Store, container: &Container, how: &Ending<'_>) -> anyhow::Result<()> {
    let container = match once_it_runs(context, store, container, how.until_it_runs)? {
        Launched::Gone => return Ok(()),
        Launched::No => return take_away(context, store, container),
        Launched::Yes(container) => container,
    };
    let container = container.as_ref();
    if !is_alive(container) {
        return settle(context, store, container);
    }
    let runtime = runtime_of(context, container);
    for (signal, patience) in [(how.signal, how.patience), ("KILL", RECORDING)] {
        let asked = match &runtime {
            Ok(runtime) => {
                runtime.kill(container.id.as_str(), signal).map_err(|error| crate::remedy::chain(&error))
            }
            Err(error) => Err(format!("{error:#}")),
        };
        if let Err(error) = asked
            && is_alive(container)
        {
            // The terminal's Ctrl-C reaches the runtime, too.
            context.heed()?;
            tracing::warn!(error, container = container.id.short(), "signalled without its runtime");
            send(container, signal)
                .with_context(|| format!("stopping container {}", container.id.short()))?;
        }
        let until = Instant::now() + patience;
        while is_alive(container) && Instant::now() < until {
            context.heed()?;
            std::thread::sleep(POLL);
        }
        if !is_alive(container) {
            return settle(context, store, container);
        }
    }
    anyhow::bail!("container {} does not end, even after KILL", container.id.short())
}

/// What has become of a launch.
enum Launched {
    /// The container has run, and may run still.
    Yes(Box<Container>),
    /// It does not run, and nobody is launching it any more or it takes too long.
    No,
    /// It failed, or ended and removed itself.
    Gone,
}

/// Waits until a container that is being launched runs: there is nothing of it to be signalled before. What the caller
/// has read of it may be from then.
fn once_it_runs(
    context: &Context,
    store: &Store,
    container: &Container,
    patience: Duration,
) -> anyhow::Result<Launched> {
    let until = Instant::now() + patience;
    loop {
        // Asked first: what a supervisor records before it ends is seen after it.
        let supervised = container.supervisor.is_alive().unwrap_or(false);
        match store.find_container(container.id.as_str()) {
            Ok(now) if now.process.is_some() || now.state == ContainerState::Exited => {
                return Ok(Launched::Yes(Box::new(now)));
            }
            Ok(_) if supervised && Instant::now() < until => {
                context.heed()?;
                std::thread::sleep(POLL);
            }
            Ok(_) => return Ok(Launched::No),
            Err(ContainerError::NotFound(_)) => return Ok(Launched::Gone),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Signals its first process ourselves: its runtime, or what that knows of it, is gone.
fn send(container: &Container, signal: &str) -> anyhow::Result<()> {
    let named = signal::number(signal).and_then(|number| Signal::from_named_raw(number.into()));
    match (&container.process, named) {
        (Some(process), Some(signal)) => Ok(process.signal(signal).map(drop)?),
        // A real-time signal, which only runtimes send: KILL follows.
        _ => Ok(()),
    }
}

/// The containers of these names, each once; all there are if `all`.
pub fn named(
    store: &Store,
    names: &[String],
    all: bool,
    failures: &mut Failures,
) -> anyhow::Result<Vec<Container>> {
    if all {
        return Ok(store.containers()?);
    }
    let mut found: Vec<Container> = Vec::new();
    for name in names {
        let container = failures.keep(store.find_container(name));
        found.extend(container.filter(|container| found.iter().all(|other| other.id != container.id)));
    }
    Ok(found)
}

/// What could not be done to some of several containers.
type Failed = Vec<(ContainerId, anyhow::Error)>;

/// Ends containers, a few at once: each asks its runtime, which is a process. Answers with those that it failed for.
///
/// # Errors
/// Interrupted: says which still run.
pub fn end_all(
    context: &Context,
    store: &Store,
    containers: &[Container],
    end: impl Fn(&Container) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Failed> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failed = Failed::new();
        while let Some(container) = containers.get(next.fetch_add(1, Ordering::Relaxed)) {
            context.heed()?;
            match end(container) {
                Ok(()) => {}
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) => failed.push((container.id.clone(), error)),
            }
        }
        Ok(failed)
    };
    let ended: anyhow::Result<Vec<Failed>> = std::thread::scope(|scope| {
        let enders: Vec<_> = (0..ENDERS.min(containers.len())).map(|_| scope.spawn(work)).collect();
        // All are waited for before the first failure is told.
        let ended: Vec<anyhow::Result<Failed>> = enders
            .into_iter()
            .map(|ender| ender.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
            .collect();
        ended.into_iter().collect()
    });
    match ended {
        Err(error) if error.is::<Interrupted>() => Err(still_running(store, containers).into()),
        ended => Ok(ended?.into_iter().flatten().collect()),
    }
}

/// Leaves those out that something failed for, which is kept.
pub fn leave_out(containers: &mut Vec<Container>, failed: Failed, failures: &mut Failures) {
    containers.retain(|container| failed.iter().all(|(id, _)| *id != container.id));
    failures.extend(failed.into_iter().map(|(_, error)| error));
}

fn still_running(store: &Store, containers: &[Container]) -> Interrupted {
    let runs = |one: &&Container| match store.find_container(one.id.as_str()) {
        Ok(now) if now.process.is_none() && now.state != ContainerState::Exited => {
            now.supervisor.is_alive().unwrap_or(false)
        }
        Ok(now) => is_alive(&now),
        Err(ContainerError::NotFound(_)) => false,
        Err(_) => is_alive(one),
    };
    let running: Vec<&str> = containers.iter().filter(runs).map(|one| one.id.short()).collect();
    Interrupted(match running.len() {
        0 => "interrupted, after all had ended".to_owned(),
        count => format!(
            "interrupted; {} still running: {}",
            output::count(count, "container"),
            running.join(", ")
        ),
    })
}

/// Waits until the end of a container is recorded; without a supervisor, takes it down and records it.
fn settle(context: &Context, store: &Store, container: &Container) -> anyhow::Result<()> {
    let until = Instant::now() + RECORDING;
    loop {
        // Asked first: what a supervisor records before it ends is seen after it.
        let supervised = container.supervisor.is_alive().unwrap_or(false);
        match store.find_container(container.id.as_str()) {
            Ok(now) if now.state == ContainerState::Exited => return Ok(()),
            // One that removes itself is gone.
            Err(ContainerError::NotFound(_)) => return Ok(()),
            Ok(_) if supervised && Instant::now() < until => {
                context.heed()?;
                std::thread::sleep(POLL);
            }
            Ok(_) => break,
            Err(error) => return Err(error.into()),
        }
    }
    take_away(context, store, container)
}

/// Takes a container down and records that it has ended.
fn take_away(context: &Context, store: &Store, container: &Container) -> anyhow::Result<()> {
    take_down(context, container)?;
    match store.container_exited(&container.id, None) {
        Ok(()) | Err(ContainerError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes what the runtime keeps of a container whose supervisor is gone: processes, control groups, state.
fn take_down(context: &Context, container: &Container) -> anyhow::Result<()> {
    let cgroups = Cgroups::detect()?;
    match runtime_of(context, container) {
        Ok(runtime) => {
            // First those who may still be making something.
            runtime
                .kill_orphans(container.id.as_str())
                .with_context(|| format!("ending the runtime of container {}", container.id.short()))?;
            runtime.delete(container.id.as_str(), true)?;
        }
        // Without its runtime nothing of it can be asked; its control groups can still go once it has ended.
        Err(error) => tracing::warn!(error = format!("{error:#}"), "the runtime's own record stays"),
    }
    cgroups.remove(container.id.as_str())?;
    match cgroups.in_use(&|| context.cancel.requested()) {
        Ok(in_use) => Ok(cgroups.remove_parent(in_use)?),
        Err(CgroupError::Cancelled) => Ok(context.heed()?),
        Err(error) => Err(error.into()),
    }
}

/// Removes containers that have ended, and everything they left. Answers with those that it failed for, which stay.
///
/// # Errors
/// The database refused: all stay.
pub fn remove(context: &Context, store: &Store, containers: &[Container]) -> anyhow::Result<Failed> {
    let mut failed = Failed::new();
    let mut ids = Vec::new();
    for container in containers {
        let taken_down = match container.supervisor.is_alive().unwrap_or(false) {
            true => Ok(()),
            false => take_down(context, container),
        };
        let id = container.id.clone();
        match taken_down.and_then(|()| Ok(remove_bundle(&context.directories(), id.as_str())?)) {
            Ok(()) => ids.push(id),
            Err(error) => failed.push((id, error)),
        }
    }
    store.remove_containers(&ids)?;
    Ok(failed)
}

/// Takes away what commands that were killed have left: containers nobody waits for any more and nobody may keep, or
/// that were being launched and that nobody has been told of.
pub fn tidy(context: &Context, store: &Store) -> anyhow::Result<()> {
    let mut left = store.containers()?;
    left.retain(|container| {
        let never_told = container.process.is_none() && container.exit_code.is_none();
        (container.auto_remove || never_told) && !container.supervisor.is_alive().unwrap_or(true)
    });
    if !left.is_empty() {
        tracing::info!(count = left.len(), "removing containers that a killed command left");
    }
    let removed = remove(context, store, &left).and_then(|failed| match failed.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    });
    removed.context("removing containers that a killed command left")
}
