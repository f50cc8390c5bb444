//! A storm in one line an arm.
//!
//! Worked out of the recorded lines and of nothing else. The warm-up does not count, nor do rounds that were not
//! finished. Figures come in two kinds: quantiles over all samples of the rounds that count, and medians of one value a
//! round; intervals are of the latter (see [`stats`](crate::stats)).
//!
//! It refuses files that are no storm's, of a newer format, or of two storms. Values no clock can have shown (negative,
//! infinite, not a number) and lines of arms that do not exist are left out, and a note says how many.

use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::Mechanism;
use serde::{Deserialize, Serialize};

use crate::arm::{LauncherKind, UserNs};
use crate::record::Line;
use crate::stats::{Interval, Quantiles};

pub(crate) mod build;
pub(crate) mod gather;
pub(crate) mod notes;
mod read;
pub mod show;
#[cfg(test)]
pub(crate) mod tests;

pub use read::{ReadError, read};

/// One arm. Figures are none when no round of it was finished, or nothing of the kind was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Who started the containers.
    pub launcher: LauncherKind,
    /// How root file systems were made; of ours only.
    pub mechanism: Option<Mechanism>,
    /// What the lower directories were; of ours only.
    pub lower: Option<LowerSource>,
    /// Which snapshotter; of containerd's only.
    pub snapshotter: Option<String>,
    /// Whose ids the containers had.
    pub userns: UserNs,
    /// How often each root file system was assembled.
    pub passes: u32,
    /// Layers of the image.
    pub layers: usize,
    /// Containers of one round.
    pub containers: usize,
    /// Most of them starting at a time.
    pub concurrency: usize,
    /// Most of them in the part that takes global locks at a time; none: as many as start.
    pub admission: Option<usize>,
    /// Whether those that are admitted keep to the CPUs of one last-level cache.
    pub one_cache: bool,
    /// Rounds that count.
    pub rounds: usize,
    /// Whether the storm was cut off.
    pub partial: bool,
    /// Launches in those rounds.
    pub launches: u64,
    /// Of these, how many failed.
    pub failed: u64,
    /// The share that did not; 1 only if none did.
    pub success_rate: Option<f64>,
    /// Why launches failed, commonest first; at most five.
    pub failures: Vec<Failure>,
    /// From the first container due to the last there or failed: median of the rounds.
    pub wall_ms: Option<f64>,
    /// Where that median lies.
    pub wall_ms_interval: Option<Interval>,
    /// How sure the intervals are: 0.95, or less of five rounds or fewer.
    pub interval_confidence: Option<f64>,
    /// Each round's.
    pub wall_ms_rounds: Vec<f64>,
    /// The same, until everything was taken away again: median of the rounds.
    pub removed_ms: Option<f64>,
    /// From the moment a container was due until it was there, of those that started.
    pub launch_ms: Option<Quantiles>,
    /// Where the median of the rounds' medians lies, widened to hold the median of all.
    pub launch_p50_ms_interval: Option<Interval>,
    /// The same of the 99th percentile.
    pub launch_p99_ms_interval: Option<Interval>,
    /// Of the launch, waiting for admission.
    pub waited_ms: Option<Quantiles>,
    /// Mount operations of one round: medians of the rounds.
    pub mount_ops: Option<MountOps>,
    /// Reading the whole mount table meanwhile, as a health check does.
    pub health_ms: Option<Health>,
    /// Looking up a path meanwhile.
    pub path_walk_us: Option<Quantiles>,
    /// Most mounts in the table of the namespace the launcher worked in, of all rounds.
    pub mount_table_peak: Option<usize>,
    /// A reader like PID 1, which reads the table again whenever it has changed.
    pub watcher: Option<Watcher>,
    /// CPU time of one round: medians of the rounds.
    pub cpu_ms: Option<Cpu>,
    /// Of the whole machine in one round: median of the rounds.
    pub context_switches: Option<u64>,
    /// What makes these figures less certain than they look.
    pub notes: Vec<Note>,
}

/// Why launches failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// As the launcher said it.
    pub reason: String,
    /// How many did.
    pub launches: u64,
}

/// Mount operations of one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOps {
    /// Mounts attached in any namespace; none if the kernel would not count.
    pub attach: Option<u64>,
    /// Mounts detached in any namespace by a system call.
    pub detach: Option<u64>,
    /// Mounts that appeared in the host's table.
    pub host_attach: u64,
    /// Mounts that disappeared from it.
    pub host_detach: u64,
    /// Whether the kernel reported each one of the host's, in every round.
    pub exact: bool,
}

/// Readings of the mount table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// How long they took.
    #[serde(flatten)]
    pub quantiles: Quantiles,
    /// Share of the launches' time in which they took more than a second.
    pub over_1s: f64,
    /// The same of 30 seconds, where health checks give up.
    pub over_30s: f64,
    /// How many there were.
    pub readings: u64,
}

/// The reader that follows every change.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Watcher {
    /// CPU time it took in one round: median.
    pub cpu_ms: f64,
    /// How often it was woken in one round: median.
    pub wakeups: u64,
    /// The longest from a change to the end of the reading that shows it, of all rounds.
    pub lag_max_ms: f64,
}

/// CPU time of one round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Of the whole machine, less the measuring threads'.
    pub machine: f64,
    /// Of the launching process and what it started.
    pub storm: f64,
    /// Of the measuring threads.
    pub measuring: f64,
}

/// Something that makes figures less certain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What kind of thing.
    pub kind: NoteKind,
    /// In a sentence.
    pub message: String,
}

/// Kinds of [`Note`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// The storm was cut off.
    Partial,
    /// Too few rounds for intervals of 95 %.
    FewRounds,
    /// Rounds differ much.
    Spread,
    /// Rounds get slower or faster.
    Drift,
    /// A round is far from the rest; it counts all the same.
    Outlier,
    /// Other programs took the machine.
    OtherWork,
    /// Not to be told from another arm.
    Overlap,
    /// Lines or values that cannot be true were left out.
    LeftOut,
    /// Mount operations were counted by comparing tables: those that came and went between are missing.
    Inexact,
}

/// Lines that are no storm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SummaryError {
    /// There are none.
    #[error("there are no lines: no storm has been recorded here")]
    Empty,
    /// The first line is not the run's.
    #[error("the first line does not say what was run: these lines are no storm's, or lack their beginning")]
    NoRun,
    /// Recorded by a newer plywood.
    #[error("the lines are of format {version}, this plywood reads formats up to {}", crate::record::VERSION)]
    Version {
        /// Theirs.
        version: u32,
    },
    /// Two storms in one.
    #[error("the lines are of two storms: the second begins at line {line}")]
    TwoRuns {
        /// Where, counted from 1.
        line: usize,
    },
    /// More than anybody compares.
    #[error("the storm compares {arms} arms, and more than {most} are not read")]
    TooManyArms {
        /// Theirs.
        arms: usize,
        /// What is read.
        most: usize,
    },
    /// A run without arms.
    #[error("the storm compares no arms")]
    NoArms,
}

/// One summary an arm, in the order of the arms.
///
/// # Errors
/// If the lines are no storm's, or of a newer format.
pub fn summarise(lines: &[Line]) -> Result<Vec<Summary>, SummaryError> {
    let storm = gather::gather(lines)?;
    Ok(build::summaries(&storm))
}
