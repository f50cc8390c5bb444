//! The client against real containerds, and the stubs against their definitions.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic like the tests themselves")]

#[path = "it/containers.rs"]
mod containers;
#[path = "it/pods.rs"]
mod pods;
#[path = "it/stubs.rs"]
mod stubs;
