//! Who else suffers while containers start: programs that have nothing to do with them, played by threads of ours.
//!
//! ```text
//! health   reads the whole mount table again and again, as health checks of node agents do  how long it takes
//! watcher  reads it again at every change, as PID 1 does                                    CPU time, lag
//! walker   looks up a path: each walk starts over while mount_lock is held for writing      histogram of times
//! table    asks how long the table is                                                       its peak
//! ```
//!
//! Health and walker work while containers are launched, from the gate's opening to the last launch's return: before and
//! after, while containers are held or removed, nobody is in their way, and what they met then would only hide the rest.
//! A time is told together with the time it stands for, until the next was taken: so that who waits long counts for all
//! who would have come meanwhile.
//!
//! All of them live in the mount namespace the launcher works in. Beside them the kernel counts mount operations of the
//! whole machine ([`crate::count`]) and of that namespace ([`MountWatch`]), and CPU time is accounted.
//!
//! What measures must not be what is measured: each thread counts its own CPU time and rests a fixed multiple of it, so
//! that together they take less than 3 % of one CPU, however long the table grows; only the last reading of a round has no
//! rest after it. Where they rest longer than the programs they play, those suffer more often than is shown, not less.
//!
//! Invariant: no thread outlives its [`Bystanders`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plywood_kernel::perf::Scope;
use plywood_kernel::{Kind, MountCounts, MountNs, MountWatch, SyscallError};

use crate::count::{MountCounter, MountTotals};
use crate::record::{MountOps, Round, Watcher};

mod cpu;
mod health;
mod histogram;
mod mountinfo;
mod table;
mod thread;
mod walker;
mod watcher;

use cpu::CpuTimes;
use thread::{Place, Running, Stop};

/// What is watched, and the counters that last longer than one round.
#[derive(Debug)]
pub struct Config {
    namespace: Option<Arc<MountNs>>,
    walk: PathBuf,
    counter: Result<Arc<Mutex<MountCounter>>, String>,
}

/// Threads and counters of one round.
#[derive(Debug)]
pub struct Bystanders {
    begin: Stop,
    health: Running<Vec<(f64, f64)>>,
    watcher: Running<watcher::Seen>,
    walker: Running<histogram::Histogram>,
    table: Running<usize>,
    watch: MountWatch,
    host_before: MountCounts,
    counter: Result<Arc<Mutex<MountCounter>>, String>,
    before: Result<MountTotals, String>,
    cpu_before: CpuTimes,
}

/// What one round did to others.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Mounts that came and went.
    pub mount_ops: MountOps,
    /// Why those of the whole machine were not counted; none if they were.
    pub not_counted: Option<String>,
    /// Most mounts in the namespace's table, looked at every 5 ms where the kernel tells at once (6.12).
    pub mount_table_peak: usize,
    /// Milliseconds of each reading of the whole table that began while containers were launched, and of how many it was
    /// the only one.
    pub health_ms: Vec<(f64, f64)>,
    /// Microseconds of looking up a path meanwhile, and for how many such lookups stand.
    pub path_walk_us: Vec<(f64, u64)>,
    /// The reader that follows each change.
    pub watcher: Watcher,
    /// CPU time of the machine, less ours for measuring; in steps of the kernel's ticks, mostly 10 ms.
    pub machine_cpu_ms: f64,
    /// CPU time of this process and the children it has waited for, less ours for measuring.
    pub storm_cpu_ms: f64,
    /// CPU time of the measuring threads.
    pub measuring_cpu_ms: f64,
    /// Context switches of the machine.
    pub context_switches: u64,
}

impl Config {
    /// Bystanders in `namespace`, or in the one of the thread that starts them. `walk` is the path to look up: absolute,
    /// existing there, and deep enough to be a fair example.
    ///
    /// Starts counting the machine's mount operations. If the kernel will not, [`not_counted`](Self::not_counted) says
    /// why, and everything else works.
    pub fn new(namespace: Option<MountNs>, walk: impl Into<PathBuf>) -> Self {
        let counter = MountCounter::open(Scope::Machine)
            .map(|counter| Arc::new(Mutex::new(counter)))
            .map_err(|error| refusal(&error));
        Self { namespace: namespace.map(Arc::new), walk: walk.into(), counter }
    }

    /// Why the mount operations of the whole machine are not counted; none if they are.
    pub fn not_counted(&self) -> Option<&str> {
        self.counter.as_ref().err().map(String::as_str)
    }
}

/// Of these paths those that there are in `namespace`, or in the one of the calling thread.
///
/// # Errors
/// A namespace that cannot be entered, no threads left.
pub fn those_there(
    namespace: Option<MountNs>,
    mut paths: Vec<PathBuf>,
) -> Result<Vec<PathBuf>, SyscallError> {
    let place = Place::new(namespace.map(Arc::new))?;
    let look = move || {
        paths.retain(|path| rustix::fs::stat(path).is_ok());
        Ok(paths)
    };
    Ok(thread::run("plywood-walker", &place, look, |there, _| Ok(there))?.stop()?.0)
}

impl Bystanders {
    /// Starts them all. The watcher and the counters are at work when this returns, the others from [`begin`](Self::begin)
    /// to [`launched`](Self::launched).
    ///
    /// # Errors
    /// A namespace that cannot be entered, a path to walk that is not there, no `/proc`, no threads left. Nothing is left
    /// running then.
    pub fn start(config: &Config) -> Result<Self, SyscallError> {
        let place = Place::new(config.namespace.clone())?;
        let namespace = place.namespace();
        let start = move || start_watch(&namespace);
        let mut watch = thread::run("plywood-watch", &place, start, |watch, _| Ok(watch))?.stop()?.0;
        // Whatever the threads use from their first instruction on lies between the two readings of CPU time, and is
        // taken off again.
        let cpu_before = CpuTimes::now()?;
        let begin = Stop::new()?;
        let health = health::start(&place, begin.clone())?;
        let watcher = watcher::start(&place)?;
        let walker = walker::start(&place, &config.walk, begin.clone())?;
        let table = table::start(&place)?;
        let before = totals(&config.counter);
        let host_before = watch.counts()?;
        Ok(Self {
            begin,
            health,
            watcher,
            walker,
            table,
            watch,
            host_before,
            counter: config.counter.clone(),
            before,
            cpu_before,
        })
    }

    /// Launches begin: so do the readings and lookups whose times are told.
    pub fn begin(&self) {
        self.begin.set();
    }

    /// All launches have returned: the readings and lookups under way are the last.
    pub fn launched(&self) {
        self.health.signal();
        self.walker.signal();
    }

    /// Ends them, and waits until the reading each is at has ended: its time belongs to the round it began in.
    ///
    /// # Errors
    /// What a thread could not read.
    pub fn stop(mut self) -> Result<Observed, SyscallError> {
        let after = totals(&self.counter);
        let host = self.watch.counts()?;
        self.health.signal();
        self.watcher.signal();
        self.walker.signal();
        self.table.signal();
        let (health_ms, health_cpu) = self.health.stop()?;
        let (seen, watcher_cpu) = self.watcher.stop()?;
        let (walks, walker_cpu) = self.walker.stop()?;
        let (mount_table_peak, table_cpu) = self.table.stop()?;
        let measuring = health_cpu + watcher_cpu + walker_cpu + table_cpu;
        let cpu = CpuTimes::now()?.since(&self.cpu_before);
        let counted = after.and_then(|after| self.before.map(|before| after.since(before)));
        Ok(Observed {
            mount_ops: MountOps {
                attach: counted.as_ref().ok().map(|counted| counted.attach),
                detach: counted.as_ref().ok().map(|counted| counted.detach),
                host_attach: host.attached - self.host_before.attached,
                host_detach: host.detached - self.host_before.detached,
                exact: self.watch.is_exact(),
            },
            not_counted: counted.err(),
            mount_table_peak,
            health_ms,
            path_walk_us: walks.bins_us(),
            watcher: Watcher { cpu_ms: ms(watcher_cpu), wakeups: seen.wakeups, lag_max_ms: ms(seen.lag_max) },
            machine_cpu_ms: ms(cpu.machine.saturating_sub(measuring)),
            storm_cpu_ms: ms(cpu.process.saturating_sub(measuring)),
            measuring_cpu_ms: ms(measuring),
            context_switches: cpu.context_switches,
        })
    }
}

impl Observed {
    /// The line that is written down about a round: position of its arm, its number, how long it took until all were
    /// there, and until all were gone again.
    pub fn round(self, arm: usize, round: u32, wall: Duration, removed: Duration) -> Round {
        Round {
            arm,
            round,
            wall_ms: ms(wall),
            removed_ms: ms(removed),
            mount_ops: self.mount_ops,
            mount_table_peak: self.mount_table_peak,
            health_ms: self.health_ms,
            path_walk_us: self.path_walk_us,
            watcher: self.watcher,
            machine_cpu_ms: self.machine_cpu_ms,
            storm_cpu_ms: self.storm_cpu_ms,
            measuring_cpu_ms: self.measuring_cpu_ms,
            context_switches: self.context_switches,
        }
    }
}

/// Events if the kernel has them and lets us, else comparing tables: [`MountOps::exact`] tells which.
/// The namespace is given by its descriptor, since its own `/proc` may show another PID namespace's threads.
fn start_watch(namespace: &MountNs) -> Result<MountWatch, SyscallError> {
    match MountWatch::start_events(namespace) {
        Ok(Some(watch)) => Ok(watch),
        Ok(None) => MountWatch::start_difference(),
        Err(error) if error.kind() == Kind::Denied => {
            tracing::warn!(%error, "mount events of the namespace are refused: tables are compared instead");
            MountWatch::start_difference()
        }
        Err(error) => Err(error),
    }
}

fn totals(counter: &Result<Arc<Mutex<MountCounter>>, String>) -> Result<MountTotals, String> {
    let counter = counter.as_ref().map_err(String::clone)?;
    // A reading that panicked has left the counter as it was or further on, never wrong.
    let mut counter = counter.lock().unwrap_or_else(PoisonError::into_inner);
    counter.read().map_err(|error| refusal(&error))
}

/// The call and what the kernel's answer means.
fn refusal(error: &SyscallError) -> String {
    format!("{error}: {}", error.errno())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
