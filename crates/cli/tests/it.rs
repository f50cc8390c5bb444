//! The `plywood` command from end to end: real images, real runtimes, the running kernel.
//!
//! Every test has a state root and a mount namespace of its own, and ends with a comparison of what the host had
//! before and has after: mounts, control groups, processes, whatever lies in the state root ([`bed`]).
#![allow(clippy::unwrap_used, reason = "helpers of tests panic like the tests themselves")]

#[path = "it/bad_images.rs"]
mod bad_images;
#[path = "it/bad_input.rs"]
mod bad_input;
#[path = "it/bed.rs"]
mod bed;
#[path = "it/browser.rs"]
mod browser;
#[path = "it/crowd.rs"]
mod crowd;
#[path = "it/database.rs"]
mod database;
#[path = "it/default_root.rs"]
mod default_root;
#[path = "it/detached.rs"]
mod detached;
#[path = "it/exec.rs"]
mod exec;
#[path = "it/full_disk.rs"]
mod full_disk;
#[path = "it/host.rs"]
mod host;
#[path = "it/images.rs"]
mod images;
#[path = "it/interrupt.rs"]
mod interrupt;
#[path = "it/layout.rs"]
mod layout;
#[path = "it/limits.rs"]
mod limits;
#[path = "it/lockbench.rs"]
mod lockbench;
#[path = "it/mechanisms.rs"]
mod mechanisms;
#[path = "it/odd_disks.rs"]
mod odd_disks;
#[path = "it/odd_roots.rs"]
mod odd_roots;
#[path = "it/open_files.rs"]
mod open_files;
#[path = "it/patience.rs"]
mod patience;
#[path = "it/pull.rs"]
mod pull;
#[path = "it/roots.rs"]
mod roots;
#[path = "it/run.rs"]
mod run;
#[path = "it/several.rs"]
mod several;
#[path = "it/storm.rs"]
mod storm;
#[path = "it/storm_containerd.rs"]
mod storm_containerd;
#[path = "it/terminal.rs"]
mod terminal;
#[path = "it/usage.rs"]
mod usage;
