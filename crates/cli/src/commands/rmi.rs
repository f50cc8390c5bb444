//! `plywood rmi`.

use std::process::ExitCode;

use plywood_store::gc::GcOptions;
use serde_json::json;

use crate::args::Rmi;
use crate::context::Context;
use crate::output;

/// Takes names away, then whatever nothing refers to any more.
pub fn run(context: &Context, args: &Rmi) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let mut untagged = Vec::new();
    for image in &args.images {
        let names = if args.force { store.find_image(image)?.names } else { vec![image.clone()] };
        let targets = if names.is_empty() { vec![image.clone()] } else { names };
        for name in targets {
            untagged.extend(store.remove_image_name(&name, args.force)?.names);
        }
    }
    let report = store.collect_garbage(GcOptions::default())?;
    if context.json {
        output::json(
            &json!({ "untagged": untagged, "removed": report.removed.len(), "freed_bytes": report.bytes() }),
        )?;
    } else {
        let mut text: String = untagged.iter().map(|name| format!("untagged {name}\n")).collect();
        text.push_str(&super::prune::summary(&report));
        output::text_out(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
