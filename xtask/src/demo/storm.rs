//! A short storm on the demo's image: the incident against the default, counted by the kernel, with its report.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Rounds of each arm: enough for an interval of 95 %.
const REPEAT: &str = "7";

/// What a storm does to the host's mount table, by arm.
#[derive(Debug, PartialEq)]
pub(super) struct Shown {
    /// The incident's median time for all containers, over the default's.
    pub ratio: f64,
    /// Mount operations of one round of the incident, in the host's table.
    pub incident_operations: u64,
}

/// Arguments of `plywood`.
pub(super) fn arguments(reference: &str, containers: usize, raw: &Path, html: &Path) -> Vec<String> {
    let containers = containers.to_string();
    let words = ["--json", "storm", "--incident", "--image", reference, "--containers", &containers];
    let mut arguments: Vec<String> = words.map(str::to_owned).into();
    arguments.extend(["--repeat", REPEAT, "--raw"].map(str::to_owned));
    arguments.extend([raw.display().to_string(), "--html".to_owned(), html.display().to_string()]);
    arguments
}

/// Checks the lines of `plywood --json storm` against what the incident and the default must show.
pub(super) fn prove(text: &str, containers: usize, layers: usize) -> Result<Shown> {
    let arms: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|value| value.get("mechanism").is_some())
        .collect();
    let (incident, default): (Vec<_>, Vec<_>) =
        arms.iter().partition(|arm| arm["mechanism"] == "per-layer" && arm["passes"] == 2);
    let ([incident], [default]) = (incident.as_slice(), default.as_slice()) else {
        bail!("a storm of other arms than the incident and the default: {text}");
    };
    let number = |arm: &Value, path: &str| {
        arm.pointer(path).and_then(Value::as_f64).with_context(|| format!("no number {path} in {arm}"))
    };
    let host = |arm: &Value| -> Result<u64> {
        Ok((number(arm, "/mount_ops/host_attach")? + number(arm, "/mount_ops/host_detach")?) as u64)
    };
    for arm in [incident, default] {
        if number(arm, "/failed")? != 0.0 {
            bail!("launches failed: {arm}");
        }
    }
    // Twice over: a mount for each layer, the overlay, and an unmount for each layer.
    let expected = (containers * 2 * (layers + 1 + layers)) as u64;
    let (incident_operations, by_default) = (host(incident)?, host(default)?);
    if incident_operations < expected {
        bail!(
            "the incident takes {expected} mount operations, {incident_operations} were counted: {incident}"
        );
    }
    if by_default != 0 {
        bail!("the default changed the host's mount table {by_default} times: {default}");
    }
    Ok(Shown { ratio: number(incident, "/wall_ms")? / number(default, "/wall_ms")?, incident_operations })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn storm(change: impl Fn(&mut Value, &mut Value)) -> Result<Shown> {
        let arm = |mechanism: &str, passes: u32, host: u64, wall: f64| {
            json!({
                "mechanism": mechanism, "passes": passes, "failed": 0, "wall_ms": wall,
                "mount_ops": { "host_attach": host, "host_detach": host },
            })
        };
        let (mut incident, mut default) = (arm("per-layer", 2, 10_200, 700.0), arm("detached", 1, 0, 35.0));
        change(&mut incident, &mut default);
        prove(&format!("noise\n{incident}\n{default}\n"), 100, 50)
    }

    #[test]
    fn a_storm_as_promised_is_proof() {
        let shown = storm(|_, _| ()).unwrap();
        assert_eq!(shown, Shown { ratio: 20.0, incident_operations: 20_400 });
    }

    #[test]
    fn anything_less_is_not() {
        let fails = |change: fn(&mut Value, &mut Value)| format!("{:#}", storm(change).unwrap_err());
        assert!(fails(|_, d| d["mount_ops"]["host_attach"] = json!(1)).contains("mount table 1 times"));
        assert!(fails(|i, _| i["mount_ops"]["host_attach"] = json!(9_000)).contains("were counted"));
        assert!(fails(|i, _| i["failed"] = json!(1)).contains("launches failed"));
        assert!(fails(|i, _| i["passes"] = json!(1)).contains("other arms"));
        assert!(fails(|_, d| d["wall_ms"] = Value::Null).contains("/wall_ms"));
    }
}
