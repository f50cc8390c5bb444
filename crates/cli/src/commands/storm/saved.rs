//! `plywood storm --compare BEFORE AFTER` and `--show FILE`: files that `--raw` has written.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use plywood_storm::compare::{THRESHOLD, compare_runs};
use plywood_storm::record::Line;
use plywood_storm::summary;

use crate::args::Storm;
use crate::context::Context;
use crate::output;

use super::output::Output;

/// Compares them, arm by arm.
pub fn compare(context: &Context, before: &Path, after: &Path) -> anyhow::Result<ExitCode> {
    context.cancel.end_at_once();
    let comparison = compare_runs(&read(before)?, &read(after)?, THRESHOLD)?;
    if context.json {
        output::json(&comparison)?;
    } else {
        output::foreign_text_out(&comparison.to_string())?;
    }
    Ok(ExitCode::from(comparison.exit_status()))
}

/// Shows one as its storm did.
pub fn show(context: &Context, args: &Storm, path: &Path) -> anyhow::Result<ExitCode> {
    context.cancel.end_at_once();
    let lines = read(path)?;
    let mut output = Output::open(args)?;
    lines.into_iter().for_each(|line| output.keep(line));
    let failures = output.finish(context).with_context(|| format!("reading {}", path.display()))?;
    Ok(if failures { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(path: &Path) -> anyhow::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    summary::read(&text).with_context(|| format!("reading {}", path.display()))
}
