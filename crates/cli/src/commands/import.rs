//! `plywood import`.

use std::process::ExitCode;

use super::fetch;
use crate::args::Import;
use crate::context::Context;
use crate::output;

/// Imports an image from a layout directory or an archive.
pub fn run(context: &Context, args: &Import) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let pins = store.pins()?;
    let fetched = fetch::import(context, &store, &pins, &args.path, args.name.as_deref(), &args.fetch)?;
    let flat = fetch::flatten(context, &store, &pins, &fetched, &args.fetch)?;
    if context.json {
        output::json(&fetch::record(&fetched, flat.as_ref()))?;
    } else {
        output::text_out(&fetch::describe(&fetched, flat.as_ref()))?;
    }
    Ok(ExitCode::SUCCESS)
}
