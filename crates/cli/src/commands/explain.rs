//! `plywood explain`: the plan of a launch before anything is done.

use std::path::Path;
use std::process::ExitCode;

use plywood_engine::capabilities::Capabilities;
use plywood_engine::idrange::{self, EtcFiles, IdPool, IdsInUse};
use plywood_engine::mechanism::Choice;
use plywood_engine::plan::{self, Request};
use plywood_engine::predict::Comparison;
use serde_json::json;

use super::run::{lower_names, pick_lower, require_layers, scratch};
use crate::args::Explain;
use crate::context::Context;
use crate::output;

/// Shows the plan for one container of an image, and what launching it costs in mount operations.
pub fn run(context: &Context, args: &Explain) -> anyhow::Result<ExitCode> {
    // Without it no mechanism but `copy` would seem to work.
    Context::require_mounting()?;
    let store = context.store()?;
    // What is written is little and soon gone; seeing the plan must be possible on a full disk, too.
    let pins = store.with_reserve(|| store.pins())?;
    let image = store.with_reserve(|| store.use_image(&pins, &args.image))?;
    require_layers(&image, &args.image)?;
    let capabilities = Capabilities::probe(&scratch(&store))?;
    let source = pick_lower(context, &store, &pins, &image, args.assembly.lower)?;
    let lowers = lower_names(&store, &image, source)?;
    let pool = IdPool::new(&EtcFiles::read(Path::new("/etc"))?, args.assembly.id_range_length)?;
    // An example: the first range of the pool, whoever may have it at the moment.
    let lease = idrange::allocate(&pool, &IdsInUse::default(), 1)?.remove(0);
    let snapshot = store.root().path().join("snapshots/N");
    let scratch = scratch(&store).join("ID");
    let mut request =
        Request::new(lowers, lease.idmap(), snapshot.join("fs"), snapshot.join("work"), scratch);
    request.choice = args.assembly.mechanism.map_or(Choice::Auto, Choice::Forced);
    let plan = plan::plan(&request, &capabilities)?;
    let comparison = Comparison::new(plan.mechanism, plan.layers, image.layers.len());
    if context.json {
        let calls: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        output::json(&json!({
            "image": image.names,
            "image_layers": image.layers.len(),
            "platform": image.platform,
            "mechanism": plan.mechanism,
            "lower": plan.source,
            "overlay_layers": plan.layers,
            "passed_over": plan.passed_over.iter().map(|(mechanism, reason)| json!({ "mechanism": mechanism, "reason": reason })).collect::<Vec<_>>(),
            "calls": calls,
            "mount_ops": plan.mount_ops(),
            "lock_work": plan.lock_work(),
            "predictions": comparison.rows,
        }))?;
    } else {
        let name = image.names.first().map_or(args.image.as_str(), String::as_str);
        let layers = output::count(image.layers.len(), "layer");
        output::text_out(&format!("{name} ({}): {layers}\n\n{plan}\n\n{comparison}\n", image.platform))?;
    }
    Ok(ExitCode::SUCCESS)
}
