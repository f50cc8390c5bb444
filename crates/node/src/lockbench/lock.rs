//! The locks: one file each, all with the same functions.
//!
//! | lock | models | waiters |
//! |---|---|---|
//! | `cas` | the simplest spin lock: compare-and-swap with a pause until it succeeds | hammer one cache line |
//! | `ticket` | a fair spin lock: Linux before 4.2 on x86 | read one cache line |
//! | `mcs` | a queued spin lock, what the kernel's spin locks become under contention | read a line of their own |
//! | `seqlock` | `mount_lock` as path walks see it: one writer, readers that retry | read one cache line |
//! | `mutex` | the standard library's: a short spin, then sleep in a futex | sleep |
//! | `mount` | the real thing: mounts made and taken away while others walk paths | in the kernel |

use std::fmt;
use std::str::FromStr;

use plywood_kernel::SyscallError;
use serde::{Deserialize, Serialize};

use super::roles::Roles;
use super::section::Section;

mod cas;
mod mcs;
mod mount;
mod mutex;
mod seqlock;
#[cfg(test)]
mod tests;
mod ticket;

pub(super) use self::{cas::Cas, mcs::Mcs, mount::Mount, mutex::Mutex, seqlock::Seqlock, ticket::Ticket};

/// One of the locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockKind {
    /// Compare-and-swap with a pause.
    Cas,
    /// A ticket lock.
    Ticket,
    /// A queue of waiters, each on a line of its own.
    Mcs,
    /// One writer, readers that retry.
    Seqlock,
    /// Futex.
    Mutex,
    /// The kernel's mount locks.
    Mount,
}

impl LockKind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Cas, Self::Ticket, Self::Mcs, Self::Seqlock, Self::Mutex, Self::Mount];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cas => "cas",
            Self::Ticket => "ticket",
            Self::Mcs => "mcs",
            Self::Seqlock => "seqlock",
            Self::Mutex => "mutex",
            Self::Mount => "mount",
        }
    }

    /// Whether waiters burn their CPU. With more threads than CPUs such a lock measures the scheduler: its holder is
    /// preempted, and everybody waits until it runs again.
    pub fn spins(self) -> bool {
        !matches!(self, Self::Mutex | Self::Mount)
    }

    /// What the threads do that run beside those that are measured; empty if there are none.
    pub fn beside(self) -> &'static str {
        match self {
            Self::Cas | Self::Ticket | Self::Mcs | Self::Mutex => "",
            Self::Seqlock => "writes",
            Self::Mount => "path walks",
        }
    }

    /// How many of so many threads contend; the others run beside.
    pub fn contenders(self, threads: usize) -> usize {
        match self {
            Self::Seqlock if threads > 1 => threads - 1,
            Self::Mount => threads.div_ceil(2),
            Self::Seqlock | Self::Cas | Self::Ticket | Self::Mcs | Self::Mutex => threads,
        }
    }

    /// Whether it can be measured by root only.
    pub fn needs_root(self) -> bool {
        self == Self::Mount
    }
}

impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Not the name of a lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no lock; there are cas, ticket, mcs, seqlock, mutex, mount")]
pub struct UnknownLock(String);

impl FromStr for LockKind {
    type Err = UnknownLock;

    fn from_str(name: &str) -> Result<Self, UnknownLock> {
        Self::ALL.into_iter().find(|lock| lock.name() == name).ok_or_else(|| UnknownLock(name.to_owned()))
    }
}

/// What every lock can do.
pub(super) trait Lock: Sync + Sized {
    /// A lock for threads with these roles.
    fn new(roles: &Roles) -> Result<Self, SyscallError>;

    /// Prepares the calling thread, once.
    fn join(&self) -> Result<(), SyscallError> {
        Ok(())
    }

    /// One operation of thread `me`: acquires, runs the critical section, releases.
    fn operate(&self, me: usize, section: &Section) -> Result<(), SyscallError>;
}
