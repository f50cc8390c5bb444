//! From lower directories to a running container: the rootfs with its owners shifted into the container's id range, and
//! the launch on it.
//!
//! - [`plan()`](plan::plan) decides, purely, what will be asked of the kernel; [`apply()`](apply::apply) asks it, with
//!   an undo stack. What can be asked here was found out by [`capabilities`], with the real thing.
//! - [`mechanism`] holds the six ways to make a rootfs, all run by the same interpreter.
//! - [`idrange`] cuts the machine's subordinate ids into ranges and keeps their user namespaces.
//! - [`predict`] counts mount operations, ours and containerd's.
//!
//! The engine takes directories, never the store that keeps them, and writes no durable state.
//!
//! Invariant: whatever fails, no mount, directory or process of its making stays behind.
#![forbid(unsafe_code)]

pub mod apply;
pub mod capabilities;
pub mod idrange;
pub mod lower;
pub mod mechanism;
pub mod plan;
pub mod predict;
