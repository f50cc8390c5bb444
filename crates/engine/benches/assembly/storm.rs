//! A hundred containers at once: the incident, its fix, and the default.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use plywood_engine::lower::LowerSource::{Flat, Layers};
use plywood_engine::mechanism::Mechanism;

use crate::bed::{Arm, Bed};
use crate::report::{Report, Target};

const CONTAINERS: usize = 100;

pub(crate) fn run(bed: &Bed, rounds: usize, report: &mut Report) {
    let twice = |mechanism| Arm { mechanism, source: Layers, layers: 50, passes: 2 };
    let arms = [
        bed.default_arm(Flat, 50),
        bed.default_arm(Layers, 50),
        twice(Mechanism::CommonParent),
        twice(Mechanism::PerLayer),
    ];
    let names = arms.map(|arm| format!("100 at once: {}", arm.name()));
    let closed = names.clone().map(|name| format!("{name}, closed"));
    for round in 0..=rounds {
        for ((arm, name), closed) in arms.iter().zip(&names).zip(&closed) {
            let (assembled, all) = storm(bed, *arm);
            if round > 0 {
                report.sample(name, assembled);
                report.sample(closed, all);
            }
            bed.settle();
        }
    }
    let shown: Vec<_> =
        names.iter().zip(&closed).flat_map(|(name, closed)| [name.clone(), closed.clone()]).collect();
    report.show("100 containers at once, total (closed: and the reaper done)", &shown);
    let [default, _, common_parent, per_layer] = &names;
    report.ratio(
        "100 at once, 50 layers: per-layer twice to default",
        per_layer,
        default,
        Target::AtLeast(15.0),
    );
    report.ratio(
        "100 at once, 50 layers: common-parent twice to default",
        common_parent,
        default,
        Target::AtLeast(3.0),
    );
}

/// From the moment all may start to the last rootfs, and to the last close on the reaper.
fn storm(bed: &Bed, arm: Arm) -> (Duration, Duration) {
    let prepared: Vec<_> = (0..CONTAINERS).map(|_| bed.prepare(arm)).collect();
    let barrier = Barrier::new(CONTAINERS + 1);
    thread::scope(|scope| {
        let launches: Vec<_> = prepared
            .into_iter()
            .map(|container| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    let rootfs = container.assemble();
                    (Instant::now(), rootfs)
                })
            })
            .collect();
        // Before the last thread is let go, so that nothing is left out.
        thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        barrier.wait();
        let done: Vec<_> = launches.into_iter().map(|launch| launch.join().unwrap()).collect();
        bed.reaper.drain();
        let closed = start.elapsed();
        let last = done.iter().map(|(end, _)| *end).max().unwrap();
        (last - start, closed)
    })
}
