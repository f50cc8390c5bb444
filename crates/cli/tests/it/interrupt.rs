//! Ctrl-C and worse, at any moment: the host is as it was, and the next command works.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use plywood_engine::cgroup::{self, Cgroups};
use plywood_image::testing::TarBuilder;
use rustix::fs::FlockOperation;
use rustix::process::Signal;
use serde_json::json;

use super::bed::{Bed, eventually, in_bed};
use super::layout::{TestImage, text, tool};

/// Containers whose command runs.
fn running(bed: &Bed) -> usize {
    bed.containers().iter().filter(|one| one["state"] == "running").count()
}

#[test]
fn root_ctrl_c_during_an_import() {
    in_bed(|bed| {
        let mut image = TestImage::new();
        for layer in 0..6 {
            // Bytes that do not compress, so that there is something to do.
            let mut state = 1_u64 + layer;
            let noise: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .take(8 << 20)
            .collect();
            image = image.layer(TarBuilder::new().file(format!("srv/noise-{layer}"), noise));
        }
        let layout = image.write(&bed.path("layout"), "app");
        for delay in [0, 5, 30, 80, 150, 300] {
            let import = bed.start(&["import", text(layout.path())]).ready();
            std::thread::sleep(Duration::from_millis(delay));
            let done = import.interrupt(Signal::INT);
            match done.status.code() {
                // The image was there already, and only its flat tree is not.
                Some(130) if done.stderr.contains("is in the store") => {
                    bed.ok(&["rmi", "app"]);
                }
                Some(130) => {
                    assert!(done.stderr.contains("cancelled"), "{}", done.stderr);
                    assert_eq!(bed.json(&["images"]), json!({ "images": [] }), "after {delay} ms");
                    assert_eq!(bed.listed("layers"), Vec::<String>::new());
                }
                // It was done before.
                Some(0) => assert_eq!(bed.ok(&["rmi", "app"]).lines().count(), 2),
                other => panic!("{other:?}: {}", done.stderr),
            }
            bed.expect_empty();
        }
        bed.ok(&["import", text(layout.path())]);
        assert_eq!(bed.ok(&["run", "app"]), "from the image\n");
    });
}

#[test]
fn root_ctrl_c_during_a_launch_and_while_containers_run() {
    in_bed(|bed| {
        bed.import(&TestImage::of_layers(20), "app");
        for signal in [Signal::INT, Signal::TERM] {
            for delay in [20, 60, 120, 250, 500] {
                let run = bed.start(&["--json", "run", "-n", "30", "app", "--", "sleep", "1000"]).ready();
                std::thread::sleep(Duration::from_millis(delay));
                let done = run.interrupt(signal).check(130);
                if !done.stdout.contains("\"error\"") {
                    let report = done.json();
                    assert_eq!(
                        (&report["cancelled"], &report["host_mount_events"]),
                        (&json!(true), &json!(0))
                    );
                }
                bed.expect_empty();
            }
        }
        // All of them run.
        let run = bed.start(&["run", "-n", "8", "app", "--", "sleep", "1000"]);
        eventually("all run", || (running(bed) == 8).then_some(()));
        let done = run.interrupt(Signal::INT).check(130);
        assert!(done.stderr.contains("137 x 8") || done.stderr.contains("8 of 8 started"), "{}", done.stderr);
        bed.expect_empty();
        assert_eq!(bed.ok(&["run", "app"]), "from the image\n");
    });
}

/// A detached launch that is given up takes back what it started.
#[test]
fn root_ctrl_c_during_a_detached_launch() {
    in_bed(|bed| {
        bed.import(&TestImage::of_layers(20), "app");
        for delay in [30, 100, 200] {
            let run = bed.start(&["run", "-d", "-n", "20", "app", "--", "sleep", "1000"]).ready();
            std::thread::sleep(Duration::from_millis(delay));
            let done = run.interrupt(Signal::INT);
            match done.status.code() {
                // All ran before the signal came.
                Some(0) => {
                    assert_eq!(bed.json(&["rm", "--all", "--force"])["removed"].as_array().unwrap().len(), 20)
                }
                // By then its supervisor has taken all back.
                Some(130) => bed.expect_empty(),
                other => panic!("{other:?}: {}", done.stderr),
            }
        }
    });
}

/// `stop` waited to the end of its patience, whoever asked it not to.
#[test]
fn root_ctrl_c_while_stopping() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
        let ids = bed.ok(&["run", "-d", "-n", "2", "app", "--", "sh", "-c", script]);
        for id in ids.lines() {
            eventually("it traps", || (bed.ok(&["logs", id]) == "ready\n").then_some(()));
        }
        let stop = bed.start(&["--json", "stop", "--time", "1000", "--all"]).ready();
        std::thread::sleep(Duration::from_millis(300));
        let done = stop.interrupt(Signal::INT).check(130);
        assert!(done.json()["error"]["message"].as_str().unwrap().contains("2 containers still running: "));
        for id in ids.lines() {
            assert!(done.stderr.contains(&id[..12]), "{}", done.stderr);
        }
        assert_eq!(running(bed), 2);
        bed.ok(&["rm", "--all", "--force"]);
    });
}

/// What SIGKILL leaves, the next command takes away: running containers, control groups, ranges, snapshots.
#[test]
fn root_sigkill_while_containers_run() {
    in_bed(|bed| {
        bed.import(&TestImage::of_layers(20), "app");
        let run = bed.start(&["run", "-n", "6", "app", "--", "sleep", "1000"]);
        eventually("all run", || (running(bed) == 6).then_some(()));
        run.signal(Signal::KILL);
        assert_eq!(run.finish().status.code(), None);
        // Several that find the same thing to do.
        let several = [(); 4].map(|()| bed.start(&["--json", "ps"]));
        for ps in several {
            assert_eq!(ps.finish().check(0).json(), json!({ "containers": [] }));
        }
        bed.expect_empty();
        assert_eq!(bed.ok(&["run", "app"]), "from the image\n");
    });
}

#[test]
fn root_sigkill_during_a_launch() {
    in_bed(|bed| {
        bed.import(&TestImage::of_layers(20), "app");
        for delay in [30, 60, 100, 150, 250, 400] {
            let run = bed.start(&["run", "-n", "20", "app", "--", "sleep", "1000"]);
            std::thread::sleep(Duration::from_millis(delay));
            run.signal(Signal::KILL);
            assert_eq!(run.finish().status.code(), None);
            assert_eq!(bed.json(&["ps"]), json!({ "containers": [] }), "after {delay} ms");
            bed.expect_empty();
        }
        assert_eq!(bed.ok(&["run", "app"]), "from the image\n");
    });
}

/// Somebody who is stopped has the machine's lock on its control groups: a launch waits for it, but not past Ctrl-C.
#[test]
fn root_ctrl_c_while_another_tidies_the_control_groups() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        // In this bed the hierarchy that is locked is a group of its own: others on this machine go on.
        let hierarchy = first_hierarchy();
        let group = hierarchy.join(format!("plywood-test-interrupt-{}", std::process::id()));
        fs::create_dir_all(group.join("plywood")).unwrap();
        tool("mount", "mount", &["--bind", text(&group), text(&hierarchy)]);
        let lock = File::open(hierarchy.join("plywood")).unwrap();
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();

        let run = bed.start(&["--json", "run", "app"]).ready();
        eventually("it is recorded", || (bed.containers().len() == 1).then_some(()));
        std::thread::sleep(Duration::from_millis(300));
        let done = run.interrupt(Signal::INT);

        drop(lock);
        tool("umount", "mount", &[text(&hierarchy)]);
        fs::remove_dir(group.join("plywood")).unwrap();
        fs::remove_dir(&group).unwrap();
        let done = done.check(130);
        assert!(done.stderr.contains("stopped while waiting for another plywood"), "{}", done.stderr);
        bed.expect_empty();
        assert_eq!(bed.ok(&["run", "app"]), "from the image\n");
    });
}

/// The one whose parent group says who launches.
fn first_hierarchy() -> PathBuf {
    let root = PathBuf::from(cgroup::ROOT);
    if Cgroups::detect().unwrap().layout() == cgroup::Layout::V2 {
        return root;
    }
    let entries = fs::read_dir(&root).unwrap().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()).min().unwrap()
}

/// Kills the process that watches over the bed's detached containers.
pub(crate) fn kill_supervisor(bed: &Bed) {
    let root = bed.root();
    let supervisor = eventually("the supervisor", || {
        fs::read_dir("/proc").unwrap().find_map(|entry| {
            let entry = entry.ok()?;
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).into_owned();
            // Its command line is the caller's, who has ended.
            (command.contains("\0run\0") && command.contains(text(&root))).then_some(pid)
        })
    });
    let pid = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

/// Detached containers outlive their supervisor's death as `exited` or running, and can be removed.
#[test]
fn root_sigkill_of_a_supervisor() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let ids = bed.ok(&["run", "-d", "-n", "2", "app", "--", "sleep", "1000"]);
        assert_eq!(ids.lines().count(), 2);
        kill_supervisor(bed);
        // They go on, and can be looked after.
        assert_eq!(running(bed), 2);
        let first = ids.lines().next().unwrap();
        assert_eq!(bed.ok(&["exec", first, "echo", "alive"]), "alive\n");
        bed.ok(&["stop", "--time", "0", first]);
        assert_eq!(running(bed), 1);
        bed.ok(&["rm", "--force", "--all"]);
    });
}
