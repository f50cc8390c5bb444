//! `plywood exec`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use plywood_engine::bundle::{self, BundleError, ExecOverrides};
use plywood_engine::runtime::{ExecRequest, read_log};
use plywood_engine::users::ContainerUser;
use plywood_kernel::{ProcessId, SignalFd};
use plywood_store::{Container, ContainerState, Store};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::account;
use crate::args::Exec;
use crate::context::Context;
use crate::remedy::{Advised, Interrupted, Usage};

/// How long a command may go on after it was told to end; then it is killed, and after as long again its runtime.
const PATIENCE: Duration = Duration::from_secs(10);
/// Signals closer together than this are one: `timeout` sends its own twice.
const ONE: Duration = Duration::from_secs(1);

/// Runs one more process in a container; its exit code is ours. What cannot be started is 126 or 127, as in a shell:
/// the runtime has said on standard error what it is.
pub fn run(context: &Context, args: &Exec) -> anyhow::Result<ExitCode> {
    context.refuse_json("exec", "what its command writes")?;
    let store = context.store()?;
    let container = store.find_container(&args.container)?;
    if container.state != ContainerState::Running {
        return Err(Advised::new(
            format!("container {} is {}, not running", container.id.short(), container.state),
            "`plywood ps` lists those that run",
        )
        .into());
    }
    let wanted = ExecOverrides {
        argv: args.command.clone(),
        env: args.env.clone(),
        workdir: args.workdir.clone(),
        user: args.user.as_deref().map(|user| resolve(&store, &container, user)).transpose()?,
    };
    if let Some(path) = &wanted.workdir {
        has_directory(&container, path)?;
    }
    let spec = bundle::read(&container.bundle)
        .with_context(|| format!("reading the configuration of container {}", container.id.short()))?;
    let process = bundle::exec(&spec, &wanted).map_err(|error| match error {
        BundleError::Build(_) | BundleError::NoProcess => anyhow::Error::new(error),
        of_the_arguments => Usage(of_the_arguments.to_string()).into(),
    })?;
    let runtime = super::containers::runtime_of(context, &container)?;
    let files = Files::new(&container.bundle);
    // Those of an earlier process of this number, which was killed.
    files.remove()?;
    let signals = SignalFd::open(&[Signal::INT, Signal::TERM, Signal::HUP])?;
    context.heed()?;
    let request = ExecRequest { process: &files.process, pid_file: &files.pid, log: &files.log };
    let mut command = runtime.exec_command(container.id.as_str(), &request);
    let attended = bundle::write_process(&files.process, &process)
        .with_context(|| format!("writing {}", files.process.display()))
        .and_then(|()| {
            let spawned = runtime.start_apart(|| command.spawn()).flatten();
            let mut child = spawned.with_context(|| format!("running {}", runtime.path().display()))?;
            attend(&mut child, &signals, &files.pid)
        });
    let failure = read_log(&files.log).with_context(|| format!("reading {}", files.log.display()));
    files.remove()?;
    let (status, failure) = (attended?, failure?);
    let code = match failure {
        Some(failure) if !status.success() => Some(failure.exit_code()),
        _ => status.code(),
    };
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// As `run --user` does, from the files of the image.
fn resolve(store: &Store, container: &Container, wanted: &str) -> anyhow::Result<ContainerUser> {
    let image = store.image_by_digest(&container.image)?.context("the image of the container is gone")?;
    let user = account::resolve(&store.merged(&image.layer_ids())?, wanted)?;
    let lease = container.lease.as_ref().context("the container has no host ids")?;
    let groups = std::iter::once(user.gid).chain(user.groups.iter().copied());
    let ids = groups.map(|group| ("group", group, lease.gid)).chain([("user", user.uid, lease.uid)]);
    for (kind, id, range) in ids {
        anyhow::ensure!(
            id < range.length,
            "--user: {kind} {id} is outside the container's {} ids",
            range.length
        );
    }
    Ok(user)
}

/// The runtime would only say that it cannot go there. What else is wrong with it, the runtime finds.
fn has_directory(container: &Container, path: &str) -> Result<(), Advised> {
    let Some(process) = &container.process else { return Ok(()) };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::open(format!("/proc/{}/root", process.pid), flags, Mode::empty())
        .and_then(|root| rustix::fs::openat2(root, path, flags, Mode::empty(), within));
    let what = match found {
        Err(Errno::NOENT) => "there is no",
        Err(Errno::NOTDIR) => "not a directory:",
        _ => return Ok(()),
    };
    let short = container.id.short();
    Err(Advised::new(
        format!("--workdir: {what} {path} in container {short}"),
        format!("name one that is there, or make it first: `plywood exec {short} mkdir -p {path}`"),
    ))
}

/// Waits for the runtime. What another process sends to us is passed on to the command, which then has [`PATIENCE`] to
/// end; a second request ends that. Signals of the terminal reach the runtime by themselves.
fn attend(child: &mut Child, signals: &SignalFd, pid_file: &Path) -> anyhow::Result<ExitStatus> {
    let runtime = Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(runtime, PidfdFlags::empty()).context("watching the runtime")?;
    let (mut told, mut killed) = (None::<Instant>, None::<Instant>);
    loop {
        if let Some(status) = child.try_wait().context("waiting for the runtime")? {
            return match told {
                Some(_) => Err(Interrupted("interrupted, and the command with it".to_owned()).into()),
                None => Ok(status),
            };
        }
        // Without an end while nobody wants the command to end.
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut ready = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match poll(&mut ready, told.map(|_| &tick)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("waiting for the runtime"),
        }
        let mut enough = told.is_some_and(|since| since.elapsed() > PATIENCE);
        while let Some(caught) = signals.next()? {
            match told {
                _ if caught.by_kernel => {}
                None => {
                    // Not waited for yet, so its pid is its own.
                    rustix::process::kill_process(runtime, caught.signal).context("stopping the runtime")?;
                    told = Some(Instant::now());
                }
                Some(since) => enough |= since.elapsed() > ONE,
            }
        }
        if !enough {
            continue;
        }
        let since = *killed.get_or_insert_with(Instant::now);
        if !kill(child, pid_file) || since.elapsed() > PATIENCE {
            child.kill().context("ending the runtime")?;
        }
    }
}

/// Kills the command in the container; false if there is none. The runtime then ends by itself.
fn kill(runtime: &Child, pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse().ok());
    let Some(process) = pid.and_then(|pid| ProcessId::of(pid).ok()) else { return false };
    // Its pid may be another's as soon as the runtime has waited for it.
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
    parent == Some(runtime.id().to_string().as_str()) && process.signal(Signal::KILL).unwrap_or(false)
}

/// What the runtime reads and writes in the bundle of the container.
struct Files {
    process: PathBuf,
    pid: PathBuf,
    log: PathBuf,
}

impl Files {
    fn new(bundle: &Path) -> Files {
        let name = |ending: &str| bundle.join(format!("exec-{}.{ending}", std::process::id()));
        Files { process: name("json"), pid: name("pid"), log: name("log") }
    }

    fn remove(&self) -> anyhow::Result<()> {
        for file in [&self.process, &self.pid, &self.log] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
