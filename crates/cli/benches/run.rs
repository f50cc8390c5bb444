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
use std::time::{Duration, Instant};

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

    let mut samples: [Vec<f64>; ARMS.len()] = Default::default();
    let mut launches = Vec::new();
    // The first round warms caches and is not kept.
    for round in 0..=options.rounds {
        for turn in 0..ARMS.len() {
            let index = (round + turn) % ARMS.len();
            let time = match ARMS[index] {
                Arm::Plywood => {
                    let (time, report) = plywood.burst(&options);
                    if round > 0 {
                        launches.push(report);
                    }
                    time
                }
                Arm::Bare => bare.burst(options.concurrency, false),
                Arm::BareOneThread => bare.burst(options.concurrency, true),
            };
            if round > 0 {
                samples[index].push(time.as_secs_f64() * 1e3);
            }
        }
    }
    report(&options, &conditions, &samples, &launches);
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

    fn burst(&self, options: &Options) -> (Duration, Value) {
        let count = options.containers.to_string();
        let concurrency = options.concurrency.to_string();
        let start = Instant::now();
        let report = self.call(&["run", "-n", &count, "--concurrency", &concurrency, "bench", "--", COMMAND]);
        let time = start.elapsed();
        assert_eq!(report["started"], options.containers, "{report}");
        assert_eq!(report["host_mount_events"], 0, "{report}");
        assert_eq!(report["lower"], "flat", "{report}");
        (time, report)
    }
}

fn image() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/demo/image");
    let layout = std::env::var_os("PLYWOOD_BENCH_IMAGE").map_or_else(default, PathBuf::from);
    let there = layout.join("index.json").exists();
    assert!(there, "no OCI layout at {}; make the demo image: cargo xtask image", layout.display());
    layout
}

fn report(options: &Options, conditions: &Value, samples: &[Vec<f64>; ARMS.len()], launches: &[Value]) {
    println!(
        "\nwall time of {} containers, {} starting at once, in ms",
        options.containers, options.concurrency
    );
    println!("{:32}{:>10}{:>10}{:>10}", "", "min", "median", "max");
    for (arm, samples) in ARMS.iter().zip(samples) {
        let (min, max) = (quantile(samples, 0.0), quantile(samples, 1.0));
        println!("{:32}{min:10.1}{:10.1}{max:10.1}", arm.name(), median(samples));
    }
    let p50: Vec<f64> = launches.iter().filter_map(|report| report["launch_ms"]["p50"].as_f64()).collect();
    println!("launch latency in plywood, p50: {:.1} ms", median(&p50));

    let ratio = |base: Arm| {
        let of = |arm: Arm| {
            ARMS.iter().zip(samples).find(|(one, _)| **one == arm).map(|(_, samples)| median(samples))
        };
        of(Arm::Plywood).unwrap() / of(base).unwrap()
    };
    let measured = ratio(Arm::Bare);
    let verdict = if measured <= TARGET { "pass" } else { "MISS" };
    println!("\nplywood run : bare runtime    target <= {TARGET:.2}  measured {measured:.2}  {verdict}");
    println!("plywood run : bare runtime, GOMAXPROCS=1    measured {:.2}", ratio(Arm::BareOneThread));

    let Some(path) = &options.raw else { return };
    let ratios: Vec<Value> = [(Arm::Bare, Some(TARGET)), (Arm::BareOneThread, None)]
        .map(|(base, target)| {
            json!({"what": format!("plywood run : {}", base.name()), "target": target, "measured": ratio(base)})
        })
        .into();
    let samples: serde_json::Map<_, _> =
        ARMS.iter().zip(samples).map(|(arm, samples)| (arm.name().to_owned(), json!(samples))).collect();
    let line = json!({"conditions": conditions, "ratios": ratios, "samples_ms": samples});
    std::fs::write(path, format!("{line}\n")).unwrap();
    println!("raw samples: {}", path.display());
}

fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
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
