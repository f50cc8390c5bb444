//! The interpreter of steps.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use plywood_kernel::fscontext::FsContext;
use plywood_kernel::idmap::IdMap;
use plywood_kernel::mount::{MountFd, UnmountFlags, unmount};
use rustix::fs::CWD;

use super::undo::{Trace, Undo};
use super::{Context, Done, StepError, calls};
use crate::mechanism::copy::copy_tree;
use crate::plan::{Op, Place, Slot, Step};

/// What a slot holds.
#[derive(Debug)]
pub(super) enum Held {
    Mount(MountFd),
    Fd(OwnedFd),
    Context(FsContext),
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Mount(mount) => mount.as_fd(),
            Self::Fd(fd) => fd.as_fd(),
            Self::Context(context) => context.as_fd(),
        }
    }
}

/// Everything one application holds. It moves to the worker's thread and back.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// Few at any time: searched from the end.
    held: Vec<(Slot, Held)>,
    pub(super) trace: Trace,
    pub(super) done: Done,
}

/// What only the caller's thread has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) idmap: &'a IdMap,
}

/// The step that failed and why.
pub(super) type RunResult = Result<(), (usize, StepError)>;

impl Machine {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Takes some steps. `around` is there on the caller's thread only.
    pub(super) fn run(
        mut self,
        steps: &[Step],
        range: Range<usize>,
        around: Option<Around<'_>>,
    ) -> (Self, RunResult) {
        for index in range {
            let step = &steps[index];
            if let Err(error) = self.step(step, around) {
                return (self, Err((index, error)));
            }
            self.done.calls += step.op.calls();
            self.done.mounts = self.done.mounts + step.mount_ops();
        }
        (self, Ok(()))
    }

    /// Ends well: nothing is to be undone any more.
    pub(super) fn take_rootfs(&mut self) -> Option<Held> {
        self.take(Slot::Rootfs).ok()
    }

    /// Closes every descriptor, in the reverse order of their making.
    pub(super) fn close_all(&mut self) {
        while self.held.pop().is_some() {}
    }

    fn step(&mut self, step: &Step, around: Option<Around<'_>>) -> Result<(), StepError> {
        let around_or = || around.ok_or_else(|| StepError::NoSlot("id mapping".to_owned()));
        match &step.op {
            Op::OpenTree { path, out } => {
                self.hold(*out, Held::Mount(MountFd::clone_tree(CWD, path, false)?))
            }
            Op::SetIdmap { mount } => {
                self.mount(*mount)?.set_idmap(around_or()?.context.user_ns)?;
            }
            Op::SetAttrs { mount, attrs } => {
                self.mount(*mount)?.set_attrs(*attrs, plywood_kernel::MountAttrs::NONE, false)?;
            }
            Op::OpenAt { parent, name, out } => {
                let fd = calls::open_path(self.get(*parent)?.as_fd(), name)?;
                self.hold(*out, Held::Fd(fd));
            }
            Op::OpenDir { path, out } => self.hold(*out, Held::Fd(calls::open_path(CWD, path)?)),
            Op::ShapeUpper { like, upper, shifted } => {
                let idmap = around_or()?.idmap;
                calls::shape_upper(like, upper, shifted.then_some(idmap))?;
            }
            Op::MakeDir { path } => {
                calls::make_dir(path)?;
                self.trace.push(step.place, Undo::RemoveDir(path.clone()));
            }
            Op::Attach { mount, path } => {
                self.mount(*mount)?.attach(CWD, path)?;
                self.trace.push(step.place, Undo::Unmount(path.clone()));
            }
            Op::ChangeDir { path } => {
                calls::chdir(path)?;
                self.trace.push(step.place, Undo::LeaveDir);
            }
            Op::EnterDir { dir } => {
                let home = calls::enter_dir(self.get(*dir)?.as_fd())?;
                self.trace.push(step.place, Undo::GoHome(home));
            }
            Op::LeaveDir => self.trace.go_home()?,
            Op::FsOpen { out } => self.hold(*out, Held::Context(FsContext::open("overlay")?)),
            Op::FsFlag { key } => {
                self.context()?.set_flag(key)?;
                self.trace.volatile |= *key == "volatile";
            }
            Op::FsString { key, value } => self.context()?.set_string(key, value)?,
            Op::FsFd { key, value } => self.context()?.set_fd(key, self.get(*value)?)?,
            Op::FsCreate => self.context()?.create()?,
            Op::FsMount { out, attrs } => match self.take(Slot::Overlay)? {
                Held::Context(context) => self.hold(*out, Held::Mount(context.mount(*attrs)?)),
                Held::Mount(_) | Held::Fd(_) => return Err(StepError::NoSlot(Slot::Overlay.to_string())),
            },
            Op::MountOverlay { options, path, attrs } => {
                calls::mount_overlay(options, path, *attrs)?;
                self.trace.volatile |= options.contains(",volatile");
                self.trace.push(step.place, Undo::Unmount(path.clone()));
            }
            Op::Bind { from, path, attrs } => {
                calls::bind(from, path, *attrs)?;
                self.trace.push(step.place, Undo::Unmount(path.clone()));
            }
            Op::Unmount { path } => {
                unmount(path, UnmountFlags::empty())?;
                self.trace.settled(|undo| matches!(undo, Undo::Unmount(at) if at == path));
            }
            Op::RemoveDir { path } => {
                calls::remove_dir(path)?;
                self.trace.settled(|undo| matches!(undo, Undo::RemoveDir(at) if at == path));
            }
            Op::Close { slot } => {
                let held = self.take(*slot)?;
                if let (Place::Reaper, Some(around), Held::Mount(mount)) = (step.place, around, held) {
                    around.context.reaper.close(mount);
                }
            }
            Op::CopyTree { parent, names, upper } => {
                self.trace.push(step.place, Undo::Empty(upper.clone()));
                self.done.copied = copy_tree(parent, names, upper, around_or()?.idmap)?;
            }
        }
        Ok(())
    }

    fn hold(&mut self, slot: Slot, held: Held) {
        self.held.push((slot, held));
    }

    fn get(&self, slot: Slot) -> Result<&Held, StepError> {
        let found = self.held.iter().rev().find(|(name, _)| *name == slot);
        found.map(|(_, held)| held).ok_or_else(|| StepError::NoSlot(slot.to_string()))
    }

    fn take(&mut self, slot: Slot) -> Result<Held, StepError> {
        let index = self.held.iter().rposition(|(name, _)| *name == slot);
        index.map(|index| self.held.remove(index).1).ok_or_else(|| StepError::NoSlot(slot.to_string()))
    }

    fn mount(&self, slot: Slot) -> Result<&MountFd, StepError> {
        match self.get(slot)? {
            Held::Mount(mount) => Ok(mount),
            Held::Fd(_) | Held::Context(_) => Err(StepError::NoSlot(slot.to_string())),
        }
    }

    fn context(&self) -> Result<&FsContext, StepError> {
        match self.get(Slot::Overlay)? {
            Held::Context(context) => Ok(context),
            Held::Mount(_) | Held::Fd(_) => Err(StepError::NoSlot(Slot::Overlay.to_string())),
        }
    }
}
