//! `plywood stop`.

use std::process::ExitCode;
use std::time::Duration;

use plywood_store::{Container, ContainerState, Store};
use serde_json::json;

use crate::args::Stop;
use crate::context::Context;
use crate::output;

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
        let signal = stop_signal(&store, container);
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

/// What the image asks to be stopped with.
fn stop_signal(store: &Store, container: &Container) -> String {
    let config = store.image_by_digest(&container.image).ok().flatten().map(|image| image.config);
    config
        .and_then(|config| plywood_image::config::parse(&config).ok())
        .and_then(|config| config.stop_signal)
        .map_or_else(|| "TERM".to_owned(), |signal| signal.trim_start_matches("SIG").to_owned())
}
