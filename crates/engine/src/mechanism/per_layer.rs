//! `per-layer`: one idmapped clone a layer, each attached in the caller's mount namespace while the overlay is made.
//!
//! Linux 5.19. What containerd did before its fix; here to be compared with. Two operations on the host's table a
//! layer and pass, and two more for every pass but the last, whose overlay is thrown away.

use std::path::PathBuf;

use super::overlay::{self, Lookup, Use};
use crate::capabilities::Capabilities;
use crate::plan::{PlanError, Request, Slot, Step, StepList};

pub(super) fn requires(capabilities: &Capabilities) -> Result<(), String> {
    capabilities.private.demand("idmapped overlay layers (Linux 5.19)")
}

pub(super) fn steps(request: &Request, capabilities: &Capabilities) -> Result<Vec<Step>, PlanError> {
    let layers = request.lowers.count();
    let attach = request.scratch.join("overlay");
    let points: Vec<PathBuf> = (0..layers).map(|n| request.scratch.join(n.to_string())).collect();
    let lookup = Lookup::Named { names: points.clone(), attach: &attach };
    let mut list = StepList::new();
    overlay::shape_upper(&mut list, request, true);
    list.make_dir(&request.scratch);
    for pass in 1..=request.passes {
        list.for_each_layer(layers, |list, n| {
            list.make_dir(&points[n]);
            list.idmapped_clone(
                request.lowers.parent().join(request.lowers.names()[n].name()),
                Slot::Clone(n),
            );
            list.attach(Slot::Clone(n), &points[n]);
            list.close(Slot::Clone(n));
        });
        if pass < request.passes {
            overlay::steps(&mut list, request, capabilities, &lookup, Use::Look)?;
            overlay::discard_look(&mut list, &attach);
        } else {
            overlay::steps(&mut list, request, capabilities, &lookup, Use::Rootfs)?;
        }
        list.for_each_layer(layers, |list, n| {
            list.unmount(&points[n]);
            list.remove_dir(&points[n]);
        });
    }
    list.remove_dir(&request.scratch);
    overlay::attach_rootfs(&mut list, request);
    Ok(list.into_steps())
}
