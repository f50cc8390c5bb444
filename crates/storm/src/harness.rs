//! The harness: rounds of launches, interleaved over the arms, everything taken back after each.
//!
//! ```text
//! for each round, for each arm (the first one rotates):
//!   prepare ─> threads wait at the gate ─> bystanders ─> gate opens ─> launches ─> hold ─> remove ─> bystanders end
//! ```
//! Round 0 warms up. Latency runs from the moment a container was *due*: all of a burst at the same moment, those that
//! find every thread busy when one becomes free, those of a given rate on time, whoever is free or not.
//!
//! Invariants: whatever ends a storm (its last round, a request to stop, a failure), the round under way is removed, all
//! launchers are closed, and the last line is `end`. A launch that does not return within its timeout and
//! [`Storm::grace`] ends the storm instead of hanging it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use plywood_kernel::{MountNs, SyscallError};
use plywood_node::CpuSet;

use crate::arm::Arm;
use crate::bystander::{self, Observed};
use crate::launcher::{self, Launcher, LauncherError};
use crate::record::{End, Launch, Line, MountOps, Watcher};
use crate::threads::{self, ThreadsError};

mod pace;
mod round;

pub use pace::Pace;
use round::{Finish, Outcome};

/// How launches are released and bounded; the same for all arms.
#[derive(Debug, Clone)]
pub struct Storm {
    /// What is compared.
    pub arms: Vec<Arm>,
    /// Rounds that count.
    pub repeat: u32,
    /// When containers are due.
    pub pace: Pace,
    /// Containers are kept so long before they are removed.
    pub hold: Duration,
    /// A launch that takes longer has failed.
    pub timeout: Duration,
    /// How much longer it may take to return before the storm gives up.
    pub grace: Duration,
    /// Where launching threads run.
    pub seats: Seats,
    /// Paths for bystanders to look up meanwhile, the best first: they take one that every launcher's namespace has, so
    /// that their times can be compared. None for a storm without bystanders.
    pub walks: Vec<PathBuf>,
}

/// CPUs of launching threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seats {
    /// Wherever the scheduler puts them.
    #[default]
    Anywhere,
    /// All of them on these.
    On(CpuSet),
    /// Each keeps to one of these sets, taken in turns: NUMA nodes.
    InTurns(Vec<CpuSet>),
}

impl Seats {
    fn of(&self, thread: usize) -> Vec<u32> {
        match self {
            Self::Anywhere => Vec::new(),
            Self::On(cpus) => cpus.iter().collect(),
            Self::InTurns(sets) => {
                sets.get(thread % sets.len().max(1)).map(|cpus| cpus.iter().collect()).unwrap_or_default()
            }
        }
    }
}

/// What goes on around the launches. Called on the storm's own thread.
pub trait Around {
    /// A fact to write down; an error ends the storm.
    ///
    /// # Errors
    /// It could not be written.
    fn line(&mut self, line: &Line) -> io::Result<()>;

    /// A round begins.
    fn begins(&mut self, _arm: usize, _round: u32) {}
}

/// Why a storm ended early.
#[derive(Debug, thiserror::Error)]
pub enum StormError {
    /// Somebody asked for it.
    #[error("the storm was interrupted")]
    Cancelled,
    /// No threads to launch on.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// A launcher, or what observes.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// What observes the machine meanwhile.
    #[error("observing the machine")]
    Observe(#[from] SyscallError),
    /// A line could not be written down.
    #[error("writing down what was measured")]
    Write(#[source] io::Error),
    /// Not one container of a warm-up started.
    #[error("no container of {arm} starts: {reason}")]
    NothingStarts {
        /// The arm.
        arm: String,
        /// Why the first one does not.
        reason: String,
    },
    /// Launches that hang.
    #[error("{count} launches of {arm} have not returned {after_s:.0} s after they began")]
    Stuck {
        /// The arm.
        arm: String,
        /// How many.
        count: usize,
        /// How long that is.
        after_s: f64,
    },
}

impl Storm {
    /// Runs all rounds, `launchers[n]` for `arms[n]`, and closes the launchers whatever happens. The caller writes the
    /// `run` line before.
    ///
    /// # Errors
    /// [`StormError`]; everything is taken back, except as it says.
    pub fn run(
        &self,
        launchers: &[Arc<dyn Launcher>],
        around: &mut dyn Around,
        cancel: &AtomicBool,
    ) -> Result<(), StormError> {
        let ran = self.rounds(launchers, around, cancel);
        let mut closed = Ok(());
        for launcher in launchers {
            if let Err(error) = launcher.close() {
                // Whoever asked it to stop has to hear what may be left.
                if closed.is_ok() && ran.is_ok() {
                    closed = Err(StormError::from(error));
                } else {
                    tracing::error!(error = &error as &dyn std::error::Error, "closing a launcher");
                }
            }
        }
        let ended = ran.and(closed);
        let reason = ended.as_ref().err().map(|error| launcher::LaunchFailure::of(error).to_string());
        let end = End { complete: ended.is_ok(), reason };
        let written = around.line(&Line::End(end)).map_err(StormError::Write);
        ended.and(written)
    }

    fn rounds(
        &self,
        launchers: &[Arc<dyn Launcher>],
        around: &mut dyn Around,
        cancel: &AtomicBool,
    ) -> Result<(), StormError> {
        let threads = self.arms.iter().zip(launchers).map(|(arm, launcher)| self.threads(arm, &**launcher));
        threads::suffice(threads.max().unwrap_or(0))?;
        let watched = self.watched(launchers)?;
        for round in 0..=self.repeat {
            for index in order(self.arms.len(), round) {
                if cancel.load(Ordering::Relaxed) {
                    return Err(StormError::Cancelled);
                }
                around.begins(index, round);
                self.round(index, round, &launchers[index], watched[index].as_deref(), around, cancel)?;
            }
        }
        Ok(())
    }

    /// Bystanders in the namespace each launcher works in. Counters are opened once for all that share one.
    fn watched(
        &self,
        launchers: &[Arc<dyn Launcher>],
    ) -> Result<Vec<Option<Arc<bystander::Config>>>, StormError> {
        let Some(walk) = self.walk(launchers)? else { return Ok(vec![None; launchers.len()]) };
        let mut opened: Vec<((u64, u64), Arc<bystander::Config>)> = Vec::new();
        let mut watched = Vec::new();
        for launcher in launchers {
            let namespace = launcher.namespace()?;
            let id = match &namespace {
                Some(theirs) => identity(theirs)?,
                None => identity(&MountNs::current()?)?,
            };
            let config = match opened.iter().find(|(other, _)| *other == id) {
                Some((_, config)) => Arc::clone(config),
                None => {
                    let config = Arc::new(bystander::Config::new(namespace, walk.clone()));
                    opened.push((id, Arc::clone(&config)));
                    config
                }
            };
            watched.push(Some(config));
        }
        Ok(watched)
    }

    /// The first path that all of them have; where none is, the last, which bystanders then do not find.
    fn walk(&self, launchers: &[Arc<dyn Launcher>]) -> Result<Option<PathBuf>, StormError> {
        let mut there = self.walks.clone();
        for launcher in launchers {
            there = bystander::those_there(launcher.namespace()?, there)?;
        }
        Ok(there.into_iter().next().or_else(|| self.walks.last().cloned()))
    }

    fn round(
        &self,
        index: usize,
        number: u32,
        launcher: &Arc<dyn Launcher>,
        watched: Option<&bystander::Config>,
        around: &mut dyn Around,
        cancel: &AtomicBool,
    ) -> Result<(), StormError> {
        let arm = &self.arms[index];
        let prepared = launcher.prepare(self.asked(arm)).map_err(StormError::from);
        // Dropped early, the bystanders end with it.
        let bystanders = prepared.and_then(|()| Ok(watched.map(bystander::Bystanders::start).transpose()?));
        let launched = bystanders.and_then(|bystanders| {
            let launched = round::launches(self, arm, launcher, bystanders.as_ref(), cancel)?;
            if launched.finish == Finish::All {
                pause(self.hold, cancel);
            }
            Ok((bystanders, launched))
        });
        let removing = Instant::now();
        let removed = launcher.remove();
        let removal = removing.elapsed();
        let (bystanders, launched) = launched?;
        let observed = bystanders.map(bystander::Bystanders::stop).transpose();
        if launched.finish == Finish::Cancelled {
            return Err(StormError::Cancelled);
        }
        let written = observed.map_err(StormError::from).and_then(|observed| {
            let observed = observed.unwrap_or_else(nothing_observed);
            self.write(index, number, &launched, removal, observed, around)
        });
        if let Finish::Stuck(count) = launched.finish {
            let after_s = (self.timeout + self.grace).as_secs_f64();
            return Err(StormError::Stuck { arm: arm.to_string(), count, after_s });
        }
        removed?;
        written?;
        if number == 0 {
            starts_at_all(arm, &launched)?;
        }
        if cancel.load(Ordering::Relaxed) { Err(StormError::Cancelled) } else { Ok(()) }
    }

    fn write(
        &self,
        arm: usize,
        round: u32,
        launched: &round::Launches,
        removal: Duration,
        observed: Observed,
        around: &mut dyn Around,
    ) -> Result<(), StormError> {
        for (container, outcome) in &launched.outcomes {
            let line = Line::Launch(Launch {
                arm,
                round,
                container: *container,
                due_ms: ms(outcome.due.saturating_duration_since(launched.start)),
                launch_ms: ms(outcome.took()),
                waited_ms: ms(outcome.waited),
                failed: outcome.failed.clone(),
                late: outcome.late,
            });
            around.line(&line).map_err(StormError::Write)?;
        }
        let wall = launched.wall();
        let line = Line::Round(Box::new(observed.round(arm, round, wall, wall + removal)));
        around.line(&line).map_err(StormError::Write)
    }

    fn asked(&self, arm: &Arm) -> launcher::Round {
        launcher::Round { containers: arm.containers, burst: self.pace.burst_of(arm.containers) }
    }

    fn threads(&self, arm: &Arm, launcher: &dyn Launcher) -> usize {
        launcher.threads(arm.concurrency, self.asked(arm)).clamp(1, arm.containers.max(1))
    }
}

/// The same for all descriptors of a namespace while there is one.
fn identity(namespace: &MountNs) -> Result<(u64, u64), SyscallError> {
    let stat =
        rustix::fs::fstat(namespace).map_err(|errno| SyscallError::new("fstat(a mount namespace)", errno))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The arms of a round; a different one begins each time, so that none always follows the same rest.
fn order(arms: usize, round: u32) -> impl Iterator<Item = usize> {
    let first = round as usize % arms.max(1);
    (0..arms).map(move |n| (first + n) % arms)
}

/// Timeouts are what a storm measures; an arm that cannot start anything is a mistake to be told of at once.
fn starts_at_all(arm: &Arm, launched: &round::Launches) -> Result<(), StormError> {
    let broken = |(_, outcome): &(usize, Outcome)| outcome.failed.is_some() && !outcome.late;
    if !launched.outcomes.iter().all(broken) {
        return Ok(());
    }
    let reason = launched.outcomes.iter().find_map(|(_, outcome)| outcome.failed.clone()).unwrap_or_default();
    Err(StormError::NothingStarts { arm: arm.to_string(), reason })
}

/// A storm without bystanders.
fn nothing_observed() -> Observed {
    Observed {
        mount_ops: MountOps::default(),
        not_counted: None,
        mount_table_peak: 0,
        health_ms: Vec::new(),
        path_walk_us: Vec::new(),
        watcher: Watcher::default(),
        machine_cpu_ms: 0.0,
        storm_cpu_ms: 0.0,
        measuring_cpu_ms: 0.0,
        context_switches: 0,
    }
}

fn pause(time: Duration, cancel: &AtomicBool) {
    let until = Instant::now() + time;
    while !cancel.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests;
