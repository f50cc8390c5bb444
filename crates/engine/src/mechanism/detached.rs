//! `detached`: one idmapped clone of the layers' common parent, never attached; the overlay finds its layers below it.
//!
//! Linux 6.15. Nothing temporary appears in any mount table, so nothing temporary can be left there.

use super::overlay::{self, Lookup, Use};
use crate::capabilities::Capabilities;
use crate::plan::{PlanError, Request, Slot, Step, StepList};

pub(super) fn requires(capabilities: &Capabilities) -> Result<(), String> {
    capabilities.detached.demand("overlay layers as descriptors on detached mounts (Linux 6.15)")
}

pub(super) fn steps(request: &Request, capabilities: &Capabilities) -> Result<Vec<Step>, PlanError> {
    let mut list = StepList::new();
    list.idmapped_clone(request.lowers.parent(), Slot::Clone(0));
    overlay::shape_upper(&mut list, request, true);
    overlay::steps(&mut list, request, capabilities, &Lookup::Below(Slot::Clone(0)), Use::Rootfs)?;
    overlay::attach_rootfs(&mut list, request);
    list.close_later(Slot::Clone(0));
    Ok(list.into_steps())
}
