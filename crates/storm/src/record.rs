//! What a storm writes down: lines of JSON, one a fact, in the order they were learned.
//!
//! ```text
//! run      once, first: what was asked for, on what machine
//! launch   one a container and round
//! round    one an arm and round, after its launches: wall time, mount operations, bystanders
//! lock_...  what a contended lock costs on these CPUs, and `matrix`, if that was measured too; anywhere after the run:
//!           see [`LockRun`]
//! end      once, last; a file without it was cut off
//! ```
//!
//! Durations are milliseconds (`_ms`) or microseconds (`_us`), as floating point; sizes are bytes. A reader takes lines of
//! kinds and fields it does not know for those of a newer plywood and passes over them.

use serde::{Deserialize, Serialize};

use crate::arm::Arm;
use crate::harness::Pace;

mod locks;

pub use locks::{LockEnd, LockRun};

/// Version of the format. A reader refuses newer ones.
pub const VERSION: u32 = 1;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// What was asked for.
    Run(Box<Run>),
    /// One container's start.
    Launch(Launch),
    /// One round of one arm.
    Round(Box<Round>),
    /// What the lock benchmark was asked for.
    LockRun(Box<LockRun>),
    /// One point of the lock benchmark, measured once.
    LockSample(Box<plywood_node::lockbench::Sample>),
    /// One point of the lock benchmark.
    LockPoint(Box<plywood_node::lockbench::Point>),
    /// The scalability law of one lock and placement.
    LockFit(Box<plywood_node::lockbench::CurveFit>),
    /// The lock benchmark's end.
    LockEnd(Box<LockEnd>),
    /// How long a cache line takes from one CPU to another.
    Matrix(Box<plywood_node::lockbench::Matrix>),
    /// The end.
    End(End),
    /// Of a newer plywood.
    #[serde(other)]
    Unknown,
}

impl Line {
    /// Whether it is the lock benchmark's.
    pub fn is_of_locks(&self) -> bool {
        match self {
            Self::LockRun(_)
            | Self::LockSample(_)
            | Self::LockPoint(_)
            | Self::LockFit(_)
            | Self::LockEnd(_)
            | Self::Matrix(_) => true,
            Self::Run(_) | Self::Launch(_) | Self::Round(_) | Self::End(_) | Self::Unknown => false,
        }
    }
}

/// What was asked for, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`VERSION`]
    pub version: u32,
    /// Of plywood.
    pub plywood: String,
    /// The exact command line.
    pub command: Vec<String>,
    /// When it began: milliseconds since 1970.
    pub started_at_ms: u64,
    /// The image's name, or `generated: ...` with how.
    pub image: String,
    /// The arms; launches and rounds refer to them by position.
    pub arms: Vec<Arm>,
    /// Rounds of each arm that count; one more, round 0, warms up.
    pub repeat: u32,
    /// A launch that takes longer has failed.
    pub timeout_ms: f64,
    /// When containers were due.
    #[serde(default)]
    pub pace: Pace,
    /// Containers were kept so long before they were removed.
    #[serde(default)]
    pub hold_ms: f64,
    /// What containers ran; empty: what the image says, or nothing at all.
    #[serde(default)]
    pub program: Vec<String>,
    /// The machine.
    pub host: Host,
}

/// The machine, as far as it bears on the figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// `uname -r`
    pub kernel: String,
    /// As `/proc/cpuinfo` names it.
    pub cpu_model: String,
    /// CPUs this process may use.
    pub cpus: usize,
    /// Sockets, if known.
    pub sockets: Option<usize>,
    /// NUMA nodes, if known.
    pub numa_nodes: Option<usize>,
    /// Threads of a core, if known.
    pub threads_per_core: Option<usize>,
    /// Last-level cache domains, if known.
    pub llc_domains: Option<usize>,
    /// How it is known to be a virtual machine; none if it is not known to be one.
    pub virtualised: Option<String>,
    /// File system of the state root.
    pub filesystem: String,
    /// Mounts in the table before anything was done.
    pub mounts: usize,
    /// One-minute load average before anything was done.
    pub load: f64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Versions that matter to the launchers used: `runc`, `containerd`.
    pub versions: std::collections::BTreeMap<String, String>,
    /// What the CPUs launching threads are confined to, as the user named it; none if not.
    pub pinned: Option<String>,
}

/// One container's start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Position of its arm.
    pub arm: usize,
    /// 0 is the warm-up.
    pub round: u32,
    /// Position of the container in the round.
    pub container: usize,
    /// From the round's begin to the moment it was due.
    pub due_ms: f64,
    /// From the moment it was due until it was there, or had failed.
    pub launch_ms: f64,
    /// Of this, waiting for admission.
    #[serde(default)]
    pub waited_ms: f64,
    /// Why it failed; none if it started in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// It failed by taking too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

/// One round of one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Position of the arm.
    pub arm: usize,
    /// 0 is the warm-up.
    pub round: u32,
    /// From the first container due to the last there or failed.
    pub wall_ms: f64,
    /// The same, and everything taken away again.
    pub removed_ms: f64,
    /// Mounts that came and went, counted by the kernel.
    pub mount_ops: MountOps,
    /// Most mounts in the table of the namespace the launcher works in.
    pub mount_table_peak: usize,
    /// Readings of the whole mount table that began while containers were launched: how long each took, and for how many
    /// milliseconds of the launches it stands, until the next one began.
    pub health_ms: Vec<(f64, f64)>,
    /// Lookups of a path meanwhile, as `[microseconds it took, microseconds of the launches it stands for]` by rising time:
    /// a histogram whose bins are at most a 32nd wide.
    pub path_walk_us: Vec<(f64, u64)>,
    /// Re-reading at every change of the table.
    pub watcher: Watcher,
    /// CPU time of the whole machine that was not idle, less the measuring threads' own.
    pub machine_cpu_ms: f64,
    /// CPU time of the launching process and what it has started and reaped, less the measuring threads' own.
    pub storm_cpu_ms: f64,
    /// CPU time of the measuring threads themselves.
    pub measuring_cpu_ms: f64,
    /// Context switches of the whole machine.
    pub context_switches: u64,
}

/// Mount operations of one round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOps {
    /// Mounts attached in any namespace, by any program; none if the kernel would not count.
    pub attach: Option<u64>,
    /// Mounts detached in any namespace by a system call, by any program.
    pub detach: Option<u64>,
    /// Mounts that appeared in the namespace the launcher works in: the host's.
    pub host_attach: u64,
    /// Mounts that disappeared from it.
    pub host_detach: u64,
    /// Whether the kernel reported each one of the host's; else tables were compared.
    pub exact: bool,
}

/// A reader like PID 1, which reads the table again whenever it has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Watcher {
    /// CPU time it took.
    pub cpu_ms: f64,
    /// How often it was woken.
    pub wakeups: u64,
    /// The longest from a change to the end of the reading that shows it.
    pub lag_max_ms: f64,
}

/// The end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Whether all rounds were run.
    pub complete: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_newer_plywood_is_passed_over() {
        let line: Line = serde_json::from_str(r#"{"kind":"weather","wind":7}"#).unwrap();
        assert_eq!(line, Line::Unknown);
        let line: Line = serde_json::from_str(r#"{"kind":"end","complete":true,"mood":"good"}"#).unwrap();
        assert_eq!(line, Line::End(End { complete: true, reason: None }));
    }

    #[test]
    fn a_launch_reads_as_it_was_written() {
        let launch = Launch {
            arm: 1,
            round: 2,
            container: 3,
            due_ms: 0.5,
            launch_ms: 12.25,
            waited_ms: 0.0,
            failed: Some("timeout".into()),
            late: true,
        };
        let text = serde_json::to_string(&Line::Launch(launch.clone())).unwrap();
        assert!(text.starts_with(r#"{"kind":"launch","arm":1,"#), "{text}");
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), Line::Launch(launch));
    }
}
