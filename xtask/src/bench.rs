//! The benchmarks, one after the other, and one table of what they measured.

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
            rows.extend(figures(&value).into_iter().map(|line| (*name, line)));
        }
    }
    println!("\n{:12}measured", "benchmark");
    for (name, figures) in rows {
        println!("{name:12}{figures}");
    }
    println!("\nSamples: {}", dir.display());
    Ok(())
}

/// The figures of one result, a line each: its own, nested names joined by dots, then those of the objects in its
/// lists. Lists of numbers are samples, and stay in the file.
fn figures(value: &Value) -> Vec<String> {
    let (mut words, mut lines) = (Vec::new(), Vec::new());
    collect("", value, &mut words, &mut lines);
    if !words.is_empty() {
        lines.insert(0, words.join("  "));
    }
    lines
}

fn collect(name: &str, value: &Value, words: &mut Vec<String>, lines: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                collect(&name, inner, words, lines);
            }
        }
        Value::Array(list) => lines.extend(list.iter().filter(|v| v.is_object()).flat_map(figures)),
        Value::String(text) => words.push(format!("{name} {text}")),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => words.push(format!("{name} {float:.3}")),
            _ => words.push(format!("{name} {number}")),
        },
        other => words.push(format!("{name} {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn results_are_shown_on_a_line_each_without_samples() {
        let value = json!({
            "conditions": { "kernel": "6.18", "cpus": 2 },
            "ratios": [{ "what": "50 layers : 1", "measured": 1.031_23 }, { "what": "500 : 1", "measured": 1.1 }],
            "samples_us": { "flat": [1.0, 2.0] },
        });
        assert_eq!(
            figures(&value),
            [
                "conditions.cpus 2  conditions.kernel 6.18",
                "measured 1.031  what 50 layers : 1",
                "measured 1.100  what 500 : 1"
            ]
        );
    }
}
