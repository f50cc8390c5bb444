//! `plywood pull`.

use std::process::ExitCode;

use serde_json::{Map, Value};

use super::fetch;
use crate::args::Pull;
use crate::context::Context;
use crate::output;
use crate::remedy::report_beside;

/// Pulls images, one after the other. As JSON one object: those brought in, and the error that ended it, if any.
pub fn run(context: &Context, args: &Pull) -> anyhow::Result<ExitCode> {
    // Wrong usage is found before anything is done.
    args.images.iter().try_for_each(|name| fetch::reference(name).map(drop))?;
    let store = context.store()?;
    let mut images = Vec::new();
    let pulled = args.images.iter().try_for_each(|name| {
        let pins = store.pins()?;
        let fetched = fetch::pull(context, &store, &pins, name, &args.fetch, &args.registry)?;
        let flat = fetch::flatten(context, &store, &pins, &fetched, &args.fetch)?;
        if context.json {
            images.push(fetch::record(&fetched, flat.as_ref()));
            return Ok(());
        }
        output::text_out(&fetch::describe(&fetched, flat.as_ref()))
    });
    if !context.json {
        return pulled.map(|()| ExitCode::SUCCESS);
    }
    let done = Map::from_iter([("images".to_owned(), Value::from(images))]);
    match pulled {
        Ok(()) => output::json(&done).map(|()| ExitCode::SUCCESS),
        Err(error) => Ok(report_beside(&error, Some(done))),
    }
}
