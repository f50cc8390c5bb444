//! `plywood rmi`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use plywood_store::{ImageError, Store};
use serde_json::json;

use crate::args::Rmi;
use crate::context::Context;
use crate::remedy::Failures;

/// Takes names away, those that can be, then whatever nothing refers to any more.
pub fn run(context: &Context, args: &Rmi) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let mut failures = Failures::default();
    let (mut untagged, mut done) = (Vec::new(), false);
    for name in targets(&store, args, &mut failures) {
        let removed = match store.remove_image_name(&name, args.force) {
            // It was there: another of these names stood for all names of the image.
            Err(ImageError::NotFound(_)) => continue,
            removed => failures.keep(removed),
        };
        done |= removed.is_some();
        untagged.extend(removed.into_iter().flat_map(|removed| removed.names));
    }
    let (mut count, mut freed) = (0, 0);
    let mut text: String = untagged.iter().map(|name| format!("untagged {name}\n")).collect();
    if done && let Some(report) = failures.keep(store.collect_garbage()) {
        (count, freed) = (report.removed.len(), report.bytes());
        text.push_str(&super::prune::summary(&report));
    }
    let record = json!({ "untagged": untagged, "removed": count, "freed_bytes": freed });
    failures.report(context.json, &text, record)
}

/// The names to take away. By force, every name of the images; two of one image mean the same then.
fn targets(store: &Store, args: &Rmi, failures: &mut Failures) -> BTreeSet<String> {
    let mut targets = BTreeSet::new();
    for text in &args.images {
        let Some(found) = failures.keep(store.find_images(text)) else { continue };
        let names: Vec<String> =
            found.into_iter().filter(|_| args.force).flat_map(|image| image.names).collect();
        if names.is_empty() {
            targets.insert(text.clone());
        }
        targets.extend(names);
    }
    targets
}
