//! What is taken back when a step fails.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use plywood_kernel::SyscallError;
use plywood_kernel::mount::{UnmountFlags, unmount};

use super::calls;
use super::machine::Machine;
use super::worker::PrivateWorker;
use crate::plan::{Place, Plan};

/// One thing to take back.
#[derive(Debug)]
pub(super) enum Undo {
    Unmount(PathBuf),
    RemoveDir(PathBuf),
    /// The worker leaves a directory it would keep busy.
    LeaveDir,
    /// The thread goes back to where it was.
    GoHome(OwnedFd),
    /// Everything below this directory goes.
    Empty(PathBuf),
}

/// What was done so far and is not settled yet.
#[derive(Debug, Default)]
pub(super) struct Trace {
    entries: Vec<(Place, Undo)>,
    /// A volatile overlay marks its work directory, which would keep it from ever being used again.
    pub(super) volatile: bool,
}

impl Trace {
    pub(super) fn push(&mut self, place: Place, undo: Undo) {
        self.entries.push((place, undo));
    }

    /// A later step has done what undo would do.
    pub(super) fn settled(&mut self, done: impl Fn(&Undo) -> bool) {
        if let Some(index) = self.entries.iter().rposition(|(_, entry)| done(entry)) {
            self.entries.remove(index);
        }
    }

    /// Does now what undo would do.
    pub(super) fn go_home(&mut self) -> Result<(), SyscallError> {
        let index = self.entries.iter().rposition(|(_, entry)| matches!(entry, Undo::GoHome(_)));
        index.map_or(Ok(()), |index| self.entries.remove(index).1.run())
    }
}

/// Takes everything back, newest first; returns what could not be.
pub(super) fn unwind(mut machine: Machine, plan: &Plan, worker: Option<&PrivateWorker>) -> Vec<SyscallError> {
    // An overlay holds the clones it was made of, so it goes before they are unmounted.
    machine.close_all();
    let mut left = Vec::new();
    for (place, undo) in machine.trace.entries.into_iter().rev() {
        let result = match (place, worker) {
            (Place::Worker, Some(worker)) => worker.call(move || undo.run()).unwrap_or(Ok(())),
            _ => undo.run(),
        };
        left.extend(result.err());
    }
    if machine.trace.volatile {
        left.extend(calls::empty(&plan.work).err());
    }
    left
}

impl Undo {
    fn run(&self) -> Result<(), SyscallError> {
        match self {
            Self::Unmount(path) => unmount(path, UnmountFlags::empty()),
            Self::RemoveDir(path) => calls::remove_dir(path),
            Self::LeaveDir => calls::chdir("/".as_ref()),
            Self::GoHome(home) => calls::fchdir(home),
            Self::Empty(path) => calls::empty(path),
        }
    }
}
