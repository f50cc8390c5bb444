//! The mount API, id mapping, namespaces and mount table of Linux, descriptors first.
//!
//! What plywood asks of the kernel, it asks through this crate; it is the only one with `unsafe` code. It
//! holds no policy: it does not choose mechanisms, keeps no state on disk and prints nothing.
//!
//! - Types that own a descriptor are nouns: [`MountFd`], [`FsContext`], [`UserNs`], [`MountNs`]. Paths enter
//!   at the edge. Every descriptor is close-on-exec.
//! - A refused call is a [`SyscallError`]: the call as strace prints it, the errno, the kernel's own log lines.
//! - What the running kernel can do is asked with the real thing ([`probe`]), never read off its version.
//!
//! Invariant: nothing here leaves a mount, a process or a thread behind when it fails.

#![allow(unsafe_code, reason = "the one crate that wraps system calls; all others forbid it")]

pub mod affinity;
pub mod copy;
pub mod cputime;
pub mod error;
pub mod fscontext;
pub mod heap;
pub mod idmap;
pub mod mount;
pub mod mountns;
pub mod perf;
pub mod probe;
pub mod process;
pub mod rangelock;
pub mod reaper;
pub mod remove;
pub mod signals;
mod sys;
pub mod table;
#[doc(hidden)]
pub mod testing;
pub mod userns;
pub mod watch;

pub use error::{Kind, Result, SyscallError};
pub use fscontext::FsContext;
pub use heap::return_free_memory;
pub use idmap::{IdMap, IdMapping, IdRange};
pub use mount::{MountAttrs, MountFd, UnmountFlags, unmount};
pub use mountns::MountNs;
pub use process::{ProcessId, set_child_subreaper, syncfs};
pub use rangelock::RangeLocks;
pub use reaper::Reaper;
pub use remove::{empty_tree, remove_tree};
pub use signals::SignalFd;
pub use table::MountEntry;
pub use userns::UserNs;
pub use watch::{MountCounts, MountWatch};
