//! What a contended global lock costs on this machine: threads against one lock, by lock, placement and number.
//!
//! ```text
//! Config --plan--> points (lock x placement x threads) and what is left out, with reasons
//!        --run---> rounds: every point once, in shuffled order --> samples --medians--> points, fits
//! ```
//!
//! Rounds interleave the points, so that a disturbance of seconds hits all of them a little instead of one of them
//! wholly. It refuses more threads than CPUs unless told otherwise, and to call an extrapolation a measurement.
//!
//! An operation is one turn of a thread: think, acquire, critical section, release; its latency counts all four. The
//! defaults (50 ns held, 100 ns between) make a lock that three threads saturate, with a holder that does something
//! but not much, as the kernel's mount locks are held.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Placement;
use crate::threads::{self, ThreadsError};

mod histogram;
mod lock;
pub mod matrix;
mod measure;
mod random;
mod roles;
mod section;
mod summary;
pub mod usl;

pub use histogram::Quantiles;
pub use lock::{LockKind, UnknownLock};
pub use matrix::{Matrix, MatrixConfig};
pub use measure::{Sample, ThreadSample};
pub use usl::{Fit, NoFit};

use random::Random;
use section::Pace;

/// Threads that are tried where nobody says how many, as far as there are CPUs; and as many as there are.
const USUAL_THREADS: [usize; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];

/// What to measure, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// The locks.
    pub locks: Vec<LockKind>,
    /// Where threads are put.
    pub placements: Vec<Placement>,
    /// Numbers of threads; None for a curve up to all CPUs of each placement.
    pub threads: Option<Vec<usize>>,
    /// How long a point is measured in each round.
    pub duration: Duration,
    /// How long its threads run before that.
    pub warm_up: Duration,
    /// How often every point is measured.
    pub rounds: usize,
    /// Work while the lock is held.
    pub section: Duration,
    /// Work between two operations.
    pub think: Duration,
    /// Put several threads on a CPU.
    pub oversubscribe: bool,
    /// Of the order of points and of resampling.
    pub seed: u64,
}

impl Config {
    /// All locks but those that need root, on these placements, with the defaults of everything else.
    pub fn new(placements: Vec<Placement>) -> Self {
        Self {
            locks: LockKind::ALL.into_iter().filter(|lock| !lock.needs_root()).collect(),
            placements,
            threads: None,
            duration: Duration::from_millis(200),
            warm_up: Duration::from_millis(30),
            rounds: 5,
            section: Duration::from_nanos(50),
            think: Duration::from_nanos(100),
            oversubscribe: false,
            seed: 1,
        }
    }
}

/// What cannot be measured here.
#[derive(Debug, thiserror::Error)]
pub enum LockbenchError {
    /// More threads than CPUs.
    #[error("{threads} threads are too many: the largest placement, {placement}, has {cpus} CPUs")]
    TooManyThreads {
        /// How many were asked for.
        threads: usize,
        /// The largest placement.
        placement: String,
        /// Its CPUs.
        cpus: usize,
    },
    /// No lock, no placement, no round, no time.
    #[error("there is nothing to measure: {0}")]
    Nothing(&'static str),
    /// A lock that only root can take.
    #[error("lock {0} makes mounts, which needs root")]
    NeedsRoot(LockKind),
    /// The machine has no room for so many threads.
    #[error(transparent)]
    Threads(ThreadsError),
    /// The kernel refused something.
    #[error("lock {lock} with {threads} threads on {placement}")]
    Call {
        /// The lock.
        lock: LockKind,
        /// How many threads.
        threads: usize,
        /// The placement.
        placement: String,
        /// What it refused.
        #[source]
        source: ThreadsError,
    },
}

/// A point to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The lock.
    pub lock: LockKind,
    /// Index into [`Config::placements`].
    pub placement: usize,
    /// All threads.
    pub threads: usize,
}

/// The points of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order they are reported in.
    pub points: Vec<Spec>,
    /// What does not fit a placement, though it fits another.
    pub left_out: Vec<LeftOut>,
}

/// A combination that is not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The placement.
    pub placement: String,
    /// Numbers of threads it has no CPUs for.
    pub threads: Vec<usize>,
    /// CPUs it has.
    pub cpus: usize,
}

/// A measured point: medians over rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The lock.
    pub lock: LockKind,
    /// The placement's name.
    pub placement: String,
    /// All threads.
    pub threads: usize,
    /// Latency of an operation in nanoseconds; the largest is of all rounds.
    pub op_ns: Quantiles,
    /// Operations a second of all threads that contend.
    pub ops_per_s: f64,
    /// Jain's index of their shares: 1 if all did the same, 1 / n if one did everything.
    pub fairness: f64,
    /// The smallest and the largest share of the operations that one thread did.
    pub share: Share,
    /// Threads that contend; the others run beside.
    pub contenders: usize,
    /// The others: the writer of `seqlock`, the path walkers of `mount`.
    pub beside: Option<Beside>,
    /// The most operations between two readings of the clock: latencies are means of so many.
    pub batch: u32,
    /// Whether there are more threads than CPUs.
    pub oversubscribed: bool,
    /// Throughput of each round.
    pub ops_per_s_rounds: Vec<f64>,
}

/// Parts of the operations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Of the thread that did least.
    pub min: f64,
    /// Of the thread that did most.
    pub max: f64,
}

/// Threads that run beside those that are measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// What they do.
    pub what: String,
    /// How many.
    pub threads: usize,
    /// Latency of an operation of theirs, in nanoseconds.
    pub op_ns: Quantiles,
    /// Their operations a second.
    pub ops_per_s: f64,
}

/// The law fitted to a curve, or why not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurveFit {
    /// The lock.
    pub lock: LockKind,
    /// The placement's name.
    pub placement: String,
    /// Its `N` counts contending threads.
    pub fit: Option<Fit>,
    /// Why there is none.
    pub no_fit: Option<String>,
    /// Whether points with more threads than CPUs took part: the curve is then the scheduler's as much as the lock's.
    pub oversubscribed: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The points that were measured in at least one round.
    pub points: Vec<Point>,
    /// One for each lock and placement.
    pub fits: Vec<CurveFit>,
    /// What did not fit a placement.
    pub left_out: Vec<LeftOut>,
    /// One reading of the clock, in nanoseconds.
    pub clock_ns: f64,
    /// Whether somebody asked to stop before all rounds were done.
    pub cancelled: bool,
}

/// What to measure for this configuration; pure.
///
/// # Errors
/// If it asks for nothing, or for more threads than any placement has CPUs.
pub fn plan(config: &Config) -> Result<Plan, LockbenchError> {
    let largest = config.placements.iter().max_by_key(|placement| placement.cpus.len());
    let Some(largest) = largest.filter(|placement| !placement.cpus.is_empty()) else {
        return Err(LockbenchError::Nothing("no CPU to run on"));
    };
    let asked = config.threads.as_deref();
    let nothing = [
        (config.locks.is_empty(), "no lock"),
        (config.rounds == 0, "no round"),
        (config.duration.is_zero(), "no time"),
        (asked.is_some_and(|counts| counts.is_empty() || counts.contains(&0)), "no thread"),
    ];
    if let Some((_, what)) = nothing.iter().find(|(is, _)| *is) {
        return Err(LockbenchError::Nothing(what));
    }
    if let Some(&threads) = asked.unwrap_or_default().iter().max()
        && threads > largest.cpus.len()
        && !config.oversubscribe
    {
        let (placement, cpus) = (largest.name.clone(), largest.cpus.len());
        return Err(LockbenchError::TooManyThreads { threads, placement, cpus });
    }
    let mut plan = Plan::default();
    for (index, placement) in config.placements.iter().enumerate() {
        let cpus = placement.cpus.len();
        let mut counts = asked.map_or_else(
            || USUAL_THREADS.into_iter().filter(|count| *count < cpus).chain([cpus]).collect(),
            <[usize]>::to_vec,
        );
        counts.sort_unstable();
        counts.dedup();
        let fit = |count: &usize| *count <= cpus || config.oversubscribe;
        let (counts, threads): (Vec<usize>, Vec<usize>) = counts.into_iter().partition(fit);
        if !threads.is_empty() {
            plan.left_out.push(LeftOut { placement: placement.name.clone(), threads, cpus });
        }
        let spec = |&lock| {
            let of_lock = move |&threads: &usize| Spec { lock, placement: index, threads };
            counts.iter().map(of_lock).collect::<Vec<_>>()
        };
        plan.points.extend(config.locks.iter().flat_map(spec));
    }
    Ok(plan)
}

/// Whether this machine has room for the threads of the largest point, before any is started.
///
/// # Errors
/// [`LockbenchError::Threads`], naming the limits in the way.
pub fn suffice(plan: &Plan) -> Result<(), LockbenchError> {
    let most = plan.points.iter().map(|point| point.threads).max().unwrap_or(0);
    threads::suffice(most).map_err(LockbenchError::Threads)
}

/// Measures all points of the plan, round by round, and tells `each` about every sample as it comes. When asked to stop,
/// it ends within a moment and reports what it has.
///
/// # Errors
/// If the configuration is refused, or the kernel refuses a thread its CPU or a mount.
pub fn run(
    config: &Config,
    cancel: &AtomicBool,
    each: &mut dyn FnMut(&Sample),
) -> Result<Outcome, LockbenchError> {
    let plan = plan(config)?;
    suffice(&plan)?;
    let privileged = config.locks.iter().find(|lock| lock.needs_root());
    if let Some(lock) = privileged
        && !rustix::process::geteuid().is_root()
    {
        return Err(LockbenchError::NeedsRoot(*lock));
    }
    let pace = Pace::measure();
    let mut random = Random::new(config.seed);
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); plan.points.len()];
    let mut order: Vec<usize> = (0..plan.points.len()).collect();
    'rounds: for round in 0..config.rounds {
        random.shuffle(&mut order);
        for &index in &order {
            let spec = &plan.points[index];
            let measured = measure::measure(config, spec, round, pace, cancel);
            let measured = measured.map_err(|source| LockbenchError::Call {
                lock: spec.lock,
                threads: spec.threads,
                placement: config.placements[spec.placement].name.clone(),
                source,
            })?;
            let Some(sample) = measured else { break 'rounds };
            each(&sample);
            samples[index].push(sample);
        }
    }
    let points: Vec<Point> = plan
        .points
        .iter()
        .zip(&samples)
        .filter_map(|(spec, samples)| summary::point(samples, config.placements[spec.placement].cpus.len()))
        .collect();
    Ok(Outcome {
        fits: summary::fits(&points, config.seed),
        points,
        left_out: plan.left_out,
        clock_ns: pace.clock_ns,
        cancelled: cancel.load(Ordering::Relaxed),
    })
}

#[cfg(test)]
mod tests;
