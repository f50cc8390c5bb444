//! What a guest said, and whether that is what its kernel should say. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The mechanisms, best first. A kernel that has a rung has all below it.
pub(super) const LADDER: [&str; 6] =
    ["idmapped-overlay", "detached", "private", "common-parent", "per-layer", "copy"];

/// Lines by which a kernel says that it is broken.
const SPLATS: [&str; 4] = ["BUG: ", "Oops: ", "[ cut here ]", "general protection fault"];

/// Everything a guest said.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) release: String,
    pub(super) chosen: Option<String>,
    checks: Vec<Check>,
    exit: Option<i64>,
    splats: Vec<String>,
    /// From power on to power off.
    pub(super) seconds: f64,
}

#[derive(Debug)]
struct Check {
    /// The mechanism, where it is a check of one.
    mechanism: Option<String>,
    name: String,
    outcome: String,
    detail: String,
}

impl Report {
    /// From the guest's lines, one JSON object each.
    pub(super) fn parse(lines: &[String]) -> Result<Self> {
        let mut report = Self::default();
        for line in lines.iter().filter(|line| !line.is_empty()) {
            let Ok(value) = serde_json::from_str::<Value>(line) else {
                // A machine that breaks may break in the middle of a line; the report is incomplete then anyway.
                continue;
            };
            report.add(&value).with_context(|| format!("the guest said {line}"))?;
        }
        Ok(report)
    }

    fn add(&mut self, value: &Value) -> Result<()> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let check = text("check").context("it names no check")?;
        match check.as_str() {
            "kernel" => self.release = text("release").context("no release")?,
            "capabilities" => self.chosen = text("chosen"),
            "exit" => self.exit = Some(value["status"].as_i64().context("no status")?),
            "end" => {}
            _ => self.checks.push(Check {
                mechanism: text("mechanism"),
                name: text("case").unwrap_or(check),
                outcome: text("outcome").context("no outcome")?,
                detail: text("detail").unwrap_or_default(),
            }),
        }
        Ok(())
    }

    /// Looks for signs of trouble in what the kernel itself said.
    pub(super) fn add_console(&mut self, console: &str) {
        let splat = |line: &&str| SPLATS.iter().any(|splat| line.contains(splat));
        self.splats.extend(console.lines().filter(splat).map(|line| line.trim().to_owned()));
    }

    /// Whether the guest program ran to its end, well or not.
    pub(super) fn is_complete(&self) -> bool {
        self.exit.is_some()
    }

    /// The report in one line.
    pub(super) fn line(&self) -> String {
        let count = |outcome| self.checks.iter().filter(|check| check.outcome == outcome).count();
        format!(
            "{}: chosen {}; {} checks passed, {} failed, in {:.1} s",
            self.release,
            self.chosen.as_deref().unwrap_or("nothing"),
            count("passed"),
            count("failed"),
            self.seconds
        )
    }

    /// Everything that is not as it should be where `expected` is the mechanism to be chosen.
    pub(super) fn complaints(&self, expected: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.chosen.as_deref() != Some(expected) {
            let chosen = self.chosen.as_deref().unwrap_or("nothing");
            complaints.push(format!("{chosen} was chosen, not {expected}"));
        }
        for check in self.checks.iter().filter(|check| check.outcome == "failed") {
            let mechanism = check.mechanism.as_deref().unwrap_or("");
            complaints.push(format!("{mechanism} {}: {}", check.name, check.detail).trim_start().to_owned());
        }
        let rung = LADDER.iter().position(|name| *name == expected).unwrap_or(0);
        for mechanism in &LADDER[rung..] {
            let of = |check: &&Check| check.mechanism.as_deref() == Some(mechanism);
            match self.checks.iter().find(of) {
                None => complaints.push(format!("{mechanism} was not run")),
                Some(check) if check.outcome == "unavailable" => {
                    complaints.push(format!("{mechanism} should work: {}", check.detail));
                }
                Some(_) => {}
            }
        }
        if self.exit != Some(0) {
            complaints.push(format!("the guest program ended with {:?}", self.exit));
        }
        complaints.extend(self.splats.iter().map(|splat| format!("the kernel said: {splat}")));
        complaints
    }

    fn cell(&self, mechanism: &str) -> String {
        let mut counts = BTreeMap::<&str, usize>::new();
        for check in self.checks.iter().filter(|check| check.mechanism.as_deref() == Some(mechanism)) {
            *counts.entry(check.outcome.as_str()).or_default() += 1;
        }
        let of = |outcome| counts.get(outcome).copied().unwrap_or(0);
        let total: usize = counts.values().sum();
        let mut cell = match (total, of("failed")) {
            (0, _) => "not run".to_owned(),
            _ if of("unavailable") > 0 => "-".to_owned(),
            (_, 0) => format!("{} ok", of("passed")),
            (_, failed) => format!("{failed} FAILED of {total}"),
        };
        if of("refused") > 0 {
            write!(cell, ", {} refused", of("refused")).unwrap_or_default();
        }
        if self.chosen.as_deref() == Some(mechanism) {
            cell.push('*');
        }
        cell
    }
}

/// Kernels and mechanisms; `*` is what a kernel chooses, `refused` what the plan says does not fit an old kernel.
pub(super) fn table(reports: &[(&str, &Report)]) -> String {
    let mut rows = vec![["kernel"].into_iter().chain(LADDER).map(str::to_owned).collect::<Vec<_>>()];
    for (version, report) in reports {
        let release = if report.release.is_empty() { version } else { report.release.as_str() };
        rows.push([release.to_owned()].into_iter().chain(LADDER.map(|m| report.cell(m))).collect());
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..=LADDER.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
