//! `plywood rmi`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use plywood_store::Store;
use serde_json::json;

use crate::args::Rmi;
use crate::context::Context;
use crate::output;

/// Takes names away, then whatever nothing refers to any more.
pub fn run(context: &Context, args: &Rmi) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let mut untagged = Vec::new();
    for name in targets(&store, args)? {
        untagged.extend(store.remove_image_name(&name, args.force)?.names);
    }
    let report = store.collect_garbage()?;
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

/// The names to take away. By force, every name of the images; two of one image mean the same then.
fn targets(store: &Store, args: &Rmi) -> anyhow::Result<BTreeSet<String>> {
    let mut targets = BTreeSet::new();
    for text in &args.images {
        // Looked up without force, too: nothing goes when one of them is not there.
        let found = store.find_images(text)?;
        let names: Vec<String> =
            found.into_iter().filter(|_| args.force).flat_map(|image| image.names).collect();
        if names.is_empty() {
            targets.insert(text.clone());
        }
        targets.extend(names);
    }
    Ok(targets)
}
