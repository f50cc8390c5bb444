//! `private`: the clone is attached in a worker's private mount namespace, and the overlay leaves it as a descriptor.
//!
//! Linux 5.19, where overlay accepts idmapped layers but wants them attached in its maker's namespace. The worker
//! made its namespace once; the host's table never changes. Layers are named relative to the clone, so that
//! hundreds of them fit where an older kernel takes one page of options.

use std::path::{Path, PathBuf};

use super::overlay::{self, Lookup, Use};
use crate::capabilities::Capabilities;
use crate::plan::{Op, Place, PlanError, Request, Slot, Step, StepList};

pub(super) fn requires(capabilities: &Capabilities) -> Result<(), String> {
    capabilities.private.demand("idmapped overlay layers (Linux 5.19)")
}

pub(super) fn steps(request: &Request, capabilities: &Capabilities) -> Result<Vec<Step>, PlanError> {
    let clone = request.scratch.join("lower");
    let chdir = |list: &mut StepList, path: &Path| list.push(Op::ChangeDir { path: path.to_owned() });
    let names = overlay::names_below(&request.lowers, Path::new(""));
    let attach: PathBuf = request.scratch.join("overlay");
    let mut list = StepList::new();
    list.idmapped_clone(request.lowers.parent(), Slot::Clone(0));
    overlay::shape_upper(&mut list, request, true);
    list.make_dir(&request.scratch);
    list.make_dir(&clone);
    list.at(Place::Worker);
    overlay::while_attached(&mut list, Slot::Clone(0), &clone, |list| {
        chdir(list, &clone);
        overlay::steps(list, request, capabilities, &Lookup::Named { names, attach: &attach }, Use::Rootfs)?;
        chdir(list, Path::new("/"));
        Ok(())
    })?;
    list.at(Place::Caller);
    list.remove_dir(&clone);
    list.remove_dir(&request.scratch);
    overlay::attach_rootfs(&mut list, request);
    Ok(list.into_steps())
}
