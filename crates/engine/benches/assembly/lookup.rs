//! Names that are not there: what import paths and library search paths ask for all day.

use std::time::{Duration, Instant};

use plywood_engine::lower::LowerSource::{Flat, Layers};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::bed::{Bed, SHARED_DIR};
use crate::report::{Report, Target};

/// Lookups in one sample; each name is asked for once, because the kernel remembers misses.
const LOOKUPS: u32 = 50;
const SAMPLES: usize = 100;

pub(crate) fn run(bed: &Bed, rounds: usize, report: &mut Report) {
    let arms = [(Flat, 1), (Flat, 50), (Flat, 500), (Layers, 50)]
        .map(|(source, layers)| bed.default_arm(source, layers));
    let names = arms.map(|arm| format!("missed lookup: {}", arm.name()));
    let mut asked = 0;
    for round in 0..=rounds {
        let rootfs = arms.map(|arm| bed.prepare(arm).assemble());
        for _ in 0..SAMPLES {
            for (rootfs, name) in rootfs.iter().zip(&names) {
                let mut total = Duration::ZERO;
                for _ in 0..LOOKUPS {
                    asked += 1;
                    let path = format!("{SHARED_DIR}/not-there-{asked}.so");
                    let start = Instant::now();
                    let found = rustix::fs::statat(rootfs, &path, AtFlags::empty());
                    total += start.elapsed();
                    assert_eq!(found.err(), Some(Errno::NOENT));
                }
                if round > 0 {
                    report.sample(name, total / LOOKUPS);
                }
            }
        }
        drop(rootfs);
        bed.settle();
    }
    report.show("a lookup that misses", &names);
    let [one, fifty, _, layers] = &names;
    report.ratio("missed lookup: flat of 50 layers to 1", fifty, one, Target::AtMost(1.10));
    report.ratio("missed lookup, for comparison: 50 layers to 1", layers, one, Target::AtLeast(1.0));
}
