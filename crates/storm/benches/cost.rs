//! What watching a storm costs it: the same rounds with nothing observed, with the kernel's counting alone, and with
//! everything, in turns.
//!
//! ```text
//! cargo bench -p plywood-storm --bench cost -- [--rounds N] [--raw FILE]
//! ```
//!
//! CPU time of the whole process: of launching threads, in which the kernel's tracepoints and notifications are paid for,
//! and of the measuring threads. What the tool itself costs is the counting, by difference, and the measuring threads' own
//! time. Beyond that, the bystanders do to the launches what the programs they play do on a node: they hold the table's
//! lock while they read. That is no cost of measuring but part of what is measured, and told beside it, without a bound.
//!
//! 100 x 50, `per-layer` twice and the default.
//!
//! Needs root. Run it on a machine that does nothing else.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its results and has no callers"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use plywood_engine::capabilities::Capabilities;
use plywood_engine::idrange::IdPool;
use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::Mechanism;
use plywood_kernel::perf::Scope;
use plywood_kernel::testing::{in_private_mount_ns, require_root};
use plywood_kernel::{MountWatch, cputime};
use plywood_store::{Cancel, Store};
use plywood_storm::admission::Admission;
use plywood_storm::count::MountCounter;
use plywood_storm::harness::{Around, Pace, Seats, Storm};
use plywood_storm::image::StormImage;
use plywood_storm::launcher::Launcher;
use plywood_storm::launcher::assembly::{self, Ground, GroundConfig};
use plywood_storm::launcher::ids::Ids;
use plywood_storm::record::Line;
use plywood_storm::{Arm, LauncherKind, UserNs, stats};
use serde_json::{Value, json};

const CONTAINERS: usize = 100;
const LAYERS: usize = 50;

/// CPU milliseconds of the measuring threads.
#[derive(Default)]
struct Own(f64);

impl Around for Own {
    fn line(&mut self, line: &Line) -> std::io::Result<()> {
        if let Line::Round(round) = line {
            self.0 += round.measuring_cpu_ms;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Watched {
    Nothing,
    Counts,
    All,
}

/// CPU milliseconds of each storm.
#[derive(Debug, Default, serde::Serialize)]
struct Measured {
    nothing: Vec<f64>,
    counts: Vec<f64>,
    all: Vec<f64>,
    own: Vec<f64>,
}

fn main() {
    require_root();
    let options = Options::read(std::env::args().skip(1));
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let dir = tempfile::Builder::new().prefix("plywood-bench-cost-").tempdir_in(target).unwrap();
    let measured = in_private_mount_ns(|| measure(dir.path(), options.rounds));
    let rows: Vec<Value> = measured
        .iter()
        .flat_map(|(name, cpu)| {
            let [nothing, counts, all, own] =
                [&cpu.nothing, &cpu.counts, &cpu.all, &cpu.own].map(|cpu| stats::median(cpu).unwrap());
            [
                json!({
                    "what": format!("{name}: CPU time of counting and measuring"),
                    "measured": counts / nothing - 1.0 + own / all, "at_most": 0.03,
                }),
                json!({
                    "what": format!("{name}: the same, and what bystanders do to it"),
                    "measured": all / nothing - 1.0, "at_most": null,
                }),
            ]
        })
        .collect();
    rows.iter().for_each(|row| println!("{row}"));
    let Some(path) = &options.raw else { return };
    let line = json!({
        "conditions": { "load": std::fs::read_to_string("/proc/loadavg").unwrap().trim() },
        "ratios": rows, "cpu_ms": measured,
    });
    std::fs::write(path, format!("{line}\n")).unwrap();
}

/// For each arm its mechanism, and what was measured.
fn measure(dir: &Path, rounds: usize) -> Vec<(&'static str, Measured)> {
    let store = Store::open(&dir.join("root")).unwrap();
    let parameters = "layers=50,files=500,size=4096,seed=7".parse().unwrap();
    let mut image = StormImage::generate(&store, parameters, false, &Cancel::new()).unwrap();
    let capabilities = Capabilities::probe(&store.root().path().join("scratch")).unwrap();
    let ids = dir.join("ids");
    let ids = Ids::lease(&store, &ids, &IdPool::of_host().unwrap(), CONTAINERS, &AtomicBool::new(false));
    let ground =
        GroundConfig { store: &store, capabilities: capabilities.clone(), ids: Arc::new(ids.unwrap()) };
    let ground = Arc::new(Ground::open(ground).unwrap());
    let ways = [
        (Mechanism::PerLayer, LowerSource::Layers, 2),
        (capabilities.choose().mechanism, LowerSource::Flat, 1),
    ];
    let measured = ways
        .into_iter()
        .map(|(mechanism, source, passes)| {
            let arm = Arm {
                launcher: LauncherKind::Assembly,
                mechanism: Some(mechanism),
                lower: Some(source),
                snapshotter: None,
                userns: UserNs::Private,
                passes,
                layers: LAYERS,
                containers: CONTAINERS,
                concurrency: CONTAINERS,
                admission: None,
                one_cache: false,
            };
            let launcher: Arc<dyn Launcher> = Arc::new(
                assembly::open(assembly::Config {
                    ground: Arc::clone(&ground),
                    lowers: image.lowers(LAYERS, source, &AtomicBool::new(false)).unwrap(),
                    mechanism,
                    passes,
                    admission: Admission::unbounded(),
                })
                .unwrap(),
            );
            let mut measured = Measured::default();
            for round in 0..=rounds {
                let mut turns = [Watched::Nothing, Watched::Counts, Watched::All];
                turns.rotate_left(round % 3);
                for watched in turns {
                    let (cpu, own) = one(&arm, &launcher, watched);
                    // The first of each warms up.
                    if round == 0 {
                        continue;
                    }
                    match watched {
                        Watched::Nothing => measured.nothing.push(cpu),
                        Watched::Counts => measured.counts.push(cpu),
                        Watched::All => {
                            measured.all.push(cpu);
                            measured.own.push(own);
                        }
                    }
                }
            }
            (mechanism.name(), measured)
        })
        .collect();
    drop(ground);
    image.close().unwrap();
    measured
}

/// Several rounds, so that what is opened once a storm weighs as little as it does in one.
fn one(arm: &Arm, launcher: &Arc<dyn Launcher>, watched: Watched) -> (f64, f64) {
    let storm = Storm {
        arms: vec![arm.clone()],
        repeat: 5,
        pace: Pace::default(),
        hold: Duration::ZERO,
        timeout: Duration::from_secs(60),
        grace: Duration::from_secs(60),
        seats: Seats::Anywhere,
        walks: if watched == Watched::All { vec![PathBuf::from("/usr/lib")] } else { Vec::new() },
    };
    let mut own = Own::default();
    let before = cputime::process().unwrap();
    let counting = (watched == Watched::Counts)
        .then(|| (MountCounter::open(Scope::Machine).unwrap(), MountWatch::start().unwrap()));
    storm.run(std::slice::from_ref(launcher), &mut own, &AtomicBool::new(false)).unwrap();
    if let Some((mut counter, mut watch)) = counting {
        assert!(counter.read().unwrap().attach >= CONTAINERS as u64 && watch.is_exact());
        watch.counts().unwrap();
    }
    ((cputime::process().unwrap() - before).as_secs_f64() * 1e3, own.0)
}

struct Options {
    rounds: usize,
    raw: Option<PathBuf>,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Options {
        let mut options = Options { rounds: 10, raw: None };
        while let Some(name) = arguments.next() {
            // Cargo adds it.
            if name == "--bench" {
                continue;
            }
            let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
            match name.as_str() {
                "--rounds" => options.rounds = value.parse::<usize>().unwrap().max(3),
                "--raw" => options.raw = Some(value.into()),
                _ => panic!("{name}: no such option"),
            }
        }
        options
    }
}
