//! What the lock benchmark writes down: lines of the same file, so that a storm's page can show them.
//!
//! ```text
//! lock_run      once, first: what was asked for, on what machine
//! lock_sample   one a point and round, as they come
//! lock_point    one a point: medians over rounds
//! matrix        if it was measured
//! lock_fit      one a lock and placement: the scalability law, or why not
//! lock_end      once, last
//! ```

use plywood_node::lockbench::LeftOut;
use plywood_node::{Placement, Topology};
use serde::{Deserialize, Serialize};

use super::Host;

/// What was asked for, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockRun {
    /// [`VERSION`](super::VERSION)
    pub version: u32,
    /// Of plywood.
    pub plywood: String,
    /// The exact command line.
    pub command: Vec<String>,
    /// When it began: milliseconds since 1970.
    pub started_at_ms: u64,
    /// The machine.
    pub host: Host,
    /// Its processors.
    pub topology: Topology,
    /// Where threads were put.
    pub placements: Vec<Placement>,
    /// How long a point was measured in each round.
    pub duration_ms: f64,
    /// How often.
    pub rounds: usize,
    /// Work while the lock was held.
    pub section_ns: u64,
    /// Work between two operations.
    pub think_ns: u64,
    /// Of the order of points and of resampling.
    pub seed: u64,
    /// Whether the locks were compiled as they should be.
    pub optimised: bool,
}

/// The end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LockEnd {
    /// Whether all was measured that was asked for.
    pub complete: bool,
    /// One reading of the clock.
    pub clock_ns: f64,
    /// What did not fit a placement.
    pub left_out: Vec<LeftOut>,
    /// What makes the figures mean less than they seem to.
    pub notes: Vec<String>,
}
