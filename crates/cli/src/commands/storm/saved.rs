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
use crate::remedy::Advised;

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
        output::text_out(&comparison.to_string())?;
    }
    Ok(ExitCode::from(comparison.exit_status()))
}

/// Shows one as its storm did.
pub fn show(context: &Context, args: &Storm, path: &Path) -> anyhow::Result<ExitCode> {
    context.cancel.end_at_once();
    let lines = read(path)?;
    let mut output = Output::open(args)?;
    let locks = args.locks.as_deref().map(locks).transpose()?;
    // Those that are named replace those it was run with.
    lines
        .into_iter()
        .filter(|line| locks.is_none() || !line.is_of_locks())
        .for_each(|line| output.keep(line));
    locks.into_iter().flatten().for_each(|line| output.keep(line));
    let failures = output.finish(context).with_context(|| format!("reading {}", path.display()))?;
    Ok(if failures { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The lock benchmark of a file that `lockbench --raw` has written, without its samples.
pub fn locks(path: &Path) -> anyhow::Result<Vec<Line>> {
    let mut lines = read(path)?;
    lines.retain(|line| line.is_of_locks() && !matches!(line, Line::LockSample(_)));
    if !lines.iter().any(|line| matches!(line, Line::LockPoint(_) | Line::Matrix(_))) {
        let what = format!("{} has no point of a lock benchmark", path.display());
        return Err(Advised::new(what, "name a file that `plywood lockbench --raw FILE` has written").into());
    }
    Ok(lines)
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
