//! A launcher thread: prepares, attaches, spawns.
//!
//! Between launches it is in the namespace the launcher was started from. One that cannot go back there ends, and the
//! others go on; the last one stays and fails whatever is queued.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::process;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use plywood_kernel::{MountNs, Reaper};
use std::os::unix::process::CommandExt as _;

use super::queue::Shared;
use super::supervisor::Spawned;
use super::{
    Event, Launch, LaunchError, LauncherConfig, LauncherError, PrepareError, Prepared, Stream, Template,
    Timing,
};
use crate::runtime::{RunRequest, show};

/// The file in a bundle that the runtime logs to.
pub(super) const LOG: &str = "runtime.log";

#[derive(Debug)]
pub(super) struct Worker {
    config: Arc<LauncherConfig>,
    shared: Arc<Shared>,
    events: Sender<Event>,
    template: Arc<Template>,
    home: MountNs,
    reaper: Reaper,
    /// It could not go back home.
    lost: Cell<bool>,
}

impl Worker {
    /// Remembers the caller's namespace as the one to prepare in.
    pub(super) fn new(
        config: Arc<LauncherConfig>,
        shared: Arc<Shared>,
        events: Sender<Event>,
        template: Arc<Template>,
    ) -> Result<Worker, LauncherError> {
        let (home, reaper) = (MountNs::current()?, Reaper::start()?);
        shared.enlist();
        Ok(Worker { config, shared, events, template, home, reaper, lost: Cell::new(false) })
    }

    pub(super) fn run(self) {
        while let Some((launch, submitted)) = self.shared.next() {
            let id = launch.id.clone();
            let event = match self.launch(launch, submitted) {
                Ok(Some(spawned)) => {
                    self.shared.hand_over(spawned);
                    None
                }
                Ok(None) => Some(Event::Cancelled { id }),
                Err(error) => Some(Event::Failed { id, error }),
            };
            if let Some(event) = event {
                // A receiver that is gone does not want to know.
                let _unwanted = self.events.send(event);
                self.shared.ended_on_thread();
            }
            if self.lost.get() && self.shared.retire() {
                return;
            }
        }
    }

    /// `None` if cancelled before the runtime was started.
    fn launch(&self, launch: Launch, submitted: Instant) -> Result<Option<Spawned>, LaunchError> {
        if self.shared.is_cancelled() {
            return Ok(None);
        }
        if self.lost.get() {
            return Err(LaunchError::Stranded);
        }
        let Launch { id, prepare } = launch;
        let mut clock = Clock(submitted);
        let mut timing = Timing { queued: clock.lap(), ..Timing::default() };

        let prepared = std::panic::catch_unwind(AssertUnwindSafe(prepare))
            .unwrap_or_else(|_| Err(PrepareError::from("it panicked")))
            .map_err(LaunchError::Prepare)?;
        timing.prepare = clock.lap();

        if !self.shared.take_slot() {
            return Ok(None);
        }
        timing.slot = clock.lap();
        let spawned = self.start(id, prepared, timing, clock);
        if spawned.is_err() {
            self.shared.free_slot();
        }
        spawned.map(Some)
    }

    fn start(
        &self,
        id: String,
        prepared: Prepared,
        mut timing: Timing,
        mut clock: Clock,
    ) -> Result<Spawned, LaunchError> {
        let entered = self.template.enter_with(&prepared);
        timing.attach = clock.lap();
        let spawned = entered.map_err(LaunchError::from).and_then(|()| {
            let child = self.spawn(&id, &prepared)?;
            timing.spawn = clock.lap();
            let log = prepared.bundle.join(LOG);
            Ok(Spawned { id, child, log, timing, spawned: Instant::now() })
        });
        // Whatever happened: the next launch is prepared where the launcher was started. A thread that cannot go
        // back must not go on.
        if let Err(error) = self.home.enter() {
            tracing::error!(%error, "leaving a launch namespace");
            self.lost.set(true);
        }
        self.reaper.close(prepared.rootfs.into_fd());
        for volume in prepared.volumes {
            self.reaper.close(volume.mount);
        }
        spawned
    }

    fn spawn(&self, id: &str, prepared: &Prepared) -> Result<process::Child, LaunchError> {
        let pid_file = self.config.directories.pids().join(id);
        // One left by a crash would be taken for this container's.
        match std::fs::remove_file(&pid_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(LaunchError::Spawn {
                    command: format!("rm {}", pid_file.display()),
                    source: error,
                });
            }
            _ => {}
        }
        let log = prepared.bundle.join(LOG);
        let mut command = self.config.runtime.run_command(&RunRequest {
            id,
            bundle: &prepared.bundle,
            pid_file: &pid_file,
            log: &log,
            mode: self.config.mode,
        });
        let stdio = &prepared.stdio;
        let failed =
            |source| LaunchError::Spawn { command: self.config.runtime.path().display().to_string(), source };
        command
            .stdin(stdio.stdin.to_process().map_err(failed)?)
            .stdout(stdio.stdout.to_process().map_err(failed)?)
            .stderr(stdio.stderr.to_process().map_err(failed)?);
        // The terminal's Ctrl-C reaches every process of the foreground group: a runtime halfway through its work
        // would die of it and leave things behind. One that reads the terminal has to stay in that group.
        if !matches!(stdio.stdin, Stream::Inherit) {
            command.process_group(0);
        }
        command.spawn().map_err(|source| LaunchError::Spawn { command: show(&command), source })
    }
}

impl Stream {
    fn to_process(&self) -> std::io::Result<process::Stdio> {
        Ok(match self {
            Stream::Null => process::Stdio::null(),
            Stream::Inherit => process::Stdio::inherit(),
            Stream::Fd(fd) => process::Stdio::from(fd.try_clone()?),
        })
    }
}

/// Time since the last lap.
struct Clock(Instant);

impl Clock {
    fn lap(&mut self) -> std::time::Duration {
        let now = Instant::now();
        let lap = now.duration_since(self.0);
        self.0 = now;
        lap
    }
}
