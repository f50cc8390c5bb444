//! `copy`: every file of the merged lower directories is copied with its owner shifted, before the container starts.
//!
//! Any kernel and any file system. The rootfs is the writable directory itself: a detached clone of it, or, where
//! the kernel has no detached clones that take attributes, the directory for somebody to bind.

use super::overlay;
use crate::capabilities::Capabilities;
use crate::plan::{Op, PlanError, Request, Slot, Step, StepList};

mod data;
mod merge;
mod node;
mod tree;
mod xattr;

pub(crate) use tree::copy_tree;
pub use tree::{CopyError, CopyStats};

pub(super) fn requires(_: &Capabilities) -> Result<(), String> {
    Ok(())
}

pub(super) fn steps(request: &Request, capabilities: &Capabilities) -> Result<Vec<Step>, PlanError> {
    let mut list = StepList::new();
    overlay::shape_upper(&mut list, request, true);
    list.push(Op::CopyTree {
        parent: request.lowers.parent().to_owned(),
        names: request.lowers.names().iter().map(|lower| lower.name().to_owned()).collect(),
        upper: request.upper.clone(),
    });
    if capabilities.mount_api.is_yes() {
        list.open_tree(&request.upper, Slot::Rootfs);
        list.push(Op::SetAttrs { mount: Slot::Rootfs, attrs: request.attrs });
        overlay::attach_rootfs(&mut list, request);
        return Ok(list.into_steps());
    }
    list.push(Op::OpenDir { path: request.upper.clone(), out: Slot::Rootfs });
    if let Some(path) = &request.attach {
        list.push(Op::Bind { from: request.upper.clone(), path: path.clone(), attrs: request.attrs });
    }
    Ok(list.into_steps())
}
