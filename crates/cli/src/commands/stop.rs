//! `plywood stop`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use plywood_image::signal;
use plywood_store::{Container, ContainerState, Store};
use serde_json::json;

use super::containers::{self, Ending};
use crate::args::Stop;
use crate::context::Context;
use crate::output;
use crate::remedy::{Advised, Failures};

/// Stops containers, a few at once: those that can be, whatever is wrong with others.
pub fn run(context: &Context, args: &Stop) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let mut failures = Failures::default();
    let mut targets = containers::named(&store, &args.containers, args.all, &mut failures)?;
    targets.retain(|container| container.state != ContainerState::Exited);
    let patience = Duration::from_secs(args.time);
    let bar = context.progress.count("stopping", u64::try_from(targets.len())?);
    let failed = containers::end_all(context, &store, &targets, |container| {
        let signal = stop_signal(&store, container)?;
        containers::end(context, &store, container, &Ending::stop(&signal, patience))?;
        bar.inc(1);
        Ok(())
    })?;
    containers::leave_out(&mut targets, failed, &mut failures);
    bar.finish_and_clear();
    let ids: Vec<&str> = targets.iter().map(|container| container.id.as_str()).collect();
    failures.report(context.json, &output::lines(&ids), json!({ "stopped": ids }))
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
