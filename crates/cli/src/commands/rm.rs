//! `plywood rm`.

use std::process::ExitCode;
use std::time::Duration;

use plywood_store::ContainerState;
use serde_json::json;

use super::containers;
use crate::args::Rm;
use crate::context::Context;
use crate::output;
use crate::remedy::Advised;

/// Removes containers.
pub fn run(context: &Context, args: &Rm) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    containers::tidy(context, &store)?;
    let mut targets =
        args.containers.iter().map(|text| store.find_container(text)).collect::<Result<Vec<_>, _>>()?;
    if args.all {
        targets = store.containers()?;
    }
    let running = targets.iter().find(|container| container.state != ContainerState::Exited);
    if let Some(container) = running.filter(|_| !args.force) {
        let short = container.id.short();
        return Err(Advised::new(
            format!("container {short} is {}", container.state),
            format!("`plywood stop {short}` first, or `plywood rm --force`"),
        )
        .into());
    }
    let bar = context.progress.count("removing", u64::try_from(targets.len())?);
    containers::end_all(context, &targets, |container| {
        if container.state != ContainerState::Exited {
            containers::end(context, &store, container, "KILL", Duration::ZERO)?;
        }
        bar.inc(1);
        Ok(())
    })?;
    containers::remove(context, &store, &targets)?;
    bar.finish_and_clear();
    let ids: Vec<&str> = targets.iter().map(|container| container.id.as_str()).collect();
    if context.json {
        output::json(&json!({ "removed": ids }))?;
    } else {
        output::text_out(&ids.iter().map(|id| format!("{id}\n")).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}
