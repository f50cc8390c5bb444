//! What tests and benchmarks of other crates share with the task runner: programs out of Debian's other suites,
//! and how programs are run.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task runner talks to the person who typed it"
)]

pub mod apt;
pub mod containerd;
pub mod proc;
