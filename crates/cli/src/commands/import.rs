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
    let image = fetch::import(context, &store, &pins, &args.path, args.name.as_deref(), &args.fetch)?;
    let flat = fetch::flatten(context, &store, &pins, &image, &args.fetch)?;
    if context.json {
        output::json(&fetch::record(&image, flat.as_ref()))?;
    } else {
        output::text_out(&fetch::describe(&image, flat.as_ref()))?;
    }
    Ok(ExitCode::SUCCESS)
}
