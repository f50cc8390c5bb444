//! `plywood storm --compare BEFORE AFTER` and `--show FILE`: files that `--raw` has written.

use std::fs::File;
use std::io::Read as _;
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

/// A storm of a thousand rounds of a thousand containers is 100 MB.
const LONGEST: u64 = 512 << 20;

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
    let whole = || -> std::io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = whole().with_context(|| format!("reading {}", path.display()))?;
    if text.len() as u64 > LONGEST {
        anyhow::bail!("{} is longer than {} MiB: no storm is", path.display(), LONGEST >> 20);
    }
    summary::read(&text).with_context(|| format!("reading {}", path.display()))
}
