//! A burst of containers: our launcher on overlays it assembles, against the bare runtime on prepared plain directories.
//!
//! ```text
//! cargo bench -p plywood-engine --bench launch -- [--containers N] [--layers L] [--rounds R] [--concurrency C,C] [--raw FILE]
//! ```
//!
//! Both run the same command under the same spec (mounts, seccomp, capabilities, masked paths), each container in its
//! own id range, and at most C runtimes at once: with us C are starting, with the bare runtime C are at work. What is
//! timed with us: making the launcher, and for each container its directories, plan, overlay and bundle, the runtime,
//! and deleting. What is timed with the bare runtime: the runtime alone. The arms are interleaved in each round.
//!
//! Needs root, runc or crun, and a static busybox. Run it on a machine that does nothing else.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its results and has no callers"
)]

#[path = "launch/bed.rs"]
mod bed;

use std::time::{Duration, Instant};

use plywood_engine::launch::{Event, Timing};
use plywood_engine::runtime::RunMode;

use bed::Bed;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Arm {
    Bare,
    Ours(RunMode, usize),
}

impl Arm {
    fn name(self) -> String {
        match self {
            Arm::Bare => "bare runtime".to_owned(),
            Arm::Ours(mode, threads) => format!("ours, {mode:?}, {threads} threads"),
        }
    }
}

/// One burst: how long it took, and each container's launch.
struct Sample {
    wall: Duration,
    launches: Vec<Timing>,
}

fn main() {
    let mut options =
        Options { containers: 100, layers: 50, rounds: 5, concurrency: vec![100, 16], raw: None };
    options.read(std::env::args().skip(1));
    plywood_kernel::testing::require_root();
    let bed = Bed::new(options.containers, options.layers);
    println!(
        "{} | {} containers, {} layers, {} rounds",
        bed.runtime, options.containers, options.layers, options.rounds
    );

    let arms = [
        Arm::Bare,
        Arm::Ours(RunMode::Attached, 2),
        Arm::Ours(RunMode::Detached, 2),
        Arm::Ours(RunMode::Attached, 1),
        Arm::Ours(RunMode::Attached, 4),
    ];
    let mut results = String::new();
    for &concurrency in &options.concurrency {
        let mut samples: Vec<Vec<Sample>> = arms.iter().map(|_| Vec::new()).collect();
        // The first round warms caches and is not kept.
        for round in 0..=options.rounds {
            for (index, &arm) in arms.iter().enumerate() {
                let sample = measure(&bed, arm, concurrency);
                if round > 0 {
                    samples[index].push(sample);
                }
            }
        }
        report(&arms, &samples, concurrency);
        results.push_str(&raw(&arms, &samples, concurrency));
    }
    if let Some(path) = options.raw {
        std::fs::write(&path, results).unwrap();
        println!("raw samples: {}", path.display());
    }
}

fn measure(bed: &Bed, arm: Arm, concurrency: usize) -> Sample {
    let start = Instant::now();
    let launches = match arm {
        Arm::Bare => {
            bed.run_bare(concurrency);
            Vec::new()
        }
        Arm::Ours(mode, threads) => {
            let (launcher, events) = bed.launcher(mode, threads, concurrency);
            for index in 0..bed.containers {
                launcher.submit(bed.launch(index));
            }
            launcher.close();
            let mut launches = Vec::new();
            for event in events {
                match event {
                    Event::Started { timing, .. } => launches.push(timing),
                    Event::Exited { code: 0, .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            launcher.finish().unwrap();
            launches
        }
    };
    let wall = start.elapsed();
    bed.clear();
    Sample { wall, launches }
}

fn report(arms: &[Arm], samples: &[Vec<Sample>], concurrency: usize) {
    println!(
        "\nat most {concurrency} at once; wall time of the burst, and the median of each step of a launch, in ms"
    );
    let heads = ["min", "median", "max", "ratio", "launch", "p99", "prepare", "attach", "spawn", "runtime"];
    println!("{:27}{}", "", heads.map(|head| format!("{head:>9}")).concat());
    let mut floor = None;
    for (arm, samples) in arms.iter().zip(samples) {
        let walls = sorted(samples.iter().map(|sample| sample.wall));
        let median = quantile(&walls, 0.5);
        let floor = *floor.get_or_insert(median);
        let name = arm.name();
        print!("{name:27}{:9.1}{median:9.1}{:9.1}{:9.3}", walls[0], walls[walls.len() - 1], median / floor);
        let step = |step: fn(&Timing) -> Duration, at: f64| {
            let times = sorted(samples.iter().flat_map(|sample| &sample.launches).map(step));
            if times.is_empty() { String::new() } else { format!("{:9.2}", quantile(&times, at)) }
        };
        print!("{}{}", step(Timing::launch, 0.5), step(Timing::launch, 0.99));
        print!("{}{}", step(|timing| timing.prepare, 0.5), step(|timing| timing.attach, 0.5));
        println!("{}{}", step(|timing| timing.spawn, 0.5), step(|timing| timing.runtime, 0.5));
    }
}

/// One JSON object a line: the ratios to the bare runtime, and every burst's wall time.
fn raw(arms: &[Arm], samples: &[Vec<Sample>], concurrency: usize) -> String {
    let walls = |samples: &[Sample]| sorted(samples.iter().map(|sample| sample.wall));
    let floor = quantile(&walls(&samples[0]), 0.5);
    let ratio = |(arm, samples): (&Arm, &Vec<Sample>)| {
        let what = format!("{} : bare runtime", arm.name());
        serde_json::json!({ "what": what, "measured": quantile(&walls(samples), 0.5) / floor })
    };
    let ratios: Vec<_> = arms.iter().zip(samples).skip(1).map(ratio).collect();
    let samples: serde_json::Map<_, _> =
        arms.iter().zip(samples).map(|(arm, samples)| (arm.name(), walls(samples).into())).collect();
    let line = serde_json::json!({ "concurrency": concurrency, "ratios": ratios, "samples_ms": samples });
    format!("{line}\n")
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<f64> {
    let mut times: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// Of sorted samples.
fn quantile(samples: &[f64], quantile: f64) -> f64 {
    let last = samples.len() - 1;
    samples[((last as f64 * quantile).round() as usize).min(last)]
}

struct Options {
    containers: usize,
    layers: usize,
    rounds: usize,
    concurrency: Vec<usize>,
    raw: Option<std::path::PathBuf>,
}

impl Options {
    fn read(&mut self, mut arguments: impl Iterator<Item = String>) {
        while let Some(name) = arguments.next() {
            // Cargo adds it.
            if name == "--bench" {
                continue;
            }
            let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
            let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{name} {text}: not a number"));
            match name.as_str() {
                "--containers" => self.containers = number(&value),
                "--layers" => self.layers = number(&value),
                "--rounds" => self.rounds = number(&value).max(1),
                "--concurrency" => self.concurrency = value.split(',').map(number).collect(),
                "--raw" => self.raw = Some(value.into()),
                _ => panic!("{name}: no such option"),
            }
        }
    }
}
