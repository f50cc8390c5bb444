//! From lower directories to a running container: the rootfs with its owners shifted into the container's id range, and
//! the launch on it.
//!
//! - [`plan()`](plan::plan) decides, purely, what will be asked of the kernel; [`apply()`](apply::apply) asks it, with
//!   an undo stack. What can be asked here was found out by [`capabilities`], with the real thing.
//! - [`mechanism`] holds the six ways to make a rootfs, all run by the same interpreter.
//! - [`idrange`] cuts the machine's subordinate ids into ranges and keeps their user namespaces.
//! - [`predict`] counts mount operations, ours and containerd's.
//! - [`bundle`] writes the runtime spec, [`users`] resolves its user, [`launch`] starts the host's OCI [`runtime`] on
//!   it, and [`cgroup`] leaves no control group behind.
//!
//! The engine takes directories, never the store that keeps them, and writes no durable state.
//!
//! Invariant: whatever fails, no mount, directory or process of its making stays behind.
#![forbid(unsafe_code)]

pub mod apply;
pub mod bundle;
pub mod capabilities;
pub mod cgroup;
pub mod idrange;
pub mod launch;
pub mod lower;
pub mod mechanism;
pub mod plan;
pub mod predict;
pub mod runtime;
pub mod users;
