//! `plywood ps`.

use std::process::ExitCode;

use plywood_engine::idrange::RangeRecord;
use plywood_image::printable;
use plywood_store::{Container, ContainerState};
use serde_json::json;

use crate::args::Ps;
use crate::context::Context;
use crate::output;

/// Characters of a command that a table shows.
const COMMAND_WIDTH: usize = 32;

/// Lists containers.
pub fn run(context: &Context, args: &Ps) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    if let Err(error) = super::containers::tidy(context, &store) {
        if !crate::remedy::is_disk_full(&error) {
            return Err(error);
        }
        tracing::warn!(error = format!("{error:#}"), "listed all the same");
    }
    let mut containers = store.containers()?;
    containers.retain(|container| args.all || container.state != ContainerState::Exited);
    if context.json {
        let records: Vec<_> = containers.iter().map(record).collect();
        output::json(&json!({ "containers": records }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = containers.into_iter().map(|container| {
        let status = match (container.state, container.exit_code) {
            (ContainerState::Exited, Some(code)) => format!("exited ({code})"),
            (state, _) => state.to_string(),
        };
        [
            container.id.short().to_owned(),
            container.name.clone().unwrap_or_default(),
            container.image_name.clone(),
            command(&container),
            status,
            container.lease.as_ref().map(|lease| lease.uid.to_string()).unwrap_or_default(),
            output::ago_ms(u64::try_from(container.created_ms).unwrap_or(0)),
        ]
    });
    let rows: Vec<_> = rows.collect();
    output::text_out(&output::table(
        ["ID", "NAME", "IMAGE", "COMMAND", "STATE", "HOST IDS", "CREATED"],
        rows,
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn command(container: &Container) -> String {
    let text = printable(&container.command.join(" ")).to_string();
    if text.chars().count() <= COMMAND_WIDTH {
        return text;
    }
    text.chars().take(COMMAND_WIDTH - 3).collect::<String>() + "..."
}

fn record(container: &Container) -> serde_json::Value {
    let range = |range: Option<plywood_kernel::IdRange>| range.map(RangeRecord::from);
    json!({
        "id": container.id.as_str(),
        "name": container.name,
        "image": container.image_name,
        "image_digest": container.image.to_string(),
        "command": container.command,
        "state": container.state.as_str(),
        "pid": container.process.as_ref().filter(|_| container.state == ContainerState::Running).map(|p| p.pid),
        "exit_code": container.exit_code,
        "uid_range": range(container.lease.as_ref().map(|lease| lease.uid)),
        "gid_range": range(container.lease.as_ref().map(|lease| lease.gid)),
        "mechanism": container.mechanism,
        "lower": container.lower,
        "runtime": container.runtime,
        "launch_ms": container.launch_ms.map(output::round_ms),
        "created_ms": container.created_ms,
        "started_ms": container.started_ms,
        "finished_ms": container.finished_ms,
    })
}
