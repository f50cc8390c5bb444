//! The thread that waits: for process id files, for runtimes and for containers, all in one `epoll`.
//!
//! ```text
//!              pid file, or exit 0 with one              attached: the runtime exits
//!  Starting ──────────────────────────────> Running ──────────────────────────────────> Exited
//!     │            Started, slot freed         │ detached: the first process exits
//!     │ the runtime exits, no pid file         v
//!     └──────────────────────────────────> Deleting ── runtime delete exits ──> Exited or Failed
//! ```
//! Before the last step processes left in the container's control groups are killed; one that takes its time to die
//! makes its own container's event wait, and no other's.
//!
//! A runtime that is not done in time, starting or deleting, is killed; its container is deleted by force.
//!
//! A process that cannot be watched, because descriptors have run out, is looked at every [`POLL`] instead; so is all of it
//! if the kernel refuses to wait. Whatever is missing, every container ends in its event.

mod child;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use std::os::fd::{AsFd, OwnedFd};

use super::inbox::{Arrivals, PidInbox};
use super::queue::Shared;
use super::{Event, LaunchError, LauncherConfig, LauncherError, Timing};
use crate::cgroup::{CgroupError, Cgroups, KILL_PATIENCE};
use crate::runtime::{RunMode, read_log};
use child::{Ended, FirstProcess, RuntimeProcess};

/// How long a runtime may take after a cancellation before it is killed itself.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

/// How often processes are looked at that cannot be watched.
const POLL: Duration = Duration::from_millis(50);

/// How long `runtime delete` is tried when its process cannot be made.
const DELETE_PATIENCE: Duration = Duration::from_secs(10);

/// News taken at once.
const EVENTS: usize = 64;

const WAKE: u64 = u64::MAX;
const INBOX: u64 = u64::MAX - 1;

/// A runtime a launcher thread has just started.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) id: String,
    pub(super) child: Child,
    pub(super) log: PathBuf,
    pub(super) timing: Timing,
    pub(super) spawned: Instant,
}

#[derive(Debug)]
struct Container {
    id: String,
    log: PathBuf,
    timing: Timing,
    spawned: Instant,
    /// Known once it runs.
    pid: Option<i32>,
    /// Its runtime was killed because it did not start it in time.
    overdue: bool,
    /// When patience with the runtime at work ends.
    due: Instant,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The runtime is at work; with an attached one it stays so while the container runs.
    Runtime(RuntimeProcess),
    /// The runtime has left, the container's first process is our child.
    Alone(FirstProcess),
    /// `runtime delete` is at work; then this is what to report.
    Deleting(RuntimeProcess, Event),
    /// `runtime delete` could not be started; tried again until then.
    Undeleted(Instant, Event),
    /// The runtime has let go, and processes are left in the container's groups; killed again until then.
    Emptying(Instant, Event),
}

#[derive(Debug)]
pub(super) struct Supervisor {
    config: Arc<LauncherConfig>,
    shared: Arc<Shared>,
    events: Sender<Event>,
    cgroups: Cgroups,
    /// None once the kernel has refused to wait.
    epoll: Option<OwnedFd>,
    inbox: PidInbox,
    containers: HashMap<u64, Container>,
    /// Containers with a process or a process id file that could not be watched or read.
    unwatched: BTreeSet<u64>,
    /// When patience with a runtime ends, by container; those that were quicker are still in it.
    due: BTreeSet<(Instant, u64)>,
    next_token: u64,
    /// When patience ends; set by the first look at a cancellation.
    deadline: Option<Instant>,
}

impl Supervisor {
    pub(super) fn new(
        config: Arc<LauncherConfig>,
        shared: Arc<Shared>,
        events: Sender<Event>,
        cgroups: Cgroups,
    ) -> Result<Supervisor, LauncherError> {
        let failed =
            |errno: Errno| LauncherError::Io { doing: "making an epoll descriptor", source: errno.into() };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let inbox = PidInbox::open(config.directories.pids())?;
        epoll::add(&epoll, &shared.wake, EventData::new_u64(WAKE), EventFlags::IN).map_err(failed)?;
        epoll::add(&epoll, &inbox.watch, EventData::new_u64(INBOX), EventFlags::IN).map_err(failed)?;
        Ok(Supervisor {
            config,
            shared,
            events,
            cgroups,
            epoll: Some(epoll),
            inbox,
            containers: HashMap::new(),
            unwatched: BTreeSet::new(),
            due: BTreeSet::new(),
            next_token: 0,
            deadline: None,
        })
    }

    pub(super) fn run(mut self) {
        let mut ready = Vec::with_capacity(EVENTS);
        while !self.is_done() {
            for token in self.wait(&mut ready) {
                match token {
                    WAKE => self.woken(),
                    INBOX => self.pid_files_arrived(),
                    token => self.process_ended(token),
                }
            }
            for token in self.unwatched.clone() {
                self.process_ended(token);
            }
            self.enforce_deadlines();
            self.enforce_cancellation();
        }
    }

    /// What has happened, as far as that can be told.
    fn wait(&mut self, ready: &mut Vec<epoll::Event>) -> Vec<u64> {
        let timeout = self.timeout();
        if let Some(epoll) = &self.epoll {
            ready.clear();
            match epoll::wait(epoll, rustix::buffer::spare_capacity(ready), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {
                    let mut tokens: Vec<u64> = ready.iter().map(|event| event.data.u64()).collect();
                    // News of starts comes before news of ends.
                    tokens.sort_unstable_by_key(|&token| std::cmp::Reverse(token));
                    return tokens;
                }
                Err(errno) => {
                    tracing::error!(%errno, "waiting for containers; they are looked at now and then instead");
                    self.unwatched.extend(self.containers.keys());
                    self.epoll = None;
                }
            }
        } else {
            std::thread::sleep(POLL);
        }
        vec![WAKE, INBOX]
    }

    fn is_done(&self) -> bool {
        self.shared.no_more() && self.containers.is_empty()
    }

    fn timeout(&self) -> Option<Timespec> {
        let next_due = self.due.first().map(|(due, _)| *due);
        let patience =
            self.deadline.into_iter().chain(next_due).min().map(|deadline| {
                deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1)
            });
        let poll = (!self.unwatched.is_empty()).then_some(POLL);
        Timespec::try_from(patience.into_iter().chain(poll).min()?).ok()
    }

    fn woken(&mut self) {
        let mut counter = [0_u8; 8];
        match rustix::io::read(&self.shared.wake, &mut counter) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => tracing::error!(%errno, "reading the wake-up counter"),
        }
        for spawned in self.shared.take_spawned() {
            self.adopt(spawned);
        }
    }

    fn adopt(&mut self, spawned: Spawned) {
        let Spawned { id, child, log, timing, spawned } = spawned;
        let token = self.next_token;
        self.next_token += 1;
        let runtime = RuntimeProcess::new(child);
        self.watch(token, &runtime.as_fd(), &id);
        let phase = Phase::Runtime(runtime);
        let due = spawned + self.config.start_timeout;
        self.due.insert((due, token));
        let container = Container { id, log, timing, spawned, pid: None, overdue: false, due, phase };
        self.containers.insert(token, container);
        // It may have been faster than we were.
        self.note_start(token);
    }

    fn watch(&mut self, token: u64, fd: &Result<impl AsFd, Errno>, id: &str) {
        let Some(epoll) = &self.epoll else {
            self.unwatched.insert(token);
            return;
        };
        let added = match fd {
            Ok(fd) => epoll::add(epoll, fd, EventData::new_u64(token), EventFlags::IN),
            Err(errno) => Err(*errno),
        };
        if let Err(errno) = added {
            tracing::warn!(%errno, id, "watching a process; it is looked at now and then instead");
            self.unwatched.insert(token);
        }
    }

    fn pid_files_arrived(&mut self) {
        let arrivals = self.inbox.arrivals().unwrap_or_else(|errno| {
            tracing::error!(%errno, "reading the watch on process id files");
            Arrivals::Unknown
        });
        let mut starting: Vec<u64> = self
            .containers
            .iter()
            .filter(|(_, container)| container.pid.is_none())
            .filter(|(_, container)| match &arrivals {
                Arrivals::Of(names) => names.contains(&container.id),
                Arrivals::Unknown => true,
            })
            .map(|(&token, _)| token)
            .collect();
        starting.sort_unstable();
        for token in starting {
            self.note_start(token);
        }
    }

    /// Reports a start if there is a process id file; true if the container has run.
    fn note_start(&mut self, token: u64) -> bool {
        let Some(container) = self.containers.get_mut(&token) else { return false };
        if container.pid.is_some() {
            return true;
        }
        let pid = match self.inbox.pid(&container.id) {
            Ok(Some(pid)) => pid,
            Ok(None) => return false,
            Err(error) => {
                if self.unwatched.insert(token) {
                    tracing::warn!(%error, id = container.id, "reading a process id file; it is tried again");
                }
                return false;
            }
        };
        container.pid = Some(pid);
        container.timing.runtime = container.spawned.elapsed();
        let event = Event::Started { id: container.id.clone(), pid, timing: container.timing };
        self.shared.free_slot();
        self.send(event);
        true
    }

    fn process_ended(&mut self, token: u64) {
        let has_run = self.note_start(token);
        let Some(mut container) = self.containers.remove(&token) else { return };
        let was_deleting = matches!(container.phase, Phase::Deleting(..));
        container.phase = match container.phase {
            Phase::Runtime(mut runtime) => match runtime.ended() {
                None => Phase::Runtime(runtime),
                Some(ended) => {
                    if !has_run {
                        self.shared.free_slot();
                    }
                    let (id, log) = (&container.id, &container.log);
                    match self.runtime_ended(id, log, container.pid, container.overdue, &ended) {
                        Next::Report(event) => match self.done(token, &container.id, event, None) {
                            Some(phase) => phase,
                            None => return,
                        },
                        Next::Wait(first) => {
                            self.watch(token, &first.as_fd(), &container.id);
                            Phase::Alone(first)
                        }
                        Next::Delete(event) => match self.delete(token, &container.id, event, None) {
                            Some(phase) => phase,
                            None => return,
                        },
                    }
                }
            },
            Phase::Alone(first) => match first.ended() {
                None => Phase::Alone(first),
                Some(code) => {
                    let event = Event::Exited { id: container.id.clone(), code };
                    match self.delete(token, &container.id, event, None) {
                        Some(phase) => phase,
                        None => return,
                    }
                }
            },
            Phase::Deleting(mut runtime, event) => match runtime.ended() {
                None => Phase::Deleting(runtime, event),
                Some(_) => match self.done(token, &container.id, event, None) {
                    Some(phase) => phase,
                    None => return,
                },
            },
            Phase::Undeleted(until, event) => match self.delete(token, &container.id, event, Some(until)) {
                Some(phase) => phase,
                None => return,
            },
            Phase::Emptying(until, event) => match self.done(token, &container.id, event, Some(until)) {
                Some(phase) => phase,
                None => return,
            },
        };
        if matches!(container.phase, Phase::Deleting(..)) && !was_deleting {
            container.due = Instant::now() + self.config.start_timeout;
            self.due.insert((container.due, token));
        }
        self.containers.insert(token, container);
    }

    /// What a runtime's end means for the container it started.
    fn runtime_ended(&self, id: &str, log: &Path, pid: Option<i32>, overdue: bool, ended: &Ended) -> Next {
        let id = id.to_owned();
        match (pid, ended, self.config.mode) {
            (Some(_), Ended::Exited(code), RunMode::Attached) => {
                Next::Report(Event::Exited { id, code: *code })
            }
            // A killed runtime has not cleaned up.
            (Some(_), Ended::Killed(signal), RunMode::Attached) => {
                Next::Delete(Event::Exited { id, code: 128 + signal })
            }
            (Some(pid), Ended::Exited(0), RunMode::Detached) => match FirstProcess::adopt(pid) {
                Ok(first) => Next::Wait(first),
                Err(errno) => {
                    tracing::error!(%errno, id, pid, "waiting for a container");
                    Next::Delete(Event::Exited { id, code: 125 })
                }
            },
            (_, ended, _) => Next::Delete(Event::Failed { id, error: self.failure(log, overdue, ended) }),
        }
    }

    fn failure(&self, log: &Path, overdue: bool, ended: &Ended) -> LaunchError {
        if self.shared.is_cancelled() {
            return LaunchError::Cancelled;
        }
        if overdue {
            let runtime = self.config.runtime.name().to_owned();
            return LaunchError::Overdue { runtime, after: self.config.start_timeout };
        }
        let logged = read_log(log).unwrap_or_else(|error| {
            tracing::warn!(%error, log = %log.display(), "reading a runtime's log");
            None
        });
        let silent = || LaunchError::Silent(format!("{} {ended}", self.config.runtime.name()));
        logged.map_or_else(silent, LaunchError::Runtime)
    }

    /// Starts deleting a container, or puts it off: `until` says how long that has been decided. `None` if that ended
    /// at once.
    fn delete(&mut self, token: u64, id: &str, event: Event, until: Option<Instant>) -> Option<Phase> {
        let command = self.config.runtime.delete_command(id, true);
        match self.config.runtime.apart(|| RuntimeProcess::spawn(command)).flatten() {
            Ok(runtime) => {
                self.watch(token, &runtime.as_fd(), id);
                Some(Phase::Deleting(runtime, event))
            }
            // A container that is left alone runs on: others give back descriptors and processes meanwhile.
            Err(error) if until.is_none_or(|until| Instant::now() < until) => {
                let until = until.unwrap_or_else(|| {
                    tracing::warn!(%error, id, "deleting a container; it is tried again");
                    Instant::now() + DELETE_PATIENCE
                });
                self.unwatched.insert(token);
                Some(Phase::Undeleted(until, event))
            }
            Err(error) => {
                tracing::error!(%error, id, "deleting a container");
                self.done(token, id, event, None)
            }
        }
    }

    /// The runtime has let go of a container. Its groups are gone by now; if the runtime could not remove them, or was
    /// killed, ours is the last word: said again and again without keeping others waiting, until `until`. `None` once
    /// that is over and reported.
    fn done(&mut self, token: u64, id: &str, event: Event, until: Option<Instant>) -> Option<Phase> {
        match self.cgroups.try_remove(id) {
            Ok(None) => {}
            Ok(Some(_)) if until.is_none_or(|until| Instant::now() < until) => {
                self.unwatched.insert(token);
                return Some(Phase::Emptying(until.unwrap_or_else(|| Instant::now() + KILL_PATIENCE), event));
            }
            Ok(Some(busy)) => {
                let error = CgroupError::StillBusy(busy);
                tracing::error!(%error, id, "removing a container's control groups");
            }
            Err(error) => tracing::error!(%error, id, "removing a container's control groups"),
        }
        self.unwatched.remove(&token);
        self.inbox.remove(id);
        self.send(event);
        None
    }

    fn send(&self, event: Event) {
        // A receiver that is gone does not want to know.
        let _unwanted = self.events.send(event);
    }

    /// Kills runtimes that have taken too long: to start a container, or to delete it.
    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        while let Some(&(due, token)) = self.due.first() {
            let container = self.containers.get_mut(&token).filter(|container| container.due == due);
            let at_work = container.and_then(|container| match &mut container.phase {
                Phase::Runtime(runtime) if container.pid.is_none() => Some((runtime, &mut container.overdue)),
                Phase::Deleting(runtime, _) => Some((runtime, &mut container.overdue)),
                _ => None,
            });
            if let Some((runtime, overdue)) = at_work {
                if now < due {
                    return;
                }
                *overdue = true;
                runtime.kill();
            }
            self.due.pop_first();
        }
    }

    /// Kills what runs; what is still starting is killed once it runs. When patience ends, whatever runtime is left is
    /// killed, and its container deleted.
    fn enforce_cancellation(&mut self) {
        if !self.shared.is_cancelled() {
            return;
        }
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + CANCEL_PATIENCE);
        for container in self.containers.values_mut() {
            match (&mut container.phase, container.pid) {
                (Phase::Alone(first), _) => first.kill(),
                (Phase::Runtime(runtime) | Phase::Deleting(runtime, _), _) if now >= deadline => {
                    runtime.kill()
                }
                (Phase::Runtime(runtime), Some(pid)) => runtime.kill_container(pid),
                (Phase::Runtime(_) | Phase::Deleting(..) | Phase::Undeleted(..) | Phase::Emptying(..), _) => {
                }
            }
        }
        if now >= deadline {
            self.deadline = Some(now + CANCEL_PATIENCE);
        }
    }
}

/// What comes after a runtime's end.
#[derive(Debug)]
enum Next {
    Report(Event),
    Wait(FirstProcess),
    Delete(Event),
}
