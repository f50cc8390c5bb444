//! The launches of one round.
//!
//! Threads are started first and wait at a gate, so that none of the cost of starting them is measured. What becomes of
//! a container is written into a place of its own: while launches are under way, no thread wakes another but to say
//! that all are done.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plywood_kernel::{SyscallError, affinity};

use super::pace::Moments;
use super::{Storm, StormError};
use crate::arm::Arm;
use crate::bystander::Bystanders;
use crate::launcher::{LaunchFailure, Launched, Launcher};
use crate::threads::{self, ThreadsError};

/// How often requests to stop and hanging launches are looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Of launches that were too late; how late, their time says.
const LATE: &str = "it was there only after the timeout";
/// Of launches that are not waited for any longer.
const HANGS: &str = "its launch has not returned";

/// What became of one container.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) due: Instant,
    /// There, or failed.
    pub(super) ended: Instant,
    pub(super) waited: Duration,
    pub(super) failed: Option<String>,
    /// It was there, but too late.
    pub(super) late: bool,
}

impl Outcome {
    pub(super) fn took(&self) -> Duration {
        self.ended.saturating_duration_since(self.due)
    }
}

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    All,
    Cancelled,
    /// So many launches hang.
    Stuck(usize),
}

/// All launches of a round.
#[derive(Debug)]
pub(super) struct Launches {
    pub(super) start: Instant,
    /// By container. Of a round that hangs, without those that were not begun.
    pub(super) outcomes: Vec<(usize, Outcome)>,
    pub(super) finish: Finish,
}

impl Launches {
    /// From the first container due to the last there or failed.
    pub(super) fn wall(&self) -> Duration {
        let first = self.outcomes.iter().map(|(_, outcome)| outcome.due).min();
        let last = self.outcomes.iter().map(|(_, outcome)| outcome.ended).max();
        match (first, last) {
            (Some(first), Some(last)) => last.saturating_duration_since(first),
            _ => Duration::ZERO,
        }
    }
}

/// Where a container is.
#[derive(Debug, Clone)]
enum Place {
    Waiting,
    Begun { due: Instant, at: Instant },
    Ended(Outcome),
}

/// What the threads of a round share.
#[derive(Debug)]
struct Shared {
    launcher: Arc<dyn Launcher>,
    timeout: Duration,
    moments: Moments,
    places: Vec<Mutex<Place>>,
    next: AtomicUsize,
    gate: Mutex<Gate>,
    /// For the storm's own thread: a thread has come to the gate, or all have ended.
    told: Condvar,
    /// For the launching threads.
    opened: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    ready: usize,
    refused: Option<SyscallError>,
    /// The moment it opened.
    open: Option<Instant>,
    /// The round is not run.
    shut: bool,
    running: usize,
}

/// Starts the threads, opens the gate, waits.
pub(super) fn launches(
    storm: &Storm,
    arm: &Arm,
    launcher: &Arc<dyn Launcher>,
    bystanders: Option<&Bystanders>,
    cancel: &AtomicBool,
) -> Result<Launches, StormError> {
    let threads = storm.threads(arm, &**launcher);
    let shared = Arc::new(Shared {
        launcher: Arc::clone(launcher),
        timeout: storm.timeout,
        moments: Moments::new(&storm.pace, arm.containers, threads),
        places: (0..arm.containers).map(|_| Mutex::new(Place::Waiting)).collect(),
        next: AtomicUsize::new(0),
        gate: Mutex::new(Gate { running: threads, ..Gate::default() }),
        told: Condvar::new(),
        opened: Condvar::new(),
    });
    let mut spawned = Vec::with_capacity(threads);
    for thread in 0..threads {
        let (ours, cpus) = (Arc::clone(&shared), storm.seats.of(thread));
        match threads::spawn("storm-launch", move || ours.work(&cpus)) {
            Ok(handle) => spawned.push(handle),
            Err(error) => {
                shared.shut();
                return Err(error.into());
            }
        }
    }
    let start = shared.open(threads).map_err(ThreadsError::from)?;
    if let Some(bystanders) = bystanders {
        bystanders.begin();
    }
    let finish = shared.wait(storm.grace, cancel);
    if let Some(bystanders) = bystanders {
        bystanders.launched();
    }
    if finish == Finish::All {
        for handle in spawned {
            if handle.join().is_err() {
                tracing::error!("a launching thread panicked");
            }
        }
    }
    Ok(Launches { start, outcomes: shared.outcomes(), finish })
}

impl Shared {
    /// On a launching thread.
    fn work(&self, cpus: &[u32]) {
        let confined = if cpus.is_empty() { Ok(()) } else { affinity::confine_current_thread(cpus) };
        if let Some(start) = self.pass(confined) {
            loop {
                let container = self.next.fetch_add(1, Ordering::Relaxed);
                if container >= self.places.len() {
                    break;
                }
                let Some(due) = self.moments.due(container, start) else { break };
                *lock(&self.places[container]) = Place::Begun { due, at: Instant::now() };
                let launched = std::panic::catch_unwind(AssertUnwindSafe(|| self.launcher.launch(container)))
                    .unwrap_or_else(|_| Err(LaunchFailure::new("the launcher panicked")));
                *lock(&self.places[container]) = Place::Ended(self.outcome(due, launched));
                self.moments.ended();
            }
        }
        let mut gate = lock(&self.gate);
        gate.running -= 1;
        if gate.running == 0 {
            self.told.notify_all();
        }
    }

    fn outcome(&self, due: Instant, launched: Result<Launched, LaunchFailure>) -> Outcome {
        match launched {
            Ok(Launched { there, waited, turn }) => {
                let due = turn.map_or(due, |turn| turn.max(due));
                let took = there.saturating_duration_since(due);
                let late = took > self.timeout;
                let failed = late.then(|| LATE.to_owned());
                Outcome { due, ended: there, waited, failed, late }
            }
            Err(failure) => Outcome {
                due,
                ended: Instant::now(),
                waited: Duration::ZERO,
                failed: Some(failure.to_string()),
                late: false,
            },
        }
    }

    /// Waits at the gate; none if it does not open.
    fn pass(&self, confined: Result<(), SyscallError>) -> Option<Instant> {
        let mut gate = lock(&self.gate);
        gate.ready += 1;
        if let Err(error) = confined {
            gate.refused.get_or_insert(error);
        }
        self.told.notify_all();
        loop {
            if gate.shut {
                return None;
            }
            if let Some(start) = gate.open {
                return Some(start);
            }
            gate = self.opened.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Opens it when all threads wait.
    fn open(&self, threads: usize) -> Result<Instant, SyscallError> {
        let mut gate = lock(&self.gate);
        while gate.ready < threads {
            gate = self.told.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(error) = gate.refused.take() {
            gate.shut = true;
            self.opened.notify_all();
            return Err(error);
        }
        let start = Instant::now();
        gate.open = Some(start);
        self.opened.notify_all();
        Ok(start)
    }

    fn shut(&self) {
        lock(&self.gate).shut = true;
        self.opened.notify_all();
    }

    /// Waits for all threads, a request to stop or a launch that hangs.
    fn wait(&self, grace: Duration, cancel: &AtomicBool) -> Finish {
        let mut cancelled: Option<Instant> = None;
        let mut gate = lock(&self.gate);
        while gate.running > 0 {
            gate = self.told.wait_timeout(gate, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            if cancelled.is_none() && cancel.load(Ordering::Relaxed) {
                cancelled = Some(Instant::now());
                self.moments.stop();
                self.launcher.cancel();
            }
            let stuck = self.hanging(cancelled, grace);
            if stuck > 0 {
                self.moments.stop();
                self.launcher.cancel();
                return Finish::Stuck(stuck);
            }
        }
        if cancelled.is_some() { Finish::Cancelled } else { Finish::All }
    }

    /// How many launches are not waited for any longer.
    fn hanging(&self, cancelled: Option<Instant>, grace: Duration) -> usize {
        let now = Instant::now();
        // Not since it was due, which of a given rate may be long ago.
        let given_up = |begun: Instant| match cancelled {
            Some(since) => now > since + grace,
            None => now > begun + self.timeout + grace,
        };
        let hangs = |place: &Mutex<Place>| matches!(*lock(place), Place::Begun { at, .. } if given_up(at));
        self.places.iter().filter(|place| hangs(place)).count()
    }

    fn outcomes(&self) -> Vec<(usize, Outcome)> {
        let ended = |place: &Mutex<Place>| match &*lock(place) {
            Place::Ended(outcome) => Some(outcome.clone()),
            Place::Begun { due, .. } => Some(Outcome {
                due: *due,
                ended: Instant::now(),
                waited: Duration::ZERO,
                failed: Some(HANGS.to_owned()),
                late: true,
            }),
            Place::Waiting => None,
        };
        self.places.iter().enumerate().filter_map(|(at, place)| Some((at, ended(place)?))).collect()
    }
}

/// A panic elsewhere leaves nothing half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
