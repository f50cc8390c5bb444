//! The next container when a thousand are there: does the machine remember them?
//!
//! What is there is what a launch leaves on the mount side: a root file system, attached in a mount namespace of its own.
//! Descriptors hold both; there are no processes in them, which would take a thousand runtimes and measure the scheduler.

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

/// A container's rootfs, attached in a namespace of its own, where nobody else sees it.
struct Alive {
    _rootfs: Rootfs,
    _namespace: MountNs,
}

pub(crate) fn run(bed: &Bed, rounds: usize, report: &mut Report) {
    let names = ["next container, none alive", "next container, 1000 alive"].map(str::to_owned);
    // With /proc, where a thread's namespace is asked for.
    let template = MountNs::minimal(&[&bed.root, Path::new("/proc")]).unwrap();
    // Each state is costly to reach: they take turns a few times only, and each comes first as often as the other.
    for round in 0..=rounds.min(4) {
        let mut order = [0, ALIVE];
        order.rotate_left(round % 2);
        let mut alive = Vec::new();
        for count in order {
            on_own_thread(|| {
                alive.truncate(count);
                while alive.len() < count {
                    alive.push(launch(bed, &template).0);
                }
                bed.settle();
                for _ in 0..SAMPLES {
                    let (container, time) = launch(bed, &template);
                    drop(container);
                    bed.reaper.drain();
                    if round > 0 {
                        report.sample(&names[usize::from(count > 0)], time);
                    }
                }
            });
        }
        drop(alive);
        bed.settle();
    }
    report.show("assembly and attach in a namespace of its own", &names);
    let [none, thousand] = &names;
    report.ratio("assembly and attach: with 1,000 alive to none", thousand, none, Target::AtMost(1.15));
}

fn launch(bed: &Bed, template: &MountNs) -> (Alive, Duration) {
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
    (Alive { _rootfs: rootfs, _namespace: namespace }, time)
}
