//! What a machine's processors are, where threads are put on them, and what a contended lock costs there.
//!
//! - [`topology`]: sockets, NUMA nodes, caches, cores and limits, from what the kernel exports; parsing is pure.
//! - [`placement`]: named sets of CPUs and the order in which threads are put on them; pure.
//! - [`threads`]: many of them, or the limits of this machine that are in the way.
//! - [`lockbench`]: threads against one lock, the latency between cores, and what the curves say about more threads.
//!
//! It measures and describes; it changes no setting of the machine, keeps no state and prints nothing.
//!
//! Invariant: what the kernel does not tell is unknown here, never guessed.

#![forbid(unsafe_code)]

pub mod cpuset;
pub mod lockbench;
pub mod placement;
pub mod threads;
pub mod topology;

pub use cpuset::CpuSet;
pub use placement::Placement;
pub use topology::Topology;
