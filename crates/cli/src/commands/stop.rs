//! `plywood stop`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use plywood_image::signal;
use plywood_store::{Container, ContainerState, Store};
use serde_json::json;

use crate::args::Stop;
use crate::context::Context;
use crate::output;
use crate::remedy::Advised;

/// Stops containers, a few at once.
pub fn run(context: &Context, args: &Stop) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let mut containers =
        args.containers.iter().map(|text| store.find_container(text)).collect::<Result<Vec<_>, _>>()?;
    if args.all {
        containers = store.containers()?;
    }
    containers.retain(|container| container.state != ContainerState::Exited);
    let patience = Duration::from_secs(args.time);
    let bar = context.progress.count("stopping", u64::try_from(containers.len())?);
    super::containers::end_all(context, &containers, |container| {
        let signal = stop_signal(&store, container)?;
        super::containers::end(context, &store, container, &signal, patience)?;
        bar.inc(1);
        Ok(())
    })?;
    bar.finish_and_clear();
    let ids: Vec<&str> = containers.iter().map(|container| container.id.as_str()).collect();
    if context.json {
        output::json(&json!({ "stopped": ids }))?;
    } else {
        output::text_out(&ids.iter().map(|id| format!("{id}\n")).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the image asks to be stopped with, by number: runtimes do not know all names.
fn stop_signal(store: &Store, container: &Container) -> anyhow::Result<String> {
    let Some(image) = store.image_by_digest(&container.image)? else { return Ok("TERM".to_owned()) };
    let config = plywood_image::config::parse(&image.config).context("reading the image's configuration")?;
    match config.stop_signal {
        None => Ok("TERM".to_owned()),
        Some(name) => match signal::number(&name) {
            Some(number) => Ok(number.to_string()),
            None => Err(Advised::new(
                format!(
                    "the image of container {} has StopSignal `{name}`, which is no signal",
                    container.id.short()
                ),
                format!("end it without: `plywood rm --force {}`", container.id.short()),
            )
            .into()),
        },
    }
}
