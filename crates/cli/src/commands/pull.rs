//! `plywood pull`.

use std::process::ExitCode;

use super::fetch;
use crate::args::Pull;
use crate::context::Context;
use crate::output;

/// Pulls images, one after the other: a line of JSON each.
pub fn run(context: &Context, args: &Pull) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    for name in &args.images {
        let pins = store.pins()?;
        let fetched = fetch::pull(context, &store, &pins, name, &args.fetch, &args.registry)?;
        let flat = fetch::flatten(context, &store, &pins, &fetched, &args.fetch)?;
        if context.json {
            output::json(&fetch::record(&fetched, flat.as_ref()))?;
        } else {
            output::text_out(&fetch::describe(&fetched, flat.as_ref()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
