//! One container after the other: what does the number of layers cost?

use std::time::Instant;

use plywood_engine::lower::LowerSource::{Flat, Layers};

use crate::bed::Bed;
use crate::report::{Report, Target};

/// Samples of each arm in a round, taken in turns.
const SAMPLES: usize = 60;

pub(crate) fn run(bed: &Bed, rounds: usize, report: &mut Report) {
    let arms = [(Flat, 1), (Flat, 50), (Flat, 500), (Layers, 1), (Layers, 50), (Layers, 500)]
        .map(|(source, layers)| bed.default_arm(source, layers));
    let names = arms.map(|arm| format!("assembly: {}", arm.name()));
    for round in 0..=rounds {
        for sample in 0..SAMPLES {
            // Whoever comes after 500 layers finds cold caches: each arm follows each of the others as often.
            let stride = 1 + (sample + round) % names.len();
            for turn in 0..names.len() {
                let index = (turn + 1) * stride % (names.len() + 1) - 1;
                let (arm, name) = (arms[index], &names[index]);
                let prepared = bed.prepare(arm);
                let start = Instant::now();
                let rootfs = prepared.assemble();
                let time = start.elapsed();
                drop(rootfs);
                bed.reaper.drain();
                // The first round warms caches up.
                if round > 0 {
                    report.sample(name, time);
                }
            }
        }
        bed.settle();
    }
    report.show("assembly, one at a time", &names);
    let [flat_1, flat_50, flat_500, layers_1, layers_50, _] = &names;
    report.ratio("assembly, flat: 50 layers to 1", flat_50, flat_1, Target::AtMost(1.10));
    report.ratio("assembly, flat: 500 layers to 1", flat_500, flat_1, Target::AtMost(1.15));
    report.ratio("assembly, layers: 50 layers to 1", layers_50, layers_1, Target::AtMost(2.0));
}
