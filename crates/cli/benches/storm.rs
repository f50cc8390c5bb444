//! What `plywood storm` promises of itself: storms that agree, small slowdowns found, little memory. What watching costs
//! is the benchmark `cost` of crate storm's.
//!
//! ```text
//! cargo bench -p plywood-cli --bench storm -- [--storms N] [--raw FILE]
//! ```
//!
//! Storms of the engine alone, over generated images, one after the other: a burst of `per-layer` twice over 20 layers in
//! turns with one over 22, which is 9.8 % more mount operations (45 to 41 a pass). Storms that follow each other are
//! compared as `plywood storm --compare` does; the two arms of one storm as its verdict does. Then the incident, 100 x 50,
//! for its count, and 400 launches at once for their memory.
//!
//! Needs root. Run it on a machine that does nothing else: it mounts in the namespace it is started in.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its results and has no callers"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use plywood_storm::record::Line;
use plywood_storm::{compare, summary};
use serde_json::{Value, json};

/// Below this share nothing matters: none, so that every difference the intervals hold to be real counts.
const ANY: f64 = 0.0;

fn main() {
    let options = Options::read(std::env::args().skip(1));
    let dir = tempfile::Builder::new().prefix("plywood-bench-storm-").tempdir_in(target()).unwrap();
    let bed = Bed { root: dir.path().join("root"), dir: dir.path().to_owned() };

    let storms: Vec<Vec<Line>> = (0..options.storms)
        .map(|n| {
            let flags = "--mechanism per-layer --passes 2 --containers 40 --layers 20,22 --repeat 15 \
                         --generate layers=22,files=100,size=512,seed=1";
            let storm = bed.storm(&format!("agree-{n}"), flags).lines;
            let wall: Vec<_> =
                summary::summarise(&storm).unwrap().iter().map(|arm| arm.wall_ms.unwrap()).collect();
            println!("storm {n}: {wall:.1?} ms");
            storm
        })
        .collect();
    let agreements: Vec<f64> = storms.windows(2).map(|pair| ratio_between(&pair[0], &pair[1])).collect();
    let disagree = agreements.iter().filter(|distance| **distance > 0.0).count();
    let slowdowns: Vec<f64> = storms.iter().map(|storm| slowdown(storm)).collect();
    let missed = slowdowns.iter().filter(|low| **low <= 1.0).count();

    let incident = bed.storm("incident", "--incident --containers 100 --repeat 5");
    let arms = summary::summarise(&incident.lines).unwrap();
    let ops = |arm: usize| arms[arm].mount_ops.unwrap();
    let host = |arm: usize| ops(arm).host_attach + ops(arm).host_detach;
    let four_hundred =
        bed.storm("memory", "--mechanism detached --containers 400 --concurrency 400 --repeat 3");

    let count = |n: usize| n as f64;
    let rows = [
        row(
            "storms of one arm after each other that disagree, of 10",
            count(disagree) * 10.0 / count(agreements.len()),
            "at_most",
            1.0,
        ),
        row(
            "storms that do not find 10 % more work, of 10",
            count(missed) * 10.0 / count(slowdowns.len()),
            "at_most",
            1.0,
        ),
        row("incident, 100 x 50: operations on the host's table", host(0) as f64, "at_least", 20_200.0),
        row("default, 100 x 50: operations on the host's table", host(1) as f64, "at_most", 0.0),
        row(
            "default: attaches of a container in any namespace",
            ops(1).attach.unwrap() as f64 / 100.0,
            "at_most",
            1.05,
        ),
        row(
            "peak memory of 400 launches at once, MB",
            four_hundred.peak_bytes as f64 / 1e6,
            "at_most",
            200.0,
        ),
    ];
    for row in &rows {
        println!("{row}");
    }
    let Some(path) = &options.raw else { return };
    let line = json!({
        "conditions": { "load": std::fs::read_to_string("/proc/loadavg").unwrap().trim() },
        "ratios": rows, "distances_from_agreement": agreements, "lower_ends_of_slowdown": slowdowns,
        "cpu_ms": arms.iter().map(|arm| arm.cpu_ms).collect::<Vec<_>>(),
    });
    std::fs::write(path, format!("{line}\n")).unwrap();
}

fn row(what: &str, measured: f64, kind: &str, bound: f64) -> Value {
    json!({ "what": what, "measured": measured, kind: bound })
}

/// How far the interval of the ratio of two storms stays away from 1; 0 if it holds 1. Only the first arm is looked at.
fn ratio_between(before: &[Line], after: &[Line]) -> f64 {
    let pair = compare::compare_runs(before, after, ANY).unwrap().pairs.remove(0);
    let interval = pair.wall_ms.unwrap().ratio_interval.unwrap();
    (interval.lo - 1.0).max(1.0 - interval.hi).max(0.0)
}

/// The lower end of the second arm's ratio to the first.
fn slowdown(storm: &[Line]) -> f64 {
    let pair = compare::compare_arms(storm, 0, 1, ANY).unwrap().pairs.remove(0);
    pair.wall_ms.unwrap().ratio_interval.unwrap().lo
}

struct Bed {
    root: PathBuf,
    dir: PathBuf,
}

struct Storm {
    lines: Vec<Line>,
    /// Most memory the command had resident.
    peak_bytes: u64,
}

impl Bed {
    /// Runs `plywood storm` with these flags.
    fn storm(&self, name: &str, flags: &str) -> Storm {
        let raw = self.dir.join(name);
        let mut child = Command::new(env!("CARGO_BIN_EXE_plywood"))
            .arg("--root")
            .arg(&self.root)
            .args(["--quiet", "--json", "storm", "--raw"])
            .arg(&raw)
            .args(flags.split_whitespace())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        let ended = loop {
            if let Some(ended) = child.try_wait().unwrap() {
                break ended;
            }
            peak = peak.max(high_water(&status).unwrap_or(0));
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(ended.success(), "plywood storm {flags}: {ended}");
        Storm { lines: summary::read(&std::fs::read_to_string(raw).unwrap()).unwrap(), peak_bytes: peak }
    }
}

/// `VmHWM`: it only grows, so the last look before the end is as good as one at the end.
fn high_water(status: &str) -> Option<u64> {
    let status = std::fs::read_to_string(status).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn target() -> PathBuf {
    // target/release/plywood
    let program = Path::new(env!("CARGO_BIN_EXE_plywood"));
    program.parent().and_then(Path::parent).unwrap().to_owned()
}

struct Options {
    storms: usize,
    raw: Option<PathBuf>,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Options {
        let mut options = Options { storms: 11, raw: None };
        while let Some(name) = arguments.next() {
            // Cargo adds it.
            if name == "--bench" {
                continue;
            }
            let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
            match name.as_str() {
                "--storms" => options.storms = value.parse::<usize>().unwrap().max(2),
                "--raw" => options.raw = Some(value.into()),
                _ => panic!("{name}: no such option"),
            }
        }
        options
    }
}
