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
        let image = fetch::pull(context, &store, &pins, name, &args.fetch, &args.registry)?;
        let flat = fetch::flatten(context, &store, &pins, &image, &args.fetch)?;
        if context.json {
            output::json(&fetch::record(&image, flat.as_ref()))?;
        } else {
            output::text_out(&fetch::describe(&image, flat.as_ref()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
