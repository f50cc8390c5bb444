//! Submitting the containers to the launcher and following what becomes of them.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use plywood_engine::bundle::{self, BundleRequest, CgroupMount, SeccompProfile};
use plywood_engine::cgroup::Cgroups;
use plywood_engine::launch::{
    Event, Launch, LaunchError, Launcher, LauncherConfig, PrepareError, Prepared, Root, RunDirectories,
    Stdio, Stream, Timing, clone_volume,
};
use plywood_engine::runtime::{RunMode, Runtime};
use plywood_kernel::{IdMap, ProcessId, SyscallError};
use plywood_store::{ContainerId, Store};

use super::assembly::Assembly;
use super::crew::{Crew, Member};
use super::janitor::Janitor;
use super::program::Program;
use super::recorder::{News, Recorder};
use super::settings::Settings;
use super::wakes::{Wake, Wakes};
use crate::args::Net;
use crate::context::Context;
use crate::output;
use crate::remedy::Advised;

/// For how long a caller waits for a database that refuses. Then all is taken back.
const TELLING: Duration = Duration::from_secs(60);

/// What all launches of a run share.
#[derive(Debug)]
pub struct Shared {
    /// What was asked for.
    pub settings: Settings,
    /// What runs.
    pub program: Program,
    /// How root file systems are made.
    pub assembly: Assembly,
    /// Where bundles go.
    pub directories: RunDirectories,
    /// Where the containers are recorded.
    pub store: Store,
}

/// What became of the containers, by id.
#[derive(Debug, Default)]
pub struct Outcome {
    /// When the launches were submitted.
    pub submitted: Option<Instant>,
    /// Those that ran, and what their launch took.
    pub started: HashMap<String, Timing>,
    /// Those that ran and ended, with their exit code.
    pub exited: HashMap<String, i32>,
    /// Those that never ran.
    pub failed: HashMap<String, LaunchError>,
    /// Somebody asked us to stop.
    pub cancelled: bool,
    /// That was before the caller had been told what runs, or the caller is gone and wants nothing kept.
    pub given_up: bool,
    /// Those that were taken away when they ended.
    pub removed: HashSet<ContainerId>,
}

impl Outcome {
    fn settled(&self) -> usize {
        self.started.len() + self.failed.len()
    }
}

/// Launches the crew and waits until all have ended. `all_started` is called once, when each has started or failed and
/// this is recorded. After that nothing fails: no error may cost the containers that somebody counts on. The end of
/// `starter`, if there is one, ends them all.
pub fn launch(
    context: &Context,
    crew: &Crew,
    shared: &Arc<Shared>,
    runtime: Runtime,
    starter: Option<OwnedFd>,
    all_started: impl FnOnce(&Outcome) -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let detached = shared.settings.detached;
    let mode = if detached { RunMode::Detached } else { RunMode::Attached };
    let mut config = LauncherConfig::new(runtime, shared.directories.clone(), mode);
    config.start_timeout = shared.settings.start_timeout;
    if let Some(concurrency) = shared.settings.concurrency {
        config.starting = concurrency;
    }
    let wakes = Wakes::start(&context.cancel, starter).context("listening for signals")?;
    let (launcher, events) = Launcher::start(config, &|| context.cancel.requested())?;
    wakes.forward(events).context("listening to the launcher")?;
    let submitted = Instant::now();
    for member in &crew.members {
        let (shared, member) = (Arc::clone(shared), member.clone());
        let id = member.id.as_str().to_owned();
        launcher.submit(Launch { id, prepare: Box::new(move || prepare(&shared, &member)) });
    }
    launcher.close();

    // Ahead of the launches, which make those that are not there yet.
    let mut namespaces = Some({
        let shared = Arc::clone(shared);
        let maps: Vec<IdMap> = crew.members.iter().map(Member::map).collect();
        let bell = wakes.bell();
        std::thread::spawn(move || {
            let made = shared.assembly.user_namespaces.prepare(&maps);
            // A run that is over does not want to know.
            let _unwanted = bell.send(Wake::Namespaces);
            made
        })
    });
    // A container that runs keeps its namespace itself; a descriptor for each would be one too many for a large burst.
    let forget = |member: &Member| shared.assembly.user_namespaces.forget(&member.map());
    let total = crew.members.len();
    let members: HashMap<&str, &Member> = crew.members.iter().map(|m| (m.id.as_str(), m)).collect();
    let bar = context.progress.count("containers started", u64::try_from(total)?);
    let cancel = launcher.cancel_handle();
    let mut outcome = Outcome { submitted: Some(submitted), ..Outcome::default() };
    let mut all_started = Some(all_started);
    let mut untold_since: Option<Instant> = None;
    let (mut all_ended, mut namespaces_made) = (false, false);
    let janitor = crew.janitor();
    let recorder = Recorder::start(crew.store().clone(), crew.keep, context.cancel.shared(), wakes.bell());
    // Whoever waits to be told of containers that have ended all the same is told of them.
    while !all_ended || (all_started.is_some() && outcome.settled() == total && !outcome.cancelled) {
        let until = untold_since.filter(|_| !outcome.cancelled).map(|since| since + TELLING);
        match wakes.next(until) {
            Some(Wake::Launcher(event)) => {
                if let Some(member) = members.get(event.id()) {
                    forget(member);
                    take(crew, member, &recorder, &janitor, &mut outcome, event);
                }
            }
            Some(Wake::AllEnded) => all_ended = true,
            Some(Wake::Namespaces) => namespaces_made = true,
            Some(wake @ (Wake::Stop | Wake::Forsaken)) => {
                context.cancel.request();
                outcome.given_up |= all_started.is_some() || matches!(wake, Wake::Forsaken);
                outcome.cancelled = true;
                bar.set_message("stopping");
                cancel.cancel();
            }
            Some(Wake::Recorded) | None => {}
        }
        bar.set_position(outcome.started.len() as u64);
        let ended = outcome.exited.len() + outcome.failed.len();
        if !outcome.cancelled {
            bar.set_message(format!("{ended} ended"));
        }
        if outcome.settled() < total {
            continue;
        }
        if let Some(ahead) = namespaces.take_if(|_| namespaces_made) {
            made(ahead);
            // Some were made for launches that had been faster.
            crew.members.iter().for_each(forget);
        }
        // Recorded first: whoever has been told of a container finds it.
        if recorder.is_done() {
            untold_since = None;
            if let Some(call) = all_started.take() {
                call(&outcome)?;
            }
        } else if crew.keep && all_started.is_some() && !outcome.cancelled {
            let since = *untold_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= TELLING {
                return Err(Advised::new(
                    "the containers started and could not be recorded for a minute; they are taken back",
                    "see what holds the state root's plywood.db, or whether its file system is full, and run it again",
                )
                .into());
            }
        }
    }
    bar.finish_and_clear();
    if let Err(error) = launcher.finish() {
        tracing::warn!(error = &error as &dyn std::error::Error, "ending the launcher");
    }
    recorder.finish();
    outcome.removed = janitor.finish();
    if let Some(ahead) = namespaces {
        made(ahead);
    }
    Ok(outcome)
}

/// Whoever needed a user namespace that could not be made ahead has made it, or says why not.
fn made(ahead: JoinHandle<Result<(), SyscallError>>) {
    match ahead.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "user namespaces"),
        Err(_) => tracing::error!("the thread that makes user namespaces panicked"),
    }
}

/// What an event means for the records of a container.
fn take(
    crew: &Crew,
    member: &Member,
    recorder: &Recorder,
    janitor: &Janitor,
    outcome: &mut Outcome,
    event: Event,
) {
    let container = &member.id;
    match event {
        Event::Started { id, pid, timing } => {
            // A process that has ended already has no identity; its exit follows.
            if let Some(process) = u32::try_from(pid).ok().and_then(|pid| ProcessId::of(pid).ok()) {
                recorder.note(News::Started(container.clone(), process, output::ms(timing.total())));
            }
            outcome.started.insert(id, timing);
        }
        Event::Exited { id, code } => {
            recorder.note(News::Exited(container.clone(), code));
            if !crew.keep {
                janitor.take(container.clone());
            }
            outcome.exited.insert(id, code);
        }
        // What never ran is kept for nobody.
        Event::Failed { id, error } => {
            janitor.take(container.clone());
            outcome.failed.insert(id, error);
        }
        Event::Cancelled { id } => {
            janitor.take(container.clone());
            outcome.failed.insert(id, LaunchError::Cancelled);
        }
    }
}

/// What the containers of a run have in common. Paths, volumes and network are those of a trial.
pub fn bundle_request<'a>(settings: &Settings, program: &'a Program, id_map: IdMap) -> BundleRequest<'a> {
    BundleRequest {
        image: &program.config,
        overrides: settings.overrides.clone(),
        user: program.user.clone(),
        id_map,
        user_namespace: None,
        rootfs: PathBuf::from("/"),
        read_only: settings.read_only,
        net: bundle::Net::None,
        cgroup_mount: CgroupMount::default(),
        volumes: Vec::new(),
        resources: settings.resources.clone(),
        rlimits: settings.rlimits.clone(),
        cgroups_path: PathBuf::from("/"),
        capabilities: settings.capabilities.clone(),
        seccomp: SeccompProfile::Default,
    }
}

/// On a launcher thread: root file system, volumes, bundle, standard streams.
fn prepare(shared: &Shared, member: &Member) -> Result<Prepared, PrepareError> {
    let map = member.map();
    let user_ns = shared.assembly.user_namespaces.get(&map)?;
    member.make_snapshot(&shared.store)?;
    let settings = &shared.settings;
    let mut volumes = Vec::new();
    let mut volume_mounts = Vec::new();
    for (index, volume) in settings.volumes.iter().enumerate() {
        let (clone, mount) = clone_volume(volume, index, &user_ns, &shared.directories)?;
        volumes.push(clone);
        volume_mounts.push(mount);
    }
    let mut request = bundle_request(settings, &shared.program, map.clone());
    request.overrides.hostname.get_or_insert_with(|| member.id.short().to_owned());
    // The pool keeps the descriptor open until the container has started, or never will.
    let number = user_ns.as_fd().as_raw_fd();
    request.user_namespace = Some(PathBuf::from(format!("/proc/{}/fd/{number}", std::process::id())));
    request.rootfs = shared.directories.rootfs();
    request.net = network(settings.net, &member.bundle);
    request.volumes = volume_mounts;
    request.cgroups_path = Cgroups::path_for(member.id.as_str());
    let spec = bundle::spec(&request)?;
    bundle::write(&member.bundle, &spec)?;
    copy_name_service(&request.net)?;
    let rootfs = shared.assembly.assemble(member.id.as_str(), &map, &member.snapshot)?;
    let stdio = stdio(settings, member)?;
    Ok(Prepared { rootfs: Root::Assembled(rootfs), volumes, bundle: member.bundle.clone(), stdio })
}

/// What the container sees of the network. With the host's, its name service is a copy of the host's, for the files
/// themselves may lie on mounts that the launch namespace does not have (`/run/systemd/resolve`).
fn network(wanted: Net, bundle: &Path) -> bundle::Net {
    match wanted {
        Net::None => bundle::Net::None,
        Net::Host => {
            let copy = |name: &str| Path::new("/etc").join(name).exists().then(|| bundle.join(name));
            bundle::Net::Host { resolv_conf: copy("resolv.conf"), hosts: copy("hosts") }
        }
    }
}

fn copy_name_service(net: &bundle::Net) -> anyhow::Result<()> {
    let bundle::Net::Host { resolv_conf, hosts } = net else { return Ok(()) };
    for copy in [resolv_conf, hosts].into_iter().flatten() {
        let original = Path::new("/etc").join(copy.file_name().context("a copy without a name")?);
        std::fs::copy(&original, copy).with_context(|| format!("copying {}", original.display()))?;
    }
    Ok(())
}

/// One container talks with us, many only write, detached ones write to a file.
fn stdio(settings: &Settings, member: &Member) -> anyhow::Result<Stdio> {
    if !settings.detached {
        let stdin = if settings.count == 1 { Stream::Inherit } else { Stream::Null };
        let stdout = if settings.output_to_stderr {
            Stream::Fd(std::io::stderr().as_fd().try_clone_to_owned()?)
        } else {
            Stream::Inherit
        };
        return Ok(Stdio { stdin, stdout, stderr: Stream::Inherit });
    }
    let path = member.log();
    let log: File = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    Ok(Stdio {
        stdin: Stream::Null,
        stdout: Stream::Fd(log.try_clone()?.into()),
        stderr: Stream::Fd(log.into()),
    })
}
