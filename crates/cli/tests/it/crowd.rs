//! Several commands at once on one state root.

use std::collections::BTreeSet;

use serde_json::Value;

use super::bed::in_bed;
use super::layout::{TestImage, text};

fn starts(report: &Value) -> Vec<u64> {
    let containers = report["containers"].as_array().unwrap();
    containers.iter().map(|one| one["uid_range"]["start"].as_u64().unwrap()).collect()
}

#[test]
fn root_two_runs_never_share_a_range() {
    in_bed(|bed| {
        bed.import(&TestImage::of_layers(10), "app");
        for _ in 0..3 {
            // Long enough for both to hold all their ranges at the same time.
            let args = ["--json", "run", "-n", "10", "app", "--", "sleep", "3"];
            let both = [bed.start(&args), bed.start(&args)];
            let reports = both.map(|run| run.finish().check(0).json());
            let all: Vec<u64> = reports.iter().flat_map(starts).collect();
            assert_eq!(all.len(), 20);
            let distinct: BTreeSet<u64> = all.iter().map(|start| start / 65_536).collect();
            assert_eq!(distinct.len(), 20, "{all:?}");
            for report in &reports {
                assert_eq!(report["host_mount_events"], 0);
            }
        }
    });
}

/// Import, launch, list and collect garbage in each other's way.
#[test]
fn root_commands_of_all_kinds_at_once() {
    in_bed(|bed| {
        bed.import(&TestImage::of_layers(10), "app");
        let other = TestImage::of_layers(40).write(&bed.path("other"), "other");
        let commands: [&[&str]; 8] = [
            &["run", "-n", "8", "app", "--", "sleep", "0.2"],
            &["import", text(other.path())],
            &["prune"],
            &["ps", "--all"],
            &["run", "-n", "4", "app", "--", "cat", "/srv/data/added"],
            &["images"],
            &["prune"],
            &["import", text(other.path()), "--name", "again"],
        ];
        for _ in 0..3 {
            let running: Vec<_> = commands.iter().map(|args| bed.start(args)).collect();
            for (run, args) in running.into_iter().zip(commands) {
                let done = run.finish();
                assert!(done.status.success(), "{args:?}: {}", done.stderr);
            }
            assert_eq!(bed.ok(&["run", "--quiet", "other", "--", "cat", "/srv/of-layer-39"]), "39");
            bed.ok(&["rmi", "other", "again"]);
        }
        assert_eq!(bed.json(&["images"])["images"].as_array().unwrap().len(), 1);
    });
}
