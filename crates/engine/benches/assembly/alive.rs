//! The next container when a thousand are running: does the machine remember them?

use std::path::Path;
use std::time::{Duration, Instant};

use plywood_engine::apply::Rootfs;
use plywood_engine::lower::LowerSource::Flat;
use plywood_kernel::MountNs;
use plywood_kernel::mountns::unshare_current_thread;
use plywood_kernel::testing::on_own_thread;
use rustix::fs::CWD;

use crate::bed::Bed;
use crate::report::{Report, Target};

const ALIVE: usize = 1_000;
const SAMPLES: usize = 100;

/// A container with its rootfs attached in a namespace of its own, where nobody else sees it.
struct Running {
    _rootfs: Rootfs,
    _namespace: MountNs,
}

pub(crate) fn run(bed: &Bed, rounds: usize, report: &mut Report) {
    let names = ["next container, none running", "next container, 1000 running"].map(str::to_owned);
    // With /proc, where a thread's namespace is asked for.
    let template = MountNs::minimal(&[&bed.root, Path::new("/proc")]).unwrap();
    // Each state is costly to reach: they take turns a few times only.
    for round in 0..=rounds.min(3) {
        let mut running = Vec::new();
        for (name, alive) in names.iter().zip([0, ALIVE]) {
            on_own_thread(|| {
                while running.len() < alive {
                    running.push(launch(bed, &template).0);
                }
                bed.reaper.drain();
                for _ in 0..SAMPLES {
                    let (container, time) = launch(bed, &template);
                    drop(container);
                    bed.reaper.drain();
                    if round > 0 {
                        report.sample(name, time);
                    }
                }
            });
        }
        drop(running);
        bed.settle();
    }
    report.show("assembly and attach in a namespace of its own", &names);
    let [none, thousand] = &names;
    report.ratio("assembly and attach: with 1,000 running to none", thousand, none, Target::AtMost(1.15));
}

fn launch(bed: &Bed, template: &MountNs) -> (Running, Duration) {
    let prepared = bed.prepare(bed.default_arm(Flat, 50));
    let home = MountNs::current().unwrap();
    let start = Instant::now();
    let rootfs = prepared.assemble();
    template.enter().unwrap();
    unshare_current_thread().unwrap();
    rootfs.attach(CWD, &bed.root.join("rootfs")).unwrap();
    let time = start.elapsed();
    let namespace = MountNs::current().unwrap();
    home.enter().unwrap();
    (Running { _rootfs: rootfs, _namespace: namespace }, time)
}
