//! Several state roots on one machine: their containers' host ids never overlap.

use std::process::Command;

use serde_json::Value;

use super::bed::{Bed, in_bed, start};
use super::interrupt::kill_supervisor;
use super::layout::{TestImage, text};

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
