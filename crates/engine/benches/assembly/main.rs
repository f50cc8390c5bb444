//! What a rootfs costs to assemble, and to look things up in: ratios against targets, on real directories.
//!
//! `cargo bench -p plywood-engine --bench assembly -- [--dir DIR] [--rounds N] [--only 1,2,3,4] [--raw FILE]`
//!
//! Arms of one comparison are interleaved round by round in one private mount namespace. Id ranges are leased and
//! user namespaces made beforehand. Times are medians; ratios are what counts, and the raw samples are kept.
#![allow(clippy::print_stdout, reason = "a benchmark reports to whoever runs it")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use std::path::PathBuf;

mod alive;
mod assemble;
mod bed;
mod lookup;
mod report;
mod storm;

use bed::Bed;
use report::Report;

struct Options {
    dir: PathBuf,
    rounds: usize,
    only: Vec<u32>,
    raw: Option<PathBuf>,
}

fn main() {
    let options = options();
    plywood_kernel::testing::require_root();
    let report = plywood_kernel::testing::in_private_mount_ns(|| {
        let bed = Bed::new(&options.dir);
        let mut report = Report::new(&bed);
        for (number, part) in [
            (1, assemble::run as fn(&Bed, usize, &mut Report)),
            (2, storm::run),
            (3, alive::run),
            (4, lookup::run),
        ] {
            if options.only.contains(&number) {
                part(&bed, options.rounds, &mut report);
            }
        }
        report
    });
    report.print();
    if let Some(path) = options.raw {
        std::fs::write(&path, report.raw()).unwrap();
        println!("raw samples: {}", path.display());
    }
}

fn options() -> Options {
    let mut options = Options { dir: std::env::temp_dir(), rounds: 5, only: vec![1, 2, 3, 4], raw: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} wants a value"));
        match argument.as_str() {
            "--dir" => options.dir = value().into(),
            "--rounds" => options.rounds = value().parse().unwrap(),
            "--only" => options.only = value().split(',').map(|number| number.parse().unwrap()).collect(),
            "--raw" => options.raw = Some(value().into()),
            // What cargo bench adds.
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    options
}
