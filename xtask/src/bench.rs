//! The benchmarks, one after the other, and one table of what they measured.

use std::fmt;
use std::fs;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::proc::{cargo, run as show, step, target_dir};
use crate::setup;

/// Package and name of every benchmark. Each takes `--raw FILE` and writes one JSON object a line there.
const BENCHES: &[(&str, &str)] = &[
    ("plywood-engine", "assembly"),
    ("plywood-engine", "launch"),
    ("plywood-store", "flat"),
    ("plywood-store", "unpack"),
    ("plywood-cli", "run"),
    ("plywood-cli", "storm"),
    ("plywood-storm", "cost"),
];

/// Targets that are missed, and what is known of it. A miss that is not here fails the run; so does one that is here and
/// is met, so that nothing is excused for longer than it needs.
const KNOWN_MISSES: &[(&str, &str)] = &[
    (
        "assembly, layers: 50 layers to 1",
        "one layer became so cheap that 6 us a layer in the kernel weigh more; the flat tree is the answer",
    ),
    ("per-layer: CPU time of counting and measuring", "the kernel's tracepoints and mount events"),
    ("detached: CPU time of counting and measuring", "the kernel's tracepoints and mount events"),
];

/// `cargo xtask bench`.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    setup::ensure()?;
    let chosen: Vec<_> = BENCHES.iter().filter(|(_, name)| filter.is_none_or(|f| name.contains(f))).collect();
    if chosen.is_empty() {
        bail!("no benchmark is called like {:?}", filter.unwrap_or_default());
    }
    let dir = target_dir().join("bench");
    fs::create_dir_all(&dir)?;
    step("Build the benchmarks first, so that no compiler disturbs them", || {
        let mut command = cargo();
        command.args(["bench", "--no-run", "--locked"]);
        for (package, name) in &chosen {
            command.args(["--package", package, "--bench", name]);
        }
        show(&mut command)
    })?;
    let mut rows = Vec::new();
    for (package, name) in chosen {
        let raw = dir.join(format!("{name}.jsonl"));
        step(&format!("Benchmark {name}"), || {
            show(
                cargo()
                    .args(["bench", "--locked", "--package", package, "--bench", name, "--", "--raw"])
                    .arg(&raw),
            )
        })?;
        let text = fs::read_to_string(&raw).with_context(|| format!("{name} left no {}", raw.display()))?;
        for value in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
            let value = value.with_context(|| format!("{} holds no JSON", raw.display()))?;
            rows.extend(targets(&value)?.into_iter().map(|row| (*name, row)));
        }
    }
    println!("\n{:10} {:58} {:>10} {:>9}", "benchmark", "", "target", "measured");
    for (name, row) in &rows {
        println!("{name:10} {row}");
    }
    println!("\nSamples: {}", dir.display());
    let wrong: Vec<&str> =
        rows.iter().filter(|(_, row)| row.is_surprise()).map(|(_, row)| row.what.as_str()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("not as the README and SPECIFICATION.md say: {}; is the machine quiet?", wrong.join("; "))
}

/// One measured figure and what it is held against.
#[derive(Debug, PartialEq)]
struct Row {
    what: String,
    measured: f64,
    target: Option<Target>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    fn is_met(&self) -> Option<bool> {
        self.target.map(|target| match target {
            Target::AtMost(bound) => self.measured <= bound,
            Target::AtLeast(bound) => self.measured >= bound,
        })
    }

    fn known_miss(&self) -> Option<&'static str> {
        KNOWN_MISSES.iter().find(|(what, _)| *what == self.what).map(|(_, why)| *why)
    }

    fn is_surprise(&self) -> bool {
        self.is_met().is_some_and(|met| met == self.known_miss().is_some())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = match self.target {
            Some(Target::AtMost(bound)) => format!("<= {bound:.2}"),
            Some(Target::AtLeast(bound)) => format!(">= {bound:.2}"),
            None => String::new(),
        };
        write!(f, "{:58} {bound:>10} {:>9.2}", self.what, self.measured)?;
        match (self.is_met(), self.known_miss()) {
            (Some(true), None) => write!(f, " met"),
            (Some(true), Some(_)) => write!(f, " met, though expected to be missed"),
            (Some(false), None) => write!(f, " MISSED"),
            (Some(false), Some(why)) => write!(f, " missed, as known: {why}"),
            (None, _) => Ok(()),
        }
    }
}

/// What a benchmark wrote under `ratios`: `what`, `measured`, and `at_most`, `at_least` or neither.
fn targets(value: &Value) -> Result<Vec<Row>> {
    let rows = value["ratios"].as_array().context("a benchmark without \"ratios\"")?;
    rows.iter()
        .map(|row| {
            let target = match (row["at_most"].as_f64(), row["at_least"].as_f64()) {
                (Some(bound), None) => Some(Target::AtMost(bound)),
                (None, Some(bound)) => Some(Target::AtLeast(bound)),
                (None, None) => None,
                (Some(_), Some(_)) => bail!("two targets: {row}"),
            };
            let what = row["what"].as_str().context("a ratio without \"what\"")?.to_owned();
            let measured = row["measured"].as_f64().with_context(|| format!("{what}: nothing measured"))?;
            Ok(Row { what, measured, target })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(what: &str, measured: f64, target: Target) -> Row {
        Row { what: what.to_owned(), measured, target: Some(target) }
    }

    #[test]
    fn targets_are_read_with_what_was_measured() {
        let value = json!({
            "conditions": { "kernel": "6.18" },
            "ratios": [
                { "what": "a", "measured": 1.5, "at_most": 2.0 },
                { "what": "b", "measured": 14, "at_least": 15.0 },
                { "what": "c", "measured": 3.0, "at_most": null },
            ],
        });
        let rows = targets(&value).unwrap();
        assert_eq!(rows[0], row("a", 1.5, Target::AtMost(2.0)));
        assert_eq!(rows[1], row("b", 14.0, Target::AtLeast(15.0)));
        assert_eq!(rows[2].target, None);
        assert!(targets(&json!({})).is_err());
        assert!(targets(&json!({ "ratios": [{ "what": "a", "measured": null }] })).is_err());
    }

    #[test]
    fn only_what_is_not_known_is_a_surprise() {
        let (known, _) = KNOWN_MISSES[0];
        for (row, surprise, shown) in [
            (row("a", 1.5, Target::AtMost(2.0)), false, "met"),
            (row("a", 2.5, Target::AtMost(2.0)), true, "MISSED"),
            (row(known, 2.5, Target::AtMost(2.0)), false, "as known"),
            (row(known, 1.5, Target::AtMost(2.0)), true, "though expected"),
            (row("a", 14.0, Target::AtLeast(15.0)), true, "MISSED"),
        ] {
            assert_eq!(row.is_surprise(), surprise, "{row}");
            assert!(row.to_string().contains(shown), "{row}");
        }
    }
}
