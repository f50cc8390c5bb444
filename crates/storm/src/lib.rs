//! Storms: many containers started at once, measured, compared and reported.
//!
//! ```text
//! arms (what is compared) ─> harness: rounds, interleaved ─> launcher: one container's start, its removal
//!                               │                        └─> bystanders: who else suffers meanwhile
//!                               v
//!                            record: lines of JSON, raw samples kept
//!                               │
//!                               v
//!            summary: one line an arm ─> compare: two runs, a verdict ─> report: one HTML page
//! ```
//!
//! Data flows one way: whatever is shown (table, JSON, page, verdict) is worked out of the recorded lines, so a saved
//! run shows the same figures again on any machine.
//!
//! What it refuses: to compare arms that were not interleaved in one run without saying so, to call a difference real
//! whose interval includes none, and to leave anything mounted, running or leased when it ends.
#![forbid(unsafe_code)]

pub mod admission;
pub mod arm;
pub mod bystander;
pub mod compare;
pub mod count;
pub mod harness;
pub mod host;
pub mod image;
pub mod launcher;
pub mod record;
pub mod report;
pub mod stats;
pub mod summary;
pub mod sweep;
pub mod verdict;

pub use arm::{Arm, LauncherKind, UserNs};
pub use plywood_node::threads;
pub use record::Line;
