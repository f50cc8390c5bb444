//! The main job on real input, from a bare machine: a hundred containers from a pulled image of 50 layers, and
//! proof of what plywood promises about them, by plywood's own figures and by looking from outside.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::proc::{cargo, is_root, output, run as show, say, shown, step, target_dir};
use crate::registry::Registry;
use crate::{image, setup};

mod storm;

/// As many containers as in the incident plywood exists for.
const CONTAINERS: usize = 100;

/// What each container does: says which host ids it has, and uses something of the image's upper layers.
const COMMAND: &str = "cat /proc/self/uid_map && curl --version >/dev/null";

/// `cargo xtask demo`.
pub(crate) fn run() -> Result<()> {
    if !is_root() {
        bail!(
            "the demo mounts and starts containers, so it needs root; type:\n\n    sudo env \"PATH=$PATH\" cargo xtask demo\n"
        );
    }
    setup::ensure()?;
    step("Build plywood, optimised", || {
        show(cargo().args(["build", "--release", "--locked", "--package", "plywood-cli"]))
    })?;
    let image = image::demo_image(None)?;
    let demo = target_dir().join("demo");
    let plywood = Plywood { program: target_dir().join("release/plywood"), root: demo.join("root") };

    let registry =
        step("Start a registry on a free loopback port", || Registry::start(&demo.join("registry")))?;
    let reference = format!("{}/{}", registry.address(), image.name);
    step("Push the image to it with skopeo", || {
        show(
            Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
                .arg(format!("oci:{}:{}", image.layout.display(), image.name))
                .arg(format!("docker://{reference}")),
        )
    })?;

    plywood.forget_last(&demo.join("last-reference"), &reference)?;
    step("Pull it with plywood", || show(plywood.command().args(["pull", &reference])))?;
    drop(registry);
    step("List the images", || show(plywood.command().arg("images")))?;
    step("Explain what a launch will do, before anything is done", || {
        show(plywood.command().args(["explain", &reference]))
    })?;
    step("Ask what this node can do", || show(plywood.command().arg("doctor")))?;

    let table_before = fs::read_to_string("/proc/self/mountinfo")?;
    let count = CONTAINERS.to_string();
    step(&format!("Run {CONTAINERS} containers, shown as people see it"), || {
        show(plywood.command().args(["run", "-n", &count, &reference, "--", "sh", "-c", "exit 0"]))
    })?;
    let proof = step(
        &format!("Run {CONTAINERS} containers, each saying its host ids, and check the figures"),
        || {
            let mut command = plywood.command();
            command.args(["--json", "run", "-n", &count, &reference, "--", "sh", "-c", COMMAND]);
            say(format!("$ {}", shown(&command)));
            prove(&both_outputs(&mut command)?)
        },
    )?;
    let html = demo.join("storm.html");
    let shown_storm =
        step("Storm: the incident against the default, in turns, counted by the kernel", || {
            let mut command = plywood.command();
            command.args(storm::arguments(&reference, CONTAINERS, &demo.join("storm.jsonl"), &html));
            say(format!("$ {}", shown(&command)));
            storm::prove(&both_outputs(&mut command)?, CONTAINERS, image.layers)
        })?;
    let table_after = fs::read_to_string("/proc/self/mountinfo")?;
    if table_before != table_after {
        bail!("the host's mount table has changed:\nbefore\n{table_before}\nafter\n{table_after}");
    }
    summary(&proof, &shown_storm, &image, table_after.lines().count());
    say(format!("The storm's report, one page for any browser: {}", html.display()));
    Ok(())
}

/// The program under demonstration, and its state root.
struct Plywood {
    program: PathBuf,
    root: PathBuf,
}

impl Plywood {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root);
        command
    }

    /// Removes the image the last demo pulled, so that this one pulls for real.
    fn forget_last(&self, note: &Path, reference: &str) -> Result<()> {
        if let Ok(last) = fs::read_to_string(note) {
            step(&format!("Remove {last} of the last demo"), || {
                let known = output(self.command().args(["--json", "images"]))?;
                if known.contains(&last) {
                    output(self.command().args(["rmi", "--force", &last]))?;
                }
                output(self.command().arg("prune")).map(drop)
            })?;
        }
        fs::write(note, reference).with_context(|| format!("writing {}", note.display()))
    }
}

/// Standard output and standard error of a command that succeeds, one after the other.
fn both_outputs(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("cannot start {}", shown(command)))?;
    let text = format!("{}\n{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if !out.status.success() {
        bail!("{} from: {}\n{}", out.status, shown(command), crate::proc::tail(&text, 40));
    }
    Ok(text)
}

/// What a run has shown.
#[derive(Debug)]
struct Proof {
    figures: Value,
    ranges: usize,
    host_mount_events: u64,
}

/// Checks the JSON of a run, and what its containers printed, against what plywood promises.
fn prove(text: &str) -> Result<Proof> {
    let figures: Value = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|value| value.get("requested").is_some())
        .context("plywood run --json printed no object with `requested`")?;
    let number =
        |name: &str| figures[name].as_u64().with_context(|| format!("no number `{name}` in {figures}"));
    let wanted = CONTAINERS as u64;
    for (name, expected) in
        [("requested", wanted), ("started", wanted), ("failed", 0), ("host_mount_events", 0)]
    {
        if number(name)? != expected {
            bail!("{name} is {}, not {expected}: {figures}", figures[name]);
        }
    }
    let containers = figures["containers"].as_array().context("no list `containers`")?;
    if let Some(container) = containers.iter().find(|c| c["exit_code"] != 0) {
        bail!("a container failed: {container}");
    }
    let leased: BTreeSet<(u64, u64)> = containers
        .iter()
        .filter_map(|c| Some((c["uid_range"]["start"].as_u64()?, c["uid_range"]["length"].as_u64()?)))
        .collect();
    let seen = uid_maps(text);
    if leased.len() != CONTAINERS || seen != leased {
        bail!("{CONTAINERS} containers leased {} ranges and saw {} from inside", leased.len(), seen.len());
    }
    let mut end = 0;
    for (start, length) in &leased {
        if *start < end {
            bail!("the range at {start} overlaps the one before it");
        }
        end = start + length;
    }
    Ok(Proof { ranges: seen.len(), host_mount_events: number("host_mount_events")?, figures })
}

/// The lines of `/proc/self/uid_map` among what containers printed, whatever a line is prefixed with:
/// `0 <first host id> <length>`.
fn uid_maps(text: &str) -> BTreeSet<(u64, u64)> {
    let map = |line: &str| {
        let mut words = line.split_whitespace().rev();
        let (length, start, inside) = (words.next()?, words.next()?, words.next()?);
        (inside == "0").then_some((start.parse().ok()?, length.parse().ok()?))
    };
    text.lines().filter_map(map).collect()
}

fn summary(proof: &Proof, storm: &storm::Shown, image: &image::Image, mounts: usize) {
    let word = |path: &str| proof.figures.pointer(path).and_then(Value::as_str).unwrap_or("?");
    let ms = |path: &str| {
        let value = proof.figures.pointer(path).and_then(Value::as_f64);
        value.map_or_else(|| "?".into(), |value| format!("{value:.0} ms"))
    };
    println!();
    println!("What was shown");
    println!("  image                {} layers, pulled from a registry, digests checked", image.layers);
    println!("  containers           {CONTAINERS} started, 0 failed");
    println!("  host id ranges       {} distinct, as seen from inside the containers", proof.ranges);
    println!("  host mount events    {} during the whole run", proof.host_mount_events);
    println!("  host mount table     {mounts} mounts before and after, unchanged");
    println!("  how                  {} over {}", word("/mechanism"), word("/lower"));
    println!("  launch               p50 {}, p99 {}", ms("/launch_ms/p50"), ms("/launch_ms/p99"));
    println!("  wall time            {} for all {CONTAINERS}", ms("/wall_ms"));
    println!(
        "  against the incident {:.1} x as fast; the incident took {} mount operations on the host, this 0",
        storm.ratio, storm.incident_operations
    );
    println!();
    println!("Again, by hand: sudo target/release/plywood --root target/demo/root images");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ran(change: impl Fn(&mut Value)) -> String {
        let containers: Vec<Value> = (0..CONTAINERS as u64)
            .map(|n| json!({ "id": n, "uid_range": { "start": 100_000 + n * 65536, "length": 65536 }, "exit_code": 0 }))
            .collect();
        let mut value = json!({
            "requested": 100, "started": 100, "failed": 0, "host_mount_events": 0, "containers": containers,
        });
        let inside: String =
            (0..CONTAINERS as u64).map(|n| format!("c{n} |  0 {} 65536\n", 100_000 + n * 65536)).collect();
        change(&mut value);
        format!("{value}\n{inside}")
    }

    #[test]
    fn a_run_as_promised_is_proof() {
        assert_eq!(prove(&ran(|_| ())).unwrap().ranges, 100);
    }

    #[test]
    fn anything_less_is_not() {
        let fails = |change: fn(&mut Value)| format!("{:#}", prove(&ran(change)).unwrap_err());
        assert!(fails(|v| v["host_mount_events"] = json!(2)).contains("host_mount_events is 2, not 0"));
        assert!(fails(|v| v["failed"] = json!(1)).contains("failed is 1"));
        assert!(fails(|v| v["host_mount_events"] = Value::Null).contains("no number"));
        assert!(fails(|v| v["containers"][3]["exit_code"] = json!(127)).contains("a container failed"));
        assert!(
            fails(|v| v["containers"][3]["uid_range"]["start"] = json!(100_000)).contains("leased 99 ranges")
        );
        assert!(format!("{:#}", prove("no json").unwrap_err()).contains("requested"));
    }

    #[test]
    fn maps_are_found_among_other_output() {
        let text = "x |          0     231072      65536\nready\n1 2 3\n";
        assert_eq!(uid_maps(text), BTreeSet::from([(231_072, 65536)]));
    }
}
