//! `common-parent`: the clone is attached in the caller's mount namespace while the overlay is made.
//!
//! Linux 5.19. What containerd does since its fix; here to be compared with. Two operations on the host's table a
//! pass, and two more for every pass but the last, whose overlay is thrown away as containerd throws away the one it
//! reads the image's users from.

use super::overlay::{self, Lookup, Use};
use crate::capabilities::Capabilities;
use crate::plan::{PlanError, Request, Slot, Step, StepList};

pub(super) fn requires(capabilities: &Capabilities) -> Result<(), String> {
    capabilities.private.demand("idmapped overlay layers (Linux 5.19)")
}

pub(super) fn steps(request: &Request, capabilities: &Capabilities) -> Result<Vec<Step>, PlanError> {
    let clone = request.scratch.join("lower");
    let attach = request.scratch.join("overlay");
    let names = overlay::names_below(&request.lowers, &clone);
    let lookup = Lookup::Named { names, attach: &attach };
    let mut list = StepList::new();
    overlay::shape_upper(&mut list, request, true);
    list.make_dir(&request.scratch);
    list.make_dir(&clone);
    for pass in 1..=request.passes {
        list.idmapped_clone(request.lowers.parent(), Slot::Clone(0));
        overlay::while_attached(&mut list, Slot::Clone(0), &clone, |list| {
            if pass < request.passes {
                overlay::steps(list, request, capabilities, &lookup, Use::Look)?;
                overlay::discard_look(list, &attach);
                return Ok(());
            }
            overlay::steps(list, request, capabilities, &lookup, Use::Rootfs)
        })?;
    }
    list.remove_dir(&clone);
    list.remove_dir(&request.scratch);
    overlay::attach_rootfs(&mut list, request);
    Ok(list.into_steps())
}
