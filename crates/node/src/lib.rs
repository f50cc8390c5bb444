//! What a machine's processors are, where threads are put on them, and what a contended lock costs there.
//!
//!
//! It measures and describes; it changes no setting of the machine, keeps no state and prints nothing.
//!
//! Invariant: what the kernel does not tell is unknown here, never guessed.

#![forbid(unsafe_code)]

pub mod cpuset;

pub use cpuset::CpuSet;
