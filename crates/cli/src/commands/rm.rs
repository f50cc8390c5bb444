//! `plywood rm`.

use std::process::ExitCode;

use plywood_store::{Container, ContainerState};
use serde_json::json;

use super::containers::{self, Ending};
use crate::args::Rm;
use crate::context::Context;
use crate::output;
use crate::remedy::{Advised, Failures};

/// Running containers that the refusal to remove them names.
const SHOWN: usize = 10;

/// Removes containers: those that can be, whatever is wrong with others.
pub fn run(context: &Context, args: &Rm) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    containers::tidy(context, &store)?;
    let mut failures = Failures::default();
    let mut targets = containers::named(&store, &args.containers, args.all, &mut failures)?;
    if !args.force {
        let running: Vec<Container> =
            targets.extract_if(.., |container| container.state != ContainerState::Exited).collect();
        failures.extend(refusal(&running).map(Into::into));
    }
    let bar = context.progress.count("removing", u64::try_from(targets.len())?);
    let failed = containers::end_all(context, &store, &targets, |container| {
        if container.state != ContainerState::Exited {
            containers::end(context, &store, container, &Ending::kill())?;
        }
        bar.inc(1);
        Ok(())
    })?;
    containers::leave_out(&mut targets, failed, &mut failures);
    let failed = containers::remove(context, &store, &targets)?;
    containers::leave_out(&mut targets, failed, &mut failures);
    bar.finish_and_clear();
    let ids: Vec<&str> = targets.iter().map(|container| container.id.as_str()).collect();
    failures.report(context.json, &output::lines(&ids), json!({ "removed": ids }))
}

fn refusal(running: &[Container]) -> Option<Advised> {
    let shown: Vec<&str> = running.iter().take(SHOWN).map(|container| container.id.short()).collect();
    let what = match running {
        [] => return None,
        [one] => format!("container {} is {}", one.id.short(), one.state),
        many => {
            let more = if many.len() > SHOWN { ", ..." } else { "" };
            format!("{} have not ended: {}{more}", output::count(many.len(), "container"), shown.join(", "))
        }
    };
    Some(Advised::new(what, format!("`plywood stop {}` first, or `plywood rm --force`", shown.join(" "))))
}
