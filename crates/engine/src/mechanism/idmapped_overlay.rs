//! `idmapped-overlay`: the layers as they are, and the mapping on the overlay's own mount.
//!
//! Linux 7.3. No clone of the layers and therefore none to close. What the container writes is stored with the ids
//! it sees, which a snapshot must remember.

use super::overlay::{self, Lookup, Use};
use crate::capabilities::Capabilities;
use crate::plan::{Op, PlanError, Request, Slot, Step, StepList};

pub(super) fn requires(capabilities: &Capabilities) -> Result<(), String> {
    capabilities.idmapped_overlay.demand("an overlay mount that can be idmapped (Linux 7.3)")
}

pub(super) fn steps(request: &Request, capabilities: &Capabilities) -> Result<Vec<Step>, PlanError> {
    let mut list = StepList::new();
    list.push(Op::OpenDir { path: request.lowers.parent().to_owned(), out: Slot::Parent });
    overlay::shape_upper(&mut list, request, false);
    overlay::steps(&mut list, request, capabilities, &Lookup::Below(Slot::Parent), Use::Rootfs)?;
    list.push(Op::SetIdmap { mount: Slot::Rootfs });
    overlay::attach_rootfs(&mut list, request);
    list.close(Slot::Parent);
    Ok(list.into_steps())
}
