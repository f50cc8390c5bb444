//! `plywood prune`.

use std::process::ExitCode;

use plywood_store::GcReport;
use serde_json::json;

use crate::context::Context;
use crate::output;

/// Removes whatever nothing refers to.
pub fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    super::containers::tidy(context, &store)?;
    let report = store.collect_garbage()?;
    if context.json {
        let removed: Vec<_> = report
            .removed
            .iter()
            .map(|one| json!({ "kind": one.kind, "what": one.what, "size_bytes": one.bytes }))
            .collect();
        output::json(&json!({ "removed": removed, "freed_bytes": report.bytes() }))?;
    } else {
        let mut text: String =
            report.removed.iter().map(|one| format!("removed {} {}\n", one.kind, one.what)).collect();
        text.push_str(&summary(&report));
        output::text_out(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for people.
pub fn summary(report: &GcReport) -> String {
    match report.removed.len() {
        0 => "nothing to remove\n".to_owned(),
        count => format!("removed {}, {}\n", output::count(count, "thing"), output::size(report.bytes())),
    }
}
