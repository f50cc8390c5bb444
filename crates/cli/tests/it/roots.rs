//! Several state roots on one machine: their containers' host ids never overlap.

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use plywood_kernel::RangeLocks;
use rustix::process::Signal;
use serde_json::Value;

use super::bed::{Bed, eventually, in_bed, start};
use super::interrupt::kill_supervisor;
use super::layout::{TestImage, text};

/// The byte of the machine's register that whoever chooses has locked.
const DOOR: Range<u64> = 1 << 33..(1 << 33) + 1;

/// `plywood` with another state root in the same bed.
fn other(bed: &Bed, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plywood"));
    command.arg("--root").arg(bed.path("other")).args(args).env_remove("PLYWOOD_LOG");
    start(command).finish().ok()
}

/// First ids of the living containers' user and group ranges.
fn ranges(listed: &str) -> Vec<(u64, u64)> {
    let listed: Value = serde_json::from_str(listed).unwrap();
    let first = |container: &Value, which: &str| container[which]["start"].as_u64().unwrap();
    let containers = listed["containers"].as_array().unwrap();
    containers.iter().map(|one| (first(one, "uid_range"), first(one, "gid_range"))).collect()
}

#[test]
fn root_two_state_roots_never_share_an_id() {
    in_bed(|bed| {
        let layout = bed.import(&TestImage::new(), "app");
        other(bed, &["import", text(layout.path())]);
        let sleep = ["run", "-d", "-n", "3", "app", "--", "sleep", "1000"];
        bed.ok(&sleep);
        other(bed, &sleep);
        let mine = ranges(&bed.ok(&["--json", "ps"]));
        let theirs = ranges(&other(bed, &["--json", "ps"]));
        assert_eq!((mine.len(), theirs.len()), (3, 3));
        assert!(mine.iter().all(|range| !theirs.contains(range)), "{mine:?} {theirs:?}");

        // Nobody who knows of these ranges lives any more, but their containers do.
        kill_supervisor(bed);
        other(bed, &sleep);
        let theirs = ranges(&other(bed, &["--json", "ps"]));
        assert_eq!(theirs.len(), 6);
        assert!(mine.iter().all(|range| !theirs.contains(range)), "{mine:?} {theirs:?}");

        bed.ok(&["rm", "--force", "--all"]);
        other(bed, &["rm", "--force", "--all"]);
    });
}

/// A stopped plywood of another state root held the machine's door; whoever waited for it had this root's database locked
/// meanwhile, and every other command of this root waited until it gave up.
#[test]
fn root_who_waits_for_the_machine_keeps_no_database() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let other = TestImage::of_layers(6).write(&bed.path("other"), "other");
        bed.ok(&["run", "app"]);
        let stopped = RangeLocks::open(Path::new("/run/plywood/ids.lock")).unwrap();
        assert!(stopped.try_lock(DOOR).unwrap());
        let run = bed.start(&["--json", "run", "app"]).ready();
        eventually("it is recorded", || (bed.containers().len() == 1).then_some(()));
        let start = Instant::now();
        // Writers.
        bed.ok(&["import", text(other.path())]);
        bed.ok(&["rmi", "other"]);
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
        let done = run.interrupt(Signal::INT).check(130);
        assert!(done.stderr.contains("stopped while waiting to choose host ids"), "{}", done.stderr);

        let run = bed.start(&["run", "app"]).ready();
        eventually("it is recorded", || (bed.containers().len() == 1).then_some(()));
        drop(stopped);
        assert_eq!(run.finish().ok(), "from the image\n");
    });
}
