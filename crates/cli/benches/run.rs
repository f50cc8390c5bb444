//! `plywood run -n 100 IMAGE -- true`, the whole command, against the bare runtime on prepared plain directories.
//!
//! ```text
//! cargo bench -p plywood-cli --bench run -- [--containers N] [--rounds R] [--concurrency C] [--raw FILE]
//! ```
//!
//! The image is the layout directory PLYWOOD_BENCH_IMAGE, by default the demo image (`cargo xtask image`). It is imported
//! beforehand, with its flat tree.
//!
//! The bare runtime gets the documents that plywood itself has written for as many containers of that image: same
//! command, ids, mounts, seccomp, capabilities, masked paths. Three things differ: the root is a plain directory, the
//! user namespace is left to the runtime, and the control group has another name. Each plain directory is a copy, owned
//! by the container's ids, of what the command needs: the top directories of the image, the command, its loader and
//! libraries, the account files. Bundles and directories are ready before the clock starts.
//!
//! What is timed: with plywood, one process from start to end, everything in it; with the bare runtime, `runtime run` of
//! all bundles by as many threads as plywood has runtimes starting. A third arm gives the bare runtime what plywood gives
//! it, GOMAXPROCS=1, to show that share. The arms are interleaved, in turning order; medians are compared.
//!
//! Needs root, runc or crun. Run it on a machine that does nothing else.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its results and has no callers"
)]

#[path = "run/bare.rs"]
mod bare;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use bare::Bare;

/// Of the whole command to the bare runtime, wall time to wall time.
const TARGET: f64 = 1.20;

/// The command that is run.
const COMMAND: &str = "true";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Plywood,
    Bare,
    BareOneThread,
}

const ARMS: [Arm; 3] = [Arm::Plywood, Arm::Bare, Arm::BareOneThread];

impl Arm {
    fn name(self) -> &'static str {
        match self {
            Arm::Plywood => "plywood run",
            Arm::Bare => "bare runtime",
            Arm::BareOneThread => "bare runtime, GOMAXPROCS=1",
        }
    }
}

fn main() {
    let options = Options::read(std::env::args().skip(1));
    plywood_kernel::testing::require_root();
    // Mounts of others on this machine are not counted as ours then; the table is as long as the host's.
    plywood_kernel::testing::in_private_mount_ns(|| compare(&options));
}

fn compare(options: &Options) {
    let scratch = tempfile::Builder::new().prefix("plywood-bench-").tempdir().unwrap();
    let plywood = Plywood { root: scratch.path().join("root") };
    let layout = image();
    plywood.call(&["import", layout.to_str().unwrap(), "--name", "bench"]);
    let bare = Bare::prepare(&plywood, scratch.path(), options.containers);

    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let conditions = json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "load": read("/proc/loadavg"),
        "runtime": bare.runtime_version(),
        "containers": options.containers,
        "concurrency": options.concurrency,
        "optimised": !cfg!(debug_assertions),
    });
    println!("{conditions}");

    let mut samples: [Vec<Sample>; ARMS.len()] = Default::default();
    let mut launches = Vec::new();
    // The first round warms caches and is not kept.
    for round in 0..=options.rounds {
        for turn in 0..ARMS.len() {
            let index = (round + turn) % ARMS.len();
            let (start, cpu) = (Instant::now(), children_cpu());
            match ARMS[index] {
                Arm::Plywood => launches.push(plywood.burst(options)),
                Arm::Bare => bare.burst(options.concurrency, false),
                Arm::BareOneThread => bare.burst(options.concurrency, true),
            }
            let wall = start.elapsed().as_secs_f64() * 1e3;
            if round > 0 {
                samples[index].push(Sample { wall, cpu: children_cpu() - cpu });
            }
        }
    }
    report(options, &conditions, &samples, &launches);
}

/// One burst, in milliseconds.
struct Sample {
    wall: f64,
    /// Of all processes. Others on the machine disturb it less than the wall time.
    cpu: f64,
}

/// User and system time of the children waited for, and theirs.
fn children_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Counted behind the command's name, which may hold anything: fields 16 and 17 of proc(5).
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = fields[13..15].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    // USER_HZ is 100 wherever Linux runs today.
    ticks * 10.0
}

/// The command under test, on a state root of its own.
struct Plywood {
    root: PathBuf,
}

impl Plywood {
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
        command.arg("--json").arg("--root").arg(&self.root).stdin(Stdio::null()).stderr(Stdio::inherit());
        command
    }

    /// Runs it, and it must succeed.
    fn call(&self, args: &[&str]) -> Value {
        let output = self.command().args(args).output().unwrap();
        assert!(output.status.success(), "plywood {args:?} failed");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn burst(&self, options: &Options) -> Value {
        let count = options.containers.to_string();
        let concurrency = options.concurrency.to_string();
        let report = self.call(&["run", "-n", &count, "--concurrency", &concurrency, "bench", "--", COMMAND]);
        assert_eq!(report["started"], options.containers);
        assert_eq!(report["host_mount_events"], 0);
        assert_eq!(report["lower"], "flat");
        report
    }
}

fn image() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/demo/image");
    let layout = std::env::var_os("PLYWOOD_BENCH_IMAGE").map_or_else(default, PathBuf::from);
    let there = layout.join("index.json").exists();
    assert!(there, "no OCI layout at {}; make the demo image: cargo xtask image", layout.display());
    layout
}

fn report(options: &Options, conditions: &Value, samples: &[Vec<Sample>; ARMS.len()], launches: &[Value]) {
    println!("\n{} containers, {} starting at once, in ms", options.containers, options.concurrency);
    println!("{:32}{:>10}{:>10}{:>10}{:>10}", "wall time", "min", "median", "max", "CPU time");
    let of = |arm: Arm, what: fn(&Sample) -> f64| -> Vec<f64> {
        ARMS.iter().zip(samples).filter(|(one, _)| **one == arm).flat_map(|(_, all)| all).map(what).collect()
    };
    let wall: fn(&Sample) -> f64 = |sample| sample.wall;
    let cpu: fn(&Sample) -> f64 = |sample| sample.cpu;
    for arm in ARMS {
        let walls = of(arm, wall);
        let [min, median, max] = [0.0, 0.5, 1.0].map(|at| quantile(&walls, at));
        let cpu = quantile(&of(arm, cpu), 0.5);
        println!("{:32}{min:10.1}{median:10.1}{max:10.1}{cpu:10.1}", arm.name());
    }
    let p50: Vec<f64> = launches.iter().filter_map(|report| report["launch_ms"]["p50"].as_f64()).collect();
    println!("launch latency in plywood, p50: {:.1} ms", quantile(&p50, 0.5));

    let ratio = |base: Arm, what| quantile(&of(Arm::Plywood, what), 0.5) / quantile(&of(base, what), 0.5);
    let rows = [
        ("plywood run : bare runtime", Some(TARGET), ratio(Arm::Bare, wall)),
        ("plywood run : bare runtime, CPU time", None, ratio(Arm::Bare, cpu)),
        ("plywood run : bare runtime, GOMAXPROCS=1", None, ratio(Arm::BareOneThread, wall)),
    ];
    println!("\n{:44}{:>10}{:>10}", "ratio of medians", "target", "measured");
    for (what, target, measured) in rows {
        let bound = target.map(|target| format!("<= {target:.2}")).unwrap_or_default();
        let verdict = target.map_or("", |target| if measured <= target { "pass" } else { "MISS" });
        println!("{what:44}{bound:>10}{measured:10.2} {verdict}");
    }

    let Some(path) = &options.raw else { return };
    let ratios: Vec<Value> = rows
        .iter()
        .map(|(what, target, measured)| json!({"what": what, "measured": measured, "at_most": target}))
        .collect();
    let of_all = |what| ARMS.map(|arm| (arm.name().to_owned(), json!(of(arm, what))));
    let samples = |what| serde_json::Map::from_iter(of_all(what));
    let line = json!({
        "conditions": conditions, "ratios": ratios, "samples_ms": samples(wall), "samples_cpu_ms": samples(cpu),
    });
    std::fs::write(path, format!("{line}\n")).unwrap();
    println!("raw samples: {}", path.display());
}

fn quantile(samples: &[f64], at: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get(((last as f64 * at).round() as usize).min(last)).copied().unwrap_or(f64::NAN)
}

struct Options {
    containers: usize,
    rounds: usize,
    concurrency: usize,
    raw: Option<PathBuf>,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Options {
        // As many as plywood starts at once by default.
        let concurrency = 8 * std::thread::available_parallelism().map_or(1, usize::from);
        let mut options = Options { containers: 100, rounds: 5, concurrency, raw: None };
        while let Some(name) = arguments.next() {
            // Cargo adds it.
            if name == "--bench" {
                continue;
            }
            let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
            let number =
                |text: &str| text.parse::<usize>().unwrap_or_else(|_| panic!("{name} {text}: not a number"));
            match name.as_str() {
                "--containers" => options.containers = number(&value).max(1),
                "--rounds" => options.rounds = number(&value).max(1),
                "--concurrency" => options.concurrency = number(&value).max(1),
                "--raw" => options.raw = Some(value.into()),
                _ => panic!("{name}: no such option"),
            }
        }
        options
    }
}
