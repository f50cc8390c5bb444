//! Resource limits, read back from the control groups of running containers.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use plywood_engine::cgroup::{Cgroups, Layout};

use super::bad_input::says;
use super::bed::{in_bed, start};
use super::layout::TestImage;

/// The first of these files that a control group of the container has.
fn limit(id: &str, names: [&str; 2]) -> String {
    let cgroups = Cgroups::detect().unwrap();
    let directories = cgroups.directories(id);
    let mut files =
        names.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    let file: PathBuf =
        files.find(|file| file.exists()).unwrap_or_else(|| panic!("{names:?} in {directories:?}"));
    fs::read_to_string(file).unwrap().trim().to_owned()
}

#[test]
fn root_limits_reach_the_control_groups() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let flags = ["--memory", "64m", "--pids-limit", "33", "--cpus", "0.5", "--cpuset-cpus", "0"];
        let id = bed.ok(&[&["run", "-d"], &flags[..], &["app", "--", "sleep", "1000"]].concat());
        let id = id.trim();
        let v2 = Cgroups::detect().unwrap().layout() == Layout::V2;
        assert_eq!(limit(id, ["memory.max", "memory.limit_in_bytes"]), (64 << 20).to_string());
        assert_eq!(limit(id, ["pids.max", "pids.max"]), "33");
        assert_eq!(limit(id, ["cpuset.cpus", "cpuset.cpus"]), "0");
        if v2 {
            assert_eq!(limit(id, ["cpu.max", "cpu.max"]), "50000 100000");
        } else {
            let quota: f64 = limit(id, ["cpu.cfs_quota_us", "cpu.cfs_quota_us"]).parse().unwrap();
            let period: f64 = limit(id, ["cpu.cfs_period_us", "cpu.cfs_period_us"]).parse().unwrap();
            assert!((quota / period - 0.5).abs() < f64::EPSILON, "{quota} of {period}");
        }
        bed.ok(&["rm", "--force", id]);
    });
}

/// A container that takes more than its memory is killed, and the others never notice.
#[test]
fn root_a_memory_hog_is_killed() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let hog = "dd if=/dev/zero of=/dev/null bs=200M count=1";
        let done = bed.plywood(&["--json", "run", "--memory", "32m", "app", "--", "sh", "-c", hog]).check(1);
        let code = done.json()["containers"][0]["exit_code"].as_i64().unwrap();
        assert!(code == 137 || code == 1, "{code}: {}", done.stderr);
        assert_eq!(bed.ok(&["run", "--memory", "32m", "app", "--", "echo", "fine"]), "fine\n");
    });
}

/// Above our own hard limits the runtime was refused them, and may not raise them: only we can, if anybody; and the fewest processes it can start with are enough.
#[test]
fn root_limits_above_our_own() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let limited = |hard: &str| {
            let run = "ulimit -n 4096 && exec \"$@\"";
            let mut command = Command::new("sh");
            command.args(["-c", run, "sh", env!("CARGO_BIN_EXE_plywood"), "--root"]).arg(bed.root());
            command
                .args(["run", "--ulimit", hard, "app", "--", "sh", "-c", "ulimit -Hn"])
                .stdin(Stdio::null());
            start(command).finish()
        };
        let sets = rustix::thread::capabilities(None).unwrap();
        let able = sets.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
        let done = limited("nofile=5000");
        if able {
            assert_eq!(done.ok(), "5000\n");
        } else {
            let error = done.check(1).stderr;
            says(
                &error,
                &["--ulimit: nofile=5000 is above the hard limit of this process, 4096: ", "LimitNOFILE"],
            );
        }
        assert_eq!(limited("nofile=4000").ok(), "4000\n");
        bed.ok(&["run", "-n", "20", "--pids-limit", "6", "app", "--", "true"]);
    });
}
